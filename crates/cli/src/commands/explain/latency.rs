//! `servecast explain latency`: what iteration times of a model on GPUs are made of.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

use clap::ValueHint;
use serde_json::{Value, json};
use servecast_engine::{EngineArgs, EngineType};
use servecast_latency::{Batch, Host, LatencyModel, PassTime, WeightType};
use servecast_ops::{AttentionKernels, Composition, Ops, Part};
use servecast_report::render_latency_page;

use super::capacity::{engine, kv_type, weight_type};
use super::latency_page;
use crate::config::Format;
use crate::deployment::capacity_setup;
use crate::error::Failure;
use crate::files::{self, OutputFile};
use crate::latency::{KvType, OpsSettings};

/// Show what iteration times of a model on GPUs are made of
///
/// The same tables and rules, with the same defaults, give the times of a replay with --model and --gpu.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct LatencyArgs {
    /// Model by its name on the Hugging Face hub, or its config.json
    #[arg(long, value_name = "NAME|FILE")]
    model: String,
    /// GPU by name, or a file that describes it
    #[arg(long, value_name = "NAME|FILE.toml")]
    gpu: String,
    /// GPUs that share each layer
    #[arg(long, visible_alias = "tp", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    tensor_parallel_size: u32,
    /// Groups of such GPUs that share experts
    #[arg(long, visible_alias = "dp", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    data_parallel_size: u32,
    /// GPUs over which whole experts are shared out; 1 to cut each expert over all
    #[arg(long, visible_alias = "ep", value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    expert_parallel_size: u32,
    /// How weights are stored: bf16, fp16, fp8, `fp8_block`, int4, mxfp4 or nvfp4; by default as the model is published
    #[arg(long, value_name = "TYPE", value_parser = weight_type)]
    dtype: Option<WeightType>,
    /// How the KV cache is stored: auto, bf16, fp16 or fp8
    #[arg(long, visible_alias = "kv-dtype", value_name = "TYPE", value_parser = kv_type)]
    kv_cache_dtype: Option<KvType>,
    /// Engine whose kernels are taken
    #[arg(long, value_name = "ENGINE", default_value = "vllm", value_parser = engine)]
    engine: EngineType,
    /// Version of the engine, for the choice of tables; the newest that was measured without it
    #[arg(long, value_name = "VERSION")]
    engine_version: Option<String>,
    /// Whose kernels attention runs, for the choice of tables: auto for those that the engine takes by itself, or flashinfer
    #[arg(long, value_name = "NAME", value_parser = attention_backend)]
    attention_backend: Option<String>,
    /// Tokens that each decode attends to
    #[arg(long, value_name = "TOKENS", default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    context: u64,
    /// Write a page with the parts of passes over their size, for a browser: one file that loads nothing from elsewhere
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    html: Option<PathBuf>,
    /// How to print it
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    format: Format,
}

fn attention_backend(text: &str) -> Result<String, String> {
    AttentionKernels::by_name(text)
        .map(|_| text.to_owned())
        .ok_or_else(|| "expected auto or flashinfer".to_owned())
}

/// Requests that decode, and tokens of a prompt, for which times are shown.
const DECODES: [u64; 3] = [1, 32, 256];
const PROMPTS: [u64; 2] = [1024, 8192];

/// What is not known of passes that are no recorded graphs.
pub(super) const EAGER: &str =
    "the host's time to launch the kernels of other passes was not measured and is left out";

/// A pass and its parts.
pub(super) struct Pass {
    what: String,
    pub(super) us: f64,
    pub(super) parts_us: BTreeMap<Part, f64>,
}

/// Runs the command.
pub(super) fn run(args: &LatencyArgs) -> Result<(), Failure> {
    if let Some(path) = &args.html {
        files::check_output(path)?;
    }
    let settings = OpsSettings::of(&options(args))?;
    let composition = settings.compose()?;
    let model = Ops::new(&composition);
    let decodes = DECODES.map(|requests| decode(&composition, &model, requests, args.context));
    let prompts = PROMPTS.map(|tokens| prompt(&composition, &model, tokens));
    let passes: Vec<Pass> = decodes.into_iter().chain(prompts).collect();
    if let Some(path) = &args.html {
        let html = render_latency_page(&latency_page::page(&composition, &model, args.context));
        let mut file = OutputFile::create(path)?;
        file.write_all(html.as_bytes()).map_err(|error| file.failure(&error))?;
        file.commit()?;
    }
    if let Some(setup) = settings.capacity_setup()?
        && let Err(too_large) = capacity_setup(&EngineArgs::default(), &setup).capacity()
    {
        files::note(&format!("note: such an engine does not run: {too_large}"));
    }
    files::print(&match args.format {
        Format::Table => table(&composition, &model, &passes),
        Format::Json => {
            serde_json::to_string_pretty(&object(&composition, &model, &passes)).unwrap_or_default() + "\n"
        }
    })
}

