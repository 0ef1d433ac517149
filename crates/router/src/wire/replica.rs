//! The events by which the replicas of a router share their load.

use serde::{Deserialize, Serialize};
use servecast_types::{Duration, SequenceHash};

use super::hashes;

/// What one router tells its replicas about a request, so that they count the same load.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaEvent {
    /// The request.
    pub request_id: String,
    /// Where it runs.
    pub worker: ReplicaWorker,
    /// What happened to it.
    pub data: ReplicaEventData,
    /// The router that says so; a router ignores its own events.
    pub router_id: u64,
    /// LoRA adapter of the request; none if the field is absent.
    #[serde(default)]
    pub lora_name: Option<String>,
}

/// One data-parallel rank of one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ReplicaWorker {
    /// The worker.
    pub worker_id: u64,
    /// The rank.
    pub dp_rank: u32,
}

/// What happened: `{"AddRequest": {…}}`, `"MarkPrefillCompleted"` or `"Free"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplicaEventData {
    /// The request was booked on the worker.
    AddRequest {
        /// Sequence hashes of its prompt's blocks; none if blocks are not tracked.
        #[serde(default, with = "hashes::optional_many")]
        token_sequence: Option<Vec<SequenceHash>>,
        /// Prompt tokens.
        isl: u64,
        /// Blocks of the prompt that the worker holds already.
        overlap: u32,
        /// Whether the prompt counts as prefill load of the worker. Routers from before this field always
        /// counted it, so it is true if absent.
        #[serde(default = "tracked")]
        track_prefill_tokens: bool,
        /// Output tokens that the request is expected to have.
        #[serde(default)]
        expected_output_tokens: Option<u32>,
        /// How the prefill load decays.
        #[serde(default)]
        prefill_load_hint: Option<PrefillLoadHint>,
    },
    /// The prompt is computed.
    MarkPrefillCompleted,
    /// The request has left the worker.
    Free,
}

/// How a prefill is expected to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PrefillLoadHint {
    /// Prompt tokens that have to be computed.
    pub initial_effective_prefill_tokens: u64,
    /// How long that takes, on the wire as whole seconds and nanoseconds: `{"secs": 1, "nanos": 500}`.
    #[serde(default, with = "secs_and_nanos")]
    pub expected_prefill_duration: Option<Duration>,
}

fn tracked() -> bool {
    true
}

mod secs_and_nanos {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use servecast_types::Duration;

    #[expect(clippy::ref_option, reason = "the signature that serde asks for")]
    pub(super) fn serialize<S: Serializer>(
        value: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.map(|length| std::time::Duration::from_nanos(length.as_ns())).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        Option::<std::time::Duration>::deserialize(deserializer)?
            .map(|length| {
                u64::try_from(length.as_nanos()).map(Duration::from_ns).map_err(|_| {
                    D::Error::custom(format_args!("{length:?} is too long: nanoseconds must fit 64 bits"))
                })
            })
            .transpose()
    }
}
