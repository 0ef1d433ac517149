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
    left: Vec<Left>,
    /// Whether some did in the last decision, so that the next one has more room.
    pub(super) counted_left: bool,
}

/// What a request that has ended counts with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Left {
    tokens: u64,
    longest: u64,
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
    running_tokens: i64,
    /// What the one needs that runs longest, if all others make room for it.
    longest: i64,
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
    pub(super) fn ended(&mut self, request: &Request, clip: u32) {
        self.left.push(Left { tokens: request.known().into(), longest: longest(request, clip) });
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

/// Tokens of a request that has all its output.
fn longest(request: &Request, clip: u32) -> u64 {
    u64::from(request.prompt_tokens) + u64::from(request.max_new_tokens.min(clip))
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

    /// What is promised to others.
    fn reservations(&self) -> Reservations {
        let side = self.side();
        let clip = self.sglang.clip_max_new_tokens;
        // Those that ended in the last pass are still in the batch.
        let running = self.running.iter().map(|&slot| {
            let request = &self.requests[slot];
            Left { tokens: request.known().into(), longest: longest(request, clip) }
        });
        let running = running.chain(side.left.iter().copied());
        let (mut tokens, mut most, mut count) = (0, 0, 0);
        for each in running {
            (tokens, most, count) = (tokens + each.tokens, most.max(each.longest), count + 1);
        }
        let others = self.loading.len() + side.arrived.len();
        let longest = if count > 0 { most.cast_signed() - tokens.cast_signed() } else { 0 };
        Reservations { active: count + others as u64, running_tokens: tokens.cast_signed(), longest }
    }

    /// Requests that have memory.
    fn slots_taken(&self) -> usize {
        let without = self.fetching.len() + self.inbox.len() + self.side().retracted.len();
        self.requests.len() - without
    }

    /// Tokens that a request may have, by what is promised to others.
    fn allocatable(&self, reserved: i64) -> i64 {
        self.cache.obtainable().cast_signed() - reserved
    }

    /// Gives those memory again that lost it, in order as far as there is room.
    ///
    /// The real worker does so over and over, with nothing in reserve, where one has room for all but its next token: until
    /// KV that is under way has come, or for ever. Here a request that lost its memory twice without a token in between waits
    /// for room for the tokens of two passes, as many as are in flight at a time.
    fn resume_retracted(&mut self) {
        if self.side().retracted.is_empty() {
            return;
        }
        let mut active = self.reservations().active;
        let mut resumed = Vec::new();
        while let Some(&slot) = self.side().retracted.front() {
            let side = self.side();
            let request = &self.requests[slot];
            let held = request.known() - 1;
            let needed = u64::from(self.cache.ceil_page(held)) + side.reserved;
            let room = self.allocatable((side.reserved * active).cast_signed());
            let fits = needed.cast_signed() <= room || active == 0;
            let next = u64::from(self.cache.ceil_page(held + 2));
            let goes_on = !request.lost_in_vain || next <= self.cache.obtainable() || active == 0;
            if self.slots_taken() >= side.slots || !fits || !goes_on {
                break;
            }
            self.cache.make_available(self.cache.ceil_page(held).into());
            let request = &mut self.requests[slot];
            self.cache.allocate(request, held);
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
        let (clip, reserved) = (self.sglang.clip_max_new_tokens, self.side().reserved);
        let request = &mut self.requests[slot];
        let prompt = request.prompt_tokens;
        let found = self.cache.find(request, prompt);
        self.cache.tree.lock(found.node);
        let missing = u64::from(self.cache.ceil_page(prompt) - found.tokens);
        let Reservations { active, running_tokens, longest } = reservations;
        let request = &self.requests[slot];
        let output = u64::from(request.max_new_tokens.min(clip));
        let whole = (u64::from(prompt - found.tokens) + output).cast_signed() - running_tokens;
        let needed = whole.max((missing + reserved).cast_signed());
        let room = self.allocatable(longest.max((reserved * active).cast_signed()));
        // Alone, a prompt that fits the pool need not leave anything for others.
        let fits = needed <= room || active == 0;
        self.cache.tree.unlock(found.node);
        if fits {
            let request = &mut self.requests[slot];
            self.cache.adopt(request, found);
            self.cache.make_available(missing);
            self.cache.allocate(request, prompt);
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
