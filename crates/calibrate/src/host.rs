//! What the host takes besides passes whose times are known already: gaps between them, and the ways of requests and tokens.

use std::ops::ControlFlow;
use std::sync::Arc;

use servecast_engine::HostArgs;
use servecast_latency::{ErrorBar, LatencyModel};

use crate::error::CalibrateError;
use crate::fit::{Coefficient, HeldOut, Level};
use crate::held_out::Parts;
use crate::pairs::{self, Pair};
use crate::requests::RequestRun;
use crate::simulate::{self, Served};
use crate::solve::Problem;
use crate::terms::{Phases, Term, Terms};

/// The host that goes with a model of passes.
#[derive(Debug, Clone)]
pub struct HostFit {
    /// What was fitted of it.
    pub host: HostArgs,
    /// The same, with how sure it is.
    pub coefficients: Vec<Coefficient>,
    /// How far off model and host are, by load.
    pub levels: Vec<Level>,
    /// The same of all requests together.
    pub all: HeldOut,
    /// How far off a host is for requests that played no part in it.
    pub held_out: Vec<HeldOut>,
    /// The same as an error bar.
    pub error: ErrorBar,
    /// What the reader should know.
    pub warnings: Vec<String>,
}

/// Simulations at most; the gap moves the mean time between tokens about as far as it moves itself.
const MOST_TRIES: usize = 12;
/// A gap that moves less is found, in µs, with so many requests in a pass.
const SETTLED_US: f64 = 1.0;
const MANY: f64 = 100.0;
/// Squares count in full, whatever their size.
const SQUARES: f64 = 1e12;
/// Requests that had the engine to themselves from which on their TTFT says how long the ways are.
const FEWEST_ALONE: usize = 5;

/// Fits a host to requests that an engine served whose passes take as long as `model` says.
///
/// The gap, of a pass and of each request in it, is such that requests decode as long as they did, all together and by how
/// many there were, and the front end such that those that had the
/// engine to themselves have their first token when they had it. What tokens take to their clients cannot be told from what
/// requests take to the engine, and is in the front end.
///
/// # Errors
/// Without requests, and for those that the simulated engine does not serve.
pub fn fit_host(
    runs: &[RequestRun],
    model: &Arc<dyn LatencyModel>,
    follow: &mut dyn FnMut(f64) -> ControlFlow<()>,
) -> Result<HostFit, CalibrateError> {
    let alone: Vec<Vec<usize>> = runs.iter().map(pairs::alone).collect();
    let mut search = Search { model, alone, follow };
    let (found, served) = search.run(runs, Found::default())?;
    let (held_out, error) = search.held_out(runs, found)?;
    let host = found.host();
    let mut warnings = Vec::new();
    if found.gap.iter().all(|us| *us <= 0.0) {
        warnings.push("requests decode no slower than the model has them without a gap".to_owned());
    }
    if !found.knows_ways {
        warnings.push(format!(
            "`front_end_us` is left alone: fewer than {FEWEST_ALONE} requests had the engine to themselves, so that nothing \
             tells how long a request is on its way"
        ));
    }
    let fitted = [
        ("gap_us", host.gap_us, found.half_widths[0]),
        ("gap_us_per_request", host.gap_us_per_request, found.half_widths[1]),
        ("front_end_us", host.front_end_us, 0.0),
    ];
    let coefficients = fitted.into_iter().filter_map(|(name, value, half_width_us)| {
        Some(Coefficient { name, value_us: value?, half_width_us })
    });
    let pairs: Vec<Vec<(usize, Pair)>> = served.iter().map(|(_, pairs)| pairs.clone()).collect();
    let everything = pairs.concat();
    Ok(HostFit {
        host,
        coefficients: coefficients.collect(),
        levels: pairs::levels_of(runs, &pairs),
        all: HeldOut { part: "all requests".to_owned(), errors_percent: pairs::errors_of(&everything) },
        held_out,
        error,
        warnings,
    })
}

/// Looks for the host at which requests take as long as they did.
struct Search<'a> {
    model: &'a Arc<dyn LatencyModel>,
    /// By run: rows of requests that had the engine to themselves.
    alone: Vec<Vec<usize>>,
    follow: &'a mut dyn FnMut(f64) -> ControlFlow<()>,
}

