//! Passes as rows of what was paid for and how long it took.

use servecast_latency::{StepExperts, StepFeatures};

use super::price::{Columns, Kept, PRICES, Price};
use crate::requests::Options;
use crate::terms::Phases;
use crate::timeline::{Alone, Interval, Timeline};

/// What times are measured to, in µs.
const EXACT_US: f64 = 1.0;

/// Who measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    Log,
    Clients,
}

/// A row: what is paid for, and how long it took.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    pub(super) columns: Columns,
    pub(super) us: f64,
    pub(super) source: Source,
    /// What it is measured in: how far off, typically, rows of its source are that take as long.
    pub(super) unit_us: f64,
    /// Whether it is a pass without prompts, and takes the [least time](Price::Least) of one.
    pub(super) decodes: bool,
    pub(super) is_least: bool,
}

impl Row {
    pub(super) fn of_pass(features: &StepFeatures, us: f64, source: Source, options: Options) -> Self {
        let mut columns = [0.0; PRICES.len()];
        add_pass(&mut columns, features, options);
        let decodes = !features.computes_prompts();
        Self { columns, us, source, unit_us: 1.0, decodes, is_least: false }
    }

    /// From one pass to the next, as clients see it.
    fn of_interval(one: &Interval, has_log: bool, options: Options) -> Self {
        let mut row = Self::of_pass(&one.features, one.us, Source::Clients, options);
        if has_log {
            row.columns[Price::Gap.place()] = 1.0;
            row.columns[Price::GapSequence.place()] = one.before;
        }
        row.columns[Price::DeliverySequence.place()] = one.features.sequences - one.before;
        row
    }

    /// To the first token of a request that had the engine to itself.
    fn of_alone(one: &Alone, has_log: bool, options: Options) -> Self {
        let mut columns = [0.0; PRICES.len()];
        one.passes.iter().for_each(|pass| add_pass(&mut columns, pass, options));
        columns[Price::FrontEnd.place()] = 1.0;
        columns[Price::DeliverySequence.place()] = 1.0;
        if has_log {
            let gaps = one.passes.len() as f64 - 1.0;
            columns[Price::Gap.place()] = gaps;
            columns[Price::GapSequence.place()] = gaps;
        }
        Self { columns, us: one.us, source: Source::Clients, unit_us: 1.0, decodes: false, is_least: false }
    }

    pub(super) fn of(&self, price: Price) -> f64 {
        self.columns[price.place()]
    }

    /// What it pays for of the prices that are kept.
    pub(super) fn paid(&self, kept: &Kept) -> Columns {
        let mut paid = self.columns;
        if self.is_least {
            for price in PRICES.into_iter().filter(|price| price.is_of_decodes()) {
                paid[price.place()] = 0.0;
            }
            paid[Price::Least.place()] = 1.0;
        }
        for (column, kept) in paid.iter_mut().zip(kept) {
            if !kept {
                *column = 0.0;
            }
        }
        paid
    }

    /// How long it is at these prices.
    fn us_at(&self, prices: &[f64]) -> f64 {
        self.columns.iter().zip(prices).map(|(column, us)| column * us).sum()
    }

    /// What its pass costs at these prices if nothing has to be waited for.
    pub(super) fn pass_us(&self, prices: &[f64]) -> f64 {
        let of_pass = PRICES.into_iter().filter(|price| price.is_of_decodes());
        of_pass.map(|price| self.of(price) * prices[price.place()]).sum()
    }

    /// How often it counts: each of its requests waits for the pass.
    pub(super) fn count(&self) -> f64 {
        self.of(Price::Sequence).max(1.0)
    }
}

/// Gives each row its unit: the share that rows of its source are off by, of how long it is at these prices. What makes
/// passes longer now and then makes long ones longer by more; and a log is more exact than what clients see through the
/// network, or as exact where passes themselves vary.
pub(super) fn weigh(rows: &mut [Row], prices: &[f64]) {
    let expected = |row: &Row| row.us_at(prices).max(EXACT_US);
    for source in [Source::Log, Source::Clients] {
        let of = rows.iter().filter(|row| row.source == source);
        let mut off: Vec<f64> = of.map(|row| (row.us - expected(row)).abs() / expected(row)).collect();
        off.sort_unstable_by(f64::total_cmp);
        let share = off.get(off.len() / 2).copied().unwrap_or(0.0);
        for row in rows.iter_mut().filter(|row| row.source == source) {
            row.unit_us = (share * expected(row)).max(EXACT_US);
        }
    }
}

/// Adds what a pass pays for.
fn add_pass(columns: &mut Columns, features: &StepFeatures, options: Options) {
    let prompts = f64::from(u8::from(features.computes_prompts() && options.phases != Phases::One));
    let experts = options
        .experts
        .map_or(0.0, |one| StepExperts::activated(one.count, one.per_token, features.tokens as u64));
    for (column, price) in columns.iter_mut().zip(PRICES) {
        *column += match price {
            Price::Base => 1.0,
            Price::PromptBase => prompts,
            Price::PrefillToken => features.prefill_tokens,
            Price::Sequence => features.sequences,
            Price::ContextToken => features.context_tokens,
            Price::AttentionPair => features.attention_pairs,
            Price::Experts => experts,
            _ => 0.0,
        };
    }
}

/// What clients saw of a run.
pub(super) fn of_clients(timeline: &Timeline, has_log: bool, options: Options) -> Vec<Row> {
    // Spread over the others, so that no interval of a price leaves all of one kind out.
    let each = timeline.intervals.len() / (timeline.alone.len() + 1) + 1;
    let mut rows = Vec::with_capacity(timeline.intervals.len() + timeline.alone.len());
    let mut others = timeline.alone.iter().map(|one| Row::of_alone(one, has_log, options));
    for some in timeline.intervals.chunks(each) {
        rows.extend(some.iter().map(|one| Row::of_interval(one, has_log, options)));
        rows.extend(others.next());
    }
    rows.extend(others);
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_measured_in_a_share_of_how_long_they_are() {
        let row = |requests: f64, us: f64, source| {
            let features = StepFeatures { sequences: requests, ..StepFeatures::default() };
            Row::of_pass(&features, us, source, Options::default())
        };
        // Passes take 1 ms and 1 ms a request; clients see them 10 % off, the log 1 %.
        let mut prices = [0.0; PRICES.len()];
        prices[Price::Base.place()] = 1000.0;
        prices[Price::Sequence.place()] = 1000.0;
        let mut rows = [
            row(1.0, 2200.0, Source::Clients),
            row(9.0, 9000.0, Source::Clients),
            row(1.0, 1980.0, Source::Log),
            row(9.0, 10_100.0, Source::Log),
        ];
        weigh(&mut rows, &prices);
        assert_eq!(rows.map(|row| row.unit_us.round() as u64), [200, 1000, 20, 100]);
        assert_eq!(rows.map(|row| row.count() as u64), [1, 9, 1, 9]);
    }
}
