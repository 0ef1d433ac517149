use std::collections::BTreeSet;

use serde_json::Value;
use servecast_record::RunRecord;

use super::*;
use crate::{Figures, FindingKind, FoundBy, Online, Percentiles, SummaryOptions, WhatIf, fixture, summarize};

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
    let what_if = WhatIf::one("twice the KV", "engine_args.num_gpu_blocks", Some(&100.into()), 200.into());
    Report {
        diagnosis: Some(vec![finding.tested_by(Some(what_if))]),
        overload: Some(overload),
        withdrawn_requests,
        measured,
        counted_as_infinite: Some(2),
        percentile_relative_error: Some(0.001),
        gpu_cache_reused_ratio: Some(0.15),
        host_cache_reused_ratio: Some(0.1),
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
      "gpu_cache_reused_ratio": 0.15,
      "host_cache_reused_ratio": 0.1,
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
