//! Requests are selected, booked, marked and freed.

use std::ffi::c_char;

use servecast_router::standalone::{PhaseId, Routed, Selection};
use servecast_types::Role;

use crate::args::{self, Out};
use crate::inspect::fill;
use crate::router::{Handle, Released, with};
use crate::types::*;

fn selection(selection: &Selection) -> servecast_selection {
    let settings = &selection.settings;
    servecast_selection {
        worker_id: selection.rank.worker_id,
        dp_rank: selection.rank.dp_rank,
        phase: args::phase_code(selection.request.phase),
        overlap_blocks: selection.overlap_blocks,
        required_blocks: selection.required_blocks,
        prefill_tokens: selection.prefill_tokens,
        tracked_blocks: selection.tracked_blocks,
        queue_wait_ns: selection.queue_wait_ns,
        overlap_score_weight: settings.overlap_score_weight,
        router_temperature: settings.router_temperature,
        assume_kv_reuse: settings.assume_kv_reuse.into(),
        track_prefill_tokens: settings.track_prefill_tokens.into(),
    }
}

/// Chooses a rank for a request, books it there in the same step and writes the choice to `out`; or, while every rank is
/// busy, lets it wait: then it returns SERVECAST_QUEUED, and servecast_router_poll() has the choice later.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn servecast_router_route(
    router: *mut Handle,
    request: *const servecast_request,
    now_ns: u64,
    out: *mut servecast_selection,
) -> servecast_status {
    let call = |router: &Handle| {
        let out = Out::one(out, "out")?;
        // SAFETY: the contract of this function.
        let request = unsafe { args::request(request, router.block_size()) }?;
        let mut state = router.lock()?;
        match state.router.route(&request, router.time(now_ns))? {
            Routed::Admitted(admitted) => {
                // SAFETY: the contract of this function.
                unsafe { out.write(&[selection(&admitted)]) };
                Ok(SERVECAST_OK)
            }
            Routed::Queued { admitted, .. } => {
                state.release(admitted);
                Ok(SERVECAST_QUEUED)
            }
        }
    };
    // SAFETY: the contract of this function.
    unsafe { with(router, call) }
}

/// Writes to `out` what servecast_router_route() would choose if nobody waited. Nothing is booked and nothing changes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn servecast_router_select(
    router: *mut Handle,
    request: *const servecast_request,
    now_ns: u64,
    out: *mut servecast_selection,
) -> servecast_status {
    let call = |router: &Handle| {
        let out = Out::one(out, "out")?;
        // SAFETY: the contract of this function.
        let request = unsafe { args::request(request, router.block_size()) }?;
        let selected = router.lock()?.router.select(&request, router.time(now_ns))?;
        // SAFETY: the contract of this function.
        unsafe { out.write(&[selection(&selected)]) };
        Ok(SERVECAST_OK)
    };
    // SAFETY: the contract of this function.
    unsafe { with(router, call) }
}

/// Books a request on a rank that was chosen elsewhere or by servecast_router_select(), whether the rank is busy or not,
/// under the settings with which its phase is selected. Writes the terms to `out` unless that is null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn servecast_router_book(
    router: *mut Handle,
    request: *const servecast_request,
    rank: *const servecast_worker_rank,
    now_ns: u64,
    out: *mut servecast_selection,
) -> servecast_status {
    let call = |router: &Handle| {
        let out = Out::several(out, usize::from(!out.is_null()), "out")?;
        // SAFETY: the contract of this function.
        let request = unsafe { args::request(request, router.block_size()) }?;
        // SAFETY: the same.
        let rank = unsafe { args::worker_rank(rank) }?;
        let booked = router.lock()?.router.book(&request, rank, router.time(now_ns))?;
        let terms = [selection(&booked)];
        // SAFETY: the same.
        unsafe { out.write(&terms[..out.capacity()]) };
        Ok(SERVECAST_OK)
    };
    // SAFETY: the contract of this function.
    unsafe { with(router, call) }
}

