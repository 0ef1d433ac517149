//! Python functions that route requests and put waiting ones in order.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyString, PyTuple, PyType};
use servecast::{Begins, Own, Policies};
use servecast_cluster::{CandidateLoad, Pick};
use servecast_engine::Order;
use servecast_types::{BlockHasher, ClassId, ContentNames, Prompt, Role, Time};

use crate::errors;
use crate::raised::Raised;

/// A request that is to go to a worker, as a routing policy sees it.
#[pyclass(frozen, module = "servecast")]
pub(crate) struct RoutedRequest {
    #[pyo3(get)]
    id: u32,
    #[pyo3(get)]
    pool: &'static str,
    #[pyo3(get)]
    now_ms: f64,
    #[pyo3(get)]
    arrival_ms: f64,
    #[pyo3(get)]
    prompt_tokens: u32,
    #[pyo3(get)]
    max_tokens: u32,
    #[pyo3(get)]
    priority: i32,
    #[pyo3(get)]
    session: Option<u32>,
    #[pyo3(get)]
    class_name: Option<Py<PyString>>,
    #[pyo3(get)]
    lora: Option<u32>,
    #[pyo3(get)]
    block_size: u32,
    prompt: Prompt,
    names: Arc<ContentNames>,
}

#[pymethods]
impl RoutedRequest {
    /// Names of the full blocks of the prompt, each for its block and all before it: equal ones are equal prefixes.
    #[pyo3(signature = (block_size=None))]
    fn prefix_hashes(&self, block_size: Option<u32>) -> PyResult<Vec<u64>> {
        let block_size = block_size.unwrap_or(self.block_size);
        if block_size == 0 {
            return Err(PyValueError::new_err("`block_size` is 0, but must be at least 1 token"));
        }
        let prompt = self.names.canonical(&self.prompt, self.prompt.tokens());
        let mut hashes = Vec::new();
        BlockHasher::new(block_size).runs_of(&prompt).append_to(&mut hashes);
        Ok(hashes.into_iter().map(|hash| hash.0).collect())
    }

    fn __repr__(&self) -> String {
        format!(
            "RoutedRequest(id={}, pool={:?}, now_ms={}, prompt_tokens={})",
            self.id, self.pool, self.now_ms, self.prompt_tokens
        )
    }
}

/// A worker that a request may go to.
#[pyclass(frozen, module = "servecast")]
pub(crate) struct Candidate {
    #[pyo3(get)]
    worker: u32,
    #[pyo3(get)]
    in_flight: u32,
    #[pyo3(get)]
    running: u32,
    #[pyo3(get)]
    waiting: u32,
    #[pyo3(get)]
    capacity_blocks: u32,
    #[pyo3(get)]
    free_blocks: u32,
    #[pyo3(get)]
    overlap_blocks: u32,
    #[pyo3(get)]
    prefill_tokens: u64,
    #[pyo3(get)]
    active_blocks: u64,
    #[pyo3(get)]
    cost: f64,
}

#[pymethods]
impl Candidate {
    fn __repr__(&self) -> String {
        format!(
            "Candidate(worker={}, in_flight={}, running={}, waiting={}, capacity_blocks={}, free_blocks={}, \
             overlap_blocks={}, prefill_tokens={}, active_blocks={}, cost={})",
            self.worker,
            self.in_flight,
            self.running,
            self.waiting,
            self.capacity_blocks,
            self.free_blocks,
            self.overlap_blocks,
            self.prefill_tokens,
            self.active_blocks,
            self.cost,
        )
    }
}

impl Candidate {
    fn new(candidate: &servecast_cluster::Candidate, load: &CandidateLoad) -> Self {
        Self {
            worker: candidate.worker.0,
            in_flight: candidate.in_flight,
            running: load.running,
            waiting: load.waiting,
            capacity_blocks: candidate.capacity,
            free_blocks: load.free_blocks,
            overlap_blocks: load.overlap_blocks,
            prefill_tokens: load.prefill_tokens,
            active_blocks: load.active_blocks,
            cost: load.cost,
        }
    }
}

