//! The policy `prefix_hash`: consistent hashing with bounded load.

use std::sync::Arc;

use servecast_types::{BlockHasher, ContentNames, Prompt, SequenceHash, WorkerId};

use super::least_loaded::LeastLoaded;
use super::{Candidate, Pick, RoutedRequest, position};

/// Places on the ring a worker has, so that neighbours share its load when it is full.
const PLACES: u64 = 64;

/// How much more than its share a worker may have in flight.
const LOAD_FACTOR: f64 = 1.25;

/// Consistent hashing of the first blocks of a prompt, with bounded load.
///
/// Prompts that begin alike go to one worker, unless it has more than 1.25 times the mean number of requests in
/// flight, or of its share where workers have different capacities: then to the next on the ring. Prompts without a full block go where the load is least.
/// Mirrokni, Thorup and Zadimoghaddam, "Consistent hashing with bounded loads" (2018).
#[derive(Debug)]
pub(crate) struct PrefixHash {
    /// Places in order of their position.
    ring: Vec<(u64, WorkerId)>,
    blocks: u32,
    block_size: u32,
    fallback: LeastLoaded,
    /// What goes by content must not depend on how it is numbered.
    names: Arc<ContentNames>,
}

impl PrefixHash {
    /// `blocks`: how many blocks of `block_size` tokens have to be equal.
    pub(super) fn new(blocks: u32, block_size: u32, fallback: LeastLoaded) -> Self {
        Self { ring: Vec::new(), blocks, block_size, fallback, names: Arc::default() }
    }

    /// Identity of the first blocks of a prompt, as many as count and it has.
    fn prefix(&self, prompt: &Prompt) -> Option<SequenceHash> {
        let prompt = self.names.canonical(prompt, self.blocks.saturating_mul(self.block_size));
        let mut hasher = BlockHasher::new(self.block_size);
        std::iter::from_fn(|| hasher.next(&prompt)).take(self.blocks as usize).last()
    }
}

impl Pick for PrefixHash {
    fn pick(&mut self, request: &RoutedRequest<'_>, candidates: &[Candidate]) -> usize {
        let prompt = request.prompt;
        let Some(SequenceHash(prefix)) = self.prefix(prompt) else {
            return self.fallback.pick(request, candidates);
        };
        let total: u64 = candidates.iter().map(|candidate| u64::from(candidate.in_flight)).sum();
        let capacity: u64 = candidates.iter().map(|candidate| u64::from(candidate.capacity)).sum();
        let mean = LOAD_FACTOR * (total + 1) as f64 / candidates.len() as f64;
        // Exactly 1 where all are equal.
        let share = |of: u32| (u64::from(of) * candidates.len() as u64) as f64 / capacity as f64;
        let most = |of: u32| (mean * share(of)).ceil() as u32;
        let start = self.ring.partition_point(|&(position, _)| position < prefix);
        let clockwise = self.ring[start..].iter().chain(&self.ring[..start]);
        let is_free = |&index: &usize| candidates[index].in_flight < most(candidates[index].capacity);
        let free = clockwise.filter_map(|&(_, worker)| position(candidates, worker)).find(is_free);
        free.unwrap_or_else(|| self.fallback.pick(request, candidates))
    }

    fn workers_changed(&mut self, workers: &[Candidate]) {
        let places = workers.iter().flat_map(|&Candidate { worker, .. }| {
            (0..PLACES).map(move |place| (mix(u64::from(worker.0) << 32 | place), worker))
        });
        self.ring = places.collect();
        self.ring.sort_unstable();
    }

    fn name_contents(&mut self, names: &Arc<ContentNames>) {
        self.names = Arc::clone(names);
    }
}

