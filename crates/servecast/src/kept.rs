//! What a run keeps beside its records, for a program that asked for it.

use std::ops::ControlFlow;

use servecast_cluster::{Detail, Observer};
use servecast_engine::{Decodes, Iteration};
use servecast_report::Activity;
use servecast_types::{Role, Time, WorkerId};

use crate::iterations::IterationColumns;
use crate::page;
use crate::replay::Watch;
use crate::timeline::Timeline;

/// What is kept; nothing by default.
#[derive(Default)]
pub(crate) struct Kept {
    /// A row an iteration.
    pub(crate) iterations: Option<IterationColumns>,
    /// What a page shows of workers.
    pub(crate) activity: Option<Activity>,
    /// Chrome trace events.
    pub(crate) timeline: Option<Timeline<Vec<u8>>>,
}

/// Follows a run for somebody else.
pub(crate) struct Follower<'a> {
    watch: &'a Watch<'a>,
    pub(crate) kept: Kept,
}

impl<'a> Follower<'a> {
    pub(crate) fn new(watch: &'a Watch<'a>, kept: Kept) -> Self {
        Self { watch, kept }
    }
}

impl Observer for Follower<'_> {
    fn detail(&self) -> Detail {
        if self.kept.iterations.is_some() { Detail::Iterations } else { Detail::Passes }
    }

    fn iteration(&mut self, pool: Role, worker: WorkerId, iteration: &Iteration) {
        let Kept { iterations, activity, timeline } = &mut self.kept;
        if let Some(activity) = activity {
            activity.add(pool, worker, &page::span_of(iteration));
        }
        if let Some(rows) = iterations {
            rows.push(pool, worker, iteration);
        }
        if let Some(timeline) = timeline {
            timeline.iteration(pool, worker, iteration).expect("memory can be written to");
        }
    }

    fn decoded(&mut self, pool: Role, worker: WorkerId, decodes: &Decodes) {
        let Kept { activity, timeline, .. } = &mut self.kept;
        if let Some(activity) = activity {
            activity.add(pool, worker, &page::span_of_decodes(decodes));
        }
        if let Some(timeline) = timeline {
            timeline.decoded(pool, worker, decodes).expect("memory can be written to");
        }
    }

    fn progress(&mut self, now: Time, ended: u64) -> ControlFlow<()> {
        self.watch.reached(now, ended)
    }
}
