//! Sessions that stay on the worker that had their last request.

use std::collections::BTreeSet;

use serde_json::json;
use servecast_cluster::{PoolEngine, RouterMode, RouterOptions, Simulation, SimulationOptions, Topology};
use servecast_engine::EngineArgs;
use servecast_record::RunRecord;
use servecast_types::Duration;
use servecast_workload::{Load, TraceRow, Workload};

const BLOCK_SIZE: u32 = 64;
const MODES: [RouterMode; 6] = [
    RouterMode::RoundRobin,
    RouterMode::Random,
    RouterMode::LeastLoaded,
    RouterMode::PowerOfTwo,
    RouterMode::PrefixHash,
    RouterMode::KvRouter,
];

/// Twelve sessions of six turns each, of which the last comes `pause_ms` after the one before, which ends within 10 ms. No
/// prompt has anything in common with another.
fn sessions(pause_ms: f64) -> Vec<TraceRow> {
    let row = |session: u64, turn: u64| TraceRow {
        line: 1 + session * 6 + turn,
        session_id: Some(format!("session {session}")),
        timestamp_ms: (turn == 0).then_some(session as f64 * 3.0),
        delay_ms: (turn > 0).then_some(if turn == 5 { pause_ms } else { 20.0 }),
        input_length: Some(128),
        output_length: 3,
        hash_ids: vec![session * 100 + turn * 2, session * 100 + turn * 2 + 1],
        ..TraceRow::default()
    };
    (0..12).flat_map(|session| (0..6).map(move |turn| row(session, turn))).collect()
}

fn run(decode_workers: u32, rows: &[TraceRow], mode: RouterMode, affinity_ms: Option<u64>) -> RunRecord {
    let args =
        EngineArgs::from_json(json!({"latency": "linear:1000,10,0", "block_size": BLOCK_SIZE})).unwrap();
    let config = args.validate(None).unwrap();
    let pool = |workers| PoolEngine { workers, args: &args, config: &config };
    let topology = match decode_workers {
        0 => Topology::aggregated(pool(4)).unwrap(),
        workers => Topology::disaggregated(pool(4), pool(workers)).unwrap(),
    };
    let session_affinity = affinity_ms.map(|ms| Duration::from_ns(ms * 1_000_000));
    let router = RouterOptions { mode, session_affinity, ..RouterOptions::default() };
    let options = SimulationOptions { router, seed: 5, check: true, ..SimulationOptions::default() };
    let workload = Workload::from_rows(rows, BLOCK_SIZE, Load::Open { arrival_speedup_ratio: 1.0 }).unwrap();
    Simulation::new(&topology, workload, &options).unwrap().run(&mut ()).unwrap()
}

/// The workers of a stage that each session met.
fn workers_met(record: &RunRecord, stage: usize) -> Vec<usize> {
    let mut met = vec![BTreeSet::new(); 12];
    for request in &record.requests {
        met[request.session as usize].insert(request.stages[stage].worker);
    }
    met.iter().map(BTreeSet::len).collect()
}

#[test]
fn a_session_stays_where_its_first_request_went_whatever_the_policy() {
    for mode in MODES {
        let stays = run(0, &sessions(20.0), mode, Some(1_000));
        assert_eq!(workers_met(&stays, 0), [1; 12], "{mode:?}");
        let workers: BTreeSet<_> = stays.requests.iter().map(|request| request.stages[0].worker).collect();
        assert!(workers.len() > 1, "{mode:?}: sessions are spread all the same");
        let free = run(0, &sessions(20.0), mode, None);
        assert!(workers_met(&free, 0).iter().any(|&workers| workers > 1), "{mode:?}: nothing keeps them");
    }
}

#[test]
fn a_session_that_was_silent_for_longer_goes_where_the_policy_sends_it() {
    for mode in [RouterMode::RoundRobin, RouterMode::Random, RouterMode::LeastLoaded] {
        let returns = run(0, &sessions(2_000.0), mode, Some(1_000));
        assert!(workers_met(&returns, 0).contains(&2), "{mode:?}");
        let before = run(0, &sessions(900.0), mode, Some(1_000));
        assert_eq!(workers_met(&before, 0), [1; 12], "{mode:?}");
    }
}

#[test]
fn decode_workers_are_chosen_anew_for_every_request() {
    for mode in [RouterMode::RoundRobin, RouterMode::KvRouter] {
        let record = run(3, &sessions(20.0), mode, Some(1_000));
        assert_eq!(workers_met(&record, 0), [1; 12], "{mode:?}");
        assert!(workers_met(&record, 1).iter().any(|&workers| workers > 1), "{mode:?}");
    }
}