fn options(args: &LatencyArgs) -> String {
    let mut options = vec![
        format!("model={}", args.model),
        format!("gpu={}", args.gpu),
        format!("tp={}", args.tensor_parallel_size),
        format!("dp={}", args.data_parallel_size),
        format!("ep={}", args.expert_parallel_size),
        format!("engine={}", args.engine.name()),
    ];
    options.extend(args.dtype.map(|dtype| format!("dtype={}", dtype.name())));
    options.extend(args.kv_cache_dtype.map(|kv_type| format!("kv_dtype={}", kv_type.name())));
    options.extend(args.engine_version.as_ref().map(|version| format!("engine_version={version}")));
    options.extend(args.attention_backend.as_ref().map(|backend| format!("attention={backend}")));
    options.join(",")
}

pub(super) fn decode(composition: &Composition, model: &Ops, requests: u64, context: u64) -> Pass {
    let mut batch = Batch::new(0);
    for _ in 0..requests {
        batch.add_tokens(context - 1, context);
        batch.add_decode(context);
    }
    let count = requests as f64;
    let mut parts = token_parts(composition, model, requests, false);
    parts.extend(composition.decode_parts_us(count, context as f64));
    parts.push((Part::Head, composition.head_us(count)));
    let noun = if requests == 1 { "request decodes" } else { "requests decode" };
    pass(format!("{requests} {noun}"), model, &batch, parts)
}

pub(super) fn prompt(composition: &Composition, model: &Ops, tokens: u64) -> Pass {
    let mut batch = Batch::new(0);
    batch.add_tokens(0, tokens);
    batch.add_prompt(0, tokens);
    let count = tokens as f64;
    let mut parts = token_parts(composition, model, tokens, true);
    parts.extend(composition.prompt_parts_us(1.0, count));
    parts.push((Part::Head, composition.head_us(1.0)));
    pass(format!("prompt of {tokens}"), model, &batch, parts)
}

/// What grows with the tokens of a pass; a recorded graph computes what it was recorded for.
fn token_parts(composition: &Composition, model: &Ops, tokens: u64, has_prompts: bool) -> Vec<(Part, f64)> {
    let graph = model.graphs().padded(tokens, has_prompts);
    composition.token_parts_us(graph.unwrap_or(tokens) as f64, graph.is_some())
}

fn pass(what: String, model: &Ops, batch: &Batch, parts: Vec<(Part, f64)>) -> Pass {
    let PassTime { prompt_ms, decode_ms } = model.pass(batch);
    let mut parts_us = BTreeMap::new();
    for (part, us) in parts {
        *parts_us.entry(part).or_insert(0.0) += us;
    }
    Pass { what, us: (prompt_ms + decode_ms) * 1000.0, parts_us }
}

fn table(composition: &Composition, model: &Ops, passes: &[Pass]) -> String {
    let mut text = format!("{}\n\n{:<24}", model.source().unwrap_or_default(), "ms, and share of a pass");
    for pass in passes {
        let _ = write!(text, "{:>20}", pass.what);
    }
    text.push('\n');
    let shown =
        Part::ALL.into_iter().filter(|part| passes.iter().any(|pass| pass.parts_us.contains_key(part)));
    for part in shown {
        let _ = write!(text, "  {:<22}", part.name());
        for pass in passes {
            let us = pass.parts_us.get(&part).copied().unwrap_or(0.0);
            let _ = write!(text, "{:>13.3} {:>4.0} %", us / 1000.0, 100.0 * us / pass.us);
        }
        text.push('\n');
    }
    let _ = write!(text, "  {:<22}", "pass");
    for pass in passes {
        let _ = write!(text, "{:>13.3}       ", pass.us / 1000.0);
    }
    text.push_str("\n\nfrom\n");
    for origin in composition.origins() {
        let mark = if origin.is_estimate { "  (estimate)" } else { "" };
        let _ = writeln!(text, "  {:<22}{}{mark}", origin.part.name(), origin.source);
    }
    let _ = writeln!(text, "  {:<22}{}; {EAGER}", "recorded graphs", model.graphs());
    let Host { front_end_us, front_end_us_per_1k_prompt_tokens, .. } = model.host();
    let _ = writeln!(
        text,
        "  {:<22}{:.1} ms, and {:.1} ms each 1,000 tokens of the prompt; fitted: docs/latency.md",
        "front end",
        front_end_us / 1000.0,
        front_end_us_per_1k_prompt_tokens / 1000.0
    );
    text
}

fn object(composition: &Composition, model: &Ops, passes: &[Pass]) -> Value {
    let passes: Vec<Value> = passes
        .iter()
        .map(|pass| {
            let parts = pass.parts_us.iter().map(|(part, us)| (part.name().to_owned(), json!(us / 1000.0)));
            json!({
                "pass": pass.what,
                "ms": pass.us / 1000.0,
                "parts_ms": parts.collect::<serde_json::Map<_, _>>(),
            })
        })
        .collect();
    let origins: Vec<Value> = composition
        .origins()
        .iter()
        .map(|origin| {
            json!({"part": origin.part.name(), "source": origin.source, "is_estimate": origin.is_estimate})
        })
        .collect();
    let host: serde_json::Map<String, Value> = Host::KEYS
        .iter()
        .zip(model.host().values())
        .map(|(key, us)| ((*key).to_owned(), json!(us)))
        .collect();
    let graphs = model.graphs().to_string();
    json!({
        "latency_source": model.source(),
        "passes": passes,
        "origins": origins,
        "recorded_graphs": graphs,
        "host": host,
    })
}
