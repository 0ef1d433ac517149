//! What was run, in a line for each of its parts: the head of the page of a run, and of its Markdown.

use serde_json::Value;

use crate::pool::PoolReport;
use crate::report::{Report, Settings};
use crate::table::{count, grouped};

/// What was run: each part by its name.
///
/// A part that the report does not say is left out.
pub(crate) fn about(report: &Report) -> Vec<(&'static str, String)> {
    let settings = report.settings.as_ref();
    let engines = settings.map(engines).unwrap_or_default();
    let parts = [
        ("Model", distinct(&engines, |of| text(of, "model"))),
        ("GPUs", distinct(&engines, gpus_of_a_worker)),
        ("Workers", workers(&report.pools)),
        ("Router", settings.and_then(|settings| router(settings, &report.pools))),
        ("Engine", distinct(&engines, engine)),
        ("Load", Some(load(report))),
    ];
    parts.into_iter().filter_map(|(name, text)| Some((name, text?))).collect()
}

/// The settings of the engines of all pools, and of the groups within them.
fn engines(settings: &Settings) -> Vec<&Value> {
    let by_role = ["engine_args", "prefill_engine_args", "decode_engine_args"];
    let pools = || settings.get("pool").and_then(Value::as_array).into_iter().flatten();
    let groups = pools().flat_map(|pool| pool["group"].as_array().into_iter().flatten());
    let tables = pools().chain(groups).filter_map(|table| table.get("engine_args"));
    by_role.into_iter().filter_map(|key| settings.get(key)).chain(tables).collect()
}

/// What engines say, each once, in their order.
fn distinct(engines: &[&Value], of: impl Fn(&Value) -> Option<String>) -> Option<String> {
    let mut told: Vec<String> = Vec::new();
    for text in engines.iter().filter_map(|engine| of(engine)) {
        if !told.contains(&text) {
            told.push(text);
        }
    }
    (!told.is_empty()).then(|| told.join(", "))
}

fn text(of: &Value, key: &str) -> Option<String> {
    of.get(key).and_then(Value::as_str).map(str::to_owned)
}

/// The GPUs of a worker: `2 H100-SXM for each worker`.
fn gpus_of_a_worker(engine: &Value) -> Option<String> {
    Some(format!("{} {} for each worker", count(number_of_gpus(engine)), text(engine, "gpu")?))
}

fn number_of_gpus(engine: &Value) -> u64 {
    let size = |key: &str| engine.get(key).and_then(Value::as_u64).unwrap_or(1);
    // Ranks are simulated as such or priced as one engine, which only measured operators are.
    let latency = engine.get("latency").and_then(Value::as_str).unwrap_or("auto");
    let is_one_engine = latency == "auto" || latency.starts_with("ops");
    let ranks = size("dp_size").max(if is_one_engine { size("data_parallel_size") } else { 1 });
    size("tensor_parallel_size") * size("pipeline_parallel_size") * ranks
}

/// The GPUs of all workers, if it is said on which the workers run.
pub(crate) fn gpus(settings: &Settings) -> Option<u64> {
    let of = |workers: Option<&Value>, engine: &Value| {
        text(engine, "gpu")
            .zip(workers.and_then(Value::as_u64))
            .map(|(_, workers)| workers * number_of_gpus(engine))
    };
    let by_role = ["", "prefill_", "decode_"].into_iter().filter_map(|role| {
        let engine = settings.get(&format!("{role}engine_args"))?;
        Some(of(settings.get(&format!("num_{role}workers")), engine))
    });
    let pools = settings.get("pool").and_then(Value::as_array).into_iter().flatten();
    let groups = pools.flat_map(|pool| match pool["group"].as_array() {
        Some(groups) => groups.iter().collect(),
        None => vec![pool],
    });
    let of_groups = groups.filter_map(|group| Some(of(group.get("workers"), group.get("engine_args")?)));
    let each: Vec<u64> = by_role.chain(of_groups).collect::<Option<_>>()?;
    (!each.is_empty()).then(|| each.iter().sum())
}

fn workers(pools: &[PoolReport]) -> Option<String> {
    let one = |pool: &PoolReport| format!("{} {}", count(pool.workers.into()), pool.pool);
    let all: Vec<String> = pools.iter().map(one).collect();
    (!all.is_empty()).then(|| all.join(" + "))
}

/// How requests are spread, where there is a choice.
fn router(settings: &Settings, pools: &[PoolReport]) -> Option<String> {
    let mode = settings.get("router_mode")?.as_str()?.replace('_', " ");
    let has_choice = pools.iter().any(|pool| pool.workers > 1);
    Some(if has_choice { mode } else { format!("{mode}, which has no choice") })
}

