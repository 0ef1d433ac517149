//! The engine of a measured run: the preset of its release, under the settings of the row.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use servecast_engine::{
    EngineArgs, EngineConfig, EnginePreset, EngineType, LatencySpec, MAX_NUM_GPU_BLOCKS, merge,
};
use servecast_latency::CapacitySetup;
use servecast_types::Role;

use servecast_latency::LatencyModel;
use servecast_ops::Constants;

use super::table::Measured;
use crate::commands::validate::recording::preset;
use crate::error::Failure;
use crate::latency::OpsSettings;
use crate::{deployment, latency};

/// The preset of runs of vLLM whose release is not recorded, or is none: between the oldest and the newest of them.
const UNKNOWN_VLLM: &str = "vllm-0.19";
/// The preset for releases before the first preset, which did not schedule asynchronously unless they were told to.
const OLD_VLLM: &str = "vllm-0.14";

/// An engine that can be simulated.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) args: EngineArgs,
    pub(super) config: EngineConfig,
    /// The latency model, as a setting.
    pub(super) latency: String,
    /// Whose decisions are made.
    pub(super) release: String,
}

/// The engine of a row, with the latency model `latency` (its name, and options for all rows behind a colon).
///
/// `constants` are those around the operators, unless they are those that the latency model names.
/// `ranks`: whether data-parallel ranks of the attention are those of vLLM or SGLang; otherwise they are one engine, as they
/// are of TensorRT-LLM, whose ranks are not simulated.
pub(super) fn of(
    row: &Measured,
    latency: &str,
    constants: Option<&Constants>,
    ranks: bool,
) -> Result<Engine, Failure> {
    let spec_text = latency_of(row, latency)?;
    let (release, mut below) = release(row);
    let has_ranks = ranks && row.engine != EngineType::Trtllm && row.attention_dp > 1;
    let own = settings(row, &spec_text, has_ranks);
    below.retain(|key, _| !(row.engine == EngineType::Trtllm && key == "vllm_version"));
    let mut args = EngineArgs::from_json(merge(below, own.into())).map_err(Failure::user)?;
    let spec = args.latency_spec().map_err(Failure::user)?;
    let model: Option<Arc<dyn LatencyModel>> = match (&spec, constants) {
        (LatencySpec::Ops(options), Some(constants)) => {
            Some(Arc::new(OpsSettings::of(options)?.read_with(constants)?))
        }
        _ => latency::load(&spec, &latency::Models::new())?,
    };
    let setup = latency::capacity(&spec)?.ok_or_else(|| {
        Failure::user(format!("`latency` is `{latency}`, which knows no model and GPU of its own"))
            .with_hint("`ops` and `roofline` do")
    })?;
    let setup = CapacitySetup { attention_ranks: row.attention_dp, ..setup };
    // The constants were fitted with blocks of the layers that keep everything.
    let setup = CapacitySetup { groups: None, ..deployment::capacity_setup(&args, &setup) };
    let capacity = setup.capacity().map_err(|error| Failure::input(&error))?;
    let blocks = capacity.num_gpu_blocks / u64::from(args.dp_size);
    args.num_gpu_blocks = blocks.min(u64::from(MAX_NUM_GPU_BLOCKS)) as u32;
    let config = args.validate(model).map_err(Failure::user)?;
    Ok(Engine { args, config, latency: spec_text, release })
}

/// The latency model of a row: the named one, of its model and GPUs.
fn latency_of(row: &Measured, latency: &str) -> Result<String, Failure> {
    let (name, options) = latency.split_once(':').unwrap_or((latency, ""));
    let mut pairs = vec![format!("model={}", row.model), format!("gpu={}", row.gpu)];
    pairs.extend(row.dtype.iter().map(|dtype| format!("dtype={dtype}")));
    pairs.extend(row.kv_dtype.iter().map(|dtype| format!("kv_dtype={dtype}")));
    match name {
        // Each GPU has its part of everything, however the ranks are made.
        "roofline" => pairs.push(format!("tp={}", row.tp)),
        "ops" => {
            pairs.push(format!("tp={}", row.tp / row.attention_dp.max(1)));
            pairs.push(format!("dp={}", row.attention_dp));
            pairs.push(format!("ep={}", row.ep));
            pairs.push(format!("engine={}", row.engine.name()));
            // What is built from a branch is newer than what is numbered.
            let version = row.engine_version.iter().filter(|version| latency::is_version(version));
            pairs.extend(version.map(|version| format!("engine_version={version}")));
        }
        _ => {
            return Err(Failure::user(format!("`--latency {latency}` knows no model and GPU of its own"))
                .with_hint(
                    "each row has its own model and GPU: give `ops` or `roofline`, with options for all behind a colon",
                ));
        }
    }
    pairs.extend((!options.is_empty()).then(|| options.to_owned()));
    Ok(format!("{name}:{}", pairs.join(",")))
}

