//! The state of SGLang's scheduler, and the order in which it decides an iteration: take in what has arrived, plan a prefill
//! batch, otherwise decode what runs.
//!
//! The parts have files of their own: `adder` (how much of a prompt fits), `policy` (order of the waiting queue), `cache`
//! (memory and prefix tree), `update` (results), `stretch` (decode batches that are taken together).

use std::collections::VecDeque;
use std::sync::Arc;

use servecast_types::Time;

use super::adder::{AddResult, PrefillAdder, Taken};
use super::cache::KvCache;
use super::decode_side::DecodeSide;
use super::inbox::Inbox;
use super::interval::PrefillInterval;
use super::policy::Policy;
use super::prefill_side::PrefillSide;
use super::progress::Progress;
use super::queue::WaitingQueue;
use super::ratio::NewTokenRatio;
use super::request::{Request, Status};
use super::settings::{SglangConfig, output_room};
use crate::iteration::{Admitted, Scheduled};
use crate::step::{Entry, Step};
use crate::stretch::Stretch;
use crate::table::{RequestTable, Slot};
use crate::{EngineConfig, EngineRequest, Links, Rejection};

/// The scheduler of one worker, with its KV cache.
#[derive(Debug)]
pub(crate) struct Scheduler {
    pub(crate) config: Arc<EngineConfig>,
    pub(super) sglang: SglangConfig,
    pub(super) cache: KvCache,
    pub(super) requests: RequestTable<Request>,
    /// Requests that were not looked at yet.
    pub(super) inbox: Inbox,
    /// Requests whose prompt is to be computed here.
    pub(super) waiting: WaitingQueue,
    /// Requests that wait for memory for KV that was computed elsewhere.
    pub(super) fetching: WaitingQueue,
    pub(super) running: Vec<Slot>,
    /// Whether nobody is admitted until a request leaves.
    pub(super) batch_is_full: bool,
    /// The requests of the last batch if it computed prompts: they run from the next iteration on.
    pub(super) last_prefill: Vec<Slot>,
    /// The request whose prompt is computed in chunks.
    pub(super) chunked: Option<Slot>,
    pub(super) ratio: NewTokenRatio,
    pub(super) policy: Policy,
    pub(super) interval: PrefillInterval,
    pub(super) progress: Progress,
    /// What only a worker of one stage has.
    pub(super) prefill_side: Option<PrefillSide>,
    pub(super) decode_side: Option<DecodeSide>,
    /// Requests whose KV is on its way, with its end: [`Time::MAX`] as long as nobody knows.
    pub(super) loading: VecDeque<(Slot, Time)>,
    /// Ended requests whose KV a reader still needs, with the time at which it is done if that is known.
    pub(super) held: Vec<(Slot, Option<Time>)>,
    /// Entries of the waiting queue so far.
    pub(super) entries: u64,
    pub(super) traces_state: bool,
    /// Running requests that decoded in the last iteration; 0 if it computed prompts.
    pub(super) decoded_last: usize,
    pub(super) stretch: Stretch,
    /// Whether `stretch` is under way, so that the running requests are not up to date.
    pub(super) stretches: bool,
    /// Whether something came that may end the stretch.
    pub(super) must_replan: bool,
}

impl Scheduler {
    pub(crate) fn new(
        config: Arc<EngineConfig>,
        sglang: SglangConfig,
        capture_events: bool,
        traces_state: bool,
    ) -> Self {
        let mut cache = KvCache::new(&config, capture_events);
        if !traces_state {
            cache.tells_no_tiers();
        }
        Self {
            cache,
            requests: RequestTable::default(),
            inbox: Inbox::new(sglang.scheduler_recv_interval),
            waiting: WaitingQueue::default(),
            fetching: WaitingQueue::default(),
            running: Vec::new(),
            batch_is_full: false,
            last_prefill: Vec::new(),
            chunked: None,
            ratio: NewTokenRatio::new(sglang.schedule_conservativeness),
            policy: Policy::new(&sglang).with_order(config.order.clone()),
            interval: PrefillInterval::new(
                sglang.prefill_decode_interval,
                sglang.prefill_decode_interval_min_bs,
            ),
            progress: Progress::default(),
            prefill_side: PrefillSide::new(&config, &sglang),
            decode_side: DecodeSide::new(&config, &sglang),
            loading: VecDeque::new(),
            held: Vec::new(),
            entries: 0,
            traces_state,
            decoded_last: 0,
            stretch: Stretch::new(u64::from(config.async_scheduling)),
            stretches: false,
            must_replan: false,
            sglang,
            config,
        }
    }

