use std::sync::Arc;

use servecast_types::{BlockHasher, ContentNames, Prompt, SequenceHash, WorkerId};

use super::least_loaded::LeastLoaded;

/// Places on the ring a worker has, so that neighbours share its load when it is full.
const PLACES: u64 = 64;

/// How much more than the mean a worker may have in flight.
const LOAD_FACTOR: f64 = 1.25;

/// Consistent hashing of the first blocks of a prompt, with bounded load.
///
/// Prompts that begin alike go to one worker, unless it has more than 1.25 times the mean number of requests in
/// flight: then to the next on the ring. Prompts without a full block go where the load is least.
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
    pub(super) fn new(workers: usize, blocks: u32, block_size: u32, fallback: LeastLoaded) -> Self {
        let places = (0..workers as u64).flat_map(|worker| (0..PLACES).map(move |place| (worker, place)));
        let mut ring: Vec<(u64, WorkerId)> =
            places.map(|(worker, place)| (mix(worker << 32 | place), WorkerId(worker as u32))).collect();
        ring.sort_unstable();
        Self { ring, blocks, block_size, fallback, names: Arc::default() }
    }

    /// Says what the content of prompts is called.
    pub(super) fn name_contents(&mut self, names: Arc<ContentNames>) {
        self.names = names;
    }

    pub(super) fn pick(&mut self, prompt: &Prompt, in_flight: &[u32]) -> WorkerId {
        let Some(SequenceHash(prefix)) = self.prefix(prompt) else { return self.fallback.pick(in_flight) };
        let total: u64 = in_flight.iter().map(|&requests| u64::from(requests)).sum();
        let most = (LOAD_FACTOR * (total + 1) as f64 / in_flight.len() as f64).ceil() as u32;
        let start = self.ring.partition_point(|&(position, _)| position < prefix);
        let clockwise = self.ring[start..].iter().chain(&self.ring[..start]);
        let free = clockwise.map(|&(_, worker)| worker).find(|worker| in_flight[worker.index()] < most);
        free.unwrap_or_else(|| self.fallback.pick(in_flight))
    }

    /// Identity of the first blocks of a prompt, as many as count and it has.
    fn prefix(&self, prompt: &Prompt) -> Option<SequenceHash> {
        let prompt = self.names.canonical(prompt, self.blocks.saturating_mul(self.block_size));
        let mut hasher = BlockHasher::new(self.block_size);
        std::iter::from_fn(|| hasher.next(&prompt)).take(self.blocks as usize).last()
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

    fn policy(workers: usize) -> PrefixHash {
        PrefixHash::new(workers, 4, 16, LeastLoaded::new(Pcg64::seed_from_u64(0)))
    }

    fn prompt(family: u32, tail: u32) -> Prompt {
        Prompt::new([Run::tokens(family * 1000, 64), Run::tokens(1_000_000 + tail * 1000, 32)])
    }

    #[test]
    fn prompts_that_begin_alike_go_to_one_worker() {
        let mut policy = policy(8);
        let worker = policy.pick(&prompt(1, 1), &[1; 8]);
        assert!((2..20).all(|tail| policy.pick(&prompt(1, tail), &[1; 8]) == worker));
        let workers: Vec<WorkerId> = (0..64).map(|family| policy.pick(&prompt(family, 0), &[1; 8])).collect();
        assert!((0..8).all(|worker| workers.contains(&WorkerId(worker))), "families spread over all workers");
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
            policy.name_contents(Arc::new(interner.into_names(64)));
            prompts.iter().map(|prompt| policy.pick(prompt, &[1; 8])).collect::<Vec<_>>()
        };
        let alone = pick(&[]);
        assert_eq!(pick(&[1 << 50 | 7 << 40, 1 << 60, 1 << 50 | 3 << 40]), alone);
        assert!((1..20).any(|family| alone[family] != alone[0]));
    }

    #[test]
    fn a_worker_with_too_much_to_do_passes_requests_on() {
        let mut policy = policy(4);
        let first = policy.pick(&prompt(1, 0), &[1; 4]);
        let mut loads = [1; 4];
        loads[first.index()] = 3;
        let next = policy.pick(&prompt(1, 0), &loads);
        assert_ne!(next, first);
        loads[next.index()] = 2;
        assert_eq!(policy.pick(&prompt(1, 0), &loads), next, "2 of 8 is within 1.25 times the mean");
    }

    #[test]
    fn a_prompt_without_a_full_block_goes_where_the_load_is_least() {
        let mut policy = policy(3);
        assert_eq!(policy.pick(&Prompt::new([Run::tokens(5, 15)]), &[2, 1, 0]), WorkerId(2));
    }
}
