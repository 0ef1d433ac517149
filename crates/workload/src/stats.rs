//! What a workload looks like before anything runs it.

use rustc_hash::FxHashSet;
use schemars::JsonSchema;
use serde::Serialize;
use servecast_types::{BlockHasher, Time};

use crate::workload::{Turn, TurnStart, Workload};

/// A workload in numbers.
///
/// Arrivals are nominal: those of a deployment that answers at once, so that a turn without a time of its own
/// arrives its delay after the turn before it.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct TraceStats {
    /// Number of requests.
    pub requests: u64,
    /// Number of sessions.
    pub sessions: u64,
    /// Mean number of turns of a session.
    pub turns_per_session_mean: f64,
    /// Most turns of a session.
    pub turns_per_session_max: u64,
    /// Prompt lengths.
    pub input_tokens: LengthStats,
    /// Output lengths.
    pub output_tokens: LengthStats,
    /// Milliseconds from the first to the last arrival.
    pub span_ms: f64,
    /// Requests per second of the span; none if all arrive at once.
    pub request_rate_per_s: Option<f64>,
    /// Width in milliseconds of the time buckets, a round number that makes about 20 of them.
    pub bucket_ms: f64,
    /// Arrivals in each time bucket from the first arrival on.
    pub requests_per_bucket: Vec<u64>,
    /// Tokens per block in what follows.
    pub block_size: u32,
    /// Blocks of all prompts, including a short one at the end of a prompt.
    pub blocks: u64,
    /// Distinct full blocks; equal tokens after different beginnings are different blocks.
    pub distinct_blocks: u64,
    /// Full blocks at the start of a prompt that an earlier request had too, in its prompt or in what it generated if
    /// that is known: what an infinite prefix cache finds.
    pub reusable_blocks: u64,
    /// Share of `blocks` that is reusable.
    pub block_reuse_ratio: f64,
    /// Share of the prompt tokens that is in reusable blocks.
    pub token_reuse_ratio: f64,
}

/// Lengths in tokens. Percentiles interpolate linearly between ranks.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct LengthStats {
    /// Sum.
    pub total: u64,
    /// Mean.
    pub mean: f64,
    /// Shortest.
    pub min: u32,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Longest.
    pub max: u32,
}

/// Describes a workload, with prefix reuse counted in blocks of `block_size` tokens.
///
/// All numbers of an empty workload are 0.
///
/// # Panics
/// If `block_size` is 0.
pub fn stats(workload: &Workload, block_size: u32) -> TraceStats {
    assert!(block_size > 0, "a block holds at least one token");
    let arrivals = nominal_arrivals(workload);
    let requests = arrivals.len() as u64;
    let first = arrivals.first().map_or(Time::ZERO, |(time, _)| *time);
    let last = arrivals.last().map_or(Time::ZERO, |(time, _)| *time);
    let span_ms = last.since(first).as_ms();
    let (bucket_ms, requests_per_bucket) = buckets(&arrivals, first, span_ms);
    let reuse = Reuse::of(arrivals.iter().map(|(_, turn)| *turn), block_size);
    let input_tokens = LengthStats::of(workload.turns().map(|turn| turn.prompt.tokens()));
    TraceStats {
        requests,
        sessions: workload.sessions.len() as u64,
        turns_per_session_mean: ratio(requests as f64, workload.sessions.len() as f64),
        turns_per_session_max: workload.sessions.iter().map(|session| session.turns.len()).max().unwrap_or(0)
            as u64,
        token_reuse_ratio: ratio(reuse.reusable as f64 * f64::from(block_size), input_tokens.total as f64),
        input_tokens,
        output_tokens: LengthStats::of(workload.turns().map(Turn::generated)),
        span_ms,
        request_rate_per_s: (span_ms > 0.0).then(|| requests as f64 / (span_ms / 1000.0)),
        bucket_ms,
        requests_per_bucket,
        block_size,
        blocks: reuse.blocks,
        distinct_blocks: reuse.distinct,
        reusable_blocks: reuse.reusable,
        block_reuse_ratio: ratio(reuse.reusable as f64, reuse.blocks as f64),
    }
}

