//! The report as a table for terminals, laid out like that of NVIDIA's `aiperf`, with the facts that have no
//! place in its columns as lines below.

use std::borrow::Cow;

use comfy_table::{
    Cell, CellAlignment, ColumnConstraint, ContentArrangement, ContentLineStyle, LineStyle, Table, TableStyle,
};

use crate::classes::class_cells;
use crate::diagnosis::render_diagnosis;
use crate::facts::facts;
use crate::measured::Measured;
use crate::printable::printable;
use crate::report::Report;
use crate::stats::Stats;

const TITLE: &str = "servecast | LLM Metrics";

/// Heavy lines round the header, light ones round the body.
pub(crate) const STYLE: TableStyle = TableStyle::new()
    .top_border(LineStyle::new('┏', '━', '┳', '┓'))
    .header_lines(ContentLineStyle::new('┃', '┃', '┃'))
    .header_separator(LineStyle::new('┡', '━', '╇', '┩'))
    .content_lines(ContentLineStyle::new('│', '│', '│'))
    .bottom_border(LineStyle::new('└', '─', '┴', '┘'));

/// Narrowest column of metric names that breaks none of them into more than two lines.
const MIN_NAME_WIDTH: usize = 26;

/// What a column adds to the width of its content: a space on either side and one border.
pub(crate) const COLUMN_FRAME: usize = 3;

const BOLD: &str = "\x1b[1m";
const PLAIN: &str = "\x1b[0m";

/// How a table should look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TableOptions {
    /// Columns of the terminal: metric names wrap, then statistics are left out, until the table fits.
    /// `None`: as wide as the content.
    pub width: Option<u16>,
    /// Whether title and header are set off by ANSI escapes.
    pub color: bool,
}

/// Renders `report` for a terminal; every line ends in a newline.
///
/// A metric without samples, and a statistic of a metric that is one value, show as `N/A`.
pub fn render_table(report: &Report, options: TableOptions) -> String {
    let rows = rows(report);
    let columns = columns_that_fit(&rows, options.width);
    let table = build(&rows, &columns, options.width);
    let mut text = titled(TITLE, &table, options);
    for fact in facts(report) {
        text += &printable(&fact);
        text.push('\n');
    }
    if let Some(classes) = &report.classes {
        text.push('\n');
        text += &render_cells("By class (ms)", &class_cells(classes), options);
    }
    text + &printable(&render_diagnosis(report))
}

/// The text of a table for a terminal, in which nothing commands that but the styles that [`TableOptions::color`] asks
/// for.
pub fn printable_styled(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\x1b') {
        shown += &printable(&rest[..at]);
        let style = [BOLD, PLAIN].into_iter().find(|style| rest[at..].starts_with(style));
        let length = style.map_or(1, str::len);
        let escape = &rest[at..at + length];
        shown += &style.map_or_else(|| printable(escape), Cow::Borrowed);
        rest = &rest[at + length..];
    }
    shown + &printable(rest)
}

/// A table of texts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cells {
    /// How many columns from the left are text; the others are figures, which stand at the right of theirs.
    pub left: usize,
    /// A name a column.
    pub headers: Vec<String>,
    /// Lines, each with a cell a column.
    pub rows: Vec<Vec<String>>,
}

