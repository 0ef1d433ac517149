//! The blocks of a request in each group.

use servecast_types::BlockId;

use super::pool::NULL;
use crate::sequence::Sequence;

/// The blocks of a request in a group, by place in its sequence; the null block where it holds none.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) blocks: Vec<BlockId>,
    /// How many of them were stored, or left out of what is stored on purpose; `None` before the request has any.
    pub(super) stored: Option<u32>,
    /// How many of them were there before the iteration that is decided.
    pub(super) before: usize,
    /// States: how many of them, from the first on, were looked through for some to free.
    pub(super) retired: u32,
    /// States: whether it has one of its own, and those of drafts behind it.
    pub(super) has_states: bool,
    /// States: the one that the running state was copied from.
    pub(super) last_state: Option<u32>,
}

impl Table {
    pub(super) fn len(&self) -> u32 {
        self.blocks.len() as u32
    }

    /// Puts the null block into a place, and returns what was there.
    pub(super) fn clear(&mut self, place: u32) -> BlockId {
        std::mem::replace(&mut self.blocks[place as usize], NULL)
    }
}

/// The blocks of a request, and what goes with them.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    pub(super) groups: Vec<Table>,
    /// Whether it has not been scheduled since it got them.
    pub(super) is_new: bool,
    /// Tokens that it was seen to have in common with others up to there, of which a group had nothing that could be hit.
    pub(super) junction: u32,
    /// Tokens of iterations in flight.
    pub(super) in_flight: u32,
    /// Its content in blocks that a router knows, where those are not what contents are told apart by.
    pub(super) named: Option<Box<Sequence>>,
}

impl Tables {
    /// The blocks of a group by place, the null block where there is none; and whether all of them are new to it.
    pub(crate) fn blocks_of(&self, group: usize) -> (&[BlockId], bool) {
        let table = &self.groups[group];
        (&table.blocks, table.before == 0)
    }

    /// Tokens that it was seen to share with others, of which a group had nothing that could be hit; or 0.
    pub(crate) fn junction(&self) -> u32 {
        self.junction
    }

    /// Tokens of iterations in flight.
    pub(crate) fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// All blocks that it holds, the null block among them.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = BlockId> {
        self.groups.iter().flat_map(|table| table.blocks.iter().copied())
    }

    /// Those that are new to it in the iteration that was decided last, or all of them if it has just got them.
    pub(crate) fn new_blocks(&self) -> impl Iterator<Item = BlockId> {
        self.groups
            .iter()
            .flat_map(|table| table.blocks[table.before.min(table.blocks.len())..].iter().copied())
    }
}
