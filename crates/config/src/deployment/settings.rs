//! The engine settings of a pool: its own, and those that are given for every pool.

use serde_json::{Map, Value};
use servecast_engine::{DisaggregationMode, EngineArgs, EngineType, LatencySpec, SchedulePolicy};
use servecast_types::{Message, message};

use super::group::Given;
use crate::error::Failure;
use crate::settings::{Engines, Layers, Origin, ReplayConfig, Shortcut};

/// Settings without effect on a replay, each with the reason.
const WITHOUT_EFFECT: [(&str, &str); 6] = [
    ("startup_time", "is for workers that are started while others serve"),
    ("reasoning", "changes token ids only"),
    ("enable_local_indexer", LIVE),
    ("bootstrap_port", LIVE),
    ("zmq_kv_events_port", LIVE),
    ("zmq_replay_port", LIVE),
];

/// What is said of recorded graphs.
pub const GRAPHS: [&str; 8] = [
    "enforce_eager",
    "cudagraph_capture_sizes",
    "max_cudagraph_capture_size",
    "sglang.cuda_graph_bs",
    "sglang.cuda_graph_max_bs",
    "sglang.disable_cuda_graph",
    "sglang.disable_cuda_graph_padding",
    "trtllm.cuda_graph_config",
];

const LIVE: &str = "is for live workers";

/// Settings of vLLM that SGLang has no use for; those that would change something there are refused.
const OF_VLLM: [&str; 13] = [
    "vllm_version",
    "reserve_null_block",
    "max_num_batched_tokens",
    "enable_chunked_prefill",
    "long_prefill_token_threshold",
    "long_prefill_token_threshold_adaptive",
    "scheduler_reserve_full_isl",
    "watermark",
    "prefill_schedule_interval",
    "async_scheduling",
    "scheduling_policy",
    "policy",
    "preemption_mode",
];

/// Other names of settings, by which users may have given them.
const OTHER_NAMES: [(&str, &str); 2] =
    [("kv_bytes_per_token", "kv_transfer_bytes_per_token"), ("sglang.context_length", "sglang.context_len")];

/// Settings of SGLang that give what another setting gives, and whether they mean the opposite.
const SAME: [(&str, &str, Meaning); 5] = [
    ("sglang.page_size", "block_size", Meaning::Equal),
    ("sglang.max_running_requests", "max_num_seqs", Meaning::Equal),
    ("sglang.context_length", "max_model_len", Meaning::Equal),
    ("sglang.disable_radix_cache", "enable_prefix_caching", Meaning::Opposite),
    ("sglang.max_total_tokens", "num_gpu_blocks", Meaning::Other),
];

/// Settings without effect on a replay with this engine.
pub fn without_effect(engine: EngineType) -> impl Iterator<Item = &'static str> {
    let of_vllm = OF_VLLM.into_iter().filter(move |_| engine == EngineType::Sglang);
    WITHOUT_EFFECT.into_iter().map(|(key, _)| key).chain(of_vllm)
}

/// How the values of two settings are related that give the same.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Equal,
    Opposite,
    /// They have different units.
    Other,
}

/// The engine settings of a pool, and where each came from.
pub(super) struct Settings<'a> {
    pub(super) values: Map<String, Value>,
    /// By path: those of SGLang are `sglang.NAME`.
    origins: Vec<(String, &'a Origin)>,
}

