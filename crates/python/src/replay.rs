//! Replays: one, or several at once.

#![expect(clippy::needless_pass_by_value, reason = "arguments from Python are values")]

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde_json::{Map, Value};
use servecast::config::settings::{Difference, combinations, described};
use servecast::{Refusal, RefusalKind, Replay};
use servecast_report::{
    Comparison, Report, TableOptions, render_comparison, render_table, write_request_rows,
};

use crate::errors;
use crate::latency::Functions;

/// How often it is looked whether Python has received a signal.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What came of a replay.
#[pyclass(frozen)]
pub(crate) struct Outcome(servecast::Outcome);

#[pymethods]
impl Outcome {
    /// The report, as `--report-json` writes it.
    fn report_json(&self) -> String {
        self.0.json()
    }

    /// The report, as the command line prints it.
    fn table(&self) -> String {
        render_table(&self.0.report, TableOptions::default())
    }

    /// A JSON line a request.
    fn requests_jsonl<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let rows = py.detach(|| {
            let mut rows = Vec::new();
            write_request_rows(&self.0.record, self.0.window, &mut rows).map(|()| rows)
        })?;
        Ok(PyBytes::new(py, &rows))
    }

    /// A JSON line an iteration, if asked for.
    fn iterations_jsonl<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.0.iterations.as_ref().map(|rows| PyBytes::new(py, rows))
    }

    /// What the user should know: what has no effect, what was odd about the trace.
    fn notes(&self) -> Vec<String> {
        self.0.notes.clone()
    }
}

/// Settings as a JSON object, a trace in place of a file, whether to keep iterations, functions that settings name as
/// latency models, and settings over the others, as [`differences`] has them.
pub(crate) type Given<'py> = (String, Option<Bound<'py, PyBytes>>, bool, Vec<Py<PyAny>>, String);

/// A replay, and the functions that it calls.
pub(crate) struct Run {
    pub(crate) replay: Replay,
    pub(crate) functions: Functions,
}

impl Run {
    pub(crate) fn new(given: Given<'_>) -> PyResult<Self> {
        let (settings, trace, iterations, functions, difference) = given;
        let settings: Map<String, Value> = serde_json::from_str(&settings)
            .map_err(|error| PyValueError::new_err(format!("the settings are no JSON object: {error}")))?;
        let difference = difference_of(&difference)?;
        let trace = trace.as_ref().map(|trace| trace.as_bytes().to_vec());
        let functions = Functions::new(functions);
        let replay = Replay { settings, trace, difference, iterations, models: functions.models.clone() };
        Ok(Self { replay, functions })
    }

    /// What Python gets of how it ended. What a function raised is why it ended.
    fn outcome(&self, py: Python<'_>, ended: Ended, place: Option<usize>) -> PyResult<Outcome> {
        if let Some(raised) = self.functions.raised() {
            return Err(raised);
        }
        ended.map(Outcome).map_err(|refusal| match place {
            None => errors::exception(py, &refusal),
            Some(place) => {
                let difference = &self.replay.difference;
                let name = if difference.is_empty() { format!("run {place}") } else { described(difference) };
                let message = format!("{name}: {}", refusal.message);
                errors::exception(py, &Refusal { message, ..refusal })
            }
        })
    }
}

/// Runs one replay. `progress` is called with the simulated time in ms, the requests that have ended and all of them,
/// every 50 ms or so; what it raises ends the run, as a signal does.
#[pyfunction]
#[pyo3(signature = (given, progress=None))]
pub(crate) fn run(py: Python<'_>, given: Given<'_>, progress: Option<Py<PyAny>>) -> PyResult<Outcome> {
    let run = Run::new(given)?;
    let mut raised = None;
    let outcome = py.detach(|| {
        servecast::replay(&run.replay, &mut |reached| {
            let told = Python::attach(|py| {
                py.check_signals()?;
                let Some(progress) = &progress else { return Ok(()) };
                progress.call1(py, (reached.now.as_ms(), reached.ended, reached.requests)).map(drop)
            });
            match told {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    raised = Some(error);
                    ControlFlow::Break(())
                }
            }
        })
    });
    if let Some(error) = raised {
        return Err(error);
    }
    run.outcome(py, outcome, None)
}

