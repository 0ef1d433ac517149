//! Prices from requests of which only their lengths and times are known: they are simulated.

use std::ops::ControlFlow;

use servecast_latency::Step;

use crate::error::CalibrateError;
use crate::fit::{self, Fit, HeldOut, Level};
use crate::guess::guess;
use crate::held_out::Parts;
use crate::pairs;
use crate::requests::{self, Options, RequestRow, RequestRun, RequestTimes};
use crate::simulate::{Served, served};
use crate::solve::{Hold, MOST_REFINEMENTS, Problem};
use crate::terms::{Phases, Term, Terms};

/// Relative errors up to this count in full, in the first and in the last rounds.
const DELTAS: [f64; 2] = [0.5, 0.05];
/// Simulations of a run in a round at most.
const MOST_TRIES: usize = 15;
/// Those in a round without a part of the data.
const HELD_OUT_TRIES: usize = 4;
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

/// The fit, and what a typical time is off by.
pub(crate) fn fit_simulated(
    runs: &[RequestRun],
    options: Options,
    follow: &mut dyn FnMut(f64) -> ControlFlow<()>,
) -> Result<(Fit, f64), CalibrateError> {
    let terms = |phases| Terms::new(phases, options.experts, true);
    let (one, two) = (terms(Phases::One), terms(Phases::Two));
    let points = requests::check(runs, if options.phases == Phases::Two { &two } else { &one })?;
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
    let parts = Parts::of(runs);
    let held_out = search.held_out(&parts, &best, delta)?;
    let off = best.off(DELTAS[DELTAS.len() - 1]);
    let fit = Fit {
        step: Step { error: Some(parts.error_bar(&held_out)), ..search.terms.step(&best.prices) },
        coefficients,
        levels: levels(runs, &best.served),
        held_out,
        warnings,
    };
    Ok((fit, off))
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

    /// Fits without each part, and judges by it.
    fn held_out(
        &mut self,
        parts: &Parts<'_>,
        best: &Point,
        delta: f64,
    ) -> Result<Vec<HeldOut>, CalibrateError> {
        let mut held_out = Vec::new();
        for fold in parts.folds() {
            let counts = |run: usize, row: usize| !parts.holds(fold, run, row);
            let start = self.simulate(best.prices.clone(), &counts)?;
            let found = self.descend(start, delta, HELD_OUT_TRIES, &counts)?;
            let served = self.runs.iter().zip(&found.served).map(|(run, served)| pairs::pairs(run, served));
            held_out.extend(parts.judge(fold, &served.collect::<Vec<_>>()));
        }
        Ok(held_out)
    }
}

/// Until when a file says all that matters: when its last request gets its first token. If the file is the beginning of a
/// longer run, those behind it have waited until then.
fn known_until(run: &RequestRun) -> f64 {
    run.rows.iter().filter_map(RequestRow::first_token_s).fold(f64::NEG_INFINITY, f64::max)
}

fn levels(runs: &[RequestRun], served: &[Vec<Served>]) -> Vec<Level> {
    let pairs: Vec<_> = runs.iter().zip(served).map(|(run, served)| pairs::pairs(run, served)).collect();
    pairs::levels_of(runs, &pairs)
}
