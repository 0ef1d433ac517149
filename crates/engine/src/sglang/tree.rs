//! The radix tree of cached prefixes: which content is in the KV pool and who keeps it there.
//!
//! A node holds a stretch of content, a whole number of pages; a path from the root spells a prefix. A request locks the
//! path that it uses. What nobody locks can be evicted, leaf by leaf, the one first that was not used for longest.
//!
//! Content is compared as runs of token identities, so that a walk costs a step a run and a node, whatever the page
//! size.

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;
use servecast_types::{HashRuns, Prompt, Run, ensure};
use smallvec::SmallVec;

use super::cursor::{Cursor, Place};

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
    /// Place among its siblings: lower came earlier.
    order: u64,
    /// Requests that use it, directly or through a node below.
    locks: u32,
    /// When a walk ended here last, or below, in what is evicted since.
    last_use: u64,
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

/// What an insertion found and made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Inserted {
    /// Tokens of the key that were there before.
    pub(super) existing: u32,
    /// All of it.
    pub(super) prefix: Prefix,
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
    evictable_tokens: u64,
    protected_tokens: u64,
    /// Recency of the last use. No two leaves have the same, so that ids decide nothing.
    clock: u64,
    births: u64,
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
            order: 0,
            locks: 1,
            last_use: 0,
        };
        Self {
            page_size,
            nodes: vec![root],
            vacant: Vec::new(),
            children: FxHashMap::default(),
            evictable_leaves: BTreeSet::new(),
            evictable_tokens: 0,
            protected_tokens: 0,
            clock: 0,
            births: 0,
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
    pub(super) fn find(&mut self, key: Key<'_>) -> Prefix {
        self.walk(Prefix::EMPTY, key).0
    }

    /// Adds the whole pages of a key that begins with `known`, which is here. Counts as a use of what is there.
    pub(super) fn insert(&mut self, known: Prefix, key: Key<'_>) -> Inserted {
        let (found, mut rest) = self.walk(known, key);
        let Prefix { tokens: existing, node: parent, .. } = found;
        let tokens = self.whole_pages(key.tokens) - existing;
        if tokens == 0 {
            return Inserted { existing, prefix: found };
        }
        let first_page = rest.page(self.page_size);
        let pages = existing / self.page_size..(existing + tokens) / self.page_size;
        let hashes = key.hashes.map(|hashes| hashes.range(pages).collect()).unwrap_or_default();
        self.births += 1;
        let node = self.add(Node {
            parent,
            first_page,
            content: rest.take(tokens),
            tokens,
            hashes,
            children: 0,
            order: self.births,
            locks: 0,
            last_use: self.clock,
        });
        self.children.insert((parent, first_page), node);
        self.nodes[parent.index()].children += 1;
        self.set_evictable(parent, false);
        self.set_evictable(node, true);
        self.evictable_tokens += u64::from(tokens);
        Inserted { existing, prefix: Prefix { tokens: existing + tokens, node, place: rest.place } }
    }

    /// Walks down from `known`, with which the key begins, as far as the key is here. If that is inside a node, its rest
    /// is older than what was walked over and than a leaf that is put beside it, and newer than everything else.
    ///
    /// Only the end is noted as used: what is above it is no leaf until that is gone, and takes over its time then.
    fn walk<'a>(&mut self, known: Prefix, key: Key<'a>) -> (Prefix, Cursor<'a>) {
        self.clock += 1;
        let mut cursor = Cursor { runs: key.content.runs(), place: known.place };
        let Prefix { mut node, mut tokens, .. } = known;
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
            if !whole {
                self.touch(child);
                self.clock += 1;
                node = self.split(child, common);
                break;
            }
            node = child;
        }
        self.touch(node);
        (Prefix { tokens, node, place: cursor.place }, cursor)
    }

    fn touch(&mut self, node: NodeId) {
        let listed = self.is_evictable_leaf(node);
        if listed {
            self.set_evictable(node, false);
        }
        self.nodes[node.index()].last_use = self.clock;
        if listed {
            self.set_evictable(node, true);
        }
    }

    /// Cuts a node after `tokens` tokens; returns the new node above it, which is used now.
    fn split(&mut self, lower: NodeId, tokens: u32) -> NodeId {
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
            order: node.order,
            locks: node.locks,
            last_use: self.clock,
        };
        node.content = remaining;
        node.tokens -= tokens;
        node.first_page = first_page;
        let key = (upper.parent, upper.first_page);
        let upper = self.add(upper);
        self.nodes[lower.index()].parent = upper;
        self.children.insert(key, upper);
        self.children.insert((upper, first_page), lower);
        upper
    }

    /// Keeps the path to a node from being evicted.
    pub(super) fn lock(&mut self, node: NodeId) {
        self.lock_below(NodeId::ROOT, node);
    }

    /// Extends a lock of `locked` to `node`, which is that or below it.
    pub(super) fn lock_below(&mut self, locked: NodeId, node: NodeId) {
        let mut at = node;
        while at != locked {
            let was_leaf = self.is_evictable_leaf(at);
            if was_leaf {
                self.set_evictable(at, false);
            }
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
    pub(super) fn unlock(&mut self, node: NodeId) {
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

    /// Evicts the leaf that was not used for longest; returns its tokens and the identities of its pages.
    pub(super) fn evict_leaf(&mut self) -> Option<(u32, HashRuns)> {
        let (_, id) = self.evictable_leaves.pop_first()?;
        let node = &mut self.nodes[id.index()];
        assert!(node.locks == 0 && node.children == 0, "only what nobody uses is evicted");
        let Node { parent, first_page, tokens, last_use, .. } = *node;
        let hashes = std::mem::take(&mut node.hashes);
        node.content = SmallVec::new();
        self.children.remove(&(parent, first_page));
        self.vacant.push(id);
        self.evictable_tokens -= u64::from(tokens);
        let above = &mut self.nodes[parent.index()];
        above.children -= 1;
        above.last_use = above.last_use.max(last_use);
        self.set_evictable(parent, true);
        Some((tokens, hashes))
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
        node.locks == 0 && node.children == 0
    }

    /// Puts a node on the list of evictable leaves if it is one, or takes it off.
    fn set_evictable(&mut self, node: NodeId, evictable: bool) {
        let entry = (self.nodes[node.index()].last_use, node);
        if !evictable {
            self.evictable_leaves.remove(&entry);
        } else if self.is_evictable_leaf(node) {
            self.evictable_leaves.insert(entry);
        }
    }

    fn add(&mut self, node: Node) -> NodeId {
        if let Some(id) = self.vacant.pop() {
            self.nodes[id.index()] = node;
            return id;
        }
        self.nodes.push(node);
        NodeId(self.nodes.len() as u32 - 1)
    }

    /// Checks that sizes, locks and the list of leaves agree with the tree, and that `locked` are all locks.
    pub(super) fn check(&self, locked: impl Iterator<Item = NodeId>) -> Result<u64, String> {
        let mut looked_at = self.nodes.len() as u64;
        let mut locks = vec![0_u32; self.nodes.len()];
        for mut node in locked {
            while node != NodeId::ROOT {
                locks[node.index()] += 1;
                looked_at += 1;
                node = self.parent(node);
            }
        }
        let (mut evictable, mut protected, mut leaves) = (0, 0, 0);
        let mut children = vec![0_u32; self.nodes.len()];
        for (&(parent, _), &id) in &self.children {
            let node = &self.nodes[id.index()];
            ensure!(
                node.parent == parent,
                "{id:?} is listed below {parent:?}, but belongs to {:?}",
                node.parent
            );
            let (counted, held) = (node.locks, locks[id.index()]);
            ensure!(counted == held, "{id:?} counts {counted} locks, but has {held}");
            let tokens = node.content.iter().map(|run| run.len()).sum::<u32>();
            ensure!(node.tokens == tokens, "{id:?} counts {} tokens, but has {tokens}", node.tokens);
            ensure!(
                tokens > 0 && tokens.is_multiple_of(self.page_size),
                "{id:?} has {tokens} tokens, which are no whole pages"
            );
            children[parent.index()] += 1;
            let size = if node.locks > 0 { &mut protected } else { &mut evictable };
            *size += u64::from(node.tokens);
            let listed = self.evictable_leaves.contains(&(node.last_use, id));
            ensure!(
                listed == self.is_evictable_leaf(id),
                "{id:?} is listed for eviction and locked, or neither"
            );
            leaves += usize::from(listed);
        }
        let counted = (self.evictable_tokens, self.protected_tokens);
        ensure!(
            (evictable, protected) == counted,
            "{evictable} tokens are evictable and {protected} protected, but {counted:?} are counted"
        );
        let listed = self.evictable_leaves.len();
        ensure!(leaves == listed, "{listed} leaves are listed for eviction, of {leaves}");
        let counted = self.children.values().chain([&NodeId::ROOT]);
        for id in counted {
            let (counted, found) = (self.nodes[id.index()].children, children[id.index()]);
            ensure!(counted == found, "{id:?} counts {counted} children, but has {found}");
        }
        Ok(looked_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(runs: &[(u32, u32)]) -> Prompt {
        Prompt::new(runs.iter().map(|&(first, len)| Run::tokens(first, len)))
    }

    fn key(content: &Prompt) -> Key<'_> {
        Key { content, tokens: content.tokens(), hashes: None }
    }

    #[test]
    fn what_is_shared_is_kept_once_and_cut_at_page_boundaries() {
        let mut tree = RadixTree::new(4);
        let (first, second) = (prompt(&[(0, 18)]), prompt(&[(0, 10), (100, 6)]));
        assert_eq!(tree.insert(Prefix::EMPTY, key(&first)).existing, 0);
        assert_eq!(tree.evictable_tokens(), 16, "the last two tokens fill no page");
        assert_eq!(tree.insert(Prefix::EMPTY, key(&second)).existing, 8, "the third page differs");
        assert_eq!(tree.evictable_tokens(), 24);
        let found = tree.find(Key { tokens: 11, ..key(&second) });
        assert_eq!(found.tokens, 8);
        tree.check(std::iter::empty()).unwrap();
    }

    #[test]
    fn leaves_go_in_order_of_last_use_and_locked_paths_stay() {
        let mut tree = RadixTree::new(1);
        let contents = [prompt(&[(0, 4), (10, 2)]), prompt(&[(0, 4), (20, 3)]), prompt(&[(50, 5)])];
        for content in &contents {
            tree.insert(Prefix::EMPTY, key(content));
        }
        let found = tree.find(key(&contents[0]));
        tree.lock(found.node);
        tree.check([found.node].into_iter()).unwrap();
        assert_eq!((tree.evictable_tokens(), tree.protected_tokens()), (8, 6));
        assert_eq!(tree.evict_leaf().unwrap().0, 3);
        assert_eq!(tree.evict_leaf().unwrap().0, 5);
        assert_eq!(tree.evict_leaf(), None, "the rest is locked");
        tree.unlock(found.node);
        assert_eq!(tree.evict_leaf().unwrap().0, 2);
        assert_eq!(tree.evict_leaf().unwrap().0, 4, "a node without children is a leaf");
        tree.check(std::iter::empty()).unwrap();
    }

    /// The ids of evicted nodes are reused, the last one first, so that they tell nothing of age.
    #[test]
    fn the_rest_of_a_cut_node_is_older_than_the_leaf_beside_it() {
        let mut tree = RadixTree::new(1);
        for first in [100, 200, 300] {
            tree.insert(Prefix::EMPTY, key(&prompt(&[(first, 1)])));
        }
        while tree.evict_leaf().is_some() {}
        tree.insert(Prefix::EMPTY, key(&prompt(&[(0, 10)])));
        tree.insert(Prefix::EMPTY, key(&prompt(&[(0, 6), (50, 9)])));
        assert_eq!(tree.evict_leaf().unwrap().0, 4);
        tree.check(std::iter::empty()).unwrap();
    }

    #[test]
    fn a_walk_is_a_use_of_all_that_is_above_its_end() {
        let mut tree = RadixTree::new(1);
        let (long, short) = (prompt(&[(0, 4), (10, 2)]), prompt(&[(50, 5)]));
        let start = tree.insert(Prefix::EMPTY, Key { tokens: 4, ..key(&long) });
        tree.insert(start.prefix, key(&long));
        tree.insert(Prefix::EMPTY, key(&short));
        tree.find(key(&long));
        let sizes: Vec<u32> = std::iter::from_fn(|| tree.evict_leaf()).map(|(tokens, _)| tokens).collect();
        assert_eq!(sizes, [5, 2, 4]);
    }

    #[test]
    fn an_insertion_continues_where_the_prefix_ends_that_is_known() {
        let mut tree = RadixTree::new(4);
        let content = prompt(&[(0, 10), (90, 20)]);
        let mut known = Prefix::EMPTY;
        for tokens in [9, 17, 30] {
            let inserted = tree.insert(known, Key { tokens, ..key(&content) });
            assert_eq!(inserted.existing, known.tokens);
            tree.lock_below(known.node, inserted.prefix.node);
            known = inserted.prefix;
        }
        // It is cut, but still ends where it did.
        tree.find(Key { tokens: 20, ..key(&content) });
        assert_eq!(tree.find(key(&content)), known);
        tree.check([known.node].into_iter()).unwrap();
        tree.unlock(known.node);
        assert_eq!((tree.evictable_tokens(), tree.protected_tokens()), (28, 0));
    }

    #[test]
    fn pages_of_several_runs_are_told_apart() {
        let mut tree = RadixTree::new(4);
        let (one, other) = (prompt(&[(0, 2), (10, 2)]), prompt(&[(0, 3), (11, 1)]));
        tree.insert(Prefix::EMPTY, key(&one));
        assert_eq!(tree.find(key(&other)).tokens, 0);
        tree.insert(Prefix::EMPTY, key(&other));
        assert_eq!((tree.find(key(&one)).tokens, tree.find(key(&other)).tokens), (4, 4));
        tree.check(std::iter::empty()).unwrap();
    }
}
