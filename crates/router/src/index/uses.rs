//! How often cached blocks were asked for of late.
//!
//! For those who want to know what is popular; no decision looks at it. Off unless a window is set.

use std::collections::VecDeque;

use rustc_hash::FxHashMap;
use servecast_types::{Duration, Time};

use super::nodes::NodeId;
use super::tree::{At, RadixTree};

/// The look-ups that met each block within a window of time.
#[derive(Debug, Clone)]
pub(super) struct Uses {
    window: Duration,
    by_block: FxHashMap<NodeId, VecDeque<Time>>,
}

impl Uses {
    /// Notes a use now; returns how many there were within the window before.
    fn count(&mut self, node: NodeId, now: Time) -> u32 {
        let uses = self.by_block.entry(node).or_default();
        while uses.front().is_some_and(|&used| now.since(used) > self.window) {
            uses.pop_front();
        }
        let earlier = uses.len() as u32;
        uses.push_back(now);
        earlier
    }

    /// The block is gone, and its place may be another's next.
    pub(super) fn forget(&mut self, node: NodeId) {
        self.by_block.remove(&node);
    }
}

impl RadixTree {
    /// A tree that counts look-ups by [`RadixTree::look_up_counted`] over a window of time.
    #[must_use]
    pub fn counting_uses(mut self, window: Duration) -> Self {
        self.uses = Some(Uses { window, by_block: FxHashMap::default() });
        self.of_singles()
    }

    /// As [`RadixTree::look_up`], and counts it: returns how often each leading block was met by earlier look-ups of this
    /// kind within the window, up to the first that was not. The numbers never rise, since who meets a block has met
    /// those before it. Empty without a window.
    pub fn look_up_counted(
        &mut self,
        locals: impl IntoIterator<Item = u64> + Clone,
        depths: &mut Vec<u32>,
        now: Time,
    ) -> Vec<u32> {
        self.look_up(locals.clone(), depths);
        // Taken out, so that the tree can be walked beside it.
        let Some(mut uses) = self.uses.take() else { return Vec::new() };
        let mut at = At::ROOT;
        let path = locals.into_iter().map_while(|local| {
            at = self.step(at, local)?;
            Some(at.node)
        });
        let counts = path.map(|node| uses.count(node, now)).filter(|&earlier| earlier > 0).collect();
        self.uses = Some(uses);
        counts
    }
}
