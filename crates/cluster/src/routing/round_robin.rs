use servecast_types::{Prompt, WorkerId};

use super::{Candidate, Pick};

/// Workers in turn; among some of them, those in turn.
#[derive(Debug, Default)]
pub(crate) struct RoundRobin {
    workers: usize,
    /// Whose turn it is among all workers.
    next: usize,
    /// Whose turn it is where only some are candidates.
    among: Vec<(Vec<WorkerId>, usize)>,
}

impl RoundRobin {
    fn turn(&mut self, candidates: &[Candidate]) -> &mut usize {
        if candidates.len() == self.workers {
            return &mut self.next;
        }
        let workers = || candidates.iter().map(|candidate| candidate.worker);
        let known = self.among.iter().position(|(some, _)| some.iter().copied().eq(workers()));
        let position = known.unwrap_or_else(|| {
            self.among.push((workers().collect(), 0));
            self.among.len() - 1
        });
        &mut self.among[position].1
    }
}

impl Pick for RoundRobin {
    fn pick(&mut self, _: &Prompt, candidates: &[Candidate]) -> usize {
        let next = self.turn(candidates);
        let index = *next % candidates.len();
        *next = index + 1;
        index
    }

    fn workers_changed(&mut self, workers: &[Candidate]) {
        self.workers = workers.len();
        self.among.clear();
    }

    fn reads_workers(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::tests::{candidates, pick};

    #[test]
    fn workers_come_in_turn_whatever_they_have_to_do() {
        let mut policy = RoundRobin::default();
        policy.workers_changed(&candidates(&[0; 3]));
        let picks: Vec<u32> = (0..5).map(|_| pick(&mut policy, &[9, 0, 0])).collect();
        assert_eq!(picks, [0, 1, 2, 0, 1]);
    }

    #[test]
    fn some_of_the_workers_have_turns_of_their_own() {
        let all = candidates(&[0; 4]);
        let mut policy = RoundRobin::default();
        policy.workers_changed(&all);
        let mut pick =
            |candidates: &[Candidate]| candidates[policy.pick(&Prompt::default(), candidates)].worker.0;
        let picks: Vec<[u32; 2]> = (0..4).map(|_| [pick(&all), pick(&all[2..])]).collect();
        assert_eq!(picks, [[0, 2], [1, 3], [2, 2], [3, 3]]);
    }
}
