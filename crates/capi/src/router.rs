//! The handle: a router behind a lock, with its clock and with what was decided about requests that waited.

use std::collections::VecDeque;
use std::ffi::c_char;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use servecast_router::KvRouterConfig;
use servecast_router::standalone::{PhaseId, Selection, StandaloneRouter, WorkersChanged};
use servecast_types::Time;

use crate::args::{self, Out};
use crate::status::{Failure, Outcome, told};
use crate::types::*;

/// A router. Every function may be called from any thread at any time, but for servecast_router_destroy(), which has to
/// be the last.
#[derive(Debug)]
pub struct Handle {
    block_size: u32,
    since: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) router: StandaloneRouter,
    /// What became of requests that waited, in order.
    pub(crate) released: VecDeque<Released>,
}

/// What became of a request that waited.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Released {
    Admitted(Selection),
    Refused(PhaseId),
}

impl State {
    pub(crate) fn release(&mut self, admitted: Vec<Selection>) {
        self.released.extend(admitted.into_iter().map(Released::Admitted));
    }

    pub(crate) fn change(&mut self, changed: WorkersChanged) {
        self.released.extend(changed.refused.into_iter().map(Released::Refused));
        self.release(changed.admitted);
        // What was admitted and is forgotten before anybody heard of it will not be heard of.
        self.drop_released(&changed.forgotten);
    }

    /// Forgets what was decided about requests that are over.
    pub(crate) fn drop_released(&mut self, over: &[PhaseId]) {
        self.released.retain(|released| match released {
            Released::Admitted(selection) => !over.contains(&selection.request),
            Released::Refused(_) => true,
        });
    }
}

impl Handle {
    pub(crate) fn block_size(&self) -> u32 {
        self.block_size
    }

    pub(crate) fn lock(&self) -> Result<MutexGuard<'_, State>, Failure> {
        self.state.lock().map_err(|_| {
            Failure::new(
                SERVECAST_ERR_INTERNAL,
                "an earlier call has failed within this router, which cannot be trusted any more: destroy it",
            )
        })
    }

    pub(crate) fn time(&self, now_ns: u64) -> Time {
        if now_ns != SERVECAST_NOW {
            return Time::from_ns(now_ns);
        }
        let passed = self.since.elapsed().as_nanos();
        Time::from_ns(u64::try_from(passed).unwrap_or(u64::MAX))
    }
}

/// Runs a call: its code, or that of its failure, or of its panic.
pub(crate) fn guard(call: impl FnOnce() -> Outcome) -> servecast_status {
    // What a panic leaves half done is behind a lock, which it poisons.
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(outcome) => outcome.unwrap_or_else(told),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message");
            told(Failure::new(SERVECAST_ERR_INTERNAL, format!("a defect of servecast_router: {text}")))
        }
    }
}

/// Runs a call about a router.
pub(crate) unsafe fn with(router: *const Handle, call: impl FnOnce(&Handle) -> Outcome) -> servecast_status {
    guard(|| {
        // SAFETY: by the contract it came from one of the functions below and was not destroyed.
        let router = unsafe { args::reference(router, "router") }?;
        call(router)
    })
}

fn create(config: &KvRouterConfig, block_size: u32, seed: u64, out: &Out<*mut Handle>) -> Outcome {
    let state = State { router: StandaloneRouter::new(config, block_size, seed)?, released: VecDeque::new() };
    let router = Box::new(Handle { block_size, since: Instant::now(), state: Mutex::new(state) });
    // SAFETY: the contract of the function whose `out` it is.
    unsafe { out.write(&[Box::into_raw(router)]) };
    Ok(SERVECAST_OK)
}

/// Creates a router without workers and writes it to `out`.
///
/// `config_json` has the settings by Dynamo's names, such as {"router_temperature": 0.5}; null for the defaults.
/// `block_size` is that of the engines, in tokens. `seed` is for ties and draws: equal calls give equal answers.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn servecast_router_new(
    config_json: *const c_char,
    block_size: u32,
    seed: u64,
    out: *mut *mut Handle,
) -> servecast_status {
    guard(|| {
        let out = Out::one(out, "out")?;
        // SAFETY: the contract of this function.
        let config = match unsafe { args::text(config_json, "config_json") }? {
            None => KvRouterConfig::default(),
            Some(text) => {
                let value = serde_json::from_str(text).map_err(|error| {
                    Failure::new(SERVECAST_ERR_CONFIG, format!("`config_json` is not JSON: {error}"))
                })?;
                KvRouterConfig::from_json(&value)?
            }
        };
        create(&config, block_size, seed, &out)
    })
}

/// As servecast_router_new(), with the settings in the environment: SERVECAST_ROUTER_TEMPERATURE and so on, or all as
/// JSON in SERVECAST_ROUTER_CONFIG. Dynamo's names (DYN_ROUTER_TEMPERATURE) are accepted, ours win, and a bad value is
/// an error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn servecast_router_from_env(
    block_size: u32,
    seed: u64,
    out: *mut *mut Handle,
) -> servecast_status {
    guard(|| {
        let out = Out::one(out, "out")?;
        let config = KvRouterConfig::from_env(std::env::vars_os())?;
        create(&config, block_size, seed, &out)
    })
}

/// Destroys a router; null is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn servecast_router_destroy(router: *mut Handle) {
    guard(|| {
        if !router.is_null() {
            // SAFETY: by the contract it came from `create`, which made it of a box, and this is the last call with it.
            drop(unsafe { Box::from_raw(router) });
        }
        Ok(SERVECAST_OK)
    });
}
