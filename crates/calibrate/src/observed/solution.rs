//! The prices that explain rows best, and which of them the rows do not tell.

use servecast_latency::{Host, Step, StepExperts, StepPrices};

use super::Data;
use super::price::{Kept, PRICES, Price};
use super::row::{self, Row};
use crate::fit::{self, Coefficient};
use crate::solve::Problem;

/// Squares count in full, whatever their size.
const SQUARES: f64 = 1e12;
/// Squares count in full up to so many times what half of the rows are off by. That is far: what is longer now and then is
/// part of how long passes are, and only what is rare, such as a pause of the machine, counts less.
const FAR: f64 = 3.0;
/// Requests that had the engine to themselves from which on these say how long the ways are.
const FEWEST_ALONE: usize = 5;
/// A price is kept if squares are larger by this share without it.
const MATTERS: f64 = 0.002;
/// A least time of passes is fitted if squares are smaller by this share with it.
const LEAST_MATTERS: f64 = 0.005;
/// Passes on either side of a least time.
const FEWEST_LEAST: usize = 50;
/// Shares of passes without prompts, shortest first, from which the search for a least time begins.
const LEAST_STARTS: [f64; 6] = [0.05, 0.1, 0.2, 0.35, 0.5, 0.7];
const MOST_ROUNDS: usize = 30;
/// Rounds in which what rows are measured in is found.
const MOST_WEIGHINGS: usize = 6;

/// Prices, the rows that they are of, and what was left out.
pub(super) struct Solution {
    problem: Problem,
    prices: Vec<f64>,
    kept: Kept,
    /// Squares over all rows.
    squares: f64,
    notes: Vec<String>,
}

impl Solution {
    /// Of what counts, by run and share of its rows before, and of logs of these runs.
    pub(super) fn of(data: &Data, counts: impl Fn(usize, f64) -> bool) -> Self {
        let mut rows = counted(data, counts);
        let fronts = rows.iter().filter(|row| row.of(Price::FrontEnd) > 0.0).count();
        let mut kept = [true; PRICES.len()];
        if fronts < FEWEST_ALONE {
            rows.retain(|row| row.of(Price::FrontEnd) == 0.0);
            kept[Price::FrontEnd.place()] = false;
        }
        if !data.has_log {
            kept[Price::Gap.place()] = false;
            kept[Price::GapSequence.place()] = false;
        }
        let rounds = if data.has_log { MOST_WEIGHINGS } else { 1 };
        for _ in 0..rounds {
            let prices = Self::at(&rows, kept, SQUARES).prices;
            row::weigh(&mut rows, &prices);
        }
        // What each request adds to the work of the host is little, and is worth a price only if there is no doubt of it.
        let all = Self::at(&rows, kept, FAR);
        let widths = all.problem.half_widths(&all.prices, FAR);
        for place in [Price::DeliverySequence, Price::GapSequence].map(Price::place) {
            kept[place] &= widths[place] <= fit::UNSURE * all.prices[place];
        }
        let (best, notes) = Self::at(&rows, kept, FAR).without_idle(&rows);
        Self { notes, ..with_least(&rows, best) }
    }

    fn at(rows: &[Row], kept: Kept, far: f64) -> Self {
        let mut problem = Problem::new(PRICES.len());
        for row in rows {
            problem.push_counted(&row.paid(&kept), row.us, row.unit_us, row.count());
        }
        let prices = problem.solve(far, None);
        let squares = problem.loss(&prices, far);
        Self { problem, prices, kept, squares, notes: Vec::new() }
    }

    /// Without prices that explain nothing, and what is to be said of it. What is left out first is what says most of other
    /// lengths if it is wrong.
    fn without_idle(self, rows: &[Row]) -> (Self, Vec<String>) {
        let (mut best, mut notes) = (self, Vec::new());
        for price in [Price::AttentionPair, Price::PromptBase] {
            if !best.kept[price.place()] || best.price(price) <= 0.0 {
                continue;
            }
            let mut fewer = best.kept;
            fewer[price.place()] = false;
            let without = Self::at(rows, fewer, FAR);
            if without.squares <= best.squares * (1.0 + MATTERS) {
                best = without;
                notes.push(format!(
                    "`{}` is left out: the other prices explain these times as well without it, and a price that \
                     nothing tells from others is wrong for other lengths and loads",
                    price.name()
                ));
            }
        }
        (best, notes)
    }

    fn price(&self, price: Price) -> f64 {
        self.prices[price.place()]
    }

    /// The model. How long ways are is known from requests that had the engine to themselves, or else from when others were
    /// admitted.
    pub(super) fn step(&self, data: &Data, counts: impl Fn(usize) -> bool) -> Step {
        let each = self.price(Price::DeliverySequence);
        let front_end_us = if self.kept[Price::FrontEnd.place()] {
            self.price(Price::FrontEnd)
        } else {
            let of = data.timelines.iter().enumerate().filter(|(run, _)| counts(*run));
            let known: Vec<f64> = of
                .filter_map(|(_, one)| {
                    let sequences: f64 = one.intervals.iter().map(|one| one.before).sum();
                    Some(one.ways_us? - each * sequences / one.intervals.len().max(1) as f64)
                })
                .collect();
            (known.iter().sum::<f64>() / known.len().max(1) as f64).max(0.0)
        };
        let decode = StepPrices {
            base_us: self.price(Price::Base),
            per_sequence_us: self.price(Price::Sequence),
            per_context_token_us: self.price(Price::ContextToken),
            ..StepPrices::default()
        };
        let prefill = StepPrices {
            base_us: decode.base_us + self.price(Price::PromptBase),
            per_prefill_token_us: self.price(Price::PrefillToken),
            per_attention_pair_us: self.price(Price::AttentionPair),
            ..decode
        };
        let experts = data.options.experts.map(|one| StepExperts {
            count: one.count,
            per_token: one.per_token,
            all_us: self.price(Price::Experts),
        });
        let host = Host {
            gap_us: self.price(Price::Gap),
            gap_us_per_request: self.price(Price::GapSequence),
            front_end_us,
            delivery_us_per_request: each,
            ..Host::NONE
        };
        Step { prefill, decode, least_decode_us: self.price(Price::Least), experts, host, error: None }
    }

