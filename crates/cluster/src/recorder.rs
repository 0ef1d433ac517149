//! Turns what engines do into the records of requests and pools.

mod records;

use rustc_hash::FxHashMap;
use servecast_engine::{Begun, Decodes, Emitted, EngineConfig, Fetch, Iteration, LastIteration};
use servecast_latency::Host;
use servecast_record::{
    EndedRequest, PoolRecord, PoolTotals, RequestRecord, RequestStatus, RunRecord, SoFar, StageRecord,
    TokenGaps, WorkerLimits, WorkerTotals,
};
use servecast_types::{Duration, PoolId, RequestId, Role, Time, WorkerId, ensure};
use smallvec::SmallVec;

use self::records::{HandedOut, Records};
use crate::config::PoolConfig;
use crate::delivery::Delivery;
use crate::drive::NewRequest;
use crate::{RunError, Topology};

/// Collects the records of a run.
#[derive(Debug)]
pub(crate) struct Recorder {
    requests: Records,
    /// Arrivals, tokens and ends so far; tokens that are reported together count once.
    news: u64,
    gaps: TokenGaps,
    /// Gaps of one length that were seen in a row and are not in `gaps` yet: most requests of a batch share theirs.
    run: (Duration, u64),
    /// Gaps between tokens of one iteration, which are out together.
    gaps_within: u64,
    pools: Vec<PoolRecord>,
    last_pool: PoolId,
    /// Whether a request comes to both of its pools at once.
    paired: bool,
    /// What the workers deliver whose tokens reach the user, those of the last pool, by number; none if their host takes no time.
    delivery: Vec<Delivery>,
    /// Requests that ended with the next pass to be reported, so that it is not known yet when their last token is out.
    ended_next: Vec<RequestId>,
    /// When requests that were preempted before their first token were admitted last, by request and stage.
    readmitted: FxHashMap<(RequestId, u8), Time>,
}

impl Recorder {
    /// A recorder for the pools of a deployment, which keeps all requests or only those that are under way.
    pub(crate) fn new(topology: &Topology, keeps_ended: bool) -> Self {
        let shows_time = |last: &&PoolConfig| last.engines().any(|engine| engine.host() != Host::NONE);
        let last = Some(topology.last_pool()).filter(shows_time);
        let delivery = last.map(|last| last.engines().map(|engine| Delivery::new(engine.host())).collect());
        let pool = |config: &PoolConfig| PoolRecord {
            role: config.role,
            totals: PoolTotals::default(),
            workers: config.engines().map(|_| WorkerTotals::default()).collect(),
            limits: config.engines().map(limits).collect(),
        };
        Self {
            requests: Records::new(keeps_ended),
            news: 0,
            gaps: TokenGaps::default(),
            run: (Duration::ZERO, 0),
            gaps_within: 0,
            pools: topology.pools.iter().map(pool).collect(),
            last_pool: topology.route.last(),
            paired: topology.paired,
            delivery: delivery.unwrap_or_default(),
            ended_next: Vec::new(),
            readmitted: FxHashMap::default(),
        }
    }

    /// From now on, before the first request, each record is handed out when it is complete.
    pub(crate) fn hand_out(&mut self) {
        self.requests = Records::HandedOut(Box::<HandedOut>::default());
    }

    /// When the pass was decided, or began, that a worker reported last; `None` if records are not handed out.
    pub(crate) fn last_pass(&self, pool: PoolId, worker: WorkerId) -> Option<Time> {
        let Records::HandedOut(out) = &self.requests else { return None };
        Some(out.last_pass(pool, worker))
    }

    /// Whether records are handed out.
    pub(crate) fn hands_out(&self) -> bool {
        matches!(self.requests, Records::HandedOut(_))
    }

