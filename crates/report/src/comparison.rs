//! Several runs beside each other, each with the settings in which it differs from the others.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use comfy_table::{Cell, CellAlignment, Table};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::facts::{error_of_source, latency_source};
use crate::markdown;
use crate::pool::PoolReport;
use crate::printable::printable;
use crate::report::{Report, SchemaVersion};
use crate::saturation::render_overload;
use crate::stats::Stats;
use crate::table::{COLUMN_FRAME, STYLE, TableOptions, grouped, or_none, share, titled};

/// JSON Schema of [`Comparison`], as text.
pub const COMPARISON_SCHEMA: &str = include_str!("../schema/comparison.schema.json");

const TITLE: &str = "servecast | Comparison";

/// Runs that differ in some settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Comparison {
    /// Version of the keys of this object and of the reports in it.
    pub schema_version: SchemaVersion,
    /// The settings in which runs differ; the last of them changes fastest from run to run.
    pub varied: Vec<String>,
    /// The runs, one for each combination of values.
    pub runs: Vec<ComparedRun>,
}

/// One run of several.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ComparedRun {
    /// The settings in which it differs from the others, with their values; null stands for a setting that is not
    /// given. A deployment has no settings of another kind, aggregated or disaggregated.
    pub settings: BTreeMap<String, Value>,
    /// What it came to.
    pub report: Report,
}

impl Comparison {
    /// Runs by the settings in which each differs from the others, in the order in which these were given.
    pub fn new(runs: impl IntoIterator<Item = (Vec<(String, Value)>, Report)>) -> Self {
        let mut varied: Vec<String> = Vec::new();
        let mut compared = |(settings, report): (Vec<(String, Value)>, Report)| {
            for (path, _) in &settings {
                if !varied.contains(path) {
                    varied.push(path.clone());
                }
            }
            ComparedRun { settings: settings.into_iter().collect(), report }
        };
        let runs = runs.into_iter().map(&mut compared).collect();
        Self { schema_version: SchemaVersion::V1, varied, runs }
    }
}

impl Comparison {
    /// The table of all runs as Markdown texts, its headers apart.
    pub(crate) fn cells(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let (headers, figures) = self.figures();
        let headers = self.varied.iter().map(|name| markdown::code(name)).chain(headers).collect();
        let row = |(run, figures): (&ComparedRun, Vec<String>)| {
            shown(self, run).iter().map(|value| markdown::text(value)).chain(figures).collect()
        };
        (headers, self.runs.iter().zip(figures).map(row).collect())
    }

    /// The columns of the table that are figures: their names, and a row a run.
    pub(crate) fn figures(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let columns = columns_that_fit(self, &[], None);
        let headers = columns.iter().map(|column| column.header.trim().replace('\n', " ")).collect();
        let row = |run: &ComparedRun| columns.iter().map(|column| (column.of)(&run.report)).collect();
        (headers, self.runs.iter().map(row).collect())
    }
}

/// A figure of the table.
struct Column {
    /// Two lines, the second of which is the unit.
    header: &'static str,
    of: fn(&Report) -> String,
    /// The column of the highest number goes first when the terminal is narrow.
    expendable: u8,
}

const COLUMNS: [Column; 13] = [
    Column { header: "TTFT avg\n(ms)", of: |report| ms(report.ttft_ms.map(mean)), expendable: 1 },
    Column { header: "TTFT p99\n(ms)", of: |report| ms(report.ttft_ms.map(p99)), expendable: 6 },
    Column { header: "ITL avg\n(ms)", of: |report| ms(report.itl_ms.map(mean)), expendable: 2 },
    Column { header: "ITL p99\n(ms)", of: |report| ms(report.itl_ms.map(p99)), expendable: 8 },
    Column { header: "Latency avg\n(ms)", of: |report| ms(report.e2e_latency_ms.map(mean)), expendable: 7 },
    Column { header: "Output\n(tok/s)", of: |report| ms(*report.output_throughput_tok_s), expendable: 5 },
    Column { header: "Reuse\n", of: |report| share(*report.prefix_cache_reused_ratio), expendable: 9 },
    Column {
        header: "In an\niteration",
        of: |report| of_pools(report, |pool| pool.utilization),
        expendable: 12,
    },
    Column {
        header: "Batch\noccupancy",
        of: |report| of_pools(report, |pool| pool.batch_occupancy),
        expendable: 10,
    },
    Column { header: "KV in\nuse", of: |report| of_pools(report, |pool| pool.kv_usage), expendable: 11 },
    Column { header: "Rejected\n", of: |report| count(report.rejected_requests), expendable: 4 },
    Column { header: GOODPUT, of: goodput, expendable: 3 },
    // How many of the objectives are kept; the first to be looked at.
    Column { header: OBJECTIVES, of: objectives, expendable: 0 },
];

const GOODPUT: &str = "Goodput\n(req/s)";
const OBJECTIVES: &str = "SLO\n";

