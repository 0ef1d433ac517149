//! The radix tree of cached prefixes: which content is in the KV pool and who keeps it there.
//!
//! A node holds a stretch of content, a whole number of pages; a path from the root spells a prefix. A request locks the
//! path that it uses. What nobody locks can be evicted, leaf by leaf, the one first that was not used for longest.
//!
//! Content is compared as runs of token identities, so that a walk costs a step a run and a node, whatever the page
//! size.

mod check;
mod locks;
mod tiers;
mod windows;

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;
use servecast_types::{HashRuns, Prompt, Run};
use smallvec::SmallVec;

use super::cursor::{Cursor, Place};
use tiers::Duplicates;
pub(super) use windows::WindowVictim;
use windows::Windows;

/// A node of the tree; reused once the node is evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct NodeId(u32);

impl NodeId {
    /// The node without content above all others.
    pub(super) const ROOT: Self = Self(0);

    const fn index(self) -> usize {
        self.0 as usize
    }
}

#[derive(Debug)]
struct Node {
    parent: NodeId,
    /// Identity of the first page, which tells it from its siblings.
    first_page: u64,
    content: SmallVec<[Run; 1]>,
    tokens: u32,
    /// Identities of its pages; only kept where they are reported.
    hashes: HashRuns,
    children: u32,
    /// How many of them are on the device.
    on_device: u32,
    /// Whether its KV is on the device; whose is, those above it are, too.
    device: bool,
    /// Whether the host has a copy of its KV, or gets one.
    host: bool,
    /// Its place among what is both on the device and on the host, from 1 on; 0 for none.
    duplicate: u64,
    /// The end of the load that brings it to the device, as long as that is under way.
    loading: Option<NodeId>,
    /// Insertions that counted as hits of it.
    hits: u32,
    /// Place among its siblings: lower came earlier.
    order: u64,
    /// Requests that use it, directly or through a node below.
    locks: u32,
    /// When a walk ended here last, or below, in what is evicted since.
    last_use: u64,
    /// The part of that which the node above takes over when this is gone.
    passes_on: u64,
}

/// Content that is walked over: the first `tokens` tokens of a request, with the identities of its pages where those
/// are kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Key<'a> {
    pub(super) content: &'a Prompt,
    pub(super) tokens: u32,
    pub(super) hashes: Option<&'a HashRuns>,
}

/// A prefix of a request's content that is in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Prefix {
    pub(super) tokens: u32,
    /// Where it ends in the tree, as long as that is locked.
    pub(super) node: NodeId,
    /// Where it ends in the content.
    place: Place,
}

impl Prefix {
    /// Nothing.
    pub(super) const EMPTY: Self = Self { tokens: 0, node: NodeId::ROOT, place: Place::START };
}

/// What a lookup found on the device, and with what is only on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) device: Prefix,
    pub(super) whole: Prefix,
    /// Tokens that are cached, those among them that cannot be hit since the window before them has no slots.
    pub(super) cached: u32,
}

impl Found {
    /// Nothing.
    pub(super) const NOTHING: Self = Self { device: Prefix::EMPTY, whole: Prefix::EMPTY, cached: 0 };
}

/// What is gone from the device.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Evicted {
    pub(super) tokens: u32,
    /// Those of them that had slots in the pool of sliding windows.
    pub(super) in_window: u32,
    /// Identities of its pages.
    pub(super) hashes: HashRuns,
}

/// What an insertion found and made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Inserted {
    /// Tokens of the key that were on the device before.
    pub(super) existing: u32,
    /// All of it.
    pub(super) prefix: Prefix,
    /// Tokens whose slots in the pool of sliding windows are the tree's from now on.
    pub(super) in_window: u32,
}

/// An insertion under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Insertion<'a> {
    /// Tokens of the key that were on the device before.
    pub(super) existing: u32,
    /// What is in the tree of it.
    pub(super) whole: Prefix,
    key: Key<'a>,
    rest: Cursor<'a>,
}

