//! The passes of an engine as its clients saw them.
//!
//! In a pass every request that decodes gets a token. So the times of all tokens tell when passes ended and who was in
//! them, and that prompts are computed in order of arrival, as many tokens as the budget of the engine leaves, tells the rest.
//! Nothing is simulated, so that one pass that took long does not decide what the next ones are taken for.
//!
//! All times are those of clients: a pass "is over" here when its tokens are there.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use servecast_engine::EngineType;
use servecast_latency::{Batch, StepFeatures};

use crate::pairs;
use crate::requests::{RequestRow, RequestRun};

/// The time between two passes one after the other, and what the second of them computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Interval {
    pub(crate) features: StepFeatures,
    /// Requests in the pass before.
    pub(crate) before: f64,
    pub(crate) us: f64,
}

/// The time to first token of a request that had the engine to itself.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Alone {
    pub(crate) passes: Vec<StepFeatures>,
    pub(crate) us: f64,
}

/// What the times of a run's tokens say of its passes.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Timeline {
    /// In order of time.
    pub(crate) intervals: Vec<Interval>,
    pub(crate) alone: Vec<Alone>,
    /// From sending a request to when the engine takes notice of it, and from the end of a pass to the client, together.
    pub(crate) ways_us: Option<f64>,
}

/// A pass.
#[derive(Debug, Default)]
struct Pass {
    at_us: f64,
    /// Requests that got a token other than their first, and the tokens that they had before.
    decodes: Vec<(usize, u32)>,
    /// Requests that got their first token.
    first: Vec<usize>,
    chunks: Vec<Chunk>,
    /// Whether what it computed is known.
    is_known: bool,
}

/// A part of a prompt.
#[derive(Debug, Clone, Copy)]
struct Chunk {
    start: u64,
    tokens: u64,
}

/// What limits a pass.
struct Limits {
    tokens: u64,
    requests: usize,
    blocks: u64,
    block_size: u64,
}

impl Limits {
    /// KV blocks of so many tokens.
    fn blocks_of(&self, tokens: u32) -> u64 {
        u64::from(tokens).div_ceil(self.block_size)
    }
}

/// Passes of which a chunk may be part before the one with the first token.
const MOST_CHUNKS: usize = 64;
/// Fewest requests whose admission says how long they are on their way.
const FEWEST_ADMITTED: usize = 5;

/// The passes of a run; `None` if its rows do not say when each token came, or if it is not known in which order the engine
/// computes prompts.
pub(crate) fn timeline(run: &RequestRun) -> Option<Timeline> {
    let is_known =
        |row: &RequestRow| row.times.is_some() && row.gaps_ms.len() + 1 == row.output_tokens as usize;
    let fcfs = run.engine.engine_type == EngineType::Vllm && run.engine.enable_chunked_prefill;
    if run.workers != 1 || !fcfs || run.rows.is_empty() || !run.rows.iter().all(is_known) {
        return None;
    }
    let tokens: Vec<Vec<f64>> = run.rows.iter().map(token_times).collect();
    let limits = Limits {
        tokens: u64::from(run.engine.max_num_batched_tokens.unwrap_or(u32::MAX)),
        requests: run.engine.max_num_seqs.map_or(usize::MAX, |most| most as usize),
        blocks: u64::from(run.engine.num_gpu_blocks),
        block_size: u64::from(run.engine.block_size.max(1)),
    };
    let mut passes = passes(&tokens)?;
    let ways_us = ways(&passes, &run.rows, &limits);
    place_chunks(&mut passes, &run.rows, &limits, ways_us.unwrap_or(0.0));
    Some(Timeline { intervals: intervals(&passes, &run.rows), alone: alone(run, &limits), ways_us })
}

/// When each token of a request came, in µs of the clock of arrivals.
fn token_times(row: &RequestRow) -> Vec<f64> {
    let Some(times) = row.times else { return Vec::new() };
    let first = row.arrival_s * 1e6 + times.ttft_ms * 1e3;
    // Gaps are rounded, often: what they come to is known better.
    let sum: f64 = row.gaps_ms.iter().sum();
    let scale = if sum > 0.0 { (times.e2e_ms - times.ttft_ms) / sum } else { 1.0 };
    let mut at = first;
    let later = row.gaps_ms.iter().map(|gap| {
        at += gap * scale * 1e3;
        at
    });
    std::iter::once(first).chain(later).collect()
}

