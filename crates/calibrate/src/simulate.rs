//! What each request pays for, by a simulation.

use std::sync::Arc;

use servecast_cluster::{Delivery, Detail, Observer, PoolEngine, Simulation, SimulationOptions, Topology};
use servecast_engine::Iteration;
use servecast_latency::{Batch, Host, LatencyModel, Step, StepFeatures};
use servecast_types::{Prompt, Role, Run, Time, WorkerId};
use servecast_workload::{Session, Turn, TurnStart, Workload};

use crate::error::CalibrateError;
use crate::requests::{RequestRow, RequestRun};
use crate::terms::{Columns, MOST_TERMS, Terms};

/// A moment of a request: `start_us` after the start of the run plus what its worker did since then, each at its price.
///
/// `start_us` is when the worker began to work without a pause, which is when a request came.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Moment {
    pub(crate) start_us: f64,
    pub(crate) paid: Columns,
    /// The sum of both.
    pub(crate) at_us: f64,
}

/// When a request got its first and its last token.
pub(crate) type Served = Option<(Moment, Moment)>;

/// Simulates a run at these prices; one entry for each of its rows.
pub(crate) fn served(run: &RequestRun, terms: &Terms, prices: &[f64]) -> Result<Vec<Served>, CalibrateError> {
    served_by(run, terms, terms.step(prices))
}

/// The same with a model; `terms` are what is added up.
pub(crate) fn served_by(run: &RequestRun, terms: &Terms, step: Step) -> Result<Vec<Served>, CalibrateError> {
    served_with(run, terms, Arc::new(step))
}

/// The same with any model.
pub(crate) fn served_with(
    run: &RequestRun,
    terms: &Terms,
    model: Arc<dyn LatencyModel>,
) -> Result<Vec<Served>, CalibrateError> {
    let refused = |problem: &dyn ToString| CalibrateError::Simulation {
        run: run.name.clone(),
        problem: problem.to_string(),
    };
    let config = run.engine.validate(Some(model)).map_err(|error| refused(&error))?;
    let pool = PoolEngine { workers: run.workers, args: &run.engine, config: &config };
    let topology = Topology::aggregated(pool).map_err(|error| refused(&error))?;
    let options = SimulationOptions::default();
    let simulation = Simulation::new(&topology, workload(run), &options).map_err(|error| refused(&error))?;
    let delivery = vec![Delivery::new(config.host()); run.workers as usize];
    let mut tracer =
        Tracer { terms, host: config.host(), workers: Vec::new(), delivery, moments: Vec::new() };
    let record = simulation.run_dyn(&mut tracer).map_err(|error| refused(&error))?;
    let mut served = vec![None; run.rows.len()];
    // A request without a token leaves no trace.
    tracer.moments.resize(record.requests.len(), None);
    for (request, moments) in record.requests.iter().zip(tracer.moments) {
        let place = request.line as usize - 1;
        if !request.is_finished() {
            let row = &run.rows[place];
            return Err(refused(&format!(
                "line {}: the simulated engine does not serve a prompt of {} tokens with {} of output: state its \
                 settings (num_gpu_blocks, max_model_len, …) as they were",
                row.line, row.input_tokens, row.output_tokens
            )));
        }
        served[place] = moments;
    }
    Ok(served)
}

/// The requests of a run, each at its arrival.
fn workload(run: &RequestRun) -> Workload {
    let first = run.rows.iter().map(|row| row.arrival_s).fold(f64::INFINITY, f64::min);
    let prompts = prompts(&run.rows);
    let session = |(row, number): (&RequestRow, u64)| {
        let start = Time::from_ns(((row.arrival_s - first) * 1e9).round() as u64);
        let unknown = || Prompt::new(prompts[number as usize - 1].iter().copied());
        let turn = Turn {
            line: number,
            start: TurnStart::At(start),
            prompt: row.prompt.clone().unwrap_or_else(unknown),
            output_tokens: row.output_tokens,
            priority: 0,
            stop_after: None,
            output: None,
            class: None,
            lora: None,
            grammar: None,
        };
        Session { turns: std::iter::once(turn).collect(), ..Session::default() }
    };
    Workload { sessions: run.rows.iter().zip(1..).map(session).collect(), ..Workload::default() }
}

/// Earlier requests that are looked at for a prompt to share.
const MOST_BEFORE: usize = 1000;

