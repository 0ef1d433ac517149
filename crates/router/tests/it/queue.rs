//! Admission: when requests are parked, in which order they leave, and what lets them out.

use std::sync::Arc;

use servecast_router::{
    KvRouterConfig, PrefillLoadModel, PrefillModel, QueuePolicy, RankInfo, RouteError, Router, RoutingRequest,
};
use servecast_types::{Duration, Rank, Time, WorkerId};

use crate::support::{A, B, C, admitted, distinct, id, ids, queued, request, router_with, secs, stored};

fn policy(policy: QueuePolicy) -> KvRouterConfig {
    KvRouterConfig { router_queue_policy: policy, ..KvRouterConfig::default() }
}

/// One rank that is busy above 64 tokens and has 80.
fn busy_router(config: &KvRouterConfig) -> Router {
    let mut router = router_with(config, 4, 16, &[A]);
    for number in 1..=2 {
        admitted(router.route(distinct(number, 40, 4), secs(f64::from(number - 1))).unwrap());
    }
    router
}

#[test]
fn requests_wait_while_the_only_rank_is_busy_and_leave_by_the_policy() {
    for (queue_policy, lengths, order) in [
        (QueuePolicy::Fcfs, [40, 40], [3, 4]),
        (QueuePolicy::Lcfs, [40, 40], [4, 3]),
        (QueuePolicy::Wspt, [40, 40], [3, 4]),
        (QueuePolicy::Wspt, [40, 36], [4, 3]),
    ] {
        let mut router = busy_router(&policy(queue_policy));
        for (number, isl) in [3, 4].into_iter().zip(lengths) {
            let parked = queued(router.route(distinct(number, isl, 4), secs(f64::from(number - 1))).unwrap());
            assert_eq!((parked.waiting, parked.released), (number as usize - 2, vec![]));
        }
        assert_eq!(
            (router.queued_requests(), router.queued_isl_tokens()),
            (2, lengths.iter().sum::<u32>().into())
        );
        let first = router.prefill_done(id(1), secs(5.0)).unwrap();
        assert_eq!(ids(&first), [order[0]], "{queue_policy:?}: one is enough to be busy again");
        assert_eq!(first[0].queue_wait, secs(5.0).since(secs(f64::from(order[0] - 1))));
        assert_eq!(ids(&router.finish(id(2), secs(6.0))), [order[1]]);
        assert_eq!((router.queued_requests(), router.queued_isl_tokens()), (0, 0));
    }
}

#[test]
fn the_threshold_is_a_strict_inequality_over_all_ranks() {
    let config = KvRouterConfig::default();
    for (tokens, parks) in [(8192, false), (8193, true)] {
        let mut router = router_with(&config, 4, 2048, &[A, B]);
        router.book(request(1, tokens, []), A, Time::ZERO).unwrap();
        router.book(request(2, 8193, []), B, Time::ZERO).unwrap();
        let decision = router.route(request(3, 4, []), Time::ZERO).unwrap();
        assert_eq!(matches!(decision, servecast_router::Decision::Queued(_)), parks, "{tokens}");
    }
    let none_parks = KvRouterConfig { router_queue_threshold: None, ..config.clone() };
    let mut router = busy_router(&none_parks);
    admitted(router.route(distinct(3, 40, 4), Time::ZERO).unwrap());

    let zero = KvRouterConfig { router_queue_threshold: Some(0.0), ..config };
    let mut router = router_with(&zero, 4, 2048, &[A]);
    admitted(router.route(request(1, 1, []), Time::ZERO).unwrap());
    queued(router.route(request(2, 1, []), Time::ZERO).unwrap());
}

#[test]
fn a_rank_of_unknown_batch_size_is_never_busy_in_practice() {
    let mut router = Router::new(KvRouterConfig::default().validate().unwrap(), 4, 0);
    router.add_rank(A, RankInfo::default(), Time::ZERO);
    for number in 0..10 {
        admitted(router.route(request(number, 1_000_000, []), Time::ZERO).unwrap());
    }
}

/// 12 s for any prompt.
#[derive(Debug)]
struct TwelveSeconds;

impl PrefillModel for TwelveSeconds {
    fn predict(&self, _: u32, _: u32) -> Option<Duration> {
        Some(Duration::from_ns(12_000_000_000))
    }
}

fn decaying() -> Router {
    let config =
        KvRouterConfig { router_prefill_load_model: PrefillLoadModel::Aic, ..KvRouterConfig::default() };
    let mut router = router_with(&config, 4, 16, &[A]).with_prefill_model(Arc::new(TwelveSeconds));
    for number in 0..4 {
        let decision = router.route(distinct(number + 1, 40, 4), secs(f64::from(number))).unwrap();
        if number < 2 {
            admitted(decision);
        } else {
            assert_eq!(queued(decision).waiting, number as usize - 1);
        }
    }
    router
}

