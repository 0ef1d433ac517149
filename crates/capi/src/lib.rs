//! The KV-aware router as a C library: `libservecast_router`, with `include/servecast_router.h`.
//!
//! A thin coat over [`servecast_router::standalone`], which has all decisions: here are pointers, codes and a lock.
//! `docs/c.md` is the guide for its users.
//!
//! # What every function asks of its caller
//!
//! A pointer is null or points to what its type says, initialised, for the whole call; an array to as many of them as
//! its length says; a text ends with a zero byte. A router came from [`servecast_router_new`] or
//! [`servecast_router_from_env`] and was not destroyed. Null pointers where something is needed, misaligned pointers,
//! lengths that no array has, texts that are not UTF-8 and numbers without a meaning are refused. Every `unsafe` in this
//! crate relies on this contract, and [`args`] is the only module that follows pointers.
//!
//! **Invariant:** nothing panics across the border: [`router::guard`] turns a panic into `SERVECAST_ERR_INTERNAL`.

mod args;
mod events;
mod inspect;
mod requests;
mod router;
mod status;
mod types;
mod workers;

#[cfg(test)]
mod tests;
