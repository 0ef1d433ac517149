//! What a run leaves behind: a record per request, the gaps between tokens, and totals.

use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use servecast_types::{ClassId, Duration, RequestId, Role, Time, WorkerId};
use smallvec::SmallVec;

use crate::TokenGaps;

/// Why a request was not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectReason {
    /// The prompt needs more KV blocks than a worker has.
    PromptTooLong,
    /// The prompt is as long as the model's context or longer.
    MaxModelLen,
    /// The prompt exceeds `max_num_batched_tokens` and may not be cut into chunks.
    Unchunkable,
    /// The request outgrew the KV cache of a worker that it had for itself.
    KvCapacity,
    /// It has no prompt or asks for no token.
    Empty,
    /// An earlier turn of its session was rejected.
    PreviousTurn,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestStatus {
    /// All its tokens were produced.
    Finished,
    /// It was turned away or given up.
    Rejected(RejectReason),
    /// Its client took it back.
    Withdrawn,
    /// A worker that had it, or its KV, failed.
    Failed,
}

/// One stage of a request: its stay on one worker of one pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageRecord {
    /// The pool.
    pub pool: Role,
    /// The worker within the pool.
    pub worker: WorkerId,
    /// When the request came to the pool.
    pub arrived: Time,
    /// When the worker got it: later if a router parked it.
    pub queued: Time,
    /// Decision of the first iteration that computed something for it, or to which it came with its first token.
    pub admitted: Option<Time>,
    /// Prompt tokens found in the prefix cache when it was first admitted.
    pub reused_tokens: u32,
    /// Those of them that came from the memory of the host.
    pub host_reused_tokens: u32,
    /// Decode pool, where that comes before the prompt is computed: when KV blocks for the prompt were reserved.
    pub reserved: Option<Time>,
    /// Decode pool: when KV blocks for the prompt were reserved and the transfer began; where they were reserved before the
    /// prompt was computed, when it was, and its last part began to move.
    pub transfer_start: Option<Time>,
    /// Decode pool: when the transfer ended.
    pub transfer_end: Option<Time>,
    /// End of the iteration that produced the first token of this stage; its admission if that token was handed over.
    pub first_token: Option<Time>,
    /// When it got its last token in this stage, likewise.
    pub last_token: Option<Time>,
    /// How often it lost its KV blocks to others and had to be computed again.
    pub preemptions: u32,
}

/// The life of one request, complete when the run is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestRecord {
    /// Its session, numbered in order of appearance.
    pub session: u32,
    /// Its turn within the session, from 0.
    pub turn: u32,
    /// Line of the trace, from 1; its ordinal when the workload was generated.
    pub line: u64,
    /// Its class, if it has one: the place of its name in [`RunRecord::classes`].
    pub class: Option<ClassId>,
    /// The LoRA adapter that it asked for, if any: the place of its name in [`RunRecord::loras`].
    pub lora: Option<u32>,
    /// When it arrived (closed loop: when it was dispatched).
    pub arrival: Time,
    /// Prompt length.
    pub input_tokens: u32,
    /// Output length asked for.
    pub requested_output_tokens: u32,
    /// Tokens that reached the user.
    pub output_tokens: u32,
    /// How it ended.
    pub status: RequestStatus,
    /// When it ended.
    pub ended: Time,
    /// When the user saw the first token.
    pub first_token: Option<Time>,
    /// When the user saw the second token.
    pub second_token: Option<Time>,
    /// When the user saw the last token.
    pub last_token: Option<Time>,
    /// Its stages in order; empty when it was rejected on arrival.
    pub stages: SmallVec<[StageRecord; 1]>,
}

impl RequestRecord {
    /// Whether it was served to the end.
    pub fn is_finished(&self) -> bool {
        self.status == RequestStatus::Finished
    }

    /// Time to first token, counted from arrival.
    pub fn ttft(&self) -> Option<Duration> {
        Some(self.first_token?.since(self.arrival))
    }

    /// Time from arrival to the last token.
    pub fn e2e(&self) -> Option<Duration> {
        Some(self.last_token?.since(self.arrival))
    }

    /// When the worker of a stage could begin with the request, as far as others were concerned: when it got it, or when the
    /// next stage had [memory](StageRecord::reserved) for it, if that comes first.
    pub fn could_begin(&self, stage: usize) -> Time {
        let own = self.stages[stage].queued;
        self.stages.get(stage + 1).and_then(|next| next.reserved).map_or(own, |reserved| own.max(reserved))
    }

    /// Prompt tokens reused at the first admission in the first stage.
    pub fn reused_tokens(&self) -> u32 {
        self.stages.first().map_or(0, |stage| stage.reused_tokens)
    }

    /// Those of them that came from the memory of the host.
    pub fn host_reused_tokens(&self) -> u32 {
        self.stages.first().map_or(0, |stage| stage.host_reused_tokens)
    }
}

/// Sums over the iterations of one pool.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolTotals {
    /// Engine iterations that ran.
    pub iterations: u64,
    /// Tokens computed, recomputed ones included.
    pub computed_tokens: u64,
    /// Preemptions.
    pub preemptions: u64,
    /// Drafts that were verified; 0 without speculative decoding.
    pub drafts: DraftTotals,
}

/// What became of drafts, counted as vLLM does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DraftTotals {
    /// Times that drafts of a request were verified.
    pub verifications: u64,
    /// Tokens that were proposed and computed.
    pub drafted: u64,
    /// How many of them were accepted.
    pub accepted: u64,
}

