//! What surrounds the GPU, as fitted to measured servers: `data/constants.toml`.

use std::collections::BTreeMap;

use serde::Deserialize;
use servecast_latency::Host;

use crate::setup::EngineName;

const TEXT: &str = include_str!("../../../data/constants.toml");

/// Fitted constants.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Constants {
    #[serde(rename = "schema")]
    _schema: u32,
    /// What they were fitted to.
    pub source: String,
    front_end: BTreeMap<String, FrontEnd>,
}

/// From sending a request to when it is at the engine.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrontEnd {
    /// Of each request.
    pub us: f64,
    /// Of each 1,000 tokens of its prompt.
    pub us_per_1k_prompt_tokens: f64,
    /// Measured runs that it was fitted to.
    pub n: u32,
    /// Mean error of TTFT that is left, in per cent.
    pub ttft_mape: f64,
}

impl Constants {
    /// Those that come with servecast.
    pub fn built_in() -> Self {
        toml::from_str(TEXT).expect("a test reads the same text")
    }

    /// The host of an engine as a server with HTTP in front.
    pub fn host(&self, engine: EngineName) -> Host {
        let Some(front_end) = self.front_end.get(engine.name()) else { return Host::NONE };
        Host {
            front_end_us: front_end.us,
            front_end_us_per_1k_prompt_tokens: front_end.us_per_1k_prompt_tokens,
            ..Host::NONE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_engine_has_a_front_end_with_its_source() {
        let constants = Constants::built_in();
        assert!(!constants.source.is_empty());
        for engine in [EngineName::Vllm, EngineName::Sglang, EngineName::Trtllm] {
            let host = constants.host(engine);
            assert!(host.front_end_us > 0.0, "{engine:?}");
            assert!(constants.front_end[engine.name()].n >= 12, "{engine:?}");
        }
    }
}
