//! Whatever the deployment and the load: every request ends once, in order, and a run can be repeated.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::json;
use servecast_cluster::{Detail, RouterMode, RouterOptions};
use servecast_engine::{
    EngineArgs, EngineType, KvOffloadingArgs, KvTransferSharing, OffloadConnector, OffloadEviction,
};
use servecast_record::{RequestStatus, RunRecord};
use servecast_types::{Duration, Role, Time};
use servecast_workload::TraceRow;

use crate::scenario::{
    Ours, Scenario, any_scenario, engine, of_pairs, output_room, rows, run, run_unrecorded, scenario, watch,
    watch_in, watch_ordered,
};

/// Most sessions that are under way at one time.
fn most_sessions_at_a_time(run: &RunRecord) -> usize {
    let sessions = run.requests.iter().map(|request| request.session).max().unwrap_or(0) + 1;
    let spans: Vec<_> = (0..sessions)
        .map(|session| {
            let turns = run.requests.iter().filter(|request| request.session == session);
            (turns.clone().map(|turn| turn.arrival).min(), turns.map(|turn| turn.ended).max())
        })
        .collect();
    let at = |time| spans.iter().filter(|&&(start, end)| start <= time && time < end).count();
    spans.iter().map(|&(start, _)| at(start)).max().unwrap_or(0)
}

/// Few in the default run; `SERVECAST_PROPERTY_CASES` asks for a long campaign.
pub(crate) fn cases() -> u32 {
    let given = std::env::var_os("SERVECAST_PROPERTY_CASES");
    given.map_or(500, |given| given.to_str().unwrap().parse().expect("SERVECAST_PROPERTY_CASES is a number"))
}

/// Checks that a run is as it is request by request, in all that it records and shows to an observer.
fn is_as_plain(scenario: &Scenario) -> Result<(), TestCaseError> {
    let ((fast, seen), (plain, expected)) = (watch(scenario, false), watch(scenario, true));
    prop_assert_eq!(fast.requests.len(), plain.requests.len());
    for (fast, plain) in fast.requests.iter().zip(&plain.requests) {
        prop_assert_eq!(fast, plain);
    }
    prop_assert_eq!(&fast.gaps, &plain.gaps);
    prop_assert_eq!(&fast.pools, &plain.pools);
    prop_assert_eq!(fast.readmitted, plain.readmitted);
    prop_assert_eq!(fast.extrapolated_iterations, plain.extrapolated_iterations);
    prop_assert_eq!(fast.latency_estimates, plain.latency_estimates);
    for (request, tokens) in fast.requests.iter().zip(&seen.tokens) {
        let edges = (request.first_token, request.last_token);
        prop_assert_eq!((tokens.first().copied(), tokens.last().copied()), edges);
        prop_assert_eq!(tokens.len(), request.output_tokens as usize);
    }
    prop_assert_eq!(seen.timeless(), expected.clone().timeless());
    let ordered = watch_ordered(scenario);
    prop_assert!(ordered.ends.is_sorted(), "ends of all workers are in order");
    prop_assert_eq!(ordered.timeless(), expected.clone().timeless());
    let unrecorded = run_unrecorded(scenario);
    prop_assert_eq!(&unrecorded.requests, &plain.requests, "of decisions that nobody records");
    prop_assert_eq!(&unrecorded.pools, &plain.pools);
    prop_assert_eq!(&unrecorded.gaps, &plain.gaps);
    // Who asks for each iteration gets each in its order.
    let (_, seen) = watch_in(scenario, false, Detail::Iterations);
    prop_assert_eq!(seen, expected);
    Ok(())
}

/// The properties below would compare the same path twice if random deployments did not decode together.
#[test]
fn random_deployments_decode_together() {
    let is_ahead = |args: &EngineArgs| match (args.engine_type, &args.sglang) {
        (EngineType::Sglang, Some(own)) => !own.disable_overlap_schedule,
        _ => args.async_scheduling,
    };
    let mut runner = TestRunner::deterministic();
    let mut seen = BTreeMap::<_, (u64, usize)>::new();
    for _ in 0..500 {
        let scenario = scenario().new_tree(&mut runner).unwrap().current();
        let last = scenario.decode.as_ref().unwrap_or(&scenario.prefill);
        let (engine, polls) = (format!("{:?}", last.engine_type), last.kv_role.is_some());
        let key = (engine, is_ahead(last), polls, scenario.decode.is_some());
        let (_, watch) = watch(&scenario, false);
        let (together, all) = seen.entry(key).or_default();
        *together += watch.together;
        *all += watch.passes.values().map(Vec::len).sum::<usize>();
    }
    // Three engines, ahead or not; vLLM with a connector or without; two stages or one.
    assert_eq!(seen.len(), 2 * (3 + 1) * 2);
    for (kind, (together, all)) in seen {
        assert!(10 * together > all as u64, "{kind:?}: {together} of {all} iterations");
    }
}

