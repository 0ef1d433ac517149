//! Prices from requests of which only their lengths and times are known.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use servecast_engine::{EngineArgs, EngineType};
use servecast_latency::Step;
use servecast_types::Prompt;

use crate::error::CalibrateError;
use crate::fit::{self, Fit, HeldOut, Level};
use crate::guess::guess;
use crate::observed;
use crate::passes::PassRun;
use crate::simulate::{self, Served, served};
use crate::solve::{Hold, MOST_REFINEMENTS, Problem};
use crate::terms::{Experts, Phases, Term, Terms};

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

/// Relative errors up to this count in full, in the first and in the last rounds.
const DELTAS: [f64; 2] = [0.5, 0.05];
/// Simulations of a run in a round at most.
const MOST_TRIES: usize = 15;
/// Those in a round without a part of the data.
const HELD_OUT_TRIES: usize = 4;
/// Parts of a single run that are held out one after the other.
const PARTS: usize = 5;
/// A loss that is higher by this factor is gone on from.
const TOLERATED: f64 = 1.5;
/// A round is over when the loss changes by less than this share.
const SETTLED: f64 = 1e-4;
/// Prices that a fit can do without, the first one first: reading contexts costs more than having requests does.
const EXPENDABLE: [Term; 3] = [Term::Sequence, Term::DecodeSequence, Term::AttentionPair];
/// Errors that are smaller by this factor are worth more prices.
const MUCH_BETTER: f64 = 0.7;
/// A loss that is higher by this factor explains the times as well.
const AS_WELL: f64 = 1.05;
/// If the end of a run is explained so much worse than the rest, and by so much, others were there whom it does not know.
const WORSE: f64 = 1.5;
const NOTABLE: f64 = 0.02;
/// Outputs that prices of decoding can be known from.
const FEWEST_ENDED: usize = 10;
/// The shortest time to first token that counts as measured to its digits, in µs.
const SHORTEST_US: f64 = 2_000.0;

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
    let (mut fit, off) = fit_simulated(runs, options, follow)?;
    if let Some(others) = one_at_a_time(runs)
        && let Ok((_, other)) = fit_simulated(&others, options, follow)
        && other < LOOKS_LIKE * off
    {
        fit.warnings.push(looks_synchronous(off, other));
    }
    Ok(fit)
}

/// A typical error that is smaller by this factor tells that the engine worked otherwise than its settings say.
pub(crate) const LOOKS_LIKE: f64 = 0.8;

/// The same runs on an engine that schedules an iteration when the one before it has ended; `None` if it does anyway.
pub(crate) fn one_at_a_time(runs: &[RequestRun]) -> Option<Vec<RequestRun>> {
    let ahead = |run: &RequestRun| run.engine.engine_type == EngineType::Vllm && run.engine.async_scheduling;
    let other = |run: &RequestRun| {
        let engine = EngineArgs { async_scheduling: false, ..run.engine.clone() };
        RequestRun { engine, ..run.clone() }
    };
    runs.iter().all(ahead).then(|| runs.iter().map(other).collect())
}

/// What is said if an engine looks like one that does not schedule ahead; shares that times are off by.
pub(crate) fn looks_synchronous(ahead: f64, after: f64) -> String {
    format!(
        "the server looks like one without asynchronous scheduling, which these settings have on: with it times are off by \
         {:.1} %, without by {:.1} %; if it ran without (as on a CPU, or with --no-async-scheduling), say \
         --extra-engine-args '{{\"async_scheduling\": false}}'",
        100.0 * ahead,
        100.0 * after
    )
}

/// The fit, and what a typical time is off by.
fn fit_simulated(
    runs: &[RequestRun],
    options: Options,
    follow: &mut dyn FnMut(f64) -> ControlFlow<()>,
) -> Result<(Fit, f64), CalibrateError> {
    let terms = |phases| Terms::new(phases, options.experts, true);
    let (one, two) = (terms(Phases::One), terms(Phases::Two));
    let points = check(runs, if options.phases == Phases::Two { &two } else { &one })?;
    let ends = runs.iter().map(known_until).collect();
    let mut search = Search { runs, terms: one, follow, ends };
    let mut best = search.begin()?;
    for delta in DELTAS {
        best = search.descend(best, delta, MOST_TRIES, &all)?;
    }
    if options.phases != Phases::One && points >= two.len() {
        best = search.split(best, two, options.phases == Phases::Two)?;
    }
    let (best, is_cut) = search.take_ends(best)?;
    let (best, delta) = search.refine(best)?;
    let (best, left_out) = search.simplify(best, delta)?;
    let (coefficients, mut warnings) = fit::judge(&best.problem, &search.terms, &best.prices, delta);
    warnings.extend(left_out);
    if is_cut {
        let what = "the last requests took longer than the others explain, as in the beginning of a longer run: outputs \
                    that end after the last first token are left out";
        warnings.push(what.to_owned());
    }
    let held_out = search.held_out(&best, delta)?;
    let off = best.off(DELTAS[DELTAS.len() - 1]);
    let fit = Fit {
        step: search.terms.step(&best.prices),
        coefficients,
        levels: levels(runs, &best.served),
        held_out,
        warnings,
    };
    Ok((fit, off))
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
    let mut all = Vec::new();
    for run in runs {
        let served = simulate::served_by(run, &Terms::new(Phases::Two, None, true), *step)?;
        let order = arrival_order(run);
        let pairs = pairs(run, &served).into_iter().filter(|&(row, _)| order[row] >= first);
        all.extend(pairs.map(|(_, pair)| pair));
    }
    let part = format!("the {} requests after the first {first}", all.len());
    Ok(HeldOut { part, errors_percent: errors(&all) })
}

