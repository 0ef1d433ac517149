//! What kept workers from admitting requests, over time, as far as records say.
//!
//! A worker is in one state between two events of its requests. A wait is cut by these states in the time of two binary
//! searches, so that a run of a million requests takes about as long as sorting its events.

use servecast_record::{PoolRecord, RequestRecord, RunRecord, StageRecord};
use servecast_types::Time;

/// What keeps a worker from admitting another request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hindrance {
    /// As many requests run as may.
    Seats,
    /// It computes prompts of others.
    Prompts,
    /// It holds KV that is on its way to a decode worker.
    Link,
    /// None of these: the pass has to end, or there is no room for KV.
    Room,
}

const HINDRANCES: usize = 4;

/// How long what hindered, in ns, and for how long of it another worker of the pool would have admitted at once.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Wait {
    by: [f64; HINDRANCES],
    pub(super) avoidable: f64,
}

impl Wait {
    pub(super) fn of(&self, what: Hindrance) -> f64 {
        self.by[what as usize]
    }
}

/// The workers of a pool.
#[derive(Debug)]
pub(super) struct PoolStates {
    workers: Vec<Course>,
    /// When some worker had nothing to wait for.
    spare: Sums<1>,
}

#[derive(Debug, Default)]
struct Course {
    hindrance: Sums<HINDRANCES>,
    /// When it computed prompts, seats or not.
    prompts: Sums<1>,
    own: Shares,
}

/// How much of its time a worker had for each of the prompts that it computed, if they had equal parts.
#[derive(Debug, Default)]
struct Shares {
    /// When that changed, the part of each from then on, and what each had until then, in ns.
    changes: Vec<(u64, f64, f64)>,
}

impl Shares {
    fn change(&mut self, at: u64, prompts: u32) {
        let part = if prompts == 0 { 0.0 } else { 1.0 / f64::from(prompts) };
        let last = self.changes.last();
        if last.is_none_or(|&(_, known, _)| known.to_bits() != part.to_bits()) {
            let sum = last.map_or(0.0, |last| Self::after(last, at));
            self.changes.push((at, part, sum));
        }
    }

    fn after(&(from, part, sum): &(u64, f64, f64), at: u64) -> f64 {
        sum + (at - from) as f64 * part
    }

    fn until(&self, at: u64) -> f64 {
        let after = self.changes.partition_point(|&(from, ..)| from <= at);
        after.checked_sub(1).map_or(0.0, |last| Self::after(&self.changes[last], at))
    }
}

/// For how long something was in each of `N` states; it may be in none.
#[derive(Debug)]
struct Sums<const N: usize> {
    /// When a state began, the state, and the sums until then.
    changes: Vec<(u64, Option<u8>, [u64; N])>,
}

impl<const N: usize> Default for Sums<N> {
    fn default() -> Self {
        Self { changes: Vec::new() }
    }
}

impl<const N: usize> Sums<N> {
    /// The state from `at` on, which is not before any other change.
    fn change(&mut self, at: u64, state: Option<u8>) {
        let last = self.changes.last();
        if last.and_then(|&(_, state, _)| state) != state {
            let sums = last.map_or([0; N], |last| Self::after(last, at));
            self.changes.push((at, state, sums));
        }
    }

    fn after(&(from, state, mut sums): &(u64, Option<u8>, [u64; N]), at: u64) -> [u64; N] {
        if let Some(state) = state {
            sums[usize::from(state)] += at - from;
        }
        sums
    }

    fn until(&self, at: u64) -> [u64; N] {
        let after = self.changes.partition_point(|&(from, ..)| from <= at);
        after.checked_sub(1).map_or([0; N], |last| Self::after(&self.changes[last], at))
    }

    fn between(&self, from: Time, to: Time) -> [f64; N] {
        let (before, after) = (self.until(from.as_ns()), self.until(to.as_ns().max(from.as_ns())));
        std::array::from_fn(|state| (after[state] - before[state]) as f64)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Queued,
    Admitted,
    FirstToken,
    Left,
    /// It was not admitted.
    GaveUp,
    /// Its KV is on its way from this worker.
    Sends,
    Sent,
}

/// Requests of a worker.
#[derive(Debug, Clone, Copy, Default)]
struct Now {
    waiting: u32,
    running: u32,
    prompts: u32,
    sending: u32,
}

impl Now {
    fn apply(&mut self, event: Event) {
        match event {
            Event::Queued => self.waiting += 1,
            Event::Admitted => {
                self.waiting -= 1;
                self.running += 1;
                self.prompts += 1;
            }
            Event::FirstToken => self.prompts -= 1,
            Event::Left => self.running -= 1,
            Event::GaveUp => self.waiting -= 1,
            Event::Sends => self.sending += 1,
            Event::Sent => self.sending -= 1,
        }
    }

