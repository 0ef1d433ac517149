//! The contents of an index as plain data.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::nodes::ROOT;
use super::tree::RadixTree;
use crate::rank::Slot;
use crate::{EventError, Rank};

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
    let mut queue: VecDeque<_> = tree.children(ROOT).into();
    while let Some(id) = queue.pop_front() {
        let node = tree.node(id);
        let mut holders: Vec<(Rank, Slot)> = Vec::with_capacity(node.ranks.len());
        node.ranks.for_each(|slot| holders.extend(rank_of(slot).map(|rank| (rank, slot))));
        holders.sort_unstable();
        for (rank, slot) in holders {
            let parent = match node.parent {
                ROOT => None,
                parent => tree.names(slot, parent).first().map(|&(name, _)| name),
            };
            blocks.extend(tree.names(slot, id).iter().map(|&(external, copies)| DumpedBlock {
                rank,
                parent,
                local: node.local,
                external,
                copies,
            }));
        }
        queue.extend(tree.children(id));
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
