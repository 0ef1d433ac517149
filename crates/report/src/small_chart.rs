//! A small chart for notebooks: how many requests run and wait over time, and which share has its first token by when.

use std::fmt::Write as _;

use servecast_record::RunRecord;
use servecast_types::Duration;

use crate::series::series;
use crate::table::grouped;

/// Size of a plot, and what lies around it for names and ends of axes, in pixels.
const WIDTH: f64 = 320.0;
const HEIGHT: f64 = 90.0;
const ABOVE: f64 = 18.0;
const BELOW: f64 = 16.0;
const BETWEEN: f64 = 40.0;

/// Most points of a line.
const POINTS: usize = 100;

/// Of lines, on light and dark ground alike.
const RUNNING: &str = "#3b82f6";
const WAITING: &str = "#f59e0b";

/// Renders a chart as one `svg` element, which takes the color of text from what is around it.
///
/// Empty without a request that was served.
pub fn render_small_chart(run: &RunRecord) -> String {
    let finished = run.requests.iter().filter(|request| request.is_finished());
    let mut ttfts: Vec<f64> = finished.filter_map(|request| request.ttft().map(Duration::as_ms)).collect();
    ttfts.sort_by(f64::total_cmp);
    if ttfts.is_empty() {
        return String::new();
    }
    let (width, height) = (2.0 * WIDTH + BETWEEN, ABOVE + HEIGHT + BELOW);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" aria-label=\"Requests over time, and TTFT\" \
         width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" font-size=\"11\" \
         font-family=\"sans-serif\" fill=\"currentColor\">{}{}</svg>",
        over_time(run),
        distribution(&ttfts)
    )
}

fn over_time(run: &RunRecord) -> String {
    let series = series(run);
    let sum = |of: &dyn Fn(usize) -> f64| -> Vec<f64> {
        let bins = series.arrivals.len();
        let points = bins.min(POINTS);
        let mean = |point: usize| {
            let (from, to) = (point * bins / points, (point + 1) * bins / points);
            (from..to).map(of).sum::<f64>() / (to - from) as f64
        };
        (0..points).map(mean).collect()
    };
    let running = sum(&|bin| series.pools.iter().map(|pool| pool.running[bin]).sum());
    let waiting = sum(&|bin| series.pools.iter().map(|pool| pool.waiting[bin]).sum());
    let most = running.iter().chain(&waiting).copied().fold(0.0, f64::max);
    let seconds = |ms: f64| grouped(ms / 1000.0, 0) + " s";
    let end_ms = series.start_ms + series.bin_ms * series.arrivals.len() as f64;
    let title = format!(
        "<tspan fill=\"{RUNNING}\">running</tspan> and <tspan fill=\"{WAITING}\">waiting</tspan> requests, at most {}",
        grouped(most, usize::from(most < 10.0))
    );
    let mut plot = plot(0.0, &title, &seconds(series.start_ms), &seconds(end_ms));
    for (values, color) in [(&waiting, WAITING), (&running, RUNNING)] {
        let places = values.iter().enumerate();
        let points =
            places.map(|(place, value)| ((place as f64 + 0.5) / values.len() as f64, share(*value, most)));
        plot += &line(0.0, points, color);
    }
    plot
}

/// Of times in ascending order.
fn distribution(ttfts: &[f64]) -> String {
    let at = |rank: f64| ttfts[((rank * ttfts.len() as f64) as usize).min(ttfts.len() - 1)];
    // The slowest few would press all others against the left.
    let most = at(0.99);
    let left = WIDTH + BETWEEN;
    let ms = |ms: f64| grouped(ms, usize::from(ms < 10.0)) + " ms";
    let title = format!("share of requests by TTFT, half of them within {}", ms(at(0.5)));
    let mut plot = plot(left, &title, "0", &format!("{} (99 %)", ms(most)));
    let ranks = (0..=POINTS).map(|point| point as f64 / POINTS as f64 * 0.99);
    plot += &line(left, ranks.map(|rank| (share(at(rank), most), rank)), RUNNING);
    plot
}

/// A part of the most there is.
fn share(value: f64, most: f64) -> f64 {
    if most > 0.0 { value / most } else { 0.0 }
}

/// A plot without lines: its title above it, the ends of its axis below.
fn plot(left: f64, title: &str, start: &str, end: &str) -> String {
    let (bottom, right) = (ABOVE + HEIGHT, left + WIDTH);
    let below = bottom + BELOW - 4.0;
    format!(
        "<text x=\"{left}\" y=\"11\">{title}</text>\
         <path d=\"M{left},{bottom}H{right}\" stroke=\"currentColor\" stroke-opacity=\"0.4\"/>\
         <text x=\"{left}\" y=\"{below}\">{start}</text>\
         <text x=\"{right}\" y=\"{below}\" text-anchor=\"end\">{end}</text>"
    )
}

/// A line through points, whose coordinates are shares of the plot.
fn line(left: f64, points: impl Iterator<Item = (f64, f64)>, color: &str) -> String {
    let mut path = String::new();
    for (place, (x, y)) in points.enumerate() {
        let (x, y) = (left + x * WIDTH, ABOVE + (1.0 - y) * HEIGHT);
        let command = if place == 0 { 'M' } else { 'L' };
        write!(path, "{command}{x:.1},{y:.1}").expect("a string can be written to");
    }
    format!("<path d=\"{path}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"1.5\"/>")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn a_chart_has_two_plots_within_its_size() {
        let chart = render_small_chart(&fixture::run());
        let document = roxmltree::Document::parse(&chart).unwrap();
        let paths: Vec<_> = document.descendants().filter(|node| node.has_tag_name("path")).collect();
        assert_eq!(paths.len(), 5, "two axes, three lines");
        for path in paths.iter().filter(|path| path.attribute("fill") == Some("none")) {
            let points = path.attribute("d").unwrap().split(['M', 'L']).skip(1);
            for (x, y) in points.map(|point| point.split_once(',').unwrap()) {
                assert!((0.0..=2.0 * WIDTH + BETWEEN).contains(&x.parse().unwrap()), "{x}");
                assert!((ABOVE..=ABOVE + HEIGHT).contains(&y.parse().unwrap()), "{y}");
            }
        }
        let texts: Vec<_> = document.descendants().filter(|node| node.has_tag_name("text")).collect();
        let text = |node: &roxmltree::Node| -> String {
            node.descendants().filter(roxmltree::Node::is_text).filter_map(|node| node.text()).collect()
        };
        let texts: Vec<String> = texts.iter().map(text).collect();
        let starts = [
            "running and waiting requests, at most ",
            "0 s",
            "0 s",
            "share of requests by TTFT, half of them within ",
        ];
        assert!(texts.iter().zip(starts).all(|(text, start)| text.starts_with(start)), "{texts:?}");
        assert_eq!(texts.len(), 6, "{texts:?}");
        assert!(texts[5].ends_with(" ms (99 %)"), "{texts:?}");
    }

    #[test]
    fn nothing_that_was_served_is_no_chart() {
        assert_eq!(render_small_chart(&RunRecord::default()), "");
    }
}
