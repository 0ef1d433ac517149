//! Prices from passes that are known: by the times of single tokens, by the log of the engine, or by both.
//!
//! A log knows how long passes took, clients how long it is from one to the next. Together they tell what passes cost from
//! what the host does between them.

use servecast_latency::{Host, Step, StepExperts, StepFeatures, StepPrices};

use crate::ahead;
use crate::error::CalibrateError;
use crate::fit::{self, Coefficient, Fit};
use crate::held_out::Parts;
use crate::log::align;
use crate::pairs;
use crate::passes::PassRun;
use crate::requests::{Options, RequestRun};
use crate::solve::Problem;
use crate::terms::Phases;
use crate::timeline::{Timeline, timeline};

/// What is paid for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Price {
    Base,
    /// Of passes with prompts, on top.
    PromptBase,
    PrefillToken,
    Sequence,
    ContextToken,
    AttentionPair,
    Experts,
    /// Of passes without prompts that take as long as any does.
    Least,
    FrontEnd,
    Gap,
    GapSequence,
    DeliverySequence,
}

/// All of them, in the order of columns.
const PRICES: [Price; 12] = [
    Price::Base,
    Price::PromptBase,
    Price::PrefillToken,
    Price::Sequence,
    Price::ContextToken,
    Price::AttentionPair,
    Price::Experts,
    Price::Least,
    Price::FrontEnd,
    Price::Gap,
    Price::GapSequence,
    Price::DeliverySequence,
];

/// What each of [`PRICES`] is paid for, in a row.
type Columns = [f64; PRICES.len()];

/// Squares count in full, whatever their size.
const SQUARES: f64 = 1e12;
/// Squares count in full up to so many times what half of the rows are off by. That is far: what is longer now and then is
/// part of how long passes are, and only what is rare, such as a pause of the machine, counts less.
const FAR: f64 = 5.0;
/// What times are measured to, in µs.
const EXACT_US: f64 = 1.0;
/// Requests that had the engine to themselves from which on these say how long the ways are.
const FEWEST_ALONE: usize = 5;
/// Passes from which on something is fitted to them.
const FEWEST_PASSES: usize = 50;
/// A price is kept if squares are larger by this share without it.
const MATTERS: f64 = 0.002;
/// A least time of passes is fitted if squares are smaller by this share with it.
const LEAST_MATTERS: f64 = 0.005;
/// Shares of passes without prompts, shortest first, from which the search for a least time begins.
const LEAST_STARTS: [f64; 6] = [0.05, 0.1, 0.2, 0.35, 0.5, 0.7];
const MOST_ROUNDS: usize = 30;

/// Who measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Log,
    Clients,
}

/// A row: what is paid for, and how long it took.
#[derive(Debug, Clone, Copy)]
struct Row {
    columns: Columns,
    us: f64,
    source: Source,
    /// What it is measured in: how far off, typically, rows of its source are.
    unit_us: f64,
    /// Whether it is a pass without prompts, and takes the [least time](Price::Least) of one.
    decodes: bool,
    is_least: bool,
}

/// Everything that is known of passes.
struct Data {
    /// By run of requests.
    rows: Vec<Vec<Row>>,
    /// Of logs, and of which run each is, if that is known.
    logged: Vec<(Option<usize>, Vec<Row>)>,
    timelines: Vec<Timeline>,
    has_log: bool,
    options: Options,
}

/// Whether runs say when each of their tokens came, or logs of some are there.
pub(crate) fn is_observed(runs: &[RequestRun]) -> bool {
    let known: Vec<Timeline> = runs.iter().filter_map(timeline).collect();
    known.len() == runs.len() && known.iter().map(|one| one.intervals.len()).sum::<usize>() >= FEWEST_PASSES
}

/// Fits prices to the passes of runs whose tokens are known one by one, and of logs of these runs.
///
/// # Errors
/// For a log that is of none of the runs, and for requests that the simulated engine does not serve.
pub(crate) fn fit_observed(
    logs: &[PassRun],
    runs: &[RequestRun],
    options: Options,
) -> Result<Fit, CalibrateError> {
    let data = Data::new(logs, runs, options)?;
    let solution = Solution::of(&data, |_, _| true);
    let (coefficients, mut warnings) = solution.judged(&data);
    let step = solution.step(&data, |_| true);
    let served = runs.iter().map(|run| pairs::predicted(run, &step)).collect::<Result<Vec<_>, _>>()?;
    let levels = pairs::levels_of(runs, &served);
    // Passes are what they are; when requests come into them shows how they are scheduled.
    if let Some(others) = ahead::one_at_a_time(runs) {
        let after = others.iter().map(|run| pairs::predicted(run, &step)).collect::<Result<Vec<_>, _>>()?;
        let [ahead, after] = [served, after].map(|pairs| pairs::ttft_off(&pairs.concat()));
        if after < ahead::LOOKS_LIKE * ahead {
            warnings.push(ahead::looks_synchronous(ahead, after));
        }
    }
    let parts = Parts::of(runs);
    let mut held_out = Vec::new();
    for fold in parts.folds() {
        let kept = |run: usize, share: f64| !parts.holds_time(fold, run, share);
        let step = Solution::of(&data, kept).step(&data, |run| !parts.holds_run(fold, run));
        let served = runs.iter().map(|run| pairs::predicted(run, &step)).collect::<Result<Vec<_>, _>>()?;
        held_out.extend(parts.judge(fold, &served));
    }
    let step = Step { error: Some(parts.error_bar(&held_out)), ..step };
    Ok(Fit { step, coefficients, levels, held_out, warnings })
}

