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
use servecast::load_rows::MadeRows;
use servecast::timeline::{TimelineOptions, Window as Shown};
use servecast::{Reached, Refusal, RefusalKind, Replay};
use servecast_report::{
    Comparison, Report, TableOptions, render_comparison, render_small_chart, render_table, request_columns,
    write_request_rows,
};

use crate::columns::{self, Buffers};
use crate::errors;
use crate::latency::Functions;
use crate::policy;

/// How often it is looked whether Python has received a signal.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What came of a replay, and the replay, for what is made by running it once more.
#[pyclass(frozen)]
pub(crate) struct Outcome {
    of: servecast::Outcome,
    run: Run,
}

#[pymethods]
impl Outcome {
    /// The report, as `--report-json` writes it.
    fn report_json(&self) -> String {
        self.of.json()
    }

    /// The report, as the command line prints it.
    fn table(&self) -> String {
        render_table(&self.of.report, TableOptions::default())
    }

    /// A JSON line a request.
    fn requests_jsonl<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let rows = py.detach(|| {
            let mut rows = Vec::new();
            write_request_rows(&self.of.record, self.of.window, &mut rows).map(|()| rows)
        })?;
        Ok(PyBytes::new(py, &rows))
    }

    /// A small chart, as an `svg` element.
    fn chart(&self) -> String {
        render_small_chart(&self.of.record)
    }

    /// The same as columns: of requests, and of their stages.
    fn request_columns<'py>(&self, py: Python<'py>) -> PyResult<(Buffers<'py>, Buffers<'py>)> {
        let (requests, stages) = py.detach(|| {
            let mut requests = request_columns(&self.of.record, self.of.window);
            let stages = requests.take_lists("stages", "request");
            (requests, stages)
        });
        Ok((columns::buffers(py, &requests)?, columns::buffers(py, &stages)?))
    }

    /// A row an iteration as columns, if asked for.
    fn iteration_columns<'py>(&self, py: Python<'py>) -> PyResult<Option<Buffers<'py>>> {
        self.of.iterations.as_ref().map(|rows| columns::buffers(py, rows)).transpose()
    }

    /// What the user should know: what has no effect, what was odd about the trace.
    fn notes(&self) -> Vec<String> {
        self.of.notes.clone()
    }

    /// The page, as `--report-html` writes it, made by running the replay once more.
    fn page(&self, py: Python<'_>) -> PyResult<String> {
        let Self { of, run } = self;
        let page =
            followed(py, None, &run.functions, |watch| servecast::again::page(&run.replay, of, watch))?;
        run.answered(py, page)
    }

    /// The timeline, as `--timeline` writes it, of a part `FROM..TO` of the run in seconds and one request in `sample`, made
    /// by running the replay once more.
    fn timeline<'py>(
        &self,
        py: Python<'py>,
        window: Option<&str>,
        sample: u32,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let Self { of, run } = self;
        let window = window.map_or(Ok(Shown::default()), Shown::parse).map_err(|_| {
            let window = window.unwrap_or_default();
            errors::config(
                py,
                &format!("`window` is {window} s, but must be a start and a later end, in seconds of the simulated clock"),
            )
        })?;
        let options = TimelineOptions { window, sample };
        let timeline = followed(py, None, &run.functions, |watch| {
            servecast::again::timeline(&run.replay, of, options, watch)
        })?;
        Ok(PyBytes::new(py, &run.answered(py, timeline)?))
    }
}

/// Settings as a JSON object, a trace in place of a file, whether to keep iterations, functions that settings name as
/// latency models, settings over the others, as [`differences`] has them, and functions that route and that order.
pub(crate) type Given<'py> = (
    String,
    Option<Bound<'py, PyBytes>>,
    bool,
    Vec<Py<PyAny>>,
    String,
    (Option<Py<PyAny>>, Option<Py<PyAny>>),
);

/// A replay, and the functions that it calls.
pub(crate) struct Run {
    pub(crate) replay: Replay,
    pub(crate) functions: Functions,
}

