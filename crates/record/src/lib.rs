//! What a run recorded: one [`RequestRecord`] per request, the gaps between tokens, and totals per pool.
//!
//! A simulation writes these records, and reports, exports and calibration read them. Whoever reads them needs no
//! simulator: a run that was recorded elsewhere is reported in the same way.
//!
//! **Invariant:** nothing here knows how an engine or a router works, reads a clock, or touches a file.

mod breakdown;
mod gaps;
mod run;

pub use breakdown::{EndedRequest, TtftBreakdown};
pub use gaps::{MOST_DISTINCT_GAPS, TokenGaps};
pub use run::{
    DraftTotals, PoolRecord, PoolTotals, RejectReason, RequestRecord, RequestStatus, RunRecord, SoFar,
    StageRecord, WorkerLimits, WorkerTotals,
};
