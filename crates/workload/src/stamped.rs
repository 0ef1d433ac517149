//! A trace as it was sent.

use std::io::{self, Write};

use rustc_hash::{FxHashMap, FxHashSet};
use servecast_types::Time;

use crate::{TraceRow, write_mooncake};

/// The rows that were sent, in their order, each with the time of that in place of its own: what is read from them arrives
/// when it was sent. `sent` are lines and times; `block_size` is what their hash ids stand for.
///
/// Rows of which the trace says no content get ids, which it would have given them.
pub fn stamp_rows(
    rows: Vec<TraceRow>,
    block_size: u32,
    sent: impl IntoIterator<Item = (u64, Time)>,
) -> Vec<TraceRow> {
    let sent: FxHashMap<u64, Time> = sent.into_iter().collect();
    let is_sent = |row: &&TraceRow| sent.contains_key(&row.line);
    let ids: FxHashSet<Box<str>> =
        rows.iter().filter(is_sent).filter_map(|row| row.links.as_ref()?.request_id.clone()).collect();
    let mut first_id = 0;
    let stamped = |mut row: TraceRow| {
        if let (true, Some(tokens)) = (row.shares_nothing, row.input_length) {
            let blocks = tokens.div_ceil(u64::from(block_size.max(1)));
            row.hash_ids = (first_id..first_id + blocks).collect();
            row.shares_nothing = false;
            first_id += blocks;
        }
        if let Some(links) = &mut row.links {
            // Nobody reads of those that were not sent.
            links.branches.retain(|branch| ids.contains(branch));
        }
        let at = sent.get(&row.line)?;
        Some(TraceRow { timestamp_ms: Some(at.as_ms()), delay_ms: None, ..row })
    };
    rows.into_iter().filter_map(stamped).collect()
}

/// Writes rows as [`write_mooncake`] does, each in its line, with blank ones where there is none: who reads them numbers
/// them as they are.
///
/// # Errors
/// As there.
pub fn write_in_lines(rows: &[TraceRow], mut out: impl Write) -> io::Result<()> {
    let mut line = 1;
    for row in rows {
        while line < row.line {
            out.write_all(b"\n")?;
            line += 1;
        }
        write_mooncake(std::slice::from_ref(row), &mut out)?;
        line += 1;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Load, Workload, read_mooncake};

    #[test]
    fn rows_have_the_times_at_which_they_were_sent() {
        let row = |line, timestamp_ms| TraceRow {
            line,
            timestamp_ms,
            delay_ms: timestamp_ms.is_none().then_some(7.0),
            input_length: Some(5),
            output_length: 1,
            hash_ids: vec![line, 9],
            ..TraceRow::default()
        };
        let rows = vec![row(1, Some(10.0)), row(3, None), row(4, Some(20.0))];
        let sent = [(3, Time::from_ns(1_234_567)), (1, Time::ZERO)];
        let stamped = stamp_rows(rows.clone(), 4, sent);
        let expected = [(0, 0.0), (1, 1.234567)].map(|(place, ms): (usize, f64)| TraceRow {
            timestamp_ms: Some(ms),
            delay_ms: None,
            ..rows[place].clone()
        });
        assert_eq!(stamped, expected);
    }

    #[test]
    fn rows_stay_in_their_lines() {
        let row = |line| TraceRow {
            line,
            timestamp_ms: Some(line as f64),
            input_length: Some(5),
            output_length: 1,
            hash_ids: vec![line],
            ..TraceRow::default()
        };
        let rows = vec![row(2), row(3), row(7)];
        let mut file = Vec::new();
        write_in_lines(&rows, &mut file).unwrap();
        assert_eq!(read_mooncake(&file[..]).unwrap().rows, rows);
    }

    #[test]
    fn prompts_of_unknown_content_still_share_nothing() {
        let row = |line| TraceRow {
            line,
            timestamp_ms: Some(0.0),
            input_length: Some(10),
            output_length: 1,
            shares_nothing: true,
            ..TraceRow::default()
        };
        let rows = vec![row(1), row(2), row(3)];
        let prompts = |rows: &[TraceRow]| -> Vec<_> {
            let workload = Workload::from_rows(rows, 4, Load::Closed).unwrap();
            workload.turns().map(|turn| turn.prompt.clone()).collect()
        };
        let stamped = stamp_rows(rows.clone(), 4, [(1, Time::ZERO), (3, Time::ZERO)]);
        let before = prompts(&rows);
        assert_eq!(prompts(&stamped), [before[0].clone(), before[2].clone()]);
    }
}
