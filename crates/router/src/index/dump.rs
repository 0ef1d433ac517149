//! The contents of an index as plain data.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use servecast_types::Rank;

use super::nodes::{NodeId, ROOT};
use super::tree::RadixTree;
use crate::EventError;
use crate::rank::Slot;

/// Everything that an index knows, in an order in which it can be stored again: parents first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexDump {
    /// Blocks that can be hit.
    pub blocks: Vec<DumpedBlock>,
    /// Blocks that ranks have not removed, but that cannot be hit since a block before them is gone.
    pub orphans: Vec<DumpedOrphan>,
}

/// One block of one rank, under one of the rank's names for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DumpedBlock {
    /// Who holds it.
    pub rank: Rank,
    /// The rank's name of the block before it; none at the start of a chain.
    pub parent: Option<u64>,
    /// What is in it.
    pub local: u64,
    /// The rank's name for it.
    pub external: u64,
    /// How many copies the rank holds under this name.
    pub copies: u32,
}

/// A block that a rank holds and that cannot be hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DumpedOrphan {
    /// Who holds it.
    pub rank: Rank,
    /// The rank's name for it.
    pub external: u64,
    /// How many copies.
    pub copies: u32,
}

/// Writes down a tree, breadth first; `rank_of` names the rank of a slot.
pub(crate) fn dump(tree: &RadixTree, mut rank_of: impl FnMut(Slot) -> Option<Rank>) -> IndexDump {
    let mut blocks = Vec::new();
    let first_blocks = |node: NodeId| tree.children(node).into_iter().map(|child| (child, 0));
    let mut queue: VecDeque<_> = first_blocks(ROOT).collect();
    while let Some((id, place)) = queue.pop_front() {
        let node = tree.node(id);
        let mut holders: Vec<(Rank, Slot)> = Vec::with_capacity(node.holders.ranks().len());
        node.holders.for_each(node.len, |slot, depth| {
            holders.extend(rank_of(slot).filter(|_| depth > place).map(|rank| (rank, slot)));
        });
        holders.sort_unstable();
        let before = match (place.checked_sub(1), node.parent) {
            (Some(place), _) => Some((id, place)),
            (None, ROOT) => None,
            (None, parent) => Some((parent, tree.node(parent).len - 1)),
        };
        for (rank, slot) in holders {
            let parent = before.and_then(|(node, place)| Some(tree.names(slot, node, place).first()?.0));
            blocks.extend(tree.names(slot, id, place).iter().map(|&(external, copies)| DumpedBlock {
                rank,
                parent,
                local: node.local.wrapping_add(place.into()),
                external,
                copies,
            }));
        }
        if place + 1 < node.len {
            queue.push_back((id, place + 1));
        } else {
            queue.extend(first_blocks(id));
        }
    }
    let mut orphans: Vec<_> = tree
        .orphans()
        .into_iter()
        .filter_map(|(slot, external, copies)| Some(DumpedOrphan { rank: rank_of(slot)?, external, copies }))
        .collect();
    orphans.sort_unstable_by_key(|orphan| (orphan.rank, orphan.external));
    IndexDump { blocks, orphans }
}

/// Fills an empty tree; `slot_of` is the slot of a rank.
pub(crate) fn restore(
    tree: &mut RadixTree,
    dump: &IndexDump,
    slot_of: impl Fn(Rank) -> Option<Slot>,
) -> Result<(), EventError> {
    let slot = |rank| slot_of(rank).ok_or(EventError::UnknownRank { rank });
    for block in &dump.blocks {
        let slot = slot(block.rank)?;
        for _ in 0..block.copies {
            tree.store(slot, block.parent, [(block.local, block.external)])?;
        }
    }
    for orphan in &dump.orphans {
        tree.add_orphan(slot(orphan.rank)?, orphan.external, orphan.copies);
    }
    Ok(())
}
