//! What stays of a load and what does not.

use super::*;
use crate::{LengthDistribution, SyntheticSpec, TraceStats, generate, stats};

const OPEN: Load = Load::Open { arrival_speedup_ratio: 1.0 };

fn workload(rows: &[TraceRow], block_size: u32) -> Workload {
    Workload::from_rows(rows, block_size, OPEN).unwrap()
}

/// Conversations, whose prompts grow by turns that arrive at their times, behind one of two system prompts.
fn conversations() -> Vec<TraceRow> {
    let mut rows = Vec::new();
    let mut next = 1000;
    for conversation in 0..300_u64 {
        let mut ids = vec![conversation % 2, 2];
        for turn in 0..=conversation % 5 {
            let new = 1 + (conversation * 7 + turn) % 6;
            ids.extend(next..next + new);
            next += new;
            rows.push(TraceRow {
                timestamp_ms: Some((conversation * 100 + turn * 3000) as f64),
                input_length: Some(ids.len() as u64 * 16 - (conversation + turn) % 16),
                output_length: 50 + (conversation * 13 + turn * 5) % 100,
                hash_ids: ids.clone(),
                ..TraceRow::default()
            });
            // The last block was not full.
            let last = ids.len() - 1;
            ids[last] = next;
            next += 1;
        }
    }
    rows.sort_by(|one, other| one.timestamp_ms.unwrap().total_cmp(&other.timestamp_ms.unwrap()));
    rows.iter_mut().zip(1..).for_each(|(row, line)| row.line = line);
    rows
}

fn is_near(one: f64, other: f64, tolerance: f64) -> bool {
    (one / other - 1.0).abs() <= tolerance
}

fn assert_alike(one: &TraceStats, other: &TraceStats) {
    assert!(is_near(one.request_rate_per_s.unwrap(), other.request_rate_per_s.unwrap(), 0.05), "{other:?}");
    for (one, other) in [(&one.input_tokens, &other.input_tokens), (&one.output_tokens, &other.output_tokens)]
    {
        for (one, other) in
            [(one.mean, other.mean), (one.p50, other.p50), (one.p90, other.p90), (one.p99, other.p99)]
        {
            assert!(is_near(one, other, 0.05), "{one} {other}");
        }
    }
    assert!(is_near(one.token_reuse_ratio, other.token_reuse_ratio, 0.05), "{one:?} {other:?}");
}

#[test]
fn rate_lengths_and_reuse_stay() {
    let source = workload(&conversations(), 16);
    let requests = source.requests();
    let of_source = stats(&source, 16);
    for (requests, seed) in [(requests, 1), (2 * requests, 2), (requests / 2, 3)] {
        let rows = resembling(&source, 16, OPEN, requests, seed);
        assert_eq!(rows.len(), requests);
        let made = workload(&rows, 16);
        if requests >= source.requests() {
            assert_alike(&stats(&made, 16), &of_source);
        }
    }
}

#[test]
fn no_ten_requests_in_a_row_are_those_of_the_source() {
    let source = conversations();
    let triples = |rows: &[TraceRow]| -> Vec<(u64, u64, u64)> {
        rows.windows(2)
            .map(|pair| {
                let gap = pair[1].timestamp_ms.unwrap() - pair[0].timestamp_ms.unwrap();
                (gap.to_bits(), pair[1].input_length.unwrap(), pair[1].output_length)
            })
            .collect()
    };
    let rows = resembling(&workload(&source, 16), 16, OPEN, source.len(), 5);
    let (original, made) = (triples(&source), triples(&rows));
    assert!(!made.windows(10).any(|run| original.windows(10).any(|other| run == other)));
    assert_eq!(rows, resembling(&workload(&source, 16), 16, OPEN, source.len(), 5));
    assert_ne!(rows, resembling(&workload(&source, 16), 16, OPEN, source.len(), 6));
}

#[test]
fn sessions_stay_sessions_and_replies_are_hit_again() {
    let spec = SyntheticSpec {
        turns_per_session: 4,
        inter_turn_delay_ms: 100.0,
        arrival_interval_ms: 10.0,
        length_distribution: LengthDistribution::Uniform,
        length_spread: 0.5,
        trace_block_size: 16,
        ..SyntheticSpec::new(200, 20, 100)
    };
    let cut = crate::Cut { block_size: 16, turns: crate::Turns::Delta, max_requests: None };
    for load in [OPEN, Load::Closed] {
        let source = Workload::from_rows(&generate(&spec).unwrap(), cut, load).unwrap();
        let rows = resembling(&source, 16, load, 400, 7);
        let made = Workload::from_rows(&rows, 16, load).unwrap();
        assert_eq!(made.sessions.len(), 100);
        assert!(made.sessions.iter().all(|session| session.turns.len() == 4));
        let (one, other) = (stats(&source, 16), stats(&made, 16));
        assert!(is_near(one.token_reuse_ratio, other.token_reuse_ratio, 0.05), "{one:?} {other:?}");
        assert_eq!(rows.iter().filter(|row| row.delay_ms.is_some()).count(), 300);
    }
}

#[test]
fn nothing_comes_of_nothing() {
    assert!(resembling(&Workload::default(), 16, OPEN, 5, 1).is_empty());
}
