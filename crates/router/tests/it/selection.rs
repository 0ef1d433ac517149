//! Costs and choices.

use servecast_router::{
    KvRouterConfig, RankInfo, RouteError, RouterConfigOverride, RoutingRequest, TrackedBlocks,
};
use servecast_types::hash::Salt;
use servecast_types::{KvEvent, Rank, Time, WorkerId};

use crate::support::{
    A, B, C, admitted, costs, distinct, hashes, id, index_stored, loads, request, router, router_with, secs,
    stored,
};

const NOW: Time = Time::ZERO;

fn weight(weight: f64) -> KvRouterConfig {
    KvRouterConfig { overlap_score_weight: weight, ..KvRouterConfig::default() }
}

#[test]
fn shared_prefixes_backlog_and_cached_blocks_enter_the_cost() {
    let mut router = router(&KvRouterConfig::default());
    let first = request(1, 12, [1, 2, 3]);
    let second = request(2, 16, [1, 2, 3, 4]);
    assert_eq!(costs(&mut router, &first, NOW), [6.0, 6.0]);
    router.book(first, A, NOW).unwrap();
    assert_eq!((router.active_blocks(A), router.prefill_tokens(A, NOW)), (Some(3), Some(12)));

    assert_eq!(loads(&router, &second, NOW), [(28, 4), (16, 4)]);
    assert_eq!(costs(&mut router, &second, NOW), [11.0, 8.0]);
    assert_eq!(router.peek(second.clone(), NOW).unwrap().ticket.rank, B);

    router.apply(A, &stored(None, [1, 2, 3]), NOW).unwrap();
    assert_eq!(costs(&mut router, &second, NOW), [8.0, 8.0]);
    let tied = router.peek(second.clone(), NOW).unwrap();
    assert_eq!((tied.ticket.rank, tied.ticket.overlap_blocks), (A, 3), "the larger overlap wins");
    assert_eq!(tied.terms.iter().map(|terms| terms.tree_size).collect::<Vec<_>>(), [3, 0]);

    router.prefill_done(id(1), NOW).unwrap();
    assert_eq!(costs(&mut router, &second, NOW), [5.0, 8.0]);
    assert_eq!(admitted(router.route(second, NOW).unwrap()).ticket.rank, A);
}

#[test]
fn partial_blocks_are_prefill_but_not_active_blocks() {
    let mut router = router(&KvRouterConfig::default());
    let prompt = request(1, 13, [1, 2, 3]);
    assert_eq!(costs(&mut router, &prompt, NOW), [6.25, 6.25]);
    assert_eq!(router.peek(prompt.clone(), NOW).unwrap().ticket.required_blocks, 4);
    router.apply(B, &stored(None, [1, 2, 3]), NOW).unwrap();
    assert_eq!(costs(&mut router, &prompt, NOW), [6.25, 3.25]);
    assert_eq!(costs(&mut router, &request(2, 3, []), NOW), [0.75, 0.75]);
    assert_eq!(costs(&mut router, &request(3, 0, []), NOW), [0.0, 0.0], "no tokens cost nothing");
}

#[test]
fn the_weight_scales_everything_still_to_be_computed() {
    for w in [0.0, 1.0, 4.0] {
        let mut router = router(&weight(w));
        assert_eq!(costs(&mut router, &request(1, 10, [1, 2]), NOW), [2.5 * w + 2.0; 2]);
    }
    // Prefill and decode blocks 8/10, 5/5 and 2/9 with the request on it.
    for (w, expected) in [(1.0, [18.0, 10.0, 11.0]), (2.0, [26.0, 15.0, 13.0])] {
        let mut router = router_with(&weight(w), 4, 1000, &[A, B, C]);
        for (number, rank, prefill_blocks, decode_blocks) in [(0, A, 7, 9), (10, B, 4, 4), (20, C, 1, 8)] {
            let done = distinct(number, (decode_blocks - prefill_blocks) * 4, 4);
            router.book(done, rank, NOW).unwrap();
            router.prefill_done(id(number), NOW).unwrap();
            router.book(distinct(number + 1, prefill_blocks * 4, 4), rank, NOW).unwrap();
        }
        assert_eq!(costs(&mut router, &distinct(99, 4, 4), NOW), expected);
    }
}

