//! The KV-aware router in front of a pool.

use std::sync::Arc;

use servecast_engine::{EngineConfig, EngineRequest};
use servecast_router::standalone::WorkerRole;
use servecast_router::{
    Admission, CandidateTerms, Decision, RankInfo, Router, RouterSettings, RoutingRequest, Stage,
};
use servecast_types::{
    BlockHasher, Duration, KvEvent, Rank, RequestId, Role, Seed, SequenceHash, Time, WorkerId,
};

use super::reports::Reports;
use super::{Candidate, Pick, RoutedRequest};
use crate::worker::Worker;

/// A KV-aware router and what is on its way to it.
#[derive(Debug)]
pub(crate) struct KvRouting {
    router: Router,
    stage: Stage,
    block_size: u32,
    /// Tokens behind a block that its identity covers.
    hash_lookahead: u32,
    tracks_output: bool,
    /// KV events that are not visible yet.
    reports: Reports,
    event_delay: Duration,
    /// What happened to requests since the last decision.
    notes: Vec<Note>,
    /// The blocks of the latest prompt; kept for its memory.
    blocks: Vec<SequenceHash>,
    /// Who picks workers in place of the router, which tells what it knows of them.
    policy: Option<Box<dyn Pick>>,
}

/// What a candidate has to do, and what it has cached of a prompt, as whoever routes it can know it.
///
/// The first three are what the worker itself would say at that instant. The others are a KV-aware router's: they follow
/// from the requests that were sent there and from KV events, so that they are as late as these, and are with the request on
/// the worker. Of a worker with several data-parallel ranks they are those of the rank that it would cost least on.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct CandidateLoad {
    /// Requests that run on it.
    pub running: u32,
    /// Requests that wait on it.
    pub waiting: u32,
    /// KV blocks that no request holds.
    pub free_blocks: u32,
    /// Full blocks of the prompt that it has cached; 0 in a decode pool.
    pub overlap_blocks: u32,
    /// Prompt tokens that it has yet to compute, those of the request that it has not cached among them; 0 in a decode pool.
    pub prefill_tokens: u64,
    /// KV blocks that its requests hold by their prompts, each once; 0 in a prefill pool.
    pub active_blocks: u64,
    /// What the KV-aware router goes by, in blocks; the lowest is its choice.
    pub cost: f64,
}

/// What happened to a request, which matters to the next decision only.
///
/// Workers catch up one after the other before a decision, so notes are taken in any order and put in order of time, then of
/// worker, before they are acted on.
#[derive(Debug, Clone, Copy)]
struct Note {
    at: Time,
    worker: WorkerId,
    id: RequestId,
    what: Fact,
}

#[derive(Debug, Clone, Copy)]
enum Fact {
    /// Its first token is out.
    PrefillDone,
    /// It has left its worker.
    Left,
}

/// How the KV-aware router is set up, for all pools.
#[derive(Debug, Clone, PartialEq)]
pub struct KvRouterOptions {
    /// Its settings; those of a prefill and a decode pool are derived from them.
    pub settings: RouterSettings,
    /// How long after the end of an iteration its KV events reach the router.
    pub event_delay: Duration,
}

