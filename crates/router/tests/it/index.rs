//! The index of cached blocks.

use servecast_router::wire::IndexEventData;
use servecast_router::{EventError, KvRouterConfig, Router, RoutingRequest};
use servecast_types::{KvEvent, Time, WorkerId};

use crate::support::{
    A, B, C, admitted, ids, index_removed, index_stored, queued, removed, request, router, router_with, secs,
    stored,
};

const NOW: Time = Time::ZERO;

fn query(blocks: impl IntoIterator<Item = u64>) -> RoutingRequest {
    request(0, 400, blocks)
}

fn depths(router: &Router, blocks: impl IntoIterator<Item = u64>) -> Vec<u32> {
    router.overlaps(&query(blocks)).iter().map(|&(_, depth)| depth).collect()
}

fn sizes(router: &Router) -> [u32; 2] {
    [A, B].map(|rank| router.tree_size(rank).unwrap())
}

fn filled() -> Router {
    let mut router = router(&KvRouterConfig::default());
    router.apply(A, &stored(None, 1..=5), NOW).unwrap();
    router.apply(B, &stored(None, 1..=3), NOW).unwrap();
    router
}

#[test]
fn a_look_up_finds_prefixes_only() {
    let router = filled();
    assert_eq!(depths(&router, 1..=7), [5, 3]);
    assert_eq!(depths(&router, 1..=2), [2, 2]);
    assert_eq!(depths(&router, 2..=5), [0, 0]);
    assert_eq!(depths(&router, [1, 9]), [1, 1]);
    assert_eq!(depths(&router, []), [0, 0]);
    assert_eq!(sizes(&router), [5, 3]);
    assert_eq!(router.sizes().index_blocks, 5, "memory is for distinct blocks");
}

#[test]
fn a_chain_is_continued_behind_its_parent() {
    let mut router = filled();
    router.apply(B, &stored(Some(3), [4, 6]), NOW).unwrap();
    assert_eq!(depths(&router, 1..=5), [5, 4]);
    assert_eq!(depths(&router, [1, 2, 3, 4, 6]), [4, 5]);
    let unknown = router.apply(B, &stored(Some(5), [6]), NOW);
    assert_eq!(unknown, Err(EventError::ParentNotFound { parent: 5 }), "only A has block 5");
    assert_eq!(sizes(&router), [5, 5]);
}

#[test]
fn leaves_are_removed_one_by_one() {
    let mut router = filled();
    for (block, expected) in [(5, [4, 3]), (4, [3, 3]), (3, [2, 3])] {
        router.apply(A, &removed([block]), NOW).unwrap();
        assert_eq!(depths(&router, 1..=5), expected);
    }
    assert_eq!(sizes(&router), [2, 3]);
    let missing = router.apply(A, &removed([9, 2, 5]), NOW);
    assert_eq!(missing, Err(EventError::BlockNotFound { first: 9, count: 2 }), "the others are removed");
    assert_eq!(depths(&router, 1..=5), [1, 3]);
    let counts = router.event_counts();
    assert_eq!((counts.applied, counts.block_not_found), (5, 1));
}

#[test]
fn a_block_is_there_until_its_last_copy_is_removed() {
    let mut router = filled();
    router.apply(A, &stored(None, 1..=5), NOW).unwrap();
    router.apply(A, &stored(Some(4), [5]), NOW).unwrap();
    assert_eq!(sizes(&router), [5, 3]);
    for expected in [5, 5, 4] {
        router.apply(A, &removed([5]), NOW).unwrap();
        assert_eq!(depths(&router, 1..=5)[0], expected);
    }
    router.apply(A, &removed([4, 3]), NOW).unwrap();
    assert_eq!(depths(&router, 1..=5)[0], 4);
    router.apply(A, &removed([4, 3, 2, 2, 1, 1]), NOW).unwrap();
    assert_eq!((depths(&router, 1..=5), router.sizes().index_extras), (vec![0, 3], 0));
}

#[test]
fn what_follows_a_removed_block_is_gone_until_it_is_stored_again() {
    // Whether another rank keeps the block alive makes no difference.
    for shared in [false, true] {
        let mut router = router(&KvRouterConfig::default());
        router.apply(A, &stored(None, 1..=5), NOW).unwrap();
        if shared {
            router.apply(B, &stored(None, 1..=5), NOW).unwrap();
        }
        router.apply(A, &removed([3]), NOW).unwrap();
        assert_eq!((depths(&router, 1..=5)[0], sizes(&router)[0]), (2, 2));
        router.apply(A, &stored(Some(2), [3]), NOW).unwrap();
        assert_eq!((depths(&router, 1..=5)[0], sizes(&router)[0]), (3, 3));
        // Block 4 comes back with the copy that the engine never removed; block 5 is removed without ado.
        router.apply(A, &stored(Some(3), [4]), NOW).unwrap();
        router.apply(A, &removed([4]), NOW).unwrap();
        assert_eq!(depths(&router, 1..=5)[0], 4);
        router.apply(A, &removed([5, 4]), NOW).unwrap();
        assert_eq!(depths(&router, 1..=5)[0], 3);
        assert!(router.apply(A, &removed([5]), NOW).is_err());
        assert_eq!(router.sizes().index_extras, 0);
        if shared {
            assert_eq!(depths(&router, 1..=5)[1], 5);
        }
    }
}

