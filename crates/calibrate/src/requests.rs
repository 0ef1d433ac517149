//! Prices from requests: how they were served is known by their times.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use servecast_engine::EngineArgs;
use servecast_latency::Step;
use servecast_types::Prompt;

use crate::ahead;
use crate::error::CalibrateError;
use crate::fit::{self, Fit, HeldOut};
use crate::observed;
use crate::pairs::{self, Pair};
use crate::passes::PassRun;
use crate::search;
use crate::terms::{Experts, Phases, Terms};

/// What is fitted.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options {
    /// Whether passes that only decode have prices of their own.
    pub phases: Phases,
    /// The experts of the model, if it has any.
    pub experts: Option<Experts>,
}

/// When a request got its tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RequestTimes {
    /// From arrival to the first token, in ms; above 0.
    pub ttft_ms: f64,
    /// From arrival to the last token, in ms; at least as long.
    pub e2e_ms: f64,
}

/// A request that an engine served.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RequestRow {
    /// Where it stands in its file.
    pub line: u64,
    /// When it arrived, in seconds on any clock.
    pub arrival_s: f64,
    /// Prompt length.
    pub input_tokens: u32,
    /// Tokens that it got.
    pub output_tokens: u32,
    /// What the prompt is, if that is known; otherwise nobody shares it.
    pub prompt: Option<Prompt>,
    /// Without them, a request is part of the load and nothing more.
    pub times: Option<RequestTimes>,
    /// Times between its tokens in ms, one fewer than tokens; empty if they are not known.
    pub gaps_ms: Vec<f64>,
    /// Tokens of the prompt that were found in the prefix cache, if that is known.
    pub cached_tokens: Option<u32>,
}

impl RequestRow {
    /// When it got its last token, on the clock of its arrival.
    pub(crate) fn ended_s(&self) -> Option<f64> {
        Some(self.arrival_s + self.times?.e2e_ms / 1e3)
    }

    /// When it got its first token.
    pub(crate) fn first_token_s(&self) -> Option<f64> {
        Some(self.arrival_s + self.times?.ttft_ms / 1e3)
    }
}

/// The requests of one run of a deployment.
#[derive(Debug, Clone)]
pub struct RequestRun {
    /// What it is called.
    pub name: String,
    /// In any order.
    pub rows: Vec<RequestRow>,
    /// The engine, whose `latency` is `step:` and anything.
    pub engine: EngineArgs,
    /// How many of them.
    pub workers: u32,
}

/// Fits prices to requests by simulating them; errors count in proportion to what was measured.
///
/// Given who was in which pass, times of requests are sums of prices. So each round simulates, fits the prices to the
/// sums (held near the old ones), and goes on with the new ones if they are better, as Gauss and Newton do. `follow` is
/// told of every simulation of all runs, and may end it.
///
/// # Errors
/// Without requests, with those of one load level only, with fewer situations than prices, and for requests that the
/// simulated engine does not serve.
pub fn fit_requests(
    runs: &[RequestRun],
    options: Options,
    follow: &mut dyn FnMut(f64) -> ControlFlow<()>,
) -> Result<Fit, CalibrateError> {
    if observed::is_observed(runs) {
        check(runs, &Terms::new(Phases::One, options.experts, true))?;
        return observed::fit_observed(&[], runs, options);
    }
    let (mut fit, off) = search::fit_simulated(runs, options, follow)?;
    if let Some(others) = ahead::one_at_a_time(runs)
        && let Ok((_, other)) = search::fit_simulated(&others, options, follow)
        && other < ahead::LOOKS_LIKE * off
    {
        fit.warnings.push(ahead::looks_synchronous(off, other));
    }
    Ok(fit)
}

/// Fits prices to requests and to logs of the engine that served them, together: the log says what passes cost, the times of
/// tokens what lies between them.
///
/// # Errors
/// For requests of which single tokens are not known, and for logs of other runs.
pub fn fit_both(logs: &[PassRun], runs: &[RequestRun], options: Options) -> Result<Fit, CalibrateError> {
    match logs.first() {
        Some(log) if !observed::is_observed(runs) => {
            Err(CalibrateError::NoTokenTimes { log: log.name.clone() })
        }
        _ => observed::fit_observed(logs, runs, options),
    }
}

/// How far off a model is for the requests of each run that come after the first so many by arrival.
///
/// # Errors
/// For requests that the simulated engine does not serve.
pub fn predict(runs: &[RequestRun], step: &Step, first: usize) -> Result<HeldOut, CalibrateError> {
    let mut all: Vec<Pair> = Vec::new();
    for run in runs {
        let order = arrival_order(run);
        let pairs = pairs::predicted(run, step)?.into_iter().filter(|&(row, _)| order[row] >= first);
        all.extend(pairs.map(|(_, pair)| pair));
    }
    let part = format!("the {} requests after the first {first}", all.len());
    Ok(HeldOut { part, errors_percent: pairs::errors(&all) })
}

/// How many different situations there are, which must be enough.
pub(crate) fn check(runs: &[RequestRun], terms: &Terms) -> Result<usize, CalibrateError> {
    let mut levels = BTreeSet::new();
    let mut points = BTreeSet::new();
    let mut samples = 0;
    for run in runs {
        for (index, load) in under_way(run) {
            let row = &run.rows[index];
            levels.insert(fit::level_of(load));
            points.insert((fit::level_of(load), row.input_tokens, row.output_tokens));
            samples += 1;
        }
    }
    let Some(&only) = levels.first() else {
        let remedy = "rows need arrival, input and output lengths, TTFT and E2E";
        return Err(CalibrateError::Nothing { what: "requests", remedy });
    };
    if levels.len() < 2 {
        return Err(CalibrateError::OneLevel { samples, what: "requests", level: fit::level_name(only) });
    }
    if points.len() < terms.len() {
        return Err(CalibrateError::TooFew { points: points.len(), prices: terms.len() });
    }
    Ok(points.len())
}

/// The place of each row in the order of arrival.
pub(crate) fn arrival_order(run: &RequestRun) -> Vec<usize> {
    let mut rows: Vec<usize> = (0..run.rows.len()).collect();
    rows.sort_by(|&left, &right| run.rows[left].arrival_s.total_cmp(&run.rows[right].arrival_s));
    let mut places = vec![0; rows.len()];
    for (place, row) in rows.into_iter().enumerate() {
        places[row] = place;
    }
    places
}

/// Requests under way on a worker when each measured one arrives, itself included.
pub(crate) fn under_way(run: &RequestRun) -> Vec<(usize, f64)> {
    let sorted = |mut times: Vec<f64>| {
        times.sort_unstable_by(f64::total_cmp);
        times
    };
    let arrivals = sorted(run.rows.iter().map(|row| row.arrival_s).collect());
    let ends = sorted(run.rows.iter().filter_map(RequestRow::ended_s).collect());
    let up_to = |times: &[f64], at: f64| times.partition_point(|&time| time <= at);
    let measured = run.rows.iter().enumerate().filter(|(_, row)| row.times.is_some());
    let load = |(index, row): (usize, &RequestRow)| {
        let under_way = up_to(&arrivals, row.arrival_s).saturating_sub(up_to(&ends, row.arrival_s));
        (index, under_way as f64 / f64::from(run.workers))
    };
    measured.map(load).collect()
}
