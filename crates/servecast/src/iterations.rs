//! A row an engine iteration, as a JSON line or in columns.

use std::io::{self, Write};

use serde::Serialize;
use servecast_engine::Iteration;
use servecast_report::Columns;
use servecast_types::{RequestId, Role, Time, WorkerId};

use crate::rows::Rows;

/// Writes iterations as they end.
pub struct IterationRows<W> {
    out: Rows<W>,
    ordinals: Ordinals,
}

impl<W: Write> IterationRows<W> {
    /// Rows that go to `out`.
    pub fn new(out: W) -> Self {
        Self { out: Rows::new(out), ordinals: Ordinals::default() }
    }

    /// Writes a row, unless nothing happened in the iteration.
    pub fn write(&mut self, pool: Role, worker: WorkerId, iteration: &Iteration) -> io::Result<()> {
        self.ordinals.row(pool, worker, iteration).map_or(Ok(()), |row| self.out.write(&row))
    }

    /// Where rows go.
    pub fn out(&self) -> &W {
        self.out.out()
    }

    /// Where rows went.
    pub fn into_inner(self) -> W {
        self.out.into_inner()
    }
}

/// Keeps the same rows as columns.
#[derive(Debug, Default)]
pub(crate) struct IterationColumns {
    columns: Columns,
    ordinals: Ordinals,
}

impl IterationColumns {
    /// Adds a row, unless nothing happened in the iteration.
    pub(crate) fn push(&mut self, pool: Role, worker: WorkerId, iteration: &Iteration) {
        if let Some(row) = self.ordinals.row(pool, worker, iteration) {
            self.columns.push(&row);
        }
    }

    pub(crate) fn into_columns(self) -> Columns {
        self.columns
    }
}

/// How many rows each worker has, by pool.
#[derive(Debug, Default)]
struct Ordinals([Vec<u64>; 3]);

impl Ordinals {
    /// The row of an iteration, unless nothing happened in it.
    fn row(&mut self, pool: Role, worker: WorkerId, iteration: &Iteration) -> Option<Row> {
        if !iteration.is_eventful() {
            return None;
        }
        let rows = &mut self.0[pool as usize];
        if rows.len() <= worker.index() {
            rows.resize(worker.index() + 1, 0);
        }
        let ordinal = rows[worker.index()];
        rows[worker.index()] += 1;
        Some(Row::new(pool, worker, ordinal, iteration))
    }
}

/// Requests are numbered in order of arrival, as in the rows of requests.
#[derive(Serialize)]
struct Row {
    pool: Role,
    worker: u32,
    /// The data-parallel rank of the worker; absent for the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    dp_rank: Option<u32>,
    /// Counts the rows of the worker from 0.
    iteration: u64,
    scheduled_at_ms: f64,
    start_ms: f64,
    end_ms: f64,
    /// Request, tokens, tokens computed or hit before.
    scheduled: Vec<(u32, u32, u32)>,
    /// Request, tokens found in the prefix cache.
    admitted: Vec<(u32, u32)>,
    /// Request, those of these tokens that are loaded from the memory of the host; absent without such.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    loaded_from_host: Vec<(u32, u32)>,
    /// Those of the admitted that had been preempted.
    resumed: Vec<u32>,
    preempted: Vec<u32>,
    /// Requests whose first token was handed over with their KV: it is out at `scheduled_at_ms`.
    joined: Vec<u32>,
    /// Those of the joined that had ended with it.
    finished_at_once: Vec<u32>,
    /// Requests that got a token at `end_ms`.
    emitted: Vec<u32>,
    finished: Vec<u32>,
    rejected: Vec<u32>,
    /// Request, tokens, end in ms of KV transfers to the worker that began; `None` if the end was not known then.
    transfers: Vec<(u32, u32, Option<f64>)>,
    /// Requests whose transfer to the worker was noticed as complete.
    received: Vec<u32>,
    /// Requests whose blocks were handed on and dropped.
    sent: Vec<u32>,
    free_blocks: u32,
    cached_blocks: u32,
    num_running: u32,
    num_waiting: u32,
    total_tokens: u64,
}

impl Row {
    fn new(pool: Role, worker: WorkerId, ordinal: u64, iteration: &Iteration) -> Self {
        let ids = |ids: &[RequestId]| ids.iter().map(|id| id.0).collect();
        let joined_and_finished = iteration.joined.iter().filter(|one| one.is_finished);
        Self {
            pool,
            worker: worker.0,
            dp_rank: Some(iteration.dp_rank).filter(|&rank| rank > 0),
            iteration: ordinal,
            scheduled_at_ms: iteration.scheduled_at.as_ms(),
            start_ms: iteration.start.as_ms(),
            end_ms: iteration.end.as_ms(),
            scheduled: iteration.scheduled.iter().map(|one| (one.id.0, one.tokens, one.computed)).collect(),
            admitted: iteration.admitted.iter().map(|one| (one.id.0, one.cached_tokens)).collect(),
            loaded_from_host: iteration
                .admitted
                .iter()
                .filter(|one| one.host_cached_tokens > 0)
                .map(|one| (one.id.0, one.host_cached_tokens))
                .collect(),
            resumed: iteration.admitted.iter().filter(|one| one.resumed).map(|one| one.id.0).collect(),
            preempted: ids(&iteration.preempted),
            joined: iteration.joined.iter().map(|one| one.id.0).collect(),
            finished_at_once: joined_and_finished.map(|one| one.id.0).collect(),
            emitted: iteration.emitted.iter().map(|one| one.id.0).collect(),
            finished: iteration.finished.iter().map(|one| one.id.0).collect(),
            rejected: iteration.rejected.iter().map(|(id, _)| id.0).collect(),
            transfers: iteration
                .transfers
                .iter()
                .map(|one| (one.id.0, one.tokens, one.end.map(Time::as_ms)))
                .collect(),
            received: ids(&iteration.received),
            sent: ids(&iteration.sent),
            free_blocks: iteration.free_blocks,
            cached_blocks: iteration.cached_blocks,
            num_running: iteration.num_running,
            num_waiting: iteration.num_waiting,
            total_tokens: iteration.total_tokens(),
        }
    }
}