impl<'a> Settings<'a> {
    /// The settings that are given for every pool, under those of this pool, in a deployment with these engines.
    pub(super) fn collect(
        given: &Given<'_>,
        engines: &[EngineType],
        config: &ReplayConfig,
        layers: &'a Layers,
    ) -> Result<Self, Failure> {
        let key = given.key();
        let origins = given.asked.keys.iter().flat_map(|key| layers.origins_within(key)).collect();
        let mut settings = Self { values: given.asked.explicit.clone(), origins };
        for shortcut in config.engine.given().into_iter().chain(config.sglang.given()) {
            if shortcut.engines.include(given.engine) {
                settings.add(shortcut, key, layers)?;
            } else if !engines.iter().any(|&engine| shortcut.engines.include(engine)) {
                refuse_of_sglang(&shortcut, given.engine, layers)?;
                settings.add(shortcut, key, layers)?;
            }
        }
        settings.check_same()?;
        // Engine arguments take 0 for the default, but whoever writes it out means something else.
        if settings.get("block_size").and_then(Value::as_u64) == Some(0) {
            let least = if given.engine == EngineType::Sglang { "1 token" } else { "2 tokens" };
            let problem =
                message!("{block_size} is 0: a block holds at least {}; leave it out for the default", least);
            return Err(Failure::user(settings.explained(problem)));
        }
        Ok(settings)
    }

    /// Adds a setting that is given for every pool.
    fn add(&mut self, shortcut: Shortcut, key: &str, layers: &'a Layers) -> Result<(), Failure> {
        let Shortcut { key: name, path, value, .. } = shortcut;
        let path = path.as_str();
        let other = OTHER_NAMES.iter().find(|(known, _)| *known == path).map(|(_, other)| *other);
        let found = std::iter::once(path).chain(other).find_map(|path| Some((path, self.get(path)?)));
        if let Some((path, found)) = found {
            if is_same(found, &value) {
                return Ok(());
            }
            return Err(layers.refused(message!(
                "{} is {}, but {} has {} {}: give it once",
                Message::key(name),
                value,
                Message::key(key),
                Message::key(path),
                found
            )));
        }
        self.origins.extend(layers.origin(&name).map(|origin| (path.to_owned(), origin)));
        let within = layers.origins_within(&name).into_iter();
        self.origins.extend(within.map(|(setting, origin)| (format!("{path}.{setting}"), origin)));
        match path.split_once('.') {
            None => {
                self.values.insert(path.to_owned(), value);
            }
            Some((section, path)) => {
                let section = self.values.entry(section).or_insert(Value::Null);
                if section.is_null() {
                    *section = Map::new().into();
                }
                // What is no object is refused with the other settings.
                if let Some(section) = section.as_object_mut() {
                    section.insert(path.to_owned(), value);
                }
            }
        }
        Ok(())
    }

    /// Refuses settings that give the same thing differently.
    fn check_same(&self) -> Result<(), Failure> {
        for (own, general, meaning) in SAME {
            let (Some(one), Some(other)) = (self.get(own), self.get(general)) else { continue };
            let agrees = match meaning {
                Meaning::Equal => is_same(one, other),
                Meaning::Opposite => one.as_bool().map(|one| !one) == other.as_bool(),
                Meaning::Other => false,
            };
            if !agrees {
                return Err(Failure::user(self.explained(message!(
                    "{} is {} and {} is {}, but they are one setting: give one of them",
                    Message::key(own),
                    one,
                    Message::key(general),
                    other
                ))));
            }
        }
        Ok(())
    }

    /// The value at a path, unless it is null.
    fn get(&self, path: &str) -> Option<&Value> {
        let value = match path.split_once('.') {
            None => self.values.get(path),
            Some((section, path)) => self.values.get(section)?.get(path),
        };
        value.filter(|value| !value.is_null())
    }

    /// Whether they say how large the KV cache is.
    pub(super) fn give_capacity(&self) -> bool {
        ["num_gpu_blocks", "sglang.max_total_tokens"].into_iter().any(|key| self.get(key).is_some())
    }