    /// Hands out what is first in order of arrival and ended before `until`, after which nothing more happens to it; with
    /// `check` a record that makes no sense is an error.
    pub(crate) fn hand_out_ended(
        &mut self,
        until: Time,
        check: bool,
        mut take: impl FnMut(&EndedRequest<'_>),
    ) -> Result<(), RunError> {
        let Records::HandedOut(out) = &mut self.requests else { return Ok(()) };
        while let Some((id, record)) = out.pop_ended(until) {
            if check {
                check_ended(&record, self.paired)?;
            }
            take(&EndedRequest { id, record: &record, readmitted: &self.readmitted, tokens: None });
            if !self.readmitted.is_empty() {
                (0..record.stages.len() as u8).for_each(|stage| _ = self.readmitted.remove(&(id, stage)));
            }
        }
        Ok(())
    }

    /// Adds a worker to a pool.
    pub(crate) fn add_worker(&mut self, pool: PoolId, engine: &EngineConfig) {
        let of = &mut self.pools[pool.index()];
        of.workers.push(WorkerTotals::default());
        of.limits.push(limits(engine));
        // There is nothing to add to where tokens are out at once.
        if pool == self.last_pool && !self.delivery.is_empty() {
            self.delivery.push(Delivery::new(engine.host()));
        }
    }

    /// Opens the record of a request and numbers it.
    pub(crate) fn arrive(&mut self, request: NewRequest, now: Time) -> RequestId {
        self.news += 1;
        self.requests.add(RequestRecord {
            session: request.session,
            turn: request.turn,
            line: request.line,
            class: request.class,
            lora: request.lora,
            arrival: request.arrival,
            input_tokens: request.input_tokens,
            requested_output_tokens: request.output_tokens,
            output_tokens: 0,
            status: RequestStatus::Finished,
            ended: now,
            first_token: None,
            second_token: None,
            last_token: None,
            stages: SmallVec::new(),
        })
    }

    /// A request that came to a pool at `arrived` got to a worker.
    pub(crate) fn queued(&mut self, id: RequestId, pool: PoolId, worker: WorkerId, arrived: Time, now: Time) {
        self.pools[pool.index()].workers[worker.index()].requests += 1;
        let Some(record) = self.requests.get_mut(id) else { return };
        record.stages.push(StageRecord {
            pool: self.pools[pool.index()].role,
            worker,
            arrived,
            queued: now,
            admitted: None,
            reused_tokens: 0,
            host_reused_tokens: 0,
            reserved: None,
            transfer_start: None,
            transfer_end: None,
            first_token: None,
            last_token: None,
            preemptions: 0,
        });
    }

    /// A transfer began with the memory for it.
    pub(crate) fn transfer_started(&mut self, pool: PoolId, fetch: Fetch, begun: Begun, now: Time) {
        let Some(stage) = self.note_reuse(pool, fetch) else { return };
        stage.transfer_start = Some(now);
        stage.transfer_end = begun.end();
    }

    /// There is memory for a prompt that is not computed yet.
    pub(crate) fn reserved(&mut self, pool: PoolId, fetch: Fetch, now: Time) {
        if let Some(stage) = self.note_reuse(pool, fetch) {
            stage.reserved = Some(now);
        }
    }

    /// A prompt is computed for which there was memory: its KV is on its way.
    pub(crate) fn left_for(&mut self, id: RequestId, pool: PoolId, now: Time) {
        if let Some(stage) = self.stage(id, pool) {
            stage.transfer_start = Some(now);
        }
    }

    /// Counts what a worker has of a prompt that it fetches.
    fn note_reuse(&mut self, pool: PoolId, fetch: Fetch) -> Option<&mut StageRecord> {
        let role = self.pools[pool.index()].role;
        let record = self.requests.get_mut(fetch.id)?;
        let reused_tokens = record.input_tokens - fetch.tokens;
        let stage = stage_of(record, role);
        stage.reused_tokens = reused_tokens;
        self.pools[pool.index()].workers[stage.worker.index()].reused_tokens += u64::from(reused_tokens);
        Some(stage)
    }

    /// The KV of a request is there, which nobody could say when it began to move.
    pub(crate) fn transfer_ended(&mut self, id: RequestId, pool: PoolId, now: Time) {
        if let Some(stage) = self.stage(id, pool) {
            stage.transfer_end = Some(now);
        }
    }

    pub(crate) fn iteration_ended(&mut self, pool: PoolId, worker: WorkerId, iteration: &Iteration) {
        let (place, last_stage) = (worker, pool == self.last_pool);
        self.requests.reported(pool, worker, iteration.scheduled_at);
        let PoolRecord { role, totals, workers, limits } = &mut self.pools[pool.index()];
        let role = *role;
        totals.iterations += u64::from(iteration.num_scheduled() > 0);
        totals.computed_tokens += iteration.total_tokens();
        totals.preemptions += iteration.preempted.len() as u64;
        for verified in &iteration.verified {
            totals.drafts.verifications += 1;
            totals.drafts.drafted += u64::from(verified.drafted);
            totals.drafts.accepted += u64::from(verified.accepted);
        }
        let worker = &mut workers[worker.index()];
        let WorkerLimits { usable_blocks: usable, ranks, stages, .. } = limits[place.index()];
        // Ranks compute their parts of a pass at the same time, and each reports the whole length; stages of a pipeline have
        // other passes meanwhile.
        let length = Duration::from_ns(iteration.busy().as_ns() / u64::from(ranks * stages));
        worker.busy_ns += length.as_ns();
        if iteration.num_scheduled() > 0 {
            let blocks = usable.saturating_sub(iteration.free_blocks_after_schedule);
            worker.computed(iteration.num_scheduled(), blocks, length);
        }
        for admitted in &iteration.admitted {
            // One that has gone is in the pass that was in flight.
            let Some(record) = self.requests.get_mut(admitted.id) else { continue };
            let number = stage_number(record, role);
            let stage = &mut record.stages[number];
            if stage.admitted.is_none() {
                stage.admitted = Some(iteration.scheduled_at);
                if stage.transfer_start.is_none() {
                    stage.reused_tokens = admitted.cached_tokens;
                    stage.host_reused_tokens = admitted.host_cached_tokens;
                    worker.reused_tokens += u64::from(admitted.cached_tokens);
                }
            } else if stage.first_token.is_none() {
                self.readmitted.insert((admitted.id, number as u8), iteration.scheduled_at);
            }
        }
        for &id in &iteration.preempted {
            // With an iteration in flight, its token may have been delivered since, and the request have moved on.
            let Some(record) = self.requests.get_mut(id) else { continue };
            stage_of(record, role).preemptions += 1;
        }
        let (gap, out) =
            if last_stage { self.delivered(place, iteration) } else { (Duration::ZERO, iteration.end) };
        if last_stage && iteration.decoded > 0 {
            self.gap(gap, iteration.decoded);
        }
        for &emitted in &iteration.emitted {
            self.stage_tokens(emitted, pool, iteration.end, out);
        }
    }

    /// How long after those of the iteration before it users have the tokens of an iteration, if one follows the other, and
    /// when that is.
    fn delivered(&mut self, worker: WorkerId, iteration: &Iteration) -> (Duration, Time) {
        let Some(delivery) = self.delivery.get_mut(worker.index()).filter(|_| iteration.num_scheduled() > 0)
        else {
            return (iteration.end.since(iteration.start) + iteration.stalled, iteration.end);
        };
        let before = delivery.last();
        let out = delivery.pass(iteration.end, iteration.num_scheduled());
        for id in self.ended_next.drain(..) {
            if let Some(record) = self.requests.get_mut(id) {
                record.last_token = Some(out);
            }
        }
        (out.since(before), out)
    }

    /// A request was admitted with its first token, which was handed over to its stage.
    pub(crate) fn joined(&mut self, id: RequestId, pool: PoolId, now: Time) {
        let Some(stage) = self.stage(id, pool) else { return };
        stage.admitted.get_or_insert(now);
        let worker = stage.worker.index();
        let out = self.delivery.get(worker).map_or(now, |delivery| delivery.handed_over(now));
        self.stage_tokens(Emitted { id, tokens: 1 }, pool, now, out);
    }

    /// Iterations ended in which each running request got a token, as each did when they began.
    pub(crate) fn decoded(&mut self, pool: PoolId, worker: WorkerId, decodes: &Decodes) {
        self.news += 1;
        self.requests.reported(pool, worker, decodes.start);
        let (count, requests) = (decodes.count(), decodes.requests);
        let PoolRecord { totals, workers, limits, .. } = &mut self.pools[pool.index()];
        totals.iterations += count;
        totals.computed_tokens += count * requests;
        add_decodes(&mut workers[worker.index()], decodes, limits[worker.index()].usable_blocks);
        if pool != self.last_pool {
            return;
        }
        if let Some(delivery) = self.delivery.get_mut(worker.index()) {
            for &end in decodes.ends {
                let before = delivery.last();
                self.gaps.add(delivery.pass(end, requests).since(before), requests);
            }
        } else {
            let mut before = decodes.start;
            for &end in decodes.ends {
                self.gaps.add(end.since(before), requests);
                before = end;
            }
        }
    }

    /// A request has `output_tokens` tokens by now, the last one since `last_token`, when the iteration `with` it ended;
    /// the gaps between them are counted.
    pub(crate) fn caught_up(
        &mut self,
        id: RequestId,
        pool: PoolId,
        output_tokens: u32,
        last_token: Time,
        with: LastIteration,
    ) {
        let Some(stage) = self.stage(id, pool) else { return };
        stage.last_token = Some(last_token);
        let worker = stage.worker.index();
        if pool == self.last_pool {
            let mut out = last_token;
            if let Some(delivery) = self.delivery.get(worker) {
                match with {
                    LastIteration::Reported => out = delivery.last(),
                    LastIteration::Next => self.ended_next.push(id),
                }
            }
            if let Some(record) = self.requests.get_mut(id) {
                record.output_tokens = output_tokens;
                record.last_token = Some(out);
            }
        }
    }

    pub(crate) fn end(&mut self, id: RequestId, status: RequestStatus, now: Time) {
        self.news += 1;
        if let Some(dropped) = self.requests.end(id, status, now) {
            (0..dropped.stages.len() as u8).for_each(|stage| _ = self.readmitted.remove(&(id, stage)));
        }
    }

    /// The records of a run that is over; with `check` those that make no sense are an error.
    pub(crate) fn take(self, check: bool) -> Result<RunRecord, RunError> {
        let Self { requests, paired, mut gaps, run, gaps_within, pools, readmitted, .. } = self;
        for (gap, times) in [run, (Duration::ZERO, gaps_within)] {
            if times > 0 {
                gaps.add(gap, times);
            }
        }
        let requests = requests.take();
        for record in requests.iter().filter(|_| check) {
            check_ended(record, paired)?;
        }
        Ok(RunRecord { requests, gaps, pools, readmitted, ..RunRecord::default() })
    }

    /// Grows whenever a request gets further.
    pub(crate) fn news(&self) -> u64 {
        self.news
    }

    /// What is recorded so far.
    pub(crate) fn so_far(&self) -> SoFar<'_> {
        let (requests, ended) = self.requests.all();
        SoFar { requests, ended, gaps: &self.gaps }
    }

