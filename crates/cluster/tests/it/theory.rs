//! What queueing theory says of systems that a deployment can be made to be, and laws that hold in every one.

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use serde_json::{Value, json};
use servecast_cluster::{LoadMode, Observer, PoolEngine, Simulation, SimulationOptions, Topology};
use servecast_engine::{Decodes, EngineArgs, Iteration};
use servecast_record::{RequestRecord, RunRecord};
use servecast_types::{Role, WorkerId};
use servecast_workload::{Load, TraceRow, Workload};

/// Prompts are of that many tokens, and share nothing.
const PROMPT: u64 = 16;

/// Requests with the given gaps in front of them, in ms, and numbers of output tokens.
fn rows(requests: impl Iterator<Item = (f64, u64)>) -> Vec<TraceRow> {
    let mut at = 0.0;
    let row = |(index, (gap_ms, output_length)): (usize, (f64, u64))| {
        at += gap_ms;
        TraceRow {
            line: index as u64 + 1,
            timestamp_ms: Some(at),
            input_length: Some(PROMPT),
            output_length,
            hash_ids: vec![index as u64],
            ..TraceRow::default()
        }
    };
    requests.enumerate().map(row).collect()
}

/// Runs them on one worker of vLLM.
#[expect(clippy::needless_pass_by_value, reason = "called with `json!`")]
fn run(rows: &[TraceRow], settings: Value, load: LoadMode, observer: &mut impl Observer) -> RunRecord {
    let mut all = json!({"block_size": 16, "num_gpu_blocks": 100_000, "max_num_batched_tokens": 8192});
    all.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
    let args = EngineArgs::from_json(all).unwrap();
    let config = args.validate(None).unwrap();
    let topology = Topology::aggregated(PoolEngine { workers: 1, args: &args, config: &config }).unwrap();
    let arrivals = match load {
        LoadMode::OpenLoop => Load::Open { arrival_speedup_ratio: 1.0 },
        LoadMode::ClosedLoop { .. } => Load::Closed,
    };
    let workload = Workload::from_rows(rows, PROMPT as u32, arrivals).unwrap();
    let options = SimulationOptions { load, ..SimulationOptions::default() };
    Simulation::new(&topology, workload, &options).unwrap().run(observer).unwrap()
}

fn mean(run: &RunRecord, of: impl Fn(&RequestRecord) -> f64) -> f64 {
    run.requests.iter().map(of).sum::<f64>() / run.requests.len() as f64
}

/// From arrival to the iteration that takes the request in, in ms.
fn wait(request: &RequestRecord) -> f64 {
    request.stages[0].admitted.unwrap().since(request.arrival).as_ms()
}

fn exponential(random: &mut Pcg64, mean: f64) -> f64 {
    -mean * (1.0 - random.random::<f64>()).ln()
}

#[track_caller]
fn is_near(found: f64, expected: f64, share: f64) {
    assert!((found / expected - 1.0).abs() < share, "{found}, in theory {expected}");
}

/// Random arrivals, one request at a time, all of one length: mean wait ρ·D / 2(1 − ρ).
#[test]
fn one_at_a_time_waits_as_in_an_m_d_1_queue() {
    // A prompt of 16 tokens and its first token, nothing else.
    let service_ms = 2.0;
    for utilization in [0.3, 0.6, 0.8] {
        let mut random = Pcg64::seed_from_u64(1);
        let gap_ms = service_ms / utilization;
        let rows = rows((0..60_000).map(|_| (exponential(&mut random, gap_ms), 1)));
        let settings = json!({"latency": "linear:1840,10,0", "max_num_seqs": 1});
        let run = run(&rows, settings, LoadMode::OpenLoop, &mut ());
        is_near(mean(&run, wait), utilization * service_ms / (2.0 * (1.0 - utilization)), 0.04);
    }
}

/// Mean wait of an M/M/k queue: Erlang's C formula, over k·μ − λ.
fn m_m_k(servers: u32, arrivals: f64, services: f64) -> f64 {
    let load = arrivals / services;
    let utilization = load / f64::from(servers);
    let mut term = 1.0;
    let mut sum = 0.0;
    for busy in 0..servers {
        sum += term;
        term *= load / f64::from(busy + 1);
    }
    let all_busy = term / (1.0 - utilization);
    all_busy / (sum + all_busy) / (f64::from(servers) * services - arrivals)
}

#[test]
fn the_formula_for_one_server_is_that_of_an_m_m_1_queue() {
    is_near(m_m_k(1, 0.5, 1.0), 1.0, 1e-12);
    // Two servers at 0.75: C = 2ρ² / (1 + ρ).
    is_near(m_m_k(2, 1.5, 1.0), 2.0 * 0.75 * 0.75 / 1.75 / 0.5, 1e-12);
}

