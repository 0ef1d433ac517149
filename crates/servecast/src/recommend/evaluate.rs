//! Has deployments simulated, as many at a time as there are cores, or by somebody else.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use servecast_recommend::{Candidate, Evaluate, Headroom, Held, Outcome, find_headrooms};

use super::journal::Journal;
use super::{Prepared, Trial, Watch};

/// How often whoever waits may look up.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Whoever simulates runs: threads, or other processes.
pub trait Executor {
    /// Simulates all trials, side by side, and tells `ended` what came of each as soon as that is known, by its place.
    ///
    /// Those of which nothing is told were stopped.
    fn run(&self, prepared: &Prepared, trials: &[Trial], ended: &mut dyn FnMut(usize, Outcome));
}

/// Threads of this process.
pub struct Threads<'a> {
    /// How many.
    pub threads: usize,
    /// Who waits for them.
    pub watch: &'a dyn Watch,
}

impl Executor for Threads<'_> {
    fn run(&self, prepared: &Prepared, trials: &[Trial], ended: &mut dyn FnMut(usize, Outcome)) {
        let next = AtomicUsize::new(0);
        let (send, receive) = mpsc::channel();
        let is_stopped = || self.watch.is_stopped();
        let work = |send: mpsc::Sender<(usize, Outcome)>| {
            while let Some((place, trial)) = {
                let place = next.fetch_add(1, Ordering::Relaxed);
                trials.get(place).map(|trial| (place, trial)).filter(|_| !is_stopped())
            } {
                if send.send((place, prepared.simulator().simulate(trial, &is_stopped))).is_err() {
                    return;
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.threads.min(trials.len()) {
                let (send, work) = (send.clone(), &work);
                scope.spawn(move || work(send));
            }
            drop(send);
            loop {
                match receive.recv_timeout(LOOK_EVERY) {
                    Ok((place, outcome)) => ended(place, outcome),
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => return,
                }
                self.watch.look();
            }
        });
    }
}

/// Tries deployments under one load.
pub(super) struct Runner<'a> {
    pub(super) prepared: &'a Prepared,
    pub(super) executor: &'a dyn Executor,
    pub(super) journal: &'a Journal,
    pub(super) watch: &'a dyn Watch,
    /// Of the load.
    pub(super) factor: f64,
    /// Iteration times are multiplied by this.
    pub(super) slowdown: f64,
    /// Whether runs go on when a target is lost.
    pub(super) to_the_end: bool,
}

impl Evaluate for Runner<'_> {
    fn all(&self, candidates: &[&Candidate]) -> Vec<Outcome> {
        let trials: Vec<Trial> =
            candidates.iter().map(|candidate| self.trial(candidate, self.factor)).collect();
        let outcomes = self.outcomes(&trials);
        let is_kept = |outcome: &&Outcome| matches!(outcome, Outcome::Ran(figures) if figures.is_met());
        if let Some(first) = outcomes.iter().position(|outcome| is_kept(&outcome)) {
            self.watch.found(outcomes.iter().filter(is_kept).count(), &candidates[first].name);
        }
        outcomes
    }
}

impl Runner<'_> {
    /// How much more load each of some deployments takes.
    pub(super) fn headrooms(&self, candidates: &[&Candidate]) -> Vec<Option<Headroom>> {
        find_headrooms(candidates.len(), |asked| {
            let trial = |&(index, factor): &(usize, f64)| self.trial(candidates[index], self.factor * factor);
            let trials: Vec<Trial> = asked.iter().map(trial).collect();
            let held = |outcome| match outcome {
                Outcome::Ran(figures) => Some(Held::of(&figures)),
                Outcome::CutOff { .. } => Some(Held::lost()),
                Outcome::Refused(_) | Outcome::Stopped => None,
            };
            self.outcomes(&trials).into_iter().map(held).collect()
        })
    }

    fn trial(&self, candidate: &Candidate, factor: f64) -> Trial {
        let Self { slowdown, to_the_end, .. } = *self;
        Trial { settings: candidate.settings.clone(), factor, slowdown, to_the_end }
    }

    /// What comes of each trial: what the journal knows, and what is simulated now.
    fn outcomes(&self, trials: &[Trial]) -> Vec<Outcome> {
        let mut outcomes = vec![Outcome::Stopped; trials.len()];
        if self.watch.is_stopped() {
            return outcomes;
        }
        let mut left = Vec::new();
        for (place, trial) in trials.iter().enumerate() {
            match self.journal.get(&trial.key()) {
                Some(known) => {
                    outcomes[place] = known;
                    self.watch.ran();
                }
                None => left.push(place),
            }
        }
        let asked: Vec<Trial> = left.iter().map(|&place| trials[place].clone()).collect();
        if asked.is_empty() {
            return outcomes;
        }
        self.executor.run(self.prepared, &asked, &mut |position, outcome| {
            if outcome == Outcome::Stopped {
                return;
            }
            self.journal.add(&asked[position].key(), &outcome);
            self.watch.ran();
            outcomes[left[position]] = outcome;
        });
        outcomes
    }
}
