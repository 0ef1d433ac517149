//! `SchedulePolicy`: the order in which waiting requests are looked at.

use std::cmp::Reverse;

use rand::SeedableRng;
use rand_pcg::Pcg64Mcg;
use servecast_types::Time;
use smallvec::SmallVec;

use super::cache::KvCache;
use super::order;
use super::queue::{Place, WaitingQueue};
use super::request::Request;
use super::settings::{SchedulePolicy, SglangConfig};
use crate::order::OwnOrder;
use crate::table::{RequestTable, Slot};

/// Waiting requests beyond which to look all of them up is not worth its time.
const MOST_LOOKED_UP: usize = 128;

#[derive(Debug)]
pub(super) struct Policy {
    order: SchedulePolicy,
    /// Order by priority first; `Some(true)` if low values come first.
    by_priority: Option<bool>,
    /// An order of a program, in place of these two.
    own: Option<OwnOrder>,
    random: Pcg64Mcg,
    /// How often requests were put in order without regard to what is cached.
    unaware: u64,
}

/// How often the prefixes of waiting requests count as used where the order does not depend on them.
const REFRESH_EVERY: u64 = 32;
/// How many waiting requests that reaches, from the head of the queue.
const REFRESH_FIRST: usize = 128;

impl Policy {
    pub(super) fn new(config: &SglangConfig) -> Self {
        Self {
            order: config.schedule_policy,
            by_priority: config
                .enable_priority_scheduling
                .then_some(config.schedule_low_priority_values_first),
            own: None,
            random: Pcg64Mcg::seed_from_u64(config.random_seed),
            unaware: 0,
        }
    }

    /// The same with an order of a program, if there is one. The cache is treated as under `fcfs`.
    pub(super) fn with_order(self, own: Option<OwnOrder>) -> Self {
        let order = if own.is_some() { SchedulePolicy::Fcfs } else { self.order };
        Self { order, own, ..self }
    }

    /// Puts requests in the order that a program has for them `now`, if they may change places.
    pub(super) fn arrange(
        &self,
        waiting: &mut WaitingQueue,
        requests: &mut RequestTable<Request>,
        now: Time,
    ) {
        if let Some(own) = self.own.as_ref().filter(|own| own.changes()) {
            waiting.place_anew(|slot| {
                let request = &mut requests[slot];
                request.ask(own, now);
                Place::asked(request)
            });
        }
    }

    /// Puts the waiting requests in order. `running`: those of the running batch; `computed`: prompt tokens that the engine
    /// has computed so far.
    pub(super) fn order(
        &mut self,
        waiting: &mut WaitingQueue,
        requests: &mut RequestTable<Request>,
        cache: &mut KvCache,
        running: &[Slot],
        computed: u64,
    ) {
        let looks_up = cache.shares && self.order.goes_by_cache();
        let too_many = matches!(self.order, SchedulePolicy::Lpm | SchedulePolicy::Hrrn)
            && waiting.len() > MOST_LOOKED_UP;
        match self.order {
            SchedulePolicy::Random => waiting.shuffle(),
            SchedulePolicy::RoutingKey => order::by_routing_key(waiting.as_mut_slice(), requests, running),
            // It does not fall back to an order by priority.
            _ if looks_up && too_many => {}
            SchedulePolicy::Lpm if looks_up => {
                order::by_longest_prefix(waiting.as_mut_slice(), requests, cache);
            }
            SchedulePolicy::DfsWeight if looks_up => {
                order::by_subtree(waiting.as_mut_slice(), requests, cache);
            }
            SchedulePolicy::Hrrn if looks_up => {
                order::by_response_ratio(waiting.as_mut_slice(), requests, cache, computed);
            }
            SchedulePolicy::ShortestPrefillFirst if looks_up => {
                order::by_uncached_tokens(waiting.as_mut_slice(), requests, cache);
            }
            _ => self.place(waiting, requests),
        }
        if !looks_up || too_many {
            self.refresh(waiting, requests, cache);
        }
    }

