//! Two runs of the same requests, request by request.

use std::fmt;
use std::io::{self, BufRead};

use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64;
use rustc_hash::FxHashMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use servecast_record::{RequestRecord, RunRecord, StageRecord};
use servecast_types::{Duration, Seed, Time};

use crate::differences::sentences;
use crate::latency::tpot_ms;
use crate::rows::status_name;
use crate::stats::Stats;
use crate::window::Window;

/// Resamples of a confidence interval.
const RESAMPLES: usize = 1000;

/// What is compared of a request.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
pub struct RequestFigures {
    /// Line of the trace: with `turn`, what names a request.
    pub line: u64,
    /// Turn within its session.
    pub turn: u32,
    /// When it was sent, in ms from any origin, where that is known.
    pub arrival_ms: Option<f64>,
    /// Prompt length.
    pub input_length: u32,
    /// Output tokens that it asked for.
    pub requested_output_length: u32,
    /// Output tokens that it got.
    pub output_length: u32,
    /// `finished`, `rejected`, `withdrawn` or `failed`.
    pub status: String,
    /// Whether it is measured, where the run leaves some out.
    #[serde(default = "is_measured")]
    pub measured: bool,
    /// Time to first token.
    pub ttft_ms: Option<f64>,
    /// Mean gap between tokens.
    pub tpot_ms: Option<f64>,
    /// From arrival to the last token.
    pub e2e_latency_ms: Option<f64>,
    /// When it ended, from the origin of `arrival_ms`, where that is known.
    #[serde(default)]
    pub ended_ms: Option<f64>,
    /// Its stays in pools; none where a client measured.
    #[serde(default)]
    pub stages: Vec<StageFigures>,
}

/// The stay of a request in a pool, in ms from the origin of its `arrival_ms`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Deserialize)]
pub struct StageFigures {
    /// When it came to the pool.
    pub arrived_ms: f64,
    /// When it was admitted first.
    pub admitted_ms: Option<f64>,
    /// When it got the first token of the stage.
    pub first_token_ms: Option<f64>,
    /// When it got its last token there.
    pub last_token_ms: Option<f64>,
}

fn is_measured() -> bool {
    true
}

/// Why rows of requests cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RowsError {
    /// The file cannot be read.
    #[error("cannot be read")]
    Io(#[from] io::Error),
    /// A line is no row.
    #[error("line {line}: is no row of --requests-jsonl: {source}")]
    Row {
        /// Which line, from 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

impl RequestFigures {
    /// What is compared of the requests of a run, in order of arrival: what its rows say, with the requests of the window
    /// as those that are measured.
    pub fn of_run(run: &RunRecord, window: Window) -> Vec<Self> {
        let is_measured = window.is_measured(run);
        let stage = |stage: &StageRecord| StageFigures {
            arrived_ms: stage.arrived.as_ms(),
            admitted_ms: stage.admitted.map(Time::as_ms),
            first_token_ms: stage.first_token.map(Time::as_ms),
            last_token_ms: stage.last_token.map(Time::as_ms),
        };
        let one = |(request, measured): (&RequestRecord, bool)| Self {
            line: request.line,
            turn: request.turn,
            arrival_ms: Some(request.arrival.as_ms()),
            input_length: request.input_tokens,
            requested_output_length: request.requested_output_tokens,
            output_length: request.output_tokens,
            status: status_name(request.status).to_owned(),
            measured,
            ttft_ms: request.ttft().map(Duration::as_ms),
            tpot_ms: tpot_ms(request),
            e2e_latency_ms: request.e2e().map(Duration::as_ms),
            ended_ms: Some(request.ended.as_ms()),
            stages: request.stages.iter().map(stage).collect(),
        };
        run.requests.iter().zip(is_measured).map(one).collect()
    }
}

/// Reads rows of `--requests-jsonl`; keys that are not compared are passed over.
pub fn read_request_figures(rows: impl BufRead) -> Result<Vec<RequestFigures>, RowsError> {
    let mut figures = Vec::new();
    for (index, line) in rows.lines().enumerate() {
        let line = line?;
        figures
            .push(serde_json::from_str(&line).map_err(|source| RowsError::Row { line: index + 1, source })?);
    }
    Ok(figures)
}

/// How one latency of the same requests differs between two runs, in ms; changes are the other run minus the baseline.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct PairedChange {
    /// Key of the latency.
    pub metric: &'static str,
    /// Requests that both runs served to the end and that have it.
    pub pairs: usize,
    /// Share of the pairs that got slower.
    pub slower: f64,
    /// Share of the pairs that got faster.
    pub faster: f64,
    /// Mean of the changes.
    pub mean_change_ms: f64,
    /// Median of the changes.
    pub median_change_ms: f64,
    /// 95 % confidence interval of the mean change, by bootstrap over the pairs.
    pub mean_change_interval_ms: [f64; 2],
    /// Change of the 99th percentile.
    pub p99_change_ms: f64,
    /// 95 % confidence interval of the change of the 99th percentile, by bootstrap over the pairs.
    pub p99_change_interval_ms: [f64; 2],
}

impl fmt::Display for PairedChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(sentences(self).trim())
    }
}

