//! LoRA adapters of a worker: which of them running requests have, which are on the GPU, and which in the memory of the host.
//!
//! vLLM's workers load what a batch needs before they compute it (`LRUCacheWorkerLoRAManager`): from where adapters are
//! published into the memory of the host if it is not there, and from there to the GPU. Either place gives up the adapter that
//! was used last the longest ago; the GPU gives up what the host does. Nothing is there before the first request with it.
//!
//! Adapters of running requests count as in use, be these scheduled or not, so that what is there changes only when a request
//! begins to run.

use servecast_types::{Duration, ensure};

use crate::lora::Lora;

/// The adapters of one worker.
#[derive(Debug)]
pub(super) struct Adapters {
    settings: Lora,
    /// Those of running requests, and of how many of them each.
    running: Vec<(u32, u32)>,
    on_gpu: Kept,
    at_host: Kept,
}

/// Adapters in one place, each with the iteration in which it was last used.
#[derive(Debug, Default)]
struct Kept(Vec<(u64, u32)>);

impl Kept {
    fn has(&self, adapter: u32) -> bool {
        self.0.iter().any(|&(_, kept)| kept == adapter)
    }

    fn touch(&mut self, adapter: u32, now: u64) {
        if let Some((used, _)) = self.0.iter_mut().find(|(_, kept)| *kept == adapter) {
            *used = now;
        }
    }

    fn remove(&mut self, adapter: u32) {
        self.0.retain(|&(_, kept)| kept != adapter);
    }

    /// Takes one in; returns the one that makes way for it in a place for `most` of them. Who was used last in the same
    /// iteration goes by number, so that the order of results does not matter.
    fn insert(&mut self, adapter: u32, now: u64, most: u32, is_in_use: impl Fn(u32) -> bool) -> Option<u32> {
        let is_full = self.0.len() >= most as usize;
        let unused = self.0.iter().filter(|&&(_, kept)| !is_in_use(kept)).min().filter(|_| is_full);
        let evicted = unused.map(|&(_, kept)| kept);
        if let Some(evicted) = evicted {
            self.remove(evicted);
        }
        self.0.push((now, adapter));
        evicted
    }
}

impl Adapters {
    pub(super) fn new(settings: Lora) -> Self {
        Self { settings, running: Vec::new(), on_gpu: Kept::default(), at_host: Kept::default() }
    }

    /// Whether an adapter would be one too many beside those of the running requests, be they scheduled or not.
    pub(super) fn lack(&self, adapter: u32) -> bool {
        self.running.len() >= self.settings.max_loras as usize && !self.runs(adapter)
    }

    fn runs(&self, adapter: u32) -> bool {
        self.running.iter().any(|&(running, _)| running == adapter)
    }

    /// A request with this adapter runs from iteration `now` on, which takes longer by the time that is returned.
    pub(super) fn occupy(&mut self, adapter: u32, now: u64) -> Duration {
        if let Some((_, requests)) = self.running.iter_mut().find(|(running, _)| *running == adapter) {
            *requests += 1;
            return Duration::ZERO;
        }
        self.running.push((adapter, 1));
        self.load(adapter, now)
    }

    fn load(&mut self, adapter: u32, now: u64) -> Duration {
        let Self { settings, running, on_gpu, at_host } = self;
        let is_in_use = |kept: u32| running.iter().any(|&(running, _)| running == kept);
        let mut time = Duration::ZERO;
        if !at_host.has(adapter) {
            time += settings.fetch;
            if let Some(evicted) = at_host.insert(adapter, now, settings.max_cpu_loras, is_in_use) {
                on_gpu.remove(evicted);
            }
        }
        if !on_gpu.has(adapter) {
            time += settings.load;
            on_gpu.insert(adapter, now, settings.max_loras, is_in_use);
        }
        time
    }

    /// A request with this adapter does not run any more, after iteration `now`; returns whether no other one does.
    pub(super) fn vacate(&mut self, adapter: u32, now: u64) -> bool {
        let position = self.running.iter().position(|&(running, _)| running == adapter);
        let position = position.expect("the adapter of a running request has a place");
        self.running[position].1 -= 1;
        let is_last = self.running[position].1 == 0;
        if is_last {
            self.running.swap_remove(position);
            self.on_gpu.touch(adapter, now);
            self.at_host.touch(adapter, now);
        }
        is_last
    }