/// A request that waits on a worker, as an order sees it.
#[pyclass(frozen, module = "servecast")]
pub(crate) struct WaitingRequest {
    #[pyo3(get)]
    id: u32,
    #[pyo3(get)]
    arrival_ms: f64,
    #[pyo3(get)]
    prompt_tokens: u32,
    #[pyo3(get)]
    max_tokens: u32,
    #[pyo3(get)]
    priority: i32,
    #[pyo3(get)]
    session: Option<u32>,
    #[pyo3(get)]
    class_name: Option<Py<PyString>>,
    #[pyo3(get)]
    lora: Option<u32>,
}

#[pymethods]
impl WaitingRequest {
    fn __repr__(&self) -> String {
        format!(
            "WaitingRequest(id={}, arrival_ms={}, prompt_tokens={})",
            self.id, self.arrival_ms, self.prompt_tokens
        )
    }
}

/// What a replay has of Python functions; `raised` gets the first exception of any of them.
pub(crate) fn own(router: Option<Py<PyAny>>, priority: Option<Py<PyAny>>, raised: &Arc<Raised>) -> Own {
    let classes = Arc::new(ClassNames::default());
    let policies = router.map(|router| {
        let (classes, raised) = (Arc::clone(&classes), Arc::clone(raised));
        Policies::new(move |role, block_size| {
            let function = raised.ask(|py| made(py, &router));
            let (classes, raised, names) = (Arc::clone(&classes), Arc::clone(&raised), Arc::default());
            Box::new(Router { function, role, block_size, classes, raised, names })
        })
    });
    let order = priority.map(|given| {
        let (classes, raised) = (Arc::clone(&classes), Arc::clone(raised));
        Arc::new(Priority { given, function: Mutex::default(), classes, raised })
    });
    let (begun, order_begun) = (Arc::clone(&classes), order.clone());
    let begins = Begins::new(move |names| {
        Python::attach(|py| begun.set(py, names));
        if let Some(order) = &order_begun {
            order.begin();
        }
    });
    let order = order.map(|order| order as Arc<dyn Order>);
    Own { begins: (policies.is_some() || order.is_some()).then_some(begins), policies, order }
}

/// The function that was given, or one of a class that was given, whose state begins anew with each run.
fn made(py: Python<'_>, given: &Py<PyAny>) -> PyResult<Py<PyAny>> {
    if given.bind(py).is_instance_of::<PyType>() { given.call0(py) } else { Ok(given.clone_ref(py)) }
}

/// What the classes of the load of a run are called.
#[derive(Debug, Default)]
struct ClassNames(Mutex<Vec<Py<PyString>>>);

impl ClassNames {
    fn lock(&self) -> MutexGuard<'_, Vec<Py<PyString>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, py: Python<'_>, names: &[Box<str>]) {
        *self.lock() = names.iter().map(|name| PyString::new(py, name).unbind()).collect();
    }

    fn name(&self, py: Python<'_>, class: Option<ClassId>) -> Option<Py<PyString>> {
        self.lock().get(class?.index()).map(|name| name.clone_ref(py))
    }
}

/// A function as the routing policy of a pool.
struct Router {
    /// None if it could not be made, or has raised an exception.
    function: Option<Py<PyAny>>,
    role: Role,
    block_size: u32,
    classes: Arc<ClassNames>,
    raised: Arc<Raised>,
    names: Arc<ContentNames>,
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Router")
    }
}

impl Pick for Router {
    fn pick(
        &mut self,
        request: &servecast_cluster::RoutedRequest<'_>,
        candidates: &[servecast_cluster::Candidate],
    ) -> usize {
        let Some(function) = &self.function else { return 0 };
        // Nobody looks at what comes after an exception.
        self.raised.ask(|py| self.call(py, function, request, candidates)).unwrap_or(0)
    }

    fn reads_loads(&self) -> bool {
        true
    }

    fn name_contents(&mut self, names: &Arc<ContentNames>) {
        self.names = Arc::clone(names);
    }
}

