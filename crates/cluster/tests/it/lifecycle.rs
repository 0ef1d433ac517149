//! Small deployments whose times can be worked out by hand.

use serde_json::{Value, json};
use servecast_cluster::{
    LoadMode, PoolEngine, RouterMode, RouterOptions, RunError, Simulation, SimulationOptions, Topology,
};
use servecast_engine::EngineArgs;
use servecast_record::{RejectReason, RequestStatus, RunRecord};
use servecast_types::{Role, Time};
use servecast_workload::{Load, TraceRow, Workload};

/// An engine whose iterations take 1 ms and 10 µs a token.
#[expect(clippy::needless_pass_by_value, reason = "called with `json!`")]
fn engine(extra: Value) -> EngineArgs {
    let mut settings = json!({"latency": "linear:1000,10,0", "block_size": 16, "num_gpu_blocks": 65});
    settings.as_object_mut().unwrap().extend(extra.as_object().cloned().unwrap_or_default());
    EngineArgs::from_json(settings).unwrap()
}

fn row(line: u64, timestamp_ms: f64, input: u64, output: u64) -> TraceRow {
    let hash_ids = (0..input.div_ceil(16)).map(|block| line << 32 | block).collect();
    TraceRow {
        line,
        timestamp_ms: Some(timestamp_ms),
        input_length: Some(input),
        output_length: output,
        hash_ids,
        ..TraceRow::default()
    }
}

fn turn(line: u64, session: &str, delay_ms: Option<f64>, input: u64) -> TraceRow {
    let timestamp_ms = if delay_ms.is_none() { Some(0.0) } else { None };
    TraceRow { session_id: Some(session.to_owned()), timestamp_ms, delay_ms, ..row(line, 0.0, input, 1) }
}

fn aggregated(workers: u32, args: &EngineArgs) -> Topology {
    let config = args.validate(None).unwrap();
    Topology::aggregated(PoolEngine { workers, args, config: &config }).unwrap()
}

fn disaggregated(prefill: &EngineArgs, decode: &EngineArgs) -> Topology {
    let configs = [prefill, decode].map(|args| args.validate(None).unwrap());
    let pool = |args, config| PoolEngine { workers: 1, args, config };
    Topology::disaggregated(pool(prefill, &configs[0]), pool(decode, &configs[1])).unwrap()
}

fn run(topology: &Topology, rows: &[TraceRow], options: SimulationOptions) -> RunRecord {
    let load = match options.load {
        LoadMode::OpenLoop => Load::Open { arrival_speedup_ratio: 1.0 },
        LoadMode::ClosedLoop { .. } => Load::Closed,
    };
    let workload = Workload::from_rows(rows, 16, load).unwrap();
    let options = SimulationOptions { check: true, ..options };
    Simulation::new(topology, workload, &options).unwrap().run(&mut ()).unwrap()
}

fn router(mode: RouterMode) -> RouterOptions {
    RouterOptions { mode, ..RouterOptions::default() }
}

fn us(time: Option<Time>) -> Option<u64> {
    time.map(|time| time.as_ns() / 1000)
}

#[test]
fn one_request_pays_for_its_prompt_and_for_each_token() {
    let record =
        run(&aggregated(1, &engine(json!({}))), &[row(1, 5.0, 100, 3)], SimulationOptions::default());
    let request = &record.requests[0];
    assert_eq!(us(Some(request.arrival)), Some(0), "the first arrival is time 0");
    assert_eq!(us(request.first_token), Some(2000));
    assert_eq!(us(request.second_token), Some(3010));
    assert_eq!(us(request.last_token), Some(4020));
    let gaps: Vec<_> = record.gaps.sorted().iter().map(|(gap, times)| (gap.as_ns(), *times)).collect();
    assert_eq!(gaps, [(1_010_000, 2)]);
}

#[test]
fn requests_of_one_moment_share_iterations_and_workers_take_turns() {
    let rows = [row(1, 0.0, 100, 1), row(2, 0.0, 50, 1), row(3, 0.0, 100, 1)];
    let record = run(&aggregated(2, &engine(json!({}))), &rows, SimulationOptions::default());
    let workers: Vec<_> = record.requests.iter().map(|request| request.stages[0].worker.0).collect();
    assert_eq!(workers, [0, 1, 0]);
    let first: Vec<_> = record.requests.iter().map(|request| us(request.first_token)).collect();
    assert_eq!(first, [Some(3000), Some(1500), Some(3000)]);
}

