//! The KV-aware router on its own: `servecast_router::standalone` behind a lock.
//!
//! Values cross as plain tuples, JSON and bytes; `python/servecast/_router.py` gives them names.

#![expect(clippy::needless_pass_by_value, reason = "arguments from Python are values")]

mod asked;

use std::num::NonZeroU32;
use std::sync::{Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use rustc_hash::FxHashMap;
use serde_json::Value;
use servecast_router::KvRouterConfig;
use servecast_router::standalone::{
    PhaseId, Routed, Selection, StandaloneError, StandaloneRouter, WorkerInfo, WorkerRank, WorkerRole,
    WorkersChanged,
};
use servecast_router::wire::{EventConverter, RouterEvent, StorageTier, decode_frames};
use servecast_types::{Duration, Time};

use self::asked::{Asked, phase_of};
use crate::errors;

/// A KV-aware router. Every call holds a lock for as long as it takes, so threads may share one.
#[pyclass(frozen)]
pub(crate) struct Router(Mutex<State>);

struct State {
    core: StandaloneRouter,
    /// Of engines whose messages were read, since they remember what earlier ones said.
    converters: FxHashMap<WorkerRank, EventConverter>,
    use_kv_events: bool,
}

/// A selection: request, phase, worker, rank, overlap, required blocks, prefill tokens, tracked blocks, wait in ms.
type Selected = (String, &'static str, u64, u32, u32, u32, u32, u32, f64);
/// Requests with their phases.
type Requests = Vec<(String, &'static str)>;
/// What became of requests: forgotten, refused, admitted.
type Changed = (Requests, Requests, Vec<Selected>);
/// The load of a rank with a request on it: worker, rank, overlap blocks, prefill tokens, blocks, cost.
type Load = (u64, u32, u32, u64, u64, f64);
/// A worker: id, role, first rank, number of ranks, limit.
type Worker = (u64, &'static str, u32, u32, Option<u32>);
/// How events fared: applied, without effect, what was wrong with others.
type Applied = (u64, u64, Vec<String>);

#[pymethods]
impl Router {
    #[new]
    fn new(py: Python<'_>, config: &str, block_size: u32, seed: u64) -> PyResult<Self> {
        let refused = |message: String| errors::config(py, &message);
        let given: Value =
            serde_json::from_str(config).map_err(|error| refused(format!("no JSON object: {error}")))?;
        let config = KvRouterConfig::from_json(&given).map_err(|error| refused(error.to_string()))?;
        let core =
            StandaloneRouter::new(&config, block_size, seed).map_err(|error| refused(error.to_string()))?;
        let use_kv_events = config.use_kv_events;
        Ok(Self(Mutex::new(State { core, converters: FxHashMap::default(), use_kv_events })))
    }

    /// Registers a worker: its id, role, first rank, number of ranks and limit.
    fn register_worker(
        &self,
        py: Python<'_>,
        worker: (u64, String, u32, u32, Option<u32>),
        now_ms: f64,
    ) -> PyResult<Changed> {
        let (worker_id, role, dp_rank_start, dp_size, max_num_batched_tokens) = worker;
        let role = serde_json::from_value(Value::String(role.clone())).map_err(|_| {
            errors::config(py, &format!("`role` is {role:?}, but must be decode, prefill or aggregated"))
        })?;
        let info = WorkerInfo { role, dp_rank_start, dp_size, max_num_batched_tokens };
        self.change(py, now_ms, |state, now| state.core.register_worker(worker_id, info, now).map(changed))
    }

    /// Forgets a worker.
    fn remove_worker(&self, py: Python<'_>, worker_id: u64, now_ms: f64) -> PyResult<Changed> {
        self.change(py, now_ms, |state, now| {
            state.converters.retain(|rank, _| rank.worker_id != worker_id);
            state.core.remove_worker(worker_id, now).map(changed)
        })
    }

    /// Chooses a rank and books, or parks the request: its selection if there is one, who else was let in, who waits.
    fn route(
        &self,
        py: Python<'_>,
        request_id: &str,
        asked: &Bound<'_, PyDict>,
        now_ms: f64,
    ) -> PyResult<(Option<Selected>, Vec<Selected>, usize)> {
        let asked = Asked::new(asked)?;
        self.change(py, now_ms, |state, now| {
            let request = asked.request(request_id, state.core.block_size());
            Ok(match state.core.route(&request, now)? {
                Routed::Admitted(own) => (Some(selected(own)), Vec::new(), 0),
                Routed::Queued { waiting, admitted } => {
                    let is_own = |one: &Selection| {
                        &*one.request.id == request_id && one.request.phase == request.phase
                    };
                    let (own, others): (Vec<_>, Vec<_>) = admitted.into_iter().partition(is_own);
                    (own.into_iter().next().map(selected), all_selected(others), waiting)
                }
            })
        })
    }

    /// Books a request on a rank that was chosen elsewhere.
    fn book(
        &self,
        py: Python<'_>,
        request_id: &str,
        rank: (u64, u32),
        asked: &Bound<'_, PyDict>,
        now_ms: f64,
    ) -> PyResult<Selected> {
        let asked = Asked::new(asked)?;
        self.change(py, now_ms, |state, now| {
            let request = asked.request(request_id, state.core.block_size());
            state.core.book(&request, rank_of(rank), now).map(selected)
        })
    }

    /// What would be decided if nobody waited.
    fn select(&self, py: Python<'_>, asked: &Bound<'_, PyDict>, now_ms: f64) -> PyResult<Selected> {
        let asked = Asked::new(asked)?;
        self.change(py, now_ms, |state, now| {
            let request = asked.request("", state.core.block_size());
            state.core.select(&request, now).map(selected)
        })
    }

    /// The load that every rank would have with a request on it.
    fn potential_loads(&self, py: Python<'_>, asked: &Bound<'_, PyDict>, now_ms: f64) -> PyResult<Vec<Load>> {
        let asked = Asked::new(asked)?;
        self.change(py, now_ms, |state, now| {
            let request = asked.request("", state.core.block_size());
            let loads = state.core.potential_loads(&request, now)?;
            let told = loads.into_iter().map(|load| {
                let WorkerRank { worker_id, dp_rank } = load.rank;
                (worker_id, dp_rank, load.overlap_blocks, load.prefill_tokens, load.decode_blocks, load.cost)
            });
            Ok(told.collect())
        })
    }

    /// The prompt of a request is computed; returns who is let in by that.
    fn mark_prefill_complete(
        &self,
        py: Python<'_>,
        request_id: &str,
        now_ms: f64,
    ) -> PyResult<Vec<Selected>> {
        self.change(py, now_ms, |state, now| {
            state.core.mark_prefill_complete(request_id, now).map(all_selected)
        })
    }

    /// A request has so many output tokens by now.
    fn record_output(&self, py: Python<'_>, request_id: &str, generated: u32, now_ms: f64) -> PyResult<()> {
        self.change(py, now_ms, |state, now| state.core.record_output(request_id, generated, now))
    }

    /// A request is over or given up, in one phase or in all; returns who is let in by that.
    fn free(
        &self,
        py: Python<'_>,
        request_id: &str,
        phase: Option<&str>,
        now_ms: f64,
    ) -> PyResult<Vec<Selected>> {
        let phase = phase.map(|phase| phase_of(py, phase)).transpose()?;
        self.change(py, now_ms, |state, now| Ok(all_selected(state.core.free(request_id, phase, now))))
    }

    /// Applies index events, a JSON array of them; none if one cannot be read.
    fn apply_events(&self, py: Python<'_>, events: &str, now_ms: f64) -> PyResult<Applied> {
        let refused = |message: String| errors::config(py, &message);
        let values: Vec<Value> =
            serde_json::from_str(events).map_err(|error| refused(format!("`events`: {error}")))?;
        let read = values.into_iter().enumerate().map(|(at, value)| {
            serde_json::from_value(value).map_err(|error| refused(format!("event {at}: {error}")))
        });
        let events = read.collect::<PyResult<Vec<RouterEvent>>>()?;
        self.change(py, now_ms, |state, now| Ok(state.apply(&events, now)))
    }

    /// Applies the message of an engine: its three frames.
    fn apply_message(
        &self,
        py: Python<'_>,
        rank: (u64, u32),
        frames: Vec<Bound<'_, PyBytes>>,
        now_ms: f64,
    ) -> PyResult<Applied> {
        let frames: Vec<&[u8]> = frames.iter().map(PyBytesMethods::as_bytes).collect();
        let message =
            decode_frames(&frames).map_err(|error| errors::config(py, &format!("`frames`: {error}")))?;
        let rank = rank_of(rank);
        self.change(py, now_ms, |state, now| {
            let block_size =
                NonZeroU32::new(state.core.block_size()).expect("a block holds at least one token");
            let new = || EventConverter::new(rank.worker_id, rank.dp_rank, block_size);
            let converted =
                state.converters.entry(rank).or_insert_with(new).convert(message.sequence, &message.batch);
            let (applied, ignored, mut problems) = state.apply(&converted.events, now);
            problems.splice(0..0, converted.problems.iter().map(ToString::to_string));
            Ok((applied, ignored, problems))
        })
    }

    /// Everything that the router knows, as JSON.
    fn dump(&self, py: Python<'_>, now_ms: f64) -> PyResult<String> {
        let dump = self.change(py, now_ms, |state, now| Ok(state.core.dump(now)))?;
        Ok(serde_json::to_string(&dump).expect("a dump is plain data"))
    }

    /// The registered workers, sorted.
    fn workers(&self) -> Vec<Worker> {
        let state = self.state();
        let told = state.core.workers().map(|(id, info)| {
            let WorkerInfo { role, dp_rank_start, dp_size, max_num_batched_tokens } = info;
            (id, WorkerRole::name(role), dp_rank_start, dp_size, max_num_batched_tokens)
        });
        told.collect()
    }

    /// Requests that wait.
    fn queued_requests(&self) -> usize {
        self.state().core.queued_requests()
    }
}

impl Router {
    /// No call leaves the state half changed, so a lock that a panic poisoned is as good as any.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(
        &self,
        py: Python<'_>,
        now_ms: f64,
        change: impl FnOnce(&mut State, Time) -> Result<T, StandaloneError>,
    ) -> PyResult<T> {
        let now = Time::from_ms(now_ms).map_err(|error| errors::config(py, &format!("`now_ms`: {error}")))?;
        change(&mut self.state(), now).map_err(|error| errors::router(py, &error.to_string()))
    }
}

impl State {
    fn apply(&mut self, events: &[RouterEvent], now: Time) -> Applied {
        let (mut applied, mut ignored, mut problems) = (0, 0, Vec::new());
        for (at, event) in events.iter().enumerate() {
            let has_effect = self.use_kv_events && event.storage_tier == StorageTier::Device;
            match self.core.apply(event, now) {
                Ok(()) if has_effect => applied += 1,
                Ok(()) => ignored += 1,
                Err(error) => problems.push(format!("event {at}: {error}")),
            }
        }
        (applied, ignored, problems)
    }
}

fn changed(changed: WorkersChanged) -> Changed {
    let requests =
        |all: Vec<PhaseId>| all.into_iter().map(|one| (one.id.to_string(), one.phase.name())).collect();
    (requests(changed.forgotten), requests(changed.refused), all_selected(changed.admitted))
}

fn all_selected(selections: Vec<Selection>) -> Vec<Selected> {
    selections.into_iter().map(selected).collect()
}

fn selected(selection: Selection) -> Selected {
    let Selection { request, rank, overlap_blocks, required_blocks, prefill_tokens, tracked_blocks, .. } =
        selection;
    (
        request.id.to_string(),
        request.phase.name(),
        rank.worker_id,
        rank.dp_rank,
        overlap_blocks,
        required_blocks,
        prefill_tokens,
        tracked_blocks,
        Duration::from_ns(selection.queue_wait_ns).as_ms(),
    )
}

fn rank_of((worker_id, dp_rank): (u64, u32)) -> WorkerRank {
    WorkerRank { worker_id, dp_rank }
}
