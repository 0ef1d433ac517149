//! The router behind the names of a deployment: phases, bookings, workers.

use servecast_router::standalone::{
    PhaseId, PhaseRequest, PromptBlocks, Routed, Selection, StandaloneError, StandaloneRouter, TokenBlocks,
    WorkerInfo, WorkerRank, WorkerRole,
};
use servecast_router::wire::{RouterEvent, from_json};
use servecast_router::{KvRouterConfig, RouterConfigOverride};
use servecast_types::hash::{Salt, block_hashes};
use servecast_types::{Role, SequenceHash, Time};

const NOW: Time = Time::ZERO;
const A: u64 = 0xdead_beef_0000_0001;
const B: u64 = 0xdead_beef_0000_0002;
const P: u64 = 7;
const BLOCK: u32 = 4;

pub(crate) fn rank(worker_id: u64) -> WorkerRank {
    WorkerRank { worker_id, dp_rank: 0 }
}

fn worker(role: WorkerRole) -> WorkerInfo {
    WorkerInfo { max_num_batched_tokens: Some(16), ..WorkerInfo::new(role) }
}

/// Decode workers A and B and prefill worker P, blocks of 4 tokens, batches of 16.
fn router_of(config: &KvRouterConfig) -> StandaloneRouter {
    let mut router = StandaloneRouter::new(config, BLOCK, 1).unwrap();
    for (id, role) in [(A, WorkerRole::Decode), (B, WorkerRole::Decode), (P, WorkerRole::Prefill)] {
        router.register_worker(id, worker(role), NOW).unwrap();
    }
    router
}

fn router() -> StandaloneRouter {
    router_of(&KvRouterConfig::default())
}

fn prompt(tokens: impl IntoIterator<Item = u32>) -> PromptBlocks {
    PromptBlocks::from_tokens(&tokens.into_iter().collect::<Vec<_>>(), BLOCK, Salt::default())
}

fn request(id: &str, phase: Role, tokens: u32) -> PhaseRequest {
    PhaseRequest::new(id, phase, prompt(0..tokens))
}

fn admitted(routed: Routed) -> Selection {
    match routed {
        Routed::Admitted(selection) => selection,
        Routed::Queued { .. } => panic!("not admitted: {routed:?}"),
    }
}

fn message<T: std::fmt::Debug>(result: Result<T, StandaloneError>) -> String {
    result.unwrap_err().to_string()
}

/// (active blocks, outstanding prefill tokens) of a worker.
fn load(router: &StandaloneRouter, worker_id: u64) -> (u64, u64) {
    let ranks = router.dump(NOW).ranks;
    let found = ranks.iter().find(|each| each.rank == rank(worker_id)).unwrap();
    (found.active_blocks, found.prefill_tokens)
}

fn ids(requests: &[PhaseId]) -> Vec<&str> {
    requests.iter().map(|request| request.id.as_ref()).collect()
}

#[test]
fn a_decode_phase_is_selected_and_booked_under_its_override_and_no_other_phase_is() {
    for book in [false, true] {
        let mut router = router();
        router.stored_tokens(rank(A), &tokens(&(0..8).collect::<Vec<_>>()), NOW).unwrap();
        let place = |router: &mut StandaloneRouter, id, phase: Role, on| {
            let request = request(id, phase, 16);
            if book {
                return router.book(&request, rank(on), NOW).unwrap();
            }
            let selected = router.select(&request, NOW).unwrap();
            let routed = admitted(router.route(&request, NOW).unwrap());
            assert_eq!(routed.settings, selected.settings);
            routed
        };
        let decode = place(&mut router, "r", Role::Decode, A);
        assert_eq!((decode.prefill_tokens, decode.tracked_blocks), (0, 4));
        assert!(!decode.settings.assume_kv_reuse && !decode.settings.track_prefill_tokens);
        assert!(decode.settings.overlap_score_weight.abs() < f64::EPSILON);
        assert_eq!(load(&router, decode.rank.worker_id), (4, 0));

        // The same prompt again in the decode phase shares nothing; whole, it does.
        let other = place(&mut router, "s", Role::Decode, decode.rank.worker_id);
        router.free("s", None, NOW);
        assert_eq!(other.tracked_blocks, 4);
        router.free("r", Some(Role::Decode), NOW);

        let whole = place(&mut router, "r", Role::Aggregated, A);
        assert!(whole.settings.assume_kv_reuse && whole.settings.track_prefill_tokens);
        assert_eq!((whole.rank, whole.overlap_blocks, whole.prefill_tokens), (rank(A), 2, 8));
        assert_eq!(load(&router, A), (4, 8));

        let prefill = place(&mut router, "r", Role::Prefill, P);
        assert_eq!((prefill.rank, prefill.prefill_tokens, prefill.tracked_blocks), (rank(P), 16, 0));
        assert_eq!(load(&router, P), (0, 16));
    }
}

