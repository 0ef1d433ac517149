//! `servecast explain capacity`: the arithmetic of the KV cache.

use std::path::PathBuf;

use clap::ValueHint;
use serde_json::{Map, Value, json};
use servecast_engine::{EngineArgs, EnginePreset, EngineType, merge};
use servecast_latency::{Capacity, CapacityError, CapacitySetup, GIB, WeightType};
use servecast_types::{Message, Role, message};

use crate::config::Format;
use crate::deployment::capacity_setup;
use crate::error::Failure;
use crate::files;
use crate::latency::{Deployed, KvType, ProfileSettings, model_shape};

/// Show how many KV blocks fit the GPUs beside a model, and why
///
/// The same arithmetic, with the same defaults, gives `num_gpu_blocks` of a replay where it is not given and the latency
/// model knows model and GPU. Memory and blocks are those of each GPU.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct CapacityArgs {
    /// Model by its name on the Hugging Face hub, or its config.json
    #[arg(long, value_name = "NAME|FILE", required_unless_present = "profile")]
    model: Option<String>,
    /// GPU by name, or a file that describes it
    #[arg(long, value_name = "NAME|FILE.toml")]
    gpu: Option<String>,
    /// Take model, GPU and parallelism from a profile or a recorded run
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    profile: Option<PathBuf>,
    /// Memory that programs see on the GPU, instead of that of its sheet
    #[arg(long, value_name = "GIB", value_parser = positive)]
    memory_gib: Option<f64>,
    /// GPUs that share each layer
    #[arg(long, visible_alias = "tp", value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    tensor_parallel_size: Option<u32>,
    /// Groups of GPUs that have some layers each
    #[arg(long, visible_alias = "pp", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pipeline_parallel_size: u32,
    /// How weights are stored: bf16, fp16, fp8, `fp8_block`, int4, mxfp4 or nvfp4; by default as the model is published
    #[arg(long, value_name = "TYPE", value_parser = weight_type)]
    dtype: Option<WeightType>,
    /// How the KV cache is stored: auto, bf16, fp16 or fp8
    #[arg(long, visible_alias = "kv-dtype", value_name = "TYPE", value_parser = kv_type)]
    kv_cache_dtype: Option<KvType>,
    /// Engine whose defaults hold for what is not given below, as for a replay
    #[arg(long, value_name = "ENGINE", value_parser = engine)]
    engine: Option<EngineType>,
    /// Release whose defaults hold for what is not given below, as for a replay
    #[arg(long, value_name = "NAME")]
    engine_preset: Option<String>,
    /// Share of the memory that the engine takes [default: 0.9]
    #[arg(long, value_name = "SHARE", value_parser = share)]
    gpu_memory_utilization: Option<f64>,
    /// Tokens a KV block; without it the default of a replay
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    block_size: Option<u32>,
    /// Most tokens that one iteration computes; without it the default of a replay
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u32).range(1..))]
    max_num_batched_tokens: Option<u32>,
    /// Most requests that run at a time; without it the default of a replay
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_num_seqs: Option<u32>,
    /// How to print it
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    format: Format,
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| "expected a number above 0".to_owned())
}

fn share(text: &str) -> Result<f64, String> {
    let share = positive(text).ok().filter(|share| *share <= 1.0);
    share.ok_or_else(|| "expected a share above 0 and at most 1".to_owned())
}

pub(super) fn engine(text: &str) -> Result<EngineType, String> {
    serde_json::from_value(text.into()).map_err(|_| "expected vllm, sglang or trtllm".to_owned())
}

pub(super) fn weight_type(text: &str) -> Result<WeightType, String> {
    let known = || WeightType::ALL.map(|(name, _)| name).join(", ");
    WeightType::by_name(text).ok_or_else(|| format!("expected one of {}", known()))
}

pub(super) fn kv_type(text: &str) -> Result<KvType, String> {
    KvType::by_name(text).ok_or_else(|| "expected auto, bf16, fp16 or fp8".to_owned())
}

/// What is asked about: model and GPU as they were named, the arithmetic, and the engine as a replay would have it.
pub(super) struct Subject {
    pub(super) deployed: Deployed,
    pub(super) setup: CapacitySetup,
    pub(super) engine: EngineArgs,
}

/// Runs the command.
pub(super) fn run(args: &CapacityArgs) -> Result<(), Failure> {
    let Subject { deployed, setup, .. } = args.subject(None)?;
    let found = setup.capacity().map_err(|error| too_large(&error))?;
    files::print(&match args.format {
        Format::Table => table(&deployed, &setup, &found),
        Format::Json => {
            serde_json::to_string_pretty(&object(&deployed, &setup, &found)).unwrap_or_default() + "\n"
        }
    })
}

