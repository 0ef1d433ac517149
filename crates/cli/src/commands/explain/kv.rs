//! `servecast explain kv`: how the layers of a model share the KV cache, and how many requests that holds.

use serde_json::{Value, json};
use servecast_engine::EngineType;
use servecast_latency::{GIB, KvGroup, KvKind, KvPlan, KvPlanSetup};

use super::capacity::{CapacityArgs, Subject, too_large};
use crate::config::Format;
use crate::deployment::kv_plan_setup;
use crate::error::Failure;
use crate::files;

/// Show how the layers of a model share the KV cache of vLLM, and how many requests of a length it holds
///
/// Layers that keep the same of a sequence (all tokens, a window, a state) are groups with tables of blocks of their own,
/// which draw from one pool: a request takes blocks in each. Blocks and bytes are those of each GPU.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct KvArgs {
    #[command(flatten)]
    of: CapacityArgs,
    /// Bytes for the KV cache of a GPU, instead of what is left beside the model
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(1..=1 << 50))]
    kv_cache_memory_bytes: Option<u64>,
    /// Lengths of requests, prompt and output, of which to say how many fit
    #[arg(
        long, value_name = "TOKENS", value_delimiter = ',', default_values_t = [1024, 8192, 32_768, 131_072],
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    tokens: Vec<u32>,
    /// Keep all tokens in layers with a window, in one group
    #[arg(long)]
    disable_hybrid_kv_cache_manager: bool,
}

/// Runs the command.
pub(super) fn run(args: &KvArgs) -> Result<(), Failure> {
    let given = args.kv_cache_memory_bytes;
    let subject = args.of.subject(given.map(|bytes| bytes as f64))?;
    let engine = &subject.engine;
    if engine.engine_type != EngineType::Vllm {
        let message =
            format!("engine {} does not share out its KV cache in groups", engine.engine_type.name());
        return Err(Failure::user(message).with_hint("`explain capacity` shows what it holds"));
    }
    let plan = subject.setup.kv_plan(KvPlanSetup {
        disable_hybrid: args.disable_hybrid_kv_cache_manager,
        ..kv_plan_setup(engine, &subject.setup)
    });
    let plan = plan.map_err(|error| Failure::input(&error))?;
    let bytes = match given {
        Some(bytes) => bytes,
        None => subject
            .setup
            .memory_for_kv(plan.bytes_per_block as f64)
            .map_err(|error| too_large(&error.into()))? as u64,
    };
    let shown = Shown { subject, plan, bytes, tokens: args.tokens.clone() };
    files::print(&match args.of.format() {
        Format::Table => shown.table(),
        Format::Json => serde_json::to_string_pretty(&shown.object()).unwrap_or_default() + "\n",
    })
}

/// A plan, and what it is shown for.
struct Shown {
    subject: Subject,
    plan: KvPlan,
    /// For the KV cache.
    bytes: u64,
    tokens: Vec<u32>,
}

/// What a group keeps of a sequence.
fn keeps(group: &KvGroup) -> String {
    match group.layer.kind {
        KvKind::Full => "all tokens".to_owned(),
        KvKind::SlidingWindow(window) => format!("the last {window} tokens"),
        KvKind::ChunkedLocal(chunk) => format!("tokens since the last multiple of {chunk}"),
        KvKind::State(bytes) => format!("a state of {bytes} B"),
    }
}

impl Shown {
    fn num_gpu_blocks(&self) -> u64 {
        self.plan.num_gpu_blocks(self.bytes)
    }

    /// Requests of so many tokens that have room, and the blocks that each takes by group.
    fn fit(&self, tokens: u32) -> (f64, Vec<u64>) {
        let blocks = self.plan.blocks_of_request(tokens.into());
        (self.num_gpu_blocks() as f64 / blocks.iter().sum::<u64>() as f64, blocks)
    }

    fn table(&self) -> String {
        let Subject { deployed, setup, .. } = &self.subject;
        let model = deployed.model.as_deref().unwrap_or("model");
        let groups = match self.plan.groups.len() {
            1 => "1 group".to_owned(),
            several => format!("{several} groups"),
        };
        let mut lines = vec![format!(
            "{model}, tensor parallel {}, pipeline parallel {}: {groups} of layers",
            setup.tensor_parallel_size, setup.pipeline_parallel_size
        )];
        let header = ["group", "layers", "tokens a block", "bytes a layer"];
        lines.push(format!("  {:>5} {:>7} {:>15} {:>14}  keep", header[0], header[1], header[2], header[3]));
        for (number, group) in self.plan.groups.iter().enumerate() {
            let (layers, layer) = (group.layers.len(), &group.layer);
            lines.push(format!(
                "  {number:>5} {layers:>7} {:>15} {:>14}  {}",
                layer.block_size,
                layer.page_bytes(),
                keeps(group)
            ));
        }
        let mut line = |value: String, what: &str| lines.push(format!("  {value:>14} {what}"));
        line(format!("{} B", self.plan.bytes_per_block), "a block of the pool, which any group can take");
        line(format!("{:.3} GiB", self.bytes as f64 / GIB), "for the KV cache");
        line(self.num_gpu_blocks().to_string(), "num_gpu_blocks");
        for &tokens in &self.tokens {
            let (fit, blocks) = self.fit(tokens);
            let sum = blocks.iter().map(u64::to_string).collect::<Vec<_>>().join(" + ");
            line(format!("{fit:.2}"), &format!("requests of {tokens} tokens, each of {sum} blocks"));
        }
        lines.join("\n") + "\n"
    }

    fn object(&self) -> Value {
        let group = |group: &KvGroup| {
            let (kind, size) = match group.layer.kind {
                KvKind::Full => ("full", Value::Null),
                KvKind::SlidingWindow(window) => ("sliding_window", window.into()),
                KvKind::ChunkedLocal(chunk) => ("chunked_local", chunk.into()),
                KvKind::State(bytes) => ("mamba", bytes.into()),
            };
            json!({
                "type": kind,
                "size": size,
                "layers": group.layers.len(),
                "block_size": group.layer.block_size,
                "page_bytes": group.layer.page_bytes(),
            })
        };
        let request = |&tokens: &u32| {
            let (fit, blocks) = self.fit(tokens);
            json!({"tokens": tokens, "blocks": blocks, "fit": fit})
        };
        let Subject { deployed, setup, .. } = &self.subject;
        json!({
            "model": deployed.model,
            "tensor_parallel_size": setup.tensor_parallel_size,
            "pipeline_parallel_size": setup.pipeline_parallel_size,
            "groups": self.plan.groups.iter().map(group).collect::<Vec<_>>(),
            "bytes_per_block": self.plan.bytes_per_block,
            "kv_cache_bytes": self.bytes,
            "num_gpu_blocks": self.num_gpu_blocks(),
            "requests": self.tokens.iter().map(request).collect::<Vec<_>>(),
        })
    }
}