/// What was simulated at some prices.
#[derive(Clone)]
struct Point {
    prices: Vec<f64>,
    problem: Problem,
    /// By run and row.
    served: Vec<Vec<Served>>,
}

impl Point {
    /// A typical relative error.
    fn off(&self, delta: f64) -> f64 {
        self.problem.loss(&self.prices, delta).sqrt()
    }
}

/// Every row counts.
fn all(_run: usize, _row: usize) -> bool {
    true
}

struct Search<'a> {
    runs: &'a [RequestRun],
    terms: Terms,
    follow: &'a mut dyn FnMut(f64) -> ControlFlow<()>,
    /// By run: in seconds, until when outputs must have ended to count.
    ends: Vec<f64>,
}

impl Search<'_> {
    /// The best of a few prices around those that the data suggest.
    fn begin(&mut self) -> Result<Point, CalibrateError> {
        let guessed = guess(self.runs, &self.terms);
        let mut best: Option<(f64, Point)> = None;
        for scale in [1.0, 0.5, 2.0] {
            let prices = guessed.iter().map(|price| price * scale).collect();
            let point = self.simulate(prices, &all)?;
            let loss = point.problem.loss(&point.prices, DELTAS[0]);
            if best.as_ref().is_none_or(|(least, _)| loss < *least) {
                best = Some((loss, point));
            }
        }
        Ok(best.expect("there is more than one scale").1)
    }

    /// Whether enough outputs end before the last first token to go by them alone.
    fn can_be_cut(&self) -> bool {
        let runs = self.runs.iter().zip(&self.ends);
        runs.into_iter().all(|(run, end)| {
            let before = run.rows.iter().filter_map(RequestRow::ended_s).filter(|ended| ended <= end).count();
            before >= FEWEST_ENDED && 20 * before >= run.rows.len()
        })
    }

    /// Gives passes that only decode prices of their own, always or if that explains much more.
    fn split(&mut self, best: Point, two: Terms, always: bool) -> Result<Point, CalibrateError> {
        let delta = DELTAS[DELTAS.len() - 1];
        let prices = two.prices(&self.terms.step(&best.prices));
        let one = std::mem::replace(&mut self.terms, two);
        let start = self.simulate(prices, &all)?;
        let split = self.descend(start, delta, MOST_TRIES, &all)?;
        let (split, _) = self.refine(split)?;
        if always || split.off(delta) < MUCH_BETTER * best.off(delta) {
            return Ok(split);
        }
        self.terms = one;
        Ok(best)
    }

    /// Goes on with all outputs to their end, unless that shows that the runs were recorded in part.
    fn take_ends(&mut self, best: Point) -> Result<(Point, bool), CalibrateError> {
        let delta = DELTAS[DELTAS.len() - 1];
        let can_be_cut = self.can_be_cut();
        let ends = std::mem::replace(&mut self.ends, vec![f64::INFINITY; self.runs.len()]);
        let start = self.simulate(best.prices.clone(), &all)?;
        let whole = self.descend(start, delta, MOST_TRIES, &all)?;
        if can_be_cut && whole.off(delta) > WORSE * best.off(delta) && whole.off(delta) > NOTABLE {
            self.ends = ends;
            return Ok((best, true));
        }
        Ok((whole, false))
    }

    /// Lets errors count in full as far as most of them go, so that requests which met others than in the recording, as few
    /// do in the end, decide nothing; returns how far that is.
    fn refine(&mut self, from: Point) -> Result<(Point, f64), CalibrateError> {
        let (mut best, mut delta) = (from, DELTAS[DELTAS.len() - 1]);
        for _ in 0..MOST_REFINEMENTS {
            let narrower = best.problem.narrower(&best.prices, delta);
            best = self.descend(best, narrower, MOST_TRIES, &all)?;
            let settled = narrower > 0.5 * delta;
            delta = narrower;
            if settled {
                break;
            }
        }
        Ok((best, delta))
    }

    /// Leaves out prices without which the times are explained as well: what they are the data do not say, and a price
    /// that is wrong together with another is wrong for other loads.
    fn simplify(&mut self, best: Point, delta: f64) -> Result<(Point, Vec<String>), CalibrateError> {
        let mut kept = vec![true; self.terms.len()];
        let mut loss = best.problem.loss(&best.prices, delta);
        for term in EXPENDABLE {
            let Some(position) = self.terms.position(term) else { continue };
            kept[position] = false;
            let without = best.problem.only(&kept);
            let found = without.loss(&without.solve(delta, None), delta);
            if found > loss * AS_WELL {
                kept[position] = true;
            } else {
                loss = loss.max(found);
            }
        }
        let dropped: Vec<usize> = (0..kept.len()).filter(|&position| !kept[position]).collect();
        if dropped.is_empty() {
            return Ok((best, Vec::new()));
        }
        let said = |&position: &usize| {
            let name = self.terms.name(position);
            format!("`{name}` is left out: the other prices explain these times as well without it")
        };
        let left_out = dropped.iter().map(said).collect();
        let prices =
            best.prices.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(price, _)| *price).collect();
        let list = self.terms.list.clone();
        self.terms.retain(|term| list.iter().zip(&kept).any(|(&one, kept)| one == term && *kept));
        let start = self.simulate(prices, &all)?;
        Ok((self.descend(start, delta, MOST_TRIES, &all)?, left_out))
    }

    /// Better prices, until they are no longer better by much.
    fn descend(
        &mut self,
        from: Point,
        delta: f64,
        tries: usize,
        counts: &dyn Fn(usize, usize) -> bool,
    ) -> Result<Point, CalibrateError> {
        let mut best = from;
        let mut least = best.problem.loss(&best.prices, delta);
        let (mut now, mut loss) = (best.clone(), least);
        let mut strength = 1e-3;
        let mut quiet = 0;
        for _ in 0..tries {
            let hold = Hold { at: &now.prices, strength };
            let prices = now.problem.solve(delta, Some(hold));
            let point = self.simulate(prices, counts)?;
            let found = point.problem.loss(&point.prices, delta);
            quiet = if (found - loss).abs() < SETTLED * loss { quiet + 1 } else { 0 };
            if found < least {
                (best, least) = (point.clone(), found);
            }
            // A request that slips into another pass makes a jump: a worse point may lead to a better one.
            if found < loss * TOLERATED {
                (now, loss) = (point, found);
                strength = (strength / 10.0_f64).max(1e-9);
            } else {
                strength *= 10.0;
            }
            if quiet >= 2 || strength > 1e4 || least < 1e-14 {
                break;
            }
        }
        Ok(best)
    }

    /// Simulates all runs; `counts` says which rows matter, by run and row.
    fn simulate(
        &mut self,
        prices: Vec<f64>,
        counts: &dyn Fn(usize, usize) -> bool,
    ) -> Result<Point, CalibrateError> {
        let mut point = Point { prices, problem: Problem::new(self.terms.len()), served: Vec::new() };
        for (number, run) in self.runs.iter().enumerate() {
            let served = served(run, &self.terms, &point.prices)?;
            let rows = self.rows(number, &served, &point.prices, &|row| counts(number, row));
            point.problem.extend(rows);
            point.served.push(served);
        }
        let loss = point.problem.loss(&point.prices, DELTAS[DELTAS.len() - 1]);
        match (self.follow)(loss) {
            ControlFlow::Continue(()) => Ok(point),
            ControlFlow::Break(()) => Err(CalibrateError::Interrupted),
        }
    }

    /// The times of requests as sums of prices.
    fn rows(
        &self,
        number: usize,
        served: &[Served],
        prices: &[f64],
        counts: &dyn Fn(usize) -> bool,
    ) -> Problem {
        let run = &self.runs[number];
        let mut problem = Problem::new(self.terms.len());
        let front_end = self.terms.position(Term::FrontEnd);
        let in_front = front_end.map_or(0.0, |position| prices[position]);
        let start = run.rows.iter().map(|row| row.arrival_s).fold(f64::INFINITY, f64::min);
        for (index, (row, served)) in run.rows.iter().zip(served).enumerate() {
            let (Some(RequestTimes { ttft_ms, e2e_ms }), Some((first, last))) = (row.times, served) else {
                continue;
            };
            if !counts(index) {
                continue;
            }
            let mut paid = first.paid;
            if let Some(position) = front_end {
                paid[position] = 1.0;
            }
            let arrival_us = (row.arrival_s - start) * 1e6;
            let ttft_us = ttft_ms * 1e3;
            let came = first.start_us - in_front - arrival_us;
            problem.push(&paid, ttft_us - came, ttft_us.max(SHORTEST_US));
            let decode_us = (e2e_ms - ttft_ms) * 1e3;
            let is_known = row.ended_s().is_some_and(|ended| ended <= self.ends[number]);
            if is_known && row.output_tokens > 1 && decode_us > 0.0 {
                let mut paid = last.paid;
                for (paid, before) in paid.iter_mut().zip(first.paid) {
                    *paid -= before;
                }
                problem.push(&paid, decode_us - (last.start_us - first.start_us), decode_us);
            }
        }
        problem
    }

    /// Fits without each run (of a single one: without each fifth of its requests), and judges by it.
    fn held_out(&mut self, best: &Point, delta: f64) -> Result<Vec<HeldOut>, CalibrateError> {
        let runs = self.runs;
        let single = runs.len() == 1;
        let parts = if single { PARTS } else { runs.len() };
        let order = arrival_order(&runs[0]);
        let part_of = |run: usize, row: usize| {
            if single { order[row] * PARTS / order.len() } else { run }
        };
        let mut held_out = Vec::new();
        for part in 0..parts {
            let counts = |run: usize, row: usize| part_of(run, row) != part;
            let start = self.simulate(best.prices.clone(), &counts)?;
            let found = self.descend(start, delta, HELD_OUT_TRIES, &counts)?;
            let pairs: Vec<Pair> = runs
                .iter()
                .zip(&found.served)
                .enumerate()
                .flat_map(|(number, (run, served))| {
                    pairs(run, served)
                        .into_iter()
                        .filter(move |&(row, _)| part_of(number, row) == part)
                        .map(|(_, pair)| pair)
                })
                .collect();
            let name = if single {
                format!("requests, part {} of {PARTS} by arrival", part + 1)
            } else {
                runs[part].name.clone()
            };
            held_out.push(HeldOut { part: name, errors_percent: errors(&pairs) });
        }
        Ok(held_out)
    }
}

