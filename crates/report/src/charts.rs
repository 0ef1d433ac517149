//! Small charts for terminals, below the table: time series as lines of blocks, and a histogram of the TTFT.

use servecast_record::RunRecord;
use servecast_types::Duration;

use crate::series::{Series, series};
use crate::table::{TableOptions, grouped, styled};

/// Narrowest terminal that has room for charts beside their names.
const MIN_WIDTH: u16 = 60;

/// Widest chart, in columns: that of the table.
const MOST_COLUMNS: usize = 72;

/// Columns of names, and of values behind a chart.
const NAME: usize = 28;
const VALUE: usize = 16;

/// Eighths of a column's height, and of a bar's length.
const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const LENGTHS: [char; 8] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉', '█'];

/// Renders how a run went over time and how its TTFT is distributed; every line ends in a newline.
///
/// Empty where nobody knows how wide the output is (a pipe), where it is too narrow, and without requests.
pub fn render_charts(run: &RunRecord, options: TableOptions) -> String {
    let Some(width) = options.width.filter(|&width| width >= MIN_WIDTH) else { return String::new() };
    if run.requests.is_empty() {
        return String::new();
    }
    let columns = (usize::from(width) - NAME - VALUE - 2).min(MOST_COLUMNS);
    over_time(&series(run), columns, options) + &histogram(run, columns, options)
}

fn over_time(series: &Series, columns: usize, options: TableOptions) -> String {
    let end_ms = series.start_ms + series.bin_ms * series.arrivals.len() as f64;
    let seconds = |ms: f64| grouped(ms / 1000.0, 0);
    let title = format!("Over time, {} to {} s", seconds(series.start_ms), seconds(end_ms));
    let mut text = styled(&title, options) + "\n";
    let mut add = |name: &str, values: &[f64], unit: &str| {
        text += &line(name, values, columns, unit);
    };
    add("Arrivals", &series.arrivals, "/s");
    let prefix = |pool: &str| if series.pools.len() > 1 { format!("{pool}: ") } else { String::new() };
    for pool in &series.pools {
        let prefix = prefix(pool.pool);
        add(&format!("{prefix}running"), &pool.running, "");
        add(&format!("{prefix}waiting"), &pool.waiting, "");
        add(&format!("{prefix}tokens in KV"), &pool.context_tokens, "");
    }
    // Nothing was admitted in a bin without a share.
    let reuse: Vec<f64> = series.reuse.iter().map(|share| share.unwrap_or(0.0) * 100.0).collect();
    add("Prefix reuse", &reuse, "%");
    text
}

/// A series as blocks whose height is their mean's share of the highest.
fn line(name: &str, values: &[f64], columns: usize, unit: &str) -> String {
    let columns = columns.min(values.len());
    let means = (0..columns).map(|column| {
        let (from, to) = (column * values.len() / columns, (column + 1) * values.len() / columns);
        values[from..to].iter().sum::<f64>() / (to - from) as f64
    });
    let means: Vec<f64> = means.collect();
    let most = means.iter().copied().fold(0.0, f64::max);
    let block = |&mean: &f64| match (mean / most * 8.0).ceil() as usize {
        _ if mean <= 0.0 => ' ',
        height => HEIGHTS[height.clamp(1, 8) - 1],
    };
    let decimals = if most < 10.0 { 2 } else { 0 };
    let blocks: String = means.iter().map(block).collect();
    format!("  {name:<NAME$}{blocks} max {}{unit}\n", grouped(most, decimals), NAME = NAME - 2)
}