/// Random deployments whose workers of vLLM and SGLang have several data-parallel ranks.
fn of_ranks() -> impl Strategy<Value = Scenario> {
    let methods = ["auto", "total_requests", "total_tokens"];
    let method = prop::sample::select(methods.to_vec());
    (scenario(), 2_u32..4, any::<bool>(), method).prop_map(|(mut scenario, ranks, both, method)| {
        let Scenario { prefill, decode, .. } = &mut scenario;
        // A prompt has to fit one of them, as it has to fit a worker.
        for (number, engine) in std::iter::once(prefill).chain(decode).enumerate() {
            if let Some(own) = engine.sglang.as_mut().filter(|_| both || number == 1) {
                own.enable_dp_attention = true;
                own.load_balance_method = Some(serde_json::from_value(json!(method)).unwrap());
                own.chunked_prefill_size *= if own.chunked_prefill_size > 0 { i64::from(ranks) } else { 1 };
                engine.dp_size = ranks;
            }
            if engine.engine_type == EngineType::Vllm && (both || number == 1) {
                engine.dp_size = ranks;
                engine.speculative_config = None;
                // Ranks that wait for memory go on with dummies, for seconds here: not too short ones.
                let takes_no_time =
                    engine.latency.as_deref() == Some("linear:0,0,0") && engine.host.is_none();
                engine.dp_dummy_us = (!takes_no_time).then_some(900.0);
            }
        }
        scenario
    })
}

/// Random deployments whose vLLM workers have pipelines.
fn of_pipelines() -> impl Strategy<Value = Scenario> {
    (scenario(), 2_u32..4, any::<bool>()).prop_map(|(mut scenario, stages, both)| {
        let Scenario { prefill, decode, .. } = &mut scenario;
        for (number, engine) in std::iter::once(prefill).chain(decode).enumerate() {
            let may_have_stages = engine.engine_type == EngineType::Vllm
                && engine.kv_role.is_none()
                && engine.prefill_schedule_interval == 1;
            if may_have_stages && (both || number == 1) {
                engine.pipeline_parallel_size = stages;
            }
        }
        scenario
    })
}

/// Random deployments whose vLLM workers offload KV to a small host behind a slow link.
fn of_offload() -> impl Strategy<Value = Scenario> {
    let connector = prop::sample::select(vec![OffloadConnector::Offloading, OffloadConnector::Simple]);
    let eviction = prop::sample::select(vec![OffloadEviction::Lru, OffloadEviction::Arc]);
    let own = (connector, eviction, any::<bool>(), 2_u32..60, prop_oneof![Just(1.0), 0.0001_f64..0.01]);
    (scenario(), own).prop_map(|(mut scenario, (connector, eviction, prompt_only, chunks, bandwidth))| {
        let Scenario { prefill, decode, .. } = &mut scenario;
        for engine in std::iter::once(prefill).chain(decode) {
            if engine.engine_type != EngineType::Vllm || engine.kv_role.is_some() {
                continue;
            }
            let of_chunks = connector == OffloadConnector::Offloading;
            engine.kv_groups = None;
            engine.enable_prefix_caching = true;
            engine.kv_bytes_per_token = Some(1000);
            engine.kv_offloading_size = Some(f64::from(chunks * 4000 + 1) / f64::from(1 << 30));
            engine.kv_offloading = Some(KvOffloadingArgs {
                connector,
                eviction_policy: if of_chunks { eviction } else { OffloadEviction::Lru },
                offload_prompt_only: of_chunks.then_some(prompt_only),
                store_bandwidth: Some(bandwidth),
                load_bandwidth: Some(bandwidth),
                ..KvOffloadingArgs::default()
            });
        }
        scenario
    })
}

