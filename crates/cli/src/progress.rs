//! The progress bar of a run, or of several at once.

use std::io::{self, IsTerminal};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};
use servecast::what_if::TestProgress;
use servecast_types::Time;

/// How often the bar changes.
const REDRAW: Duration = Duration::from_millis(100);

/// Instants of virtual time between two looks at the wall clock, which costs more than an instant does.
const LOOK_EVERY: u32 = 256;

/// Shows how far a run has come, on a terminal and only there.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    started: Instant,
    drawn: Instant,
    instants: u32,
    /// Instants between two looks at the wall clock.
    look_every: u32,
}

impl Progress {
    /// A bar for so many requests, or a spinner if nobody knows how many, unless nobody would see it. Online there is time
    /// between instants.
    pub(crate) fn new(requests: Option<u64>, quiet: bool, is_online: bool) -> Self {
        let started = Instant::now();
        let bar = (!quiet && io::stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template(match requests {
                Some(_) => "{bar:20} {human_pos}/{human_len} requests, {wide_msg}",
                None => "{spinner} {human_pos} requests, {wide_msg}",
            });
            ProgressBar::with_draw_target(requests, ProgressDrawTarget::stderr())
                .with_style(style.expect("the template is constant"))
                .with_message("0 s simulated")
        });
        let look_every = if is_online { 1 } else { LOOK_EVERY };
        Self { bar, started, drawn: started, instants: 0, look_every }
    }

    /// Virtual time is `now` and so many requests have ended.
    pub(crate) fn tick(&mut self, now: Time, ended: u64) {
        let Some(bar) = &self.bar else { return };
        self.instants = self.instants.wrapping_add(1);
        if !self.instants.is_multiple_of(self.look_every) {
            return;
        }
        let wall = Instant::now();
        if wall.duration_since(self.drawn) < REDRAW {
            return;
        }
        self.drawn = wall;
        let simulated = now.since(Time::ZERO).as_secs();
        let speed = simulated / wall.duration_since(self.started).as_secs_f64();
        bar.set_position(ended);
        bar.set_message(format!("{simulated:.0} s simulated, {speed:.0}x real time"));
    }

    /// Takes the bar away and says how long the run took in milliseconds.
    pub(crate) fn finish(&self) -> f64 {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.started.elapsed().as_secs_f64() * 1000.0
    }
}

/// Shows how far several runs at once have come, on a terminal and only there.
pub(crate) struct RunsProgress {
    bar: Option<ProgressBar>,
    runs: usize,
    ended: AtomicUsize,
}

/// What a run is worth on the bar.
const PARTS: u64 = 1000;

impl RunsProgress {
    /// A bar for so many runs, unless nobody would see it.
    pub(crate) fn new(runs: usize, quiet: bool) -> Self {
        let bar = (!quiet && io::stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template("{bar:20} {wide_msg}");
            let length = Some(PARTS * runs as u64);
            ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr())
                .with_style(style.expect("the template is constant"))
                .with_message(format!("0/{runs} runs"))
        });
        Self { bar, runs, ended: AtomicUsize::new(0) }
    }

    /// The part of a run with so many requests.
    pub(crate) fn run(&self, requests: u64) -> RunProgress<'_> {
        RunProgress { all: self, requests: requests.max(1), parts: 0, instants: 0, started: Instant::now() }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// The progress of one run of several.
pub(crate) struct RunProgress<'a> {
    all: &'a RunsProgress,
    requests: u64,
    /// What it has on the bar.
    parts: u64,
    instants: u32,
    started: Instant,
}

impl RunProgress<'_> {
    /// So many requests have ended.
    pub(crate) fn tick(&mut self, ended: u64) {
        let Some(bar) = &self.all.bar else { return };
        self.instants = self.instants.wrapping_add(1);
        if self.instants.is_multiple_of(LOOK_EVERY) {
            let parts = ended * PARTS / self.requests;
            bar.inc(parts - self.parts);
            self.parts = parts;
        }
    }

    /// Says how long the run took in milliseconds.
    pub(crate) fn finish(self) -> f64 {
        let ended = self.all.ended.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some(bar) = &self.all.bar {
            bar.inc(PARTS.saturating_sub(self.parts));
            bar.set_message(format!("{ended}/{} runs", self.all.runs));
        }
        self.started.elapsed().as_secs_f64() * 1000.0
    }
}

/// Shows how far the runs have come that test a diagnosis, on a terminal and only there.
pub(crate) struct TestsProgress {
    bar: Option<ProgressBar>,
    instants: u32,
}

impl TestsProgress {
    /// A bar, unless nobody would see it.
    pub(crate) fn new(quiet: bool) -> Self {
        let bar = (!quiet && io::stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template("{bar:20} {wide_msg}");
            ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())
                .with_style(style.expect("the template is constant"))
                .with_message("testing the diagnosis")
        });
        Self { bar, instants: 0 }
    }

    /// A run has come so far.
    pub(crate) fn tick(&mut self, reached: TestProgress) {
        let Some(bar) = &self.bar else { return };
        self.instants = self.instants.wrapping_add(1);
        if self.instants.is_multiple_of(LOOK_EVERY) {
            let TestProgress { done, runs, ended, requests } = reached;
            bar.set_length(PARTS * runs as u64);
            bar.set_position(PARTS * done as u64 + ended * PARTS / requests.max(1));
            bar.set_message(format!("testing the diagnosis, run {} of {runs}", done + 1));
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Shows how far a search has come, on a terminal and only there.
pub(crate) struct SearchProgress(Option<ProgressBar>);

impl SearchProgress {
    /// A bar for so many deployments, unless nobody would see it.
    pub(crate) fn new(candidates: usize, quiet: bool) -> Self {
        let bar = (!quiet && io::stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template("{spinner} {pos} runs, of {len} deployments {wide_msg}");
            ProgressBar::with_draw_target(Some(candidates as u64), ProgressDrawTarget::stderr())
                .with_style(style.expect("the template is constant"))
        });
        Self(bar)
    }

    /// A bar for the runs that only a page needs, which goes when the page is there.
    pub(crate) fn of_page(quiet: bool) -> Self {
        let bar = (!quiet && io::stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template("{spinner} {pos} runs for the page");
            ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())
                .with_finish(ProgressFinish::AndClear)
                .with_style(style.expect("the template is constant"))
        });
        Self(bar)
    }

    /// One more run is over.
    pub(crate) fn tick(&self) {
        if let Some(bar) = &self.0 {
            bar.inc(1);
        }
    }

    /// So many keep their targets, and this is one of the best of them.
    pub(crate) fn found(&self, kept: usize, name: &str) {
        if let Some(bar) = &self.0 {
            bar.set_message(format!("{kept} keep their targets, so far {name}"));
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

/// Shows how far a fit has come, on a terminal and only there.
pub(crate) struct FitProgress(Option<ProgressBar>);

impl FitProgress {
    /// A spinner, unless nobody would see it.
    pub(crate) fn new(quiet: bool) -> Self {
        let bar = (!quiet && io::stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template("{spinner} {pos} simulations, {wide_msg}");
            ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr())
                .with_style(style.expect("the template is constant"))
        });
        Self(bar)
    }

    /// All runs were simulated once more, and were off by so much.
    pub(crate) fn tick(&self, loss: f64) -> ControlFlow<()> {
        if let Some(bar) = &self.0 {
            bar.inc(1);
            bar.set_message(format!("off by {:.2} %", loss.sqrt() * 100.0));
        }
        ControlFlow::Continue(())
    }

    /// Takes the spinner away.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}
