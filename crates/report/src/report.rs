//! The report: every figure of a run in one flat, versioned JSON object.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use servecast_latency::ErrorBar;

use crate::diagnosis::Finding;
use crate::field::flat_object;
use crate::measured::Measured;
use crate::part::Figures;
use crate::pool::PoolReport;
use crate::saturation::Overload;
use crate::sessions::SessionFigures;
use crate::sla::Sla;
use crate::slo::SloOutcome;
use crate::stats::Stats;
use crate::window::MeasuredPart;

/// JSON Schema of [`Report`], as text.
pub const REPORT_SCHEMA: &str = include_str!("../schema/report.schema.json");

/// The figures that a report may have: its keys whose values are numbers, as the schema says.
pub fn report_figures() -> Vec<String> {
    let schema: Value = serde_json::from_str(REPORT_SCHEMA).unwrap_or_default();
    let is_number = |of: &Value| {
        let types: Vec<&Value> =
            of["type"].as_array().map_or(vec![&of["type"]], |types| types.iter().collect());
        types.iter().any(|name| **name == "number" || **name == "integer")
    };
    let properties = schema["properties"].as_object().into_iter().flatten();
    let figures = properties.filter(|(key, of)| is_number(of) && !key.starts_with("wall_") && *key != "seed");
    figures.map(|(key, _)| key.clone()).collect()
}

/// Version of the report's keys. Keys may be added within a version; none changes its meaning or goes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub enum SchemaVersion {
    /// The only version so far.
    #[default]
    #[serde(rename = "1")]
    V1,
}

/// Counts by name, in the order of the names.
pub type Counts = BTreeMap<String, u64>;

/// Settings by key, as in a configuration file; those of engines and routers are objects.
pub type Settings = BTreeMap<String, Value>;

