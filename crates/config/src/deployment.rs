//! From settings to pools of checked engines.

use serde_json::{Map, Value};
use servecast_cluster::{ClusterError, PoolEngine, Topology};
use servecast_engine::{
    ConfigError, EngineArgs, EngineConfig, EnginePreset, EngineType, LatencySpec, MAX_NUM_GPU_BLOCKS, merge,
};
use servecast_latency::{CapacitySetup, ErrorBar, GIB};
use servecast_types::{Message, Role, message};

use self::settings::Settings;
use crate::error::Failure;
use crate::latency;
use crate::settings::{Engines, Layers, ReplayConfig};

pub use self::settings::{GRAPHS, without_effect};

mod hand_off;
mod settings;

/// Workers of a pool, unless somebody says otherwise.
pub const DEFAULT_WORKERS: u32 = 1;

/// A deployment that can be simulated.
#[derive(Debug)]
pub struct Deployment {
    /// Pools, workers, engines, hand-off.
    pub topology: Topology,
    /// Tokens a KV block, the same in all pools.
    pub block_size: u32,
    /// What engines say of the queue of the KV router.
    pub queue_policies: QueuePolicies,
    /// The settings of each pool's engine, in the order in which a request meets them.
    pub engines: Vec<EngineArgs>,
    /// What was given but has no effect, and why.
    pub unused: Vec<Message>,
    /// What was not given, but follows from the rest.
    pub derived: Vec<String>,
    /// Where iteration times come from.
    pub latency_source: String,
    /// How far off they are.
    pub latency_error: ErrorBar,
}

/// What engine settings say of the queue of their router.
#[derive(Debug, Default)]
pub struct QueuePolicies {
    /// Of the first pool that a request comes to.
    pub first: Option<String>,
    /// Of the decode pool, if it is another.
    pub decode: Option<String>,
}

/// Builds the deployment that the settings describe.
pub fn build(config: &ReplayConfig, layers: &Layers) -> Result<Deployment, Failure> {
    let refused = |error: ClusterError| layers.refused(error);
    let given = &config.deployment;
    let preset = preset(config, layers)?;
    let of = |role, explicit| Given::new(role, explicit, config, preset);
    let Some(staged) = staged_key(config) else {
        let given_engine = of(Role::Aggregated, given.engine_args.as_ref());
        let mut pool = Pool::build(&given_engine, &[given_engine.engine], config, layers)?;
        pool.unused.extend(hand_off::unused(&pool.args).map(|reason| layers.explained(reason)));
        let topology = Topology::aggregated(pool.with_workers(given.num_workers));
        return Ok(Deployment {
            topology: topology.map_err(refused)?,
            block_size: pool.config.block_size(),
            queue_policies: QueuePolicies { first: pool.args.router_queue_policy.clone(), decode: None },
            engines: vec![pool.args],
            unused: pool.unused,
            derived: pool.derived,
            latency_source: pool.latency_source,
            latency_error: reported(&pool.error_bar, &pool.error_bar),
        });
    };
    check_staged(config, layers, staged)?;
    let prefill = of(Role::Prefill, given.prefill_engine_args.as_ref());
    let decode = of(Role::Decode, given.decode_engine_args.as_ref());
    let engines = [prefill.engine, decode.engine];
    let mut prefill = Pool::build(&prefill, &engines, config, layers)?;
    let decode = Pool::build(&decode, &engines, config, layers)?;
    let workers = [given.num_prefill_workers, given.num_decode_workers].map(|n| n.unwrap_or(DEFAULT_WORKERS));
    let hand_off = hand_off::work_out(&mut prefill.args, &decode.args, workers)?;
    hand_off::check(&prefill.args, &decode.args, layers)?;
    let topology = Topology::disaggregated(
        prefill.with_workers(given.num_prefill_workers),
        decode.with_workers(given.num_decode_workers),
    );
    Ok(Deployment {
        topology: topology.map_err(refused)?,
        block_size: prefill.config.block_size(),
        queue_policies: QueuePolicies {
            first: prefill.args.router_queue_policy.clone(),
            decode: decode.args.router_queue_policy.clone(),
        },
        engines: vec![prefill.args, decode.args],
        unused: [prefill.unused, decode.unused].concat(),
        derived: prefill.derived.into_iter().chain(decode.derived).chain(hand_off).collect(),
        latency_error: reported(&prefill.error_bar, &decode.error_bar),
        latency_source: if prefill.latency_source == decode.latency_source {
            prefill.latency_source
        } else {
            format!("prefill: {}; decode: {}", prefill.latency_source, decode.latency_source)
        },
    })
}

