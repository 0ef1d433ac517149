//! Which of the two routers a worker is registered with.

use std::fmt;

use serde::{Deserialize, Serialize};

use servecast_types::Role;

use crate::RouterSettings;

/// What a worker is registered as. There are two, not the three of [`Role`]: a worker that serves whole requests can also
/// decode what was prefilled elsewhere, so both are in one index.
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
    /// The workers that serve a request, or the part of one, that has this role.
    pub const fn serving(phase: Role) -> Self {
        match phase {
            Role::Prefill => Self::Prefill,
            Role::Aggregated | Role::Decode => Self::Decode,
        }
    }

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
        for role in [WorkerRole::Decode, WorkerRole::Prefill] {
            assert_eq!(serde_json::to_value(role).unwrap(), role.name());
        }
        assert_eq!(serde_json::from_str::<WorkerRole>("\"aggregated\"").unwrap(), WorkerRole::Decode);
    }

    #[test]
    fn only_prefills_go_to_prefill_workers() {
        for phase in Role::ALL {
            assert_eq!(WorkerRole::serving(phase) == WorkerRole::Prefill, phase == Role::Prefill);
        }
    }
}
