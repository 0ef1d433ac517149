//! What is asked: settings that are fixed, and what is best among those that are left.

use std::collections::BTreeMap;
use std::num::NonZero;

use serde_json::{Value, json};
use servecast_engine::EngineType;
use servecast_recommend::{Goal, Price};
use servecast_report::Slo;
use servecast_types::{Message, message};

use super::simulator::hash;
use super::space::{self, DEFAULT_MAX_GPUS, Limits};
use crate::plan::objectives;
use servecast_config::error::Failure;
use servecast_config::latency::gpu_sheet;
use servecast_config::settings::{Layers, Origin, OutputConfig, ReplayConfig, SeveralConfig};

/// What is asked beside settings.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// What is best, or two of it; without it, what the rest suggests.
    pub objective: Option<String>,
    /// GPUs up to which deployments are looked at.
    pub max_gpus: Option<u32>,
    /// GPUs of which the best is to be made.
    pub gpus: Option<u32>,
    /// GPUs of a node, if whole nodes are taken.
    pub node_gpus: Option<u32>,
    /// Workers of each pool that stand by.
    pub spare: u32,
    /// Factors of the load; without any, the load as it is.
    pub growth: Vec<f64>,
    /// Prices of GPUs, each `GPU=PRICE`.
    pub gpu_hour: Vec<String>,
}

/// A question that can be answered, as far as settings say.
#[derive(Debug, Clone)]
pub struct Question {
    /// The settings of all deployments, and where they came from.
    pub layers: Layers,
    /// The same, each of its type.
    pub config: ReplayConfig,
    /// The targets.
    pub slo: Vec<Slo>,
    /// What is best.
    pub goals: Vec<Goal>,
    /// What limits the space.
    pub limits: Limits,
    /// Factors of the load.
    pub factors: Vec<f64>,
    /// Runs at a time.
    pub threads: usize,
    /// The preset of engines that nobody asked for, in words.
    pub preset: Option<String>,
}

impl Question {
    /// The question that settings and the rest ask.
    pub fn new(mut layers: Layers, asked: Asked) -> Result<Self, Failure> {
        let Asked { objective, max_gpus, gpus, node_gpus, spare, growth, gpu_hour } = asked;
        let config = layers.parse()?;
        let preset = default_preset(&mut layers, &config)?;
        let prices = prices(&gpu_hour)?;
        let goals = goals(objective.as_deref(), gpus, &prices)?;
        let limits = limits([max_gpus, gpus], node_gpus, spare, prices)?;
        let factors = factors(growth)?;
        let config = layers.parse()?;
        refuse_measured(&config, &layers)?;
        refuse_diagnosis(&config, &layers)?;
        let slo = objectives(&config, &layers)?;
        let threads = threads(&config, &layers)?;
        Ok(Self { layers, config, slo, goals, limits, factors, threads, preset })
    }

    /// The values of `--vary`.
    pub fn vary(&self) -> &[String] {
        self.config.several.vary.as_deref().unwrap_or_default()
    }

    /// What is given of a run: nothing about files and several runs.
    fn of_a_run(&self) -> ReplayConfig {
        let mut config = self.config.clone();
        config.output = OutputConfig::default();
        config.several = SeveralConfig::default();
        config.trace.trace_file = None;
        config
    }

    /// The settings that all deployments have in common, without the targets.
    pub(super) fn given(&self) -> BTreeMap<String, Value> {
        let mut config = self.of_a_run();
        config.limits.slo = None;
        let mut settings = json!(config);
        // The order of keys must not depend on the features of serde_json that other crates switch on.
        settings.sort_all_objects();
        let Value::Object(members) = settings else { unreachable!("settings are an object") };
        members.into_iter().filter(|(_, value)| !value.is_null()).collect()
    }

    /// What makes a search the same one, with the load of this fingerprint.
    pub(super) fn identity(&self, fingerprint: u64) -> Value {
        let slo: Vec<String> = self.slo.iter().map(ToString::to_string).collect();
        json!({
            "servecast_version": env!("CARGO_PKG_VERSION"), "workload_hash": hash(fingerprint), "slo": slo,
            "settings": self.of_a_run(),
        })
    }
}

