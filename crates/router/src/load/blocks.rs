//! Which blocks the running requests of each rank hold, shared ones counted once.
//!
//! Requests hold whole chains from the first block on. Consecutive blocks that exactly the same requests hold form a
//! **run**, so booking, releasing and projecting a prompt cost one step for each run on its way (plus a comparison of
//! its hashes), not one map access a block:
//!
//! ```text
//!  r1: b1…b200            runs before r2: [b1…b200] r1
//!  r2: b1…b120 c1…c80     after:          [b1…b120] r1,r2   [b121…b200] r1   [c1…c80] r2
//! ```
//!
//! A run is found by its first block. That is exact for chained identities, where a block determines everything
//! before it: whoever shares a block of a run shares the run from its beginning.

use std::sync::Arc;

use rustc_hash::FxHashMap;
use servecast_types::SequenceHash;
use smallvec::SmallVec;

use crate::rank::Slot;

type RunId = u32;
/// Number of a booking in the load model.
pub(super) type BookingId = u32;
const NONE: RunId = RunId::MAX;

#[derive(Debug, Clone)]
struct Run {
    /// The hashes are `source[start..start + len]`, of whichever prompt brought them.
    source: Arc<[SequenceHash]>,
    start: u32,
    len: u32,
    /// What was cut off this run by its latest split: requests from before the split hold it too.
    tail: RunId,
    /// Who holds it, by slot.
    users: SmallVec<[User; 2]>,
}

#[derive(Debug, Clone, Copy)]
struct User {
    slot: Slot,
    requests: u32,
    /// Exclusive or of the requests: with a single one left, its number.
    owners: BookingId,
}

/// The runs of one request: where each begins, and how long it was when the request took it.
pub(super) type Segments = SmallVec<[(RunId, u32); 4]>;

/// How the blocks of a rank changed by one booking or release.
#[derive(Debug, Clone, Default)]
pub(super) struct Change {
    /// Blocks that nobody on the rank held before, or nobody holds any more.
    pub(super) blocks: u32,
    /// By how much the blocks that a request holds alone changed.
    pub(super) exclusive: SmallVec<[(BookingId, i64); 4]>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct SharedBlocks {
    runs: Vec<Run>,
    free: Vec<RunId>,
    by_first: FxHashMap<SequenceHash, RunId>,
    no_hashes: Arc<[SequenceHash]>,
}

impl Run {
    fn hashes(&self) -> &[SequenceHash] {
        &self.source[self.start as usize..(self.start + self.len) as usize]
    }
}

impl SharedBlocks {
    /// Number of runs in use.
    pub(super) fn num_runs(&self) -> usize {
        self.runs.len() - self.free.len()
    }

    /// Adds to `depths`, for each rank, how many leading blocks of `chain` its requests hold. `depths` has a zero for
    /// each slot.
    pub(super) fn shared_prefix(&self, chain: &[SequenceHash], depths: &mut [u32]) {
        let mut at = 0;
        while let Some(&run) = chain.get(at).and_then(|first| self.by_first.get(first)) {
            let run = &self.runs[run as usize];
            let shared = common_prefix(&chain[at..], run.hashes());
            for user in &run.users {
                let depth = &mut depths[user.slot as usize];
                if *depth as usize == at {
                    *depth += shared as u32;
                }
            }
            at += shared;
            if shared < run.len as usize {
                return;
            }
        }
    }

    /// A request on a rank takes the blocks of `chain`.
    pub(super) fn take(
        &mut self,
        slot: Slot,
        booking: BookingId,
        chain: &Arc<[SequenceHash]>,
    ) -> (Segments, Change) {
        let mut segments = Segments::new();
        let mut change = Change::default();
        let mut at = 0;
        while at < chain.len() {
            let run = match self.by_first.get(&chain[at]) {
                Some(&run) => {
                    let shared = common_prefix(&chain[at..], self.runs[run as usize].hashes());
                    if shared < self.runs[run as usize].len as usize {
                        self.split(run, shared as u32);
                    }
                    run
                }
                None => self.create(chain, at),
            };
            let len = self.runs[run as usize].len;
            self.add_user(run, slot, booking, &mut change);
            segments.push((run, len));
            at += len as usize;
        }
        (segments, change)
    }

