//! Names of requests and the numbers under which routers know them.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use servecast_types::{RequestId, Role};

use super::PhaseId;

/// Requests that wait or are booked.
#[derive(Debug, Clone, Default)]
pub(super) struct Bookings {
    /// Number of each, by phase.
    numbers: [FxHashMap<Arc<str>, RequestId>; Role::ALL.len()],
    names: FxHashMap<RequestId, PhaseId>,
    next: u32,
}

impl Bookings {
    pub(super) fn number(&self, id: &str, phase: Role) -> Option<RequestId> {
        self.numbers[phase as usize].get(id).copied()
    }

    /// A number that is free until something is inserted.
    pub(super) fn next_number(&self) -> RequestId {
        let mut next = RequestId(self.next);
        // Only a request that is older than four billion others is in the way.
        while self.names.contains_key(&next) {
            next = RequestId(next.0.wrapping_add(1));
        }
        next
    }

    /// Takes note of a request under the number that it was given.
    pub(super) fn insert(&mut self, number: RequestId, id: &str, phase: Role) {
        let id: Arc<str> = id.into();
        self.numbers[phase as usize].insert(Arc::clone(&id), number);
        self.names.insert(number, PhaseId { id, phase });
        self.next = number.0.wrapping_add(1);
    }

    /// The name of a request that was inserted.
    pub(super) fn name(&self, number: RequestId) -> PhaseId {
        let name = self.names.get(&number);
        debug_assert!(name.is_some(), "request {number} was named when it came in");
        name.cloned().unwrap_or_else(|| PhaseId { id: number.to_string().into(), phase: Role::Aggregated })
    }

    pub(super) fn remove(&mut self, id: &str, phase: Role) -> Option<RequestId> {
        let number = self.numbers[phase as usize].remove(id)?;
        self.names.remove(&number);
        Some(number)
    }

    pub(super) fn remove_number(&mut self, number: RequestId) -> Option<PhaseId> {
        let name = self.names.remove(&number)?;
        self.numbers[name.phase as usize].remove(&name.id);
        Some(name)
    }

    /// All names, sorted.
    pub(super) fn sorted(&self) -> Vec<(&PhaseId, RequestId)> {
        let mut all: Vec<_> = self.names.iter().map(|(&number, name)| (name, number)).collect();
        all.sort_unstable();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_use_are_passed_over_after_all_others_were_used() {
        let mut bookings = Bookings { next: u32::MAX, ..Bookings::default() };
        for (id, expected) in [("a", u32::MAX), ("b", 0), ("c", 1)] {
            let number = bookings.next_number();
            assert_eq!(number, RequestId(expected));
            bookings.insert(number, id, Role::Decode);
        }
        bookings.next = u32::MAX;
        assert_eq!(bookings.next_number(), RequestId(2));
        assert_eq!(bookings.remove("b", Role::Decode), Some(RequestId(0)));
        assert_eq!(bookings.next_number(), RequestId(0));
        assert_eq!(bookings.remove("c", Role::Prefill), None);
        assert_eq!(bookings.remove_number(RequestId(1)).unwrap().id.as_ref(), "c");
        assert_eq!(bookings.number("c", Role::Decode), None);
        assert_eq!(bookings.sorted().len(), 1);
    }
}