#[test]
fn the_least_loaded_worker_gets_the_next_request() {
    let rows = [row(1, 0.0, 100, 50), row(2, 1.0, 10, 1), row(3, 10.0, 10, 1)];
    let options =
        SimulationOptions { router: router(RouterMode::LeastLoaded), ..SimulationOptions::default() };
    let record = run(&aggregated(2, &engine(json!({}))), &rows, options);
    let workers: Vec<_> = record.requests.iter().map(|request| request.stages[0].worker.0).collect();
    assert_eq!((workers[1], workers[2]), (1 - workers[0], 1 - workers[0]));
}

#[test]
fn a_disaggregated_request_passes_through_both_pools() {
    // 100 tokens of 10,000 bytes at 1 GB/s are 1 ms under way; the decode worker computes the last prompt token.
    let prefill = engine(json!({"kv_bytes_per_token": 10_000, "kv_transfer_bandwidth": 1.0}));
    let record = run(
        &disaggregated(&prefill, &engine(json!({}))),
        &[row(1, 0.0, 100, 2)],
        SimulationOptions::default(),
    );
    let [prompt, output] = record.requests[0].stages.as_slice() else { panic!("two stages") };
    assert_eq!((prompt.pool, output.pool), (Role::Prefill, Role::Decode));
    assert_eq!(us(prompt.last_token), Some(2000));
    assert_eq!((us(output.transfer_start), us(output.transfer_end)), (Some(2000), Some(3000)));
    assert_eq!(us(output.admitted), Some(3000));
    assert_eq!(us(record.requests[0].first_token), Some(4010));
    assert_eq!(us(record.requests[0].last_token), Some(5020));
    assert_eq!(record.requests[0].output_tokens, 2, "the token of the prefill stage is not shown");
}

/// Prompts of 100, 200 and 300 tokens are computed by 7 ms, and take 1, 2 and 3 ms alone on their way out of the prefill
/// worker. Each moves a third until the first is there, 3 ms later; then the others move a half for 2 ms, and the last one
/// has 1 ms left.
#[test]
fn transfers_that_leave_one_worker_at_the_same_time_share_its_port() {
    let rows = [row(1, 0.0, 100, 2), row(2, 0.0, 200, 2), row(3, 0.0, 300, 2)];
    for (sharing, ends) in [("shared", [10_000, 12_000, 13_000]), ("dedicated", [8_000, 9_000, 10_000])] {
        let prefill = engine(json!({"kv_bytes_per_token": 10_000, "kv_transfer_bandwidth": 1.0}));
        // Either engine may say it.
        let decode = engine(json!({"kv_transfer_sharing": sharing}));
        let configs = [&prefill, &decode].map(|args| args.validate(None).unwrap());
        let topology = Topology::disaggregated(
            PoolEngine { workers: 1, args: &prefill, config: &configs[0] },
            PoolEngine { workers: 3, args: &decode, config: &configs[1] },
        );
        for plain in [false, true] {
            let options = SimulationOptions { plain, ..SimulationOptions::default() };
            let record = run(topology.as_ref().unwrap(), &rows, options);
            let outputs = record.requests.iter().map(|request| &request.stages[1]);
            assert!(outputs.clone().all(|output| us(output.transfer_start) == Some(7_000)));
            let moved: Vec<_> = outputs.clone().map(|output| us(output.transfer_end).unwrap()).collect();
            assert_eq!(moved, ends, "{sharing}, plain: {plain}");
            let admitted: Vec<_> = outputs.map(|output| us(output.admitted).unwrap()).collect();
            assert_eq!(admitted, ends, "{sharing}, plain: {plain}");
        }
    }
}

/// SGLang has the whole prompt of the second turn in its cache, so that nothing is moved: it is admitted as soon as it is
/// handed over.
#[test]
fn a_transfer_of_nothing_takes_no_time_where_transfers_share_ports() {
    let own = json!({"engine_type": "sglang", "kv_transfer_timing_mode": "destination_missing"});
    let mut prefill = own.clone();
    prefill["kv_bytes_per_token"] = 10_000.into();
    prefill["kv_transfer_bandwidth"] = 1.0.into();
    prefill["kv_transfer_sharing"] = "shared".into();
    let rows = [row(1, 0.0, 96, 2), TraceRow { line: 2, ..row(1, 100.0, 96, 2) }];
    for plain in [false, true] {
        let options = SimulationOptions { plain, ..SimulationOptions::default() };
        let topology = disaggregated(&engine(prefill.clone()), &engine(own.clone()));
        let record = run(&topology, &rows, options);
        let took = |number: usize| {
            let [prompt, output] = record.requests[number].stages.as_slice() else { panic!("two stages") };
            [output.transfer_start, output.transfer_end, output.admitted]
                .map(|at| us(at).unwrap() - us(prompt.last_token).unwrap())
        };
        assert_eq!(took(0), [0, 960, 960], "plain: {plain}");
        assert_eq!(took(1), [0, 0, 0], "plain: {plain}");
    }
}

