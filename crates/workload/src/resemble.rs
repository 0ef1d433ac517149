//! More of a trace without its content: another load that arrives, is as long and shares as much.
//!
//! ```text
//!  rows ── families: requests of one session, or with a prefix of their own in common
//!       ── arrivals: how many at a time, how far apart
//!                      │ shuffled among neighbours in time, lengths and pauses drawn anew around what they were
//!                      ▼
//!  families begin where others did ── all requests in order ── the k-th takes the k-th arrival ── rows
//! ```
//!
//! What many requests begin with, such as a system prompt, belongs to no family: it stays one prefix. Neighbours change
//! places rather than any two requests, so that what changes slowly, the rate or the mix, goes on as it did.

mod families;

use rand::RngExt;
use rand::seq::SliceRandom;
use rand_pcg::Pcg64;
use rustc_hash::FxHashMap;

use crate::random::{rounded_ms, stream};
use crate::row::{MAX_INPUT_TOKENS, MAX_OUTPUT_TOKENS};
use crate::{Load, TraceRow, Workload};

pub(crate) use families::Families;

/// How many neighbours change places.
const NEIGHBOURS: usize = 64;
/// How far lengths, and pauses of sessions, lie from what they were, relative to that: no percentile moves further.
const SPREAD: f64 = 0.05;
/// The same for the times between requests of a family.
const STRETCH: f64 = 0.05;

/// Rows of `requests` requests that resemble those of a workload that was read with `load`, with ids for `block_size`
/// tokens each; with more requests than there are, the load comes again, each time with families of its own.
///
/// Arrival times and their gaps, lengths, and what prompts share are those of the workload but for the draws of `seed`.
/// Nothing else of it is in the rows but the names of classes and adapters: ids and other names are new, and no row is one of the workload but by chance. The length
/// of a reply that a later turn repeats stays as it is.
///
/// # Panics
/// If `block_size` is 0.
pub fn resembling(
    workload: &Workload,
    block_size: u32,
    load: Load,
    requests: usize,
    seed: u64,
) -> Vec<TraceRow> {
    let pattern = Pattern::of(workload.mooncake_rows(block_size, load).collect(), block_size);
    if pattern.rows.is_empty() {
        return Vec::new();
    }
    let mut order = stream(seed, "like_order");
    let mut drafts = Vec::new();
    for period in 0..requests.div_ceil(pattern.rows.len()) {
        pattern.begin_families(period, &mut order, &mut drafts);
    }
    // The sequence number keeps turns of a session in order.
    drafts.sort_by(|one: &Draft, other| one.time.total_cmp(&other.time).then(one.copy.cmp(&other.copy)));
    drafts.truncate(requests);
    let arrivals = pattern.arrivals(&drafts, &mut stream(seed, "like_arrivals"));
    Writer::new(&pattern, seed).rows(&drafts, arrivals)
}

/// What is repeated of a workload.
struct Pattern {
    /// In the order in which they arrive if every one is answered at once.
    rows: Vec<TraceRow>,
    /// When that is, in ms.
    times: Vec<f64>,
    families: Families,
    /// Rows that have a time: how long after the one before, and how many at once.
    batches: Vec<(f64, usize)>,
    block_size: u64,
}

/// A request that is going to be.
struct Draft {
    /// About when, in ms.
    time: f64,
    /// The row that it resembles.
    row: usize,
    /// Its family, of all that begin.
    copy: usize,
}

impl Pattern {
    fn of(rows: Vec<TraceRow>, block_size: u32) -> Self {
        let mut times = Vec::with_capacity(rows.len());
        let mut before: Option<(&str, f64)> = None;
        for row in &rows {
            let previous = before.filter(|(name, _)| row.session_id.as_deref() == Some(*name));
            let since = previous.map_or(0.0, |(_, time)| time);
            let time = row.timestamp_ms.unwrap_or(since + row.delay_ms.unwrap_or(0.0)).max(since);
            times.push(time);
            before = row.session_id.as_deref().map(|name| (name, time));
        }
        let mut order: Vec<usize> = (0..rows.len()).collect();
        order.sort_by(|&one, &other| times[one].total_cmp(&times[other]));
        let mut rows: Vec<Option<TraceRow>> = rows.into_iter().map(Some).collect();
        let rows: Vec<TraceRow> = order.iter().filter_map(|&index| rows[index].take()).collect();
        let times: Vec<f64> = order.iter().map(|&index| times[index]).collect();
        let mut batches: Vec<(f64, usize)> = Vec::new();
        let mut last = 0.0;
        for (row, &time) in rows.iter().zip(&times).filter(|(row, _)| row.timestamp_ms.is_some()) {
            debug_assert!(row.output_length > 0, "rows of a workload were checked");
            match batches.last_mut() {
                Some((_, count)) if time <= last => *count += 1,
                _ => batches.push((time - last, 1)),
            }
            last = time;
        }
        let families = Families::of(&rows);
        Self { rows, times, families, batches, block_size: block_size.into() }
    }

    /// From the start of the load to where it would begin again: as long after the last arrival as arrivals are apart.
    fn period(&self) -> f64 {
        let span: f64 = self.batches.iter().map(|(gap, _)| gap).sum();
        if span > 0.0 {
            return span + span / (self.batches.len().max(2) - 1) as f64;
        }
        // Without times, what counts is the order.
        self.times.iter().fold(0.0, |most, time| time.max(most)) + 1.0
    }

