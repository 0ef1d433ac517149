//! Settings from several places, laid over one another as JSON objects.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use servecast_engine::lay_over;
use servecast_types::{Expected, Message, Mistyped, flag, message, typed};

use super::keys::{PREFIX, keys_of, known_key, variable_key};
use super::pool::{POOL, check_keys};
use super::toml_file::toml_object;
use super::value::{boolean, json_object, settings};
use super::{OutputConfig, ReplayConfig, SeveralConfig, SyntheticConfig, not_yet, router};
use crate::error::Failure;
use crate::files;
use crate::latency::Models;

/// Variables with that beginning that are none of ours: the tests know them.
const OTHER_VARIABLES: [&str; 3] = ["SERVECAST_DATA", "SERVECAST_ORACLE", "SERVECAST_REQUIRE_ORACLE"];

/// Keys whose values are settings themselves, of an engine or of a router.
pub(super) const NESTED: [&str; 7] = [
    "engine_args",
    "prefill_engine_args",
    "decode_engine_args",
    "router_config",
    "host",
    "speculative_config",
    "kv_offloading",
];

/// The deployment of the first command of a newcomer.
pub const EXAMPLE: [(&str, &str); 3] =
    [("model", "meta-llama/Llama-3.1-8B"), ("gpu", "H100-SXM"), ("engine_preset", "vllm-0.33")];

/// Keys of the output that say what is computed, so that programs may give them.
const OF_ANY_RUN: [&str; 4] = ["check", "plain", "diagnosis", "diagnose"];

/// Whoever gives one of these has a load or a deployment in mind.
const SAYS_WHAT_RUNS: [&str; 10] = [
    "trace_file",
    "model",
    "gpu",
    "latency",
    "engine",
    "engine_preset",
    "engine_args",
    "prefill_engine_args",
    "decode_engine_args",
    "pool",
];

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A configuration file.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
    /// A flag or an argument.
    Flag(String),
    /// Nobody: there is neither a load nor a deployment, so that an example is run.
    Example,
}

impl Origin {
    /// The flag of a key.
    pub fn flag(key: &str) -> Self {
        Self::Flag(match key {
            "trace_file" => "the argument TRACE".to_owned(),
            "engine_args" => "--extra-engine-args".to_owned(),
            key => flag(key),
        })
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Variable(name) | Self::Flag(name) => f.write_str(name),
            Self::Example => f.write_str("the example that runs without a trace"),
        }
    }
}

/// The settings that were given, each from the most specific place, and which place that is.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    values: Map<String, Value>,
    /// By key; of nested settings by `key.setting`.
    origins: BTreeMap<String, Origin>,
    /// What `latency` may name beside files and built-in models.
    models: Models,
    /// Whether messages leave out where values came from.
    is_silent: bool,
    /// Keys whose flag has another name in this command.
    flags: BTreeMap<String, Origin>,
    /// Configuration files, in the order in which they were laid over each other.
    files: Vec<PathBuf>,
}

impl Layers {
    /// Other settings by their keys, with the latency models that these may name.
    #[must_use]
    pub fn with_values(&self, values: Map<String, Value>) -> Self {
        Self { models: self.models.clone(), ..Self::of_values(values) }
    }

    /// Settings by their keys, as [`Self::values`] of another process has them; messages do not say where they came
    /// from.
    pub fn of_values(values: Map<String, Value>) -> Self {
        let of_key = |key: &String| (key.clone(), Origin::Flag(key.clone()));
        let origins = values.keys().map(of_key).collect();
        Self { values, origins, is_silent: true, ..Self::default() }
    }

    /// The same, but messages do not say where values came from.
    #[must_use]
    pub fn without_origins(&self) -> Self {
        Self { is_silent: true, ..self.clone() }
    }

    /// The value of every key that is given.
    pub fn values(&self) -> &Map<String, Value> {
        &self.values
    }

    /// No settings yet, in a program that brings latency models along.
    pub fn with_models(models: Models) -> Self {
        Self { models, ..Self::default() }
    }

