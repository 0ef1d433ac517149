//! The settings of a replay: one schema for flags, files and the environment.
//!
//! ```text
//!  defaults < --config FILE < SERVECAST_<KEY> < flags      each a JSON object with the keys of ReplayConfig
//!         └──────────── Layers ────────────┘ ── parse ──▶ ReplayConfig
//! ```
//!
//! The settings of the KV router are one key, `router_config`; flags and variables set those within it one by one.
//!
//! Every flag is a key, in `snake_case`, and its help is the description in the schema. [`Layers`] remembers where each
//! value came from, so that messages can say so.

mod engine;
mod keys;
mod layers;
mod not_yet;
mod pool;
mod router;
mod schema;
mod toml_file;
mod value;
mod vary;

use std::path::PathBuf;

use clap::ValueHint;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use servecast_cluster::RouterMode;
use servecast_engine::EngineArgs;
use servecast_router::KvRouterConfig;
use servecast_workload::{ArrivalProcess, LengthDistribution, TimeUnit, TraceFormat, Turns};

pub use engine::{EngineShortcuts, Engines, SglangShortcuts, Shortcut};
pub use keys::is_key;
pub use layers::{EXAMPLE, Layers, Origin};
pub use not_yet::refuse_value;
pub use pool::{GroupTable, PoolTable};
pub use router::{RouterFlags, RouterGiven, add_router};
pub use schema::{config_schema, with_defaults};
use value::boolean;
pub use value::settings;
pub use value::{choice, finite};
pub use vary::{DeploymentKind, Difference, Varied, combinations, described, varied};

/// How many tokens a hash id of a trace stands for, unless somebody says otherwise.
pub const DEFAULT_TRACE_BLOCK_SIZE: u32 = 512;

/// The root of all random numbers, unless somebody says otherwise.
pub const DEFAULT_SEED: u64 = 42;

/// How long a row of a streamed trace may come before one above it, in seconds, unless somebody says otherwise.
pub const DEFAULT_SORT_WINDOW_S: f64 = 1.0;

/// Settings of `servecast replay`.
#[derive(Debug, Clone, Default, PartialEq, clap::Args, Serialize, JsonSchema)]
pub struct ReplayConfig {
    /// What is replayed, and how fast.
    #[command(flatten)]
    #[serde(flatten)]
    pub trace: TraceConfig,
    /// A workload made to measure.
    #[command(flatten)]
    #[serde(flatten)]
    pub synthetic: SyntheticConfig,
    /// The workers.
    #[command(flatten)]
    #[serde(flatten)]
    pub deployment: DeploymentConfig,
    /// Engine settings of every pool.
    #[command(flatten)]
    #[serde(flatten)]
    pub engine: EngineShortcuts,
    /// Settings of SGLang.
    #[command(flatten)]
    #[serde(flatten)]
    pub sglang: SglangShortcuts,
    /// Limits that a request must keep to count towards goodput.
    #[command(flatten)]
    #[serde(flatten)]
    pub limits: LimitsConfig,
    /// Which requests figures are of.
    #[command(flatten)]
    #[serde(flatten)]
    pub measured: MeasuredConfig,
    /// Where results go.
    #[command(flatten)]
    #[serde(flatten)]
    pub output: OutputConfig,
    /// Several runs at once.
    #[command(flatten)]
    #[serde(flatten)]
    pub several: SeveralConfig,
}

