//! Searches for the best deployment.

#![expect(clippy::needless_pass_by_value, reason = "arguments from Python are values")]

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyIterator};
use serde::Deserialize;
use servecast::recommend::{self, Ask, Asked, Executor, Outcome, Prepared, Simulator, Trial, Watch};
use servecast_report::TableOptions;

use crate::errors;
use crate::latency::Functions;
use crate::replay::{Given, Run};

/// Questions of which a process keeps the load.
const KEPT: usize = 4;

/// Looks at a run of a worker between two looks for a signal.
const LOOKS: usize = 4096;

/// What came of a search.
#[pyclass(frozen)]
pub(crate) struct Answer(recommend::Answer);

#[pymethods]
impl Answer {
    /// The answer, as `--format json` prints it.
    fn json(&self) -> String {
        servecast::replay::json(&self.0.recommendation)
    }

    /// The answer, as the command line prints it.
    fn table(&self) -> String {
        self.0.table(TableOptions::default())
    }

    /// The ranking, as `--csv` writes it.
    fn csv(&self) -> String {
        self.0.csv()
    }

    /// The commands that start the best deployment; empty if there is none.
    fn start(&self) -> String {
        self.0.start().unwrap_or_default()
    }

    /// What the user should know of the trace.
    fn notes(&self) -> Vec<String> {
        self.0.notes()
    }
}

/// What is asked beside settings.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Beside {
    objective: Option<String>,
    max_gpus: Option<u32>,
    gpus: Option<u32>,
    node_gpus: Option<u32>,
    spare: u32,
    growth: Vec<f64>,
    gpu_hour: Vec<String>,
    vary: Vec<String>,
    threads: Option<u32>,
    resume: Option<PathBuf>,
}

/// Finds which deployments keep their targets.
///
/// `evaluate` simulates, if it is there: it is called with a question, a trace that is no file, and trials, and returns
/// an iterator of pairs, the place of a trial and what `simulate` returned. `progress` is called when a run is over; what
/// it raises ends the search, as a signal does.
#[pyfunction(name = "recommend")]
#[pyo3(signature = (given, asked, evaluate=None, progress=None))]
pub(crate) fn find(
    py: Python<'_>,
    given: Given<'_>,
    asked: &str,
    evaluate: Option<Py<PyAny>>,
    progress: Option<Py<PyAny>>,
) -> PyResult<Answer> {
    let asked: Beside = serde_json::from_str(asked)
        .map_err(|error| PyValueError::new_err(format!("what is asked cannot be read: {error}")))?;
    let Beside { objective, max_gpus, gpus, node_gpus, spare, growth, gpu_hour, vary, threads, resume } =
        asked;
    let Run { replay, functions } = Run::new(given)?;
    let asked = Asked { objective, max_gpus, gpus, node_gpus, spare, growth, gpu_hour };
    let ask = Ask { replay, asked, vary, threads, resume };
    let watcher = Watcher {
        functions,
        progress,
        reached: Mutex::default(),
        is_stopped: AtomicBool::new(false),
        raised: Mutex::default(),
    };
    let workers = evaluate.map(|evaluate| Workers { evaluate, watcher: &watcher });
    let answer = py.detach(|| {
        let executor = workers.as_ref().map(|workers| workers as &dyn Executor);
        recommend::recommend(&ask, executor, &watcher)
    });
    match watcher.raised() {
        Some(raised) => Err(raised),
        None => answer.map(Answer).map_err(|refusal| errors::exception(py, &refusal)),
    }
}

/// Somebody in Python who waits.
struct Watcher {
    functions: Functions,
    progress: Option<Py<PyAny>>,
    reached: Mutex<Reached>,
    is_stopped: AtomicBool,
    /// Why it was stopped.
    raised: Mutex<Option<PyErr>>,
}

/// How far a search is.
#[derive(Clone, Default)]
struct Reached {
    factor: f64,
    runs: usize,
    deployments: usize,
    kept: usize,
    best: Option<String>,
}

impl Watcher {
    fn reached(&self) -> MutexGuard<'_, Reached> {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the search if something was raised; the first of it is kept.
    fn stop_at<T>(&self, result: PyResult<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                self.is_stopped.store(true, Ordering::Relaxed);
                self.raised.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                None
            }
        }
    }

    /// What a latency function raised, or whoever waits.
    fn raised(&self) -> Option<PyErr> {
        self.functions.raised().or_else(|| self.raised.lock().unwrap_or_else(PoisonError::into_inner).take())
    }
}

