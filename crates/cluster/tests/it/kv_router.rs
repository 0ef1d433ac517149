//! The KV-aware router in a deployment: what it sees of caches and load, and what it does with a request that has to wait.

use serde_json::{Value, json};
use servecast_cluster::{
    KvRouterOptions, Observer, PoolEngine, Routed, RouterMode, RouterOptions, Simulation, SimulationOptions,
    Topology,
};
use servecast_engine::EngineArgs;
use servecast_record::RunRecord;
use servecast_router::KvRouterConfig;
use servecast_types::{Duration, Role};
use servecast_workload::{Load, TraceRow, Workload};

/// Requests of 160 tokens, ten blocks, at the given times in ms; equal families have equal prompts.
fn rows(requests: &[(f64, u64)]) -> Vec<TraceRow> {
    let row = |(number, &(timestamp_ms, family)): (usize, &(f64, u64))| TraceRow {
        line: number as u64 + 1,
        timestamp_ms: Some(timestamp_ms),
        input_length: Some(160),
        output_length: 4,
        hash_ids: (0..10).map(|block| family << 32 | block).collect(),
        ..TraceRow::default()
    };
    requests.iter().enumerate().map(row).collect()
}

#[derive(Default)]
struct Decisions(Vec<Routed>);

impl Observer for Decisions {
    fn routed(&mut self, routed: &Routed) {
        self.0.push(routed.clone());
    }
}

struct Deployment {
    workers: u32,
    decode_workers: Option<u32>,
    engine: Value,
    router: Value,
    event_delay_ms: u64,
}

impl Default for Deployment {
    fn default() -> Self {
        Self { workers: 2, decode_workers: None, engine: json!({}), router: json!({}), event_delay_ms: 0 }
    }
}

impl Deployment {
    /// An iteration takes 1 ms and 10 µs a token: 2.6 ms for one of these prompts.
    fn run(&self, requests: &[(f64, u64)]) -> (RunRecord, Vec<Routed>) {
        let mut settings = json!({"latency": "linear:1000,10,0", "block_size": 16, "num_gpu_blocks": 200});
        settings.as_object_mut().unwrap().extend(self.engine.as_object().cloned().unwrap_or_default());
        let args = EngineArgs::from_json(settings).unwrap();
        let config = args.validate(None).unwrap();
        let pool = |workers| PoolEngine { workers, args: &args, config: &config };
        let topology = match self.decode_workers {
            None => Topology::aggregated(pool(self.workers)).unwrap(),
            Some(decode) => Topology::disaggregated(pool(self.workers), pool(decode)).unwrap(),
        };
        let settings = KvRouterConfig::from_json(&self.router).unwrap().validate().unwrap();
        let kv =
            KvRouterOptions { settings, event_delay: Duration::from_ns(self.event_delay_ms * 1_000_000) };
        let router = RouterOptions { mode: RouterMode::KvRouter, kv, ..RouterOptions::default() };
        let options =
            SimulationOptions { router, check: true, record_routing: true, ..SimulationOptions::default() };
        let load = Load::Open { arrival_speedup_ratio: 1.0 };
        let workload = Workload::from_rows(&rows(requests), 16, load).unwrap();
        let mut decisions = Decisions::default();
        let record = Simulation::new(&topology, workload, &options).unwrap().run(&mut decisions).unwrap();
        (record, decisions.0)
    }
}

fn overlaps(decisions: &[Routed]) -> Vec<u32> {
    decisions.iter().map(|routed| routed.admission.ticket.overlap_blocks).collect()
}

#[test]
fn a_prompt_goes_where_it_is_cached() {
    let (record, decisions) = Deployment::default().run(&[(0.0, 1), (100.0, 2), (200.0, 1), (300.0, 2)]);
    assert_eq!(overlaps(&decisions), [0, 0, 10, 10]);
    let workers: Vec<u32> = record.requests.iter().map(|request| request.stages[0].worker.0).collect();
    assert_eq!(workers[0], workers[2]);
    assert_eq!(workers[1], workers[3]);
    assert_eq!(record.requests[2].reused_tokens(), 144, "the last block is computed again");
}

#[test]
fn kv_events_are_seen_when_the_iteration_ends_and_the_delay_is_over() {
    let requests = [(0.0, 1), (2.5, 1), (2.6, 1)];
    let (_, decisions) = Deployment { workers: 1, ..Deployment::default() }.run(&requests);
    assert_eq!(overlaps(&decisions), [0, 0, 10], "the first prompt is computed after 2.6 ms");
    let late = Deployment { workers: 1, event_delay_ms: 10, ..Deployment::default() };
    assert_eq!(overlaps(&late.run(&[(0.0, 1), (12.5, 1), (12.6, 1)]).1), [0, 0, 10]);
}

#[test]
fn without_prefix_caching_there_is_no_credit() {
    let engine = json!({"enable_prefix_caching": false});
    let (_, decisions) = Deployment { engine, ..Deployment::default() }.run(&[(0.0, 1), (100.0, 1)]);
    assert_eq!(overlaps(&decisions), [0, 0]);
}

#[test]
fn without_kv_events_the_router_goes_by_its_own_decisions() {
    let router = json!({"use_kv_events": false, "router_ttl_secs": 0.05});
    let requests = [(0.0, 1), (1.0, 1), (200.0, 1)];
    let (_, decisions) = Deployment { router, ..Deployment::default() }.run(&requests);
    assert_eq!(overlaps(&decisions), [0, 10, 0], "known at once, and forgotten after the time to live");
}

#[test]
fn a_request_waits_in_the_router_while_every_worker_is_busy_even_if_there_is_one() {
    let engine = json!({"max_num_batched_tokens": 200});
    let router = json!({"router_queue_threshold": 0.5});
    let deployment = Deployment { workers: 1, engine, router, ..Deployment::default() };
    let (record, decisions) = deployment.run(&[(0.0, 1), (1.0, 2), (1.5, 3)]);
    let waits: Vec<u64> = decisions.iter().map(|routed| routed.admission.queue_wait.as_ns() / 1000).collect();
    assert_eq!(waits[0], 0);
    assert_eq!(waits[1], 1600, "until the first prompt is computed");
    let stages: Vec<_> = record.requests.iter().map(|request| &request.stages[0]).collect();
    assert_eq!(stages[1].queued.since(stages[1].arrived).as_ns(), 1_600_000);
    assert!(stages[2].queued > stages[1].queued, "nobody overtakes");
}

#[test]
fn the_decode_router_counts_blocks_only_and_the_prefill_router_none() {
    let deployment = Deployment { decode_workers: Some(2), ..Deployment::default() };
    let (record, decisions) = deployment.run(&[(0.0, 1), (100.0, 1), (100.0, 1)]);
    assert_eq!(decisions.len(), 6);
    for routed in &decisions {
        let settings = routed.admission.ticket.settings;
        let terms = &routed.admission.terms;
        if routed.pool == Role::Decode {
            assert_eq!((settings.overlap_score_weight, settings.track_prefill_tokens), (0.0, false));
            assert!(
                terms
                    .iter()
                    .all(|candidate| candidate.cost.to_bits() == (candidate.decode_blocks as f64).to_bits())
            );
        } else {
            assert_eq!((settings.overlap_score_weight, settings.track_prefill_tokens), (1.0, true));
            assert!(terms.iter().all(|candidate| candidate.decode_blocks == 0));
        }
    }
    let decode: Vec<u32> = record.requests[1..].iter().map(|request| request.stages[1].worker.0).collect();
    assert_ne!(decode[0], decode[1], "two requests at a time go to two workers");
}