/// All cached prefixes of a worker.
#[derive(Debug)]
pub(super) struct RadixTree {
    page_size: u32,
    nodes: Vec<Node>,
    vacant: Vec<NodeId>,
    children: FxHashMap<(NodeId, u64), NodeId>,
    /// Leaves that nobody locks, by last use.
    evictable_leaves: BTreeSet<(u64, NodeId)>,
    /// Leaves that only the host has, by last use.
    host_leaves: BTreeSet<(u64, NodeId)>,
    /// What the host could give up first, if there is such a thing.
    duplicates: Option<Duplicates>,
    evictable_tokens: u64,
    protected_tokens: u64,
    /// Recency of the last use. No two leaves have the same, so that ids decide nothing.
    clock: u64,
    births: u64,
    /// What layers with a sliding window have of it, where those have a pool of their own.
    windows: Option<Box<Windows>>,
}

impl RadixTree {
    pub(super) fn new(page_size: u32) -> Self {
        let root = Node {
            parent: NodeId::ROOT,
            first_page: 0,
            content: SmallVec::new(),
            tokens: 0,
            hashes: HashRuns::default(),
            children: 0,
            on_device: 0,
            device: true,
            host: true,
            duplicate: 0,
            loading: None,
            hits: 0,
            order: 0,
            locks: 1,
            last_use: 0,
            passes_on: 0,
        };
        Self {
            page_size,
            nodes: vec![root],
            vacant: Vec::new(),
            children: FxHashMap::default(),
            evictable_leaves: BTreeSet::new(),
            host_leaves: BTreeSet::new(),
            duplicates: None,
            evictable_tokens: 0,
            protected_tokens: 0,
            clock: 0,
            births: 0,
            windows: None,
        }
    }

    /// Tokens that nobody uses.
    pub(super) fn evictable_tokens(&self) -> u64 {
        self.evictable_tokens
    }

    /// Tokens on locked paths.
    pub(super) fn protected_tokens(&self) -> u64 {
        self.protected_tokens
    }

    /// The longest prefix of whole pages of a key that is here. Counts as a use, and cuts a node in which it ends.
    pub(super) fn find(&mut self, key: Key<'_>) -> Found {
        let found = self.walk(Prefix::EMPTY, key).0;
        self.use_window(found.device, self.clock);
        if self.windows.is_none() { found } else { Found { whole: found.device, ..found } }
    }

    /// Adds the whole pages of a key that begins with `known`, which is here. Counts as a use of what is there.
    pub(super) fn insert(&mut self, known: Prefix, key: Key<'_>) -> Inserted {
        let begun = self.begin_insert(known, key);
        Inserted { existing: begun.existing, prefix: self.end_insert(begun), in_window: 0 }
    }

