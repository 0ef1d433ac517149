use servecast_types::Prompt;

use super::{Candidate, Pick};

/// Workers in turn.
#[derive(Debug, Default)]
pub(crate) struct RoundRobin {
    next: usize,
}

impl Pick for RoundRobin {
    fn pick(&mut self, _: &Prompt, candidates: &[Candidate]) -> usize {
        let index = self.next % candidates.len();
        self.next = index + 1;
        index
    }

    fn reads_workers(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::tests::pick;

    #[test]
    fn workers_come_in_turn_whatever_they_have_to_do() {
        let mut policy = RoundRobin::default();
        let picks: Vec<u32> = (0..5).map(|_| pick(&mut policy, &[9, 0, 0])).collect();
        assert_eq!(picks, [0, 1, 2, 0, 1]);
    }
}
