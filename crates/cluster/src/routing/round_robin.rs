//! The policy `round_robin`.

use servecast_types::WorkerId;

use super::{Candidate, Pick, RoutedRequest};

/// Workers in turn; among some of them, those in turn.
#[derive(Debug, Default)]
pub(crate) struct RoundRobin {
    workers: usize,
    /// Whose turn it is among all workers.
    next: usize,
    /// Who had the last turn.
    last: Option<WorkerId>,
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
            self.among.push((workers().collect(), behind(self.last, candidates)));
            self.among.len() - 1
        });
        &mut self.among[position].1
    }
}

/// The position of the first candidate behind a worker.
fn behind(worker: Option<WorkerId>, candidates: &[Candidate]) -> usize {
    candidates.partition_point(|candidate| Some(candidate.worker) <= worker)
}

impl Pick for RoundRobin {
    fn pick(&mut self, _: &RoutedRequest<'_>, candidates: &[Candidate]) -> usize {
        let next = self.turn(candidates);
        let index = *next % candidates.len();
        *next = index + 1;
        self.last = Some(candidates[index].worker);
        index
    }

    /// The turn continues behind the worker that had the last one.
    fn workers_changed(&mut self, workers: &[Candidate]) {
        self.workers = workers.len();
        self.next = behind(self.last, workers);
        self.among.clear();
    }

    fn reads_workers(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use servecast_types::Prompt;

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
    fn the_turn_goes_on_behind_the_last_worker_when_others_serve() {
        let of = |workers: &[u32]| {
            workers.iter().map(|&worker| Candidate::new(WorkerId(worker), 100)).collect::<Vec<_>>()
        };
        let mut policy = RoundRobin::default();
        let mut picks = Vec::new();
        for (workers, times) in
            [(&[0, 1, 2, 3][..], 2), (&[0, 2, 3], 2), (&[], 0), (&[0, 4], 3), (&[0, 2, 4], 4)]
        {
            let candidates = of(workers);
            policy.workers_changed(&candidates);
            let mut pick =
                || candidates[policy.pick(&RoutedRequest::of(&Prompt::default()), &candidates)].worker.0;
            picks.extend((0..times).map(|_| pick()));
        }
        assert_eq!(picks, [0, 1, 2, 3, 4, 0, 4, 0, 2, 4, 0]);
    }

    #[test]
    fn some_of_the_workers_have_turns_of_their_own() {
        let all = candidates(&[0; 4]);
        let mut policy = RoundRobin::default();
        policy.workers_changed(&all);
        let mut pick = |candidates: &[Candidate]| {
            candidates[policy.pick(&RoutedRequest::of(&Prompt::default()), candidates)].worker.0
        };
        let picks: Vec<[u32; 2]> = (0..4).map(|_| [pick(&all), pick(&all[2..])]).collect();
        assert_eq!(picks, [[0, 2], [1, 3], [2, 2], [3, 3]]);
    }
}
