//! KV-aware routing: which rank gets a request, by what it has cached and how loaded it is.
//!
//! A [`Router`] is a pure state machine, usable without the rest of servecast. Calls pass the time; state changes return
//! the requests that they let out of the queue.
//!
//! ```text
//!  route(request) ─▶ check ─▶ lane busy? ── yes ─▶ queue ── room ─┐
//!                                 └── no ─▶ judge every rank ◀────┘
//!                                             │  index: cached blocks      ◀─ apply(KV event)
//!                                             │  load: blocks, prefill     ◀─ prefill_done, record_output, finish
//!                                             ▼
//!                                          choose ─▶ book ─▶ Ticket
//! ```
//!
//! ```
//! use servecast_router::{Decision, KvRouterConfig, Rank, RankInfo, Router, RoutingRequest};
//! use servecast_types::{KvEvent, RequestId, SequenceHash, Time};
//!
//! let mut router = Router::new(KvRouterConfig::default().validate()?, 16, 42);
//! for worker in 0..2 {
//!     router.add_rank(Rank::of_worker(worker), RankInfo { max_num_batched_tokens: Some(8192) }, Time::ZERO);
//! }
//! let blocks = vec![SequenceHash(1), SequenceHash(2)];
//! router.apply(Rank::of_worker(1), &KvEvent::Stored { parent: None, blocks: blocks.clone() }, Time::ZERO)?;
//!
//! let decision = router.route(RoutingRequest::new(RequestId(0), 40, blocks), Time::ZERO)?;
//! let Decision::Admit(admission) = decision else { panic!("nobody is busy") };
//! assert_eq!(admission.ticket.rank, Rank::of_worker(1));
//! assert_eq!((admission.ticket.overlap_blocks, admission.ticket.prefill_tokens), (2, 8));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! - [`KvRouterConfig`]: settings, one table for files, flags and environment.
//! - [`index`]: what each rank has cached, from KV events or predicted.
//! - `load`: what the requests of each rank hold and still have to compute.
//! - `queue`: requests that wait for room. `select`: costs and the choice.
//! - [`wire`]: the formats that routers and engines exchange.
//!
//! # Speed
//! `cargo bench -p servecast-router`, medians on one core of a 2-core cloud machine. A decision is `route`,
//! `prefill_done` and `finish`, with four cached prompts and eight running requests a rank.
//!
//! | prompt blocks | ranks | look-up | store and remove all | decision | as many dependent look-ups in a hash map |
//! |---|---|---|---|---|---|
//! | 10 | 16 | FIGURES
//!
//! **Invariant:** no clock, file, environment variable or process-seeded generator; candidates are judged in order of
//! rank; ties and draws come from a PCG64 with the given seed. The same calls give the same answers.

mod config;
mod error;
pub mod index;
mod load;
mod queue;
mod rank;
mod request;
mod router;
mod select;
mod ticket;
pub mod wire;

pub use config::{
    EffectiveSettings, FIELDS, Field, Kind, KvRouterConfig, PrefillLoadModel, QueuePolicy,
    RouterConfigOverride, RouterSettings,
};
pub use error::{ConfigError, EventError, RouteError};
pub use index::{ApproximateIndex, DumpedBlock, DumpedOrphan, EventCounts, IndexDump, Lifetime, RadixTree};
pub use rank::{Rank, RankInfo, Slot};
pub use request::{RoutingRequest, Stage};
pub use router::{PrefillModel, Router, Sizes};
pub use ticket::{
    Admission, CandidateTerms, Decision, PotentialLoad, Queued, RemovedRank, Ticket, TrackedBlocks,
};
