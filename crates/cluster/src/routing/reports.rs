//! KV events on their way from the workers of a pool to its router.

use std::collections::VecDeque;
use std::mem;

use servecast_router::Router;
use servecast_types::{HashRuns, KvEvent, Rank, SequenceHash, Time};

/// What workers have reported and their router does not know yet.
#[derive(Debug, Default)]
pub(super) struct Reports {
    /// In order of time, then of worker, then as they came.
    waiting: VecDeque<Report>,
    /// Those that came since they were last put in order.
    fresh: Vec<Report>,
    /// The order of those; kept for its memory.
    order: Vec<(Time, Rank, u32)>,
}

/// One event, or several removals in a row.
#[derive(Debug, Default)]
struct Report {
    visible: Time,
    rank: Rank,
    what: Change,
    blocks: HashRuns,
}

#[derive(Debug, Clone, Copy, PartialEq, Default)]
enum Change {
    Stored {
        parent: Option<SequenceHash>,
    },
    Removed,
    #[default]
    Cleared,
}

impl Reports {
    /// Takes note of an event that becomes visible at a time.
    pub(super) fn push(&mut self, visible: Time, rank: Rank, event: &KvEvent) {
        if let KvEvent::Removed { blocks } = event
            && let Some(last) = self.fresh.last_mut()
            && (last.visible, last.rank, last.what) == (visible, rank, Change::Removed)
        {
            last.blocks.extend(blocks.runs());
            return;
        }
        let (what, blocks) = match event {
            KvEvent::Stored { parent, blocks } => (Change::Stored { parent: *parent }, blocks.clone()),
            KvEvent::Removed { blocks } => (Change::Removed, blocks.clone()),
            KvEvent::Cleared => (Change::Cleared, HashRuns::default()),
        };
        self.fresh.push(Report { visible, rank, what, blocks });
    }

    /// Drops what is on its way from a rank.
    pub(super) fn forget(&mut self, rank: Rank) {
        self.put_in_order();
        self.waiting.retain(|report| report.rank != rank);
    }

    /// Tells the router of the events that are visible by `now`, in order of time, then of worker.
    pub(super) fn apply_visible(&mut self, now: Time, router: &mut Router) {
        self.put_in_order();
        while self.waiting.front().is_some_and(|report| report.visible <= now)
            && let Some(Report { visible, rank, what, blocks }) = self.waiting.pop_front()
        {
            // What cannot be applied, the router counts; its index stays consistent.
            _ = match what {
                Change::Stored { parent } => router.stored(rank, parent, blocks.runs(), visible),
                Change::Removed => router.removed(rank, blocks.runs(), visible),
                Change::Cleared => router.apply(rank, &KvEvent::Cleared, visible),
            };
        }
    }

    /// Workers catch up one after the other, so that what they report is in order for each of them only.
    fn put_in_order(&mut self) {
        let numbered = (0..).zip(&self.fresh);
        self.order.clear();
        self.order.extend(numbered.map(|(number, report)| (report.visible, report.rank, number)));
        // Reports are large, so that their places are sorted, and each is moved once.
        self.order.sort_unstable();
        let Some(&(visible, rank, _)) = self.order.first() else { return };
        let follow = self.waiting.back().is_none_or(|last| (last.visible, last.rank) <= (visible, rank));
        let fresh = &mut self.fresh;
        self.waiting.extend(self.order.iter().map(|&(.., number)| mem::take(&mut fresh[number as usize])));
        fresh.clear();
        if !follow {
            self.waiting.make_contiguous().sort_by_key(|report| (report.visible, report.rank));
        }
    }
}

#[cfg(test)]
mod tests {
    use servecast_router::{KvRouterConfig, RankInfo, RoutingRequest};
    use servecast_types::{HashRun, RequestId, WorkerId};

    use super::*;

    #[test]
    fn events_take_effect_when_they_are_visible() {
        let mut router = Router::new(KvRouterConfig::default().validate().unwrap(), 1, 0);
        let ranks = [0, 1].map(WorkerId).map(Rank::of_worker);
        for rank in ranks {
            router.add_rank(rank, RankInfo::default(), Time::ZERO);
        }
        let hash = |number: u64| SequenceHash(number + 1);
        let mut reports = Reports::default();
        for step in 0..20_000 {
            // Each rank holds the ten latest blocks, of which half are on their way.
            for rank in ranks {
                let visible = Time::from_ns(step + 5);
                let stored = KvEvent::Stored { parent: None, blocks: HashRun::up(hash(step), 1).into() };
                reports.push(visible, rank, &stored);
                if let Some(old) = step.checked_sub(5) {
                    let removed = KvEvent::Removed { blocks: HashRun::up(hash(old), 1).into() };
                    reports.push(visible, rank, &removed);
                }
            }
            reports.apply_visible(Time::from_ns(step), &mut router);
        }
        assert!(reports.waiting.len() <= 2 * 2 * 6, "what is over is forgotten");
        assert_eq!(router.tree_size(ranks[1]), Some(5));
        for (block, depth) in [(19_994, 1), (19_990, 1), (19_989, 0), (19_995, 0)] {
            let request = RoutingRequest::new(RequestId(0), 1, vec![hash(block)]);
            assert_eq!(router.overlaps(&request), ranks.map(|rank| (rank, depth)), "{block}");
        }
        reports.apply_visible(Time::MAX, &mut router);
        assert_eq!((router.tree_size(ranks[0]), reports.waiting.len()), (Some(5), 0));
        let counts = router.event_counts();
        assert_eq!((counts.applied, counts.block_not_found, counts.moved_block), (2 * 39_995, 0, 0));
    }
}
