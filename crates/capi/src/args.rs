//! What callers pass, as Rust: the only module that follows pointers.
//!
//! Everything here relies on the contract at the top of the crate and checks what of it can be checked.

use std::ffi::{CStr, c_char};

use servecast_router::RouterConfigOverride;
use servecast_router::standalone::{PhaseRequest, PromptBlocks, WorkerInfo, WorkerRank, WorkerRole};
use servecast_types::hash::{self, Salt};
use servecast_types::{BlockHash, Role, SequenceHash};

use crate::status::Failure;
use crate::types::*;

/// More elements than any array of a caller's has: a length beyond it is a mistake, most likely a negative number.
pub(crate) const MAX_LEN: usize = u32::MAX as usize;

const SALTED: &str = "`lora_name` and `cache_namespace` are for tokens: hashes have them in them already";

/// What a pointer points to; `name` is what messages call it.
pub(crate) unsafe fn reference<'a, T>(pointer: *const T, name: &str) -> Result<&'a T, Failure> {
    check_pointer(pointer, name)?;
    // SAFETY: it is not null and aligned, and by the contract points to a `T` for the whole call.
    Ok(unsafe { &*pointer })
}

/// Where results go. It is only written to: C programs seldom initialise what they pass for that.
#[derive(Debug)]
pub(crate) struct Out<T> {
    pointer: *mut T,
    capacity: usize,
}

impl<T: Copy> Out<T> {
    /// Room for one result.
    pub(crate) fn one(pointer: *mut T, name: &str) -> Result<Self, Failure> {
        check_pointer(pointer, name)?;
        Ok(Self { pointer, capacity: 1 })
    }

    /// Room for several results; null has none.
    pub(crate) fn several(pointer: *mut T, capacity: usize, name: &str) -> Result<Self, Failure> {
        check_length(capacity, name)?;
        if pointer.is_null() && capacity > 0 {
            return Err(Failure::argument(format!("`{name}` is null, but has room for {capacity} elements")));
        }
        check_aligned(pointer, name)?;
        Ok(Self { pointer, capacity })
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Writes results, of which there may be no more than there is room for.
    pub(crate) unsafe fn write(&self, values: &[T]) {
        assert!(values.len() <= self.capacity, "the caller compares first");
        if !values.is_empty() {
            // SAFETY: it is not null, since there is room, and aligned; by the contract there is room for `capacity`
            // elements that nobody else uses during the call, so they do not overlap with ours.
            unsafe { self.pointer.copy_from_nonoverlapping(values.as_ptr(), values.len()) }
        }
    }
}

/// What a pointer points to, or nothing for null.
pub(crate) unsafe fn optional<'a, T>(pointer: *const T, name: &str) -> Result<Option<&'a T>, Failure> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's contract is ours.
    unsafe { reference(pointer, name) }.map(Some)
}

fn check_pointer<T>(pointer: *const T, name: &str) -> Result<(), Failure> {
    if pointer.is_null() {
        return Err(Failure::argument(format!("`{name}` is null")));
    }
    check_aligned(pointer, name)
}

fn check_aligned<T>(pointer: *const T, name: &str) -> Result<(), Failure> {
    if pointer.is_aligned() {
        return Ok(());
    }
    Err(Failure::argument(format!("`{name}` is not aligned to {} bytes", align_of::<T>())))
}

fn check_length(length: usize, name: &str) -> Result<(), Failure> {
    if length <= MAX_LEN {
        return Ok(());
    }
    Err(Failure::argument(format!("`{name}` has {length} elements: expected at most {MAX_LEN}")))
}

/// An array; null is an empty one.
pub(crate) unsafe fn array<'a, T>(pointer: *const T, length: usize, name: &str) -> Result<&'a [T], Failure> {
    check_length(length, name)?;
    if pointer.is_null() {
        return match length {
            0 => Ok(&[]),
            _ => Err(Failure::argument(format!("`{name}` is null, but has {length} elements"))),
        };
    }
    check_aligned(pointer, name)?;
    // SAFETY: it is not null and aligned, by the contract points to `length` elements for the whole call, and these have
    // less than `isize::MAX` bytes: at most 2³² of at most 64 bytes.
    Ok(unsafe { std::slice::from_raw_parts(pointer, length) })
}

