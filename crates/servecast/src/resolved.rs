//! The configuration file that repeats a run from anywhere: every setting that it depends on, defaults included.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};
use servecast_cluster::{LoadMode, RouterMode};
use servecast_engine::{EngineArgs, EngineType, LatencySpec, SchedulePolicy};
use servecast_report::Settings;
use servecast_types::Role;
use servecast_workload::{Recognised, SyntheticSpec, TraceNotes};

use crate::plan::Plan;
use servecast_config::deployment::{GRAPHS, PoolSettings, without_effect};
use servecast_config::error::Failure;
use servecast_config::files;
use servecast_config::settings::{
    DEFAULT_SEED, DEFAULT_TRACE_BLOCK_SIZE, DeploymentConfig, GroupTable, PoolTable, ReplayConfig,
    ReplayMode, SyntheticConfig, TraceConfig,
};
use servecast_config::source::Source;

/// The settings of a run as a TOML file.
pub fn resolved(plan: &Plan, notes: &TraceNotes) -> Result<String, Failure> {
    toml::to_string(&config(plan, notes, &absolute))
        .map_err(|error| Failure::input(&error).about("the settings do not fit into a TOML file"))
}

/// The settings of a run by their keys, those that its file has.
pub(crate) fn values(plan: &Plan, notes: &TraceNotes) -> Map<String, Value> {
    object(json!(config(plan, notes, &absolute)))
}

/// The settings of a run as its report has them: equal wherever the run is repeated, so files go by their names. The
/// trace has a name and a hash of its own there.
pub fn reported(plan: &Plan, notes: &TraceNotes) -> Settings {
    let name = |path: &Path| PathBuf::from(path.file_name().unwrap_or(path.as_os_str()));
    let mut settings = object(json!(config(plan, notes, &name)));
    settings.remove("trace_file");
    settings.into_iter().collect()
}

/// Every setting, with files by the names that `named` gives them.
fn config(plan: &Plan, notes: &TraceNotes, named: &dyn Fn(&Path) -> PathBuf) -> ReplayConfig {
    ReplayConfig {
        trace: trace(plan, notes, named),
        synthetic: match &plan.source {
            Source::Synthetic { spec, shape, .. } => synthetic(spec, shape.arrivals.is_none()),
            Source::Trace { .. } | Source::Sample { .. } => SyntheticConfig::default(),
        },
        deployment: deployment(plan, named),
        limits: plan.config.limits.clone(),
        measured: plan.config.measured.clone(),
        ..ReplayConfig::default()
    }
}

fn trace(plan: &Plan, notes: &TraceNotes, named: &dyn Fn(&Path) -> PathBuf) -> TraceConfig {
    let (trace_file, trace_block_size) = match &plan.source {
        Source::Trace { path, reading, .. } => {
            let known = notes.stated_block_size.or(notes.recognised.and_then(Recognised::block_size));
            let block_size = reading.block_size.or(known).unwrap_or(DEFAULT_TRACE_BLOCK_SIZE);
            (Some(named(path)), Some(block_size))
        }
        Source::Synthetic { block_size, .. } => (None, Some(block_size.unwrap_or(plan.block_size))),
        Source::Sample { .. } => (None, None),
    };
    let given = &plan.config.trace;
    let is_trace = matches!(plan.source, Source::Trace { .. });
    let (ratio, concurrency) = match plan.mode {
        LoadMode::OpenLoop => (Some(given.arrival_speedup_ratio.unwrap_or(1.0)), None),
        LoadMode::ClosedLoop { concurrency } => (None, Some(concurrency)),
    };
    TraceConfig {
        trace_file,
        trace_block_size,
        trace_format: given.trace_format,
        // Without a unit it is recognised again.
        time_unit: given.time_unit,
        columns: given.columns.clone(),
        tokenizer: given.tokenizer.as_deref().map(named),
        turns: is_trace.then(|| given.turns.or(notes.turns).unwrap_or_default()),
        arrival_speedup_ratio: ratio,
        replay_concurrency: concurrency,
        warm_start: concurrency.map(|_| given.warm_start.unwrap_or(false)),
        max_requests: given.max_requests,
        merge: given.merge.as_ref().map(|paths| paths.iter().map(|path| named(path)).collect()),
        time_range: given.time_range.clone(),
        sample: given.sample,
        repeat: given.repeat,
        request_rate: given.request_rate,
        rate_profile: given.rate_profile.as_deref().map(named),
        burstiness: given.burstiness,
        replay_mode: Some(if plan.online.is_some() { ReplayMode::Online } else { ReplayMode::Offline }),
        speed: plan.online,
        seed: Some(given.seed.unwrap_or(DEFAULT_SEED)),
    }
}

