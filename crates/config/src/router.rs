//! From settings to a router.

use serde_json::{Map, Value};
use servecast_cluster::{KvRouterOptions, RouterMode, RouterOptions};
use servecast_router::{FIELDS, Field, KvRouterConfig, RouterSettings};
use servecast_types::{Duration, Message, message};

use crate::deployment::QueuePolicies;
use crate::error::Failure;
use crate::settings::{Layers, ReplayConfig, refuse_value};

/// The setting that engines have a say in.
const QUEUE_POLICY: &str = "router_queue_policy";

/// A router that can be simulated.
#[derive(Debug)]
pub struct Routing {
    /// How requests are spread over workers.
    pub options: RouterOptions,
    /// What was given but has no effect, and why.
    pub unused: Vec<Message>,
}

/// Builds the router that the settings describe.
pub fn build(config: &ReplayConfig, layers: &Layers, policies: &QueuePolicies) -> Result<Routing, Failure> {
    let given = &config.deployment;
    let mut options = RouterOptions::default();
    options.mode = given.router_mode.unwrap_or(options.mode);
    if let Some(blocks) = given.prefix_hash_blocks {
        check_prefix_hash_blocks(blocks, options.mode, layers)?;
        options.prefix_hash_blocks = blocks;
    }
    options.session_affinity =
        given.router_session_affinity_ttl_secs.map(|secs| session_affinity(secs, layers)).transpose()?;
    let policy = |text: &Option<String>| text.as_deref().map(|text| parse_policy(text, layers)).transpose();
    let (first, decode) = (policy(&policies.first)?, policy(&policies.decode)?);
    if options.mode != RouterMode::KvRouter {
        refuse_unused(config, layers)?;
        let unused = first.or(decode).map(|_| needs("router_queue_policy", "kv_router"));
        return Ok(Routing { options, unused: unused.into_iter().collect() });
    }
    let settings = kv_settings(given.router_config.clone().unwrap_or_default(), first, layers)?;
    let event_delay = event_delay(given.kv_event_delay_ms.unwrap_or(0.0), layers)?;
    let mut unused = unused(settings.config(), layers);
    if given.kv_event_delay_ms.is_some() && !settings.use_kv_events() {
        unused.push(message!("{kv_event_delay_ms} needs `use_kv_events`"));
    }
    unused
        .extend(decode.map(|_| {
            message!("{router_queue_policy} of the decode engine: nobody waits for decode workers")
        }));
    options.kv = KvRouterOptions { settings, event_delay };
    Ok(Routing { options, unused })
}

/// Refuses a number of blocks that nothing goes by, be it that there are none or that the mode is another.
fn check_prefix_hash_blocks(blocks: u32, mode: RouterMode, layers: &Layers) -> Result<(), Failure> {
    if mode != RouterMode::PrefixHash {
        return Err(needs_mode("prefix_hash_blocks", "prefix_hash", layers));
    }
    if blocks == 0 {
        return Err(layers.refused(message!(
            "{prefix_hash_blocks} is 0, but a prompt is sent by at least 1 of its blocks"
        )));
    }
    Ok(())
}

/// For how long a session stays on its worker: 1 s to a year, as in Dynamo 1.6.1.
fn session_affinity(secs: f64, layers: &Layers) -> Result<Duration, Failure> {
    const SECS_OF_A_YEAR: f64 = 31_536_000.0;
    if !(1.0..=SECS_OF_A_YEAR).contains(&secs) {
        return Err(layers.refused(message!(
            "{router_session_affinity_ttl_secs} is {}, but must be a number of seconds from 1 to 31536000, a year",
            secs
        )));
    }
    Ok(Duration::from_secs(secs).expect("a year is a duration"))
}

/// A setting that another router mode has no use for.
fn needs_mode(key: &str, mode: &str, layers: &Layers) -> Failure {
    layers.refused(needs(key, mode)).with_hint("choose that mode, or leave the setting out")
}

fn needs(key: &str, mode: &str) -> Message {
    message!("{} needs {--router_mode} {}", Message::key(key), mode)
}

/// Refuses what only the KV router could use.
fn refuse_unused(config: &ReplayConfig, layers: &Layers) -> Result<(), Failure> {
    let first_setting = config.deployment.router_config.iter().flat_map(Map::keys).min();
    let key = match first_setting {
        Some(key) => {
            // What is no setting at all is not to be had with another mode either.
            Field::by_key(key).map_err(|error| layers.refused(error))?;
            key
        }
        None if config.deployment.router_config.is_some() => "router_config",
        None if config.deployment.kv_event_delay_ms.is_some() => "kv_event_delay_ms",
        None if config.output.routing_jsonl.is_some() => "routing_jsonl",
        None => return Ok(()),
    };
    Err(needs_mode(key, "kv_router", layers))
}

/// The settings of the KV router, with the queue policy of the engine before it.
fn kv_settings(
    mut settings: Map<String, Value>,
    engine_policy: Option<Value>,
    layers: &Layers,
) -> Result<RouterSettings, Failure> {
    let unmeant = settings.iter().try_for_each(|(key, value)| refuse_value(key, value));
    unmeant.map_err(|problem| layers.refused(problem))?;
    let config = |settings: &Map<String, Value>| {
        KvRouterConfig::from_json(&settings.clone().into()).map_err(|error| layers.refused(error))
    };
    // The policy of the router is checked even if that of the engine takes its place.
    config(&settings)?;
    if let Some(policy) = engine_policy {
        match settings.get(QUEUE_POLICY) {
            Some(written) if *written != policy => {
                return Err(layers.refused(message!(
                    "{router_queue_policy} is {} in the settings of the engine, but {} in those of the router: give it once",
                    policy,
                    written
                )));
            }
            _ => settings.insert(QUEUE_POLICY.to_owned(), policy),
        };
    }
    config(&settings)?.validate().map_err(|error| layers.refused(error))
}

/// A queue policy that an engine asks for.
fn parse_policy(text: &str, layers: &Layers) -> Result<Value, Failure> {
    let parse = |field: &Field| field.parse(QUEUE_POLICY, text);
    let policy = Field::by_key(QUEUE_POLICY).and_then(parse);
    policy.map_err(|error| layers.refused(error).about("engine"))
}

fn event_delay(ms: f64, layers: &Layers) -> Result<Duration, Failure> {
    Duration::from_ms(ms).map_err(|_| {
        layers.refused(message!(
            "{kv_event_delay_ms} is {}, but must be a number of milliseconds from 0 to 1.8e13",
            ms
        ))
    })
}

/// The settings of live routers that are not as they are by default.
fn unused(config: &KvRouterConfig, layers: &Layers) -> Vec<Message> {
    let json = |config: &KvRouterConfig| serde_json::to_value(config).expect("settings are plain data");
    let (given, default) = (json(config), json(&KvRouterConfig::default()));
    let is_changed = |field: &&Field| !field.has_effect() && given[field.key] != default[field.key];
    let changed = FIELDS.iter().filter(is_changed);
    let unused = changed.map(|field| message!("{} is for live routers", Message::key(field.key)));
    unused.map(|message| layers.explained(message)).collect()
}
