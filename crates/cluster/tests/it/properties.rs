//! Whatever the deployment and the load: every request ends once, in order, and a run can be repeated.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;
use servecast_cluster::record::{RequestStatus, RunRecord};
use servecast_cluster::{
    KvRouterOptions, LoadMode, Observer, PoolEngine, RouterMode, RouterOptions, Simulation,
    SimulationOptions, Topology,
};
use servecast_engine::{EngineArgs, EngineType};
use servecast_latency::{Batch, LatencyModel, PassTime, Step};
use servecast_router::KvRouterConfig;
use servecast_types::{Duration, Time};
use servecast_workload::{Load, TraceRow, Workload};

/// The model of engines with `profile:uneven`: as a profile does, it looks at how contexts are spread, and extrapolates.
#[derive(Debug)]
struct Uneven;

impl LatencyModel for Uneven {
    fn pass(&self, batch: &Batch) -> PassTime {
        let steps = batch.steps;
        let squares = steps.squared_context_tokens as f64;
        let us = steps.context_tokens as f64 + 7.0 * steps.longest_context_tokens as f64 + squares / 11.0;
        PassTime { prompt_ms: 0.0, decode_ms: (us + 13.0 * batch.tokens as f64) / 1000.0 }
    }

    fn extrapolates(&self, batch: &Batch) -> bool {
        batch.steps.longest_context_tokens > 60
    }
}

/// The model of engines with `step:experts.toml`, with something in front of it.
const STEP: &str = "front_end_us = 1700\n[prefill]\nbase_us = 300\nper_prefill_token_us = 7\nper_sequence_us = 11\n\
                    per_context_token_us = 1.5\nper_attention_pair_us = 0.25\n[decode]\nbase_us = 200\n\
                    per_sequence_us = 9\nper_context_token_us = 1.25\n[experts]\ncount = 8\nper_token = 2\n\
                    all_us = 400\n";

#[derive(Debug, Clone)]
struct Scenario {
    prefill: EngineArgs,
    /// Disaggregated if there is one.
    decode: Option<EngineArgs>,
    workers: (u32, u32),
    rows: Vec<TraceRow>,
    concurrency: Option<u32>,
    router_mode: RouterMode,
    kv_router: KvRouterOptions,
}

/// Any engine, in blocks of 4 tokens, so that it goes with any other.
fn engine() -> impl Strategy<Value = EngineArgs> {
    let trtllm = vllm().prop_map(|args| EngineArgs { engine_type: EngineType::Trtllm, ..args });
    prop_oneof![3 => vllm(), 3 => sglang(), 1 => trtllm]
}

fn sglang() -> impl Strategy<Value = EngineArgs> {
    let policy = prop::sample::select(vec!["fcfs", "lpm", "lof", "dfs-weight", "random"]);
    let own = (prop_oneof![Just(-1), 1_i64..16], 1_u32..120, policy, 0.0_f64..2.0);
    let switches = (any::<bool>(), any::<bool>(), any::<bool>());
    (vllm(), own, switches).prop_map(|(args, own, switches)| {
        let (chunk, max_prefill_tokens, policy, conservativeness) = own;
        let (mixed, serial, priorities) = switches;
        let priorities = priorities && matches!(policy, "fcfs" | "lof");
        let own = json!({
            "chunked_prefill_size": if chunk > 0 { 4 * chunk } else { chunk },
            "max_prefill_tokens": max_prefill_tokens, "schedule_policy": policy,
            "schedule_conservativeness": conservativeness, "enable_mixed_chunk": mixed && chunk > 0,
            "disable_overlap_schedule": serial, "enable_priority_scheduling": priorities,
            "priority_scheduling_preemption_threshold": 1,
        });
        let default = EngineArgs::default();
        EngineArgs {
            engine_type: EngineType::Sglang,
            sglang: Some(serde_json::from_value(own).unwrap()),
            max_num_batched_tokens: default.max_num_batched_tokens,
            enable_chunked_prefill: default.enable_chunked_prefill,
            scheduler_reserve_full_isl: default.scheduler_reserve_full_isl,
            async_scheduling: default.async_scheduling,
            scheduling_policy: default.scheduling_policy,
            ..args
        }
    })
}

/// Output that a prompt leaves room for on an engine: in the context, and in the pool where that limits it.
fn output_room(args: &EngineArgs, prompt: u32) -> u32 {
    let (context, pages) = (args.max_model_len.unwrap_or(i32::MAX as u32), args.num_gpu_blocks);
    match args.engine_type {
        EngineType::Vllm => context - prompt,
        EngineType::Trtllm => context.min(4 * pages) - prompt,
        EngineType::Sglang => {
            let pool = 4 * (pages - prompt.div_ceil(4)).saturating_sub(1);
            context.saturating_sub(prompt + 2).min(pool.saturating_sub(1)).max(1)
        }
    }
}

