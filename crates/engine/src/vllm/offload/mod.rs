//! KV offload to the memory of the host, as vLLM's two connectors do it.
//!
//! - `chunks`: `OffloadingConnector`, with `cache` (what the host holds), `recency` (what makes room) and `chunk_groups` (what
//!   groups of layers need of it).
//! - `early`: the same connector in releases up to 0.15, with `lru` (the blocks of the host).
//! - `simple`: `SimpleCPUOffloadConnector`, with `pool` (the blocks of the host).
//! - `copies`: the link between GPU and host.
//!
//! A pass is decided ([`Scheduler::hand_over_copies`]), waits for copies before it computes
//! ([`Scheduler::wait_for_copies`]), begins others and looks which have ended ([`Scheduler::begin_copies`]); what has is known
//! to the scheduler when the pass ends ([`Scheduler::notice_copies`]).

mod cache;
mod chunk_groups;
mod chunks;
mod copies;
mod early;
mod lru;
mod pool;
mod recency;
mod simple;

use servecast_types::{BlockId, RequestId, Time};

use self::chunks::Chunks;
use self::copies::Copies;
use self::early::Early;
use self::simple::Simple;
use super::pool::BlockPool;
use super::request::Request;
use super::scheduler::Scheduler;
use crate::EngineConfig;
use crate::iteration::{Admitted, Iteration};
use crate::kv_groups::GroupSpec;
use crate::offload_args::{KvOffloading, OffloadConnector};
use crate::step::{Entry, Step};
use crate::table::Slot;

/// KV at the host, and the link to it.
#[derive(Debug)]
pub(super) struct Offload {
    spec: KvOffloading,
    tier: Tier,
    copies: Copies,
    block_size: u32,
    /// Bytes of a token in all groups of layers.
    token_bytes: Option<u64>,
    /// Bytes that the pass being decided may still wait for.
    sync_left: u64,
    /// Of the pass being decided, in order of the running list: members of a stretch that fill a block, and blocks that
    /// members are given.
    filling: Vec<Slot>,
    given: Vec<BlockId>,
}

#[derive(Debug)]
enum Tier {
    Chunks(Box<Chunks>),
    Early(Box<Early>),
    Simple(Box<Simple>),
}

/// What the host has of a waiting request, beyond what it hits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AtHost {
    Nothing,
    /// That is not known yet.
    Pending,
    /// So many tokens, which are loaded before the request runs.
    Tokens(u32),
    /// So many tokens, for which the pass waits.
    Now(u32),
}

impl Offload {
    pub(super) fn new(config: &EngineConfig) -> Option<Box<Self>> {
        let spec = config.offload?;
        let tier = match spec.connector {
            OffloadConnector::Offloading if spec.is_early => {
                Tier::Early(Box::new(Early::new(&spec, config.block_size)))
            }
            OffloadConnector::Offloading => Tier::Chunks(Box::new(Chunks::new(&spec, config))),
            OffloadConnector::Simple => Tier::Simple(Box::new(Simple::new(&spec, config))),
        };
        let copies = Copies::new(spec);
        let of_group = |group: &GroupSpec| spec.block_bytes / u64::from(group.block_size);
        let token_bytes = config.kv_groups.as_ref().map(|groups| groups.specs.iter().map(of_group).sum());
        Some(Box::new(Self {
            spec,
            tier,
            copies,
            block_size: config.block_size,
            token_bytes,
            sync_left: 0,
            filling: Vec::new(),
            given: Vec::new(),
        }))
    }

    /// A decision begins.
    pub(super) fn begin(&mut self, iteration: &mut Iteration) {
        self.sync_left = self.spec.sync_load_bytes;
        iteration.offload.get_or_insert_default();
    }

    /// Bytes of so many tokens, each number once.
    fn bytes_of(&self, tokens: u32) -> u64 {
        match self.token_bytes {
            Some(bytes) => u64::from(tokens) * bytes,
            None => self.spec.bytes_of(tokens, self.block_size),
        }
    }

    /// A member of a stretch crosses a block boundary in the pass being decided: it fills a block, or is `given` one.
    pub(super) fn crosses(&mut self, slot: Slot, given: Option<BlockId>) {
        match given {
            None => self.filling.push(slot),
            Some(block) => self.given.push(block),
        }
    }

