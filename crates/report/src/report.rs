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
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;
    use servecast_record::RunRecord;

    use super::*;
    use crate::{
        Figures, FindingKind, FoundBy, Online, Percentiles, SummaryOptions, WhatIf, fixture, summarize,
    };

    /// A report in which no optional key is absent.
    fn full() -> Report {
        let sla = Sla { ttft_ms: Some(50.0), tpot_ms: Some(20.0), e2e_ms: None, pooled_itl_ms: Some(10.0) };
        let notes = [("ignored_keys".to_owned(), 3)].into();
        let sentences = vec!["a note".to_owned()];
        let provenance = fixture::provenance();
        let slo = vec!["p95 ttft <= 1s".parse().unwrap()];
        let mut online = Online { speed: 2.0, ..Online::default() };
        online.lateness.add(servecast_types::Duration::from_ns(250_000), 3);
        let online = Some(online);
        let options = SummaryOptions {
            sla,
            slo,
            wall_time_ms: 1.5,
            online,
            notes,
            sentences,
            provenance,
            ..SummaryOptions::default()
        };
        let report = summarize(&fixture::run(), &options);
        let withdrawn_requests = Some(1);
        let measured = Some(measured());
        let overload = Overload { from_ms: 60e3, growth_rps: 3.75, arrival_rps: 12.5, backlog: 17 };
        let finding = Finding::new(FindingKind::DecodeBoundKv, "Decode-bound by KV".to_owned())
            .with("kv_usage", 0.875, "share");
        let what_if =
            WhatIf::one("twice the KV", "engine_args.num_gpu_blocks", Some(&100.into()), 200.into());
        Report {
            diagnosis: Some(vec![finding.tested_by(Some(what_if))]),
            overload: Some(overload),
            withdrawn_requests,
            measured,
            counted_as_infinite: Some(2),
            percentile_relative_error: Some(0.001),
            spec_decode_num_drafts: Some(4),
            spec_decode_num_draft_tokens: Some(12),
            spec_decode_num_accepted_tokens: Some(6),
            spec_decode_acceptance_rate: Some(0.5),
            spec_decode_mean_acceptance_length: Some(2.5),
            classes: Some([("chat".to_owned(), whole_run())].into()),
            sessions: Some(sessions()),
            ..report
        }
    }

    fn sessions() -> SessionFigures {
        let Figures { ttft_ms, .. } = whole_run();
        SessionFigures {
            num_sessions: 2,
            completed_sessions: 1,
            session_duration_ms: ttft_ms,
            idle_ratio: Some(0.5),
            first_turn_ttft_ms: ttft_ms,
            later_turn_ttft_ms: None,
        }
    }

    fn whole_run() -> Figures {
        let latency =
            Percentiles { mean: Some(50.0), median: Some(50.0), p90: None, p95: None, p99: None, max: None };
        Figures {
            num_requests: 5,
            completed_requests: 3,
            rejected_requests: 2,
            total_input_tokens: 500,
            total_output_tokens: 9,
            prefix_cache_reused_ratio: Some(0.25),
            ttft_ms: Some(latency),
            tpot_ms: None,
            itl_ms: None,
            e2e_latency_ms: None,
            goodput_completed_requests: Some(1),
            slo: None,
        }
    }

    fn measured() -> MeasuredPart {
        MeasuredPart {
            from_ms: Some(10.0),
            to_ms: Some(60.0),
            requests: 4,
            left_out_before: 1,
            left_out_after: 0,
            found_by: FoundBy::Given,
            whole_run: whole_run(),
        }
    }

    fn empty() -> Report {
        summarize(&RunRecord::default(), &SummaryOptions::default())
    }

    fn keys(object: &Value) -> BTreeSet<&String> {
        object.as_object().unwrap().keys().collect()
    }

    fn schema() -> Value {
        let mut schema = schemars::schema_for!(Report).to_value();
        // The order of keys must not depend on the features of serde_json that other crates switch on.
        schema.sort_all_objects();
        schema
    }

    #[test]
    fn the_checked_in_schema_is_fresh() {
        crate::fixture::check_schema(&schema(), REPORT_SCHEMA, "report.schema.json");
    }

    #[test]
    fn reports_are_valid_by_the_schema_and_complete() {
        let schema = schema();
        let validator = jsonschema::validator_for(&schema).unwrap();
        for report in [full(), empty()] {
            let value = serde_json::to_value(report).unwrap();
            let errors: Vec<String> = validator.iter_errors(&value).map(|error| error.to_string()).collect();
            assert!(errors.is_empty(), "{errors:?}");
        }
        let mut value = serde_json::to_value(full()).unwrap();
        assert_eq!(keys(&value), keys(&schema["properties"]));
        value.as_object_mut().unwrap().remove("p99_itl_ms");
        assert!(!validator.is_valid(&value));
    }

    #[test]
    fn a_report_survives_json() {
        for report in [full(), empty()] {
            let text = serde_json::to_string(&report).unwrap();
            assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
        }
    }

    #[test]
    fn reading_says_which_key_is_wrong() {
        let read = |edit: fn(&mut serde_json::Map<String, Value>)| {
            let mut value = serde_json::to_value(full()).unwrap();
            edit(value.as_object_mut().unwrap());
            serde_json::from_value::<Report>(value).map_err(|error| error.to_string())
        };
        let missing = read(|object| drop(object.remove("std_ttst_ms")));
        assert_eq!(missing.unwrap_err(), "missing key `std_ttst_ms`");
        let version = read(|object| drop(object.insert("schema_version".into(), "2".into())));
        assert_eq!(version.unwrap_err(), "key `schema_version`: unknown variant `2`, expected `1`");
        let newer = read(|object| drop(object.insert("added_later".into(), 1.into())));
        assert_eq!(newer, Ok(full()));
    }

    #[test]
    #[expect(clippy::too_many_lines, reason = "the whole report is the point")]
    fn keys_stand_in_the_documented_order() {
        insta::assert_snapshot!(serde_json::to_string_pretty(&full()).unwrap(), @r#"
        {
          "schema_version": "1",
          "servecast_version": "1.2.3",
          "workload_name": "t.jsonl",
          "workload_hash": "0000000000000abc",
          "seed": 42,
          "settings": {
            "num_workers": 2
          },
          "measured": {
            "from_ms": 10.0,
            "to_ms": 60.0,
            "requests": 4,
            "left_out_before": 1,
            "left_out_after": 0,
            "found_by": "given",
            "whole_run": {
              "num_requests": 5,
              "completed_requests": 3,
              "rejected_requests": 2,
              "total_input_tokens": 500,
              "total_output_tokens": 9,
              "prefix_cache_reused_ratio": 0.25,
              "ttft_ms": {
                "mean": 50.0,
                "median": 50.0,
                "p90": null,
                "p95": null,
                "p99": null,
                "max": null
              },
              "tpot_ms": null,
              "itl_ms": null,
              "e2e_latency_ms": null,
              "goodput_completed_requests": 1
            }
          },
          "num_requests": 4,
          "completed_requests": 2,
          "rejected_requests": 2,
          "rejected_by_reason": {
            "kv_capacity": 1,
            "prompt_too_long": 1
          },
          "withdrawn_requests": 1,
          "counted_as_infinite": 2,
          "total_input_tokens": 400,
          "total_output_tokens": 8,
          "rejected_input_tokens": 9400,
          "rejected_output_tokens": 2,
          "duration_ms": 170.0,
          "wall_time_ms": 1.5,
          "wall_speed": 2.0,
          "wall_lateness_p50_ms": 0.25,
          "wall_lateness_p99_ms": 0.25,
          "wall_lateness_max_ms": 0.25,
          "request_throughput_rps": 11.76470588235294,
          "input_throughput_tok_s": 2352.9411764705883,
          "output_throughput_tok_s": 47.05882352941176,
          "total_throughput_tok_s": 2400.0,
          "prefix_cache_reused_ratio": 0.25,
          "mean_ttft_ms": 50.0,
          "min_ttft_ms": 20.0,
          "max_ttft_ms": 80.0,
          "median_ttft_ms": 50.0,
          "p75_ttft_ms": 65.0,
          "p90_ttft_ms": 74.0,
          "p95_ttft_ms": 77.0,
          "p99_ttft_ms": 79.4,
          "std_ttft_ms": 30.0,
          "mean_ttst_ms": 10.0,
          "min_ttst_ms": 10.0,
          "max_ttst_ms": 10.0,
          "median_ttst_ms": 10.0,
          "p75_ttst_ms": 10.0,
          "p90_ttst_ms": 10.0,
          "p95_ttst_ms": 10.0,
          "p99_ttst_ms": 10.0,
          "std_ttst_ms": 0.0,
          "mean_tpot_ms": 15.0,
          "min_tpot_ms": 10.0,
          "max_tpot_ms": 20.0,
          "median_tpot_ms": 15.0,
          "p75_tpot_ms": 17.5,
          "p90_tpot_ms": 19.0,
          "p95_tpot_ms": 19.5,
          "p99_tpot_ms": 19.9,
          "std_tpot_ms": 5.0,
          "mean_itl_ms": 15.714285714285714,
          "min_itl_ms": 10.0,
          "max_itl_ms": 40.0,
          "median_itl_ms": 10.0,
          "p75_itl_ms": 15.0,
          "p90_itl_ms": 28.000000000000007,
          "p95_itl_ms": 33.999999999999986,
          "p99_itl_ms": 38.79999999999999,
          "std_itl_ms": 10.497813183356477,
          "itl_relative_error": 0.0,
          "mean_e2e_latency_ms": 100.0,
          "min_e2e_latency_ms": 40.0,
          "max_e2e_latency_ms": 160.0,
          "median_e2e_latency_ms": 100.0,
          "p75_e2e_latency_ms": 130.0,
          "p90_e2e_latency_ms": 148.0,
          "p95_e2e_latency_ms": 154.0,
          "p99_e2e_latency_ms": 158.8,
          "std_e2e_latency_ms": 60.0,
          "mean_output_token_throughput_per_user": 82.14285714285714,
          "min_output_token_throughput_per_user": 25.0,
          "max_output_token_throughput_per_user": 100.0,
          "median_output_token_throughput_per_user": 100.0,
          "p75_output_token_throughput_per_user": 100.0,
          "p90_output_token_throughput_per_user": 100.0,
          "p95_output_token_throughput_per_user": 100.0,
          "p99_output_token_throughput_per_user": 100.0,
          "std_output_token_throughput_per_user": 29.01442287369986,
          "mean_queue_time_ms": 3.0,
          "min_queue_time_ms": 2.0,
          "max_queue_time_ms": 4.0,
          "median_queue_time_ms": 3.0,
          "p75_queue_time_ms": 3.5,
          "p90_queue_time_ms": 3.8,
          "p95_queue_time_ms": 3.9,
          "p99_queue_time_ms": 3.98,
          "std_queue_time_ms": 1.0,
          "percentile_relative_error": 0.001,
          "total_preemptions": 2,
          "total_iterations": 12,
          "spec_decode_num_drafts": 4,
          "spec_decode_num_draft_tokens": 12,
          "spec_decode_num_accepted_tokens": 6,
          "spec_decode_acceptance_rate": 0.5,
          "spec_decode_mean_acceptance_length": 2.5,
          "latency_source": "a model",
          "latency_error": {
            "tpot_p90": 0.13,
            "ttft_p90": 0.34,
            "tpot_mape": 0.0625,
            "ttft_mape": 0.125,
            "n": 183,
            "basis": "183 runs of the same family and engine"
          },
          "latency_extrapolated_ratio": 0.25,
          "latency_estimate": "roofline of a model on 1 GPU",
          "pools": [
            {
              "pool": "aggregated",
              "workers": 1,
              "iterations": 5,
              "computed_tokens": 439,
              "preemptions": 1,
              "utilization": 0.5,
              "mean_batch_size": 2.0,
              "max_num_seqs": 8,
              "batch_occupancy": 0.25,
              "kv_usage": 0.25,
              "peak_kv_usage": 0.5,
              "requests_per_worker": {
                "min": 2.0,
                "mean": 2.0,
                "max": 2.0
              },
              "reused_tokens_per_worker": {
                "min": 85.0,
                "mean": 85.0,
                "max": 85.0
              },
              "utilization_per_worker": {
                "min": 0.5,
                "mean": 0.5,
                "max": 0.5
              },
              "mean_batch_size_per_worker": {
                "min": 2.0,
                "mean": 2.0,
                "max": 2.0
              },
              "kv_usage_per_worker": {
                "min": 0.25,
                "mean": 0.25,
                "max": 0.25
              }
            },
            {
              "pool": "prefill",
              "workers": 1,
              "iterations": 1,
              "computed_tokens": 200,
              "preemptions": 0,
              "utilization": 0.2,
              "mean_batch_size": 2.0,
              "max_num_seqs": null,
              "batch_occupancy": null,
              "kv_usage": 0.25,
              "peak_kv_usage": 0.5,
              "requests_per_worker": {
                "min": 2.0,
                "mean": 2.0,
                "max": 2.0
              },
              "reused_tokens_per_worker": {
                "min": 34.0,
                "mean": 34.0,
                "max": 34.0
              },
              "utilization_per_worker": {
                "min": 0.2,
                "mean": 0.2,
                "max": 0.2
              },
              "mean_batch_size_per_worker": {
                "min": 2.0,
                "mean": 2.0,
                "max": 2.0
              },
              "kv_usage_per_worker": {
                "min": 0.25,
                "mean": 0.25,
                "max": 0.25
              }
            },
            {
              "pool": "decode",
              "workers": 2,
              "iterations": 6,
              "computed_tokens": 307,
              "preemptions": 1,
              "utilization": 0.3,
              "mean_batch_size": 2.0,
              "max_num_seqs": 8,
              "batch_occupancy": 0.25,
              "kv_usage": 0.25,
              "peak_kv_usage": 0.5,
              "requests_per_worker": {
                "min": 2.0,
                "mean": 2.0,
                "max": 2.0
              },
              "reused_tokens_per_worker": {
                "min": 34.0,
                "mean": 51.0,
                "max": 68.0
              },
              "utilization_per_worker": {
                "min": 0.2,
                "mean": 0.30000000000000004,
                "max": 0.4
              },
              "mean_batch_size_per_worker": {
                "min": 2.0,
                "mean": 2.0,
                "max": 2.0
              },
              "kv_usage_per_worker": {
                "min": 0.25,
                "mean": 0.25,
                "max": 0.25
              }
            }
          ],
          "sla": {
            "ttft_ms": 50.0,
            "tpot_ms": 20.0,
            "pooled_itl_ms": 10.0
          },
          "goodput_completed_requests": 1,
          "goodput_request_throughput_rps": 5.88235294117647,
          "goodput_output_throughput_tok_s": 17.64705882352941,
          "pooled_itl_within_sla_ratio": 0.7142857142857143,
          "slo": [
            {
              "objective": "p95 ttft <= 1s",
              "met": false,
              "value": null,
              "limit": 1000.0,
              "margin": null,
              "samples": 4,
              "misses": 2,
              "unserved": 2
            }
          ],
          "classes": {
            "chat": {
              "num_requests": 5,
              "completed_requests": 3,
              "rejected_requests": 2,
              "total_input_tokens": 500,
              "total_output_tokens": 9,
              "prefix_cache_reused_ratio": 0.25,
              "ttft_ms": {
                "mean": 50.0,
                "median": 50.0,
                "p90": null,
                "p95": null,
                "p99": null,
                "max": null
              },
              "tpot_ms": null,
              "itl_ms": null,
              "e2e_latency_ms": null,
              "goodput_completed_requests": 1
            }
          },
          "sessions": {
            "num_sessions": 2,
            "completed_sessions": 1,
            "session_duration_ms": {
              "mean": 50.0,
              "median": 50.0,
              "p90": null,
              "p95": null,
              "p99": null,
              "max": null
            },
            "idle_ratio": 0.5,
            "first_turn_ttft_ms": {
              "mean": 50.0,
              "median": 50.0,
              "p90": null,
              "p95": null,
              "p99": null,
              "max": null
            },
            "later_turn_ttft_ms": null
          },
          "overload": {
            "from_ms": 60000.0,
            "growth_rps": 3.75,
            "arrival_rps": 12.5,
            "backlog": 17
          },
          "diagnosis": [
            {
              "kind": "decode_bound_kv",
              "sentence": "Decode-bound by KV",
              "evidence": [
                {
                  "name": "kv_usage",
                  "value": 0.875,
                  "unit": "share"
                }
              ],
              "what_if": {
                "change": "twice the KV",
                "settings": {
                  "engine_args.num_gpu_blocks": 200
                },
                "command": "servecast replay --config config.toml --vary engine_args.num_gpu_blocks=100,200"
              }
            }
          ],
          "trace_notes": {
            "ignored_keys": 3
          },
          "notes": [
            "a note"
          ]
        }
        "#);
    }
}
