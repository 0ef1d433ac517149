//! A run small enough to check by hand: times in whole ms, four requests.
//!
//! | request | arrival | admitted | tokens at | stages |
//! |---|---|---|---|---|
//! | 0 | 10 | 12 | 30 40 50 | aggregated |
//! | 1 | 20 | 24 | 100 110 120 140 180 | prefill, then decode with a transfer from 62.5 to 78.25 |
//! | 2 | 30 | | | none: its prompt is too long |
//! | 3 | 60 | 62 | 90 100 | aggregated; gave up for want of KV blocks |

use servecast_record::{
    DraftTotals, PoolRecord, PoolTotals, RejectReason, RequestRecord, RequestStatus, RunRecord, StageRecord,
    TokenGaps, WorkerLimits, WorkerTotals,
};
use servecast_types::{Duration, Role, Time, WorkerId};
use smallvec::{SmallVec, smallvec};

use crate::ErrorBar;
use crate::report::Provenance;

/// The run of the module's table.
pub(crate) fn run() -> RunRecord {
    let requests = vec![aggregated(), disaggregated(), rejected_on_arrival(), rejected_later()];
    let mut gaps = TokenGaps::default();
    for (gap_ms, times) in [(10, 5), (40, 1), (20, 1)] {
        gaps.add(Duration::from_ns(gap_ms * 1_000_000), times);
    }
    // While workers were in iterations, they had two requests, which held a quarter of the blocks, and once the half.
    let pool = |role, totals: [u64; 3], busy_ms: &[u64]| PoolRecord {
        role,
        totals: PoolTotals {
            iterations: totals[0],
            computed_tokens: totals[1],
            preemptions: totals[2],
            drafts: DraftTotals::default(),
        },
        workers: busy_ms
            .iter()
            .map(|busy_ms| WorkerTotals {
                requests: 2,
                reused_tokens: *busy_ms,
                busy_ns: busy_ms * 1_000_000,
                request_ns: u128::from(2 * busy_ms * 1_000_000),
                block_ns: u128::from(25 * busy_ms * 1_000_000),
                peak_blocks: 50,
            })
            .collect(),
        limits: vec![
            WorkerLimits {
                max_num_seqs: (role != Role::Prefill).then_some(8),
                usable_blocks: 100,
                offloads_kv: false,
                ranks: 1,
                stages: 1
            };
            busy_ms.len()
        ],
    };
    let pools = vec![
        pool(Role::Aggregated, [5, 439, 1], &[85]),
        pool(Role::Prefill, [1, 200, 0], &[34]),
        pool(Role::Decode, [6, 307, 1], &[34, 68]),
    ];
    let latency_estimates = vec!["roofline of a model on 1 GPU".to_owned()];
    RunRecord { requests, gaps, pools, extrapolated_iterations: 3, latency_estimates, ..RunRecord::default() }
}

/// What a report of it may say of what was run.
pub(crate) fn provenance() -> Provenance {
    Provenance {
        servecast_version: Some("1.2.3".to_owned()),
        workload_name: Some("t.jsonl".to_owned()),
        workload_hash: Some(0xabc),
        seed: Some(42),
        settings: Some([("num_workers".to_owned(), 2.into())].into()),
        latency_source: Some("a model".to_owned()),
        latency_error: Some(ErrorBar {
            tpot_p90: Some(0.13),
            ttft_p90: Some(0.34),
            tpot_mape: Some(0.0625),
            ttft_mape: Some(0.125),
            n: Some(183),
            basis: "183 runs of the same family and engine".to_owned(),
        }),
    }
}

fn aggregated() -> RequestRecord {
    RequestRecord {
        session: 0,
        turn: 0,
        line: 1,
        class: None,
        lora: None,
        arrival: ms(10.0),
        input_tokens: 100,
        requested_output_tokens: 3,
        output_tokens: 3,
        status: RequestStatus::Finished,
        ended: ms(50.0),
        first_token: Some(ms(30.0)),
        second_token: Some(ms(40.0)),
        last_token: Some(ms(50.0)),
        stages: smallvec![StageRecord {
            admitted: Some(ms(12.0)),
            first_token: Some(ms(30.0)),
            last_token: Some(ms(50.0)),
            ..stage(Role::Aggregated, 10.0)
        }],
    }
}