/// Renders `comparison` for a terminal, a line a run; every line ends in a newline.
///
/// What a run took of real time is left out, so that equal runs give equal bytes. The goodput has a column if a run
/// has one.
pub fn render_comparison(comparison: &Comparison, options: TableOptions) -> String {
    let settings: Vec<Vec<String>> = comparison.runs.iter().map(|run| shown(comparison, run)).collect();
    let columns = columns_that_fit(comparison, &settings, options.width);
    let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    let mut table = Table::new();
    table.load_style(STYLE);
    let names = comparison.varied.iter().map(|name| format!("{name}\n"));
    table
        .set_header(names.map(Cell::new).chain(columns.iter().map(|column| right(column.header.to_owned()))));
    for (run, settings) in comparison.runs.iter().zip(&settings) {
        let figures = columns.iter().map(|column| right((column.of)(&run.report)));
        table.add_row(settings.iter().map(Cell::new).chain(figures));
    }
    let mut text = titled(TITLE, &table, options);
    for (run, settings) in comparison.runs.iter().zip(&settings) {
        if let Some(overload) = &run.report.overload {
            let given = comparison.varied.iter().zip(settings).filter(|(_, value)| !value.is_empty());
            let named = given.map(|(name, value)| format!("{name}={value}"));
            let named = named.collect::<Vec<_>>().join(" ");
            let _ = writeln!(text, "{}: {}", named, printable(&render_overload(overload)));
        }
    }
    let with_error = |run: &ComparedRun| {
        let source = latency_source(&run.report)?;
        let error = error_of_source(&run.report).map_or_else(String::new, |error| format!("; {error}"));
        Some(source + &error)
    };
    let sources: BTreeSet<String> = comparison.runs.iter().filter_map(with_error).collect();
    for source in sources {
        let _ = writeln!(text, "{}", printable(&source));
    }
    text
}

/// The values of a run's own settings, in the order in which they were named.
pub(crate) fn shown(comparison: &Comparison, run: &ComparedRun) -> Vec<String> {
    let value = |name: &String| match run.settings.get(name) {
        None => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    comparison.varied.iter().map(|name| printable(&value(name)).into_owned()).collect()
}

/// The columns that there is room for beside the settings; the first always stays.
fn columns_that_fit(
    comparison: &Comparison,
    settings: &[Vec<String>],
    width: Option<u16>,
) -> Vec<&'static Column> {
    let has_goodput = comparison.runs.iter().any(|run| run.report.goodput_request_throughput_rps.is_some());
    let has_objectives = comparison.runs.iter().any(|run| run.report.slo.is_some());
    let is_shown = |column: &&Column| match column.header {
        GOODPUT => has_goodput,
        OBJECTIVES => has_objectives,
        _ => true,
    };
    let mut columns: Vec<&Column> = COLUMNS.iter().filter(is_shown).collect();
    let Some(width) = width else { return columns };
    let widest = |texts: &mut dyn Iterator<Item = usize>| texts.max().unwrap_or(0) + COLUMN_FRAME;
    let names = (0..comparison.varied.len()).map(|position| {
        let values = settings.iter().map(|run| run[position].chars().count());
        widest(&mut values.chain([comparison.varied[position].chars().count()]))
    });
    let names: usize = names.sum();
    let figures = |column: &&Column| {
        let figures = comparison.runs.iter().map(|run| (column.of)(&run.report).chars().count());
        widest(&mut figures.chain(column.header.lines().map(str::len)))
    };
    while columns.len() > 1 && 1 + names + columns.iter().map(figures).sum::<usize>() > usize::from(width) {
        let most_expendable = columns.iter().map(|column| column.expendable).max();
        columns.retain(|column| Some(column.expendable) != most_expendable);
    }
    columns
}

fn mean(stats: Stats) -> f64 {
    stats.mean
}

fn p99(stats: Stats) -> f64 {
    stats.p99
}

fn ms(value: Option<f64>) -> String {
    or_none(value.map(|value| grouped(value, 2)))
}

fn count(value: u64) -> String {
    grouped(value as f64, 0)
}

/// A share of each pool.
fn of_pools(report: &Report, of: fn(&PoolReport) -> Option<f64>) -> String {
    let pools: Vec<String> = report.pools.iter().map(|pool| share(of(pool))).collect();
    pools.join(" / ")
}

fn objectives(report: &Report) -> String {
    let Some(slo) = &report.slo else { return or_none(None) };
    let marks = slo.iter().map(|outcome| if outcome.met { '✓' } else { '✗' });
    marks.collect()
}

