//! JSON objects with keys of anybody's own, by the columns that somebody names: `usage.prompt_tokens` is the key
//! `prompt_tokens` within `usage`, unless the row has a key of that whole name.

use std::io::BufRead;

use serde_json::{Map, Value};

use super::json::{Fields, Items};
use super::rows::Seen;
use crate::row::{MAX_INPUT_TOKENS, MAX_OUTPUT_TOKENS};
use crate::unit::date_ms;
use crate::{Columns, TimeUnit, Trace, TraceError, TraceRow};

/// Reads the rows of a file.
pub(crate) fn read(
    input: &mut dyn BufRead,
    columns: &Columns,
    unit: Option<TimeUnit>,
) -> Result<Trace, TraceError> {
    let mut trace = Trace::default();
    let mut seen = Seen::of(unit);
    let mut items = Items::new(input);
    while let Some(item) = items.next()? {
        let object: Map<String, Value> = item.parse()?;
        let row = Fields::new(item.line, &object);
        let tokens = |column: &str, most| {
            let (row, key) = place(&row, column)?;
            row.needed_tokens(key, most)
        };
        let (input, output) =
            (tokens(&columns.input, MAX_INPUT_TOKENS)?, tokens(&columns.output, MAX_OUTPUT_TOKENS)?);
        let (timestamp_ms, dated) = time(&row, &columns.time, unit)?;
        seen.note_dated(dated, item.line)?;
        let name = |column: &Option<String>| {
            let name = column.as_ref().map(|column| {
                let (row, key) = place(&row, column)?;
                row.name(key)
            });
            name.transpose().map(Option::flatten)
        };
        let (session_id, class) = (name(&columns.session)?, name(&columns.class)?);
        if input == 0 || output == 0 {
            trace.notes.without_tokens.add(item.line);
            continue;
        }
        trace.rows.push(TraceRow {
            line: item.line,
            session_id,
            timestamp_ms: Some(timestamp_ms),
            input_length: Some(input),
            output_length: output,
            shares_nothing: true,
            class: class.map(Box::from),
            ..TraceRow::default()
        });
    }
    if !trace.rows.is_empty() {
        seen.settle_unit(&mut trace)?;
    }
    Ok(trace)
}

/// The object that has a column, and the key there.
fn place<'a, 'c>(row: &Fields<'a>, column: &'c str) -> Result<(Fields<'a>, &'c str), TraceError> {
    let within = column.split_once('.').filter(|_| row.get(column).is_none());
    match within {
        Some((outer, inner)) => match row.object(outer)? {
            Some(object) => place(&object, inner),
            None => Ok((row.clone(), column)),
        },
        None => Ok((row.clone(), column)),
    }
}

/// Milliseconds, if anybody knows the unit, and whether they come from a date.
fn time(row: &Fields, column: &str, unit: Option<TimeUnit>) -> Result<(f64, bool), TraceError> {
    let (row, key) = place(row, column)?;
    if let Some(ms) = row.get(key).and_then(Value::as_str).and_then(date_ms) {
        return Ok((ms, true));
    }
    // Those that are too large for milliseconds may turn out to be in another unit.
    let number = row.get(key).and_then(super::json::number);
    if let Some(time) = number.filter(|time| unit.is_none() && TimeUnit::of_epoch(*time).is_some()) {
        return Ok((time, false));
    }
    let ms = row.time_ms(key, unit.unwrap_or(TimeUnit::Ms))?;
    ms.map(|ms| (ms, false)).ok_or_else(|| row.missing(key, "when the request came"))
}