    /// What the host has of a request whose first `hit_tokens` tokens are here.
    pub(super) fn find(&mut self, request: &mut Request, hit_tokens: u32) -> AtHost {
        let found = match &mut self.tier {
            Tier::Chunks(chunks) => chunks.find(request, hit_tokens),
            Tier::Early(early) => early.find(request, hit_tokens),
            Tier::Simple(simple) => Some(simple.find(request, hit_tokens)),
        };
        match found {
            None => AtHost::Pending,
            Some(0) => AtHost::Nothing,
            Some(tokens) => {
                // A pass cannot wait for all of a request, since it has to compute a token of it.
                let is_all = hit_tokens + tokens >= request.known();
                let bytes = self.bytes_of(tokens);
                let waits = bytes <= self.sync_left && !is_all;
                if waits { AtHost::Now(tokens) } else { AtHost::Tokens(tokens) }
            }
        }
    }

    /// Loads what was found of a request, up to `up_to` tokens, behind the first `hit_tokens` of them.
    pub(super) fn load(
        &mut self,
        request: &mut Request,
        hit_tokens: u32,
        up_to: u32,
        is_sync: bool,
        iteration: &mut Iteration,
    ) {
        let tokens = up_to - hit_tokens;
        if is_sync {
            self.sync_left -= self.bytes_of(tokens);
        }
        let hit_blocks = hit_tokens / self.block_size;
        let log = iteration.offload.get_or_insert_default();
        log.started.push((request.id, tokens));
        match &mut self.tier {
            Tier::Chunks(chunks) => chunks.load(request, hit_tokens, up_to, is_sync, &mut self.copies, log),
            Tier::Early(early) => early.load(request, hit_blocks, up_to, &mut self.copies, log),
            Tier::Simple(simple) => simple.load(request, hit_blocks, up_to),
        }
    }

    /// A request has ended, and is about to lose its blocks; returns whether it has to keep them for its stores.
    fn end(&mut self, request: &mut Request, gpu: &mut BlockPool) -> bool {
        match &mut self.tier {
            Tier::Chunks(chunks) => chunks.end(request),
            Tier::Early(early) => return early.end(request.id),
            Tier::Simple(simple) => simple.end(request, gpu),
        }
        false
    }

    /// Whether blocks that passes in flight may still write to are free only when those have ended.
    pub(super) fn defers_free(&self) -> bool {
        !self.spec.is_early
    }

    /// A request that waits is given up.
    fn give_up(&mut self, request: &mut Request, gpu: &mut BlockPool) {
        match &mut self.tier {
            Tier::Early(early) => early.give_up(request.id),
            Tier::Chunks(_) | Tier::Simple(_) => {
                self.end(request, gpu);
            }
        }
    }

    /// Whether passes go on although no request does: until all stores are done.
    pub(super) fn has_pending(&self) -> bool {
        match &self.tier {
            Tier::Chunks(chunks) => chunks.has_pending(),
            Tier::Early(early) => early.has_pending(),
            Tier::Simple(simple) => simple.has_pending(),
        }
    }

    /// Whether a copy is not done.
    pub(super) fn has_copies(&self) -> bool {
        match &self.tier {
            Tier::Chunks(chunks) => chunks.has_copies(),
            Tier::Early(early) => early.has_copies(),
            Tier::Simple(simple) => simple.has_copies(),
        }
    }

    /// Whether a pass would begin a copy, or notice the end of one.
    pub(super) fn has_news(&self, now: Time) -> bool {
        self.copies.has_news(now)
    }

    /// The next end of a copy.
    pub(super) fn next_end(&self) -> Option<Time> {
        self.copies.next_end()
    }

    /// Blocks of the GPU that copies hold besides requests.
    pub(super) fn pinned(&self) -> impl Iterator<Item = BlockId> {
        let simple = match &self.tier {
            Tier::Chunks(_) | Tier::Early(_) => None,
            Tier::Simple(simple) => Some(simple.pinned()),
        };
        simple.into_iter().flatten()
    }

    /// Says what does not hold.
    pub(super) fn check(&self) -> Result<u64, String> {
        match &self.tier {
            Tier::Chunks(chunks) => chunks.check(),
            Tier::Early(early) => early.check(),
            Tier::Simple(simple) => simple.check(),
        }
    }
}

impl Scheduler {
    /// What the host has of a waiting request, of which `hit_tokens` tokens are here.
    pub(super) fn find_at_host(&mut self, slot: Slot, hit_tokens: u32) -> AtHost {
        match &mut self.offload {
            None => AtHost::Nothing,
            Some(offload) => offload.find(&mut self.requests[slot], hit_tokens),
        }
    }

