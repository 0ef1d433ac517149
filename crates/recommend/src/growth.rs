//! Next year's load.

use servecast_types::{Duration, Time};
use servecast_workload::{TurnStart, Workload};

/// A workload with arrivals that come `factor` times as fast. How long people think between turns stays.
pub fn grown(workload: &Workload, factor: f64) -> Workload {
    let mut grown = workload.clone();
    if (factor - 1.0).abs() < f64::EPSILON {
        return grown;
    }
    let scaled = |at: Time| Time::ZERO + Duration::from_ns((at.as_ns() as f64 / factor).round() as u64);
    for turn in grown.sessions.iter_mut().flat_map(|session| &mut session.turns) {
        turn.start = match turn.start {
            TurnStart::At(at) => TurnStart::At(scaled(at)),
            TurnStart::NotBefore(at) => TurnStart::NotBefore(scaled(at)),
            thinks @ TurnStart::AfterPrevious(_) => thinks,
        };
    }
    grown
}

/// The sessions of a closed loop under way at a time, of which there are `factor` times as many; at least one.
pub fn grown_concurrency(concurrency: u32, factor: f64) -> u32 {
    ((f64::from(concurrency) * factor).round() as u32).max(1)
}

#[cfg(test)]
mod tests {
    use servecast_workload::{Load, TraceRow};

    use super::*;

    #[test]
    fn arrivals_are_closer_and_think_times_stay() {
        let row = |line, ms, delay_ms| TraceRow {
            line,
            session_id: Some("a".to_owned()),
            timestamp_ms: ms,
            delay_ms,
            input_length: Some(10),
            output_length: 5,
            hash_ids: vec![line],
            ..TraceRow::default()
        };
        let mut rows = vec![row(1, Some(0.0), None), row(2, Some(900.0), None), row(3, None, Some(50.0))];
        rows.push(TraceRow { session_id: None, ..row(4, Some(300.0), None) });
        let load = Load::Open { arrival_speedup_ratio: 1.0 };
        let workload = Workload::from_rows(&rows, 512, load).unwrap();
        let starts = |workload: &Workload| workload.turns().map(|turn| turn.start).collect::<Vec<_>>();
        let ms = |ms: u64| Time::from_ns(ms * 1_000_000);
        assert_eq!(
            starts(&grown(&workload, 1.5)),
            [
                TurnStart::At(ms(0)),
                TurnStart::NotBefore(ms(600)),
                TurnStart::AfterPrevious(Duration::from_ns(50_000_000)),
                TurnStart::At(ms(200)),
            ]
        );
        assert_eq!(grown(&workload, 1.0), workload);
        assert_eq!([grown_concurrency(10, 1.5), grown_concurrency(1, 0.1)], [15, 1]);
    }
}
