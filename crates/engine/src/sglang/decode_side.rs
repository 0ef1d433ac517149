//! The decode side of disaggregated serving: `DecodePreallocQueue` and `DecodeTransferQueue`.
//!
//! A request comes here when it comes to its prefill worker, too. Once that is known here it gets memory for its prompt,
//! which tells the prefill worker to begin; when its KV has arrived it waits for a seat, and joins the running batch with
//! its first token, which came with the KV. Each pass looks at those that lost their memory first: their KV is kept by the
//! host, and nobody else gets memory before they have theirs back.

use std::collections::VecDeque;

use servecast_types::{Duration, RequestId, Time};

use super::disaggregation::Disaggregation;
use super::policy::rank;
use super::request::{Request, Status};
use super::scheduler::Scheduler;
use super::settings::SglangConfig;
use crate::iteration::{Admitted, Iteration, Joined, Transfer};
use crate::step::Step;
use crate::table::Slot;
use crate::{EngineConfig, Fetch, Links};

/// What only a decode worker has.
#[derive(Debug)]
pub(super) struct DecodeSide {
    /// From when a request is seen here to when its prefill worker is known.
    handshake: Duration,
    /// Tokens of output that every request has in reserve when others get memory.
    reserved: u64,
    /// Requests that have memory at a time.
    slots: usize,
    /// Requests whose KV may be on its way at a time.
    buffers: usize,
    polls: Polls,
    /// Whether the host keeps the KV of requests that lose their memory.
    pub(super) keeps_kv: bool,
    /// Requests that came since the last pass.
    unseen: Vec<Slot>,
    /// Requests whose KV has arrived.
    arrived: VecDeque<Slot>,
    /// Requests that lost their memory.
    pub(super) retracted: VecDeque<Slot>,
    /// Requests that joined with the last decision.
    pub(super) joined: Vec<RequestId>,
    /// Requests that ended since the last decision, in which they count as running.
    left: Vec<Counted>,
    /// Whether some did in the last decision, so that the next one has more room.
    pub(super) counted_left: bool,
}

/// What a running request counts with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counted {
    /// Tokens that it has, in each pool.
    tokens: InPools,
    /// Tokens that it has when all its output is there.
    longest: InPools,
}

/// Tokens in the pool of all layers that see everything, and in that of windows if there is one.
#[derive(Debug, Clone, Copy, Default)]
struct InPools {
    full: i64,
    windows: i64,
}

/// How often memory is given away and arrivals are seen: every so many passes.
#[derive(Debug)]
struct Polls {
    interval: u32,
    passes: u32,
}

/// Which prompts fit beside what runs.
#[derive(Debug, Clone, Copy)]
struct Reservations {
    /// Requests that have memory.
    active: u64,
    /// Tokens of those that run.
    running: InPools,
    /// What the one needs that runs longest, if all others make room for it.
    longest: InPools,
}

impl DecodeSide {
    /// None on another worker.
    pub(super) fn new(config: &EngineConfig, sglang: &SglangConfig) -> Option<Self> {
        let Some(Disaggregation::Decode(args)) = sglang.disaggregation else { return None };
        let seats = config.max_num_seqs;
        Some(Self {
            handshake: args.handshake,
            reserved: args.num_reserved_decode_tokens.into(),
            slots: args.slots(seats),
            buffers: (seats as usize).saturating_mul(2),
            polls: Polls { interval: args.polling_interval, passes: 0 },
            keeps_kv: args.retraction_backup,
            unseen: Vec::new(),
            arrived: VecDeque::new(),
            retracted: VecDeque::new(),
            joined: Vec::new(),
            left: Vec::new(),
            counted_left: false,
        })
    }

    /// Requests that wait, beside those whose KV is on its way or not asked for yet.
    pub(super) fn num_waiting(&self) -> usize {
        self.arrived.len() + self.retracted.len()
    }

    /// A request that runs has ended.
    pub(super) fn ended(&mut self, counted: Counted) {
        self.left.push(counted);
    }

    /// A request has come.
    pub(super) fn push(&mut self, slot: Slot) {
        self.unseen.push(slot);
    }

    /// Takes a request out that waits or has just come; whether it had lost its memory.
    pub(super) fn remove(&mut self, slot: Slot) -> bool {
        self.unseen.retain(|&other| other != slot);
        let before = self.retracted.len();
        self.retracted.retain(|&other| other != slot);
        self.retracted.len() < before
    }

