//! What a recorded run and its simulation came to, figure by figure.

use serde::Serialize;
use servecast_record::RunRecord;
use servecast_report::DistributionPair;

use super::curves::Curves;
use super::recording::{Recording, Times};

/// Statistics of each time, by the name that figures carry.
const STATISTICS: [(&str, Option<f64>); 4] =
    [("mean", None), ("p50", Some(50.0)), ("p90", Some(90.0)), ("p99", Some(99.0))];
/// Points of a distribution.
const QUANTILES: usize = 200;
/// The row that says how many requests are in no figure.
pub(super) const UNSERVED: &str = "unserved";
const TIMES: [&str; 3] = ["ttft", "tpot", "e2e"];

/// One figure of the recorded run, of the simulation, and of another simulator where that was recorded.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Row {
    pub(super) figure: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) real: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) servecast: Option<f64>,
    /// How far ours is off in percent of the real figure; of a mean absolute percentage error that error itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error_percent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) other: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) other_error_percent: Option<f64>,
}

/// The distribution of a time in ms, from its sorted samples in both.
pub(super) fn distribution(name: String, real: &[f64], ours: &[f64]) -> DistributionPair {
    let quantiles = |values: &[f64]| {
        let at = |number: usize| rank(values, 100.0 * number as f64 / QUANTILES as f64);
        (0..=QUANTILES).filter_map(at).map(|ms| (ms * 1e3).round() / 1e3).collect()
    };
    DistributionPair {
        name,
        real: quantiles(real),
        ours: quantiles(ours),
        samples: [real, ours].map(<[f64]>::len),
        means: [real, ours].map(mean),
    }
}

/// The times of all requests that both served, in order.
pub(super) struct Figures {
    real: Vec<Times>,
    ours: Vec<Times>,
    unserved: usize,
}

impl Figures {
    pub(super) fn of(recording: &Recording, record: &RunRecord) -> Self {
        let mut figures = Self { real: Vec::new(), ours: Vec::new(), unserved: 0 };
        for request in &record.requests {
            let real = &recording.requests[request.line as usize - 1];
            let served = request.first_token.zip(request.last_token).filter(|_| request.is_finished());
            let Some((first, last)) = served else {
                figures.unserved += 1;
                continue;
            };
            figures.real.push(real.times);
            figures.ours.push(Times::new(
                request.arrival.as_ms() / 1e3,
                first.as_ms() / 1e3,
                last.as_ms() / 1e3,
                request.output_tokens,
            ));
        }
        figures
    }

    /// The names of all figures that have an error.
    pub(super) fn names() -> Vec<String> {
        let mut names: Vec<String> = TIMES
            .iter()
            .flat_map(|time| STATISTICS.iter().map(move |(statistic, _)| format!("{statistic}_{time}_ms")))
            .collect();
        names.extend(TIMES.iter().map(|time| format!("{time}_mape")));
        names.extend(["duration_s", "output_tok_per_s"].map(str::to_owned));
        // Of servers.
        names.extend(
            ["median", "p95"].iter().flat_map(|statistic| TIMES.map(|time| format!("{statistic}_{time}_ms"))),
        );
        names.extend(["mean", "median", "p90", "p95", "p99"].map(|statistic| format!("{statistic}_itl_ms")));
        names.extend(
            [
                "request_throughput_rps",
                "output_throughput_tok_s",
                "duration_ms",
                "prefix_hit_percent",
                "host_hit_percent",
                "preemptions",
            ]
            .map(str::to_owned),
        );
        names.extend(Curves::NAMES.map(str::to_owned));
        names
    }

    /// TTFT, TPOT and E2E of the recording and of the simulation.
    pub(super) fn distributions(&self) -> Vec<DistributionPair> {
        let of = |(index, time): (usize, &&str)| {
            let values = |times: &[Times]| sorted(times.iter().filter_map(|times| times.get(index)));
            distribution(time.to_uppercase(), &values(&self.real), &values(&self.ours))
        };
        TIMES.iter().enumerate().map(of).filter(|pair| !pair.real.is_empty()).collect()
    }