/// All turns in nominal order: by time, then by line.
fn nominal_arrivals(workload: &Workload) -> Vec<(Time, &Turn)> {
    let mut arrivals = Vec::with_capacity(workload.requests());
    for session in &workload.sessions {
        let mut time = Time::ZERO;
        for turn in &session.turns {
            time = match turn.start {
                TurnStart::At(start) => start,
                TurnStart::AfterPrevious(delay) => time + delay,
                TurnStart::NotBefore(start) => time.max(start),
            };
            arrivals.push((time, turn));
        }
    }
    arrivals.sort_by_key(|(time, turn)| (*time, turn.line));
    arrivals
}

/// Bucket width in milliseconds and the arrivals in each bucket.
fn buckets(arrivals: &[(Time, &Turn)], first: Time, span_ms: f64) -> (f64, Vec<u64>) {
    let width = bucket_width_ms(span_ms);
    let mut counts = vec![0; if arrivals.is_empty() { 0 } else { (span_ms / width) as usize + 1 }];
    for (time, _) in arrivals {
        counts[(time.since(first).as_ms() / width) as usize] += 1;
    }
    (width, counts)
}

/// The first round width that makes no more than 25 buckets; whole days beyond a day.
fn bucket_width_ms(span_ms: f64) -> f64 {
    const MOST_BUCKETS: f64 = 25.0;
    const SECOND: f64 = 1e3;
    const MINUTE: f64 = 60.0 * SECOND;
    const HOUR: f64 = 60.0 * MINUTE;
    const DAY: f64 = 24.0 * HOUR;
    let decades =
        [1.0, 10.0, 100.0].into_iter().flat_map(|decade| [1.0, 2.0, 5.0].map(|digit| digit * decade));
    let minutes = [SECOND, MINUTE]
        .into_iter()
        .flat_map(|unit| [1.0, 2.0, 3.0, 5.0, 10.0, 15.0, 30.0].map(|n| n * unit));
    let hours = [1.0, 2.0, 3.0, 6.0, 12.0].map(|n| n * HOUR);
    let least = span_ms / MOST_BUCKETS;
    decades
        .chain(minutes)
        .chain(hours)
        .find(|width| *width > least)
        .unwrap_or_else(|| (least / DAY).ceil() * DAY)
}

/// What an infinite prefix cache would find.
struct Reuse {
    blocks: u64,
    distinct: u64,
    reusable: u64,
}

impl Reuse {
    fn of<'a>(turns: impl Iterator<Item = &'a Turn>, block_size: u32) -> Self {
        let (mut seen, mut generated) = (FxHashSet::default(), FxHashSet::default());
        let (mut blocks, mut reusable) = (0, 0);
        for turn in turns {
            blocks += u64::from(turn.prompt.tokens().div_ceil(block_size));
            let mut hasher = BlockHasher::new(block_size);
            while let Some(hash) = hasher.next(&turn.prompt) {
                // A chained identity that is new has only new ones after it, so this counts a prefix.
                let is_new = seen.insert(hash) && !generated.contains(&hash);
                reusable += u64::from(!is_new);
            }
            if let Some(output) = &turn.output {
                let mut content = turn.prompt.clone();
                // The last token that is generated has no KV.
                content.extend(output.range(0..turn.generated() - 1));
                generated.extend(std::iter::from_fn(|| hasher.next(&content)));
            }
        }
        Self { blocks, distinct: seen.len() as u64, reusable }
    }
}

impl LengthStats {
    fn of(lengths: impl Iterator<Item = u32>) -> Self {
        let mut sorted: Vec<u32> = lengths.collect();
        sorted.sort_unstable();
        let total = sorted.iter().map(|length| u64::from(*length)).sum();
        Self {
            total,
            mean: ratio(total as f64, sorted.len() as f64),
            min: sorted.first().copied().unwrap_or(0),
            p50: percentile(&sorted, 0.5),
            p90: percentile(&sorted, 0.9),
            p95: percentile(&sorted, 0.95),
            p99: percentile(&sorted, 0.99),
            max: sorted.last().copied().unwrap_or(0),
        }
    }
}