/// What one worker had to do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WorkerTotals {
    /// Requests that it got.
    pub requests: u64,
    /// Prompt tokens that it found in its prefix cache when it first admitted them.
    pub reused_tokens: u64,
    /// Nanoseconds that it spent in iterations.
    pub busy_ns: u64,
    /// Σ over its iterations of the requests that computed something, times its nanoseconds.
    pub request_ns: u128,
    /// Σ over its iterations of the KV blocks that requests held, times its nanoseconds. What only the prefix cache
    /// holds is free.
    pub block_ns: u128,
    /// The most KV blocks that requests held in an iteration.
    pub peak_blocks: u32,
}

impl WorkerTotals {
    /// So many requests computed something for so long, while requests held `blocks` KV blocks.
    #[inline]
    pub fn computed(&mut self, requests: u64, blocks: u32, length: Duration) {
        self.request_ns += u128::from(requests) * u128::from(length.as_ns());
        self.block_ns += u128::from(blocks) * u128::from(length.as_ns());
        self.peak_blocks = self.peak_blocks.max(blocks);
    }
}

/// A pool: sums over its iterations, and what each worker had to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolRecord {
    /// What it is for.
    pub role: Role,
    /// Sums over its iterations.
    pub totals: PoolTotals,
    /// By worker number.
    pub workers: Vec<WorkerTotals>,
    /// By worker number.
    pub limits: Vec<WorkerLimits>,
}

/// What a worker can hold, or each of its data-parallel ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerLimits {
    /// Most requests that run on it at a time, if there is a limit.
    pub max_num_seqs: Option<u32>,
    /// KV blocks that requests can have.
    pub usable_blocks: u32,
    /// Its data-parallel ranks in lock step. What its [totals](WorkerTotals) say is of an average one of them, but for
    /// requests and tokens, which are those of all.
    pub ranks: u32,
    /// Whether it has KV in the memory of its host, too.
    pub offloads_kv: bool,
    /// Stages of its pipeline; 1 without one. It is busy as long as an average one of them.
    pub stages: u32,
}

impl PoolRecord {
    /// What each of its workers can hold, if that is the same for all.
    pub fn common_limits(&self) -> Option<WorkerLimits> {
        let first = *self.limits.first()?;
        self.limits.iter().all(|limits| *limits == first).then_some(first)
    }
}

/// Everything that a run recorded.
#[derive(Debug, Clone, Default)]
pub struct RunRecord {
    /// One record per request, in order of arrival.
    pub requests: Vec<RequestRecord>,
    /// Gaps between tokens that the user saw.
    pub gaps: TokenGaps,
    /// One record per pool, in the order in which a request meets them.
    pub pools: Vec<PoolRecord>,
    /// When a request that was preempted before the first token of a stage, counted from 0, was admitted last before that
    /// token. Few are.
    pub readmitted: FxHashMap<(RequestId, u8), Time>,
    /// Engine iterations whose time lies outside what the latency model was measured on.
    pub extrapolated_iterations: u64,
    /// What the times of iterations are estimated from, where nothing was measured; empty otherwise.
    pub latency_estimates: Vec<String>,
    /// Names of the classes of requests.
    pub classes: Vec<Box<str>>,
    /// Names of the LoRA adapters that requests ask for.
    pub loras: Vec<Box<str>>,
    /// By request, when each of its tokens reached the user, if somebody asked for that.
    pub token_times: Option<Vec<Vec<Time>>>,
}

impl RunRecord {
    /// The requests that `keeps`, by their number, with the gaps between their tokens; what is of pools and iterations is
    /// that of the whole run, since a pass serves whoever is there.
    ///
    /// # Panics
    /// Without [`Self::token_times`]: gaps of all requests are counted together.
    #[must_use]
    pub fn part(&self, keeps: impl Fn(usize) -> bool) -> Self {
        let times = self.token_times.as_ref().expect("a part of a run needs the times of its tokens");
        let (mut requests, mut token_times, mut gaps) = (Vec::new(), Vec::new(), TokenGaps::default());
        let mut readmitted = FxHashMap::default();
        for (number, request) in self.requests.iter().enumerate().filter(|(number, _)| keeps(*number)) {
            let (id, new) = (RequestId(number as u32), RequestId(requests.len() as u32));
            for stage in 0..request.stages.len() as u8 {
                readmitted.extend(self.readmitted.get(&(id, stage)).map(|&at| ((new, stage), at)));
            }
            let tokens = times.get(number).map_or(&[][..], Vec::as_slice);
            tokens.windows(2).for_each(|pair| gaps.add(pair[1].since(pair[0]), 1));
            token_times.push(tokens.to_vec());
            requests.push(request.clone());
        }
        let Self { pools, extrapolated_iterations, latency_estimates, classes, loras, .. } = self;
        Self {
            requests,
            gaps,
            pools: pools.clone(),
            readmitted,
            extrapolated_iterations: *extrapolated_iterations,
            latency_estimates: latency_estimates.clone(),
            classes: classes.clone(),
            loras: loras.clone(),
            token_times: Some(token_times),
        }
    }
}

/// What a run has recorded while it goes on.
#[derive(Debug, Clone, Copy)]
pub struct SoFar<'a> {
    /// The requests that have arrived. Of one that has not ended only what is before its first token is settled, and that.
    pub requests: &'a [RequestRecord],
    /// Whether each of them has ended.
    pub ended: &'a [bool],
    /// Gaps between tokens; a few of the latest may be missing.
    pub gaps: &'a TokenGaps,
}
