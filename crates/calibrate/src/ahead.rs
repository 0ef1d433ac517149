//! Whether a server looks like one that schedules an iteration while the one before it runs.

use servecast_engine::{EngineArgs, EngineType};

use crate::requests::RequestRun;

/// A typical error that is smaller by this factor tells that the engine worked otherwise than its settings say.
pub(crate) const LOOKS_LIKE: f64 = 0.8;

/// The same runs on an engine that schedules an iteration when the one before it has ended; `None` if it does anyway.
pub(crate) fn one_at_a_time(runs: &[RequestRun]) -> Option<Vec<RequestRun>> {
    let ahead = |run: &RequestRun| run.engine.engine_type == EngineType::Vllm && run.engine.async_scheduling;
    let other = |run: &RequestRun| {
        let engine = EngineArgs { async_scheduling: false, ..run.engine.clone() };
        RequestRun { engine, ..run.clone() }
    };
    runs.iter().all(ahead).then(|| runs.iter().map(other).collect())
}

/// What is said if an engine looks like one that does not schedule ahead; shares that times are off by.
pub(crate) fn looks_synchronous(ahead: f64, after: f64) -> String {
    format!(
        "the server looks like one without asynchronous scheduling, which these settings have on: with it times are off by \
         {:.1} %, without by {:.1} %; if it ran without (as on a CPU, or with --no-async-scheduling), say \
         --extra-engine-args '{{\"async_scheduling\": false}}'",
        100.0 * ahead,
        100.0 * after
    )
}