    /// Has each family begin where one near it did.
    fn begin_families(&self, period: usize, random: &mut Pcg64, drafts: &mut Vec<Draft>) {
        let members = &self.families.members;
        let start = |family: usize| self.times[members[family][0]];
        let mut order: Vec<usize> = (0..members.len()).collect();
        for neighbours in order.chunks_mut(NEIGHBOURS) {
            neighbours.shuffle(random);
        }
        let first = period as f64 * self.period();
        for (place, &family) in order.iter().enumerate() {
            let stretch = random.random_range(1.0 - STRETCH..=1.0 + STRETCH);
            let copy = period * members.len() + place;
            drafts.extend(members[family].iter().map(|&row| {
                let since = self.times[row] - start(family);
                Draft { time: since.mul_add(stretch, first + start(place)), row, copy }
            }));
        }
    }

    /// Times for the drafts that have one, in order.
    fn arrivals(&self, drafts: &[Draft], random: &mut Pcg64) -> Vec<f64> {
        let wanted = drafts.iter().filter(|draft| self.rows[draft.row].timestamp_ms.is_some()).count();
        let mut arrivals = Vec::with_capacity(wanted);
        let mut period = 0.0;
        while arrivals.len() < wanted {
            let mut time = period;
            let (mut gaps, mut counts): (Vec<f64>, Vec<usize>) = self.batches.iter().copied().unzip();
            // The first one is what the load begins with.
            gaps[1..].chunks_mut(NEIGHBOURS).for_each(|gaps| gaps.shuffle(random));
            counts.chunks_mut(NEIGHBOURS).for_each(|counts| counts.shuffle(random));
            for (gap, count) in gaps.into_iter().zip(counts) {
                time += gap;
                arrivals.extend(std::iter::repeat_n(rounded_ms(time), count));
            }
            period += self.period();
        }
        arrivals.truncate(wanted);
        arrivals
    }
}

/// Makes rows of drafts.
struct Writer<'a> {
    pattern: &'a Pattern,
    lengths: Pcg64,
    pauses: Pcg64,
    /// The ids of a prefix of no family.
    common: FxHashMap<u64, u64>,
    /// Those of a family that is not yet over.
    own: FxHashMap<(usize, u64), u64>,
    next_id: u64,
    /// Numbers of sessions, by the family and the name that it resembles.
    sessions: FxHashMap<(usize, &'a str), usize>,
}

impl<'a> Writer<'a> {
    fn new(pattern: &'a Pattern, seed: u64) -> Self {
        Self {
            pattern,
            lengths: stream(seed, "like_lengths"),
            pauses: stream(seed, "like_pauses"),
            common: FxHashMap::default(),
            own: FxHashMap::default(),
            next_id: 0,
            sessions: FxHashMap::default(),
        }
    }

    fn rows(mut self, drafts: &[Draft], arrivals: Vec<f64>) -> Vec<TraceRow> {
        let mut arrivals = arrivals.into_iter();
        let row = |(draft, line): (&Draft, u64)| {
            let source = &self.pattern.rows[draft.row];
            let timestamp_ms = source.timestamp_ms.and_then(|_| arrivals.next());
            TraceRow { line, timestamp_ms, ..self.row(draft.row, draft.copy) }
        };
        drafts.iter().zip(1..).map(row).collect()
    }

    /// A row like another, as part of a family.
    fn row(&mut self, place: usize, copy: usize) -> TraceRow {
        let source = &self.pattern.rows[place];
        let (input_length, hash_ids) = self.prompt(source, copy);
        let repeated = !source.output_ids.is_empty();
        let output_length = if repeated {
            source.output_length
        } else {
            around(source.output_length, MAX_OUTPUT_TOKENS, &mut self.lengths)
        };
        let number = self.sessions.len() + 1;
        let session = source.session_id.as_deref();
        TraceRow {
            session_id: session
                .map(|name| format!("session_{}", self.sessions.entry((copy, name)).or_insert(number))),
            delay_ms: source
                .delay_ms
                .map(|ms| rounded_ms(ms * self.pauses.random_range(1.0 - SPREAD..=1.0 + SPREAD))),
            input_length: Some(input_length),
            output_length,
            hash_ids,
            output_ids: source.output_ids.iter().map(|&id| self.id(id, copy)).collect(),
            priority: source.priority,
            class: source.class.clone(),
            lora: source.lora.clone(),
            grammar: source.grammar.clone(),
            max_output: source.max_output.map(|most| most.max(output_length as u32)),
            ..TraceRow::default()
        }
    }

    /// A prompt that shares what another does, and goes on for about as long.
    fn prompt(&mut self, source: &TraceRow, copy: usize) -> (u64, Vec<u64>) {
        let size = self.pattern.block_size;
        let ids = &source.hash_ids;
        let length = source.input_length.unwrap_or(ids.len() as u64 * size);
        let alone = ids.iter().rev().take_while(|id| self.pattern.families.is_alone(**id)).count();
        let shared = ids.len() - alone;
        let mut made: Vec<u64> = ids[..shared].iter().map(|&id| self.id(id, copy)).collect();
        let covered = shared as u64 * size;
        if alone == 0 || length <= covered {
            return (length, made);
        }
        let rest = around(length - covered, MAX_INPUT_TOKENS - covered, &mut self.lengths);
        let more = rest.div_ceil(size);
        made.extend(self.next_id..self.next_id + more);
        self.next_id += more;
        (covered + rest, made)
    }

    fn id(&mut self, id: u64, copy: usize) -> u64 {
        let next = self.next_id;
        let found = if self.pattern.families.is_common(id) {
            self.common.entry(id).or_insert(next)
        } else {
            self.own.entry((copy, id)).or_insert(next)
        };
        self.next_id += u64::from(*found == next);
        *found
    }
}

/// A length about as large.
fn around(length: u64, most: u64, random: &mut Pcg64) -> u64 {
    let drawn = length as f64 * random.random_range(1.0 - SPREAD..=1.0 + SPREAD);
    (drawn.round() as u64).clamp(1, most)
}

#[cfg(test)]
mod tests;