#[test]
fn a_removal_may_list_a_chain_from_its_start() {
    let mut router = filled();
    router.apply(A, &removed(1..=5), NOW).unwrap();
    assert_eq!((depths(&router, 1..=5), router.sizes().index_extras), (vec![0, 3], 0));
}

#[test]
fn clearing_is_for_one_rank() {
    let other = servecast_types::Rank { worker: WorkerId(0), dp: 1 };
    let mut router = router_with(&KvRouterConfig::default(), 4, 16, &[A, other]);
    for rank in [A, other] {
        router.apply(rank, &stored(None, 1..=5), NOW).unwrap();
        router.apply(rank, &stored(None, [8, 9]), NOW).unwrap();
    }
    router.apply(A, &KvEvent::Cleared, NOW).unwrap();
    assert_eq!(depths(&router, 1..=5), [0, 5]);
    assert_eq!((router.tree_size(A), router.tree_size(other)), (Some(0), Some(7)));
    router.apply(A, &KvEvent::Cleared, NOW).unwrap();
    router.apply(A, &stored(None, 1..=2), NOW).unwrap();
    assert_eq!(depths(&router, 1..=5), [2, 5]);
}

#[test]
fn a_block_is_in_one_place_only() {
    let mut router = filled();
    let moved = router.apply(A, &stored(Some(5), [6, 2, 7]), NOW);
    assert_eq!(moved, Err(EventError::MovedBlock { external: 2 }));
    assert_eq!(depths(&router, 1..=6)[0], 6, "what came before it stays");
    assert_eq!(sizes(&router)[0], 6);
    let twice = router.apply(B, &stored(Some(3), [4, 4]), NOW);
    assert_eq!(twice, Err(EventError::MovedBlock { external: 4 }));
}

#[test]
fn engines_may_have_names_of_their_own() {
    let mut router = router_with(&KvRouterConfig::default(), 4, 16, &[A, B, C]);
    router.apply_index_event(A, &index_stored(None, &[(1, 10), (2, 20)]), NOW).unwrap();
    // B has its own names, and one of them means another block to A.
    router.apply_index_event(B, &index_stored(None, &[(1, 20), (2, 30)]), NOW).unwrap();
    router.apply_index_event(C, &index_stored(None, &[(1, 10)]), NOW).unwrap();
    router.apply_index_event(B, &index_stored(Some(30), &[(3, 40)]), NOW).unwrap();
    assert_eq!(depths(&router, [1, 2, 3]), [2, 3, 1]);
    assert!(router.apply_index_event(B, &index_removed(&[10]), NOW).is_err());
    // The same local content elsewhere is another block.
    router.apply_index_event(C, &index_stored(Some(10), &[(1, 50)]), NOW).unwrap();
    assert_eq!(depths(&router, [1, 1]), [1, 1, 2]);
    // A second name for the same block is a second copy.
    router.apply_index_event(A, &index_stored(Some(10), &[(2, 21)]), NOW).unwrap();
    router.apply_index_event(A, &index_removed(&[20]), NOW).unwrap();
    assert_eq!(depths(&router, [1, 2, 3]), [2, 3, 1]);

    let dump = router.dump();
    let mut copy = router_with(&KvRouterConfig::default(), 4, 16, &[C, B, A]);
    copy.restore(&dump, NOW).unwrap();
    assert_eq!(copy.dump(), dump);
    for router in [&mut router, &mut copy] {
        router.apply_index_event(A, &index_removed(&[21, 10]), NOW).unwrap();
        router.apply_index_event(B, &index_removed(&[40, 30, 20]), NOW).unwrap();
        router.apply_index_event(C, &IndexEventData::Cleared, NOW).unwrap();
        assert_eq!((router.sizes().index_blocks, router.sizes().index_extras), (0, 0));
    }
}

