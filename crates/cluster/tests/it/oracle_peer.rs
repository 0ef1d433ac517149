//! Whole replays agree with Dynamo 1.6.1 request by request, wherever it is sound.
//!
//! A case is a workload, a load, a topology, and what 1.6.1 recorded for each request. The test takes every case under
//! `$SERVECAST_ORACLE/peer` whose workers are vLLM and whose routing leaves no choice (round robin, or one worker a
//! pool). [`EXCEPTIONS`] holds, as predicates, where the peer is not sound or has nothing to compare with;
//! `docs/differences.md` says more about each.

use std::fmt::Write as _;
use std::path::Path;

use crate::peer::{Case, cases, delayed_transfers_start_together, variable};

type Predicate = fn(&Case) -> bool;

/// Cases that are known to differ: what they have in common, and why.
const EXCEPTIONS: &[(&str, Predicate)] = &[
    ("a speedup of 0 is refused: the peer takes it for 1", |case| {
        case.engines().any(|engine| engine["speedup_ratio"] == 0.0)
    }),
    ("data-parallel ranks are not simulated yet", |case| {
        case.engines().any(|engine| engine["dp_size"].as_u64() > Some(1))
    }),
    (
        "a later turn with only a timestamp: the peer adds the gap of the trace to the end of the turn before",
        |case| case.has_later_turn_with_only_a_timestamp(),
    ),
    ("the peer starts one delayed transfer at a time on a busy decode worker", |case| {
        case.run().is_ok_and(|run| delayed_transfers_start_together(&run))
    }),
    ("the peer left no record", |case| !case.folder.join("peer161_requests.jsonl.gz").exists()),
];

#[test]
fn oracle_peer() {
    let Some(root) = variable("SERVECAST_ORACLE") else { return };
    let (mut same, mut excepted) = (0, 0);
    let mut report = String::new();
    for case in cases(&Path::new(&root).join("peer")) {
        if !case.is_vllm() || !(case.spec["router"]["mode"] == "round_robin" || case.has_one_worker_a_pool())
        {
            continue;
        }
        let exception = EXCEPTIONS.iter().find(|(_, holds)| holds(&case));
        match (case.run().and_then(|run| case.compare(&run)), exception) {
            (Ok(()), None) => same += 1,
            (Err(_), Some(_)) => excepted += 1,
            (Err(difference), None) => _ = writeln!(report, "{}: {difference}", case.name),
            (Ok(()), Some((cause, _))) => {
                _ = writeln!(report, "{}: agrees, so the exception has to go: {cause}", case.name);
            }
        }
    }
    println!("{same} cases agree, {excepted} are excepted");
    assert!(report.is_empty(), "{same} cases agree, but:\n{report}");
    assert!(same > 0, "no cases in {}", root.to_string_lossy());
}