#[test]
fn cached_blocks_are_traded_against_backlog_and_running_blocks() {
    // A has k blocks of a 16-block prompt; B is idle.
    let prompt = || request(99, 64, 1..=16);
    let with_cache = |k: u64, backlog: u32, running: u32| {
        let mut router = router_with(&KvRouterConfig::default(), 4, 10_000, &[A, B]);
        router.apply(A, &stored(None, 1..=k), NOW).unwrap();
        if backlog > 0 {
            // Less than a block each, so that only prefill grows.
            for number in 0..backlog / 2 {
                router.book(request(number, 2, []), A, NOW).unwrap();
            }
        }
        if running > 0 {
            router.book(distinct(50, running * 4, 4), A, NOW).unwrap();
            router.prefill_done(id(50), NOW).unwrap();
        }
        router
    };
    for (k, backlog, running, difference) in
        [(10, 40, 0, 0.0), (10, 0, 10, 0.0), (10, 38, 0, -0.5), (10, 0, 9, -1.0), (10, 20, 6, 1.0)]
    {
        let costs = costs(&mut with_cache(k, backlog, running), &prompt(), NOW);
        assert!(
            (costs[0] - costs[1] - difference).abs() < 1e-12,
            "{k} cached, {backlog} tokens, {running} blocks"
        );
    }
    // The cached prefix is also held by a running request: those blocks are not paid twice.
    let mut router = with_cache(10, 0, 0);
    router.book(request(1, 40, 1..=10), A, NOW).unwrap();
    router.prefill_done(id(1), NOW).unwrap();
    assert_eq!(loads(&router, &prompt(), NOW), [(24, 16), (64, 16)]);
    let costs = costs(&mut router, &prompt(), NOW);
    assert!((costs[0] - costs[1] + 10.0).abs() < 1e-12);
}

#[test]
fn without_prefill_tracking_prompts_are_no_load_but_caches_count() {
    let config = KvRouterConfig { router_track_prefill_tokens: false, ..KvRouterConfig::default() };
    let prompt = request(2, 8, [1, 2]);
    let prepare = |config: &KvRouterConfig| {
        let mut router = router(config);
        router.book(request(1, 4, [1]), A, NOW).unwrap();
        router.prefill_done(id(1), NOW).unwrap();
        router.apply(B, &stored(None, [1, 2]), NOW).unwrap();
        router
    };
    let mut untracked = prepare(&config);
    assert_eq!(loads(&untracked, &prompt, NOW), [(0, 2), (0, 2)]);
    assert_eq!(costs(&mut untracked, &prompt, NOW), [2.0, 0.0]);
    let admission = admitted(untracked.route(prompt.clone(), NOW).unwrap());
    assert_eq!((admission.ticket.rank, admission.ticket.prefill_tokens), (B, 0));
    assert_eq!(untracked.prefill_tokens(B, NOW), Some(0), "booking records none either");
    untracked.prefill_done(id(2), NOW).unwrap();

    let mut tracked = prepare(&KvRouterConfig::default());
    assert_eq!(costs(&mut tracked, &prompt, NOW), [4.0, 2.0]);

    // The same by a request's own setting, in a router that tracks.
    let overrides =
        RouterConfigOverride { track_prefill_tokens: Some(false), ..RouterConfigOverride::default() };
    let single = RoutingRequest { overrides, ..prompt };
    assert_eq!(costs(&mut tracked, &single, NOW), [2.0, 0.0]);
    assert_eq!(admitted(tracked.route(single, NOW).unwrap()).ticket.prefill_tokens, 0);
}

#[test]
fn a_router_that_does_not_track_prompts_never_parks() {
    let config = KvRouterConfig {
        router_track_prefill_tokens: false,
        router_queue_threshold: Some(0.0),
        ..KvRouterConfig::default()
    };
    let mut router = router(&config);
    for number in 0..50 {
        admitted(router.route(distinct(number, 400, 4), NOW).unwrap());
    }
}

#[test]
fn overrides_hold_for_one_request_from_selection_to_booking() {
    let mut router = router(&KvRouterConfig::default()).record_terms();
    router.apply(B, &stored(None, [1, 2]), NOW).unwrap();
    let overrides = RouterConfigOverride {
        overlap_score_weight: Some(0.0),
        assume_kv_reuse: Some(false),
        ..RouterConfigOverride::default()
    };
    let odd = RoutingRequest { overrides, pinned: Some(B), ..request(1, 8, [1, 2]) };
    let admission = admitted(router.route(odd, NOW).unwrap());
    assert_eq!(admission.terms.len(), 1, "a pin is not compared");
    assert_eq!(admission.ticket.blocks, TrackedBlocks::Private(2));
    assert_eq!(admission.ticket.overlap_blocks, 2);
    // Its blocks are not shared with the next one, which has the same.
    assert_eq!(loads(&router, &request(2, 8, [1, 2]), NOW)[1], (0, 4));
    assert_eq!(costs(&mut router, &request(2, 8, [1, 2]), NOW), [4.0, 4.0]);
}

