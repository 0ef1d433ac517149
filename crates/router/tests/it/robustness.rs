//! No order of calls panics, every request comes out at most once, and a seed gives the same answers again.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use proptest::prelude::*;
use servecast_router::{
    Admission, Decision, KvRouterConfig, PrefillLoadModel, PrefillModel, QueuePolicy, RankInfo, Router,
    RouterConfigOverride, RoutingRequest, Sizes,
};
use servecast_types::{Duration, KvEvent, Rank, RequestId, Time, WorkerId};

use crate::support::{cases, hashes, removed, stored};

#[derive(Debug, Clone)]
enum Call {
    Route(RoutingRequest),
    Book(RoutingRequest, Rank),
    Peek(RoutingRequest),
    PrefillDone(u32),
    Finish(u32),
    Output(u32, u32),
    OutputBlock(u32, Option<f64>),
    AddRank(Rank, Option<u32>),
    RemoveRank(Rank),
    Event(Rank, KvEvent),
    DumpAndRestore,
    Advance,
}

fn rank() -> impl Strategy<Value = Rank> {
    (0_u32..4, 0_u32..2).prop_map(|(worker, dp_rank)| Rank { worker: WorkerId(worker), dp: dp_rank })
}

fn overrides() -> impl Strategy<Value = RouterConfigOverride> {
    let number = || prop::option::of(prop_oneof![Just(0.0), Just(0.5), Just(-1.0), Just(f64::NAN)]);
    (number(), number(), any::<Option<bool>>(), any::<Option<bool>>()).prop_map(
        |(weight, temperature, reuse, track)| RouterConfigOverride {
            overlap_score_weight: weight,
            router_temperature: temperature,
            assume_kv_reuse: reuse,
            track_prefill_tokens: track,
        },
    )
}

fn request() -> impl Strategy<Value = RoutingRequest> {
    let blocks = prop::collection::vec(0_u64..6, 0..5);
    let isl = prop_oneof![Just(0_u32), 0_u32..30, Just(u32::MAX)];
    let limits = (prop::option::of(rank()), prop::option::of(prop::collection::vec(0_u32..5, 0..3)));
    let jump = prop_oneof![Just(0.0), Just(5.0), Just(-1.0), Just(f64::NAN), Just(f64::INFINITY)];
    (0_u32..12, isl, blocks, overrides(), limits, jump, any::<bool>()).prop_map(
        |(id, isl, blocks, overrides, (pinned, allowed), priority_jump, decode)| {
            let request = RoutingRequest {
                overrides: if id % 3 == 0 { overrides } else { RouterConfigOverride::default() },
                pinned: pinned.filter(|_| id % 4 == 1),
                allowed: allowed.filter(|_| id % 4 < 2).map(Arc::from),
                priority_jump,
                expected_output_tokens: Some(isl / 2),
                ..RoutingRequest::new(RequestId(id), isl, hashes(blocks))
            };
            if decode { request.for_decode() } else { request }
        },
    )
}

fn event() -> impl Strategy<Value = KvEvent> {
    let blocks = || prop::collection::vec(0_u64..6, 0..5);
    prop_oneof![
        (prop::option::of(0_u64..6), blocks()).prop_map(|(parent, blocks)| stored(parent, blocks)),
        blocks().prop_map(removed),
        Just(KvEvent::Cleared),
    ]
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        6 => request().prop_map(Call::Route),
        1 => (request(), rank()).prop_map(|(request, rank)| Call::Book(request, rank)),
        1 => request().prop_map(Call::Peek),
        3 => (0_u32..12).prop_map(Call::PrefillDone),
        3 => (0_u32..12).prop_map(Call::Finish),
        1 => (0_u32..12, any::<u32>()).prop_map(|(id, generated)| Call::Output(id, generated % 100)),
        1 => (0_u32..12, prop::option::of(-0.5..1.5)).prop_map(|(id, weight)| Call::OutputBlock(id, weight)),
        3 => (rank(), prop::option::of(0_u32..8)).prop_map(|(rank, batch)| Call::AddRank(rank, batch)),
        1 => rank().prop_map(Call::RemoveRank),
        4 => (rank(), event()).prop_map(|(rank, event)| Call::Event(rank, event)),
        1 => Just(Call::DumpAndRestore),
        2 => Just(Call::Advance),
    ]
}

fn config() -> impl Strategy<Value = KvRouterConfig> {
    let threshold = prop::option::of(prop_oneof![Just(0.0), Just(1.0), Just(4.0)]);
    (any::<[bool; 5]>(), threshold, 0..3_usize, prop_oneof![Just(0.0), Just(1.0)]).prop_map(
        |([events, blocks, reuse, tokens, modelled], threshold, policy, temperature)| {
            let modelled = modelled && tokens;
            let policy = [QueuePolicy::Fcfs, QueuePolicy::Lcfs, QueuePolicy::Wspt][policy];
            KvRouterConfig {
                use_kv_events: events,
                router_track_active_blocks: blocks,
                router_track_output_blocks: blocks,
                router_assume_kv_reuse: reuse,
                router_track_prefill_tokens: tokens,
                router_queue_threshold: threshold,
                router_temperature: temperature,
                router_max_tree_size: 5,
                router_ttl_secs: 3e-9,
                router_queue_policy: if modelled { QueuePolicy::Fcfs } else { policy },
                router_prefill_load_model: if modelled {
                    PrefillLoadModel::Aic
                } else {
                    PrefillLoadModel::None
                },
                ..KvRouterConfig::default()
            }
        },
    )
}