/// The prompt of a request is computed: its tokens are no load any more. For the decode phase that is no news.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn servecast_router_mark_prefill_complete(
    router: *mut Handle,
    id: *const c_char,
    now_ns: u64,
) -> servecast_status {
    let call = |router: &Handle| {
        // SAFETY: the contract of this function.
        let id = unsafe { args::request_id(id) }?;
        let mut state = router.lock()?;
        let admitted = state.router.mark_prefill_complete(id, router.time(now_ns))?;
        state.release(admitted);
        Ok(SERVECAST_OK)
    };
    // SAFETY: the contract of this function.
    unsafe { with(router, call) }
}

/// A request has `generated` output tokens by now, which router_track_output_blocks counts as load.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn servecast_router_record_output(
    router: *mut Handle,
    id: *const c_char,
    generated: u32,
    now_ns: u64,
) -> servecast_status {
    let call = |router: &Handle| {
        // SAFETY: the contract of this function.
        let id = unsafe { args::request_id(id) }?;
        router.lock()?.router.record_output(id, generated, router.time(now_ns))?;
        Ok(SERVECAST_OK)
    };
    // SAFETY: the contract of this function.
    unsafe { with(router, call) }
}

/// A request is over in a phase, or in all with SERVECAST_PHASE_ALL, or is given up while it waits. May be called again,
/// and for ids that are unknown.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn servecast_router_free_request(
    router: *mut Handle,
    id: *const c_char,
    phase: servecast_phase,
    now_ns: u64,
) -> servecast_status {
    let call = |router: &Handle| {
        // SAFETY: the contract of this function.
        let id = unsafe { args::request_id(id) }?;
        let phase = if phase == SERVECAST_PHASE_ALL { None } else { Some(args::phase(phase)?) };
        let mut state = router.lock()?;
        let admitted = state.router.free(id, phase, router.time(now_ns));
        let phases = Role::ALL.into_iter().filter(|each| phase.is_none_or(|phase| phase == *each));
        let over: Vec<PhaseId> = phases.map(|phase| PhaseId { id: id.into(), phase }).collect();
        state.drop_released(&over);
        state.release(admitted);
        Ok(SERVECAST_OK)
    };
    // SAFETY: the contract of this function.
    unsafe { with(router, call) }
}

/// Tells what became of requests that waited, one a call, in order: SERVECAST_OK with a choice in `out`, SERVECAST_REFUSED,
/// or SERVECAST_EMPTY.
///
/// Writes the length of the request's id with the ending zero byte to `id_length`, and the id to `id` if `capacity` is
/// enough; else it returns SERVECAST_ERR_BUFFER_TOO_SMALL and will tell the same again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn servecast_router_poll(
    router: *mut Handle,
    now_ns: u64,
    id: *mut c_char,
    capacity: usize,
    id_length: *mut usize,
    out: *mut servecast_selection,
) -> servecast_status {
    let call = |router: &Handle| {
        let id = Out::several(id.cast::<u8>(), capacity, "id")?;
        let id_length = Out::one(id_length, "id_length")?;
        let out = Out::one(out, "out")?;
        let mut state = router.lock()?;
        let admitted = state.router.advance(router.time(now_ns));
        state.release(admitted);
        let Some(released) = state.released.front() else {
            // SAFETY: the contract of this function.
            unsafe { id_length.write(&[0]) };
            return Ok(SERVECAST_EMPTY);
        };
        let (request, code) = match released {
            Released::Admitted(admitted) => (&admitted.request, SERVECAST_OK),
            Released::Refused(request) => (request, SERVECAST_REFUSED),
        };
        let text = [request.id.as_bytes(), b"\0"].concat();
        // SAFETY: the contract of this function.
        unsafe { fill(&text, &id, &id_length) }?;
        let answer = match released {
            Released::Admitted(admitted) => selection(admitted),
            Released::Refused(request) => {
                servecast_selection { phase: args::phase_code(request.phase), ..Default::default() }
            }
        };
        // SAFETY: the contract of this function.
        unsafe { out.write(&[answer]) };
        state.released.pop_front();
        Ok(code)
    };
    // SAFETY: the contract of this function.
    unsafe { with(router, call) }
}
