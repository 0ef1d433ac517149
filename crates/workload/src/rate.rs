//! Rates that change over time, and when requests arrive by them.
//!
//! Arrivals are those of a process of rate 1, moved by the inverse of the integral of the rate: where the rate is twice
//! as high, gaps are half as long.

use rand::RngExt;
use rand_distr::{Distribution, Exp1, Gamma};
use rand_pcg::Pcg64;
use serde::{Deserialize, Serialize};
use servecast_types::{Message, message};

use crate::random::{rounded_ms, stream};

/// Requests a second over time: segments one after another, or states that alternate at random.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RateProfile {
    /// Parts of the profile, in order.
    pub segment: Vec<RateSegment>,
    /// Whether it starts over after the last segment; without it the last rate goes on.
    pub repeat: bool,
    /// States of a Markov-modulated process; the first one holds at the start, the next is any of the others.
    pub state: Vec<RateState>,
}

/// A part of a profile: a constant rate, a ramp to `end_rate_per_s`, or a wave around the rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateSegment {
    /// How long it holds, in seconds.
    pub duration_s: f64,
    /// Requests a second: from the start on, or on average in a wave.
    pub rate_per_s: f64,
    /// Requests a second at the end of a ramp.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub end_rate_per_s: Option<f64>,
    /// By how much a wave goes above and below its rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amplitude_per_s: Option<f64>,
    /// Seconds from one peak of a wave to the next; a day without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub period_s: Option<f64>,
    /// When the first peak of a wave is, in seconds from the start of the segment; half a period without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peak_s: Option<f64>,
}

/// A state of a Markov-modulated process.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateState {
    /// Requests a second.
    pub rate_per_s: f64,
    /// How long it holds on average, in seconds.
    pub mean_duration_s: f64,
}

/// The longest time, and the highest rate, that a profile may name.
const MOST: f64 = 1e9;
const DAY_S: f64 = 86_400.0;

impl RateProfile {
    /// One rate for ever.
    pub fn constant(rate_per_s: f64) -> Self {
        let segment = RateSegment {
            duration_s: 1.0,
            rate_per_s,
            end_rate_per_s: None,
            amplitude_per_s: None,
            period_s: None,
            peak_s: None,
        };
        Self { segment: vec![segment], ..Self::default() }
    }

    /// Refuses what is no profile, by the place and the key of what is wrong.
    pub fn validate(&self) -> Result<(), Message> {
        match (self.segment.as_slice(), self.state.as_slice()) {
            ([], []) => return Err("there is neither a [[segment]] nor a [[state]]".into()),
            ([_, ..], [_, ..]) => {
                return Err(
                    "[[segment]] and [[state]] cannot be combined: one of them says what the rate is".into(),
                );
            }
            ([], [_]) => return Err("there is one [[state]], but at least 2 are needed to alternate".into()),
            _ => {}
        }
        if self.repeat && self.segment.is_empty() {
            return Err("`repeat` is for segments: states go on for ever anyway".into());
        }
        for (segment, number) in self.segment.iter().zip(1..) {
            segment.validate(number)?;
        }
        for (state, number) in self.state.iter().zip(1..) {
            let place = |key: &str| format!("`{key}` of [[state]] {number}");
            positive(&place("mean_duration_s"), state.mean_duration_s)?;
            rate(&place("rate_per_s"), state.rate_per_s)?;
        }
        let is_silent = self.segment.iter().all(|segment| segment.requests(segment.duration_s) <= 0.0)
            && self.state.iter().all(|state| state.rate_per_s <= 0.0);
        if is_silent { Err("every rate is 0, so that no request would ever arrive".into()) } else { Ok(()) }
    }
}

impl RateSegment {
    fn validate(&self, number: usize) -> Result<(), Message> {
        let place = |key: &str| format!("`{key}` of [[segment]] {number}");
        positive(&place("duration_s"), self.duration_s)?;
        rate(&place("rate_per_s"), self.rate_per_s)?;
        if let Some(end) = self.end_rate_per_s {
            rate(&place("end_rate_per_s"), end)?;
            if self.amplitude_per_s.is_some() {
                return Err(message!(
                    "{} is for a ramp and `amplitude_per_s` for a wave: leave one of the two out",
                    place("end_rate_per_s")
                ));
            }
        }
        let Some(amplitude) = self.amplitude_per_s else {
            let of_waves = [("period_s", self.period_s), ("peak_s", self.peak_s)];
            return match of_waves.into_iter().find(|(_, value)| value.is_some()) {
                Some((key, _)) => {
                    Err(message!("{} is for a wave, which has an `amplitude_per_s`", place(key)))
                }
                None => Ok(()),
            };
        };
        if !(0.0..=self.rate_per_s).contains(&amplitude) {
            return Err(message!(
                "{} is {}, but must be from 0 to `rate_per_s`, which is {}",
                place("amplitude_per_s"),
                amplitude,
                self.rate_per_s
            ));
        }
        self.period_s.map_or(Ok(()), |period| positive(&place("period_s"), period))?;
        match self.peak_s {
            Some(peak) if !(0.0..=MOST).contains(&peak) => {
                Err(message!("{} is {}, but must be from 0 to {}", place("peak_s"), peak, MOST))
            }
            _ => Ok(()),
        }
    }

