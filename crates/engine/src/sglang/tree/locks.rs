//! Paths of the tree that requests use.

use super::{NodeId, RadixTree};

impl RadixTree {
    /// Keeps the path to a node from being evicted.
    pub(in crate::sglang) fn lock(&mut self, node: NodeId) {
        self.lock_below(NodeId::ROOT, node);
    }

    /// Extends a lock of `locked` to `node`, which is that or below it.
    pub(in crate::sglang) fn lock_below(&mut self, locked: NodeId, node: NodeId) {
        let mut at = node;
        while at != locked {
            self.set_evictable(at, false);
            let node = &mut self.nodes[at.index()];
            if node.locks == 0 {
                self.evictable_tokens -= u64::from(node.tokens);
                self.protected_tokens += u64::from(node.tokens);
            }
            node.locks += 1;
            at = node.parent;
        }
    }

    /// Takes one [`RadixTree::lock`] back.
    pub(in crate::sglang) fn unlock(&mut self, node: NodeId) {
        let mut at = node;
        while at != NodeId::ROOT {
            let node = &mut self.nodes[at.index()];
            assert!(node.locks > 0, "a path is unlocked as often as it was locked");
            node.locks -= 1;
            let parent = node.parent;
            if node.locks == 0 {
                self.evictable_tokens += u64::from(node.tokens);
                self.protected_tokens -= u64::from(node.tokens);
                self.set_evictable(at, true);
            }
            at = parent;
        }
    }
}
