//! How a run went over time in a few lines, for pages that lay runs over each other, and its latencies for the page of one.
//!
//! From the records of a simulation, or from rows of requests as `--requests-jsonl` writes them and clients measure them.

use serde::Serialize;
use servecast_record::{RequestRecord, RunRecord, StageRecord};
use servecast_types::{Duration, Time};

use crate::latency::tpot_ms;
use crate::page::coarse;
use crate::paired::{RequestFigures, StageFigures};
use crate::series::Axis;
use crate::validation::CurvePair;

/// Most runs whose curves are on a page, which must stay small.
pub const MOST_CURVES: usize = 60;

/// Bins of a run, and of all runs of a page.
const MOST_BINS: usize = 100;
const ALL_BINS: usize = 3000;

/// Averages over equal parts of a run, from its first arrival to its last end.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Curves {
    /// Length of a part, in s.
    bin_s: f64,
    /// Requests that arrive a second.
    arrivals: Vec<f64>,
    latencies: LatencyLines,
    /// Requests that have arrived and not ended; absent where it is not known when all of them ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    under_way: Option<Vec<f64>>,
    /// Those that workers compute, over all pools; absent where a client measured, who does not see it.
    #[serde(skip_serializing_if = "Option::is_none")]
    running: Option<Vec<f64>>,
    /// Those in the queues of router and workers, or waiting for their KV.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<Vec<f64>>,
    /// Tokens of running requests that take KV.
    #[serde(skip_serializing_if = "Option::is_none")]
    kv_tokens: Option<Vec<f64>>,
}

/// Latencies over time; absent where there is no sample.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct LatencyLines {
    /// Mean TTFT of the completed requests that arrive in a bin, in ms.
    pub(crate) ttft: Vec<Option<f64>>,
    /// The longest of them.
    pub(crate) ttft_most: Vec<Option<f64>>,
    /// Mean gap between the tokens that come in a bin, in ms; those of a request count as equal.
    pub(crate) itl: Vec<Option<f64>>,
    /// Mean E2E latency of the completed requests that arrive in a bin, in ms.
    pub(crate) e2e: Vec<Option<f64>>,
}

/// When a request came, and what it took, in ms.
#[derive(Debug, Clone, Copy)]
struct Life {
    arrival: f64,
    /// Only of a completed request.
    ttft: Option<f64>,
    tpot: Option<f64>,
    e2e: Option<f64>,
}

/// A stay of a request in a pool, in ms.
#[derive(Debug, Clone, Copy)]
struct Stay {
    arrived: f64,
    admitted: Option<f64>,
    first_token: Option<f64>,
    end: f64,
    input_tokens: f64,
    output_tokens: f64,
}

impl Curves {
    /// Bins of each of so many runs.
    pub fn bins(runs: usize) -> usize {
        (ALL_BINS / runs.clamp(1, MOST_CURVES)).min(MOST_BINS)
    }

    /// The curves of a run in so many bins; `None` if it has no length.
    pub fn of(run: &RunRecord, bins: usize) -> Option<Self> {
        let spans: Vec<_> =
            run.requests.iter().map(|request| (request.arrival.as_ms(), request.ended.as_ms())).collect();
        let axis = axis_of(&spans, bins)?;
        let stays = run
            .requests
            .iter()
            .flat_map(|request| request.stages.iter().map(|stage| Stay::of(request, stage)));
        Some(Self::new(&axis, &spans, true, lives(run), Some(stays)))
    }

    /// The curves of rows of requests; `None` unless it is known when all were sent, and if they have no length.
    pub fn of_rows(rows: &[RequestFigures], bins: usize) -> Option<Self> {
        let has_ends = rows.iter().all(|row| ended_ms(row).is_some());
        let span = |row: &RequestFigures| Some((row.arrival_ms?, ended_ms(row).or(row.arrival_ms)?));
        let spans: Vec<(f64, f64)> = rows.iter().map(span).collect::<Option<_>>()?;
        let axis = axis_of(&spans, bins)?;
        let life = |row: &RequestFigures| {
            let of = |latency: Option<f64>| latency.filter(|_| row.status == "finished");
            Life {
                arrival: row.arrival_ms.unwrap_or_default(),
                ttft: of(row.ttft_ms),
                tpot: of(row.tpot_ms),
                e2e: of(row.e2e_latency_ms),
            }
        };
        // Who only measured saw no stages.
        let has_stages = rows.iter().any(|row| !row.stages.is_empty());
        let stays = rows.iter().zip(&spans).flat_map(|(row, &(_, ended))| {
            row.stages.iter().map(move |stage| Stay::of_row(row, stage, ended))
        });
        Some(Self::new(&axis, &spans, has_ends, rows.iter().map(life), has_stages.then_some(stays)))
    }

