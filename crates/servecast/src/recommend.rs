//! Which deployment keeps its targets with the fewest GPUs, or at the lowest cost.
//!
//! ```text
//!  settings + Asked ─▶ Question ─▶ Draft (space) ─▶ Prepared (load) ─▶ Growth of each factor ─▶ Recommendation
//!                                                      └▶ search by waves, headroom, other iteration times
//! ```
//!
//! Whoever asks brings a [`Watch`], which hears how far the search is and may stop it, and a [`Journal`], which may be a
//! file. Nothing is printed.

mod evaluate;
mod journal;
mod output;
mod question;
mod run;
mod space;
mod start;

pub use journal::Journal;
pub use output::{Growth, Sureness, csv, dry_run, settings_of_leaders, table};
pub use question::{Asked, Question};
pub use run::{Draft, Prepared};
pub use space::{Limits, Space};
pub use start::{script, start_of_best};

/// Deployments whose headroom is looked for.
const LEADERS: usize = 3;

/// Whoever waits for a search.
pub trait Watch: Sync {
    /// Whether the search is to stop.
    fn is_stopped(&self) -> bool;

    /// One more run is over.
    fn ran(&self);

    /// So many of the last wave keep their targets, and this is the first of them.
    fn found(&self, kept: usize, name: &str);
}