    /// Whether a request has no token of its stage in a pool yet.
    pub(crate) fn awaits_first_token(&self, id: RequestId, pool: PoolId) -> bool {
        let role = self.pools[pool.index()].role;
        let record = self.requests.get(id);
        record.is_some_and(|record| record.stages[stage_number(record, role)].first_token.is_none())
    }

    /// When the user had its last token.
    pub(crate) fn last_token(&self, id: RequestId) -> Option<Time> {
        self.requests.get(id)?.last_token
    }

    /// Tokens of a request that have reached the user.
    pub(crate) fn output_tokens(&self, id: RequestId) -> u32 {
        self.requests.get(id).map_or(0, |record| record.output_tokens)
    }

    /// The stage of a request in a pool, unless it has ended and is not kept.
    fn stage(&mut self, id: RequestId, pool: PoolId) -> Option<&mut StageRecord> {
        let role = self.pools[pool.index()].role;
        Some(stage_of(self.requests.get_mut(id)?, role))
    }

    /// A request has more tokens in its stage, which the user has at `out`, if users have tokens of the stage.
    fn stage_tokens(&mut self, emitted: Emitted, pool: PoolId, now: Time, out: Time) {
        self.news += 1;
        let Some(stage) = self.stage(emitted.id, pool) else { return };
        stage.first_token.get_or_insert(now);
        stage.last_token = Some(now);
        if pool == self.last_pool {
            self.tokens(emitted, out);
        }
    }

