//! How a run went over time, from the records of its requests.

use serde::Serialize;
use servecast_record::{RequestRecord, RunRecord, StageRecord};
use servecast_types::Time;

use crate::curves::LatencyLines;

/// Bins of time of a run.
pub(crate) const BINS: usize = 400;

/// Averages over bins of equal length.
#[derive(Debug, Serialize)]
pub(crate) struct Series {
    /// Start of the first bin, in ms.
    pub(crate) start_ms: f64,
    /// Length of a bin, in ms.
    pub(crate) bin_ms: f64,
    /// From the first arrival to the last end.
    #[serde(skip)]
    pub(crate) span: (Time, Time),
    /// Requests that arrive a second.
    pub(crate) arrivals: Vec<f64>,
    /// Share of the prompt tokens of requests admitted in the bin that were reused; absent without any.
    pub(crate) reuse: Vec<Option<f64>>,
    pub(crate) latencies: LatencyLines,
    pub(crate) pools: Vec<PoolSeries>,
}

/// Of a pool.
#[derive(Debug, Serialize)]
pub(crate) struct PoolSeries {
    pub(crate) pool: &'static str,
    /// Requests that a worker computes.
    pub(crate) running: Vec<f64>,
    /// Requests in the queues of router and workers, or waiting for their KV.
    pub(crate) waiting: Vec<f64>,
    /// Tokens of running requests that take KV: the prompt, and the output as far as it is there.
    pub(crate) context_tokens: Vec<f64>,
    /// Tokens computed a second: prompts spread from admission to first token, output from first to last token.
    pub(crate) tokens: Vec<f64>,
    /// By worker; on a page they are [rows](crate::page).
    #[serde(skip)]
    pub(crate) workers: Vec<WorkerSeries>,
}

/// Of a worker.
#[derive(Debug, Clone)]
pub(crate) struct WorkerSeries {
    /// Requests that it computes.
    pub(crate) running: Vec<f64>,
    /// Requests that it has but does not compute.
    pub(crate) waiting: Vec<f64>,
    /// Prompt tokens reused and in all, of requests admitted in the bin.
    pub(crate) prompts: Vec<(f64, f64)>,
}

/// The time axis, in ms.
pub(crate) struct Axis {
    pub(crate) start: f64,
    /// Length of a bin.
    pub(crate) bin: f64,
    pub(crate) bins: usize,
}

impl Axis {
    /// So many bins between two times.
    pub(crate) fn new(start: f64, end: f64, bins: usize) -> Self {
        Self { start, bin: ((end - start) / bins as f64).max(1e-6), bins }
    }

    pub(crate) fn bin_of(&self, time: f64) -> usize {
        (((time - self.start) / self.bin) as usize).min(self.bins - 1)
    }

    /// Calls `add` with each bin between two times, the share of the bin that lies between them, and where in between
    /// its middle is, from 0 to 1.
    pub(crate) fn spread(&self, from: f64, to: f64, mut add: impl FnMut(usize, f64, f64)) {
        for bin in self.bin_of(from)..=self.bin_of(to) {
            let left = (self.start + bin as f64 * self.bin).max(from);
            let right = (self.start + (bin + 1) as f64 * self.bin).min(to);
            if right > left {
                add(bin, (right - left) / self.bin, (f64::midpoint(left, right) - from) / (to - from));
            }
        }
    }
}

