//! servecast as a library: a replay from settings to its report, with everything that a program may want of it.
//!
//! ```
//! use std::ops::ControlFlow;
//!
//! let settings = serde_json::json!({"num_workers": 2, "input_tokens": 1000, "output_tokens": 50, "request_count": 20});
//! let replay = servecast::Replay { settings: settings.as_object().unwrap().clone(), ..Default::default() };
//! let outcome = servecast::replay(&replay, &mut |_| ControlFlow::Continue(())).unwrap();
//! assert_eq!(outcome.report.completed_requests, 20);
//! ```
//!
//! The command line, Python and whoever calls it from Rust stand on this crate. It prints nothing, and writes no
//! files but the journal of a search that is to go on later.

pub mod iterations;
pub mod plan;
pub mod recommend;
pub mod replay;
pub mod resolved;
pub mod routing;
pub mod rows;
pub mod timeline;

pub use servecast_config::latency::Models;
pub use {
    servecast_cluster as cluster, servecast_config as config, servecast_engine as engine,
    servecast_latency as latency, servecast_record as record, servecast_report as report,
    servecast_router as router, servecast_types as types, servecast_workload as workload,
};

pub use crate::replay::{Outcome, Reached, Refusal, RefusalKind, Replay, replay};