pub(super) fn too_large(error: &CapacityError) -> Failure {
    let failure = Failure::input(error);
    match error {
        CapacityError::TooLarge(_) => failure
            .with_hint("more GPUs, fewer bytes a weight or a larger --gpu-memory-utilization make room"),
        _ => failure,
    }
}

impl CapacityArgs {
    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// What is asked about; `memory_bytes` stands for the memory of a GPU of which nothing is said.
    pub(super) fn subject(&self, memory_bytes: Option<f64>) -> Result<Subject, Failure> {
        let args = self;
        let (mut deployed, of_profile) = match &args.profile {
            Some(folder) => {
                let settings = ProfileSettings::of(folder, "")?;
                let shape = if args.model.is_none() { Some(settings.shape()?) } else { None };
                (settings.deployed, shape)
            }
            None => (Deployed::default(), None),
        };
        if args.gpu.is_some() {
            deployed.memory_bytes = None;
        }
        deployed.gpu = args.gpu.clone().or(deployed.gpu);
        deployed.model = args.model.clone().or(deployed.model);
        deployed.gpus = args.tensor_parallel_size.or(deployed.gpus);
        deployed.dtype = args.dtype.or(deployed.dtype);
        deployed.kv_dtype = args.kv_cache_dtype.or(deployed.kv_dtype);
        deployed.memory_bytes = args.memory_gib.map(|gib| gib * GIB).or(deployed.memory_bytes);
        if deployed.gpu.is_none() {
            deployed.memory_bytes = deployed.memory_bytes.or(memory_bytes);
        }
        let shape = match of_profile {
            Some(shape) => shape,
            None => model_shape(deployed.model.as_deref().unwrap_or_default())?,
        };
        let unknown = || {
            Failure::user("nothing says how much memory the GPU has")
                .with_hint("--gpu NAME or --memory-gib GIB says so")
        };
        let setup = CapacitySetup {
            pipeline_parallel_size: args.pipeline_parallel_size,
            ..deployed.capacity_setup(shape)?.ok_or_else(unknown)?
        };
        let model = deployed.model.as_deref().unwrap_or("the model");
        if let Some((key, value, problem)) = deployed.problem(model, &setup.model)? {
            let flag = Message::flag(if key == "tp" { "tensor_parallel_size" } else { key });
            return Err(Failure::user(message!("{} is {}: {}", flag, value, problem)));
        }
        let engine = engine_args(args)?;
        let setup = capacity_setup(&engine, &setup);
        Ok(Subject { deployed, setup, engine })
    }
}

/// The settings of the engine as a replay would have them.
fn engine_args(args: &CapacityArgs) -> Result<EngineArgs, Failure> {
    let preset = args.engine_preset.as_deref().map(EnginePreset::by_name).transpose();
    let preset = preset.map_err(Failure::user)?;
    let given = [
        ("engine_type", args.engine.map(|engine| engine.name().into())),
        ("gpu_memory_utilization", args.gpu_memory_utilization.map(Value::from)),
        ("block_size", args.block_size.map(Value::from)),
        ("max_num_batched_tokens", args.max_num_batched_tokens.map(Value::from)),
        ("max_num_seqs", args.max_num_seqs.map(Value::from)),
    ];
    let given = given.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    let preset = preset.map_or_else(Map::new, |preset| preset.settings(Role::Aggregated));
    EngineArgs::from_json(merge(preset, Value::Object(given.collect()))).map_err(Failure::user)
}

