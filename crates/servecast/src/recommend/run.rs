//! The search: from a question to what is known under each load.

use std::sync::Arc;

use serde_json::Value;
use servecast_cluster::LoadMode;
use servecast_recommend::{
    Candidate, Evaluate, Figures, Goal, Load, Outcome, OverSeeds, Recommendation, Search,
};
use servecast_types::message;
use servecast_workload::{TraceStats, Workload, stats};

use super::evaluate::{Executor, Runner};
use super::loads::Loads;
use super::output::{self, Growth, Sureness};
use super::simulator::{Simulator, plan, span_ms};
use super::{Journal, LEADERS, Question, Space, Watch};
use crate::plan::Plan;
use servecast_config::error::Failure;
use servecast_config::settings::{Difference, Layers};
use servecast_config::source::Source;

/// Seeds of a synthetic load under which leaders are run.
const SEEDS: u64 = 5;

/// Prompts that have less than this share in common give a router nothing to go by.
const SHARED: f64 = 0.01;

/// A question and its deployments, before the load is read.
pub struct Draft {
    /// The question.
    pub question: Question,
    /// The plan of the first deployment that an engine takes.
    pub first: Plan,
    /// What tells that deployment from the others.
    settings: Difference,
    space: Space,
}

impl Draft {
    /// Builds the space.
    pub fn new(question: Question) -> Result<Self, Failure> {
        let space = Space::new(&question.layers, &question.config, question.vary(), &question.limits)?;
        let Some(first) = space.candidates.first() else { return Err(empty(&question)) };
        let (taken, problem) = first_that_is_taken(&question.layers, &space);
        let Some((settings, plan)) = taken else {
            let problem = problem.unwrap_or_else(|| Failure::user("no deployment can be built"));
            return Err(if space.candidates.len() == 1 { problem } else { problem.about(&first.name) });
        };
        Ok(Self { question, first: plan, settings, space })
    }

    /// Refuses a question without a target.
    pub fn check_targets(&self) -> Result<(), Failure> {
        if !self.question.slo.is_empty() {
            return Ok(());
        }
        Err(Failure::user("a recommendation needs a target to keep")
            .with_hint(message!(
                "{--slo} 'p95 ttft <= 1s' {--slo} 'p95 itl <= 40ms', or {--slo} 'goodput >= 99% (ttft <= 2s, tpot <= 50ms)'"
            )))
    }

    /// Reads the load, from which it follows whether routers have prefixes to go by. A `trace` is read in place of the
    /// file that settings name.
    pub fn with_load(self, trace: Option<Vec<u8>>) -> Result<Prepared, Failure> {
        let Self { mut question, first, settings, mut space } = self;
        let loads = Loads::new(trace);
        let workload = loads.of(&first, 1.0)?;
        let stats = stats(&workload, first.block_size.max(1));
        if stats.token_reuse_ratio > SHARED {
            question.limits.shares_prefixes = true;
            space = Space::new(&question.layers, &question.config, question.vary(), &question.limits)?;
        }
        let simulator = Simulator::new(&question.layers, question.slo.clone(), loads);
        Ok(Prepared { question, first, settings, space, workload, stats, simulator })
    }
}

/// A search that can begin.
pub struct Prepared {
    /// The question.
    pub question: Question,
    /// The plan of the first deployment that an engine takes.
    pub first: Plan,
    /// What tells that deployment from the others.
    settings: Difference,
    /// The deployments.
    pub space: Space,
    /// The load, before any factor.
    pub workload: Arc<Workload>,
    /// That load in figures.
    pub stats: TraceStats,
    pub(super) simulator: Simulator,
}

