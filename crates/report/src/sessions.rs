//! What sessions of several turns came to: how long they took, how much of that was spent outside the deployment, and what
//! the first turn of a session waits compared with later ones, which find its prefix cached.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use servecast_record::{RequestRecord, RunRecord};
use servecast_types::{Duration, Time};

use crate::part::Percentiles;
use crate::stats::Stats;
use crate::table::{count, grouped, or_none, percent};

/// Figures of the sessions of a run that have two requests or more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SessionFigures {
    /// Sessions of two requests or more that began.
    pub num_sessions: u64,
    /// Those of which every request was served to the end.
    pub completed_sessions: u64,
    /// From the arrival of the first request of a completed session to its last token, in ms; null without one.
    pub session_duration_ms: Option<Percentiles>,
    /// Share of the time of completed sessions in which none of their requests was under way: people think, tools run. Null
    /// without such a session.
    pub idle_ratio: Option<f64>,
    /// Time to first token of the first request of a session, in ms; null without a sample.
    pub first_turn_ttft_ms: Option<Percentiles>,
    /// Time to first token of all other requests of sessions, in ms; null without a sample.
    pub later_turn_ttft_ms: Option<Percentiles>,
}

impl SessionFigures {
    /// The figures of a run; `None` if no session of it has two requests.
    pub fn of(run: &RunRecord) -> Option<Self> {
        let mut requests: Vec<&RequestRecord> = run.requests.iter().collect();
        requests.sort_by_key(|request| (request.session, request.arrival, request.turn));
        let sessions = || {
            requests.chunk_by(|one, other| one.session == other.session).filter(|session| session.len() > 1)
        };
        let completed = || sessions().filter(|session| session.iter().all(|request| request.is_finished()));
        let num_sessions = sessions().count() as u64;
        if num_sessions == 0 {
            return None;
        }
        let spans: Vec<(Duration, Duration)> = completed().filter_map(span).collect();
        let lengths: Vec<f64> = spans.iter().map(|(length, _)| length.as_ms()).collect();
        let sum = |of: fn(&(Duration, Duration)) -> Duration| {
            spans.iter().map(|span| of(span).as_ns() as f64).sum::<f64>()
        };
        let (all, busy) = (sum(|(length, _)| *length), sum(|(_, busy)| *busy));
        let ttft = |is_first: bool| {
            let of =
                move |request: &&&RequestRecord| (request.turn == 0) == is_first && request.is_finished();
            let ttfts = sessions().flatten().filter(of).filter_map(|request| request.ttft());
            percentiles(&ttfts.map(Duration::as_ms).collect::<Vec<_>>())
        };
        Some(Self {
            num_sessions,
            completed_sessions: completed().count() as u64,
            session_duration_ms: percentiles(&lengths),
            idle_ratio: (all > 0.0).then(|| 1.0 - busy / all),
            first_turn_ttft_ms: ttft(true),
            later_turn_ttft_ms: ttft(false),
        })
    }
}

fn percentiles(samples: &[f64]) -> Option<Percentiles> {
    Stats::of(samples).map(Percentiles::from)
}

/// How long a session took, and how much of that at least one of its requests, which are in order of arrival, was under way.
fn span(requests: &[&RequestRecord]) -> Option<(Duration, Duration)> {
    let first = requests.first()?.arrival;
    let (mut end, mut busy) = (Time::ZERO, Duration::ZERO);
    for request in requests {
        let last = request.last_token?;
        if last > end {
            busy += last.since(request.arrival.max(end));
            end = last;
        }
    }
    Some((end.since(first), busy))
}

/// The figures in words, two lines.
pub(crate) fn render_sessions(figures: &SessionFigures) -> [String; 2] {
    let of = |figures: Option<Percentiles>, unit_ms: f64, unit: &str| {
        let value = |ms: Option<f64>| or_none(ms.map(|ms| format!("{} {unit}", grouped(ms / unit_ms, 2))));
        or_none(figures.map(|of| format!("{} on average (p99 {})", value(of.mean), value(of.p99))))
    };
    let SessionFigures { num_sessions, completed_sessions, .. } = figures;
    [
        format!(
            "Sessions: {} of several requests, {} served to the end; length {}, {} of it outside the deployment (tools, thinking)",
            count(*num_sessions),
            count(*completed_sessions),
            of(figures.session_duration_ms, 1000.0, "s"),
            or_none(figures.idle_ratio.map(percent)),
        ),
        format!(
            "  time to first token of first requests {}; of later ones {}",
            of(figures.first_turn_ttft_ms, 1.0, "ms"),
            of(figures.later_turn_ttft_ms, 1.0, "ms"),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use servecast_record::{RejectReason, RequestStatus};

    use super::*;
    use crate::fixture;

    /// A request of a session with a time of arrival, of its first and of its last token in ms.
    fn request(session: u32, turn: u32, [arrival, first, last]: [u64; 3]) -> RequestRecord {
        let ms = |ms: u64| Time::from_ns(ms * 1_000_000);
        RequestRecord {
            session,
            turn,
            arrival: ms(arrival),
            first_token: Some(ms(first)),
            last_token: Some(ms(last)),
            ended: ms(last),
            ..fixture::run().requests[0].clone()
        }
    }

    fn of(requests: Vec<RequestRecord>) -> Option<SessionFigures> {
        SessionFigures::of(&RunRecord { requests, ..RunRecord::default() })
    }

    #[test]
    fn time_outside_the_deployment_is_that_in_which_no_request_is_under_way() {
        // Two requests side by side from 100 to 300, thinking from 300 to 400, one more request to 500; before that the
        // first one to 50. The other session has one request and counts for nothing.
        let figures = of(vec![
            request(0, 0, [0, 10, 50]),
            request(7, 0, [0, 900, 5000]),
            request(0, 1, [100, 130, 250]),
            request(0, 2, [120, 140, 300]),
            request(0, 3, [400, 420, 500]),
        ])
        .unwrap();
        assert_eq!((figures.num_sessions, figures.completed_sessions), (1, 1));
        assert_eq!(figures.session_duration_ms.unwrap().mean, Some(500.0));
        assert_eq!(figures.idle_ratio, Some(1.0 - 350.0 / 500.0));
        assert_eq!(figures.first_turn_ttft_ms.unwrap().mean, Some(10.0));
        assert_eq!(figures.later_turn_ttft_ms.unwrap().max, Some(30.0));
    }

    #[test]
    fn a_session_that_was_not_served_to_the_end_has_no_length() {
        let mut lost = request(0, 1, [100, 130, 250]);
        lost.status = RequestStatus::Rejected(RejectReason::KvCapacity);
        let figures = of(vec![request(0, 0, [0, 10, 50]), lost]).unwrap();
        assert_eq!((figures.num_sessions, figures.completed_sessions), (1, 0));
        assert_eq!((figures.session_duration_ms, figures.idle_ratio), (None, None));
        assert_eq!(figures.later_turn_ttft_ms, None, "only requests that were served have a sample");
        assert!(render_sessions(&figures)[0].contains("length N/A, N/A of it"));
    }

    #[test]
    fn without_sessions_of_several_requests_there_is_nothing_to_say() {
        assert_eq!(of(vec![request(0, 0, [0, 10, 50]), request(1, 0, [0, 10, 50])]), None);
    }
}
