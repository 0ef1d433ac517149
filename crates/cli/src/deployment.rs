//! From settings to pools of checked engines.

use std::path::Path;

use serde_json::{Map, Value};
use servecast_cluster::{ClusterError, PoolEngine, Topology};
use servecast_engine::{EngineArgs, EngineConfig, EnginePreset, LatencySpec, WorkerType, merge};
use servecast_latency::Grid;

use crate::config::{Layers, Origin, ReplayConfig, explained};
use crate::error::{Failure, chain};
use crate::files;

/// Workers of a pool, unless somebody says otherwise.
const DEFAULT_WORKERS: u32 = 1;

/// A deployment that can be simulated.
#[derive(Debug)]
pub(crate) struct Deployment {
    pub(crate) topology: Topology,
    /// Tokens a KV block, the same in all pools.
    pub(crate) block_size: u32,
    pub(crate) queue_policies: QueuePolicies,
    /// What was given but has no effect, and why.
    pub(crate) unused: Vec<String>,
}

/// Engine settings without effect on a replay, each with the reason.
const WITHOUT_EFFECT: [(&str, &str); 6] = [
    ("startup_time", "is for workers that are started while others serve"),
    ("reasoning", "changes token ids only"),
    ("enable_local_indexer", LIVE),
    ("bootstrap_port", LIVE),
    ("zmq_kv_events_port", LIVE),
    ("zmq_replay_port", LIVE),
];

const LIVE: &str = "is for live workers";

/// What engine settings say of the queue of their router.
#[derive(Debug, Default)]
pub(crate) struct QueuePolicies {
    /// Of the first pool that a request comes to.
    pub(crate) first: Option<String>,
    /// Of the decode pool, if it is another.
    pub(crate) decode: Option<String>,
}

/// Builds the deployment that the settings describe.
pub(crate) fn build(config: &ReplayConfig, layers: &Layers) -> Result<Deployment, Failure> {
    let refused = |error: &ClusterError| Failure::user(layers.explained(&error.to_string()));
    let given = &config.deployment;
    let Some(staged) = staged_key(config) else {
        let mut pool = Pool::build(WorkerType::Aggregated, given.engine_args.as_ref(), config, layers)?;
        if pool.args.kv_transfer_bandwidth.is_some() {
            pool.unused.push(layers.explained("`kv_transfer_bandwidth` is for prefill and decode workers"));
        }
        let topology = Topology::aggregated(pool.with_workers(given.num_workers));
        return Ok(Deployment {
            topology: topology.map_err(|error| refused(&error))?,
            block_size: pool.config.block_size(),
            queue_policies: QueuePolicies { first: pool.args.router_queue_policy, decode: None },
            unused: pool.unused,
        });
    };
    check_staged(config, layers, staged)?;
    let prefill = Pool::build(WorkerType::Prefill, given.prefill_engine_args.as_ref(), config, layers)?;
    let decode = Pool::build(WorkerType::Decode, given.decode_engine_args.as_ref(), config, layers)?;
    check_hand_off(&prefill.args, &decode.args, layers)?;
    let topology = Topology::disaggregated(
        prefill.with_workers(given.num_prefill_workers),
        decode.with_workers(given.num_decode_workers),
    );
    Ok(Deployment {
        topology: topology.map_err(|error| refused(&error))?,
        block_size: prefill.config.block_size(),
        queue_policies: QueuePolicies {
            first: prefill.args.router_queue_policy,
            decode: decode.args.router_queue_policy,
        },
        unused: [prefill.unused, decode.unused].concat(),
    })
}

/// The first setting, if there is one, that makes the deployment disaggregated.
fn staged_key(config: &ReplayConfig) -> Option<&'static str> {
    let given = &config.deployment;
    [
        ("prefill_engine_args", given.prefill_engine_args.is_some()),
        ("decode_engine_args", given.decode_engine_args.is_some()),
        ("num_prefill_workers", given.num_prefill_workers.is_some()),
        ("num_decode_workers", given.num_decode_workers.is_some()),
    ]
    .into_iter()
    .find_map(|(key, is_given)| is_given.then_some(key))
}

/// Refuses settings of an aggregated deployment in a disaggregated one, and half of a disaggregated one.
fn check_staged(config: &ReplayConfig, layers: &Layers, staged: &str) -> Result<(), Failure> {
    let given = &config.deployment;
    let refused = |message: &str, hint: &str| Err(Failure::user(layers.explained(message)).with_hint(hint));
    if given.engine_args.is_some() {
        let message = format!(
            "`engine_args` and `{staged}` cannot be combined: the one is for aggregated, the other for disaggregated \
             serving"
        );
        return refused(
            &message,
            "--prefill-engine-args and --decode-engine-args set up one pool each; flags such as --block-size hold for both",
        );
    }
    if given.num_workers.is_some() {
        let message = format!(
            "`num_workers` and `{staged}` cannot be combined: the one is for aggregated, the other for disaggregated \
             serving"
        );
        return refused(
            &message,
            "--num-prefill-workers and --num-decode-workers say how many there are of each",
        );
    }
    match (&given.prefill_engine_args, &given.decode_engine_args) {
        (Some(_), None) => refused(
            "`prefill_engine_args` is given without `decode_engine_args`, but each pool needs its settings",
            "--decode-engine-args '{}' takes the defaults",
        ),
        (None, Some(_)) => refused(
            "`decode_engine_args` is given without `prefill_engine_args`, but each pool needs its settings",
            "--prefill-engine-args '{}' takes the defaults",
        ),
        _ => Ok(()),
    }
}