fn table(deployed: &Deployed, setup: &CapacitySetup, found: &Capacity) -> String {
    let gib = |bytes: f64| format!("{:>10.3} GiB", bytes / GIB);
    let model = deployed.model.as_deref().unwrap_or("model");
    let gpu = match (deployed.memory_bytes, deployed.gpu.as_deref()) {
        (None, Some(gpu)) => gpu.to_owned(),
        _ => "a GPU".to_owned(),
    };
    let (tensor, pipeline) = (setup.tensor_parallel_size, setup.pipeline_parallel_size);
    let shape = &setup.model;
    let stage = shape.layers_that_keep_all().div_ceil(pipeline);
    let of_block = match shape.index_bytes_of_block() {
        index if index > 0.0 => {
            format!(
                "{} B of {} numbers and {index} B of its index",
                shape.kv_bytes_of_block(tensor, setup.kv_bytes),
                shape.kv_numbers(tensor)
            )
        }
        _ => format!("{} numbers × {} B", shape.kv_numbers(tensor), setup.kv_bytes),
    };
    let kv_type = if setup.kv_bytes < 2.0 { KvType::Fp8 } else { KvType::Bf16 };
    let mut lines = vec![format!(
        "{model} ({:.2} billion parameters, {}) on {gpu}, tensor parallel {tensor}, pipeline parallel {pipeline}",
        shape.parameters() as f64 / 1e9,
        setup.weights.name(),
    )];
    let mut line = |value: String, what: String| lines.push(format!("  {value:<16} {what}"));
    line(gib(setup.memory_bytes), "memory that programs see on a GPU".to_owned());
    line(
        gib(found.budget),
        format!("× {} (gpu_memory_utilization) is what the engine takes", setup.gpu_memory_utilization),
    );
    line(gib(-found.weights), "weights".to_owned());
    line(
        gib(-found.activations),
        format!(
            "largest activations of {} tokens and {} requests",
            setup.max_num_batched_tokens, setup.max_num_seqs
        ),
    );
    line(gib(-found.runtime), "driver context, libraries, graphs, buffers of collectives".to_owned());
    if found.states > 0.0 {
        line(gib(-found.states), format!("linear attention and windows of {} sequences", setup.max_num_seqs));
    }
    line(gib(found.kv_cache), "is left for the KV cache".to_owned());
    let each = if tensor * pipeline > 1 { "on each GPU" } else { "on the GPU" };
    line(
        format!("{:>10} B", found.kv_per_token),
        format!(
            "KV of a token {each}: {stage} layers × {} ({})",
            if shape.sparse.is_some() { format!("({of_block})") } else { of_block },
            kv_type.name()
        ),
    );
    line(
        format!("{:>10} B", whole_kv(setup)),
        "KV of a token in all, each number once: what a hand-off moves (kv_bytes_per_token)".to_owned(),
    );
    if let Some(plan) = &found.plan {
        let groups = plan.groups.len();
        line(
            format!("{:>10} B", found.kv_per_block),
            format!("a block {each}, of whichever of {groups} groups of layers: `explain kv` shows them"),
        );
        line(format!("{:>10}", found.num_gpu_blocks), "num_gpu_blocks".to_owned());
        let tokens = plan.max_concurrency(found.num_gpu_blocks, LONG) * LONG as f64;
        line(format!("{:>10}", tokens as u64), format!("tokens of KV cache, in requests of {LONG} tokens"));
    } else {
        line(
            format!("{:>10} B", found.kv_per_block),
            format!("KV of a block of {} tokens {each}", setup.block_size),
        );
        line(format!("{:>10}", found.num_gpu_blocks), "num_gpu_blocks".to_owned());
        let tokens = found.num_gpu_blocks * u64::from(setup.block_size);
        line(format!("{tokens:>10}"), "tokens of KV cache".to_owned());
    }
    lines.join("\n") + "\n"
}

/// Tokens of a long request.
const LONG: u64 = 131_072;

/// Bytes of KV of a token over all GPUs, those that several GPUs have counted once.
fn whole_kv(setup: &CapacitySetup) -> f64 {
    setup.model.kv_bytes_per_token(1, setup.kv_bytes)
}

fn object(deployed: &Deployed, setup: &CapacitySetup, found: &Capacity) -> serde_json::Value {
    let mut shown = json!({
        "model": deployed.model,
        "parameters": setup.model.parameters(),
        "dtype": setup.weights.name(),
        "tensor_parallel_size": setup.tensor_parallel_size,
        "pipeline_parallel_size": setup.pipeline_parallel_size,
        "memory_bytes": setup.memory_bytes.round(),
        "gpu_memory_utilization": setup.gpu_memory_utilization,
        "budget_bytes": found.budget.round(),
        "weight_bytes": found.weights.round(),
        "activation_bytes": found.activations.round(),
        "runtime_bytes": found.runtime.round(),
        "state_bytes": found.states.round(),
        "kv_cache_bytes": found.kv_cache.round(),
        "kv_bytes_per_token": whole_kv(setup),
        "kv_bytes_per_token_per_gpu": found.kv_per_token,
        "block_size": setup.block_size,
        "num_gpu_blocks": found.num_gpu_blocks,
    });
    if let Some(plan) = &found.plan {
        shown["block_size"] = plan.groups.last().map(|group| group.layer.block_size).into();
        shown["kv_bytes_per_block"] = plan.bytes_per_block.into();
        shown["kv_groups"] = plan.groups.len().into();
    }
    shown
}
