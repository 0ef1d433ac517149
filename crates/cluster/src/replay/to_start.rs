//! The sessions of a workload that have not started.

use servecast_workload::{FreeingIter, Session, Turn};

/// Sessions in the order in which they start. Their memory is given back while they do, since records take its place.
#[derive(Debug)]
pub(super) struct ToStart {
    sessions: FreeingIter<Session>,
    /// Their numbers in the workload.
    numbers: FreeingIter<u32>,
}

impl ToStart {
    /// The sessions of a workload, which start in this order.
    pub(super) fn new(mut sessions: Vec<Session>, order: &[usize]) -> Self {
        let numbers = order.iter().map(|&session| session as u32).collect();
        if !order.is_sorted() {
            sessions = order.iter().map(|&session| std::mem::take(&mut sessions[session])).collect();
        }
        Self { sessions: FreeingIter::new(sessions), numbers: FreeingIter::new(numbers) }
    }

    /// The first turn of the next session.
    pub(super) fn first_turn(&self) -> Option<&Turn> {
        self.sessions.peek()?.turns.first()
    }

    /// The next session and its number.
    pub(super) fn pop(&mut self) -> Option<(u32, Session)> {
        self.numbers.next().zip(self.sessions.next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_start_in_the_order_that_is_asked_for_and_keep_their_numbers() {
        let named = |name: &str| Session { name: Some(name.into()), ..Session::default() };
        let sessions = || ["a", "b", "c", "d"].map(named).to_vec();
        for order in [[0, 1, 2, 3], [2, 0, 3, 1]] {
            let mut to_start = ToStart::new(sessions(), &order);
            let expected = order.map(|number| (number as u32, sessions()[number].clone()));
            assert_eq!(std::iter::from_fn(|| to_start.pop()).collect::<Vec<_>>(), expected);
        }
    }
}
