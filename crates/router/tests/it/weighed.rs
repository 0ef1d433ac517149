//! A decision in two steps is the decision of a router that knows everything at once.

use rand::RngExt;
use servecast_router::{KvRouterConfig, RankInfo, Router, RoutingRequest};
use servecast_types::{KvEvent, Rank, Time, WorkerId};

use crate::support::{admitted, cases, random, removed, request, stored};

const NOW: Time = Time::ZERO;
const RANKS: u32 = 9;
const PROMPTS: u64 = 4;

fn rank(worker: u32) -> Rank {
    Rank::of_worker(WorkerId(worker))
}

/// Prompts of twelve blocks, the first four of which all share.
fn prompt(number: u64) -> Vec<u64> {
    (0..12).map(|at| if at < 4 { at } else { 100 * (number + 1) + at }).collect()
}

#[test]
fn only_contenders_need_to_be_up_to_date() {
    let mut random = random(5);
    let mut told = 0;
    for case in 0..u64::from(cases()) {
        let weight = [0.0, 0.7, 1.0, 3.0][case as usize % 4];
        let settings = KvRouterConfig { overlap_score_weight: weight, ..KvRouterConfig::default() };
        let mut late = Router::new(settings.validate().unwrap(), 4, case);
        for worker in 0..RANKS {
            late.add_rank(rank(worker), RankInfo::default(), NOW);
        }
        for worker in 0..RANKS {
            for number in 0..PROMPTS {
                let depth = random.random_range(0..=12);
                let blocks = prompt(number).into_iter().take(depth);
                _ = late.apply(rank(worker), &stored(None, blocks), NOW);
            }
        }
        let booked = random.random_range(0..20);
        for id in 1..=booked {
            let blocks = prompt(random.random_range(0..PROMPTS));
            late.book(request(id, 48, blocks), rank(random.random_range(0..RANKS)), NOW).unwrap();
        }
        // What each has lost since: the end of what it has of each prompt.
        let losses: Vec<KvEvent> = (0..RANKS)
            .map(|_| removed(prompt(random.random_range(0..PROMPTS)).split_off(random.random_range(4..12))))
            .collect();
        let mut fresh = late.clone();
        for (worker, loss) in (0..).zip(&losses) {
            _ = fresh.apply(rank(worker), loss, NOW);
        }
        let asked: RoutingRequest = request(1_000, 50, prompt(random.random_range(0..PROMPTS)));
        let expected = admitted(fresh.route(asked.clone(), NOW).unwrap());

        let mut is_late = [true; RANKS as usize];
        assert!(late.weigh(asked, NOW));
        loop {
            let of_late = |rank: &Rank| is_late[rank.worker.index()];
            let contenders: Vec<Rank> = late.contenders().filter(of_late).collect();
            if contenders.is_empty() {
                break;
            }
            for rank in contenders {
                told += 1;
                is_late[rank.worker.index()] = false;
                _ = late.apply(rank, &losses[rank.worker.index()], NOW);
                late.reweigh(rank);
            }
        }
        assert_eq!(late.admit_weighed(NOW), Some(expected), "case {case}");
        assert_eq!(late.admit_weighed(NOW), None, "a request is admitted once");
    }
    assert!(told < cases() * RANKS / 2, "most need not be asked");
}

#[test]
fn what_more_than_the_lowest_cost_decides_is_not_weighed() {
    let with = |change: fn(&mut KvRouterConfig)| {
        let mut settings = KvRouterConfig::default();
        change(&mut settings);
        let mut router = Router::new(settings.validate().unwrap(), 4, 1);
        for worker in 0..2 {
            router.add_rank(rank(worker), RankInfo { max_num_batched_tokens: Some(16) }, NOW);
        }
        router
    };
    let asked = || request(1, 48, prompt(0));
    let mut plain = with(|_| {});
    assert!(plain.weigh(asked(), NOW));
    assert_eq!(plain.contenders().count(), 2);
    for is_free in [
        with(|settings| settings.router_temperature = 0.5).weigh(asked(), NOW),
        with(|_| {}).record_terms().weigh(asked(), NOW),
        with(|_| {}).weigh(RoutingRequest { pinned: Some(rank(1)), ..asked() }, NOW),
        with(|_| {}).weigh(RoutingRequest { steered: Some(rank(1)), ..asked() }, NOW),
        with(|_| {}).weigh(RoutingRequest { allowed: Some([1].into()), ..asked() }, NOW),
    ] {
        assert!(!is_free);
    }
    let mut busy = with(|settings| settings.router_queue_threshold = Some(1.0));
    for (id, worker) in [(2, 0), (3, 1)] {
        busy.book(request(id, 48, prompt(u64::from(id))), rank(worker), NOW).unwrap();
    }
    assert!(!busy.weigh(asked(), NOW), "it would wait");
    assert_eq!(busy.contenders().count(), 0);
    assert_eq!(busy.admit_weighed(NOW), None);
}