#[test]
fn ties_are_drawn_by_the_seed_alone() {
    let ranks: Vec<Rank> = (0..4).map(WorkerId).map(Rank::of_worker).collect();
    let chosen = |seed| {
        let mut router =
            servecast_router::Router::new(KvRouterConfig::default().validate().unwrap(), 4, seed);
        for &rank in ranks.iter().rev() {
            router.add_rank(rank, RankInfo::default(), NOW);
        }
        (0..64)
            .map(|number| {
                let rank = admitted(router.route(distinct(number, 8, 4), NOW).unwrap()).ticket.rank;
                router.finish(id(number), NOW);
                rank
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(chosen(1), chosen(1));
    assert_ne!(chosen(1), chosen(2));
    assert!(ranks.iter().all(|rank| chosen(1).contains(rank)));
}

#[test]
fn temperature_draws_and_a_peek_does_not_disturb_the_draws() {
    let config = KvRouterConfig { router_temperature: 1.0, ..KvRouterConfig::default() };
    let chosen = |peeks: u32| {
        let mut router = router_with(&config, 4, 16, &[A, B, C]);
        router.book(distinct(1000, 40, 4), A, NOW).unwrap();
        (0..200)
            .map(|number| {
                for _ in 0..peeks {
                    router.peek(distinct(number, 8, 4), NOW).unwrap();
                }
                let rank = admitted(router.route(distinct(number, 8, 4), NOW).unwrap()).ticket.rank;
                router.finish(id(number), NOW);
                rank
            })
            .collect::<Vec<_>>()
    };
    let ranks = chosen(0);
    assert_eq!(ranks, chosen(2));
    // Costs 24, 4, 4: exp(-1) against 1 and 1.
    let share = ranks.iter().filter(|&&rank| rank == A).count();
    assert!((15..55).contains(&share), "{share} of 200, expected about 31");
}

#[test]
fn pins_and_allowed_sets_limit_the_choice_and_refusals_are_values() {
    let mut router = router_with(&KvRouterConfig::default(), 4, 16, &[A, B, C]);
    let allowed = |workers: &[u32], request: RoutingRequest| RoutingRequest {
        allowed: Some(workers.into()),
        ..request
    };
    for number in 0..20 {
        let request = allowed(&[2, 0, 9], distinct(number, 4, 4));
        assert_ne!(admitted(router.route(request, NOW).unwrap()).ticket.rank, B);
    }
    let missing = Rank { worker: WorkerId(1), dp: 1 };
    let pinned = |rank, number| RoutingRequest { pinned: Some(rank), ..distinct(number, 4, 4) };
    assert_eq!(
        router.route(pinned(missing, 30), NOW).unwrap_err().to_string(),
        "request 30 is pinned to worker 1 rank 1, which is not registered"
    );
    assert_eq!(
        router.route(allowed(&[0, 2], pinned(B, 30)), NOW).unwrap_err().to_string(),
        "request 30 is pinned to worker 1 rank 0, but allows only the workers [0, 2]"
    );
    assert_eq!(
        router.route(allowed(&[7], distinct(30, 4, 4)), NOW).unwrap_err().to_string(),
        "request 30: no rank of the allowed workers [7] is registered"
    );
    assert_eq!(admitted(router.route(pinned(B, 30), NOW).unwrap()).ticket.rank, B);
    assert_eq!(router.route(pinned(B, 30), NOW), Err(RouteError::Duplicate { id: id(30) }));
    assert_eq!(
        router.route(request(31, 4, [1, 2]), NOW).unwrap_err().to_string(),
        "request 31 names 2 blocks, but 4 tokens hold only 1 of 4"
    );
    let overrides =
        RouterConfigOverride { overlap_score_weight: Some(-1.0), ..RouterConfigOverride::default() };
    assert_eq!(
        router.route(RoutingRequest { overrides, ..request(31, 4, []) }, NOW).unwrap_err().to_string(),
        "request 31: `overlap_score_weight` is -1: expected a number of at least 0"
    );
}

#[test]
fn extreme_weights_keep_costs_comparable() {
    for temperature in [0.0, f64::MIN_POSITIVE, 1.0, f64::MAX] {
        let config = KvRouterConfig { router_temperature: temperature, ..weight(f64::MAX) };
        let mut router = router(&config);
        router.book(distinct(1, 4000, 4), A, NOW).unwrap();
        let peek = router.peek(distinct(2, 4, 4), NOW).unwrap();
        assert!(peek.terms.iter().all(|terms| terms.cost.is_finite()), "{:?}", peek.terms);
    }
}

#[test]
fn requests_of_real_tokens_are_found_by_content_and_counted_by_sequence() {
    let tokens: Vec<u32> = (1..=12).collect();
    let request = RoutingRequest::from_tokens(id(1), &tokens, 4, Salt::default());
    let sequence = [14643705804678351452, 4945711292740353085, 12583592247330656132];
    let content = [14643705804678351452, 16777012769546811212, 483935686894639516];
    assert_eq!(request.blocks, hashes(sequence));
    let mut router = router(&KvRouterConfig::default());
    let event = index_stored(None, &[(content[0], 100), (content[1], 101), (content[2], 102)]);
    router.apply_index_event(B, &event, NOW).unwrap();
    assert_eq!(router.overlaps(&request), [(A, 0), (B, 3)]);

    let eagle = RoutingRequest::from_eagle_tokens(id(1), &[0, 1, 2, 3], 4, Salt::default());
    assert_eq!((eagle.blocks.len(), eagle.full_blocks), (0, Some(0)));
    let private = RouterConfigOverride { assume_kv_reuse: Some(false), ..RouterConfigOverride::default() };
    let eagle = RoutingRequest { overrides: private, ..eagle };
    assert_eq!(loads(&router, &eagle, secs(0.0))[0], (4, 0), "four tokens hold no EAGLE block of four");
    router.apply(B, &KvEvent::Cleared, NOW).unwrap();
    assert_eq!(router.overlaps(&request), [(A, 0), (B, 0)]);
}