/// A text, or nothing for null.
pub(crate) unsafe fn text<'a>(pointer: *const c_char, name: &str) -> Result<Option<&'a str>, Failure> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: it is not null, and by the contract a zero byte ends it.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().map(Some).map_err(|_| Failure::argument(format!("`{name}` is not UTF-8")))
}

/// The name of a request.
pub(crate) unsafe fn request_id<'a>(pointer: *const c_char) -> Result<&'a str, Failure> {
    // SAFETY: the caller's contract is ours.
    match unsafe { text(pointer, "id") }? {
        None => Err(Failure::argument("`id` is null")),
        Some("") => Err(Failure::argument("`id` is empty: a request needs a name")),
        Some(id) => Ok(id),
    }
}

pub(crate) fn phase(phase: servecast_phase) -> Result<Role, Failure> {
    match phase {
        SERVECAST_PHASE_AGGREGATED => Ok(Role::Aggregated),
        SERVECAST_PHASE_PREFILL => Ok(Role::Prefill),
        SERVECAST_PHASE_DECODE => Ok(Role::Decode),
        other => Err(Failure::argument(format!(
            "`phase` is {other}: expected SERVECAST_PHASE_AGGREGATED (0), _PREFILL (1) or _DECODE (2)"
        ))),
    }
}

pub(crate) fn phase_code(phase: Role) -> servecast_phase {
    match phase {
        Role::Aggregated => SERVECAST_PHASE_AGGREGATED,
        Role::Prefill => SERVECAST_PHASE_PREFILL,
        Role::Decode => SERVECAST_PHASE_DECODE,
    }
}

pub(crate) unsafe fn worker_rank(pointer: *const servecast_worker_rank) -> Result<WorkerRank, Failure> {
    // SAFETY: the caller's contract is ours.
    let &servecast_worker_rank { worker_id, dp_rank } = unsafe { reference(pointer, "rank") }?;
    Ok(WorkerRank { worker_id, dp_rank })
}

pub(crate) unsafe fn worker_info(pointer: *const servecast_worker_info) -> Result<WorkerInfo, Failure> {
    // SAFETY: the caller's contract is ours.
    let &servecast_worker_info { role, dp_rank_start, dp_size, max_num_batched_tokens } =
        unsafe { reference(pointer, "info") }?;
    let role = match role {
        SERVECAST_ROLE_DECODE => WorkerRole::Decode,
        SERVECAST_ROLE_PREFILL => WorkerRole::Prefill,
        other => {
            return Err(Failure::argument(format!(
                "`role` is {other}: expected SERVECAST_ROLE_DECODE (0) or SERVECAST_ROLE_PREFILL (1)"
            )));
        }
    };
    let max_num_batched_tokens = Some(max_num_batched_tokens).filter(|&tokens| tokens > 0);
    Ok(WorkerInfo { role, dp_rank_start, dp_size: dp_size.max(1), max_num_batched_tokens })
}

pub(crate) unsafe fn salt<'a>(
    lora_name: *const c_char,
    cache_namespace: *const c_char,
) -> Result<Salt<'a>, Failure> {
    // SAFETY: the caller's contract is ours.
    let lora = unsafe { text(lora_name, "lora_name") }?;
    // SAFETY: the same.
    let namespace = unsafe { text(cache_namespace, "cache_namespace") }?;
    Ok(Salt { lora: lora.unwrap_or_default(), namespace: namespace.unwrap_or_default() })
}

/// A request to a router with blocks of `block_size` tokens.
pub(crate) unsafe fn request(
    pointer: *const servecast_request,
    block_size: u32,
) -> Result<PhaseRequest, Failure> {
    // SAFETY: the caller's contract is ours, and it holds for what the request points to.
    let request = unsafe { reference(pointer, "request") }?;
    // SAFETY: the same.
    let id = unsafe { request_id(request.id) }?;
    // SAFETY: the same.
    let prompt = unsafe { prompt(request, block_size) }?;
    // SAFETY: the same.
    let pinned = unsafe { optional(request.pinned, "pinned") }?;
    // SAFETY: the same.
    let allowed = unsafe { array(request.allowed_workers, request.num_allowed_workers, "allowed_workers") }?;
    // SAFETY: the same.
    let overrides = unsafe { text(request.overrides_json, "overrides_json") }?;
    Ok(PhaseRequest {
        expected_output_tokens: Some(request.expected_output_tokens).filter(|&tokens| tokens > 0),
        overrides: overrides.map_or_else(|| Ok(RouterConfigOverride::default()), parse_overrides)?,
        pinned: pinned.map(|&servecast_worker_rank { worker_id, dp_rank }| WorkerRank { worker_id, dp_rank }),
        allowed: (!request.allowed_workers.is_null()).then(|| allowed.to_vec()),
        priority_jump: request.priority_jump,
        ..PhaseRequest::new(id, phase(request.phase)?, prompt)
    })
}