#[test]
fn decay_lets_parked_requests_in_at_the_moment_it_makes_room() {
    let mut router = decaying();
    assert_eq!(router.prefill_tokens(A, secs(2.0)), Some(34 + 40));
    assert_eq!(router.prefill_tokens(A, secs(3.0)), Some(30 + 40));
    assert_eq!(router.next_deadline(), Some(secs(4.8)));
    assert!(router.advance(Time::from_ns(secs(4.8).as_ns() - 1)).is_empty());
    assert_eq!(ids(&router.advance(secs(4.8))), [3]);
    assert_eq!(router.prefill_tokens(A, secs(4.8)), Some(24 + 40 + 40));
}

#[test]
fn nobody_overtakes_even_if_the_driver_has_slept() {
    let mut router = decaying();
    assert_eq!(router.prefill_tokens(A, secs(9.0)), Some(10 + 40));
    let fifth = queued(router.route(distinct(5, 40, 4), secs(9.0)).unwrap());
    assert_eq!((ids(&fifth.released), fifth.waiting), (vec![3], 2));
    assert_eq!(ids(&router.finish(id(1), secs(9.0))), [] as [u32; 0]);
    assert_eq!(ids(&router.finish(id(2), secs(9.0))), [4]);
}

#[test]
fn every_change_that_frees_capacity_lets_requests_in() {
    let park = |router: &mut Router| queued(router.route(distinct(3, 40, 4), secs(2.0)).unwrap());
    let mut router = busy_router(&KvRouterConfig::default());
    park(&mut router);
    assert_eq!(ids(&router.add_rank(B, RankInfo::default(), secs(3.0))), [3], "a new rank");

    let mut router = busy_router(&KvRouterConfig::default());
    park(&mut router);
    let info = RankInfo { max_num_batched_tokens: Some(64) };
    assert_eq!(ids(&router.add_rank(A, info, secs(3.0))), [3], "a larger limit");

    let expiry = Some(Duration::from_ns(300_000_000_000));
    let mut router = busy_router(&KvRouterConfig::default()).with_request_expiry(expiry);
    park(&mut router);
    let due = router.next_deadline().unwrap();
    assert_eq!(due, Time::from_ns(secs(300.0).as_ns() + 1), "longer than 300 s without progress");
    assert_eq!(ids(&router.advance(due)), [3], "an expired request");
}

#[test]
fn an_expiry_that_nobody_waited_for_does_not_let_a_newcomer_pass() {
    let expiry = Some(Duration::from_ns(300_000_000_000));
    let mut router = busy_router(&KvRouterConfig::default()).with_request_expiry(expiry);
    queued(router.route(distinct(3, 40, 4), secs(2.0)).unwrap());
    let pinned = RoutingRequest { pinned: Some(A), ..distinct(4, 40, 4) };
    let late = queued(router.route(pinned, secs(300.5)).unwrap());
    assert_eq!((ids(&late.released), late.waiting), (vec![3], 1));
}

#[test]
fn lanes_do_not_hold_each_other_up() {
    let mut router = router_with(&KvRouterConfig::default(), 4, 16, &[A, B, C]);
    router.book(distinct(1, 80, 4), A, Time::ZERO).unwrap();
    let pinned = |number, rank| RoutingRequest { pinned: Some(rank), ..distinct(number, 40, 4) };
    let allowed =
        |number, workers: &[u32]| RoutingRequest { allowed: Some(workers.into()), ..distinct(number, 40, 4) };
    queued(router.route(pinned(2, A), Time::ZERO).unwrap());
    assert_ne!(admitted(router.route(distinct(3, 80, 4), Time::ZERO).unwrap()).ticket.rank, A);
    admitted(router.route(allowed(4, &[1, 2]), Time::ZERO).unwrap());
    router.book(distinct(5, 80, 4), B, Time::ZERO).unwrap();
    router.book(distinct(6, 80, 4), C, Time::ZERO).unwrap();
    assert_eq!(queued(router.route(allowed(7, &[2, 1]), Time::ZERO).unwrap()).waiting, 1);
    assert_eq!(queued(router.route(distinct(8, 40, 4), Time::ZERO).unwrap()).waiting, 1);
    assert_eq!(
        queued(router.route(allowed(9, &[1, 2]), Time::ZERO).unwrap()).waiting,
        2,
        "one set, one lane"
    );
    // A has room: the first who may use it leaves, which is the pinned one; then A is at 40, not busy, for the next.
    assert_eq!(ids(&router.finish(id(1), secs(1.0))), [2, 8]);
    assert_eq!(router.queued_requests(), 2);
}