#[test]
fn the_decode_phase_keeps_only_the_temperature_of_the_requests_own_overrides() {
    let own = RouterConfigOverride {
        overlap_score_weight: Some(3.0),
        router_temperature: Some(0.25),
        assume_kv_reuse: Some(true),
        track_prefill_tokens: Some(true),
    };
    let mut router = router();
    for phase in Role::ALL {
        let request = PhaseRequest { overrides: own, ..request("r", phase, 8) };
        let settings = admitted(router.route(&request, NOW).unwrap()).settings;
        let weight = if phase == Role::Decode { 0.0 } else { 3.0 };
        assert!((settings.overlap_score_weight - weight).abs() < f64::EPSILON);
        assert!((settings.router_temperature - 0.25).abs() < f64::EPSILON);
        assert_eq!(settings.track_prefill_tokens, phase != Role::Decode);
    }
}

#[test]
fn phases_of_a_request_are_booked_side_by_side_and_freed_one_by_one() {
    let mut router = router();
    for phase in Role::ALL {
        router.route(&request("r", phase, 8), NOW).unwrap();
        let again = message(router.route(&request("r", phase, 8), NOW));
        assert_eq!(
            again,
            format!(
                "request `r` is routed already in the {phase} phase: free it before its id is used again"
            )
        );
        router.select(&request("r", phase, 8), NOW).expect("a look is free");
    }
    assert_eq!(load(&router, P), (0, 8));
    router.mark_prefill_complete("r", NOW).unwrap();
    assert_eq!(load(&router, P), (0, 0));
    assert_eq!((load(&router, A).1, load(&router, B).1), (0, 0));
    router.free("r", Some(Role::Prefill), NOW);
    assert_eq!(router.dump(NOW).booked.len(), 2);
    router.record_output("r", 3, NOW).unwrap();
    router.free("r", None, NOW);
    router.free("r", None, NOW);
    assert!(router.dump(NOW).booked.is_empty());
    for call in [router.mark_prefill_complete("r", NOW).map(|_| ()), router.record_output("r", 4, NOW)] {
        assert_eq!(message(call), "request `r` is not booked on any worker");
    }
}

#[test]
fn a_request_waits_for_room_and_is_admitted_by_a_later_call() {
    let mut router = router();
    for (id, worker_id) in [("a", A), ("b", B)] {
        router.book(&request(id, Role::Aggregated, 80), rank(worker_id), NOW).unwrap();
    }
    let routed = router.route(&request("c", Role::Aggregated, 8), NOW).unwrap();
    assert_eq!(routed, Routed::Queued { waiting: 1, admitted: Vec::new() });
    assert_eq!(router.queued_requests(), 1);
    assert_eq!(
        message(router.mark_prefill_complete("c", NOW)),
        "request `c` is not booked on any worker: it waits for one"
    );
    router.route(&request("d", Role::Prefill, 8), NOW).expect("prefill workers have a queue of their own");
    router.route(&request("e", Role::Decode, 8), NOW).unwrap();
    let dump = router.dump(NOW);
    assert_eq!(dump.queued.iter().map(|request| request.id.as_str()).collect::<Vec<_>>(), ["c", "e"]);

    let later = Time::from_ns(5);
    let admitted = router.mark_prefill_complete("b", later).unwrap();
    let told: Vec<_> = admitted.iter().map(|each| (each.request.id.as_ref(), each.rank.worker_id)).collect();
    assert_eq!(told.iter().map(|&(id, _)| id).collect::<Vec<_>>(), ["c", "e"]);
    assert_eq!(admitted[0].queue_wait_ns, 5);
    assert!(router.free("c", None, later).is_empty());

    // A waiting request that is given up leaves nothing.
    router.book(&request("f", Role::Aggregated, 80), rank(B), later).unwrap();
    router.route(&request("g", Role::Aggregated, 8), later).unwrap();
    router.free("g", None, later);
    assert_eq!(router.queued_requests(), 0);
}