/// Requests by TTFT, in ranges whose ends are 1, 2 or 5 times a power of ten.
fn histogram(run: &RunRecord, columns: usize, options: TableOptions) -> String {
    let finished = run.requests.iter().filter(|request| request.is_finished());
    let ttfts: Vec<f64> = finished.filter_map(|request| request.ttft().map(Duration::as_ms)).collect();
    let most = ttfts.iter().copied().fold(0.0, f64::max);
    let least = ttfts.iter().copied().fold(f64::INFINITY, f64::min);
    if ttfts.is_empty() {
        return String::new();
    }
    let ends: Vec<f64> = (0..=6)
        .flat_map(|power| [1.0, 2.0, 5.0].map(|one: f64| one * 10_f64.powi(power)))
        .skip_while(|&end| end <= least)
        .collect();
    let needed = ends.iter().position(|&end| end > most).map_or(ends.len(), |last| last + 1);
    let mut counts = vec![0_usize; needed];
    for ttft in &ttfts {
        counts[ends[..needed].partition_point(|end| end <= ttft).min(needed - 1)] += 1;
    }
    let highest = counts.iter().copied().max().unwrap_or(0).max(1);
    let row = |(number, &count): (usize, &usize)| {
        let is_open = number + 1 == needed && most >= ends[number];
        let name = format!("{} {}", if is_open { "from" } else { "below" }, grouped(ends[number], 0));
        let eighths = (count as f64 / highest as f64 * columns as f64 * 8.0).ceil() as usize;
        let mut bar = "█".repeat(eighths / 8);
        bar.extend((eighths % 8).checked_sub(1).map(|rest| LENGTHS[rest]));
        let space = if bar.is_empty() { "" } else { " " };
        format!("  {name:<NAME$}{bar}{space}{}\n", grouped(count as f64, 0), NAME = NAME - 2)
    };
    styled("TTFT (ms)", options) + "\n" + &counts.iter().enumerate().map(row).collect::<String>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    fn charts(width: Option<u16>, color: bool) -> String {
        render_charts(&fixture::run(), TableOptions { width, color })
    }

    #[test]
    fn a_wide_terminal_shows_the_run() {
        insta::assert_snapshot!(charts(Some(80), false), @r"
        Over time, 0 to 0 s
          Arrivals                  █ █ █     █                        max 214/s
          aggregated: running       ▅███████▁ ▅███████▁                max 1.00
          aggregated: waiting       █         █                        max 0.43
          aggregated: tokens in KV  ▂▂▂▂▂▃▃▃▁ ▅███████▁                max 401
          prefill: running            ▂███████▁                        max 1.00
          prefill: waiting            █                                max 0.78
          prefill: tokens in KV       ▂███████▁                        max 300
          decode: running                         ████████████████████ max 1.00
          decode: waiting                     ████▁                    max 1.00
          decode: tokens in KV                    ████████████████████ max 305
          Prefix reuse                █       ▄                        max 2.78%
        TTFT (ms)
          below 50                  ██████████████████████████████████ 1
          below 100                 ██████████████████████████████████ 1
        ");
    }

    #[test]
    fn a_pipe_and_a_narrow_terminal_show_nothing() {
        assert_eq!(charts(None, true), "");
        assert_eq!(charts(Some(MIN_WIDTH - 1), true), "");
        let empty = RunRecord::default();
        assert_eq!(render_charts(&empty, TableOptions { width: Some(100), color: false }), "");
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for width in MIN_WIDTH..200 {
            let widest = charts(Some(width), false).lines().map(|line| line.chars().count()).max();
            assert!(widest.is_some_and(|widest| widest <= usize::from(width)), "{widest:?} at {width}");
        }
    }

    #[test]
    fn blocks_are_as_high_as_their_share() {
        assert_eq!(
            line("x", &[0.0, 1.0, 4.0, 8.0], 4, "/s").trim_start_matches("  x").trim(),
            "▁▄█ max 8.00/s"
        );
        assert_eq!(line("x", &[2.0, 2.0, 4.0, 4.0], 2, "").trim_start_matches("  x").trim(), "▄█ max 4.00");
    }

    #[test]
    fn colour_is_for_headings_only() {
        let text = charts(Some(80), true);
        assert!(text.contains("\x1b[1mTTFT (ms)\x1b[0m\n"));
        assert_eq!(text.replace("\x1b[1m", "").replace("\x1b[0m", ""), charts(Some(80), false));
    }
}
