//! `--stream`: a run that uses its trace as it is read and keeps no request.
//!
//! ```text
//!  trace ─▶ requests at their times ─▶ deployment ─▶ a request has ended ─▶ its row, and the tally of all
//! ```

use std::io::Write as _;

use servecast_cluster::{RunError, Simulation, WithTokens};
use servecast_record::EndedRequest;
use servecast_report::{Report, SettledRequest, StreamedTally, SummaryOptions, write_request_row};
use servecast_types::{Duration, Time};
use servecast_workload::{TraceNotes, TurnStart};

use super::{Follower, fail_if, json, outputs, show};
use crate::error::{Failure, chain};
use crate::files::{OutputFile, note};
use crate::interrupt::Interrupt;
use crate::plan::Plan;

/// What comes of requests: the figures of all, and a row of each.
pub(super) struct Requests {
    tally: StreamedTally,
    rows: Option<OutputFile>,
}

impl Requests {
    /// A request has ended.
    pub(super) fn add(&mut self, ended: &EndedRequest<'_>) -> Result<(), Failure> {
        self.tally.add(ended, |request| write_row(self.rows.as_mut(), request))
    }

    /// All of them have.
    fn finish(&mut self) -> Result<(), Failure> {
        self.tally.finish(|request| write_row(self.rows.as_mut(), request))
    }
}

fn write_row(rows: Option<&mut OutputFile>, request: &SettledRequest) -> Result<(), Failure> {
    let Some(rows) = rows else { return Ok(()) };
    write_request_row(request, &mut *rows).map_err(|error| rows.failure(&error))
}

/// Runs the plan, whose trace has rows that come so long before one above them.
pub(super) fn run(
    plan: &Plan,
    sort_window: Duration,
    quiet: bool,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    let output = &plan.config.output;
    let ratio = plan.config.trace.arrival_speedup_ratio.unwrap_or(1.0);
    let mut trace = plan.source.stream(ratio, sort_window)?;
    interrupt.defer()?;
    let rows = output.requests_jsonl.as_deref().map(OutputFile::create).transpose()?;
    let tally = StreamedTally::new(&plan.summary_of(&TraceNotes::default(), None));
    let sent = tally.sent_times();
    let feed = trace.by_ref().inspect(|(_, turn)| {
        if let Some(sent) = &sent {
            sent.borrow_mut().add(sent_at(turn.start));
        }
    });
    let mut follower = Follower::new(plan, None, quiet, interrupt)?;
    follower.requests = Some(Requests { tally, rows });
    let mut with_tokens = WithTokens::new(&plan.topology, !plan.measured.is_whole(), &mut follower);
    let outcome = Simulation::run_streamed(&plan.topology, &plan.options(), feed, &mut with_tokens);
    let requests = follower.requests.take();
    let (wall_time_ms, mut complete) = follower.finish(outcome.as_ref().err())?;
    // A trace that cannot be used to its end is the reason of whatever else went wrong.
    let notes = trace.finish().map_err(|error| plan.source.not_streamed(&error))?;
    let record = outcome.map_err(|error: RunError| Failure::run(chain(&error)))?;
    if !quiet {
        notes.sentences().iter().for_each(|sentence| note(&format!("note: {sentence}")));
    }
    let Some(mut requests) = requests else { unreachable!("they were given to the follower") };
    requests.finish()?;
    let options = SummaryOptions { wall_time_ms, ..plan.summary_of(&notes, None) };
    let report = requests.tally.summarize(&record, &options);
    complete.extend(requests.rows);
    write(plan, &report, complete, interrupt)?;
    interrupt.resume()?;
    show(plan, &report, &record, quiet)?;
    fail_if(plan, &report)
}

/// When a request of a trace is sent that is used as it is read.
fn sent_at(start: TurnStart) -> Time {
    match start {
        TurnStart::At(time) | TurnStart::NotBefore(time) => time,
        TurnStart::AfterPrevious(_) => unreachable!("each request is a session of its own"),
    }
}

/// Puts the files in place, with the report.
fn write(
    plan: &Plan,
    report: &Report,
    mut complete: Vec<OutputFile>,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    if let Some(path) = &plan.config.output.report_json {
        let mut file = OutputFile::create(path)?;
        file.write_all(json(report).as_bytes()).map_err(|error| file.failure(&error))?;
        complete.push(file);
    }
    interrupt.check()?;
    outputs::put_in_place(complete)
}
