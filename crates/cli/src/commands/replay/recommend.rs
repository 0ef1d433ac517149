//! `servecast recommend`: which deployment keeps its targets with the fewest GPUs, or at the lowest cost.
//!
//! ```text
//!  settings + --vary ─▶ space ─▶ Search (waves, bounds) ─▶ ranking ─▶ headroom, other iteration times ─▶ output
//!                                   └▶ evaluate: plans, one shared load, all cores, runs cut off when a target is lost
//! ```

use std::num::NonZero;
use std::path::PathBuf;

use clap::ValueHint;
use serde_json::json;
use servecast_cluster::LoadMode;
use servecast_engine::EngineType;
use servecast_recommend::{Evaluate, Goal, Load, Outcome, Price, Search};
use servecast_report::Slo;

use self::evaluate::{Runner, Workloads, plan, span_ms};
use self::journal::Journal;
use self::output::{Growth, Sureness};
use self::space::{DEFAULT_MAX_GPUS, Limits, Space};
use super::{ReplayArgs, outputs};
use crate::config::{Layers, Origin, OutputConfig, ReplayConfig};
use crate::error::Failure;
use crate::files::note;
use crate::interrupt::Interrupt;
use crate::plan::Plan;
use crate::progress::SearchProgress;

mod evaluate;
mod journal;
mod output;
mod space;
mod start;

/// Deployments whose headroom is looked for.
const LEADERS: usize = 3;

/// Prompts that have less than this share in common give a router nothing to go by.
const SHARED: f64 = 0.01;

/// Recommend the deployment that keeps its targets with the fewest GPUs, or at the lowest cost
///
/// Takes the settings of `replay`: what is given is fixed, what is not is tried: GPUs a worker, workers, aggregated or
/// split, routers, batch limits and chunk sizes. The answer is that of trying them all. Runs end as soon as their targets
/// are lost, and what cannot be better is not run.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct RecommendArgs {
    #[command(flatten)]
    replay: ReplayArgs,
    /// What is best: gpus (the fewest), cost, `goodput_per_gpu`, latency (the most room) or headroom
    ///
    /// Two of them, as in `cost,latency`, ask for those that no other one beats in both. Without it, gpus, or cost if
    /// prices are given, or latency with --gpus.
    #[arg(long, value_name = "GOAL", help_heading = "Search")]
    objective: Option<String>,
    /// Look at deployments of up to this many GPUs
    #[arg(long, value_name = "N", help_heading = "Search", conflicts_with = "gpus")]
    max_gpus: Option<u32>,
    /// Make the best of so many GPUs
    #[arg(long, value_name = "N", help_heading = "Search")]
    gpus: Option<u32>,
    /// Take whole nodes of so many GPUs
    #[arg(long, value_name = "N", help_heading = "Search")]
    node_gpus: Option<u32>,
    /// Keep so many workers of each pool standing by
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Search")]
    spare: u32,
    /// Search for each of these factors of the load: arrivals that much faster, or that many more sessions at a time
    #[arg(long, value_name = "FACTOR,...", value_delimiter = ',', help_heading = "Search")]
    growth: Vec<f64>,
    /// Price of a GPU an hour, as in H100-SXM=2.50 (can be repeated)
    #[arg(long, value_name = "GPU=PRICE", help_heading = "Search")]
    gpu_hour: Vec<String>,
    /// List the space, and run nothing
    #[arg(long, help_heading = "Search")]
    dry_run: bool,
    /// Keep what was tried in this file, and go on with what is in it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Search")]
    resume: Option<PathBuf>,
    /// Write the ranking as CSV
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Output")]
    csv: Option<PathBuf>,
}

/// What is asked for.
struct Question {
    layers: Layers,
    config: ReplayConfig,
    slo: Vec<Slo>,
    goals: Vec<Goal>,
    limits: Limits,
    factors: Vec<f64>,
}