    /// Most tokens of the next chunk of `chunked` if waiting requests with less to compute are to have some of the `budget`
    /// of the batch; the waiting ones are in order.
    pub(super) fn chunk_limit(
        &self,
        chunked: &Request,
        waiting: &WaitingQueue,
        requests: &RequestTable<Request>,
        budget: i64,
        page_size: u32,
    ) -> Option<u32> {
        let budget = u32::try_from(budget).unwrap_or(0);
        if self.order != SchedulePolicy::ShortestPrefillFirst || budget / 2 < page_size {
            return None;
        }
        let left = chunked.known() - chunked.computed;
        let mut reserved = 0;
        for slot in waiting.iter() {
            let uncached = requests[slot].uncached();
            let pages = u64::from(uncached.div_ceil(page_size)) * u64::from(page_size);
            if uncached >= left || reserved + pages > u64::from(budget - page_size) {
                break;
            }
            reserved += pages;
        }
        (reserved > 0).then(|| (budget - reserved as u32) / page_size * page_size)
    }

    /// The request that is looked at next.
    pub(super) fn head(&mut self, waiting: &mut WaitingQueue) -> Option<Slot> {
        if self.order == SchedulePolicy::Random {
            waiting.draw(1, &mut self.random);
        }
        waiting.front()
    }

    /// Puts requests that fetch their KV in order: as they came, by priority, or in that of a program.
    pub(super) fn order_fetching(
        &self,
        fetching: &mut WaitingQueue,
        requests: &mut RequestTable<Request>,
        now: Time,
    ) {
        self.arrange(fetching, requests, now);
        if self.by_priority.is_some() || self.own.is_some() {
            self.place_by(fetching, requests, false);
        }
    }

    /// Whether requests have priorities: `Some(true)` if low values come first.
    pub(super) fn by_priority(&self) -> Option<bool> {
        self.by_priority
    }

    /// Orders by priority and the longest output, as far as these count, or as a program does.
    fn place(&self, waiting: &mut WaitingQueue, requests: &RequestTable<Request>) {
        self.place_by(waiting, requests, self.order == SchedulePolicy::Lof);
    }

    fn place_by(&self, waiting: &mut WaitingQueue, requests: &RequestTable<Request>, longest_output: bool) {
        if self.own.is_some() {
            return waiting.place(|slot| Place::asked(&requests[slot]));
        }
        if self.by_priority.is_none() && !longest_output {
            return;
        }
        waiting.place(|slot| {
            let request = &requests[slot];
            Place {
                rank: self.by_priority.map_or(0, |low_first| rank(request, low_first)),
                output: Reverse(if longest_output { request.max_new_tokens } else { 0 }),
                arrival: Time::ZERO,
                entered: request.entered,
            }
        });
    }

    /// Now and then keeps what the first waiting requests would hit from being evicted before their turn, that of the
    /// head longest.
    fn refresh(
        &mut self,
        waiting: &mut WaitingQueue,
        requests: &mut RequestTable<Request>,
        cache: &mut KvCache,
    ) {
        if waiting.is_empty() {
            return;
        }
        if cache.shares && self.unaware.is_multiple_of(REFRESH_EVERY) {
            if self.order == SchedulePolicy::Random {
                waiting.draw(REFRESH_FIRST, &mut self.random);
            }
            let first: SmallVec<[Slot; REFRESH_FIRST]> = waiting.iter().take(REFRESH_FIRST).collect();
            for &slot in first.iter().rev() {
                let request = &mut requests[slot];
                let tokens = request.known();
                cache.find(request, tokens);
            }
        }
        self.unaware += 1;
    }
}

