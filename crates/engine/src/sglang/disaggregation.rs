//! What makes a worker the prefill or the decode side of SGLang's disaggregated serving.

use servecast_types::Duration;

use crate::EngineConfig;

/// The side of disaggregated serving that an SGLang worker is on, by the names of SGLang's settings.
///
/// A request comes to both sides at once. The decode side gives it memory and says so, by the
/// [fetch](crate::Links::begin) that it begins; the prefill side computes it when it [knows](crate::Engine::preallocated)
/// of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disaggregation {
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
pub struct DecodeArgs {
    /// Tokens of output that every request has in reserve when others get memory.
    pub num_reserved_decode_tokens: u32,
    /// Whether prompts share what is cached; nothing is kept otherwise.
    pub enable_radix_cache: bool,
    /// Requests beyond those that may run that have memory at a time; `None` for twice as many as may run if these are at
    /// most 32, otherwise none.
    pub extra_slots: Option<u32>,
    /// Passes from one look at memory for newcomers, and at KV that has arrived, to the next; at least 1.
    pub polling_interval: u32,
    /// Whether the host keeps the KV of requests that lose their memory; without it they are given up.
    pub retraction_backup: bool,
    /// From when a request is seen to when its prefill worker is known.
    pub handshake: Duration,
}

impl Default for DecodeArgs {
    fn default() -> Self {
        Self {
            num_reserved_decode_tokens: 512,
            enable_radix_cache: false,
            extra_slots: None,
            polling_interval: 1,
            retraction_backup: true,
            handshake: Duration::ZERO,
        }
    }
}

/// Seats up to which a decode worker has room for twice as many requests more, if it is not said how many.
const FEW_SEATS: u32 = 32;

impl DecodeArgs {
    /// Requests that have memory at a time where so many may run.
    pub(super) fn slots(self, seats: u32) -> usize {
        let few = if seats <= FEW_SEATS { 2 * seats } else { 0 };
        seats as usize + self.extra_slots.unwrap_or(few) as usize
    }
}

impl EngineConfig {
    /// The same engine of SGLang on one side of disaggregated serving; another engine is as before.
    #[must_use]
    pub fn on_side(mut self, side: Disaggregation) -> Self {
        let Some(own) = &mut self.sglang else { return self };
        own.disaggregation = Some(side);
        if let Disaggregation::Decode(args) = side {
            self.enable_prefix_caching &= args.enable_radix_cache;
        }
        self
    }
}