impl Router {
    fn call(
        &self,
        py: Python<'_>,
        function: &Py<PyAny>,
        request: &servecast_cluster::RoutedRequest<'_>,
        candidates: &[servecast_cluster::Candidate],
    ) -> PyResult<usize> {
        let asked = RoutedRequest {
            id: request.id.0,
            pool: self.role.name(),
            now_ms: request.now.as_ms(),
            arrival_ms: request.arrival.as_ms(),
            prompt_tokens: request.prompt.tokens(),
            max_tokens: request.max_tokens,
            priority: request.priority,
            session: request.session,
            class_name: self.classes.name(py, request.class),
            lora: request.lora,
            block_size: self.block_size,
            prompt: request.prompt.clone(),
            names: Arc::clone(&self.names),
        };
        let asked = Bound::new(py, asked)?;
        let shown = candidates.iter().zip(request.loads).map(|(one, load)| Candidate::new(one, load));
        let shown = shown.map(|one| Bound::new(py, one)).collect::<PyResult<Vec<_>>>()?;
        let shown = PyTuple::new(py, shown)?;
        let answer = function.bind(py).call1((&asked, shown))?;
        let number = worker_of(&answer);
        let at = number.and_then(|number| candidates.iter().position(|one| one.worker.0 == number));
        match at {
            Some(at) => Ok(at),
            None => Err(refused_worker(py, &answer, &asked, candidates)?),
        }
    }
}

/// The number of a worker that a function answers, by itself or as a candidate.
fn worker_of(answer: &Bound<'_, PyAny>) -> Option<u32> {
    if let Ok(candidate) = answer.cast::<Candidate>() {
        return Some(candidate.get().worker);
    }
    if answer.is_instance_of::<PyBool>() { None } else { answer.extract().ok() }
}

fn refused_worker(
    py: Python<'_>,
    answer: &Bound<'_, PyAny>,
    asked: &Bound<'_, RoutedRequest>,
    candidates: &[servecast_cluster::Candidate],
) -> PyResult<PyErr> {
    /// Numbers that a message lists.
    const MOST: usize = 8;
    let mut numbers: Vec<String> =
        candidates.iter().take(MOST).map(|candidate| candidate.worker.0.to_string()).collect();
    if candidates.len() > MOST {
        numbers.push("…".to_owned());
    }
    let (answer, asked, numbers) = (answer.repr()?, asked.repr()?, numbers.join(", "));
    let message = format!(
        "`router` returned {answer} for {asked}, but must return one of the candidates or its number: {numbers}"
    );
    Ok(errors::config(py, &message))
}

/// A function as the order of waiting requests.
struct Priority {
    given: Py<PyAny>,
    /// What it is in this run.
    function: Mutex<Option<Py<PyAny>>>,
    classes: Arc<ClassNames>,
    raised: Arc<Raised>,
}

impl fmt::Debug for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Priority")
    }
}

impl Priority {
    /// A run begins.
    fn begin(&self) {
        let function = self.raised.ask(|py| made(py, &self.given));
        let before = std::mem::replace(&mut *self.lock(), function);
        drop(before);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Py<PyAny>>> {
        self.function.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn call(&self, py: Python<'_>, request: &servecast_engine::WaitingRequest) -> PyResult<f64> {
        // Unlocked before it is called: while it runs, another thread may have the interpreter and want the lock.
        let function = self.lock().as_ref().map(|function| function.clone_ref(py));
        let Some(function) = function else { return Ok(f64::NAN) };
        let asked = WaitingRequest {
            id: request.id.0,
            arrival_ms: request.arrival.as_ms(),
            prompt_tokens: request.prompt_tokens,
            max_tokens: request.max_tokens,
            priority: request.priority,
            session: request.session,
            class_name: self.classes.name(py, request.class),
            lora: request.lora,
        };
        let asked = Bound::new(py, asked)?;
        let answer = function.bind(py).call1((&asked,))?;
        match answer.extract::<f64>() {
            Ok(key) if !key.is_nan() => Ok(key),
            _ => {
                let (answer, asked) = (answer.repr()?, asked.repr()?);
                Err(errors::config(
                    py,
                    &format!(
                        "`priority` returned {answer} for {asked}, but must return a number: the lowest goes first"
                    ),
                ))
            }
        }
    }
}

impl Order for Priority {
    fn key(&self, request: &servecast_engine::WaitingRequest, _now: Time) -> f64 {
        self.raised.ask(|py| self.call(py, request)).unwrap_or(f64::NAN)
    }

    fn is_fixed(&self) -> bool {
        true
    }
}