/// Runs the command.
pub(crate) fn run(args: RecommendArgs) -> Result<(), Failure> {
    let RecommendArgs {
        replay,
        objective,
        max_gpus,
        gpus,
        node_gpus,
        spare,
        growth,
        gpu_hour,
        dry_run,
        resume,
        csv,
    } = args;
    let mut layers = replay.layers()?;
    let config = layers.parse()?;
    let quiet = config.output.quiet.unwrap_or(false);
    refuse_rows(&config.output, &layers)?;
    let preset = default_preset(&mut layers, &config)?;
    let prices = prices(&gpu_hour)?;
    let goals = goals(objective.as_deref(), gpus, &prices)?;
    let limits = limits(max_gpus.or(gpus), node_gpus, spare, prices)?;
    let factors = factors(growth)?;
    let config = layers.parse()?;
    let mut question = Question { layers, config, slo: Vec::new(), goals, limits, factors };
    let vary = question.config.several.vary.clone().unwrap_or_default();
    let threads = threads(&question.config, &question.layers)?;
    // Something has to be known of the load before the space is: whether prompts share anything.
    let mut space = Space::new(&question.layers, &question.config, &vary, &question.limits)?;
    let Some(first) = space.candidates.first() else { return Err(empty(&question)) };
    let (first_plan, problem) = first_that_is_taken(&question.layers, &space);
    let Some(first_plan) = first_plan else {
        let problem = problem.unwrap_or_else(|| Failure::user("no deployment can be built"));
        return Err(if space.candidates.len() == 1 { problem } else { problem.about(&first.name) });
    };
    question.slo.clone_from(&first_plan.slo);
    if question.slo.is_empty() && !dry_run {
        return Err(Failure::user("a recommendation needs a target to keep")
            .with_hint("--slo 'p95 ttft <= 1s' --slo 'p95 itl <= 40ms', or --slo 'goodput >= 99% (ttft <= 2s, tpot <= 50ms)'"));
    }
    outputs::check(&question.config.output, &[&first_plan.source])?;
    let interrupt = Interrupt::install()?;
    let workloads = Workloads::default();
    let workload = workloads.of(&first_plan, 1.0)?;
    let reuse = servecast_workload::stats(&workload, first_plan.block_size.max(1)).token_reuse_ratio;
    if reuse > SHARED {
        question.limits.shares_prefixes = true;
        space = Space::new(&question.layers, &question.config, &vary, &question.limits)?;
    }
    if dry_run {
        return output::dry_run(&space, &question.limits);
    }
    if !quiet {
        super::introduce(&first_plan);
        if let Some(preset) = &preset {
            note(&format!("note: {preset}"));
        }
        workload.notes.sentences().iter().for_each(|sentence| note(&format!("note: {sentence}")));
        // What is worked out follows from the deployment: what is said once holds for all.
        if question.limits.prices.is_empty() && question.goals.contains(&Goal::Cost) {
            note("note: no price is given, so there is no cost: --gpu-hour GPU=PRICE");
        }
    }
    check_prices(&question, &space)?;
    let fingerprint = workload.fingerprint();
    let journal = match &resume {
        Some(path) => Journal::open(path, &identity(&question, fingerprint))?,
        None => Journal::default(),
    };
    interrupt.defer()?;
    let folder = outputs::claim(&question.config.output)?;
    let runs = Runs {
        question: &question,
        space: &space,
        threads,
        interrupt: &interrupt,
        workloads: &workloads,
        journal: &journal,
        quiet,
    };
    let growths =
        question.factors.iter().map(|&factor| runs.under(factor, &first_plan, &workload)).collect::<Vec<_>>();
    let answer = output::answer(&question, &first_plan, fingerprint, &growths);
    let is_stopped = interrupt.is_requested();
    output::write(&question, &answer, &growths, csv.as_deref())?;
    drop(folder);
    if is_stopped {
        return Err(Failure::interrupted("stopped: what is shown is what was known by then"));
    }
    interrupt.resume()?;
    match growths.iter().find(|growth| growth.search.ranking().is_empty()) {
        Some(growth) => Err(output::impossible(growth)),
        None => Ok(()),
    }
}

/// A search for each load.
struct Runs<'a> {
    question: &'a Question,
    space: &'a Space,
    threads: usize,
    interrupt: &'a Interrupt,
    workloads: &'a Workloads,
    journal: &'a Journal,
    quiet: bool,
}

