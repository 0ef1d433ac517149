//! What is wrong with a run, if anything is, by rules whose formulas stand in `docs/report-page.md`.
//!
//! ```text
//!  records ─▶ states of workers over time ─▶ causes of the TTFT of the requests that matter ─▶ rules ─▶ findings
//! ```
//!
//! A rule names the cause on which most of that time was spent, and goes from there to what is behind it: a few long
//! prompts, a peak of arrivals, workers or pools with unequal loads. It asks nothing of a run that keeps its targets and has
//! room to spare.

use std::fmt::Write as _;

use servecast_record::RunRecord;

use self::facts::{Cause, Facts, Judged, Main};
pub use self::finding::{Evidence, Finding, FindingKind, WhatIf};
pub use self::tested::{Tested, TestedFigure};
use crate::report::Report;

mod causes;
mod deployment;
mod engine;
mod facts;
mod finding;
mod load;
mod prompts;
mod states;
mod targets;
mod tested;
mod tokens;
mod what_if;

/// Share of the requests from which rejections come first.
const MANY_REJECTED: f64 = 0.01;

/// What is wrong with a run, the first thing to change first; nothing if nothing is alarming.
///
/// `ideal_reuse` is the share of the prompt tokens that a prefix cache without end would have found, if that is known.
pub fn diagnose(run: &RunRecord, report: &Report, ideal_reuse: Option<f64>) -> Vec<Finding> {
    let rejections = load::rejections(run, report);
    let judged = Judged::new(run, report);
    if rejections.is_none() && judged.is_healthy(report) {
        return Vec::new();
    }
    let facts = Facts::new(run, report, judged, ideal_reuse);
    let main = facts.main();
    let overloaded = load::overloaded(&facts, main.as_ref());
    let (behind, of_deployment) = main.as_ref().map_or((Vec::new(), false), |main| of_main(&facts, main));
    let mut findings: Vec<Finding> = Vec::new();
    let mut add = |found: Option<Finding>| {
        if let Some(finding) = found.filter(|found| findings.iter().all(|known| known.kind != found.kind)) {
            findings.push(finding);
        }
    };
    let many = report.rejected_requests as f64 >= MANY_REJECTED * report.num_requests as f64;
    let (first, last) = if many { (rejections, None) } else { (None, rejections) };
    add(first);
    // What is overloaded is a part of the deployment only, if another part could have helped.
    if of_deployment && (facts.overload.is_some() || !facts.misses_only_tokens()) {
        behind.into_iter().map(Some).for_each(&mut add);
        add(overloaded);
    } else {
        add(overloaded);
        add(engine::preemption_storm(&facts));
        add(prompts::long_prompt(&facts));
        if facts.misses_only_tokens() {
            add(prompts::stalled_decodes(&facts));
            add(deployment::uneven_tokens(&facts));
            add(tokens::slow_tokens(&facts));
        }
        behind.into_iter().map(Some).for_each(&mut add);
    }
    add(engine::preemption_storm(&facts));
    add(prompts::long_prompt(&facts));
    add(prompts::stalled_decodes(&facts));
    add(deployment::persistent_imbalance(&facts));
    add(deployment::poor_reuse(&facts));
    add(tokens::slow_tokens(&facts));
    add(last);
    findings
}

/// What is behind the cause on which most time was spent, and whether that lies in how the deployment is put together.
fn of_main(facts: &Facts<'_>, main: &Main) -> (Vec<Finding>, bool) {
    if main.cause == Cause::Link {
        return (vec![deployment::link_bound(facts, main)], true);
    }
    let base = engine::bound(facts, main);
    if let Some(found) = prompts::long_prompt(facts) {
        return (vec![found, base], false);
    }
    let reuse = (main.cause == Cause::Prompts).then(|| deployment::poor_reuse(facts)).flatten();
    if let Some(found) = reuse {
        return (vec![found, base], false);
    }
    if let Some(found) = deployment::worker_imbalance(facts, main.pool) {
        return (vec![found], true);
    }
    if let Some(found) = deployment::pool_ratio(facts, main) {
        return (vec![found], true);
    }
    let peak = load::queue_at_peak(facts, main);
    if peak.is_none() && !engine::lasts(facts, main) {
        return (Vec::new(), false);
    }
    (peak.into_iter().chain([base]).collect(), false)
}

/// Findings that a terminal shows.
const SHOWN: usize = 3;

/// The first findings as lines for a terminal, each ending in a newline; empty if nothing is alarming.
pub fn render_diagnosis(report: &Report) -> String {
    let findings = report.diagnosis.as_deref().unwrap_or_default();
    let mut text = String::new();
    for (number, finding) in findings.iter().take(SHOWN).enumerate() {
        if number == 0 {
            text += "Diagnosis:\n";
        }
        let _ = writeln!(text, "  {}. {}", number + 1, finding.sentence);
        if let Some(what_if) = &finding.what_if {
            text += &test_of(what_if, &findings[..number]);
        }
    }
    let more = findings.len().saturating_sub(SHOWN);
    if more > 0 {
        let _ =
            writeln!(text, "  and {more} more in the report (--report-json) and on its page (--report-html)");
    }
    text
}

/// A line on the run that tests a finding, behind those before it.
fn test_of(what_if: &WhatIf, before: &[Finding]) -> String {
    let (change, flags) = (&what_if.change, what_if.flags());
    let Some(tested) = &what_if.tested else {
        return format!("     to test it: {change} ({flags})\n");
    };
    let is_same =
        |other: &Finding| other.what_if.as_ref().is_some_and(|other| other.settings == what_if.settings);
    match before.iter().position(is_same) {
        Some(place) => format!("     tested, {change}: as in {}.\n", place + 1),
        None => format!("     tested, {change} ({flags}): {}\n", tested.sentence()),
    }
}