#[test]
fn workers_come_change_and_go() {
    let mut router = router();
    let wide = WorkerInfo { dp_rank_start: 2, dp_size: 3, ..worker(WorkerRole::Decode) };
    router.register_worker(B, wide, NOW).unwrap();
    let ranks = |router: &StandaloneRouter| {
        router.dump(NOW).ranks.iter().map(|each| (each.rank.worker_id, each.rank.dp_rank)).collect::<Vec<_>>()
    };
    assert_eq!(ranks(&router), [(P, 0), (A, 0), (B, 2), (B, 3), (B, 4)]);
    let on = WorkerRank { worker_id: B, dp_rank: 4 };
    router.book(&request("r", Role::Aggregated, 8), on, NOW).unwrap();
    assert_eq!(
        message(router.book(&request("s", Role::Aggregated, 8), rank(B), NOW)),
        format!("worker {B} has the ranks 2 to 4, not 0")
    );

    let narrow = WorkerInfo { dp_size: 2, ..wide };
    let changed = router.register_worker(B, narrow, NOW).unwrap();
    assert_eq!(ids(&changed.forgotten), ["r"]);
    router.book(&request("r", Role::Aggregated, 8), rank(A), NOW).expect("what is forgotten can come again");

    let pinned = PhaseRequest { allowed: Some(vec![B, 1]), ..request("s", Role::Aggregated, 8) };
    for dp_rank in [2, 3] {
        let on = WorkerRank { worker_id: B, dp_rank };
        router.book(&request(&format!("x{dp_rank}"), Role::Aggregated, 80), on, NOW).unwrap();
    }
    router.route(&pinned, NOW).unwrap();
    let changed = router.remove_worker(B, NOW).unwrap();
    assert_eq!((ids(&changed.forgotten), ids(&changed.refused)), (vec!["x2", "x3"], vec!["s"]));
    assert_eq!(message(router.remove_worker(B, NOW)), format!("worker {B} is not registered"));
    assert_eq!(
        message(router.route(&pinned, NOW)),
        "request `s`: no decode worker among those that it allows is registered"
    );
    router.remove_worker(P, NOW).unwrap();
    assert_eq!(
        message(router.route(&request("s", Role::Prefill, 8), NOW)),
        "request `s`: no prefill worker is registered"
    );
}

#[test]
fn who_waits_goes_to_a_rank_that_comes_and_never_to_one_that_goes() {
    let mut router = StandaloneRouter::new(&KvRouterConfig::default(), BLOCK, 1).unwrap();
    let info = WorkerInfo { dp_size: 2, ..worker(WorkerRole::Decode) };
    router.register_worker(A, info, NOW).unwrap();
    for dp_rank in [0, 1] {
        let on = WorkerRank { worker_id: A, dp_rank };
        router.book(&request(&dp_rank.to_string(), Role::Aggregated, 80), on, NOW).unwrap();
        // Rank 1 is the better one for what waits.
        if dp_rank == 1 {
            router.stored_tokens(on, &tokens(&(0..80).collect::<Vec<_>>()), NOW).unwrap();
        }
    }
    for id in ["a", "b"] {
        router.route(&request(id, Role::Aggregated, 80), NOW).unwrap();
    }
    // Only rank 0 is left, with a larger limit.
    let info = WorkerInfo { dp_size: 1, max_num_batched_tokens: Some(32), ..info };
    let changed = router.register_worker(A, info, NOW).unwrap();
    let admitted: Vec<_> =
        changed.admitted.iter().map(|each| (each.request.id.as_ref(), each.rank.dp_rank)).collect();
    assert_eq!((ids(&changed.forgotten), admitted), (vec!["1"], vec![("a", 0)]));
    // All ranks are others.
    let changed = router.register_worker(A, WorkerInfo { dp_rank_start: 5, ..info }, NOW).unwrap();
    assert!(changed.refused.is_empty());
    assert_eq!((changed.admitted.len(), changed.admitted[0].rank.dp_rank), (1, 5));
    assert_eq!(ids(&changed.forgotten), ["0", "a"]);
}

#[test]
fn a_worker_does_not_inherit_what_waits_for_one_that_is_gone() {
    let mut router = router();
    for (id, worker_id) in [("a", A), ("b", B)] {
        router.book(&request(id, Role::Aggregated, 80), rank(worker_id), NOW).unwrap();
    }
    let choosy = PhaseRequest { allowed: Some(vec![A, B]), ..request("c", Role::Aggregated, 8) };
    router.route(&choosy, NOW).unwrap();
    router.remove_worker(A, NOW).unwrap();
    let changed = router.register_worker(99, worker(WorkerRole::Decode), NOW).unwrap();
    assert!(changed.admitted.is_empty(), "{changed:?}");
}