    /// Whether no pass is anything but a decode of those that run, as long as no KV arrives.
    pub(super) fn is_quiet(&self) -> bool {
        self.unseen.is_empty() && self.arrived.is_empty() && self.retracted.is_empty()
    }

    /// So many passes only decoded.
    pub(super) fn skip(&mut self, passes: u64) {
        self.left.clear();
        self.counted_left = false;
        self.polls.passes = ((u64::from(self.polls.passes) + passes) % u64::from(self.polls.interval)) as u32;
    }

    /// Those whose KV has arrived.
    pub(super) fn arrived(&self) -> impl Iterator<Item = Slot> {
        self.arrived.iter().copied()
    }
}

impl Polls {
    /// Whether this pass polls. One that has nothing else to do goes on until it does.
    fn are_due(&mut self, is_idle: bool) -> bool {
        self.passes = if is_idle { 0 } else { (self.passes + 1) % self.interval };
        self.passes == 0
    }
}

impl InPools {
    fn larger(self, other: Self) -> Self {
        Self { full: self.full.max(other.full), windows: self.windows.max(other.windows) }
    }

    fn minus(self, other: Self) -> Self {
        Self { full: self.full - other.full, windows: self.windows - other.windows }
    }

    fn plus(self, tokens: u32) -> Self {
        Self { full: self.full + i64::from(tokens), windows: self.windows + i64::from(tokens) }
    }

    /// Whether there is as much as that in both pools.
    fn holds(self, needed: Self) -> bool {
        needed.full <= self.full && needed.windows <= self.windows
    }
}

/// One pass of a decode worker.
impl Scheduler {
    /// Decides the next iteration of a decode worker: `process_decode_queue`, `get_next_disagg_decode_batch_to_run`.
    pub(super) fn schedule_decode_side(&mut self, now: Time, step: &mut Step, links: &mut dyn Links) {
        let came = self.see_new(now);
        let (counts_ended, on_its_way) = (!self.side().left.is_empty(), self.loading.len());
        self.pass_decode_side(now, step, links);
        // With nothing to compute it looks again at once if it has seen something, now without those that have ended.
        let is_idle = step.entries.is_empty() && !step.follows_another && self.running.is_empty();
        if counts_ended && is_idle && (came || self.loading.len() < on_its_way) {
            self.pass_decode_side(now, step, links);
        }
    }

    /// One pass of it.
    fn pass_decode_side(&mut self, now: Time, step: &mut Step, links: &mut dyn Links) {
        self.resume_retracted();
        let is_idle = self.running.is_empty();
        let side = self.decode_side.as_mut().expect("it is a decode worker");
        if side.retracted.is_empty() && side.polls.are_due(is_idle) {
            self.preallocate(now, &mut step.iteration, links);
            self.see_arrivals(now);
        } else if is_idle && !step.follows_another && side.arrived.is_empty() {
            // Nobody would make room for those that lost their memory: the real worker waits for ever.
            self.see_arrivals(now);
        }
        self.join_arrived(&mut step.iteration);
        self.plan_decode(step);
        let side = self.decode_side.as_mut().expect("it is a decode worker");
        side.counted_left = !side.left.is_empty();
        side.left.clear();
    }

    fn side(&self) -> &DecodeSide {
        self.decode_side.as_ref().expect("it is a decode worker")
    }

    /// Begins to find out about the prefill workers of requests that have come; returns whether any have.
    fn see_new(&mut self, now: Time) -> bool {
        let side = self.decode_side.as_mut().expect("it is a decode worker");
        let any = !side.unseen.is_empty();
        for slot in side.unseen.drain(..) {
            self.requests[slot].known_at = now + side.handshake;
        }
        any
    }

    /// What a running request counts with.
    pub(super) fn counted(&self, request: &Request) -> Counted {
        let prompt = self.arriving(request.prompt_tokens);
        // What was verified beyond where it ends is counted, too.
        let known = request.known().max(if request.verifications > 0 { request.computed + 1 } else { 0 });
        Counted {
            tokens: prompt.plus(known - request.prompt_tokens),
            longest: prompt.plus(request.max_new_tokens.min(self.sglang.clip_max_new_tokens)),
        }
    }

    /// Memory of so many tokens that come from another worker.
    fn arriving(&self, tokens: u32) -> InPools {
        InPools { full: tokens.into(), windows: self.cache.arriving_in_window(tokens).into() }
    }