/// Random deployments whose waiting queues are in an order of a program. Requests come within 40 ms, so that they wait.
fn of_orders() -> impl Strategy<Value = Scenario> {
    let orders = vec![Ours::Shortest, Ours::Scrambled, Ours::Aging, Ours::Restless];
    (scenario(), prop::sample::select(orders))
        .prop_map(|(scenario, order)| Scenario { order: Some(order), ..scenario })
}

/// And of SGLang's own hand-over if it changed nothing, served nobody, or took the fast path away.
#[test]
fn random_pairs_of_sglang_wait_for_memory_and_decode_together() {
    let mut runner = TestRunner::deterministic();
    let (mut served, mut waited, mut together, mut all) = (0, 0, 0, 0);
    for _ in 0..500 {
        let scenario = of_pairs().new_tree(&mut runner).unwrap().current();
        let (record, seen) = watch(&scenario, false);
        for request in record.requests.iter().filter(|request| request.is_finished()) {
            let [prompt, output] = &request.stages[..] else { panic!("two stages") };
            let (reserved, admitted) = (output.reserved.unwrap(), prompt.admitted.unwrap());
            assert!(reserved <= admitted && prompt.last_token <= output.transfer_start);
            served += 1;
            waited += usize::from(reserved > output.queued);
        }
        together += seen.together;
        all += seen.passes.values().map(Vec::len).sum::<usize>();
    }
    assert!(served > 4_000 && 5 * waited > served, "{waited} of {served} waited for memory");
    assert!(10 * together > all as u64, "{together} of {all} iterations");
}

/// That an order changes nothing between fast and plain runs says little if it changes nothing at all, or if it takes the
/// fast path away.
#[test]
fn orders_of_programs_change_whom_random_deployments_serve_first_and_leave_them_fast() {
    let mut runner = TestRunner::deterministic();
    let mut seen = BTreeMap::<_, (u64, u64, u64)>::new();
    for _ in 0..600 {
        let ours = of_orders().new_tree(&mut runner).unwrap().current();
        let theirs = Scenario { order: None, ..ours.clone() };
        let (record, watched) = watch(&ours, false);
        let last = ours.decode.as_ref().unwrap_or(&ours.prefill);
        let key = (format!("{:?}", last.engine_type), format!("{:?}", ours.order.unwrap()));
        let (runs, others, together) = seen.entry(key).or_default();
        *runs += 1;
        *others += u64::from(record.requests != run(&theirs).requests);
        *together += watched.together;
    }
    assert_eq!(seen.len(), 3 * 4);
    for (kind, (runs, others, together)) in seen {
        assert!(5 * others > runs && together > runs, "{kind:?}: {others} of {runs} runs, {together}");
    }
}

/// And they would say little of transfers that share a port if there were none.
#[test]
fn transfers_of_random_deployments_share_ports() {
    let mut runner = TestRunner::deterministic();
    let (mut slower, mut all) = (0, 0);
    for _ in 0..1000 {
        let scenario = scenario().new_tree(&mut runner).unwrap().current();
        if scenario.prefill.kv_transfer_sharing == Some(KvTransferSharing::Shared) {
            let record = run(&scenario);
            for request in record.requests.iter().filter(|request| request.stages.len() == 2) {
                let output = &request.stages[1];
                let Some((start, end)) = output.transfer_start.zip(output.transfer_end) else { continue };
                let gb_per_second = scenario.prefill.kv_transfer_bandwidth.unwrap();
                let alone_ns = f64::from(request.input_tokens) * 1000.0 / gb_per_second;
                slower += usize::from(end.since(start).as_ns() as f64 > 1.2 * alone_ns);
                all += 1;
            }
        }
    }
    assert!(10 * slower > all && all > 500, "{slower} of {all} transfers");
}

