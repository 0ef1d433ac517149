//! The part of a run that its figures are of: without the requests during which caches and queues fill up, and without
//! those at the end of which nothing follows that would load the deployment as before.
//!
//! Requests are left out by when they arrive. They are served all the same, and those that are measured meet what they
//! left behind.
//!
//! A steady state is looked for by MSER-5: K. P. White, "An effective truncation heuristic for bias reduction in
//! simulation output", Simulation 69 (1997), in batches of five as of White, Cobb and Spratt, "A comparison of five
//! steady-state truncation heuristics for simulation", Winter Simulation Conference 2000. The means of five TTFTs at a time,
//! in order of arrival, are cut off at the beginning where that makes the squared standard error of the mean of those
//! that are left the smallest. If that is not within the first half, the run is too short to say, and nothing is cut off.

use std::ops::Range;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use servecast_record::RunRecord;
use servecast_types::{Duration, Message, Time, message};

use crate::part::{Figures, Judges};
use crate::table::{count, grouped};

/// TTFTs whose mean is one sample of MSER-5.
const BATCH: usize = 5;

/// Batches below which no steady state is looked for.
const FEWEST_BATCHES: usize = 10;

/// What is left out at one end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Margin {
    /// Requests that arrive within this time from the first arrival, or up to the last.
    Time(Duration),
    /// So many requests, in order of arrival.
    Requests(u64),
    /// What is before the steady state: only at the beginning.
    Unsteady,
}

/// What a run leaves out at its ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Window {
    /// At the beginning.
    pub warmup: Option<Margin>,
    /// At the end.
    pub cooldown: Option<Margin>,
}

/// How it was found what is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FoundBy {
    /// Somebody said what to leave out.
    Given,
    /// The steady state is by MSER-5 over TTFTs in order of arrival.
    Mser5,
    /// MSER-5 found no steady state: the run is too short, or has none. Nothing is left out at its beginning.
    NoSteadyState,
}

/// Which requests of a run its figures are of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MeasuredPart {
    /// When the first of them arrived, in ms of the run; null if there is none.
    pub from_ms: Option<f64>,
    /// When the last of them arrived, in ms of the run; null if there is none.
    pub to_ms: Option<f64>,
    /// How many they are: `num_requests` of the report.
    pub requests: u64,
    /// Requests that arrived before them and are left out.
    pub left_out_before: u64,
    /// Requests that arrived after them and are left out.
    pub left_out_after: u64,
    /// How it was found.
    pub found_by: FoundBy,
    /// The main figures of all requests of the run.
    pub whole_run: Figures,
}

impl FromStr for Margin {
    type Err = Message;

    fn from_str(text: &str) -> Result<Self, Message> {
        let text = text.trim();
        if text == "auto" {
            return Ok(Self::Unsteady);
        }
        if let Ok(requests) = text.parse() {
            return Ok(Self::Requests(requests));
        }
        let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
        let (number, unit) = text.split_at(unit_at);
        let factor = match unit {
            "ms" => Some(1.0),
            "s" => Some(1000.0),
            "m" => Some(60_000.0),
            "h" => Some(3_600_000.0),
            _ => None,
        };
        let number = number.trim_ascii_end().parse::<f64>().ok().filter(|number| *number >= 0.0);
        let time = number.zip(factor).and_then(|(number, factor)| Time::from_ms(number * factor).ok());
        time.map(|time| Self::Time(time.since(Time::ZERO))).ok_or_else(|| {
            message!(
                "is {}, but must be a time, as 60s (ms, s, m, h), or a number of requests, as 100",
                format!("{text:?}")
            )
        })
    }
}

impl Window {
    /// Whether all requests are measured.
    pub fn is_whole(&self) -> bool {
        *self == Self::default()
    }