impl Prepared {
    /// Refuses a cost of GPUs that have no price.
    pub fn check_prices(&self) -> Result<(), Failure> {
        let Self { question, space, .. } = self;
        let is_missing = |candidate: &&Candidate| candidate.price_per_hour.is_none();
        let needs = question.goals.contains(&Goal::Cost);
        match space.candidates.iter().find(is_missing).filter(|_| needs) {
            None => Ok(()),
            Some(candidate) => {
                let gpu =
                    candidate.settings.iter().find(|(key, _)| key == "gpu").and_then(|(_, gpu)| gpu.as_str());
                let gpu = gpu.or(question.config.engine.gpu.as_deref()).unwrap_or("GPU that is not named");
                Err(Failure::user(format!("there is no price for a {gpu}"))
                    .with_hint(message!("{--gpu_hour} GPU=PRICE gives one, by the name that {--gpu} has")))
            }
        }
    }

    /// What simulates its deployments.
    pub fn simulator(&self) -> &Simulator {
        &self.simulator
    }

    /// What another process needs to simulate them, beside [`Self::trace`].
    pub fn to_json(&self) -> String {
        self.simulator.to_json(&self.settings, self.workload.fingerprint())
    }

    /// The trace that is no file, if there is one.
    pub fn trace(&self) -> Option<&[u8]> {
        self.simulator.trace()
    }

    /// What makes a search the same one, as a journal has it.
    pub fn identity(&self) -> Value {
        self.question.identity(self.workload.fingerprint())
    }

    /// The answer.
    pub fn answer(&self, growths: &[Growth]) -> Recommendation {
        output::answer(self, growths)
    }

    /// What is known under a factor of the load.
    pub fn under(
        &self,
        factor: f64,
        executor: &dyn Executor,
        journal: &Journal,
        watch: &dyn Watch,
    ) -> Growth {
        watch.began(factor, self.space.candidates.len());
        let Self { question, first, workload, .. } = self;
        let goals = &question.goals;
        let is_open = first.mode == LoadMode::OpenLoop;
        let load = Load {
            requests: workload.requests() as u64,
            span_ms: if is_open { span_ms(workload) / factor } else { 0.0 },
        };
        let runner = |slowdown, to_the_end| Runner {
            prepared: self,
            executor,
            journal,
            watch,
            factor,
            slowdown,
            to_the_end,
        };
        let (goal, as_given) = (goals[0], runner(1.0, false));
        // A frontier has no bound.
        let bound = if goals.len() > 1 { Load::default() } else { load };
        let candidates = || self.space.candidates.clone();
        let goal = if goals.len() > 1 { Goal::Latency } else { goal };
        let mut search = Search::run(goal, candidates(), bound, &as_given);
        if search.ranking().is_empty() {
            // Those that came furthest are run to the end, to say what comes nearest.
            let furthest: Vec<usize> = search.furthest().into_iter().take(LEADERS).collect();
            let asked: Vec<_> = furthest.iter().map(|&index| &self.space.candidates[index]).collect();
            for (index, outcome) in furthest.iter().zip(runner(1.0, true).all(&asked)) {
                if let Outcome::Ran(figures) = outcome {
                    search.complete(*index, *figures);
                }
            }
        }
        let wants_all = goals.contains(&Goal::Headroom);
        let firsts = || output::places(goals, &search).into_iter().map(|place| place.first);
        let leaders: Vec<usize> = if wants_all { search.ranking() } else { firsts().take(LEADERS).collect() };
        let asked: Vec<_> = leaders.iter().map(|&index| &self.space.candidates[index]).collect();
        let headrooms = as_given.headrooms(&asked);
        let headrooms: Vec<_> = leaders
            .iter()
            .copied()
            .zip(headrooms)
            .filter_map(|(index, found)| Some((index, found?)))
            .collect();
        for (index, headroom) in &headrooms {
            search.set_headroom(*index, headroom.factor);
        }
        let sureness =
            if goals.len() > 1 || wants_all { None } else { self.sureness(&search, first, load, &runner) };
        let seeds = self.over_seeds(&search, &leaders[..leaders.len().min(LEADERS)], &runner(1.0, true));
        Growth { factor, search, headrooms, sureness, seeds }
    }

