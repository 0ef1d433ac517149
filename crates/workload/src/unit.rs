//! Units of time: what a file is in, where its format does not say.

use std::ops::Range;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use servecast_types::{Message, message};

/// A unit of the times of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TimeUnit {
    /// Seconds.
    S,
    /// Milliseconds.
    Ms,
    /// Microseconds.
    Us,
    /// Nanoseconds.
    Ns,
}

impl TimeUnit {
    /// A time in this unit, in milliseconds.
    pub fn to_ms(self, time: f64) -> f64 {
        match self {
            Self::S => time * 1e3,
            Self::Ms => time,
            Self::Us => time / 1e3,
            Self::Ns => time / 1e6,
        }
    }

    /// Its name in full.
    pub fn name(self) -> &'static str {
        match self {
            Self::S => "seconds",
            Self::Ms => "milliseconds",
            Self::Us => "microseconds",
            Self::Ns => "nanoseconds",
        }
    }

    /// The unit in which the times of the years 2001 to 2286 since 1970 are of this size.
    ///
    /// Milliseconds are what times are taken for anyway.
    pub(crate) fn of_epoch(time: f64) -> Option<Self> {
        const EPOCH: [(Range<f64>, TimeUnit); 3] =
            [(1e9..1e10, TimeUnit::S), (1e15..1e16, TimeUnit::Us), (1e18..1e19, TimeUnit::Ns)];
        EPOCH.into_iter().find(|(range, _)| range.contains(&time)).map(|(_, unit)| unit)
    }
}

/// What the times of a trace were found to be, and by what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recognised {
    /// Timestamps of this unit since 1970.
    Epoch(TimeUnit),
    /// Dates and times of day.
    Dates,
    /// The rows of the Bailian (Qwen) traces: seconds, and hash ids of 16 tokens.
    Chats,
}

impl Recognised {
    /// Tokens that a hash id of such a trace stands for.
    pub fn block_size(self) -> Option<u32> {
        (self == Self::Chats).then_some(16)
    }

    pub(crate) fn message(self) -> Message {
        match self {
            Self::Epoch(unit) => message!(
                "timestamps of this size are {} since 1970 and are read as such: {--time_unit} ms if they are not",
                unit.name()
            ),
            Self::Dates => message!("timestamps are dates, read as UTC unless they say another zone"),
            Self::Chats => message!(
                "rows with `chat_id` and `parent_chat_id` are read with timestamps in seconds and 16 tokens to a hash id, \
                 unless {--time_unit} and {--trace_block_size} say otherwise"
            ),
        }
    }
}

/// Milliseconds from 1970 to a date and time of day of ISO 8601, in UTC unless it says otherwise:
/// `2023-11-16 18:15:46.6805900`, `2026-01-01T00:00:00Z`, `2026-01-01T02:00:00.25+02:00`.
pub(crate) fn date_ms(text: &str) -> Option<f64> {
    let (date, rest) = Some(text).filter(|text| text.is_ascii())?.split_at_checked(10)?;
    let (year, month, day) = (number(&date[..4])?, number(&date[5..7])?, number(&date[8..])?);
    let is_date = date.as_bytes()[4] == b'-' && date.as_bytes()[7] == b'-';
    let rest = rest.strip_prefix(['T', 't', ' '])?;
    let zone_at = rest.find(['Z', 'z', '+', '-']).unwrap_or(rest.len());
    let (time, zone) = rest.split_at(zone_at);
    let (clock, fraction) = time.trim_end().split_once(['.', ',']).unwrap_or((time.trim_end(), ""));
    let (hours, rest) = clock.split_once(':')?;
    let (minutes, seconds) = rest.split_once(':').unwrap_or((rest, "00"));
    let (hours, minutes, seconds) = (number(hours)?, number(minutes)?, number(seconds)?);
    let is_time = hours < 24 && minutes < 60 && seconds <= 60 && digits(fraction);
    let days = days_since_1970(year, month, day)?;
    if !(is_date && is_time) {
        return None;
    }
    let whole = ((days * 24 + hours) * 60 + minutes) * 60 + seconds - offset_seconds(zone)?;
    let fraction: f64 = format!("0.{fraction:.12}").parse().unwrap_or(0.0);
    Some(whole as f64 * 1e3 + fraction * 1e3)
}