/// A member of a stretch opens a block, for which a free block is evicted that a waiting prompt would hit: of its content
/// the member has a copy, which the prompt hits for nothing, so that it fits in the same iteration.
#[test]
fn a_prompt_may_fit_when_a_free_block_that_it_hits_is_taken() {
    let engine = |settings| EngineArgs::from_json(settings).unwrap();
    let row = |line: u64, session: u32, delay_ms, input, output, ids: &[u64], output_ids: &[u64]| TraceRow {
        line,
        session_id: Some(session.to_string()),
        timestamp_ms: (line != 6).then_some(if line == 1 { 17.0 } else { 0.0 }),
        delay_ms,
        input_length: Some(input),
        output_length: output,
        hash_ids: ids.to_vec(),
        output_ids: output_ids.to_vec(),
        ..TraceRow::default()
    };
    let one_by_one: Vec<u64> = (0..8).collect();
    let scenario = Scenario {
        session_affinity: None,
        prefill: engine(json!({
            "num_gpu_blocks": 12, "block_size": 4, "max_num_seqs": 1, "max_num_batched_tokens": 43,
            "enable_prefix_caching": false, "enable_chunked_prefill": false,
            "scheduler_reserve_full_isl": false, "kv_bytes_per_token": 1000,
        })),
        decode: Some(engine(json!({
            "num_gpu_blocks": 14, "block_size": 4, "max_num_seqs": 2, "max_num_batched_tokens": 8,
            "scheduler_reserve_full_isl": false,
        }))),
        workers: (1, 2),
        rows: vec![
            row(1, 4, None, 1, 1, &[0], &[]),
            row(2, 5, None, 43, 10, &one_by_one, &[]),
            row(3, 5, Some(0.0), 1, 24, &[0], &[]),
            row(4, 4, None, 15, 22, &[100, 101, 102], &[103, 104, 105, 106]),
            row(5, 0, None, 8, 18, &[100, 101], &[102, 103, 104]),
            row(6, 4, None, 44, 1, &one_by_one, &[]),
            row(7, 1, None, 29, 1, &[100, 101, 102, 103, 104], &[105]),
        ],
        concurrency: Some(2),
        router_mode: RouterMode::Random,
        kv_router: RouterOptions::default().kv,
        order: None,
        is_told: false,
    };
    is_as_plain(&scenario).unwrap();
    let prompt = &run(&scenario).requests[6].stages[1];
    assert!(prompt.admitted < Some(Time::from_ns(1_060_000_000)), "{prompt:?}");
}

