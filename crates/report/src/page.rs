//! The report as one page: a file that needs nothing else, with all its data in one JSON block.
//!
//! Most of it comes from the records of requests; what workers did over time is kept while the run goes on.

use serde::Serialize;
use serde_json::{Value, json};
use servecast_record::{RequestRecord, RunRecord, TtftBreakdown};
use servecast_types::{Duration, Time};

pub(crate) use self::distribution::Distribution;
use self::distribution::distributions;
pub(crate) use self::workers::rounded as coarse;
use self::workers::{PoolLoad, pools};
use crate::about::about;
use crate::activity::Activity;
use crate::latency::tpot_ms;
use crate::report::Report;
use crate::series::{Series, series};
use crate::window::Window;

mod distribution;
mod workers;

const SKELETON: &str = include_str!("../page/page.html");
const STYLE: &str = include_str!("../page/page.css");
/// What all pages share, the chart of a distribution, the other charts of a run, those over time, and the page of a run.
pub(crate) const COMMON: &str = include_str!("../page/common.js");
pub(crate) const DISTRIBUTION: &str = include_str!("../page/distribution.js");
const CHARTS: &str = include_str!("../page/charts.js");
const TIME: &str = include_str!("../page/time.js");
const RUN: &str = include_str!("../page/run.js");
const UPLOT: &str = include_str!("../vendor/uplot/uPlot.iife.min.js");
const UPLOT_LICENSE: &str = include_str!("../vendor/uplot/LICENSE");
const UPLOT_STYLE: &str = include_str!("../vendor/uplot/uPlot.min.css");

/// Most points of the scatter chart.
const MOST_POINTS: usize = 3000;

/// Most requests whose latencies are on a page.
const MOST_LATENCIES: usize = 8000;

/// Requests whose life is shown.
const SLOWEST: usize = 15;

/// Bands of requests by TTFT, by percentile.
const BANDS: [(f64, f64); 6] =
    [(0.0, 25.0), (25.0, 50.0), (50.0, 75.0), (75.0, 90.0), (90.0, 99.0), (99.0, 100.0)];

/// What a page says that neither the run nor its report knows.
#[derive(Debug, Clone, Default)]
pub struct PageContext {
    /// What was run, in a few words.
    pub title: String,
    /// The configuration, as text.
    pub config: String,
    /// The version of servecast.
    pub version: String,
    /// Tokens a KV block.
    pub block_size: u32,
    /// The part of the run that figures are of.
    pub window: Window,
}