/// Places for k requests, each of which leaves after an exponential number of iterations of equal length: M/M/k.
#[test]
fn places_of_a_batch_are_the_servers_of_an_m_m_k_queue() {
    let (iteration_ms, mean_tokens) = (1.0, 40.0);
    for (servers, utilization) in [(1, 0.6), (3, 0.7), (8, 0.8)] {
        let mut random = Pcg64::seed_from_u64(2);
        let service_ms = iteration_ms * mean_tokens;
        let gap_ms = service_ms / utilization / f64::from(servers);
        let requests = (0..60_000).map(|_| {
            // Rounded up, an exponential number has half a token more on average.
            let tokens = exponential(&mut random, mean_tokens - 0.5).ceil().max(1.0);
            (exponential(&mut random, gap_ms), tokens as u64)
        });
        let rows = rows(requests.collect::<Vec<_>>().into_iter());
        let settings = json!({"latency": "linear:1000,0,0", "max_num_seqs": servers});
        let run = run(&rows, settings, LoadMode::OpenLoop, &mut ());
        // Who comes to a worker that is busy also waits for the iteration under way, half of one on average.
        let alignment_ms = 0.5 * iteration_ms * (1.0 - idle(&run));
        is_near(mean(&run, wait), m_m_k(servers, 1.0 / gap_ms, 1.0 / service_ms) + alignment_ms, 0.08);
    }
}

/// Share of the time in which the worker was in no iteration.
fn idle(run: &RunRecord) -> f64 {
    1.0 - run.pools[0].workers[0].busy_ns as f64 / 1e6 / duration_ms(run)
}

fn duration_ms(run: &RunRecord) -> f64 {
    run.requests.iter().map(|request| request.ended.as_ms()).fold(0.0, f64::max)
}

/// Adds up, over all iterations, how long they took times how many requests were in them.
#[derive(Default)]
struct InService {
    request_ms: f64,
}

impl Observer for InService {
    fn iteration(&mut self, _: Role, _: WorkerId, iteration: &Iteration) {
        let requests = iteration.num_scheduled() as f64;
        self.request_ms += requests * iteration.end.since(iteration.start).as_ms();
    }

    fn decoded(&mut self, _: Role, _: WorkerId, decodes: &Decodes) {
        self.request_ms += decodes.requests as f64 * decodes.end().since(decodes.start).as_ms();
    }
}

/// Little's law: requests in service, as iterations have it, are throughput times time in service, as requests have it.
#[test]
fn littles_law_holds_between_iterations_and_requests() {
    let mut random = Pcg64::seed_from_u64(3);
    let requests = (0..3_000).map(|_| {
        let tokens = exponential(&mut random, 30.0).ceil().max(1.0) as u64;
        (exponential(&mut random, 9.0), tokens)
    });
    let rows = rows(requests.collect::<Vec<_>>().into_iter());
    for load in [LoadMode::OpenLoop, LoadMode::ClosedLoop { concurrency: 7 }] {
        let mut observer = InService::default();
        let run = run(&rows, json!({"latency": "linear:900,20,40", "max_num_seqs": 5}), load, &mut observer);
        let in_service = observer.request_ms / duration_ms(&run);
        let throughput = run.requests.len() as f64 / duration_ms(&run);
        let time = |request: &RequestRecord| request.ended.since(request.stages[0].admitted.unwrap()).as_ms();
        is_near(in_service, throughput * mean(&run, time), 1e-9);
        if let LoadMode::ClosedLoop { concurrency } = load {
            // As many are there as may be, but for the last few.
            let e2e = mean(&run, |request| request.ended.since(request.arrival).as_ms());
            is_near(throughput * e2e, f64::from(concurrency), 0.01);
        }
    }
}

/// One request after the other, whoever decides when the next one comes: times are sums.
#[test]
fn serial_service_has_a_closed_form() {
    let outputs: Vec<u64> = (0..200).map(|number| 1 + number * 7 % 23).collect();
    let prefill_ms = 0.5 + 16.0 * 0.01 + 0.03;
    let decode_ms = 0.5 + 0.01 + 0.03;
    let service_ms = |output: u64| prefill_ms + (output - 1) as f64 * decode_ms;
    let rows = rows(outputs.iter().map(|&output| (0.0, output)));
    let one_place = json!({"latency": "linear:500,10,30", "max_num_seqs": 1});
    let many_places = json!({"latency": "linear:500,10,30"});
    for (settings, load) in
        [(one_place, LoadMode::OpenLoop), (many_places, LoadMode::ClosedLoop { concurrency: 1 })]
    {
        let run = run(&rows, settings, load, &mut ());
        let mut clock_ms = 0.0;
        for (request, &output) in run.requests.iter().zip(&outputs) {
            let first_ms = clock_ms + prefill_ms;
            clock_ms += service_ms(output);
            let found = [request.first_token, request.last_token].map(|time| time.unwrap().as_ms());
            assert!((found[0] - first_ms).abs() < 1e-6 && (found[1] - clock_ms).abs() < 1e-6, "{request:?}");
        }
        assert!((idle(&run)).abs() < 1e-9);
    }
}
