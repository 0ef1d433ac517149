//! A router on its own, in front of real workers: for gateways, C and Python.
//!
//! A [`StandaloneRouter`] is a [`Router`] for the workers that serve whole requests or decode, and another for those that
//! prefill, behind the names that a deployment uses: requests are called by texts, workers by 64-bit ids. The phase of
//! a request says which of the two it goes to and under which settings it is selected *and* booked:
//!
//! | phase | workers | settings |
//! |---|---|---|
//! | aggregated | decode | those of the router, with the request's overrides |
//! | prefill | prefill | the same, without active blocks |
//! | decode | decode | those, with [`crate::RouterConfigOverride::DECODE_STAGE`] in front: blocks count and nothing else |
//!
//! Like the router, it is pure: time comes with each call, in ns since any fixed moment, and state changes return the
//! parked requests that they let in.
//!
//! ```
//! use servecast_router::KvRouterConfig;
//! use servecast_router::standalone::{
//!     PhaseRequest, PromptBlocks, Routed, StandaloneRouter, WorkerInfo, WorkerRole,
//! };
//! use servecast_types::{Role, Time, hash::Salt};
//!
//! let mut router = StandaloneRouter::new(&KvRouterConfig::default(), 16, 42)?;
//! for worker in [0x7f01, 0x7f02] {
//!     router.register_worker(worker, WorkerInfo::new(WorkerRole::Decode), Time::ZERO)?;
//! }
//! let prompt = PromptBlocks::from_tokens(&[7; 40], router.block_size(), Salt::default());
//! let routed = router.route(&PhaseRequest::new("chat-1", Role::Aggregated, prompt), Time::ZERO)?;
//! let Routed::Admitted(selection) = routed else { panic!("nobody is busy") };
//! assert_eq!(selection.prefill_tokens, 40);
//! router.mark_prefill_complete("chat-1", Time::from_ns(30_000_000))?;
//! router.free("chat-1", None, Time::from_ns(900_000_000));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod bookings;
mod dump;
mod error;
mod request;
mod worker_role;
mod workers;

use servecast_types::{BlockHash, Rank, RequestId, Role, SequenceHash, Time, WorkerId, hash};

pub use self::dump::{RequestDump, StandaloneDump, WorkerDump};
pub use self::error::StandaloneError;
pub use self::request::{
    PhaseId, PhaseRequest, PromptBlocks, Routed, Selection, TokenBlocks, WorkerInfo, WorkerLoad, WorkerRank,
    WorkersChanged,
};
pub use self::worker_role::WorkerRole;

use self::bookings::Bookings;
use self::workers::{Registered, Workers};
use crate::index::EventCounts;
use crate::wire::{IndexEventData, RouterEvent, StorageTier, StoredBlock, StoredBlocks};
use crate::{
    Admission, ConfigError, Decision, KvRouterConfig, PrefillLoadModel, RankInfo, RemovedRank, Router,
    RoutingRequest,
};

/// Routes requests of every phase to workers, by the names that a deployment uses.
#[derive(Debug, Clone)]
pub struct StandaloneRouter {
    decode: Router,
    prefill: Router,
    workers: Workers,
    bookings: Bookings,
}

impl StandaloneRouter {
    /// A router without workers. `block_size` is that of the engines, in tokens; `seed` is for ties and draws.
    ///
    /// # Errors
    /// Settings that do not hold together, or that need what a router on its own has not: a model of prefill times.
    pub fn new(config: &KvRouterConfig, block_size: u32, seed: u64) -> Result<Self, ConfigError> {
        let settings = config.validate()?;
        if settings.prefill_load_model() != PrefillLoadModel::None {
            return Err(ConfigError::Conflict {
                key: "router_prefill_load_model",
                found: "aic".to_owned(),
                problem: "needs a model of prefill times, and a router on its own has none: set it to none"
                    .into(),
            });
        }
        if block_size == 0 {
            return Err(ConfigError::wrong("block_size", block_size, "expected at least 1 token"));
        }
        let router = |role: WorkerRole| Router::new(role.settings(&settings), block_size, seed);
        Ok(Self {
            decode: router(WorkerRole::Decode),
            prefill: router(WorkerRole::Prefill),
            workers: Workers::default(),
            bookings: Bookings::default(),
        })
    }

    /// Tokens a block.
    pub fn block_size(&self) -> u32 {
        self.decode.block_size()
    }

