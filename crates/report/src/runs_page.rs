//! What pages of several runs have in common, whether they were [varied](render_varied_page) or
//! [compared](crate::render_differences_page): what was run and in what it differs comes first, then figures of runs
//! beside each other, and how they went over time.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

use crate::about::{about, gpus};
use crate::comparison::{Comparison, shown};
use crate::curves::{Curves, MOST_CURVES};
use crate::differences::{NamedFigures, SHOWN, by_role, has_engines_by_role};
use crate::page::{COMMON, skeleton};
use crate::report::Report;
use crate::saturation::render_overload;

/// Charts of several of anything, the curves of several runs, and what differs between these.
pub(crate) const FRONT: &str = include_str!("../page/front.js");
pub(crate) const OVERLAY: &str = include_str!("../page/overlay.js");
pub(crate) const RUNS: &str = include_str!("../page/runs.js");
const VARIED: &str = include_str!("../page/varied.js");

/// Most runs on a page, which must stay small.
const MOST_RUNS: usize = 600;

/// What a page of several runs shows of one beside its figures and settings.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct ShownOfRun {
    /// [What was run](about), a line for each part.
    about: Vec<(&'static str, String)>,
    /// GPUs of all workers, if that is known.
    gpus: Option<u64>,
    /// How full its pools are, by what it is and of which pool.
    pools: BTreeMap<String, f64>,
    /// Of what is wrong with it, the first thing to change, and that it is overloaded.
    findings: Vec<String>,
}

impl ShownOfRun {
    pub(crate) fn of(report: &Report) -> Self {
        let several = report.pools.len() > 1;
        let pools = report.pools.iter().flat_map(|pool| {
            let of = if several { format!(", {}", pool.pool) } else { String::new() };
            let named = |name: &str, share: Option<f64>| Some((format!("{name}{of}"), share?));
            [named("Batch occupancy", pool.batch_occupancy), named("KV in use", pool.kv_usage)]
        });
        let first = report.diagnosis.iter().flatten().take(1).map(|finding| finding.sentence.clone());
        Self {
            about: about(report),
            gpus: report.settings.as_ref().and_then(gpus),
            pools: pools.flatten().collect(),
            findings: first.chain(report.overload.as_ref().map(render_overload)).collect(),
        }
    }
}