    /// A request on a rank gives its blocks back.
    pub(super) fn give_back(&mut self, slot: Slot, booking: BookingId, segments: &Segments) -> Change {
        let mut change = Change::default();
        for &(first, len) in segments {
            let (mut run, mut left) = (first, len);
            while left > 0 {
                let Run { len, tail, .. } = self.runs[run as usize];
                self.remove_user(run, slot, booking, &mut change);
                left -= len;
                run = tail;
            }
        }
        change
    }

    fn create(&mut self, chain: &Arc<[SequenceHash]>, at: usize) -> RunId {
        let run = Run {
            source: Arc::clone(chain),
            start: at as u32,
            len: (chain.len() - at) as u32,
            tail: NONE,
            users: SmallVec::new(),
        };
        self.insert(run)
    }

    /// Cuts a run in two; the second part is a run of its own from now on, with the same users.
    fn split(&mut self, head: RunId, len: u32) {
        let whole = &mut self.runs[head as usize];
        let tail = Run {
            source: Arc::clone(&whole.source),
            start: whole.start + len,
            len: whole.len - len,
            tail: whole.tail,
            users: whole.users.clone(),
        };
        whole.len = len;
        let tail = self.insert(tail);
        self.runs[head as usize].tail = tail;
    }

    fn insert(&mut self, run: Run) -> RunId {
        let first = run.hashes()[0];
        let id = if let Some(id) = self.free.pop() {
            self.runs[id as usize] = run;
            id
        } else {
            self.runs.push(run);
            self.runs.len() as RunId - 1
        };
        self.by_first.insert(first, id);
        id
    }

    fn add_user(&mut self, run: RunId, slot: Slot, booking: BookingId, change: &mut Change) {
        let run = &mut self.runs[run as usize];
        let len = i64::from(run.len);
        match run.users.binary_search_by_key(&slot, |user| user.slot) {
            Ok(at) => {
                let user = &mut run.users[at];
                if user.requests == 1 {
                    change.exclusive.push((user.owners, -len));
                }
                user.requests += 1;
                user.owners ^= booking;
            }
            Err(at) => {
                run.users.insert(at, User { slot, requests: 1, owners: booking });
                change.blocks += run.len;
                change.exclusive.push((booking, len));
            }
        }
    }

    fn remove_user(&mut self, id: RunId, slot: Slot, booking: BookingId, change: &mut Change) {
        let run = &mut self.runs[id as usize];
        let len = i64::from(run.len);
        let at = run
            .users
            .binary_search_by_key(&slot, |user| user.slot)
            .expect("a request holds the runs that it took until it gives them back");
        let user = &mut run.users[at];
        user.requests -= 1;
        user.owners ^= booking;
        match user.requests {
            0 => {
                change.blocks += run.len;
                change.exclusive.push((booking, -len));
                run.users.remove(at);
            }
            1 => change.exclusive.push((user.owners, len)),
            _ => {}
        }
        if run.users.is_empty() {
            // Identities that are not chained can begin several runs alike; the map has the latest.
            let first = run.hashes()[0];
            if self.by_first.get(&first) == Some(&id) {
                self.by_first.remove(&first);
            }
            // The prompt that brought the hashes may be long gone otherwise.
            run.source = Arc::clone(&self.no_hashes);
            (run.start, run.len) = (0, 0);
            self.free.push(id);
        }
    }
}

fn common_prefix(a: &[SequenceHash], b: &[SequenceHash]) -> usize {
    let len = a.len().min(b.len());
    // One comparison of memory settles the common case that all is equal.
    if a[..len] == b[..len] {
        return len;
    }
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}
