//! Random deployments with random load on them, and how a run of one is looked at.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::json;
use servecast_cluster::{
    Candidate, CaughtUp, Detail, KvRouterOptions, LoadMode, Observer, Ordered, Pick, PoolEngine, Routed,
    RoutedRequest, RouterMode, RouterOptions, RunError, Simulation, SimulationOptions, TokenLog, Topology,
};
use servecast_engine::{
    Admitted, CapacitySchedulerPolicy, Decodes, EngineArgs, EngineConfig, EngineType, Iteration, Order,
    Rejection, Transfer, TrtllmArgs, WaitingRequest,
};
use servecast_latency::{Batch, Host, LatencyModel, PassTime, Step};
use servecast_record::RunRecord;
use servecast_router::KvRouterConfig;
use servecast_types::{Duration, RequestId, Role, Time, WorkerId};
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
pub(crate) struct Scenario {
    pub(crate) prefill: EngineArgs,
    /// Disaggregated if there is one.
    pub(crate) decode: Option<EngineArgs>,
    pub(crate) workers: (u32, u32),
    pub(crate) rows: Vec<TraceRow>,
    pub(crate) concurrency: Option<u32>,
    pub(crate) router_mode: RouterMode,
    pub(crate) kv_router: KvRouterOptions,
    pub(crate) session_affinity: Option<Duration>,
    /// The order of waiting queues, if it is not that of the engines.
    pub(crate) order: Option<Ours>,
    /// Whether a [`Curious`] policy picks workers.
    pub(crate) is_told: bool,
}

/// A policy that goes by all that it is told of candidates, so that none of that may differ between two runs.
#[derive(Debug)]
struct Curious;

impl Pick for Curious {
    fn pick(&mut self, request: &RoutedRequest<'_>, candidates: &[Candidate]) -> usize {
        assert_eq!(request.loads.len(), candidates.len());
        let mut picked = u64::from(request.id.0);
        for (candidate, load) in candidates.iter().zip(request.loads) {
            let numbers =
                [candidate.in_flight, load.running, load.waiting, load.free_blocks, load.overlap_blocks];
            let counts = [load.prefill_tokens, load.active_blocks, load.cost.to_bits()];
            for number in numbers.into_iter().map(u64::from).chain(counts) {
                picked = (picked.rotate_left(5) ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            }
        }
        (picked >> 33) as usize % candidates.len()
    }

    fn reads_loads(&self) -> bool {
        true
    }
}

/// An order of waiting queues that no engine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ours {
    /// Short prompts first, with many ties.
    Shortest,
    /// As good as any: each request has a key of its own, which never changes.
    Scrambled,
    /// Those first that have waited longest for their length, and behind them those that were preempted.
    Aging,
    /// Another one for each instant.
    Restless,
}

impl Order for Ours {
    fn key(&self, request: &WaitingRequest, now: Time) -> f64 {
        let waited = now.since(request.arrival).as_ns();
        match self {
            Self::Shortest => f64::from(request.prompt_tokens / 8),
            Self::Scrambled => f64::from(request.id.0.wrapping_mul(0x9E37_79B9) >> 16),
            Self::Aging => {
                let length = request.prompt_tokens + request.output_tokens + request.max_tokens;
                f64::from(request.preemptions) - waited as f64 / f64::from(length) / 1e6
            }
            Self::Restless => (((waited / 1000).wrapping_mul(0x9E37_79B9) >> 16) & 0xFF) as f64,
        }
    }

    fn is_fixed(&self) -> bool {
        matches!(self, Self::Shortest | Self::Scrambled)
    }
}