    fn new(
        axis: &Axis,
        spans: &[(f64, f64)],
        has_ends: bool,
        lives: impl Iterator<Item = Life>,
        stays: Option<impl Iterator<Item = Stay>>,
    ) -> Self {
        let [mut arrivals, mut under_way] = [(); 2].map(|()| vec![0.0; axis.bins]);
        for &(arrived, ended) in spans {
            arrivals[axis.bin_of(arrived)] += 1000.0 / axis.bin;
            axis.spread(arrived, ended, |bin, share, _| under_way[bin] += share);
        }
        let [mut running, mut waiting, mut kv_tokens] = [(); 3].map(|()| vec![0.0; axis.bins]);
        let is_known = stays.is_some();
        for stay in stays.into_iter().flatten() {
            let admitted = stay.admitted.unwrap_or(stay.end);
            axis.spread(stay.arrived, admitted, |bin, share, _| waiting[bin] += share);
            let first = stay.first_token.unwrap_or(stay.end);
            axis.spread(admitted, first, |bin, share, _| {
                running[bin] += share;
                kv_tokens[bin] += share * stay.input_tokens;
            });
            axis.spread(first, stay.end, |bin, share, middle| {
                running[bin] += share;
                kv_tokens[bin] += share * (stay.input_tokens + stay.output_tokens * middle);
            });
        }
        let shown = |line: Vec<f64>| line.into_iter().map(coarse).collect::<Vec<f64>>();
        let known = |line| is_known.then(|| shown(line));
        Self {
            bin_s: axis.bin / 1000.0,
            arrivals: shown(arrivals),
            latencies: LatencyLines::new(axis, lives),
            under_way: has_ends.then(|| shown(under_way)),
            running: known(running),
            waiting: known(waiting),
            kv_tokens: known(kv_tokens),
        }
    }
}

impl Stay {
    fn of(request: &RequestRecord, stage: &StageRecord) -> Self {
        Self {
            arrived: stage.arrived.as_ms(),
            admitted: stage.admitted.map(Time::as_ms),
            first_token: stage.first_token.map(Time::as_ms),
            end: stage.last_token.unwrap_or(request.ended).as_ms(),
            input_tokens: request.input_tokens.into(),
            output_tokens: request.output_tokens.into(),
        }
    }

    fn of_row(row: &RequestFigures, stage: &StageFigures, ended: f64) -> Self {
        Self {
            arrived: stage.arrived_ms,
            admitted: stage.admitted_ms,
            first_token: stage.first_token_ms,
            end: stage.last_token_ms.unwrap_or(ended),
            input_tokens: row.input_length.into(),
            output_tokens: row.output_length.into(),
        }
    }
}

/// When a request ended, in ms, where that is known.
fn ended_ms(row: &RequestFigures) -> Option<f64> {
    row.ended_ms.or_else(|| Some(row.arrival_ms? + row.e2e_latency_ms?))
}

/// From the first arrival to the last end, in ms.
fn extent(spans: &[(f64, f64)]) -> Option<(f64, f64)> {
    let start = spans.iter().map(|span| span.0).reduce(f64::min)?;
    let end = spans.iter().map(|span| span.1).reduce(f64::max)?;
    Some((start, end))
}

/// The time of a run, if it has a length: without one, there are no rates.
fn axis_of(spans: &[(f64, f64)], bins: usize) -> Option<Axis> {
    let (start, end) = extent(spans).filter(|(start, end)| end > start)?;
    Some(Axis::new(start, end, bins))
}