    /// No settings yet, in a command in which the flag of a key has another name.
    #[must_use]
    pub fn with_flag(mut self, key: &str, flag: &str) -> Self {
        self.flags.insert(key.to_owned(), Origin::Flag(flag.to_owned()));
        self
    }

    /// The latency models that were brought along.
    pub fn models(&self) -> &Models {
        &self.models
    }

    /// Adds the keys of a configuration file: JSON if its name ends in `.json`, otherwise TOML.
    pub fn add_file(&mut self, path: &Path) -> Result<(), Failure> {
        let text = files::read_text(path)?;
        let is_json = path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("json"));
        let object = if is_json { json_object(&text) } else { toml_object(&text) };
        let shown = path.display().to_string();
        let object = object.map_err(|problem| Failure::user(problem).about(&shown))?;
        let mut given = BTreeSet::new();
        for (key, value) in object {
            let key = known_key(&key).map_err(|error| Failure::user(error.message).about(&shown))?;
            if !given.insert(key.clone()) {
                return Err(Failure::user(given_by_two_names(&key)).about(&shown));
            }
            self.add(&key, value, &Origin::File(path.to_owned()))?;
        }
        self.files.push(path.to_owned());
        Ok(())
    }

    /// The configuration files that settings come from.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Adds the variables of an environment that are settings; empty ones count as absent. Those of single settings
    /// of the KV router are left to [`super::add_router`].
    pub fn add_environment(
        &mut self,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(), Failure> {
        // Sorted, so that the first of several mistakes is always the same.
        let variables: BTreeMap<OsString, OsString> = variables.into_iter().collect();
        for (name, text) in variables {
            let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
            if OTHER_VARIABLES.contains(&name) || router::is_variable(name) || text.is_empty() {
                continue;
            }
            let key = variable_key(name)?;
            let text = text
                .into_string()
                .map_err(|_| Failure::user(format!("the environment variable {name} is not UTF-8")))?;
            let value = value_of(&key, text);
            self.add(&key, value, &Origin::Variable(name.to_owned()))?;
        }
        Ok(())
    }

    /// Adds what flags say.
    pub fn add_flags(&mut self, flags: &ReplayConfig) -> Result<(), Failure> {
        let flags = serde_json::to_value(flags)
            .map_err(|error| Failure::input(&error).about("a flag cannot be used"))?;
        let Value::Object(flags) = flags else { unreachable!("settings are an object") };
        for (key, value) in flags {
            let origin = self.flags.get(&key).cloned();
            self.add(&key, value, &origin.unwrap_or_else(|| Origin::flag(&key)))?;
        }
        Ok(())
    }

    /// Adds an argument of another program, by its name.
    pub fn add_argument(&mut self, name: &str, value: Value) -> Result<(), Failure> {
        let key = known_key(name).map_err(|error| Failure::user(error.message))?;
        let of_command = keys_of::<OutputConfig>().contains(&key) && !OF_ANY_RUN.contains(&key.as_str());
        if of_command || keys_of::<SeveralConfig>().contains(&key) {
            return Err(Failure::user(message!("{} is for the command line only", Message::key(name))));
        }
        if self.origins.contains_key(&key) && !value.is_null() {
            return Err(Failure::user(given_by_two_names(&key)));
        }
        self.add(&key, value, &Origin::Flag(name.to_owned()))
    }

    /// Lays a value over what is there; null is nothing.
    pub fn add(&mut self, key: &str, mut value: Value, origin: &Origin) -> Result<(), Failure> {
        if value.is_null() {
            return Ok(());
        }
        if NESTED.contains(&key)
            && let Some(text) = value.as_str()
        {
            let settings = settings(text).map_err(|problem| {
                Failure::user(message!("{}: {}", Message::key(key), problem).with_origins([(key, origin)]))
            })?;
            value = settings.into();
        }
        if key == POOL {
            // A list takes the place of another.
            self.remove(key);
        }
        if NESTED.contains(&key) || key == POOL {
            self.note_origins(key, &value, origin);
        }
        lay_over(&mut self.values, Map::from_iter([(key.to_owned(), value)]));
        self.origins.insert(key.to_owned(), origin.clone());
        Ok(())
    }

    /// Adds a deployment to look at, if neither load nor deployment is given; returns whether that is so.
    ///
    /// With a load of one's own and no model, iteration times stay those of no GPU at all, which a note says.
    pub fn add_example(&mut self) -> Result<bool, Failure> {
        let is_given = |key: &String| self.values.contains_key(key);
        let load = keys_of::<SyntheticConfig>();
        if SAYS_WHAT_RUNS.iter().any(|key| self.values.contains_key(*key)) || load.iter().any(is_given) {
            return Ok(false);
        }
        for (key, value) in EXAMPLE {
            self.add(key, value.into(), &Origin::Example)?;
        }
        Ok(true)
    }

    /// Takes a value away, as if it had not been given.
    pub(super) fn remove(&mut self, key: &str) {
        self.values.remove(key);
        self.origins.remove(key);
        let within = |path: &str| path.strip_prefix(key).is_some_and(|rest| rest.starts_with(['.', '[']));
        self.origins.retain(|path, _| !within(path));
    }

    /// Remembers where settings came from that are within others.
    fn note_origins(&mut self, path: &str, value: &Value, origin: &Origin) {
        for (key, value) in value.as_object().into_iter().flatten() {
            let path = format!("{path}.{key}");
            self.note_origins(&path, value, origin);
            self.origins.insert(path, origin.clone());
        }
        let tables = value.as_array().into_iter().flatten().enumerate().filter(|(_, item)| item.is_object());
        for (number, table) in tables {
            let path = format!("{path}[{number}]");
            self.note_origins(&path, table, origin);
            self.origins.insert(path, origin.clone());
        }
    }

    /// The settings, each of its type.
    pub fn parse(&self) -> Result<ReplayConfig, Failure> {
        not_yet::refuse_values(&self.values, |key| self.origins[key].to_string())?;
        self.value(POOL).map_or(Ok(()), check_keys).map_err(|problem| self.refused(problem))?;
        parse(&self.values).map_err(|problem| self.refused(problem))
    }

    /// The value of a key so far.
    pub(super) fn value(&self, key: &str) -> Option<&Value> {
        self.values.get(key)
    }

    /// Where a key got its value, if it has one.
    pub fn origin(&self, key: &str) -> Option<&Origin> {
        self.origins.get(key)
    }

    /// Where the settings within a key came from, by their paths without that key.
    pub fn origins_within(&self, key: &str) -> Vec<(String, &Origin)> {
        let within = |(path, origin): (&'_ String, _)| {
            let path = path.strip_prefix(key)?.strip_prefix('.')?;
            Some((path.to_owned(), origin))
        };
        self.origins.iter().filter_map(within).collect()
    }

    /// What is wrong with the value of a key, behind the place that gave it.
    pub fn about(&self, key: &str, problem: impl Into<Message>) -> Message {
        let origin = self.origin(key).filter(|_| !self.is_silent);
        let place = origin.map_or_else(|| Message::key(key), |origin| origin.to_string().into());
        message!("{}: {}", place, problem.into())
    }

    /// The message, and where the settings that it mentions got their values.
    pub fn explained(&self, message: impl Into<Message>) -> Message {
        if self.is_silent {
            return message.into();
        }
        message.into().with_origins(self.origins.iter().map(|(key, origin)| (key.as_str(), origin)))
    }

    /// Settings that cannot be used, with where they came from.
    pub fn refused(&self, message: impl Into<Message>) -> Failure {
        Failure::user(self.explained(message))
    }
}