/// A synthetic workload, whose arrivals are its own or follow a rate.
fn synthetic(spec: &SyntheticSpec, has_arrivals: bool) -> SyntheticConfig {
    SyntheticConfig {
        input_tokens: Some(spec.input_tokens),
        output_tokens: Some(spec.output_tokens),
        request_count: Some(spec.request_count),
        arrival_interval_ms: Some(spec.arrival_interval_ms).filter(|_| has_arrivals),
        arrival_process: Some(spec.arrival_process).filter(|_| has_arrivals),
        turns_per_session: Some(spec.turns_per_session),
        inter_turn_delay_ms: Some(spec.inter_turn_delay_ms),
        shared_prefix_ratio: Some(spec.shared_prefix_ratio),
        num_prefix_groups: Some(spec.num_prefix_groups),
        length_distribution: Some(spec.length_distribution),
        length_spread: Some(spec.length_spread),
    }
}

fn deployment(plan: &Plan, named: &dyn Fn(&Path) -> PathBuf) -> DeploymentConfig {
    let given = &plan.config.deployment;
    let router = &plan.router;
    let mut config = DeploymentConfig {
        router_mode: Some(router.mode),
        router_session_affinity_ttl_secs: given.router_session_affinity_ttl_secs,
        prefix_hash_blocks: (router.mode == RouterMode::PrefixHash).then_some(router.prefix_hash_blocks),
        ..DeploymentConfig::default()
    };
    if router.mode == RouterMode::KvRouter {
        let mut settings = object(json!(router.kv.settings.config()));
        // In TOML there is no null, and this one's default is a number.
        settings.entry("router_queue_threshold").or_insert_with(|| "none".into());
        config.router_config = Some(settings);
        config.kv_event_delay_ms =
            router.kv.settings.use_kv_events().then(|| given.kv_event_delay_ms.unwrap_or(0.0));
    }
    let engine_args = |args: &EngineArgs| Some(engine_args(args, plan.block_size, named));
    if plan.pools.iter().any(|pool| pool.groups.len() > 1) {
        config.pool = Some(plan.pools.iter().map(|pool| table(pool, &engine_args)).collect());
        return config;
    }
    // By the shorthand wherever that says it, so that a deployment has the same settings however it was asked for.
    for pool in &plan.pools {
        let (workers, args) = &pool.groups[0];
        let (number, settings) = match pool.role {
            Role::Aggregated => (&mut config.num_workers, &mut config.engine_args),
            Role::Prefill => (&mut config.num_prefill_workers, &mut config.prefill_engine_args),
            Role::Decode => (&mut config.num_decode_workers, &mut config.decode_engine_args),
        };
        (*number, *settings) = (Some(*workers), engine_args(args));
    }
    config
}

/// A pool as a table.
fn table(pool: &PoolSettings, engine_args: &impl Fn(&EngineArgs) -> Option<Map<String, Value>>) -> PoolTable {
    let group = |(workers, args): &(u32, EngineArgs)| GroupTable {
        workers: Some(*workers),
        engine_args: engine_args(args),
    };
    let table = PoolTable { name: Some(pool.name.clone()), role: Some(pool.role), ..PoolTable::default() };
    match &pool.groups[..] {
        [(workers, args)] => PoolTable { workers: Some(*workers), engine_args: engine_args(args), ..table },
        groups => PoolTable { group: Some(groups.iter().map(group).collect()), ..table },
    }
}