#[derive(Serialize)]
struct Page<'a> {
    title: &'a str,
    config: &'a str,
    version: &'a str,
    block_size: u32,
    /// What was run, a line for each part.
    about: Vec<(&'static str, String)>,
    report: &'a Report,
    series: Series,
    pools: Vec<PoolLoad>,
    distributions: Vec<Distribution>,
    parts: [&'static str; 7],
    bands: Vec<Band>,
    scatter: Vec<(u32, f64)>,
    prefix: Vec<(u32, u64, u64)>,
    slowest: Vec<Value>,
    requests: Requests,
}

/// Latencies of the requests that are measured, for targets that are set in the page.
#[derive(Serialize)]
struct Requests {
    /// One in so many is here: a page must stay small.
    every: usize,
    all: usize,
    latencies: Latencies,
}

/// In ms, in order of arrival; null for a request that was not completed, and without a sample.
#[derive(Serialize)]
struct Latencies {
    ttft: Vec<Option<f64>>,
    /// The mean gap between the tokens of a request.
    itl: Vec<Option<f64>>,
    e2e: Vec<Option<f64>>,
}

/// Requests between two percentiles of the TTFT.
#[derive(Serialize)]
struct Band {
    from: f64,
    to: f64,
    requests: usize,
    /// Means of the parts of the TTFT, in ms.
    parts_ms: [f64; 7],
}

/// Renders the page of a run; what was [kept](Activity) while it went on shows how busy workers were and the KV that they
/// used.
pub fn render_page(
    run: &RunRecord,
    activity: Option<&Activity>,
    report: &Report,
    context: &PageContext,
) -> String {
    let series = series(run);
    let page = Page {
        title: &context.title,
        config: &context.config,
        version: &context.version,
        block_size: context.block_size,
        about: about(report),
        report,
        pools: pools(run, &series, activity),
        series,
        distributions: distributions(run),
        parts: TtftBreakdown::NAMES,
        bands: bands(run),
        scatter: scatter(run),
        prefix: prefix(run),
        slowest: slowest(run),
        requests: requests(run, context.window),
    };
    skeleton("servecast report", &[COMMON, DISTRIBUTION, CHARTS, TIME, RUN], &page)
}

/// A page with these scripts, one after the other, and what they show.
pub(crate) fn skeleton(title: &str, scripts: &[&str], data: &impl Serialize) -> String {
    // `<` within a script block could end it.
    let data = serde_json::to_string(data).unwrap_or_default().replace('<', "\\u003c");
    let script = scripts.concat();
    let parts = [
        ("/*TITLE*/", title),
        ("/*UPLOT_STYLE*/", UPLOT_STYLE),
        ("/*STYLE*/", STYLE),
        ("/*UPLOT_LICENSE*/", UPLOT_LICENSE),
        ("/*UPLOT*/", UPLOT),
        ("/*SCRIPT*/", &script),
    ];
    let page = parts.iter().fold(SKELETON.to_owned(), |page, (mark, text)| page.replacen(mark, text, 1));
    page.replacen("/*DATA*/", &data, 1)
}

/// Three significant figures after the point are more than a chart shows.
fn rounded(ms: f64) -> f64 {
    (ms * 1000.0).round() / 1000.0
}

fn finished(run: &RunRecord) -> impl Iterator<Item = (usize, &RequestRecord)> {
    run.requests.iter().enumerate().filter(|(_, request)| request.is_finished())
}

fn bands(run: &RunRecord) -> Vec<Band> {
    let parts = finished(run).filter_map(|(ordinal, _)| run.ttft_breakdown(ordinal));
    let mut parts: Vec<TtftBreakdown> = parts.collect();
    parts.sort_by_key(TtftBreakdown::total);
    let rank = |percent: f64| (percent / 100.0 * parts.len() as f64).round() as usize;
    let band = |(from, to)| {
        let requests = &parts[rank(from)..rank(to)];
        let mut sums = [0.0; 7];
        for request in requests {
            for (sum, part) in sums.iter_mut().zip(request.parts()) {
                *sum += part.as_ms();
            }
        }
        let parts_ms = sums.map(|sum| rounded(sum / requests.len().max(1) as f64));
        Band { from, to, requests: requests.len(), parts_ms }
    };
    BANDS.into_iter().map(band).collect()
}

fn scatter(run: &RunRecord) -> Vec<(u32, f64)> {
    let points =
        finished(run).filter_map(|(_, request)| Some((request.input_tokens, request.ttft()?.as_ms())));
    let points: Vec<(u32, f64)> = points.map(|(tokens, ms)| (tokens, rounded(ms))).collect();
    let step = points.len().div_ceil(MOST_POINTS).max(1);
    points.into_iter().step_by(step).collect()
}

fn requests(run: &RunRecord, window: Window) -> Requests {
    let measured = run.requests.iter().zip(window.is_measured(run)).filter(|(_, is_measured)| *is_measured);
    let measured: Vec<&RequestRecord> = measured.map(|(request, _)| request).collect();
    let every = measured.len().div_ceil(MOST_LATENCIES).max(1);
    let line = |of: &dyn Fn(&RequestRecord) -> Option<f64>| {
        let shown = measured.iter().copied().step_by(every);
        shown.map(|request| of(request).filter(|_| request.is_finished()).map(rounded)).collect()
    };
    let latencies = Latencies {
        ttft: line(&|request| request.ttft().map(Duration::as_ms)),
        itl: line(&tpot_ms),
        e2e: line(&|request| request.e2e().map(Duration::as_ms)),
    };
    Requests { every, all: measured.len(), latencies }
}

/// By depth in the prompt: prompts that reach it, and those that found it in the prefix cache.
fn prefix(run: &RunRecord) -> Vec<(u32, u64, u64)> {
    let longest = finished(run).map(|(_, request)| request.input_tokens).max().unwrap_or(0);
    let step = (longest / 60).max(1).next_multiple_of(64);
    let count =
        |of: &dyn Fn(&RequestRecord) -> bool| finished(run).filter(|(_, request)| of(request)).count();
    (0..longest.div_ceil(step))
        .map(|number| {
            let depth = number * step;
            let reach = count(&|request| request.input_tokens > depth) as u64;
            (depth, reach, count(&|request| request.reused_tokens() > depth) as u64)
        })
        .collect()
}

fn slowest(run: &RunRecord) -> Vec<Value> {
    let mut requests: Vec<(usize, &RequestRecord)> = finished(run).collect();
    requests.sort_unstable_by_key(|(ordinal, request)| (std::cmp::Reverse(request.ttft()), *ordinal));
    let life = |(ordinal, request): (usize, &RequestRecord)| {
        let stages = request.stages.iter().map(|stage| {
            json!({
                "pool": stage.pool.name(), "worker": stage.worker.0,
                "arrived": stage.arrived.as_ms(), "queued": stage.queued.as_ms(),
                "transfer_start": stage.transfer_start.map(Time::as_ms),
                "transfer_end": stage.transfer_end.map(Time::as_ms),
                "admitted": stage.admitted.map(Time::as_ms), "first_token": stage.first_token.map(Time::as_ms),
                "last_token": stage.last_token.map(Time::as_ms), "preemptions": stage.preemptions,
            })
        });
        json!({
            "request": ordinal, "line": request.line, "arrival": request.arrival.as_ms(),
            "input": request.input_tokens, "output": request.output_tokens, "reused": request.reused_tokens(),
            "ttft": request.ttft().map(Duration::as_ms), "tpot": tpot_ms(request), "e2e": request.e2e().map(Duration::as_ms),
            "parts": run.ttft_breakdown(ordinal).map(|parts| parts.parts().map(Duration::as_ms)),
            "stages": stages.collect::<Vec<_>>(),
        })
    };
    requests.into_iter().take(SLOWEST).map(life).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::window::Margin;
    use crate::{SummaryOptions, fixture, summarize};

    fn page(config: &str) -> String {
        page_of(&PageContext {
            title: "a run".to_owned(),
            config: config.to_owned(),
            ..PageContext::default()
        })
    }

    fn page_of(context: &PageContext) -> String {
        let run = fixture::run();
        render_page(&run, None, &summarize(&run, &SummaryOptions::default()), context)
    }

    fn data(page: &str) -> Value {
        let (_, rest) = page.split_once("<script id=\"data\" type=\"application/json\">").unwrap();
        serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
    }

    #[test]
    fn a_page_needs_nothing_else() {
        let page = page("");
        for reference in
            ["src=", "<link", "@import", "url(", "fetch(", "XMLHttpRequest", "/*DATA*/", "/*STYLE*/"]
        {
            assert!(!page.contains(reference), "{reference}");
        }
        assert!(page.len() < 200_000, "{}", page.len());
    }

    #[test]
    fn no_configuration_ends_the_data() {
        let page = page("</script><script>alert(1)</script>");
        assert!(!page.contains("alert(1)</script>"));
        assert_eq!(data(&page)["config"], "</script><script>alert(1)</script>");
    }

    #[test]
    fn bands_hold_every_finished_request_once() {
        let data = data(&page(""));
        let bands = data["bands"].as_array().unwrap();
        let requests: u64 = bands.iter().map(|band| band["requests"].as_u64().unwrap()).sum();
        assert_eq!(requests, 2);
        let sum = |band: &Value| {
            band["parts_ms"].as_array().unwrap().iter().map(|ms| ms.as_f64().unwrap()).sum::<f64>()
        };
        let total: f64 = bands.iter().map(|band| sum(band) * band["requests"].as_f64().unwrap()).sum();
        assert_eq!(total, 100.0, "TTFTs of 20 and 80 ms");
    }

    #[test]
    fn requests_that_were_not_completed_have_no_latency() {
        let data = data(&page(""));
        assert_eq!(
            data["requests"],
            serde_json::json!({"every": 1, "all": 4, "latencies": {
                "ttft": [20.0, 80.0, null, null], "itl": [10.0, 20.0, null, null],
                "e2e": [40.0, 160.0, null, null],
            }})
        );
    }

    #[test]
    fn targets_are_of_the_measured_requests() {
        let window = Window { warmup: Some(Margin::Requests(1)), cooldown: None };
        let data = data(&page_of(&PageContext { window, ..PageContext::default() }));
        assert_eq!(data["requests"]["all"], 3);
        assert_eq!(data["requests"]["latencies"]["ttft"], json!([80.0, null, null]));
    }

    #[test]
    fn distributions_go_from_the_least_to_the_most() {
        let data = data(&page(""));
        let ends = |number: usize| {
            let quantiles = data["distributions"][number]["quantiles"].as_array().unwrap();
            (quantiles[0].as_f64().unwrap(), quantiles.last().unwrap().as_f64().unwrap())
        };
        assert_eq!((ends(0), ends(1), ends(3)), ((20.0, 80.0), (10.0, 40.0), (40.0, 160.0)));
    }
}
