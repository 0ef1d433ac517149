//! What a run meant: from the records of a simulation to figures that people and programs read.
//!
//! - [`summarize`] turns a [`RunRecord`](servecast_record::RunRecord) into a [`Report`], a flat JSON
//!   object with the keys that users of Dynamo's replay know; [`REPORT_SCHEMA`] is its contract.
//! - [`render_table`] shows a report on a terminal, [`render_charts`] what it was made of ([`render_small_chart`] in a notebook), [`render_comparison`] several beside each other,
//!   [`render_differences`] how they differ from the first.
//! - [`export()`] writes a run as other tools write theirs.
//! - [`render_page`] makes a page of a run for a browser, in one file, [`render_varied_page`] one of several,
//!   [`render_differences_page`] one of a comparison, [`render_recommendation`] one of a search.
//! - [`write_request_rows`] writes one JSON line a request, [`request_columns`] has the same as columns.
//! - [`diagnose`] says what is wrong with a run, if anything is.
//!
//! - [`StreamedTally`] takes requests one at a time, of runs that keep none, and makes the report.
//!
//! Percentiles are exact: they are taken over every sample, interpolated linearly as `numpy.percentile` does. Those of a
//! [streamed](StreamedTally) run are within 0.1 %.
//!
//! **Invariant:** nothing here knows how an engine or a router works, reads a clock, or touches a file. Equal
//! records give equal bytes.

#![cfg_attr(test, allow(clippy::float_cmp, reason = "equal inputs must give equal bits"))]

#[cfg(test)]
mod fixture;

mod about;
mod activity;
mod charts;
mod classes;
mod client_run;
mod columns;
mod comparison;
mod curves;
mod diagnosis;
mod differences;
mod differences_markdown;
mod differences_page;
mod export;
mod facts;
mod fail_if;
mod field;
mod gate;
mod latency;
mod latency_page;
mod markdown;
mod measured;
mod page;
mod paired;
mod part;
mod pool;
mod printable;
mod recommendation_page;
mod report;
mod report_markdown;
mod rows;
mod runs_page;
mod samples;
mod saturation;
mod sent_times;
mod series;
mod sessions;
mod sla;
mod slo;
mod small_chart;
mod stats;
mod streamed;
mod summary;
mod table;
mod tally;
mod validation;
mod window;

pub use activity::{Activity, BusySpan, PoolSize};
pub use charts::render_charts;
pub use client_run::{
    AbsoluteError, ClientRequest, ClientRun, MatchedRequests, figures_of_client, matched_requests,
};
pub use columns::{Column, Columns, Lists, Names, Values};
pub use comparison::{COMPARISON_SCHEMA, ComparedRun, Comparison, render_comparison};
pub use curves::{Curves, MOST_CURVES, under_way};
pub use diagnosis::{
    Evidence, Finding, FindingKind, Tested, TestedFigure, WhatIf, diagnose, render_diagnosis,
};
pub use differences::{
    DIFFERENCES_SCHEMA, Difference, Differences, NamedFigures, RunDifference, SettingChange, WorkloadId,
    render_differences,
};
pub use differences_markdown::render_differences_markdown;
pub use differences_page::{ComparedPage, render_differences_page};
pub use export::{ExportFormat, export};
pub use fail_if::{FailIf, FailIfError, Limit, Operator, UnknownFigure, class_figure, relative_change};
pub use gate::{Check, Verdict, failures, render_junit};
pub use latency_page::{LatencyPage, PartTimes, render_latency_page};
pub use measured::Measured;
pub use page::{PageContext, render_page};
pub use paired::{
    PairedChange, RequestFigures, RowsError, StageFigures, paired_changes, read_request_figures,
};
pub use part::{Figures, Judges, Percentiles};
pub use pool::{PoolReport, Spread};
pub use printable::printable;
pub use recommendation_page::render_recommendation;
pub use report::{Counts, Provenance, REPORT_SCHEMA, Report, SchemaVersion, Settings, report_figures};
pub use report_markdown::{render_comparison_markdown, render_markdown};
pub use rows::{request_columns, write_request_row, write_request_rows};
pub use runs_page::{VariedPage, render_varied_page};
pub use saturation::{Overload, overload, render_overload};
pub use sent_times::SentTimes;
pub use servecast_latency::ErrorBar;
pub use sessions::SessionFigures;
pub use sla::{Sla, SlaError};
pub use slo::{LatencyLimit, Metric, Slo, SloError, SloOutcome, Statistic, is_share, render_slo};
pub use small_chart::render_small_chart;
pub use stats::Stats;
pub use streamed::{SettledRequest, StreamedTally};
pub use summary::{DiagnosisOptions, Online, SummaryOptions, summarize};
pub use table::{Cells, TableOptions, grouped, printable_styled, render_cells, render_table};
pub use tally::Tally;
pub use validation::{CurvePair, DistributionPair, ValidatedRun, render_validation};
pub use window::{FoundBy, Margin, MeasuredPart, Window};
