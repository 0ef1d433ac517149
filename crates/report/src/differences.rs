//! How reports differ from the first of them.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use comfy_table::{Cell, CellAlignment, Table};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use crate::client_run::{ClientRun, about_requests, about_run_text};
use crate::fail_if::relative_change;
use crate::paired::PairedChange;
use crate::printable::printable;
use crate::report::{Report, SchemaVersion};
use crate::runs_page::ShownOfRun;
use crate::table::{STYLE, TableOptions, grouped, or_none, titled};

/// JSON Schema of [`Differences`], as text.
pub const DIFFERENCES_SCHEMA: &str = include_str!("../schema/differences.schema.json");

const TITLE: &str = "servecast | Differences";

/// Figures that table and page show, with their names.
pub(crate) const SHOWN: [(&str, &str); 19] = [
    ("mean_ttft_ms", "TTFT avg (ms)"),
    ("median_ttft_ms", "TTFT p50 (ms)"),
    ("p99_ttft_ms", "TTFT p99 (ms)"),
    ("mean_itl_ms", "ITL avg (ms)"),
    ("p99_itl_ms", "ITL p99 (ms)"),
    ("mean_tpot_ms", "TPOT avg (ms)"),
    ("mean_e2e_latency_ms", "Latency avg (ms)"),
    ("p99_e2e_latency_ms", "Latency p99 (ms)"),
    ("mean_queue_time_ms", "Queue time avg (ms)"),
    ("request_throughput_rps", "Requests/s"),
    ("output_throughput_tok_s", "Output tokens/s"),
    ("goodput_request_throughput_rps", "Goodput (requests/s)"),
    ("prefix_cache_reused_ratio", "Prefix reuse (share)"),
    ("completed_requests", "Completed"),
    ("rejected_requests", "Rejected"),
    ("total_preemptions", "Preemptions"),
    ("total_iterations", "Iterations"),
    ("duration_ms", "Duration (ms)"),
    ("num_requests", "Requests"),
];

/// Reports beside the first of them.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Differences {
    /// Version of the keys of this object and of the figures in it.
    pub schema_version: SchemaVersion,
    /// The first run, which the others are held against.
    pub baseline: NamedFigures,
    /// The others.
    pub runs: Vec<RunDifference>,
}

/// The figures of a run.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct NamedFigures {
    /// What the user calls it.
    pub name: String,
    /// Every number of its report, by key, null where the run has no sample of it; what it took of real time is left
    /// out, and so is the seed.
    pub figures: BTreeMap<String, Option<f64>>,
    /// What it replayed, if its report says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadId>,
    /// What is known of a run that a client measured; absent for a simulated one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured: Option<ClientRun>,
    /// Its settings by path, such as `engine_args.block_size`, and the release of servecast.
    #[serde(skip)]
    pub settings: Option<BTreeMap<String, Value>>,
    /// What else a page shows of it.
    #[serde(skip)]
    pub(crate) shown: ShownOfRun,
}

/// What was replayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub struct WorkloadId {
    /// What it is called.
    pub name: String,
    /// [`Report::workload_hash`], equal for equal workloads.
    pub hash: String,
}

/// A run beside the baseline.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct RunDifference {
    /// What the user calls it.
    pub name: String,
    /// What it replayed, if its report says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadId>,
    /// What is known of a run that a client measured; absent for a simulated one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub measured: Option<ClientRun>,
    /// Whether its requests are those of the baseline, as far as their lengths tell, in a sentence; absent unless a client
    /// measured one of the two.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requests: Option<String>,
    /// The settings in which it differs from the baseline, by path, with `servecast_version` and `latency_source`
    /// among them; absent unless both reports have their settings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub settings: Option<BTreeMap<String, SettingChange>>,
    /// The figures that both runs have, by key.
    pub figures: BTreeMap<String, Difference>,
    /// Statistics over pairs of the same request, if both runs have rows of the same requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub paired: Option<Vec<PairedChange>>,
}

