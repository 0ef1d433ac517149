//! A measured run, simulated: a closed loop of its load on one engine.

use std::ops::ControlFlow;

use serde::Serialize;
use servecast_cluster::{LoadMode, Observer, PoolEngine, Simulation, SimulationOptions, Topology};
use servecast_engine::{Decodes, Iteration};
use servecast_record::{RunRecord, TtftBreakdown};
use servecast_types::{Duration, Role, Time, WorkerId};
use servecast_workload::{LengthDistribution, Load, SyntheticSpec, Workload, generate};

use super::engine::Engine;
use super::table::Measured;
use crate::error::{Failure, chain};
use crate::interrupt::Interrupt;

/// Requests that each slot of the closed loop serves.
const REQUESTS_PER_SLOT: u32 = 10;
/// The mean length as a share of the nominal one, and how far lengths are from it, relative to it: 80 to 100 % of the
/// nominal length.
const MEAN_SHARE: f64 = 0.9;
const SPREAD: f64 = 1.0 / 9.0;
const SEED: u64 = 42;

/// What a simulated run came to: means in ms.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Simulated {
    pub(super) ttft_ms: f64,
    pub(super) tpot_ms: f64,
    /// The part of TTFT on the way to the engine.
    front_end_ms: f64,
    /// The part of TTFT in the engine's queue.
    queue_ms: f64,
    /// The part of TTFT in iterations that compute the prompt.
    prefill_ms: f64,
    /// An iteration in which nobody computes a prompt.
    decode_iteration_ms: Option<f64>,
    /// An iteration in which somebody does.
    prompt_iteration_ms: Option<f64>,
    /// Share of the engine's time in iterations in which somebody computes a prompt.
    prompt_share: f64,
    preemptions: u64,
    kv_tokens: u64,
}

/// Simulates a run.
pub(super) fn simulate(row: &Measured, engine: &Engine, interrupt: &Interrupt) -> Result<Simulated, Failure> {
    let pool = PoolEngine { workers: 1, args: &engine.args, config: &engine.config };
    let topology = Topology::aggregated(pool).map_err(Failure::user)?;
    let load = LoadMode::ClosedLoop { concurrency: row.concurrency };
    let options = SimulationOptions { load, seed: SEED, ..SimulationOptions::default() };
    let simulation = Simulation::new(&topology, workload(row)?, &options).map_err(Failure::user)?;
    let mut passes = Passes { decodes: (0, 0), prompts: (0, 0), interrupt };
    let record = simulation.run_dyn(&mut passes).map_err(|error| Failure::run(chain(&error)))?;
    let tokens = u64::from(engine.config.usable_blocks()) * u64::from(engine.config.block_size());
    means(&record, &passes, tokens)
}

/// The requests of a run, which share nothing.
fn workload(row: &Measured) -> Result<Workload, Failure> {
    let mean = |nominal: u32| ((f64::from(nominal) * MEAN_SHARE).round() as u64).max(1);
    let spec = SyntheticSpec {
        arrival_interval_ms: 0.0,
        length_distribution: LengthDistribution::Uniform,
        length_spread: SPREAD,
        // A prompt is one block.
        trace_block_size: 2 * row.isl.max(1),
        seed: SEED,
        ..SyntheticSpec::new(
            mean(row.isl),
            mean(row.osl),
            u64::from(row.concurrency) * u64::from(REQUESTS_PER_SLOT),
        )
    };
    let rows = generate(&spec).map_err(Failure::user)?;
    Workload::from_owned_rows(rows, spec.trace_block_size, Load::Closed).map_err(Failure::user)
}

fn means(record: &RunRecord, passes: &Passes<'_>, kv_tokens: u64) -> Result<Simulated, Failure> {
    let mut sums = [0.0; 5];
    let (mut requests, mut outputs) = (0_u64, 0_u64);
    for (ordinal, request) in record.requests.iter().enumerate() {
        if !request.is_finished() {
            let (input, output) = (request.input_tokens, request.requested_output_tokens);
            return Err(Failure::user(format!(
                "the simulated engine does not serve a prompt of {input} tokens with {output} of output"
            )));
        }
        let parts = record.ttft_breakdown(ordinal).unwrap_or_default();
        let TtftBreakdown { front_end, engine_queue, prefill_compute, .. } = parts;
        requests += 1;
        let ttft = request.ttft().unwrap_or_default();
        let times = [ttft, front_end, engine_queue, prefill_compute];
        sums.iter_mut().zip(times).for_each(|(sum, time)| *sum += time.as_ms());
        if let (Some(first), Some(last), 2..) =
            (request.first_token, request.last_token, request.output_tokens)
        {
            outputs += 1;
            sums[4] += last.since(first).as_ms() / f64::from(request.output_tokens - 1);
        }
    }
    if outputs == 0 {
        return Err(Failure::user("no request has two tokens of output, so that there is no TPOT"));
    }
    let [ttft_ms, front_end_ms, queue_ms, prefill_ms, _] = sums.map(|sum| sum / requests as f64);
    let mean = |(ns, count): (u64, u64)| (count > 0).then(|| ns as f64 / count as f64 / 1e6);
    let busy = passes.decodes.0 + passes.prompts.0;
    Ok(Simulated {
        ttft_ms,
        tpot_ms: sums[4] / outputs as f64,
        front_end_ms,
        queue_ms,
        prefill_ms,
        decode_iteration_ms: mean(passes.decodes),
        prompt_iteration_ms: mean(passes.prompts),
        prompt_share: passes.prompts.0 as f64 / busy.max(1) as f64,
        preemptions: record.pools.iter().map(|pool| pool.totals.preemptions).sum(),
        kv_tokens,
    })
}

/// Adds up iterations: nanoseconds and how many.
struct Passes<'a> {
    decodes: (u64, u64),
    prompts: (u64, u64),
    interrupt: &'a Interrupt,
}

impl Observer for Passes<'_> {
    fn iteration(&mut self, _pool: Role, _worker: WorkerId, iteration: &Iteration) {
        let has_prompt = iteration.scheduled.iter().any(|scheduled| scheduled.tokens > 1);
        let sum = if has_prompt { &mut self.prompts } else { &mut self.decodes };
        let length = iteration.end.since(iteration.start);
        sum.0 += length.as_ns();
        sum.1 += u64::from(length > Duration::ZERO);
    }

    fn decoded(&mut self, _pool: Role, _worker: WorkerId, decodes: &Decodes) {
        if let Some(last) = decodes.ends.last() {
            self.decodes.0 += last.since(decodes.start).as_ns();
            self.decodes.1 += decodes.ends.len() as u64;
        }
    }

    fn is_interrupted(&self) -> bool {
        self.interrupt.is_requested()
    }

    fn progress(&mut self, _now: Time, _ended: u64) -> ControlFlow<()> {
        if self.interrupt.is_requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}
