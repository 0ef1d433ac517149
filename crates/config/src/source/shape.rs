//! From settings to what is made of a load: a part of it, more of it, or the same at other times.

use std::num::NonZeroUsize;
use std::path::Path;

use servecast_types::{Message, Time, message};
use servecast_workload::{RateProfile, Shape};

use crate::error::{Failure, quoted};
use crate::files;
use crate::settings::{DEFAULT_SEED, Layers, ReplayConfig, TraceConfig};

/// The highest rate, in sessions a second, and the largest shape of gaps.
const MOST: f64 = 1e9;

/// What the settings ask for.
pub(super) fn of(config: &ReplayConfig, layers: &Layers) -> Result<Shape, Failure> {
    let given = &config.trace;
    let max_requests = given.max_requests.map(NonZeroUsize::try_from).transpose().map_err(|_| {
        layers.refused(message!("{max_requests} is 0, but at least 1 request has to be replayed"))
    })?;
    let time_range = given.time_range.as_deref().map(time_range).transpose();
    let sample = given.sample.unwrap_or(1.0);
    if !(sample > 0.0 && sample <= 1.0) {
        return Err(layers.refused(message!(
            "{sample} is {}, but must be above 0 and at most 1: the share of sessions that is kept",
            sample
        )));
    }
    if given.repeat == Some(0) {
        return Err(layers.refused(message!("{repeat} is 0, but a load is sent at least once")));
    }
    Ok(Shape {
        time_range: time_range.map_err(|problem| layers.refused(problem))?,
        sample,
        repeat: given.repeat.unwrap_or(1),
        arrivals: arrivals(given, layers)?,
        warm_start: warm_start(given, layers)?,
        max_requests,
        seed: given.seed.unwrap_or(DEFAULT_SEED),
    })
}

/// Refuses a synthetic workload whose arrivals are said twice.
pub(super) fn refuse_two_arrivals(config: &ReplayConfig, layers: &Layers) -> Result<(), Failure> {
    let (trace, synthetic) = (&config.trace, &config.synthetic);
    let by_rate =
        [("request_rate", trace.request_rate.is_some()), ("rate_profile", trace.rate_profile.is_some())];
    let by_gap = [
        ("arrival_interval_ms", synthetic.arrival_interval_ms.is_some()),
        ("arrival_process", synthetic.arrival_process.is_some()),
    ];
    let given = |keys: [(&'static str, bool); 2]| keys.into_iter().find(|(_, is_given)| *is_given);
    match (given(by_rate), given(by_gap)) {
        (Some((rate, _)), Some((gap, _))) => Err(layers
            .refused(message!(
                "{} and {} cannot be combined: both say when sessions arrive",
                Message::key(rate),
                Message::key(gap)
            ))
            .with_hint("leave one of the two out")),
        _ => Ok(()),
    }
}

/// The sessions of a closed loop that start within.
fn warm_start(given: &TraceConfig, layers: &Layers) -> Result<Option<u32>, Failure> {
    match (given.warm_start, given.replay_concurrency) {
        (Some(true), None) => Err(layers
            .refused(message!(
                "{warm_start} is for a closed loop, in which sessions have no times, but this is none"
            ))
            .with_hint(message!("{--replay_concurrency} N has N sessions under way at a time"))),
        (Some(true), concurrency) => Ok(concurrency),
        (Some(false) | None, _) => Ok(None),
    }
}

fn time_range(text: &str) -> Result<(Time, Time), Message> {
    let refused = || {
        message!(
            "{time_range} is {}, but must be FROM..TO in seconds from the first arrival, as 60..90",
            format!("{text:?}")
        )
    };
    let (from, to) = text.split_once("..").ok_or_else(refused)?;
    let time = |text: &str, open: Time| match text.trim() {
        "" => Ok(open),
        text => text.parse().ok().and_then(|secs: f64| Time::from_ms(secs * 1000.0).ok()).ok_or_else(refused),
    };
    let range = (time(from, Time::ZERO)?, time(to, Time::MAX)?);
    if range.0 < range.1 { Ok(range) } else { Err(refused()) }
}

fn arrivals(given: &TraceConfig, layers: &Layers) -> Result<Option<(RateProfile, f64)>, Failure> {
    let burstiness = given.burstiness.unwrap_or(1.0);
    if !(burstiness > 0.0 && burstiness <= MOST) {
        return Err(layers.refused(message!(
            "{burstiness} is {}, but must be above 0 and at most {}: 1 is a Poisson process",
            burstiness,
            MOST
        )));
    }
    let (key, profile) = match (given.request_rate, &given.rate_profile) {
        (None, None) if given.burstiness.is_some() => {
            return Err(layers
                .refused(message!("{burstiness} is for arrivals by a rate, but there is none"))
                .with_hint(message!("{--request_rate} R or {--rate_profile} FILE gives one")));
        }
        (None, None) => return Ok(None),
        (Some(_), Some(_)) => {
            return Err(layers
                .refused(message!("{request_rate} and {rate_profile} cannot be combined: both say the rate"))
                .with_hint("leave one of the two out"));
        }
        (Some(rate), None) if rate > 0.0 && rate <= MOST => ("request_rate", RateProfile::constant(rate)),
        (Some(rate), None) => {
            return Err(layers.refused(message!(
                "{request_rate} is {}, but must be above 0 and at most {} sessions a second",
                rate,
                MOST
            )));
        }
        (None, Some(path)) => ("rate_profile", rate_profile(path)?),
    };
    if given.replay_concurrency.is_some() {
        return Err(layers
            .refused(message!(
                "{} says when sessions arrive, but {replay_concurrency} makes a closed loop, which has no arrival times",
                Message::key(key)
            ))
            .with_hint("leave one of the two out"));
    }
    Ok(Some((profile, burstiness)))
}

/// The profile that a file holds.
fn rate_profile(path: &Path) -> Result<RateProfile, Failure> {
    let profile: RateProfile = files::read_toml(path)?;
    profile.validate().map_err(|problem: Message| Failure::user(problem).about(quoted(path)))?;
    Ok(profile)
}