    /// All figures, with those of another simulator from the text of its summary.
    pub(super) fn rows(&self, other: Option<&str>) -> Vec<Row> {
        let mut rows = Vec::new();
        for (index, time) in TIMES.iter().enumerate() {
            let column = |times: &[Times]| sorted(times.iter().filter_map(|times| times.get(index)));
            let (real, ours) = (column(&self.real), column(&self.ours));
            for (statistic, percentile) in STATISTICS {
                let value = |values: &[f64]| percentile.map_or_else(|| mean(values), |p| rank(values, p));
                rows.push(Row::new(
                    format!("{statistic}_{time}_ms"),
                    (value(&real), value(&ours)),
                    other.and_then(|text| of_other(text, time, statistic)),
                ));
            }
        }
        for (index, time) in TIMES.iter().enumerate() {
            let pairs = self.real.iter().zip(&self.ours);
            let errors: Vec<f64> = pairs
                .filter_map(|(real, ours)| {
                    let (real, ours) = (real.get(index)?, ours.get(index)?);
                    (real > 0.0).then(|| (ours / real - 1.0).abs() * 100.0)
                })
                .collect();
            let error_percent = mean(&errors);
            rows.push(Row { error_percent, ..Row::empty(format!("{time}_mape")) });
        }
        let span = |times: &[Times]| {
            let start = times.iter().map(|times| times.queued).fold(f64::INFINITY, f64::min);
            let end = times.iter().map(|times| times.last).fold(f64::NEG_INFINITY, f64::max);
            Some(end - start).filter(|span| span.is_finite() && *span > 0.0)
        };
        let (real, ours) = (span(&self.real), span(&self.ours));
        rows.push(Row::new("duration_s".to_owned(), (real, ours), None));
        let tokens = |times: &[Times]| times.iter().map(|times| f64::from(times.output_tokens)).sum::<f64>();
        let rate = |times: &[Times], span: Option<f64>| span.map(|span| tokens(times) / span);
        let rates = (rate(&self.real, real), rate(&self.ours, ours));
        rows.push(Row::new("output_tok_per_s".to_owned(), rates, None));
        if self.unserved > 0 {
            rows.push(Row::only_ours(UNSERVED, self.unserved as f64));
        }
        rows
    }
}

impl Row {
    /// A figure that is an error itself.
    pub(super) fn error(figure: &str, percent: f64) -> Self {
        Self { error_percent: Some(percent), ..Self::empty(figure.to_owned()) }
    }

    /// A figure that the recording does not have.
    pub(super) fn only_ours(figure: &str, value: f64) -> Self {
        Self { servecast: Some(value), ..Self::empty(figure.to_owned()) }
    }

    fn empty(figure: String) -> Self {
        let (real, servecast, error_percent, other, other_error_percent) = (None, None, None, None, None);
        Self { figure, real, servecast, error_percent, other, other_error_percent }
    }

    pub(super) fn new(
        figure: String,
        (real, servecast): (Option<f64>, Option<f64>),
        other: Option<f64>,
    ) -> Self {
        let error = |value: Option<f64>| {
            let (value, real) = (value?, real.filter(|real| *real > 0.0)?);
            Some((value / real - 1.0) * 100.0)
        };
        let (error_percent, other_error_percent) = (error(servecast), error(other));
        Self { figure, real, servecast, error_percent, other, other_error_percent }
    }
}

/// A figure of the summary that `LLMServingSim` writes: `TTFT Mean  65456.6  65820.2  +0.6%`.
fn of_other(text: &str, time: &str, statistic: &str) -> Option<f64> {
    let time = match time {
        "ttft" => "TTFT",
        "tpot" => "TPOT",
        _ => "Latency",
    };
    let statistic = match statistic {
        "mean" => "Mean",
        "p50" => "Median",
        "p90" => "P90",
        _ => "P99",
    };
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let found = words.next() == Some(time) && words.next() == Some(statistic);
        if found { words.nth(1)?.parse().ok() } else { None }
    })
}

pub(super) fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// A percentile of sorted values, linear between ranks.
fn rank(values: &[f64], percentile: f64) -> Option<f64> {
    let last = values.len().checked_sub(1)?;
    let place = percentile / 100.0 * last as f64;
    let low = place.floor() as usize;
    let high = (low + 1).min(last);
    Some(values[low] + (values[high] - values[low]) * (place - low as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_another_simulator_are_found_by_name() {
        let text = "Metric  vLLM  Sim  Diff%\nTTFT Mean 10.0 11.5 +15%\nLatency P99 20.0 19.0 -5%\n";
        assert_eq!(of_other(text, "ttft", "mean"), Some(11.5));
        assert_eq!(of_other(text, "e2e", "p99"), Some(19.0));
        assert_eq!(of_other(text, "tpot", "mean"), None);
    }

    #[test]
    fn percentiles_lie_between_ranks() {
        assert_eq!(rank(&[1.0, 2.0, 3.0, 5.0], 50.0), Some(2.5));
        assert_eq!(rank(&[], 50.0), None);
        assert_eq!(rank(&[7.0], 99.0), Some(7.0));
    }
}