flat_object! {
    /// What a run came to.
    ///
    /// The JSON form is one flat object with a key a field, except that a [`Stats`] called `x` is the nine
    /// keys `mean_x`, `min_x`, `max_x`, `median_x`, `p75_x`, `p90_x`, `p95_x`, `p99_x` and `std_x`, and that
    /// a field which is `None` has no key. Times are of the simulated clock unless a key starts with `wall_`.
    ///
    /// A figure of which the run has no sample is null: every latency of a run that served nobody, rates and shares
    /// of a run without a token. *Completed* requests are those served to the end; *duration* below is
    /// `duration_ms / 1000`.
    ///
    /// With a warm-up or a cool-down (`measured`), all of it is over the requests that are measured, but for what pools did
    /// (`pools`, `total_preemptions`, `total_iterations`, `spec_decode_…`, `latency_extrapolated_ratio`), `sessions` and `overload`,
    /// which are of the whole run: a pass serves whoever is there.
    #[derive(Debug, Clone, PartialEq)]
    pub struct Report {
        /// Version of the keys of this object.
        pub schema_version: SchemaVersion,
        /// The release of servecast that made the report.
        pub servecast_version: Option<String>,
        /// What was replayed: the name of the trace's file, or that it was made.
        pub workload_name: Option<String>,
        /// Hash of what was replayed, 16 hexadecimal digits: XXH3-64 of the parsed sessions as they were sent, with
        /// their times (after `arrival_speedup_ratio`), prompts, output lengths and priorities. Equal for equal
        /// workloads on any machine, whatever the file is called and however it is packed.
        pub workload_hash: Option<String>,
        /// Root of all random numbers.
        pub seed: Option<u64>,
        /// Every setting that the run depends on, defaults included, by the keys of a configuration file; files by
        /// their names without folders, and without `trace_file`.
        pub settings: Option<Settings>,
        /// Which requests the figures are of (`warmup`, `cooldown`); absent where they are of all.
        pub measured: Option<MeasuredPart>,
        /// Requests that arrived.
        pub num_requests: u64,
        /// Requests served to the end.
        pub completed_requests: u64,
        /// Requests turned away or given up.
        pub rejected_requests: u64,
        /// Rejected requests by reason; reasons that did not occur have no entry.
        pub rejected_by_reason: Counts,
        /// Requests that their clients took back, as those under way when an online replay is ended; absent when there
        /// were none.
        pub withdrawn_requests: Option<u64>,
        /// Requests that were not served and count as infinite in `ttft_ms`, `e2e_latency_ms`, `queue_time_ms`, and, if they
        /// asked for two tokens or more, in `ttst_ms` and `tpot_ms` (`count_rejected`): statistics that are infinite for it are
        /// null. Absent without that.
        pub counted_as_infinite: Option<u64>,
        /// Prompt tokens of completed requests.
        pub total_input_tokens: u64,
        /// Tokens produced for completed requests.
        pub total_output_tokens: u64,
        /// Prompt tokens of rejected requests.
        pub rejected_input_tokens: u64,
        /// Tokens produced for rejected requests before they were given up.
        pub rejected_output_tokens: u64,
        /// From the first arrival to the last token of any request, in ms; null without a token.
        pub duration_ms: Measured,
        /// What the simulation itself took, in ms of real time.
        pub wall_time_ms: f64,
        /// How many times as fast as the clock of the machine the run went; absent but for online replays.
        pub wall_speed: Option<f64>,
        /// How late instants at which something happened were handled, in ms of real time, the median; absent but for
        /// online replays.
        pub wall_lateness_p50_ms: Option<f64>,
        /// The same, 99th percentile.
        pub wall_lateness_p99_ms: Option<f64>,
        /// The same, the largest.
        pub wall_lateness_max_ms: Option<f64>,
        /// Completed requests a second: `completed_requests` / duration.
        pub request_throughput_rps: Measured,
        /// Prompt tokens of completed requests a second: `total_input_tokens` / duration.
        pub input_throughput_tok_s: Measured,
        /// Tokens produced for completed requests a second: `total_output_tokens` / duration.
        pub output_throughput_tok_s: Measured,
        /// Sum of input and output throughput, in tokens a second.
        pub total_throughput_tok_s: Measured,
        /// Share of the prompt tokens of completed requests, from 0 to 1, that their first admission in the
        /// first stage found in the prefix cache; null without completed requests.
        pub prefix_cache_reused_ratio: Measured,
        /// Of `prefix_cache_reused_ratio`, the share that was in the memory of the GPUs; absent, as the one below, without
        /// KV offload.
        pub gpu_cache_reused_ratio: Option<f64>,
        /// Of `prefix_cache_reused_ratio`, the share that was loaded from the memory of the host.
        pub host_cache_reused_ratio: Option<f64>,
        /// Time to first token, in ms: from arrival to the first token, one sample a completed request.
        pub ttft_ms: Measured<Stats>,
        /// Time to second token, in ms: from the first to the second token, one sample a completed request
        /// with two tokens or more.
        pub ttst_ms: Measured<Stats>,
        /// Time per output token, in ms: (last token - first token) / (tokens - 1), one sample a completed
        /// request with two tokens or more.
        pub tpot_ms: Measured<Stats>,
        /// Inter-token latency, in ms: every gap between consecutive tokens of a request, pooled over all
        /// requests.
        pub itl_ms: Measured<Stats>,
        /// Largest relative error of the percentiles of `itl_ms` and `output_token_throughput_per_user`: 0 while every
        /// distinct gap is counted by itself, up to 65,536 of them. Mean, minimum and maximum of `itl_ms` are exact in any case.
        pub itl_relative_error: f64,
        /// Request latency, in ms: from arrival to the last token, one sample a completed request.
        pub e2e_latency_ms: Measured<Stats>,
        /// Token rate that a user sees, in tokens a second: 1000 / gap in ms for every positive gap of
        /// `itl_ms`.
        pub output_token_throughput_per_user: Measured<Stats>,
        /// Queue time, in ms: from arrival to the start of the first iteration that computed something for
        /// the request, one sample a completed request.
        pub queue_time_ms: Measured<Stats>,
        /// Largest relative error of the percentiles, medians among them, of `ttft_ms`, `ttst_ms`, `tpot_ms`,
        /// `e2e_latency_ms` and `queue_time_ms`, where samples are counted by length (`stream`); means, minima and maxima are
        /// exact in any case. Absent where percentiles are exact, too.
        pub percentile_relative_error: Option<f64>,
        /// How often a request lost its KV blocks to others, over all pools.
        pub total_preemptions: u64,
        /// Engine iterations over all pools.
        pub total_iterations: u64,
        /// Times that drafts of a request were verified, over all pools; absent, as those below, without speculative
        /// decoding.
        pub spec_decode_num_drafts: Option<u64>,
        /// Tokens that were proposed and verified.
        pub spec_decode_num_draft_tokens: Option<u64>,
        /// How many of them were accepted.
        pub spec_decode_num_accepted_tokens: Option<u64>,
        /// Share of the proposed tokens that was accepted, from 0 to 1.
        pub spec_decode_acceptance_rate: Option<f64>,
        /// Tokens that a verification gave in the mean, the model's own among them: 1 + accepted tokens / verifications.
        /// What a request has no room for at its end counts, too.
        pub spec_decode_mean_acceptance_length: Option<f64>,
        /// Where iteration times come from: the latency model, what of it was measured, and on which GPU, if it is of
        /// one; of each pool, if they differ.
        pub latency_source: Option<String>,
        /// How far off the times are, by runs of real servers; null in all of its figures where that is not known.
        pub latency_error: Option<ErrorBar>,
        /// Share of the iterations whose time lies outside what the latency model was measured on; absent when there
        /// were none.
        pub latency_extrapolated_ratio: Option<f64>,
        /// What iteration times are estimated from, where nothing was measured, such as `roofline of
        /// meta-llama/Llama-3.1-8B on 1 H100-SXM`; absent where all were measured or given.
        pub latency_estimate: Option<String>,
        /// Totals of each pool of workers, in the order in which a request meets them.
        pub pools: Vec<PoolReport>,
        /// The limits of the goodput; absent when none were given.
        pub sla: Option<Sla>,
        /// Completed requests that kept all limits of `sla`; absent without limits.
        pub goodput_completed_requests: Option<u64>,
        /// Goodput, in requests a second: `goodput_completed_requests` / duration; absent without limits.
        pub goodput_request_throughput_rps: Option<Measured>,
        /// Tokens a second of the requests that kept all limits of `sla`; absent without limits.
        pub goodput_output_throughput_tok_s: Option<Measured>,
        /// Share of all gaps between tokens, pooled over all requests, within `sla.pooled_itl_ms`; absent without that
        /// limit, null without gaps.
        pub pooled_itl_within_sla_ratio: Option<Measured>,
        /// What became of each objective (`--slo`), over the requests that arrived; absent without any.
        pub slo: Option<Vec<SloOutcome>>,
        /// The main figures of each class of requests that the trace names, by its name; absent if it names none, and in
        /// searches, which keep no times of tokens. Requests without a class are in none of them.
        pub classes: Option<BTreeMap<String, Figures>>,
        /// What sessions of two requests or more came to; absent if there are none, and where no requests are kept
        /// (`stream`).
        pub sessions: Option<SessionFigures>,
        /// That requests came faster than they were served until the last of them, so that the longer the trace the
        /// longer the latencies; absent when they did not, or the run is too short to say.
        pub overload: Option<Overload>,
        /// What is wrong with the run, the first thing to change first; empty when nothing is alarming, absent where it
        /// was not looked at: in runs that keep no requests (`stream`).
        pub diagnosis: Option<Vec<Finding>>,
        /// What was odd about the trace, as counts by kind; absent when nothing was.
        pub trace_notes: Option<Counts>,
        /// What a reader of the figures should know, in sentences: what was worked out from other settings, and that a
        /// hand-off costs nothing; absent when there is nothing.
        pub notes: Option<Vec<String>>,
    }
}

/// What was run, as far as a report says so: what tells it from others, and what it can be held against.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Provenance {
    /// The release of servecast.
    pub servecast_version: Option<String>,
    /// What was replayed, in a few words.
    pub workload_name: Option<String>,
    /// Hash of what was replayed.
    pub workload_hash: Option<u64>,
    /// Root of all random numbers.
    pub seed: Option<u64>,
    /// Every setting that the run depends on.
    pub settings: Option<Settings>,
    /// Where iteration times come from.
    pub latency_source: Option<String>,
    /// How far off they are.
    pub latency_error: Option<ErrorBar>,
}

#[cfg(test)]
mod tests;