    /// Prices with their intervals, and what the data do not say.
    pub(super) fn judged(&self, data: &Data) -> (Vec<Coefficient>, Vec<String>) {
        let widths = self.problem.half_widths(&self.prices, FAR);
        let step = self.step(data, |_| true);
        let mut coefficients = Vec::new();
        let shown = |price| match price {
            Price::PromptBase => step.prefill.base_us,
            Price::FrontEnd => step.host.front_end_us,
            price => self.price(price),
        };
        for (place, price) in PRICES.into_iter().enumerate() {
            let (value_us, half_width_us) = (shown(price), widths[place]);
            if price == Price::FrontEnd || self.kept[place] && value_us > 0.0 {
                coefficients.push(Coefficient { name: price.name(), value_us, half_width_us });
            }
        }
        let mut warnings = self.notes.clone();
        warnings.extend(self.hardly_told_apart(&widths));
        if !data.has_log {
            let what = "clients see passes and what lies between them as one: that is in the prices of passes. The log of \
                        the engine (vLLM's --enable-logging-iteration-details) of one of these runs, given with it, \
                        tells them apart (gap_us)";
            warnings.push(what.to_owned());
        }
        (coefficients, warnings)
    }

    fn hardly_told_apart(&self, widths: &[f64]) -> Vec<String> {
        let is_unsure = |price: &Price| {
            let place = price.place();
            self.kept[place] && self.prices[place] > 0.0 && widths[place] > fit::UNSURE * self.prices[place]
        };
        let unsure: Vec<Price> = PRICES.into_iter().filter(is_unsure).collect();
        let mut warnings = Vec::new();
        for (at, left) in unsure.iter().enumerate() {
            for right in &unsure[at + 1..] {
                let correlation = self.problem.correlation(left.place(), right.place());
                if correlation.abs() > fit::TOGETHER {
                    warnings.push(fit::hardly_told_apart(left.name(), right.name(), correlation));
                }
            }
        }
        warnings
    }
}

/// The rows that count, by run and share of its rows before.
fn counted(data: &Data, counts: impl Fn(usize, f64) -> bool) -> Vec<Row> {
    let of_run = |run: usize, rows: &[Row]| {
        let counts = |place: usize| counts(run, (place as f64 + 0.5) / rows.len() as f64);
        let kept = rows.iter().enumerate().filter(|(place, _)| counts(*place));
        kept.map(|(_, row)| *row).collect::<Vec<Row>>()
    };
    let of_runs = data.rows.iter().enumerate().flat_map(|(run, rows)| of_run(run, rows));
    let of_logs = data.logged.iter().flat_map(|(run, rows)| match run {
        Some(run) => of_run(*run, rows),
        None => rows.clone(),
    });
    of_runs.chain(of_logs).collect()
}

/// With a least time of passes without prompts, if that explains more.
fn with_least(rows: &[Row], plain: Solution) -> Solution {
    let mut lengths: Vec<f64> = rows.iter().filter(|row| row.decodes).map(|row| row.us).collect();
    lengths.sort_unstable_by(f64::total_cmp);
    let starts = LEAST_STARTS.iter().filter_map(|share| lengths.get((share * lengths.len() as f64) as usize));
    let found = starts.filter_map(|&start| least_from(rows, &plain, start));
    let best = found.min_by(|left, right| left.squares.total_cmp(&right.squares));
    best.filter(|best| best.squares < plain.squares * (1.0 - LEAST_MATTERS)).unwrap_or(plain)
}

/// The same, searched for from a first guess.
fn least_from(rows: &[Row], plain: &Solution, start: f64) -> Option<Solution> {
    let mut rows = rows.to_vec();
    let (mut least, mut prices) = (start, plain.prices.clone());
    let mut found = None;
    for _ in 0..MOST_ROUNDS {
        let mut changed = 0;
        for row in rows.iter_mut().filter(|row| row.decodes) {
            let is_least = row.pass_us(&prices) < least;
            changed += usize::from(is_least != row.is_least);
            row.is_least = is_least;
        }
        let lasting = rows.iter().filter(|row| row.is_least).count();
        let others = rows.iter().filter(|row| row.decodes).count() - lasting;
        if lasting < FEWEST_LEAST || others < FEWEST_LEAST {
            return None;
        }
        if changed == 0 && found.is_some() {
            break;
        }
        let next = Solution::at(&rows, plain.kept, FAR);
        (least, prices) = (next.price(Price::Least), next.prices.clone());
        found = Some(next);
    }
    found
}
