//! What `--kv-events-config` says, with the keys of vLLM.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde_json::Value;

use super::hash::HashAlgorithm;
use super::publisher::{Channel, Endpoint};
use super::wire::EventFormat;

/// How workers tell of their KV caches.
#[derive(Debug, Clone)]
pub struct KvEventsConfig {
    endpoint: Endpoint,
    replay_endpoint: Option<SocketAddr>,
    buffer_steps: usize,
    high_water_mark: usize,
    pub(super) max_queue_size: usize,
    topic: String,
    /// How events are written.
    pub format: EventFormat,
    /// How blocks are identified.
    pub algorithm: HashAlgorithm,
    /// What the identities of all blocks depend on: `PYTHONHASHSEED` of vLLM.
    pub hash_seed: String,
}

/// A configuration of KV events that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KvEventsError {
    /// It is no JSON.
    #[error("it is no JSON object: {0}")]
    Json(String),
    /// It has a key that there is not.
    #[error("it has the key {key:?}, which it cannot have: {known}", known = KEYS.join(", "))]
    Key {
        /// The key.
        key: String,
    },
    /// A key has a value that it cannot have.
    #[error("{key} is {value}, but has to be {wanted}")]
    Value {
        /// The key.
        key: &'static str,
        /// What it has.
        value: String,
        /// What it may have.
        wanted: &'static str,
    },
    /// There are not as many ports as workers.
    #[error(
        "{key} has the port {port} for the first of {workers} workers, but there are not that many from there on"
    )]
    Ports {
        /// The key.
        key: &'static str,
        /// The port of the first worker.
        port: u16,
        /// How many there are.
        workers: u32,
    },
    /// Two sockets have the same port.
    #[error(
        "endpoint and replay_endpoint both have port {port}: with {workers} workers, of which each has the next, they have to be {workers} apart"
    )]
    SamePort {
        /// The port.
        port: u16,
        /// How many workers there are.
        workers: u32,
    },
}

const KEYS: [&str; 8] = [
    "enable_kv_cache_events",
    "publisher",
    "endpoint",
    "replay_endpoint",
    "buffer_steps",
    "hwm",
    "max_queue_size",
    "topic",
];

/// Where subscribers look for events.
const DEFAULT_PORT: u16 = 5557;

const ENDPOINT: &str =
    "tcp://*:PORT to listen on all addresses, or tcp://HOST:PORT to connect to a subscriber";
const REPLAY_ENDPOINT: &str = "tcp://*:PORT or tcp://ADDRESS:PORT, or null";
const COUNT: &str = "a whole number from 1 on";

impl KvEventsConfig {
    /// Reads it. `None` if it says that there are to be no events.
    pub fn from_json(text: &str) -> Result<Option<Self>, KvEventsError> {
        let value: Value =
            serde_json::from_str(text).map_err(|error| KvEventsError::Json(error.to_string()))?;
        let Value::Object(keys) = &value else { return Err(KvEventsError::Json(format!("it is {value}"))) };
        if let Some(key) = keys.keys().find(|key| !KEYS.contains(&key.as_str())) {
            return Err(KvEventsError::Key { key: key.clone() });
        }
        let get = |key: &str| keys.get(key).filter(|value| !value.is_null());
        let refused = |key: &'static str, wanted: &'static str| {
            let value = keys.get(key).map_or_else(String::new, Value::to_string);
            KvEventsError::Value { key, value, wanted }
        };
        let count = |key: &'static str, usual: usize, least: u64| {
            let Some(value) = get(key) else { return Ok(usual) };
            let count = value.as_u64().filter(|&count| count >= least && count <= 1 << 32);
            let wanted = if least == 0 { "a whole number from 0 on" } else { COUNT };
            count.map(|count| count as usize).ok_or_else(|| refused(key, wanted))
        };
        let text = |key: &'static str| match get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str())),
            Some(_) => Err(refused(key, "a text")),
        };
        let enabled = get("enable_kv_cache_events").map_or(Some(false), Value::as_bool);
        let enabled = enabled.ok_or_else(|| refused("enable_kv_cache_events", "true or false"))?;
        let publishes = match text("publisher")? {
            None | Some("zmq") => true,
            Some("null") => false,
            Some(_) => return Err(refused("publisher", "\"zmq\", or \"null\" for none")),
        };
        let endpoint = match text("endpoint")? {
            None => Endpoint::Listens((Ipv4Addr::LOCALHOST, DEFAULT_PORT).into()),
            Some(text) => endpoint(text).ok_or_else(|| refused("endpoint", ENDPOINT))?,
        };
        let replay_endpoint = text("replay_endpoint")?
            .map(|text| listening(text).ok_or_else(|| refused("replay_endpoint", REPLAY_ENDPOINT)));
        let config = Self {
            endpoint,
            replay_endpoint: replay_endpoint.transpose()?,
            buffer_steps: count("buffer_steps", 10_000, 0)?,
            high_water_mark: count("hwm", 100_000, 1)?,
            max_queue_size: count("max_queue_size", 100_000, 1)?,
            topic: text("topic")?.unwrap_or_default().to_owned(),
            format: EventFormat::default(),
            algorithm: HashAlgorithm::default(),
            hash_seed: "vllm-none-hash".to_owned(),
        };
        Ok((enabled && publishes).then_some(config))
    }

    /// The sockets of each worker: ports are counted up.
    pub(crate) fn channels(&self, workers: u32) -> Result<Vec<Channel>, KvEventsError> {
        let port = |key: &'static str, first: u16, worker: u32| {
            let port = u16::try_from(u32::from(first) + worker);
            port.map_err(|_| KvEventsError::Ports { key, port: first, workers })
        };
        let mut channels = Vec::new();
        for worker in 0..workers {
            let endpoint = match &self.endpoint {
                Endpoint::Listens(first) => {
                    Endpoint::Listens((first.ip(), port("endpoint", first.port(), worker)?).into())
                }
                Endpoint::Connects(host, first) => {
                    Endpoint::Connects(host.clone(), port("endpoint", *first, worker)?)
                }
            };
            let replay = self.replay_endpoint.map(|first| {
                Ok::<_, KvEventsError>((first.ip(), port("replay_endpoint", first.port(), worker)?).into())
            });
            let replay: Option<SocketAddr> = replay.transpose()?;
            channels.push(Channel {
                endpoint,
                replay,
                topic: self.topic.clone(),
                buffer_steps: self.buffer_steps,
                high_water_mark: self.high_water_mark,
            });
        }
        let replays: Vec<u16> =
            channels.iter().filter_map(|channel| channel.replay).map(|address| address.port()).collect();
        for channel in &channels {
            if let Endpoint::Listens(address) = channel.endpoint
                && replays.contains(&address.port())
            {
                return Err(KvEventsError::SamePort { port: address.port(), workers });
            }
        }
        Ok(channels)
    }
}