fn parse_overrides(text: &str) -> Result<RouterConfigOverride, Failure> {
    let value = serde_json::from_str(text)
        .map_err(|error| Failure::argument(format!("`overrides_json` is not JSON: {error}")))?;
    RouterConfigOverride::from_json(&value)
        .map_err(|error| Failure::argument(format!("`overrides_json`: {error}")))
}

unsafe fn prompt(request: &servecast_request, block_size: u32) -> Result<PromptBlocks, Failure> {
    // SAFETY: the caller's contract is ours.
    let tokens = unsafe { array(request.tokens, request.num_tokens, "tokens") }?;
    // SAFETY: the same.
    let hashes = unsafe { array(request.block_hashes, request.num_block_hashes, "block_hashes") }?;
    // SAFETY: the same.
    let salt = unsafe { salt(request.lora_name, request.cache_namespace) }?;
    if request.flags & !SERVECAST_REQUEST_EAGLE != 0 {
        let flags = request.flags;
        return Err(Failure::argument(format!(
            "`flags` is {flags}: expected 0 or SERVECAST_REQUEST_EAGLE (1)"
        )));
    }
    if tokens.is_empty() {
        if salt != Salt::default() {
            return Err(Failure::argument(SALTED));
        }
        let hashes: Vec<BlockHash> = hashes.iter().copied().map(BlockHash).collect();
        return Ok(PromptBlocks::from_block_hashes(request.isl_tokens, &hashes));
    }
    if !hashes.is_empty() {
        return Err(Failure::argument("both `tokens` and `block_hashes` are given: give one of them"));
    }
    if request.isl_tokens != 0 && request.isl_tokens as usize != tokens.len() {
        let (isl_tokens, given) = (request.isl_tokens, tokens.len());
        return Err(Failure::argument(format!(
            "`isl_tokens` is {isl_tokens}, but {given} `tokens` are given: leave it 0"
        )));
    }
    Ok(if request.flags & SERVECAST_REQUEST_EAGLE == 0 {
        PromptBlocks::from_tokens(tokens, block_size, salt)
    } else {
        PromptBlocks::from_eagle_tokens(tokens, block_size, salt)
    })
}

/// Stored blocks, whose contents were given by either name.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) parent: Option<SequenceHash>,
    pub(crate) contents: Vec<BlockHash>,
    pub(crate) names: Option<Vec<SequenceHash>>,
}

/// Blocks that were stored by a worker with blocks of `block_size` tokens.
pub(crate) unsafe fn stored(
    pointer: *const servecast_stored_blocks,
    block_size: u32,
) -> Result<Stored, Failure> {
    // SAFETY: the caller's contract is ours, and it holds for what the structure points to.
    let blocks = unsafe { reference(pointer, "blocks") }?;
    // SAFETY: the same.
    let parent = unsafe { optional(blocks.parent, "parent") }?;
    // SAFETY: the same.
    let tokens = unsafe { array(blocks.tokens, blocks.num_tokens, "tokens") }?;
    // SAFETY: the same.
    let hashes = unsafe { array(blocks.tokens_hashes, blocks.num_tokens_hashes, "tokens_hashes") }?;
    // SAFETY: the same.
    let names = unsafe { array(blocks.block_hashes, blocks.num_block_hashes, "block_hashes") }?;
    // SAFETY: the same.
    let salt = unsafe { salt(blocks.lora_name, blocks.cache_namespace) }?;
    let contents = match (tokens.is_empty(), hashes.is_empty()) {
        (false, true) => hash::block_hashes(tokens, block_size as usize, salt),
        (false, false) => {
            return Err(Failure::argument("both `tokens` and `tokens_hashes` are given: give one of them"));
        }
        (true, _) if salt != Salt::default() => return Err(Failure::argument(SALTED)),
        (true, _) => hashes.iter().copied().map(BlockHash).collect(),
    };
    Ok(Stored {
        parent: parent.copied().map(SequenceHash),
        contents,
        names: (!blocks.block_hashes.is_null()).then(|| names.iter().copied().map(SequenceHash).collect()),
    })
}