    /// The same in whole pages, without the first `shared` tokens, and with what a request has in reserve beside.
    fn needed(&self, tokens: u32, shared: u32) -> InPools {
        let pages = |tokens: u32| i64::from(self.cache.ceil_page(tokens));
        let reserved = self.side().reserved.cast_signed();
        let in_window = pages(self.cache.arriving_in_window(tokens));
        InPools {
            full: pages(tokens) - i64::from(shared) + reserved,
            windows: in_window + if self.cache.shares { reserved } else { 0 },
        }
    }

    /// What is promised to others.
    fn reservations(&self) -> Reservations {
        let side = self.side();
        // Those that ended in the last pass are still in the batch.
        let running = self.running.iter().map(|&slot| self.counted(&self.requests[slot]));
        let (mut tokens, mut most, mut count) = (InPools::default(), InPools::default(), 0);
        for each in running.chain(side.left.iter().copied()) {
            let InPools { full, windows } = each.tokens;
            tokens = InPools { full: tokens.full + full, windows: tokens.windows + windows };
            (most, count) = (most.larger(each.longest), count + 1);
        }
        let others = self.loading.len() + side.arrived.len();
        Reservations { active: count + others as u64, running: tokens, longest: most.minus(tokens) }
    }

    /// Requests that have memory.
    fn slots_taken(&self) -> usize {
        let without = self.fetching.len() + self.inbox.len() + self.side().retracted.len();
        self.requests.len() - without
    }

    /// Tokens that a request may have beside what is promised to `active` others, and what the one needs that runs longest.
    fn allocatable(&self, active: u64, longest: InPools) -> InPools {
        let reserved = (self.side().reserved * active).cast_signed();
        let Some(windows) = &self.cache.windows else {
            let full = self.cache.obtainable().cast_signed() - longest.full.max(reserved);
            return InPools { full, windows: i64::MAX };
        };
        if self.cache.page_size == 1 {
            let available = self.cache.available() + self.cache.tree.evictable_tokens();
            return InPools { full: available.cast_signed() - longest.full.max(reserved), windows: i64::MAX };
        }
        let obtainable = self.cache.window_obtainable();
        let used = windows.capacity - obtainable;
        // A request that decodes takes no more than a window there.
        let growth = (active * u64::from(windows.window)).saturating_sub(used).cast_signed();
        InPools {
            full: self.cache.obtainable().cast_signed() - longest.full.max(reserved),
            windows: obtainable.cast_signed() - longest.windows.max(reserved.min(growth)),
        }
    }

    /// Gives those memory again that lost it, in order as far as there is room.
    fn resume_retracted(&mut self) {
        if self.side().retracted.is_empty() {
            return;
        }
        let mut active = self.reservations().active;
        let mut resumed = Vec::new();
        while let Some(&slot) = self.side().retracted.front() {
            let held = self.requests[slot].known() - 1;
            let room = self.allocatable(active, InPools::default());
            let fits = room.holds(self.needed(held, 0)) || active == 0;
            if self.slots_taken() >= self.side().slots || !fits || !self.cache.has_room_for_arriving(held, 0)
            {
                break;
            }
            self.cache.make_room_for_arriving(held, 0);
            let request = &mut self.requests[slot];
            self.cache.allocate_arriving(request, held);
            request.computed = held;
            request.status = Status::Loading;
            self.entries += 1;
            request.entered = self.entries;
            resumed.push(slot);
            active += 1;
            if let Some(side) = &mut self.decode_side {
                side.retracted.pop_front();
            }
        }
        if let Some(side) = &mut self.decode_side {
            side.arrived.extend(resumed);
        }
    }

    /// Gives requests memory for their prompts, in order as far as there is room, and asks for what they do not hit.
    fn preallocate(&mut self, now: Time, iteration: &mut Iteration, links: &mut dyn Links) {
        if self.fetching.is_empty() {
            return;
        }
        self.policy.order_fetching(&mut self.fetching, &mut self.requests, now);
        let mut reservations = self.reservations();
        let mut begun = Vec::new();
        let next = |scheduler: &Self| {
            scheduler.fetching.iter().find(|&slot| scheduler.requests[slot].known_at <= now)
        };
        while let Some(slot) = next(self) {
            let side = self.side();
            let full = self.loading.len() + begun.len() >= side.buffers || self.slots_taken() >= side.slots;
            if full || !self.preallocate_one(slot, reservations) {
                break;
            }
            reservations.active += 1;
            self.fetching.remove(slot);
            let request = &self.requests[slot];
            let (id, of_tokens) = (request.id, request.prompt_tokens);
            let held = request.shared.tokens;
            let fetch = Fetch { id, tokens: of_tokens - held, of_tokens };
            let end = links.begin(fetch, now);
            iteration.transfers.push(Transfer { id, tokens: fetch.tokens, end: end.end() });
            begun.push((slot, end.end_or_max()));
        }
        self.loading.extend(begun);
    }