/// A setting beside that of the baseline; null is not given.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct SettingChange {
    /// Of the baseline.
    pub baseline: Value,
    /// Of the other run.
    pub value: Value,
}

/// A figure beside that of the baseline; null where a run has no sample of it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, JsonSchema)]
pub struct Difference {
    /// Of the baseline.
    pub baseline: Option<f64>,
    /// Of the other run.
    pub value: Option<f64>,
    /// `value - baseline`.
    pub change: Option<f64>,
    /// `change` as a share of the baseline; absent if only the baseline is 0, or one of the two is null.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relative_change: Option<f64>,
}

impl NamedFigures {
    /// The figures of a report.
    pub fn of(name: impl Into<String>, report: &Report) -> Self {
        let value = serde_json::to_value(report).unwrap_or(Value::Null);
        let figures = value.as_object().into_iter().flatten();
        let figures = figures.filter(|(key, _)| !key.starts_with("wall_") && *key != "seed");
        let figures = figures.filter(|(_, value)| value.is_number() || value.is_null());
        let figures = figures.map(|(key, value)| (key.clone(), value.as_f64()));
        let workload = report.workload_hash.as_ref().map(|hash| WorkloadId {
            name: report.workload_name.clone().unwrap_or_default(),
            hash: hash.clone(),
        });
        let settings = report.settings.as_ref().map(|settings| {
            let mut paths = BTreeMap::new();
            for (key, value) in settings {
                add_paths(key, value, &mut paths);
            }
            paths.insert("servecast_version".to_owned(), report.servecast_version.clone().into());
            paths.insert("latency_source".to_owned(), report.latency_source.clone().into());
            paths
        });
        let shown = ShownOfRun::of(report);
        Self { name: name.into(), figures: figures.collect(), workload, measured: None, settings, shown }
    }

    /// Whether both ran the same workload, as far as their reports say.
    pub fn ran_what(&self, other: &Self) -> Option<bool> {
        Some(self.workload.as_ref()?.hash == other.workload.as_ref()?.hash)
    }
}

/// Adds a setting by its path, and those within it by theirs.
fn add_paths(path: &str, value: &Value, paths: &mut BTreeMap<String, Value>) {
    match value.as_object() {
        None => drop(paths.insert(path.to_owned(), value.clone())),
        Some(object) => {
            object.iter().for_each(|(key, value)| add_paths(&format!("{path}.{key}"), value, paths));
        }
    }
}

/// The settings that are not the same.
///
/// A deployment has settings for all engines, or for those of prompts and those of outputs. Where two deployments differ
/// in that, what one says of all engines stands beside what the other says of each.
fn changed(
    baseline: &BTreeMap<String, Value>,
    other: &BTreeMap<String, Value>,
) -> BTreeMap<String, SettingChange> {
    let spread = [baseline, other].map(has_engines_by_role).contains(&true);
    let [baseline, other] = [baseline, other].map(|settings| {
        if spread && !has_engines_by_role(settings) { by_role(settings) } else { settings.clone() }
    });
    let of = |settings: &BTreeMap<String, Value>, path| settings.get(path).cloned().unwrap_or_default();
    let change = |path| (of(&baseline, path), of(&other, path));
    let paths = baseline.keys().chain(other.keys());
    let changes = paths.map(|path| (path, change(path))).filter(|(_, (before, after))| before != after);
    changes.map(|(path, (baseline, value))| (path.clone(), SettingChange { baseline, value })).collect()
}

/// Tables with the settings of engines, by the roles of their pools.
const BY_ROLE: [&str; 2] = ["prefill_engine_args", "decode_engine_args"];

pub(crate) fn has_engines_by_role(settings: &BTreeMap<String, Value>) -> bool {
    settings.keys().any(|path| path.split_once('.').is_some_and(|(table, _)| BY_ROLE.contains(&table)))
}

/// Settings with those of all engines for each role.
pub(crate) fn by_role(settings: &BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    let spread = settings.iter().flat_map(|(path, value)| {
        match path.strip_prefix("engine_args.") {
            Some(key) => BY_ROLE.map(|table| format!("{table}.{key}")).to_vec(),
            None => vec![path.clone()],
        }
        .into_iter()
        .map(move |path| (path, value.clone()))
    });
    spread.collect()
}