/// Days from 1970-01-01 to a date of the Gregorian calendar.
fn days_since_1970(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let lengths = [31, 28 + i64::from(leap), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let length = *lengths.get(usize::try_from(month - 1).ok()?)?;
    let before: i64 = lengths.iter().take(month as usize - 1).sum();
    // Leap days up to the end of a year.
    let leaps = |year: i64| year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    (1..=length)
        .contains(&day)
        .then(|| (year - 1970) * 365 + leaps(year - 1) - leaps(1969) + before + day - 1)
}

/// Seconds that a zone is ahead of UTC: none, `Z`, `+02`, `+0200`, `-05:30`.
fn offset_seconds(zone: &str) -> Option<i64> {
    let sign = match zone.as_bytes().first() {
        None | Some(b'Z' | b'z') if zone.len() <= 1 => return Some(0),
        Some(b'+') => 1,
        Some(b'-') => -1,
        _ => return None,
    };
    let digits = zone[1..].replace(':', "");
    let (hours, minutes) = digits.split_at_checked(2)?;
    let minutes = if minutes.is_empty() { 0 } else { number(minutes)? };
    let hours = number(hours)?;
    (hours < 24 && minutes < 60).then_some(sign * (hours * 60 + minutes) * 60)
}

/// A number of digits and nothing else.
fn number(text: &str) -> Option<i64> {
    (!text.is_empty() && digits(text)).then(|| text.parse().ok()).flatten()
}

fn digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the times are chosen to be exact")]
mod tests {
    use super::*;

    #[test]
    fn dates_are_milliseconds_since_1970() {
        for (text, ms) in [
            ("1970-01-01T00:00:00Z", 0.0),
            ("2000-02-29T12:00:00Z", 951_825_600_000.0),
            ("2026-01-01T00:00:00.250Z", 1_767_225_600_250.0),
            ("2026-01-01 02:00:00+02:00", 1_767_225_600_000.0),
            ("2025-12-31T18:30-0530", 1_767_225_600_000.0),
            ("2023-11-16 18:15:46.6805900", 1_700_158_546_680.59),
            ("1969-12-31T23:59:59Z", -1000.0),
        ] {
            assert_eq!(date_ms(text), Some(ms), "{text}");
        }
    }

    #[test]
    fn what_is_no_date_is_none() {
        for text in [
            "noon",
            "",
            "2026-01-01",
            "2025-02-29T00:00:00",
            "2026-13-01T00:00:00",
            "2026-00-01T00:00:00",
            "2026-01-01T24:00:00",
            "2026-01-01T00:00:00 UTC",
            "2026-01-01T00:00:00+2",
            "2026/01/01T00:00:00",
            "2026-01-01T00:00:00.x",
            "２０２６-01-01",
            "202é-01-01T00:00:00",
            "+026-01-01T00:00:00",
        ] {
            assert_eq!(date_ms(text), None, "{text}");
        }
    }

    #[test]
    fn times_since_1970_show_their_unit_by_their_size() {
        for (time, unit) in [
            (1_767_225_600.25, Some(TimeUnit::S)),
            (1_767_225_600_250.0, None),
            (1_767_225_600_250_000.0, Some(TimeUnit::Us)),
            (1.767e18, Some(TimeUnit::Ns)),
            (999_999_999.0, None),
            (1e10, None),
        ] {
            assert_eq!(TimeUnit::of_epoch(time), unit, "{time}");
        }
        assert_eq!(TimeUnit::Ns.to_ms(1.5e6), 1.5);
    }
}
