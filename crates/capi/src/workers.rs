//! Workers come, change and go.

use crate::args;
use crate::router::{Handle, with};
use crate::types::*;

/// Registers a worker, or changes the ranks and the limit of a registered one. Requests on ranks that it has no longer
/// are forgotten.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn servecast_router_register_worker(
    router: *mut Handle,
    worker_id: u64,
    info: *const servecast_worker_info,
    now_ns: u64,
) -> servecast_status {
    let call = |router: &Handle| {
        // SAFETY: the contract of this function.
        let info = unsafe { args::worker_info(info) }?;
        let mut state = router.lock()?;
        let changed = state.router.register_worker(worker_id, info, router.time(now_ns))?;
        state.change(changed);
        Ok(SERVECAST_OK)
    };
    // SAFETY: the contract of this function.
    unsafe { with(router, call) }
}

/// Forgets a worker with everything that is known about it, the requests on it included. Requests that waited and that
/// no other worker can serve are refused (servecast_router_poll()).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn servecast_router_remove_worker(
    router: *mut Handle,
    worker_id: u64,
    now_ns: u64,
) -> servecast_status {
    let call = |router: &Handle| {
        let mut state = router.lock()?;
        let changed = state.router.remove_worker(worker_id, router.time(now_ns))?;
        state.change(changed);
        Ok(SERVECAST_OK)
    };
    // SAFETY: the contract of this function.
    unsafe { with(router, call) }
}
