//! Prices to begin with, from what was seen alone.

use servecast_latency::StepFeatures;

use crate::requests::{RequestRow, RequestRun, RequestTimes};
use crate::solve::Problem;
use crate::terms::{Term, Terms};

/// Requests of a run that are looked at; with more, every n-th.
const MOST_LOOKS: usize = 400;
/// Relative errors up to this count in full: this is a rough picture.
const DELTA: f64 = 0.3;

/// Prices that explain, without any simulation, how long requests took from their first to their last token.
///
/// In that time a request goes through a pass for each further token. Who else got tokens then is known from their own
/// times, and a prompt whose first token came then was computed in these passes.
pub(crate) fn guess(runs: &[RequestRun], terms: &Terms) -> Vec<f64> {
    let mut problem = Problem::new(terms.len());
    for run in runs {
        let seen: Vec<Seen> = run.rows.iter().filter_map(Seen::of).collect();
        let step = seen.len().div_ceil(MOST_LOOKS).max(1);
        for one in seen.iter().step_by(step).filter(|one| one.output_tokens >= 2.0 && one.last > one.first) {
            let (columns, us) = one.pays(&seen, f64::from(run.workers), terms);
            problem.push(&columns, us, us);
        }
    }
    let mut prices = problem.solve(DELTA, None);
    // A price of which this says nothing begins as a small part of a pass.
    let pass = runs.iter().flat_map(|run| &run.rows).filter_map(tpot_us).fold(f64::INFINITY, f64::min);
    let pass = if pass.is_finite() { pass } else { 10_000.0 };
    for base in [Term::Base, Term::DecodeBase] {
        if let Some(position) = terms.position(base) {
            prices[position] = prices[position].max(0.1 * pass);
        }
    }
    if let Some(position) = terms.position(Term::PrefillToken) {
        prices[position] = prices[position].max(1e-3 * pass);
    }
    prices
}

fn tpot_us(row: &RequestRow) -> Option<f64> {
    let RequestTimes { ttft_ms, e2e_ms } = row.times?;
    (row.output_tokens > 1).then(|| (e2e_ms - ttft_ms) * 1e3 / f64::from(row.output_tokens - 1))
}

/// What is known of a request, in µs.
struct Seen {
    first: f64,
    last: f64,
    input_tokens: f64,
    output_tokens: f64,
}

impl Seen {
    fn of(row: &RequestRow) -> Option<Self> {
        let RequestTimes { ttft_ms, e2e_ms } = row.times?;
        let us = |ms: f64| row.arrival_s * 1e6 + ms * 1e3;
        Some(Self {
            first: us(ttft_ms),
            last: us(e2e_ms),
            input_tokens: f64::from(row.input_tokens),
            output_tokens: f64::from(row.output_tokens),
        })
    }

    /// What it pays for from its first to its last token among others on so many workers, and how long that takes.
    fn pays(&self, all: &[Self], workers: f64, terms: &Terms) -> ([f64; crate::terms::MOST_TERMS], f64) {
        let us = self.last - self.first;
        let (mut sequences, mut context, mut prompts) = (0.0, 0.0, 0.0);
        let mut prefill = StepFeatures::default();
        for other in all {
            let from = other.first.max(self.first);
            let to = other.last.min(self.last);
            if to > from {
                let share = (to - from) / us;
                let middle = (f64::midpoint(from, to) - other.first) / (other.last - other.first);
                sequences += share;
                context += share * (other.input_tokens + middle * other.output_tokens);
            }
            if other.first > self.first && other.first <= self.last {
                prompts += 1.0;
                prefill.prefill_tokens += other.input_tokens;
                prefill.attention_pairs += other.input_tokens * other.input_tokens / 2.0;
            }
        }
        let passes = self.output_tokens - 1.0;
        // At least the request itself is there, on its worker.
        let sequences = (sequences / workers).max(1.0);
        let context = (context / workers).max(self.input_tokens);
        let mixed = (prompts / workers).min(passes);
        let decode =
            StepFeatures { sequences, context_tokens: context, tokens: sequences, ..StepFeatures::default() };
        let of_prompts = StepFeatures {
            prefill_tokens: prefill.prefill_tokens / prompts.max(1.0),
            attention_pairs: prefill.attention_pairs / prompts.max(1.0),
            tokens: sequences + prefill.prefill_tokens / prompts.max(1.0),
            ..decode
        };
        let (decode, of_prompts) = (terms.columns(&decode), terms.columns(&of_prompts));
        let mut columns = decode.map(|column| column * (passes - mixed));
        for (column, of_prompts) in columns.iter_mut().zip(of_prompts) {
            *column += of_prompts * mixed;
        }
        // Prompts beyond one a pass come together.
        if let Some(position) = terms.position(Term::PrefillToken) {
            columns[position] = prefill.prefill_tokens / workers;
        }
        if let Some(position) = terms.position(Term::AttentionPair) {
            columns[position] = prefill.attention_pairs / workers;
        }
        (columns, us)
    }
}
