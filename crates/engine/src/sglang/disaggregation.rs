//! What makes a worker the prefill or the decode side of SGLang's disaggregated serving.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use servecast_types::{Duration, Message, Role, message};

use super::settings::{SglangArgs, SglangConfig};
use crate::config::microseconds;
use crate::{ConfigError, EngineConfig};

/// Which side of disaggregated serving a server of SGLang is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DisaggregationMode {
    /// Neither: it knows nothing of the other stage of a request.
    Null,
    /// It computes prompts.
    Prefill,
    /// It decodes.
    Decode,
}

/// Where a decode worker keeps the KV of requests that lose their memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RetractionBackup {
    /// In tensors of the host.
    CpuTensor,
    /// In the pool of the host; simulated like the tensors.
    HostPool,
    /// Nowhere: they are given up.
    None,
}

/// The side of disaggregated serving that an SGLang worker is on, as it is set, checked.
///
/// A request comes to both sides at once. The decode side gives it memory and says so, by the
/// [fetch](crate::Links::begin) that it begins; the prefill side computes it when it [knows](crate::Engine::preallocated)
/// of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Disaggregation {
    /// Prompts are computed, and their KV is [held](crate::EngineRequest::hold_kv) until it has been fetched.
    Prefill {
        /// From when a decode worker has memory to when that is known here.
        bootstrap: Duration,
    },
    /// Requests whose prompts are [computed elsewhere](crate::EngineRequest::remote_prefill) decode.
    Decode(DecodeArgs),
}

/// Settings of a decode worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DecodeArgs {
    /// Tokens of output that every request has in reserve when others get memory.
    pub(super) num_reserved_decode_tokens: u32,
    /// Whether prompts share what is cached; nothing is kept otherwise.
    enable_radix_cache: bool,
    /// Requests beyond those that may run that have memory at a time; `None` for twice as many as may run if these are at
    /// most 32, otherwise none.
    extra_slots: Option<u32>,
    /// Passes from one look at memory for newcomers, and at KV that has arrived, to the next; at least 1.
    pub(super) polling_interval: u32,
    /// Whether the host keeps the KV of requests that lose their memory; without it they are given up.
    pub(super) retraction_backup: bool,
    /// From when a request is seen to when its prefill worker is known.
    pub(super) handshake: Duration,
}

/// Tokens of output in reserve, unless it is said how many.
const RESERVED_DECODE_TOKENS: u32 = 512;

/// Seats up to which a decode worker has room for twice as many requests more, if it is not said how many.
const FEW_SEATS: u32 = 32;

impl DecodeArgs {
    /// Requests that have memory at a time where so many may run.
    pub(super) fn slots(self, seats: u32) -> usize {
        let few = if seats <= FEW_SEATS { 2 * seats } else { 0 };
        seats as usize + self.extra_slots.unwrap_or(few) as usize
    }

    /// Whether prompts share what is cached.
    pub(super) fn keeps_prefixes(self) -> bool {
        self.enable_radix_cache
    }
}

impl SglangArgs {
    /// The side that a worker is on, if it is on one; `own` has everything else of SGLang.
    pub(super) fn disaggregation(&self, own: &SglangConfig) -> Result<Option<Disaggregation>, ConfigError> {
        let mode = self.disaggregation_mode.unwrap_or(DisaggregationMode::Null);
        if mode == DisaggregationMode::Null {
            return self.refuse_settings_of_sides().map(|()| None);
        }
        let excluded = [("sglang.enable_hierarchical_cache", own.hicache.is_some())];
        if let Some((key, _)) = excluded.into_iter().find(|(_, given)| *given) {
            return Err(ConfigError::Conflict(message!(
                "{} does not go together with SGLang's own queues for disaggregation yet: leave it out, or set \
                 {sglang.disaggregation_mode} to `null`, where a prompt is computed before a decode worker has memory for it",
                Message::key(key)
            )));
        }
        let by_pairs = own.speculation.as_ref().is_none_or(|speculation| speculation.by_pairs);
        if self.disaggregation_decode_enable_radix_cache && !by_pairs {
            return Err(ConfigError::Conflict(message!(
                "{sglang.disaggregation_decode_enable_radix_cache} is true, but beside it {sglang.speculative_algorithm} can only \
                 be `EAGLE` or `EAGLE3`: leave one of them out"
            )));
        }
        let us = |key: &str, given: Option<f64>| microseconds(key, given.unwrap_or(0.0));
        if mode == DisaggregationMode::Prefill {
            let bootstrap = us("sglang.disaggregation_bootstrap_us", self.disaggregation_bootstrap_us)?;
            return Ok(Some(Disaggregation::Prefill { bootstrap }));
        }
        Ok(Some(Disaggregation::Decode(DecodeArgs {
            num_reserved_decode_tokens: self.num_reserved_decode_tokens.unwrap_or(RESERVED_DECODE_TOKENS),
            enable_radix_cache: self.disaggregation_decode_enable_radix_cache,
            extra_slots: self.disaggregation_decode_extra_slots,
            polling_interval: self.disaggregation_decode_polling_interval.unwrap_or(1),
            retraction_backup: self.disaggregation_decode_retraction_backup != Some(RetractionBackup::None),
            handshake: us("sglang.disaggregation_handshake_us", self.disaggregation_handshake_us)?,
        })))
    }

    fn refuse_settings_of_sides(&self) -> Result<(), ConfigError> {
        let given = [
            ("num_reserved_decode_tokens", self.num_reserved_decode_tokens.is_some()),
            ("disaggregation_decode_enable_radix_cache", self.disaggregation_decode_enable_radix_cache),
            ("disaggregation_decode_polling_interval", self.disaggregation_decode_polling_interval.is_some()),
            ("disaggregation_decode_extra_slots", self.disaggregation_decode_extra_slots.is_some()),
            (
                "disaggregation_decode_retraction_backup",
                self.disaggregation_decode_retraction_backup.is_some(),
            ),
            ("disaggregation_handshake_us", self.disaggregation_handshake_us.is_some()),
            ("disaggregation_bootstrap_us", self.disaggregation_bootstrap_us.is_some()),
        ];
        match given.into_iter().find(|(_, given)| *given) {
            Some((key, _)) => Err(ConfigError::Conflict(message!(
                "{} is for prefill and decode workers with SGLang's own queues: {sglang.disaggregation_mode} says which of \
                 the two a worker is",
                Message::key(format!("sglang.{key}"))
            ))),
            None => Ok(()),
        }
    }
}

impl EngineConfig {
    /// The stage that it serves if it hands requests over as SGLang does, with queues of its own: prefill or decode.
    ///
    /// A request comes to workers of both stages at once, and its prompt is computed when the decode worker has memory for
    /// it. Without a stage, it comes to a decode worker when its prompt is computed.
    pub fn paired_stage(&self) -> Option<Role> {
        match self.sglang.as_ref()?.disaggregation? {
            Disaggregation::Prefill { .. } => Some(Role::Prefill),
            Disaggregation::Decode(_) => Some(Role::Decode),
        }
    }
}
