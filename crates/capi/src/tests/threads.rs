//! One router, many threads; and what a panic leaves behind.

use std::ffi::{CStr, CString};
use std::ptr;

use crate::requests::*;
use crate::router::*;
use crate::status::*;
use crate::types::*;
use crate::workers::*;

/// A router with decode workers 1 and 2.
pub(super) fn router() -> *mut Handle {
    let mut router = ptr::null_mut();
    // SAFETY: `out` is a place for a router, and null is the default configuration.
    let code = unsafe { servecast_router_new(ptr::null(), 4, 1, &raw mut router) };
    assert_eq!(code, SERVECAST_OK);
    for worker_id in [1, 2] {
        let info = servecast_worker_info {
            role: SERVECAST_ROLE_DECODE,
            dp_rank_start: 0,
            dp_size: 1,
            max_num_batched_tokens: 0,
        };
        // SAFETY: both pointers are to what they say.
        let code = unsafe { servecast_router_register_worker(router, worker_id, &raw const info, 0) };
        assert_eq!(code, SERVECAST_OK);
    }
    router
}

pub(super) fn request(id: &CStr, phase: servecast_phase, tokens: &[u32]) -> servecast_request {
    servecast_request {
        id: id.as_ptr(),
        phase,
        flags: 0,
        tokens: tokens.as_ptr(),
        num_tokens: tokens.len(),
        block_hashes: ptr::null(),
        num_block_hashes: 0,
        isl_tokens: 0,
        expected_output_tokens: 0,
        lora_name: ptr::null(),
        cache_namespace: ptr::null(),
        overrides_json: ptr::null(),
        pinned: ptr::null(),
        allowed_workers: ptr::null(),
        num_allowed_workers: 0,
        priority_jump: 0.0,
    }
}

pub(super) fn last_error() -> String {
    // SAFETY: the text is this thread's, which makes no other call meanwhile.
    let text = unsafe { CStr::from_ptr(servecast_last_error()) };
    text.to_str().unwrap().to_owned()
}

struct Shared(*mut Handle);

// SAFETY: a router may be used from any thread, which is what is tested.
unsafe impl Sync for Shared {}

#[test]
fn threads_share_a_router_and_have_errors_of_their_own() {
    let shared = Shared(router());
    let shared = &shared;
    std::thread::scope(|scope| {
        for thread in 0..4_u32 {
            scope.spawn(move || {
                let Shared(router) = shared;
                for round in 0..200 {
                    let id = CString::new(format!("{thread}-{round}")).unwrap();
                    let tokens = vec![thread; 4 * (1 + round % 7)];
                    let mut selection = servecast_selection::default();
                    let request = request(&id, SERVECAST_PHASE_AGGREGATED, &tokens);
                    // SAFETY: all pointers are to what they say, for longer than the call.
                    let code = unsafe {
                        servecast_router_route(*router, &raw const request, SERVECAST_NOW, &raw mut selection)
                    };
                    assert_eq!(code, SERVECAST_OK);
                    // SAFETY: the same.
                    let again = unsafe {
                        servecast_router_route(*router, &raw const request, SERVECAST_NOW, &raw mut selection)
                    };
                    assert_eq!(again, SERVECAST_ERR_DUPLICATE_REQUEST);
                    assert!(last_error().contains(&format!("`{thread}-{round}`")), "{}", last_error());
                    // SAFETY: the same.
                    let marked = unsafe {
                        servecast_router_mark_prefill_complete(*router, id.as_ptr(), SERVECAST_NOW)
                    };
                    assert_eq!(marked, SERVECAST_OK);
                    // SAFETY: the same.
                    let freed = unsafe {
                        servecast_router_free_request(
                            *router,
                            id.as_ptr(),
                            SERVECAST_PHASE_ALL,
                            SERVECAST_NOW,
                        )
                    };
                    assert_eq!(freed, SERVECAST_OK);
                }
            });
        }
    });
    // SAFETY: the threads are over.
    let handle = unsafe { &*shared.0 };
    let dump = handle.lock().unwrap().router.dump(handle.time(SERVECAST_NOW));
    assert!(dump.booked.is_empty() && dump.ranks.iter().all(|rank| rank.active_blocks == 0));
    // SAFETY: this is the last call.
    unsafe { servecast_router_destroy(shared.0) };
}

#[test]
fn a_panic_is_a_code_and_spoils_only_its_router() {
    let (first, second) = (router(), router());
    let id = c"r";
    // SAFETY: it is a router.
    let code = unsafe {
        with(first, |router| {
            let _state = router.lock()?;
            panic!("a test of {}", "panics")
        })
    };
    assert_eq!(
        (code, last_error().as_str()),
        (SERVECAST_ERR_INTERNAL, "a defect of servecast_router: a test of panics")
    );
    for (router, expected) in [(first, SERVECAST_ERR_INTERNAL), (second, SERVECAST_OK)] {
        // SAFETY: both pointers are to what they say.
        let code = unsafe { servecast_router_free_request(router, id.as_ptr(), SERVECAST_PHASE_ALL, 0) };
        assert_eq!(code, expected);
        // SAFETY: this is the last call with it.
        unsafe { servecast_router_destroy(router) };
    }
    assert!(last_error().ends_with("destroy it"), "{}", last_error());
    // SAFETY: null is fine.
    unsafe { servecast_router_destroy(ptr::null_mut()) };
}
