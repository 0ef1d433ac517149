//! Goes through the content of a prompt, run by run.

use std::hash::Hasher;

use rustc_hash::FxHasher;
use servecast_types::Run;
use smallvec::SmallVec;

/// A place in a list of runs: so many tokens of the run of that number are passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Place {
    run: u32,
    used: u32,
}

/// Goes through runs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor<'a> {
    pub(super) runs: &'a [Run],
    pub(super) place: Place,
}

impl Place {
    /// Before the first run.
    pub(super) const START: Self = Self { run: 0, used: 0 };
}

impl<'a> Cursor<'a> {
    pub(super) fn new(runs: &'a [Run]) -> Self {
        Self { runs, place: Place::default() }
    }

    /// What is left of the run at hand, without those that are used up.
    pub(super) fn head(&mut self) -> Option<Run> {
        loop {
            let Place { run, used } = &mut self.place;
            let current = self.runs.get(*run as usize)?;
            if *used < current.len() {
                return Some(current.part(*used..current.len()));
            }
            *used = 0;
            *run += 1;
        }
    }

    pub(super) fn skip(&mut self, mut tokens: u32) {
        while tokens > 0 {
            let head = self.head().expect("no more is skipped than there is");
            let step = head.len().min(tokens);
            self.place.used += step;
            tokens -= step;
        }
    }

    /// The next `tokens` tokens, which are passed.
    pub(super) fn take(&mut self, mut tokens: u32) -> SmallVec<[Run; 1]> {
        let mut runs = SmallVec::new();
        while tokens > 0 {
            let head = self.head().expect("no more is taken than there is");
            let len = head.len().min(tokens);
            runs.push(head.part(0..len));
            self.place.used += len;
            tokens -= len;
        }
        runs
    }

    /// Identity of the next `tokens` tokens: that of the first one if they are consecutive.
    pub(super) fn page(mut self, mut tokens: u32) -> u64 {
        let first = self.head().expect("a page is looked up only where there is one");
        if first.len() >= tokens {
            return first.start();
        }
        let mut hasher = FxHasher::default();
        while tokens > 0 {
            let head = self.head().expect("a page is looked up only where there is one");
            let len = head.len().min(tokens);
            hasher.write_u64(head.start());
            hasher.write_u32(len);
            self.place.used += len;
            tokens -= len;
        }
        hasher.finish()
    }

    /// How many of the next `most` tokens are those of `content`.
    pub(super) fn common(mut self, content: &[Run], most: u32) -> u32 {
        let mut other = Cursor::new(content);
        let mut common = 0;
        while common < most {
            let (Some(own), Some(theirs)) = (self.head(), other.head()) else { break };
            if own.start() != theirs.start() {
                break;
            }
            let len = own.len().min(theirs.len()).min(most - common);
            self.place.used += len;
            other.place.used += len;
            common += len;
        }
        common
    }
}
