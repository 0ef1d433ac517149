//! Simulates serving deployments of large language models: how long requests wait, how fast tokens come, where the time
//! goes.
//!
//! This page is a tour of the library; the command line, Python and the C library stand on the same crates. All examples
//! run as tests. Nothing here needs a GPU: iteration times come from a [latency model](latency::LatencyModel), everything
//! else is decided by the schedulers of the real engines, in virtual time.
//!
//! # The smallest run
//!
//! A [`Replay`] has the settings of `servecast replay` by the names of its configuration file
//! (`servecast replay --help` lists them). [`replay()`] runs it:
//!
//! ```
//! use std::ops::ControlFlow;
//!
//! use serde_json::json;
//! use servecast::Replay;
//!
//! let settings = json!({"num_workers": 2, "input_tokens": 1000, "output_tokens": 50, "request_count": 20});
//! let replay = Replay { settings: settings.as_object().unwrap().clone(), ..Replay::default() };
//! // The function is told every 50 ms or so how far the run has come, and may end it.
//! let outcome = servecast::replay(&replay, &mut |_reached| ControlFlow::Continue(())).unwrap();
//!
//! assert_eq!(outcome.report.completed_requests, 20);
//! let ttft = outcome.report.ttft_ms.unwrap();
//! assert!(ttft.mean <= ttft.p99);
//! // The same settings give the same bytes, on every machine.
//! let again = servecast::replay(&replay, &mut |_reached| ControlFlow::Continue(())).unwrap();
//! assert_eq!(outcome.record.requests, again.record.requests);
//! ```
//!
//! The [report](report::Report) has what `--report-json` writes. Behind it is the [record](record::RunRecord): what happened
//! to each request, stage by stage, and all gaps between tokens.
//!
//! What is wrong with settings is a [`Refusal`] that names them:
//!
//! ```
//! # use serde_json::json;
//! # use servecast::Replay;
//! let settings = json!({"num_worker": 2});
//! let replay = Replay { settings: settings.as_object().unwrap().clone(), ..Replay::default() };
//! let refusal = servecast::replay(&replay, &mut |_| std::ops::ControlFlow::Continue(())).unwrap_err();
//! assert_eq!(refusal.message, "unknown key `num_worker`, did you mean `num_workers`?");
//! ```
//!
//! # A trace
//!
//! A trace is JSON Lines in Mooncake's form, a path (`trace_file`) or, as here, text. Prompts with the same `hash_ids` begin
//! alike, and the second one finds its prefix cached:
//!
//! ```
//! # use serde_json::json;
//! # use servecast::Replay;
//! let trace = br#"
//! {"timestamp": 0, "input_length": 1024, "output_length": 20, "hash_ids": [1, 2]}
//! {"timestamp": 5000, "input_length": 1024, "output_length": 20, "hash_ids": [1, 2]}
//! "#;
//! let settings = json!({"engine_preset": "vllm-0.33", "num_gpu_blocks": 1000});
//! let replay = Replay {
//!     settings: settings.as_object().unwrap().clone(),
//!     trace: Some(trace.to_vec()),
//!     ..Replay::default()
//! };
//! let outcome = servecast::replay(&replay, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
//! let reused = outcome.record.requests.iter().map(|request| request.reused_tokens());
//! assert_eq!(reused.collect::<Vec<_>>(), [0, 1008]);
//! ```
//!
//! # A disaggregated run
//!
//! With prefill and decode workers a request has two stages. Its KV moves from one to the other, which takes the time that
//! the link needs:
//!
//! ```
//! # use serde_json::json;
//! # use servecast::Replay;
//! use servecast::types::Role;
//!
//! let settings = json!({
//!     "num_prefill_workers": 1, "num_decode_workers": 2,
//!     "kv_bytes_per_token": 131_072, "kv_transfer_bandwidth": 25.0,
//!     "input_tokens": 1000, "output_tokens": 50, "request_count": 20,
//! });
//! let replay = Replay { settings: settings.as_object().unwrap().clone(), ..Replay::default() };
//! let outcome = servecast::replay(&replay, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
//! for (ordinal, request) in outcome.record.requests.iter().enumerate() {
//!     let roles: Vec<Role> = request.stages.iter().map(|stage| stage.pool).collect();
//!     assert_eq!(roles, [Role::Prefill, Role::Decode]);
//!     // Where the time to first token went; the parts add up to it.
//!     let parts = outcome.record.ttft_breakdown(ordinal).unwrap();
//!     assert_eq!(Some(parts.total()), request.ttft());
//!     assert!(parts.kv_transfer.as_ms() > 5.0, "1000 tokens of 128 KiB at 25 GB/s");
//! }
//! ```
//!
//! # A routing policy of one's own
//!
//! [`simulation`] is a replay that has not begun. With a [`Pick`](cluster::Pick) in front of its pools, requests go where that
//! says:
//!
//! ```
//! # use serde_json::json;
//! # use servecast::Replay;
//! use servecast::cluster::{Candidate, Pick, RoutedRequest};
//!
//! /// Fills one worker before the next.
//! #[derive(Debug)]
//! struct Pack {
//!     most: u32,
//! }
//!
//! impl Pick for Pack {
//!     fn pick(&mut self, _request: &RoutedRequest<'_>, candidates: &[Candidate]) -> usize {
//!         let has_room = |candidate: &Candidate| candidate.in_flight < self.most;
//!         candidates.iter().position(has_room).unwrap_or(candidates.len() - 1)
//!     }
//! }
//!
//! let settings = json!({
//!     "num_workers": 3, "input_tokens": 1000, "output_tokens": 50, "request_count": 10, "arrival_interval_ms": 0,
//! });
//! let replay = Replay { settings: settings.as_object().unwrap().clone(), ..Replay::default() };
//! let simulation = servecast::simulation(&replay).unwrap();
//! let record = simulation.with_policy(|_role| Box::new(Pack { most: 4 })).run(&mut ()).unwrap();
//! let requests = record.pools[0].workers.iter().map(|worker| worker.requests);
//! assert_eq!(requests.collect::<Vec<_>>(), [4, 4, 2]);
//! ```
//!
//! # A scheduling order of one's own
//!
//! An [`Order`](engine::Order) says whom engines look at first of the requests that wait. This one serves short prompts before
//! long ones; its keys stay as they are while a request waits, which it says, so that the run costs no more than another:
//!
//! ```
//! # use serde_json::json;
//! # use servecast::Replay;
//! use std::sync::Arc;
//!
//! use servecast::engine::{Order, WaitingRequest};
//! use servecast::types::Time;
//!
//! #[derive(Debug)]
//! struct ShortestPromptFirst;
//!
//! impl Order for ShortestPromptFirst {
//!     fn key(&self, request: &WaitingRequest, _now: Time) -> f64 {
//!         f64::from(request.prompt_tokens)
//!     }
//!
//!     fn is_fixed(&self) -> bool {
//!         true
//!     }
//! }
//!
//! let trace = br#"
//! {"timestamp": 0, "input_length": 9000, "output_length": 20, "hash_ids": [1, 2, 3, 4, 5, 6, 7, 8, 9]}
//! {"timestamp": 0, "input_length": 8150, "output_length": 20, "hash_ids": [11, 12, 13, 14, 15, 16, 17, 18, 19]}
//! {"timestamp": 0, "input_length": 100, "output_length": 20, "hash_ids": [21]}
//! "#;
//! let settings = json!({"engine_preset": "vllm-0.33", "num_gpu_blocks": 2000, "trace_block_size": 1000});
//! let replay = Replay {
//!     settings: settings.as_object().unwrap().clone(),
//!     trace: Some(trace.to_vec()),
//!     ..Replay::default()
//! };
//! let simulation = servecast::simulation(&replay).unwrap();
//! let record = simulation.with_order(|_role| Some(Arc::new(ShortestPromptFirst))).run(&mut ()).unwrap();
//! let ttft: Vec<_> = record.requests.iter().map(|request| request.ttft().unwrap()).collect();
//! assert!(ttft[2] < ttft[1] && ttft[1] < ttft[0]);
//! ```
//!
//! # A latency model of one's own
//!
//! A model says how long a pass over a [`Batch`](latency::Batch) takes. It sees sums over the requests, never the requests, so
//! that a run with a thousand requests in a batch costs no more than one with ten. It is handed over under a name:
//!
//! ```
//! # use serde_json::json;
//! # use servecast::Replay;
//! use std::sync::Arc;
//!
//! use servecast::latency::{Batch, LatencyModel, PassTime};
//!
//! /// Reading the weights takes 5 ms, and each token of work 2 µs.
//! #[derive(Debug)]
//! struct Simple;
//!
//! impl LatencyModel for Simple {
//!     fn pass(&self, batch: &Batch) -> PassTime {
//!         PassTime::whole(batch, 5.0 + 0.002 * batch.tokens as f64)
//!     }
//! }
//!
//! let settings = json!({
//!     "latency": "callable:simple", "input_tokens": 1000, "output_tokens": 3, "request_count": 1,
//! });
//! let mut replay = Replay { settings: settings.as_object().unwrap().clone(), ..Replay::default() };
//! replay.models.insert("simple".to_owned(), Arc::new(Simple));
//! let outcome = servecast::replay(&replay, &mut |_| std::ops::ControlFlow::Continue(())).unwrap();
//! let request = &outcome.record.requests[0];
//! assert_eq!(request.ttft().unwrap().as_ns(), 7_000_000);
//! assert_eq!(request.e2e().unwrap().as_ns(), 7_000_000 + 2 * 5_002_000);
//! ```
//!
//! # An observer
//!
//! Who wants to see a run as it goes on takes the [`simulation`] of a replay and runs it with an
//! [`Observer`](cluster::Observer). It says in what [detail](cluster::Detail) it wants to know what workers do: passes of nothing but
//! decodes are taken together unless it asks for each.
//!
//! ```
//! # use serde_json::json;
//! # use servecast::Replay;
//! use servecast::cluster::{Detail, Observer};
//! use servecast::engine::{Decodes, Iteration};
//! use servecast::types::{Role, WorkerId};
//!
//! /// Counts tokens.
//! #[derive(Default)]
//! struct Tokens(u64);
//!
//! impl Observer for Tokens {
//!     fn detail(&self) -> Detail {
//!         Detail::Passes
//!     }
//!
//!     fn iteration(&mut self, _pool: Role, _worker: WorkerId, iteration: &Iteration) {
//!         self.0 += iteration.total_tokens();
//!     }
//!
//!     fn decoded(&mut self, _pool: Role, _worker: WorkerId, decodes: &Decodes) {
//!         self.0 += decodes.count() * decodes.requests;
//!     }
//! }
//!
//! let settings = json!({"num_workers": 2, "input_tokens": 1000, "output_tokens": 50, "request_count": 20});
//! let replay = Replay { settings: settings.as_object().unwrap().clone(), ..Replay::default() };
//! let mut tokens = Tokens::default();
//! let record = servecast::simulation(&replay).unwrap().run(&mut tokens).unwrap();
//! // A request computes its prompt and all of its output but the last token, which nothing follows.
//! assert_eq!(tokens.0, 20 * (1000 + 49));
//!
//! use servecast::report::{SummaryOptions, summarize};
//! assert_eq!(summarize(&record, &SummaryOptions::default()).completed_requests, 20);
//! ```
//!
//! # Where to go from here
//!
//! - [`recommend`](mod@recommend): targets in, the best deployment out.
//! - [`report`]: tables, pages, exports and comparisons of runs.
//! - [`router`]: the KV-aware router by itself, for gateways.
//! - `docs/life-of-a-request.md` follows a request through these crates, `docs/extending.md` has recipes for what is added most.
//!
//! This crate prints nothing, and writes no files but the journal of a search that is to go on later.

pub mod again;
pub mod iterations;
mod kept;
pub mod load_rows;
pub mod online;
mod own;
pub mod page;
pub mod plan;
pub mod recommend;
pub mod replay;
pub mod resolved;
pub mod routing;
pub mod rows;
mod streamed;
pub mod timeline;
pub mod what_if;

pub use servecast_config::latency::Models;
pub use {
    servecast_cluster as cluster, servecast_config as config, servecast_engine as engine,
    servecast_latency as latency, servecast_record as record, servecast_report as report,
    servecast_router as router, servecast_types as types, servecast_workload as workload,
};

pub use crate::own::{Begins, Own, Policies};
pub use crate::replay::{Outcome, Reached, Refusal, RefusalKind, Replay, replay, simulation};
