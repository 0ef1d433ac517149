//! WEKA's agentic traces: a session a line, with its calls in order, and blocks as a list of ids (`hash_ids`) or as runs
//! of consecutive ones (`hash_runs`, `[first, how many]`). Times are seconds from the start of the session.
//!
//! A call waits for the one before it and then for its `think_time`. The sub-agents of a session are containers with
//! calls of their own, and stand in the list where they ended; one begins `duration_ms` before. Sessions of rows have one
//! thread, so the calls of a sub-agent stand between those of its parent, and sub-agents that ran side by side run one
//! after another.

use std::io::BufRead;
use std::ops::Range;

use serde_json::{Map, Value};
use xxhash_rust::xxh3::xxh3_64;

use super::json::{Fields, Items, Names, whole};
use crate::row::{MAX_INPUT_TOKENS, MAX_OUTPUT_TOKENS, hash_runs};
use crate::{TimeUnit, Trace, TraceError, TraceForm, TraceRow};

/// Reads the sessions of a file.
pub(super) fn read(input: &mut dyn BufRead, form: &TraceForm) -> Result<Trace, TraceError> {
    let unit = form.unit.unwrap_or(TimeUnit::S);
    let mut reader = Reader { unit, trace: Trace::default(), names: Names::default(), next_id: 0 };
    let mut items = Items::new(input);
    while let Some(item) = items.next()? {
        let object: Map<String, Value> = item.parse()?;
        reader.session(&Fields::new(item.line, &object))?;
    }
    Ok(reader.trace)
}

struct Reader {
    unit: TimeUnit,
    trace: Trace,
    /// Those of sessions.
    names: Names,
    /// Ids from here on are free.
    next_id: u64,
}

/// What is known of the calls of a session so far.
#[derive(Default)]
struct Progress {
    rows: Vec<TraceRow>,
    /// When the last call had its answer, in ms of the session.
    answered_ms: Option<f64>,
    /// When the last of the sub-agents since that call ended.
    agents_ended_ms: Option<f64>,
}

impl Reader {
    fn session(&mut self, session: &Fields) -> Result<(), TraceError> {
        let name = session.name("id")?.ok_or_else(|| session.missing("id", "the name of the session"))?;
        self.names.add(session, "id", "")?;
        self.block_size(session)?;
        let mut progress = Progress::default();
        self.calls(session, &name, &mut progress)?;
        let rows = &mut progress.rows;
        match session.get("hash_id_scope").map(|scope| (scope, scope.as_str())) {
            None | Some((_, Some("local"))) => self.rename(&name, rows),
            Some((_, Some("global"))) => {}
            Some((scope, _)) => return Err(session.wrong("hash_id_scope", scope, "`local` or `global`")),
        }
        self.trace.rows.append(rows);
        Ok(())
    }

    fn block_size(&mut self, session: &Fields) -> Result<(), TraceError> {
        let key = "block_size";
        let size = session.tokens(key, u64::from(u32::MAX))?;
        let size =
            size.ok_or_else(|| session.missing(key, "the number of tokens that a hash id stands for"))?;
        let first = u64::from(*self.trace.stated_block_size.get_or_insert(size as u32));
        if size == 0 || size != first {
            let expected =
                if size == 0 { "at least 1".to_owned() } else { format!("{first}, as in the lines before") };
            return Err(session.wrong(key, &size.into(), expected));
        }
        Ok(())
    }

    /// The calls of a session, or of a sub-agent.
    fn calls(&mut self, of: &Fields, name: &str, progress: &mut Progress) -> Result<(), TraceError> {
        for (place, value) in of.needed_list("requests", "a list of calls")?.iter().enumerate() {
            let call = of.element("requests", place, value)?;
            if call.get("requests").is_none() {
                let delay_ms = self.delay_ms(&call, progress)?;
                self.call(&call, name, delay_ms, progress)?;
                continue;
            }
            let ended_ms = self.time_ms(&call)?;
            let lasted_ms = call.duration_ms("duration_ms", TimeUnit::Ms)?;
            // What it lasted may be unknown; then it began as soon as it could.
            let began_ms = lasted_ms.map(|ms| ended_ms - ms);
            let gap = began_ms.zip(progress.answered_ms).map_or(0.0, |(began, answered)| began - answered);
            let mut agent = Progress { rows: std::mem::take(&mut progress.rows), ..Progress::default() };
            let first = agent.rows.len();
            self.calls(&call, name, &mut agent)?;
            progress.rows = agent.rows;
            for row in &progress.rows[first..] {
                self.trace.notes.sub_agents.add(row.line);
            }
            if let Some(row) = progress.rows.get_mut(first).filter(|_| first > 0) {
                row.delay_ms = Some(gap.max(0.0));
            }
            // Those that ran side by side had begun before this one ended.
            progress.answered_ms = Some(progress.answered_ms.map_or(ended_ms, |before| before.max(ended_ms)));
            progress.agents_ended_ms = progress.answered_ms;
        }
        Ok(())
    }