/// Renders a table for a terminal, with a title above it; every line ends in a newline.
pub fn render_cells(title: &str, cells: &Cells, options: TableOptions) -> String {
    let aligned = |place: usize, text: &String| {
        let alignment = if place < cells.left { CellAlignment::Left } else { CellAlignment::Right };
        Cell::new(printable(text)).set_alignment(alignment)
    };
    let line = |texts: &Vec<String>| -> Vec<Cell> {
        texts.iter().enumerate().map(|(place, text)| aligned(place, text)).collect()
    };
    let mut table = Table::new();
    table.load_style(STYLE);
    if let Some(width) = options.width {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    table.set_header(line(&cells.headers));
    for row in &cells.rows {
        table.add_row(line(row));
    }
    titled(title, &table, options)
}

/// A table in [`STYLE`] with a title above it; every line ends in a newline.
pub(crate) fn titled(title: &str, table: &Table, options: TableOptions) -> String {
    let lines: Vec<String> = table.lines().collect();
    let width = lines.first().map_or(0, |line| line.chars().count());
    let indent = width.saturating_sub(title.len()) / 2;
    let mut text = format!("{:indent$}{}\n", "", styled(title, options));
    let header_lines = lines.iter().take_while(|line| !line.starts_with('┡')).count();
    for (number, line) in lines.iter().enumerate() {
        let is_header = (1..header_lines).contains(&number);
        let line = printable(line);
        text += &if is_header { styled(&line, options) } else { line.into_owned() };
        text.push('\n');
    }
    text
}

/// A statistic that may have a column.
struct Column {
    header: &'static str,
    of: fn(&Stats) -> f64,
    /// The column of the highest number goes first when the terminal is narrow.
    expendable: u8,
}

const COLUMNS: [Column; 9] = [
    Column { header: "avg", of: |stats| stats.mean, expendable: 0 },
    Column { header: "min", of: |stats| stats.min, expendable: 6 },
    Column { header: "max", of: |stats| stats.max, expendable: 4 },
    Column { header: "p99", of: |stats| stats.p99, expendable: 1 },
    Column { header: "p95", of: |stats| stats.p95, expendable: 3 },
    Column { header: "p90", of: |stats| stats.p90, expendable: 5 },
    Column { header: "p75", of: |stats| stats.p75, expendable: 7 },
    Column { header: "p50", of: |stats| stats.median, expendable: 2 },
    Column { header: "std", of: |stats| stats.std, expendable: 8 },
];

/// A metric with a cell for each of [`COLUMNS`].
struct Row {
    name: &'static str,
    cells: [String; COLUMNS.len()],
}

fn rows(report: &Report) -> Vec<Row> {
    let stats = |name, stats: &Measured<Stats>| {
        let cell = |column: &Column| or_none(stats.map(|stats| grouped((column.of)(&stats), 2)));
        Row { name, cells: COLUMNS.each_ref().map(cell) }
    };
    let single = |name, value: Measured| {
        let mut cells = COLUMNS.each_ref().map(|_| or_none(None));
        cells[0] = or_none(value.map(|value| grouped(value, 2)));
        Row { name, cells }
    };
    vec![
        stats("Time to First Token (ms)", &report.ttft_ms),
        stats("Time to Second Token (ms)", &report.ttst_ms),
        stats("Request Latency (ms)", &report.e2e_latency_ms),
        stats("Inter Token Latency (ms)", &report.itl_ms),
        stats("Time per Output Token (ms)", &report.tpot_ms),
        stats("Output Token Throughput Per User (tokens/sec/user)", &report.output_token_throughput_per_user),
        single("Output Token Throughput (tokens/sec)", report.output_throughput_tok_s),
        single("Request Throughput (requests/sec)", report.request_throughput_rps),
        single("Request Count (requests)", (report.completed_requests as f64).into()),
    ]
}

/// The table of metrics as texts, its headers apart.
pub(crate) fn metrics(report: &Report) -> (Vec<String>, Vec<Vec<String>>) {
    let headers = ["metric"].into_iter().chain(COLUMNS.iter().map(|column| column.header));
    let rows = rows(report).into_iter();
    let rows = rows.map(|row| [row.name.to_owned()].into_iter().chain(row.cells).collect());
    (headers.map(str::to_owned).collect(), rows.collect())
}

/// Indices of the columns that fit beside the metric names; the average always stays.
fn columns_that_fit(rows: &[Row], width: Option<u16>) -> Vec<usize> {
    let mut columns: Vec<usize> = (0..COLUMNS.len()).collect();
    let Some(width) = width else { return columns };
    let content = |&column: &usize| {
        let cells = rows.iter().map(|row| row.cells[column].len());
        cells.max().unwrap_or(0).max(COLUMNS[column].header.len())
    };
    let needed = |columns: &[usize]| {
        let statistics: usize = columns.iter().map(|column| content(column) + COLUMN_FRAME).sum();
        1 + MIN_NAME_WIDTH + COLUMN_FRAME + statistics
    };
    while columns.len() > 1 && needed(&columns) > usize::from(width) {
        let most_expendable = columns.iter().copied().max_by_key(|&column| COLUMNS[column].expendable);
        columns.retain(|&column| Some(column) != most_expendable);
    }
    columns
}

fn build(rows: &[Row], columns: &[usize], width: Option<u16>) -> Table {
    let right = |text: &str| Cell::new(text).set_alignment(CellAlignment::Right);
    let mut table = Table::new();
    table.load_style(STYLE);
    if let Some(width) = width {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    let headers = columns.iter().map(|&column| right(COLUMNS[column].header));
    table.set_header(std::iter::once(Cell::new("Metric")).chain(headers));
    for row in rows {
        let cells = columns.iter().map(|&column| right(&row.cells[column]));
        table.add_row(std::iter::once(Cell::new(row.name)).chain(cells));
    }
    // Only names may wrap: half a number is none.
    for column in table.column_iter_mut().skip(1) {
        column.set_constraint(ColumnConstraint::ContentWidth);
    }
    table
}

/// A whole number with commas between thousands.
pub(crate) fn count(count: u64) -> String {
    grouped(count as f64, 0)
}

/// What a figure shows, or that there is none.
pub(crate) fn or_none(figure: Option<String>) -> String {
    figure.unwrap_or_else(|| "N/A".to_owned())
}

/// A share that may have no sample.
pub(crate) fn share(share: Option<f64>) -> String {
    or_none(share.map(percent))
}

/// A share from 0 to 1 as a percentage.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.2}%", share * 100.0)
}

pub(crate) fn styled(text: &str, options: TableOptions) -> String {
    if options.color { format!("{BOLD}{text}{PLAIN}") } else { text.to_owned() }
}

/// `value` with `decimals` digits after the point and commas between thousands.
pub fn grouped(value: f64, decimals: usize) -> String {
    let digits = format!("{value:.decimals$}");
    let whole = digits.find('.').unwrap_or(digits.len());
    let mut text = String::new();
    for (place, digit) in digits.char_indices() {
        if place > 0 && place < whole && (whole - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use servecast_record::RunRecord;

    use super::*;
    use crate::{ErrorBar, Provenance, Sla, SummaryOptions, fixture, summarize};

    fn report() -> Report {
        let sla =
            Sla { ttft_ms: Some(50.0), e2e_ms: Some(100.5), pooled_itl_ms: Some(20.0), ..Sla::default() };
        let notes = [("ignored_keys".to_owned(), 3)].into();
        summarize(
            &fixture::run(),
            &SummaryOptions { sla, wall_time_ms: 1234.5678, notes, ..SummaryOptions::default() },
        )
    }

    fn render(width: Option<u16>) -> String {
        render_table(&report(), TableOptions { width, color: false })
    }

    #[test]
    fn a_wide_terminal_shows_all_statistics() {
        insta::assert_snapshot!(render(None), @r#"
                                                               servecast | LLM Metrics
        ┏━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━┳━━━━━━━┳━━━━━━━━┳━━━━━━━━┳━━━━━━━━┳━━━━━━━━┳━━━━━━━━┳━━━━━━━━┳━━━━━━━┓
        ┃ Metric                                             ┃    avg ┃   min ┃    max ┃    p99 ┃    p95 ┃    p90 ┃    p75 ┃    p50 ┃   std ┃
        ┡━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━╇━━━━━━━╇━━━━━━━━╇━━━━━━━━╇━━━━━━━━╇━━━━━━━━╇━━━━━━━━╇━━━━━━━━╇━━━━━━━┩
        │ Time to First Token (ms)                           │  50.00 │ 20.00 │  80.00 │  79.40 │  77.00 │  74.00 │  65.00 │  50.00 │ 30.00 │
        │ Time to Second Token (ms)                          │  10.00 │ 10.00 │  10.00 │  10.00 │  10.00 │  10.00 │  10.00 │  10.00 │  0.00 │
        │ Request Latency (ms)                               │ 100.00 │ 40.00 │ 160.00 │ 158.80 │ 154.00 │ 148.00 │ 130.00 │ 100.00 │ 60.00 │
        │ Inter Token Latency (ms)                           │  15.71 │ 10.00 │  40.00 │  38.80 │  34.00 │  28.00 │  15.00 │  10.00 │ 10.50 │
        │ Time per Output Token (ms)                         │  15.00 │ 10.00 │  20.00 │  19.90 │  19.50 │  19.00 │  17.50 │  15.00 │  5.00 │
        │ Output Token Throughput Per User (tokens/sec/user) │  82.14 │ 25.00 │ 100.00 │ 100.00 │ 100.00 │ 100.00 │ 100.00 │ 100.00 │ 29.01 │
        │ Output Token Throughput (tokens/sec)               │  47.06 │   N/A │    N/A │    N/A │    N/A │    N/A │    N/A │    N/A │   N/A │
        │ Request Throughput (requests/sec)                  │  11.76 │   N/A │    N/A │    N/A │    N/A │    N/A │    N/A │    N/A │   N/A │
        │ Request Count (requests)                           │   2.00 │   N/A │    N/A │    N/A │    N/A │    N/A │    N/A │    N/A │   N/A │
        └────────────────────────────────────────────────────┴────────┴───────┴────────┴────────┴────────┴────────┴────────┴────────┴───────┘
        Prefix cache reuse: 25.00% of prompt tokens
        Requests: 2 completed, 2 rejected
          rejected as kv_capacity: 1
          rejected as prompt_too_long: 1
        Sessions: 1 of several requests, 0 served to the end; length N/A, N/A of it outside the deployment (tools, thinking)
          time to first token of first requests 20.00 ms on average (p99 20.00 ms); of later ones N/A
        Preemptions: 2
        Pool aggregated: 1 worker, batch occupancy 25.00% (2.00 of 8 requests), KV in use 25.00%, at most 50.00%
          in an iteration, however small its batch: 50.00% of the time
        Pool prefill: 1 worker, 2.00 requests in a batch, without a limit, KV in use 25.00%, at most 50.00%
          in an iteration, however small its batch: 20.00% of the time
        Pool decode: 2 workers, batch occupancy 25.00% (2.00 of 8 requests), KV in use 25.00%, at most 50.00%
          in an iteration, however small its batch: 30.00% of the time
          a worker: 2 to 2 requests, 34 to 68 tokens reused
            in an iteration 20.00% to 40.00% of the time, 2.00 to 2.00 requests in it, KV in use 25.00% to 25.00%
        Goodput: 5.88 requests/sec, 17.65 tokens/sec
          1 of 4 requests within TTFT ≤ 50 ms, E2E ≤ 100.5 ms
        Gaps between tokens, of all requests, within 20 ms: 85.71%
        Trace: ignored_keys: 3
        Iteration times extrapolated beyond the measurements: 25.00%
        Iteration times are an estimate, nothing was measured: roofline of a model on 1 GPU
        Simulated duration: 170.00 ms
        Wall time: 1,234.57 ms
        "#);
    }

    #[test]
    fn figures_say_how_far_off_they_may_be_if_that_is_known() {
        let lines = |provenance| {
            let options = SummaryOptions { provenance, ..SummaryOptions::default() };
            facts(&summarize(&fixture::run(), &options))
        };
        let known = "TPOT 15.00 ms (±13 %), TTFT 50.00 ms (±34 %): nine of ten of 183 runs of the same family and engine";
        assert!(lines(fixture::provenance()).iter().any(|line| line == known));
        let unknown =
            Provenance { latency_error: Some(ErrorBar::unknown("of no GPU")), ..fixture::provenance() };
        assert!(lines(unknown).iter().all(|line| !line.contains('±')));
    }

    #[test]
    fn eighty_columns_wrap_names_and_drop_statistics() {
        let text = render(Some(80));
        insta::assert_snapshot!(text.split("Prefix").next().unwrap(), @r#"
                                  servecast | LLM Metrics
        ┏━━━━━━━━━━━━━━━━━━━━━━━━━━━━━┳━━━━━━━━┳━━━━━━━━┳━━━━━━━━┳━━━━━━━━┳━━━━━━━━┓
        ┃ Metric                      ┃    avg ┃    max ┃    p99 ┃    p95 ┃    p50 ┃
        ┡━━━━━━━━━━━━━━━━━━━━━━━━━━━━━╇━━━━━━━━╇━━━━━━━━╇━━━━━━━━╇━━━━━━━━╇━━━━━━━━┩
        │ Time to First Token (ms)    │  50.00 │  80.00 │  79.40 │  77.00 │  50.00 │
        │ Time to Second Token (ms)   │  10.00 │  10.00 │  10.00 │  10.00 │  10.00 │
        │ Request Latency (ms)        │ 100.00 │ 160.00 │ 158.80 │ 154.00 │ 100.00 │
        │ Inter Token Latency (ms)    │  15.71 │  40.00 │  38.80 │  34.00 │  10.00 │
        │ Time per Output Token (ms)  │  15.00 │  20.00 │  19.90 │  19.50 │  15.00 │
        │ Output Token Throughput Per │  82.14 │ 100.00 │ 100.00 │ 100.00 │ 100.00 │
        │ User (tokens/sec/user)      │        │        │        │        │        │
        │ Output Token Throughput     │  47.06 │    N/A │    N/A │    N/A │    N/A │
        │ (tokens/sec)                │        │        │        │        │        │
        │ Request Throughput          │  11.76 │    N/A │    N/A │    N/A │    N/A │
        │ (requests/sec)              │        │        │        │        │        │
        │ Request Count (requests)    │   2.00 │    N/A │    N/A │    N/A │    N/A │
        └─────────────────────────────┴────────┴────────┴────────┴────────┴────────┘
        "#);
    }

    #[test]
    fn without_samples_there_are_no_numbers() {
        let report = summarize(&RunRecord::default(), &SummaryOptions::default());
        let text = render_table(&report, TableOptions { width: Some(60), color: false });
        insta::assert_snapshot!(text, @r#"
                        servecast | LLM Metrics
        ┏━━━━━━━━━━━━━━━━━━━━━━━━━━━━━┳━━━━━━┳━━━━━┳━━━━━┳━━━━━┓
        ┃ Metric                      ┃  avg ┃ p99 ┃ p95 ┃ p50 ┃
        ┡━━━━━━━━━━━━━━━━━━━━━━━━━━━━━╇━━━━━━╇━━━━━╇━━━━━╇━━━━━┩
        │ Time to First Token (ms)    │  N/A │ N/A │ N/A │ N/A │
        │ Time to Second Token (ms)   │  N/A │ N/A │ N/A │ N/A │
        │ Request Latency (ms)        │  N/A │ N/A │ N/A │ N/A │
        │ Inter Token Latency (ms)    │  N/A │ N/A │ N/A │ N/A │
        │ Time per Output Token (ms)  │  N/A │ N/A │ N/A │ N/A │
        │ Output Token Throughput Per │  N/A │ N/A │ N/A │ N/A │
        │ User (tokens/sec/user)      │      │     │     │     │
        │ Output Token Throughput     │  N/A │ N/A │ N/A │ N/A │
        │ (tokens/sec)                │      │     │     │     │
        │ Request Throughput          │  N/A │ N/A │ N/A │ N/A │
        │ (requests/sec)              │      │     │     │     │
        │ Request Count (requests)    │ 0.00 │ N/A │ N/A │ N/A │
        └─────────────────────────────┴──────┴─────┴─────┴─────┘
        Prefix cache reuse: N/A of prompt tokens
        Requests: 0 completed, 0 rejected
        Preemptions: 0
        Simulated duration: N/A
        Wall time: 0.00 ms
        "#);
    }

    #[test]
    fn percentiles_that_are_not_exact_say_so() {
        let mut report = report();
        report.itl_relative_error = 1.0 / 1024.0;
        let text = render_table(&report, TableOptions::default());
        assert!(text.contains(
            "\nPercentiles of inter token latency: within 0.10%, for more than 65,536 distinct gaps\n"
        ));
        assert!(!render(None).contains("Percentiles"));
        report.percentile_relative_error = Some(1.0 / 1024.0);
        let text = render_table(&report, TableOptions::default());
        assert!(
            text.contains("\nPercentiles of latencies: within 0.10%, means exact (--stream)\n"),
            "{text}"
        );
    }

    #[test]
    fn no_line_is_wider_than_the_terminal_and_no_number_is_broken() {
        for width in 46..160 {
            let text = render(Some(width));
            let table = text.lines().take_while(|line| !line.starts_with("Prefix"));
            let widest = table.map(|line| line.chars().count()).max().unwrap();
            assert!(widest <= usize::from(width), "{widest} at {width}:\n{text}");
            assert!(text.contains("│ 100.00 │"), "at {width}:\n{text}");
        }
        assert!(render(Some(1)).contains("avg"));
    }

    #[test]
    fn colour_adds_escapes_and_nothing_else() {
        let options = TableOptions { width: Some(80), color: true };
        let text = render_table(&report(), options);
        assert!(text.contains("\x1b[1mservecast | LLM Metrics\x1b[0m\n"));
        assert!(text.contains("\x1b[1m┃ Metric"));
        assert_eq!(text.replace(BOLD, "").replace(PLAIN, ""), render(Some(80)));
    }

    #[test]
    fn thousands_are_grouped() {
        for (value, decimals, expected) in [
            (0.0, 2, "0.00"),
            (999.994, 2, "999.99"),
            (999.995001, 2, "1,000.00"),
            (1234567.891, 2, "1,234,567.89"),
            (123456.0, 0, "123,456"),
            (1000000.0, 0, "1,000,000"),
        ] {
            assert_eq!(grouped(value, decimals), expected);
        }
    }
}
