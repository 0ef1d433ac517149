//! Nodes of the tree that the host has a copy of, or that only it has.

use servecast_types::{HashRuns, SequenceHash};
use smallvec::SmallVec;

use super::{Evicted, Node, NodeId, RadixTree};

/// Nodes on the host.
impl RadixTree {
    /// Tokens of a node.
    pub(in crate::sglang) fn tokens(&self, node: NodeId) -> u32 {
        self.nodes[node.index()].tokens
    }

    /// Whether the host has a copy of a node, or gets one.
    pub(in crate::sglang) fn is_on_host(&self, node: NodeId) -> bool {
        self.nodes[node.index()].host
    }

    /// The host has a copy of a node from now on, or gets one.
    pub(in crate::sglang) fn keep_on_host(&mut self, node: NodeId) {
        let had_it = std::mem::replace(&mut self.nodes[node.index()].host, true);
        let parent = self.parent(node);
        self.nodes[parent.index()].on_host += u32::from(!had_it);
    }

    /// What a copy of a node is called: the page before it, and its pages.
    pub(in crate::sglang) fn names(&self, node: NodeId) -> (Option<SequenceHash>, HashRuns) {
        let Node { parent, hashes, .. } = &self.nodes[node.index()];
        (self.nodes[parent.index()].hashes.last(), hashes.clone())
    }

    /// The nodes from below `above` to `node`, from the top.
    pub(in crate::sglang) fn path(&self, above: NodeId, node: NodeId) -> SmallVec<[NodeId; 8]> {
        let mut path: SmallVec<[NodeId; 8]> = SmallVec::new();
        let mut at = node;
        while at != above && at != NodeId::ROOT {
            path.push(at);
            at = self.parent(at);
        }
        path.reverse();
        path
    }

    /// Of the nodes above `node`, which ends after `tokens` tokens, the lowest that ends within the first `within`.
    pub(in crate::sglang) fn ancestor_at(&self, node: NodeId, tokens: u32, within: u32) -> NodeId {
        let (mut at, mut end) = (node, tokens);
        while at != NodeId::ROOT && end > within {
            end -= self.tokens(at);
            at = self.parent(at);
        }
        at
    }

    /// An insertion counts as a hit of a node; returns how many there were with it.
    pub(in crate::sglang) fn hit(&mut self, node: NodeId) -> u32 {
        let hits = &mut self.nodes[node.index()].hits;
        *hits += 1;
        *hits
    }

    /// Puts the KV of a node and of those above it on the device where it is not, for which there is memory; returns how many
    /// tokens that are.
    pub(in crate::sglang) fn bring_up(&mut self, node: NodeId) -> u32 {
        let mut tokens = 0;
        let mut at = node;
        while !self.nodes[at.index()].device {
            self.set_evictable(at, false);
            let parent = self.parent(at);
            self.set_evictable(parent, false);
            let node = &mut self.nodes[at.index()];
            node.device = true;
            tokens += node.tokens;
            self.evictable_tokens += u64::from(node.tokens);
            self.nodes[parent.index()].on_device += 1;
            self.set_evictable(at, true);
            at = parent;
        }
        tokens
    }

    /// Takes the first of what can be evicted from the host away there, but for those that are `kept`; returns its tokens and the identities
    /// of its pages.
    pub(in crate::sglang) fn evict_from_host(&mut self, kept: [Option<NodeId>; 2]) -> Option<Evicted> {
        let is_last = |id: &NodeId| self.nodes[id.index()].on_host == 0 && !kept.contains(&Some(*id));
        let &(since, id) = self.host_leaves.iter().find(|(_, id)| is_last(id))?;
        self.host_leaves.remove(&(since, id));
        let Node { tokens, device, parent, .. } = self.nodes[id.index()];
        if !device {
            return Some(Evicted { tokens, in_window: 0, hashes: self.remove(id, false) });
        }
        self.nodes[id.index()].host = false;
        self.nodes[parent.index()].on_host -= 1;
        Some(Evicted { tokens, in_window: 0, hashes: self.nodes[id.index()].hashes.clone() })
    }
}
