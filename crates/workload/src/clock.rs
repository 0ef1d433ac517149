//! When turns start, by the times of their rows.

use servecast_types::{Duration, Time};

use crate::TraceError;
use crate::order::TurnOrder;
use crate::row::TraceRow;
use crate::workload::{Load, TurnStart};

/// Turns the times of rows into those of a run.
pub(crate) enum Clock {
    /// Milliseconds of the first arrival, and the ratio.
    Open {
        first_arrival: f64,
        ratio: f64,
    },
    Closed,
}

impl Clock {
    pub(crate) fn new(load: Load, rows: &[TraceRow], order: &TurnOrder) -> Result<Self, TraceError> {
        let Load::Open { arrival_speedup_ratio: ratio } = load else { return Ok(Self::Closed) };
        if !(ratio.is_finite() && ratio > 0.0) {
            return Err(TraceError::SpeedupRatio { ratio });
        }
        let first_turns = rows.iter().enumerate().filter(|(index, _)| order.is_first(*index));
        let times = first_turns.filter_map(|(_, row)| row.timestamp_ms);
        Ok(Self::Open { first_arrival: times.fold(f64::INFINITY, f64::min), ratio })
    }

    pub(crate) fn first_turn(&self, row: &TraceRow) -> Result<TurnStart, TraceError> {
        match self {
            Self::Open { .. } => Ok(TurnStart::At(self.since_first(row.line, first_turn_ms(row)?)?)),
            Self::Closed => {
                refuse_delay(row)?;
                Ok(TurnStart::At(Time::ZERO))
            }
        }
    }

    /// The time of a run at which a row of that line and of that time is sent.
    pub(crate) fn since_first(&self, line: u64, ms: f64) -> Result<Time, TraceError> {
        match self {
            Self::Open { first_arrival, ratio } => time(line, (ms - first_arrival) / ratio, *ratio),
            Self::Closed => Ok(Time::ZERO),
        }
    }

    pub(crate) fn later_turn(&self, row: &TraceRow) -> Result<TurnStart, TraceError> {
        let (first_arrival, ratio) = match *self {
            Self::Open { first_arrival, ratio } => (first_arrival, ratio),
            Self::Closed => {
                return Ok(TurnStart::AfterPrevious(delay(row, row.delay_ms.unwrap_or(0.0), 1.0)?));
            }
        };
        Ok(match (row.delay_ms, row.timestamp_ms) {
            (Some(ms), _) => TurnStart::AfterPrevious(delay(row, ms / ratio, ratio)?),
            // A time before the first arrival has passed by the time that any turn completes.
            (None, Some(ms)) => {
                TurnStart::NotBefore(time(row.line, ((ms - first_arrival) / ratio).max(0.0), ratio)?)
            }
            (None, None) => TurnStart::AfterPrevious(Duration::ZERO),
        })
    }
}

/// Milliseconds of a row that is the first turn of a session.
pub(crate) fn first_turn_ms(row: &TraceRow) -> Result<f64, TraceError> {
    refuse_delay(row)?;
    let no_timestamp = || TraceError::NoTimestamp { line: row.line, session: session_in_words(row) };
    row.timestamp_ms.ok_or_else(no_timestamp)
}

/// A first turn follows nothing.
fn refuse_delay(row: &TraceRow) -> Result<(), TraceError> {
    match row.delay_ms.filter(|ms| *ms != 0.0) {
        Some(delay_ms) => {
            Err(TraceError::FirstTurnDelay { line: row.line, delay_ms, session: session_in_words(row) })
        }
        None => Ok(()),
    }
}

fn time(line: u64, ms: f64, ratio: f64) -> Result<Time, TraceError> {
    Time::from_ms(ms).map_err(|_| TraceError::TimeSpan { line, field: "timestamp", ms, ratio })
}

fn delay(row: &TraceRow, ms: f64, ratio: f64) -> Result<Duration, TraceError> {
    Duration::from_ms(ms).map_err(|_| TraceError::TimeSpan { line: row.line, field: "delay", ms, ratio })
}

fn session_in_words(row: &TraceRow) -> String {
    match &row.session_id {
        Some(name) => format!("session `{name}`"),
        None => "its session (a row without `session_id` is a session of its own)".into(),
    }
}