/// Tokens that came at about the same time are of one pass; `None` if no request has two.
fn passes(tokens: &[Vec<f64>]) -> Option<Vec<Pass>> {
    let mut gaps: Vec<f64> =
        tokens.iter().flat_map(|times| times.windows(2).map(|pair| pair[1] - pair[0])).collect();
    gaps.sort_unstable_by(f64::total_cmp);
    // Half of a short pass: the tokens of one are sent one after the other.
    let spread = 0.5 * gaps.get(gaps.len() / 10)?;
    let mut next = vec![0; tokens.len()];
    let order = |at: f64, row: usize| Reverse((ordered(at), row));
    let mut due: BinaryHeap<Reverse<(u64, usize)>> =
        tokens.iter().enumerate().map(|(row, times)| order(times[0], row)).collect();
    let mut passes = Vec::new();
    let (mut running, mut paused) = (BTreeSet::new(), BTreeSet::new());
    while let Some(&Reverse((start, _))) = due.peek() {
        let until = f64::from_bits(start) + spread;
        let mut pass = Pass { is_known: true, ..Pass::default() };
        let (mut members, mut sum) = (Vec::new(), 0.0);
        while let Some(&Reverse((at, row))) = due.peek().filter(|due| f64::from_bits(due.0.0) <= until) {
            due.pop();
            sum += f64::from_bits(at);
            members.push(row);
        }
        pass.at_us = sum / members.len() as f64;
        for &row in &members {
            match next[row] {
                0 => pass.first.push(row),
                had => pass.decodes.push((row, had as u32)),
            }
            // Who comes back after a pause computed again what it had lost.
            pass.is_known &= !paused.remove(&row);
        }
        let absent: Vec<usize> = running.iter().filter(|row| !members.contains(row)).copied().collect();
        pass.is_known &= absent.is_empty();
        paused.extend(absent);
        for row in members {
            next[row] += 1;
            if let Some(&at) = tokens[row].get(next[row]) {
                running.insert(row);
                due.push(order(at, row));
            } else {
                running.remove(&row);
            }
        }
        passes.push(pass);
    }
    Some(passes)
}

/// Times from 0 on, in an order that integers have.
fn ordered(at: f64) -> u64 {
    at.max(0.0).to_bits()
}

/// How long requests and tokens are on their way together: a request is in a pass if it was sent so long before its client
/// saw the end of the pass before that.
fn ways(passes: &[Pass], rows: &[RequestRow], limits: &Limits) -> Option<f64> {
    let (mut above, mut below) = (Vec::new(), Vec::new());
    for three in passes.windows(3) {
        let [earlier, before, pass] = three else { continue };
        let prompts: u64 = pass.first.iter().map(|&row| to_compute(&rows[row])).sum();
        let decodes = pass.decodes.len();
        // Nobody had to wait for anything but the end of a pass: not for a seat, tokens or memory either, which were there in
        // the pass before.
        let held = before.decodes.iter().map(|&(row, had)| limits.blocks_of(rows[row].input_tokens + had));
        let wanted = pass.first.iter().map(|&row| limits.blocks_of(rows[row].input_tokens));
        let is_free = before.first.is_empty()
            && !before.decodes.is_empty()
            && before.decodes.len() + pass.first.len() < limits.requests
            && held.chain(wanted).sum::<u64>() < limits.blocks
            && prompts + decodes as u64 <= limits.tokens;
        if decodes > 0 && is_free && pass.is_known {
            for &row in &pass.first {
                let sent = rows[row].arrival_s * 1e6;
                above.push(before.at_us - sent);
                below.push(earlier.at_us - sent);
            }
        }
    }
    if above.len() < FEWEST_ADMITTED {
        return None;
    }
    // At most `above` and more than `below` for as many as can be.
    let mut steps: Vec<(f64, isize)> =
        above.iter().map(|&us| (us, 1)).chain(below.iter().map(|&us| (us, -1))).collect();
    steps.sort_by(|left, right| left.0.total_cmp(&right.0));
    let (mut wrong, mut least, mut best) = (below.len().cast_signed(), isize::MAX, (0.0, 0.0));
    for (place, &(us, step)) in steps.iter().enumerate() {
        wrong += step;
        let next = steps.get(place + 1).map_or(us, |next| next.0);
        if wrong < least {
            (least, best) = (wrong, (us, next));
        }
    }
    Some(f64::midpoint(best.0, best.1).max(0.0))
}

/// Tokens of a prompt that were not cached.
fn to_compute(row: &RequestRow) -> u64 {
    u64::from(row.input_tokens - row.cached_tokens.unwrap_or(0).min(row.input_tokens - 1))
}

/// Says which part of which prompt was computed in which pass.
fn place_chunks(passes: &mut [Pass], rows: &[RequestRow], limits: &Limits, ways_us: f64) {
    let mut free: Vec<u64> =
        passes.iter().map(|pass| limits.tokens.saturating_sub(pass.decodes.len() as u64)).collect();
    let firsts: Vec<(usize, usize)> = passes
        .iter()
        .enumerate()
        .flat_map(|(place, pass)| {
            let mut first = pass.first.clone();
            first.sort_by(|&left, &right| rows[left].arrival_s.total_cmp(&rows[right].arrival_s));
            first.into_iter().map(move |row| (place, row))
        })
        .collect();
    for (last, row) in firsts {
        let tokens = to_compute(&rows[row]);
        let cached = u64::from(rows[row].input_tokens) - tokens;
        let here_us = rows[row].arrival_s * 1e6 + ways_us;
        let Some(first) = begin(passes, &free, (last, tokens, here_us), limits) else {
            // It began in passes in which nobody got a token.
            passes[last].is_known = false;
            let part = tokens.min(free[last]);
            passes[last].chunks.push(Chunk { start: cached + tokens - part, tokens: part });
            free[last] -= part;
            continue;
        };
        let (mut start, mut left) = (cached, tokens);
        for place in first..=last {
            let part = left.min(free[place]);
            if part > 0 {
                passes[place].chunks.push(Chunk { start, tokens: part });
                (start, left) = (start + part, left - part);
                free[place] -= part;
            }
        }
    }
}