fn given_by_two_names(key: &str) -> Message {
    message!("{} is given by two names: keep one of them", Message::key(key))
}

/// What the text of a variable means for its key: JSON, a word for yes or no, a string or a list of one, whichever has
/// the right type.
pub(super) fn value_of(key: &str, text: String) -> Value {
    let fits = |value: &Value| parse(&Map::from_iter([(key.to_owned(), value.clone())])).is_ok();
    let json = serde_json::from_str::<Value>(&text).ok();
    let word = boolean(&text).ok().map(Value::Bool);
    let string = Value::String(text);
    let list = Value::Array(vec![string.clone()]);
    let meanings = [json, word, Some(string), Some(list)].into_iter().flatten();
    let meanings: Vec<Value> = meanings.collect();
    // If none fits, the refusal shows what was written.
    meanings.iter().find(|meaning| fits(meaning)).unwrap_or(&meanings[0]).clone()
}

fn parse(values: &Map<String, Value>) -> Result<ReplayConfig, Message> {
    Ok(ReplayConfig {
        trace: section(values)?,
        synthetic: section(values)?,
        deployment: section(values)?,
        engine: section(values)?,
        sglang: section(values)?,
        several: section(values)?,
        limits: section(values)?,
        measured: section(values)?,
        output: section(values)?,
    })
}