    /// A request has ended, and is about to lose its blocks; returns whether it has to keep them for its stores.
    pub(super) fn end_at_host(&mut self, slot: Slot) -> bool {
        match &mut self.offload {
            None => false,
            Some(offload) => offload.end(&mut self.requests[slot], &mut self.kv.pool),
        }
    }

    /// A request that waits is given up.
    pub(super) fn give_up_at_host(&mut self, slot: Slot) {
        if let Some(offload) = &mut self.offload {
            offload.give_up(&mut self.requests[slot], &mut self.kv.pool);
        }
    }

    /// Says what the decided iteration copies, and for which stores it has to wait.
    pub(super) fn hand_over_copies(&mut self, step: &mut Step) {
        let Some(offload) = self.offload.as_deref_mut() else { return };
        // A member of a stretch has more to offer when it fills a block, or when it was refused before.
        let mut members = std::mem::take(&mut offload.filling);
        if matches!(&offload.tier, Tier::Chunks(chunks) if chunks.has_refused()) {
            members.clear();
            let running = self.running[..self.stretch.members() as usize].iter().copied();
            members.extend(running.filter(|&slot| self.stretch.leaving().all(|leaving| leaving != slot)));
        }
        let Step { iteration, entries, .. } = step;
        let Iteration { scheduled, preempted, admitted, offload: log, .. } = iteration;
        let log = log.get_or_insert_default();
        let Offload { tier, copies, given, .. } = offload;
        match tier {
            Tier::Chunks(chunks) => {
                if chunks.minds_given() {
                    chunks.give(given.drain(..));
                    for entry in &*entries {
                        let request = &self.requests[entry.slot];
                        chunks.note_places(request);
                        // Of those that were admitted what they hit, too.
                        chunks.give(request.new_blocks(entry.first_new_block));
                    }
                    for loading in self.loading.iter().filter(|loading| loading.from == self.decided + 1) {
                        chunks.give(self.requests[loading.slot].all_blocks());
                    }
                }
                given.clear();
                chunks.flush(preempted, log);
                if let Some(groups) = &mut self.kv.groups {
                    chunks.store_states(groups.take_states(), copies, log);
                }
                for slot in members.drain(..) {
                    let request = &mut self.requests[slot];
                    let known = request.tokens_in(self.stretch.done() + 1) - self.stretch.lead() as u32;
                    chunks.offer(request, known, copies, log);
                }
                for (entry, scheduled) in entries.iter().zip(&*scheduled) {
                    let request = &mut self.requests[entry.slot];
                    let computed = scheduled.computed + scheduled.tokens;
                    chunks.offer(request, computed.min(request.known()), copies, log);
                }
                chunks.settle_ended(copies, log);
            }
            Tier::Early(early) => {
                for (entry, scheduled) in entries.iter().zip(&*scheduled) {
                    let request = &mut self.requests[entry.slot];
                    early.offer(request, scheduled.computed + scheduled.tokens, copies, log);
                }
                early.flush_requests(preempted, log);
                early.tell_ended(log);
            }
            Tier::Simple(simple) => {
                log.flushes_all = !preempted.is_empty();
                for &id in &*preempted {
                    simple.forget(id);
                }
                for place in in_order_of_output(entries, admitted) {
                    let request = &mut self.requests[entries[place].slot];
                    simple.visit(request, scheduled[place].computed, &mut self.kv.pool);
                }
                simple.hand_over(&mut self.kv.pool, copies, log);
            }
        }
        // For its memory.
        offload.filling = members;
    }

    /// Until when the decided pass waits before it computes, which it could do at `start`.
    pub(crate) fn wait_for_copies(&mut self, start: Time, step: &mut Step) -> Time {
        let Some(offload) = self.offload.as_deref_mut() else { return start };
        let Some(log) = &step.iteration.offload else { return start };
        let copies = &mut offload.copies;
        if matches!(offload.tier, Tier::Simple(_)) {
            let end = copies.last_end().filter(|_| log.flushes_all);
            return end.map_or(start, |end| end.max(start));
        }
        copies.submit_stores(start, &log.flushed);
        let flushed = log.flushed.iter().filter_map(|&job| copies.end_of_store(job));
        let ready = flushed.fold(start, Time::max);
        copies.submit_sync_loads(ready)
    }

