//! What a workload looks like before anything runs it.

use rustc_hash::{FxHashMap, FxHashSet};
use schemars::JsonSchema;
use serde::Serialize;
use servecast_types::{BlockHasher, Duration, SequenceHash, Time};

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
    let mut tally = StatsTally::new(block_size);
    for (time, turn) in nominal_arrivals(workload) {
        tally.add(time, turn);
    }
    let turns_of = workload.sessions.iter().map(|session| session.turns.len() as u64);
    tally.stats(workload.sessions.len() as u64, turns_of.max().unwrap_or(0))
}

/// Describes requests that come one after the other, each a session of its own, in order of their times. Memory goes with
/// distinct blocks and lengths, not with requests.
///
/// # Panics
/// If `block_size` is 0.
pub fn stream_stats(requests: impl Iterator<Item = Turn>, block_size: u32) -> TraceStats {
    let mut tally = StatsTally::new(block_size);
    for turn in requests {
        tally.add(nominal_time(Time::ZERO, turn.start), &turn);
    }
    let sessions = tally.requests;
    tally.stats(sessions, sessions.min(1))
}

/// Blocks of all prompts beyond which nobody waits for the ideal reuse.
const MOST_BLOCKS: u64 = 1 << 20;

/// Tokens of a block in which the ideal reuse is counted: as few as an engine's, or so many that they are not too many.
const COUNTED_BLOCKS: [u32; 2] = [64, 1024];

/// The share of the prompt tokens that a prefix cache without end finds, in blocks of `block_size` tokens or of more; `None`
/// without a prompt, and where there are more blocks than anybody waits for.
pub fn ideal_reuse(workload: &Workload, block_size: u32) -> Option<f64> {
    let prompts = || workload.sessions.iter().flat_map(|session| &session.turns).map(|turn| &turn.prompt);
    let tokens: u64 = prompts().map(|prompt| u64::from(prompt.tokens())).sum();
    let [least, most] = COUNTED_BLOCKS;
    let sizes = std::iter::successors(Some(block_size.max(least)), |size| Some(size * 2));
    let mut sizes = sizes.take_while(|&size| size <= most.max(block_size));
    let size = sizes.find(|&size| tokens / u64::from(size) <= MOST_BLOCKS)?;
    let mut reuse = Reuse::default();
    for (_, turn) in nominal_arrivals(workload) {
        reuse.add(turn, size);
    }
    (tokens > 0).then(|| reuse.reusable as f64 * f64::from(size) / tokens as f64)
}

/// What the requests of a workload come to, in nominal order.
struct StatsTally {
    block_size: u32,
    requests: u64,
    times: Option<(Time, Time)>,
    buckets: Buckets,
    input_tokens: Lengths,
    output_tokens: Lengths,
    reuse: Reuse,
}

impl StatsTally {
    fn new(block_size: u32) -> Self {
        assert!(block_size > 0, "a block holds at least one token");
        Self {
            block_size,
            requests: 0,
            times: None,
            buckets: Buckets::default(),
            input_tokens: Lengths::default(),
            output_tokens: Lengths::default(),
            reuse: Reuse::default(),
        }
    }

    /// The next request in nominal order.
    fn add(&mut self, time: Time, turn: &Turn) {
        self.requests += 1;
        let first = self.times.map_or(time, |(first, _)| first);
        self.times = Some((first, time));
        self.buckets.add(time.since(first));
        self.input_tokens.add(turn.prompt.tokens());
        self.output_tokens.add(turn.generated());
        self.reuse.add(turn, self.block_size);
    }

    fn stats(self, sessions: u64, turns_per_session_max: u64) -> TraceStats {
        let Self { block_size, requests, times, buckets, reuse, .. } = self;
        let span_ms = times.map_or(0.0, |(first, last)| last.since(first).as_ms());
        let (bucket_ms, requests_per_bucket) = buckets.of(span_ms);
        let input_tokens = self.input_tokens.stats();
        TraceStats {
            requests,
            sessions,
            turns_per_session_mean: ratio(requests as f64, sessions as f64),
            turns_per_session_max,
            token_reuse_ratio: ratio(
                reuse.reusable as f64 * f64::from(block_size),
                input_tokens.total as f64,
            ),
            input_tokens,
            output_tokens: self.output_tokens.stats(),
            span_ms,
            request_rate_per_s: (span_ms > 0.0).then(|| requests as f64 / (span_ms / 1000.0)),
            bucket_ms,
            requests_per_bucket,
            block_size,
            blocks: reuse.blocks,
            distinct_blocks: reuse.seen.len() as u64,
            reusable_blocks: reuse.reusable,
            block_reuse_ratio: ratio(reuse.reusable as f64, reuse.blocks as f64),
        }
    }
}