/// Refuses a bandwidth that nothing would be divided by: the hand-off would silently take no time.
fn check_hand_off(prefill: &EngineArgs, decode: &EngineArgs, layers: &Layers) -> Result<(), Failure> {
    let bandwidth = [prefill, decode].into_iter().find_map(|args| args.kv_transfer_bandwidth);
    let bytes = prefill.kv_bytes_per_token.or(decode.kv_bytes_per_token);
    match (bandwidth.filter(|&bandwidth| bandwidth > 0.0), bytes) {
        (Some(bandwidth), None) => {
            let message =
                format!("`kv_transfer_bandwidth` is {bandwidth}, but `kv_bytes_per_token` is not given");
            let hint = "--kv-bytes-per-token says how much there is to transfer: \
                        2 · layers · KV heads · head size · bytes a number";
            Err(Failure::user(layers.explained(&message)).with_hint(hint))
        }
        _ => Ok(()),
    }
}

/// The engine of a pool.
struct Pool {
    args: EngineArgs,
    config: EngineConfig,
    /// What was given but has no effect, and why.
    unused: Vec<String>,
}

impl Pool {
    fn build(
        role: WorkerType,
        explicit: Option<&Map<String, Value>>,
        config: &ReplayConfig,
        layers: &Layers,
    ) -> Result<Self, Failure> {
        let (name, key) = match role {
            WorkerType::Aggregated => ("", "engine_args"),
            WorkerType::Prefill => ("prefill engine: ", "prefill_engine_args"),
            WorkerType::Decode => ("decode engine: ", "decode_engine_args"),
        };
        let settings = Settings::collect(key, explicit, config, layers)?;
        let refused = |problem: &str| Failure::user(format!("{name}{}", settings.explained(problem)));
        let preset = match &config.engine.engine_preset {
            None => Map::new(),
            Some(preset) => {
                let preset = EnginePreset::by_name(preset);
                preset.map_err(|error| Failure::user(layers.explained(&error.to_string())))?.settings(role)
            }
        };
        let args = EngineArgs::from_json(merge(preset, settings.values.clone().into()))
            .map_err(|error| refused(&error.to_string()))?;
        let grid = match args.latency_spec().map_err(|error| refused(&error.to_string()))? {
            LatencySpec::Grid(path) => Some(read_grid(Path::new(&path))?),
            LatencySpec::Polynomial | LatencySpec::Linear(_) => None,
        };
        let config = args.validate(grid).map_err(|error| refused(&error.to_string()))?;
        let unused = settings.unused().map(|reason| format!("{name}{reason}")).collect();
        Ok(Self { args, config, unused })
    }

    fn with_workers(&self, workers: Option<u32>) -> PoolEngine<'_> {
        PoolEngine { workers: workers.unwrap_or(DEFAULT_WORKERS), args: &self.args, config: &self.config }
    }
}

/// The engine settings of a pool, and where each came from.
struct Settings<'a> {
    values: Map<String, Value>,
    origins: Vec<(String, &'a Origin)>,
}

impl<'a> Settings<'a> {
    /// The settings that are given for every pool, under those of this pool.
    fn collect(
        key: &str,
        explicit: Option<&Map<String, Value>>,
        config: &ReplayConfig,
        layers: &'a Layers,
    ) -> Result<Self, Failure> {
        let mut values = explicit.cloned().unwrap_or_default();
        let mut origins = Vec::new();
        for name in values.keys() {
            origins.extend(layers.origin(&format!("{key}.{name}")).map(|origin| (name.clone(), origin)));
        }
        for (shortcut, name, value) in config.engine.given() {
            let Some(found) = [name, "kv_transfer_bytes_per_token"]
                .into_iter()
                .take(if name == "kv_bytes_per_token" { 2 } else { 1 })
                .find_map(|name| values.get(name))
            else {
                origins.extend(layers.origin(shortcut).map(|origin| (name.to_owned(), origin)));
                values.insert(name.to_owned(), value);
                continue;
            };
            if !is_same(found, &value) {
                let message =
                    format!("`{shortcut}` is {value}, but `{key}` has `{name}` {found}: give it once");
                return Err(Failure::user(layers.explained(&message)));
            }
        }
        let settings = Self { values, origins };
        // Engine arguments take 0 for the default, but whoever writes it out means something else.
        if settings.values.get("block_size").and_then(Value::as_u64) == Some(0) {
            let problem = "`block_size` is 0: a block holds at least 2 tokens; leave it out for the default";
            return Err(Failure::user(settings.explained(problem)));
        }
        Ok(settings)
    }

    /// Those that have no effect, each in a sentence.
    fn unused(&self) -> impl Iterator<Item = String> + '_ {
        let is_given =
            |key: &str| self.values.get(key).is_some_and(|value| !value.is_null() && *value != false);
        let given = WITHOUT_EFFECT.iter().filter(move |(key, _)| is_given(key));
        given.map(|(key, reason)| self.explained(&format!("`{key}` {reason}")))
    }

    fn explained(&self, problem: &str) -> String {
        explained(problem, self.origins.iter().map(|(key, origin)| (key.as_str(), *origin)))
    }
}

/// Whether two JSON values mean the same setting: 1 and 1.0 do.
fn is_same(one: &Value, other: &Value) -> bool {
    one == other || one.as_f64().is_some_and(|number| Some(number) == other.as_f64())
}

fn read_grid(path: &Path) -> Result<Grid, Failure> {
    let bytes = files::read(path)?;
    Grid::from_npz(&bytes).map_err(|error| Failure::user(format!("{}: {}", path.display(), chain(&error))))
}
