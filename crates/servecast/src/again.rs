//! A replay made once more, for what its first run did not keep.
//!
//! A run is the same each time, so that its page and its timeline need not be asked for beforehand and cost nothing where
//! nobody looks at them. That it was the same is checked.

use std::ops::ControlFlow;

use servecast_report::Report;

use crate::kept::Kept;
use crate::page;
use crate::plan::Plan;
use crate::replay::{Outcome, Reached, Refusal, RefusalKind, Replay, Simulated, json, plan, simulate};
use crate::timeline::{Timeline, TimelineOptions};

/// The page of a replay, as `--report-html` writes it, with the wall time of its first run.
///
/// # Errors
/// The replay is refused, `watch` ends it, or it is not what it was when `first` came of it: a file has changed, or a
/// latency model answers equal batches otherwise, or a policy remembers an earlier run.
pub fn page(
    replay: &Replay,
    first: &Outcome,
    watch: &mut dyn FnMut(Reached) -> ControlFlow<()>,
) -> Result<String, Refusal> {
    if let Some(page) = &first.online_page {
        return Ok(page.clone());
    }
    let plan = plan(replay)?;
    let kept = Kept { activity: Some(page::watch(&plan.topology)), ..Kept::default() };
    let run = simulate(replay, &plan, kept, plan.config.output.has_diagnosis(), watch)?;
    as_before(run, &first.report)?
        .page(replay, &plan)
        .map_err(|failure| Refusal::of(RefusalKind::Config, failure))
}

/// The timeline of a replay, as `--timeline` writes it.
///
/// # Errors
/// As of [`page()`], and for a replay by the clock of the machine.
#[expect(clippy::missing_panics_doc, reason = "memory can be written to")]
pub fn timeline(
    replay: &Replay,
    first: &Outcome,
    options: TimelineOptions,
    watch: &mut dyn FnMut(Reached) -> ControlFlow<()>,
) -> Result<Vec<u8>, Refusal> {
    let plan = plan(replay)?;
    refuse_online(&plan)?;
    let kept = Kept { timeline: Some(Timeline::new(Vec::new(), options)), ..Kept::default() };
    let run = simulate(replay, &plan, kept, false, watch)?;
    let Simulated { record, kept, .. } = as_before(run, &first.report)?;
    let timeline = kept.timeline.expect("it was asked for");
    Ok(timeline.finish(&record).expect("memory can be written to"))
}

/// A run that goes by the clock of the machine is another one each time.
fn refuse_online(plan: &Plan) -> Result<(), Refusal> {
    let why = "a timeline is made by running a replay once more";
    plan.refuse_online(why).map_err(|failure| {
        let refusal = Refusal::of(RefusalKind::Config, failure);
        let hint = "servecast replay --replay-mode online --timeline FILE writes one as the run goes";
        Refusal { hint: Some(hint.to_owned()), ..refusal }
    })
}

/// A run that was made once more, if nothing has changed, as if it were the first.
fn as_before(run: Simulated, first: &Report) -> Result<Simulated, Refusal> {
    let mut report = run.report;
    report.wall_time_ms = first.wall_time_ms;
    let same = Report { diagnosis: first.diagnosis.clone(), ..report.clone() };
    if json(&same) != json(first) {
        return Err(Refusal {
            kind: RefusalKind::Run,
            message: "the run cannot be shown: made once more, it has another report".to_owned(),
            hint: Some(
                "a file that it reads has changed, a latency function answers equal batches otherwise, or a routing \
                 policy or an order remembers an earlier run"
                    .to_owned(),
            ),
        });
    }
    Ok(Simulated { report, ..run })
}
