//! Replays under the KV router: with each stage on the worker that Dynamo 1.6.1 chose, times agree with its record.
//!
//! Cases in which its router parked a request are left out here: when it dispatches them is the router's decision.

use std::fmt::Write as _;
use std::path::Path;

use crate::peer::{Case, cases, delayed_transfers_start_together, variable};

type Predicate = fn(&Case) -> bool;

/// Cases that are known to differ: what they have in common, and why.
const EXCEPTIONS: &[(&str, Predicate)] = &[
    ("the peer starts one delayed transfer at a time on a busy decode worker", |case| {
        case.run_with_recorded_placement().is_ok_and(|run| delayed_transfers_start_together(&run))
    }),
    ("prefix groups are drawn by the peer's own generator", |case| {
        case.spec["workload"]["num_prefix_groups"].as_u64() > Some(0)
    }),
];

#[test]
fn oracle_router_times_under_recorded_placement() {
    let Some(root) = variable("SERVECAST_ORACLE") else { return };
    let (mut same, mut excepted, mut report) = (0, 0, String::new());
    for case in cases(&Path::new(&root).join("peer")) {
        if !case.is_vllm() || case.spec["router"]["mode"] != "kv_router" || !dispatches_at_once(&case) {
            continue;
        }
        let exception = EXCEPTIONS.iter().find(|(_, holds)| holds(&case));
        match (case.run_with_recorded_placement().and_then(|run| case.compare(&run)), exception) {
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

fn dispatches_at_once(case: &Case) -> bool {
    case.recorded_rows().is_ok_and(|rows| {
        let history = rows.iter().flat_map(|row| row["routing_history"].as_array().unwrap());
        history.into_iter().all(|step| step["outcome"] == "immediate")
    })
}
