//! One rank of several in lock step.

use std::collections::VecDeque;
use std::sync::Arc;

use servecast_types::{RequestId, Time};

use crate::engine::EngineTracing;
use crate::engine::front_end::RankLoad;
use crate::scheduler::Scheduler;
use crate::step::Step;
use crate::{EngineConfig, EngineRequest};

/// A rank: a scheduler, and how far it has come.
#[derive(Debug)]
pub(super) struct Rank {
    pub(super) scheduler: Scheduler,
    /// Requests that came since it last decided.
    pub(super) inbox: Vec<EngineRequest>,
    /// Requests that are to be taken away with its next decision.
    pub(super) withdrawals: Vec<RequestId>,
    /// What it has decided whose results it has not seen, oldest first, by the number of the pass: two at most.
    pub(super) decided: VecDeque<(u64, Box<Step>)>,
    /// The number of the pass that it has to do with.
    pub(super) pass: u64,
    pub(super) turn: Turn,
    /// Whether another pass like its last one would change nothing: nothing happened in that, and prompts were not held back.
    pub(super) is_stalled: bool,
}

/// What a rank does about its pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// It decides, from then on and as soon as the ranks have found out that somebody has work left.
    Decides { from: Time },
    /// It waits for the results of the pass before; then, unless it `computes`, it dispatches a dummy.
    AwaitsResults { computes: bool },
    /// It waits for the end of the pass.
    AwaitsEnd,
}

impl Rank {
    pub(super) fn new(config: &Arc<EngineConfig>, tracing: EngineTracing) -> Self {
        Self {
            scheduler: Scheduler::new(Arc::clone(config), tracing),
            inbox: Vec::new(),
            withdrawals: Vec::new(),
            decided: VecDeque::new(),
            pass: 0,
            turn: Turn::Decides { from: Time::ZERO },
            is_stalled: false,
        }
    }

    pub(super) fn has_requests(&self) -> bool {
        !self.inbox.is_empty() || self.scheduler.has_unfinished_requests()
    }

    /// Whether it can decide its pass now; `next_sync` is the pass after which it has to hear of the others.
    pub(super) fn decides(&self, now: Time, next_sync: u64) -> bool {
        matches!(self.turn, Turn::Decides { from } if from <= now) && self.pass <= next_sync
    }

    pub(super) fn end_turn(&mut self, now: Time) {
        self.pass += 1;
        self.turn = Turn::Decides { from: now };
    }

    pub(super) fn load(&self, blocks: u32) -> RankLoad {
        RankLoad {
            waiting: (self.scheduler.num_waiting() + self.inbox.len()) as u64,
            running: self.scheduler.num_running() as u64,
            kv_usage: 1.0 - f64::from(self.scheduler.num_free_blocks()) / f64::from(blocks.max(1)),
        }
    }
}