impl Data {
    fn new(logs: &[PassRun], runs: &[RequestRun], options: Options) -> Result<Self, CalibrateError> {
        let mut logged = Vec::new();
        for log in logs {
            let (run, found): (Option<usize>, Vec<(StepFeatures, f64)>) = if log.knows_contexts {
                (None, log.rows.iter().map(|row| (row.features, row.us)).collect())
            } else {
                let lines: Vec<_> = log.rows.iter().filter_map(|row| row.line).collect();
                let aligned = runs.iter().enumerate().find_map(|(at, run)| Some((at, align(&lines, run)?)));
                let (run, aligned) =
                    aligned.ok_or_else(|| CalibrateError::OtherRun { log: log.name.clone() })?;
                let known = aligned.into_iter().zip(&log.rows);
                (Some(run), known.filter_map(|(features, row)| Some((features?, row.us))).collect())
            };
            let row =
                |(features, us): &(StepFeatures, f64)| Row::of_pass(features, *us, Source::Log, options);
            logged.push((run, found.iter().map(row).collect()));
        }
        let has_log = !logged.is_empty();
        let timelines: Vec<Timeline> = runs.iter().map(|run| timeline(run).unwrap_or_default()).collect();
        let rows = timelines.iter().map(|one| rows(one, has_log, options)).collect();
        Ok(Self { rows, logged, timelines, has_log, options })
    }
}

