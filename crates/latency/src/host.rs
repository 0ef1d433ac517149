//! What the host of an engine takes besides the passes of its GPU.

use servecast_types::Duration;

/// Times of the host, in microseconds, each from 0.
///
/// ```text
///  sent ─front end─▶ engine ─▶ pass ─gap─▶ pass ─gap─▶ pass
///                               └─delivery─▶ client
/// ```
///
/// They belong to a host and an engine, not to a GPU: no speedup divides them.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Host {
    /// Between a pass and the next one, which cannot begin earlier: scheduling, and what the GPU is told.
    pub gap_us: f64,
    /// The same, of each request in the pass that ended.
    pub gap_us_per_request: f64,
    /// From sending a request to when it is at the engine.
    pub front_end_us: f64,
    /// The same, of each 1,000 tokens of its prompt.
    pub front_end_us_per_1k_prompt_tokens: f64,
    /// From the end of a pass to when clients have its tokens. Passes go on meanwhile.
    pub delivery_us: f64,
    /// The same, of each request in the pass.
    pub delivery_us_per_request: f64,
}

/// An hour, in microseconds: none of the times is longer.
pub const MOST_HOST_US: f64 = 3.6e9;

impl Host {
    /// A host that takes no time.
    pub const NONE: Self = Self {
        gap_us: 0.0,
        gap_us_per_request: 0.0,
        front_end_us: 0.0,
        front_end_us_per_1k_prompt_tokens: 0.0,
        delivery_us: 0.0,
        delivery_us_per_request: 0.0,
    };

    /// The names of its times in settings and files, in the order of [`Host::values`].
    pub const KEYS: [&'static str; 6] = [
        "gap_us",
        "gap_us_per_request",
        "front_end_us",
        "front_end_us_per_1k_prompt_tokens",
        "delivery_us",
        "delivery_us_per_request",
    ];

    /// Its times in the order of [`Host::KEYS`].
    pub fn values(&self) -> [f64; 6] {
        let Self {
            gap_us,
            gap_us_per_request,
            front_end_us,
            front_end_us_per_1k_prompt_tokens,
            delivery_us,
            delivery_us_per_request,
        } = *self;
        [
            gap_us,
            gap_us_per_request,
            front_end_us,
            front_end_us_per_1k_prompt_tokens,
            delivery_us,
            delivery_us_per_request,
        ]
    }

    /// The time of that name.
    pub fn value_mut(&mut self, key: &str) -> Option<&mut f64> {
        Some(match key {
            "gap_us" => &mut self.gap_us,
            "gap_us_per_request" => &mut self.gap_us_per_request,
            "front_end_us" => &mut self.front_end_us,
            "front_end_us_per_1k_prompt_tokens" => &mut self.front_end_us_per_1k_prompt_tokens,
            "delivery_us" => &mut self.delivery_us,
            "delivery_us_per_request" => &mut self.delivery_us_per_request,
            _ => return None,
        })
    }

    /// Whether a number can be one of its times.
    pub fn is_time(us: f64) -> bool {
        (0.0..=MOST_HOST_US).contains(&us)
    }

    /// From the end of a pass with so many requests to when the next one can begin.
    #[inline]
    pub fn gap(&self, requests: u64) -> Duration {
        duration(self.gap_us, self.gap_us_per_request, requests as f64)
    }

    /// From sending a request to when it is at the engine.
    #[inline]
    pub fn front_end(&self, prompt_tokens: u32) -> Duration {
        let thousands = f64::from(prompt_tokens) / 1000.0;
        duration(self.front_end_us, self.front_end_us_per_1k_prompt_tokens, thousands)
    }

    /// From the end of a pass with so many requests to when clients have its tokens.
    #[inline]
    pub fn delivery(&self, requests: u64) -> Duration {
        duration(self.delivery_us, self.delivery_us_per_request, requests as f64)
    }
}

/// Times that are nothing cost nothing. None is negative.
#[inline]
fn duration(base_us: f64, each_us: f64, times: f64) -> Duration {
    if base_us + each_us == 0.0 {
        return Duration::ZERO;
    }
    // What comes from settings and files is checked to fit.
    Duration::from_ms((base_us + each_us * times) / 1000.0).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_time_has_a_base_and_a_price() {
        let host = Host {
            gap_us: 1000.0,
            gap_us_per_request: 62.5,
            front_end_us: 4000.0,
            front_end_us_per_1k_prompt_tokens: 500.0,
            delivery_us: 2000.0,
            delivery_us_per_request: 190.0,
        };
        assert_eq!(host.gap(16), Duration::from_ns(2_000_000));
        assert_eq!(host.front_end(2500), Duration::from_ns(5_250_000));
        assert_eq!(host.delivery(10), Duration::from_ns(3_900_000));
        assert_eq!(Host::NONE.gap(1000) + Host::NONE.front_end(7) + Host::NONE.delivery(3), Duration::ZERO);
    }

    #[test]
    fn every_time_has_its_name() {
        let mut host = Host::NONE;
        for (key, us) in Host::KEYS.into_iter().zip(1..) {
            *host.value_mut(key).unwrap() = f64::from(us);
        }
        assert_eq!(host.values().map(|us| us as u64), [1, 2, 3, 4, 5, 6]);
        assert_eq!(host.value_mut("gap_ms"), None);
        assert!(
            Host::is_time(0.0) && !Host::is_time(-1.0) && !Host::is_time(f64::NAN) && !Host::is_time(1e10)
        );
    }
}