#[derive(Debug)]
struct Model;

impl PrefillModel for Model {
    fn predict(&self, new_tokens: u32, _: u32) -> Option<Duration> {
        (!new_tokens.is_multiple_of(7)).then(|| Duration::from_ns(u64::from(new_tokens)))
    }
}

/// Makes a call; the admissions that came of it, and whatever else it said, as text.
fn make(router: &mut Router, call: &Call, now: Time) -> (Vec<Admission>, String) {
    let quiet = |text: String| (Vec::new(), text);
    match call {
        Call::Route(request) => match router.route(request.clone(), now) {
            Ok(Decision::Admit(admission)) => (vec![admission], String::new()),
            Ok(Decision::Queued(queued)) => (queued.released, format!("{}", queued.waiting)),
            Err(error) => quiet(error.to_string()),
        },
        Call::Book(request, rank) => match router.book(request.clone(), *rank, now) {
            Ok(admission) => (vec![admission], String::new()),
            Err(error) => quiet(error.to_string()),
        },
        Call::Peek(request) => quiet(format!("{:?}", router.peek(request.clone(), now))),
        Call::PrefillDone(id) => match router.prefill_done(RequestId(*id), now) {
            Ok(admissions) => (admissions, String::new()),
            Err(error) => quiet(error.to_string()),
        },
        Call::Finish(id) => (router.finish(RequestId(*id), now), String::new()),
        Call::Output(id, generated) => {
            quiet(format!("{:?}", router.record_output(RequestId(*id), *generated, now)))
        }
        Call::OutputBlock(id, weight) => {
            quiet(format!("{:?}", router.add_output_block(RequestId(*id), *weight, now)))
        }
        Call::AddRank(rank, batch) => {
            (router.add_rank(*rank, RankInfo { max_num_batched_tokens: *batch }, now), String::new())
        }
        Call::RemoveRank(rank) => {
            let removed = router.remove_rank(*rank, now);
            (removed.admitted, format!("{:?} {:?}", removed.forgotten, removed.refused))
        }
        Call::Event(rank, event) => quiet(format!("{:?}", router.apply(*rank, event, now))),
        Call::DumpAndRestore => {
            let dump = router.dump();
            router.restore(&dump, now).expect("a dump can be restored where it was made");
            quiet(format!("{dump:?}"))
        }
        Call::Advance => (router.advance(now), format!("{:?}", router.next_deadline())),
    }
}

fn play(config: &KvRouterConfig, seed: u64, calls: &[Call]) -> (Router, String) {
    let mut router = Router::new(config.validate().unwrap(), 4, seed)
        .with_prefill_model(Arc::new(Model))
        .with_request_expiry(Some(Duration::from_ns(40)))
        .record_terms();
    let mut log = String::new();
    for (step, call) in calls.iter().enumerate() {
        let (admissions, said) = make(&mut router, call, Time::from_ns(step as u64));
        let ids: BTreeSet<RequestId> = admissions.iter().map(|admission| admission.ticket.id).collect();
        assert_eq!(ids.len(), admissions.len(), "a request is admitted once");
        for admission in &admissions {
            let chosen = admission.terms.iter().find(|terms| terms.rank == admission.ticket.rank);
            let lowest = admission.terms.iter().map(|terms| terms.cost).fold(f64::INFINITY, f64::min);
            let chosen = chosen.expect("the chosen rank is a candidate").cost;
            assert!(admission.ticket.settings.router_temperature > 0.0 || chosen <= lowest);
            assert!(admission.terms.is_sorted_by_key(|terms| terms.rank));
        }
        writeln!(log, "{call:?}: {admissions:?} {said}").unwrap();
    }
    (router, log)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn no_order_of_calls_panics_or_leaves_anything(
        config in config(),
        seed in any::<u64>(),
        calls in prop::collection::vec(call(), 0..120),
    ) {
        let (mut router, log) = play(&config, seed, &calls);
        prop_assert_eq!(&log, &play(&config, seed, &calls).1, "the same seed gives the same answers");
        let now = Time::from_ns(1_000_000);
        for _ in 0..2 {
            for id in 0..12 {
                router.finish(RequestId(id), now);
            }
        }
        let ranks: Vec<Rank> = router.ranks().collect();
        for &rank in &ranks {
            let load = (router.active_blocks(rank), router.prefill_tokens(rank, now), router.active_requests(rank));
            prop_assert_eq!(load, (Some(0), Some(0), Some(0)));
        }
        for rank in ranks {
            router.remove_rank(rank, now);
        }
        prop_assert_eq!(router.sizes(), Sizes::default());
    }
}