/// Those of `values` that `T` has a key for.
fn section<T: DeserializeOwned + Default + Serialize>(values: &Map<String, Value>) -> Result<T, Message> {
    let given = |key: String| values.get(&key).map(|value| (key.clone(), value.clone()));
    let own: Map<String, Value> = keys_of::<T>().into_iter().filter_map(given).collect();
    let own = Value::Object(own);
    typed(&own).map_err(|mistyped: Mistyped| {
        let found = mistyped.found(&own).map_or_else(|| "given".to_owned(), ToString::to_string);
        let expected = expectation(&mistyped.path, mistyped.expected);
        message!("{} is {}, but must be {}", Message::key(mistyped.path), found, expected)
    })
}

/// What the value of a key should be.
fn expectation(key: &str, expected: Expected) -> String {
    match (expected, key) {
        (Expected::List, "slo") => "a list of strings, each an objective such as 'p95 ttft <= 1s'".to_owned(),
        (_, "warmup" | "cooldown") => {
            "a string: a time, as \"60s\", or a number of requests, as \"100\"".to_owned()
        }
        (Expected::List, "fail_if") => "a list of strings, each a condition".to_owned(),
        (Expected::List, "export") => "a list of strings, each FORMAT=FILE".to_owned(),
        (Expected::List, "vary") => "a list of strings, each KEY=VALUE,VALUE,...".to_owned(),
        (Expected::List, "cudagraph_capture_sizes" | "cuda_graph_bs") => "a list of whole numbers".to_owned(),
        (Expected::List, POOL) => "a list of tables, each a pool".to_owned(),
        (Expected::List, key) if key.starts_with(POOL) => "a list of tables, each a group".to_owned(),
        (Expected::Object, key) if key.starts_with(POOL) && key.ends_with(']') => "a table".to_owned(),
        (Expected::Object, "router_config") => "an object with the settings of a router".to_owned(),
        (Expected::Object, _) => "an object with the settings of an engine".to_owned(),
        (expected, _) => expected.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(layers: &Layers) -> Result<ReplayConfig, String> {
        layers.parse().map_err(|failure| failure.message().to_string())
    }

    fn environment(variables: &[(&str, &str)]) -> Result<Layers, String> {
        let mut layers = Layers::default();
        let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
        layers.add_environment(variables).map_err(|failure| failure.message().to_string())?;
        Ok(layers)
    }

    #[test]
    fn variables_have_the_types_of_their_keys() {
        let layers = environment(&[
            ("SERVECAST_NUM_WORKERS", "4"),
            ("SERVECAST_REPORT_JSON", "1"),
            ("SERVECAST_SLA_TTFT_MS", "5"),
            ("SERVECAST_ROUTER_MODE", "random"),
            ("SERVECAST_ENGINE_ARGS", "{\"block_size\": 8}"),
            ("SERVECAST_WORKERS", ""),
            ("SERVECAST_ORACLE", "x"),
            ("OTHER", "x"),
        ]);
        let config = parsed(&layers.unwrap()).unwrap();
        assert_eq!(config.deployment.num_workers, Some(4));
        assert_eq!(config.output.report_json, Some(PathBuf::from("1")));
        assert_eq!(config.limits.sla_ttft_ms, Some(5.0));
        assert_eq!(config.deployment.engine_args.unwrap()["block_size"], 8);
    }

    #[test]
    fn unknown_variables_are_refused() {
        let error = |name| environment(&[(name, "1")]).unwrap_err();
        assert_eq!(
            error("SERVECAST_NUM_WORKER"),
            "unknown environment variable `SERVECAST_NUM_WORKER`, did you mean `SERVECAST_NUM_WORKERS`?"
        );
        assert_eq!(
            error("SERVECAST_num_workers"),
            "unknown environment variable `SERVECAST_num_workers`, did you mean `SERVECAST_NUM_WORKERS`?"
        );
        assert!(
            error("SERVECAST_AIC_SYSTEM")
                .contains("`SERVECAST_AIC_SYSTEM`: not there yet, SERVECAST_LATENCY")
        );
        assert_eq!(
            error("SERVECAST_PLAIM"),
            "unknown environment variable `SERVECAST_PLAIM`",
            "what is hidden is not suggested"
        );
    }

    #[test]
    fn later_layers_win_key_by_key() {
        let mut layers = Layers::default();
        let file = Origin::File("a.toml".into());
        let settings = serde_json::json!({"block_size": 16, "max_num_seqs": 2});
        layers.add("engine_args", settings, &file).unwrap();
        layers.add("seed", 1.into(), &file).unwrap();
        let flags = ReplayConfig {
            deployment: super::super::DeploymentConfig {
                engine_args: Some(json_object("{\"block_size\": 8}").unwrap()),
                ..Default::default()
            },
            ..ReplayConfig::default()
        };
        layers.add_flags(&flags).unwrap();
        let config = parsed(&layers).unwrap();
        assert_eq!(config.trace.seed, Some(1));
        assert_eq!(
            Value::Object(config.deployment.engine_args.unwrap()),
            serde_json::json!({"block_size": 8, "max_num_seqs": 2})
        );
        assert_eq!(layers.origin("engine_args.block_size"), Some(&Origin::flag("engine_args")));
        assert_eq!(layers.origin("engine_args.max_num_seqs"), Some(&file));
        let told = layers.explained(message!("{seed} and {x}")).to_string();
        assert_eq!(told, "`seed` and `x` (from a.toml)");
    }

    #[test]
    fn a_wrong_type_is_told_with_its_origin() {
        for (key, value, expected) in [
            (
                "num_workers",
                "x".into(),
                "`num_workers` is \"x\", but must be a whole number from 0 to 4294967295 (from a.toml)",
            ),
            ("sla_ttft_ms", true.into(), "`sla_ttft_ms` is true, but must be a number (from a.toml)"),
            ("check", 1.into(), "`check` is 1, but must be true or false (from a.toml)"),
            (
                "engine_args",
                1.into(),
                "`engine_args` is 1, but must be an object with the settings of an engine (from a.toml)",
            ),
            (
                "format",
                "xml".into(),
                "`format` is \"xml\", but must be one of `table`, `json`, `markdown`, `junit` (from a.toml)",
            ),
            (
                "router_config",
                1.into(),
                "`router_config` is 1, but must be an object with the settings of a router (from a.toml)",
            ),
            (
                "engine",
                "tgi".into(),
                "`engine` is \"tgi\", but must be one of `vllm`, `sglang`, `trtllm` (from a.toml)",
            ),
            (
                "replay_mode",
                "live".into(),
                "`replay_mode` is \"live\", but must be `offline` or `online` (from a.toml)",
            ),
        ] {
            let mut layers = Layers::default();
            layers.add(key, value, &Origin::File("a.toml".into())).unwrap();
            assert_eq!(parsed(&layers).unwrap_err(), expected);
        }
    }
}
