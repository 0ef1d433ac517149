//! The first token behind a hand-off: vLLM computes it on the decode worker, to SGLang and TensorRT-LLM it is handed over.

use serde_json::{Value, json};
use servecast_cluster::{
    KvRouterOptions, LoadMode, Observer, PoolEngine, RouterMode, RouterOptions, Simulation,
    SimulationOptions, Topology,
};
use servecast_engine::{EngineArgs, EngineTracing, Iteration};
use servecast_record::{RequestRecord, RunRecord};
use servecast_router::KvRouterConfig;
use servecast_types::{Duration, RequestId, Role, Time, WorkerId};
use servecast_workload::{Load, TraceRow, Workload};

/// Engines whose decode workers get the first token with the KV.
const TAKE_IT: [&str; 2] = ["sglang", "trtllm"];

/// When each token of each request was out, by the iterations of the last stage.
#[derive(Default)]
struct Tokens(Vec<(RequestId, Time)>);

impl Observer for Tokens {
    fn iteration(&mut self, pool: Role, _worker: WorkerId, iteration: &Iteration) {
        if pool == Role::Decode {
            self.0.extend(iteration.joined.iter().map(|joined| (joined.id, iteration.scheduled_at)));
            self.0.extend(iteration.emitted.iter().map(|emitted| (emitted.id, iteration.end)));
        }
    }
}

/// A request of so many tokens in and out, with a prompt of its own.
fn row(line: u64, timestamp_ms: f64, input: u64, output: u64) -> TraceRow {
    TraceRow {
        line,
        timestamp_ms: Some(timestamp_ms),
        input_length: Some(input),
        output_length: output,
        hash_ids: (0..input.div_ceil(512)).map(|block| line << 32 | block).collect(),
        ..TraceRow::default()
    }
}

/// One prefill and one decode worker; a pass takes 1 ms, 10 µs a token and 100 µs a request, and KV moves at 25 GB/s.
struct Deployment {
    engine: Value,
    router: RouterOptions,
    load: LoadMode,
}

impl Deployment {
    fn new(engine: &str) -> Self {
        let engine = json!({
            "engine_type": engine, "block_size": 64, "latency": "linear:1000,10,100",
            "kv_bytes_per_token": 131_072, "kv_transfer_bandwidth": 25.0,
        });
        Self { engine, router: RouterOptions::default(), load: LoadMode::OpenLoop }
    }

    /// With a setting that is other than usual.
    fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.engine[key] = value.into();
        self
    }

    /// What came of it, and when each token was out; a run in stretches has to agree with one request by request.
    fn run(&self, rows: &[TraceRow]) -> (RunRecord, Vec<(RequestId, Time)>) {
        let args = EngineArgs::from_json(self.engine.clone()).unwrap();
        let config = args.validate(None).unwrap();
        let pool = PoolEngine { workers: 1, args: &args, config: &config };
        let topology = Topology::disaggregated(pool, pool).unwrap();
        let load = match self.load {
            LoadMode::OpenLoop => Load::Open { arrival_speedup_ratio: 1.0 },
            LoadMode::ClosedLoop { .. } => Load::Closed,
        };
        let run = |plain| {
            let options = SimulationOptions {
                check: true,
                plain,
                load: self.load,
                router: self.router.clone(),
                tracing: EngineTracing::default(),
                ..SimulationOptions::default()
            };
            let workload = Workload::from_rows(rows, 512, load).unwrap();
            let mut tokens = Tokens::default();
            let record = Simulation::new(&topology, workload, &options).unwrap().run(&mut tokens).unwrap();
            (record, tokens.0)
        };
        let (fast, (plain, tokens)) = (run(false).0, run(true));
        assert_eq!((&fast.requests, &fast.gaps, &fast.pools), (&plain.requests, &plain.gaps, &plain.pools));
        (plain, tokens)
    }
}

/// Milliseconds from arrival to first and to last token.
fn latencies(record: &RunRecord) -> Vec<(f64, f64)> {
    let ms = |request: &servecast_record::RequestRecord| {
        let of = |time: Option<Time>| time.unwrap().since(request.arrival).as_ns() as f64 / 1e6;
        (of(request.first_token), of(request.last_token))
    };
    record.requests.iter().map(ms).collect()
}

fn near(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-3, "{found} ms, expected {expected}");
}

/// 21.58 ms for the prompt, 10.737 ms for its KV: the token is out then, and each other one takes a pass of 1.11 ms.
#[test]
fn it_comes_with_the_kv_and_the_others_follow() {
    for engine in TAKE_IT {
        let rows = [row(1, 0.0, 2048, 1), row(2, 5000.0, 2048, 3)];
        let (record, tokens) = Deployment::new(engine).run(&rows);
        let [(ttft, e2e), (second_ttft, second_e2e)] = latencies(&record)[..] else { panic!("two requests") };
        near(ttft, 32.317);
        near(e2e, 32.317);
        near(second_ttft, 32.317);
        near(second_e2e, 34.537);
        assert_eq!(
            record.pools[1].totals.iterations, 2,
            "{engine}: no pass for a token that was handed over"
        );
        for (id, request) in (0..).zip(&record.requests) {
            let out: Vec<Time> = tokens.iter().filter(|one| one.0.0 == id).map(|one| one.1).collect();
            let known = [request.first_token, request.second_token, request.last_token];
            let expected: Vec<Time> = known.into_iter().flatten().collect();
            let expected = if request.output_tokens == 1 { &expected[..1] } else { &expected[..] };
            assert_eq!(out, expected, "{engine}: iterations say when each token was out");
        }
    }
}

