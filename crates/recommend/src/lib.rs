//! Which deployment to take: a search among candidates whose answer is that of trying them all.
//!
//! ```text
//!  candidates ─▶ bounds ─▶ waves, best bound first ─▶ Evaluate::all ─▶ verdicts ─▶ ranking
//!                              │                          │
//!                              └─ proved worse: no run    └─ Cutoff: a run ends when its target is lost
//! ```
//!
//! Two things save runs, and neither is a guess. A candidate whose *bound*, the best that its score can be whatever
//! happens in its run, is worse than the score of one that keeps its targets cannot win. And a run whose target is
//! [lost](Cutoff), because more samples have missed than a percentile leaves room for, need not go on. Nothing is taken to
//! be monotone in the number of workers or in a setting of a router or an engine, since it is not.
//!
//! **Invariant:** no files, no clock, no threads, nothing printed. Whoever evaluates candidates may use as many threads as
//! they like: the order of what is asked, and the answer, do not depend on it.

#![cfg_attr(test, allow(clippy::float_cmp, reason = "equal inputs must give equal bits"))]

mod answer;
mod cutoff;
mod goal;
mod growth;
mod headroom;
mod page;
mod search;
mod seeds;

pub use answer::{
    Alternative, Cost, CutOffEntry, Entry, LoadAnswer, MOST_OTHERS, RECOMMENDATION_SCHEMA, Recommendation,
    Sure, WorkloadFigures,
};
pub use cutoff::{Cutoff, Lost};
pub use goal::{Figures, Goal, Load, Price};
pub use growth::{grown, grown_concurrency};
pub use headroom::{Headroom, Held, Probe, find_headroom, find_headrooms};
pub use page::{OverTime, RecommendationContext, render_recommendation_page};
pub use search::{Candidate, Evaluate, Outcome, Place, Search, Tally, Verdict};
pub use seeds::{Interval, OverSeeds};
