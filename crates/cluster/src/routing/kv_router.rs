//! The KV-aware router in front of a pool.

use std::collections::VecDeque;

use servecast_engine::EngineRequest;
use servecast_router::{Admission, Decision, Rank, RankInfo, Router, RouterSettings, RoutingRequest, Stage};
use servecast_types::{BlockHasher, Duration, KvEvent, RequestId, Time, WorkerId};

use crate::record::PoolRole;

/// A KV-aware router and what is on its way to it.
#[derive(Debug)]
pub(crate) struct KvRouting {
    router: Router,
    stage: Stage,
    block_size: u32,
    tracks_output: bool,
    /// KV events that are not visible yet, in order of the time at which they are.
    events: VecDeque<(Time, Rank, Vec<KvEvent>)>,
    event_delay: Duration,
}

/// What a pool has to tell its router of itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KvPool {
    pub(crate) role: PoolRole,
    pub(crate) workers: u32,
    pub(crate) block_size: u32,
    pub(crate) max_num_batched_tokens: Option<u32>,
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
    pub(crate) fn new(options: &KvRouterOptions, pool: KvPool, seed: u64, record_terms: bool) -> Self {
        // The router of a decode pool differs by the overrides of its stage only.
        let settings = match pool.role {
            PoolRole::Prefill => options.settings.for_prefill_pool(),
            PoolRole::Aggregated | PoolRole::Decode => options.settings.clone(),
        };
        let tracks_output = settings.track_output_blocks();
        let mut router = Router::new(settings, pool.block_size, seed);
        if record_terms {
            router = router.record_terms();
        }
        for worker in 0..pool.workers {
            let info = RankInfo { max_num_batched_tokens: pool.max_num_batched_tokens };
            let admitted = router.add_rank(Rank::of_worker(worker), info, Time::ZERO);
            debug_assert!(admitted.is_empty(), "nobody waits yet");
        }
        let stage = if pool.role == PoolRole::Decode { Stage::Decode } else { Stage::Whole };
        let event_delay = options.event_delay;
        Self {
            router,
            stage,
            block_size: pool.block_size,
            tracks_output,
            events: VecDeque::new(),
            event_delay,
        }
    }

    /// Routes a request, which may be parked: then it is in the result of a later call.
    pub(crate) fn route(
        &mut self,
        request: RoutingRequest,
        forced: Option<WorkerId>,
        now: Time,
    ) -> Vec<Admission> {
        self.apply_visible(now);
        let steered = forced.map(|worker| Rank::of_worker(worker.0));
        let request = RoutingRequest { stage: self.stage, steered, ..request };
        let id = request.id;
        match self.router.route(request, now) {
            Ok(Decision::Admit(admission)) => vec![admission],
            Ok(Decision::Queued(queued)) => queued.released,
            Err(error) => unreachable!("request {id} fits the pool: {error}"),
        }
    }

    /// The routing request of a prompt.
    pub(crate) fn describe(&self, request: &EngineRequest) -> RoutingRequest {
        let blocks = BlockHasher::all(&request.prompt, self.block_size);
        RoutingRequest {
            expected_output_tokens: Some(request.max_tokens),
            ..RoutingRequest::new(request.id, request.prompt.tokens(), blocks)
        }
    }

    /// The first token of a request is out.
    pub(crate) fn prefill_done(&mut self, id: RequestId, now: Time) -> Vec<Admission> {
        self.apply_visible(now);
        self.router.prefill_done(id, now).unwrap_or_default()
    }

    /// A request has left its worker.
    pub(crate) fn finish(&mut self, id: RequestId, now: Time) -> Vec<Admission> {
        self.apply_visible(now);
        self.router.finish(id, now)
    }

    /// Whether the router wants to know how many tokens a request has generated.
    pub(crate) fn tracks_output(&self) -> bool {
        self.tracks_output
    }

    pub(crate) fn record_output(&mut self, id: RequestId, generated: u32, now: Time) {
        // A request that is not booked any more has nothing to track.
        _ = self.router.record_output(id, generated, now);
    }

    /// A worker reports changes of its prefix cache at the end of an iteration.
    pub(crate) fn report(&mut self, worker: WorkerId, events: &[KvEvent], now: Time) {
        if !events.is_empty() {
            self.events.push_back((now + self.event_delay, Rank::of_worker(worker.0), events.to_vec()));
        }
    }

    fn apply_visible(&mut self, now: Time) {
        while let Some((visible, rank, events)) = self.events.front()
            && *visible <= now
        {
            for event in events {
                // What cannot be applied, the router counts; its index stays consistent.
                _ = self.router.apply(*rank, event, *visible);
            }
            self.events.pop_front();
        }
    }
}