fn engine(engine: &Value) -> Option<String> {
    let name = text(engine, "engine_type")?;
    let name = match name.as_str() {
        "vllm" => "vLLM",
        "sglang" => "SGLang",
        "trtllm" => "TensorRT-LLM",
        other => other,
    };
    let version = if name == "vLLM" { text(engine, "vllm_version") } else { None };
    Some(version.map_or_else(|| name.to_owned(), |version| format!("{name} {version}")))
}

/// What was sent: its name, how many requests, and how they came.
fn load(report: &Report) -> String {
    let setting = |key: &str| report.settings.as_ref()?.get(key);
    let name = report.workload_name.as_ref().map_or_else(String::new, |name| format!("{name}, "));
    let pace = if let Some(sessions) = setting("replay_concurrency").and_then(Value::as_u64) {
        format!("closed loop, {} at a time", count(sessions))
    } else {
        let ratio = setting("arrival_speedup_ratio").and_then(Value::as_f64).unwrap_or(1.0);
        let faster = format!(", {} times as fast", grouped(ratio, 2));
        format!("open loop{}", if (ratio - 1.0).abs() > 0.0 { faster } else { String::new() })
    };
    format!("{name}{} requests, {pace}", count(report.num_requests))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{SummaryOptions, fixture, summarize};

    #[track_caller]
    fn check(settings: Value, expected: &[(&str, &str)]) {
        let mut report = summarize(&fixture::run(), &SummaryOptions::default());
        report.settings = serde_json::from_value(settings).unwrap();
        report.workload_name = Some("t.jsonl".to_owned());
        let told = about(&report);
        let told: Vec<(&str, &str)> = told.iter().map(|(name, text)| (*name, text.as_str())).collect();
        assert_eq!(told, expected);
    }

    #[test]
    fn gpus_are_those_of_all_workers() {
        let check = |settings: Value, expected: Option<u64>| {
            assert_eq!(gpus(&serde_json::from_value(settings).unwrap()), expected);
        };
        let engine = |tensor: u32| json!({"gpu": "H100-SXM", "tensor_parallel_size": tensor, "dp_size": 2});
        check(json!({"num_workers": 3, "engine_args": engine(4)}), Some(24));
        let one_engine = json!({"gpu": "H100-SXM", "data_parallel_size": 4, "dp_size": 1});
        check(json!({"num_workers": 3, "engine_args": one_engine}), Some(12));
        let by_sheet = json!({"gpu": "H100-SXM", "data_parallel_size": 4, "dp_size": 1, "latency": "roofline:host_us=0"});
        check(json!({"num_workers": 3, "engine_args": by_sheet}), Some(3));
        check(
            json!({
                "num_prefill_workers": 1, "prefill_engine_args": engine(1),
                "num_decode_workers": 5, "decode_engine_args": engine(2),
            }),
            Some(2 + 20),
        );
        let group = |workers: u32| json!({"workers": workers, "engine_args": engine(1)});
        check(json!({"pool": [group(2), {"group": [group(1), group(3)]}]}), Some(4 + 2 + 6));
        check(json!({"num_workers": 3, "engine_args": {"tensor_parallel_size": 4}}), None);
        check(json!({"pool": [group(2), {"workers": 1, "engine_args": {}}]}), None);
        check(json!({}), None);
    }

    #[test]
    fn a_head_says_what_was_run() {
        let workers = ("Workers", "1 aggregated + 1 prefill + 2 decode");
        check(
            json!({
                "engine_args": {
                    "engine_type": "vllm", "vllm_version": "0.33", "model": "a/b", "gpu": "H100-SXM",
                    "tensor_parallel_size": 2, "pipeline_parallel_size": 1, "dp_size": 2,
                },
                "router_mode": "round_robin", "arrival_speedup_ratio": 1.0,
            }),
            &[
                ("Model", "a/b"),
                ("GPUs", "4 H100-SXM for each worker"),
                workers,
                ("Router", "round robin"),
                ("Engine", "vLLM 0.33"),
                ("Load", "t.jsonl, 4 requests, open loop"),
            ],
        );
        let group = |gpu: &str| json!({"engine_args": {"engine_type": "sglang", "model": "a/b", "gpu": gpu}});
        check(
            json!({
                "pool": [{"role": "aggregated", "group": [group("H100-SXM"), group("L4"), group("L4")]}],
                "replay_concurrency": 32,
            }),
            &[
                ("Model", "a/b"),
                ("GPUs", "1 H100-SXM for each worker, 1 L4 for each worker"),
                workers,
                ("Engine", "SGLang"),
                ("Load", "t.jsonl, 4 requests, closed loop, 32 at a time"),
            ],
        );
        check(json!({"engine_args": {}}), &[workers, ("Load", "t.jsonl, 4 requests, open loop")]);
    }
}