/// When a request arrives if the one before it in its session arrived at `before`.
fn nominal_time(before: Time, start: TurnStart) -> Time {
    match start {
        TurnStart::At(start) => start,
        TurnStart::AfterPrevious(delay) => before + delay,
        TurnStart::NotBefore(start) => before.max(start),
    }
}

/// All turns in nominal order: by time, then by line.
fn nominal_arrivals(workload: &Workload) -> Vec<(Time, &Turn)> {
    let mut arrivals: Vec<(Time, &Turn)> = Vec::with_capacity(workload.requests());
    for session in &workload.sessions {
        let first = arrivals.len();
        for (place, turn) in session.turns.iter().enumerate() {
            let sent = |before: u32| arrivals[first + before as usize].0;
            let waits = session.waits_for(place);
            // One that waits for none is sent with the first.
            let before =
                waits.into_iter().map(sent).max().or_else(|| arrivals.get(first).map(|(time, _)| *time));
            arrivals.push((nominal_time(before.unwrap_or(Time::ZERO), turn.start), turn));
        }
    }
    arrivals.sort_by_key(|(time, turn)| (*time, turn.line));
    arrivals
}

/// Arrivals over time, in units that the width of buckets is a multiple of as soon as the span is so long.
#[derive(Debug, Default)]
struct Buckets {
    /// Which of [`UNITS_NS`].
    unit: usize,
    counts: Vec<u64>,
}

/// A millisecond, second, minute, hour and day.
const UNITS_NS: [u64; 5] = [1_000_000, 1_000_000_000, 60_000_000_000, 3_600_000_000_000, 86_400_000_000_000];

/// The most units that are counted, so many that 25 buckets of the widest below the next unit fit.
const MOST_UNITS: u64 = 25 * 500;

impl Buckets {
    /// Another request arrives so long after the first one, not before the last.
    fn add(&mut self, after: Duration) {
        let ns = after.as_ns();
        while ns / UNITS_NS[self.unit] > MOST_UNITS && self.unit + 1 < UNITS_NS.len() {
            let ratio = (UNITS_NS[self.unit + 1] / UNITS_NS[self.unit]) as usize;
            self.counts = self.counts.chunks(ratio).map(|part| part.iter().sum()).collect();
            self.unit += 1;
        }
        let place = (ns / UNITS_NS[self.unit]) as usize;
        if place >= self.counts.len() {
            self.counts.resize(place + 1, 0);
        }
        self.counts[place] += 1;
    }

    /// Bucket width in milliseconds, and the arrivals in each bucket up to the last one.
    fn of(&self, span_ms: f64) -> (f64, Vec<u64>) {
        let width = bucket_width_ms(span_ms);
        let units = ((width * 1e6) as u64 / UNITS_NS[self.unit]).max(1) as usize;
        (width, self.counts.chunks(units).map(|part| part.iter().sum()).collect())
    }
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
#[derive(Debug, Default)]
struct Reuse {
    blocks: u64,
    reusable: u64,
    seen: FxHashSet<SequenceHash>,
    generated: FxHashSet<SequenceHash>,
}

impl Reuse {
    fn add(&mut self, turn: &Turn, block_size: u32) {
        self.blocks += u64::from(turn.prompt.tokens().div_ceil(block_size));
        let mut hasher = BlockHasher::new(block_size);
        while let Some(hash) = hasher.next(&turn.prompt) {
            // A chained identity that is new has only new ones after it, so this counts a prefix.
            let is_new = self.seen.insert(hash) && !self.generated.contains(&hash);
            self.reusable += u64::from(!is_new);
        }
        if let Some(output) = &turn.output {
            let mut content = turn.prompt.clone();
            // The last token that is generated has no KV.
            content.extend(output.range(0..turn.generated() - 1));
            self.generated.extend(std::iter::from_fn(|| hasher.next(&content)));
        }
    }
}

/// How often each length occurs.
#[derive(Debug, Default)]
struct Lengths(FxHashMap<u32, u64>);

impl Lengths {
    fn add(&mut self, length: u32) {
        *self.0.entry(length).or_default() += 1;
    }

