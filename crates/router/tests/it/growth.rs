//! Nothing is left of requests that are over.

use std::sync::Arc;

use rand::RngExt;
use servecast_router::{Decision, KvRouterConfig, QueuePolicy, RankInfo, Router, RoutingRequest, Sizes};
use servecast_types::{Duration, Rank, RequestId, SequenceHash, Time, WorkerId};

use crate::support::random;

#[test]
fn a_million_decisions_leave_nothing() {
    const DECISIONS: u32 = 1_000_000;
    const RANKS: u32 = 8;
    let config = KvRouterConfig { router_queue_policy: QueuePolicy::Wspt, ..KvRouterConfig::default() };
    let expiry = Some(Duration::from_ns(1_000_000_000_000));
    let mut router = Router::new(config.validate().unwrap(), 16, 3).with_request_expiry(expiry);
    for worker in 0..RANKS {
        let info = RankInfo { max_num_batched_tokens: Some(64) };
        router.add_rank(Rank::of_worker(WorkerId(worker)), info, Time::ZERO);
    }
    let prompts: Vec<Arc<[SequenceHash]>> = (0..50_u64)
        .map(|number| {
            let own = (3..8).map(|at| number / 5 * 1000 + number * at);
            (0..3).map(|at| number / 5 * 1000 + at).chain(own).map(|at| SequenceHash(at + 1)).collect()
        })
        .collect();
    let mut random = random(5);
    let mut running = Vec::new();
    let mut admitted = 0;
    let mut largest = Sizes::default();
    for number in 0..DECISIONS {
        let now = Time::from_ns(u64::from(number) * 1000);
        let blocks = Arc::clone(&prompts[random.random_range(0..prompts.len())]);
        let request = RoutingRequest::new(RequestId(number), 8 * 16 + 3, blocks);
        match router.route(request, now).unwrap() {
            Decision::Admit(admission) => running.push(admission.ticket.id),
            Decision::Queued(queued) => assert!(queued.released.is_empty()),
        }
        let keep = if number + 1 < DECISIONS { 28 } else { 0 };
        while running.len() + router.queued_requests() > keep {
            let id = running.swap_remove(random.random_range(0..running.len()));
            admitted += 1;
            let freed = router.prefill_done(id, now).unwrap();
            running.extend(freed.iter().map(|admission| admission.ticket.id));
            let freed = router.finish(id, now);
            running.extend(freed.iter().map(|admission| admission.ticket.id));
        }
        if number % 64 == 0 {
            let sizes = router.sizes();
            largest.block_runs = largest.block_runs.max(sizes.block_runs);
            largest.queued_requests = largest.queued_requests.max(sizes.queued_requests);
        }
    }
    assert_eq!(admitted, DECISIONS);
    assert!(largest.queued_requests > 0 && largest.block_runs > 0, "{largest:?}");
    assert_eq!(router.sizes(), Sizes::default());
    for worker in 0..RANKS {
        let rank = Rank::of_worker(WorkerId(worker));
        let load = (
            router.active_blocks(rank),
            router.prefill_tokens(rank, Time::MAX),
            router.active_requests(rank),
        );
        assert_eq!(load, (Some(0), Some(0), Some(0)));
    }
    assert_eq!((router.queued_isl_tokens(), router.next_deadline()), (0, None));
}
