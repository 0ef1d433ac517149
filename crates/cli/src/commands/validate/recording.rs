//! A recorded run of a real engine: its settings, its requests, and what became of them.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};
use servecast_calibrate::{RequestRow as MeasuredRow, RequestTimes};
use servecast_latency::CapacitySetup;
use servecast_types::{Prompt, Run, Time, message};
use servecast_workload::{Session, Turn, TurnStart, Workload};

use crate::error::Failure;
use crate::files;
use crate::latency::{ProfileSettings, text};

/// A recorded run.
pub(in crate::commands) struct Recording {
    pub(super) model: String,
    pub(super) engine_version: String,
    /// The preset of the engine's release.
    pub(in crate::commands) preset: &'static str,
    /// What the recording says of the engine.
    pub(in crate::commands) settings: Map<String, Value>,
    pub(in crate::commands) workers: u32,
    /// What it does not say.
    pub(in crate::commands) assumptions: Vec<String>,
    /// By line of the workload.
    pub(super) requests: Vec<Recorded>,
    /// What another simulator came to.
    pub(super) other: Option<String>,
}

/// A request of a recorded run.
pub(super) struct Recorded {
    prompt: Prompt,
    pub(super) times: Times,
}

/// When things happened to a request, in seconds on one clock.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    pub(super) queued: f64,
    first: f64,
    pub(super) last: f64,
    pub(super) output_tokens: u32,
}

impl Times {
    pub(super) fn new(queued: f64, first: f64, last: f64, output_tokens: u32) -> Self {
        Self { queued, first, last, output_tokens }
    }

    /// TTFT, TPOT or E2E in ms; a single token has no TPOT.
    pub(super) fn get(&self, index: usize) -> Option<f64> {
        match index {
            0 => Some((self.first - self.queued) * 1e3),
            1 if self.output_tokens < 2 => None,
            1 => Some((self.last - self.first) * 1e3 / f64::from(self.output_tokens - 1)),
            _ => Some((self.last - self.queued) * 1e3),
        }
    }
}

#[derive(Deserialize)]
struct WorkloadRow {
    input_toks: u32,
    #[serde(default)]
    input_tok_ids: Vec<u32>,
}

#[derive(Deserialize)]
struct RequestRow {
    request_id: String,
    output_toks: u32,
    queued_ts: f64,
    first_token_ts: f64,
    last_token_ts: f64,
}

impl Recording {
    /// Reads the folder of a recorded run. `num_gpu_blocks` counts in place of what it states or lets be worked out;
    /// `hint` says how the user states it.
    pub(in crate::commands) fn read(
        folder: &Path,
        num_gpu_blocks: Option<u32>,
        hint: &str,
    ) -> Result<Self, Failure> {
        let meta_path = folder.join("meta.json");
        let meta: Value = serde_json::from_str(&files::read_text(&meta_path)?)
            .map_err(|error| Failure::input(&error).about(meta_path.display().to_string()))?;
        let refused = |problem: &str| Failure::user(problem).about(meta_path.display().to_string());
        let name = |key: &str| meta.get(key).and_then(Value::as_str).map(str::to_owned);
        let engine_version = name("vllm_version").ok_or_else(|| refused("`vllm_version` is missing"))?;
        let preset = preset(&engine_version).ok_or_else(|| {
            refused(&format!("`vllm_version` is `{engine_version}`, but must be 0.14 or later"))
        })?;
        let mut assumptions = Vec::new();
        let mut settings = settings(&meta);
        let (workers, ranks) = parallel(&meta).map_err(|problem| refused(&problem))?;
        if ranks > 1 {
            settings.insert("dp_size".to_owned(), ranks.into());
        }
        if let Some(blocks) = num_gpu_blocks {
            let recorded = settings.insert("num_gpu_blocks".to_owned(), blocks.into());
            if let Some(recorded) = recorded.filter(|recorded| *recorded != blocks) {
                assumptions.push(format!("num_gpu_blocks {blocks} in place of the recorded {recorded}"));
            }
        } else if !settings.contains_key("num_gpu_blocks") {
            let blocks =
                estimated_blocks(folder, &meta, &settings).map_err(|failure| failure.with_hint(hint))?;
            assumptions.push(format!("num_gpu_blocks {blocks}, from the memory of the GPU and the weights"));
            settings.insert("num_gpu_blocks".to_owned(), blocks.into());
        }
        let (requests, without_ids) = requests(folder)?;
        if without_ids > 0 {
            assumptions
                .push(format!("no shared prefixes for the {without_ids} requests without `input_tok_ids`"));
        }
        let other = folder.join("lss_validation_summary.txt");
        Ok(Self {
            model: name("model").unwrap_or_default(),
            engine_version,
            preset,
            settings,
            workers,
            assumptions,
            requests,
            other: if other.exists() { Some(text(&other)?) } else { None },
        })
    }

