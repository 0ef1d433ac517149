//! What a host takes besides passes: gaps between passes, the way to the engine, and the way of tokens to their clients.

use std::sync::Arc;

use serde_json::{Value, json};
use servecast_cluster::{
    LoadMode, Observer, PoolEngine, RouterOptions, Simulation, SimulationOptions, Topology,
};
use servecast_engine::EngineArgs;
use servecast_latency::{Batch, LatencyModel, PassTime};
use servecast_record::RunRecord;
use servecast_types::Time;
use servecast_workload::{Load, TraceRow, Workload};

/// A pass takes 10 ms, whatever is in it.
#[derive(Debug)]
struct Tens;

impl LatencyModel for Tens {
    fn pass(&self, _: &Batch) -> PassTime {
        PassTime { prompt_ms: 0.0, decode_ms: 10.0 }
    }
}

fn row(line: u64, at_ms: f64, input: u64, output: u64) -> TraceRow {
    TraceRow {
        line,
        timestamp_ms: Some(at_ms),
        input_length: Some(input),
        output_length: output,
        hash_ids: (0..input.div_ceil(16)).map(|block| line << 32 | block).collect(),
        ..TraceRow::default()
    }
}

fn serve(rows: &[TraceRow], settings: Value, load: LoadMode) -> RunRecord {
    let mut args = json!({"block_size": 16, "num_gpu_blocks": 1000, "latency": "callable:tens"});
    let Value::Object(settings) = settings else { panic!("settings are an object") };
    args.as_object_mut().unwrap().extend(settings);
    let args = EngineArgs::from_json(args).unwrap();
    let config = args.validate(Some(Arc::new(Tens))).unwrap();
    let topology = Topology::aggregated(PoolEngine { workers: 1, args: &args, config: &config }).unwrap();
    let by =
        if load == LoadMode::OpenLoop { Load::Open { arrival_speedup_ratio: 1.0 } } else { Load::Closed };
    let runs = [false, true].map(|plain| {
        let options = SimulationOptions {
            load,
            plain,
            check: true,
            router: RouterOptions::default(),
            ..SimulationOptions::default()
        };
        let workload = Workload::from_rows(rows, 16, by).unwrap();
        Simulation::new(&topology, workload, &options).unwrap().run(&mut Nobody).unwrap()
    });
    let [fast, plain] = runs;
    assert_eq!((&fast.requests, &fast.gaps, &fast.pools), (&plain.requests, &plain.gaps, &plain.pools));
    fast
}

struct Nobody;
impl Observer for Nobody {}

/// First and last token, in ms.
fn tokens(run: &RunRecord) -> Vec<(f64, f64)> {
    let ms = |time: Option<Time>| time.unwrap().as_ms();
    run.requests.iter().map(|request| (ms(request.first_token), ms(request.last_token))).collect()
}

fn gaps(run: &RunRecord) -> Vec<(f64, u64)> {
    run.gaps.sorted().into_iter().map(|(gap, times)| (gap.as_ms(), times)).collect()
}

#[test]
fn a_gap_lies_between_passes_and_not_before_the_first() {
    let run = serve(&[row(1, 0.0, 20, 4)], json!({"host": {"gap_us": 2000}}), LoadMode::OpenLoop);
    assert_eq!(tokens(&run), [(10.0, 46.0)]);
    assert_eq!(gaps(&run), [(12.0, 3)]);
    // Passes alone are time in iterations.
    assert_eq!(run.pools[0].workers[0].busy_ns, 40_000_000);
    // A gap of 2 ms and 1 ms for each request: 3 after the pass of one, 4 after those of two.
    let host = json!({"host": {"gap_us": 2000, "gap_us_per_request": 1000}});
    let both = serve(&[row(1, 0.0, 20, 3), row(2, 1.0, 20, 2)], host, LoadMode::OpenLoop);
    assert_eq!(tokens(&both), [(10.0, 37.0), (23.0, 37.0)]);
}

#[test]
fn who_comes_in_a_gap_waits_for_its_end() {
    let run = serve(
        &[row(1, 0.0, 20, 1), row(2, 11.0, 20, 1), row(3, 40.0, 20, 1)],
        json!({"host": {"gap_us": 5000}}),
        LoadMode::OpenLoop,
    );
    assert_eq!(tokens(&run), [(10.0, 10.0), (25.0, 25.0), (50.0, 50.0)]);
}