#[test]
fn kv_stays_on_the_prefill_worker_until_it_has_left() {
    // 4 blocks: the second prompt cannot start before the first has left, 10 ms after it was computed.
    let small = json!({"num_gpu_blocks": 5, "kv_bytes_per_token": 200_000, "kv_transfer_bandwidth": 1.0});
    let rows = [row(1, 0.0, 50, 1), row(2, 0.0, 50, 1)];
    let topology = disaggregated(&engine(small), &engine(json!({})));
    let record = run(&topology, &rows, SimulationOptions::default());
    let prefills: Vec<_> = record.requests.iter().map(|request| us(request.stages[0].admitted)).collect();
    assert_eq!(prefills, [Some(0), Some(11_500)]);
}

#[test]
fn a_closed_loop_counts_sessions_through_their_think_times() {
    let rows = [turn(1, "a", None, 16), turn(2, "a", Some(20.0), 32), turn(3, "b", None, 16)];
    let options =
        SimulationOptions { load: LoadMode::ClosedLoop { concurrency: 1 }, ..SimulationOptions::default() };
    let record = run(&aggregated(1, &engine(json!({}))), &rows, options);
    let arrivals: Vec<_> =
        record.requests.iter().map(|request| (request.line, us(Some(request.arrival)))).collect();
    assert_eq!(arrivals, [(1, Some(0)), (2, Some(21_160)), (3, Some(22_320 + 160))]);
}

#[test]
fn what_can_never_fit_is_rejected_and_the_run_goes_on() {
    let rows = [row(1, 0.0, 64 * 16 + 1, 5), row(2, 0.0, 100, 1)];
    let record = run(&aggregated(1, &engine(json!({}))), &rows, SimulationOptions::default());
    assert_eq!(record.requests[0].status, RequestStatus::Rejected(RejectReason::PromptTooLong));
    assert!(record.requests[0].stages.is_empty());
    assert!(record.requests[1].is_finished());
}

#[test]
fn a_request_that_outgrows_the_cache_is_given_up_with_what_it_has() {
    let record = run(
        &aggregated(1, &engine(json!({"num_gpu_blocks": 5}))),
        &[row(1, 0.0, 60, 100)],
        SimulationOptions::default(),
    );
    let request = &record.requests[0];
    assert_eq!(request.status, RequestStatus::Rejected(RejectReason::KvCapacity));
    assert_eq!(request.output_tokens, 5, "64 tokens fit, and the KV of the last one is not needed");
}

#[test]
fn turns_after_a_rejected_turn_are_rejected_with_it() {
    let rows = [turn(1, "a", None, 16), turn(2, "a", Some(1.0), 2000), turn(3, "a", Some(1.0), 2016)];
    let record = run(&aggregated(1, &engine(json!({}))), &rows, SimulationOptions::default());
    let statuses: Vec<_> = record.requests.iter().map(|request| request.status).collect();
    assert_eq!(
        statuses,
        [
            RequestStatus::Finished,
            RequestStatus::Rejected(RejectReason::PromptTooLong),
            RequestStatus::Rejected(RejectReason::PreviousTurn),
        ]
    );
}

#[test]
fn disaggregated_requests_are_checked_against_both_pools_on_arrival() {
    let topology = disaggregated(&engine(json!({})), &engine(json!({"max_model_len": 64})));
    let record = run(&topology, &[row(1, 0.0, 64, 5)], SimulationOptions::default());
    assert_eq!(record.requests[0].status, RequestStatus::Rejected(RejectReason::MaxModelLen));
}

