//! The vocabulary that servecast's crates share.
//!
//! - [`Time`] and [`Duration`]: whole nanoseconds of virtual time.
//! - [`RequestId`], [`PoolId`], [`WorkerId`], [`BlockId`], [`ClassId`]: dense ids that index into vectors; [`Rank`]: a data-parallel rank of a worker.
//! - [`Role`]: what a worker or a pool does with a request.
//! - [`Seed`]: where random numbers come from.
//! - [`Prompt`]: which content a request consists of, without token vectors; [`BlockHasher`] cuts it into
//!   engine blocks of any size.
//! - [`hash`]: the XXH3 block hashes that engines and routers exchange on the wire.
//! - [`HashRuns`]: lists of block identities, a run at a time; [`RunIndex`] finds the run that one lies in.
//! - [`KvEvent`]: what an engine tells a router about its cache.
//! - [`foreign`]: what there is for settings that people know from other tools.
//! - [`Message`]: a sentence about settings, in which the settings are data; [`typed`] reads settings.
//!
//! **Invariant:** nothing here reads a clock, a file, the environment or a process-seeded generator.

mod block_hasher;
mod ensure;
mod error;
mod foreign;
pub mod hash;
mod ids;
mod kv;
mod message;
mod names;
mod prompt;
mod role;
mod run_index;
mod runs;
mod seed;
mod time;
mod typed;

pub use block_hasher::BlockHasher;
pub use error::TimeError;
pub use foreign::{Foreign, foreign, similar};
pub use hash::{BlockHash, SequenceHash};
pub use ids::{BlockId, ClassId, PoolId, Rank, RequestId, WorkerId};
pub use kv::KvEvent;
pub use message::{Message, flag};
pub use names::ContentNames;
pub use prompt::{ContentId, Interner, Prompt, Run};
pub use role::Role;
pub use run_index::{Extent, RunIndex};
pub use runs::{HashRun, HashRuns};
pub use seed::Seed;
pub use time::{Duration, Time};
pub use typed::{Expected, Mistyped, typed};
