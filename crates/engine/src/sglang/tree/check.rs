//! Whether all that a tree counts and lists is so.

use servecast_types::ensure;

use super::{NodeId, RadixTree};

impl RadixTree {
    /// Checks that sizes, locks and the list of leaves agree with the tree, and that `locked` are all locks.
    pub(in crate::sglang) fn check(&self, locked: impl Iterator<Item = NodeId>) -> Result<u64, String> {
        let mut looked_at = self.nodes.len() as u64;
        let mut locks = vec![0_u32; self.nodes.len()];
        for mut node in locked {
            while node != NodeId::ROOT {
                locks[node.index()] += 1;
                looked_at += 1;
                node = self.parent(node);
            }
        }
        let (mut evictable, mut protected, mut leaves, mut host_leaves) = (0, 0, 0, 0);
        let mut children = vec![0_u32; self.nodes.len()];
        let mut on_device = vec![0_u32; self.nodes.len()];
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
            ensure!(node.device || node.host, "{id:?} is neither on the device nor on the host");
            ensure!(
                !node.device || self.nodes[parent.index()].device,
                "{id:?} is on the device, but what is above it is not"
            );
            if node.device {
                on_device[parent.index()] += 1;
                let size = if node.locks > 0 { &mut protected } else { &mut evictable };
                *size += u64::from(node.tokens);
            }
            let listed_on_host = self.host_leaves.contains(&(node.last_use, id));
            ensure!(
                listed_on_host == self.is_host_leaf(id),
                "{id:?} is listed on the host and no leaf there, or neither"
            );
            host_leaves += usize::from(listed_on_host);
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
        let listed = self.host_leaves.len();
        ensure!(host_leaves == listed, "{listed} leaves are listed on the host, of {host_leaves}");
        let counted = self.children.values().chain([&NodeId::ROOT]);
        for id in counted {
            let (counted, found) = (self.nodes[id.index()].children, children[id.index()]);
            ensure!(counted == found, "{id:?} counts {counted} children, but has {found}");
            let (counted, found) = (self.nodes[id.index()].on_device, on_device[id.index()]);
            ensure!(counted == found, "{id:?} counts {counted} children on the device, but has {found}");
        }
        Ok(looked_at)
    }
}