    /// The requests as rows to calibrate by.
    pub(in crate::commands) fn rows(&self) -> Vec<MeasuredRow> {
        let row = |(request, line): (&Recorded, u64)| {
            let times = request.times;
            let since_ms = |at: f64| (at - times.queued) * 1e3;
            MeasuredRow {
                line,
                arrival_s: times.queued,
                input_tokens: request.prompt.tokens(),
                output_tokens: times.output_tokens,
                prompt: Some(request.prompt.clone()),
                times: Some(RequestTimes { ttft_ms: since_ms(times.first), e2e_ms: since_ms(times.last) }),
                ..MeasuredRow::default()
            }
        };
        self.requests.iter().zip(1..).map(row).collect()
    }

    /// The requests as the engine got them: each when it was queued, from the first one on.
    pub(super) fn workload(&self) -> Workload {
        let first = self.requests.iter().map(|request| request.times.queued).fold(f64::INFINITY, f64::min);
        let session = |(request, line): (&Recorded, u64)| {
            let start = Time::from_ns(((request.times.queued - first) * 1e9).round() as u64);
            let turn = Turn {
                line,
                start: TurnStart::At(start),
                prompt: request.prompt.clone(),
                output_tokens: request.times.output_tokens,
                priority: 0,
                stop_after: None,
                output: None,
                class: None,
                lora: None,
                grammar: None,
            };
            Session { turns: std::iter::once(turn).collect(), ..Session::default() }
        };
        Workload { sessions: self.requests.iter().zip(1..).map(session).collect(), ..Workload::default() }
    }
}

/// Workers, and the data-parallel ranks of each: where experts are shared out over them, they compute each pass together;
/// otherwise they have nothing to do with each other.
fn parallel(meta: &Value) -> Result<(u32, u32), String> {
    let stated = |key: &str| {
        let stated = meta.pointer(&format!("/engine_kwargs/{key}")).or_else(|| meta.get(key));
        stated.filter(|value| !value.is_null())
    };
    let size = stated("data_parallel_size").map_or(Ok(1), |size| {
        let whole = size.as_u64().filter(|size| (1..=1024).contains(size));
        whole.map(|size| size as u32).ok_or_else(|| {
            format!("`data_parallel_size` is {size}, but must be a whole number from 1 to 1024")
        })
    })?;
    let shares = stated("enable_expert_parallel").and_then(Value::as_bool).unwrap_or(false);
    Ok(if shares { (1, size) } else { (size, 1) })
}

/// The preset of the newest release that is not newer than the engine's.
pub(super) fn preset(version: &str) -> Option<&'static str> {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().ok());
    let (major, minor) = (parts.next()??, parts.next()??);
    let known = [
        (33, "vllm-0.33"),
        (32, "vllm-0.32"),
        (28, "vllm-0.28"),
        (24, "vllm-0.24"),
        (19, "vllm-0.19"),
        (14, "vllm-0.14"),
    ];
    known.into_iter().find(|&(known, _)| (major, minor) >= (0, known)).map(|(_, preset)| preset)
}

/// The settings of the engine in `meta.json`: what it was resolved to, over what it was started with.
fn settings(meta: &Value) -> Map<String, Value> {
    let places = [
        ("max_num_seqs", ["/resolved_config/scheduler_config/max_num_seqs", "/engine_kwargs/max_num_seqs"]),
        (
            "max_num_batched_tokens",
            [
                "/resolved_config/scheduler_config/max_num_batched_tokens",
                "/engine_kwargs/max_num_batched_tokens",
            ],
        ),
        ("max_model_len", ["/resolved_config/model_config/max_model_len", "/engine_kwargs/max_model_len"]),
        ("num_gpu_blocks", ["/kv_cache/num_gpu_blocks", "/resolved_config/cache_config/num_gpu_blocks"]),
        ("block_size", ["/kv_cache/block_size", "/engine_kwargs/block_size"]),
        (
            "enable_prefix_caching",
            ["/kv_cache/enable_prefix_caching", "/engine_kwargs/enable_prefix_caching"],
        ),
        (
            "enable_chunked_prefill",
            [
                "/resolved_config/scheduler_config/enable_chunked_prefill",
                "/engine_kwargs/enable_chunked_prefill",
            ],
        ),
        (
            "async_scheduling",
            ["/resolved_config/scheduler_config/async_scheduling", "/engine_kwargs/async_scheduling"],
        ),
    ];
    let mut settings = Map::new();
    for (key, pointers) in places {
        let stated =
            pointers.iter().filter_map(|pointer| meta.pointer(pointer)).find(|value| !value.is_null());
        if let Some(value) = stated {
            settings.insert(key.to_owned(), value.clone());
        }
    }
    settings
}

