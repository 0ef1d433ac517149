//! Whatever is passed within the contract gets an answer: null, zero and huge lengths, misaligned pointers, small buffers,
//! odd texts and numbers.

use std::ffi::{CString, c_char};
use std::ptr;

use proptest::collection::vec;
use proptest::prelude::*;

use super::threads::{last_error, request, router};
use crate::args::MAX_LEN;
use crate::events::*;
use crate::inspect::*;
use crate::requests::*;
use crate::router::*;
use crate::status::servecast_version;
use crate::types::*;
use crate::workers::*;

/// An array as a caller passes it: elements, and what is wrong with it.
#[derive(Debug, Clone)]
struct Array<T> {
    elements: Vec<T>,
    fault: Fault,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// No pointer, and the elements' length.
    Null,
    /// No pointer and no length.
    Absent,
    /// A pointer that is a byte off.
    Misaligned,
    /// A length that no array has.
    Huge(usize),
}

impl<T> Array<T> {
    fn pointer(&self) -> *const T {
        match self.fault {
            Fault::Null | Fault::Absent => ptr::null(),
            Fault::Misaligned => self.elements.as_ptr().wrapping_byte_add(1),
            Fault::None | Fault::Huge(_) => self.elements.as_ptr(),
        }
    }

    fn length(&self) -> usize {
        match self.fault {
            Fault::Absent => 0,
            Fault::Huge(length) => length,
            Fault::None | Fault::Null | Fault::Misaligned => self.elements.len(),
        }
    }

    /// Whether it has to be refused.
    fn is_bad(&self) -> bool {
        match self.fault {
            Fault::None | Fault::Absent => false,
            Fault::Null => !self.elements.is_empty(),
            Fault::Misaligned | Fault::Huge(_) => true,
        }
    }
}

fn array<T: Clone + std::fmt::Debug + 'static>(
    element: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = Array<T>> {
    let fault = prop_oneof![
        6 => Just(Fault::None),
        1 => Just(Fault::Null),
        2 => Just(Fault::Absent),
        1 => Just(Fault::Misaligned),
        1 => prop::sample::select(vec![MAX_LEN + 1, isize::MAX as usize, usize::MAX / 8 + 1, usize::MAX])
            .prop_map(Fault::Huge),
    ];
    (vec(element, 0..20), fault).prop_map(|(elements, fault)| Array { elements, fault })
}

