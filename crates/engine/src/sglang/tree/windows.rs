//! What layers with a sliding window have of the nodes, where these layers have a pool of their own.
//!
//! Each token takes a slot in both pools, but the window's pool gives slots back earlier: a node without slots there (a
//! tombstone in SGLang's words) stays in the tree. A prefix can be hit where the window before its end has slots.

use std::collections::BTreeSet;

use servecast_types::ensure;

use super::{Inserted, Key, NodeId, Prefix, RadixTree};

/// The window's part of a tree.
#[derive(Debug)]
pub(super) struct Windows {
    /// Tokens that a window spans.
    window: u32,
    /// By node.
    nodes: Vec<InWindow>,
    /// Nodes with slots that nobody locks, by last use: of those used together the upper one is older.
    unused: BTreeSet<(Use, NodeId)>,
    evictable_tokens: u64,
    protected_tokens: u64,
}

/// What loses its slots in the window's pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sglang) enum WindowVictim {
    /// A leaf, which has them still.
    Leaf(NodeId),
    /// A node above others, which has lost so many.
    Inner { tokens: u32 },
}

/// When a node was used: the time, and where it ends on its path.
type Use = (u64, u32);

/// What the window's pool has of a node.
#[derive(Debug, Clone, Copy, Default)]
struct InWindow {
    has_slots: bool,
    /// Requests whose window it belongs to.
    locks: u32,
    last_use: Use,
}

impl RadixTree {
    /// The same for layers with a window of `window` tokens that have a pool of their own.
    pub(in crate::sglang) fn with_windows(mut self, window: u32) -> Self {
        self.windows = Some(Box::new(Windows {
            window,
            nodes: vec![InWindow::default(); self.nodes.len()],
            unused: BTreeSet::new(),
            evictable_tokens: 0,
            protected_tokens: 0,
        }));
        self
    }

    /// Tokens of the window's pool that nobody uses.
    pub(in crate::sglang) fn window_evictable(&self) -> u64 {
        self.windows.as_ref().map_or(0, |windows| windows.evictable_tokens)
    }

    /// Tokens of the window's pool that belong to somebody's window.
    pub(in crate::sglang) fn window_protected(&self) -> u64 {
        self.windows.as_ref().map_or(0, |windows| windows.protected_tokens)
    }

    /// Tokens before the end of `node` that have slots without a gap, where `before` of those above it have.
    pub(super) fn in_window(&self, node: NodeId, before: u32) -> u32 {
        match &self.windows {
            Some(windows) if !windows.nodes[node.index()].has_slots => 0,
            _ => before + self.tokens(node),
        }
    }

    /// Whether a prefix can be hit, of whose last tokens `in_window` have slots.
    pub(super) fn can_be_hit(&self, tokens: u32, in_window: u32) -> bool {
        self.windows.as_ref().is_none_or(|windows| in_window >= windows.window.min(tokens))
    }

    /// A walk was a use of the window before the end of a prefix and the page before that, in whole nodes.
    pub(super) fn use_window(&mut self, prefix: Prefix, clock: u64) {
        self.use_window_from(prefix, prefix.tokens, clock);
    }

    /// The same of the part of the window before `end` that is in a prefix.
    fn use_window_from(&mut self, prefix: Prefix, end: u32, clock: u64) {
        let Some(windows) = &self.windows else { return };
        let first = end.saturating_sub(windows.window.saturating_add(self.page_size));
        let (mut at, mut end) = (prefix.node, prefix.tokens);
        while at != NodeId::ROOT && end > first {
            self.change_window(at, |node| node.last_use = (clock, end));
            end -= self.tokens(at);
            at = self.parent(at);
        }
    }

    /// Locks whole nodes from the end of a prefix upwards until they cover a window; returns where the first of them begins.
    pub(in crate::sglang) fn lock_window(&mut self, prefix: Prefix) -> u32 {
        let Some(windows) = &self.windows else { return 0 };
        let first = prefix.tokens.saturating_sub(windows.window);
        let (mut at, mut end) = (prefix.node, prefix.tokens);
        while at != NodeId::ROOT && end > first {
            self.change_window(at, |node| node.locks += 1);
            end -= self.tokens(at);
            at = self.parent(at);
        }
        end
    }

