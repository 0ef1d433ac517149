//! A request, from the keys of a dict.

use pyo3::prelude::*;
use pyo3::types::PyDict;
use serde_json::Value;
use servecast_router::RouterConfigOverride;
use servecast_router::standalone::{PhaseRequest, PromptBlocks, WorkerRank};
use servecast_types::hash::Salt;
use servecast_types::{BlockHash, Role};

use crate::errors;

/// What a router is asked, without the name of who asks.
pub(super) struct Asked {
    content: Content,
    phase: Role,
    overrides: RouterConfigOverride,
    pinned: Option<WorkerRank>,
    allowed: Option<Vec<u64>>,
    priority_jump: f64,
    expected_output_tokens: Option<u32>,
}

/// What the prompt is.
enum Content {
    Tokens { tokens: Vec<u32>, lora: String, namespace: String, eagle: bool },
    Hashes { num_tokens: u32, block_hashes: Vec<BlockHash> },
}

impl Asked {
    pub(super) fn new(given: &Bound<'_, PyDict>) -> PyResult<Self> {
        let refused = |message: &str| errors::config(given.py(), message);
        let overrides: Option<String> = field(given, "overrides")?;
        let overrides = overrides.map_or(Ok(RouterConfigOverride::default()), |text| overrides_of(&text));
        let priority_jump = field(given, "priority_jump")?.unwrap_or(0.0);
        if !f64::is_finite(priority_jump) {
            return Err(refused(&format!("`priority_jump` is {priority_jump}, but must be a finite number")));
        }
        let phase: String = field(given, "phase")?.unwrap_or_default();
        let pinned: Option<(u64, u32)> = field(given, "pinned")?;
        Ok(Self {
            content: Content::new(given)?,
            phase: phase_of(given.py(), &phase)?,
            overrides: overrides.map_err(|message| refused(&message))?,
            pinned: pinned.map(|(worker_id, dp_rank)| WorkerRank { worker_id, dp_rank }),
            allowed: field(given, "allowed_workers")?,
            priority_jump,
            expected_output_tokens: field(given, "expected_output_tokens")?,
        })
    }

    /// The request that asks this of a router with blocks of `block_size` tokens.
    pub(super) fn request(self, id: &str, block_size: u32) -> PhaseRequest {
        PhaseRequest {
            expected_output_tokens: self.expected_output_tokens,
            overrides: self.overrides,
            pinned: self.pinned,
            allowed: self.allowed,
            priority_jump: self.priority_jump,
            ..PhaseRequest::new(id, self.phase, self.content.prompt(block_size))
        }
    }
}

impl Content {
    fn new(given: &Bound<'_, PyDict>) -> PyResult<Self> {
        let refused = |message: &str| errors::config(given.py(), message);
        match (field(given, "tokens")?, field::<Vec<u64>>(given, "block_hashes")?) {
            (Some(tokens), None) => Ok(Self::Tokens {
                tokens,
                lora: field(given, "lora_name")?.unwrap_or_default(),
                namespace: field(given, "namespace")?.unwrap_or_default(),
                eagle: field(given, "eagle")?.unwrap_or_default(),
            }),
            (None, Some(hashes)) => {
                let num_tokens = field(given, "num_tokens")?
                    .ok_or_else(|| refused("`block_hashes` need `num_tokens`, the length of the prompt"))?;
                Ok(Self::Hashes { num_tokens, block_hashes: hashes.into_iter().map(BlockHash).collect() })
            }
            _ => Err(refused("give either `tokens` or `block_hashes` with `num_tokens`")),
        }
    }

    fn prompt(&self, block_size: u32) -> PromptBlocks {
        match self {
            Self::Tokens { tokens, lora, namespace, eagle } => {
                let salt = Salt { lora, namespace };
                let prompt = if *eagle { PromptBlocks::from_eagle_tokens } else { PromptBlocks::from_tokens };
                prompt(tokens, block_size, salt)
            }
            Self::Hashes { num_tokens, block_hashes } => {
                PromptBlocks::from_block_hashes(*num_tokens, block_hashes)
            }
        }
    }
}

pub(super) fn phase_of(py: Python<'_>, name: &str) -> PyResult<Role> {
    let phase = Role::ALL.into_iter().find(|phase| phase.name() == name);
    phase.ok_or_else(|| {
        errors::config(py, &format!("`phase` is {name:?}, but must be aggregated, prefill or decode"))
    })
}

fn overrides_of(text: &str) -> Result<RouterConfigOverride, String> {
    let value: Value = serde_json::from_str(text).map_err(|error| format!("`overrides`: {error}"))?;
    RouterConfigOverride::from_json(&value).map_err(|error| error.to_string())
}

/// The value of a key, if it is there and not None.
fn field<'py, T>(given: &Bound<'py, PyDict>, key: &str) -> PyResult<Option<T>>
where
    T: for<'a> FromPyObject<'a, 'py, Error = PyErr>,
{
    let Some(value) = given.get_item(key)?.filter(|value| !value.is_none()) else { return Ok(None) };
    value.extract().map(Some).map_err(|error: PyErr| {
        let py = given.py();
        errors::config(py, &format!("`{key}`: {}", error.value(py)))
    })
}