    /// Checks the places against each other and against how many requests with an adapter run.
    pub(super) fn check(&self, with_adapter: usize) -> Result<(), String> {
        let Self { settings, running, on_gpu, at_host } = self;
        let counted: u32 = running.iter().map(|&(_, requests)| requests).sum();
        ensure!(
            counted as usize == with_adapter,
            "{counted} requests are counted with an adapter, of {with_adapter}"
        );
        for (place, kept, most) in
            [("on the GPU", on_gpu, settings.max_loras), ("at the host", at_host, settings.max_cpu_loras)]
        {
            let adapters = kept.0.len();
            ensure!(adapters <= most as usize, "{adapters} adapters are {place}, of {most} at most");
            let missing = running.iter().find(|&&(adapter, _)| !kept.has(adapter));
            ensure!(missing.is_none(), "{missing:?} runs, but is not {place}");
        }
        let lost = on_gpu.0.iter().find(|&&(_, adapter)| !at_host.has(adapter));
        ensure!(lost.is_none(), "{lost:?} is on the GPU, but not at the host");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loads take 1 ms from the host and 10 ms more from elsewhere.
    fn adapters(max_loras: u32, max_cpu_loras: u32) -> Adapters {
        let ms = |ms: u64| Duration::from_ns(ms * 1_000_000);
        Adapters::new(Lora { max_loras, max_cpu_loras, load: ms(1), fetch: ms(10) })
    }

    /// Runs a request with each adapter, one after the other; how many ms each of them waits.
    fn one_by_one(adapters: &mut Adapters, order: &[u32]) -> Vec<u64> {
        let mut waits = Vec::new();
        for (now, &adapter) in (0..).zip(order) {
            waits.push(adapters.occupy(adapter, now).as_ns() / 1_000_000);
            adapters.check(1).unwrap();
            assert!(adapters.vacate(adapter, now), "it ran alone");
            adapters.check(0).unwrap();
        }
        waits
    }

    #[test]
    fn adapters_stay_until_others_take_their_places() {
        // By hand: the GPU has one, the host two. 3 takes the place of 1, and 1 that of 2.
        let waits = one_by_one(&mut adapters(1, 2), &[1, 1, 2, 1, 2, 3, 2, 1, 1]);
        assert_eq!(waits, [11, 0, 11, 1, 1, 11, 1, 11, 0]);
        let waits = one_by_one(&mut adapters(2, 2), &[1, 2, 1, 3, 1, 2]);
        assert_eq!(waits, [11, 11, 0, 11, 0, 11], "3 takes the place of 2, and 2 that of 3");
    }

    #[test]
    fn what_running_requests_have_stays() {
        let mut adapters = adapters(2, 2);
        assert!(adapters.occupy(1, 0) > Duration::ZERO);
        assert_eq!(adapters.occupy(1, 1), Duration::ZERO, "another one has it already");
        assert!(adapters.occupy(2, 2) > Duration::ZERO);
        assert!(adapters.lack(3) && !adapters.lack(1));
        assert!(adapters.vacate(2, 3));
        assert!(adapters.occupy(3, 4) > Duration::ZERO, "in the place of 2, though 1 was loaded before");
        assert!(!adapters.vacate(1, 5) && adapters.vacate(1, 5));
        adapters.check(1).unwrap();
    }

    #[test]
    fn of_those_that_were_used_last_in_one_iteration_the_lowest_number_goes() {
        for order in [[1, 2], [2, 1]] {
            let mut adapters = adapters(2, 2);
            for adapter in order {
                adapters.occupy(adapter, 0);
            }
            for adapter in order {
                adapters.vacate(adapter, 7);
            }
            adapters.occupy(3, 8);
            assert!(adapters.on_gpu.has(2) && !adapters.on_gpu.has(1), "{order:?}");
        }
    }
}