    /// Begins the copies of a pass that was decided `now`, computes from `start` on and ends at `end`, and notes those that
    /// have ended; `waited` if the pass waited for some.
    pub(crate) fn begin_copies(
        &mut self,
        now: Time,
        (start, end): (Time, Time),
        waited: bool,
        step: &mut Step,
    ) {
        let Some(offload) = self.offload.as_deref_mut() else { return };
        let Some(log) = &mut step.iteration.offload else { return };
        let copies = &mut offload.copies;
        match offload.tier {
            // Behind what the pass computes.
            Tier::Chunks(_) => copies.submit_loads(end),
            // Beside what the GPU computes.
            Tier::Early(_) => copies.submit_loads(now),
            Tier::Simple(_) => {
                copies.submit_loads(start);
                copies.submit_later(end);
            }
        }
        copies.take_ended(if waited { now.max(start) } else { now }, &mut log.done);
    }

    /// The scheduler learns which copies have ended.
    pub(super) fn notice_copies(&mut self, iteration: &mut Iteration) {
        let Some(offload) = self.offload.as_deref_mut() else { return };
        let Some(mut log) = iteration.offload.take() else { return };
        let loads_first = matches!(offload.tier, Tier::Simple(_));
        for (job, loads) in in_order_of_report(&log.done, loads_first) {
            match &mut offload.tier {
                Tier::Chunks(chunks) => log.received.extend(chunks.done(job)),
                Tier::Early(early) => log.received.extend(early.done(job)),
                Tier::Simple(simple) => {
                    log.received.extend(simple.done(job, loads, &mut self.kv.pool));
                }
            }
        }
        let mut settled = Vec::new();
        match &mut offload.tier {
            Tier::Chunks(chunks) => chunks.report(&mut log),
            Tier::Early(early) => {
                settled = early.settle_ended(&log.ended);
                early.report(&mut log);
            }
            Tier::Simple(simple) => simple.report(&mut log),
        }
        for &id in log.received.iter().chain(&settled) {
            self.receive(id);
        }
        iteration.offload = Some(log);
    }

    /// The KV of a request is loaded, which may have been withdrawn meanwhile.
    fn receive(&mut self, id: RequestId) {
        let requests = &self.requests;
        if let Some(loading) = self.loading.iter_mut().find(|loading| requests[loading.slot].id == id) {
            loading.received = true;
        } else if let Some(position) = self.held.iter().position(|held| requests[held.slot].id == id) {
            self.drop_held(position);
        }
    }
}

/// The places of requests among those of a pass in the order in which vLLM's scheduler puts them out: who runs for the first
/// time, who runs again, who ran before.
fn in_order_of_output(entries: &[Entry], admitted: &[Admitted]) -> Vec<usize> {
    let turn = |place: &usize| {
        let its = admitted.iter().find(|admitted| admitted.id == entries[*place].id);
        its.map_or(2, |admitted| u8::from(admitted.resumed))
    };
    let mut places: Vec<usize> = (0..entries.len()).collect();
    places.sort_by_key(turn);
    places
}

/// Copies that are done, in the order in which a scheduler hears of them: under the simple connector which requests can go on
/// before which blocks are stored.
fn in_order_of_report(done: &[(u64, bool)], loads_first: bool) -> Vec<(u64, bool)> {
    let mut done = done.to_vec();
    done.sort_by_key(|&(_, loads)| loads_first && !loads);
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_simple_connector_hears_of_loads_first() {
        let done = [(4, false), (7, true), (5, false), (6, true)];
        assert_eq!(in_order_of_report(&done, false), done);
        assert_eq!(in_order_of_report(&done, true), [(7, true), (6, true), (4, false), (5, false)]);
    }

    #[test]
    fn who_runs_for_the_first_time_comes_first_and_who_ran_before_last() {
        let entry = |number: u32| Entry {
            slot: Slot(0),
            id: RequestId(number),
            samples: true,
            first_new_block: 0,
            drafted: 0,
            accepted: 0,
            requeues: 0,
        };
        let admitted = |(number, resumed): (u32, bool)| Admitted {
            id: RequestId(number),
            cached_tokens: 0,
            host_cached_tokens: 0,
            resumed,
        };
        let entries: Vec<Entry> = (0..5).map(entry).collect();
        let admitted: Vec<Admitted> = [(2, true), (3, false), (4, true)].map(admitted).to_vec();
        assert_eq!(in_order_of_output(&entries, &admitted), [3, 2, 4, 0, 1]);
        assert_eq!(in_order_of_output(&entries, &[]), [0, 1, 2, 3, 4]);
    }
}