    /// Puts a request into the waiting queue, or says why it can never run.
    ///
    /// For one with a prompt that is too long a stub takes its place, with which it is given up, unless other workers have
    /// to do with it.
    pub(crate) fn add(&mut self, request: EngineRequest) -> Result<(), Rejection> {
        let (prompt_tokens, max_tokens) = (request.prompt.tokens(), request.max_tokens);
        if prompt_tokens == 0 || max_tokens == 0 {
            return Err(Rejection::Empty { prompt_tokens, max_tokens });
        }
        let stands_alone = !(request.remote_prefill || request.hold_kv);
        let room = if self.prefill_side.is_some() { 1 } else { output_room(&self.config, prompt_tokens) };
        let max_new_tokens = max_tokens.min(room);
        let asked = self.config.asked(&request);
        let mut request = match self.config.check_request(prompt_tokens) {
            Ok(()) => Request::new(request, max_new_tokens, self.entries, &self.config),
            Err(reason) if stands_alone => {
                Request::stub(request, reason, max_new_tokens, self.entries, &self.config)
            }
            Err(reason) => return Err(reason),
        };
        request.asked = asked;
        let slot = self.requests.insert(request);
        if self.inbox.is_open() {
            self.receive(slot);
        } else {
            self.inbox.push(slot);
        }
        Ok(())
    }

    /// Puts a new request where it waits: `recv_requests`.
    fn receive(&mut self, slot: Slot) {
        let request = &mut self.requests[slot];
        let fetches = request.remote_prefill;
        if request.hold_kv
            && let Some(side) = &mut self.prefill_side
        {
            side.push(slot);
            return;
        }
        // Behind a full batch nobody is looked at, but for those that only need room for KV computed elsewhere.
        self.must_replan |= fetches || self.waiting.is_empty() || !self.batch_is_full;
        self.enter_waiting(slot);
    }

    /// Puts a request at the back of the queue in which it waits.
    pub(super) fn enter_waiting(&mut self, slot: Slot) {
        self.entries += 1;
        let request = &mut self.requests[slot];
        request.entered = self.entries;
        request.computed_before = self.progress.tokens();
        if !request.remote_prefill {
            self.waiting.push_back(slot);
            return;
        }
        self.fetching.push_back(slot);
        if let Some(side) = &mut self.decode_side {
            side.push(slot);
        }
    }

    /// Looks at new requests, if it is time to.
    fn look(&mut self) {
        let is_idle = self.num_running() == 0;
        if !self.inbox.is_open() && self.inbox.looks(is_idle) {
            while let Some(slot) = self.inbox.pop() {
                self.receive(slot);
            }
        }
    }

    /// Decides the next iteration: `get_next_batch_to_run`.
    #[inline(never)]
    pub(crate) fn schedule(&mut self, now: Time, step: &mut Step, links: &mut dyn Links) {
        step.reset(now, self.config.kv_capacity_tokens());
        self.cache.begin_decision(now);
        self.look();
        let adder = if self.decode_side.is_some() {
            self.schedule_decode_side(now, step, links);
            None
        } else if self.prefill_side.is_some() {
            self.schedule_prefill_side(now, step)
        } else {
            self.catch_up_with_results(now, step, links);
            self.plan(step)
        };
        self.conclude(step, adder.as_ref());
    }

    /// One rank of several: takes in what has come and forms a prefill batch if there is one. [`Scheduler::decide_rank`]
    /// follows when all ranks have done so.
    pub(super) fn try_prefill(
        &mut self,
        now: Time,
        step: &mut Step,
        links: &mut dyn Links,
    ) -> Option<PrefillAdder> {
        step.reset(now, self.config.kv_capacity_tokens());
        self.cache.begin_decision(now);
        self.look();
        self.catch_up_with_results(now, step, links);
        if self.interval.holds(self.running.len()) { None } else { self.plan_prefill(step) }
    }

    /// The same rank: forms a decode batch if it has no prefill batch and `decodes`.
    pub(super) fn decide_rank(&mut self, step: &mut Step, adder: Option<&PrefillAdder>, decodes: bool) {
        if decodes && step.entries.is_empty() {
            self.plan_decode(step);
        }
        self.conclude(step, adder);
    }

    /// What was computed is shared or runs from now on, KV that has arrived joins.
    fn catch_up_with_results(&mut self, now: Time, step: &mut Step, links: &mut dyn Links) {
        self.drop_sent(now, &mut step.iteration);
        self.start_transfers(now, &mut step.iteration, links);
        self.stash_chunk();
        self.merge_last_prefill();
        self.admit_loaded(now, &mut step.iteration);
    }