fn percentile(sorted: &[u32], quantile: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let rank = quantile * last as f64;
    let below = rank as usize;
    let (low, high) = (f64::from(sorted[below]), f64::from(sorted[(below + 1).min(last)]));
    // NumPy takes the nearer end, so that both ends come out exact.
    let share = rank.fract();
    if share < 0.5 { low + (high - low) * share } else { high - (high - low) * (1.0 - share) }
}

fn ratio(part: f64, whole: f64) -> f64 {
    if whole == 0.0 { 0.0 } else { part / whole }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the numbers are chosen to be exact")]
mod tests {
    use super::*;
    use crate::{Load, TraceRow};

    fn row(line: u64, session: &str, timestamp_ms: Option<f64>, hash_ids: &[u64]) -> TraceRow {
        TraceRow {
            line,
            session_id: Some(session.into()),
            timestamp_ms,
            input_length: Some(hash_ids.len() as u64 * 100 - 50),
            output_length: line * 10,
            hash_ids: hash_ids.into(),
            ..TraceRow::default()
        }
    }

    fn stats_of(rows: &[TraceRow]) -> TraceStats {
        let load = Load::Open { arrival_speedup_ratio: 1.0 };
        stats(&Workload::from_rows(rows, 100, load).unwrap(), 100)
    }

    #[test]
    fn a_workload_in_numbers() {
        let delayed = TraceRow { delay_ms: Some(250.0), ..row(3, "a", None, &[1, 2, 4]) };
        let stats =
            stats_of(&[row(1, "a", Some(0.0), &[1, 2, 3]), row(2, "b", Some(200.0), &[1, 5, 3]), delayed]);
        assert_eq!((stats.requests, stats.sessions), (3, 2));
        assert_eq!((stats.turns_per_session_mean, stats.turns_per_session_max), (1.5, 2));
        assert_eq!((stats.span_ms, stats.request_rate_per_s), (250.0, Some(12.0)));
        assert_eq!(stats.bucket_ms, 20.0);
        assert_eq!(stats.requests_per_bucket, [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1]);
        assert_eq!((stats.input_tokens.total, stats.output_tokens.total), (750, 60));
        // The full blocks are 1 2, 1 5, 1 2: 1 is found twice, 2 once.
        assert_eq!((stats.blocks, stats.distinct_blocks, stats.reusable_blocks), (9, 3, 3));
        assert_eq!((stats.block_reuse_ratio, stats.token_reuse_ratio), (3.0 / 9.0, 0.4));
    }

    #[test]
    fn reuse_counts_in_arrival_order_and_only_prefixes() {
        let late = row(1, "late", Some(9.0), &[1, 2, 3]);
        let stats = stats_of(&[late, row(2, "early", Some(0.0), &[2, 3, 9])]);
        assert_eq!(stats.reusable_blocks, 0, "the same ids stand at other positions");
    }

    #[test]
    fn percentiles_interpolate_between_ranks() {
        let lengths = LengthStats::of([40, 10, 20, 30].into_iter());
        assert_eq!((lengths.min, lengths.p50, lengths.p90, lengths.max), (10, 25.0, 37.0, 40));
        assert!((lengths.p95 - 38.5).abs() < 1e-9 && (lengths.p99 - 39.7).abs() < 1e-9, "{lengths:?}");
        assert_eq!(percentile(&[7], 0.99), 7.0);
    }

    #[test]
    fn buckets_are_round_and_about_twenty() {
        for (span_ms, width) in
            [(0.0, 1.0), (19.0, 1.0), (60_000.0, 3000.0), (3.6e6, 180_000.0), (1e10, 432e6)]
        {
            assert_eq!(bucket_width_ms(span_ms), width, "{span_ms}");
        }
    }

    #[test]
    fn nothing_at_all_is_all_zeros() {
        let stats = stats(&Workload::default(), 16);
        assert_eq!((stats.requests, stats.span_ms, stats.request_rate_per_s), (0, 0.0, None));
        assert_eq!((stats.block_reuse_ratio, stats.input_tokens.p99), (0.0, 0.0));
        assert!(stats.requests_per_bucket.is_empty());
    }
}
