//! What it costs to hand a prompt's KV from a prefill to a decode worker.

use servecast_engine::{EngineArgs, Fetch, KvTransferSharing, KvTransferTimingMode};
use servecast_types::{Duration, Time};

use crate::{ClusterError, RunError};

/// The cost of a hand-off.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Handoff {
    /// `None`: it takes no time.
    rate: Option<Rate>,
    timing_mode: KvTransferTimingMode,
    sharing: KvTransferSharing,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Rate {
    bytes_per_token: f64,
    bytes_per_second: f64,
    speedup_ratio: f64,
}

/// How long the KV of a prompt is on its way from one worker to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TransferTime {
    /// The same whatever the worker already has that it goes to.
    Fixed(Duration),
    /// This long for the whole prompt, and less in proportion to the tokens that the worker has in its cache.
    Missing {
        /// Time for the whole prompt.
        full_prompt: Duration,
    },
}

impl TransferTime {
    /// The same of a prompt of which only what is missing is moved.
    pub(crate) fn of_what_is_missing(self) -> Self {
        match self {
            Self::Fixed(full_prompt) | Self::Missing { full_prompt } => Self::Missing { full_prompt },
        }
    }

    /// The time to bring in what is fetched, rounded up to a whole nanosecond.
    pub(crate) fn of(self, fetch: Fetch) -> Duration {
        match self {
            Self::Fixed(duration) => duration,
            Self::Missing { full_prompt } => {
                let ns = u128::from(full_prompt.as_ns()) * u128::from(fetch.tokens);
                Duration::from_ns(ns.div_ceil(u128::from(fetch.of_tokens.max(1))) as u64)
            }
        }
    }
}

impl Handoff {
    /// The cost that the settings of both engines give together.
    ///
    /// Each of bandwidth, bytes a token, timing mode and sharing may stand with either engine; the speedup is the prefill
    /// engine's.
    pub(crate) fn new(prefill: &EngineArgs, decode: &EngineArgs) -> Result<Self, ClusterError> {
        let bytes = one_of("kv_bytes_per_token", prefill.kv_bytes_per_token, decode.kv_bytes_per_token)?;
        let bandwidth =
            one_of("kv_transfer_bandwidth", prefill.kv_transfer_bandwidth, decode.kv_transfer_bandwidth)?;
        let default = EngineArgs::default().kv_transfer_timing_mode;
        let given = |args: &EngineArgs| Some(args.kv_transfer_timing_mode).filter(|&mode| mode != default);
        let rate = match (bytes, bandwidth) {
            (Some(bytes), Some(gb_per_second)) if gb_per_second > 0.0 => Some(Rate {
                bytes_per_token: bytes as f64,
                bytes_per_second: gb_per_second * 1e9,
                speedup_ratio: prefill.speedup_ratio,
            }),
            _ => None,
        };
        let sharing = one_of("kv_transfer_sharing", prefill.kv_transfer_sharing, decode.kv_transfer_sharing)?;
        let sharing = sharing.unwrap_or(KvTransferSharing::Dedicated);
        if sharing == KvTransferSharing::Shared && rate.is_none() {
            return Err(ClusterError::NothingShared);
        }
        Ok(Self { rate, timing_mode: given(prefill).or(given(decode)).unwrap_or(default), sharing })
    }

    /// Whether transfers share the bandwidth.
    pub(crate) fn is_shared(&self) -> bool {
        self.sharing == KvTransferSharing::Shared
    }

    /// How long the KV of a prompt is under way that is handed off `now`: tokens · bytes / bandwidth, divided by the
    /// speedup.
    pub(crate) fn transfer_time(&self, prompt_tokens: u32, now: Time) -> Result<TransferTime, RunError> {
        let full_prompt = match self.rate {
            None => Duration::ZERO,
            Some(Rate { bytes_per_token, bytes_per_second, speedup_ratio }) => {
                let ms = f64::from(prompt_tokens) * bytes_per_token / bytes_per_second * 1000.0;
                let delay = Duration::from_ms(ms).and_then(|delay| delay.divided_by(speedup_ratio));
                delay.map_err(|_| RunError::Handoff {
                    at: now,
                    prompt_tokens,
                    bytes_per_token: bytes_per_token as u64,
                    gb_per_second: bytes_per_second / 1e9,
                    speedup_ratio,
                })?
            }
        };
        Ok(match self.timing_mode {
            KvTransferTimingMode::FullPrompt => TransferTime::Fixed(full_prompt),
            KvTransferTimingMode::DestinationMissing => TransferTime::Missing { full_prompt },
        })
    }
}

/// A setting that either engine may have, but not both differently.
fn one_of<T: PartialEq + ToString>(
    key: &'static str,
    prefill: Option<T>,
    decode: Option<T>,
) -> Result<Option<T>, ClusterError> {
    match (prefill, decode) {
        (Some(prefill), Some(decode)) if prefill != decode => {
            Err(ClusterError::Handoff { key, prefill: prefill.to_string(), decode: decode.to_string() })
        }
        (prefill, decode) => Ok(prefill.or(decode)),
    }
}