#[test]
fn overlaps_are_those_of_the_moment_of_admission() {
    let mut router = busy_router(&KvRouterConfig::default());
    queued(router.route(request(3, 12, [1, 2, 3]), secs(2.0)).unwrap());
    router.apply(A, &stored(None, [1, 2]), secs(3.0)).unwrap();
    let admission = router.finish(id(1), secs(4.0)).remove(0);
    assert_eq!((admission.ticket.overlap_blocks, admission.ticket.prefill_tokens), (2, 4));
}

#[test]
fn shortest_work_counts_overlap_of_eligible_ranks_only() {
    let config = policy(QueuePolicy::Wspt);
    let mut router = router_with(&config, 4, 16, &[A, B]);
    router.apply(B, &stored(None, 1..=10), Time::ZERO).unwrap();
    router.book(distinct(1, 80, 4), A, Time::ZERO).unwrap();
    router.book(distinct(2, 80, 4), B, Time::ZERO).unwrap();
    let pinned = |request| RoutingRequest { pinned: Some(A), ..request };
    // B has all of the first one cached, but it may only go to A, where it is the longer one.
    queued(router.route(pinned(request(3, 40, 1..=10)), Time::ZERO).unwrap());
    queued(router.route(pinned(distinct(4, 36, 4)), Time::ZERO).unwrap());
    assert_eq!(ids(&router.finish(id(1), secs(1.0))), [4, 3]);
}

#[test]
fn a_priority_jump_counts_as_seconds() {
    let mut router = busy_router(&KvRouterConfig::default());
    for (number, jump) in [(3, 0.0), (4, 0.5), (5, 1.75), (6, -100.0)] {
        let request = RoutingRequest { priority_jump: jump, ..distinct(number, 4, 4) };
        queued(router.route(request, secs(2.0 + f64::from(number - 3))).unwrap());
    }
    assert_eq!(ids(&router.finish(id(1), secs(9.0))), [3, 5, 4, 6]);
}

#[test]
fn a_request_can_be_given_up_while_it_waits() {
    let mut router = busy_router(&KvRouterConfig::default());
    for number in 3..=5 {
        queued(router.route(distinct(number, 40, 4), secs(2.0)).unwrap());
    }
    assert_eq!(router.prefill_done(id(4), secs(2.0)), Err(RouteError::Unknown { id: id(4) }));
    assert!(router.finish(id(4), secs(3.0)).is_empty());
    assert_eq!((router.queued_requests(), router.queued_isl_tokens()), (2, 80));
    assert_eq!(ids(&router.finish(id(1), secs(3.0))), [3]);
    assert_eq!(ids(&router.finish(id(2), secs(3.0))), [5]);
}

#[test]
fn a_removed_rank_lets_go_of_its_requests_and_refuses_those_pinned_to_it() {
    let mut router = router_with(&KvRouterConfig::default(), 4, 16, &[A, B]);
    router.book(distinct(1, 80, 4), A, Time::ZERO).unwrap();
    router.book(distinct(2, 80, 4), B, Time::ZERO).unwrap();
    queued(router.route(RoutingRequest { pinned: Some(A), ..distinct(3, 40, 4) }, Time::ZERO).unwrap());
    queued(router.route(distinct(4, 40, 4), Time::ZERO).unwrap());
    let removed = router.remove_rank(A, secs(1.0));
    assert_eq!(
        (removed.forgotten, removed.refused, ids(&removed.admitted)),
        (vec![id(1)], vec![id(3)], vec![])
    );
    assert_eq!(router.prefill_done(id(1), secs(1.0)), Err(RouteError::Unknown { id: id(1) }));
    let last = router.remove_rank(B, secs(1.0));
    assert_eq!((last.forgotten, last.refused), (vec![id(2)], vec![id(4)]));
    assert_eq!(
        router.route(distinct(5, 4, 4), secs(1.0)).unwrap_err().to_string(),
        "request 5: no rank is registered"
    );
    assert_eq!(router.sizes(), servecast_router::Sizes::default());
}

#[test]
fn a_peek_is_answered_at_once_and_leaves_nothing() {
    let mut router = busy_router(&KvRouterConfig::default());
    let peek = router.peek(distinct(9, 40, 4), secs(2.0)).unwrap();
    assert_eq!((peek.ticket.rank, peek.terms.len()), (A, 1));
    assert_eq!((router.queued_requests(), router.active_requests(A)), (0, Some(2)));
    let unknown = Rank { worker: WorkerId(0), dp: 1 };
    assert_eq!(router.active_requests(unknown), None);
}