/// Refuses settings that leave requests out: what a deployment cannot keep is seen from all of them, often before the end.
fn refuse_measured(config: &ReplayConfig, layers: &Layers) -> Result<(), Failure> {
    let given = &config.measured;
    let keys = [
        ("warmup", given.warmup.is_some()),
        ("cooldown", given.cooldown.is_some()),
        ("count_rejected", given.count_rejected.is_some()),
    ];
    match keys.into_iter().find(|(_, is_given)| *is_given) {
        None => Ok(()),
        Some((key, _)) => Err(layers
            .refused(message!(
                "{} is for the figures of a replay, but a search judges all requests",
                Message::key(key)
            ))
            .with_hint(
                "leave it out: requests that are not served are misses of every objective in any case",
            )),
    }
}

/// Refuses what says of a run what is wrong with it.
fn refuse_diagnosis(config: &ReplayConfig, layers: &Layers) -> Result<(), Failure> {
    let output = &config.output;
    let keys = [("diagnosis", output.diagnosis == Some(true)), ("diagnose", output.diagnoses())];
    match keys.into_iter().find(|(_, is_given)| *is_given) {
        None => Ok(()),
        Some((key, _)) => {
            let message = message!("{} is of one run, but `recommend` makes many", Message::key(key));
            Err(layers.refused(message).with_hint("replay the deployment that matters by itself"))
        }
    }
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
            return Err(Failure::user(message!("{--objective}: unknown objective `{}`{}", &name, end)));
        };
        goals.push(goal);
    }
    if goals.contains(&Goal::Cost) && prices.is_empty() {
        return Err(Failure::user(message!("{--objective} cost needs prices"))
            .with_hint(message!("{--gpu_hour} H100-SXM=2.50 gives one")));
    }
    if goals.len() > 2 || goals.get(1) == goals.first() {
        return Err(Failure::user(message!(
            "{--objective} is `{}`, but must be one objective, or two different ones",
            text
        )));
    }
    Ok(goals)
}

fn prices(texts: &[String]) -> Result<Vec<Price>, Failure> {
    let price = |text: &String| {
        let wrong = || {
            Failure::user(message!("{--gpu_hour} is `{}`, but must be GPU=PRICE, as in H100-SXM=2.50", text))
        };
        let (gpu, price) = text.split_once('=').ok_or_else(wrong)?;
        let per_hour = price.trim().parse::<f64>().ok().filter(|price| price.is_finite() && *price > 0.0);
        let sheet = gpu_sheet(gpu.trim())?;
        Ok(Price { gpu: sheet.name.into_owned(), per_hour: per_hour.ok_or_else(wrong)? })
    };
    texts.iter().map(price).collect()
}

fn limits(
    [max_gpus, gpus]: [Option<u32>; 2],
    node_gpus: Option<u32>,
    spare: u32,
    prices: Vec<Price>,
) -> Result<Limits, Failure> {
    for (key, value) in [("max_gpus", max_gpus), ("gpus", gpus), ("node_gpus", node_gpus)] {
        if value == Some(0) {
            let flag = Message::flag(key);
            return Err(Failure::user(message!("{} is 0, but a deployment has at least 1 GPU", flag)));
        }
    }
    Ok(Limits {
        max_gpus: max_gpus.or(gpus).unwrap_or(DEFAULT_MAX_GPUS),
        node_gpus,
        spare,
        prices,
        shares_prefixes: false,
    })
}

fn factors(growth: Vec<f64>) -> Result<Vec<f64>, Failure> {
    if let Some(wrong) = growth.iter().find(|factor| !(factor.is_finite() && **factor > 0.0)) {
        return Err(Failure::user(message!(
            "{--growth} is {}, but must be a factor of the load above 0",
            *wrong
        )));
    }
    Ok(if growth.is_empty() { vec![1.0] } else { growth })
}

fn threads(config: &ReplayConfig, layers: &Layers) -> Result<usize, Failure> {
    match config.several.threads {
        Some(0) => Err(layers.refused(message!("{threads} is 0, but there is at least 1"))),
        Some(threads) => Ok(threads as usize),
        None => Ok(std::thread::available_parallelism().map_or(1, NonZero::get)),
    }
}
