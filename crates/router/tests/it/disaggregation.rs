//! Routers in front of prefill and decode pools.

use servecast_router::wire::{ReplicaEventData, from_json, to_json};
use servecast_router::{KvRouterConfig, RouterConfigOverride, RoutingRequest, Sizes, TrackedBlocks};
use servecast_types::Time;

use crate::support::{A, B, admitted, costs, distinct, id, loads, request, router, stored};

const NOW: Time = Time::ZERO;

#[test]
fn a_prefill_router_weighs_uncached_tokens_only() {
    let config = KvRouterConfig { overlap_score_weight: 2.0, ..KvRouterConfig::default() };
    let config = config.validate().unwrap().for_prefill_pool().config().clone();
    let mut router = router(&config);
    router.apply(A, &stored(None, [1, 2]), NOW).unwrap();
    router.book(distinct(1, 20, 4), B, NOW).unwrap();
    assert_eq!(costs(&mut router, &request(2, 16, [1, 2, 3, 4]), NOW), [2.0 * 2.0, 2.0 * 9.0]);
    let ticket = admitted(router.route(request(2, 16, [1, 2, 3, 4]), NOW).unwrap()).ticket;
    assert_eq!((ticket.rank, ticket.blocks, ticket.prefill_tokens), (A, TrackedBlocks::None, 8));
}

#[test]
fn a_decode_stage_goes_where_the_fewest_blocks_are() {
    let mut router = router(&KvRouterConfig::default());
    for (number, rank, isl) in [(1, A, 10), (2, A, 10), (3, B, 21)] {
        router.book(distinct(number, isl, 4).for_decode(), rank, NOW).unwrap();
    }
    let next = || distinct(9, 9, 4).for_decode();
    assert_eq!(costs(&mut router, &next(), NOW), [6.0, 7.0]);
    // One more on the winner of a near tie turns the choice.
    router.book(distinct(4, 9, 4).for_decode(), A, NOW).unwrap();
    assert_eq!(costs(&mut router, &next(), NOW), [8.0, 7.0]);
    assert_eq!(admitted(router.route(next(), NOW).unwrap()).ticket.rank, B);
}

#[test]
fn neither_caches_nor_backlog_nor_equal_prompts_move_a_decode_stage() {
    let chosen = |cached: bool, backlog: bool, equal: bool| {
        let mut router = router(&KvRouterConfig::default());
        if cached {
            router.apply(A, &stored(None, 1..=8), NOW).unwrap();
        }
        if backlog {
            router.book(request(1000, 3, []), B, NOW).unwrap();
        }
        (0..40)
            .map(|number| {
                let prompt = if equal { request(number, 32, 1..=8) } else { distinct(number, 32, 4) };
                let ticket = admitted(router.route(prompt.for_decode(), NOW).unwrap()).ticket;
                assert_eq!((ticket.prefill_tokens, &ticket.blocks), (0, &TrackedBlocks::Private(8)));
                ticket.rank
            })
            .collect::<Vec<_>>()
    };
    let plain = chosen(false, false, false);
    for (cached, backlog, equal) in
        [(true, false, false), (false, true, false), (false, false, true), (true, true, true)]
    {
        assert_eq!(
            chosen(cached, backlog, equal),
            plain,
            "cached {cached}, backlog {backlog}, equal {equal}"
        );
    }
}

#[test]
fn the_override_of_the_decode_stage_is_used_for_it_and_for_nothing_else() {
    let mut router = router(&KvRouterConfig { router_temperature: 0.5, ..KvRouterConfig::default() });
    let own = RouterConfigOverride {
        overlap_score_weight: Some(3.0),
        router_temperature: Some(0.25),
        assume_kv_reuse: Some(true),
        track_prefill_tokens: Some(true),
    };
    let request = |number| RoutingRequest { overrides: own, ..request(number, 8, [1, 2]) };
    let decode = router.book(request(1).for_decode(), A, NOW).unwrap().ticket;
    let settings = decode.settings;
    assert_eq!((settings.overlap_score_weight, settings.router_temperature), (0.0, 0.25));
    assert!(!settings.assume_kv_reuse && !settings.track_prefill_tokens);
    assert_eq!((router.prefill_tokens(A, NOW), router.active_blocks(A)), (Some(0), Some(2)));
    router.prefill_done(id(1), NOW).expect("the end of a prefill that was not booked is no news");

    let whole = router.book(request(2), B, NOW).unwrap().ticket;
    assert!(whole.settings.assume_kv_reuse && whole.settings.track_prefill_tokens);
    assert_eq!(whole.blocks, TrackedBlocks::Shared(request(2).blocks));
    assert_eq!((router.prefill_tokens(B, NOW), router.active_blocks(B)), (Some(8), Some(2)));
}

#[test]
fn a_replica_books_what_the_ticket_says() {
    let mut first = router(&KvRouterConfig::default());
    let mut second = router(&KvRouterConfig::default());
    first.apply(A, &stored(None, [1]), NOW).unwrap();
    let requests = [
        request(1, 13, [1, 2, 3]),
        request(2, 13, [1, 2, 3]).for_decode(),
        request(3, 10, [1, 2]).for_decode(),
        RoutingRequest {
            overrides: RouterConfigOverride {
                track_prefill_tokens: Some(false),
                ..RouterConfigOverride::default()
            },
            ..request(4, 8, [1, 2])
        },
    ];
    for request in requests {
        let ticket = first.book(request, A, NOW).unwrap().ticket;
        let json = to_json(&ticket.replica_event(7)).unwrap();
        let event: ReplicaEventData = from_json(json.as_bytes()).unwrap();
        assert!(second.apply_replica(ticket.id, A, &event, NOW).unwrap().is_empty());
        assert!(second.apply_replica(ticket.id, A, &event, NOW).is_err(), "an id is booked once");
    }
    let probe = request(9, 16, [1, 2, 3, 4]);
    second.apply(A, &stored(None, [1]), NOW).unwrap();
    assert_eq!(loads(&first, &probe, NOW), loads(&second, &probe, NOW));
    assert_eq!((second.active_blocks(A), second.prefill_tokens(A, NOW)), (Some(3 + 3 + 2), Some(9)));

    let missing = ReplicaEventData::MarkPrefillCompleted;
    assert!(second.apply_replica(id(77), A, &missing, NOW).is_err());
    for number in 1..=4 {
        second.apply_replica(id(number), A, &ReplicaEventData::MarkPrefillCompleted, NOW).unwrap();
        second.apply_replica(id(number), A, &ReplicaEventData::Free, NOW).unwrap();
    }
    second.remove_rank(A, NOW);
    assert_eq!(second.sizes(), Sizes::default());
}

#[test]
fn an_event_without_the_flag_counts_its_prompt() {
    let mut router = router(&KvRouterConfig::default());
    let text = r#"{"AddRequest": {"token_sequence": [1, 2], "isl": 11, "overlap": 1}}"#;
    let event: ReplicaEventData = from_json(text.as_bytes()).unwrap();
    router.apply_replica(id(1), B, &event, NOW).unwrap();
    assert_eq!((router.active_blocks(B), router.prefill_tokens(B, NOW)), (Some(2), Some(7)));
}