    /// The first half of an insertion: goes over what is there, and takes what was only on the host to the device, since it
    /// was computed again.
    pub(super) fn begin_insert<'a>(&mut self, known: Prefix, key: Key<'a>) -> Insertion<'a> {
        let (Found { device, whole, .. }, rest) = self.walk(known, key);
        self.bring_up(whole.node);
        for node in self.path(device.node, whole.node) {
            self.track_duplicate(node);
        }
        Insertion { existing: device.tokens, whole, key, rest }
    }

    /// The second half: adds what is missing.
    pub(super) fn end_insert(&mut self, begun: Insertion<'_>) -> Prefix {
        let Insertion { whole, key, mut rest, .. } = begun;
        let tokens = self.whole_pages(key.tokens) - whole.tokens;
        if tokens == 0 {
            return whole;
        }
        let first_page = rest.page(self.page_size);
        let pages = whole.tokens / self.page_size..(whole.tokens + tokens) / self.page_size;
        let hashes = key.hashes.map(|hashes| hashes.range(pages).collect()).unwrap_or_default();
        let node = self.add_leaf(whole.node, first_page, rest.take(tokens), hashes);
        Prefix { tokens: whole.tokens + tokens, node, place: rest.place }
    }

    /// Puts a leaf below a node; it is used now.
    fn add_leaf(
        &mut self,
        parent: NodeId,
        first_page: u64,
        content: SmallVec<[Run; 1]>,
        hashes: HashRuns,
    ) -> NodeId {
        let tokens = content.iter().map(|run| run.len()).sum();
        self.births += 1;
        let node = self.add(Node {
            parent,
            first_page,
            content,
            tokens,
            hashes,
            children: 0,
            on_device: 0,
            device: true,
            host: false,
            duplicate: 0,
            loading: None,
            hits: 0,
            order: self.births,
            locks: 0,
            last_use: self.clock,
            passes_on: self.clock,
        });
        self.children.insert((parent, first_page), node);
        self.set_evictable(parent, false);
        self.nodes[parent.index()].children += 1;
        self.nodes[parent.index()].on_device += 1;
        self.set_evictable(node, true);
        self.evictable_tokens += u64::from(tokens);
        node
    }

    /// Walks down from `known`, with which the key begins, as far as the key is here. If that is inside a node, its rest
    /// is older than what was walked over and than a leaf that is put beside it, and newer than everything else.
    ///
    /// Only the end is noted as used, on the device and on the host: what is above it is no leaf until that is gone, and takes
    /// over its time then.
    fn walk<'a>(&mut self, known: Prefix, key: Key<'a>) -> (Found, Cursor<'a>) {
        self.clock += 1;
        let mut device = known;
        let mut cursor = Cursor { runs: key.content.runs(), place: known.place };
        let Prefix { mut node, mut tokens, .. } = known;
        let mut in_window = tokens;
        let end = self.whole_pages(key.tokens);
        debug_assert!(tokens <= end, "the key begins with what is known");
        while tokens < end {
            let Some(&child) = self.children.get(&(node, cursor.page(self.page_size))) else { break };
            let Node { content, tokens: length, .. } = &self.nodes[child.index()];
            let common = self.whole_pages(cursor.common(content, (*length).min(end - tokens)));
            if common == 0 {
                break;
            }
            let whole = common == *length;
            cursor.skip(common);
            tokens += common;
            if whole {
                node = child;
            } else {
                self.touch(child);
                self.clock += 1;
                node = self.split(child, common);
            }
            in_window = self.in_window(node, in_window);
            if self.nodes[node.index()].device && self.can_be_hit(tokens, in_window) {
                device = Prefix { tokens, node, place: cursor.place };
            }
            if !whole {
                break;
            }
        }
        self.touch(device.node);
        if self.windows.is_none() && node != device.node {
            self.touch(node);
        }
        let whole = Prefix { tokens, node, place: cursor.place };
        (Found { device, whole, cached: tokens }, cursor)
    }

    fn touch(&mut self, node: NodeId) {
        self.set_evictable(node, false);
        let clock = self.clock;
        let touched = &mut self.nodes[node.index()];
        (touched.last_use, touched.passes_on) = (clock, clock);
        self.set_evictable(node, true);
    }

    /// Cuts a node after `tokens` tokens; returns the new node above it, which is used now.
    fn split(&mut self, lower: NodeId, tokens: u32) -> NodeId {
        let is_on_device = u32::from(self.nodes[lower.index()].device);
        self.unlist_window(lower);
        let pages = tokens / self.page_size;
        let page_size = self.page_size;
        let node = &mut self.nodes[lower.index()];
        let mut rest = Cursor::new(&node.content);
        let content = rest.take(tokens);
        let first_page = rest.page(page_size);
        let remaining = rest.take(node.tokens - tokens);
        let all = std::mem::take(&mut node.hashes);
        let hashes = all.range(0..pages.min(all.len() as u32)).collect();
        node.hashes = all.range(pages.min(all.len() as u32)..all.len() as u32).collect();
        let upper = Node {
            parent: node.parent,
            first_page: node.first_page,
            content,
            tokens,
            hashes,
            children: 1,
            on_device: is_on_device,
            device: node.device,
            host: node.host,
            duplicate: 0,
            loading: node.loading,
            hits: node.hits,
            order: node.order,
            locks: node.locks,
            last_use: self.clock,
            passes_on: self.clock,
        };
        node.content = remaining;
        node.tokens -= tokens;
        node.first_page = first_page;
        let key = (upper.parent, upper.first_page);
        let upper = self.add(upper);
        self.nodes[lower.index()].parent = upper;
        self.children.insert(key, upper);
        self.children.insert((upper, first_page), lower);
        self.split_window(upper, lower);
        self.track_duplicate(upper);
        upper
    }

    /// The leaf on the device that was not used for longest.
    pub(super) fn oldest_leaf(&self) -> Option<NodeId> {
        self.evictable_leaves.first().map(|&(_, node)| node)
    }

    /// Evicts the leaf on the device that was not used for longest.
    #[cfg(test)]
    pub(super) fn evict_leaf(&mut self) -> Option<Evicted> {
        self.oldest_leaf().map(|leaf| self.evict(leaf))
    }

    /// Evicts a leaf from the device; what the host has of it stays there.
    pub(super) fn evict(&mut self, id: NodeId) -> Evicted {
        let Node { parent, tokens, passes_on, locks, on_device, host, .. } = self.nodes[id.index()];
        assert!(locks == 0 && on_device == 0, "only what nobody uses is evicted");
        self.evictable_tokens -= u64::from(tokens);
        self.set_evictable(id, false);
        let in_window = self.remove_window(id);
        if !host {
            return Evicted { tokens, in_window, hashes: self.remove(id, true) };
        }
        let hashes = self.nodes[id.index()].hashes.clone();
        self.nodes[id.index()].device = false;
        self.set_evictable(id, true);
        let above = &mut self.nodes[parent.index()];
        above.on_device -= 1;
        above.last_use = above.last_use.max(passes_on);
        above.passes_on = above.passes_on.max(passes_on);
        self.set_evictable(parent, true);
        Evicted { tokens, in_window, hashes }
    }

    /// Takes a leaf out of the tree that is not listed for eviction.
    fn remove(&mut self, id: NodeId, was_on_device: bool) -> HashRuns {
        let node = &mut self.nodes[id.index()];
        assert_eq!(node.children, 0, "only a leaf is taken away");
        let Node { parent, first_page, passes_on, .. } = *node;
        let hashes = std::mem::take(&mut node.hashes);
        node.content = SmallVec::new();
        self.children.remove(&(parent, first_page));
        self.forget_duplicate(id);
        self.vacant.push(id);
        self.set_evictable(parent, false);
        let above = &mut self.nodes[parent.index()];
        above.children -= 1;
        above.on_device -= u32::from(was_on_device);
        above.last_use = above.last_use.max(passes_on);
        above.passes_on = above.passes_on.max(passes_on);
        self.set_evictable(parent, true);
        hashes
    }

    /// The node above; the root is above itself.
    pub(super) fn parent(&self, node: NodeId) -> NodeId {
        self.nodes[node.index()].parent
    }

    /// Place of a node among its siblings.
    pub(super) fn order(&self, node: NodeId) -> u64 {
        self.nodes[node.index()].order
    }

    fn whole_pages(&self, tokens: u32) -> u32 {
        tokens / self.page_size * self.page_size
    }

    fn is_evictable_leaf(&self, node: NodeId) -> bool {
        let node = &self.nodes[node.index()];
        node.locks == 0 && node.device && node.on_device == 0
    }

    /// Whether only the host has a node, and nothing below it.
    fn is_host_leaf(&self, node: NodeId) -> bool {
        let node = &self.nodes[node.index()];
        !node.device && node.children == 0 && node.locks == 0
    }

    /// Puts a node on the list of evictable leaves of the device or of the host if it is one, or takes it off.
    fn set_evictable(&mut self, node: NodeId, evictable: bool) {
        let entry = (self.nodes[node.index()].last_use, node);
        let leaves = if self.is_evictable_leaf(node) {
            &mut self.evictable_leaves
        } else if self.is_host_leaf(node) {
            &mut self.host_leaves
        } else {
            return;
        };
        if evictable {
            leaves.insert(entry);
        } else {
            leaves.remove(&entry);
        }
    }

    fn add(&mut self, node: Node) -> NodeId {
        if let Some(id) = self.vacant.pop() {
            self.nodes[id.index()] = node;
            return id;
        }
        self.nodes.push(node);
        self.add_window();
        NodeId(self.nodes.len() as u32 - 1)
    }
}

#[cfg(test)]
mod tests;
