//! What running requests weigh.

use std::sync::Arc;

use servecast_router::{KvRouterConfig, PrefillLoadModel, PrefillModel, Router, RoutingRequest};
use servecast_types::{Duration, Time};

use crate::support::{A, B, costs, distinct, id, request, router, router_with, secs, stored};

const NOW: Time = Time::ZERO;

fn load(router: &Router) -> (u64, u64) {
    (router.active_blocks(A).unwrap(), router.prefill_tokens(A, NOW).unwrap())
}

#[test]
fn shared_prefixes_count_once_until_their_last_request_ends() {
    let mut router = router(&KvRouterConfig::default());
    router.book(request(1, 12, [1, 2, 3]), A, NOW).unwrap();
    assert_eq!(load(&router), (3, 12));
    router.book(request(2, 4, [4]), A, NOW).unwrap();
    assert_eq!(load(&router), (4, 16));
    router.apply(A, &stored(None, 1..=4), NOW).unwrap();
    let third = router.book(request(3, 16, [1, 2, 3, 4]), A, NOW).unwrap();
    assert_eq!((third.ticket.overlap_blocks, third.ticket.prefill_tokens), (4, 0));
    assert_eq!(load(&router), (4, 16));
    for (number, expected) in [(2, (4, 12)), (3, (3, 12)), (1, (0, 0))] {
        router.finish(id(number), NOW);
        assert_eq!(load(&router), expected);
        router.finish(id(number), NOW);
        assert_eq!(load(&router), expected, "the end of a request counts once");
    }
}

#[test]
fn without_block_tracking_requests_hold_no_blocks() {
    let config = KvRouterConfig { router_track_active_blocks: false, ..KvRouterConfig::default() };
    let mut router = router(&config);
    router.book(request(1, 12, [1, 2, 3]), A, NOW).unwrap();
    assert_eq!(load(&router), (0, 12));
    assert_eq!(costs(&mut router, &request(2, 12, [1, 2, 3]), NOW), [6.0, 3.0]);
}

fn with_output(parallel: &[(u32, u32, &[u64])]) -> Router {
    let config = KvRouterConfig { router_track_output_blocks: true, ..KvRouterConfig::default() };
    let mut router = router_with(&config, 4, 1000, &[A]);
    for &(number, isl, blocks) in parallel {
        router.book(request(number, isl, blocks.iter().copied()), A, NOW).unwrap();
    }
    router
}

#[test]
fn blocks_held_alone_weigh_less_and_become_whole_when_they_are_shared() {
    let mut router = with_output(&[(1, 12, &[1, 2, 3])]);
    router.add_output_block(id(1), Some(0.5), NOW).unwrap();
    assert_eq!(router.active_blocks(A), Some(2));
    router.book(request(2, 8, [1, 2]), A, NOW).unwrap();
    assert_eq!(router.active_blocks(A), Some(3), "two shared ones whole, two halves");
    router.add_output_block(id(1), Some(0.0), NOW).unwrap();
    assert_eq!(router.active_blocks(A), Some(2), "the shared ones");
    router.finish(id(2), NOW);
    assert_eq!(router.active_blocks(A), Some(0), "nothing is shared any more");
    router.add_output_block(id(1), Some(1.0), NOW).unwrap();
    assert_eq!(router.active_blocks(A), Some(6));
    router.finish(id(1), NOW);
    assert_eq!(router.active_blocks(A), Some(0));
}

#[test]
fn halves_are_rounded_up() {
    let mut router = with_output(&[(1, 8, &[1, 2])]);
    router.add_output_block(id(1), Some(0.5), NOW).unwrap();
    assert_eq!(router.active_blocks(A), Some(2), "1.5");
}