#[test]
fn pools_that_do_not_fit_together_are_refused() {
    let message = |prefill: Value, decode: Value| {
        let args = [engine(prefill), engine(decode)];
        let configs = args.each_ref().map(|args| args.validate(None).unwrap());
        let pool = |number: usize| PoolEngine { workers: 1, args: &args[number], config: &configs[number] };
        Topology::disaggregated(pool(0), pool(1)).unwrap_err().to_string()
    };
    assert_eq!(
        message(json!({"block_size": 16}), json!({"block_size": 32})),
        "`block_size` is 16 for prefill and 32 for decode, but both pools need the same"
    );
    assert_eq!(
        message(json!({"worker_type": "decode"}), json!({})),
        "the prefill engine has `worker_type` decode: leave it out or make it prefill"
    );
    let args = engine(json!({}));
    let config = args.validate(None).unwrap();
    let refused = Topology::aggregated(PoolEngine { workers: 0, args: &args, config: &config }).unwrap_err();
    assert_eq!(refused.to_string(), "`num_workers` is 0, but a pool needs at least 1 worker");
}

/// One prefill worker and two decode workers of 13 usable blocks of 64 tokens, every iteration 10 ms.
fn tight_prefill(decode: &Value) -> Topology {
    let settings = json!({
        "latency": "linear:10000,0,0", "block_size": 64, "num_gpu_blocks": 14, "kv_bytes_per_token": 1000,
    });
    let prefill = EngineArgs::from_json(settings.clone()).unwrap();
    let mut decode_settings = settings;
    decode_settings.as_object_mut().unwrap().extend(decode.as_object().cloned().unwrap_or_default());
    let decode = EngineArgs::from_json(decode_settings).unwrap();
    let configs = [&prefill, &decode].map(|args| args.validate(None).unwrap());
    Topology::disaggregated(
        PoolEngine { workers: 1, args: &prefill, config: &configs[0] },
        PoolEngine { workers: 2, args: &decode, config: &configs[1] },
    )
    .unwrap()
}

#[test]
fn a_decode_worker_does_not_run_past_a_hand_off_that_waits_for_prefill_memory() {
    // The prompt of line 4 waits until the KV of line 3 has left the prefill worker: at 60 ms, when the decode worker
    // that is to have it ends line 1. It is computed by 70 ms and handed to the other decode worker, which decodes
    // line 2 meanwhile and must not be further than that.
    let rows = [row(1, 0.0, 640, 5), row(2, 0.0, 64, 100), row(3, 11.0, 640, 5), row(4, 12.0, 250, 5)];
    for plain in [false, true] {
        let options = SimulationOptions { plain, ..SimulationOptions::default() };
        let record = run(&tight_prefill(&json!({})), &rows, options);
        let ttfts = record.requests.iter().map(|request| request.ttft().unwrap().as_ns() / 1000);
        let ttfts: Vec<u64> = ttfts.collect();
        assert_eq!(ttfts[3], 68_000, "plain: {plain}");
        assert_eq!(ttfts.iter().sum::<u64>() / 4, 41_750, "plain: {plain}");
    }
}

/// Two prompts of two blocks are computed in one iteration of 1.64 ms; four decodes of 1.02 ms follow, for which each
/// request has a third block.
#[test]
fn batches_and_blocks_in_use_are_weighted_by_the_time_in_iterations() {
    let rows = [row(1, 0.0, 32, 5), row(2, 0.0, 32, 5)];
    for plain in [false, true] {
        let options = SimulationOptions { plain, ..SimulationOptions::default() };
        let record = run(&aggregated(2, &engine(json!({"max_num_seqs": 8}))), &rows[..1], options);
        let [busy, idle] = &record.pools[0].workers[..] else { panic!("two workers") };
        let one = 1_320_000 + 4 * 1_010_000;
        assert_eq!((busy.busy_ns, busy.request_ns), (one, u128::from(one)));
        assert_eq!((idle.request_ns, idle.block_ns, idle.peak_blocks), (0, 0, 0));

        let options = SimulationOptions { plain, ..SimulationOptions::default() };
        let record = run(&aggregated(1, &engine(json!({"max_num_seqs": 8}))), &rows, options);
        let pool = &record.pools[0];
        let limits = pool.common_limits().unwrap();
        assert_eq!((limits.max_num_seqs, limits.usable_blocks), (Some(8), 64));
        let worker = pool.workers[0];
        assert_eq!(worker.busy_ns, 1_640_000 + 4 * 1_020_000);
        assert_eq!(worker.request_ns, 2 * u128::from(worker.busy_ns));
        assert_eq!(worker.block_ns, 4 * 1_640_000 + 6 * 4 * 1_020_000);
        assert_eq!(worker.peak_blocks, 6);
    }
}