    /// Notes what was decided.
    fn conclude(&mut self, step: &mut Step, adder: Option<&PrefillAdder>) {
        if step.prefills > 0 {
            self.interval.prefilled();
            self.progress.prefilled(step.iteration.total_tokens());
        } else if !step.entries.is_empty() {
            self.progress.decoded(1);
        }
        self.inbox.decided(step.prefills > 0);
        step.loaded_at = self.cache.end_decision().unwrap_or(Time::ZERO);
        self.send_cached(step);
        self.describe(step, adder);
    }

    /// Forms a prefill batch, otherwise a decode batch.
    fn plan(&mut self, step: &mut Step) -> Option<PrefillAdder> {
        if self.interval.holds(self.running.len()) {
            self.plan_decode(step);
            let gives_up = !step.iteration.rejected.is_empty();
            let does_nothing = step.entries.is_empty() && step.iteration.preempted.is_empty() && !gives_up;
            if !does_nothing || step.follows_another {
                return None;
            }
            // With nothing to decode, decisions follow each other until the interval is over.
            self.interval.end();
        }
        let adder = self.plan_prefill(step);
        if step.entries.is_empty() {
            self.plan_decode(step);
        }
        adder
    }

    /// Requests whose prompt is computed run from now on; those that ended are gone.
    fn merge_last_prefill(&mut self) {
        let mut last = std::mem::take(&mut self.last_prefill);
        let mut begins = false;
        if !last.is_empty() {
            let before = last.len();
            last.retain(|&slot| self.is_active(slot) && self.chunked != Some(slot));
            if last.len() < before {
                self.batch_is_full = false;
            }
            begins = self.running.is_empty() && !last.is_empty();
            if begins {
                self.batch_is_full = false;
            }
            self.running.append(&mut last);
        }
        self.last_prefill = last;
        self.last_prefill.clear();
        self.progress.merged(begins);
    }

    /// Whether a request of a batch is still there.
    fn is_active(&self, slot: Slot) -> bool {
        self.requests.get(slot).is_some_and(|request| request.status == Status::Active)
    }

    /// Whether a request of a batch is still there and has a token to come beyond those in flight.
    pub(super) fn has_tokens_to_come(&self, slot: Slot) -> bool {
        self.is_active(slot) && !self.requests[slot].is_finishing()
    }

    /// Forms a prefill batch if there is something to compute and room for it.
    pub(super) fn plan_prefill(&mut self, step: &mut Step) -> Option<PrefillAdder> {
        let preempts = self.sglang.enable_priority_scheduling;
        // Memory of windows that runs out comes back while everybody runs on.
        if preempts || self.cache.windows.is_some() {
            self.batch_is_full = false;
        }
        if (self.batch_is_full || self.waiting.is_empty()) && self.chunked.is_none() {
            return None;
        }
        if self.room_to_run() == 0 && self.chunked.is_none() && !preempts {
            self.batch_is_full = true;
            return None;
        }
        let computed = self.progress.tokens();
        self.policy.arrange(&mut self.waiting, &mut self.requests, step.iteration.scheduled_at);
        self.policy.order(&mut self.waiting, &mut self.requests, &mut self.cache, &self.running, computed);
        let mixed = if self.sglang.enable_mixed_chunk { self.running.len() as u32 } else { 0 };
        let running = self.running.iter().map(|&slot| &self.requests[slot]);
        let mut adder = PrefillAdder::new(&self.sglang, &self.cache, self.ratio.current(), mixed, running);
        let continues = self.chunked.is_some();
        if !self.continue_chunked(&mut adder, step) {
            return Some(adder);
        }
        for slot in self.add_waiting(&mut adder, continues, step) {
            self.requeue(slot);
        }
        if adder.taken.is_empty() {
            return Some(adder);
        }
        self.chunked = adder.new_chunked.or(self.chunked);
        self.extend(&adder.taken, step);
        if self.sglang.enable_mixed_chunk && !self.running.is_empty() {
            self.mix_running(step);
        }
        Some(adder)
    }

    /// Requests that may start beside those that run.
    pub(super) fn room_to_run(&self) -> usize {
        let taken = match &self.prefill_side {
            Some(side) => side.seated(),
            None => self.running.len(),
        };
        (self.config.max_num_seqs as usize).saturating_sub(taken)
    }