    /// Tokens reached the user, all at once: between them are gaps of no length.
    fn tokens(&mut self, Emitted { id, tokens }: Emitted, now: Time) {
        let Some(record) = self.requests.get_mut(id) else { return };
        record.output_tokens += tokens;
        let previous = record.last_token.replace(now);
        let of_first = u32::from(previous.is_none());
        if previous.is_none() {
            record.first_token = Some(now);
        }
        if record.second_token.is_none() && tokens > of_first {
            record.second_token = Some(now);
        }
        if let Some(previous) = previous {
            self.gap(now.since(previous), 1);
        }
        if tokens > 1 {
            self.gaps_within += u64::from(tokens - 1);
        }
    }

    fn gap(&mut self, gap: Duration, times: u64) {
        if gap == self.run.0 {
            self.run.1 += times;
        } else {
            let (gap, times) = std::mem::replace(&mut self.run, (gap, times));
            if times > 0 {
                self.gaps.add(gap, times);
            }
        }
    }
}

/// Which stage of a request is in the pool of a role.
fn stage_number(record: &RequestRecord, role: Role) -> usize {
    let number = record.stages.iter().rposition(|stage| stage.pool == role);
    number.expect("a request in an engine is in a stage")
}

fn stage_of(record: &mut RequestRecord, role: Role) -> &mut StageRecord {
    let number = stage_number(record, role);
    &mut record.stages[number]
}

