//! The sessions of a workload that have not started.

use servecast_workload::{Session, Turn};

/// Sessions in the order in which they start. Their memory is given back while they do, since records take its place.
#[derive(Debug)]
pub(super) struct ToStart {
    /// The next one is last.
    sessions: Vec<Session>,
    /// Their numbers in the workload.
    numbers: Vec<u32>,
}

impl ToStart {
    /// The sessions of a workload, which start in this order.
    pub(super) fn new(mut sessions: Vec<Session>, order: &[usize]) -> Self {
        let numbers = order.iter().rev().map(|&session| session as u32).collect();
        if order.is_sorted() {
            sessions.reverse();
        } else {
            let in_order = order.iter().rev().map(|&session| std::mem::take(&mut sessions[session]));
            sessions = in_order.collect();
        }
        Self { sessions, numbers }
    }

    /// The first turn of the next session.
    pub(super) fn first_turn(&self) -> Option<&Turn> {
        self.sessions.last()?.turns.first()
    }

    /// The next session and its number.
    pub(super) fn pop(&mut self) -> Option<(u32, Session)> {
        let session = self.sessions.pop()?;
        if self.sessions.len() <= self.sessions.capacity() / 2 {
            self.sessions.shrink_to_fit();
        }
        Some((self.numbers.pop()?, session))
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

    #[test]
    fn the_memory_of_sessions_that_have_started_is_given_back() {
        let mut to_start = ToStart::new(vec![Session::default(); 1000], &Vec::from_iter(0..1000));
        while let Some(_) = to_start.pop() {
            assert!(to_start.sessions.capacity() <= 2 * to_start.sessions.len() + 1);
        }
    }
}
