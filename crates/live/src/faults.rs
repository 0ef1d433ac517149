//! What a server does wrong on purpose, so that clients can be tried against it: refused, failed and stalled requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::StatusCode;
use xxhash_rust::xxh3::xxh3_64;

use crate::error::ApiError;

/// What goes wrong, and how often.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Requests that are answered with an error.
    pub fail: Option<Fail>,
    /// Requests that get no token for some time.
    pub stall: Option<Stall>,
    /// Requests beyond which others are refused.
    pub max_queue: Option<MaxQueue>,
}

/// Some requests are answered with an error: `rate=0.01,status=500`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fail {
    rate: f64,
    status: StatusCode,
}

/// Some requests get no token for some time: `rate=0.01,seconds=30`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stall {
    rate: f64,
    length: Duration,
}

/// How many requests may wait behind a port, and what others are told: `64,status=429`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxQueue {
    requests: usize,
    status: StatusCode,
}

/// A fault that cannot be had as it is described.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct FaultError {
    what: String,
}

/// How long somebody is stalled for good: longer than anybody waits.
const FOR_GOOD: Duration = Duration::from_secs(365 * 86400);

/// Fields of a text such as `rate=0.01,status=500`.
struct Fields<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Fields<'a> {
    fn new(text: &'a str, known: &[&str]) -> Result<Self, FaultError> {
        let mut fields: Vec<(&str, &str)> = Vec::new();
        for field in text.split(',') {
            let (name, value) = field.split_once('=').ok_or_else(|| {
                error(format!("{field:?} is no NAME=VALUE; the names are {}", known.join(" and ")))
            })?;
            if !known.contains(&name) {
                return Err(error(format!("there is no {name:?}, but {}", known.join(" and "))));
            }
            if fields.iter().any(|(other, _)| *other == name) {
                return Err(error(format!("{name} is there twice")));
            }
            fields.push((name, value));
        }
        Ok(Self(fields))
    }

    fn get(&self, name: &str) -> Option<&'a str> {
        self.0.iter().find(|(other, _)| *other == name).map(|(_, value)| *value)
    }

    /// How many of all requests, from 0 to 1.
    fn rate(&self) -> Result<f64, FaultError> {
        let text = self
            .get("rate")
            .ok_or_else(|| error("rate is missing: which share of requests, such as 0.01"))?;
        let rate = text.parse().ok().filter(|rate| (0.0..=1.0).contains(rate));
        rate.ok_or_else(|| error(format!("rate is {text}, but has to be from 0 to 1")))
    }

    fn status(&self, usual: StatusCode) -> Result<StatusCode, FaultError> {
        let Some(text) = self.get("status") else { return Ok(usual) };
        let status = text.parse().ok().filter(|status| (400..600).contains(status));
        let status = status.and_then(|status| StatusCode::from_u16(status).ok());
        status.ok_or_else(|| error(format!("status is {text}, but has to be an HTTP status from 400 to 599")))
    }
}

fn error(what: impl Into<String>) -> FaultError {
    FaultError { what: what.into() }
}

impl std::str::FromStr for Fail {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        let fields = Fields::new(text, &["rate", "status"])?;
        Ok(Self { rate: fields.rate()?, status: fields.status(StatusCode::INTERNAL_SERVER_ERROR)? })
    }
}

impl std::str::FromStr for Stall {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        let fields = Fields::new(text, &["rate", "seconds"])?;
        let length = fields.get("seconds").map(|text| {
            let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
            let length = seconds.filter(|length| *length <= FOR_GOOD);
            length.ok_or_else(|| error(format!("seconds is {text}, but has to be a time of a year at most")))
        });
        Ok(Self { rate: fields.rate()?, length: length.transpose()?.unwrap_or(FOR_GOOD) })
    }
}

impl std::str::FromStr for MaxQueue {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        let (requests, rest) = text.split_once(',').map_or((text, None), |(first, rest)| (first, Some(rest)));
        let requests = requests.parse().map_err(|_| {
            error(format!("{requests:?} is no number of requests, such as 64 or 64,status=429"))
        })?;
        let usual = StatusCode::SERVICE_UNAVAILABLE;
        let status = rest.map(|rest| Fields::new(rest, &["status"])?.status(usual));
        Ok(Self { requests, status: status.transpose()?.unwrap_or(usual) })
    }
}

/// The faults of a port, and who waits behind it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Desk {
    faults: Faults,
    seed: u64,
    waiting: Arc<AtomicUsize>,
}

/// A request that waits until this is dropped.
#[derive(Debug)]
pub(crate) struct Waits(Arc<AtomicUsize>);

impl Drop for Waits {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Desk {
    pub(crate) fn new(faults: Faults, seed: u64) -> Self {
        Self { faults, seed, waiting: Arc::default() }
    }