impl Row {
    fn of_pass(features: &StepFeatures, us: f64, source: Source, options: Options) -> Self {
        let mut columns = [0.0; PRICES.len()];
        add_pass(&mut columns, features, options);
        let decodes = !features.computes_prompts();
        Self { columns, us, source, unit_us: 1.0, decodes, is_least: false }
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

fn set(columns: &mut Columns, price: Price, value: f64) {
    let place = PRICES.iter().position(|&one| one == price).expect("all are there");
    columns[place] = value;
}

/// What clients saw of a run.
fn rows(timeline: &Timeline, has_log: bool, options: Options) -> Vec<Row> {
    let interval = |one: &crate::timeline::Interval| {
        let mut row = Row::of_pass(&one.features, one.us, Source::Clients, options);
        if has_log {
            set(&mut row.columns, Price::Gap, 1.0);
            set(&mut row.columns, Price::GapSequence, one.before);
        }
        set(&mut row.columns, Price::DeliverySequence, one.features.sequences - one.before);
        row
    };
    let alone = |one: &crate::timeline::Alone| {
        let mut columns = [0.0; PRICES.len()];
        one.passes.iter().for_each(|pass| add_pass(&mut columns, pass, options));
        set(&mut columns, Price::FrontEnd, 1.0);
        set(&mut columns, Price::DeliverySequence, 1.0);
        if has_log {
            let gaps = one.passes.len() as f64 - 1.0;
            set(&mut columns, Price::Gap, gaps);
            set(&mut columns, Price::GapSequence, gaps);
        }
        Row { columns, us: one.us, source: Source::Clients, unit_us: 1.0, decodes: false, is_least: false }
    };
    // Spread over the others, so that no interval of a price leaves all of one kind out.
    let each = timeline.intervals.len() / (timeline.alone.len() + 1) + 1;
    let mut rows = Vec::with_capacity(timeline.intervals.len() + timeline.alone.len());
    let mut others = timeline.alone.iter().map(alone);
    for some in timeline.intervals.chunks(each) {
        rows.extend(some.iter().map(interval));
        rows.extend(others.next());
    }
    rows.extend(others);
    rows
}

/// Prices, the rows that they are of, and what was left out.
struct Solution {
    problem: Problem,
    prices: Vec<f64>,
    kept: [bool; PRICES.len()],
    /// Squares over all rows, and up to where they count in full.
    squares: f64,
    far: f64,
    notes: Vec<String>,
}

/// Rounds in which what rows are measured in is found.
const MOST_WEIGHINGS: usize = 6;

/// Gives the rows of each source its unit. A log is much more exact than what clients see through the network, or as exact
/// where passes themselves vary.
fn weigh(rows: &mut [Row], kept: [bool; PRICES.len()], has_log: bool) {
    let rounds = if has_log { MOST_WEIGHINGS } else { 1 };
    for _ in 0..rounds {
        let prices = Solution::at(rows, kept, SQUARES).prices;
        for source in [Source::Log, Source::Clients] {
            let of = rows.iter().filter(|row| row.source == source);
            let mut off: Vec<f64> = of.map(|row| row.off_us(&prices).abs()).collect();
            off.sort_by(f64::total_cmp);
            let unit_us = off.get(off.len() / 2).map_or(EXACT_US, |us| us.max(EXACT_US));
            rows.iter_mut().filter(|row| row.source == source).for_each(|row| row.unit_us = unit_us);
        }
    }
}

impl Solution {
    /// Of what counts, by run and share of its rows before, and of logs of these runs.
    fn of(data: &Data, counts: impl Fn(usize, f64) -> bool) -> Self {
        let counted = |run: usize, rows: &[Row]| {
            let counts = |place: usize| counts(run, (place as f64 + 0.5) / rows.len() as f64);
            let kept = rows.iter().enumerate().filter(|(place, _)| counts(*place));
            kept.map(|(_, row)| *row).collect::<Vec<Row>>()
        };
        let of_runs = data.rows.iter().enumerate().flat_map(|(run, rows)| counted(run, rows));
        let of_logs = data.logged.iter().flat_map(|(run, rows)| match run {
            Some(run) => counted(*run, rows),
            None => rows.clone(),
        });
        let mut rows: Vec<Row> = of_runs.chain(of_logs).collect();
        let fronts = rows.iter().filter(|row| paid(row, Price::FrontEnd) > 0.0).count();
        let mut kept = [true; PRICES.len()];
        let drop = |kept: &mut [bool; PRICES.len()], price| {
            kept[PRICES.iter().position(|&one| one == price).expect("all are there")] = false;
        };
        if fronts < FEWEST_ALONE {
            rows.retain(|row| paid(row, Price::FrontEnd) == 0.0);
            drop(&mut kept, Price::FrontEnd);
        }
        if !data.has_log {
            drop(&mut kept, Price::Gap);
            drop(&mut kept, Price::GapSequence);
        }
        weigh(&mut rows, kept, data.has_log);
        let far = FAR;
        let mut best = Self::at(&rows, kept, far);
        // What each request adds to the work of the host is little, and is worth a price only if there is no doubt of it.
        let widths = best.problem.half_widths(&best.prices, far);
        for price in [Price::DeliverySequence, Price::GapSequence] {
            let place = PRICES.iter().position(|&one| one == price).expect("all are there");
            kept[place] &= widths[place] <= fit::UNSURE * best.prices[place];
        }
        best = Self::at(&rows, kept, far);
        // What is left out first is what says most of other lengths if it is wrong.
        for price in [Price::AttentionPair, Price::PromptBase] {
            let place = PRICES.iter().position(|&one| one == price).expect("all are there");
            if !kept[place] || best.prices[place] <= 0.0 {
                continue;
            }
            let mut fewer = kept;
            fewer[place] = false;
            let without = Self::at(&rows, fewer, far);
            if without.squares <= best.squares * (1.0 + MATTERS) {
                (best, kept) = (without, fewer);
                best.notes.push(format!(
                    "`{}` is left out: the other prices explain these times as well without it, and a price that \
                     nothing tells from others is wrong for other lengths and loads",
                    name(price)
                ));
            }
        }
        let notes = std::mem::take(&mut best.notes);
        let mut best = with_least(&rows, best, kept, far);
        best.notes = notes;
        best
    }

    fn at(rows: &[Row], kept: [bool; PRICES.len()], far: f64) -> Self {
        let mut problem = Problem::new(PRICES.len());
        for row in rows {
            problem.push(&row.paid(&kept), row.us, row.unit_us);
        }
        let prices = problem.solve(far, None);
        let squares = problem.loss(&prices, far) * rows.len() as f64;
        Self { problem, prices, kept, squares, far, notes: Vec::new() }
    }

    fn price(&self, price: Price) -> f64 {
        let place = PRICES.iter().position(|&one| one == price).expect("all are there");
        self.prices[place]
    }

    /// The model. How long ways are is known from requests that had the engine to themselves, or else from when others were
    /// admitted.
    fn step(&self, data: &Data, counts: impl Fn(usize) -> bool) -> Step {
        let each = self.price(Price::DeliverySequence);
        let is_fitted =
            self.kept[PRICES.iter().position(|&one| one == Price::FrontEnd).expect("all are there")];
        let front_end_us = if is_fitted {
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
    fn judged(&self, data: &Data) -> (Vec<Coefficient>, Vec<String>) {
        let widths = self.problem.half_widths(&self.prices, self.far);
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
                coefficients.push(Coefficient { name: name(price), value_us, half_width_us });
            }
        }
        let mut warnings = self.notes.clone();
        let sure = |place: usize| widths[place] <= fit::UNSURE * self.prices[place];
        for (left, of_left) in PRICES.into_iter().enumerate() {
            for (right, of_right) in PRICES.into_iter().enumerate().skip(left + 1) {
                let is_priced = |place: usize| self.kept[place] && self.prices[place] > 0.0;
                if !(is_priced(left) && is_priced(right)) || sure(left) || sure(right) {
                    continue;
                }
                let correlation = self.problem.correlation(left, right);
                if correlation.abs() > fit::TOGETHER {
                    warnings.push(fit::hardly_told_apart(name(of_left), name(of_right), correlation));
                }
            }
        }
        if !data.has_log {
            let what = "clients see passes and what lies between them as one: that is in the prices of passes. The log of \
                        the engine (vLLM's --enable-logging-iteration-details) of one of these runs, given with it, \
                        tells them apart (gap_us)";
            warnings.push(what.to_owned());
        }
        (coefficients, warnings)
    }
}

impl Row {
    /// What it pays for of the prices that are kept.
    fn paid(&self, kept: &[bool; PRICES.len()]) -> Columns {
        let mut paid = self.columns;
        if self.is_least {
            for (column, price) in paid.iter_mut().zip(PRICES) {
                if matches!(price, Price::Base | Price::Sequence | Price::ContextToken | Price::Experts) {
                    *column = 0.0;
                }
            }
            set(&mut paid, Price::Least, 1.0);
        }
        for (column, kept) in paid.iter_mut().zip(kept) {
            if !kept {
                *column = 0.0;
            }
        }
        paid
    }

    /// How much longer it is at these prices than it was.
    fn off_us(&self, prices: &[f64]) -> f64 {
        self.columns.iter().zip(prices).map(|(column, us)| column * us).sum::<f64>() - self.us
    }

    /// What its pass costs at these prices if nothing has to be waited for.
    fn pass_us(&self, prices: &[f64]) -> f64 {
        let of_pass =
            |price| matches!(price, Price::Base | Price::Sequence | Price::ContextToken | Price::Experts);
        let columns = self.columns.iter().zip(prices).zip(PRICES);
        columns.filter(|(_, price)| of_pass(*price)).map(|((column, us), _)| column * us).sum()
    }
}

fn paid(row: &Row, price: Price) -> f64 {
    row.columns[PRICES.iter().position(|&one| one == price).expect("all are there")]
}

/// With a least time of passes without prompts, if that explains more.
fn with_least(rows: &[Row], plain: Solution, kept: [bool; PRICES.len()], far: f64) -> Solution {
    let mut lengths: Vec<f64> = rows.iter().filter(|row| row.decodes).map(|row| row.us).collect();
    lengths.sort_by(f64::total_cmp);
    let mut best: Option<Solution> = None;
    for start in LEAST_STARTS {
        let Some(&start) = lengths.get((start * lengths.len() as f64) as usize) else { continue };
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
            if lasting < FEWEST_PASSES || others < FEWEST_PASSES {
                found = None;
                break;
            }
            if changed == 0 && found.is_some() {
                break;
            }
            let next = Solution::at(&rows, kept, far);
            (least, prices) = (next.price(Price::Least), next.prices.clone());
            found = Some(next);
        }
        if let Some(found) = found
            && best.as_ref().is_none_or(|best| found.squares < best.squares)
        {
            best = Some(found);
        }
    }
    match best {
        Some(best) if best.squares < plain.squares * (1.0 - LEAST_MATTERS) => best,
        _ => plain,
    }
}

/// What a price is called in the file of a model.
fn name(price: Price) -> &'static str {
    match price {
        Price::Base => "base_us",
        Price::PromptBase => "prefill.base_us",
        Price::PrefillToken => "prefill.per_prefill_token_us",
        Price::Sequence => "per_sequence_us",
        Price::ContextToken => "per_context_token_us",
        Price::AttentionPair => "prefill.per_attention_pair_us",
        Price::Experts => "experts.all_us",
        Price::Least => "decode.least_us",
        Price::FrontEnd => "front_end_us",
        Price::Gap => "gap_us",
        Price::GapSequence => "gap_us_per_request",
        Price::DeliverySequence => "delivery_us_per_request",
    }
}
