//! KV events on their way from the workers of a pool to its router.

use std::ops::Range;

use servecast_router::{Rank, Router};
use servecast_types::{KvEvent, SequenceHash, Time};

/// Blocks of reports that are over and may stay beside as many that are not.
const TOLERATED: usize = 4096;

/// What workers have reported and their router does not know yet.
///
/// Engines make an event of every evicted block. Here these are runs of one buffer, so a block costs its eight bytes.
#[derive(Debug, Default)]
pub(super) struct Reports {
    waiting: Vec<Report>,
    blocks: Vec<SequenceHash>,
    /// How many of `blocks` belong to a report that waits.
    num_waiting: usize,
}

/// One event, or several removals in a row.
#[derive(Debug)]
struct Report {
    visible: Time,
    rank: Rank,
    what: Change,
    blocks: Range<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Change {
    Stored { parent: Option<SequenceHash> },
    Removed,
    Cleared,
}

impl Reports {
    /// Takes note of an event that becomes visible at a time.
    pub(super) fn push(&mut self, visible: Time, rank: Rank, event: &KvEvent) {
        let (what, blocks): (_, &[SequenceHash]) = match event {
            KvEvent::Stored { parent, blocks } => (Change::Stored { parent: *parent }, blocks),
            KvEvent::Removed { blocks } => (Change::Removed, blocks),
            KvEvent::Cleared => (Change::Cleared, &[]),
        };
        let start = self.blocks.len();
        self.blocks.extend_from_slice(blocks);
        self.num_waiting += blocks.len();
        match self.waiting.last_mut() {
            Some(last)
                if (last.visible, last.rank, last.what) == (visible, rank, Change::Removed)
                    && (what, start) == (Change::Removed, last.blocks.end) =>
            {
                last.blocks.end = self.blocks.len();
            }
            _ => self.waiting.push(Report { visible, rank, what, blocks: start..self.blocks.len() }),
        }
    }

    /// Tells the router of the events that are visible by `now`, in order of time, then of worker.
    pub(super) fn apply_visible(&mut self, now: Time, router: &mut Router) {
        if !self.waiting.iter().any(|report| report.visible <= now) {
            return;
        }
        self.waiting.sort_by_key(|report| (report.visible, report.rank));
        let count = self.waiting.partition_point(|report| report.visible <= now);
        for Report { visible, rank, what, blocks } in self.waiting.drain(..count) {
            self.num_waiting -= blocks.len();
            let blocks = &self.blocks[blocks];
            // What cannot be applied, the router counts; its index stays consistent.
            _ = match what {
                Change::Stored { parent } => router.stored(rank, parent, blocks, visible),
                Change::Removed => router.removed(rank, blocks, visible),
                Change::Cleared => router.apply(rank, &KvEvent::Cleared, visible),
            };
        }
        self.forget_applied();
    }

    fn forget_applied(&mut self) {
        if self.num_waiting == 0 {
            self.blocks.clear();
            for report in &mut self.waiting {
                report.blocks = 0..0;
            }
        } else if self.blocks.len() > 2 * self.num_waiting + TOLERATED {
            let mut kept = Vec::with_capacity(self.num_waiting);
            for report in &mut self.waiting {
                let start = kept.len();
                kept.extend_from_slice(&self.blocks[report.blocks.clone()]);
                report.blocks = start..kept.len();
            }
            self.blocks = kept;
        }
    }
}

#[cfg(test)]
mod tests {
    use servecast_router::{KvRouterConfig, RankInfo, RoutingRequest};
    use servecast_types::RequestId;

    use super::*;

    #[test]
    fn what_waits_survives_what_is_over() {
        let mut router = Router::new(KvRouterConfig::default().validate().unwrap(), 1, 0);
        let ranks = [0, 1].map(Rank::of_worker);
        for rank in ranks {
            router.add_rank(rank, RankInfo::default(), Time::ZERO);
        }
        let hash = |number: u64| SequenceHash(number + 1);
        let mut reports = Reports::default();
        for step in 0..20_000 {
            // Each rank holds the ten latest blocks, of which half are on their way.
            for rank in ranks {
                let visible = Time::from_ns(step + 5);
                let stored = KvEvent::Stored { parent: None, blocks: vec![hash(step)] };
                reports.push(visible, rank, &stored);
                if let Some(old) = step.checked_sub(5) {
                    reports.push(
                        visible,
                        rank,
                        &KvEvent::Removed { blocks: [hash(old)].into_iter().collect() },
                    );
                }
            }
            reports.apply_visible(Time::from_ns(step), &mut router);
        }
        assert!(reports.blocks.len() < 2 * TOLERATED, "{}", reports.blocks.len());
        assert_eq!(router.tree_size(ranks[1]), Some(5));
        for (block, depth) in [(19_994, 1), (19_990, 1), (19_989, 0), (19_995, 0)] {
            let request = RoutingRequest::new(RequestId(0), 1, vec![hash(block)]);
            assert_eq!(router.overlaps(&request), ranks.map(|rank| (rank, depth)), "{block}");
        }
        reports.apply_visible(Time::MAX, &mut router);
        assert_eq!((router.tree_size(ranks[0]), reports.blocks.len()), (Some(5), 0));
        let counts = router.event_counts();
        assert_eq!((counts.applied, counts.block_not_found, counts.moved_block), (2 * 39_995, 0, 0));
    }
}
