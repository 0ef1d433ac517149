//! A Python function as latency model.

use std::sync::Arc;

use pyo3::prelude::*;
use servecast::Models;
use servecast_latency::{LatencyModel, PassTime};

use crate::errors;
use crate::raised::Raised;

/// What one iteration computes, as sums over its requests.
#[pyclass(frozen, module = "servecast")]
pub(crate) struct Batch(servecast_latency::Batch);

#[pymethods]
impl Batch {
    /// Requests with at least one scheduled token.
    #[getter]
    fn requests(&self) -> u64 {
        self.0.requests
    }

    /// Scheduled tokens, whatever they are.
    #[getter]
    fn tokens(&self) -> u64 {
        self.0.tokens
    }

    /// Query-key pairs that causal attention covers.
    #[getter]
    fn attention_pairs(&self) -> u64 {
        self.0.attention_pairs
    }

    /// Requests that compute prompt tokens.
    #[getter]
    fn prompt_requests(&self) -> u64 {
        self.0.prompt.requests
    }

    /// Prompt tokens that are computed.
    #[getter]
    fn prompt_tokens(&self) -> u64 {
        self.0.prompt.end_tokens - self.0.prompt.start_tokens
    }

    /// Sum of the prompt positions at which their chunks start: cached prefix and earlier chunks.
    #[getter]
    fn prompt_start_tokens(&self) -> u64 {
        self.0.prompt.start_tokens
    }

    /// Requests that get a token other than their first.
    #[getter]
    fn decode_requests(&self) -> u64 {
        self.0.decode.requests
    }

    /// Sum of their contexts: prompt and all tokens produced so far.
    #[getter]
    fn decode_context_tokens(&self) -> u64 {
        self.0.decode.context_tokens
    }

    /// Tokens that the KV cache can hold.
    #[getter]
    fn kv_capacity_tokens(&self) -> u64 {
        self.0.kv_capacity_tokens
    }

    fn __repr__(&self) -> String {
        format!(
            "Batch(requests={}, tokens={}, attention_pairs={}, prompt_requests={}, prompt_tokens={}, \
             prompt_start_tokens={}, decode_requests={}, decode_context_tokens={}, kv_capacity_tokens={})",
            self.requests(),
            self.tokens(),
            self.attention_pairs(),
            self.prompt_requests(),
            self.prompt_tokens(),
            self.prompt_start_tokens(),
            self.decode_requests(),
            self.decode_context_tokens(),
            self.kv_capacity_tokens(),
        )
    }
}

/// The functions of a run, by the names that its settings call them.
pub(crate) struct Functions {
    pub(crate) models: Models,
    pub(crate) raised: Arc<Raised>,
}

impl Functions {
    /// Named by their places in the list.
    pub(crate) fn new(functions: Vec<Py<PyAny>>) -> Self {
        let raised = Arc::new(Raised::default());
        let model = |function| -> Arc<dyn LatencyModel> {
            Arc::new(Function { function, raised: Arc::clone(&raised) })
        };
        let named = functions.into_iter().enumerate().map(|(at, function)| (at.to_string(), model(function)));
        Self { models: named.collect(), raised }
    }

    /// Whether one of them has raised an exception.
    pub(crate) fn have_raised(&self) -> bool {
        self.raised.is_some()
    }

    /// The first exception of any of them.
    pub(crate) fn raised(&self) -> Option<PyErr> {
        self.raised.take()
    }
}

#[derive(Debug)]
struct Function {
    function: Py<PyAny>,
    raised: Arc<Raised>,
}

impl Function {
    fn call(&self, py: Python<'_>, batch: &servecast_latency::Batch) -> PyResult<f64> {
        let batch = Bound::new(py, Batch(*batch))?;
        let answer = self.function.bind(py).call1((&batch,))?;
        match answer.extract::<f64>() {
            Ok(ms) if ms.is_finite() && ms >= 0.0 => Ok(ms),
            _ => {
                let (answer, batch) = (answer.repr()?, batch.repr()?);
                Err(errors::config(
                    py,
                    &format!(
                        "`latency` returned {answer} for {batch}, but must return milliseconds: a finite number of at \
                         least 0"
                    ),
                ))
            }
        }
    }
}

impl LatencyModel for Function {
    fn pass(&self, batch: &servecast_latency::Batch) -> PassTime {
        if batch.requests == 0 {
            return PassTime::default();
        }
        // What is no time ends the run.
        let ms = self.raised.ask(|py| self.call(py, batch)).unwrap_or(f64::NAN);
        PassTime::whole(batch, ms)
    }
}
