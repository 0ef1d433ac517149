//! Which rank of a worker gets a request: the choice of vLLM's front end.

use servecast_types::{Duration, Time};

/// Shortest time between two snapshots of what ranks have to do.
const SNAPSHOT_INTERVAL: Duration = Duration::from_ns(100_000_000);

/// What a rank has to do, as its scheduler says.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RankLoad {
    pub(super) waiting: u64,
    pub(super) running: u64,
    /// Share of its KV blocks that is in use, from 0 to 1.
    pub(super) kv_usage: f64,
}

/// Chooses the rank with the least to do.
///
/// # Source
/// vLLM 0.33, the client of data-parallel engines, as described by the notes on recordings of it: the score of a rank is the
/// larger of what this client has under way there and what waits and runs there by the last snapshot, plus six times what
/// waits there for each share of its KV cache in use beyond a half. The least wins, and the scan begins one rank further
/// each time. There is one client here.
#[derive(Debug)]
pub(super) struct FrontEnd {
    /// What is under way on each rank.
    in_flight: Vec<u64>,
    /// The last snapshot; what was sent since counts as waiting.
    loads: Vec<RankLoad>,
    /// When the next snapshot can be taken.
    next_snapshot: Time,
    /// Where the next scan begins.
    first: usize,
}

impl FrontEnd {
    pub(super) fn new(ranks: usize) -> Self {
        Self {
            in_flight: vec![0; ranks],
            loads: vec![RankLoad::default(); ranks],
            next_snapshot: Time::ZERO,
            first: 0,
        }
    }

    /// The rank for a request that comes `now`; `load` says what a rank has to do.
    pub(super) fn choose(&mut self, now: Time, load: impl Fn(usize) -> RankLoad) -> usize {
        let ranks = self.loads.len();
        if now >= self.next_snapshot {
            self.loads = (0..ranks).map(load).collect();
            self.next_snapshot = now + SNAPSHOT_INTERVAL;
        }
        let score = |rank: usize| {
            let RankLoad { waiting, running, kv_usage } = self.loads[rank];
            let under_way = self.in_flight[rank].max(waiting + running);
            under_way as f64 + waiting as f64 * 6.0 * (kv_usage - 0.5).max(0.0)
        };
        let scan = (0..ranks).map(|step| (self.first + step) % ranks);
        let chosen = scan.min_by(|&one, &other| score(one).total_cmp(&score(other))).unwrap_or(0);
        self.first = (self.first + 1) % ranks;
        self.loads[chosen].waiting += 1;
        chosen
    }

    /// A request was sent to a rank.
    pub(super) fn sent(&mut self, rank: usize) {
        self.in_flight[rank] += 1;
    }

    /// A request has left a rank.
    pub(super) fn left(&mut self, rank: usize) {
        self.in_flight[rank] -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn idle(_: usize) -> RankLoad {
        RankLoad::default()
    }

    #[test]
    fn idle_ranks_take_turns() {
        let mut front_end = FrontEnd::new(3);
        let chosen: Vec<usize> = (0..6)
            .map(|second| {
                let rank = front_end.choose(Time::from_ns(second * 1_000_000_000), idle);
                front_end.sent(rank);
                front_end.left(rank);
                rank
            })
            .collect();
        assert_eq!(chosen, [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn what_was_sent_counts_before_the_next_snapshot() {
        let mut front_end = FrontEnd::new(2);
        let busy = |rank| RankLoad { running: if rank == 0 { 3 } else { 0 }, ..RankLoad::default() };
        let mut choose = |ms: u64| {
            let rank = front_end.choose(Time::from_ns(ms * 1_000_000), busy);
            front_end.sent(rank);
            rank
        };
        // Rank 0 runs three that others sent; at three each, the scan decides.
        assert_eq!([choose(0), choose(10), choose(20), choose(30)], [1, 1, 1, 1]);
        assert_eq!([choose(40), choose(50)], [0, 1]);
    }

    #[test]
    fn waiting_weighs_more_where_the_cache_is_full() {
        let mut front_end = FrontEnd::new(2);
        let load = |rank| match rank {
            0 => RankLoad { waiting: 1, running: 1, kv_usage: 1.0 },
            _ => RankLoad { waiting: 0, running: 4, kv_usage: 1.0 },
        };
        // 2 + 1 · 6 · 0.5 = 5 against 4.
        assert_eq!(front_end.choose(Time::ZERO, load), 1);
    }
}
