//! What a server publishes of its KV caches.

use clap::ValueEnum;
use servecast_live::{EventFormat, HashAlgorithm, KvEventsConfig};
use servecast_types::message;

use crate::error::Failure;

/// Whether and how workers tell of their KV caches.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Server")]
pub(super) struct KvEventsArgs {
    /// Publish KV events over ZMQ, as a JSON object with the keys of vLLM
    ///
    /// Each worker has a port of its own, from those of the endpoints on.
    #[arg(long, value_name = "JSON")]
    kv_events_config: Option<String>,
    /// How events are written: as maps, or as arrays as of vLLM before 2026-06
    #[arg(long, value_name = "FORMAT", default_value = "map")]
    kv_events_format: Format,
    /// How the blocks of events are identified
    #[arg(long, value_name = "ALGORITHM", default_value = "sha256")]
    prefix_caching_hash_algo: Algorithm,
    /// What the identities of all blocks depend on [default: as vLLM without PYTHONHASHSEED]
    #[arg(long, value_name = "TEXT", env = "PYTHONHASHSEED", hide_env_values = true)]
    hash_seed: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Map,
    Array,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Algorithm {
    Sha256,
    Sha256Cbor,
}

impl KvEventsArgs {
    /// What is to be published, if anything is.
    pub(super) fn config(&self) -> Result<Option<KvEventsConfig>, Failure> {
        let Some(text) = &self.kv_events_config else { return Ok(None) };
        let config = KvEventsConfig::from_json(text).map_err(|error| {
            // It names keys of the JSON text, and no settings.
            let problem = error.to_string();
            Failure::user(message!("{--kv_events_config}: {}", problem))
        })?;
        let Some(mut config) = config else { return Ok(None) };
        config.format = match self.kv_events_format {
            Format::Map => EventFormat::Map,
            Format::Array => EventFormat::Array,
        };
        config.algorithm = match self.prefix_caching_hash_algo {
            Algorithm::Sha256 => HashAlgorithm::Sha256,
            Algorithm::Sha256Cbor => HashAlgorithm::Sha256Cbor,
        };
        if let Some(seed) = &self.hash_seed {
            config.hash_seed.clone_from(seed);
        }
        Ok(Some(config))
    }
}