impl fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.hash)
    }
}

impl RunDifference {
    /// The workloads of the baseline and of this run, where they are known and differ.
    pub(crate) fn other_workload<'a>(
        &'a self,
        baseline: &'a NamedFigures,
    ) -> Option<(&'a WorkloadId, &'a WorkloadId)> {
        let both = baseline.workload.as_ref().zip(self.workload.as_ref());
        both.filter(|(before, after)| before.hash != after.hash)
    }

    /// The figures that `run` and the baseline have.
    pub fn of(baseline: &NamedFigures, run: &NamedFigures) -> Self {
        let figures = run.figures.iter().filter_map(|(key, &value)| {
            let &baseline = baseline.figures.get(key)?;
            let both = value.zip(baseline);
            let relative = both.map(|(value, baseline)| relative_change(value, baseline));
            let difference = Difference {
                baseline,
                value,
                change: both.map(|(value, baseline)| value - baseline),
                relative_change: relative.filter(|change| change.is_finite()),
            };
            Some((key.clone(), difference))
        });
        let settings = baseline.settings.as_ref().zip(run.settings.as_ref());
        Self {
            name: run.name.clone(),
            workload: run.workload.clone(),
            measured: run.measured.clone(),
            requests: None,
            settings: settings.map(|(before, after)| changed(before, after)),
            figures: figures.collect(),
            paired: None,
        }
    }
}

/// Renders differences for a terminal; every line ends in a newline.
pub fn render_differences(differences: &Differences, options: TableOptions) -> String {
    let mut table = Table::new();
    table.load_style(STYLE);
    let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    let shown = |name: &str| printable(name).into_owned();
    let others = differences.runs.iter().flat_map(|run| [shown(&run.name), "change".to_owned()]);
    let names = std::iter::once(shown(&differences.baseline.name)).chain(others);
    table.set_header(std::iter::once(Cell::new("Metric")).chain(names.map(right)));
    for (key, name) in SHOWN {
        let Some(&baseline) = differences.baseline.figures.get(key) else { continue };
        let others = differences.runs.iter().flat_map(|run| match run.figures.get(key) {
            Some(difference) => [figure(key, difference.value), relative(difference)],
            None => [or_none(None), String::new()],
        });
        let cells = std::iter::once(figure(key, baseline)).chain(others);
        table.add_row(std::iter::once(Cell::new(name)).chain(cells.map(right)));
    }
    let mut text = titled(TITLE, &table, options);
    let baseline = &differences.baseline;
    text += &printable(&about_run_text(&baseline.name, baseline.measured.as_ref()));
    for run in &differences.runs {
        text += &printable(&about_run_text(&run.name, run.measured.as_ref()));
        text += &printable(&settings_of(run, baseline));
    }
    for run in &differences.runs {
        let Some(paired) = &run.paired else { continue };
        text += &printable(&run.name);
        text += ", request by request, with 95% confidence intervals:\n";
        for change in paired {
            text += &sentences(change);
        }
    }
    text
}

/// The workload and the settings in which a run differs from the baseline, a line each.
fn settings_of(run: &RunDifference, baseline: &NamedFigures) -> String {
    if let Some(sentence) = about_requests(run, baseline) {
        return sentence + "\n";
    }
    let mut lines = String::new();
    // Writing to a string cannot fail.
    if let Some((before, after)) = run.other_workload(baseline) {
        let _ = writeln!(lines, "  workload: {before} → {after}");
    }
    for (path, SettingChange { baseline, value }) in run.settings.iter().flatten() {
        let _ = writeln!(lines, "  {path}: {} → {}", value_text(baseline), value_text(value));
    }
    match (lines.is_empty(), &run.settings) {
        (false, _) => format!("{} differs from {} in\n{lines}", run.name, baseline.name),
        (true, Some(_)) => format!("{} has the settings and the workload of {}\n", run.name, baseline.name),
        (true, None) => {
            format!(
                "in which settings {} differs from {} is not known: a report has none\n",
                run.name, baseline.name
            )
        }
    }
}