/// The settings of an engine that have an effect, each by one name.
fn engine_args(args: &EngineArgs, block_size: u32, named: &dyn Fn(&Path) -> PathBuf) -> Map<String, Value> {
    let mut args = args.clone();
    args.latency = latency(&args, named);
    args.planner_profile_data = None;
    args.block_size = block_size;
    // In TOML there is no null, and the defaults of these are numbers.
    args.max_num_seqs.get_or_insert(u32::MAX);
    args.max_num_batched_tokens.get_or_insert(u32::MAX);
    let mut dropped: Vec<&str> = without_effect(args.engine_type).collect();
    // The number of blocks is there.
    dropped.push("gpu_memory_utilization");
    // In TOML there is no null.
    args.enforce_eager |= args.trtllm.as_ref().is_some_and(|own| own.cuda_graph_config.is_none());
    if !matches!(args.latency_spec(), Ok(LatencySpec::Ops(_))) {
        dropped.extend(GRAPHS);
        dropped.push("attention_backend");
    }
    if args.engine_type == EngineType::Sglang {
        dropped.extend(by_names_of_sglang(&mut args));
    }
    let mut settings = object(json!(args));
    for path in dropped {
        match path.split_once('.') {
            None => settings.remove(path),
            Some((section, key)) => {
                settings.get_mut(section).and_then(Value::as_object_mut).and_then(|own| own.remove(key))
            }
        };
    }
    settings
}

/// Gives what has two names that of SGLang; returns what is to be left out.
fn by_names_of_sglang(args: &mut EngineArgs) -> Vec<&'static str> {
    let mut own = args.sglang.clone().unwrap_or_default();
    own.page_size = Some(args.block_size);
    // That of SGLang is of all ranks.
    let of_all = args.max_num_seqs.map(|of_one| of_one.saturating_mul(args.dp_size));
    own.max_running_requests = own.max_running_requests.or(of_all);
    own.context_length = own.context_length.or(args.max_model_len);
    own.disable_radix_cache |= !args.enable_prefix_caching;
    let mut dropped = vec!["block_size", "max_num_seqs", "max_model_len", "enable_prefix_caching"];
    if own.max_total_tokens.is_some() {
        dropped.push("num_gpu_blocks");
    }
    if !own.enable_priority_scheduling {
        dropped.push("sglang.schedule_low_priority_values_first");
        dropped.push("sglang.priority_scheduling_preemption_threshold");
    }
    if own.schedule_policy != SchedulePolicy::Random {
        dropped.push("sglang.random_seed");
    }
    args.sglang = Some(own);
    dropped
}

/// The latency model, its files by the names that they are given; `None` where it follows from model and GPU.
fn latency(args: &EngineArgs, named: &dyn Fn(&Path) -> PathBuf) -> Option<String> {
    let named = |path: &str| named(Path::new(path)).display().to_string();
    let option = |option: &str| match option.split_once('=') {
        Some((key, path)) if Path::new(path).is_file() => format!("{key}={}", named(path)),
        _ => option.to_owned(),
    };
    let options = |options: &str| options.split(',').map(option).collect::<Vec<_>>().join(",");
    Some(match args.latency_spec() {
        Ok(LatencySpec::Ops(_)) if args.latency.is_none() => return None,
        Ok(LatencySpec::Ops(given)) => format!("ops:{}", options(&given)),
        Ok(LatencySpec::Grid(path)) => format!("grid:{}", named(&path)),
        Ok(LatencySpec::Step(path)) => format!("step:{}", named(&path)),
        Ok(LatencySpec::Profile(text)) => match text.split_once(',') {
            None => format!("profile:{}", named(&text)),
            Some((folder, given)) => format!("profile:{},{}", named(folder), options(given)),
        },
        Ok(LatencySpec::Roofline(given)) => format!("roofline:{}", options(&given)),
        Ok(LatencySpec::Polynomial | LatencySpec::Linear(_) | LatencySpec::Callable(_)) | Err(_) => {
            args.latency.clone().unwrap_or_else(|| "polynomial".to_owned())
        }
    })
}

/// The members of an object that are there.
fn object(value: Value) -> Map<String, Value> {
    let Value::Object(members) = value else { unreachable!("settings are an object") };
    let present = members.into_iter().filter(|(_, value)| !value.is_null());
    let mut present: Map<String, Value> = present.map(|(key, value)| (key, without_null(value))).collect();
    // The order of keys must not depend on the features of serde_json that other crates switch on.
    present.sort_keys();
    present
}

/// A value without the members of objects in it that are not there.
fn without_null(value: Value) -> Value {
    match value {
        Value::Object(_) => Value::Object(object(value)),
        Value::Array(items) => items.into_iter().map(without_null).collect(),
        value => value,
    }
}

/// Where a file is, whatever the working directory.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    if files::is_standard_stream(path) {
        return path.to_owned();
    }
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}