/// The last request ends on a worker that lags, before a copy of another worker does, for which nobody waits any more.
#[test]
fn a_copy_is_not_waited_for_when_a_worker_that_lags_has_served_the_last_request() {
    let engine = |settings| EngineArgs::from_json(settings).unwrap();
    let row = TraceRow {
        line: 1,
        timestamp_ms: Some(0.0),
        input_length: Some(4),
        output_length: 1,
        hash_ids: vec![0],
        ..TraceRow::default()
    };
    let scenario = Scenario {
        session_affinity: None,
        prefill: engine(json!({
            "num_gpu_blocks": 6, "block_size": 4, "max_num_seqs": 1, "max_num_batched_tokens": 17,
            "vllm_version": "0.33", "kv_bytes_per_token": 1000, "kv_offloading_size": 7.5e-6,
            "kv_offloading": {"store_bandwidth": 0.0001, "load_bandwidth": 0.0001},
        })),
        decode: Some(engine(json!({
            "num_gpu_blocks": 9, "block_size": 4, "max_num_seqs": 1, "max_num_batched_tokens": 17,
            "vllm_version": "0.33", "kv_role": "kv_producer",
        }))),
        workers: (1, 1),
        rows: vec![row],
        concurrency: None,
        router_mode: RouterMode::RoundRobin,
        kv_router: RouterOptions::default().kv,
        order: None,
        is_told: false,
    };
    is_as_plain(&scenario).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn stretches_change_nothing(scenario in any_scenario()) {
        is_as_plain(&scenario)?;
    }

    #[test]
    fn pairs_of_sglang_may_lag(scenario in of_pairs()) {
        is_as_plain(&scenario)?;
    }

    #[test]
    fn stretches_change_nothing_in_an_order_of_a_program(scenario in of_orders()) {
        is_as_plain(&scenario)?;
    }

    #[test]
    fn stretches_change_nothing_behind_a_policy_that_reads_loads(scenario in scenario()) {
        is_as_plain(&Scenario { is_told: true, ..scenario })?;
    }

    /// Ranks in lock step lag as any worker does.
    #[test]
    fn workers_of_several_ranks_may_lag(scenario in of_ranks()) {
        is_as_plain(&scenario)?;
    }

    #[test]
    fn workers_with_pipelines_may_lag(scenario in of_pipelines()) {
        is_as_plain(&scenario)?;
    }

    /// Workers that offload KV do not lag, and are woken when copies end.
    #[test]
    fn workers_that_offload_kv_serve_as_any_other(scenario in of_offload()) {
        is_as_plain(&scenario)?;
    }

    /// So many requests that such workers do not take all of them in at a time.
    #[test]
    fn workers_that_have_nothing_to_do_with_one_another_may_run_one_by_one(
        scenario in scenario(),
        rows in rows(0, 100..300),
        draws in any::<bool>(),
    ) {
        let router_mode = if draws { RouterMode::Random } else { RouterMode::RoundRobin };
        is_as_plain(&Scenario { decode: None, concurrency: None, rows, router_mode, ..scenario })?;
    }

    /// A worker does nothing before the end of the iteration before, unless it decides one iteration ahead.
    #[test]
    fn iterations_of_a_worker_follow_one_another(scenario in any_scenario()) {
        let asynchronous = |args: &EngineArgs| args.async_scheduling || args.engine_type == EngineType::Sglang;
        let (record, seen) = watch(&scenario, false);
        for passes in seen.passes.values() {
            for (before, after) in passes.iter().zip(passes.iter().skip(1)) {
                prop_assert!(after.start >= before.end, "{:?} overlaps {:?}", after, before);
            }
        }
        let last = scenario.decode.as_ref().unwrap_or(&scenario.prefill);
        for stage in record.requests.iter().flat_map(|request| &request.stages) {
            let engine = if stage.pool == Role::Decode { last } else { &scenario.prefill };
            let Some(admitted) = stage.admitted.filter(|_| !asynchronous(engine)) else { continue };
            let passes = &seen.passes[&(stage.pool, stage.worker)];
            let during = passes.iter().find(|pass| pass.start < admitted && admitted < pass.end);
            prop_assert_eq!(during, None, "a request was admitted during an iteration");
        }
    }

    #[test]
    fn the_parts_of_a_ttft_add_up_to_it(scenario in any_scenario()) {
        let record = run(&scenario);
        for (ordinal, request) in record.requests.iter().enumerate() {
            let breakdown = record.ttft_breakdown(ordinal);
            prop_assert_eq!(breakdown.map(|parts| parts.total()), request.ttft());
            if let Some(parts) = breakdown {
                let moves = scenario.decode.is_some();
                prop_assert!(moves || parts.kv_transfer + parts.decode_wait == Duration::ZERO);
                let preempted = request.stages.iter().any(|stage| stage.preemptions > 0);
                prop_assert!(preempted || parts.preemption_loss == Duration::ZERO);
            }
        }
    }

    #[test]
    fn every_request_ends_exactly_once(scenario in any_scenario()) {
        let record = run(&scenario);
        let mut lines: Vec<u64> = record.requests.iter().map(|request| request.line).collect();
        lines.sort_unstable();
        let expected: Vec<u64> = (1..=scenario.rows.len() as u64).collect();
        prop_assert_eq!(lines, expected, "every row is one request");
        let stages = if scenario.decode.is_some() { 2 } else { 1 };
        let last = scenario.decode.as_ref().unwrap_or(&scenario.prefill);
        for request in &record.requests {
            prop_assert!(request.stages.len() <= stages);
            if request.status == RequestStatus::Finished {
                let room = output_room(last, request.input_tokens);
                prop_assert_eq!(request.output_tokens, request.requested_output_tokens.min(room));
            }
        }
    }

    #[test]
    fn a_closed_loop_never_exceeds_its_concurrency(mut scenario in any_scenario(), concurrency in 1_u32..4) {
        scenario.concurrency = Some(concurrency);
        prop_assert!(most_sessions_at_a_time(&run(&scenario)) <= concurrency as usize);
    }

    #[test]
    fn the_same_input_gives_the_same_records(scenario in any_scenario()) {
        let (first, second) = (run(&scenario), run(&scenario));
        prop_assert_eq!(first.requests, second.requests);
        prop_assert_eq!(first.gaps, second.gaps);
    }

    /// One session at a time has at most one transfer under way, which has all of the bandwidth.
    #[test]
    fn a_transfer_by_itself_shares_nothing(scenario in scenario(), decode in engine(), bandwidth in 0.01_f64..10.0) {
        let decode = EngineArgs {
            kv_transfer_bandwidth: None, kv_bytes_per_token: None, kv_transfer_sharing: None, ..decode
        };
        let [dedicated, shared] = [KvTransferSharing::Dedicated, KvTransferSharing::Shared].map(|sharing| {
            let prefill = EngineArgs {
                kv_transfer_bandwidth: Some(bandwidth), kv_transfer_sharing: Some(sharing), ..scenario.prefill.clone()
            };
            run(&Scenario { prefill, decode: Some(decode.clone()), concurrency: Some(1), ..scenario.clone() })
        });
        prop_assert_eq!(dedicated.requests, shared.requests);
        prop_assert_eq!(dedicated.gaps, shared.gaps);
        prop_assert_eq!(dedicated.pools, shared.pools);
    }

    /// Only which ids of a trace are equal matters, unless `prefix_hash` places them.
    #[test]
    fn hash_ids_of_other_names_change_nothing(mut scenario in any_scenario(), factor in any::<u32>()) {
        if scenario.router_mode == RouterMode::PrefixHash {
            scenario.router_mode = RouterMode::KvRouter;
        }
        let renamed = |name: &dyn Fn(u64) -> u64| {
            let mut renamed = scenario.clone();
            let ids = renamed.rows.iter_mut().flat_map(|row| row.hash_ids.iter_mut().chain(&mut row.output_ids));
            ids.for_each(|id| *id = name(*id));
            run(&renamed)
        };
        let record = run(&scenario);
        let [apart, small] = [
            renamed(&|id| id.wrapping_mul(2 * u64::from(factor) + 1)),
            renamed(&|id| 3 * (id & 0xFFFF_FFFF) + (id >> 32)),
        ];
        prop_assert_eq!(&apart.requests, &record.requests);
        prop_assert_eq!(&small.requests, &record.requests);
    }

    #[test]
    fn gaps_and_first_tokens_account_for_every_token(scenario in any_scenario()) {
        let record = run(&scenario);
        let gaps: u64 = record.gaps.sorted().iter().map(|(_, times)| times).sum();
        let firsts = record.requests.iter().filter(|request| request.first_token.is_some()).count() as u64;
        let tokens: u64 = record.requests.iter().map(|request| u64::from(request.output_tokens)).sum();
        prop_assert_eq!(gaps + firsts, tokens);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4 * cases(), ..ProptestConfig::default() })]

    /// A session of two turns makes the driver stop at every end of a request, so that no worker lags: nothing
    /// that it does long after all others may change what became of them. Small prefill pools make prompts wait for
    /// memory that is held for decode workers.
    #[test]
    fn an_unrelated_later_session_changes_no_record(
        scenario in scenario(),
        decode in engine(),
        blocks in 4_u32..14,
        blind in any::<bool>(),
    ) {
        let decode = EngineArgs {
            kv_transfer_bandwidth: None, kv_bytes_per_token: None, kv_transfer_sharing: None, ..decode
        };
        let prefill = EngineArgs { num_gpu_blocks: blocks, ..scenario.prefill.clone() };
        let router_mode = if blind { RouterMode::RoundRobin } else { scenario.router_mode };
        let rows = scenario.rows.iter().map(|row| TraceRow { session_id: None, delay_ms: None, ..row.clone() });
        let rows = rows.map(|row| TraceRow { timestamp_ms: row.timestamp_ms.or(Some(40.0)), ..row });
        let rows: Vec<TraceRow> = rows.collect();
        let alone = Scenario {
            prefill, decode: Some(decode), concurrency: None, router_mode, rows, ..scenario
        };
        let turn = |line, timestamp_ms| TraceRow {
            line,
            session_id: Some("later".to_owned()),
            timestamp_ms,
            delay_ms: timestamp_ms.is_none().then_some(1.0),
            input_length: Some(3),
            output_length: 2,
            hash_ids: vec![1 << 40],
            ..TraceRow::default()
        };
        let count = alone.rows.len();
        let mut with_later = alone.clone();
        with_later.rows.extend([turn(count as u64 + 1, Some(1e6)), turn(count as u64 + 2, None)]);
        let (alone, with_later) = (run(&alone), run(&with_later));
        prop_assert_eq!(&alone.requests[..], &with_later.requests[..count]);
        prop_assert_eq!(with_later.requests.len(), count + 2);
    }
}