    /// Takes one [`RadixTree::lock_window`] back, which began at `first`.
    pub(in crate::sglang) fn unlock_window(&mut self, prefix: Prefix, first: u32) {
        if self.windows.is_none() {
            return;
        }
        let (mut at, mut end) = (prefix.node, prefix.tokens);
        while at != NodeId::ROOT && end > first {
            self.change_window(at, |node| {
                assert!(node.locks > 0, "a window is unlocked as often as it was locked");
                node.locks -= 1;
            });
            end -= self.tokens(at);
            at = self.parent(at);
        }
    }

    /// Adds the whole pages of a key that begins with `known`. Its slots in the window's pool are those from `first` on.
    ///
    /// What is there without slots takes those of the key. A new leaf is cut where its slots begin, and where its window does,
    /// so that no more than that has to be locked.
    pub(in crate::sglang) fn insert_with_window(
        &mut self,
        known: Prefix,
        key: Key<'_>,
        first: u32,
    ) -> Inserted {
        let window = self.windows.as_ref().map_or(0, |windows| windows.window);
        let began = self.clock + 1;
        let (found, mut rest) = self.walk(known, key);
        let whole = found.whole;
        self.touch(whole.node);
        let mut in_window = self.revive(known, whole, first, began);
        let end = self.whole_pages(key.tokens);
        self.use_window_from(whole, end, began);
        let window_begins =
            end.saturating_sub(window.div_ceil(self.page_size).saturating_mul(self.page_size));
        let mut prefix = whole;
        if end > whole.tokens {
            self.clock += 1;
        }
        for to in [first, window_begins, end] {
            if to <= prefix.tokens || to > end {
                continue;
            }
            let tokens = to - prefix.tokens;
            let pages = prefix.tokens / self.page_size..to / self.page_size;
            let hashes = key.hashes.map(|hashes| hashes.range(pages).collect()).unwrap_or_default();
            let first_page = rest.page(self.page_size);
            let node = self.add_leaf(prefix.node, first_page, rest.take(tokens), hashes);
            let (has_slots, last_use) = (prefix.tokens >= first, (self.clock, to));
            self.change_window(node, |node| *node = InWindow { has_slots, locks: 0, last_use });
            in_window += if has_slots { tokens } else { 0 };
            prefix = Prefix { tokens: to, node, place: rest.place };
        }
        Inserted { existing: whole.tokens, prefix, in_window }
    }

    /// Nodes from below `known` to `whole` that have no slots in the window's pool take those of the request that computed
    /// them again, which has them from `first` on; returns how many tokens that are.
    fn revive(&mut self, known: Prefix, whole: Prefix, first: u32, began: u64) -> u32 {
        let mut revived = 0;
        let mut end = known.tokens;
        for id in self.path(known.node, whole.node) {
            let start = end;
            end += self.tokens(id);
            let lacks = self.windows.as_ref().is_some_and(|windows| !windows.nodes[id.index()].has_slots);
            if !lacks || end <= first {
                continue;
            }
            if start < first {
                self.split(id, first - start);
            }
            self.change_window(id, |node| {
                *node = InWindow { has_slots: true, last_use: (began, end), ..*node }
            });
            revived += self.tokens(id);
        }
        revived
    }

    /// Of the nodes with slots that nobody needs, the one that was not used for longest loses these. A leaf is to be evicted
    /// for that, unless layers that see everything need it.
    pub(in crate::sglang) fn evict_window(&mut self) -> Option<WindowVictim> {
        let &(_, id) = self.windows.as_ref()?.unused.first()?;
        let node = &self.nodes[id.index()];
        if node.children == 0 && node.locks == 0 {
            return Some(WindowVictim::Leaf(id));
        }
        Some(WindowVictim::Inner { tokens: self.remove_window(id) })
    }

    /// Takes the slots of a node in the window's pool away; returns how many these were.
    pub(super) fn remove_window(&mut self, id: NodeId) -> u32 {
        let Some(windows) = &self.windows else { return 0 };
        if !windows.nodes[id.index()].has_slots {
            return 0;
        }
        self.change_window(id, |node| node.has_slots = false);
        self.tokens(id)
    }

