//! Settings of engines and routers, checked by the code that the command line uses.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use serde::Serialize;
use serde_json::Value;
use servecast_engine::{ConfigError, EngineArgs};
use servecast_latency::Polynomial;
use servecast_router::{KvRouterConfig, RouterConfigOverride};

use crate::errors;

/// All settings of a kind (`engine`, `router`, `override`) with their defaults, as a JSON object.
#[pyfunction]
pub(crate) fn default_settings(kind: &str) -> PyResult<String> {
    match kind {
        "engine" => Ok(json(&EngineArgs::default())),
        "router" => Ok(json(&KvRouterConfig::default())),
        "override" => Ok(json(&RouterConfigOverride::default())),
        _ => Err(PyValueError::new_err(format!("no settings are called {kind:?}"))),
    }
}

/// The settings of a kind in the JSON object `given`, all of them, with the defaults of those that are absent.
#[pyfunction]
pub(crate) fn check_settings(py: Python<'_>, kind: &str, given: &str) -> PyResult<String> {
    let refused = |message: String| errors::config(py, &message);
    let given: Value =
        serde_json::from_str(given).map_err(|error| refused(format!("no JSON object: {error}")))?;
    match kind {
        "engine" => engine(given),
        "router" => router(&given),
        "override" => overrides(&given),
        _ => return Err(PyValueError::new_err(format!("no settings are called {kind:?}"))),
    }
    .map_err(refused)
}

fn engine(given: Value) -> Result<String, String> {
    let checked = || {
        let args = EngineArgs::from_json(given)?;
        let mut of_ranks = args.clone();
        of_ranks.share_out_attention()?;
        // Measurements are read by the replay; nothing else depends on which they are.
        of_ranks.validate(Some(Arc::new(Polynomial)))?;
        Ok(json(&args))
    };
    checked().map_err(|error: ConfigError| error.to_string())
}

fn router(given: &Value) -> Result<String, String> {
    let config = KvRouterConfig::from_json(given).map_err(|error| error.to_string())?;
    config.validate().map_err(|error| error.to_string())?;
    Ok(json(&config))
}

fn overrides(given: &Value) -> Result<String, String> {
    RouterConfigOverride::from_json(given)
        .map(|overrides| json(&overrides))
        .map_err(|error| error.to_string())
}

fn json(settings: &impl Serialize) -> String {
    serde_json::to_string(settings).expect("settings are plain data")
}