/// Any engine, in blocks of 4 tokens, so that it goes with any other. On the heap: what makes one is larger than the stack of
/// a test allows for several.
pub(crate) fn engine() -> BoxedStrategy<EngineArgs> {
    let trtllm = vllm().prop_map(|args| EngineArgs {
        engine_type: EngineType::Trtllm,
        trtllm: Some(TrtllmArgs {
            capacity_scheduler_policy: match args.num_gpu_blocks % 4 {
                0 => CapacitySchedulerPolicy::StaticBatch,
                1 => CapacitySchedulerPolicy::GuaranteedNoEvict,
                _ => CapacitySchedulerPolicy::MaxUtilization,
            },
            ..TrtllmArgs::default()
        }),
        kv_role: None,
        grammar_compile_ms: None,
        speculative_config: None,
        kv_groups: None,
        ..args
    });
    prop_oneof![3 => vllm().boxed(), 3 => sglang().boxed(), 1 => trtllm.boxed()].boxed()
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
            kv_role: None,
            grammar_compile_ms: None,
            speculative_config: None,
            kv_groups: None,
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
pub(crate) fn output_room(args: &EngineArgs, prompt: u32) -> u32 {
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

/// A host that takes nothing, or something of everything, now and then far longer than passes.
fn host() -> impl Strategy<Value = serde_json::Value> {
    let us = || prop_oneof![2 => Just(0.0), 2 => 0.0_f64..900.0, 1 => 0.0_f64..20_000.0];
    let times = (us(), us(), us(), us(), us(), us());
    let some = times.prop_map(|(gap, each_gap, front, each_front, delivery, each_delivery)| {
        json!({
            "gap_us": gap, "gap_us_per_request": each_gap, "front_end_us": front,
            "front_end_us_per_1k_prompt_tokens": 20.0 * each_front, "delivery_us": delivery,
            "delivery_us_per_request": each_delivery,
        })
    });
    prop_oneof![Just(json!(null)), some]
}

/// Speculative decoding, now and then, with drafts for which there is always room.
fn speculation() -> impl Strategy<Value = serde_json::Value> {
    let methods = ["ngram", "eagle3", "mtp", "draft_model"];
    let given = (
        prop::sample::select(methods.to_vec()),
        prop::collection::vec(0.0..=1.0, 1..4),
        prop::option::of(0.0_f64..400.0),
    );
    let some = given.prop_map(|(method, rates, draft_pass_us): (_, Vec<f64>, _)| {
        json!({
            "method": method,
            "num_speculative_tokens": rates.len(),
            "num_nextn_predict_layers": if method == "mtp" { Some(rates.len()) } else { None },
            "conditional_acceptance_rates": rates,
            "draft_pass_us": draft_pass_us,
        })
    });
    prop_oneof![3 => Just(json!(null)), 1 => some]
}

/// Groups of layers, now and then.
fn groups() -> impl Strategy<Value = Option<serde_json::Value>> {
    let kinds = [
        json!({"type": "sliding_window", "sliding_window": 12}),
        json!({"type": "sliding_window", "sliding_window": 5}),
        json!({"type": "chunked_local", "chunk": 16}),
        json!({"type": "mamba"}),
    ];
    let other = prop::sample::select(kinds.to_vec());
    prop::option::weighted(0.2, other.prop_map(|other| json!([other, {"type": "full"}])))
}

fn vllm() -> impl Strategy<Value = EngineArgs> {
    let sizes = (4_u32..60, 1_u32..8, 8_u32..80, prop::option::of(20_u32..200));
    let switches = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    let role = prop::sample::select(vec![None, None, Some("kv_producer"), Some("kv_consumer")]);
    let sharing = prop::sample::select(vec![None, Some("dedicated"), Some("shared"), Some("shared")]);
    // Much shorter than passes, or longer.
    let bandwidth = prop::option::weighted(0.7, prop_oneof![0.01_f64..10.0, 0.0005_f64..0.05]);
    let transfer = (bandwidth, prop_oneof!["full_prompt", "destination_missing"], role, sharing);
    let given = (sizes, switches, transfer, 0..5_u32, host(), speculation(), groups());
    given.prop_map(|(sizes, switches, transfer, latency, host, speculation, groups)| {
        // Drafts do not go with groups.
        let speculation = if groups.is_some() { json!(null) } else { speculation };
        let (bandwidth, timing_mode, role, sharing) = transfer;
        let (num_gpu_blocks, max_num_seqs, max_num_batched_tokens, max_model_len) = sizes;
        let (caching, chunked, gate, asynchronous, priority) = switches;
        let latencies =
            ["polynomial", "linear:500,10,3", "linear:0,0,0", "profile:uneven", "step:experts.toml"];
        let latency = latencies[latency as usize];
        // A connector that polls notices the end of a transfer with an iteration that began after it: one that is waited
        // for in iterations of no time is noticed never.
        let role = role.filter(|_| latency != "linear:0,0,0");
        // A prompt whose drafter lacks slots is computed again and again until memory that is held for others is free: for
        // ever, if that takes no time.
        let speculation = if latency == "linear:0,0,0" { json!(null) } else { speculation };
        // Chunks that end where states are kept are cut.
        let chunked = chunked || groups.is_some();
        // Now and then it takes its time to compile grammars.
        let compile = (num_gpu_blocks % 4 == 0).then(|| f64::from(num_gpu_blocks % 7) * 3.7);
        EngineArgs::from_json(json!({
            "kv_groups": groups,
            "block_size": 4, "num_gpu_blocks": num_gpu_blocks, "max_num_seqs": max_num_seqs,
            "max_num_batched_tokens": max_num_batched_tokens, "max_model_len": max_model_len,
            "enable_prefix_caching": caching, "enable_chunked_prefill": chunked,
            "scheduler_reserve_full_isl": gate, "async_scheduling": asynchronous,
            "scheduling_policy": if priority { "priority" } else { "fcfs" }, "latency": latency,
            "kv_bytes_per_token": 1000, "kv_transfer_bandwidth": bandwidth, "kv_transfer_timing_mode": timing_mode,
            "kv_transfer_sharing": bandwidth.and(sharing), "kv_role": role, "host": host,
            "speculative_config": speculation, "grammar_compile_ms": compile,
        }))
        .unwrap()
    })
}

/// Rows of a few sessions, up to number `sessions`, whose prompts share prefixes, and of requests by themselves.
pub(crate) fn rows(sessions: u8, size: Range<usize>) -> impl Strategy<Value = Vec<TraceRow>> {
    let row = (0_u8..12, 0_u32..40, 1_u64..120, 1_u64..40, 0_u64..3, -2_i32..3);
    prop::collection::vec(row, size).prop_map(move |rows| {
        let mut seen = std::collections::BTreeSet::new();
        let row = |(index, (session, time, input, output, family, priority)): (
            usize,
            (u8, u32, u64, u64, u64, i32),
        )| {
            let first = seen.insert(session);
            let blocks = input.div_ceil(6);
            // Where a prompt ends with a block, a longer one of its family goes on with its output.
            let output_blocks = if family == 0 { 0 } else { output.div_ceil(6) };
            TraceRow {
                line: index as u64 + 1,
                session_id: (session < sessions).then(|| format!("session {session}")),
                timestamp_ms: (first || session >= sessions || time % 2 == 0).then(|| f64::from(time)),
                delay_ms: (!first && session < sessions && time % 3 == 0).then(|| f64::from(time) / 7.0),
                input_length: Some(input),
                output_length: output,
                hash_ids: (0..blocks).map(|block| family << 32 | block).collect(),
                output_ids: (blocks..blocks + output_blocks).map(|block| family << 32 | block).collect(),
                priority,
                grammar: (input % 3 == 0).then(|| format!("{}.json", input % 2).into()),
                ..TraceRow::default()
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

/// What makes two engines of SGLang a pair with SGLang's own hand-over, of the prefill and of the decode worker.
fn pair() -> impl Strategy<Value = (serde_json::Value, serde_json::Value)> {
    let us = || prop_oneof![2 => Just(None), 1 => (0_u32..3_000).prop_map(Some)];
    let decode = (
        prop_oneof![1 => Just(None), 3 => (0_u32..40).prop_map(Some)],
        any::<bool>(),
        1_u32..4,
        prop::option::of(0_u32..4),
        prop::sample::select(vec![None, Some("cpu_tensor"), Some("none")]),
    );
    (us(), us(), decode).prop_map(|(bootstrap, handshake, (reserved, radix, polls, slots, backup))| {
        let prefill = json!({"disaggregation_mode": "prefill", "disaggregation_bootstrap_us": bootstrap});
        let decode = json!({
            "disaggregation_mode": "decode", "disaggregation_handshake_us": handshake,
            "num_reserved_decode_tokens": reserved, "disaggregation_decode_enable_radix_cache": radix,
            "disaggregation_decode_polling_interval": polls, "disaggregation_decode_extra_slots": slots,
            "disaggregation_decode_retraction_backup": backup,
        });
        (prefill, decode)
    })
}

/// An engine of SGLang with other settings of its own.
fn sglang_with(args: EngineArgs, settings: &serde_json::Value) -> EngineArgs {
    let mut own = serde_json::to_value(args.sglang.unwrap_or_default()).unwrap();
    let given = settings.as_object().unwrap().iter();
    given.for_each(|(key, value)| own[key] = value.clone());
    EngineArgs { sglang: Some(serde_json::from_value(own).unwrap()), ..args }
}

/// Random deployments of SGLang with its own hand-over.
pub(crate) fn of_pairs() -> impl Strategy<Value = Scenario> {
    (scenario(), sglang(), sglang(), pair(), (8_u32..60, 8_u32..60)).prop_map(
        |(scenario, prefill, decode, pair, blocks)| {
            let decode = EngineArgs {
                kv_transfer_bandwidth: None,
                kv_bytes_per_token: None,
                kv_transfer_sharing: None,
                num_gpu_blocks: blocks.1,
                ..sglang_with(decode, &pair.1)
            };
            let prefill = EngineArgs { num_gpu_blocks: blocks.0, ..sglang_with(prefill, &pair.0) };
            Scenario { prefill, decode: Some(decode), ..scenario }
        },
    )
}

/// Any deployment, those of SGLang with its own hand-over among them.
pub(crate) fn any_scenario() -> impl Strategy<Value = Scenario> {
    prop_oneof![3 => scenario().boxed(), 1 => of_pairs().boxed()]
}

pub(crate) fn scenario() -> impl Strategy<Value = Scenario> {
    let router_mode = prop_oneof![
        Just(RouterMode::RoundRobin),
        Just(RouterMode::Random),
        Just(RouterMode::LeastLoaded),
        Just(RouterMode::PowerOfTwo),
        Just(RouterMode::PrefixHash),
        Just(RouterMode::KvRouter)
    ];
    let decode = prop::option::of(engine());
    let affinity =
        prop::option::weighted(0.25, (1..3_000_u64).prop_map(|ms| Duration::from_ns(ms * 1_000_000)));
    let router = (router_mode, kv_router(), affinity);
    (engine(), decode, (1_u32..4, 1_u32..4), rows(6, 1..40), prop::option::of(1_u32..6), router).prop_map(
        |(prefill, decode, workers, rows, concurrency, (router_mode, kv_router, session_affinity))| {
            // Both engines would have to agree on what a hand-off costs: the prefill engine says it.
            let decode = decode.map(|decode| EngineArgs {
                kv_transfer_bandwidth: None,
                kv_bytes_per_token: None,
                kv_transfer_sharing: None,
                ..decode
            });
            Scenario {
                prefill,
                decode,
                workers,
                rows,
                concurrency,
                router_mode,
                kv_router,
                session_affinity,
                order: None,
                is_told: false,
            }
        },
    )
}

impl Scenario {
    /// Whether its workers hand over as SGLang's do.
    pub(crate) fn is_paired(&self) -> bool {
        self.prefill.sglang.as_ref().is_some_and(|own| own.disaggregation_mode.is_some())
    }
}

/// What the host of an engine takes.
pub(crate) fn host_of(args: &EngineArgs) -> Host {
    args.validate(Some(Arc::new(Uneven))).unwrap().host()
}

pub(crate) fn run(scenario: &Scenario) -> RunRecord {
    watch(scenario, false).0
}

/// `plain`: every iteration by itself, request by request.
pub(crate) fn watch(scenario: &Scenario, plain: bool) -> (RunRecord, Watch) {
    watch_in(scenario, plain, Detail::Tokens)
}

/// The same, for an observer that wants to know as much as `detail` says.
pub(crate) fn watch_in(scenario: &Scenario, plain: bool, detail: Detail) -> (RunRecord, Watch) {
    watch_by(scenario, plain, detail, Simulation::run)
}

/// A run of which nobody records decisions: engines do not tell routers of what no prompt hits.
pub(crate) fn run_unrecorded(scenario: &Scenario) -> RunRecord {
    let (topology, options) = deployment(scenario, false);
    let options = SimulationOptions { record_routing: false, ..options };
    let order = scenario.order.map(|order| Arc::new(order) as Arc<dyn Order>);
    let simulation = Simulation::new(&topology, workload(scenario), &options).unwrap();
    let simulation = simulation.with_order(|_| order.clone());
    let simulation =
        if scenario.is_told { simulation.with_policy(|_| Box::new(Curious)) } else { simulation };
    simulation.run(&mut ()).unwrap_or_else(|error| panic!("{error}"))
}

fn workload(scenario: &Scenario) -> Workload {
    let load = match scenario.concurrency {
        None => Load::Open { arrival_speedup_ratio: 1.0 },
        Some(_) => Load::Closed,
    };
    Workload::from_rows(&scenario.rows, 6, load).unwrap()
}

/// What an observer sees to whom all workers are told of in one order.
pub(crate) fn watch_ordered(scenario: &Scenario) -> Watch {
    let run = |simulation: Simulation, watcher: &mut Watcher| {
        let mut ordered = Ordered::new(std::mem::take(watcher));
        let record = simulation.run(&mut ordered);
        *watcher = ordered.into_inner();
        record
    };
    watch_by(scenario, false, Detail::Tokens, run).1
}

fn watch_by(
    scenario: &Scenario,
    plain: bool,
    detail: Detail,
    run: impl FnOnce(Simulation, &mut Watcher) -> Result<RunRecord, RunError>,
) -> (RunRecord, Watch) {
    let workload = workload(scenario);
    let (topology, options) = deployment(scenario, plain);
    let log = Some(TokenLog::new(&topology));
    let mut watcher = Watcher { detail, watch: Watch::default(), log };
    let order = scenario.order.map(|order| Arc::new(order) as Arc<dyn Order>);
    let simulation = Simulation::new(&topology, workload, &options).unwrap().with_order(|_| order.clone());
    let simulation =
        if scenario.is_told { simulation.with_policy(|_| Box::new(Curious)) } else { simulation };
    let record = run(simulation, &mut watcher).unwrap_or_else(|error| panic!("{error}"));
    let Watcher { watch, log, .. } = watcher;
    (record, Watch { tokens: log.unwrap().into_times(), ..watch })
}

#[derive(Default)]
struct Watcher {
    detail: Detail,
    watch: Watch,
    log: Option<TokenLog>,
}

/// The checked settings of an engine, with the latency model that it names.
pub(crate) fn config_of(args: &EngineArgs) -> EngineConfig {
    let is_step = args.latency.as_deref().is_some_and(|latency| latency.starts_with("step:"));
    let model: Arc<dyn LatencyModel> =
        if is_step { Arc::new(Step::from_toml(STEP).unwrap()) } else { Arc::new(Uneven) };
    args.validate(Some(model)).unwrap()
}

/// The deployment of a scenario, and how it is simulated.
pub(crate) fn deployment(scenario: &Scenario, plain: bool) -> (Topology, SimulationOptions) {
    let prefill = config_of(&scenario.prefill);
    let first = PoolEngine { workers: scenario.workers.0, args: &scenario.prefill, config: &prefill };
    let topology = match &scenario.decode {
        None => Topology::aggregated(first).unwrap(),
        Some(args) => {
            let config = config_of(args);
            Topology::disaggregated(first, PoolEngine { workers: scenario.workers.1, args, config: &config })
                .unwrap()
        }
    };
    let closed = |concurrency| LoadMode::ClosedLoop { concurrency };
    let options = SimulationOptions {
        load: scenario.concurrency.map_or(LoadMode::OpenLoop, closed),
        router: RouterOptions {
            mode: scenario.router_mode,
            prefix_hash_blocks: 2,
            kv: scenario.kv_router.clone(),
            session_affinity: scenario.session_affinity,
        },
        check: true,
        record_routing: true,
        plain,
        ..SimulationOptions::default()
    };
    (topology, options)
}

/// Most steps of the event loop that any of these runs needs.
const MOST_STEPS: u64 = 1_000_000;

/// All that an observer sees of a run, with decodes that were reported together taken apart.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Watch {
    /// By worker.
    pub(crate) passes: BTreeMap<(Role, WorkerId), Vec<Pass>>,
    /// When iterations ended, in the order in which they were told of.
    pub(crate) ends: Vec<Time>,
    /// By request, when its user had each of its tokens.
    pub(crate) tokens: Vec<Vec<Time>>,
    /// Decisions of KV-aware routers.
    pub(crate) routed: Vec<String>,
    /// Iterations that were reported together.
    pub(crate) together: u64,
    steps: u64,
}

/// What an observer sees of one iteration in which something happened.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pass {
    pub(crate) start: Time,
    pub(crate) end: Time,
    pub(crate) requests: u64,
    tokens: u64,
    /// After scheduling.
    free_blocks: u32,
    admitted: Vec<Admitted>,
    preempted: Vec<RequestId>,
    rejected: Vec<(RequestId, Rejection)>,
    transfers: Vec<Transfer>,
    received: Vec<RequestId>,
    sent: Vec<RequestId>,
}

impl Watch {
    /// The same, however it was reported, whatever the number of steps that the event loop took, and in which order workers
    /// were told of.
    pub(crate) fn timeless(self) -> Self {
        Self { together: 0, steps: 0, ends: Vec::new(), ..self }
    }
}

impl Observer for Watcher {
    fn detail(&self) -> Detail {
        self.detail
    }

    fn iteration(&mut self, pool: Role, worker: WorkerId, iteration: &Iteration) {
        self.log.as_mut().unwrap().iteration(pool, worker, iteration);
        self.watch.iteration(pool, worker, iteration);
    }

    fn decoded(&mut self, pool: Role, worker: WorkerId, decodes: &Decodes) {
        self.log.as_mut().unwrap().decoded(pool, worker, decodes);
        self.watch.decoded(pool, worker, decodes);
    }

    fn caught_up(&mut self, pool: Role, worker: WorkerId, caught_up: CaughtUp) {
        self.log.as_mut().unwrap().caught_up(pool, worker, caught_up);
    }

    fn routed(&mut self, routed: &Routed) {
        self.watch.routed.push(format!("{routed:?}"));
    }

    fn progress(&mut self, _: Time, _: u64) -> ControlFlow<()> {
        self.watch.steps += 1;
        if self.watch.steps == MOST_STEPS { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl Watch {
    fn iteration(&mut self, pool: Role, worker: WorkerId, iteration: &Iteration) {
        // KV events alone are no iteration: a router sees them, and what it decides is compared.
        if !iteration.is_eventful() {
            return;
        }
        self.ends.push(iteration.end);
        self.passes.entry((pool, worker)).or_default().push(Pass {
            start: iteration.start,
            end: iteration.end,
            requests: iteration.num_scheduled(),
            tokens: iteration.total_tokens(),
            free_blocks: iteration.free_blocks_after_schedule,
            admitted: iteration.admitted.clone(),
            preempted: iteration.preempted.clone(),
            rejected: iteration.rejected.clone(),
            transfers: iteration.transfers.clone(),
            received: iteration.received.clone(),
            sent: iteration.sent.clone(),
        });
    }

    fn decoded(&mut self, pool: Role, worker: WorkerId, decodes: &Decodes) {
        self.together += decodes.count();
        let mut start = decodes.start;
        let mut free_blocks = decodes.free_blocks;
        for &end in decodes.ends {
            self.ends.push(end);
            self.passes.entry((pool, worker)).or_default().push(Pass {
                start,
                end,
                requests: decodes.requests,
                tokens: decodes.requests,
                free_blocks,
                admitted: Vec::new(),
                preempted: Vec::new(),
                rejected: Vec::new(),
                transfers: Vec::new(),
                received: Vec::new(),
                sent: Vec::new(),
            });
            start = end + decodes.gap;
            free_blocks = free_blocks.saturating_sub(decodes.taken_blocks);
        }
    }
}