type Latency = fn(&RequestFigures) -> Option<f64>;

/// Pairs the requests of two runs; `None` unless both ran the same requests: the same lines with the same prompt
/// lengths.
///
/// Rejected requests have no pair, and those have none that one of the runs leaves out as warm-up or cool-down. Resampling draws from a generator of its own for each latency.
pub fn paired_changes(
    baseline: &[RequestFigures],
    other: &[RequestFigures],
    seed: u64,
) -> Option<Vec<PairedChange>> {
    let by_name: FxHashMap<(u64, u32), &RequestFigures> =
        baseline.iter().map(|request| ((request.line, request.turn), request)).collect();
    if by_name.len() != other.len() || baseline.len() != other.len() {
        return None;
    }
    let mut pairs = Vec::new();
    for request in other {
        let twin = by_name.get(&(request.line, request.turn))?;
        if twin.input_length != request.input_length {
            return None;
        }
        pairs.push((*twin, request));
    }
    Some(changes_of_pairs(&pairs, seed))
}

/// How latencies of pairs of requests differ, over the pairs that both runs served to the end and measure.
pub(crate) fn changes_of_pairs(pairs: &[(&RequestFigures, &RequestFigures)], seed: u64) -> Vec<PairedChange> {
    let counts = |one: &RequestFigures| one.status == "finished" && one.measured;
    let pairs: Vec<_> = pairs.iter().filter(|(twin, request)| counts(twin) && counts(request)).collect();
    let latencies: [(&'static str, Latency); 3] = [
        ("ttft_ms", |request| request.ttft_ms),
        ("tpot_ms", |request| request.tpot_ms),
        ("e2e_latency_ms", |request| request.e2e_latency_ms),
    ];
    let changes = latencies.iter().zip(0_u64..).filter_map(|(&(metric, of), number)| {
        let values = pairs.iter().filter_map(|(twin, request)| Some((of(twin)?, of(request)?)));
        let mut generator = Pcg64::seed_from_u64(Seed(seed).stream(number).0);
        change(metric, &values.collect::<Vec<_>>(), &mut generator)
    });
    changes.collect()
}

fn change(metric: &'static str, pairs: &[(f64, f64)], generator: &mut Pcg64) -> Option<PairedChange> {
    if pairs.is_empty() {
        return None;
    }
    let count = pairs.len();
    let changes: Vec<f64> = pairs.iter().map(|(before, after)| after - before).collect();
    let share =
        |of: &dyn Fn(f64) -> bool| changes.iter().filter(|&&change| of(change)).count() as f64 / count as f64;
    let mean = |values: &[f64]| values.iter().sum::<f64>() / count as f64;
    let (mut before, mut after): (Vec<f64>, Vec<f64>) = pairs.iter().copied().unzip();
    let (mut means, mut tails) = (Vec::with_capacity(RESAMPLES), Vec::with_capacity(RESAMPLES));
    let p99_change = |before: &mut [f64], after: &mut [f64]| p99(after) - p99(before);
    let p99_change_ms = p99_change(&mut before, &mut after);
    for _ in 0..RESAMPLES {
        let mut sum = 0.0;
        for slot in 0..count {
            let pick = generator.random_range(0..count as u32) as usize;
            (before[slot], after[slot]) = pairs[pick];
            sum += changes[pick];
        }
        means.push(sum / count as f64);
        tails.push(p99_change(&mut before, &mut after));
    }
    Some(PairedChange {
        metric,
        pairs: count,
        slower: share(&|change| change > 0.0),
        faster: share(&|change| change < 0.0),
        mean_change_ms: mean(&changes),
        median_change_ms: Stats::of(&changes)?.median,
        mean_change_interval_ms: interval(means),
        p99_change_ms,
        p99_change_interval_ms: interval(tails),
    })
}

/// The 99th percentile, linear as everywhere; changes the order of the samples.
fn p99(samples: &mut [f64]) -> f64 {
    let position = (samples.len() - 1) as f64 * 0.99;
    let rank = position as usize;
    let (_, &mut below, above) = samples.select_nth_unstable_by(rank, f64::total_cmp);
    let next = above.iter().copied().min_by(f64::total_cmp).unwrap_or(below);
    below + (next - below) * (position - rank as f64)
}

/// The central 95 % of resampled figures.
fn interval(mut figures: Vec<f64>) -> [f64; 2] {
    figures.sort_unstable_by(f64::total_cmp);
    [figures[RESAMPLES / 40], figures[RESAMPLES - 1 - RESAMPLES / 40]]
}

#[cfg(test)]
mod tests {
    use servecast_record::RequestStatus;

    use super::*;
    use crate::window::Margin;
    use crate::{fixture, write_request_rows};

    #[test]
    fn requests_of_a_run_are_what_its_rows_say() {
        let mut run = fixture::run();
        run.requests[2].status = RequestStatus::Withdrawn;
        run.requests[3].status = RequestStatus::Failed;
        let window = Window { warmup: Some(Margin::Requests(1)), cooldown: None };
        let mut rows = Vec::new();
        write_request_rows(&run, window, &mut rows).unwrap();
        let figures = RequestFigures::of_run(&run, window);
        assert_eq!(figures, read_request_figures(&rows[..]).unwrap());
        let statuses: Vec<&str> = figures.iter().map(|figures| &*figures.status).collect();
        assert_eq!(statuses, ["finished", "finished", "withdrawn", "failed"]);
        assert_eq!(figures.iter().filter(|figures| figures.measured).count(), 3);
    }

    fn request(line: u64, ttft_ms: f64) -> RequestFigures {
        RequestFigures {
            line,
            turn: 0,
            input_length: 10,
            status: "finished".to_owned(),
            measured: true,
            ttft_ms: Some(ttft_ms),
            e2e_latency_ms: Some(2.0 * ttft_ms),
            ..RequestFigures::default()
        }
    }

    fn run(ttft_ms: impl Fn(u64) -> f64) -> Vec<RequestFigures> {
        (0..200).map(|line| request(line, ttft_ms(line))).collect()
    }

    #[test]
    fn a_constant_change_has_an_interval_without_width() {
        let (before, mut after) = (run(|line| line as f64), run(|line| line as f64 + 8.0));
        // The order of arrival may differ.
        after.reverse();
        let changes = paired_changes(&before, &after, 1).unwrap();
        let metrics: Vec<_> = changes.iter().map(|change| change.metric).collect();
        assert_eq!(metrics, ["ttft_ms", "e2e_latency_ms"], "no request has a tpot");
        let ttft = &changes[0];
        assert_eq!((ttft.pairs, ttft.slower, ttft.faster), (200, 1.0, 0.0));
        assert_eq!((ttft.mean_change_ms, ttft.mean_change_interval_ms), (8.0, [8.0, 8.0]));
        assert!((ttft.p99_change_ms - 8.0).abs() < 1e-9);
    }

    #[test]
    fn an_interval_covers_the_mean_and_depends_on_the_seed_only() {
        let before = run(|line| (line * 7 % 31) as f64);
        let after = run(|line| (line * 11 % 37) as f64);
        let of = |seed| paired_changes(&before, &after, seed).unwrap().swap_remove(0);
        let one = of(1);
        let [low, high] = one.mean_change_interval_ms;
        assert!(low < one.mean_change_ms && one.mean_change_ms < high);
        // Within a tenth of 1.96 standard errors on either side.
        let changes: Vec<f64> =
            before.iter().zip(&after).map(|(a, b)| b.ttft_ms.unwrap() - a.ttft_ms.unwrap()).collect();
        let expected = 2.0 * 1.96 * Stats::of(&changes).unwrap().std / 200_f64.sqrt();
        assert!(((high - low) / expected - 1.0).abs() < 0.1, "{low} {high} {expected}");
        assert_eq!(one, of(1));
        assert_ne!(one, of(2));
    }

    #[test]
    fn the_99th_percentile_is_that_of_the_report() {
        for count in [1, 2, 99, 100, 101, 500] {
            let samples: Vec<f64> = (0..count).map(|number| f64::from(number * 7919 % 503)).collect();
            let expected = Stats::of(&samples).unwrap().p99;
            assert!((p99(&mut samples.clone()) - expected).abs() < 1e-9, "{count}");
        }
    }

    #[test]
    fn other_requests_have_no_pairs() {
        let before = run(|line| line as f64);
        assert_eq!(paired_changes(&before, &before[1..], 1), None);
        let mut longer = before.clone();
        longer[3].input_length += 1;
        assert_eq!(paired_changes(&before, &longer, 1), None);
        let mut rejected = before.clone();
        rejected[3].status = "rejected".to_owned();
        assert_eq!(paired_changes(&before, &rejected, 1).unwrap()[0].pairs, 199);
    }

    #[test]
    fn a_line_that_is_no_row_is_named() {
        let error = read_request_figures(&b"{\"line\":1}\n"[..]).unwrap_err().to_string();
        assert!(error.starts_with("line 1: is no row of --requests-jsonl: missing field"), "{error}");
    }
}
