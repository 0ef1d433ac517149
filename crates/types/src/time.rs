//! Time as whole nanoseconds: sums are exact, and the same on every machine.

use std::fmt;
use std::num::NonZeroU64;
use std::ops::{Add, AddAssign, Sub};

use crate::TimeError;

const NS_PER_MS: f64 = 1e6;
/// Lengths below this many ns, 18 minutes, are rounded the short way.
const SURE_NS: f64 = (1_u64 << 40) as f64;
/// The bits of a number's fraction, all of which a number from 2⁵² on has for whole ones.
const FRACTION_BITS: u32 = f64::MANTISSA_DIGITS - 1;

/// A moment: whole nanoseconds since the start of the run.
///
/// Kept as one more than that, so that an `Option<Time>` is no larger: a request has many that are not there yet.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(NonZeroU64);

/// A length of time in whole nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Duration(u64);

impl Time {
    /// The start of the run.
    pub const ZERO: Self = Self(NonZeroU64::MIN);
    /// Later than anything that happens.
    pub const MAX: Self = Self(NonZeroU64::MAX);

    /// `ns` nanoseconds after the start of the run, or [`Time::MAX`] if that is earlier.
    pub const fn from_ns(ns: u64) -> Self {
        Self(NonZeroU64::MIN.saturating_add(ns))
    }

    /// Nanoseconds since the start of the run.
    pub const fn as_ns(self) -> u64 {
        self.0.get() - 1
    }

    /// The moment `ms` milliseconds after the start, to the nearest nanosecond.
    #[inline]
    pub fn from_ms(ms: f64) -> Result<Self, TimeError> {
        Duration::from_ms(ms).map(|since| Self::ZERO + since)
    }

    /// Milliseconds since the start of the run, for reports.
    pub fn as_ms(self) -> f64 {
        self.as_ns() as f64 / NS_PER_MS
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration(self.as_ns().saturating_sub(earlier.as_ns()))
    }
}

impl Duration {
    /// No time at all.
    pub const ZERO: Self = Self(0);

    /// A length of `ns` nanoseconds.
    pub const fn from_ns(ns: u64) -> Self {
        Self(ns)
    }

    /// The length in nanoseconds.
    pub const fn as_ns(self) -> u64 {
        self.0
    }

    /// A length of `ms` milliseconds, rounded to the nearest nanosecond with ties to even.
    ///
    /// The rounding is that of [`std::time::Duration::from_secs_f64`] on `ms / 1000`, since recorded times of
    /// other simulators were quantised that way and `(ms * 1e6).round()` differs by up to 8 ns.
    #[inline]
    pub fn from_ms(ms: f64) -> Result<Self, TimeError> {
        Self::from_secs(ms / 1000.0).map_err(|_| TimeError { ms })
    }

    /// A length of `secs` seconds, rounded to the nearest nanosecond with ties to even.
    #[inline]
    pub fn from_secs(secs: f64) -> Result<Self, TimeError> {
        const SHIFT: f64 = (1_u64 << FRACTION_BITS) as f64;
        // The product is off by less than 2⁻¹³ ns here, so away from ties it rounds as the exact one does.
        let ns = secs * 1e9;
        if (0.0..SURE_NS).contains(&ns) {
            let shifted = ns + SHIFT;
            if (ns - (shifted - SHIFT)).abs() < 0.499 {
                return Ok(Self(shifted.to_bits() & ((1 << FRACTION_BITS) - 1)));
            }
        }
        Self::from_secs_exactly(secs)
    }

    #[cold]
    fn from_secs_exactly(secs: f64) -> Result<Self, TimeError> {
        let error = || TimeError { ms: secs * 1000.0 };
        let exact = std::time::Duration::try_from_secs_f64(secs).map_err(|_| error())?;
        u64::try_from(exact.as_nanos()).map(Self).map_err(|_| error())
    }

    /// The length in seconds: whole seconds plus the nanoseconds' share, as [`std::time::Duration::as_secs_f64`].
    pub fn as_secs(self) -> f64 {
        std::time::Duration::from_nanos(self.0).as_secs_f64()
    }

    /// The length in milliseconds, for reports.
    pub fn as_ms(self) -> f64 {
        self.0 as f64 / NS_PER_MS
    }

    /// This length divided by `ratio`, rounded to the nearest nanosecond; a ratio of 1 changes nothing.
    pub fn divided_by(self, ratio: f64) -> Result<Self, TimeError> {
        Self::from_secs(self.as_secs() / ratio)
    }
}

impl Add<Duration> for Time {
    type Output = Self;

    /// Saturates at [`Time::MAX`], 584 years after the start; a run that comes to it ends with an error.
    fn add(self, length: Duration) -> Self {
        Self(self.0.saturating_add(length.0))
    }
}

impl Default for Time {
    fn default() -> Self {
        Self::ZERO
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Time").field(&self.as_ns()).finish()
    }
}

impl Add for Duration {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl AddAssign for Duration {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Duration {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.as_ms())
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ms", self.as_ms())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn milliseconds_round_to_the_nearest_nanosecond_with_ties_to_even() {
        for (secs, ns) in [(0.0029296875, 2_929_688), (0.0009765625, 976_562), (0.018451798, 18_451_798)] {
            assert_eq!(Duration::from_secs(secs).unwrap().as_ns(), ns, "{secs} s");
        }
    }

    proptest! {
        #[test]
        fn rounding_is_that_of_the_standard_library(secs in prop_oneof![0.0..2.0, 0.0..2000.0, 0.0..1e9], half in 0_u64..1 << 42) {
            // Some of these are ties or next to one.
            for secs in [secs, (half as f64 + 0.5) / 1e9, half as f64 / 1e9, half as f64 / 1024.0] {
                let exact = std::time::Duration::try_from_secs_f64(secs).unwrap();
                prop_assert_eq!(u128::from(Duration::from_secs(secs).unwrap().as_ns()), exact.as_nanos());
            }
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for ms in [-1.0, f64::NAN, f64::INFINITY, 1e308, 2e13] {
            assert!(Time::from_ms(ms).is_err(), "{ms}");
        }
        assert_eq!(Time::from_ms(1e13).unwrap().as_ns(), 10_000_000_000_000_000_000);
    }

    #[test]
    fn dividing_by_one_changes_nothing() {
        for ns in [0, 1, 999_999_999, 1_000_000_001, 18_451_798] {
            let length = Duration::from_ns(ns);
            assert_eq!(length.divided_by(1.0).unwrap(), length);
        }
    }

    #[test]
    fn since_never_goes_below_zero() {
        assert_eq!(Time::from_ns(5).since(Time::from_ns(7)), Duration::ZERO);
        assert_eq!(Time::from_ns(7).since(Time::from_ns(5)), Duration::from_ns(2));
    }
}