    /// Gives the upper part of a node that was cut what the lower one has; that is no use of either.
    pub(super) fn split_window(&mut self, upper: NodeId, lower: NodeId) {
        let end = |tree: &Self, mut at: NodeId| {
            let mut end = 0;
            while at != NodeId::ROOT {
                end += tree.tokens(at);
                at = tree.parent(at);
            }
            end
        };
        if self.windows.is_none() {
            return;
        }
        let upper_end = end(self, upper);
        let Some(windows) = &mut self.windows else { return };
        let mut part = windows.nodes[lower.index()];
        part.last_use.1 = upper_end;
        windows.nodes[upper.index()] = part;
        self.list_window(lower);
        self.list_window(upper);
    }

    /// Makes room for what is kept of a new node.
    pub(super) fn add_window(&mut self) {
        let nodes = self.nodes.len();
        if let Some(windows) = &mut self.windows {
            windows.nodes.resize(nodes, InWindow::default());
        }
    }

    fn change_window(&mut self, id: NodeId, change: impl FnOnce(&mut InWindow)) {
        self.unlist_window(id);
        if let Some(windows) = &mut self.windows {
            change(&mut windows.nodes[id.index()]);
        }
        self.list_window(id);
    }

    /// Counts a node, and lists it if it can be evicted.
    fn list_window(&mut self, id: NodeId) {
        let tokens = u64::from(self.tokens(id));
        let Some(windows) = &mut self.windows else { return };
        let node = windows.nodes[id.index()];
        if node.has_slots && node.locks == 0 {
            windows.unused.insert((node.last_use, id));
            windows.evictable_tokens += tokens;
        } else if node.has_slots {
            windows.protected_tokens += tokens;
        }
    }

    /// Takes that back before the node changes.
    pub(super) fn unlist_window(&mut self, id: NodeId) {
        let tokens = u64::from(self.tokens(id));
        let Some(windows) = &mut self.windows else { return };
        let node = windows.nodes[id.index()];
        if node.has_slots && node.locks == 0 {
            windows.unused.remove(&(node.last_use, id));
            windows.evictable_tokens -= tokens;
        } else if node.has_slots {
            windows.protected_tokens -= tokens;
        }
    }

    /// Checks that sizes, locks and the list of what can be evicted from the window's pool agree with the tree, and that
    /// `locked` are all windows, with where the first node of each begins. `have_gaps`: whether some of these may lack slots, as
    /// what comes from another worker has slots in whole pages from the end of a prompt only.
    pub(in crate::sglang) fn check_windows(
        &self,
        locked: impl Iterator<Item = (Prefix, u32)>,
        have_gaps: bool,
    ) -> Result<(), String> {
        let Some(windows) = &self.windows else { return Ok(()) };
        let mut locks = vec![0_u32; self.nodes.len()];
        for (prefix, first) in locked {
            let (mut at, mut end) = (prefix.node, prefix.tokens);
            while at != NodeId::ROOT && end > first {
                locks[at.index()] += 1;
                end -= self.tokens(at);
                at = self.parent(at);
            }
            ensure!(end == first, "a window begins at {first}, but the node at {end}");
        }
        let (mut evictable, mut protected, mut listed) = (0, 0, 0);
        for &id in self.children.values() {
            let (node, counted) = (windows.nodes[id.index()], windows.nodes[id.index()].locks);
            ensure!(
                counted == locks[id.index()],
                "{id:?} counts {counted} windows, but has {}",
                locks[id.index()]
            );
            ensure!(node.has_slots || node.locks == 0 || have_gaps, "{id:?} is in a window and has no slots");
            let is_listed = windows.unused.contains(&(node.last_use, id));
            ensure!(
                is_listed == (node.has_slots && node.locks == 0),
                "{id:?} is listed and in use, or neither"
            );
            listed += usize::from(is_listed);
            let size = if node.locks > 0 { &mut protected } else { &mut evictable };
            *size += if node.has_slots { u64::from(self.tokens(id)) } else { 0 };
        }
        let counted = (windows.evictable_tokens, windows.protected_tokens);
        ensure!(
            (evictable, protected) == counted,
            "{evictable} and {protected} slots, but {counted:?} are counted"
        );
        ensure!(listed == windows.unused.len(), "{} nodes are listed, of {listed}", windows.unused.len());
        Ok(())
    }
}