    /// The numbers of the requests of a run in order of arrival, which of these are measured, and how that was found.
    fn measured(&self, run: &RunRecord) -> (Vec<usize>, Range<usize>, FoundBy) {
        // On the way to the first pool one may overtake another.
        let mut order: Vec<usize> = (0..run.requests.len()).collect();
        order.sort_by_key(|&number| run.requests[number].arrival);
        let arrival = |number: usize| run.requests[number].arrival;
        let (Some(&first), Some(&last)) = (order.first(), order.last()) else {
            return (order, 0..0, FoundBy::Given);
        };
        let (first, last) = (arrival(first), arrival(last));
        let end = match self.cooldown {
            Some(Margin::Requests(number)) => order.len().saturating_sub(at_most(number)),
            Some(Margin::Time(time)) => order.partition_point(|&number| last.since(arrival(number)) >= time),
            Some(Margin::Unsteady) | None => order.len(),
        };
        let (start, found_by) = match self.warmup {
            Some(Margin::Requests(number)) => (at_most(number), FoundBy::Given),
            Some(Margin::Time(time)) => {
                (order.partition_point(|&number| arrival(number).since(first) < time), FoundBy::Given)
            }
            Some(Margin::Unsteady) => match steady_from(run, &order[..end]) {
                Some(start) => (start, FoundBy::Mser5),
                None => (0, FoundBy::NoSteadyState),
            },
            None => (0, FoundBy::Given),
        };
        (order, start.min(end)..end, found_by)
    }

    /// Of each request of a run, whether it is measured.
    pub(crate) fn is_measured(&self, run: &RunRecord) -> Vec<bool> {
        let (order, range, _) = self.measured(run);
        flags(&order, &range)
    }

    /// The part of a run that is measured, and which it is; `None` if that is all of it.
    ///
    /// # Panics
    /// As [`RunRecord::part`].
    pub fn of(&self, run: &RunRecord, judges: &Judges<'_>) -> Option<(RunRecord, MeasuredPart)> {
        if self.is_whole() {
            return None;
        }
        let (order, range, found_by) = self.measured(run);
        let is_measured = flags(&order, &range);
        let part = run.part(|number| is_measured[number]);
        let at = |number: Option<&usize>| number.map(|&number| run.requests[number].arrival.as_ms());
        let measured = MeasuredPart {
            from_ms: at(order[range.clone()].first()),
            to_ms: at(order[range.clone()].last()),
            requests: range.len() as u64,
            left_out_before: range.start as u64,
            left_out_after: (order.len() - range.end) as u64,
            found_by,
            whole_run: Figures::of(run, judges),
        };
        Some((part, measured))
    }
}

/// Of each request, whether its place in the order is in the range.
fn flags(order: &[usize], range: &Range<usize>) -> Vec<bool> {
    let mut flags = vec![false; order.len()];
    order[range.clone()].iter().for_each(|&number| flags[number] = true);
    flags
}

fn at_most(requests: u64) -> usize {
    usize::try_from(requests).unwrap_or(usize::MAX)
}

/// How many requests, in order of arrival, come before the steady state; `None` if there is none to be seen.
fn steady_from(run: &RunRecord, order: &[usize]) -> Option<usize> {
    let ttft = |place: usize| {
        let request = &run.requests[order[place]];
        request.ttft().filter(|_| request.is_finished()).map(Duration::as_ms)
    };
    let samples: Vec<(usize, f64)> =
        (0..order.len()).filter_map(|place| Some((place, ttft(place)?))).collect();
    let batches = samples.chunks_exact(BATCH);
    let means: Vec<f64> =
        batches.map(|batch| batch.iter().map(|(_, ms)| ms).sum::<f64>() / BATCH as f64).collect();
    let cut = mser(&means)?;
    // Those who were not served at the very beginning stay if nobody is cut off.
    Some(if cut == 0 { 0 } else { samples[cut * BATCH].0 })
}

/// How many samples from the first one to cut off; `None` if that would be half of them or more.
fn mser(samples: &[f64]) -> Option<usize> {
    if samples.len() < FEWEST_BATCHES {
        return None;
    }
    let mut best = (f64::INFINITY, 0);
    // From the last sample on, with mean and squared distances of those that are left so far (Welford).
    let (mut left, mut mean, mut squares) = (0.0, 0.0, 0.0);
    for (cut, sample) in samples.iter().enumerate().rev() {
        left += 1.0;
        let distance = sample - mean;
        mean += distance / left;
        squares += distance * (sample - mean);
        let error = squares / (left * left);
        // Of cuts that are as good, the one that leaves the most.
        if cut <= samples.len() / 2 && error <= best.0 {
            best = (error, cut);
        }
    }
    (best.1 < samples.len() / 2).then_some(best.1)
}