#[test]
fn mistakes_about_workers_are_refused_by_name() {
    let mut router = router();
    for (worker_id, info, expected) in [
        (P, worker(WorkerRole::Decode), "worker 7 is a prefill worker: remove it before it becomes another"),
        (
            8,
            WorkerInfo { dp_size: 0, ..worker(WorkerRole::Decode) },
            "worker 8 has 0 ranks from 0: expected 1 to 4096, up to number 4294967294",
        ),
        (
            8,
            WorkerInfo { dp_rank_start: u32::MAX, dp_size: 1, ..worker(WorkerRole::Decode) },
            "worker 8 has 1 ranks from 4294967295: expected 1 to 4096, up to number 4294967294",
        ),
    ] {
        assert_eq!(message(router.register_worker(worker_id, info, NOW)), expected);
    }
    for (request, expected) in [
        (
            PhaseRequest { pinned: Some(rank(P)), ..request("r", Role::Decode, 8) },
            "worker 7 is a prefill worker: it does not serve this phase".to_owned(),
        ),
        (
            PhaseRequest { pinned: Some(rank(9)), ..request("r", Role::Decode, 8) },
            "worker 9 is not registered".to_owned(),
        ),
        (
            PhaseRequest {
                pinned: Some(rank(A)),
                allowed: Some(vec![B]),
                ..request("r", Role::Aggregated, 8)
            },
            "request `r`: it is pinned to a worker that it does not allow".to_owned(),
        ),
        (
            PhaseRequest {
                overrides: RouterConfigOverride {
                    router_temperature: Some(-1.0),
                    ..RouterConfigOverride::default()
                },
                ..request("r", Role::Aggregated, 8)
            },
            "request `r`: `router_temperature` is -1: expected a number of at least 0".to_owned(),
        ),
        (
            PhaseRequest {
                prompt: PromptBlocks::from_block_hashes(7, &block_hashes(&[1; 8], 4, Salt::default())),
                ..request("r", Role::Aggregated, 8)
            },
            "request `r`: 2 block hashes, but 7 tokens hold only 1 blocks of 4".to_owned(),
        ),
    ] {
        assert_eq!(message(router.select(&request, NOW)), expected);
        assert_eq!(message(router.route(&request, NOW)), expected);
    }
    assert!(router.dump(NOW).booked.is_empty());
}

#[test]
fn settings_that_a_router_on_its_own_cannot_have_are_refused() {
    let aic = serde_json::json!({"router_prefill_load_model": "aic"});
    let aic = KvRouterConfig::from_json(&aic).unwrap();
    for (config, block_size, expected) in [
        (
            aic,
            16,
            "`router_prefill_load_model` is aic, which needs a model of prefill times, and a router on its own has none: set it to none",
        ),
        (KvRouterConfig::default(), 0, "`block_size` is 0: expected at least 1 token"),
    ] {
        assert_eq!(StandaloneRouter::new(&config, block_size, 0).unwrap_err().to_string(), expected);
    }
}

fn tokens(tokens: &[u32]) -> TokenBlocks<'_> {
    TokenBlocks { parent: None, tokens, names: None, salt: Salt::default() }
}

/// Blocks of `request` that each rank has cached, in order of worker.
fn overlaps(router: &mut StandaloneRouter, request: &PhaseRequest) -> Vec<u32> {
    router.potential_loads(request, NOW).unwrap().iter().map(|load| load.overlap_blocks).collect()
}

