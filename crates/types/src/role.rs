//! What a worker does with a request.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a worker, or a pool of workers, does with a request.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Prompt and output on one worker.
    #[default]
    Aggregated,
    /// Prompts only; their KV goes to a decode worker.
    Prefill,
    /// Output only, from a prompt computed elsewhere.
    Decode,
}

impl Role {
    /// Every role, in the order in which a request meets them.
    pub const ALL: [Self; 3] = [Self::Aggregated, Self::Prefill, Self::Decode];

    /// The name used in settings, rows and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Aggregated => "aggregated",
            Self::Prefill => "prefill",
            Self::Decode => "decode",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_json() {
        for role in Role::ALL {
            assert_eq!(serde_json::to_value(role).unwrap(), role.name());
        }
    }
}