impl Watch for Watcher {
    fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Relaxed) || self.functions.have_raised()
    }

    fn look(&self) {
        let _ = self.stop_at(look_for_signals());
    }

    fn began(&self, factor: f64, deployments: usize) {
        let mut reached = self.reached();
        let runs = reached.runs;
        *reached = Reached { factor, runs, deployments, ..Reached::default() };
    }

    fn ran(&self) {
        let Some(progress) = &self.progress else { return };
        let mut reached = self.reached();
        reached.runs += 1;
        let Reached { factor, runs, deployments, kept, best } = reached.clone();
        drop(reached);
        let told = Python::attach(|py| progress.call1(py, (factor, runs, deployments, kept, best)).map(drop));
        let _ = self.stop_at(told);
    }

    fn found(&self, kept: usize, name: &str) {
        let mut reached = self.reached();
        (reached.kept, reached.best) = (kept, Some(name.to_owned()));
    }
}

/// Workers of an executor of Python.
struct Workers<'a> {
    evaluate: Py<PyAny>,
    watcher: &'a Watcher,
}

impl Executor for Workers<'_> {
    fn run(&self, prepared: &Prepared, trials: &[Trial], ended: &mut dyn FnMut(usize, Outcome)) {
        let told = Python::attach(|py| {
            let trials: Vec<String> = trials.iter().map(json).collect();
            let trace = prepared.trace().map(|trace| PyBytes::new(py, trace));
            let outcomes = self.evaluate.bind(py).call1((prepared.to_json(), trace, trials))?.try_iter()?;
            let taken = self.take(&outcomes, ended);
            // Those that nobody waits for need not be simulated.
            outcomes.call_method0("close")?;
            taken
        });
        let _ = self.watcher.stop_at(told);
    }
}

impl Workers<'_> {
    fn take(&self, outcomes: &Bound<'_, PyIterator>, ended: &mut dyn FnMut(usize, Outcome)) -> PyResult<()> {
        for one in outcomes {
            let (place, outcome): (usize, String) = one?.extract()?;
            let outcome = serde_json::from_str(&outcome).map_err(|error| {
                PyValueError::new_err(format!("a worker answered with no outcome: {error}"))
            })?;
            ended(place, outcome);
            if self.watcher.is_stopped() {
                break;
            }
        }
        Ok(())
    }
}

/// What comes of a trial of a question, on a worker.
#[pyfunction]
#[pyo3(signature = (question, trace, trial))]
pub(crate) fn simulate(
    py: Python<'_>,
    question: String,
    trace: Option<Vec<u8>>,
    trial: &str,
) -> PyResult<String> {
    let trial: Trial = serde_json::from_str(trial)
        .map_err(|error| PyValueError::new_err(format!("a worker was sent no trial: {error}")))?;
    let looks = AtomicUsize::new(0);
    let raised = Mutex::new(None);
    let is_stopped = || {
        if !looks.fetch_add(1, Ordering::Relaxed).is_multiple_of(LOOKS) {
            return false;
        }
        let signal = look_for_signals().err();
        let is_stopped = signal.is_some();
        *raised.lock().unwrap_or_else(PoisonError::into_inner) = signal;
        is_stopped
    };
    let outcome = py.detach(|| {
        let simulator = simulator(question, trace)?;
        Ok(simulator.simulate(&trial, &is_stopped))
    });
    if let Some(raised) = raised.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(raised);
    }
    outcome.map(|outcome| json(&outcome)).map_err(|refusal| errors::exception(py, &refusal))
}

/// The simulator of a question, which the process keeps.
fn simulator(question: String, trace: Option<Vec<u8>>) -> Result<Arc<Simulator>, servecast::Refusal> {
    type Known = (String, Option<Vec<u8>>, Arc<Simulator>);
    static KNOWN: Mutex<Vec<Known>> = Mutex::new(Vec::new());
    // While it is made, the other threads of the process wait: most of them for the same.
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((.., found)) = known.iter().find(|one| one.0 == question && one.1 == trace) {
        return Ok(Arc::clone(found));
    }
    let made = Arc::new(recommend::simulator_of(&question, trace.clone())?);
    if known.len() >= KEPT {
        known.remove(0);
    }
    known.push((question, trace, Arc::clone(&made)));
    Ok(made)
}

/// Raises what a signal that Python has received raises.
fn look_for_signals() -> PyResult<()> {
    Python::attach(|py| {
        py.check_signals()?;
        Ok(())
    })
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("trials and outcomes are plain data")
}

/// The argument that somebody means who gives a setting that is none.
#[pyfunction]
pub(crate) fn similar_argument(name: &str, arguments: Vec<String>) -> Option<String> {
    if servecast::config::settings::is_key(name) {
        return None;
    }
    servecast_types::similar(name, arguments.iter().map(String::as_str)).map(str::to_owned)
}