#[test]
fn every_block_that_output_has_begun_is_added() {
    let mut router = with_output(&[(1, 10, &[1, 2])]);
    for (generated, blocks) in [(1, 2), (2, 2), (3, 3), (6, 3), (7, 4), (30, 9), (30, 9), (4, 9)] {
        router.record_output(id(1), generated, NOW).unwrap();
        assert_eq!(router.active_blocks(A), Some(blocks), "{generated} tokens");
    }
    let expecting = RoutingRequest { expected_output_tokens: Some(8), ..request(2, 12, [7, 8, 9]) };
    let mut router = with_output(&[]);
    router.book(expecting, A, NOW).unwrap();
    // Weights 1 - 2/8, 1 - 6/8, and none left, of 4, 5 and 6 blocks.
    for (generated, blocks) in [(2, 3), (6, 1), (9, 0)] {
        router.record_output(id(2), generated, NOW).unwrap();
        assert_eq!(router.active_blocks(A), Some(blocks), "{generated} tokens");
    }
    assert!(router.add_output_block(id(2), Some(1.5), NOW).is_err());
    assert!(router.record_output(id(3), 1, NOW).is_err());
}

#[test]
fn the_largest_prompts_of_the_smallest_blocks_do_not_overflow() {
    let config = KvRouterConfig {
        router_track_output_blocks: true,
        router_assume_kv_reuse: false,
        ..KvRouterConfig::default()
    };
    let mut router = router_with(&config, 1, 1, &[A]);
    for number in 0..3 {
        router.book(request(number, u32::MAX, []), A, NOW).unwrap();
        router.record_output(id(number), u32::MAX, NOW).unwrap();
        router.add_output_block(id(number), Some(0.0), NOW).unwrap();
    }
    assert_eq!(load(&router), (0, 3 * u64::from(u32::MAX)));
    router.add_output_block(id(2), Some(1.0), NOW).unwrap();
    assert_eq!(load(&router).0, 2 * u64::from(u32::MAX) + 2);
}

#[test]
fn without_output_tracking_reports_are_progress_only() {
    let mut router = router(&KvRouterConfig::default());
    router.book(distinct(1, 8, 4), A, NOW).unwrap();
    router.record_output(id(1), 100, NOW).unwrap();
    router.add_output_block(id(1), Some(0.0), NOW).unwrap();
    assert_eq!(router.active_blocks(A), Some(2));
}

#[test]
fn a_request_expires_after_its_last_progress_not_after_its_start() {
    let expiry = Some(Duration::from_ns(300_000_000_000));
    let mut router = router(&KvRouterConfig::default()).with_request_expiry(expiry);
    router.book(distinct(1, 8, 4), A, NOW).unwrap();
    router.book(distinct(2, 8, 4), A, NOW).unwrap();
    router.prefill_done(id(1), secs(100.0)).unwrap();
    router.record_output(id(1), 1, secs(290.0)).unwrap();
    router.advance(secs(331.0));
    assert_eq!(router.active_requests(A), Some(1), "the second one made no progress");
    assert!(router.prefill_done(id(2), secs(331.0)).is_err());
    router.advance(secs(590.0));
    assert_eq!(router.active_requests(A), Some(1), "300 s are not longer than 300 s");
    router.advance(secs(590.1));
    assert_eq!(router.active_requests(A), Some(0));
    let nothing = servecast_router::Sizes::default();
    assert_eq!(router.sizes(), nothing);
}

/// A quarter of a millisecond a token.
#[derive(Debug)]
struct Linear;

impl PrefillModel for Linear {
    fn predict(&self, new_tokens: u32, cached_tokens: u32) -> Option<Duration> {
        (cached_tokens == 0).then(|| Duration::from_ns(u64::from(new_tokens) * 250_000))
    }
}

#[test]
fn modelled_prefill_shrinks_over_its_prediction() {
    let config = KvRouterConfig {
        router_prefill_load_model: PrefillLoadModel::Aic,
        router_track_active_blocks: false,
        ..KvRouterConfig::default()
    };
    let mut router = router(&config).with_prefill_model(Arc::new(Linear));
    router.apply(B, &stored(None, [7]), NOW).unwrap();
    let modelled = router.book(distinct(1, 8_000, 4), A, NOW).unwrap();
    assert_eq!(modelled.ticket.prefill_duration, Some(Duration::from_ns(2_000_000_000)));
    let unknown = router.book(request(2, 5_004, [7]), B, NOW).unwrap();
    assert_eq!((unknown.ticket.prefill_tokens, unknown.ticket.prefill_duration), (5_000, None));
    let next = distinct(3, 400, 4);
    assert_eq!(costs(&mut router, &next, NOW), [2100.0, 1350.0]);
    assert_eq!(costs(&mut router, &next, secs(1.0)), [1100.0, 1350.0]);
}