/// KV blocks that fit the GPU beside the weights, where the recording states its memory.
fn estimated_blocks(folder: &Path, meta: &Value, settings: &Map<String, Value>) -> Result<u64, Failure> {
    let unrecorded = |failure: Failure| {
        failure.with_message(|problem| {
            message!("{}: `num_gpu_blocks` is not recorded, and {}", folder.display().to_string(), problem)
        })
    };
    let unknown = |problem: &str| unrecorded(Failure::user(problem));
    let cluster = folder.join("lss_cluster_config.json");
    let of_cluster = if cluster.exists() {
        let cluster: Value = serde_json::from_str(&text(&cluster)?).unwrap_or_default();
        cluster.pointer("/nodes/0/instances/0/npu_mem/mem_size").and_then(Value::as_f64).map(|gb| gb * 1e9)
    } else {
        None
    };
    let stated = meta.pointer("/hardware/device_total_memory_bytes").and_then(Value::as_f64);
    let memory = stated.or(of_cluster).ok_or_else(|| unknown("neither is the memory of the GPU"))?;
    let utilisation = ["/kv_cache/gpu_memory_utilization", "/engine_kwargs/gpu_memory_utilization"];
    let utilisation = utilisation.iter().find_map(|pointer| meta.pointer(pointer)?.as_f64()).unwrap_or(0.9);
    let profile = ProfileSettings::of(folder, "")?;
    let mut deployed = profile.deployed.clone();
    deployed.memory_bytes = Some(memory);
    let setup = deployed.capacity_setup(profile.shape()?)?.ok_or_else(|| unknown("no memory is known"))?;
    let ranks = profile.ranks;
    let number = |key: &str| settings.get(key).and_then(Value::as_u64).map(|number| number as u32);
    let setup = CapacitySetup {
        gpu_memory_utilization: utilisation,
        block_size: number("block_size").unwrap_or(setup.block_size),
        tensor_parallel_size: setup.tensor_parallel_size * ranks,
        attention_ranks: ranks,
        max_num_batched_tokens: number("max_num_batched_tokens").unwrap_or(setup.max_num_batched_tokens)
            * ranks,
        max_num_seqs: number("max_num_seqs").unwrap_or(setup.max_num_seqs) * ranks,
        ..setup
    };
    setup
        .capacity()
        .map(|capacity| capacity.num_gpu_blocks / u64::from(ranks))
        .map_err(|error| unrecorded(Failure::input(&error)))
}

/// The requests of the workload with what the engine recorded of each.
///
/// Also says how many of them have no token ids.
fn requests(folder: &Path) -> Result<(Vec<Recorded>, usize), Failure> {
    let workload = ["workload.jsonl", "workload.jsonl.gz"].map(|name| folder.join(name));
    let workload = workload.into_iter().find(|path| path.exists()).ok_or_else(|| {
        Failure::user(format!("{}: there is no workload.jsonl or workload.jsonl.gz", folder.display()))
    })?;
    let recorded_path = folder.join("requests.jsonl");
    let mut recorded = BTreeMap::new();
    for (line, row) in rows::<RequestRow>(&recorded_path)? {
        let number = row.request_id.strip_prefix("bench-").and_then(|number| number.parse::<usize>().ok());
        let wrong = |problem: &str| Failure::user(problem).at_line(&recorded_path, line);
        let number = number.ok_or_else(|| {
            wrong(&format!("`request_id` is `{}`, but must be bench-K with a line K from 0", row.request_id))
        })?;
        let ordered = row.queued_ts <= row.first_token_ts && row.first_token_ts <= row.last_token_ts;
        if !ordered {
            return Err(wrong("`queued_ts`, `first_token_ts` and `last_token_ts` must not decrease"));
        }
        recorded.insert(number, row);
    }
    let (mut requests, mut without_ids) = (Vec::new(), 0);
    for (index, (line, row)) in rows::<WorkloadRow>(&workload)?.into_iter().enumerate() {
        let wrong = |problem: &str| Failure::user(problem).at_line(&workload, line);
        let found =
            recorded.get(&index).ok_or_else(|| wrong(&format!("requests.jsonl has no row bench-{index}")))?;
        let given = row.input_tok_ids.len();
        if given != 0 && given != row.input_toks as usize {
            return Err(wrong(&format!(
                "`input_toks` is {}, but `input_tok_ids` has {given} ids",
                row.input_toks
            )));
        }
        if row.input_toks == 0 || found.output_toks == 0 {
            return Err(wrong("a request needs at least one token of input and one of output"));
        }
        without_ids += usize::from(given == 0);
        let prompt = if given == 0 {
            // Without ids nothing is shared: each prompt has a range of its own.
            Prompt::new([Run::unique(index as u32, row.input_toks)])
        } else {
            Prompt::new(row.input_tok_ids.iter().map(|&id| Run::tokens(id, 1)))
        };
        let times = Times::new(found.queued_ts, found.first_token_ts, found.last_token_ts, found.output_toks);
        requests.push(Recorded { prompt, times });
    }
    if requests.is_empty() {
        return Err(Failure::user(format!("{}: there are no requests", workload.display())));
    }
    Ok((requests, without_ids))
}

/// The rows of a file of JSON lines, with their numbers.
fn rows<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Vec<(u64, T)>, Failure> {
    let text = text(path)?;
    let lines = text.lines().zip(1..).filter(|(line, _)| !line.trim().is_empty());
    lines
        .map(|(line, number)| {
            serde_json::from_str(line)
                .map(|row| (number, row))
                .map_err(|error| Failure::input(&error).at_line(path, number))
        })
        .collect()
}