fn vllm() -> impl Strategy<Value = EngineArgs> {
    let sizes = (4_u32..60, 1_u32..8, 8_u32..80, prop::option::of(20_u32..200));
    let switches = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let transfer = (prop::option::of(0.01_f64..10.0), prop_oneof!["full_prompt", "destination_missing"]);
    (sizes, switches, transfer, 0..5_u32).prop_map(|(sizes, switches, (bandwidth, timing_mode), latency)| {
        let (num_gpu_blocks, max_num_seqs, max_num_batched_tokens, max_model_len) = sizes;
        let (caching, chunked, gate, asynchronous, priority) = switches;
        let latencies =
            ["polynomial", "linear:500,10,3", "linear:0,0,0", "profile:uneven", "step:experts.toml"];
        let latency = latencies[latency as usize];
        EngineArgs::from_json(json!({
            "block_size": 4, "num_gpu_blocks": num_gpu_blocks, "max_num_seqs": max_num_seqs,
            "max_num_batched_tokens": max_num_batched_tokens, "max_model_len": max_model_len,
            "enable_prefix_caching": caching, "enable_chunked_prefill": chunked,
            "scheduler_reserve_full_isl": gate, "async_scheduling": asynchronous,
            "scheduling_policy": if priority { "priority" } else { "fcfs" }, "latency": latency,
            "kv_bytes_per_token": 1000, "kv_transfer_bandwidth": bandwidth, "kv_transfer_timing_mode": timing_mode,
        }))
        .unwrap()
    })
}

/// Rows of a few sessions, up to number `sessions`, whose prompts share prefixes, and of requests by themselves.
fn rows(sessions: u8, size: Range<usize>) -> impl Strategy<Value = Vec<TraceRow>> {
    let row = (0_u8..12, 0_u32..40, 1_u64..120, 1_u64..40, 0_u64..3, -2_i32..3);
    prop::collection::vec(row, size).prop_map(move |rows| {
        let mut seen = std::collections::BTreeSet::new();
        let row = |(index, (session, time, input, output, family, priority)): (
            usize,
            (u8, u32, u64, u64, u64, i32),
        )| {
            let first = seen.insert(session);
            TraceRow {
                line: index as u64 + 1,
                session_id: (session < sessions).then(|| format!("session {session}")),
                timestamp_ms: (first || session >= sessions || time % 2 == 0).then(|| f64::from(time)),
                delay_ms: (!first && session < sessions && time % 3 == 0).then(|| f64::from(time) / 7.0),
                input_length: Some(input),
                output_length: output,
                hash_ids: (0..input.div_ceil(6)).map(|block| family << 32 | block).collect(),
                priority,
            }
        };
        rows.into_iter().enumerate().map(row).collect()
    })
}

/// A KV router with settings that matter to a simulation.
fn kv_router() -> impl Strategy<Value = KvRouterOptions> {
    let numbers = (prop_oneof![Just(1.0), 0.0..4.0], prop_oneof![Just(0.0), 0.0..2.0]);
    let queue = (prop::option::of(0.0_f64..4.0), prop::sample::select(vec!["fcfs", "lcfs", "wspt"]));
    let switches = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let index =
        (prop_oneof![Just(120.0), 0.0..0.2], 1_u64..60, 0.0_f64..=1.0, prop_oneof![Just(0), 0_u64..50]);
    (numbers, queue, switches, index).prop_map(|(numbers, queue, switches, index)| {
        let (events, active, output, reuse, prefill) = switches;
        let (ttl, most, ratio, delay_ms) = index;
        let config = KvRouterConfig::from_json(&json!({
            "overlap_score_weight": numbers.0, "router_temperature": numbers.1, "router_queue_threshold": queue.0,
            "router_queue_policy": queue.1, "use_kv_events": events, "router_track_active_blocks": active,
            "router_track_output_blocks": active && output, "router_assume_kv_reuse": reuse,
            "router_track_prefill_tokens": prefill, "router_ttl_secs": ttl, "router_max_tree_size": most,
            "router_prune_target_ratio": ratio,
        }));
        let settings = config.and_then(|config| config.validate()).unwrap();
        KvRouterOptions { settings, event_delay: Duration::from_ns(delay_ms * 1_000_000) }
    })
}