    /// What leaders come to under synthetic loads of other seeds; a trace is as it is.
    fn over_seeds(&self, search: &Search, leaders: &[usize], runner: &Runner<'_>) -> Vec<(usize, OverSeeds)> {
        if matches!(self.first.source, Source::Trace { .. }) {
            return Vec::new();
        }
        let given = self.first.seed();
        let others: Vec<u64> = (1..SEEDS).map(|step| given.wrapping_add(step)).collect();
        let with_seed = |&index: &usize, seed: u64| {
            let mut candidate = search.candidates[index].clone();
            candidate.settings.push(("seed".to_owned(), seed.into()));
            candidate
        };
        let asked: Vec<Candidate> =
            leaders.iter().flat_map(|index| others.iter().map(move |&seed| with_seed(index, seed))).collect();
        let mut outcomes = runner.all(&asked.iter().collect::<Vec<_>>()).into_iter();
        let of_leader = |&index: &usize| {
            let own = Figures { headroom: None, ..search.figures(index)?.clone() };
            let mut runs = vec![(given, own)];
            for (&seed, outcome) in others.iter().zip(outcomes.by_ref()) {
                let Outcome::Ran(figures) = outcome else { continue };
                runs.push((seed, *figures));
            }
            // Without anything random the load is the same with every seed.
            let found =
                OverSeeds::of(&runs).filter(|_| runs.iter().any(|(_, figures)| *figures != runs[0].1))?;
            Some((index, found))
        };
        leaders.iter().filter_map(of_leader).collect()
    }

    /// What is first if iterations take as much more or less as they are known to be off: two more searches.
    fn sureness<'b>(
        &self,
        search: &Search,
        first: &Plan,
        load: Load,
        runner: &impl Fn(f64, bool) -> Runner<'b>,
    ) -> Option<Sureness> {
        let error = first.latency_error().tpot_p90.filter(|error| *error > 0.0)?;
        let best = *search.ranking().first()?;
        let with = |slowdown: f64| {
            let candidates = self.space.candidates.clone();
            let found = Search::run(search.goal, candidates, load, &runner(slowdown, false));
            (found.tally().not_reached == 0).then_some(found)
        };
        let (slower, faster) = (with(1.0 + error)?, with(1.0 / (1.0 + error))?);
        // What comes to the same as the best is the best.
        let first = |search: &Search| {
            let place = search.places(&search.ranking(), false).into_iter().next()?;
            Some(if place.same.contains(&best) { best } else { place.first })
        };
        let keeps = slower.figures(best).is_some_and(Figures::is_met);
        Some(Sureness {
            error,
            best,
            first_keeps: keeps,
            if_slower: first(&slower),
            if_faster: first(&faster),
        })
    }
}

/// The plan of the first deployment that an engine takes, or why it does not take the first.
fn first_that_is_taken(layers: &Layers, space: &Space) -> (Option<(Difference, Plan)>, Option<Failure>) {
    let mut problem = None;
    let mut tried: Vec<Vec<(String, Value)>> = Vec::new();
    for candidate in &space.candidates {
        // More workers of the same do not make a difference.
        let engine: Vec<_> =
            candidate.settings.iter().filter(|(key, _)| !key.starts_with("num_")).cloned().collect();
        if tried.contains(&engine) {
            continue;
        }
        match plan(layers, &candidate.settings, 1.0) {
            Ok(plan) => return (Some((candidate.settings.clone(), plan)), problem),
            Err(failure) => drop(problem.get_or_insert(failure)),
        }
        tried.push(engine);
    }
    (None, problem)
}

fn empty(question: &Question) -> Failure {
    let most = question.limits.max_gpus;
    Failure::user(format!("the space is empty: no deployment takes at most {most} GPUs"))
        .with_hint(message!(
            "more GPUs ({--max_gpus}), fewer of them a worker ({--tp}) or a {--node_gpus} or {--spare} that leaves room for one"
        ))
}