/// The lowest rank goes first.
pub(super) fn rank(request: &Request, low_first: bool) -> i64 {
    if low_first { i64::from(request.priority) } else { -i64::from(request.priority) }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::fixture::Fixture;
    use super::*;

    /// The order in which requests are looked at, by their numbers.
    fn order(fixture: &mut Fixture) -> Vec<u32> {
        let mut policy = Policy::new(&fixture.sglang());
        order_by(&mut policy, fixture)
    }

    fn order_by(policy: &mut Policy, fixture: &mut Fixture) -> Vec<u32> {
        let Fixture { cache, requests, waiting, .. } = fixture;
        policy.order(waiting, requests, cache, &[], 0);
        waiting.iter().map(|slot| requests[slot].id.0).collect()
    }

    fn with(own: &Value, requests: &[(u32, u32)]) -> Fixture {
        let mut fixture = Fixture::new(100_000, own);
        for (number, &(prompt, output)) in requests.iter().enumerate() {
            fixture.add(&[(10_000 * number as u32, prompt)], output);
        }
        fixture
    }

    #[test]
    fn first_come_first_served_leaves_the_queue_as_it_is() {
        assert_eq!(order(&mut with(&json!({}), &[(5, 1), (9, 9), (1, 5)])), [0, 1, 2]);
    }

    #[test]
    fn longest_output_first_keeps_the_order_of_equals() {
        let own = json!({"schedule_policy": "lof"});
        assert_eq!(order(&mut with(&own, &[(5, 1), (5, 9), (5, 1), (5, 9)])), [1, 3, 0, 2]);
    }

    #[test]
    fn priorities_come_before_everything_else() {
        for (policy, low_first, expected) in [
            ("fcfs", false, [1, 3, 0, 2]),
            ("fcfs", true, [0, 2, 1, 3]),
            ("lof", false, [3, 1, 2, 0]),
            ("lof", true, [2, 0, 3, 1]),
        ] {
            let own = json!({
                "schedule_policy": policy, "enable_priority_scheduling": true,
                "schedule_low_priority_values_first": low_first,
            });
            let mut fixture = with(&own, &[(5, 1), (5, 2), (5, 3), (5, 4)]);
            for (slot, priority) in fixture.waiting.iter().zip([0, 5, 0, 5]) {
                fixture.requests[slot].priority = priority;
            }
            assert_eq!(order(&mut fixture), expected, "{policy}, low first: {low_first}");
        }
    }

    #[test]
    fn random_is_a_permutation_that_the_seed_decides() {
        let own = |seed: u64| json!({"schedule_policy": "random", "random_seed": seed});
        let requests = [(5, 1); 20];
        let order = |seed| {
            let Fixture { config, mut cache, mut requests, mut waiting, .. } = with(&own(seed), &requests);
            let mut policy = Policy::new(&config.sglang.unwrap());
            policy.order(&mut waiting, &mut requests, &mut cache, &[], 0);
            let next = || {
                let head = policy.head(&mut waiting)?;
                assert_eq!(waiting.pop_front(), Some(head));
                Some(requests[head].id.0)
            };
            std::iter::from_fn(next).collect::<Vec<_>>()
        };
        let mut shuffled = order(1);
        assert_eq!(shuffled, order(1));
        assert_ne!(shuffled, order(2));
        shuffled.sort_unstable();
        assert_eq!(shuffled, (0..20).collect::<Vec<_>>());
    }

    #[test]
    fn the_longest_cached_prefix_goes_first() {
        let mut fixture = Fixture::new(1_000, &json!({"schedule_policy": "lpm"}));
        fixture.cache_prompt(&[(0, 60)]);
        for prompt in [[(500, 60), (0, 1)], [(0, 40), (900, 9)], [(0, 60), (900, 9)], [(0, 40), (700, 9)]] {
            fixture.add(&prompt, 1);
        }
        assert_eq!(order(&mut fixture), [2, 1, 3, 0]);
    }

    #[test]
    fn few_uncached_tokens_go_first_and_what_is_about_to_be_cached_last() {
        let mut fixture =
            Fixture::new(1_000, &json!({"schedule_policy": "shortest-prefill-first", "page_size": 1}));
        fixture.cache_prompt(&[(0, 60)]);
        for prompt in [vec![(500, 40)], vec![(0, 60), (90, 25)], vec![(500, 40), (7, 1)], vec![(0, 60)]] {
            fixture.add(&prompt, 1);
        }
        assert_eq!(order(&mut fixture), [3, 1, 0, 2]);
    }

    #[test]
    fn a_chunk_leaves_room_for_prompts_that_are_shorter_than_what_is_left_of_it() {
        let mut fixture = Fixture::new(10_000, &json!({"schedule_policy": "shortest-prefill-first"}));
        for prompt in [(500, 40), (1_000, 100), (2_000, 600)] {
            fixture.add(&[prompt], 1);
        }
        let long = fixture.add(&[(3_000, 454)], 1);
        let (policy, Fixture { requests, waiting, .. }) = (Policy::new(&fixture.sglang()), &fixture);
        let limit = |budget, page| policy.chunk_limit(&requests[long], waiting, requests, budget, page);
        assert_eq!(limit(256, 1), Some(256 - 40 - 100), "600 are more than 454");
        assert_eq!(limit(256, 16), Some(256 - 48 - 112));
        assert_eq!(limit(140, 1), Some(100), "a token of the chunk stays");
        assert_eq!((limit(41, 1), limit(40, 1), limit(31, 16)), (Some(1), None, None));
    }

    #[test]
    fn who_has_waited_longest_for_its_length_goes_first() {
        let mut fixture =
            with(&json!({"schedule_policy": "hrrn"}), &[(100, 1), (50, 1), (10, 1), (20, 1), (10, 1)]);
        for (slot, before) in fixture.waiting.iter().zip([0, 60, 90, 80, 90]) {
            fixture.requests[slot].computed_before = before;
        }
        let mut policy = Policy::new(&fixture.sglang());
        let Fixture { cache, requests, waiting, .. } = &mut fixture;
        policy.order(waiting, requests, cache, &[], 100);
        let order: Vec<u32> = waiting.iter().map(|slot| requests[slot].id.0).collect();
        assert_eq!(order, [0, 2, 3, 4, 1]);
    }

    #[test]
    fn keys_that_run_most_go_first() {
        let mut fixture = with(&json!({"schedule_policy": "routing-key"}), &[(5, 1); 6]);
        let slots: Vec<Slot> = fixture.waiting.iter().collect();
        for (&slot, key) in slots.iter().zip([None, Some(4), Some(7), Some(9), Some(4), Some(5)]) {
            fixture.requests[slot].routing_key = key;
        }
        let mut policy = Policy::new(&fixture.sglang());
        let Fixture { cache, requests, waiting, .. } = &mut fixture;
        let mut by = |running: &[Slot]| {
            policy.order(waiting, requests, cache, running, 0);
            waiting.iter().map(|slot| requests[slot].id.0).collect::<Vec<_>>()
        };
        assert_eq!(by(&[]), [0, 1, 2, 3, 4, 5], "nobody runs");
        // 7 runs twice, 5 once.
        assert_eq!(by(&[slots[2], slots[2], slots[5]]), [2, 5, 0, 1, 4, 3]);
    }

    #[test]
    fn what_an_earlier_one_is_about_to_cache_is_waited_for() {
        let mut fixture = Fixture::new(1_000, &json!({"schedule_policy": "lpm"}));
        for prompt in [(0, 32), (0, 32), (0, 31), (500, 40), (0, 90)] {
            fixture.add(&[prompt], 1);
        }
        assert_eq!(order(&mut fixture), [0, 2, 3, 1, 4], "32 common tokens are worth it, 31 are not");
        // A prefix of more than 32 tokens that is cached already is taken as it is.
        fixture.cache_prompt(&[(0, 33)]);
        fixture.add(&[(0, 90)], 1);
        assert_eq!(order(&mut fixture), [4, 5, 0, 2, 3, 1]);
    }

    #[test]
    fn a_long_queue_is_served_as_it_came() {
        for (waiting, first) in [(128, 127), (129, 0)] {
            let mut fixture = Fixture::new(100_000, &json!({"schedule_policy": "lpm"}));
            fixture.cache_prompt(&[(0, 60)]);
            for number in 1..waiting {
                fixture.add(&[(1_000 * number, 50)], 1);
            }
            fixture.add(&[(0, 60)], 1);
            assert_eq!(order(&mut fixture)[0], first, "{waiting} requests");
        }
    }

    #[test]
    fn the_subtree_with_most_requests_goes_first_and_its_end_before_its_middle() {
        let mut fixture = Fixture::new(1_000, &json!({"schedule_policy": "dfs-weight"}));
        for prompt in [[(0, 20), (100, 20)], [(0, 20), (200, 20)], [(500, 20), (600, 20)]] {
            fixture.cache_prompt(&prompt);
        }
        for prompt in [
            [(900, 5), (0, 1)],
            [(500, 20), (600, 20)],
            [(0, 20), (900, 1)],
            [(0, 20), (200, 20)],
            [(0, 20), (200, 9)],
        ] {
            fixture.add(&prompt, 1);
        }
        let order = order(&mut fixture);
        assert_eq!(order.len(), 5);
        assert_eq!(order[4], 0, "what matches nothing comes last");
        assert_eq!(order[3], 1, "then the lighter subtree");
        assert_eq!(order[2], 2, "a node comes after what is below it");
    }

    /// The numbers of requests whose cached prefixes are evicted, in order; these have as many tokens as their numbers say.
    fn evicted(fixture: &mut Fixture) -> Vec<u32> {
        std::iter::from_fn(|| fixture.cache.tree.evict_leaf()).map(|leaf| leaf.tokens - 1).collect()
    }

    #[test]
    fn what_the_first_128_wait_for_counts_as_used_that_of_the_head_last() {
        let cached = |number: u32| (1_000 * number, 1 + number);
        for (own, requests) in [(json!({}), 131), (json!({"schedule_policy": "lpm"}), 130)] {
            let mut fixture = Fixture::new(100_000, &own);
            (0..requests).for_each(|number| fixture.cache_prompt(&[cached(number)]));
            (0..requests).for_each(|number| _ = fixture.add(&[cached(number)], 1));
            order(&mut fixture);
            let expected: Vec<u32> = (128..requests).chain((0..128).rev()).collect();
            assert_eq!(evicted(&mut fixture), expected);
        }
    }

    #[test]
    fn requests_count_as_waiting_in_the_order_in_which_they_are_put() {
        let mut fixture = Fixture::new(1_000, &json!({"schedule_policy": "lof"}));
        for (number, max_new_tokens) in [(0, 5), (1, 9)] {
            fixture.cache_prompt(&[(1_000 * number, 1 + number)]);
            fixture.add(&[(1_000 * number, 1 + number)], max_new_tokens);
        }
        assert_eq!(order(&mut fixture), [1, 0]);
        assert_eq!(evicted(&mut fixture), [0, 1], "what the head waits for goes last");
    }

    #[test]
    fn every_32nd_time_what_requests_wait_for_counts_as_used() {
        let mut fixture = Fixture::new(10_000, &json!({}));
        fixture.cache_prompt(&[(0, 10)]);
        fixture.add(&[(0, 30)], 1);
        let mut policy = Policy::new(&fixture.sglang());
        let mut used = Vec::new();
        for call in 0..70 {
            // Newer than the prefix, and evicted first only if that was used since.
            fixture.cache_prompt(&[(1_000 + 10 * call, 7)]);
            order_by(&mut policy, &mut fixture);
            let tokens = fixture.cache.tree.evict_leaf().unwrap().tokens;
            if tokens == 7 {
                used.push(call);
            } else {
                fixture.cache.tree.evict_leaf().unwrap();
                fixture.cache_prompt(&[(0, 10)]);
            }
        }
        assert_eq!(used, [0, 32, 64]);
    }
}