fn goodput(report: &Report) -> String {
    ms(report.goodput_request_throughput_rps.and_then(|rps| rps.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Sla, SummaryOptions, fixture, summarize};

    fn comparison(sla: Sla) -> Comparison {
        let options = SummaryOptions { sla, wall_time_ms: 1234.5678, ..SummaryOptions::default() };
        let report = summarize(&fixture::run(), &options);
        let run = |workers: u32, mode: &str| ComparedRun {
            settings: [("num_workers".to_owned(), workers.into()), ("router_mode".to_owned(), mode.into())]
                .into(),
            report: report.clone(),
        };
        Comparison {
            schema_version: SchemaVersion::V1,
            varied: vec!["router_mode".to_owned(), "num_workers".to_owned()],
            runs: vec![run(4, "random"), run(16, "random"), run(4, "kv_router")],
        }
    }

    #[test]
    fn runs_stand_beneath_each_other() {
        let sla = Sla { ttft_ms: Some(50.0), ..Sla::default() };
        insta::assert_snapshot!(render_comparison(&comparison(sla), TableOptions::default()), @r"
                                                                                                  servecast | Comparison
        ┏━━━━━━━━━━━━━┳━━━━━━━━━━━━━┳━━━━━━━━━━┳━━━━━━━━━━┳━━━━━━━━━┳━━━━━━━━━┳━━━━━━━━━━━━━┳━━━━━━━━━┳━━━━━━━━┳━━━━━━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━━━┳━━━━━━━━━┓
        ┃ router_mode ┃ num_workers ┃ TTFT avg ┃ TTFT p99 ┃ ITL avg ┃ ITL p99 ┃ Latency avg ┃  Output ┃  Reuse ┃                    In an ┃                 Batch ┃                    KV in ┃ Rejected ┃ Goodput ┃
        ┃             ┃             ┃     (ms) ┃     (ms) ┃    (ms) ┃    (ms) ┃        (ms) ┃ (tok/s) ┃        ┃                iteration ┃             occupancy ┃                      use ┃          ┃ (req/s) ┃
        ┡━━━━━━━━━━━━━╇━━━━━━━━━━━━━╇━━━━━━━━━━╇━━━━━━━━━━╇━━━━━━━━━╇━━━━━━━━━╇━━━━━━━━━━━━━╇━━━━━━━━━╇━━━━━━━━╇━━━━━━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━━━╇━━━━━━━━━┩
        │ random      │ 4           │    50.00 │    79.40 │   15.71 │   38.80 │      100.00 │   47.06 │ 25.00% │ 50.00% / 20.00% / 30.00% │ 25.00% / N/A / 25.00% │ 25.00% / 25.00% / 25.00% │        2 │    5.88 │
        │ random      │ 16          │    50.00 │    79.40 │   15.71 │   38.80 │      100.00 │   47.06 │ 25.00% │ 50.00% / 20.00% / 30.00% │ 25.00% / N/A / 25.00% │ 25.00% / 25.00% / 25.00% │        2 │    5.88 │
        │ kv_router   │ 4           │    50.00 │    79.40 │   15.71 │   38.80 │      100.00 │   47.06 │ 25.00% │ 50.00% / 20.00% / 30.00% │ 25.00% / N/A / 25.00% │ 25.00% / 25.00% / 25.00% │        2 │    5.88 │
        └─────────────┴─────────────┴──────────┴──────────┴─────────┴─────────┴─────────────┴─────────┴────────┴──────────────────────────┴───────────────────────┴──────────────────────────┴──────────┴─────────┘
        Iteration times are an estimate, nothing was measured: roofline of a model on 1 GPU
        ");
    }

    #[test]
    fn a_narrow_terminal_shows_the_settings_and_what_matters_most() {
        let options = TableOptions { width: Some(64), color: false };
        insta::assert_snapshot!(render_comparison(&comparison(Sla::default()), options), @r"
                           servecast | Comparison
        ┏━━━━━━━━━━━━━┳━━━━━━━━━━━━━┳━━━━━━━━━━┳━━━━━━━━━┳━━━━━━━━━━┓
        ┃ router_mode ┃ num_workers ┃ TTFT avg ┃ ITL avg ┃ Rejected ┃
        ┃             ┃             ┃     (ms) ┃    (ms) ┃          ┃
        ┡━━━━━━━━━━━━━╇━━━━━━━━━━━━━╇━━━━━━━━━━╇━━━━━━━━━╇━━━━━━━━━━┩
        │ random      │ 4           │    50.00 │   15.71 │        2 │
        │ random      │ 16          │    50.00 │   15.71 │        2 │
        │ kv_router   │ 4           │    50.00 │   15.71 │        2 │
        └─────────────┴─────────────┴──────────┴─────────┴──────────┘
        Iteration times are an estimate, nothing was measured: roofline of a model on 1 GPU
        ");
        for width in 0..200 {
            let options = TableOptions { width: Some(width), color: true };
            assert!(render_comparison(&comparison(Sla::default()), options).contains("TTFT avg"));
        }
    }

    fn schema() -> Value {
        let mut schema = schemars::schema_for!(Comparison).to_value();
        schema.sort_all_objects();
        schema
    }

    #[test]
    fn the_checked_in_schema_is_fresh() {
        crate::fixture::check_schema(&schema(), COMPARISON_SCHEMA, "comparison.schema.json");
    }

    #[test]
    fn comparisons_are_valid_by_the_schema_and_survive_a_round_trip() {
        let comparison = comparison(Sla::default());
        let value = serde_json::to_value(&comparison).unwrap();
        let validator = jsonschema::validator_for(&schema()).unwrap();
        let errors: Vec<String> = validator.iter_errors(&value).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(serde_json::from_value::<Comparison>(value).unwrap(), comparison);
    }
}