    /// Registers a worker, or changes what is known about it: its ranks and its limit, not its role.
    ///
    /// # Errors
    /// Another role, or a number of ranks that cannot be.
    pub fn register_worker(
        &mut self,
        worker_id: u64,
        info: WorkerInfo,
        now: Time,
    ) -> Result<WorkersChanged, StandaloneError> {
        let Registered { number, gone } = self.workers.register(worker_id, info)?;
        let rank_info = RankInfo { max_num_batched_tokens: info.max_num_batched_tokens };
        let ranks = info.dp_ranks().map(|dp| (Rank { worker: WorkerId(number), dp }, rank_info));
        Ok(self.change_ranks(info.role, &ranks.collect::<Vec<_>>(), &gone, now))
    }

    /// Forgets a worker with everything that is known about it.
    ///
    /// # Errors
    /// If it is not registered.
    pub fn remove_worker(&mut self, worker_id: u64, now: Time) -> Result<WorkersChanged, StandaloneError> {
        let (role, gone) = self.workers.ranks_of(worker_id)?;
        let changed = self.change_ranks(role, &[], &gone, now);
        self.workers.remove(worker_id);
        Ok(changed)
    }

    fn change_ranks(
        &mut self,
        role: WorkerRole,
        coming: &[(Rank, RankInfo)],
        going: &[Rank],
        now: Time,
    ) -> WorkersChanged {
        let RemovedRank { forgotten, refused, admitted } =
            self.pool_mut(role).change_ranks(coming, going, now);
        let admitted = self.admitted(&admitted);
        let mut names =
            |ids: &[RequestId]| ids.iter().filter_map(|&id| self.bookings.remove_number(id)).collect();
        WorkersChanged { forgotten: names(&forgotten), refused: names(&refused), admitted }
    }