/// Several runs, as scripts show them.
#[derive(Debug, Serialize)]
pub(crate) struct Runs {
    /// What all of them have in common, a line for each part.
    common: Vec<(&'static str, String)>,
    /// The settings in which they differ, those that were varied first, with the value of each run.
    differs: Vec<(String, Vec<Value>)>,
    /// Settings whose values a chart can have on an axis.
    varied: Vec<String>,
    /// Runs whose settings are not known, so that they stand in no place above.
    unknown: Vec<String>,
    /// Whether settings and workload of all runs are known.
    is_known: bool,
    list: Vec<RunOnPage>,
    /// Figures of the table, each with its name.
    shown: [(&'static str, &'static str); SHOWN.len()],
    /// Runs that are not on the page, and those on it without curves, since it would be too large.
    left_out: usize,
    without_curves: usize,
}

#[derive(Debug, Serialize)]
struct RunOnPage {
    name: String,
    gpus: Option<u64>,
    /// Those of the table, by their places there; null without a sample.
    figures: Vec<Option<f64>>,
    pools: BTreeMap<String, f64>,
    findings: Vec<String>,
    curves: Option<Curves>,
}

impl Runs {
    /// Of runs, each with its curves where its requests are known, and with settings that were varied on purpose.
    pub(crate) fn new(
        runs: &[NamedFigures],
        curves: &[Option<Curves>],
        varied: &[(String, Vec<Value>)],
    ) -> Self {
        let of_run = |(place, run): (usize, &NamedFigures)| RunOnPage {
            name: run.name.clone(),
            gpus: run.shown.gpus,
            figures: SHOWN.iter().map(|(key, _)| run.figures.get(*key).copied().flatten()).collect(),
            pools: run.shown.pools.clone(),
            findings: run.shown.findings.clone(),
            curves: curves.get(place).filter(|_| place < MOST_CURVES).cloned().flatten(),
        };
        let list: Vec<RunOnPage> = runs.iter().take(MOST_RUNS).enumerate().map(of_run).collect();
        // What follows from a setting that was varied, under its full name or otherwise, is no other difference.
        let others = differing(runs).into_iter().filter(|(path, values)| {
            varied.iter().all(|(known, of_known)| known != path && of_known != values)
        });
        let names: Vec<String> = varied.iter().map(|(path, _)| path.clone()).collect();
        let differs: Vec<_> = varied
            .iter()
            .cloned()
            .chain(others)
            .map(|(path, values)| (path, values.into_iter().take(MOST_RUNS).collect()))
            .collect();
        let unknown = runs.iter().filter(|run| run.settings.is_none()).map(|run| run.name.clone());
        let has_curves = curves.iter().any(Option::is_some);
        Self {
            common: common(runs),
            varied: names,
            differs,
            unknown: unknown.collect(),
            is_known: runs.iter().all(|run| run.settings.is_some() && run.workload.is_some()),
            shown: SHOWN,
            left_out: runs.len() - list.len(),
            without_curves: if has_curves { runs.len().saturating_sub(MOST_CURVES) } else { 0 },
            list,
        }
    }
}

/// What was run, as far as it is the same for all: parts of the deployment, the workload, the seed and the release.
fn common(runs: &[NamedFigures]) -> Vec<(&'static str, String)> {
    let setting = |run: &NamedFigures, key: &str| {
        let value = run.settings.as_ref()?.get(key)?;
        value.as_str().map(str::to_owned).or_else(|| (!value.is_null()).then(|| value.to_string()))
    };
    let lines = |run: &NamedFigures| {
        let own = [
            (
                "Workload",
                run.workload.as_ref().map(|workload| format!("{}, hash {}", workload.name, workload.hash)),
            ),
            ("Seed", setting(run, "seed")),
            ("Iteration times", setting(run, "latency_source")),
            ("servecast", setting(run, "servecast_version")),
        ];
        let own = own.into_iter().filter_map(|(name, text)| Some((name, text?)));
        run.shown.about.iter().cloned().chain(own).collect::<Vec<_>>()
    };
    // Measured runs have no settings that could be the same.
    let mut known = runs.iter().filter(|run| run.settings.is_some()).map(lines);
    let first = known.next().unwrap_or_default();
    known.fold(first, |common, lines| common.into_iter().filter(|line| lines.contains(line)).collect())
}

/// The settings in which runs differ, and their workload, with the value of each; null where it has none.
fn differing(runs: &[NamedFigures]) -> Vec<(String, Vec<Value>)> {
    let spread = runs.iter().filter_map(|run| run.settings.as_ref()).any(has_engines_by_role);
    let of_run = |run: &NamedFigures| {
        let mut settings = run.settings.clone()?;
        if spread && !has_engines_by_role(&settings) {
            settings = by_role(&settings);
        }
        settings.extend(
            run.workload.as_ref().map(|workload| ("workload".to_owned(), workload.to_string().into())),
        );
        Some(settings)
    };
    let all: Vec<Option<BTreeMap<String, Value>>> = runs.iter().map(of_run).collect();
    let paths: BTreeSet<&String> = all.iter().flatten().flat_map(BTreeMap::keys).collect();
    let mut differing = Vec::new();
    for path in paths {
        let of = |settings: &BTreeMap<String, Value>| settings.get(path).cloned().unwrap_or_default();
        let known: Vec<Value> = all.iter().flatten().map(of).collect();
        if known.iter().any(|value| *value != known[0]) {
            let values = all.iter().map(|settings| settings.as_ref().map(of).unwrap_or_default());
            differing.push((path.clone(), values.collect()));
        }
    }
    differing
}

/// What is on the page of runs that differ in settings that were varied.
#[derive(Debug, Clone)]
pub struct VariedPage<'a> {
    /// The runs, and what was varied.
    pub comparison: &'a Comparison,
    /// Of each run, how it went over time.
    pub curves: &'a [Option<Curves>],
}

