//! Work is conserved (INV-12): nobody idles while something that it could do waits.

use proptest::prelude::*;
use servecast_engine::EngineArgs;
use servecast_record::{RequestRecord, RunRecord};
use servecast_types::{Role, Time, WorkerId};

use crate::scenario::{Pass, Scenario, any_scenario, host_of, scenario, watch};

type Interval = (Time, Time);

/// Intervals in order that do not touch.
fn merged(mut intervals: Vec<Interval>) -> Vec<Interval> {
    intervals.sort_unstable();
    let mut merged: Vec<Interval> = Vec::new();
    for (start, end) in intervals {
        match merged.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => merged.push((start, end)),
        }
    }
    merged
}

/// Whether every moment of an interval lies in one of `merged`.
fn is_covered((start, end): Interval, merged: &[Interval]) -> bool {
    start == end || merged.iter().any(|&(from, to)| from <= start && end <= to)
}

/// When a worker of a pool has a request: until its KV has left, from a worker that hands over.
fn stays(run: &RunRecord, pool: Role, worker: WorkerId) -> Vec<Interval> {
    let stay = |request: &RequestRecord| {
        let stages = &request.stages;
        let of = stages.iter().position(|stage| stage.pool == pool && stage.worker == worker)?;
        let next = stages.get(of + 1);
        // Tokens that are on their way to clients keep no worker.
        let left = stages[of].last_token.filter(|_| request.is_finished()).unwrap_or(request.ended);
        let end = next.map_or(left, |next| next.transfer_end.unwrap_or(request.ended));
        Some((stages[of].queued, end))
    };
    run.requests.iter().filter_map(stay).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: crate::properties::cases(), ..ProptestConfig::default() })]

    /// In a pool that hands nothing over, a request waits for nothing but its worker, the host of that after a pass, and its
    /// grammar, which here takes no time.
    #[test]
    fn a_worker_with_a_request_is_in_an_iteration(scenario in scenario()) {
        let host = host_of(&scenario.prefill);
        let prefill = EngineArgs { grammar_compile_ms: None, ..scenario.prefill };
        let (run, seen) = watch(&Scenario { decode: None, prefill, ..scenario }, false);
        for (&(pool, worker), passes) in &seen.passes {
            let busy = |pass: &Pass| (pass.start, pass.end + host.gap(pass.requests));
            let passes = merged(passes.iter().map(busy).collect());
            for stay in stays(&run, pool, worker) {
                prop_assert!(is_covered(stay, &passes), "{:?} has a request in {:?}: {:?}", worker, stay, passes);
            }
        }
    }

    /// A router parks requests only while every worker has some.
    #[test]
    fn no_request_is_parked_while_a_worker_has_none(scenario in any_scenario()) {
        let (run, _) = watch(&scenario, false);
        for (stage, workers) in [
            (Role::Aggregated, scenario.workers.0),
            (Role::Prefill, scenario.workers.0),
            (Role::Decode, scenario.workers.1),
        ] {
            let workers = (0..workers).map(WorkerId);
            let busy: Vec<_> = workers.map(|worker| merged(stays(&run, stage, worker))).collect();
            let stages = run.requests.iter().flat_map(|request| &request.stages);
            for parked in stages.filter(|one| one.pool == stage).map(|one| (one.arrived, one.queued)) {
                for stays in &busy {
                    prop_assert!(is_covered(parked, stays), "parked in {:?}, a worker has requests in {:?}", parked, stays);
                }
            }
        }
    }
}