    /// Requests within the first `seconds` of it, which may be longer than it holds where nothing follows.
    fn requests(&self, seconds: f64) -> f64 {
        let mean = self.rate_per_s;
        if let Some(end) = self.end_rate_per_s {
            let ramp = seconds.min(self.duration_s);
            let slope = (end - mean) / self.duration_s;
            return (mean + 0.5 * slope * ramp) * ramp + end * (seconds - ramp);
        }
        let Some(amplitude) = self.amplitude_per_s else { return mean * seconds };
        let angle = std::f64::consts::TAU / self.period_s.unwrap_or(DAY_S);
        let peak = self.peak_s.unwrap_or(self.period_s.unwrap_or(DAY_S) / 2.0);
        // sin(a) − sin(b), with b < 0 at the start.
        let wave = ((seconds - peak) * angle).sin() + (peak * angle).sin();
        (amplitude / angle).mul_add(wave, mean * seconds)
    }

    /// When it has sent `requests`, in seconds from its start; none if it never does.
    fn when(&self, requests: f64, is_endless: bool) -> Option<f64> {
        if self.end_rate_per_s.is_none() && self.amplitude_per_s.is_none() {
            let seconds = requests / self.rate_per_s;
            return Some(seconds).filter(|seconds| is_endless || *seconds <= self.duration_s);
        }
        let mut high = self.duration_s;
        while self.requests(high) < requests {
            if !is_endless || high > MOST * MOST {
                return None;
            }
            high *= 2.0;
        }
        // Far more steps than a double has bits.
        let mut low = 0.0;
        for _ in 0..100 {
            let middle = 0.5 * (low + high);
            if self.requests(middle) < requests {
                low = middle;
            } else {
                high = middle;
            }
        }
        Some(high)
    }
}

fn positive(place: &str, value: f64) -> Result<(), Message> {
    if value > 0.0 && value <= MOST {
        Ok(())
    } else {
        Err(message!("{} is {}, but must be above 0 and at most {}", place, value, MOST))
    }
}

fn rate(place: &str, value: f64) -> Result<(), Message> {
    if (0.0..=MOST).contains(&value) {
        Ok(())
    } else {
        Err(message!("{} is {}, but must be from 0 to {} requests a second", place, value, MOST))
    }
}

/// Arrivals one after another, by a rate profile that was validated.
pub(crate) struct Arrivals<'a> {
    profile: &'a RateProfile,
    /// Shape of the gamma distribution of gaps.
    gaps: Gaps,
    gap_rng: Pcg64,
    state_rng: Pcg64,
    /// What holds, a segment or a state, and since when, in seconds.
    place: usize,
    since: f64,
    /// How long a state holds.
    lasts: f64,
    /// Requests that the place has sent.
    sent: f64,
    is_first: bool,
}

enum Gaps {
    Exponential,
    Gamma(Gamma<f64>),
}

impl<'a> Arrivals<'a> {
    /// With gaps of a gamma distribution of this shape, above 0: 1 is a Poisson process, less has bursts.
    pub(crate) fn new(profile: &'a RateProfile, burstiness: f64, seed: u64) -> Self {
        let is_poisson = (burstiness - 1.0).abs() < f64::EPSILON;
        let gamma = || Gamma::new(burstiness, 1.0 / burstiness).expect("the shape was checked to be above 0");
        let mut arrivals = Self {
            profile,
            gaps: if is_poisson { Gaps::Exponential } else { Gaps::Gamma(gamma()) },
            gap_rng: stream(seed, "arrival_gaps"),
            state_rng: stream(seed, "arrival_states"),
            place: 0,
            since: 0.0,
            lasts: 0.0,
            sent: 0.0,
            is_first: true,
        };
        arrivals.lasts = arrivals.duration();
        arrivals
    }