    /// Those that have no effect, each in a sentence.
    pub(super) fn unused(&self, args: &EngineArgs) -> impl Iterator<Item = Message> + '_ {
        let is_on = |key: &str| self.get(key).is_some_and(|value| *value != false);
        let never = WITHOUT_EFFECT.iter().filter(move |(key, _)| is_on(key));
        let mut unused: Vec<Message> =
            never.map(|(key, reason)| message!("{} {}", Message::key(*key), *reason)).collect();
        if args.engine_type == EngineType::Sglang {
            unused.extend(self.unused_by_sglang(args));
        }
        unused.into_iter().map(|sentence| self.explained(sentence))
    }

    /// What is said of recorded graphs without effect, each in a sentence.
    pub(super) fn unused_graphs(
        &self,
        args: &EngineArgs,
        spec: &LatencySpec,
    ) -> impl Iterator<Item = Message> + '_ {
        let is_composed = matches!(spec, LatencySpec::Ops(_));
        let is_on = |key: &&str| self.get(key).is_some_and(|value| *value != false);
        let without_operators = GRAPHS.into_iter().filter(move |key| !is_composed && is_on(key)).map(|key| {
            message!(
                "{} is for iteration times composed of operators ({model} and {gpu}): other latency models have the passes \
                 that were measured",
                Message::key(key)
            )
        });
        let without_graphs = args
            .has_unused_graphs()
            .filter(|_| is_composed)
            .map(|key| message!("{} says which graphs are recorded, but none are", Message::key(key)));
        without_operators.chain(without_graphs).map(|sentence| self.explained(sentence))
    }

    fn unused_by_sglang(&self, args: &EngineArgs) -> Vec<Message> {
        let sglang = args.sglang.clone().unwrap_or_default();
        let is_given = |key: &&str| self.get(key).is_some();
        let of_vllm = OF_VLLM.into_iter().filter(is_given);
        let mut unused: Vec<Message> =
            of_vllm.map(|key| message!("{} is a setting of vLLM", Message::key(key))).collect();
        if !sglang.enable_priority_scheduling {
            let of_priorities = [
                "sglang.schedule_low_priority_values_first",
                "sglang.priority_scheduling_preemption_threshold",
            ];
            let of_priorities = of_priorities.into_iter().filter(is_given);
            unused.extend(
                of_priorities
                    .map(|key| message!("{} needs {sglang.enable_priority_scheduling}", Message::key(key))),
            );
        }
        let policy = sglang.schedule_policy;
        if policy != SchedulePolicy::Random {
            let seed = ["sglang.random_seed"].into_iter().filter(is_given);
            unused.extend(seed.map(|key| message!("{} is for the policy `random`", Message::key(key))));
        }
        if matches!(
            sglang.disaggregation_mode,
            Some(DisaggregationMode::Prefill | DisaggregationMode::Decode)
        ) {
            let timing = ["kv_transfer_timing_mode"].into_iter().filter(is_given);
            unused.extend(timing.map(|key| {
                message!(
                    "{} has no effect with {sglang.disaggregation_mode}, where what a decode worker lacks is moved",
                    Message::key(key)
                )
            }));
        }
        let shares = args.enable_prefix_caching && !sglang.disable_radix_cache;
        if !shares && policy.goes_by_cache() {
            unused.push(message!("{sglang.schedule_policy} goes by what is cached, but nothing is"));
        }
        unused
    }

    /// The message, and where the settings that it mentions got their values.
    pub(super) fn explained(&self, message: Message) -> Message {
        message.with_origins(self.origins.iter().map(|(key, origin)| (key.as_str(), *origin)))
    }
}

/// Refuses a setting of SGLang where no pool runs it; those of vLLM are refused by SGLang, which knows what to use instead.
fn refuse_of_sglang(shortcut: &Shortcut, engine: EngineType, layers: &Layers) -> Result<(), Failure> {
    if shortcut.engines != Engines::Sglang {
        return Ok(());
    }
    let key = Message::key(&shortcut.key);
    let message = message!("{} is a setting of SGLang, but the engine is {}", key, engine.name());
    Err(layers.refused(message).with_hint(message!("{--engine} sglang simulates SGLang")))
}

/// Whether two JSON values mean the same setting: 1 and 1.0 do.
fn is_same(one: &Value, other: &Value) -> bool {
    one == other || one.as_f64().is_some_and(|number| Some(number) == other.as_f64())
}