/// Spreads consecutive numbers over all 64 bits (the finaliser of `SplitMix64`).
fn mix(number: u64) -> u64 {
    let mut z = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_pcg::Pcg64;
    use servecast_types::{Interner, Run};

    use super::*;
    use crate::routing::tests::candidates;

    fn policy(workers: usize) -> PrefixHash {
        let mut policy = PrefixHash::new(4, 16, LeastLoaded::new(Pcg64::seed_from_u64(0)));
        policy.workers_changed(&candidates(&vec![0; workers]));
        policy
    }

    fn prompt(family: u32, tail: u32) -> Prompt {
        Prompt::new([Run::tokens(family * 1000, 64), Run::tokens(1_000_000 + tail * 1000, 32)])
    }

    #[test]
    fn prompts_that_begin_alike_go_to_one_worker() {
        let mut policy = policy(8);
        let all = candidates(&[1; 8]);
        let worker = policy.pick(&RoutedRequest::of(&prompt(1, 1)), &all);
        assert!((2..20).all(|tail| policy.pick(&RoutedRequest::of(&prompt(1, tail)), &all) == worker));
        let workers: Vec<usize> =
            (0..64).map(|family| policy.pick(&RoutedRequest::of(&prompt(family, 0)), &all)).collect();
        assert!((0..8).all(|worker| workers.contains(&worker)), "families spread over all workers");
    }

    #[test]
    fn how_content_is_numbered_does_not_matter() {
        let pick = |seen: &[u64]| {
            let mut interner = Interner::new();
            for id in seen {
                interner.intern(*id);
            }
            let prompts: Vec<Prompt> = (0..20)
                .map(|family| Prompt::from_blocks([interner.intern(1 << 50 | family << 40)], 64, 64))
                .collect();
            let mut policy = policy(8);
            policy.name_contents(&Arc::new(interner.into_names(64)));
            prompts
                .iter()
                .map(|prompt| policy.pick(&RoutedRequest::of(prompt), &candidates(&[1; 8])))
                .collect::<Vec<_>>()
        };
        let alone = pick(&[]);
        assert_eq!(pick(&[1 << 50 | 7 << 40, 1 << 60, 1 << 50 | 3 << 40]), alone);
        assert!((1..20).any(|family| alone[family] != alone[0]));
    }

    #[test]
    fn prompts_stay_where_they_go_when_other_workers_come_and_go() {
        let mut policy = policy(4);
        let mut among = |workers: &[u32]| {
            let candidates: Vec<_> =
                workers.iter().map(|&worker| Candidate::new(WorkerId(worker), 100)).collect();
            policy.workers_changed(&candidates);
            let worker = |family| {
                candidates[policy.pick(&RoutedRequest::of(&prompt(family, 0)), &candidates)].worker.0
            };
            (0..64).map(worker).collect::<Vec<_>>()
        };
        let (all, some, more) = (among(&[0, 1, 2, 3]), among(&[0, 2, 3]), among(&[0, 2, 3, 4]));
        for family in 0..64 {
            assert!(some[family] != 1 && (some[family] == all[family] || all[family] == 1));
            assert!(more[family] == some[family] || more[family] == 4);
        }
        assert!(more.contains(&4) && all.contains(&1));
    }

    #[test]
    fn a_worker_with_too_much_to_do_passes_requests_on() {
        let mut policy = policy(4);
        let mut loads = [1; 4];
        let first = policy.pick(&RoutedRequest::of(&prompt(1, 0)), &candidates(&loads));
        loads[first] = 3;
        let next = policy.pick(&RoutedRequest::of(&prompt(1, 0)), &candidates(&loads));
        assert_ne!(next, first);
        loads[next] = 2;
        let again = policy.pick(&RoutedRequest::of(&prompt(1, 0)), &candidates(&loads));
        assert_eq!(again, next, "2 of 8 is within 1.25 times the mean");
    }

    #[test]
    fn a_prompt_without_a_full_block_goes_where_the_load_is_least() {
        let mut policy = policy(3);
        let short = Prompt::new([Run::tokens(5, 15)]);
        assert_eq!(policy.pick(&RoutedRequest::of(&short), &candidates(&[2, 1, 0])), 2);
    }
}
