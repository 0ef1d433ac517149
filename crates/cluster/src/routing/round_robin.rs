use servecast_types::WorkerId;

/// Workers in turn.
#[derive(Debug, Default)]
pub(crate) struct RoundRobin {
    next: usize,
}

impl RoundRobin {
    pub(super) fn pick(&mut self, in_flight: &[u32]) -> WorkerId {
        let worker = self.next % in_flight.len();
        self.next = worker + 1;
        WorkerId(worker as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_come_in_turn_whatever_they_have_to_do() {
        let mut policy = RoundRobin::default();
        let picks: Vec<u32> = (0..5).map(|_| policy.pick(&[9, 0, 0]).0).collect();
        assert_eq!(picks, [0, 1, 2, 0, 1]);
    }
}