/// What is measured, in words.
pub(crate) fn render_measured(part: &MeasuredPart) -> [String; 2] {
    let MeasuredPart { requests, left_out_before, left_out_after, .. } = part;
    let all = requests + left_out_before + left_out_after;
    let from_to = match (part.from_ms, part.to_ms) {
        (Some(from), Some(to)) => {
            let seconds = |ms: f64| grouped(ms / 1000.0, 2);
            format!(", which arrived from {} to {} s", seconds(from), seconds(to))
        }
        _ => String::new(),
    };
    let found = match part.found_by {
        FoundBy::Given => "as asked for",
        FoundBy::Mser5 => "steady state by MSER-5",
        FoundBy::NoSteadyState => "no steady state found, so nothing is left out before",
    };
    [
        format!(
            "Measured: {} of {} requests{from_to}; {} before and {} after left out ({found})",
            count(*requests),
            count(all),
            count(*left_out_before),
            count(*left_out_after)
        ),
        "  charts, and what pools did (preemptions, iterations, utilization), are of the whole run"
            .to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use servecast_record::{RejectReason, RequestStatus};

    use super::*;
    use crate::{SummaryOptions, fixture, summarize};

    /// The fixture, with the times of its tokens: arrivals at 10, 20, 30 and 60 ms, of which the last two are rejected.
    fn run() -> RunRecord {
        let times = |ms: &[u64]| ms.iter().map(|ms| Time::from_ns(ms * 1_000_000)).collect();
        let tokens = [&[30, 40, 50][..], &[100, 110, 120, 140, 180], &[], &[90, 100]];
        RunRecord { token_times: Some(tokens.into_iter().map(times).collect()), ..fixture::run() }
    }

    fn margin(text: &str) -> Option<Margin> {
        (!text.is_empty()).then(|| text.parse().unwrap())
    }

    fn window(warmup: &str, cooldown: &str) -> Window {
        Window { warmup: margin(warmup), cooldown: margin(cooldown) }
    }

    #[test]
    fn margins_are_times_or_numbers_of_requests() {
        let ms = |ms: u64| Margin::Time(Duration::from_ns(ms * 1_000_000));
        for (text, expected) in [
            ("60s", ms(60_000)),
            ("1.5m", ms(90_000)),
            ("250 ms", ms(250)),
            ("1h", ms(3_600_000)),
            ("0s", ms(0)),
            ("100", Margin::Requests(100)),
            (" auto ", Margin::Unsteady),
        ] {
            assert_eq!(text.parse::<Margin>().unwrap(), expected, "{text}");
        }
        for text in ["", "s", "60 s x", "-5", "-5s", "nans", "infs", "1.5", "60us", "1e300h", "Auto"] {
            assert!(text.parse::<Margin>().is_err(), "{text}");
        }
    }

    /// Which requests are measured, by number: they arrive at 10, 20, 30 and 60 ms.
    #[test]
    fn margins_leave_out_what_arrives_within_them() {
        let run = run();
        for (warmup, cooldown, expected) in [
            ("10ms", "", [false, true, true, true]),
            ("10.001ms", "", [false, false, true, true]),
            ("1", "", [false, true, true, true]),
            ("", "30ms", [true, true, true, false]),
            ("", "30.001ms", [true, true, false, false]),
            ("", "1", [true, true, true, false]),
            ("1", "2", [false, true, false, false]),
            ("3", "2", [false; 4]),
            ("99999999999", "", [false; 4]),
            ("1h", "1h", [false; 4]),
            ("0", "0s", [true; 4]),
        ] {
            assert_eq!(window(warmup, cooldown).is_measured(&run), expected, "{warmup}, {cooldown}");
        }
        assert!(window("5", "5s").is_measured(&RunRecord::default()).is_empty());
    }

    /// Requests overtake each other on the way to their pool: what counts is when they were sent.
    #[test]
    fn order_is_that_of_arrivals() {
        let mut run = run();
        run.requests.swap(0, 3);
        assert_eq!(window("1", "").is_measured(&run), [true, true, true, false]);
    }

    /// Of the second and the third request: prompts of 300 tokens, 100 of them reused; TTFT 80 ms, tokens at 100, 110, 120, 140
    /// and 180 ms, from 20 ms on.
    #[test]
    fn figures_are_of_those_that_are_measured() {
        let options = SummaryOptions {
            window: window("10ms", "1"),
            slo: vec!["p50 ttft <= 80ms".parse().unwrap()],
            ..SummaryOptions::default()
        };
        let report = summarize(&run(), &options);
        let measured = report.measured.clone().unwrap();
        assert_eq!((measured.from_ms, measured.to_ms), (Some(20.0), Some(30.0)));
        assert_eq!([measured.requests, measured.left_out_before, measured.left_out_after], [2, 1, 1]);
        assert_eq!([report.num_requests, report.completed_requests, report.rejected_requests], [2, 1, 1]);
        assert_eq!((report.total_input_tokens, report.total_output_tokens), (300, 5));
        assert_eq!(report.duration_ms, 160.0.into());
        assert_eq!(report.output_throughput_tok_s, (5.0 / 0.16).into());
        assert_eq!(report.prefix_cache_reused_ratio, (1.0 / 3.0).into());
        let itl = report.itl_ms.unwrap();
        assert_eq!([itl.mean, itl.min, itl.max], [20.0, 10.0, 40.0]);
        assert_eq!(report.ttft_ms.unwrap().mean, 80.0);
        let slo = &report.slo.as_ref().unwrap()[0];
        assert_eq!((slo.met, slo.samples, slo.unserved), (false, 2, 1), "one of two waits forever");
        // What pools did is of the whole run, as without a window.
        let whole = summarize(&run(), &SummaryOptions { window: Window::default(), ..options.clone() });
        assert_eq!((&report.pools, report.total_iterations), (&whole.pools, whole.total_iterations));
        assert_eq!(measured.whole_run.num_requests, 4);
        assert_eq!(measured.whole_run.ttft_ms.unwrap().mean, Some(50.0));
        assert_eq!(measured.whole_run.slo, whole.slo);
        assert_eq!(whole.measured, None);
    }

    /// With everything measured, gaps by request are those that are counted together.
    #[test]
    fn gaps_by_request_are_those_of_the_run() {
        let mut run = run();
        // The fixture counts no gap of the request that gave up.
        run.gaps.add(Duration::from_ns(0), 0);
        let part = run.part(|number| number != 3);
        assert_eq!(
            part.gaps.sorted(),
            fixture::run()
                .gaps
                .sorted()
                .into_iter()
                .filter(|gap| gap.1 > 0)
                .map(|(gap, times)| (gap, times - u64::from(gap.as_ns() == 10_000_000)))
                .collect::<Vec<_>>()
        );
    }

    #[test]
    fn nothing_may_be_left() {
        let options = SummaryOptions { window: window("9", ""), ..SummaryOptions::default() };
        let report = summarize(&run(), &options);
        let measured = report.measured.unwrap();
        assert_eq!((measured.requests, measured.from_ms, measured.left_out_before), (0, None, 4));
        assert_eq!((report.ttft_ms, report.num_requests), (crate::Measured(None), 0));
    }

    /// Two of four are not served: of four TTFTs 20, 80, ∞ and ∞, the median lies between 80 and ∞.
    #[test]
    fn who_is_not_served_is_infinite_if_asked_for() {
        let options = SummaryOptions { count_rejected: true, ..SummaryOptions::default() };
        let report = summarize(&run(), &options);
        let ttft = report.ttft_ms.unwrap();
        assert_eq!(
            [ttft.min, ttft.median, ttft.max, ttft.mean],
            [20.0, f64::INFINITY, f64::INFINITY, f64::INFINITY]
        );
        assert_eq!(report.counted_as_infinite, Some(2));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((&json["min_ttft_ms"], &json["median_ttft_ms"]), (&20.0.into(), &serde_json::Value::Null));
        assert_eq!(serde_json::from_value::<crate::Report>(json).unwrap(), report);
        let text = crate::render_table(&report, crate::TableOptions::default());
        assert!(text.contains("not served, counted as infinite in latencies: 2"), "{text}");
        let row = text.lines().find(|line| line.contains("Time to First Token")).unwrap();
        assert!(row.contains("inf") && row.contains("20.00") && !row.contains("NaN"), "{row}");
    }

    /// One that asked for a single token has no gap that could be infinite.
    #[test]
    fn gaps_are_infinite_only_where_there_would_have_been_some() {
        let mut run = run();
        run.requests[2].requested_output_tokens = 1;
        run.requests[3].status = RequestStatus::Rejected(RejectReason::KvCapacity);
        let options = SummaryOptions { count_rejected: true, ..SummaryOptions::default() };
        let report = summarize(&run, &options);
        // TPOTs of 10, 20 and ∞ ms.
        assert_eq!((report.tpot_ms.unwrap().median, report.tpot_ms.unwrap().max), (20.0, f64::INFINITY));
    }

    /// Ten batches of 100, then 30 about 10: the mean is known best from the eleventh on.
    #[test]
    fn the_steady_state_is_where_the_mean_is_known_best() {
        let level = |number: usize| if number < 10 { 100.0 } else { 10.0 + (number % 2) as f64 };
        let samples: Vec<f64> = (0..40).map(level).collect();
        assert_eq!(mser(&samples), Some(10));
        let steady: Vec<f64> = (0..40).map(|number| 10.0 + (number % 3) as f64).collect();
        assert_eq!(mser(&steady), Some(0));
        // One that never settles, and one that is too short.
        let falling: Vec<f64> = (0..40).rev().map(|number| f64::from(number).powi(3)).collect();
        assert_eq!((mser(&falling), mser(&samples[..9])), (None, None));
        // By the definition, for each cut: squared distances of those that are left over the square of their number.
        let mut random = 1_u64;
        for _ in 0..50 {
            let samples: Vec<f64> = (0..37)
                .map(|number| {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (random >> 40) as f64 / 1e6 + 30.0 / f64::from(number + 1)
                })
                .collect();
            let error = |cut: usize| {
                let left = &samples[cut..];
                let mean = left.iter().sum::<f64>() / left.len() as f64;
                left.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (left.len() as f64).powi(2)
            };
            let cuts = 0..=18_usize;
            let best = cuts.min_by(|one, other| error(*one).total_cmp(&error(*other))).unwrap();
            assert_eq!(mser(&samples), (best < 18).then_some(best));
        }
    }

    /// Fifty requests with TTFTs of 500 ms, then 200 with 50: those of the first ten batches are left out.
    #[test]
    fn a_warm_up_is_found_in_a_run() {
        let mut run = run();
        let sample = run.requests[0].clone();
        let request = |number: u64| {
            let (arrival, ttft) = (number * 10, if number < 50 { 500 } else { 50 + number % 2 });
            let time = |ms: u64| Time::from_ns(ms * 1_000_000);
            servecast_record::RequestRecord {
                arrival: time(arrival),
                first_token: Some(time(arrival + ttft)),
                ..sample.clone()
            }
        };
        run.requests = (0..250).map(request).collect();
        run.token_times = Some(vec![Vec::new(); 250]);
        let options = SummaryOptions { window: window("auto", ""), ..SummaryOptions::default() };
        let measured = summarize(&run, &options).measured.unwrap();
        assert_eq!((measured.found_by, measured.left_out_before), (FoundBy::Mser5, 50));
        run.requests.truncate(40);
        let measured = summarize(&run, &options).measured.unwrap();
        assert_eq!((measured.found_by, measured.left_out_before), (FoundBy::NoSteadyState, 0));
        let [line, _] = render_measured(&measured);
        assert_eq!(
            line,
            "Measured: 40 of 40 requests, which arrived from 0.00 to 0.39 s; 0 before and 0 after left out (no steady \
             state found, so nothing is left out before)"
        );
    }
}