#[test]
fn a_gap_holds_under_asynchronous_scheduling_too() {
    let settings = json!({"async_scheduling": true, "host": {"gap_us": 2000}});
    let run = serve(&[row(1, 0.0, 20, 4)], settings, LoadMode::OpenLoop);
    assert_eq!(tokens(&run), [(10.0, 46.0)]);
}

#[test]
fn delivery_delays_what_clients_see_and_not_the_engine() {
    let host = json!({"host": {"delivery_us": 3000, "delivery_us_per_request": 500}});
    let rows = [row(1, 0.0, 20, 3), row(2, 5.0, 20, 3)];
    let run = serve(&rows, host, LoadMode::OpenLoop);
    // Passes end at 10 (of one request), 20 and 30 (of two), 40 (of one).
    assert_eq!(tokens(&run), [(13.5, 34.0), (24.0, 43.5)]);
    assert_eq!(gaps(&run), [(9.5, 1), (10.0, 2), (10.5, 1)]);
    let stage = &run.requests[1].stages[0];
    assert_eq!(
        (stage.first_token, stage.last_token),
        (Some(Time::from_ms(20.0).unwrap()), Some(Time::from_ms(40.0).unwrap()))
    );
    assert!(run.requests.iter().all(|request| Some(request.ended) == request.last_token));
    // What lies outside the engine is the front end, both ways, and parts add up.
    for ordinal in 0..2 {
        let parts = run.ttft_breakdown(ordinal).unwrap();
        assert_eq!(Some(parts.total()), run.requests[ordinal].ttft());
    }
    assert_eq!(run.ttft_breakdown(1).unwrap().front_end.as_ns(), 4_000_000);
}

#[test]
fn tokens_do_not_overtake_those_of_the_pass_before() {
    // 30 ms for each request in a pass: the pass of one ends 10 ms after that of two, and would be out 20 ms before it.
    let host = json!({"host": {"delivery_us_per_request": 30_000}});
    let run = serve(&[row(1, 0.0, 20, 2), row(2, 1.0, 20, 2)], host, LoadMode::OpenLoop);
    // Passes end at 10 (one), 20 (two), 30 (one).
    assert_eq!(tokens(&run), [(40.0, 80.0), (80.0, 80.0)]);
}

#[test]
fn a_client_sends_its_next_request_when_it_has_the_answer() {
    let host = json!({"host": {"front_end_us": 4000, "delivery_us": 3000}});
    let rows = [row(1, 0.0, 20, 2), row(2, 0.0, 20, 1)];
    let run = serve(&rows, host, LoadMode::ClosedLoop { concurrency: 1 });
    assert_eq!(tokens(&run), [(17.0, 27.0), (44.0, 44.0)]);
    assert_eq!(run.requests[1].arrival.as_ns(), 27_000_000);
    let mut turns = [row(1, 0.0, 20, 2), row(2, 0.0, 40, 1)];
    for turn in &mut turns {
        turn.session_id = Some("s".to_owned());
    }
    turns[1].timestamp_ms = None;
    turns[1].delay_ms = Some(6.0);
    let host = json!({"host": {"front_end_us": 4000, "delivery_us": 3000}});
    let run = serve(&turns, host, LoadMode::OpenLoop);
    assert_eq!(run.requests[1].arrival.as_ns(), 33_000_000);
}

#[test]
fn a_long_prompt_is_longer_on_its_way() {
    let host = json!({"host": {"front_end_us": 1000, "front_end_us_per_1k_prompt_tokens": 10_000}});
    let run = serve(&[row(1, 0.0, 2000, 1), row(2, 3.0, 100, 1)], host, LoadMode::OpenLoop);
    // The second is at the engine after 5 ms, the first after 21 ms. Requests are in order of arrival there.
    let arrived: Vec<(u64, f64)> =
        run.requests.iter().map(|request| (request.line, request.stages[0].arrived.as_ms())).collect();
    assert_eq!(arrived, [(2, 5.0), (1, 21.0)]);
    assert_eq!(run.requests[1].arrival, Time::ZERO);
}