/// What prompts are of which nothing is known but how much of each was cached: as much is that of a prompt whose first token
/// had come before, the latest of them, which is cached still if any is. The rest is shared with nobody.
fn prompts(rows: &[RequestRow]) -> Vec<Vec<Run>> {
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by(|&left, &right| rows[left].arrival_s.total_cmp(&rows[right].arrival_s));
    let mut prompts: Vec<Vec<Run>> = vec![Vec::new(); rows.len()];
    for (place, &row) in order.iter().enumerate() {
        let one = &rows[row];
        let cached = one.cached_tokens.unwrap_or(0).min(one.input_tokens - 1);
        let before = order[..place].iter().rev().take(MOST_BEFORE).copied().filter(|&other| {
            let there = rows[other].first_token_s().is_some_and(|first| first <= one.arrival_s);
            there && rows[other].input_tokens > cached
        });
        let shared = if cached == 0 {
            None
        } else {
            before.max_by(|&left, &right| {
                let first = |row: usize| rows[row].first_token_s().unwrap_or(f64::NEG_INFINITY);
                first(left).total_cmp(&first(right))
            })
        };
        let mut prompt = Vec::new();
        let mut left = shared.map_or(0, |_| cached);
        for run in shared.map_or(&[][..], |other| &prompts[other]) {
            let len = run.len().min(left);
            if len > 0 {
                prompt.push(run.part(0..len));
            }
            left -= len;
        }
        let known: u32 = prompt.iter().map(|run| run.len()).sum();
        prompt.push(Run::unique(row as u32, one.input_tokens - known));
        prompts[row] = prompt;
    }
    prompts
}

/// Adds up what every worker does.
struct Tracer<'a> {
    terms: &'a Terms,
    host: Host,
    workers: Vec<Busy>,
    delivery: Vec<Delivery>,
    moments: Vec<Served>,
}

/// What a worker did since it was idle last.
#[derive(Debug, Clone, Copy)]
struct Busy {
    start_us: f64,
    paid: Columns,
    /// When the host was done with its last pass.
    end: Time,
}

impl Observer for Tracer<'_> {
    fn detail(&self) -> Detail {
        Detail::Iterations
    }

    fn iteration(&mut self, _pool: Role, worker: WorkerId, iteration: &Iteration) {
        if iteration.scheduled.is_empty() {
            return;
        }
        let idle = Busy { start_us: 0.0, paid: [0.0; MOST_TERMS], end: Time::ZERO };
        if self.workers.len() <= worker.index() {
            self.workers.resize(worker.index() + 1, idle);
        }
        let busy = &mut self.workers[worker.index()];
        if iteration.start > busy.end || busy.end == Time::ZERO {
            *busy = Busy { start_us: us(iteration.start), ..idle };
        }
        busy.end = busy.end.max(iteration.end + self.host.gap(iteration.num_scheduled()));
        let mut batch = Batch::new(0);
        for scheduled in &iteration.scheduled {
            let computed = u64::from(scheduled.computed);
            batch.add_tokens(computed, computed + u64::from(scheduled.tokens));
        }
        let columns = self.terms.columns(&StepFeatures::of(&batch));
        for (paid, column) in busy.paid.iter_mut().zip(columns) {
            *paid += column;
        }
        let out = self.delivery[worker.index()].pass(iteration.end, iteration.num_scheduled());
        let moment = Moment { start_us: busy.start_us, paid: busy.paid, at_us: us(out) };
        for emitted in &iteration.emitted {
            let id = emitted.id;
            if self.moments.len() <= id.index() {
                self.moments.resize(id.index() + 1, None);
            }
            self.moments[id.index()].get_or_insert((moment, moment));
        }
        for finished in &iteration.finished {
            if let Some(Some((_, last))) = self.moments.get_mut(finished.id.index()) {
                *last = moment;
            }
        }
    }
}

fn us(time: Time) -> f64 {
    time.as_ns() as f64 / 1e3
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use servecast_engine::EngineArgs;

    use super::*;
    use crate::RequestTimes;
    use crate::terms::Phases;

    #[test]
    fn rows_with_cached_tokens_are_served_with_as_many_cached() {
        let row = |arrival_s: f64, input_tokens, cached: u32| RequestRow {
            line: 1,
            arrival_s,
            input_tokens,
            output_tokens: 2,
            cached_tokens: Some(cached),
            times: Some(RequestTimes { ttft_ms: 40.0, e2e_ms: 60.0 }),
            ..RequestRow::default()
        };
        let rows = vec![
            row(0.0, 300, 0),
            row(1.0, 260, 128),
            row(2.0, 200, 0),
            row(3.0, 300, 192),
            row(4.0, 100, 64),
        ];
        let engine = EngineArgs::from_json(json!({"block_size": 32, "latency": "step:x.toml"})).unwrap();
        let run = RequestRun { name: "run".to_owned(), rows, engine, workers: 1 };
        let step = Step::from_toml("[prefill]\nper_prefill_token_us = 100\nbase_us = 1\n").unwrap();
        let served = served_by(&run, &Terms::new(Phases::One, None, true), step).unwrap();
        let prefill = served.iter().map(|served| served.unwrap().0.paid[1]).collect::<Vec<_>>();
        assert_eq!(prefill, [300.0, 132.0, 200.0, 108.0, 36.0]);
    }
}