/// The value of a setting, in words.
pub(crate) fn value_text(value: &Value) -> String {
    match value {
        Value::Null => "not given".to_owned(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

pub(crate) fn figure(key: &str, value: Option<f64>) -> String {
    let decimals = match key {
        "prefix_cache_reused_ratio" => 4,
        key if key.ends_with("_ms") || key.ends_with("_s") || key.ends_with("_rps") => 2,
        _ => 0,
    };
    or_none(value.map(|value| grouped(value, decimals)))
}

pub(crate) fn relative(difference: &Difference) -> String {
    match difference.relative_change {
        Some(0.0) => "=".to_owned(),
        Some(share) => format!("{:+.2}%", share * 100.0),
        None if difference.change.is_some() => "from 0".to_owned(),
        None => String::new(),
    }
}

/// How a latency differs over pairs of requests, in a line that ends in a newline.
pub(crate) fn sentences(change: &PairedChange) -> String {
    let PairedChange { metric, pairs, slower, faster, .. } = change;
    let signed = |ms: f64| {
        let size = grouped(ms.abs(), 2);
        if ms < 0.0 { format!("-{size}") } else { format!("+{size}") }
    };
    let within = |[low, high]: [f64; 2]| format!("{} to {}", signed(low), signed(high));
    let pairs = grouped(*pairs as f64, 0);
    let (slower, faster) = (slower * 100.0, faster * 100.0);
    format!(
        "  {metric}: mean {} ({}), median {}, p99 {} ({}); {slower:.1}% slower, {faster:.1}% faster of {pairs}\n",
        signed(change.mean_change_ms),
        within(change.mean_change_interval_ms),
        signed(change.median_change_ms),
        signed(change.p99_change_ms),
        within(change.p99_change_interval_ms),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Measured, Stats, SummaryOptions, fixture, summarize};

    fn figures(name: &str, change: impl Fn(&mut Report)) -> NamedFigures {
        let mut report = summarize(&fixture::run(), &SummaryOptions::default());
        change(&mut report);
        NamedFigures::of(name, &report)
    }

    #[test]
    fn a_table_shows_figures_and_changes() {
        let baseline = figures("a.json", |_| {});
        let other = figures("b.json", |report| {
            report.ttft_ms = report
                .ttft_ms
                .map(|stats| Stats { p99: stats.p99 * 1.1, ..stats })
                .map_or(Measured(None), Into::into);
            report.rejected_requests = 0;
            report.total_preemptions += 2;
        });
        let paired = PairedChange {
            metric: "ttft_ms",
            pairs: 1200,
            slower: 0.25,
            faster: 0.5,
            mean_change_ms: -1.5,
            median_change_ms: 0.0,
            mean_change_interval_ms: [-2.0, -1.0],
            p99_change_ms: 1234.0,
            p99_change_interval_ms: [-1.0, 2000.0],
        };
        let mut run = RunDifference::of(&baseline, &other);
        run.paired = Some(vec![paired]);
        let differences = Differences { schema_version: SchemaVersion::V1, baseline, runs: vec![run] };
        insta::assert_snapshot!(render_differences(&differences, TableOptions::default()), @r"
                       servecast | Differences
        ┏━━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━┳━━━━━━━━┳━━━━━━━━━━┓
        ┃ Metric               ┃ a.json ┃ b.json ┃   change ┃
        ┡━━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━╇━━━━━━━━╇━━━━━━━━━━┩
        │ TTFT avg (ms)        │  50.00 │  50.00 │        = │
        │ TTFT p50 (ms)        │  50.00 │  50.00 │        = │
        │ TTFT p99 (ms)        │  79.40 │  87.34 │  +10.00% │
        │ ITL avg (ms)         │  15.71 │  15.71 │        = │
        │ ITL p99 (ms)         │  38.80 │  38.80 │        = │
        │ TPOT avg (ms)        │  15.00 │  15.00 │        = │
        │ Latency avg (ms)     │ 100.00 │ 100.00 │        = │
        │ Latency p99 (ms)     │ 158.80 │ 158.80 │        = │
        │ Queue time avg (ms)  │   3.00 │   3.00 │        = │
        │ Requests/s           │  11.76 │  11.76 │        = │
        │ Output tokens/s      │  47.06 │  47.06 │        = │
        │ Prefix reuse (share) │ 0.2500 │ 0.2500 │        = │
        │ Completed            │      2 │      2 │        = │
        │ Rejected             │      2 │      0 │ -100.00% │
        │ Preemptions          │      2 │      4 │ +100.00% │
        │ Iterations           │     12 │     12 │        = │
        │ Duration (ms)        │ 170.00 │ 170.00 │        = │
        │ Requests             │      4 │      4 │        = │
        └──────────────────────┴────────┴────────┴──────────┘
        in which settings b.json differs from a.json is not known: a report has none
        b.json, request by request, with 95% confidence intervals:
          ttft_ms: mean -1.50 (-2.00 to -1.00), median +0.00, p99 +1,234.00 (-1.00 to +2,000.00); 25.0% slower, 50.0% faster of 1,200
        ");
    }

    fn schema() -> Value {
        let mut schema = schemars::schema_for!(Differences).to_value();
        schema.sort_all_objects();
        schema
    }

    #[test]
    fn the_checked_in_schema_is_fresh() {
        crate::fixture::check_schema(&schema(), DIFFERENCES_SCHEMA, "differences.schema.json");
    }

    #[test]
    fn differences_are_valid_by_the_schema() {
        let (baseline, other) = (figures("a", |_| {}), figures("b", |report| report.rejected_requests = 0));
        let runs = vec![RunDifference::of(&baseline, &other)];
        let differences = Differences { schema_version: SchemaVersion::V1, baseline, runs };
        let mut value = serde_json::to_value(&differences).unwrap();
        let validator = jsonschema::validator_for(&schema()).unwrap();
        let errors: Vec<String> = validator.iter_errors(&value).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?}");
        value["runs"][0].as_object_mut().unwrap().remove("figures");
        assert!(!validator.is_valid(&value));
    }

    #[test]
    fn engines_of_all_requests_stand_beside_those_of_prompts_and_of_outputs() {
        let with = |settings: Value| {
            figures("run", |report| report.settings = serde_json::from_value(settings.clone()).ok())
        };
        let one = with(serde_json::json!({
            "num_workers": 2,
            "engine_args": {"block_size": 64, "max_num_seqs": 256, "watermark": 0.1},
        }));
        let two = with(serde_json::json!({
            "num_prefill_workers": 1,
            "prefill_engine_args": {"block_size": 64, "max_num_seqs": 256},
            "decode_engine_args": {"block_size": 64, "max_num_seqs": 512},
        }));
        let differ = |baseline: &NamedFigures, run: &NamedFigures| {
            let settings = RunDifference::of(baseline, run).settings.unwrap();
            let line = |(path, change): (&String, &SettingChange)| {
                format!("{path}: {} {}", change.baseline, change.value)
            };
            settings.iter().map(line).collect::<Vec<_>>()
        };
        assert_eq!(
            differ(&one, &two),
            [
                "decode_engine_args.max_num_seqs: 256 512",
                "decode_engine_args.watermark: 0.1 null",
                "num_prefill_workers: null 1",
                "num_workers: 2 null",
                "prefill_engine_args.watermark: 0.1 null",
            ]
        );
        assert_eq!(differ(&two, &one)[0], "decode_engine_args.max_num_seqs: 512 256");
        let more = with(serde_json::json!({"num_workers": 2, "engine_args": {"block_size": 16}}));
        assert_eq!(differ(&one, &more)[0], "engine_args.block_size: 64 16");
    }

    #[test]
    fn what_a_run_took_of_real_time_is_no_figure() {
        let figures = figures("a", |report| report.wall_time_ms = 5.0).figures;
        assert!(figures.contains_key("p99_ttft_ms") && !figures.contains_key("wall_time_ms"));
    }
}