/// The series of a run.
pub(crate) fn series(run: &RunRecord) -> Series {
    let from = run.requests.iter().map(|request| request.arrival).min().unwrap_or(Time::ZERO);
    let to = run.requests.iter().map(|request| request.ended).max().unwrap_or(Time::ZERO);
    let axis = Axis::new(from.as_ms(), to.as_ms(), BINS);
    let mut arrivals = vec![0.0; BINS];
    let mut prompts = vec![(0.0, 0.0); BINS];
    let worker =
        WorkerSeries { running: vec![0.0; BINS], waiting: vec![0.0; BINS], prompts: vec![(0.0, 0.0); BINS] };
    let mut pools: Vec<PoolSeries> = run
        .pools
        .iter()
        .map(|pool| PoolSeries {
            pool: pool.role.name(),
            running: vec![0.0; BINS],
            waiting: vec![0.0; BINS],
            context_tokens: vec![0.0; BINS],
            tokens: vec![0.0; BINS],
            workers: vec![worker.clone(); pool.workers.len()],
        })
        .collect();
    for request in &run.requests {
        arrivals[axis.bin_of(request.arrival.as_ms())] += 1000.0 / axis.bin;
        if let Some(admitted) = request.stages.first().and_then(|stage| stage.admitted) {
            let (reused, all) = &mut prompts[axis.bin_of(admitted.as_ms())];
            *reused += f64::from(request.reused_tokens());
            *all += f64::from(request.input_tokens);
        }
        for stage in &request.stages {
            let pool = run.pools.iter().position(|pool| pool.role == stage.pool);
            if let Some(pool) = pool {
                pools[pool].add(&axis, request, stage);
            }
        }
    }
    for series in &mut pools {
        let lines =
            [&mut series.running, &mut series.waiting, &mut series.context_tokens, &mut series.tokens];
        for value in lines.into_iter().flatten() {
            *value = (*value * 100.0).round() / 100.0;
        }
    }
    for rate in &mut arrivals {
        *rate = (*rate * 1000.0).round() / 1000.0;
    }
    let share = |&(reused, all): &(f64, f64)| (all > 0.0).then(|| (reused / all * 1e4).round() / 1e4);
    Series {
        start_ms: axis.start,
        bin_ms: axis.bin,
        span: (from, to),
        arrivals,
        reuse: prompts.iter().map(share).collect(),
        latencies: LatencyLines::of(&axis, run),
        pools,
    }
}

impl PoolSeries {
    fn add(&mut self, axis: &Axis, request: &RequestRecord, stage: &StageRecord) {
        let arrived = stage.arrived.as_ms();
        let end = stage.last_token.unwrap_or(request.ended).as_ms();
        let admitted = stage.admitted.map_or(end, Time::as_ms);
        let worker = &mut self.workers[stage.worker.index()];
        axis.spread(arrived, admitted, |bin, share, _| self.waiting[bin] += share);
        axis.spread(stage.queued.as_ms(), admitted, |bin, share, _| worker.waiting[bin] += share);
        if let Some(admitted) = stage.admitted {
            let (reused, all) = &mut worker.prompts[axis.bin_of(admitted.as_ms())];
            *reused += f64::from(stage.reused_tokens);
            *all += f64::from(request.input_tokens);
        }
        let first = stage.first_token.map_or(end, Time::as_ms);
        let (input, output) = (f64::from(request.input_tokens), f64::from(request.output_tokens));
        axis.spread(admitted, first, |bin, share, _| {
            self.running[bin] += share;
            worker.running[bin] += share;
            self.context_tokens[bin] += share * input;
            let prompt = f64::from(request.input_tokens.saturating_sub(stage.reused_tokens));
            self.tokens[bin] += prompt * share / (first - admitted) * 1000.0;
        });
        axis.spread(first, end, |bin, share, middle| {
            self.running[bin] += share;
            worker.running[bin] += share;
            self.context_tokens[bin] += share * (input + output * middle);
            self.tokens[bin] += (output - 1.0).max(0.0) * share / (end - first) * 1000.0;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture;

    #[test]
    fn averages_over_bins_keep_what_they_average() {
        let series = series(&fixture::run());
        let total = |line: &[f64]| line.iter().sum::<f64>() * series.bin_ms;
        let near = |found: f64, expected: f64| {
            assert!((found - expected).abs() < 0.02 * expected, "{found} {expected}");
        };
        let [aggregated, prefill, decode] = &series.pools[..] else { panic!("three pools") };
        // 12 to 50 and 62 to 100; 24 to 60; 80 to 180.
        near(total(&aggregated.running), 38.0 + 38.0);
        near(total(&prefill.running), 36.0);
        near(total(&decode.running), 100.0);
        near(total(&decode.workers[1].running), 100.0);
        near(total(&decode.waiting), 20.0);
        near(total(&prefill.tokens) / 1000.0, 200.0);
        near(total(&series.arrivals) / 1000.0, 4.0);
    }
}