#[cfg(test)]
mod tests {
    use servecast_types::RequestId;

    use super::*;

    fn args(bytes: Option<u64>, bandwidth: Option<f64>, speedup_ratio: f64) -> EngineArgs {
        EngineArgs {
            kv_bytes_per_token: bytes,
            kv_transfer_bandwidth: bandwidth,
            speedup_ratio,
            ..EngineArgs::default()
        }
    }

    fn check(prefill: &EngineArgs, decode: &EngineArgs, tokens: u32, expected_ns: u64) {
        let handoff = Handoff::new(prefill, decode).unwrap();
        let expected = TransferTime::Fixed(Duration::from_ns(expected_ns));
        assert_eq!(handoff.transfer_time(tokens, Time::ZERO).unwrap(), expected);
    }

    #[test]
    fn bytes_over_bandwidth_gives_the_delay() {
        let none = args(None, None, 1.0);
        check(&args(Some(131_072), Some(64.0), 1.0), &none, 20, 40_960);
        check(&none, &args(Some(1_000_000), Some(1.0), 1.0), 128, 128_000_000);
        check(&args(Some(1_000_000), None, 1.0), &args(None, Some(1.0), 1.0), 128, 128_000_000);
        check(&args(Some(1_000_000), Some(0.0), 1.0), &none, 128, 0);
        check(&none, &none, 128, 0);
    }

    #[test]
    fn what_is_already_there_shortens_a_transfer_in_proportion() {
        let full_prompt = Duration::from_ns(1_000);
        let check = |time: TransferTime, tokens, of_tokens, ns| {
            let fetch = Fetch { id: RequestId(0), tokens, of_tokens };
            assert_eq!(time.of(fetch), Duration::from_ns(ns), "{time:?}, {tokens} of {of_tokens}");
        };
        check(TransferTime::Fixed(full_prompt), 1, 64, 1_000);
        check(TransferTime::Missing { full_prompt }, 64, 64, 1_000);
        check(TransferTime::Missing { full_prompt }, 16, 64, 250);
        check(TransferTime::Missing { full_prompt }, 1, 3, 334);
        check(TransferTime::Missing { full_prompt }, 0, 0, 0);
        let longest = Duration::from_ns(u64::MAX);
        check(TransferTime::Missing { full_prompt: longest }, u32::MAX, u32::MAX, u64::MAX);
    }

    #[test]
    fn the_speedup_of_the_prefill_engine_divides_it() {
        let decode = args(Some(1_000_000), Some(1.0), 7.0);
        check(&args(None, None, 4.0), &decode, 128, 32_000_000);
    }

    #[test]
    fn a_hand_off_without_end_names_what_it_follows_from() {
        let handoff = Handoff::new(&args(Some(131_072), Some(1e-300), 1.0), &args(None, None, 1.0)).unwrap();
        let error = handoff.transfer_time(100, Time::from_ns(1_000_000)).unwrap_err().to_string();
        for part in ["100 tokens", "`kv_transfer_bandwidth` 1e-300", "`kv_bytes_per_token` 131072"] {
            assert!(error.contains(part) && !error.contains("latency"), "{error}");
        }
    }

    #[test]
    fn engines_that_disagree_are_refused() {
        let error = Handoff::new(&args(None, Some(8.0), 1.0), &args(None, Some(9.0), 1.0)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`kv_transfer_bandwidth` is 8 for prefill and 9 for decode: give it once, or the same value twice"
        );
    }

    #[test]
    fn only_transfers_that_take_time_are_shared() {
        let shared = |args| EngineArgs { kv_transfer_sharing: Some(KvTransferSharing::Shared), ..args };
        let decode = args(Some(1_000_000), Some(1.0), 1.0);
        assert!(Handoff::new(&shared(args(None, None, 1.0)), &decode).unwrap().is_shared());
        assert!(!Handoff::new(&args(None, None, 1.0), &decode).unwrap().is_shared());
        for (bytes, bandwidth) in [(None, None), (None, Some(1.0)), (Some(8), None), (Some(8), Some(0.0))] {
            let error =
                Handoff::new(&shared(args(bytes, bandwidth, 1.0)), &args(None, None, 1.0)).unwrap_err();
            assert_eq!(error, ClusterError::NothingShared);
        }
        let dedicated = EngineArgs { kv_transfer_sharing: Some(KvTransferSharing::Dedicated), ..decode };
        let error = Handoff::new(&shared(args(None, None, 1.0)), &dedicated).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`kv_transfer_sharing` is shared for prefill and dedicated for decode: give it once, or the same value twice"
        );
    }

    #[test]
    fn only_what_the_decode_worker_lacks_is_moved_if_asked_for() {
        let mode = KvTransferTimingMode::DestinationMissing;
        let decode = EngineArgs { kv_transfer_timing_mode: mode, ..args(Some(1_000_000), Some(1.0), 1.0) };
        let handoff = Handoff::new(&args(None, None, 1.0), &decode).unwrap();
        let full_prompt = Duration::from_ns(128_000_000);
        assert_eq!(handoff.transfer_time(128, Time::ZERO).unwrap(), TransferTime::Missing { full_prompt });
    }
}