/// How far off times are: TTFT by the pool of prompts, TPOT by that of output.
fn reported(prompts: &ErrorBar, output: &ErrorBar) -> ErrorBar {
    let basis = if prompts.basis == output.basis {
        prompts.basis.clone()
    } else {
        format!("prefill: {}; decode: {}", prompts.basis, output.basis)
    };
    ErrorBar {
        tpot_p90: output.tpot_p90,
        ttft_p90: prompts.ttft_p90,
        tpot_mape: output.tpot_mape,
        ttft_mape: prompts.ttft_mape,
        n: prompts.n.min(output.n),
        basis,
    }
}

/// The first setting, if there is one, that makes the deployment disaggregated.
fn staged_key(config: &ReplayConfig) -> Option<&'static str> {
    let given = &config.deployment;
    [
        ("prefill_engine_args", given.prefill_engine_args.is_some()),
        ("decode_engine_args", given.decode_engine_args.is_some()),
        ("num_prefill_workers", given.num_prefill_workers.is_some()),
        ("num_decode_workers", given.num_decode_workers.is_some()),
    ]
    .into_iter()
    .find_map(|(key, is_given)| is_given.then_some(key))
}

/// Refuses settings of an aggregated deployment in a disaggregated one, and half of a disaggregated one.
fn check_staged(config: &ReplayConfig, layers: &Layers, staged: &str) -> Result<(), Failure> {
    let given = &config.deployment;
    let refused = |message: Message, hint: Message| Err(layers.refused(message).with_hint(hint));
    let not_combined = |key: &str| {
        message!(
            "{} and {} cannot be combined: the one is for aggregated, the other for disaggregated serving",
            Message::key(key),
            Message::key(staged)
        )
    };
    if given.engine_args.is_some() {
        return refused(
            not_combined("engine_args"),
            message!(
                "{--prefill_engine_args} and {--decode_engine_args} set up one pool each; flags such as {--block_size} hold \
                 for both"
            ),
        );
    }
    if given.num_workers.is_some() {
        return refused(
            not_combined("num_workers"),
            message!("{--num_prefill_workers} and {--num_decode_workers} say how many there are of each"),
        );
    }
    let alone = match (given.num_prefill_workers, given.num_decode_workers) {
        (Some(_), None) => Some(["num_prefill_workers", "num_decode_workers"]),
        (None, Some(_)) => Some(["num_decode_workers", "num_prefill_workers"]),
        _ => None,
    };
    if let Some([one, other]) = alone {
        return refused(
            message!(
                "{} is given without {}, but a disaggregated deployment has both pools",
                Message::key(one),
                Message::key(other)
            ),
            message!(
                "{} says how many there are of the other; {--num_workers} makes an aggregated deployment",
                Message::flag(other)
            ),
        );
    }
    match (&given.prefill_engine_args, &given.decode_engine_args) {
        (Some(_), None) => refused(
            message!(
                "{prefill_engine_args} is given without {decode_engine_args}, but each pool needs its settings"
            ),
            message!("{--decode_engine_args} '{{}}' takes the defaults"),
        ),
        (None, Some(_)) => refused(
            message!(
                "{decode_engine_args} is given without {prefill_engine_args}, but each pool needs its settings"
            ),
            message!("{--prefill_engine_args} '{{}}' takes the defaults"),
        ),
        _ => Ok(()),
    }
}

fn preset(config: &ReplayConfig, layers: &Layers) -> Result<Option<EnginePreset>, Failure> {
    let preset = config.engine.engine_preset.as_deref().map(EnginePreset::by_name).transpose();
    preset.map_err(|error| layers.refused(error))
}

