//! Where a scheduler keeps its requests: in slots that are used again, so that a request is found without hashing.

use std::ops::{Index, IndexMut};

/// Position of a request in the table of a scheduler; reused once the request is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Slot(pub(crate) u32);

/// The requests of a scheduler by slot; the slot of a removed request is reused.
#[derive(Debug)]
pub(crate) struct RequestTable<R> {
    slots: Vec<Option<R>>,
    vacant: Vec<Slot>,
}

impl<R> Default for RequestTable<R> {
    fn default() -> Self {
        Self { slots: Vec::new(), vacant: Vec::new() }
    }
}

impl<R> RequestTable<R> {
    pub(crate) fn insert(&mut self, request: R) -> Slot {
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(None);
            Slot(self.slots.len() as u32 - 1)
        });
        self.slots[slot.0 as usize] = Some(request);
        slot
    }

    pub(crate) fn remove(&mut self, slot: Slot) -> R {
        self.vacant.push(slot);
        self.slots[slot.0 as usize].take().expect("only a request that is there is removed")
    }

    /// The request at `slot`, unless that was removed.
    pub(crate) fn get(&self, slot: Slot) -> Option<&R> {
        self.slots[slot.0 as usize].as_ref()
    }

    /// Where a request is that meets a condition.
    pub(crate) fn find(&self, is_it: impl Fn(&R) -> bool) -> Option<Slot> {
        let position = self.slots.iter().position(|slot| slot.as_ref().is_some_and(&is_it))?;
        Some(Slot(position as u32))
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.vacant.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &R> + Clone {
        self.slots.iter().flatten()
    }
}

impl<R> Index<Slot> for RequestTable<R> {
    type Output = R;

    fn index(&self, slot: Slot) -> &R {
        self.get(slot).expect("a slot in a queue is occupied")
    }
}

impl<R> IndexMut<Slot> for RequestTable<R> {
    fn index_mut(&mut self, slot: Slot) -> &mut R {
        self.slots[slot.0 as usize].as_mut().expect("a slot in a queue is occupied")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_reused_and_its_former_request_is_gone() {
        let mut table = RequestTable::default();
        let (first, second) = (table.insert(10), table.insert(11));
        assert_ne!(first, second);
        assert_eq!(table.remove(first), 10);
        assert_eq!(table.get(first), None);
        assert_eq!(table.insert(12), first);
        assert_eq!(table[first], 12);
        assert_eq!(table.iter().copied().collect::<Vec<_>>(), [12, 11]);
    }
}
