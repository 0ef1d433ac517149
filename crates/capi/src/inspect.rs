//! What a router can tell about its state.

use std::ffi::c_char;

use crate::args::{self, Out};
use crate::router::{Handle, with};
use crate::status::{Failure, Outcome};
use crate::types::*;

/// Writes how many values there are, and them if there is room for all.
pub(crate) unsafe fn fill<T: Copy>(values: &[T], room: &Out<T>, count: &Out<usize>) -> Outcome {
    // SAFETY: the caller's contract is ours.
    unsafe { count.write(&[values.len()]) };
    if values.len() > room.capacity() {
        let (needed, capacity) = (values.len(), room.capacity());
        return Err(Failure::new(
            SERVECAST_ERR_BUFFER_TOO_SMALL,
            format!("the buffer has room for {capacity} elements, but {needed} are needed"),
        ));
    }
    // SAFETY: the same, and there is room.
    unsafe { room.write(values) };
    Ok(SERVECAST_OK)
}

/// The load that every rank would have with a request on it, under the settings that hold for its phase, in order of
/// worker and rank.
///
/// Writes how many ranks there are to `num_loads`, and the loads to `loads` if `capacity` is enough; else it returns
/// SERVECAST_ERR_BUFFER_TOO_SMALL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn servecast_router_potential_loads(
    router: *mut Handle,
    request: *const servecast_request,
    now_ns: u64,
    loads: *mut servecast_load,
    capacity: usize,
    num_loads: *mut usize,
) -> servecast_status {
    let call = |router: &Handle| {
        let loads = Out::several(loads, capacity, "loads")?;
        let num_loads = Out::one(num_loads, "num_loads")?;
        // SAFETY: the contract of this function.
        let request = unsafe { args::request(request, router.block_size()) }?;
        let potential = router.lock()?.router.potential_loads(&request, router.time(now_ns))?;
        let potential: Vec<servecast_load> = potential
            .iter()
            .map(|load| servecast_load {
                worker_id: load.rank.worker_id,
                dp_rank: load.rank.dp_rank,
                overlap_blocks: load.overlap_blocks,
                prefill_tokens: load.prefill_tokens,
                decode_blocks: load.decode_blocks,
                cost: load.cost,
            })
            .collect();
        // SAFETY: the contract of this function.
        unsafe { fill(&potential, &loads, &num_loads) }
    };
    // SAFETY: the contract of this function.
    unsafe { with(router, call) }
}

/// Everything that the router knows, as JSON: ranks with their loads, requests that are booked and that wait, and what
/// is cached as events for servecast_router_apply_json().
///
/// Writes the length with the ending zero byte to `length`, and the text to `text` if `capacity` is enough; else it
/// returns SERVECAST_ERR_BUFFER_TOO_SMALL. Where other threads use the router, the length may grow between two calls.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn servecast_router_dump_json(
    router: *mut Handle,
    now_ns: u64,
    text: *mut c_char,
    capacity: usize,
    length: *mut usize,
) -> servecast_status {
    let call = |router: &Handle| {
        let text = Out::several(text.cast::<u8>(), capacity, "text")?;
        let length = Out::one(length, "length")?;
        let dump = router.lock()?.router.dump(router.time(now_ns));
        let mut json = serde_json::to_string(&dump)
            .map_err(|error| Failure::new(SERVECAST_ERR_INTERNAL, format!("dump: {error}")))?;
        json.push('\0');
        // SAFETY: the contract of this function.
        unsafe { fill(json.as_bytes(), &text, &length) }
    };
    // SAFETY: the contract of this function.
    unsafe { with(router, call) }
}

/// Writes how many requests wait to `num_queued`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn servecast_router_queued_requests(
    router: *mut Handle,
    num_queued: *mut usize,
) -> servecast_status {
    let call = |router: &Handle| {
        let num_queued = Out::one(num_queued, "num_queued")?;
        let queued = router.lock()?.router.queued_requests();
        // SAFETY: the contract of this function.
        unsafe { num_queued.write(&[queued]) };
        Ok(SERVECAST_OK)
    };
    // SAFETY: the contract of this function.
    unsafe { with(router, call) }
}