fn scenario() -> impl Strategy<Value = Scenario> {
    let router_mode = prop_oneof![
        Just(RouterMode::RoundRobin),
        Just(RouterMode::Random),
        Just(RouterMode::LeastLoaded),
        Just(RouterMode::PowerOfTwo),
        Just(RouterMode::PrefixHash),
        Just(RouterMode::KvRouter)
    ];
    let decode = prop::option::of(engine());
    let router = (router_mode, kv_router());
    (engine(), decode, (1_u32..4, 1_u32..4), rows(6, 1..40), prop::option::of(1_u32..6), router).prop_map(
        |(prefill, decode, workers, rows, concurrency, (router_mode, kv_router))| {
            // Both engines would have to agree on what a hand-off costs: the prefill engine says it.
            let decode = decode.map(|decode| EngineArgs {
                kv_transfer_bandwidth: None,
                kv_bytes_per_token: None,
                ..decode
            });
            Scenario { prefill, decode, workers, rows, concurrency, router_mode, kv_router }
        },
    )
}

fn run(scenario: &Scenario) -> RunRecord {
    run_as(scenario, false)
}

/// `plain`: every iteration by itself, request by request.
fn run_as(scenario: &Scenario, plain: bool) -> RunRecord {
    let step = Step::from_toml(STEP).unwrap();
    let pool = |args: &EngineArgs| {
        let is_step = args.latency.as_deref().is_some_and(|latency| latency.starts_with("step:"));
        let model: Arc<dyn LatencyModel> = if is_step { Arc::new(step) } else { Arc::new(Uneven) };
        args.validate(Some(model)).unwrap()
    };
    let prefill = pool(&scenario.prefill);
    let first = PoolEngine { workers: scenario.workers.0, args: &scenario.prefill, config: &prefill };
    let topology = match &scenario.decode {
        None => Topology::aggregated(first).unwrap(),
        Some(args) => {
            let config = pool(args);
            Topology::disaggregated(first, PoolEngine { workers: scenario.workers.1, args, config: &config })
                .unwrap()
        }
    };
    let (load, mode) = match scenario.concurrency {
        None => (Load::Open { arrival_speedup_ratio: 1.0 }, LoadMode::OpenLoop),
        Some(concurrency) => (Load::Closed, LoadMode::ClosedLoop { concurrency }),
    };
    let workload = Workload::from_rows(&scenario.rows, 6, load).unwrap();
    let options = SimulationOptions {
        load: mode,
        router: RouterOptions {
            mode: scenario.router_mode,
            prefix_hash_blocks: 2,
            kv: scenario.kv_router.clone(),
        },
        check: true,
        plain,
        ..SimulationOptions::default()
    };
    Simulation::new(&topology, workload, &options).unwrap().run(&mut Patience(100_000)).unwrap()
}

/// Gives up a run that takes more steps than any of these needs.
struct Patience(u64);

impl Observer for Patience {
    fn progress(&mut self, _: Time, _: u64) -> ControlFlow<()> {
        self.0 -= 1;
        if self.0 == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

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
fn cases() -> u32 {
    let given = std::env::var_os("SERVECAST_PROPERTY_CASES");
    given.map_or(500, |given| given.to_str().unwrap().parse().expect("SERVECAST_PROPERTY_CASES is a number"))
}

/// Checks that a run is as it is request by request.
fn is_as_plain(scenario: &Scenario) -> Result<(), TestCaseError> {
    let (fast, plain) = (run_as(scenario, false), run_as(scenario, true));
    for (fast, plain) in fast.requests.iter().zip(&plain.requests) {
        prop_assert_eq!(fast, plain);
    }
    prop_assert_eq!(fast.gaps, plain.gaps);
    prop_assert_eq!(fast.pools, plain.pools);
    prop_assert_eq!(fast.readmitted, plain.readmitted);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn stretches_change_nothing(scenario in scenario()) {
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

    #[test]
    fn the_parts_of_a_ttft_add_up_to_it(scenario in scenario()) {
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
    fn every_request_ends_exactly_once(scenario in scenario()) {
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
    fn a_closed_loop_never_exceeds_its_concurrency(mut scenario in scenario(), concurrency in 1_u32..4) {
        scenario.concurrency = Some(concurrency);
        prop_assert!(most_sessions_at_a_time(&run(&scenario)) <= concurrency as usize);
    }

    #[test]
    fn the_same_input_gives_the_same_records(scenario in scenario()) {
        let (first, second) = (run(&scenario), run(&scenario));
        prop_assert_eq!(first.requests, second.requests);
        prop_assert_eq!(first.gaps, second.gaps);
    }

    #[test]
    fn gaps_and_first_tokens_account_for_every_token(scenario in scenario()) {
        let record = run(&scenario);
        let gaps: u64 = record.gaps.sorted().iter().map(|(_, times)| times).sum();
        let firsts = record.requests.iter().filter(|request| request.first_token.is_some()).count() as u64;
        let tokens: u64 = record.requests.iter().map(|request| u64::from(request.output_tokens)).sum();
        prop_assert_eq!(gaps + firsts, tokens);
    }
}