/// Where events go. As in vLLM, it is the other side's address unless it has a `*` or `::`.
fn endpoint(text: &str) -> Option<Endpoint> {
    if text.contains('*') || text.contains("::") {
        return listening(text).map(Endpoint::Listens);
    }
    let (host, port) = text.strip_prefix("tcp://")?.rsplit_once(':')?;
    let is_host = !host.is_empty() && !host.contains([':', '/', '@', ' ']);
    let port = port.parse().ok().filter(|&port| port != 0)?;
    is_host.then(|| Endpoint::Connects(host.to_owned(), port))
}

/// An address to listen on.
fn listening(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.strip_prefix("tcp://")?.rsplit_once(':')?;
    let host: IpAddr = match host {
        "*" => Ipv4Addr::UNSPECIFIED.into(),
        "localhost" => Ipv4Addr::LOCALHOST.into(),
        _ => host.trim_start_matches('[').trim_end_matches(']').parse().ok()?,
    };
    Some(SocketAddr::new(host, port.parse().ok().filter(|&port| port != 0)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        KvEventsConfig::from_json(text).unwrap_err().to_string()
    }

    #[test]
    fn events_are_published_if_that_is_said() {
        assert!(KvEventsConfig::from_json("{}").unwrap().is_none());
        assert!(
            KvEventsConfig::from_json(r#"{"enable_kv_cache_events": true, "publisher": "null"}"#)
                .unwrap()
                .is_none()
        );
        let config = r#"{"enable_kv_cache_events": true, "endpoint": "tcp://*:5557", "replay_endpoint": "tcp://*:5600", "topic": "kv"}"#;
        let config = KvEventsConfig::from_json(config).unwrap().unwrap();
        let channels = config.channels(2).unwrap();
        assert_eq!(channels[1].endpoint, Endpoint::Listens(([0, 0, 0, 0], 5558).into()));
        assert_eq!(channels[1].replay, Some(([0, 0, 0, 0], 5601).into()));
        let usual = KvEventsConfig::from_json(r#"{"enable_kv_cache_events": true}"#).unwrap().unwrap();
        assert_eq!(usual.channels(1).unwrap()[0].endpoint, Endpoint::Listens(([127, 0, 0, 1], 5557).into()));
        let away = r#"{"enable_kv_cache_events": true, "endpoint": "tcp://gateway:5557"}"#;
        let away = KvEventsConfig::from_json(away).unwrap().unwrap();
        assert_eq!(away.channels(3).unwrap()[2].endpoint, Endpoint::Connects("gateway".to_owned(), 5559));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        assert_eq!(error(r#"{"hwm": 0}"#), "hwm is 0, but has to be a whole number from 1 on");
        assert!(
            error(r#"{"end_point": "x"}"#)
                .starts_with("it has the key \"end_point\", which it cannot have: enable_kv")
        );
        assert!(error("[]").starts_with("it is no JSON object"));
        assert!(error("{").starts_with("it is no JSON object"));
        assert!(error(r#"{"publisher": "kafka"}"#).contains("publisher is \"kafka\""));
        for endpoint in [
            "tcp://*",
            "tcp://*:x",
            "tcp://*:70000",
            "ipc:///tmp/x",
            "http://a:1",
            "tcp://:5",
            "tcp://a:0",
            "",
        ] {
            let text = serde_json::json!({"endpoint": endpoint}).to_string();
            assert!(error(&text).contains("endpoint is "), "{endpoint}");
        }
        assert!(error(r#"{"replay_endpoint": "tcp://gateway:5"}"#).contains("tcp://ADDRESS:PORT"));
    }

    #[test]
    fn workers_have_ports_of_their_own() {
        let config = |endpoint: &str, replay: &str| {
            let text = serde_json::json!({
                "enable_kv_cache_events": true, "endpoint": endpoint, "replay_endpoint": replay,
            });
            KvEventsConfig::from_json(&text.to_string()).unwrap().unwrap()
        };
        let error = config("tcp://*:5557", "tcp://*:5558").channels(2).unwrap_err().to_string();
        assert_eq!(
            error,
            "endpoint and replay_endpoint both have port 5558: with 2 workers, of which each has the next, they have to be 2 apart"
        );
        assert!(config("tcp://*:5557", "tcp://*:5558").channels(1).is_ok());
        let error = config("tcp://*:65530", "tcp://*:5558").channels(9).unwrap_err().to_string();
        assert_eq!(
            error,
            "endpoint has the port 65530 for the first of 9 workers, but there are not that many from there on"
        );
    }
}