    /// The registered workers, in order of id.
    pub fn workers(&self) -> impl Iterator<Item = (u64, WorkerInfo)> + '_ {
        self.workers.iter()
    }

    /// A worker reports a change of its prefix cache. Only what it has on its device counts; other tiers are passed
    /// over, and so is everything without `use_kv_events`.
    ///
    /// # Errors
    /// A rank that is not registered, or what could not be applied.
    pub fn apply(&mut self, event: &RouterEvent, now: Time) -> Result<(), StandaloneError> {
        let rank = WorkerRank { worker_id: event.worker_id, dp_rank: event.event.dp_rank };
        if event.storage_tier != StorageTier::Device {
            return self.workers.find(rank).map(|_| ());
        }
        self.apply_data(rank, &event.event.data, now)
    }

    /// A change of a prefix cache, on the device.
    ///
    /// # Errors
    /// As [`StandaloneRouter::apply`].
    pub fn apply_data(
        &mut self,
        rank: WorkerRank,
        data: &IndexEventData,
        now: Time,
    ) -> Result<(), StandaloneError> {
        let (role, inner) = self.workers.find(rank)?;
        let applied = self.pool_mut(role).apply_index_event(inner, data, now);
        applied.map_err(|source| StandaloneError::Event { rank, source })
    }

    /// A rank has stored the full blocks of some tokens.
    ///
    /// # Errors
    /// As [`StandaloneRouter::apply`], or names that are not one for each block.
    pub fn stored_tokens(
        &mut self,
        rank: WorkerRank,
        blocks: &TokenBlocks<'_>,
        now: Time,
    ) -> Result<(), StandaloneError> {
        let contents = hash::block_hashes(blocks.tokens, self.block_size() as usize, blocks.salt);
        self.stored_hashes(rank, blocks.parent, &contents, blocks.names, now)
    }

    /// As [`StandaloneRouter::stored_tokens`], for blocks whose contents were hashed by the caller.
    ///
    /// # Errors
    /// As [`StandaloneRouter::stored_tokens`].
    pub fn stored_hashes(
        &mut self,
        rank: WorkerRank,
        parent: Option<SequenceHash>,
        contents: &[BlockHash],
        names: Option<&[SequenceHash]>,
        now: Time,
    ) -> Result<(), StandaloneError> {
        if let Some(names) = names.filter(|names| names.len() != contents.len()) {
            let (names, full_blocks, block_size) = (names.len(), contents.len(), self.block_size());
            return Err(StandaloneError::UnevenNames { names, full_blocks, block_size });
        }
        let mut before = parent;
        let block = |(at, &tokens_hash): (usize, &BlockHash)| {
            let chained = hash::extend(before, tokens_hash);
            before = Some(chained);
            let block_hash = names.map_or(chained, |names| names[at]);
            StoredBlock { block_hash, tokens_hash, mm_extra_info: None }
        };
        let blocks = contents.iter().enumerate().map(block).collect();
        let stored = StoredBlocks { parent_hash: parent, blocks };
        self.apply_data(rank, &IndexEventData::Stored(stored), now)
    }

    /// Chooses a rank for a request and books it there under the same settings, or parks the request.
    ///
    /// # Errors
    /// A request that nobody can serve, that contradicts itself, or that is routed already in this phase.
    pub fn route(&mut self, request: &PhaseRequest, now: Time) -> Result<Routed, StandaloneError> {
        self.check_new(request)?;
        let (routing, role) = self.described(request)?;
        let number = routing.id;
        let decision = self.pool_mut(role).route(routing, now).map_err(|error| request.refused(error))?;
        self.bookings.insert(number, &request.id, request.phase);
        Ok(match decision {
            Decision::Admit(admission) => Routed::Admitted(self.selection(&admission)),
            Decision::Queued(queued) => {
                Routed::Queued { waiting: queued.waiting, admitted: self.admitted(&queued.released) }
            }
        })
    }

    /// What [`StandaloneRouter::route`] would choose if nobody waited: nothing is booked and nothing changes.
    ///
    /// # Errors
    /// As [`StandaloneRouter::route`], but an id that is in use is fine.
    pub fn select(&mut self, request: &PhaseRequest, now: Time) -> Result<Selection, StandaloneError> {
        let admission = self.peek(request, now)?;
        let id = PhaseId { id: request.id.as_str().into(), phase: request.phase };
        Ok(self.selection_of(id, &admission))
    }

    /// Books a request on a rank that was chosen elsewhere or by [`StandaloneRouter::select`], past the queue, under the
    /// settings that hold for its phase.
    ///
    /// # Errors
    /// As [`StandaloneRouter::route`] for a request pinned to `rank`.
    pub fn book(
        &mut self,
        request: &PhaseRequest,
        rank: WorkerRank,
        now: Time,
    ) -> Result<Selection, StandaloneError> {
        let request = PhaseRequest { pinned: Some(rank), ..request.clone() };
        self.check_new(&request)?;
        let (routing, role) = self.described(&request)?;
        let (number, pin) = (routing.id, routing.pinned.unwrap_or_default());
        let admission =
            self.pool_mut(role).book(routing, pin, now).map_err(|error| request.refused(error))?;
        self.bookings.insert(number, &request.id, request.phase);
        Ok(self.selection(&admission))
    }

    /// The prompt of a request is computed, in whichever phases it is booked; for the decode phase that is no news.
    ///
    /// # Errors
    /// If it is booked in none.
    pub fn mark_prefill_complete(&mut self, id: &str, now: Time) -> Result<Vec<Selection>, StandaloneError> {
        let mut outcome: Result<Vec<Admission>, _> =
            Err(StandaloneError::UnknownRequest { id: id.to_owned(), waits: false });
        for phase in Role::ALL {
            let Some(number) = self.bookings.number(id, phase) else { continue };
            match (self.pool_mut(WorkerRole::serving(phase)).prefill_done(number, now), &mut outcome) {
                (Ok(admitted), Ok(all)) => all.extend(admitted),
                (Ok(admitted), outcome) => *outcome = Ok(admitted),
                (Err(_), Err(StandaloneError::UnknownRequest { waits, .. })) => *waits = true,
                (Err(_), _) => {}
            }
        }
        outcome.map(|admitted| self.admitted(&admitted))
    }

    /// A request is over in one phase, or in all, or is given up while it waits. May be called again, and for ids that
    /// are unknown.
    pub fn free(&mut self, id: &str, phase: Option<Role>, now: Time) -> Vec<Selection> {
        let mut admitted = Vec::new();
        for phase in Role::ALL.into_iter().filter(|each| phase.is_none_or(|phase| phase == *each)) {
            if let Some(number) = self.bookings.remove(id, phase) {
                let released = self.pool_mut(WorkerRole::serving(phase)).finish(number, now);
                admitted.extend(self.admitted(&released));
            }
        }
        // One phase of a request may let in the next, which is over with it.
        admitted.retain(|each| self.bookings.number(&each.request.id, each.request.phase).is_some());
        admitted
    }

    /// A request has `generated` output tokens by now, which `router_track_output_blocks` counts as load in the phases
    /// that generate.
    ///
    /// # Errors
    /// If it is booked neither whole nor for decode.
    pub fn record_output(&mut self, id: &str, generated: u32, now: Time) -> Result<(), StandaloneError> {
        let phases = [Role::Aggregated, Role::Decode];
        let booked = phases.into_iter().filter_map(|phase| {
            let number = self.bookings.number(id, phase)?;
            self.decode.record_output(number, generated, now).ok()
        });
        match booked.count() {
            0 => Err(StandaloneError::UnknownRequest { id: id.to_owned(), waits: false }),
            _ => Ok(()),
        }
    }

    /// The load that every rank would have with a request on it, under the settings that hold for its phase, in order
    /// of worker and rank.
    ///
    /// # Errors
    /// As [`StandaloneRouter::select`].
    pub fn potential_loads(
        &mut self,
        request: &PhaseRequest,
        now: Time,
    ) -> Result<Vec<WorkerLoad>, StandaloneError> {
        let terms = self.peek(request, now)?.terms;
        let mut loads: Vec<WorkerLoad> = terms
            .iter()
            .map(|terms| WorkerLoad {
                rank: self.workers.name(terms.rank),
                overlap_blocks: terms.overlap_blocks,
                prefill_tokens: terms.prefill_tokens,
                decode_blocks: terms.decode_blocks,
                cost: terms.cost,
            })
            .collect();
        loads.sort_unstable_by_key(|load| load.rank);
        Ok(loads)
    }

    /// Time passes: predictions of an index without events expire.
    pub fn advance(&mut self, now: Time) -> Vec<Selection> {
        let admitted = [&mut self.decode, &mut self.prefill].map(|router| router.advance(now));
        self.admitted(&admitted.concat())
    }

    /// Requests that wait.
    pub fn queued_requests(&self) -> usize {
        self.decode.queued_requests() + self.prefill.queued_requests()
    }

    /// How the KV events of workers of a role fared.
    pub fn event_counts(&self, role: WorkerRole) -> EventCounts {
        self.pool(role).event_counts()
    }

    /// Everything that the router knows, for a look at it.
    pub fn dump(&self, now: Time) -> StandaloneDump {
        dump::dump(self, now)
    }

    fn pool_mut(&mut self, role: WorkerRole) -> &mut Router {
        match role {
            WorkerRole::Decode => &mut self.decode,
            WorkerRole::Prefill => &mut self.prefill,
        }
    }

    fn pool(&self, role: WorkerRole) -> &Router {
        match role {
            WorkerRole::Decode => &self.decode,
            WorkerRole::Prefill => &self.prefill,
        }
    }

    fn check_new(&self, request: &PhaseRequest) -> Result<(), StandaloneError> {
        let PhaseRequest { id, phase, .. } = request;
        match self.bookings.number(id, *phase) {
            Some(_) => Err(StandaloneError::DuplicateRequest { id: id.clone(), phase: *phase }),
            None => Ok(()),
        }
    }

    /// A request in the words of its router, under a number that is free.
    fn described(&self, request: &PhaseRequest) -> Result<(RoutingRequest, WorkerRole), StandaloneError> {
        let role = WorkerRole::serving(request.phase);
        let mut routing = request.routing(self.bookings.next_number());
        if let Some(pin) = request.pinned {
            let (pinned_role, rank) = self.workers.find(pin)?;
            if pinned_role != role {
                let problem = "it does not serve this phase";
                return Err(StandaloneError::Role { worker_id: pin.worker_id, role: pinned_role, problem });
            }
            routing.pinned = Some(rank);
        }
        routing.allowed = request.allowed.as_ref().map(|allowed| self.workers.numbers(role, allowed));
        Ok((routing, role))
    }

    fn peek(&mut self, request: &PhaseRequest, now: Time) -> Result<Admission, StandaloneError> {
        let (routing, role) = self.described(request)?;
        self.pool_mut(role).peek(routing, now).map_err(|error| request.refused(error))
    }

    /// The answer to a request that is booked.
    fn selection(&self, admission: &Admission) -> Selection {
        self.selection_of(self.bookings.name(admission.ticket.id), admission)
    }

    fn selection_of(&self, request: PhaseId, admission: &Admission) -> Selection {
        let Admission { ticket, queue_wait, .. } = admission;
        Selection {
            rank: self.workers.name(ticket.rank),
            request,
            overlap_blocks: ticket.overlap_blocks,
            required_blocks: ticket.required_blocks,
            prefill_tokens: ticket.prefill_tokens,
            tracked_blocks: ticket.blocks.count(),
            settings: ticket.settings,
            queue_wait_ns: queue_wait.as_ns(),
        }
    }

    fn admitted(&self, admissions: &[Admission]) -> Vec<Selection> {
        admissions.iter().map(|admission| self.selection(admission)).collect()
    }
}