fn disaggregated() -> RequestRecord {
    RequestRecord {
        session: 1,
        turn: 0,
        line: 2,
        class: None,
        lora: None,
        arrival: ms(20.0),
        input_tokens: 300,
        requested_output_tokens: 5,
        output_tokens: 5,
        status: RequestStatus::Finished,
        ended: ms(180.0),
        first_token: Some(ms(100.0)),
        second_token: Some(ms(110.0)),
        last_token: Some(ms(180.0)),
        stages: smallvec![
            StageRecord {
                admitted: Some(ms(24.0)),
                reused_tokens: 100,
                host_reused_tokens: 0,
                first_token: Some(ms(60.0)),
                last_token: Some(ms(60.0)),
                ..stage(Role::Prefill, 20.0)
            },
            StageRecord {
                worker: WorkerId(1),
                admitted: Some(ms(80.0)),
                reused_tokens: 299,
                host_reused_tokens: 0,
                reserved: None,
                transfer_start: Some(ms(62.5)),
                transfer_end: Some(ms(78.25)),
                first_token: Some(ms(100.0)),
                last_token: Some(ms(180.0)),
                preemptions: 1,
                ..stage(Role::Decode, 60.0)
            },
        ],
    }
}

fn rejected_on_arrival() -> RequestRecord {
    RequestRecord {
        session: 2,
        turn: 0,
        line: 3,
        class: None,
        lora: None,
        arrival: ms(30.0),
        input_tokens: 9000,
        requested_output_tokens: 10,
        output_tokens: 0,
        status: RequestStatus::Rejected(RejectReason::PromptTooLong),
        ended: ms(30.0),
        first_token: None,
        second_token: None,
        last_token: None,
        stages: SmallVec::new(),
    }
}

fn rejected_later() -> RequestRecord {
    RequestRecord {
        session: 0,
        turn: 1,
        line: 4,
        class: None,
        lora: None,
        arrival: ms(60.0),
        input_tokens: 400,
        requested_output_tokens: 50,
        output_tokens: 2,
        status: RequestStatus::Rejected(RejectReason::KvCapacity),
        ended: ms(110.0),
        first_token: Some(ms(90.0)),
        second_token: Some(ms(100.0)),
        last_token: Some(ms(100.0)),
        stages: smallvec![StageRecord {
            admitted: Some(ms(62.0)),
            reused_tokens: 64,
            host_reused_tokens: 0,
            first_token: Some(ms(90.0)),
            last_token: Some(ms(100.0)),
            preemptions: 1,
            ..stage(Role::Aggregated, 60.0)
        }],
    }
}

/// A stage on worker 0 in which nothing has happened yet.
fn stage(pool: Role, queued_ms: f64) -> StageRecord {
    StageRecord {
        pool,
        worker: WorkerId(0),
        arrived: ms(queued_ms),
        queued: ms(queued_ms),
        admitted: None,
        reused_tokens: 0,
        host_reused_tokens: 0,
        reserved: None,
        transfer_start: None,
        transfer_end: None,
        first_token: None,
        last_token: None,
        preemptions: 0,
    }
}

fn ms(ms: f64) -> Time {
    Time::from_ms(ms).expect("a fixture has valid times")
}

/// Holds a checked-in schema to the type that it describes; `UPDATE_SCHEMA=1 cargo test -p servecast-report` rewrites it.
#[track_caller]
#[expect(clippy::disallowed_methods, reason = "only the tests that keep the files fresh ask the environment")]
pub(crate) fn check_schema(schema: &serde_json::Value, checked_in: &str, file: &str) {
    let fresh = serde_json::to_string_pretty(schema).unwrap() + "\n";
    if std::env::var("UPDATE_SCHEMA").is_ok() {
        std::fs::write(format!("{}/schema/{file}", env!("CARGO_MANIFEST_DIR")), fresh).unwrap();
    } else {
        assert!(fresh == checked_in, "{file} is stale: run UPDATE_SCHEMA=1 cargo test -p servecast-report");
    }
}