#[test]
fn vllm_computes_it_again() {
    let rows = [row(1, 0.0, 2048, 1), row(2, 5000.0, 2048, 3)];
    let (record, tokens) = Deployment::new("vllm").run(&rows);
    let [(ttft, _), (_, second_e2e)] = latencies(&record)[..] else { panic!("two requests") };
    near(ttft, 33.427);
    near(second_e2e, 35.647);
    assert_eq!((record.pools[1].totals.iterations, tokens.len()), (4, 4));
}

#[test]
fn its_time_is_that_of_the_prompt_and_of_the_transfer() {
    for engine in TAKE_IT {
        let (record, _) = Deployment::new(engine).run(&[row(1, 0.0, 2048, 3)]);
        let parts = record.ttft_breakdown(0).unwrap();
        assert_eq!(
            parts.prefill_compute.as_ns(),
            21_580_000,
            "{engine}: nothing is computed on the decode worker"
        );
        assert_eq!(parts.kv_transfer.as_ns(), 10_737_418, "{engine}");
        assert_eq!(Some(parts.total()), record.requests[0].ttft(), "{engine}");
        let output = &record.requests[0].stages[1];
        assert_eq!(output.admitted, output.first_token, "{engine}");
    }
}

/// A pass of a busy decode worker sees transfers when it starts.
#[test]
fn it_waits_for_the_pass_in_which_its_request_is_admitted() {
    for engine in TAKE_IT {
        let rows = [row(1, 0.0, 512, 60), row(2, 20.0, 1024, 4), row(3, 20.0, 1024, 1)];
        let (record, _) = Deployment::new(engine).run(&rows);
        let busy = &record.requests[0];
        for request in &record.requests[1..] {
            let stage = &request.stages[1];
            let (arrived, first) = (stage.transfer_end.unwrap(), request.first_token.unwrap());
            assert!(arrived <= first && busy.ended > first, "{engine}: the first request still runs");
            // Passes of one to three requests follow each other without a gap.
            assert!(first.since(arrived).as_ns() < 1_330_000, "{engine}: it waits for more than one pass");
        }
        assert_eq!(record.requests[2].ended, record.requests[2].first_token.unwrap());
    }
}

/// A session goes on when a turn has ended with the token that was handed over, as does a closed loop.
#[test]
fn what_ends_with_it_makes_room_for_others() {
    for engine in TAKE_IT {
        let turn = |line, delay_ms: Option<f64>| TraceRow {
            session_id: Some("s".to_owned()),
            timestamp_ms: delay_ms.is_none().then_some(0.0),
            delay_ms,
            ..row(line, 0.0, 2048, 1)
        };
        let (record, _) = Deployment::new(engine).run(&[turn(1, None), turn(2, Some(5.0))]);
        let [first, second] = &record.requests[..] else { panic!("two turns") };
        assert_eq!(second.arrival.since(first.ended).as_ns(), 5_000_000, "{engine}");
        let closed = Deployment { load: LoadMode::ClosedLoop { concurrency: 1 }, ..Deployment::new(engine) };
        let (record, _) = closed.run(&[row(1, 0.0, 2048, 1), row(2, 0.0, 2048, 1)]);
        assert_eq!(record.requests[1].arrival, record.requests[0].ended, "{engine}");
    }
}

/// With one place in the batch, requests that end at once still come one after the other.
#[test]
fn who_is_admitted_needs_a_place_even_to_end_at_once() {
    for engine in TAKE_IT {
        let rows = [row(1, 0.0, 512, 40), row(2, 0.0, 512, 1)];
        let (record, _) = Deployment::new(engine).with("max_num_seqs", 1).run(&rows);
        let [busy, waiting] = &record.requests[..] else { panic!("two requests") };
        // TensorRT-LLM begins a transfer, as vLLM does, only when there is a place.
        let transfer_ms = if engine == "trtllm" { 2.684 } else { 0.0 };
        near(waiting.first_token.unwrap().since(busy.ended).as_ns() as f64 / 1e6, transfer_ms);
        assert_eq!(waiting.first_token, waiting.last_token, "{engine}");
    }
}

/// The prompt fills the context but for one token: the one that is handed over is the last one.
#[test]
fn it_is_the_last_one_where_there_is_room_for_no_more() {
    let (record, _) = Deployment::new("trtllm").with("max_model_len", 65).run(&[row(1, 0.0, 64, 10)]);
    let request = &record.requests[0];
    assert!(request.is_finished(), "{:?}", request.status);
    assert_eq!((request.output_tokens, request.first_token), (1, request.last_token));
}

/// The KV-aware router learns of it: with output tracked, blocks that a request will fill count from its first token on.
#[test]
fn routers_follow_it() {
    for engine in TAKE_IT {
        let settings = json!({"router_track_output_blocks": true});
        let settings = KvRouterConfig::from_json(&settings).and_then(|config| config.validate()).unwrap();
        let kv = KvRouterOptions { settings, event_delay: Duration::ZERO };
        let router = RouterOptions { mode: RouterMode::KvRouter, kv, ..RouterOptions::default() };
        let deployment = Deployment { router, ..Deployment::new(engine) };
        let rows = [row(1, 0.0, 2048, 1), row(2, 1.0, 1024, 70), row(3, 2.0, 512, 2)];
        let (record, _) = deployment.run(&rows);
        assert!(record.requests.iter().all(RequestRecord::is_finished));
        near(latencies(&record)[0].0, 32.317);
    }
}