/// What is given for the engine of a pool.
struct Given<'a> {
    role: Role,
    /// Settings of this pool alone.
    explicit: Option<&'a Map<String, Value>>,
    preset: Option<EnginePreset>,
    engine: EngineType,
}

impl<'a> Given<'a> {
    fn new(
        role: Role,
        explicit: Option<&'a Map<String, Value>>,
        config: &ReplayConfig,
        preset: Option<EnginePreset>,
    ) -> Self {
        let named = explicit.and_then(|settings| settings.get("engine_type"));
        // A name that is none is refused with the other settings.
        let named = named.and_then(|name| serde_json::from_value(name.clone()).ok());
        let engine = named.or(config.engine.engine).or(preset.map(|preset| preset.engine_type()));
        Self { role, explicit, preset, engine: engine.unwrap_or(EngineArgs::default().engine_type) }
    }

    /// The key of the settings of this pool alone.
    fn key(&self) -> &'static str {
        match self.role {
            Role::Aggregated => "engine_args",
            Role::Prefill => "prefill_engine_args",
            Role::Decode => "decode_engine_args",
        }
    }

    /// What the preset says, unless it is for the engine of another pool.
    fn preset_settings(
        &self,
        engines: &[EngineType],
        layers: &Layers,
    ) -> Result<Map<String, Value>, Failure> {
        let Some(preset) = self.preset else { return Ok(Map::new()) };
        let of = match preset.engine_type() {
            EngineType::Sglang => Engines::Sglang,
            EngineType::Vllm | EngineType::Trtllm => Engines::Vllm,
        };
        if of.include(self.engine) {
            return Ok(preset.settings(self.role));
        }
        if engines.iter().any(|&engine| of.include(engine)) {
            return Ok(Map::new());
        }
        let (release, engine) = (preset.engine_type().name(), self.engine.name());
        let message =
            message!("{engine_preset} has the defaults of {}, but the engine is {}", release, engine);
        Err(layers.refused(message).with_hint("choose a preset of that engine, or none"))
    }
}

/// What is served where, with what the engine takes of it.
pub fn capacity_setup(args: &EngineArgs, setup: &CapacitySetup) -> CapacitySetup {
    let page_size = args.sglang.as_ref().and_then(|sglang| sglang.page_size);
    CapacitySetup {
        // What is out of range is refused with the other settings.
        gpu_memory_utilization: args.gpu_memory_utilization.clamp(0.01, 1.0),
        block_size: page_size.unwrap_or_else(|| args.resolved_block_size()),
        max_num_batched_tokens: args.max_num_batched_tokens.unwrap_or(setup.max_num_batched_tokens),
        max_num_seqs: args.max_num_seqs.unwrap_or(setup.max_num_seqs),
        ..setup.clone()
    }
}

/// Works out how many KV blocks fit the GPU, and says so.
fn work_out_blocks(args: &mut EngineArgs, setup: &CapacitySetup) -> Result<String, Failure> {
    let setup = capacity_setup(args, setup);
    let capacity = setup.capacity().map_err(|error| {
        Failure::input(&error).with_hint(message!(
            "more GPUs (tp=N), fewer bytes a weight (dtype=fp8) or a larger {--gpu_memory_utilization} make room; \
             {--num_gpu_blocks} sets the capacity regardless"
        ))
    })?;
    let blocks = capacity.num_gpu_blocks.min(u64::from(MAX_NUM_GPU_BLOCKS)) as u32;
    args.num_gpu_blocks = blocks;
    Ok(format!(
        "`num_gpu_blocks` is {blocks}, worked out from the memory of the GPU: {:.2} GiB for the KV cache, blocks of {} \
         tokens",
        capacity.kv_cache / GIB,
        setup.block_size
    ))
}

/// What is said where a real GPU is to serve as Dynamo's mocker would: batches of its size make other latencies.
fn of_the_mocker(given: &Given<'_>, settings: &Settings<'_>, spec: &LatencySpec) -> Option<String> {
    let own = ["max_num_seqs", "max_num_batched_tokens", "async_scheduling", "vllm_version"];
    let says = own.iter().any(|key| settings.values.contains_key(*key));
    let applies = given.preset.is_none() && given.engine == EngineType::Vllm && !says;
    (applies && matches!(spec, LatencySpec::Ops(_))).then(|| {
        "what is not given of the engine is as in Dynamo's mocker (256 requests at a time, no asynchronous scheduling): \
         `engine_preset` vllm-0.33 has the defaults of that release"
            .to_owned()
    })
}