    /// Lets a client have so many answers, each of which waits, unless it is to have none. `number` tells its request from
    /// others.
    pub(crate) fn admit(&self, number: u64, answers: usize) -> Result<Vec<Waits>, ApiError> {
        if let Some(Fail { rate, status }) = self.faults.fail
            && self.draw(number, 1) < rate
        {
            return Err(ApiError::of_status(status, "The server fails on purpose (--fail)"));
        }
        let limit = self.faults.max_queue;
        let most = limit.map_or(usize::MAX, |limit| limit.requests);
        // Several threads ask at a time.
        let with_these = |waiting: usize| waiting.checked_add(answers).filter(|&all| all <= most);
        let taken = self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, with_these);
        if taken.is_err() {
            let status = limit.map_or(StatusCode::SERVICE_UNAVAILABLE, |limit| limit.status);
            return Err(ApiError::of_status(status, "The request queue is full."));
        }
        Ok((0..answers).map(|_| Waits(Arc::clone(&self.waiting))).collect())
    }

    /// How much later than it is there a client gets its answer.
    pub(crate) fn delay(&self, number: u64) -> Duration {
        let stall = self.faults.stall.filter(|stall| self.draw(number, 2) < stall.rate);
        stall.map_or(Duration::ZERO, |stall| stall.length)
    }

    /// From 0 to 1, the same for the same request.
    fn draw(&self, number: u64, what: u64) -> f64 {
        let bytes = [self.seed, number, what].map(u64::to_le_bytes).concat();
        (xxh3_64(&bytes) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused<T: std::str::FromStr<Err = FaultError> + std::fmt::Debug>(text: &str) -> String {
        text.parse::<T>().unwrap_err().to_string()
    }

    #[test]
    fn faults_are_described_in_a_line() {
        let fail = Fail { rate: 0.01, status: StatusCode::INTERNAL_SERVER_ERROR };
        assert_eq!("rate=0.01".parse(), Ok(fail));
        assert_eq!("status=502,rate=1".parse(), Ok(Fail { rate: 1.0, status: StatusCode::BAD_GATEWAY }));
        assert_eq!(
            "rate=0.5,seconds=2.5".parse(),
            Ok(Stall { rate: 0.5, length: Duration::from_millis(2500) })
        );
        assert_eq!("rate=0.5".parse(), Ok(Stall { rate: 0.5, length: FOR_GOOD }));
        let full = MaxQueue { requests: 0, status: StatusCode::SERVICE_UNAVAILABLE };
        assert_eq!("0".parse(), Ok(full));
        assert_eq!(
            "7,status=429".parse(),
            Ok(MaxQueue { requests: 7, status: StatusCode::TOO_MANY_REQUESTS })
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for (text, said) in [
            ("", "\"\" is no NAME=VALUE; the names are rate and status"),
            ("status=500", "rate is missing"),
            ("rate=1.5", "rate is 1.5, but has to be from 0 to 1"),
            ("rate=NaN", "rate is NaN"),
            ("rate=0.1,rate=0.2", "rate is there twice"),
            ("rate=0.1,seconds=1", "there is no \"seconds\", but rate and status"),
            ("rate=0.1,status=200", "status is 200, but has to be an HTTP status from 400 to 599"),
        ] {
            assert!(refused::<Fail>(text).starts_with(said), "{text}: {}", refused::<Fail>(text));
        }
        for text in ["rate=0.1,seconds=-1", "rate=0.1,seconds=1e300", "rate=0.1,seconds=x"] {
            assert!(refused::<Stall>(text).starts_with("seconds is "), "{text}");
        }
        assert!(refused::<MaxQueue>("many").contains("64,status=429"));
        assert!(refused::<MaxQueue>("5,rate=1").contains("there is no \"rate\", but status"));
    }

    #[test]
    fn as_many_fail_as_are_to_and_always_the_same() {
        let faults = Faults { fail: "rate=0.1".parse().ok(), ..Faults::default() };
        let desk = Desk::new(faults.clone(), 7);
        let failed =
            |desk: &Desk| (0..10_000).filter(|&number| desk.admit(number, 1).is_err()).collect::<Vec<_>>();
        let first = failed(&desk);
        assert!((900..1100).contains(&first.len()), "{}", first.len());
        assert_eq!(failed(&Desk::new(faults.clone(), 7)), first);
        assert_ne!(failed(&Desk::new(faults, 8)), first);
    }

    #[test]
    fn a_queue_is_full_until_somebody_leaves_it() {
        let desk = Desk::new(Faults { max_queue: "2".parse().ok(), ..Faults::default() }, 0);
        let mut both = desk.admit(0, 2).unwrap();
        assert_eq!(desk.admit(0, 1).unwrap_err().status, StatusCode::SERVICE_UNAVAILABLE);
        both.pop();
        assert!(desk.admit(0, 2).is_err() && desk.admit(0, 1).is_ok());
        drop(both);
        assert!(desk.admit(0, 3).is_err() && desk.admit(0, 2).is_ok());
    }
}