/// The requests that are under way in two runs, each since its first arrival, over equal parts of the longer one; `None`
/// unless it is known of all when they came and ended.
pub fn under_way(real: &[RequestFigures], ours: &[RequestFigures]) -> Option<CurvePair> {
    let spans = |rows: &[RequestFigures]| {
        let spans = rows.iter().map(|row| Some((row.arrival_ms?, ended_ms(row)?)));
        let spans: Vec<(f64, f64)> = spans.collect::<Option<_>>()?;
        let (start, end) = extent(&spans)?;
        let since_start = spans.into_iter().map(|(from, to)| (from - start, to - start));
        Some((since_start.collect::<Vec<_>>(), end - start))
    };
    let ((real, real_ms), (ours, ours_ms)) = (spans(real)?, spans(ours)?);
    let axis = axis_of(&[(0.0, real_ms.max(ours_ms))], MOST_BINS)?;
    let line = |spans: Vec<(f64, f64)>| {
        let mut line = vec![0.0; axis.bins];
        for (from, to) in spans {
            axis.spread(from, to, |bin, share, _| line[bin] += share);
        }
        line.into_iter().map(coarse).collect()
    };
    Some(CurvePair {
        name: "Requests under way".to_owned(),
        bin_s: axis.bin / 1000.0,
        real: line(real),
        ours: line(ours),
    })
}

fn lives(run: &RunRecord) -> impl Iterator<Item = Life> {
    run.requests.iter().map(|request| {
        let completed = Some(request).filter(|request| request.is_finished());
        Life {
            arrival: request.arrival.as_ms(),
            ttft: completed.and_then(RequestRecord::ttft).map(Duration::as_ms),
            tpot: completed.and_then(tpot_ms),
            e2e: completed.and_then(RequestRecord::e2e).map(Duration::as_ms),
        }
    })
}

impl LatencyLines {
    /// Of a run.
    pub(crate) fn of(axis: &Axis, run: &RunRecord) -> Self {
        Self::new(axis, lives(run))
    }