/// The engine of a pool.
struct Pool {
    args: EngineArgs,
    config: EngineConfig,
    /// What was given but has no effect, and why.
    unused: Vec<Message>,
    /// What was not given, but follows from the rest.
    derived: Vec<String>,
    /// Where iteration times come from.
    latency_source: String,
    /// How far off they are.
    error_bar: ErrorBar,
}

impl Pool {
    /// Builds a pool of a deployment whose pools have these engines.
    fn build(
        given: &Given<'_>,
        engines: &[EngineType],
        config: &ReplayConfig,
        layers: &Layers,
    ) -> Result<Self, Failure> {
        let name = match given.role {
            Role::Aggregated => "",
            Role::Prefill => "prefill engine: ",
            Role::Decode => "decode engine: ",
        };
        let settings = Settings::collect(given, engines, config, layers)?;
        let named = |message: Message| Message::from(name).then(message);
        let explained = |message: Message| named(settings.explained(message));
        let refused = |error: ConfigError| Failure::user(explained(error.into()));
        let preset = given.preset_settings(engines, layers)?;
        let mut args =
            EngineArgs::from_json(merge(preset, settings.values.clone().into())).map_err(refused)?;
        let spec = args.latency_spec().map_err(refused)?;
        let in_settings = |failure: Failure| {
            let is_given = |key: &str| settings.values.contains_key(key);
            let failure = latency::of_setting(failure, args.latency.as_deref(), is_given);
            failure.with_message(|message| settings.explained(message))
        };
        let measured = latency::load(&spec, layers.models()).map_err(in_settings)?;
        let latency_source = latency::source(&spec, measured.as_deref())?;
        let error_bar = latency::error_bar(&spec, measured.as_deref());
        let setup = if settings.give_capacity() { None } else { latency::capacity(&spec)? };
        let notes = measured.as_deref().map_or(&[][..], |model| model.notes());
        let mut derived: Vec<String> = notes.iter().map(|note| format!("{name}{note}")).collect();
        derived.extend(latency::other_version(&spec)?.map(|note| format!("{name}{note}")));
        derived.extend(of_the_mocker(given, &settings, &spec).map(|note| format!("{name}{note}")));
        if let Some(setup) = &setup {
            derived.push(format!("{name}{}", work_out_blocks(&mut args, setup)?));
        }
        let config = args.validate(measured).map_err(refused)?;
        let mut unused: Vec<Message> = settings.unused(&args).map(named).collect();
        if args.says_what_is_served() && !matches!(spec, LatencySpec::Ops(_) | LatencySpec::Roofline(_)) {
            unused.push(explained(message!(
                "{model}, {gpu} and how they are shared out are for `ops` and `roofline`: {latency} has times of its own"
            )));
        }
        derived.extend(
            latency::without_graphs(&spec, config.max_num_seqs())?.map(|note| format!("{name}{note}")),
        );
        unused.extend(settings.unused_graphs(&args, &spec).map(named));
        if args.attention_backend.is_some() && !matches!(spec, LatencySpec::Ops(_)) {
            unused.push(explained(message!(
                "{attention_backend} is for iteration times composed of operators ({model} and {gpu}): other latency models \
                 have the kernels that were measured"
            )));
        }
        if setup.is_none() && settings.values.contains_key("gpu_memory_utilization") {
            unused.push(explained(message!(
                "{gpu_memory_utilization} is for working out {num_gpu_blocks}, which is given or does not follow, since the \
                 latency model knows no GPU"
            )));
        }
        Ok(Self { args, config, unused, derived, latency_source, error_bar })
    }

    fn with_workers(&self, workers: Option<u32>) -> PoolEngine<'_> {
        PoolEngine { workers: workers.unwrap_or(DEFAULT_WORKERS), args: &self.args, config: &self.config }
    }
}
