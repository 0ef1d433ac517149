//! Which deployment keeps its targets with the fewest GPUs, or at the lowest cost.
//!
//! ```text
//!  settings + Asked ─▶ Question ─▶ Draft (space) ─▶ Prepared (load) ─▶ Growth of each factor ─▶ Recommendation
//!                                                      └▶ search by waves, headroom, other iteration times
//! ```
//!
//! Whoever asks brings a [`Watch`], which hears how far the search is and may stop it, a [`Journal`], which may be a
//! file, and an [`Executor`]: [`Threads`] of this process, or somebody who sends [`Trial`]s to other processes, where a
//! [`Simulator`] says what comes of each. Nothing is printed.

mod ask;
mod evaluate;
mod journal;
mod loads;
mod output;
mod page;
mod question;
mod run;
mod simulator;
mod space;
mod start;

pub use ask::{Answer, Ask, recommend, simulator_of};
pub use evaluate::{Executor, Threads};
pub use journal::Journal;
pub use output::{Growth, Sureness, csv, dry_run, settings_of_leaders, table};
pub use page::page;
pub use question::{Asked, Question};
pub use run::{Draft, Prepared};
pub use servecast_recommend::{Outcome, Recommendation};
pub use simulator::{Simulator, Trial};
pub use space::{Limits, Space};
pub use start::{script, start_of_best};

/// Deployments whose headroom is looked for.
const LEADERS: usize = 3;

/// Whoever waits for a search.
pub trait Watch: Sync {
    /// Whether the search is to stop.
    fn is_stopped(&self) -> bool;

    /// Called every 50 ms or so while threads simulate, by the one that waits for them.
    fn look(&self) {}

    /// A search among so many deployments begins, under a factor of the load.
    fn began(&self, _factor: f64, _deployments: usize) {}

    /// One more run is over.
    fn ran(&self);

    /// So many of the last wave keep their targets, and this is the first of them.
    fn found(&self, kept: usize, name: &str);
}
