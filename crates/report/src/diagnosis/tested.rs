//! What came of the run that tests a finding, beside the run that has it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::differences::NamedFigures;
use crate::report::Report;
use crate::table::{grouped, or_none};

/// What came of the run that tests a finding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Tested {
    /// Why there was no such run; absent where there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// Its figures beside those of the run that is diagnosed.
    pub figures: Vec<TestedFigure>,
}

/// A figure of the run that is diagnosed, and of the one that tests a finding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TestedFigure {
    /// Its key in a report; or `sla`, the share of all requests within the limits of goodput; or an objective (`slo`), of
    /// which the figure is the share of samples within its limit.
    pub name: String,
    /// Its unit: `ms`, `tokens/s`, `share` (from 0 to 1) or `count`.
    pub unit: String,
    /// Of the run that is diagnosed; null without a sample.
    pub before: Option<f64>,
    /// Of the run that tests the finding; null without a sample.
    pub after: Option<f64>,
}

/// Figures by their keys in a report, with what a line calls them and their units. Counts are shown where they change.
const FIGURES: [(&str, &str, &str); 8] = [
    ("mean_ttft_ms", "TTFT", "ms"),
    ("p99_ttft_ms", "p99 TTFT", "ms"),
    ("mean_itl_ms", "ITL", "ms"),
    ("p99_itl_ms", "p99 ITL", "ms"),
    ("output_throughput_tok_s", "output", "tokens/s"),
    ("prefix_cache_reused_ratio", "prefix reuse", "share"),
    ("completed_requests", "completed", "count"),
    ("total_preemptions", "preemptions", "count"),
];

/// The name of the share of requests within the limits of goodput.
const SLA: &str = "sla";

impl Tested {
    /// What the run with the report `after` came to beside the one that is diagnosed.
    pub fn of(before: &Report, after: &Report) -> Self {
        let [one, other] = [before, after].map(|report| NamedFigures::of("", report).figures);
        let mut figures: Vec<TestedFigure> = Vec::new();
        let mut add = |name: &str, unit: &str, before: Option<f64>, after: Option<f64>| {
            figures.push(TestedFigure { name: name.to_owned(), unit: unit.to_owned(), before, after });
        };
        for (key, _, unit) in FIGURES {
            let of = |figures: &BTreeMap<String, Option<f64>>| figures.get(key).copied().flatten();
            add(key, unit, of(&one), of(&other));
        }
        let within = |report: &Report| {
            let requests = Some(report.num_requests).filter(|&requests| requests > 0)?;
            Some(report.goodput_completed_requests? as f64 / requests as f64)
        };
        if before.sla.is_some() {
            add(SLA, "share", within(before), within(after));
        }
        let share = |report: &Report, objective: &str| {
            let outcome = report.slo.iter().flatten().find(|outcome| outcome.objective == objective)?;
            (outcome.samples > 0).then(|| 1.0 - outcome.misses as f64 / outcome.samples as f64)
        };
        for outcome in before.slo.iter().flatten() {
            add(
                &outcome.objective,
                "share",
                share(before, &outcome.objective),
                share(after, &outcome.objective),
            );
        }
        Self { refused: None, figures }
    }

    /// That there was no run.
    pub fn refused(reason: String) -> Self {
        Self { refused: Some(reason), figures: Vec::new() }
    }

    /// The figures in a line.
    pub(crate) fn sentence(&self) -> String {
        if let Some(reason) = &self.refused {
            return format!("cannot be run: {reason}");
        }
        let parts: Vec<String> = self.figures.iter().filter_map(TestedFigure::part).collect();
        parts.join("; ")
    }
}

impl TestedFigure {
    /// What a line says of it, if anything.
    fn part(&self) -> Option<String> {
        let known = FIGURES.iter().find(|(key, ..)| *key == self.name);
        let is_target = known.is_none();
        let shown = |value: Option<f64>| {
            or_none(value.map(|value| match self.unit.as_str() {
                "share" => format!("{} %", grouped(value * 100.0, 1)),
                "count" => grouped(value, 0),
                _ if value.abs() < 100.0 => grouped(value, 2),
                _ => grouped(value, 0),
            }))
        };
        let (before, after) = (shown(self.before), shown(self.after));
        // What a target is held against is said in any case, and so are latencies and throughput.
        if before == after && !is_target && matches!(self.unit.as_str(), "share" | "count") {
            return None;
        }
        let name = match (known, self.name.as_str()) {
            (Some((_, name, _)), _) => (*name).to_owned(),
            (None, SLA) => "requests within the limits".to_owned(),
            (None, objective) => format!("within {objective}"),
        };
        let mut text = format!("{name} {before} → {after}");
        if matches!(self.unit.as_str(), "ms" | "tokens/s") {
            let _ = write!(text, " {}", self.unit);
            if let Some((before, after)) = self.before.zip(self.after).filter(|&(before, _)| before > 0.0) {
                // Writing to a string cannot fail. What is rounded to 0 has no sign.
                let _ = write!(text, " ({:+} %)", ((after / before - 1.0) * 100.0).round() + 0.0);
            }
        }
        Some(text)
    }
}