    /// Offers the waiting requests to the batch, until it takes no more; returns running ones that made room.
    ///
    /// `continues`: whether a prompt goes on whose beginning was computed before.
    fn add_waiting(&mut self, adder: &mut PrefillAdder, continues: bool, step: &mut Step) -> Vec<Slot> {
        // On a prefill worker the seat of that is its own already.
        let has_seat = usize::from(continues && self.prefill_side.is_some());
        let most = self.sglang.prefill_max_requests.unwrap_or(u32::MAX) as usize;
        let mut preempted = Vec::new();
        // That memory is short is found out with the first request, which is looked up for that.
        let mut result = match adder.state(&self.cache) {
            AddResult::NoToken => AddResult::Continue,
            state => state,
        };
        while result == AddResult::Continue
            && let Some(slot) = self.policy.head(&mut self.waiting)
        {
            if adder.taken.len() >= self.room_to_run() + has_seat {
                self.batch_is_full = true;
            }
            if self.batch_is_full
                && !(self.sglang.enable_priority_scheduling
                    && self.preempt_for(slot, adder, &mut preempted, step))
            {
                break;
            }
            let request = &mut self.requests[slot];
            let found = self.cache.find_tiers(request, request.known() - 1);
            request.filled = request.known();
            self.cache.note_cached(request, found);
            request.extend = request.filled - found.device.tokens;
            if adder.taken.len() >= most {
                break;
            }
            let cuts = self.chunked.is_none();
            result = adder.add(slot, &mut self.requests, &self.running, found, &mut self.cache, cuts);
            let Some(&Taken { loaded, .. }) = adder.taken.last().filter(|taken| taken.slot == slot) else {
                break;
            };
            self.waiting.pop_front();
            let Request { id, requeues, .. } = self.requests[slot];
            let resumed = requeues > 0;
            step.iteration.admitted.push(Admitted {
                id,
                cached_tokens: found.device.tokens + loaded,
                host_cached_tokens: loaded,
                resumed,
            });
        }
        if result == AddResult::NoToken {
            self.batch_is_full = !(self.running.is_empty() && adder.taken.is_empty());
        }
        preempted
    }

    /// Puts the tokens of a prefill batch into an iteration and gives them memory.
    fn extend(&mut self, taken: &[Taken], step: &mut Step) {
        self.cache.begin_loads();
        let tokens: u64 = taken.iter().map(|taken| u64::from(taken.tokens)).sum();
        let pages = if self.config.block_size == 1 {
            0
        } else {
            taken.len() as u64 * u64::from(self.config.block_size)
        };
        self.cache.make_available(tokens + pages);
        for &Taken { slot, tokens, .. } in taken {
            let request = &mut self.requests[slot];
            let (start, end) = (request.computed, request.computed + tokens);
            self.cache.allocate(request, end);
            request.computed = end;
            let samples = end == request.known();
            step.push(Scheduled { id: request.id, tokens, computed: start }, entry(slot, request, samples));
            step.batch.add_tokens(start.into(), end.into());
            if start < request.prompt_tokens {
                step.batch.add_prompt(start.into(), end.min(request.prompt_tokens).into());
            }
            if samples {
                if request.outputs > 0 {
                    step.batch.add_decode(end.into());
                }
                request.in_flight += 1;
            }
            self.last_prefill.push(slot);
        }
        step.prefills = step.entries.len();
    }

    /// Lets the running requests decode in a prefill batch, unless that leaves no memory for them.
    fn mix_running(&mut self, step: &mut Step) {
        let mut running = std::mem::take(&mut self.running);
        let before = running.len();
        running.retain(|&slot| self.has_tokens_to_come(slot));
        if running.len() < before {
            self.batch_is_full = false;
        }
        if !self.has_pages_for(&running) {
            self.running = running;
            return;
        }
        for &slot in &running {
            let request = &mut self.requests[slot];
            request.filled = request.known();
        }
        self.decode(&running, step);
        self.last_prefill.extend(running);
    }

    /// Computes one more token for each of `requests`.
    pub(super) fn decode(&mut self, requests: &[Slot], step: &mut Step) {
        if self.sglang.speculation.is_some() {
            self.verify(requests, step);
            return;
        }
        for &slot in requests {
            self.cache.free_before_decode(&mut self.requests[slot]);
        }
        self.cache.make_available(requests.len() as u64 * u64::from(self.config.block_size));
        for &slot in requests {
            let request = &mut self.requests[slot];
            let start = request.computed;
            self.cache.allocate(request, start + 1);
            request.computed = start + 1;
            step.push(Scheduled { id: request.id, tokens: 1, computed: start }, entry(slot, request, true));
            step.batch.add_tokens(start.into(), u64::from(start) + 1);
            step.batch.add_decode(u64::from(start) + 1);
            request.in_flight += 1;
        }
    }

    /// Puts a request back into the waiting queue.
    pub(super) fn requeue(&mut self, slot: Slot) {
        self.requests[slot].status = Status::Waiting;
        match &mut self.decode_side {
            Some(side) => side.retracted.push_back(slot),
            None => self.enter_waiting(slot),
        }
    }
}

pub(super) fn entry(slot: Slot, request: &Request, samples: bool) -> Entry {
    let (id, requeues) = (request.id, request.requeues);
    Entry { slot, id, samples, first_new_block: 0, drafted: 0, accepted: 0, requeues }
}
