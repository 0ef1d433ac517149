//! Which part of a request is routed, and what follows from that.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{RouterSettings, Stage};

/// Which part of a request's life a decision is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// All of it, on one worker.
    #[default]
    Aggregated,
    /// The prefill of a disaggregated request.
    Prefill,
    /// The decode of a disaggregated request: [`crate::RouterConfigOverride::DECODE_STAGE`] holds for it, from
    /// selection to booking, and for no other phase.
    Decode,
}

impl Phase {
    /// Every phase.
    pub const ALL: [Self; 3] = [Self::Aggregated, Self::Prefill, Self::Decode];

    /// The workers that serve it.
    pub const fn role(self) -> WorkerRole {
        match self {
            Self::Prefill => WorkerRole::Prefill,
            Self::Aggregated | Self::Decode => WorkerRole::Decode,
        }
    }

    /// What it is to the router of its workers.
    pub const fn stage(self) -> Stage {
        match self {
            Self::Aggregated | Self::Prefill => Stage::Whole,
            Self::Decode => Stage::Decode,
        }
    }

    /// Its name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aggregated => "aggregated",
            Self::Prefill => "prefill",
            Self::Decode => "decode",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a worker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerRole {
    /// Serves whole requests, and decodes what was prefilled elsewhere.
    #[default]
    #[serde(alias = "aggregated")]
    Decode,
    /// Prefills for others.
    Prefill,
}

impl WorkerRole {
    /// The settings of the router in front of such workers.
    #[must_use]
    pub fn settings(self, base: &RouterSettings) -> RouterSettings {
        match self {
            Self::Decode => base.clone(),
            Self::Prefill => base.for_prefill_pool(),
        }
    }

    /// Its name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Decode => "decode",
            Self::Prefill => "prefill",
        }
    }
}

impl fmt::Display for WorkerRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_json() {
        for phase in Phase::ALL {
            assert_eq!(serde_json::to_value(phase).unwrap(), phase.name());
        }
        for role in [WorkerRole::Decode, WorkerRole::Prefill] {
            assert_eq!(serde_json::to_value(role).unwrap(), role.name());
        }
        assert_eq!(serde_json::from_str::<WorkerRole>("\"aggregated\"").unwrap(), WorkerRole::Decode);
    }

    #[test]
    fn only_the_decode_phase_is_the_decode_stage() {
        for phase in Phase::ALL {
            assert_eq!(phase.stage() == Stage::Decode, phase == Phase::Decode);
            assert_eq!(phase.role() == WorkerRole::Prefill, phase == Phase::Prefill);
        }
    }
}