    /// How long what holds now does.
    fn duration(&mut self) -> f64 {
        match self.profile.state.get(self.place) {
            Some(state) => {
                let length: f64 = Exp1.sample(&mut self.state_rng);
                length * state.mean_duration_s
            }
            None => self.profile.segment[self.place].duration_s,
        }
    }

    /// The next arrival in milliseconds, the first one when the rate is first above 0; none if no more come.
    pub(crate) fn next_ms(&mut self) -> Option<f64> {
        let gap: f64 = match &self.gaps {
            _ if self.is_first => 0.0,
            Gaps::Exponential => Exp1.sample(&mut self.gap_rng),
            Gaps::Gamma(gamma) => gamma.sample(&mut self.gap_rng),
        };
        self.is_first = false;
        let mut wanted = self.sent + gap;
        loop {
            let segment = self.current();
            let is_endless = self.is_endless();
            // At the very start of silence nothing arrives.
            let is_silent = segment.requests(segment.duration_s) <= 0.0;
            if !is_silent && let Some(seconds) = segment.when(wanted, is_endless) {
                self.sent = wanted;
                return Some(rounded_ms((self.since + seconds) * 1000.0));
            }
            if is_endless {
                return None;
            }
            wanted -= segment.requests(segment.duration_s);
            self.go_on(segment.duration_s);
        }
    }

    /// What holds now, as a segment.
    fn current(&self) -> RateSegment {
        match self.profile.state.get(self.place) {
            Some(state) => {
                let [segment] = RateProfile::constant(state.rate_per_s).segment[..] else { unreachable!() };
                RateSegment { duration_s: self.lasts, ..segment }
            }
            None => self.profile.segment[self.place],
        }
    }

    /// Whether nothing follows what holds now.
    fn is_endless(&self) -> bool {
        let profile = self.profile;
        profile.state.is_empty() && !profile.repeat && self.place + 1 == profile.segment.len()
    }

