//! Times of requests as they were measured and as they are simulated, and how far apart these are.

use servecast_latency::Step;

use crate::error::CalibrateError;
use crate::fit::{self, Level};
use crate::requests::{RequestRow, RequestRun, RequestTimes, under_way};
use crate::simulate::{self, Served};
use crate::terms::{Phases, Terms};

/// The requests of a run as a model has them, by row.
pub(crate) fn predicted(run: &RequestRun, step: &Step) -> Result<Vec<(usize, Pair)>, CalibrateError> {
    let served = simulate::served_by(run, &Terms::new(Phases::Two, None, true), step.clone())?;
    Ok(pairs(run, &served))
}

/// How far off first tokens are, as a share of all the time to them.
pub(crate) fn ttft_off(pairs: &[(usize, Pair)]) -> f64 {
    let (mut off, mut real) = (0.0, 0.0);
    for (_, Pair { ttft, .. }) in pairs {
        off += (ttft.1 - ttft.0).abs();
        real += ttft.0;
    }
    off / real
}

/// How far off these are.
pub(crate) fn errors_of(pairs: &[(usize, Pair)]) -> Vec<(&'static str, f64)> {
    errors(&pairs.iter().map(|(_, pair)| *pair).collect::<Vec<_>>())
}

/// TTFT, TPOT and E2E in ms, as measured and as simulated.
#[derive(Clone, Copy)]
pub(crate) struct Pair {
    pub(crate) ttft: (f64, f64),
    pub(crate) tpot: Option<(f64, f64)>,
    e2e: (f64, f64),
}

impl Pair {
    /// From the first to the last token, in µs.
    pub(crate) fn decode_us(&self) -> (f64, f64) {
        ((self.e2e.0 - self.ttft.0) * 1e3, (self.e2e.1 - self.ttft.1) * 1e3)
    }
}

/// The requests that were measured, by row.
pub(crate) fn pairs(run: &RequestRun, served: &[Served]) -> Vec<(usize, Pair)> {
    let start = run.rows.iter().map(|row| row.arrival_s).fold(f64::INFINITY, f64::min);
    let pair = |(index, (row, served)): (usize, (&RequestRow, &Served))| {
        let (RequestTimes { ttft_ms, e2e_ms }, (first, last)) = (row.times?, served.as_ref()?);
        let arrival_us = (row.arrival_s - start) * 1e6;
        let since = |at_us: f64| (at_us - arrival_us) / 1e3;
        let (first, last) = (since(first.at_us), since(last.at_us));
        let gaps = f64::from(row.output_tokens) - 1.0;
        let tpot = (gaps > 0.0).then(|| ((e2e_ms - ttft_ms) / gaps, (last - first) / gaps));
        Some((index, Pair { ttft: (ttft_ms, first), tpot, e2e: (e2e_ms, last) }))
    };
    run.rows.iter().zip(served).enumerate().filter_map(pair).collect()
}

/// Errors of means, and the mean error of E2E, in percent.
pub(crate) fn errors(pairs: &[Pair]) -> Vec<(&'static str, f64)> {
    let of = |of: fn(&Pair) -> (f64, f64)| pairs.iter().map(of);
    let named = [
        ("mean_ttft", fit::error_of_means(of(|pair| pair.ttft))),
        ("mean_tpot", fit::error_of_means(pairs.iter().filter_map(|pair| pair.tpot))),
        ("mean_e2e", fit::error_of_means(of(|pair| pair.e2e))),
        ("e2e_mape", fit::mape(of(|pair| pair.e2e))),
    ];
    named.into_iter().filter_map(|(name, error)| Some((name, error?))).collect()
}

/// How far off requests are by load.
pub(crate) fn levels_of(runs: &[RequestRun], pairs: &[Vec<(usize, Pair)>]) -> Vec<Level> {
    let mut by_level = std::collections::BTreeMap::<u32, Vec<Pair>>::new();
    for (run, pairs) in runs.iter().zip(pairs) {
        let pairs: std::collections::BTreeMap<usize, Pair> = pairs.iter().copied().collect();
        for (index, load) in under_way(run) {
            if let Some(pair) = pairs.get(&index) {
                by_level.entry(fit::level_of(load)).or_default().push(*pair);
            }
        }
    }
    let level = |(level, pairs): (u32, Vec<Pair>)| Level {
        under_way: fit::level_name(level),
        samples: pairs.len(),
        errors_percent: errors(&pairs),
    };
    by_level.into_iter().map(level).collect()
}
/// Rows of requests that were under way with nobody else until their first token.
pub(crate) fn alone(run: &RequestRun) -> Vec<usize> {
    let mut order: Vec<usize> = (0..run.rows.len()).collect();
    order.sort_by(|&left, &right| run.rows[left].arrival_s.total_cmp(&run.rows[right].arrival_s));
    let mut others_until = f64::NEG_INFINITY;
    let is_alone = |(place, &row): (usize, &usize)| {
        let one = &run.rows[row];
        let next = order.get(place + 1).map(|&next| run.rows[next].arrival_s);
        let first = one.first_token_s();
        let alone =
            others_until < one.arrival_s && first.is_some_and(|first| next.is_none_or(|next| next > first));
        others_until = others_until.max(one.ended_s().unwrap_or(f64::INFINITY));
        alone.then_some(row)
    };
    order.iter().enumerate().filter_map(is_alone).collect()
}