/// Iterations ended in which the same requests got a token each, on a worker of `usable` KV blocks.
#[inline]
fn add_decodes(totals: &mut WorkerTotals, decodes: &Decodes, usable: u32) {
    let length = decodes.length();
    totals.busy_ns += length.as_ns();
    totals.computed(decodes.requests, usable.saturating_sub(decodes.free_blocks), length);
    if decodes.taken_blocks > 0 {
        totals.block_ns += decodes.taken_block_ns();
        totals.peak_blocks = totals.peak_blocks.max(usable.saturating_sub(decodes.free_blocks_after()));
    }
}

fn limits(engine: &EngineConfig) -> WorkerLimits {
    WorkerLimits {
        max_num_seqs: engine.max_num_seqs(),
        offloads_kv: engine.offloads_kv(),
        usable_blocks: engine.usable_blocks(),
        ranks: engine.num_ranks(),
        stages: engine.num_stages(),
    }
}

/// An error if the record of a request that has ended makes no sense.
fn check_ended(record: &RequestRecord, paired: bool) -> Result<(), RunError> {
    check_record(record, paired).map_err(|what| RunError::Invariant {
        at: record.ended,
        place: format!("the request of line {}", record.line),
        what,
    })
}

/// Checks that the times of a request are in order and its tokens add up; says what does not hold.
fn check_record(record: &RequestRecord, paired: bool) -> Result<(), String> {
    let entries = |stage: &StageRecord| {
        [(Some(stage.arrived), "arrival at the pool"), (Some(stage.queued), "arrival at the worker")]
    };
    let passes = |stage: &StageRecord| {
        [
            (stage.transfer_start, "transfer start"),
            (stage.transfer_end, "transfer end"),
            (stage.admitted, "admission"),
            (stage.first_token, "first token"),
            (stage.last_token, "last token"),
        ]
    };
    // Where a decode worker reserves memory first, a request comes to both stages before its prompt is computed.
    let ahead = record.stages.iter().filter(|_| paired);
    let reserved = ahead.clone().map(|stage| (stage.reserved, "memory"));
    let ahead = ahead.flat_map(entries).chain(reserved);
    let stages = record.stages.iter().flat_map(|stage| {
        let own = entries(stage).into_iter().filter(|_| !paired);
        own.chain(passes(stage))
    });
    // What was under way for a request that was taken away is over later.
    let end = Some(record.ended)
        .filter(|_| !matches!(record.status, RequestStatus::Withdrawn | RequestStatus::Failed));
    let mut clock = record.arrival;
    for (time, what) in ahead.chain(stages).chain([(end, "end")]) {
        let Some(time) = time else { continue };
        ensure!(time >= clock, "its {what} at {time} is before what precedes it at {clock}");
        clock = time;
    }
    let (tokens, requested) = (record.output_tokens, record.requested_output_tokens);
    ensure!(tokens <= requested, "it has {tokens} output tokens, more than {requested}");
    if record.is_finished() {
        ensure!(tokens > 0, "it finished without a token");
        ensure!(record.last_token == Some(record.ended), "it did not end with its last token");
    }
    Ok(())
}