    fn new(axis: &Axis, lives: impl Iterator<Item = Life>) -> Self {
        #[derive(Clone, Copy, Default)]
        struct Bin {
            ttft: (f64, u32),
            ttft_most: f64,
            e2e: (f64, u32),
            /// Time in which requests decode, and the gaps within it.
            decode: (f64, f64),
        }
        let mut bins = vec![Bin::default(); axis.bins];
        for Life { arrival, ttft, tpot, e2e } in lives {
            let bin = &mut bins[axis.bin_of(arrival)];
            let add = |sum: &mut (f64, u32), value: Option<f64>| {
                if let Some(value) = value {
                    *sum = (sum.0 + value, sum.1 + 1);
                }
            };
            add(&mut bin.ttft, ttft);
            add(&mut bin.e2e, e2e);
            bin.ttft_most = bin.ttft_most.max(ttft.unwrap_or(0.0));
            if let (Some(ttft), Some(gap), Some(e2e)) = (ttft, tpot.filter(|gap| *gap > 0.0), e2e) {
                axis.spread(arrival + ttft, arrival + e2e, |bin, share, _| {
                    let decode = &mut bins[bin].decode;
                    *decode = (decode.0 + share, decode.1 + share / gap);
                });
            }
        }
        let line = |of: &dyn Fn(&Bin) -> Option<f64>| bins.iter().map(|bin| of(bin).map(coarse)).collect();
        let mean = |(sum, count): (f64, u32)| (count > 0).then(|| sum / f64::from(count));
        Self {
            ttft: line(&|bin| mean(bin.ttft)),
            ttft_most: line(&|bin| (bin.ttft.1 > 0).then_some(bin.ttft_most)),
            itl: line(&|bin| (bin.decode.1 > 0.0).then(|| bin.decode.0 / bin.decode.1)),
            e2e: line(&|bin| mean(bin.e2e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Window, fixture, write_request_rows};

    fn rows() -> Vec<RequestFigures> {
        let mut bytes = Vec::new();
        write_request_rows(&fixture::run(), Window::default(), &mut bytes).unwrap();
        crate::read_request_figures(&bytes[..]).unwrap()
    }

    #[test]
    fn rows_of_a_run_have_its_curves() {
        let run = Curves::of(&fixture::run(), 85);
        assert!(run.is_some());
        assert_eq!(Curves::of_rows(&rows(), 85), run);
    }

    #[test]
    fn averages_keep_what_they_average() {
        let curves = Curves::of(&fixture::run(), 85).unwrap();
        let total = |line: &[f64]| line.iter().sum::<f64>() * curves.bin_s * 1000.0;
        let near = |found: f64, expected: f64| {
            assert!((found - expected).abs() < 0.02 * expected, "{found} {expected}");
        };
        // 40, 160 and 50 ms; 38 and 38, 36, 100; 2, 4, 20 and 2.
        near(total(curves.under_way.as_ref().unwrap()), 250.0);
        near(total(curves.running.as_ref().unwrap()), 212.0);
        near(total(curves.waiting.as_ref().unwrap()), 28.0);
        near(total(&curves.arrivals) / 1000.0, 4.0);
    }

    #[test]
    fn latencies_are_of_completed_requests_and_absent_without_one() {
        // A bin is 2 ms long, from 10 ms on.
        let lines = Curves::of(&fixture::run(), 85).unwrap().latencies;
        let at = |ms: usize| (ms - 10) / 2;
        assert_eq!((lines.ttft[at(10)], lines.e2e[at(10)]), (Some(20.0), Some(40.0)));
        assert_eq!((lines.ttft[at(20)], lines.ttft_most[at(20)]), (Some(80.0), Some(80.0)));
        assert_eq!([lines.ttft[at(30)], lines.ttft[at(60)], lines.e2e[at(60)]], [None; 3], "rejected");
        assert_eq!(
            [at(20), at(40), at(90), at(150)].map(|bin| lines.itl[bin]),
            [None, Some(10.0), None, Some(20.0)]
        );
    }

    #[test]
    fn who_only_measured_saw_no_queues() {
        let mut rows = rows();
        for row in &mut rows {
            row.stages.clear();
            row.ended_ms = None;
        }
        let curves = Curves::of_rows(&rows, 10).unwrap();
        assert_eq!((curves.running, curves.waiting, curves.kv_tokens), (None, None, None));
        // Two of them were not served, and nobody knows when they were turned away.
        assert_eq!(curves.under_way, None);
        rows.retain(|row| row.status == "finished");
        let under_way = Curves::of_rows(&rows, 10).unwrap().under_way.unwrap();
        assert!(under_way.iter().any(|under_way| *under_way > 0.0));
        rows[0].arrival_ms = None;
        assert_eq!(Curves::of_rows(&rows, 10), None);
    }

    #[test]
    fn a_run_without_length_has_no_curves() {
        assert_eq!(Curves::of(&RunRecord::default(), 10), None);
        let mut run = fixture::run();
        run.requests.truncate(1);
        assert!(Curves::of(&run, 10).is_some());
        run.requests[0].ended = run.requests[0].arrival;
        assert_eq!(Curves::of(&run, 10), None, "a request in no time is no rate");
    }

    #[test]
    fn runs_beyond_those_of_a_page_do_not_coarsen_it() {
        assert_eq!((Curves::bins(2), Curves::bins(MOST_CURVES)), (100, 50));
        assert_eq!(Curves::bins(10_000), Curves::bins(MOST_CURVES));
    }

    #[test]
    fn a_request_far_from_all_others_takes_no_more_bins() {
        let at = |sent: f64| RequestFigures {
            arrival_ms: Some(sent),
            e2e_latency_ms: Some(1000.0),
            ..RequestFigures::default()
        };
        // The start of one was not written down, beside Unix times.
        let pair = under_way(&[at(0.0), at(1.7e12)], &[at(0.0), at(500.0)]).unwrap();
        assert_eq!((pair.real.len(), pair.ours.len()), (MOST_BINS, MOST_BINS));
        let near = under_way(&[at(5e3), at(5.5e3)], &[at(0.0)]).unwrap();
        let total = |line: &[f64]| line.iter().sum::<f64>() * near.bin_s;
        assert!((near.bin_s - 0.015).abs() < 1e-12, "{near:?}");
        assert!((total(&near.real) - 2.0).abs() < 0.02 && (total(&near.ours) - 1.0).abs() < 0.02, "{near:?}");
        assert_eq!(under_way(&[at(0.0)], &[RequestFigures::default()]), None);
    }
}
