//! The progress bar of a run.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
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
}

impl Progress {
    /// A bar for so many requests, unless nobody would see it.
    pub(crate) fn new(requests: u64, quiet: bool) -> Self {
        let started = Instant::now();
        let bar = (!quiet && io::stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template("{bar:20} {human_pos}/{human_len} requests, {wide_msg}");
            ProgressBar::with_draw_target(Some(requests), ProgressDrawTarget::stderr())
                .with_style(style.expect("the template is constant"))
                .with_message("0 s simulated")
        });
        Self { bar, started, drawn: started, instants: 0 }
    }

    /// Virtual time is `now` and so many requests have ended.
    pub(crate) fn tick(&mut self, now: Time, ended: u64) {
        let Some(bar) = &self.bar else { return };
        self.instants = self.instants.wrapping_add(1);
        if !self.instants.is_multiple_of(LOOK_EVERY) {
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