    fn hindrance(self, seats: u32) -> Hindrance {
        if self.running >= seats {
            Hindrance::Seats
        } else if self.prompts > 0 {
            Hindrance::Prompts
        } else if self.sending > 0 {
            Hindrance::Link
        } else {
            Hindrance::Room
        }
    }
}

impl PoolStates {
    /// The states of the workers of a pool.
    pub(super) fn new(run: &RunRecord, pool: &PoolRecord) -> Self {
        let mut events = Vec::new();
        for request in &run.requests {
            for (number, stage) in
                request.stages.iter().enumerate().filter(|(_, stage)| stage.pool == pool.role)
            {
                add_events(&mut events, request, number, stage);
            }
        }
        events.sort_unstable();
        let seats: Vec<u32> = pool
            .limits
            .iter()
            .map(|limits| {
                limits.max_num_seqs.map_or(u32::MAX, |seats| seats.saturating_mul(limits.ranks.max(1)))
            })
            .collect();
        let mut states = Self {
            workers: pool.workers.iter().map(|_| Course::default()).collect(),
            spare: Sums::default(),
        };
        let mut now = vec![Now::default(); seats.len()];
        let is_free = |now: Now, seats: u32| now.waiting == 0 && now.prompts == 0 && now.running < seats;
        let mut free = seats.len();
        let mut first = 0;
        while let Some(&(at, ..)) = events.get(first) {
            let next = first + events[first..].partition_point(|&(time, ..)| time == at);
            for &(_, worker, event) in &events[first..next] {
                let worker = worker as usize;
                let was_free = is_free(now[worker], seats[worker]);
                now[worker].apply(event);
                free = free + usize::from(is_free(now[worker], seats[worker])) - usize::from(was_free);
            }
            for &(_, worker, _) in &events[first..next] {
                let (now, worker) = (now[worker as usize], worker as usize);
                let course = &mut states.workers[worker];
                course.hindrance.change(at, Some(now.hindrance(seats[worker]) as u8));
                course.prompts.change(at, (now.prompts > 0).then_some(0));
                course.own.change(at, now.prompts);
            }
            states.spare.change(at, (free > 0).then_some(0));
            first = next;
        }
        states
    }

    /// What hindered a worker between two times.
    pub(super) fn wait(&self, worker: usize, from: Time, to: Time) -> Wait {
        let by = self.workers[worker].hindrance.between(from, to);
        Wait { by, avoidable: self.spare.between(from, to)[0] }
    }

    /// What hindered the workers on average; whoever could have admitted at once is a wait that could have been avoided.
    pub(super) fn wait_for_any(&self, from: Time, to: Time) -> Wait {
        let mut sum = Wait { avoidable: self.spare.between(from, to)[0], ..Wait::default() };
        for worker in &self.workers {
            let by = worker.hindrance.between(from, to);
            sum.by.iter_mut().zip(by).for_each(|(sum, ns)| *sum += ns / self.workers.len() as f64);
        }
        sum
    }

    /// How many ns between two times a worker had for one of the prompts that it computed.
    pub(super) fn own_share(&self, worker: usize, from: Time, to: Time) -> f64 {
        let own = &self.workers[worker].own;
        own.until(to.as_ns().max(from.as_ns())) - own.until(from.as_ns())
    }

    /// For how many ns between two times a worker computed prompts.
    pub(super) fn with_prompts(&self, worker: usize, from: Time, to: Time) -> f64 {
        self.workers[worker].prompts.between(from, to)[0]
    }
}

/// When a stage of a request ended.
fn end_of(request: &RequestRecord, stage: &StageRecord) -> Time {
    stage.last_token.unwrap_or(request.ended)
}

fn add_events(
    events: &mut Vec<(u64, u32, Event)>,
    request: &RequestRecord,
    number: usize,
    stage: &StageRecord,
) {
    let mut add = |at: Time, event| events.push((at.as_ns(), stage.worker.0, event));
    let queued = request.could_begin(number);
    let end = end_of(request, stage).max(queued);
    add(queued, Event::Queued);
    let Some(admitted) = stage.admitted else {
        add(end, Event::GaveUp);
        return;
    };
    // Events of one instant go in the order of the enum, which is that of a life.
    let admitted = admitted.max(queued);
    let end = end.max(admitted);
    add(admitted, Event::Admitted);
    add(stage.first_token.unwrap_or(end).clamp(admitted, end), Event::FirstToken);
    add(end, Event::Left);
    let next = request.stages.get(number + 1);
    if let Some((start, done)) = next.and_then(|next| next.transfer_start.zip(next.transfer_end)) {
        add(start, Event::Sends);
        add(done.max(start), Event::Sent);
    }
}
