//! Nodes of the tree that the host has a copy of, or that only it has.

use std::collections::BTreeMap;

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
        self.nodes[node.index()].host = true;
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

    /// Takes KV of `tokens` tokens at least away from the host, as far as there is that much, but for what `kept` is; returns
    /// what is gone, in order: duplicates first where they are kept in mind, then leaves by last use.
    pub(in crate::sglang) fn evict_from_host(&mut self, tokens: u64, kept: Option<NodeId>) -> Vec<Evicted> {
        let mut gone = Vec::new();
        let mut missing = self.give_up_duplicates(tokens, kept, &mut gone);
        while missing > 0
            && let Some(&(since, id)) = self.host_leaves.iter().find(|&&(_, id)| kept != Some(id))
        {
            self.host_leaves.remove(&(since, id));
            let leaf = self.drop_from_host(id);
            missing = missing.saturating_sub(leaf.tokens.into());
            gone.push(leaf);
        }
        gone
    }

    /// Takes a node out of the tree that only the host has, and that is not listed.
    fn drop_from_host(&mut self, id: NodeId) -> Evicted {
        let tokens = self.tokens(id);
        Evicted { tokens, in_window: 0, hashes: self.remove(id, false) }
    }

    /// Takes all out of the tree that is below a leaf of the device, which only the host has; returns what is gone, in order.
    pub(in crate::sglang) fn drop_below(&mut self, leaf: NodeId) -> Vec<Evicted> {
        let (mut below, mut stack) = (Vec::new(), self.below(leaf));
        while let Some(node) = stack.pop() {
            below.push(node);
            stack.extend(self.below(node));
        }
        below.reverse();
        let drop = |node| {
            self.set_evictable(node, false);
            self.drop_from_host(node)
        };
        below.into_iter().map(drop).collect()
    }

    /// The nodes right below one, in order of their age.
    fn below(&self, node: NodeId) -> Vec<NodeId> {
        if self.nodes[node.index()].children == 0 {
            return Vec::new();
        }
        let below = self.children.iter().filter(|((parent, _), _)| *parent == node);
        let mut below: Vec<NodeId> = below.map(|(_, &child)| child).collect();
        below.sort_by_key(|&child| self.order(child));
        below
    }
}

/// Nodes that are on the device and on the host, by when they came to be that. Nodes that are so no longer stay in their places
/// until these are looked at.
#[derive(Debug, Default)]
pub(super) struct Duplicates {
    places: BTreeMap<u64, NodeId>,
    last: u64,
}

/// Duplicates.
impl RadixTree {
    /// Keeps duplicates in mind from now on, which the host gives up first.
    pub(in crate::sglang) fn with_duplicates(mut self) -> Self {
        self.duplicates = Some(Duplicates::default());
        self
    }

    /// Gives a node a place among the duplicates if it is one and has none.
    pub(in crate::sglang) fn track_duplicate(&mut self, id: NodeId) {
        let Some(duplicates) = &mut self.duplicates else { return };
        let node = &mut self.nodes[id.index()];
        if !(node.device && node.host && node.loading.is_none()) {
            self.forget_duplicate(id);
        } else if node.duplicate == 0 {
            duplicates.last += 1;
            node.duplicate = duplicates.last;
            duplicates.places.insert(node.duplicate, id);
        }
    }

    pub(super) fn forget_duplicate(&mut self, id: NodeId) {
        if let Some(duplicates) = &mut self.duplicates {
            let place = std::mem::take(&mut self.nodes[id.index()].duplicate);
            duplicates.places.remove(&place);
        }
    }

    /// Nodes from below `above` to `node` are being loaded.
    pub(in crate::sglang) fn begin_load(&mut self, above: NodeId, node: NodeId) {
        for each in self.path(above, node) {
            self.nodes[each.index()].loading = Some(node);
        }
    }

    /// What was loaded up to `node` is here.
    pub(in crate::sglang) fn end_load(&mut self, node: NodeId) {
        let mut at = node;
        while at != NodeId::ROOT {
            if self.nodes[at.index()].loading == Some(node) {
                self.nodes[at.index()].loading = None;
                self.track_duplicate(at);
            }
            at = self.parent(at);
        }
    }

    /// Takes duplicates away from the host until `tokens` tokens are gone, in order; leaves of the device last, which would be
    /// copied again. Returns how many tokens are still missing.
    fn give_up_duplicates(&mut self, tokens: u64, kept: Option<NodeId>, gone: &mut Vec<Evicted>) -> u64 {
        let mut missing = tokens;
        let Some(duplicates) = &self.duplicates else { return missing };
        let all: Vec<NodeId> = duplicates.places.values().copied().collect();
        let mut looked_at = Vec::new();
        for spares_leaves in [true, false] {
            for &id in &all {
                if missing == 0 {
                    break;
                }
                let node = &self.nodes[id.index()];
                if !(node.device && node.host) {
                    looked_at.push(id);
                } else if node.loading.is_none()
                    && kept != Some(id)
                    && !(spares_leaves && self.is_evictable_leaf(id))
                {
                    let (tokens, hashes) = (node.tokens, node.hashes.clone());
                    self.nodes[id.index()].host = false;
                    missing = missing.saturating_sub(tokens.into());
                    gone.push(Evicted { tokens, in_window: 0, hashes });
                    looked_at.push(id);
                }
            }
        }
        for id in looked_at {
            self.forget_duplicate(id);
        }
        missing
    }
}