impl Search<'_> {
    /// The host of the requests whose times are known, and what all rows come to with it.
    fn run(&mut self, runs: &[RequestRun], start: Found) -> Result<(Found, All), CalibrateError> {
        let has_times = |run: &RequestRun, row: usize| run.rows[row].times.is_some();
        let of_run = |(run, alone): (&RequestRun, &Vec<usize>)| {
            alone.iter().filter(|&&row| has_times(run, row)).count()
        };
        let knows_ways = runs.iter().zip(&self.alone).map(of_run).sum::<usize>() >= FEWEST_ALONE;
        let mut found = Found { knows_ways, ..start };
        let mut served = served(runs, self.model, found)?;
        if problem(runs, &served, found).len() == 0 {
            let remedy =
                "rows need arrival, input and output lengths, TTFT and E2E, and some more than one token";
            return Err(CalibrateError::Nothing { what: "requests", remedy });
        }
        let mut by_request = true;
        for _ in 0..MOST_TRIES {
            let rows = problem(runs, &served, found);
            let next = rows.gap(by_request);
            // What each request adds is worth a price only if there is no doubt of it.
            let is_sure = |at: usize| next.half_widths[at] <= next.gap[at];
            by_request = by_request && is_sure(0) && is_sure(1);
            let next = if by_request { next } else { rows.gap(false) };
            let way_us =
                if knows_ways { (found.way_us + way_us(&served, &self.alone)).max(0.0) } else { 0.0 };
            let moved = |at: usize| (next.gap[at] - found.gap[at]).abs() * [1.0, MANY][at];
            let settled = moved(0).max(moved(1)).max((way_us - found.way_us).abs()) < SETTLED_US;
            let off = rows.off(&next.gap);
            found = Found { way_us, knows_ways, ..next };
            if let ControlFlow::Break(()) = (self.follow)(off) {
                return Err(CalibrateError::Interrupted);
            }
            served = self::served(runs, self.model, found)?;
            if settled {
                break;
            }
        }
        Ok((found, served))
    }

    /// How far off requests are that played no part in the host that they are judged by, part by part.
    fn held_out(
        &mut self,
        runs: &[RequestRun],
        found: Found,
    ) -> Result<(Vec<HeldOut>, ErrorBar), CalibrateError> {
        let parts = Parts::of(runs);
        let mut held_out = Vec::new();
        let measured = |runs: &[RequestRun]| {
            runs.iter().flat_map(|run| &run.rows).filter(|row| row.times.is_some()).count()
        };
        for fold in parts.folds() {
            let mut kept = runs.to_vec();
            for (number, run) in kept.iter_mut().enumerate() {
                let held = run.rows.iter_mut().enumerate().filter(|(row, _)| parts.holds(fold, number, *row));
                held.for_each(|(_, row)| row.times = None);
            }
            // The measured requests may all be of one part.
            if [0, measured(runs)].contains(&measured(&kept)) {
                continue;
            }
            let (found, _) = self.run(&kept, found)?;
            let served = served(runs, self.model, found)?;
            let pairs: Vec<Vec<(usize, Pair)>> = served.into_iter().map(|(_, pairs)| pairs).collect();
            held_out.extend(parts.judge(fold, &pairs));
        }
        let error = if held_out.is_empty() {
            ErrorBar::unknown("all requests that were measured are in one part of the time")
        } else {
            parts.error_bar(&held_out)
        };
        Ok((held_out, error))
    }
}

/// What is known of the host.
#[derive(Debug, Clone, Copy, Default)]
struct Found {
    /// Of each pass, and of each request in it, and half of the 95 % intervals.
    gap: [f64; 2],
    half_widths: [f64; 2],
    way_us: f64,
    /// Whether requests say how long the ways are.
    knows_ways: bool,
}

impl Found {
    fn host(&self) -> HostArgs {
        HostArgs {
            gap_us: Some(self.gap[0]),
            gap_us_per_request: Some(self.gap[1]),
            front_end_us: self.knows_ways.then_some(self.way_us),
            ..HostArgs::default()
        }
    }
}

/// By run: what each row went through, and times as measured and as simulated.
type All = Vec<(Vec<Served>, Vec<(usize, Pair)>)>;

fn terms() -> Terms {
    Terms::new(Phases::One, None, true)
}

fn served(runs: &[RequestRun], model: &Arc<dyn LatencyModel>, found: Found) -> Result<All, CalibrateError> {
    let one = |run: &RequestRun| {
        let mut run = run.clone();
        run.engine.host = Some(found.host());
        let served = simulate::served_with(&run, &terms(), Arc::clone(model))?;
        let pairs = pairs::pairs(&run, &served);
        Ok((served, pairs))
    };
    runs.iter().map(one).collect()
}

/// What requests went through between their first and last token, passes and requests in them, and how much longer that took
/// than it is simulated to.
struct Rows {
    problem: Problem,
}

impl Rows {
    fn len(&self) -> usize {
        self.problem.len()
    }

    /// The gap, with or without a part of each request.
    fn gap(&self, by_request: bool) -> Found {
        let problem = self.problem.only(&[true, by_request]);
        let prices = problem.solve(SQUARES, None);
        let widths = problem.half_widths(&prices, SQUARES);
        Found { gap: [prices[0], prices[1]], half_widths: [widths[0], widths[1]], ..Found::default() }
    }

    fn off(&self, gap: &[f64; 2]) -> f64 {
        self.problem.loss(gap, SQUARES)
    }
}

fn problem(runs: &[RequestRun], served: &All, found: Found) -> Rows {
    let terms = terms();
    let place = |term| terms.position(term).expect("one phase has it");
    let (base, sequence) = (place(Term::Base), place(Term::Sequence));
    let mut problem = Problem::new(2);
    for (run, (served, pairs)) in runs.iter().zip(served) {
        for (row, pair) in pairs.iter().filter(|(row, _)| run.rows[*row].output_tokens > 1) {
            let Some((first, last)) = &served[*row] else { continue };
            let paid = [base, sequence].map(|place| last.paid[place] - first.paid[place]);
            let (real, ours) = pair.decode_us();
            let had = paid[0] * found.gap[0] + paid[1] * found.gap[1];
            // So that what all are off by together is nothing.
            problem.push(&paid, real - ours + had, paid[0].max(1.0).sqrt());
        }
    }
    Rows { problem }
}

/// How much later the first tokens of requests came, on average, that had the engine to themselves.
fn way_us(served: &All, alone: &[Vec<usize>]) -> f64 {
    let (mut sum, mut count) = (0.0, 0.0);
    for ((_, pairs), alone) in served.iter().zip(alone) {
        for (_, pair) in pairs.iter().filter(|(row, _)| alone.contains(row)) {
            sum += (pair.ttft.0 - pair.ttft.1) * 1e3;
            count += 1.0;
        }
    }
    if count > 0.0 { sum / count } else { 0.0 }
}
