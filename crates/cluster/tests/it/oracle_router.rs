//! Replays under the KV router, beside Dynamo 1.6.1: each stage is on the worker that it chose, and our router judges
//! the workers at every decision.
//!
//! Then times agree with its record; our router believes the same overlap on the chosen worker; and that worker has our
//! lowest cost, or ties for it.

use serde_json::Value;
use servecast_types::WorkerId;

use crate::peer::{Case, Exception, Shadowed, all_cases, compare_cases, delayed_transfers_start_together};

/// Costs count as equal if they differ by rounding only.
const COST_TOLERANCE: f64 = 1e-9;

/// Scores are recorded with three decimals.
const SCORE_TOLERANCE: f64 = 0.000_51;

/// Cases that are known to differ: what they have in common, and why.
const EXCEPTIONS: &[Exception] = &[
    ("the peer starts one delayed transfer at a time on a busy decode worker", |case| {
        case.run_with_recorded_placement()
            .is_ok_and(|shadowed| delayed_transfers_start_together(&shadowed.run))
    }),
    ("prefix groups are drawn by the peer's own generator", |case| {
        case.spec["workload"]["num_prefix_groups"].as_u64() > Some(0)
    }),
    ("the peer's SGLang reserves the decode worker's memory before it computes the prompt", |case| {
        case.hands_off_between_sglang()
    }),
    ("the peer left no record", |case| case.recorded_rows().is_err()),
];

#[test]
fn oracle_router() {
    compare_cases(|case| case.spec["router"]["mode"] == "kv_router", compare, EXCEPTIONS);
}

/// What 1.1.1 wrote down of its decisions: scores follow from their terms, and ours are the same as long as both have seen
/// the same, which is at the first moment.
#[test]
fn oracle_router_scores() {
    let (mut compared, mut cases) = (0, 0);
    for case in all_cases() {
        let Some(rows) = case.recorded_scores() else { continue };
        for (number, row) in rows.iter().enumerate() {
            for candidate in row["candidates"].as_array().unwrap() {
                let [score, weight, prefill, decode] = ["score", "weight", "prefill_blocks", "decode_blocks"]
                    .map(|term| candidate[term].as_f64().unwrap());
                let tolerance = SCORE_TOLERANCE * (1.0 + weight);
                assert!(
                    (score - (weight * prefill + decode)).abs() <= tolerance,
                    "{} row {number}",
                    case.name
                );
            }
        }
        cases += 1;
        compared += compare_first_scores(&case, &rows);
    }
    testkit::compared(cases);
    assert!(compared > 0, "no decision of a first moment in {cases} cases");
}

/// Compares the costs of all candidates at the first moment; returns how many decisions that were.
fn compare_first_scores(case: &Case, rows: &[Value]) -> usize {
    let chosen = rows.iter().map(|row| WorkerId(row["chosen"].as_u64().unwrap() as u32));
    let Some(decisions) = case.decisions_of_first_moment(chosen) else { return 0 };
    for (number, (routed, row)) in decisions.iter().zip(rows).enumerate() {
        let recorded = row["candidates"].as_array().unwrap();
        for (ours, theirs) in routed.admission.terms.iter().zip(recorded) {
            let score = theirs["score"].as_f64().unwrap();
            let close = (ours.cost - score).abs() <= SCORE_TOLERANCE;
            assert!(close, "{} decision {number}: {ours:?}, recorded {theirs}", case.name);
        }
    }
    decisions.len()
}

fn compare(case: &Case) -> Result<(), String> {
    let shadowed = case.run_with_recorded_placement()?;
    case.compare(&shadowed.run)?;
    // With a temperature, any worker may be drawn; and of equal requests it is not known which row is whose.
    let draws = case.spec["router"]["config"]["router_temperature"].as_f64() > Some(0.0);
    if draws || case.has_equal_requests() { Ok(()) } else { compare_decisions(&shadowed) }
}

fn compare_decisions(shadowed: &Shadowed) -> Result<(), String> {
    for routed in &shadowed.decisions {
        let ticket = &routed.admission.ticket;
        let line = shadowed.run.requests[ticket.id.index()].line;
        let pool = match routed.pool.name() {
            "aggregated" => "agg",
            name => name,
        };
        let history = shadowed.rows[&line]["routing_history"].as_array().unwrap();
        let step = history.iter().find(|step| step["pool"] == pool).ok_or("a decision without a record")?;
        let overlap = step["selected_overlap_blocks"].as_u64();
        // Decode routers do not look for overlap; of a parked request the peer knows what it was when it came.
        let looks = pool != "decode" && step["outcome"] == "immediate";
        if looks && overlap.is_some_and(|overlap| overlap != u64::from(ticket.overlap_blocks)) {
            return Err(format!(
                "line {line}, {pool}: overlap {}, recorded {overlap:?}",
                ticket.overlap_blocks
            ));
        }
        let terms = &routed.admission.terms;
        let chosen =
            terms.iter().find(|candidate| candidate.rank == ticket.rank).ok_or("no terms of the chosen")?;
        let lowest = terms.iter().map(|candidate| candidate.cost).fold(f64::INFINITY, f64::min);
        if chosen.cost > lowest + COST_TOLERANCE {
            return Err(format!(
                "line {line}, {pool} at {}: the recorded worker {} costs {}, another {lowest}: {terms:?}",
                routed.at, ticket.rank.worker, chosen.cost
            ));
        }
    }
    Ok(())
}
