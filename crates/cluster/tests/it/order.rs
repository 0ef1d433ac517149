//! Waiting queues in the order of a program, in whole deployments.

use std::sync::{Arc, Mutex};

use serde_json::json;
use servecast_cluster::{PoolEngine, RouterMode, RouterOptions, Simulation, SimulationOptions, Topology};
use servecast_engine::{EngineArgs, Order, WaitingRequest};
use servecast_record::RunRecord;
use servecast_types::{RequestId, Role, Time};
use servecast_workload::{Load, TraceRow, Workload};

/// Long prompts first; notes who was asked for.
#[derive(Debug, Default)]
struct Longest(Mutex<Vec<RequestId>>);

impl Order for Longest {
    fn key(&self, request: &WaitingRequest, now: Time) -> f64 {
        assert_eq!(now, request.arrival);
        self.0.lock().unwrap().push(request.id);
        -f64::from(request.prompt_tokens)
    }

    fn is_fixed(&self) -> bool {
        true
    }
}

/// Requests of 64, 128, ... tokens, so many at each millisecond.
fn rows(count: u64, at_a_time: u64) -> Vec<TraceRow> {
    let row = |number: u64| TraceRow {
        line: number + 1,
        timestamp_ms: Some((number / at_a_time) as f64),
        input_length: Some(64 * (number % at_a_time + 1)),
        output_length: 2,
        hash_ids: (1_000 * number..=1_000 * number + number % at_a_time).collect(),
        ..TraceRow::default()
    };
    (0..count).map(row).collect()
}

/// Workers that serve one request at a time.
fn engine(num_gpu_blocks: u32) -> EngineArgs {
    let settings = json!({
        "latency": "linear:1000,10,0", "block_size": 64, "max_num_seqs": 1, "num_gpu_blocks": num_gpu_blocks,
    });
    EngineArgs::from_json(settings).unwrap()
}

fn run(
    topology: &Topology,
    rows: &[TraceRow],
    order: impl FnMut(Role) -> Option<Arc<dyn Order>>,
) -> RunRecord {
    let workload = Workload::from_rows(rows, 64, Load::Open { arrival_speedup_ratio: 1.0 }).unwrap();
    let router = RouterOptions { mode: RouterMode::RoundRobin, ..RouterOptions::default() };
    let options = SimulationOptions { router, check: true, ..SimulationOptions::default() };
    Simulation::new(topology, workload, &options).unwrap().with_order(order).run(&mut ()).unwrap()
}

/// The lines of requests in the order in which a stage admitted them.
fn admitted(record: &RunRecord, stage: usize) -> Vec<u64> {
    let mut lines: Vec<(Option<Time>, u64)> =
        record.requests.iter().map(|request| (request.stages[stage].admitted, request.line)).collect();
    lines.sort_unstable();
    lines.into_iter().map(|(_, line)| line).collect()
}

/// Workers behind a policy that does not look at them take requests in long after these came.
#[test]
fn a_fixed_order_is_asked_as_requests_are_sent() {
    let args = engine(1000);
    let config = args.validate(None).unwrap();
    let topology = Topology::aggregated(PoolEngine { workers: 3, args: &args, config: &config }).unwrap();
    let order = Arc::new(Longest::default());
    let record = run(&topology, &rows(300, 10), |_| Some(Arc::clone(&order) as Arc<dyn Order>));
    assert_eq!(record.requests.len(), 300);
    let expected: Vec<RequestId> = (0..300).map(RequestId).collect();
    assert_eq!(*order.0.lock().unwrap(), expected);
}

#[test]
fn each_pool_has_an_order_of_its_own() {
    let args = engine(1000);
    let config = args.validate(None).unwrap();
    let pool = PoolEngine { workers: 1, args: &args, config: &config };
    let topology = Topology::disaggregated(pool, pool).unwrap();
    let longest = |roles: &'static [Role]| {
        move |role: Role| roles.contains(&role).then(|| Arc::new(Longest::default()) as Arc<dyn Order>)
    };
    let by = |roles| {
        let record = run(&topology, &rows(4, 4), longest(roles));
        (admitted(&record, 0), admitted(&record, 1))
    };
    assert_eq!(by(&[]), (vec![1, 2, 3, 4], vec![1, 2, 3, 4]));
    assert_eq!(by(&[Role::Prefill]), (vec![4, 3, 2, 1], vec![4, 3, 2, 1]));
    assert_eq!(by(&[Role::Decode]).0, [1, 2, 3, 4]);
}
