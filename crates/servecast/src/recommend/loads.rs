//! The loads of runs, each read or made once.

use std::sync::{Arc, Mutex, PoisonError};

use servecast_cluster::LoadMode;
use servecast_recommend::grown;
use servecast_workload::{Load, Workload};

use super::simulator::is_one;
use crate::plan::Plan;
use crate::replay::workload;
use servecast_config::error::Failure;
use servecast_config::source::Source;

/// Loads by where they come from, the block size that synthetic prompts follow, and their factor.
#[derive(Debug, Default)]
pub(super) struct Loads {
    /// A trace in place of the file that settings name.
    trace: Option<Vec<u8>>,
    known: Mutex<Vec<(Key, Arc<Workload>)>>,
}

#[derive(Debug, PartialEq)]
struct Key {
    source: Source,
    load: Load,
    /// 0 for a trace, which has its own.
    block_size: u32,
    /// The bits of the factor.
    factor: u64,
}

impl Loads {
    /// Loads of runs whose trace is no file, if there is one.
    pub(super) fn new(trace: Option<Vec<u8>>) -> Self {
        Self { trace, ..Self::default() }
    }

    /// The trace that is no file.
    pub(super) fn trace(&self) -> Option<&[u8]> {
        self.trace.as_deref()
    }

    /// The load of a run.
    pub(super) fn of(&self, plan: &Plan, factor: f64) -> Result<Arc<Workload>, Failure> {
        // In a closed loop there are more sessions at a time instead.
        let factor = if plan.mode == LoadMode::OpenLoop { factor } else { 1.0 };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let as_given = added(&mut known, Key::new(plan, 1.0), || workload(self.trace(), plan))?;
        if is_one(factor) {
            return Ok(as_given);
        }
        added(&mut known, Key::new(plan, factor), || Ok(grown(&as_given, factor)))
    }
}

/// What is there, or is made now.
fn added(
    known: &mut Vec<(Key, Arc<Workload>)>,
    key: Key,
    make: impl FnOnce() -> Result<Workload, Failure>,
) -> Result<Arc<Workload>, Failure> {
    if let Some((_, found)) = known.iter().find(|(known, _)| *known == key) {
        return Ok(Arc::clone(found));
    }
    let made = Arc::new(make()?);
    known.push((key, Arc::clone(&made)));
    Ok(made)
}

impl Key {
    fn new(plan: &Plan, factor: f64) -> Self {
        let is_trace = matches!(plan.source, Source::Trace { .. });
        Self {
            source: plan.source.clone(),
            load: plan.load,
            block_size: if is_trace { 0 } else { plan.block_size },
            factor: factor.to_bits(),
        }
    }
}
