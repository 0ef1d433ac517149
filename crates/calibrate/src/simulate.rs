//! What each request pays for, by a simulation.

use std::ops::ControlFlow;
use std::sync::Arc;

use servecast_cluster::record::PoolRole;
use servecast_cluster::{Observer, PoolEngine, Simulation, SimulationOptions, Topology};
use servecast_engine::Iteration;
use servecast_latency::{Batch, Step, StepFeatures};
use servecast_types::{Prompt, Run, Time, WorkerId};
use servecast_workload::{Session, Turn, TurnStart, Workload};

use crate::error::CalibrateError;
use crate::requests::RequestRun;
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
    let refused = |problem: &dyn ToString| CalibrateError::Simulation {
        run: run.name.clone(),
        problem: problem.to_string(),
    };
    let config = run.engine.validate(Some(Arc::new(step))).map_err(|error| refused(&error))?;
    let pool = PoolEngine { workers: run.workers, args: &run.engine, config: &config };
    let topology = Topology::aggregated(pool).map_err(|error| refused(&error))?;
    let options = SimulationOptions { plain: true, ..SimulationOptions::default() };
    let simulation = Simulation::new(&topology, workload(run), &options).map_err(|error| refused(&error))?;
    let mut tracer = Tracer { terms, workers: Vec::new(), moments: Vec::new() };
    let record = simulation.run(&mut tracer).map_err(|error| refused(&error))?;
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
    let session = |(row, number): (&crate::RequestRow, u64)| {
        let start = Time::from_ns(((row.arrival_s - first) * 1e9).round() as u64);
        // A prompt that is not known is shared with nobody.
        let unknown = || Prompt::new([Run { start: (1 << 32) + number * (1 << 30), len: row.input_tokens }]);
        let turn = Turn {
            line: number,
            start: TurnStart::At(start),
            prompt: row.prompt.clone().unwrap_or_else(unknown),
            output_tokens: row.output_tokens,
            priority: 0,
            stop_after: None,
            output: None,
        };
        Session { name: None, turns: std::iter::once(turn).collect() }
    };
    Workload { sessions: run.rows.iter().zip(1..).map(session).collect(), ..Workload::default() }
}

/// Adds up what every worker does.
struct Tracer<'a> {
    terms: &'a Terms,
    workers: Vec<Busy>,
    moments: Vec<Served>,
}

/// What a worker did since it was idle last.
#[derive(Debug, Clone, Copy)]
struct Busy {
    start_us: f64,
    paid: Columns,
    end: Time,
}

impl Observer for Tracer<'_> {
    fn iteration(&mut self, _pool: PoolRole, worker: WorkerId, iteration: &Iteration) {
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
        busy.end = busy.end.max(iteration.end);
        let mut batch = Batch::new(0);
        for scheduled in &iteration.scheduled {
            let computed = u64::from(scheduled.computed);
            batch.add_tokens(computed, computed + u64::from(scheduled.tokens));
        }
        let columns = self.terms.columns(&StepFeatures::of(&batch));
        for (paid, column) in busy.paid.iter_mut().zip(columns) {
            *paid += column;
        }
        let moment = Moment { start_us: busy.start_us, paid: busy.paid, at_us: us(iteration.end) };
        for id in &iteration.emitted {
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

    fn progress(&mut self, _now: Time, _ended: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

fn us(time: Time) -> f64 {
    time.as_ns() as f64 / 1e3
}