#[derive(Serialize)]
struct Data {
    title: String,
    runs: Runs,
    /// The columns of the table of runs that are figures, and a row a run.
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

/// Renders the page of several runs.
pub fn render_varied_page(page: &VariedPage<'_>) -> String {
    let VariedPage { comparison, curves } = *page;
    let named = comparison.runs.iter().map(|run| {
        let values = comparison.varied.iter().zip(shown(comparison, run));
        let name: Vec<String> = values.map(|(path, value)| format!("{path}={value}")).collect();
        NamedFigures::of(name.join(" "), &run.report)
    });
    let varied = comparison.varied.iter().map(|path| {
        let values = comparison.runs.iter().map(|run| run.settings.get(path).cloned().unwrap_or_default());
        (path.clone(), values.collect())
    });
    let (head, mut rows) = comparison.figures();
    rows.truncate(MOST_RUNS);
    let workload = comparison.runs.first().and_then(|run| run.report.workload_name.clone());
    let of = workload.map_or_else(String::new, |name| format!(" of {name}"));
    let data = Data {
        title: format!("{} runs{of}: {}", comparison.runs.len(), comparison.varied.join(", ")),
        runs: Runs::new(&named.collect::<Vec<_>>(), curves, &varied.collect::<Vec<_>>()),
        head,
        rows,
    };
    skeleton("servecast runs", &[COMMON, FRONT, OVERLAY, RUNS, VARIED], &data)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::report::SchemaVersion;
    use crate::{ComparedRun, Measured, SummaryOptions, fixture, summarize};

    fn report(settings: Value) -> Report {
        let mut report = summarize(&fixture::run(), &SummaryOptions::default());
        report.settings = serde_json::from_value(settings).unwrap();
        report.servecast_version = Some("1.2.3".to_owned());
        (report.workload_name, report.workload_hash) = (Some("t.jsonl".to_owned()), Some("0abc".to_owned()));
        report
    }

    fn comparison(runs: u32) -> Comparison {
        let run = |workers: u32| ComparedRun {
            settings: [("workers".to_owned(), json!(workers))].into(),
            report: report(json!({
                "seed": 7, "num_workers": workers,
                "engine_args": {"gpu": "H200", "num_gpu_blocks": if workers == 1 { 10 } else { 20 }},
            })),
        };
        Comparison {
            schema_version: SchemaVersion::V1,
            varied: vec!["workers".to_owned()],
            runs: (1..=runs).map(run).collect(),
        }
    }

    fn data(page: &str) -> Value {
        for reference in ["src=", "<link", "@import", "url(", "fetch(", "XMLHttpRequest", "/*DATA*/"] {
            assert!(!page.contains(reference), "{reference}");
        }
        let (_, rest) = page.split_once("<script id=\"data\" type=\"application/json\">").unwrap();
        serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
    }

    fn page(runs: u32) -> String {
        let comparison = comparison(runs);
        let curves = vec![Curves::of(&fixture::run(), Curves::bins(runs as usize)); runs as usize];
        render_varied_page(&VariedPage { comparison: &comparison, curves: &curves })
    }

    #[test]
    fn what_differs_and_what_is_the_same_are_apart() {
        let data = data(&page(3));
        let runs = &data["runs"];
        assert_eq!(data["title"], "3 runs of t.jsonl: workers");
        assert_eq!(
            runs["differs"],
            json!([
                ["workers", [1, 2, 3]],
                // It follows from nothing that was varied; `num_workers` is what was varied.
                ["engine_args.num_gpu_blocks", [10, 20, 20]],
            ])
        );
        let common = runs["common"].as_array().unwrap();
        for line in [
            json!(["GPUs", "1 H200 for each worker"]),
            json!(["Workload", "t.jsonl, hash 0abc"]),
            json!(["Seed", "7"]),
            json!(["servecast", "1.2.3"]),
        ] {
            assert!(common.contains(&line), "{line} is not in {common:?}");
        }
        assert_eq!(runs["list"][2]["name"], "workers=3");
        assert_eq!(runs["list"][2]["gpus"], 3);
    }

    #[test]
    fn figures_are_those_of_the_reports() {
        let data = data(&page(2));
        let report = report(json!({}));
        assert_eq!(data["runs"]["list"][1]["figures"][0], json!(report.ttft_ms.unwrap().mean));
        assert_eq!((&data["head"][0], &data["rows"][1][0]), (&json!("TTFT avg (ms)"), &json!("50.00")));
        let mut none = comparison(1);
        none.runs[0].report.ttft_ms = Measured(None);
        let page = render_varied_page(&VariedPage { comparison: &none, curves: &[None] });
        let found = self::data(&page);
        assert_eq!(found["runs"]["list"][0]["figures"][0], Value::Null);
        assert_eq!(
            (&found["rows"][0][0], &found["runs"]["list"][0]["curves"]),
            (&json!("N/A"), &Value::Null)
        );
    }

    #[test]
    fn a_page_stays_small() {
        let page = page(2000);
        assert!(page.len() < 1_000_000, "{}", page.len());
        let data = data(&page);
        assert_eq!(
            (&data["runs"]["left_out"], &data["runs"]["without_curves"]),
            (&json!(1400), &json!(1940))
        );
        assert_eq!(data["rows"].as_array().unwrap().len(), MOST_RUNS);
    }

    #[test]
    fn a_run_whose_settings_are_not_known_says_nothing_of_others() {
        let known = NamedFigures::of("a", &report(json!({"seed": 7, "num_workers": 1})));
        let other = NamedFigures::of("b", &report(json!({"seed": 7, "num_workers": 2})));
        let unknown = NamedFigures { settings: None, name: "c".to_owned(), ..known.clone() };
        let without_workload = NamedFigures { workload: None, ..known.clone() };
        let is_known = |run: &NamedFigures| Runs::new(&[known.clone(), run.clone()], &[], &[]).is_known;
        assert_eq!((is_known(&known), is_known(&without_workload)), (true, false));
        let runs = Runs::new(&[known, unknown, other], &[], &[]);
        assert_eq!((&*runs.unknown, runs.is_known), (&["c".to_owned()][..], false));
        assert_eq!(runs.differs, [("num_workers".to_owned(), vec![json!(1), Value::Null, json!(2)])]);
        assert!(runs.common.contains(&("Seed", "7".to_owned())), "{:?}", runs.common);
    }
}