/// Runs several replays, at most `threads` at a time, and returns their outcomes in order. `progress` is called with
/// how many are done and how many there are. The first refusal, by place in the list, is raised when all are done;
/// what `progress` raises and signals end them at once.
#[pyfunction]
#[pyo3(signature = (given, threads, progress=None))]
pub(crate) fn run_many(
    py: Python<'_>,
    given: Vec<Given<'_>>,
    threads: usize,
    progress: Option<Py<PyAny>>,
) -> PyResult<Vec<Outcome>> {
    let runs = given.into_iter().map(Run::new).collect::<PyResult<Vec<_>>>()?;
    let ended = py.detach(|| run_all(&runs, threads, progress.as_ref()))?;
    let outcomes =
        runs.iter().zip(ended).enumerate().map(|(place, (run, ended))| run.outcome(py, ended, Some(place)));
    outcomes.collect()
}

/// The combinations of the values of some settings, each `KEY=VALUE,VALUE,...`, as JSON arrays of pairs.
#[pyfunction]
pub(crate) fn differences(py: Python<'_>, texts: Vec<String>) -> PyResult<Vec<String>> {
    let combinations = combinations(&texts).map_err(|problem| errors::config(py, &problem))?;
    Ok(combinations.iter().map(|one| serde_json::json!(one).to_string()).collect())
}

fn difference_of(text: &str) -> PyResult<Difference> {
    serde_json::from_str(text)
        .map_err(|error| PyValueError::new_err(format!("the settings are no array of pairs: {error}")))
}

/// Several runs beside each other.
#[pyclass(frozen)]
pub(crate) struct Compared(Comparison);

#[pymethods]
impl Compared {
    /// Runs by the settings in which each differs, with their reports.
    #[new]
    fn new(differences: Vec<String>, reports: Vec<String>) -> PyResult<Self> {
        let run = |(difference, report): (&String, &String)| {
            let report: Report = serde_json::from_str(report).map_err(|error| {
                PyValueError::new_err(format!("a worker answered with no report: {error}"))
            })?;
            Ok((difference_of(difference)?, report))
        };
        let runs = differences.iter().zip(&reports).map(run).collect::<PyResult<Vec<_>>>()?;
        Ok(Self(Comparison::new(runs)))
    }

    /// All of it, as `--vary` with `--format json` prints it.
    fn json(&self) -> String {
        servecast::replay::json(&self.0)
    }

    /// All of it, as the command line prints it.
    fn table(&self) -> String {
        render_comparison(&self.0, TableOptions::default())
    }
}

type Ended = Result<servecast::Outcome, Refusal>;

fn run_all(runs: &[Run], threads: usize, progress: Option<&Py<PyAny>>) -> PyResult<Vec<Ended>> {
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let (send, receive) = mpsc::channel();
    let work = |send: mpsc::Sender<(usize, Ended)>| {
        while !stop.load(Ordering::Relaxed) {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some(run) = runs.get(place) else { break };
            let outcome = servecast::replay(&run.replay, &mut |_| {
                if stop.load(Ordering::Relaxed) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            });
            if send.send((place, outcome)).is_err() {
                break;
            }
        }
    };
    let mut ended: Vec<Option<Ended>> = runs.iter().map(|_| None).collect();
    let told = thread::scope(|scope| {
        for _ in 0..threads.min(runs.len()) {
            let send = send.clone();
            scope.spawn(|| work(send));
        }
        drop(send);
        let told = collect(&receive, &mut ended, progress);
        stop.store(true, Ordering::Relaxed);
        told
    });
    told?;
    let lost = || Refusal { kind: RefusalKind::Run, message: "the run was lost".to_owned(), hint: None };
    Ok(ended.into_iter().map(|one| one.unwrap_or_else(|| Err(lost()))).collect())
}

/// Takes outcomes in until there are no more to come.
fn collect(
    receive: &mpsc::Receiver<(usize, Ended)>,
    ended: &mut [Option<Ended>],
    progress: Option<&Py<PyAny>>,
) -> PyResult<()> {
    let mut count = 0;
    loop {
        let is_new = match receive.recv_timeout(LOOK_EVERY) {
            Ok((place, outcome)) => {
                ended[place] = Some(outcome);
                count += 1;
                true
            }
            Err(mpsc::RecvTimeoutError::Timeout) => false,
            Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
        };
        Python::attach(|py| {
            py.check_signals()?;
            match progress.filter(|_| is_new) {
                Some(progress) => progress.call1(py, (count, ended.len())).map(drop),
                None => Ok(()),
            }
        })?;
    }
}