impl Run {
    pub(crate) fn new(given: Given<'_>) -> PyResult<Self> {
        let (settings, trace, iterations, functions, difference, (router, priority)) = given;
        let settings = settings_of(&settings)?;
        let difference = difference_of(&difference)?;
        let trace = trace.as_ref().map(|trace| trace.as_bytes().to_vec());
        let functions = Functions::new(functions);
        let models = functions.models.clone();
        let own = policy::own(router, priority, &functions.raised);
        let replay = Replay { settings, trace, difference, iterations, models, own };
        Ok(Self { replay, functions })
    }

    /// What Python gets of how one of several ended.
    fn outcome(self, py: Python<'_>, ended: Ended, place: usize) -> PyResult<Outcome> {
        let named = |refusal: Refusal| {
            let difference = &self.replay.difference;
            let name = if difference.is_empty() { format!("run {place}") } else { described(difference) };
            Refusal { message: format!("{name}: {}", refusal.message), ..refusal }
        };
        let of = self.answered(py, ended.map_err(named))?;
        Ok(Outcome { of, run: self })
    }

    /// What came of running it. What a function raised is why it ended.
    fn answered<T>(&self, py: Python<'_>, answer: Result<T, Refusal>) -> PyResult<T> {
        match self.functions.raised() {
            Some(raised) => Err(raised),
            None => answer.map_err(|refusal| errors::exception(py, &refusal)),
        }
    }
}

/// Runs one replay. `progress` is called with the simulated time in ms, the requests that have ended and all of them,
/// every 50 ms or so; what it raises ends the run, as a signal does.
#[pyfunction]
#[pyo3(signature = (given, progress=None))]
pub(crate) fn run(py: Python<'_>, given: Given<'_>, progress: Option<Py<PyAny>>) -> PyResult<Outcome> {
    let run = Run::new(given)?;
    let ended =
        followed(py, progress.as_ref(), &run.functions, |watch| servecast::replay(&run.replay, watch))?;
    let of = run.answered(py, ended)?;
    Ok(Outcome { of, run })
}

/// Runs something outside the lock of the interpreter; signals and what `progress` and functions raise end it.
fn followed<T: Send>(
    py: Python<'_>,
    progress: Option<&Py<PyAny>>,
    functions: &Functions,
    run: impl FnOnce(&mut dyn FnMut(Reached) -> ControlFlow<()>) -> T + Send,
) -> PyResult<T> {
    let mut raised = None;
    let ended = py.detach(|| {
        run(&mut |reached| {
            if functions.have_raised() {
                return ControlFlow::Break(());
            }
            let told = Python::attach(|py| {
                py.check_signals()?;
                let Some(progress) = progress else { return Ok(()) };
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
    raised.map_or(Ok(ended), Err)
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
        runs.into_iter().zip(ended).enumerate().map(|(place, (run, ended))| run.outcome(py, ended, place));
    outcomes.collect()
}

/// The load of settings as rows: JSON Lines, how many tokens an id stands for, and what there is to know of them.
#[pyfunction]
pub(crate) fn load_rows<'py>(
    py: Python<'py>,
    settings: &str,
    trace: Option<&[u8]>,
) -> PyResult<(Bound<'py, PyBytes>, u32, Vec<String>)> {
    let replay =
        Replay { settings: settings_of(settings)?, trace: trace.map(<[u8]>::to_vec), ..Replay::default() };
    let made = py.detach(|| servecast::load_rows::load_rows(&replay));
    let MadeRows { text, block_size, notes } = made.map_err(|refusal| errors::exception(py, &refusal))?;
    Ok((PyBytes::new(py, &text), block_size, notes))
}

/// The combinations of the values of some settings, each `KEY=VALUE,VALUE,...`, as JSON arrays of pairs.
#[pyfunction]
pub(crate) fn differences(py: Python<'_>, texts: Vec<String>) -> PyResult<Vec<String>> {
    let combinations = combinations(&texts).map_err(|problem| errors::config(py, &problem))?;
    Ok(combinations.iter().map(|one| serde_json::json!(one).to_string()).collect())
}

fn settings_of(text: &str) -> PyResult<Map<String, Value>> {
    serde_json::from_str(text)
        .map_err(|error| PyValueError::new_err(format!("the settings are no JSON object: {error}")))
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
                let is_over = stop.load(Ordering::Relaxed) || run.functions.have_raised();
                if is_over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
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
