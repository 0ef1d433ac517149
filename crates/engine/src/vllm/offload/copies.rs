//! Copies between GPU and host: one at a time each way, in the order in which they are submitted.

use std::collections::BTreeSet;

use servecast_types::Time;

use crate::offload_args::KvOffloading;

/// A copy that is to be submitted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Handed {
    pub(super) job: u64,
    pub(super) blocks: u64,
}

/// The link between GPU and host.
#[derive(Debug)]
pub(super) struct Copies {
    spec: KvOffloading,
    /// Stores that the next pass submits, and those that the pass behind it does.
    pub(super) unsubmitted: Vec<Handed>,
    pub(super) later: Vec<Handed>,
    /// Loads of the decided pass, and those of them for which it waits.
    pub(super) loads: Vec<Handed>,
    pub(super) sync_loads: Vec<Handed>,
    /// Copies under way: when they end, their number, whether they load.
    flying: BTreeSet<(Time, u64, bool)>,
    /// From when on the link can be used from GPU to host, and from host to GPU.
    free: [Time; 2],
}

impl Copies {
    pub(super) fn new(spec: KvOffloading) -> Self {
        Self {
            spec,
            unsubmitted: Vec::new(),
            later: Vec::new(),
            loads: Vec::new(),
            sync_loads: Vec::new(),
            flying: BTreeSet::new(),
            free: [Time::ZERO; 2],
        }
    }

    /// Starts a copy at `at`, or when those before it are done; returns when it ends.
    fn submit(&mut self, copy: Handed, loads: bool, at: Time) -> Time {
        let free = &mut self.free[usize::from(loads)];
        let end = at.max(*free) + self.spec.copy_time(copy.blocks, loads);
        *free = end;
        self.flying.insert((end, copy.job, loads));
        end
    }

    /// Starts the stores that the pass before handed over, and of those of this pass the ones that it waits for.
    pub(super) fn submit_stores(&mut self, at: Time, flushed: &[u64]) {
        let (now, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.later).into_iter().partition(|copy| flushed.contains(&copy.job));
        for copy in std::mem::replace(&mut self.unsubmitted, later).into_iter().chain(now) {
            self.submit(copy, false, at);
        }
    }

    /// Starts the stores of this pass.
    pub(super) fn submit_later(&mut self, at: Time) {
        for copy in std::mem::take(&mut self.later) {
            self.submit(copy, false, at);
        }
    }

    /// Starts the loads for which a pass waits from `at` on; returns until when.
    pub(super) fn submit_sync_loads(&mut self, at: Time) -> Time {
        std::mem::take(&mut self.sync_loads)
            .into_iter()
            .fold(at, |at, copy| at.max(self.submit(copy, true, at)))
    }

    /// Starts the other loads of this pass.
    pub(super) fn submit_loads(&mut self, at: Time) {
        for copy in std::mem::take(&mut self.loads) {
            self.submit(copy, true, at);
        }
    }

    /// When the store of that number ends, if it is under way.
    pub(super) fn end_of_store(&self, job: u64) -> Option<Time> {
        self.flying.iter().find(|&&(_, other, loads)| other == job && !loads).map(|&(end, ..)| end)
    }

    /// When the last copy under way ends.
    pub(super) fn last_end(&self) -> Option<Time> {
        self.flying.last().map(|&(end, ..)| end)
    }

    /// Takes the copies away that have ended by then, in order.
    pub(super) fn take_ended(&mut self, by: Time, done: &mut Vec<(u64, bool)>) {
        while let Some(&(end, job, loads)) = self.flying.first()
            && end <= by
        {
            self.flying.pop_first();
            done.push((job, loads));
        }
    }

    /// Whether a pass would submit a copy, or notice the end of one.
    pub(super) fn has_news(&self, now: Time) -> bool {
        !self.unsubmitted.is_empty() || self.flying.first().is_some_and(|&(end, ..)| end <= now)
    }

    /// The next end of a copy.
    pub(super) fn next_end(&self) -> Option<Time> {
        self.flying.first().map(|&(end, ..)| end)
    }
}