impl KvRouting {
    /// The router in front of the workers of a pool, with their engines.
    pub(crate) fn new<'a>(
        options: &KvRouterOptions,
        role: Role,
        engines: impl Iterator<Item = &'a EngineConfig> + Clone,
        seed: Seed,
        record_terms: bool,
    ) -> Self {
        let settings = WorkerRole::serving(role).settings(&options.settings);
        let tracks_output = settings.track_output_blocks();
        let first = engines.clone().next();
        let block_size = first.map_or(1, EngineConfig::block_size);
        let hash_lookahead = first.map_or(0, EngineConfig::hash_lookahead);
        let mut router = Router::new(settings, block_size, seed.0);
        if record_terms {
            router = router.record_terms();
        }
        for (worker, engine) in (0..).map(WorkerId).zip(engines) {
            let changed = router.change_ranks(&described_ranks(worker, engine), &[], Time::ZERO);
            debug_assert!(changed.admitted.is_empty(), "nobody waits yet");
        }
        let event_delay = options.event_delay;
        Self {
            router,
            stage: Stage::of(role),
            block_size,
            hash_lookahead,
            tracks_output,
            reports: Reports::default(),
            event_delay,
            notes: Vec::new(),
            blocks: Vec::new(),
            policy: None,
        }
    }

    /// The same, with a policy that picks workers by what the router knows of them. Nobody waits in such a router.
    pub(crate) fn for_policy<'a>(
        policy: Box<dyn Pick>,
        options: &KvRouterOptions,
        role: Role,
        engines: impl Iterator<Item = &'a EngineConfig> + Clone,
        seed: Seed,
        record_terms: bool,
    ) -> Self {
        let settings = options.settings.without_queue();
        let options = KvRouterOptions { settings, event_delay: options.event_delay };
        Self { policy: Some(policy), ..Self::new(&options, role, engines, seed, record_terms) }
    }

    /// Who picks workers in place of the router.
    pub(crate) fn policy(&mut self) -> Option<&mut dyn Pick> {
        Some(&mut **self.policy.as_mut()?)
    }

    /// Which of the candidates the policy picks, if there is one. `description` is of the request, for these candidates.
    pub(crate) fn pick(
        &mut self,
        request: &EngineRequest,
        description: &RoutingRequest,
        candidates: &[Candidate],
        workers: &[Worker],
        now: Time,
    ) -> Option<WorkerId> {
        let mut policy = self.policy.take()?;
        self.act_on_notes();
        self.reports.apply_visible(now, &mut self.router);
        let asked = RoutingRequest { stage: self.stage, ..description.clone() };
        let judged = self.router.peek(asked, now);
        let terms =
            judged.unwrap_or_else(|error| unreachable!("request {} fits the pool: {error}", request.id));
        let mut loads = Vec::with_capacity(candidates.len());
        let mut terms = terms.terms.iter().peekable();
        for candidate in candidates {
            let mut best: Option<&CandidateTerms> = None;
            while let Some(terms) = terms.next_if(|terms| terms.rank.worker == candidate.worker) {
                best = best.filter(|best| best.cost <= terms.cost).or(Some(terms));
            }
            let terms = best.expect("a candidate has a rank, and is judged");
            let engine = &workers[candidate.worker.index()].engine;
            loads.push(CandidateLoad {
                running: engine.num_running() as u32,
                waiting: engine.num_waiting() as u32,
                free_blocks: engine.num_free_blocks(),
                overlap_blocks: terms.overlap_blocks,
                prefill_tokens: terms.prefill_tokens,
                active_blocks: terms.decode_blocks,
                cost: terms.cost,
            });
        }
        let at = policy.pick(&RoutedRequest::new(request, now, &loads), candidates);
        self.policy = Some(policy);
        Some(candidates[at].worker)
    }

    /// A worker takes requests from now on; returns the parked requests that are admitted by that.
    pub(crate) fn add(&mut self, worker: WorkerId, engine: &EngineConfig, now: Time) -> Vec<Admission> {
        let mut admitted = self.act_on_notes();
        admitted.extend(self.router.change_ranks(&described_ranks(worker, engine), &[], now).admitted);
        admitted
    }

    /// A worker takes no requests any more: all that is known of it is forgotten, what it has cached and what is on its
    /// way, too. Returns the parked requests that are admitted by that, and those that nobody can serve any more.
    pub(crate) fn remove(
        &mut self,
        worker: WorkerId,
        engine: &EngineConfig,
        now: Time,
    ) -> (Vec<Admission>, Vec<RequestId>) {
        let mut admitted = self.act_on_notes();
        self.reports.apply_visible(now, &mut self.router);
        let ranks: Vec<Rank> = ranks(worker, engine).collect();
        for &rank in &ranks {
            self.reports.forget(rank);
        }
        let removed = self.router.change_ranks(&[], &ranks, now);
        admitted.extend(removed.admitted);
        (admitted, removed.refused)
    }

    /// Routes a request, which may be parked: then it is in the result of a later call.
    pub(crate) fn route(
        &mut self,
        request: RoutingRequest,
        steered: Option<Rank>,
        now: Time,
    ) -> Vec<Admission> {
        self.act_on_notes();
        self.reports.apply_visible(now, &mut self.router);
        let request = RoutingRequest { stage: self.stage, steered, ..request };
        let id = request.id;
        match self.router.route(request, now) {
            Ok(Decision::Admit(admission)) => vec![admission],
            Ok(Decision::Queued(queued)) => queued.released,
            Err(error) => unreachable!("request {id} fits the pool: {error}"),
        }
    }

    /// The routing request of a prompt.
    pub(crate) fn describe(&mut self, request: &EngineRequest) -> RoutingRequest {
        self.blocks.clear();
        let hasher = BlockHasher::looking_ahead(self.block_size, self.hash_lookahead);
        hasher.runs_of(&request.prompt).append_to(&mut self.blocks);
        let blocks: Arc<[_]> = self.blocks.as_slice().into();
        RoutingRequest {
            expected_output_tokens: Some(request.max_tokens),
            ..RoutingRequest::new(request.id, request.prompt.tokens(), blocks)
        }
    }

    /// Takes note that the first token of a request is out; call [`KvRouting::act_on_notes`] if somebody may wait for
    /// that.
    pub(crate) fn prefill_done(&mut self, id: RequestId, worker: WorkerId, now: Time) {
        self.notes.push(Note { at: now, worker, id, what: Fact::PrefillDone });
    }

    /// Takes note that a request has left its worker; call [`KvRouting::act_on_notes`] if somebody may wait for that.
    pub(crate) fn finish(&mut self, id: RequestId, worker: WorkerId, now: Time) {
        self.notes.push(Note { at: now, worker, id, what: Fact::Left });
    }

    /// Forgets a request that is parked, when there are no notes to act on; returns the parked requests that are admitted
    /// by that.
    pub(crate) fn forget(&mut self, id: RequestId, now: Time) -> Vec<Admission> {
        self.router.finish(id, now)
    }

    /// Acts on what was noted; returns the parked requests that are admitted by it.
    pub(crate) fn act_on_notes(&mut self) -> Vec<Admission> {
        let mut admitted = Vec::new();
        let mut notes = std::mem::take(&mut self.notes);
        notes.sort_by_key(|note| (note.at, note.worker));
        for Note { at, id, what, .. } in notes.drain(..) {
            self.reports.apply_visible(at, &mut self.router);
            admitted.extend(match what {
                Fact::PrefillDone => self.router.prefill_done(id, at).unwrap_or_default(),
                Fact::Left => self.router.finish(id, at),
            });
        }
        self.notes = notes;
        admitted
    }

    /// Whether the router wants to know how many tokens a request has generated.
    pub(crate) fn tracks_output(&self) -> bool {
        self.tracks_output
    }

    pub(crate) fn record_output(&mut self, id: RequestId, generated: u32, now: Time) {
        // A request that is not booked any more has nothing to track.
        _ = self.router.record_output(id, generated, now);
    }

    /// A rank reports changes of its prefix cache at the end of an iteration.
    pub(crate) fn report(&mut self, rank: Rank, events: &[KvEvent], now: Time) {
        for event in events {
            self.reports.push(now + self.event_delay, rank, event);
        }
    }
}

/// The ranks of a worker.
fn ranks(worker: WorkerId, engine: &EngineConfig) -> impl Iterator<Item = Rank> {
    (0..engine.num_ranks()).map(move |dp| Rank { worker, dp })
}

/// The same, as the router has to know them.
fn described_ranks(worker: WorkerId, engine: &EngineConfig) -> Vec<(Rank, RankInfo)> {
    let info = RankInfo { max_num_batched_tokens: engine.max_num_batched_tokens() };
    ranks(worker, engine).map(|rank| (rank, info)).collect()
}