impl Runs<'_> {
    fn under(&self, factor: f64, first: &Plan, workload: &servecast_workload::Workload) -> Growth {
        let Question { layers, slo, goals, .. } = self.question;
        let is_open = first.mode == LoadMode::OpenLoop;
        let load = Load {
            requests: workload.requests() as u64,
            span_ms: if is_open { span_ms(workload) / factor } else { 0.0 },
        };
        let progress = SearchProgress::new(self.space.candidates.len(), self.quiet);
        let runner = |slowdown, to_the_end| Runner {
            layers,
            slo,
            threads: self.threads,
            interrupt: self.interrupt,
            workloads: self.workloads,
            journal: self.journal,
            progress: &progress,
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
        let leaders: Vec<usize> =
            search.ranking().into_iter().take(if wants_all { usize::MAX } else { LEADERS }).collect();
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
        progress.finish();
        Growth { factor, search, headrooms, sureness }
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
        let first = |search: &Search| search.ranking().first().copied();
        let keeps = slower.figures(best).is_some_and(servecast_recommend::Figures::is_met);
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
fn first_that_is_taken(layers: &Layers, space: &Space) -> (Option<Plan>, Option<Failure>) {
    let mut problem = None;
    let mut tried: Vec<Vec<(String, serde_json::Value)>> = Vec::new();
    for candidate in &space.candidates {
        // More workers of the same do not make a difference.
        let engine: Vec<_> =
            candidate.settings.iter().filter(|(key, _)| !key.starts_with("num_")).cloned().collect();
        if tried.contains(&engine) {
            continue;
        }
        match plan(layers, candidate, 1.0) {
            Ok(plan) => return (Some(plan), problem),
            Err(failure) => drop(problem.get_or_insert(failure)),
        }
        tried.push(engine);
    }
    (None, problem)
}

/// Takes the defaults of the current release of the engine, unless something is said of it.
fn default_preset(layers: &mut Layers, config: &ReplayConfig) -> Result<Option<String>, Failure> {
    let engine = space::engine(config);
    let is_given = config.engine.engine_preset.is_some() || config.engine.model.is_none();
    let preset = match engine {
        EngineType::Vllm => "vllm-0.33",
        EngineType::Sglang => "sglang-0.5",
        EngineType::Trtllm => return Ok(None),
    };
    if is_given {
        return Ok(None);
    }
    layers.add("engine_preset", preset.into(), &Origin::Flag("the default of `recommend`".to_owned()))?;
    Ok(Some(format!("engines have the defaults of {preset}; --engine-preset takes those of another release")))
}

fn goals(text: Option<&str>, gpus: Option<u32>, prices: &[Price]) -> Result<Vec<Goal>, Failure> {
    let Some(text) = text else {
        let default = if gpus.is_some() {
            Goal::Latency
        } else if prices.is_empty() {
            Goal::Gpus
        } else {
            Goal::Cost
        };
        return Ok(vec![default]);
    };
    let known = Goal::ALL.map(|(name, _)| name);
    let mut goals = Vec::new();
    for name in text.split(',').map(|name| name.trim().replace('-', "_")) {
        let Some((_, goal)) = Goal::ALL.into_iter().find(|(known, _)| *known == name) else {
            let similar = servecast_types::similar(&name, known);
            let end = similar.map_or_else(
                || format!(": there are {}", known.join(", ")),
                |name| format!(", did you mean `{name}`?"),
            );
            return Err(Failure::user(format!("--objective: unknown objective `{name}`{end}")));
        };
        goals.push(goal);
    }
    if goals.contains(&Goal::Cost) && prices.is_empty() {
        return Err(
            Failure::user("--objective cost needs prices").with_hint("--gpu-hour H100-SXM=2.50 gives one")
        );
    }
    if goals.len() > 2 || goals.get(1) == goals.first() {
        return Err(Failure::user(format!(
            "--objective is `{text}`, but must be one objective, or two different ones"
        )));
    }
    Ok(goals)
}

fn prices(texts: &[String]) -> Result<Vec<Price>, Failure> {
    let price = |text: &String| {
        let wrong =
            || Failure::user(format!("--gpu-hour is `{text}`, but must be GPU=PRICE, as in H100-SXM=2.50"));
        let (gpu, price) = text.split_once('=').ok_or_else(wrong)?;
        let per_hour = price.trim().parse::<f64>().ok().filter(|price| price.is_finite() && *price > 0.0);
        let sheet = crate::latency::gpu_sheet(gpu.trim())?;
        Ok(Price { gpu: sheet.name.into_owned(), per_hour: per_hour.ok_or_else(wrong)? })
    };
    texts.iter().map(price).collect()
}

/// Refuses a cost of GPUs that have no price.
fn check_prices(question: &Question, space: &Space) -> Result<(), Failure> {
    let is_missing = |candidate: &&servecast_recommend::Candidate| candidate.price_per_hour.is_none();
    let needs = question.goals.contains(&Goal::Cost);
    match space.candidates.iter().find(is_missing).filter(|_| needs) {
        None => Ok(()),
        Some(candidate) => {
            let gpu =
                candidate.settings.iter().find(|(key, _)| key == "gpu").and_then(|(_, gpu)| gpu.as_str());
            let gpu = gpu.or(question.config.engine.gpu.as_deref()).unwrap_or("GPU that is not named");
            Err(Failure::user(format!("there is no price for a {gpu}"))
                .with_hint("--gpu-hour GPU=PRICE gives one, by the name that --gpu has"))
        }
    }
}

fn limits(
    max_gpus: Option<u32>,
    node_gpus: Option<u32>,
    spare: u32,
    prices: Vec<Price>,
) -> Result<Limits, Failure> {
    for (flag, value) in [("--max-gpus", max_gpus), ("--node-gpus", node_gpus)] {
        if value == Some(0) {
            return Err(Failure::user(format!("{flag} is 0, but a deployment has at least 1 GPU")));
        }
    }
    Ok(Limits {
        max_gpus: max_gpus.unwrap_or(DEFAULT_MAX_GPUS),
        node_gpus,
        spare,
        prices,
        shares_prefixes: false,
    })
}

fn factors(growth: Vec<f64>) -> Result<Vec<f64>, Failure> {
    if let Some(wrong) = growth.iter().find(|factor| !(factor.is_finite() && **factor > 0.0)) {
        return Err(Failure::user(format!("--growth is {wrong}, but must be a factor of the load above 0")));
    }
    Ok(if growth.is_empty() { vec![1.0] } else { growth })
}

fn threads(config: &ReplayConfig, layers: &Layers) -> Result<usize, Failure> {
    match config.several.threads {
        Some(0) => Err(Failure::user(layers.explained("`threads` is 0, but there is at least 1"))),
        Some(threads) => Ok(threads as usize),
        None => Ok(std::thread::available_parallelism().map_or(1, NonZero::get)),
    }
}

fn empty(question: &Question) -> Failure {
    let most = question.limits.max_gpus;
    Failure::user(format!("the space is empty: no deployment takes at most {most} GPUs"))
        .with_hint("more GPUs (--max-gpus), fewer of them a worker (--tp) or a --node-gpus or --spare that leaves room for one")
}

/// Refuses files of one run.
fn refuse_rows(output: &OutputConfig, layers: &Layers) -> Result<(), Failure> {
    let given = [
        ("requests_jsonl", output.requests_jsonl.is_some()),
        ("iterations_jsonl", output.iterations_jsonl.is_some()),
        ("routing_jsonl", output.routing_jsonl.is_some()),
        ("report_html", output.report_html.is_some()),
        ("timeline", output.timeline.is_some()),
        ("export", output.export.is_some()),
        ("fail_if", output.fail_if.is_some()),
    ];
    match given.into_iter().find(|(_, is_given)| *is_given) {
        None => Ok(()),
        Some((key, _)) => Err(Failure::user(layers.explained(&format!("`{key}` is of one run, but `recommend` makes many")))
            .with_hint("--output-dir DIR writes 1.toml, with which `servecast replay --config` repeats the run of the best")),
    }
}

/// What makes a search the same one.
fn identity(question: &Question, fingerprint: u64) -> serde_json::Value {
    let mut config = question.config.clone();
    config.output = OutputConfig::default();
    config.several = crate::config::SeveralConfig::default();
    config.trace.trace_file = None;
    let slo: Vec<String> = question.slo.iter().map(ToString::to_string).collect();
    json!({
        "servecast_version": env!("CARGO_PKG_VERSION"), "workload_hash": format!("{fingerprint:016x}"), "slo": slo,
        "settings": config,
    })
}
