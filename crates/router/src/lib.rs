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
//! use servecast_router::{Decision, KvRouterConfig, RankInfo, Router, RoutingRequest};
//! use servecast_types::{KvEvent, Rank, RequestId, SequenceHash, Time, WorkerId};
//!
//! let mut router = Router::new(KvRouterConfig::default().validate()?, 16, 42);
//! for worker in 0..2 {
//!     router.add_rank(Rank::of_worker(WorkerId(worker)), RankInfo { max_num_batched_tokens: Some(8192) }, Time::ZERO);
//! }
//! let blocks = vec![SequenceHash(1), SequenceHash(2)];
//! router.apply(Rank::of_worker(WorkerId(1)), &KvEvent::Stored { parent: None, blocks: blocks.iter().copied().collect() }, Time::ZERO)?;
//!
//! let decision = router.route(RoutingRequest::new(RequestId(0), 40, blocks), Time::ZERO)?;
//! let Decision::Admit(admission) = decision else { panic!("nobody is busy") };
//! assert_eq!(admission.ticket.rank, Rank::of_worker(WorkerId(1)));
//! assert_eq!((admission.ticket.overlap_blocks, admission.ticket.prefill_tokens), (2, 8));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! - [`KvRouterConfig`]: settings, one table for files, flags and environment.
//! - [`index`]: what each rank has cached, from KV events or predicted.
//! - `load`: what the requests of each rank hold and still have to compute.
//! - `queue`: requests that wait for room. `select`: costs and the choice.
//! - [`standalone`]: a router for gateways, behind the names of requests and workers that these have.
//! - [`wire`]: the formats that routers and engines exchange.
//!
//! # Speed
//! `cargo bench -p servecast-router`, fastest samples of two runs on one core of a small cloud machine. A decision is `route`,
//! `prefill_done` and `finish`; every rank has four prompts cached and eight requests running, and all prompts share
//! their first tenth. Events store a prompt and remove it again block by block. The chain is as many dependent look-ups
//! in a bare hash map of the size of the index over 16 ranks.
//!
//! | prompt blocks | ranks | look-up | events | decision | chain |
//! |---|---|---|---|---|---|
//! | 10 | 1 | 61 ns | 0.41 µs | 0.21 µs | 41 ns |
//! | | 16 | 83 ns | 0.50 µs | 0.35 µs | |
//! | | 256 | 0.32 µs | 0.63 µs | 2.5 µs | |
//! | | 1,024 | 1.1 µs | 0.71 µs | 8.2 µs | |
//! | 250 | 1 | 0.71 µs | 9.5 µs | 1.0 µs | 3.2 µs |
//! | | 16 | 0.72 µs | 11 µs | **1.1 µs** | |
//! | | 256 | 1.1 µs | 16 µs | 3.3 µs | |
//! | | 1,024 | 2.2 µs | 17 µs | 9.3 µs | |
//! | 2,000 | 1 | 6.3 µs | 82 µs | 6.6 µs | 71 µs |
//! | | 16 | 6.4 µs | 97 µs | 6.8 µs | |
//! | | 256 | 14 µs | 0.14 ms | 19 µs | |
//! | | 1,024 | 14 µs | 0.20 ms | 28 µs | |
//!
//! A whole decision costs less than the chain, since neither part touches a hash map for each block: a look-up follows
//! the child that was stored last and only asks the map where chains part, and the load model keeps runs of blocks with
//! the same owners.
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
pub mod standalone;
mod ticket;
pub mod wire;

pub use config::{
    EffectiveSettings, EnvSetting, FIELDS, Field, Kind, KvRouterConfig, PrefillLoadModel, QueuePolicy,
    RouterConfigOverride, RouterSettings, env_settings,
};
pub use error::{ConfigError, EventError, RouteError};
pub use index::{ApproximateIndex, DumpedBlock, DumpedOrphan, EventCounts, IndexDump, Lifetime, RadixTree};
pub use rank::{RankInfo, Slot};
pub use request::{RoutingRequest, Stage};
pub use router::{PrefillModel, Router, Sizes};
pub use ticket::{
    Admission, CandidateTerms, Decision, PotentialLoad, Queued, RemovedRank, Ticket, TrackedBlocks,
};