    fn go_on(&mut self, after: f64) {
        self.since += after;
        let states = self.profile.state.len();
        self.place = match states {
            0 => (self.place + 1) % self.profile.segment.len(),
            2 => 1 - self.place,
            _ => (self.place + self.state_rng.random_range(1..states)) % states,
        };
        self.lasts = self.duration();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(text: serde_json::Value) -> RateProfile {
        let profile: RateProfile = serde_json::from_value(text).unwrap();
        profile.validate().unwrap();
        profile
    }

    /// How many of 20,000 requests arrive in each part of the time.
    fn counts(profile: &RateProfile, burstiness: f64, width_s: f64) -> Vec<u32> {
        let mut arrivals = Arrivals::new(profile, burstiness, 7);
        let mut counts = Vec::new();
        for _ in 0..20_000 {
            let Some(ms) = arrivals.next_ms() else { break };
            let bucket = (ms / 1000.0 / width_s) as usize;
            counts.resize(counts.len().max(bucket + 1), 0);
            counts[bucket] += 1;
        }
        counts
    }

    fn is_about(found: u32, expected: f64, tolerance: f64) -> bool {
        (f64::from(found) / expected - 1.0).abs() < tolerance
    }

    #[test]
    fn segments_follow_one_another_and_the_last_goes_on() {
        let profile = profile(serde_json::json!({"segment": [
            {"duration_s": 100, "rate_per_s": 10},
            {"duration_s": 100, "rate_per_s": 0},
            {"duration_s": 100, "rate_per_s": 0, "end_rate_per_s": 40},
            {"duration_s": 100, "rate_per_s": 40},
        ]}));
        let counts = counts(&profile, 1.0, 100.0);
        assert!(is_about(counts[0], 1000.0, 0.1), "{counts:?}");
        assert_eq!(counts[1], 0);
        assert!(is_about(counts[2], 2000.0, 0.1) && is_about(counts[3], 4000.0, 0.1), "{counts:?}");
        assert!(is_about(counts[4], 4000.0, 0.1), "the last rate goes on: {counts:?}");
    }

    #[test]
    fn a_wave_has_its_peak_where_it_is_asked_for() {
        let profile = profile(serde_json::json!({"segment": [
            {"duration_s": 1000, "rate_per_s": 10, "amplitude_per_s": 10, "period_s": 1000, "peak_s": 250},
        ]}));
        let counts = counts(&profile, 1.0, 500.0);
        // ∫ of 10 + 10·cos over the half around the peak: 5000 + 10 · 1000 / π.
        assert!(is_about(counts[0], 8183.0, 0.05) && is_about(counts[1], 1817.0, 0.1), "{counts:?}");
        assert!(is_about(counts[2], 8183.0, 0.05), "the wave goes on: {counts:?}");
    }

    #[test]
    fn a_profile_repeats_or_ends() {
        let text = |repeat: bool| {
            serde_json::json!({"repeat": repeat, "segment": [
                {"duration_s": 10, "rate_per_s": 100}, {"duration_s": 10, "rate_per_s": 0},
            ]})
        };
        assert_eq!(counts(&profile(text(false)), 1.0, 10.0).len(), 1, "the last rate is 0");
        let counts = counts(&profile(text(true)), 1.0, 10.0);
        assert!(counts.iter().skip(1).step_by(2).all(|count| *count == 0), "{counts:?}");
        assert_eq!(counts.iter().sum::<u32>(), 20_000);
    }

    #[test]
    fn states_hold_as_long_as_they_say_on_average() {
        let profile = profile(serde_json::json!({"state": [
            {"rate_per_s": 1, "mean_duration_s": 3}, {"rate_per_s": 20, "mean_duration_s": 1},
        ]}));
        let counts = counts(&profile, 1.0, 1.0);
        let rate = 20_000.0 / counts.len() as f64;
        assert!((rate / 5.75 - 1.0).abs() < 0.1, "{rate}: 3 s of 1 and 1 s of 20");
        let (mean, square) = counts.iter().fold((0.0, 0.0), |(sum, squares), count| {
            let count = f64::from(*count);
            (sum + count / counts.len() as f64, count.mul_add(count / counts.len() as f64, squares))
        });
        assert!((square - mean * mean) / mean > 5.0, "it has bursts");
    }

    #[test]
    fn burstiness_is_the_shape_of_the_gaps() {
        let profile = RateProfile::constant(10.0);
        for burstiness in [0.25, 1.0, 4.0] {
            let mut arrivals = Arrivals::new(&profile, burstiness, 3);
            let times: Vec<f64> = (0..20_001).filter_map(|_| arrivals.next_ms()).collect();
            assert_eq!(times[0].to_bits(), 0.0_f64.to_bits());
            let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
            let mean = gaps.iter().sum::<f64>() / gaps.len() as f64;
            let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len() as f64;
            assert!((mean / 100.0 - 1.0).abs() < 0.05, "{burstiness}: {mean}");
            assert!((variance / (mean * mean) * burstiness - 1.0).abs() < 0.1, "{burstiness}: {variance}");
        }
    }

    #[test]
    fn what_is_no_profile_is_refused_by_its_place() {
        for (text, expected) in [
            ("{}", "there is neither a [[segment]] nor a [[state]]"),
            (
                r#"{"segment": [{"duration_s": 1, "rate_per_s": 2}], "state": [{"rate_per_s": 1, "mean_duration_s": 1}]}"#,
                "[[segment]] and [[state]] cannot be combined: one of them says what the rate is",
            ),
            (
                r#"{"segment": [{"duration_s": 1, "rate_per_s": 2}, {"duration_s": 0, "rate_per_s": 2}]}"#,
                "`duration_s` of [[segment]] 2 is 0, but must be above 0 and at most 1000000000",
            ),
            (
                r#"{"segment": [{"duration_s": 1, "rate_per_s": -1}]}"#,
                "`rate_per_s` of [[segment]] 1 is -1, but must be from 0 to 1000000000 requests a second",
            ),
            (
                r#"{"segment": [{"duration_s": 1, "rate_per_s": 2, "amplitude_per_s": 3}]}"#,
                "`amplitude_per_s` of [[segment]] 1 is 3, but must be from 0 to `rate_per_s`, which is 2",
            ),
            (
                r#"{"segment": [{"duration_s": 1, "rate_per_s": 2, "period_s": 3}]}"#,
                "`period_s` of [[segment]] 1 is for a wave, which has an `amplitude_per_s`",
            ),
            (
                r#"{"segment": [{"duration_s": 1, "rate_per_s": 0}]}"#,
                "every rate is 0, so that no request would ever arrive",
            ),
            (
                r#"{"state": [{"rate_per_s": 1, "mean_duration_s": 1}]}"#,
                "there is one [[state]], but at least 2 are needed to alternate",
            ),
        ] {
            let profile: RateProfile = serde_json::from_str(text).unwrap();
            assert_eq!(profile.validate().unwrap_err().to_string(), expected);
        }
    }
}