    fn time_ms(&self, call: &Fields) -> Result<f64, TraceError> {
        call.time_ms("t", self.unit)?.ok_or_else(|| call.missing("t", "when it was sent, from the start"))
    }

    /// How long after the one before a call is sent; after a sub-agent what is left of the time to think.
    fn delay_ms(&mut self, call: &Fields, progress: &Progress) -> Result<f64, TraceError> {
        let (sent_ms, think_ms) = (self.time_ms(call)?, call.duration_ms("think_time", self.unit)?);
        if let Some(ended_ms) = progress.agents_ended_ms {
            return Ok((sent_ms - ended_ms).max(0.0));
        }
        if think_ms.is_none() && !progress.rows.is_empty() {
            self.trace.notes.without_gap.add(call.line);
        }
        Ok(think_ms.unwrap_or(0.0))
    }

    fn call(
        &mut self,
        call: &Fields,
        name: &str,
        delay_ms: f64,
        progress: &mut Progress,
    ) -> Result<(), TraceError> {
        let input = call.needed_tokens("in", MAX_INPUT_TOKENS)?;
        let output = call.needed_tokens("out", MAX_OUTPUT_TOKENS)?;
        if input == 0 {
            return Err(call.wrong("in", &0.into(), crate::row::tokens_up_to(MAX_INPUT_TOKENS)));
        }
        if output == 0 {
            self.trace.notes.made_one_token.add(call.line);
        }
        let sent_ms = self.time_ms(call)?;
        let took_ms = call.duration_ms("api_time", self.unit)?;
        progress.answered_ms = Some(sent_ms + took_ms.unwrap_or(0.0));
        progress.agents_ended_ms = None;
        let delay_ms = Some(delay_ms).filter(|_| !progress.rows.is_empty());
        progress.rows.push(TraceRow {
            line: call.line,
            session_id: Some(name.to_owned()),
            delay_ms,
            input_length: Some(input),
            output_length: output.max(1),
            hash_runs: hash_runs(runs(call)?),
            ..TraceRow::default()
        });
        Ok(())
    }

    /// Gives the ids of a session, which mean something within it alone, ones of their own.
    fn rename(&mut self, name: &str, rows: &mut [TraceRow]) {
        /// More ids than a session has if they are numbers, fewer than if they are hashes.
        const MOST: u64 = 1 << 28;
        let runs = rows.iter().flat_map(|row| &row.hash_runs);
        let ids = runs.map(|run| run.end() + 1).max().unwrap_or(0);
        // Either way consecutive ids stay so, and below 2⁶⁴.
        let shift = if ids <= MOST { self.next_id } else { xxh3_64(name.as_bytes()) >> 1 };
        if ids <= MOST {
            self.next_id += ids;
        }
        for run in rows.iter_mut().flat_map(|row| &mut row.hash_runs) {
            *run = run.start() + shift..=run.end() + shift;
        }
    }
}

/// The ids of a call.
fn runs(call: &Fields) -> Result<Vec<Range<u64>>, TraceError> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    let mut push = |first: u64, count: u64| match runs.last_mut() {
        Some(last) if last.end == first => last.end += count,
        _ if count > 0 => runs.push(first..first + count),
        _ => {}
    };
    // Room for what makes them a session's own.
    let below = |id: u64| id < 1 << 62;
    if let Some(list) = call.list("hash_runs")? {
        for (place, run) in list.iter().enumerate() {
            let pair = run.as_array().map(|pair| pair.iter().map(whole).collect::<Vec<_>>());
            match pair.as_deref() {
                // More would make a prompt that is too long.
                Some(&[Some(first), Some(count)]) if below(first) && count <= MAX_INPUT_TOKENS => {
                    push(first, count);
                }
                _ => {
                    let key = format!("hash_runs[{place}]");
                    return Err(call.wrong(&key, run, "the first id of a run and how many there are"));
                }
            }
        }
        return Ok(runs);
    }
    for (place, id) in call.needed_list("hash_ids", "a list of ids, or `hash_runs`")?.iter().enumerate() {
        match id.as_u64().filter(|id| below(*id)) {
            Some(id) => push(id, 1),
            None => return Err(call.wrong(&format!("hash_ids[{place}]"), id, "a whole number from 0")),
        }
    }
    Ok(runs)
}
