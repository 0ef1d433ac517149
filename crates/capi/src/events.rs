//! Workers report what their prefix caches hold.

use std::ffi::c_char;

use servecast_router::wire::{IndexEventData, RemovedBlocks, RouterEvent, from_json};
use servecast_types::{SequenceHash, hash};

use crate::args::{self, Out};
use crate::inspect::fill;
use crate::router::{Handle, guard, with};
use crate::status::Failure;
use crate::types::*;

/// A rank has stored blocks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn servecast_router_stored(
    router: *mut Handle,
    rank: *const servecast_worker_rank,
    blocks: *const servecast_stored_blocks,
    now_ns: u64,
) -> servecast_status {
    let call = |router: &Handle| {
        // SAFETY: the contract of this function.
        let rank = unsafe { args::worker_rank(rank) }?;
        // SAFETY: the same.
        let stored = unsafe { args::stored(blocks, router.block_size()) }?;
        let names = stored.names.as_deref();
        let mut state = router.lock()?;
        state.router.stored_hashes(rank, stored.parent, &stored.contents, names, router.time(now_ns))?;
        Ok(SERVECAST_OK)
    };
    // SAFETY: the contract of this function.
    unsafe { with(router, call) }
}

/// A rank has removed blocks, by the names under which it stored them.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn servecast_router_removed(
    router: *mut Handle,
    rank: *const servecast_worker_rank,
    block_hashes: *const u64,
    num_block_hashes: usize,
    now_ns: u64,
) -> servecast_status {
    let call = |router: &Handle| {
        // SAFETY: the contract of this function.
        let rank = unsafe { args::worker_rank(rank) }?;
        // SAFETY: the same.
        let names = unsafe { args::array(block_hashes, num_block_hashes, "block_hashes") }?;
        let block_hashes = names.iter().copied().map(SequenceHash).collect();
        let removed = IndexEventData::Removed(RemovedBlocks { block_hashes });
        router.lock()?.router.apply_data(rank, &removed, router.time(now_ns))?;
        Ok(SERVECAST_OK)
    };
    // SAFETY: the contract of this function.
    unsafe { with(router, call) }
}

/// A rank has dropped its whole cache.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn servecast_router_cleared(
    router: *mut Handle,
    rank: *const servecast_worker_rank,
    now_ns: u64,
) -> servecast_status {
    let call = |router: &Handle| {
        // SAFETY: the contract of this function.
        let rank = unsafe { args::worker_rank(rank) }?;
        router.lock()?.router.apply_data(rank, &IndexEventData::Cleared, router.time(now_ns))?;
        Ok(SERVECAST_OK)
    };
    // SAFETY: the contract of this function.
    unsafe { with(router, call) }
}

/// Applies an event as JSON, as routers and indexers pass it on:
/// {"worker_id": 1, "event": {"event_id": 0, "dp_rank": 0, "data": {"stored": {"parent_hash": null, "blocks":
/// [{"block_hash": 3, "tokens_hash": 4}]}}}}, with {"removed": {"block_hashes": [3]}} or "cleared" for other events.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn servecast_router_apply_json(
    router: *mut Handle,
    event_json: *const c_char,
    now_ns: u64,
) -> servecast_status {
    let call = |router: &Handle| {
        // SAFETY: the contract of this function.
        let text = unsafe { args::text(event_json, "event_json") }?;
        let text = text.ok_or_else(|| Failure::argument("`event_json` is null"))?;
        let event: RouterEvent = from_json(text.as_bytes())
            .map_err(|error| Failure::argument(format!("`event_json` is no event: {error}")))?;
        router.lock()?.router.apply(&event, router.time(now_ns))?;
        Ok(SERVECAST_OK)
    };
    // SAFETY: the contract of this function.
    unsafe { with(router, call) }
}

/// Hashes the contents of the full blocks of a prompt, as engines and routers do on the wire: XXH3-64, seed 1337.
///
/// Writes how many there are to `num_hashes`, and them to `hashes` if `capacity` is enough; else it returns
/// SERVECAST_ERR_BUFFER_TOO_SMALL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn servecast_block_hashes(
    tokens: *const u32,
    num_tokens: usize,
    block_size: u32,
    lora_name: *const c_char,
    cache_namespace: *const c_char,
    hashes: *mut u64,
    capacity: usize,
    num_hashes: *mut usize,
) -> servecast_status {
    guard(|| {
        let hashes = Out::several(hashes, capacity, "hashes")?;
        let num_hashes = Out::one(num_hashes, "num_hashes")?;
        // SAFETY: the contract of this function.
        let tokens = unsafe { args::array(tokens, num_tokens, "tokens") }?;
        // SAFETY: the same.
        let salt = unsafe { args::salt(lora_name, cache_namespace) }?;
        if block_size == 0 {
            return Err(Failure::argument("`block_size` is 0: expected at least 1 token"));
        }
        let blocks: Vec<u64> =
            hash::block_hashes(tokens, block_size as usize, salt).into_iter().map(|block| block.0).collect();
        // SAFETY: the contract of this function.
        unsafe { fill(&blocks, &hashes, &num_hashes) }
    })
}
