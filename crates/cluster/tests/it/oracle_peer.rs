//! Whole replays agree with Dynamo 1.6.1 request by request, wherever it is sound.
//!
//! A case is a workload, a load, a topology, and what 1.6.1 recorded for each request. The test takes every case of the
//! repository and under `$SERVECAST_ORACLE/peer` whose routing leaves no choice (round robin, or one worker a pool). [`EXCEPTIONS`] holds, as
//! predicates, where the peer is not sound or has nothing to compare with; `docs/differences.md` says more about each.

use crate::peer::{Case, Exception, compare_cases, delayed_transfers_start_together};

/// Cases that are known to differ: what they have in common, and why.
const EXCEPTIONS: &[Exception] = &[
    ("a speedup of 0 is refused: the peer takes it for 1", |case| {
        case.engines().any(|engine| engine["speedup_ratio"] == 0.0)
    }),
    (
        "a later turn with only a timestamp: the peer adds the gap of the trace to the end of the turn before",
        |case| case.has_later_turn_with_only_a_timestamp(),
    ),
    ("the peer starts one delayed transfer at a time on a busy decode worker", |case| {
        case.run().is_ok_and(|run| delayed_transfers_start_together(&run))
    }),
    (
        "SGLang takes a prompt that overruns `max_prefill_tokens` and ends the batch with it: the peer refuses it",
        |case| case.hits_leave_a_rest_of_a_prefill_batch(),
    ),
    ("the peer's SGLang reserves the decode worker's memory before it computes the prompt", |case| {
        case.hands_off_between_sglang()
    }),
    ("the peer left no record", |case| !case.folder.join("peer161_requests.jsonl.gz").exists()),
];

#[test]
fn oracle_peer() {
    let leaves_no_choice =
        |case: &Case| case.spec["router"]["mode"] == "round_robin" || case.has_one_worker_a_pool();
    compare_cases(leaves_no_choice, |case| case.compare(&case.run()?), EXCEPTIONS);
}