    fn stats(&self) -> LengthStats {
        let mut sorted: Vec<(u32, u64)> = self.0.iter().map(|(length, times)| (*length, *times)).collect();
        sorted.sort_unstable();
        let total = sorted.iter().map(|(length, times)| u64::from(*length) * times).sum();
        // Of each length, how many are not longer.
        let mut count = 0;
        for (_, times) in &mut sorted {
            count += *times;
            *times = count;
        }
        let end = |end: Option<&(u32, u64)>| end.map_or(0, |(length, _)| *length);
        LengthStats {
            total,
            mean: ratio(total as f64, count as f64),
            min: end(sorted.first()),
            p50: percentile(&sorted, 0.5),
            p90: percentile(&sorted, 0.9),
            p95: percentile(&sorted, 0.95),
            p99: percentile(&sorted, 0.99),
            max: end(sorted.last()),
        }
    }
}

/// A percentile of lengths, shortest first, each with how many are not longer.
fn percentile(sorted: &[(u32, u64)], quantile: f64) -> f64 {
    let Some(last) = sorted.last().map(|(_, count)| count - 1) else { return 0.0 };
    let at = |rank: u64| f64::from(sorted[sorted.partition_point(|(_, count)| *count <= rank)].0);
    let rank = quantile * last as f64;
    let below = rank as u64;
    let (low, high) = (at(below), at((below + 1).min(last)));
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

    #[test]
    fn the_ideal_reuse_is_that_of_the_statistics() {
        let row = |line: u64| row(line + 1, &line.to_string(), Some(line as f64), &[1, 2, 3 + line % 5]);
        let rows: Vec<TraceRow> = (0..40).map(row).collect();
        let load = Load::Open { arrival_speedup_ratio: 1.0 };
        let workload = Workload::from_rows(&rows, 100, load).unwrap();
        let ideal = ideal_reuse(&workload, 100).unwrap();
        assert_eq!(ideal, stats(&workload, 100).token_reuse_ratio);
        assert!(ideal > 0.5);
        assert_eq!(ideal_reuse(&Workload::default(), 16), None);
    }

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
        let mut lengths = Lengths::default();
        for length in [40, 10, 20, 30] {
            lengths.add(length);
        }
        let lengths = lengths.stats();
        assert_eq!((lengths.min, lengths.p50, lengths.p90, lengths.max), (10, 25.0, 37.0, 40));
        assert!((lengths.p95 - 38.5).abs() < 1e-9 && (lengths.p99 - 39.7).abs() < 1e-9, "{lengths:?}");
        assert_eq!(percentile(&[(7, 1)], 0.99), 7.0);
        assert_eq!(percentile(&[(7, 3), (9, 4)], 0.5), 7.0);
        assert_eq!(percentile(&[(7, 1), (9, 4)], 0.5), 9.0);
    }

    /// However they are counted, they are those of the bucket in which they arrive.
    #[test]
    fn arrivals_are_counted_in_buckets_of_any_width() {
        for span_ms in
            [0, 7, 999, 12_499, 12_501, 60_000, 750_001, 3_600_000, 45_000_001, 90_000_000, 9_000_000_000_u64]
        {
            let times: Vec<u64> = (0..=1000).map(|part| span_ms * 1_000_000 / 1000 * part).collect();
            let mut buckets = Buckets::default();
            for ns in &times {
                buckets.add(Duration::from_ns(*ns));
            }
            let last_ms = times[1000] as f64 / 1e6;
            let (width, counts) = buckets.of(last_ms);
            let mut expected = vec![0; (last_ms / width) as usize + 1];
            for ns in &times {
                expected[(ns / (width * 1e6) as u64) as usize] += 1;
            }
            assert_eq!(counts, expected, "{span_ms}");
        }
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
