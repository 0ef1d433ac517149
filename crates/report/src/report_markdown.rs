//! A report, and several, as Markdown for the summary of a job in CI.

use crate::about::about;
use crate::classes::class_cells;
use crate::comparison::Comparison;
use crate::facts::facts;
use crate::gate::Check;
use crate::markdown;
use crate::report::Report;
use crate::table::{Cells, metrics};

/// Renders a report as Markdown: what came of `checks`, the latencies, and what the table for terminals has below it.
pub fn render_markdown(report: &Report, checks: &[Check]) -> String {
    let name = report
        .workload_name
        .as_deref()
        .map_or_else(String::new, |name| format!(": {}", markdown::text(name)));
    let (headers, rows) = metrics(report);
    let facts = facts(report).join("\n");
    format!(
        "### servecast replay{name}\n\n{}{}{}\n{}{}{}",
        run(report),
        markdown::checks(checks),
        markdown::table(&headers, &rows, 1),
        classes(report),
        diagnosis(report),
        markdown::block(&facts)
    )
}

/// What was run, a list item for each part.
fn run(report: &Report) -> String {
    let item = |(name, text): &(&str, String)| format!("- {name}: {}\n", markdown::text(text));
    about(report).iter().map(item).collect::<String>() + "\n"
}

/// The figures of each class of requests, a row each; empty without classes.
fn classes(report: &Report) -> String {
    let Some(classes) = &report.classes else { return String::new() };
    let Cells { left, headers, rows } = class_cells(classes);
    let row = |cells: Vec<String>| cells.iter().map(|cell| markdown::text(cell)).collect();
    let rows: Vec<Vec<String>> = rows.into_iter().map(row).collect();
    format!("**By class (ms)**\n\n{}\n", markdown::table(&headers, &rows, left))
}

/// What is wrong with the run, a list item for each finding.
fn diagnosis(report: &Report) -> String {
    let findings = report.diagnosis.as_deref().unwrap_or_default();
    if findings.is_empty() {
        return String::new();
    }
    let item = |finding: &crate::Finding| {
        let test = finding.what_if.as_ref().map_or_else(String::new, |what_if| {
            let change = format!("{} ({})", markdown::text(&what_if.change), markdown::code(what_if.flags()));
            match &what_if.tested {
                None => format!("; to test it: {change}"),
                Some(tested) => format!("; tested, {change}: {}", markdown::text(&tested.sentence())),
            }
        });
        format!("1. {}{test}\n", markdown::text(&finding.sentence))
    };
    format!("**Diagnosis**\n\n{}\n", findings.iter().map(item).collect::<String>())
}

/// Renders several runs as Markdown, a row each, behind what came of `checks`.
pub fn render_comparison_markdown(comparison: &Comparison, checks: &[Check]) -> String {
    let (headers, rows) = comparison.cells();
    let table = markdown::table(&headers, &rows, comparison.varied.len());
    format!("### servecast replay: {} runs\n\n{}{table}", comparison.runs.len(), markdown::checks(checks))
}
