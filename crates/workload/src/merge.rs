//! Several traces as one load.

use rustc_hash::{FxHashMap, FxHashSet};

use crate::order::TurnOrder;
use crate::{Trace, TraceNotes, TraceRow};

impl Trace {
    /// Whether its rows name the content of prompts.
    pub fn has_content(&self) -> bool {
        self.rows.iter().any(|row| !(row.hash_ids.is_empty() && row.hash_runs.is_empty()))
    }

    /// Takes in the rows of another trace, whose ids stand for as many tokens: they have the times of their own trace from
    /// its first arrival on, as those here have, sessions of their own, and share nothing with the rows here unless ids of
    /// both are those of a tokenizer. `number` is that of the other trace.
    pub fn merge(&mut self, other: Self, number: usize) {
        from_the_first(&mut self.rows);
        let mut rows = other.rows;
        from_the_first(&mut rows);
        for row in &mut rows {
            if let Some(name) = &mut row.session_id {
                *name = format!("{number}:{name}");
            }
            if let Some(links) = &mut row.links {
                links.rename(|name| format!("{number}:{name}").into());
            }
        }
        let numbered_texts = self.numbered_texts || other.numbered_texts;
        if numbered_texts || !(self.token_ids && other.token_ids) {
            rename(&self.rows, &mut rows);
        }
        self.numbered_texts = numbered_texts;
        self.rows.append(&mut rows);
    }
}

/// Counts times from the first arrival.
fn from_the_first(rows: &mut [TraceRow]) {
    let order = TurnOrder::of(rows, &mut TraceNotes::default());
    let first_turns = rows.iter().enumerate().filter(|(index, _)| order.is_first(*index));
    let first = first_turns.filter_map(|(_, row)| row.timestamp_ms).fold(f64::INFINITY, f64::min);
    if first.is_finite() {
        for time in rows.iter_mut().filter_map(|row| row.timestamp_ms.as_mut()) {
            *time -= first;
        }
    }
}

/// Gives content ids that nothing has so far, consecutive ones where they were so.
fn rename(taken: &[TraceRow], rows: &mut [TraceRow]) {
    let next = largest(taken).map_or(Some(0), |largest| largest.checked_add(1));
    let fits = |next: &u64| largest(rows).is_none_or(|largest| largest.checked_add(*next).is_some());
    match next.filter(fits) {
        Some(next) => {
            for row in rows {
                row.hash_ids.iter_mut().chain(&mut row.output_ids).for_each(|id| *id += next);
                row.hash_runs.iter_mut().for_each(|run| *run = run.start() + next..=run.end() + next);
            }
        }
        // Hashes, which leave no room above them.
        None => number(taken, rows),
    }
}

/// Numbers ids in the order in which they turn up, with numbers that are not taken.
fn number(taken: &[TraceRow], rows: &mut [TraceRow]) {
    let taken: FxHashSet<u64> = taken.iter().flat_map(ids).collect();
    let mut free = (0..).filter(|id| !taken.contains(id));
    let mut names: FxHashMap<u64, u64> = FxHashMap::default();
    let mut name =
        |id: u64| *names.entry(id).or_insert_with(|| free.next().expect("2⁶⁴ ids are never taken"));
    for row in rows {
        let runs = std::mem::take(&mut row.hash_runs);
        for id in runs.into_iter().flatten().map(&mut name) {
            match row.hash_runs.last_mut() {
                Some(run) if run.end().checked_add(1) == Some(id) => *run = *run.start()..=id,
                _ => row.hash_runs.push(id..=id),
            }
        }
        row.hash_ids.iter_mut().chain(&mut row.output_ids).for_each(|id| *id = name(*id));
    }
}

fn ids(row: &TraceRow) -> impl Iterator<Item = u64> {
    let of_runs = row.hash_runs.iter().cloned().flatten();
    row.hash_ids.iter().chain(&row.output_ids).copied().chain(of_runs)
}

fn largest(rows: &[TraceRow]) -> Option<u64> {
    let of_row = |row: &TraceRow| {
        let ends = row.hash_runs.iter().map(|run| *run.end());
        row.hash_ids.iter().chain(&row.output_ids).copied().chain(ends).max()
    };
    rows.iter().filter_map(of_row).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Load, Workload};

    fn row(line: u64, session: &str, timestamp_ms: f64, hash_ids: &[u64]) -> TraceRow {
        TraceRow {
            line,
            session_id: (!session.is_empty()).then(|| session.into()),
            timestamp_ms: Some(timestamp_ms),
            input_length: Some(hash_ids.len() as u64 * 10),
            output_length: 1,
            hash_ids: hash_ids.into(),
            ..TraceRow::default()
        }
    }

    fn trace(rows: &[TraceRow]) -> Trace {
        Trace { rows: rows.into(), ..Trace::default() }
    }

    #[test]
    fn times_count_from_the_first_arrival_of_each_and_nothing_is_shared() {
        let mut merged = trace(&[row(1, "a", 50.0, &[1, 2]), row(2, "", 60.0, &[1, 9])]);
        let runs = TraceRow { hash_runs: vec![1..=3], input_length: Some(30), ..row(2, "", 7000.0, &[]) };
        merged.merge(trace(&[row(1, "a", 7001.0, &[1, 2]), runs]), 2);
        let rows = &merged.rows;
        assert_eq!(rows.iter().filter_map(|row| row.timestamp_ms).collect::<Vec<_>>(), [0.0, 10.0, 1.0, 0.0]);
        assert_eq!(rows[2].session_id.as_deref(), Some("2:a"));
        assert_eq!((&rows[2].hash_ids[..], &rows[3].hash_runs[..]), (&[11, 12][..], &[11..=13][..]));
        let open = Load::Open { arrival_speedup_ratio: 1.0 };
        let workload = Workload::from_rows(rows, 10, open).unwrap();
        assert_eq!(workload.sessions.len(), 4);
    }

    #[test]
    fn hashes_are_numbered_where_nothing_is_taken() {
        let mut merged = trace(&[row(1, "", 0.0, &[1, u64::MAX])]);
        let runs = TraceRow { hash_runs: vec![5..=6, 0..=0], ..row(2, "", 0.0, &[]) };
        merged.merge(trace(&[row(1, "", 0.0, &[u64::MAX, 5]), runs]), 2);
        assert_eq!(merged.rows[1].hash_ids, [0, 2]);
        assert_eq!(merged.rows[2].hash_runs, [2..=4], "5 is there, 6 and 0 are new");
    }

    #[test]
    fn ids_of_tokens_are_those_of_any_trace() {
        let tokens = |ids: &[u64]| Trace { token_ids: true, ..trace(&[row(1, "", 0.0, ids)]) };
        let mut merged = tokens(&[1, 2]);
        merged.merge(tokens(&[1, 3]), 2);
        assert_eq!(merged.rows[1].hash_ids, [1, 3]);
    }
}