    /// Gives a request memory for its prompt if there is room beside what others need.
    fn preallocate_one(&mut self, slot: Slot, reservations: Reservations) -> bool {
        let prompt = self.requests[slot].prompt_tokens;
        let arriving = self.arriving(prompt);
        // With pages of several tokens what has slots in the pool of windows is not shared.
        let fresh = if self.cache.page_size > 1 { arriving.windows as u32 } else { 0 };
        let found = self.cache.find(&mut self.requests[slot], prompt - fresh);
        self.cache.tree.lock(found.node);
        // With pages of one token it needs the window before that, too.
        let window = (self.cache.page_size == 1).then(|| self.cache.tree.lock_window(found));
        let Reservations { active, running, longest } = reservations;
        let output = self.requests[slot].max_new_tokens.min(self.sglang.clip_max_new_tokens);
        let whole = InPools { full: arriving.full - i64::from(found.tokens), ..arriving };
        let needed = self.needed(prompt, found.tokens).larger(whole.plus(output).minus(running));
        // Alone, a prompt that fits the pool need not leave anything for others.
        let fits = (self.allocatable(active, longest).holds(needed) || active == 0)
            && self.cache.has_room_for_arriving(prompt, found.tokens);
        self.cache.tree.unlock(found.node);
        if let Some(first) = window {
            self.cache.tree.unlock_window(found, first);
        }
        if fits {
            let request = &mut self.requests[slot];
            self.cache.adopt_before_arrival(request, found);
            self.cache.make_room_for_arriving_in_window(prompt, found.tokens);
            self.cache.make_room_for_arriving(prompt, found.tokens);
            self.cache.allocate_arriving(request, prompt);
            request.computed = prompt;
            request.status = Status::Loading;
            request.remote_prefill = false;
        }
        fits
    }

    /// Requests whose KV is here wait for a seat, and their first token is known.
    fn see_arrivals(&mut self, now: Time) {
        let (requests, side) =
            (&mut self.requests, self.decode_side.as_mut().expect("it is a decode worker"));
        self.loading.retain(|&(slot, end)| {
            if end <= now {
                let request = &mut requests[slot];
                request.outputs = 1;
                self.entries += 1;
                request.entered = self.entries;
                side.arrived.push_back(slot);
            }
            end > now
        });
    }

    /// Those whose KV is here take seats, in order, as far as there are some; they run from now on unless they have ended.
    fn join_arrived(&mut self, iteration: &mut Iteration) {
        let side = self.decode_side.as_mut().expect("it is a decode worker");
        if let Some(low_first) = self.policy.by_priority() {
            let requests = &self.requests;
            let place = |slot: &Slot| (rank(&requests[*slot], low_first), requests[*slot].entered);
            side.arrived.make_contiguous().sort_by_key(place);
        }
        let seats = (self.config.max_num_seqs as usize).saturating_sub(self.running.len() + side.left.len());
        let joining: Vec<Slot> = side.arrived.drain(..seats.min(side.arrived.len())).collect();
        let mut joined = Vec::new();
        for &slot in &joining {
            let request = &mut self.requests[slot];
            request.status = Status::Active;
            let cached_tokens = request.shared.tokens;
            let computed = request.computed;
            self.cache.share(request, computed);
            let (id, is_finished) = (request.id, request.is_complete());
            let resumed = request.requeues > 0;
            joined.push(id);
            if !resumed {
                iteration.received.push(id);
                iteration.joined.push(Joined { id, is_finished });
            }
            if !is_finished {
                iteration.admitted.push(Admitted { id, cached_tokens, host_cached_tokens: 0, resumed });
            }
        }
        if let Some(side) = &mut self.decode_side {
            side.joined = joined;
        }
        for slot in joining {
            if self.requests[slot].is_complete() {
                self.finish(slot);
            } else {
                self.running.push(slot);
            }
        }
    }
}
