//! How runs differ, as one page for a browser.

use serde::Serialize;

use crate::curves::{Curves, MOST_CURVES};
use crate::differences::{Differences, NamedFigures, SHOWN};
use crate::page::{COMMON, DISTRIBUTION, Distribution, skeleton};
use crate::paired::RequestFigures;
use crate::runs_page::{FRONT, OVERLAY, RUNS, Runs};

const SCRIPT: &str = include_str!("../page/compare.js");

/// What is on the page of a comparison.
#[derive(Debug, Clone)]
pub struct ComparedPage<'a> {
    /// How the runs differ.
    pub differences: &'a Differences,
    /// The runs themselves, the baseline first.
    pub runs: &'a [NamedFigures],
    /// Of each run, the baseline first, its requests, if they are known.
    pub requests: &'a [Option<&'a [RequestFigures]>],
    /// Conditions under which the comparison fails.
    pub conditions: Vec<String>,
    /// Those of them that hold, each in a sentence.
    pub broken: Vec<String>,
}

#[derive(Serialize)]
struct Data<'a> {
    title: String,
    differences: &'a Differences,
    runs: Runs,
    /// Figures of the table, each with its name.
    shown: [(&'static str, &'static str); SHOWN.len()],
    latencies: Vec<Latency>,
    conditions: &'a [String],
    broken: &'a [String],
}

/// A latency of the runs whose requests are known.
#[derive(Serialize)]
struct Latency {
    name: &'static str,
    /// By place of the run, the baseline first.
    runs: Vec<(usize, Distribution)>,
}

/// Renders the page of a comparison.
pub fn render_differences_page(page: &ComparedPage<'_>) -> String {
    let runs = page.differences.runs.len();
    let others = if runs == 1 { "another run".to_owned() } else { format!("{runs} other runs") };
    let bins = Curves::bins(runs + 1);
    let curves: Vec<Option<Curves>> =
        page.requests.iter().take(MOST_CURVES).map(|rows| Curves::of_rows((*rows)?, bins)).collect();
    let data = Data {
        title: format!("{} and {others}", page.differences.baseline.name),
        differences: page.differences,
        runs: Runs::new(page.runs, &curves, &[]),
        shown: SHOWN,
        latencies: latencies(page.requests),
        conditions: &page.conditions,
        broken: &page.broken,
    };
    skeleton("servecast comparison", &[COMMON, DISTRIBUTION, FRONT, OVERLAY, RUNS, SCRIPT], &data)
}

fn latencies(runs: &[Option<&[RequestFigures]>]) -> Vec<Latency> {
    type Of = fn(&RequestFigures) -> Option<f64>;
    let all: [(&'static str, Of); 3] = [
        ("TTFT", |request| request.ttft_ms),
        ("TPOT", |request| request.tpot_ms),
        ("E2E latency", |request| request.e2e_latency_ms),
    ];
    let of_run = |name, of: Of, requests: &[RequestFigures]| {
        let finished = requests.iter().filter(|request| request.status == "finished");
        Distribution::of_samples(name, finished.filter_map(of))
    };
    let latency = |(name, of): (&'static str, Of)| {
        let known = runs.iter().enumerate().filter_map(|(place, requests)| Some((place, (*requests)?)));
        Latency { name, runs: known.map(|(place, requests)| (place, of_run(name, of, requests))).collect() }
    };
    all.into_iter().map(latency).filter(|latency| !latency.runs.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::report::SchemaVersion;
    use crate::{RunDifference, SummaryOptions, fixture, summarize};

    #[test]
    fn a_page_has_all_runs_and_needs_nothing_else() {
        let report = summarize(&fixture::run(), &SummaryOptions::default());
        let both = [NamedFigures::of("a</script>", &report), NamedFigures::of("b", &report)];
        let baseline = both[0].clone();
        let runs = vec![RunDifference::of(&baseline, &both[1])];
        let differences = Differences { schema_version: SchemaVersion::V1, baseline, runs };
        let request = |ttft_ms| RequestFigures {
            line: 1,
            turn: 0,
            input_length: 10,
            status: "finished".to_owned(),
            measured: true,
            ttft_ms: Some(ttft_ms),
            e2e_latency_ms: Some(100.0),
            ..RequestFigures::default()
        };
        let requests = [request(10.0), request(30.0)];
        let page = render_differences_page(&ComparedPage {
            differences: &differences,
            runs: &both,
            requests: &[None, Some(&requests)],
            conditions: vec!["p99_ttft_ms>+5%".to_owned()],
            broken: Vec::new(),
        });
        for reference in ["src=", "<link", "@import", "url(", "fetch(", "XMLHttpRequest"] {
            assert!(!page.contains(reference), "{reference}");
        }
        let (_, rest) = page.split_once("<script id=\"data\" type=\"application/json\">").unwrap();
        let data: Value = serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap();
        assert_eq!(data["title"], "a</script> and another run");
        assert_eq!(data["latencies"][0]["runs"][0][0], 1, "the baseline has no rows");
        assert_eq!(data["latencies"][0]["runs"][0][1]["quantiles"][200], 20.0);
        assert_eq!(data["conditions"][0], "p99_ttft_ms>+5%");
    }
}