#[test]
fn blocks_are_stored_by_tokens_or_by_hashes_and_removed_by_name() {
    let mut router = router();
    let probe = request("probe", Role::Aggregated, 16);
    let numbers: Vec<u32> = (0..18).collect();
    // By tokens, in two pieces, under chained names.
    router.stored_tokens(rank(A), &tokens(&numbers[..9]), NOW).unwrap();
    let parent = servecast_types::hash::sequence_hashes(&block_hashes(&numbers[..8], 4, Salt::default()))[1];
    let rest = TokenBlocks { parent: Some(parent), ..tokens(&numbers[8..]) };
    router.stored_tokens(rank(A), &rest, NOW).unwrap();
    // By hashes, as the wire has them, under names of the engine's.
    let locals = block_hashes(&numbers, 4, Salt::default());
    let event = |data: &str| -> RouterEvent {
        let text = format!(r#"{{"worker_id": {B}, "event": {{"event_id": 1, "data": {data}}}}}"#);
        from_json(text.as_bytes()).unwrap()
    };
    let stored = format!(
        r#"{{"stored": {{"blocks": [{{"block_hash": 1, "tokens_hash": {}}}, {{"block_hash": 2, "tokens_hash": {}}}]}}}}"#,
        locals[0].0, locals[1].0
    );
    router.apply(&event(&stored), NOW).unwrap();
    assert_eq!(overlaps(&mut router, &probe), [4, 2]);
    // By tokens, under names of the engine's.
    let names = [SequenceHash(3)];
    let third = TokenBlocks { parent: Some(SequenceHash(2)), names: Some(&names), ..tokens(&numbers[8..12]) };
    router.stored_tokens(rank(B), &third, NOW).unwrap();
    assert_eq!(overlaps(&mut router, &probe), [4, 3]);
    assert_eq!(
        message(router.stored_tokens(rank(B), &TokenBlocks { tokens: &numbers, ..third }, NOW)),
        "1 names for 4 full blocks of 4 tokens: give one for each"
    );
    router.apply(&event(r#"{"removed": {"block_hashes": [3]}}"#), NOW).unwrap();
    assert_eq!(overlaps(&mut router, &probe), [4, 2]);
    assert_eq!(
        message(router.apply(&event(r#"{"removed": {"block_hashes": [3]}}"#), NOW)),
        format!("KV event of worker {B} rank 0: 1 removed blocks are not held by the rank, the first is 0x3")
    );
    router.apply(&event(r#""cleared""#), NOW).unwrap();
    assert_eq!(overlaps(&mut router, &probe), [4, 0]);
    assert_eq!(router.event_counts(WorkerRole::Decode).block_not_found, 1);
    assert_eq!(router.event_counts(WorkerRole::Prefill).applied, 0);

    let elsewhere = RouterEvent { storage_tier: servecast_router::wire::StorageTier::Disk, ..event(&stored) };
    router.apply(&elsewhere, NOW).unwrap();
    assert_eq!(overlaps(&mut router, &probe), [4, 0], "only the device's blocks are hits");
    let nobody = RouterEvent { worker_id: 5, ..elsewhere };
    assert_eq!(message(router.apply(&nobody, NOW)), "worker 5 is not registered");
}

#[test]
fn events_of_a_dump_give_another_router_the_same_hits() {
    let mut first = router();
    let numbers: Vec<u32> = (0..16).collect();
    first.stored_tokens(rank(A), &tokens(&numbers), NOW).unwrap();
    first.stored_tokens(rank(B), &tokens(&numbers[..8]), NOW).unwrap();
    first.stored_tokens(rank(B), &tokens(&[9; 8]), NOW).unwrap();
    first.stored_tokens(rank(P), &tokens(&numbers[..12]), NOW).unwrap();
    first.route(&request("r", Role::Decode, 8), NOW).unwrap();
    let dump = first.dump(NOW);
    let mut second = router();
    for event in &dump.events {
        second.apply(event, NOW).unwrap();
    }
    for phase in Role::ALL {
        let probe = request("probe", phase, 16);
        assert_eq!(overlaps(&mut first, &probe), overlaps(&mut second, &probe));
    }
    assert_eq!(second.dump(NOW).events, dump.events);
    let json = serde_json::to_value(&dump).unwrap();
    assert_eq!(json["booked"][0]["id"], "r");
    assert_eq!(json["ranks"][1]["worker_id"], A);
    assert_eq!(json["ranks"][1]["cached_blocks"], 4);
}

#[test]
fn potential_loads_are_those_of_the_phase() {
    let mut router = router();
    router.book(&request("a", Role::Aggregated, 16), rank(A), NOW).unwrap();
    let loads = |router: &mut StandaloneRouter, phase| {
        let loads = router.potential_loads(&request("probe", phase, 8), NOW).unwrap();
        loads
            .iter()
            .map(|load| (load.rank.worker_id, load.prefill_tokens, load.decode_blocks))
            .collect::<Vec<_>>()
    };
    assert_eq!(loads(&mut router, Role::Aggregated), [(A, 24, 4), (B, 8, 2)]);
    assert_eq!(loads(&mut router, Role::Decode), [(A, 16, 6), (B, 0, 2)]);
    assert_eq!(loads(&mut router, Role::Prefill), [(P, 8, 0)]);
}

#[test]
fn predictions_expire_as_time_passes() {
    let config = KvRouterConfig { use_kv_events: false, router_ttl_secs: 1.0, ..KvRouterConfig::default() };
    let mut router = router_of(&config);
    let chosen = admitted(router.route(&request("a", Role::Aggregated, 8), NOW).unwrap()).rank;
    let probe = request("probe", Role::Aggregated, 8);
    let cached = |router: &mut StandaloneRouter, now| {
        let loads = router.potential_loads(&probe, now).unwrap();
        loads.iter().find(|load| load.rank == chosen).unwrap().overlap_blocks
    };
    assert_eq!(cached(&mut router, NOW), 2);
    let later = Time::from_ns(2_000_000_000);
    assert!(router.advance(later).is_empty());
    assert_eq!(cached(&mut router, later), 0);
}