/// With pages of one token every decode takes one from the pool.
#[test]
fn pages_of_one_token_in_use_grow_with_every_decode() {
    let settings = json!({"engine_type": "sglang", "block_size": 1, "num_gpu_blocks": 1000});
    let records = [false, true].map(|plain| {
        let options = SimulationOptions { plain, ..SimulationOptions::default() };
        run(&aggregated(1, &engine(settings.clone())), &[row(1, 0.0, 100, 101)], options)
    });
    assert_eq!(records[0].pools, records[1].pools);
    let worker = records[0].pools[0].workers[0];
    // 100 pages while the prompt is computed for 2 ms, then 101 to 200 in passes of 1.01 ms.
    let decodes: u128 = (101..=200).map(|pages| pages * 1_010_000).sum();
    assert_eq!(worker.block_ns, 100 * 2_000_000 + decodes);
    assert_eq!(worker.peak_blocks, 200);
}

/// A connector polls, passes take no time, and decode workers do: the prefill worker goes round and round.
#[test]
fn a_run_that_goes_round_and_round_at_one_instant_is_given_up() {
    let engine = |settings: serde_json::Value| {
        let shared = json!({"block_size": 4, "max_num_seqs": 1, "enable_prefix_caching": false,
                            "scheduler_reserve_full_isl": false, "watermark": 0.0});
        let mut all = shared.as_object().unwrap().clone();
        all.extend(settings.as_object().unwrap().clone());
        let args = EngineArgs::from_json(all.into()).unwrap();
        let config = args.validate(None).unwrap();
        (args, config)
    };
    let prefill = engine(json!({"num_gpu_blocks": 11, "max_num_batched_tokens": 8, "kv_role": "kv_producer",
                                "latency": "linear:0,0,0", "kv_bytes_per_token": 1000}));
    let decode =
        engine(json!({"num_gpu_blocks": 9, "max_num_batched_tokens": 32, "latency": "linear:500,10,3"}));
    let pool = |(args, config)| PoolEngine { workers: 1, args, config };
    let topology =
        Topology::disaggregated(pool((&prefill.0, &prefill.1)), pool((&decode.0, &decode.1))).unwrap();
    let row = |(line, timestamp_ms, input_length, output_length): (u64, f64, u64, u64)| TraceRow {
        line,
        timestamp_ms: Some(timestamp_ms),
        input_length: Some(input_length),
        output_length,
        hash_ids: (0..input_length.div_ceil(6)).collect(),
        ..TraceRow::default()
    };
    let rows: Vec<TraceRow> = [(1, 15.0, 29, 1), (2, 14.0, 1, 14), (3, 14.0, 9, 1)].map(row).into();
    let workload = Workload::from_rows(&rows, 6, Load::Open { arrival_speedup_ratio: 1.0 }).unwrap();
    let simulation = Simulation::new(&topology, workload, &SimulationOptions::default()).unwrap();
    let error = simulation.run(&mut ()).unwrap_err();
    assert!(matches!(error, RunError::Endless { .. }), "{error}");
}

/// Two prompts of which a pool of sliding windows can take neither, and one that it can.
#[test]
fn prompts_that_no_pool_of_windows_can_take_do_not_hold_up_the_run() {
    let own = json!({"page_size": 3, "sliding_window_size": 34, "swa_full_tokens_ratio": 0.45});
    let settings =
        json!({"engine_type": "sglang", "num_gpu_blocks": 34, "latency": "linear:1000,10,0", "sglang": own});
    let args = EngineArgs::from_json(settings).unwrap();
    let config = args.validate(None).unwrap();
    let topology = Topology::aggregated(PoolEngine { workers: 1, args: &args, config: &config }).unwrap();
    let row = |(line, input_length, output_length): (u64, u64, u64)| TraceRow {
        line,
        timestamp_ms: Some(0.0),
        input_length: Some(input_length),
        output_length,
        hash_ids: vec![line],
        ..TraceRow::default()
    };
    let rows: Vec<TraceRow> = [(1, 80, 29), (2, 75, 14), (3, 9, 2)].map(row).into();
    let workload = Workload::from_rows(&rows, 100, Load::Open { arrival_speedup_ratio: 1.0 }).unwrap();
    let simulation = Simulation::new(&topology, workload, &SimulationOptions::default()).unwrap();
    let record = simulation.run(&mut ()).unwrap();
    let rejected = RequestStatus::Rejected(RejectReason::KvCapacity);
    let statuses: Vec<RequestStatus> = record.requests.iter().map(|request| request.status).collect();
    assert_eq!(statuses, [rejected, rejected, RequestStatus::Finished]);
}