/// The preset that is nearest to the release of a row, with its settings.
fn release(row: &Measured) -> (String, Map<String, Value>) {
    let named = |name: &str| {
        let preset = EnginePreset::by_name(name).unwrap_or_else(|_| unreachable!("{name} is a preset"));
        (name.to_owned(), preset.settings(Role::Aggregated))
    };
    let version = row.engine_version.as_deref();
    match row.engine {
        EngineType::Sglang => named("sglang-0.5"),
        // Its runtime overlaps scheduling with the pass before.
        EngineType::Trtllm => {
            let settings = json!({"engine_type": "trtllm", "async_scheduling": true});
            ("trtllm".to_owned(), settings.as_object().cloned().unwrap_or_default())
        }
        EngineType::Vllm => match version.and_then(preset) {
            Some(name) => named(name),
            None if version.is_some_and(latency::is_version) => {
                let (name, mut settings) = named(OLD_VLLM);
                settings.insert("async_scheduling".to_owned(), false.into());
                (name, settings)
            }
            None => named(UNKNOWN_VLLM),
        },
    }
}

/// What the row says of its engine. Data-parallel ranks of the attention are in lock step if it `has_ranks`, otherwise they
/// are one engine with the budgets of all.
fn settings(row: &Measured, latency: &str, has_ranks: bool) -> Map<String, Value> {
    let ranks = if has_ranks { 1 } else { row.attention_dp };
    let all = |count: u32| count.saturating_mul(ranks);
    let mut settings = Map::new();
    let mut set = |key: &str, value: Option<Value>| {
        settings.extend(value.map(|value| (key.to_owned(), value)));
    };
    set("latency", Some(latency.into()));
    set("dp_size", has_ranks.then(|| row.attention_dp.into()));
    set("enable_prefix_caching", Some(false.into()));
    set("gpu_memory_utilization", row.gpu_memory_utilization.map(Value::from));
    set("max_num_seqs", row.max_num_seqs.map(|seqs| all(seqs).into()));
    if row.engine == EngineType::Sglang {
        let mut sglang = Map::new();
        sglang.extend(has_ranks.then(|| ("enable_dp_attention".to_owned(), true.into())));
        sglang.extend(
            row.chunked_prefill_size.map(|size| ("chunked_prefill_size".to_owned(), all(size).into())),
        );
        if row.chunked_prefill == Some(false) {
            sglang.insert("chunked_prefill_size".to_owned(), (-1).into());
        }
        sglang.extend(
            row.max_prefill_tokens.map(|tokens| ("max_prefill_tokens".to_owned(), all(tokens).into())),
        );
        sglang.extend(
            row.scheduler_recv_interval
                .map(|interval| ("scheduler_recv_interval".to_owned(), interval.into())),
        );
        // Recipes record graphs of as many requests as there may be; ranks have their own.
        sglang.extend(row.max_num_seqs.map(|seqs| ("cuda_graph_max_bs".to_owned(), seqs.into())));
        set("sglang", Some(sglang.into()));
    } else {
        set("max_num_batched_tokens", row.max_num_batched_tokens.map(|tokens| all(tokens).into()));
        set("enable_chunked_prefill", row.chunked_prefill.map(Value::from));
    }
    if row.engine == EngineType::Trtllm {
        let graphs = json!({"max_batch_size": row.max_num_seqs, "enable_padding": true});
        set("trtllm", Some(json!({"cuda_graph_config": graphs})));
    }
    settings
}
