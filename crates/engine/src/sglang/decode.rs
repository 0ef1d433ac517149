//! `update_running_batch`: the next token of every running request, and who goes back to the queue when memory is short.

use super::adder::PrefillAdder;
use super::policy::rank;
use super::ratio::NewTokenRatio;
use super::request::Request;
use super::scheduler::Scheduler;
use super::settings::RetractionPolicy;
use crate::Rejection;
use crate::iteration::Requeue;
use crate::step::Step;
use crate::table::Slot;

impl Scheduler {
    /// Lets the running requests decode, as far as memory goes.
    pub(super) fn plan_decode(&mut self, step: &mut Step) {
        let before = self.running.len();
        let mut running = std::mem::take(&mut self.running);
        let mut ends_in_flight = false;
        running.retain(|&slot| {
            ends_in_flight |= self.requests.get(slot).is_some_and(Request::ends_in_flight);
            self.has_tokens_to_come(slot)
        });
        if running.is_empty() {
            self.batch_is_full = false;
            self.running = running;
            return;
        }
        if self.has_pages_for(&running) {
            self.ratio.decay();
        } else if ends_in_flight {
            // What they free may suffice, so the decision is put off until it is free. Others are looked at first then.
            self.batch_is_full = false;
            self.running = running;
            return;
        } else {
            running = self.retract(running, step);
        }
        if running.len() < before {
            self.batch_is_full = false;
        }
        self.decode(&running, step);
        self.running = running;
    }

    /// Whether there are pages for the next token of each of `requests`; evicts for them.
    pub(super) fn has_pages_for(&mut self, requests: &[Slot]) -> bool {
        let tokens = requests.iter().map(|&slot| self.lacks(slot)).sum();
        self.cache.make_available(tokens);
        self.cache.available() >= tokens
    }

    /// Sends running requests back to the queue until the others have pages: those with the shortest output first, of
    /// equals the one with the longest prompt; less important ones before all others, if that is the policy.
    ///
    /// The last one is given up if it does not even fit alone: then windows, copies to the host, drafts or a prompt that is
    /// computed in chunks have the memory.
    fn retract(&mut self, mut running: Vec<Slot>, step: &mut Step) -> Vec<Slot> {
        let low_first = self.sglang.schedule_low_priority_values_first;
        let by_priority = self.sglang.retraction_policy == RetractionPolicy::Priority;
        let key = |request: &Request| {
            let rank = if by_priority { rank(request, low_first) } else { 0 };
            (rank, std::cmp::Reverse(request.outputs), request.prompt_tokens)
        };
        running.sort_by_key(|&slot| key(&self.requests[slot]));
        let mut retracted = Vec::new();
        let keeps_kv = self.decode_side.as_ref().is_none_or(|side| side.keeps_kv);
        while running.len() > 1
            && let Some(slot) = running.pop()
        {
            if keeps_kv {
                self.release_for_requeue(slot, running.len(), Requeue::Retracted, step);
                retracted.push(slot);
            } else {
                self.give_up(slot, running.len(), step);
            }
            if self.has_pages_for(&running) {
                break;
            }
        }
        if let &[last] = &running[..]
            && !self.has_pages_for(&running)
        {
            running.clear();
            if self.waits_for_transfers() {
                self.release_for_requeue(last, 0, Requeue::Retracted, step);
                retracted.push(last);
            } else {
                self.give_up(last, 0, step);
            }
        }
        let outputs = running.iter().map(|&slot| u64::from(self.requests[slot].outputs)).sum();
        let most = running.iter().map(|&slot| u64::from(self.requests[slot].max_new_tokens)).sum();
        self.ratio.estimate(running.len() as u64, outputs, most);
        for slot in retracted {
            self.requeue(slot);
        }
        running
    }

    /// Whether KV of other workers has memory that becomes free by itself, where the real engine knows no such thing.
    fn waits_for_transfers(&self) -> bool {
        self.decode_side.is_none() && !(self.loading.is_empty() && self.held.is_empty())
    }

    /// Gives a running request up whose KV nobody keeps.
    pub(super) fn give_up(&mut self, slot: Slot, others: usize, step: &mut Step) {
        self.cache.release(&mut self.requests[slot]);
        let request = self.requests.remove(slot);
        let tokens = request.known();
        step.iteration.rejected.push((request.id, Rejection::KvCapacity { tokens }));
        self.cache.make_available(NewTokenRatio::headroom(others));
    }

    /// Takes the KV of a request away, which is not shared, and leaves some memory free for those that stay.
    pub(super) fn release_for_requeue(&mut self, slot: Slot, others: usize, how: Requeue, step: &mut Step) {
        let request = &mut self.requests[slot];
        self.cache.release(request);
        request.in_flight = 0;
        // Until it is looked up again, it counts with what it was filled with, and nothing of that is cached.
        request.extend = request.filled;
        request.note_requeue();
        step.iteration.preempted.push(request.id);
        step.requeued.push(how);
        self.cache.make_available(NewTokenRatio::headroom(others));
    }

    /// Makes room for a waiting request by sending less important running ones back; returns whether that was enough.
    pub(super) fn preempt_for(
        &mut self,
        slot: Slot,
        adder: &mut PrefillAdder,
        preempted: &mut Vec<Slot>,
        step: &mut Step,
    ) -> bool {
        let low_first = self.sglang.schedule_low_priority_values_first;
        let threshold = i64::from(self.sglang.priority_scheduling_preemption_threshold);
        let mut candidates = self.running.clone();
        candidates.sort_by_key(|&slot| {
            let request = &self.requests[slot];
            (-rank(request, low_first), std::cmp::Reverse(request.entered))
        });
        let request = &self.requests[slot];
        let own = rank(request, low_first);
        let output = request.remaining().min(self.sglang.clip_max_new_tokens);
        // As in the real scheduler, a request that was not looked at yet counts without its prompt.
        let mut needed = f64::from(request.extend) + f64::from(output) - adder.rem_total(&self.cache);
        let mut victims = Vec::new();
        for candidate in candidates {
            let running = &self.requests[candidate];
            if rank(running, low_first) - own <= threshold {
                break;
            }
            victims.push(candidate);
            needed -= adder.reservation(running);
            if needed <= 0.0 {
                break;
            }
        }
        if victims.is_empty() || needed > 0.0 {
            return false;
        }
        let in_order: Vec<Slot> =
            self.running.iter().copied().filter(|slot| victims.contains(slot)).collect();
        for (position, &victim) in in_order.iter().enumerate() {
            adder.unreserve(adder.reservation(&self.requests[victim]));
            let others = self.running.len() - position - 1;
            self.release_for_requeue(victim, others, Requeue::Preempted, step);
        }
        self.running.retain(|slot| !in_order.contains(slot));
        preempted.extend(in_order);
        true
    }
}