/// What is replayed, and how fast.
#[derive(Debug, Clone, Default, PartialEq, clap::Args, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "Load")]
pub struct TraceConfig {
    /// Trace of any form, as docs/traces.md lists them; plain, gzip or Zstandard; `-` for standard input
    ///
    /// Without a trace and without the options of a synthetic workload, a built-in sample is replayed: on Llama-3.1-8B,
    /// one H100-SXM and vLLM 0.33, if nothing is said of model, GPU or engine.
    #[arg(value_name = "TRACE", value_hint = ValueHint::FilePath, help_heading = None::<&str>)]
    pub trace_file: Option<PathBuf>,
    /// Tokens that one hash id stands for; in a synthetic workload the block size of the engine by default
    #[arg(long, value_name = "TOKENS")]
    pub trace_block_size: Option<u32>,
    /// What the trace is, if its content is not to tell
    #[arg(long, value_name = "FORMAT", value_parser = choice::<TraceFormat>("trace_format", TRACE_FORMATS))]
    pub trace_format: Option<TraceFormat>,
    /// Unit of timestamps and delays; without it that of the format, or what they are beyond doubt
    #[arg(long, value_name = "UNIT", value_parser = choice::<TimeUnit>("time_unit", TIME_UNITS))]
    pub time_unit: Option<TimeUnit>,
    /// Columns of a table of requests, as `time=arrived,input=prompt_tokens,output=completion_tokens`
    ///
    /// Tables of Azure, BurstGPT, Vidur, BLIS and ServeGen need none. The first line of a table has the names of its
    /// columns; those of JSON objects are their keys, `usage.prompt_tokens` one within `usage`. `session=user` says which
    /// session a request is the next turn of.
    #[arg(long, value_name = "time=,input=,output=")]
    pub columns: Option<String>,
    /// What the rows of a session hold: the whole prompt of a turn, or what is new in it (delta)
    #[arg(long, value_name = "WHAT", value_parser = choice::<Turns>("turns", TURNS))]
    pub turns: Option<Turns>,
    /// Cut the texts of a trace by this tokenizer.json of a model, or the one in this folder; else a token is 4 characters
    #[arg(long, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub tokenizer: Option<PathBuf>,
    /// Divide arrival times and delays by this
    #[arg(long, value_name = "RATIO", value_parser = finite)]
    pub arrival_speedup_ratio: Option<f64>,
    /// Keep this many sessions under way at a time instead of following the arrival times
    #[arg(long, value_name = "SESSIONS")]
    pub replay_concurrency: Option<u32>,
    /// Begin the sessions that a closed loop starts with at one of their requests, drawn at random
    ///
    /// As if they had been under way before. What they had said until then is part of their prompts, and in no cache.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub warm_start: Option<bool>,
    /// Replay no more than the first N requests of the load, in the order of its lines
    ///
    /// Of a load that the options below have changed these are those of the first sessions, in order of arrival.
    #[arg(long, value_name = "N")]
    pub max_requests: Option<usize>,
    /// Send another trace at the same time (can be repeated)
    ///
    /// Times of each trace count from its first arrival, and prompts of different traces share nothing.
    #[arg(long, value_name = "TRACE", value_hint = ValueHint::FilePath)]
    pub merge: Option<Vec<PathBuf>>,
    /// Keep sessions that begin in this time, in seconds from the first arrival: `60..90`
    #[arg(long, value_name = "FROM..TO")]
    pub time_range: Option<String>,
    /// Keep this share of the sessions, drawn at random
    #[arg(long, value_name = "SHARE", value_parser = finite)]
    pub sample: Option<f64>,
    /// Send the load so often, one time after the other, with the same content
    #[arg(long, value_name = "N")]
    pub repeat: Option<u32>,
    /// Sessions that arrive in a second, in place of their times; a request without a session is one
    #[arg(long, value_name = "RATE", value_parser = finite)]
    pub request_rate: Option<f64>,
    /// Rate of arrivals over time, in place of their times: a TOML file of segments or states (docs/traces.md)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub rate_profile: Option<PathBuf>,
    /// Shape of the gaps between arrivals by a rate: 1 is a Poisson process, less has bursts, more is even [default: 1]
    #[arg(long, value_name = "SHAPE", value_parser = finite)]
    pub burstiness: Option<f64>,
    /// Clock of the replay: virtual time (offline), or that of the machine (online), by which it takes as long as it says
    #[arg(long, value_name = "MODE", value_parser = choice::<ReplayMode>("replay_mode", &["offline", "online"]))]
    pub replay_mode: Option<ReplayMode>,
    /// How many times as fast as the clock of the machine an online replay goes
    #[arg(long, value_name = "FACTOR", value_parser = finite)]
    pub speed: Option<f64>,
    /// Root of all random numbers
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

/// A workload made to measure.
#[derive(Debug, Clone, Default, PartialEq, clap::Args, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "Synthetic workload")]
pub struct SyntheticConfig {
    /// Prompt length, the mean if lengths vary
    #[arg(long, value_name = "TOKENS")]
    pub input_tokens: Option<u64>,
    /// Output length, the mean if lengths vary
    #[arg(long, value_name = "TOKENS")]
    pub output_tokens: Option<u64>,
    /// Number of requests; of sessions, if they have several turns
    #[arg(long, value_name = "N")]
    pub request_count: Option<u64>,
    /// Time between arrivals, the mean if they are random; 0 sends all at once
    #[arg(long, value_name = "MS", value_parser = finite)]
    pub arrival_interval_ms: Option<f64>,
    /// Spacing of arrivals
    #[arg(long, value_name = "PROCESS", value_parser = choice::<ArrivalProcess>("arrival_process", &["constant", "poisson"]))]
    pub arrival_process: Option<ArrivalProcess>,
    /// Requests per session, each sent after the one before it completes
    #[arg(long, value_name = "N")]
    pub turns_per_session: Option<u64>,
    /// Pause between a turn and the next of its session
    #[arg(long, value_name = "MS", value_parser = finite)]
    pub inter_turn_delay_ms: Option<f64>,
    /// Share of the blocks of a prompt that its prefix group has in common, from 0 to 1
    #[arg(long, value_name = "SHARE", value_parser = finite)]
    pub shared_prefix_ratio: Option<f64>,
    /// Number of prefix groups; a session joins one at random
    #[arg(long, value_name = "N")]
    pub num_prefix_groups: Option<u64>,
    /// How lengths vary from request to request
    #[arg(long, value_name = "LAW", value_parser = choice::<LengthDistribution>("length_distribution", &["constant", "uniform", "lognormal"]))]
    pub length_distribution: Option<LengthDistribution>,
    /// How far lengths vary: half the range over the mean (uniform), standard deviation over the mean (lognormal)
    #[arg(long, value_name = "SPREAD", value_parser = finite)]
    pub length_spread: Option<f64>,
}

/// The workers.
#[derive(Debug, Clone, Default, PartialEq, clap::Args, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "Deployment")]
pub struct DeploymentConfig {
    /// Workers of an aggregated deployment
    #[arg(long, visible_alias = "workers", value_name = "N")]
    pub num_workers: Option<u32>,
    /// Prefill workers of a disaggregated deployment, together with --num-decode-workers
    #[arg(long, visible_alias = "prefill-workers", value_name = "N")]
    pub num_prefill_workers: Option<u32>,
    /// Decode workers of a disaggregated deployment, together with --num-prefill-workers
    #[arg(long, visible_alias = "decode-workers", value_name = "N")]
    pub num_decode_workers: Option<u32>,
    /// How requests are spread over the workers of a pool
    #[arg(long, value_name = "MODE", value_parser = choice::<RouterMode>("router_mode", ROUTER_MODES))]
    pub router_mode: Option<RouterMode>,
    /// Blocks of a prompt that the router mode `prefix_hash` goes by
    #[arg(long, value_name = "N")]
    pub prefix_hash_blocks: Option<u32>,
    /// Send each request of a session to the worker that had the one before, for as long as no more than this lies between
    /// the two
    ///
    /// With any router mode; the first request of a session goes where that sends it, as do those whose worker serves no
    /// more. In a disaggregated deployment it holds for the prefill pool.
    #[arg(long, value_name = "SECONDS", value_parser = finite)]
    pub router_session_affinity_ttl_secs: Option<f64>,
    /// Settings of the KV router, a JSON object or @FILE.json
    ///
    /// They go key by key over those of the configuration file and of the environment.
    #[arg(long, value_name = "JSON", value_parser = settings, help_heading = KV_ROUTER)]
    #[schemars(with = "Option<KvRouterConfig>")]
    pub router_config: Option<Map<String, Value>>,
    /// How long after an iteration its KV events reach the KV router
    #[arg(long, value_name = "MS", value_parser = finite, help_heading = KV_ROUTER)]
    pub kv_event_delay_ms: Option<f64>,
    /// Engine settings of aggregated workers, a JSON object or @FILE.json
    ///
    /// Here and in the two options below, settings go key by key over those of the configuration file.
    #[arg(long = "extra-engine-args", visible_alias = "engine-args", value_name = "JSON", value_parser = settings)]
    #[schemars(with = "Option<EngineArgs>")]
    pub engine_args: Option<Map<String, Value>>,
    /// Engine settings of prefill workers, a JSON object or @FILE.json
    #[arg(long, value_name = "JSON", value_parser = settings)]
    #[schemars(with = "Option<EngineArgs>")]
    pub prefill_engine_args: Option<Map<String, Value>>,
    /// Engine settings of decode workers, a JSON object or @FILE.json
    #[arg(long, value_name = "JSON", value_parser = settings)]
    #[schemars(with = "Option<EngineArgs>")]
    pub decode_engine_args: Option<Map<String, Value>>,
    /// Pools as tables, in place of the numbers of workers and engine settings above: one aggregated pool, or a prefill
    /// and a decode pool, each of workers of one kind or of several
    #[arg(skip)]
    pub pool: Option<Vec<PoolTable>>,
}

/// The units of time that can be chosen.
pub const TIME_UNITS: &[&str] = &["s", "ms", "us", "ns"];

/// The forms of traces that can be named.
pub const TRACE_FORMATS: &[&str] = &[
    "mooncake",
    "table",
    "vllm_bench",
    "sglang_bench",
    "aiperf",
    "guidellm",
    "weka",
    "dynamo",
    "otel",
    "sharegpt",
    "text",
    "sub_requests",
    "turn_lengths",
];

/// What rows of sessions can hold.
pub const TURNS: &[&str] = &["whole", "delta"];

/// The router modes that can be chosen.
const ROUTER_MODES: &[&str] =
    &["round_robin", "random", "least_loaded", "power_of_two", "prefix_hash", "kv_router"];

/// Heading of the flags that are for `--router-mode kv_router` only.
const KV_ROUTER: &str = "KV router";

/// Limits that a request must keep to count towards goodput.
#[derive(Debug, Clone, Default, PartialEq, clap::Args, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "Goodput")]
pub struct LimitsConfig {
    /// Count requests whose first token comes within this
    #[arg(long, value_name = "MS", value_parser = finite)]
    pub sla_ttft_ms: Option<f64>,
    /// Count requests whose mean gap between tokens (time per output token) is within this
    #[arg(long, visible_alias = "sla-itl-ms", value_name = "MS", value_parser = finite)]
    pub sla_tpot_ms: Option<f64>,
    /// Count requests that complete within this
    #[arg(long, value_name = "MS", value_parser = finite)]
    pub sla_e2e_ms: Option<f64>,
    /// Say which share of all gaps between tokens, of all requests together, is within this
    #[arg(long, value_name = "MS", value_parser = finite)]
    pub sla_pooled_itl_ms: Option<f64>,
    /// Say whether the run keeps an objective over all requests that arrived, and by how much (can be repeated)
    ///
    /// 'p95 ttft <= 1s' with ttft, tpot (per request), itl (all gaps) or e2e, p0 to p100, mean or max, and us, ms, s or
    /// m; or 'goodput >= 99% (ttft <= 2s, tpot <= 50ms)'. --fail-if slo makes the exit status 3 if one is missed.
    #[arg(long, value_name = "OBJECTIVE")]
    pub slo: Option<Vec<String>>,
}

/// Which requests figures are of.
#[derive(Debug, Clone, Default, PartialEq, clap::Args, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "Figures")]
pub struct MeasuredConfig {
    /// Leave the first requests out of all figures: by time (60s), by number (100), or up to a steady state (auto)
    ///
    /// They are served all the same. A time counts from the first arrival and has a unit: ms, s, m or h. `auto` finds the
    /// steady state of the TTFT by MSER-5.
    #[arg(long, value_name = "TIME|N|auto")]
    pub warmup: Option<String>,
    /// Leave the last requests out of all figures: by time up to the last arrival (60s), or by number (100)
    #[arg(long, value_name = "TIME|N")]
    pub cooldown: Option<String>,
    /// Count requests that were not served as infinite in latencies, as --slo does in any case
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub count_rejected: Option<bool>,
}

/// What is written, and where.
#[derive(Debug, Clone, Default, PartialEq, clap::Args, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "Output")]
pub struct OutputConfig {
    /// What is printed: a table, the report as JSON, or for CI Markdown, or what came of --fail-if as JUnit XML
    #[arg(long, value_name = "FORMAT", value_enum)]
    pub format: Option<ReportFormat>,
    /// Write the report as JSON; this file and those below are packed if named .gz or .zst
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub report_json: Option<PathBuf>,
    /// Write a JSON line a request
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub requests_jsonl: Option<PathBuf>,
    /// Write a JSON line an engine iteration
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub iterations_jsonl: Option<PathBuf>,
    /// Write a JSON line a decision of the KV router
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub routing_jsonl: Option<PathBuf>,
    /// Write a trace of the requests as an online replay sent them, from which `replay` repeats it offline
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub log_arrivals: Option<PathBuf>,
    /// Say what is wrong with the run, if anything is, and what to change [default: if a table is printed]
    ///
    /// It takes some part of the time of the run, up to a third if prompts share much.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub diagnosis: Option<bool>,
    /// Run what would test the first findings of the diagnosis, up to three runs, and say what changes
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub diagnose: Option<bool>,
    /// Write a page with charts, for a browser: one file that loads nothing from elsewhere
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub report_html: Option<PathBuf>,
    /// Write a timeline of workers and requests, for ui.perfetto.dev
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub timeline: Option<PathBuf>,
    /// Part of the run that the timeline shows, in seconds of its clock: `60..90`
    #[arg(long, value_name = "FROM..TO")]
    pub timeline_window: Option<String>,
    /// Show one request in N on the timeline, and N slices of a worker as one; for long runs
    #[arg(long, value_name = "N")]
    pub timeline_sample: Option<u32>,
    /// Write the result as another tool does: aiperf, aiperf-records, vllm-bench, sglang-bench or csv (can be repeated)
    #[arg(long, value_name = "FORMAT=FILE")]
    pub export: Option<Vec<String>>,
    /// Exit with status 3 on a condition: `slo`, if an objective of --slo is missed, or a limit of a figure of the report, as
    /// in `p99_ttft_ms>2000` or, of a class of requests, `classes.chat.p99_ttft_ms>2000` (can be repeated)
    #[arg(long, value_name = "CONDITION")]
    pub fail_if: Option<Vec<String>>,
    /// Write report.json, requests.jsonl, report.html, and config.toml, which repeats the run with --config
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub output_dir: Option<PathBuf>,
    /// Replace the files of --output-dir that are there
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub overwrite: Option<bool>,
    /// Use the trace as it is read: memory goes with requests under way and cached blocks, not with the trace
    ///
    /// Percentiles of latencies are within 0.1 % then. Rows of a trace that is streamed are in order of their times, with
    /// --sort-window of slack, and have no sessions. What needs all of the run at its end is refused.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean, help_heading = "Load")]
    pub stream: Option<bool>,
    /// How long a row of a trace that is streamed may come before one above it, in seconds of its times [default: 1]
    #[arg(long, value_name = "SECONDS", value_parser = finite, help_heading = "Load")]
    pub sort_window: Option<f64>,
    /// Show no progress and no notes
    #[arg(long, short, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub quiet: Option<bool>,
    /// Check the invariants of the simulation along the way
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub check: Option<bool>,
    /// Decide every iteration request by request: slower, with the same results
    #[arg(long, hide = true, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", value_parser = boolean)]
    pub plain: Option<bool>,
}

impl OutputConfig {
    /// Whether a page is written.
    pub fn has_page(&self) -> bool {
        self.report_html.is_some() || self.output_dir.is_some()
    }

