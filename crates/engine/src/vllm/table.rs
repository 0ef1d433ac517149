use std::ops::{Index, IndexMut};

use servecast_types::RequestId;

use super::request::{Request, Slot};

/// The requests of a scheduler by slot; the slot of a removed request is reused.
#[derive(Debug, Default)]
pub(crate) struct RequestTable {
    slots: Vec<Option<Request>>,
    vacant: Vec<Slot>,
}

impl RequestTable {
    pub(crate) fn insert(&mut self, request: Request) -> Slot {
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(None);
            Slot(self.slots.len() as u32 - 1)
        });
        self.slots[slot.0 as usize] = Some(request);
        slot
    }

    pub(crate) fn remove(&mut self, slot: Slot) {
        let removed = self.slots[slot.0 as usize].take();
        debug_assert!(
            removed.is_some_and(|request| request.blocks.is_empty()),
            "slot {slot:?} held no blocks"
        );
        self.vacant.push(slot);
    }

    /// The request at `slot`, unless that was removed.
    pub(crate) fn get(&self, slot: Slot) -> Option<&Request> {
        self.slots[slot.0 as usize].as_ref()
    }

    /// Whether the slot still has the request that had it when `id` was noted.
    pub(crate) fn holds(&self, slot: Slot, id: RequestId) -> bool {
        self.get(slot).is_some_and(|request| request.id == id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Request> {
        self.slots.iter().flatten()
    }
}

impl Index<Slot> for RequestTable {
    type Output = Request;

    fn index(&self, slot: Slot) -> &Request {
        self.get(slot).expect("a slot in a queue is occupied")
    }
}

impl IndexMut<Slot> for RequestTable {
    fn index_mut(&mut self, slot: Slot) -> &mut Request {
        self.slots[slot.0 as usize].as_mut().expect("a slot in a queue is occupied")
    }
}

#[cfg(test)]
mod tests {
    use servecast_types::{Prompt, Run, Time};

    use super::*;
    use crate::EngineRequest;

    #[test]
    fn a_slot_is_reused_and_its_former_request_is_not_taken_for_the_new_one() {
        let request = |id| {
            let prompt = Prompt::new([Run::tokens(0, 1)]);
            Request::new(EngineRequest::new(RequestId(id), prompt, 1, Time::ZERO), 4)
        };
        let mut table = RequestTable::default();
        let (first, second) = (table.insert(request(10)), table.insert(request(11)));
        assert_ne!(first, second);
        table.remove(first);
        assert!(!table.holds(first, RequestId(10)) && table.get(first).is_none());
        assert_eq!(table.insert(request(12)), first);
        assert!(!table.holds(first, RequestId(10)) && table.holds(first, RequestId(12)));
        assert_eq!(table[first].id, RequestId(12));
        assert_eq!(table.iter().map(|request| request.id.0).collect::<Vec<_>>(), [12, 11]);
    }
}