/// The earliest pass in which a prompt can have begun whose first token came in pass `last`, given when it came.
fn begin(
    passes: &[Pass],
    free: &[u64],
    (last, tokens, here_us): (usize, u64, f64),
    limits: &Limits,
) -> Option<usize> {
    let mut found = None;
    for first in (last.saturating_sub(MOST_CHUNKS)..=last).rev() {
        let pass = &passes[first];
        let came_before = first == 0 || here_us <= passes[first - 1].at_us;
        let has_seat = pass.decodes.len() + pass.chunks.len() < limits.requests;
        if first < last && !(came_before && has_seat) {
            break;
        }
        let mut left = tokens;
        let done = (first..=last).find(|&place| {
            left = left.saturating_sub(free[place]);
            left == 0
        });
        match done {
            Some(place) if place == last => found = Some(first),
            // An earlier beginning has an earlier end.
            Some(_) => break,
            None => {}
        }
    }
    found
}

fn intervals(passes: &[Pass], rows: &[RequestRow]) -> Vec<Interval> {
    let known = |pair: &[Pass]| {
        let (before, pass) = (&pair[0], &pair[1]);
        if pass.decodes.is_empty() || !pass.is_known {
            return None;
        }
        let mut batch = Batch::new(0);
        for &(row, had) in &pass.decodes {
            let context = u64::from(rows[row].input_tokens + had);
            batch.add_tokens(context - 1, context);
        }
        for chunk in &pass.chunks {
            batch.add_tokens(chunk.start, chunk.start + chunk.tokens);
        }
        let us = pass.at_us - before.at_us;
        let before = (before.decodes.len() + before.chunks.len()) as f64;
        Some(Interval { features: StepFeatures::of(&batch), before, us })
    };
    passes.windows(2).filter_map(known).collect()
}

/// Requests that were under way with nobody else until their first token.
fn alone(run: &RequestRun, limits: &Limits) -> Vec<Alone> {
    let alone = pairs::alone(run).into_iter().map(|row| &run.rows[row]);
    let of = |row: &RequestRow| {
        Some(Alone { passes: prompt_passes(row, limits.tokens), us: row.times?.ttft_ms * 1e3 })
    };
    alone.filter_map(of).collect()
}

/// The passes of a prompt that has them to itself.
fn prompt_passes(row: &RequestRow, budget: u64) -> Vec<StepFeatures> {
    let end = u64::from(row.input_tokens);
    let mut start = end - to_compute(row);
    let mut passes = Vec::new();
    while start < end {
        let mut batch = Batch::new(0);
        let next = start.saturating_add(budget).min(end);
        batch.add_tokens(start, next);
        passes.push(StepFeatures::of(&batch));
        start = next;
    }
    passes
}

#[cfg(test)]
mod tests {
    use servecast_engine::EngineArgs;

    use super::*;
    use crate::requests::RequestTimes;

    /// Requests that all come at once and take one of two seats as soon as it is free: in two passes of 10 ms for a prompt,
    /// and one for each of five further tokens.
    fn crowded() -> RequestRun {
        let row = |number: u32| RequestRow {
            line: u64::from(number) + 1,
            arrival_s: f64::from(number) * 1e-6,
            input_tokens: 12,
            output_tokens: 6,
            times: Some(RequestTimes {
                ttft_ms: 20.0 + 30.0 * f64::from(number % 2) + 70.0 * f64::from(number / 2),
                e2e_ms: 70.0 + 30.0 * f64::from(number % 2) + 70.0 * f64::from(number / 2),
            }),
            gaps_ms: vec![10.0; 5],
            ..RequestRow::default()
        };
        let engine =
            EngineArgs { max_num_seqs: Some(2), max_num_batched_tokens: Some(8), ..EngineArgs::default() };
        RequestRun { name: "crowded".to_owned(), rows: (0..40).map(row).collect(), engine, workers: 1 }
    }

    #[test]
    fn who_waits_for_a_seat_says_nothing_of_ways_and_parts_of_prompts_are_found() {
        let timeline = timeline(&crowded()).unwrap();
        assert_eq!(timeline.ways_us, None);
        let parts: Vec<f64> = timeline.intervals.iter().map(|one| one.features.prefill_tokens).collect();
        // Seven tokens beside a decode, and then five: of all prompts but the first two and what comes after the last.
        let count = |tokens: f64| parts.iter().filter(|part| (*part - tokens).abs() < 0.1).count();
        assert!(count(7.0) >= 36 && count(5.0) >= 36, "{parts:?}");
        assert!(timeline.intervals.iter().all(|one| (one.us - 1e4).abs() < 1.0));
    }
}