/// Until when a file says all that matters: when its last request gets its first token. If the file is the beginning of a
/// longer run, those behind it have waited until then.
fn known_until(run: &RequestRun) -> f64 {
    run.rows.iter().filter_map(RequestRow::first_token_s).fold(f64::NEG_INFINITY, f64::max)
}

/// The place of each row in the order of arrival.
fn arrival_order(run: &RequestRun) -> Vec<usize> {
    let mut rows: Vec<usize> = (0..run.rows.len()).collect();
    rows.sort_by(|&left, &right| run.rows[left].arrival_s.total_cmp(&run.rows[right].arrival_s));
    let mut places = vec![0; rows.len()];
    for (place, row) in rows.into_iter().enumerate() {
        places[row] = place;
    }
    places
}

/// The requests of a run as a model has them, by row.
pub(crate) fn predicted(run: &RequestRun, step: &Step) -> Result<Vec<(usize, Pair)>, CalibrateError> {
    let served = simulate::served_by(run, &Terms::new(Phases::Two, None, true), *step)?;
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

fn errors(pairs: &[Pair]) -> Vec<(&'static str, f64)> {
    let of = |of: fn(&Pair) -> (f64, f64)| pairs.iter().map(of);
    let named = [
        ("mean_ttft", fit::error_of_means(of(|pair| pair.ttft))),
        ("mean_tpot", fit::error_of_means(pairs.iter().filter_map(|pair| pair.tpot))),
        ("mean_e2e", fit::error_of_means(of(|pair| pair.e2e))),
        ("e2e_mape", fit::mape(of(|pair| pair.e2e))),
    ];
    named.into_iter().filter_map(|(name, error)| Some((name, error?))).collect()
}

/// Requests under way on a worker when each measured one arrives, itself included.
fn under_way(run: &RequestRun) -> Vec<(usize, f64)> {
    let sorted = |mut times: Vec<f64>| {
        times.sort_by(f64::total_cmp);
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

/// How many different situations there are, which must be enough.
fn check(runs: &[RequestRun], terms: &Terms) -> Result<usize, CalibrateError> {
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

fn levels(runs: &[RequestRun], served: &[Vec<Served>]) -> Vec<Level> {
    let pairs: Vec<_> = runs.iter().zip(served).map(|(run, served)| pairs(run, served)).collect();
    levels_of(runs, &pairs)
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