    /// The key of a setting that names a result of a replay, if there is one.
    pub fn result(&self) -> Option<String> {
        let results = Self { check: None, quiet: None, plain: None, ..self.clone() };
        let results = serde_json::to_value(results).ok()?;
        let named = results.as_object().into_iter().flatten().find(|(_, value)| !value.is_null());
        named.map(|(key, _)| key.clone())
    }

    /// Whether the command line says what is wrong with a run: if it is asked to, or prints for somebody who reads.
    pub fn has_diagnosis(&self) -> bool {
        let is_read = matches!(self.format.unwrap_or_default(), ReportFormat::Table | ReportFormat::Markdown);
        self.diagnosis.unwrap_or(is_read || self.diagnoses())
    }

    /// Whether the report of a program says so: if it is asked to.
    pub fn asks_for_diagnosis(&self) -> bool {
        self.diagnosis.unwrap_or(self.diagnoses())
    }

    /// Whether runs are made that test what a diagnosis finds.
    pub fn diagnoses(&self) -> bool {
        self.diagnose == Some(true)
    }
}

/// Several runs at once.
#[derive(Debug, Clone, Default, PartialEq, clap::Args, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "Several runs")]
pub struct SeveralConfig {
    /// Run once for each of these values of a setting; with several settings, once for each combination
    ///
    /// A key is one of the configuration file, or one within another: `num_workers=4,8`,
    /// `engine_args.max_num_seqs=128,256`; `num_workers=1..16` is all from 1 to 16. Commas within quotes and brackets are part of a value.
    /// If workers of both kinds are varied, aggregated and disaggregated deployments are tried, one kind after the other.
    #[arg(long, value_name = "KEY=VALUE,...")]
    pub vary: Option<Vec<String>>,
    /// Most runs at a time; without it one for each core
    #[arg(long, value_name = "N")]
    pub threads: Option<u32>,
}

/// Which clock drives a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReplayMode {
    /// Virtual time, as fast as it can be computed.
    Offline,
    /// The clock of the machine.
    Online,
}

/// How a result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// A table for people.
    #[default]
    Table,
    /// JSON for programs.
    Json,
}

/// How a result is printed that a CI system may show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReportFormat {
    /// A table for people.
    #[default]
    #[value(alias = "text")]
    Table,
    /// JSON for programs.
    Json,
    /// Markdown for a comment of a pull request, or the summary of a job.
    Markdown,
    /// JUnit XML, with a test case for everything that `fail_if` checks.
    Junit,
}
