//! Which prices of a [step model](servecast_latency::Step) explain what was measured?
//!
//! - [`fit_passes`]: from iterations whose content and length are known.
//! - [`fit_requests`]: from requests alone, of which only arrival, lengths, TTFT and E2E are known: their times are
//!   simulated, and the prices changed until they agree.
//!
//! Both fits are robust (Huber's loss) and give no negative price. The same data give the same prices.
//!
//! ```text
//!  prices ──▶ simulation ──▶ who was in which pass, and so what each request paid for ──▶ linear fit ──▶ prices ──▶ …
//! ```
//!
//! **Invariant:** no file, clock or randomness; what comes from files is checked by who reads them.

mod ahead;
mod error;
mod fit;
mod guess;
mod held_out;
mod host;
mod log;
mod observed;
mod pairs;
mod passes;
mod requests;
mod search;
mod simulate;
mod solve;
mod terms;
mod timeline;

pub use error::CalibrateError;
pub use fit::{Coefficient, Fit, HeldOut, Level};
pub use host::{HostFit, fit_host};
pub use log::LogLine;
pub use passes::{PassRow, PassRun, fit_passes};
pub use requests::{Options, RequestRow, RequestRun, RequestTimes, fit_both, fit_requests, predict};
pub use terms::{Experts, Phases};