#[test]
fn a_dump_restores_everything_or_nothing() {
    let mut router = filled();
    router.apply(A, &stored(None, 1..=2), NOW).unwrap();
    router.apply(B, &removed([2]), NOW).unwrap();
    let dump = router.dump();
    let json = serde_json::to_string(&dump).unwrap();
    assert_eq!(serde_json::from_str::<servecast_router::IndexDump>(&json).unwrap(), dump);
    assert_eq!((dump.blocks.len(), dump.orphans.len()), (6, 1));

    let mut copy = router_with(&KvRouterConfig::default(), 4, 16, &[B, A]);
    copy.apply(B, &stored(None, [77]), NOW).unwrap();
    copy.restore(&dump, NOW).unwrap();
    assert_eq!((depths(&copy, 1..=5), depths(&copy, [77])), (vec![5, 1], vec![0, 0]));
    assert_eq!(copy.dump(), dump);

    let mut smaller = router_with(&KvRouterConfig::default(), 4, 16, &[B]);
    smaller.apply(B, &stored(None, [77]), NOW).unwrap();
    assert_eq!(smaller.restore(&dump, NOW), Err(EventError::UnknownRank { rank: A }));
    assert_eq!(depths(&smaller, [77]), [1], "as before");
}

#[test]
fn events_of_unknown_ranks_are_errors_and_a_removed_rank_holds_nothing() {
    let mut router = filled();
    let unknown = router.apply(C, &stored(None, [1]), NOW).unwrap_err();
    assert_eq!(unknown.to_string(), "KV event of worker 2 rank 0, which is not registered");
    router.remove_rank(A, NOW);
    assert_eq!((depths(&router, 1..=5), router.sizes().index_blocks), (vec![3], 3));
    router.add_rank(C, servecast_router::RankInfo::default(), NOW);
    assert_eq!(depths(&router, 1..=5), [3, 0], "a new rank in an old place starts empty");
}

fn predicting(max: u64, ratio: f64) -> Router {
    router(&KvRouterConfig {
        use_kv_events: false,
        router_max_tree_size: max,
        router_prune_target_ratio: ratio,
        router_queue_threshold: None,
        ..KvRouterConfig::default()
    })
}

#[test]
fn without_events_decisions_are_remembered_for_a_while() {
    let mut router = predicting(1000, 0.8);
    router.book(request(1, 12, [1, 2, 3]), A, secs(0.0)).unwrap();
    router.book(request(2, 12, [1, 2, 4]), A, secs(60.0)).unwrap();
    router.apply(B, &stored(None, [1]), secs(60.0)).unwrap();
    assert_eq!((depths(&router, [1, 2, 3]), router.event_counts().ignored), (vec![3, 0], 1));
    router.advance(secs(119.9));
    assert_eq!(depths(&router, [1, 2, 3])[0], 3);
    router.advance(secs(120.0));
    assert_eq!(depths(&router, [1, 2, 3])[0], 2, "the common part was renewed");
    assert_eq!(depths(&router, [1, 2, 4])[0], 3);
    let third = router.book(request(3, 12, [1, 2, 4]), A, secs(180.0)).unwrap();
    assert_eq!(third.ticket.overlap_blocks, 0, "expired before it is looked up");
    router.remove_rank(A, secs(180.0));
    assert_eq!(router.sizes().index_blocks, 0);
}

#[test]
fn predictions_are_pruned_oldest_and_deepest_first() {
    let mut router = predicting(6, 0.5);
    router.book(request(1, 12, [1, 2, 3]), A, secs(0.0)).unwrap();
    router.book(request(2, 12, [7, 8, 9]), B, secs(1.0)).unwrap();
    assert_eq!(router.sizes().index_blocks, 6);
    router.book(request(3, 8, [1, 5]), A, secs(2.0)).unwrap();
    // Seven entries are cut to three: 3, 2, 9 and 8 go.
    assert_eq!(depths(&router, [1, 2, 3]), [1, 0]);
    assert_eq!(depths(&router, [1, 5]), [2, 0]);
    assert_eq!(depths(&router, [7, 8, 9]), [0, 1]);

    let dump = router.dump();
    let mut copy = predicting(6, 0.5);
    copy.restore(&dump, secs(10.0)).unwrap();
    assert_eq!(copy.dump(), dump);
    copy.advance(secs(129.9));
    assert_eq!(depths(&copy, [1, 5]), [2, 0]);
    copy.advance(secs(130.0));
    assert_eq!(copy.sizes().index_blocks, 0);
}

#[test]
fn a_parked_request_sees_predictions_of_the_time_of_its_admission() {
    let config = KvRouterConfig { use_kv_events: false, ..KvRouterConfig::default() };
    let mut router = router_with(&config, 4, 16, &[A]);
    router.book(request(1, 80, [1, 2, 3]), A, secs(0.0)).unwrap();
    queued(router.route(request(2, 12, [1, 2, 3]), secs(1.0)).unwrap());
    let late = router.finish(servecast_types::RequestId(1), secs(500.0));
    assert_eq!((ids(&late), late[0].ticket.overlap_blocks), (vec![2], 0));
    admitted(router.route(request(3, 12, [1, 2, 3]), secs(500.0)).unwrap());
}
