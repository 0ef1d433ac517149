//! A port for whoever tries what becomes of clients when workers fail: it lists workers, lets them fail, and starts them
//! again.

use std::sync::mpsc::Sender;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use servecast_cluster::{Cluster, WorkerState};
use servecast_types::{PoolId, Time, WorkerId};
use tokio::sync::oneshot;

use crate::deployment::Command;

/// What is to become of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// It fails with all that it has.
    Fail,
    /// It starts again.
    Restart,
    /// It ends what it has and takes no more.
    Drain,
}

/// Something to do with the workers of a deployment, between two instants of it.
#[derive(Debug)]
pub(crate) enum Order {
    /// To say how they are.
    List(oneshot::Sender<Vec<WorkerStatus>>),
    /// To change one, by its number among all.
    Change(usize, Act, oneshot::Sender<Result<(), Refused>>),
    /// To empty the prefix caches of all that serve, or that of one; the answer is whether all could be.
    ResetCaches(Option<WorkerId>, oneshot::Sender<bool>),
}

/// Why a worker cannot be changed so.
#[derive(Debug)]
pub(crate) struct Refused {
    is_unknown: bool,
    why: String,
}

/// How a worker is.
#[derive(Debug, Serialize)]
pub(crate) struct WorkerStatus {
    worker: usize,
    pool: &'static str,
    state: &'static str,
    running: usize,
    waiting: usize,
}

impl Order {
    /// Does it. A worker that is started serves at `ready`.
    pub(crate) fn carry_out(self, cluster: &mut Cluster, pools: &[&'static str], ready: Time) {
        // Who asked may have gone.
        match self {
            Self::List(answer) => _ = answer.send(list(cluster, pools)),
            Self::Change(worker, act, answer) => {
                _ = answer.send(change(cluster, pools.len(), worker, act, ready));
            }
            Self::ResetCaches(worker, answer) => {
                _ = answer.send(reset_caches(cluster, pools.len(), worker));
            }
        }
    }
}

fn list(cluster: &Cluster, pools: &[&'static str]) -> Vec<WorkerStatus> {
    let views = (0..)
        .map(PoolId)
        .zip(pools)
        .flat_map(|(number, &pool)| cluster.workers(number).map(move |view| (pool, view)));
    let status = |(worker, (pool, view)): (usize, (&'static str, servecast_cluster::WorkerView))| {
        WorkerStatus { worker, pool, state: view.state.name(), running: view.running, waiting: view.waiting }
    };
    views.enumerate().map(status).collect()
}

/// Empties the prefix caches of workers, of which those that are in use stay as they are; whether none was. Whoever has a
/// port of its own is of the first pool.
fn reset_caches(cluster: &mut Cluster, pools: usize, only: Option<WorkerId>) -> bool {
    let mut all = true;
    for pool in (0..).map(PoolId).take(pools) {
        let serving: Vec<WorkerId> =
            cluster.workers(pool).filter(|view| is_up(view.state)).map(|view| view.worker).collect();
        for worker in serving.into_iter().filter(|worker| only.is_none_or(|only| only == *worker)) {
            all &= cluster.reset_prefix_cache(pool, worker).is_ok_and(|is_reset| is_reset);
        }
    }
    all
}

fn change(cluster: &mut Cluster, pools: usize, number: usize, act: Act, ready: Time) -> Result<(), Refused> {
    let mut left = number;
    for pool in (0..).map(PoolId).take(pools) {
        let workers = cluster.workers(pool).count();
        if left >= workers {
            left -= workers;
            continue;
        }
        let worker = WorkerId(left as u32);
        let changed = match act {
            Act::Fail => cluster.fail_worker(pool, worker),
            Act::Restart => cluster.restart_worker(pool, worker, ready),
            Act::Drain => cluster.drain_worker(pool, worker),
        };
        return changed.map_err(|error| Refused { is_unknown: false, why: error.to_string() });
    }
    Err(Refused { is_unknown: true, why: format!("there is no worker {number}") })
}

type Answer = Response<Full<Bytes>>;

/// Answers a request.
pub(crate) async fn answer(request: Request<Incoming>, commands: Sender<Command>) -> Answer {
    let path = request.uri().path();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (worker, act) = match (request.method(), &parts[..]) {
        (&Method::GET, ["workers"]) => return workers(&commands).await,
        (&Method::POST, ["workers", worker, act]) => (*worker, *act),
        (_, ["workers"] | ["workers", _, "fail" | "restart" | "drain"]) => {
            return refused(
                StatusCode::METHOD_NOT_ALLOWED,
                "GET /workers, POST /workers/N/fail, restart or drain",
            );
        }
        _ => ("", ""),
    };
    let act = match act {
        "fail" => Act::Fail,
        "restart" => Act::Restart,
        "drain" => Act::Drain,
        _ => {
            return refused(
                StatusCode::NOT_FOUND,
                "there is /workers, and /workers/N/fail, restart and drain",
            );
        }
    };
    let Ok(worker) = worker.parse() else {
        return refused(StatusCode::NOT_FOUND, &format!("{worker:?} is no number of a worker"));
    };
    let (sender, answer) = oneshot::channel();
    let sent = commands.send(Command::Order(Order::Change(worker, act, sender)));
    match (sent, answer.await) {
        (Ok(()), Ok(Ok(()))) => workers(&commands).await,
        (Ok(()), Ok(Err(Refused { is_unknown, why }))) => {
            refused(if is_unknown { StatusCode::NOT_FOUND } else { StatusCode::CONFLICT }, &why)
        }
        _ => stopping(),
    }
}

async fn workers(commands: &Sender<Command>) -> Answer {
    let (sender, answer) = oneshot::channel();
    let sent = commands.send(Command::Order(Order::List(sender)));
    match (sent, answer.await) {
        (Ok(()), Ok(workers)) => {
            json(StatusCode::OK, serde_json::to_string(&workers).expect("texts and numbers are JSON"))
        }
        _ => stopping(),
    }
}

fn stopping() -> Answer {
    refused(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping")
}

fn refused(status: StatusCode, why: &str) -> Answer {
    json(status, serde_json::json!({ "error": why }).to_string())
}

fn json(status: StatusCode, text: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// Whether the port of a worker is open, as it is while the worker serves or ends what it has.
pub(crate) fn is_up(state: WorkerState) -> bool {
    matches!(state, WorkerState::Serving | WorkerState::Draining)
}