/// A text as a caller passes it: any bytes but zero, or null.
fn text() -> impl Strategy<Value = Option<CString>> {
    let bytes = prop_oneof![
        vec(1_u8..=255, 0..12),
        "[a-z]{1,3}".prop_map(String::into_bytes),
        prop::sample::select(vec![
            r#"{"router_temperature": 0.5}"#,
            r#"{"overlap_score_weight": -1}"#,
            "{}",
            "[",
            "\"cleared\"",
            r#"{"worker_id": 1, "event": {"event_id": 0, "data": "cleared"}}"#,
            r#"{"worker_id": 1, "event": {"event_id": 0, "data": {"removed": {"block_hashes": [1]}}}}"#,
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
    ];
    prop::option::weighted(0.8, bytes.prop_map(|bytes| CString::new(bytes).unwrap()))
}

fn pointer(text: Option<&CString>) -> *const c_char {
    text.map_or(ptr::null(), |text| text.as_ptr())
}

fn number() -> impl Strategy<Value = u32> {
    prop_oneof![0_u32..5, any::<u32>(), Just(u32::MAX)]
}

fn time() -> impl Strategy<Value = u64> {
    prop_oneof![0_u64..100, any::<u64>(), Just(SERVECAST_NOW)]
}

/// Every code that there is.
fn is_code(code: servecast_status) -> bool {
    (SERVECAST_ERR_BUFFER_TOO_SMALL..=SERVECAST_REFUSED).contains(&code)
}

const SENTINEL: u8 = 0xa5;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_request_gets_an_answer(
        id in text(), phase in number(), flags in prop_oneof![3 => Just(0_u32), 1 => number()],
        tokens in array(any::<u32>()), hashes in array(any::<u64>()), isl_tokens in number(),
        lora in text(), overrides in text(),
        pinned in prop::option::of((0_u64..4, number())), allowed in array(0_u64..4),
        priority_jump in any::<f64>(), output in number(), now in time(),
    ) {
        let router = router();
        let rank = pinned.map(|(worker_id, dp_rank)| servecast_worker_rank { worker_id, dp_rank });
        let request = servecast_request {
            id: pointer(id.as_ref()), phase, flags,
            tokens: tokens.pointer(), num_tokens: tokens.length(),
            block_hashes: hashes.pointer(), num_block_hashes: hashes.length(),
            isl_tokens, expected_output_tokens: output,
            lora_name: pointer(lora.as_ref()), cache_namespace: ptr::null(),
            overrides_json: pointer(overrides.as_ref()),
            pinned: rank.as_ref().map_or(ptr::null(), ptr::from_ref),
            allowed_workers: allowed.pointer(), num_allowed_workers: allowed.length(),
            priority_jump,
        };
        let request = &raw const request;
        let mut selection = servecast_selection::default();
        let out = &raw mut selection;
        let on = servecast_worker_rank { worker_id: 1, dp_rank: 0 };
        let id = pointer(id.as_ref());
        let mut count = 0;
        // SAFETY: within the contract: pointers are null, misaligned or to what they say, and lengths are right or more
        // than any array has. The same holds for all calls below.
        let selected = unsafe { servecast_router_select(router, request, now, out) };
        // SAFETY: see above.
        let routed = unsafe { servecast_router_route(router, request, now, out) };
        prop_assert!(is_code(selected) && is_code(routed), "{selected} {routed}");
        prop_assert_eq!(selected, routed, "nobody waits, so a look is as good as a decision");
        if tokens.is_bad() || hashes.is_bad() || allowed.is_bad() || phase > 2 {
            prop_assert_eq!(routed, SERVECAST_ERR_INVALID_ARGUMENT);
            prop_assert!(!last_error().is_empty());
        }
        let codes = [
            // SAFETY: see above.
            unsafe { servecast_router_book(router, request, &raw const on, now, ptr::null_mut()) },
            // SAFETY: see above.
            unsafe { servecast_router_potential_loads(router, request, now, ptr::null_mut(), 0, &raw mut count) },
            // SAFETY: see above.
            unsafe { servecast_router_mark_prefill_complete(router, id, now) },
            // SAFETY: see above.
            unsafe { servecast_router_record_output(router, id, output, now) },
            // SAFETY: see above.
            unsafe { servecast_router_free_request(router, id, phase, now) },
            // SAFETY: see above.
            unsafe { servecast_router_free_request(router, id, SERVECAST_PHASE_ALL, now) },
        ];
        prop_assert!(codes.into_iter().all(is_code), "{:?}", codes);
        if routed == SERVECAST_OK {
            prop_assert_eq!(codes[0], SERVECAST_ERR_DUPLICATE_REQUEST);
            prop_assert_eq!(codes[1], SERVECAST_ERR_BUFFER_TOO_SMALL);
        }
        // SAFETY: this is the last call.
        unsafe { servecast_router_destroy(router) };
    }

    #[test]
    fn any_event_gets_an_answer(
        worker_id in 0_u64..4, dp_rank in prop_oneof![3 => Just(0_u32), 1 => number()],
        parent in prop::option::of(0_u64..4), tokens in array(0_u32..3), contents in array(0_u64..4),
        names in array(0_u64..4), lora in text(), json in text(), now in time(),
        role in number(), dp_size in number(), dp_rank_start in number(),
    ) {
        let router = router();
        let rank = servecast_worker_rank { worker_id, dp_rank };
        let rank = &raw const rank;
        let blocks = servecast_stored_blocks {
            parent: parent.as_ref().map_or(ptr::null(), ptr::from_ref),
            tokens: tokens.pointer(), num_tokens: tokens.length(),
            tokens_hashes: contents.pointer(), num_tokens_hashes: contents.length(),
            block_hashes: names.pointer(), num_block_hashes: names.length(),
            lora_name: pointer(lora.as_ref()), cache_namespace: ptr::null(),
        };
        let info = servecast_worker_info { role, dp_rank_start, dp_size: dp_size % 5000, max_num_batched_tokens: 0 };
        // SAFETY: within the contract, as above; so are all calls below.
        let stored = unsafe { servecast_router_stored(router, rank, &raw const blocks, now) };
        // SAFETY: see above.
        let removed =
            unsafe { servecast_router_removed(router, rank, names.pointer(), names.length(), now) };
        let codes = [
            stored,
            removed,
            // SAFETY: see above.
            unsafe { servecast_router_cleared(router, rank, now) },
            // SAFETY: see above.
            unsafe { servecast_router_apply_json(router, pointer(json.as_ref()), now) },
            // SAFETY: see above.
            unsafe { servecast_router_register_worker(router, worker_id, &raw const info, now) },
            // SAFETY: see above.
            unsafe { servecast_router_remove_worker(router, worker_id, now) },
        ];
        prop_assert!(codes.into_iter().all(is_code), "{:?}", codes);
        if tokens.is_bad() || contents.is_bad() || names.is_bad() {
            prop_assert_eq!(stored, SERVECAST_ERR_INVALID_ARGUMENT);
        }
        prop_assert_eq!(removed == SERVECAST_ERR_INVALID_ARGUMENT, names.is_bad());
        // SAFETY: this is the last call.
        unsafe { servecast_router_destroy(router) };
    }

    #[test]
    fn small_buffers_are_refused_and_not_touched(capacity in 0_usize..600, tokens in vec(any::<u32>(), 0..40)) {
        let router = router();
        let id = c"a name";
        let request = request(id, SERVECAST_PHASE_AGGREGATED, &tokens);
        let mut selection = servecast_selection::default();
        // SAFETY: within the contract; so are all calls below, whose buffers are as large as they say.
        let routed = unsafe { servecast_router_route(router, &raw const request, 0, &raw mut selection) };
        prop_assert_eq!(routed, SERVECAST_OK);

        let mut needed = usize::MAX;
        let mut text = vec![SENTINEL; 600];
        let buffer = text.as_mut_ptr().cast();
        // SAFETY: see above.
        let code = unsafe { servecast_router_dump_json(router, 0, buffer, capacity, &raw mut needed) };
        prop_assert_eq!(code == SERVECAST_OK, needed <= capacity);
        let written = if code == SERVECAST_OK { needed } else { 0 };
        prop_assert!(text[written..].iter().all(|&byte| byte == SENTINEL), "nothing beyond is touched");
        if code == SERVECAST_OK {
            prop_assert_eq!(text[..written].iter().position(|&byte| byte == 0), Some(needed - 1));
            let dump: serde_json::Value = serde_json::from_slice(&text[..needed - 1]).unwrap();
            prop_assert_eq!(&dump["booked"][0]["id"], "a name");
        } else {
            prop_assert_eq!(code, SERVECAST_ERR_BUFFER_TOO_SMALL);
        }

        let mut loads = [servecast_load::default(); 3];
        let room = capacity % 3;
        // SAFETY: see above.
        let code = unsafe {
            servecast_router_potential_loads(router, &raw const request, 0, loads.as_mut_ptr(), room, &raw mut needed)
        };
        prop_assert_eq!((needed, code == SERVECAST_OK), (2, room == 2));
        prop_assert_eq!(loads[1].worker_id, if room == 2 { 2 } else { 0 });

        let mut hashes = [0_u64; 10];
        let room = capacity % 10;
        // SAFETY: see above.
        let code = unsafe {
            servecast_block_hashes(
                tokens.as_ptr(), tokens.len(), 4, ptr::null(), ptr::null(),
                hashes.as_mut_ptr(), room, &raw mut needed,
            )
        };
        prop_assert_eq!((needed, code == SERVECAST_OK), (tokens.len() / 4, room >= tokens.len() / 4));
        // SAFETY: this is the last call.
        unsafe { servecast_router_destroy(router) };
    }

    #[test]
    fn any_configuration_gets_an_answer(config in text(), block_size in number(), seed in any::<u64>()) {
        let mut router = ptr::null_mut();
        // SAFETY: within the contract.
        let code = unsafe { servecast_router_new(pointer(config.as_ref()), block_size, seed, &raw mut router) };
        prop_assert!([SERVECAST_OK, SERVECAST_ERR_CONFIG, SERVECAST_ERR_INVALID_ARGUMENT].contains(&code), "{code}");
        prop_assert_eq!(code == SERVECAST_OK, !router.is_null());
        // SAFETY: it is null or a router, and this is the last call.
        unsafe { servecast_router_destroy(router) };
    }
}

#[test]
#[expect(clippy::multiple_unsafe_ops_per_block, reason = "one reason for a table of calls")]
fn null_is_refused_everywhere_by_name() {
    let router = router();
    let null_router = ptr::null_mut();
    let request = request(c"r", SERVECAST_PHASE_AGGREGATED, &[1]);
    let request = &raw const request;
    let rank = servecast_worker_rank { worker_id: 1, dp_rank: 0 };
    let rank = &raw const rank;
    let mut selection = servecast_selection::default();
    let out = &raw mut selection;
    let mut count = 0;
    let count = &raw mut count;
    // SAFETY: within the contract, in which pointers may be null; so are all calls.
    let codes = unsafe {
        [
            ("out", servecast_router_new(ptr::null(), 4, 1, ptr::null_mut())),
            ("out", servecast_router_from_env(4, 1, ptr::null_mut())),
            ("router", servecast_router_register_worker(null_router, 1, ptr::null(), 0)),
            ("info", servecast_router_register_worker(router, 1, ptr::null(), 0)),
            ("router", servecast_router_remove_worker(null_router, 1, 0)),
            ("router", servecast_router_stored(null_router, rank, ptr::null(), 0)),
            ("rank", servecast_router_stored(router, ptr::null(), ptr::null(), 0)),
            ("blocks", servecast_router_stored(router, rank, ptr::null(), 0)),
            ("router", servecast_router_removed(null_router, rank, ptr::null(), 0, 0)),
            ("rank", servecast_router_removed(router, ptr::null(), ptr::null(), 0, 0)),
            ("block_hashes", servecast_router_removed(router, rank, ptr::null(), 1, 0)),
            ("router", servecast_router_cleared(null_router, rank, 0)),
            ("rank", servecast_router_cleared(router, ptr::null(), 0)),
            ("router", servecast_router_apply_json(null_router, ptr::null(), 0)),
            ("event_json", servecast_router_apply_json(router, ptr::null(), 0)),
            ("router", servecast_router_route(null_router, request, 0, out)),
            ("request", servecast_router_route(router, ptr::null(), 0, out)),
            ("out", servecast_router_route(router, request, 0, ptr::null_mut())),
            ("out", servecast_router_select(router, request, 0, ptr::null_mut())),
            ("rank", servecast_router_book(router, request, ptr::null(), 0, out)),
            ("id", servecast_router_mark_prefill_complete(router, ptr::null(), 0)),
            ("id", servecast_router_record_output(router, ptr::null(), 1, 0)),
            ("id", servecast_router_free_request(router, ptr::null(), SERVECAST_PHASE_ALL, 0)),
            ("id", servecast_router_poll(router, 0, ptr::null_mut(), 1, count, out)),
            ("id_length", servecast_router_poll(router, 0, ptr::null_mut(), 0, ptr::null_mut(), out)),
            ("out", servecast_router_poll(router, 0, ptr::null_mut(), 0, count, ptr::null_mut())),
            ("loads", servecast_router_potential_loads(router, request, 0, ptr::null_mut(), 1, count)),
            (
                "num_loads",
                servecast_router_potential_loads(router, request, 0, ptr::null_mut(), 0, ptr::null_mut()),
            ),
            ("text", servecast_router_dump_json(router, 0, ptr::null_mut(), 1, count)),
            ("length", servecast_router_dump_json(router, 0, ptr::null_mut(), 0, ptr::null_mut())),
            ("num_queued", servecast_router_queued_requests(router, ptr::null_mut())),
            (
                "tokens",
                servecast_block_hashes(
                    ptr::null(),
                    1,
                    4,
                    ptr::null(),
                    ptr::null(),
                    ptr::null_mut(),
                    0,
                    count,
                ),
            ),
            (
                "num_hashes",
                servecast_block_hashes(
                    ptr::null(),
                    0,
                    4,
                    ptr::null(),
                    ptr::null(),
                    ptr::null_mut(),
                    0,
                    ptr::null_mut(),
                ),
            ),
        ]
    };
    for (at, (name, code)) in codes.into_iter().enumerate() {
        assert_eq!(code, SERVECAST_ERR_INVALID_ARGUMENT, "{at}: {name}");
    }
    assert_eq!(last_error(), "`num_hashes` is null");
    // SAFETY: this is the last call.
    unsafe { servecast_router_destroy(router) };
    assert!(!servecast_version().is_null());
}
