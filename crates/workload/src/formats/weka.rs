//! WEKA's agentic traces: a session a line, with its calls in order, and blocks as a list of ids (`hash_ids`) or as runs
//! of consecutive ones (`hash_runs`, `[first, how many]`). Times are seconds from the start of the session.
//!
//! A call waits for the one before it and then for its `think_time`. The sub-agents of a session are containers with
//! calls of their own, and stand in the list where they ended; one begins `duration_ms` before, and waits for what had
//! ended by then: calls of its parent, or other sub-agents. The next call of the parent waits for all sub-agents that stand
//! before it.

use std::io::BufRead;
use std::ops::Range;

use serde_json::{Map, Value};
use xxhash_rust::xxh3::xxh3_64;

use super::json::{Fields, Items, Names, whole};
use crate::row::{MAX_INPUT_TOKENS, MAX_OUTPUT_TOKENS, hash_runs};
use crate::{Links, TimeUnit, Trace, TraceError, TraceForm, TraceRow};

/// Reads the sessions of a file.
pub(super) fn read(input: &mut dyn BufRead, form: &TraceForm) -> Result<Trace, TraceError> {
    let unit = form.unit.unwrap_or(TimeUnit::S);
    let mut reader = Reader { unit, trace: Trace::default(), names: Names::default(), next_id: 0, depth: 0 };
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
    /// In how many sub-agents what is read lies.
    depth: u32,
}

/// Rows of a session, the last ones of a call or of a sub-agent, and when that had ended, in ms of the session or of the
/// sub-agent that it is a part of.
#[derive(Debug, Clone)]
struct Ended {
    rows: Vec<usize>,
    at_ms: f64,
}

/// What a call waits for, and how long after that it is sent, in ms.
#[derive(Debug, Clone, Default)]
struct Start {
    rows: Vec<usize>,
    delay_ms: f64,
}

/// The calls of a session or of a sub-agent so far.
#[derive(Default)]
struct Thread {
    calls: Vec<Ended>,
    agents: Vec<Ended>,
    /// How many of the sub-agents stand before the last call.
    joined: usize,
}

impl Thread {
    /// When a sub-agent starts that began at `began_ms`; if nobody says when, as soon as it could.
    ///
    /// It waits for the last call that had ended by then, and for the sub-agents that ended between that and then; if nothing
    /// had ended, for the first call.
    fn start_of_agent(&self, began_ms: Option<f64>) -> Start {
        let had_ended = |ended: &&Ended| began_ms.is_none_or(|began| ended.at_ms <= began);
        let call = self.calls.iter().rfind(had_ended);
        let since = |agent: &&Ended| call.is_none_or(|call| agent.at_ms > call.at_ms);
        let agents = self.agents.iter().filter(had_ended).filter(since);
        let mut before: Vec<&Ended> = call.into_iter().chain(agents).collect();
        if before.is_empty() {
            before.extend(self.calls.first());
        }
        let ended_ms = before.iter().map(|ended| ended.at_ms).fold(0.0, f64::max);
        let delay_ms = began_ms.map_or(0.0, |began| (began - ended_ms).max(0.0));
        Start { rows: before.iter().flat_map(|ended| &ended.rows).copied().collect(), delay_ms }
    }

    /// The sub-agents since the last call.
    fn open(&self) -> &[Ended] {
        &self.agents[self.joined..]
    }

    /// The rows with which it ends.
    fn last_rows(&self) -> Vec<usize> {
        self.calls.last().into_iter().chain(self.open()).flat_map(|ended| &ended.rows).copied().collect()
    }
}

impl Reader {
    fn session(&mut self, session: &Fields) -> Result<(), TraceError> {
        let name = session.name("id")?.ok_or_else(|| session.missing("id", "the name of the session"))?;
        self.names.add(session, "id", "")?;
        self.block_size(session)?;
        let mut calls = Vec::new();
        self.calls(session, &name, &Start::default(), &mut calls)?;
        let mut rows = rows_of(calls, &name);
        match session.get("hash_id_scope").map(|scope| (scope, scope.as_str())) {
            None | Some((_, Some("local"))) => self.rename(&name, &mut rows),
            Some((_, Some("global"))) => {}
            Some((scope, _)) => return Err(session.wrong("hash_id_scope", scope, "`local` or `global`")),
        }
        self.trace.rows.append(&mut rows);
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

    /// Takes in the calls of a session, or of a sub-agent, of which the first one starts then; the rows with which it ends.
    fn calls(
        &mut self,
        of: &Fields,
        name: &str,
        begin: &Start,
        rows: &mut Vec<(Start, TraceRow)>,
    ) -> Result<Vec<usize>, TraceError> {
        let mut thread = Thread::default();
        for (place, value) in of.needed_list("requests", "a list of calls")?.iter().enumerate() {
            let call = of.element("requests", place, value)?;
            if call.get("requests").is_none() {
                let start = self.start_of_call(&call, &thread, begin)?;
                let ended = Ended { rows: vec![rows.len()], at_ms: self.answered_ms(&call)? };
                rows.push((start, self.row(&call, name)?));
                thread.calls.push(ended);
                thread.joined = thread.agents.len();
                continue;
            }
            let at_ms = self.time_ms(&call)?;
            // What it lasted may be unknown.
            let lasted_ms = call.duration_ms("duration_ms", TimeUnit::Ms)?;
            let mut start = thread.start_of_agent(lasted_ms.map(|ms| at_ms - ms));
            if start.rows.is_empty() {
                start.rows.clone_from(&begin.rows);
                start.delay_ms += begin.delay_ms;
            }
            let first = rows.len();
            self.depth += 1;
            let ends = self.calls(&call, name, &start, rows)?;
            self.depth -= 1;
            if self.depth == 0 {
                rows[first..].iter().for_each(|(_, row)| self.trace.notes.sub_agents.add(row.line));
            }
            if !ends.is_empty() {
                thread.agents.push(Ended { rows: ends, at_ms });
            }
        }
        Ok(thread.last_rows())
    }

    /// When a call is sent; after sub-agents what is left of the time to think.
    fn start_of_call(&mut self, call: &Fields, thread: &Thread, begin: &Start) -> Result<Start, TraceError> {
        let (sent_ms, think_ms) = (self.time_ms(call)?, call.duration_ms("think_time", self.unit)?);
        let rows = thread.last_rows();
        if !thread.open().is_empty() {
            let before = thread.calls.last().into_iter().chain(thread.open());
            let ended_ms = before.map(|ended| ended.at_ms).fold(0.0, f64::max);
            return Ok(Start { rows, delay_ms: (sent_ms - ended_ms).max(0.0) });
        }
        if thread.calls.is_empty() {
            return Ok(begin.clone());
        }
        if think_ms.is_none() {
            self.trace.notes.without_gap.add(call.line);
        }
        Ok(Start { rows, delay_ms: think_ms.unwrap_or(0.0) })
    }

    /// When a call had its answer, in ms of the session or of its sub-agent.
    fn answered_ms(&self, call: &Fields) -> Result<f64, TraceError> {
        Ok(self.time_ms(call)? + call.duration_ms("api_time", self.unit)?.unwrap_or(0.0))
    }

    fn time_ms(&self, call: &Fields) -> Result<f64, TraceError> {
        call.time_ms("t", self.unit)?.ok_or_else(|| call.missing("t", "when it was sent, from the start"))
    }

    /// The row of a call, without what says when it is sent.
    fn row(&mut self, call: &Fields, name: &str) -> Result<TraceRow, TraceError> {
        let input = call.needed_tokens("in", MAX_INPUT_TOKENS)?;
        let output = call.needed_tokens("out", MAX_OUTPUT_TOKENS)?;
        if input == 0 {
            return Err(call.wrong("in", &0.into(), crate::row::tokens_up_to(MAX_INPUT_TOKENS)));
        }
        if output == 0 {
            self.trace.notes.made_one_token.add(call.line);
        }
        Ok(TraceRow {
            line: call.line,
            session_id: Some(name.to_owned()),
            input_length: Some(input),
            output_length: output.max(1),
            hash_runs: hash_runs(runs(call)?),
            ..TraceRow::default()
        })
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

/// The rows of a session, which name one another where one waits for others than the one before it.
fn rows_of(calls: Vec<(Start, TraceRow)>, session: &str) -> Vec<TraceRow> {
    let is_before = |(place, (start, _)): (usize, &(Start, TraceRow))| {
        start.rows.iter().copied().eq(place.checked_sub(1))
    };
    let is_chain = calls.iter().enumerate().all(is_before);
    let id = |place: usize| format!("{session}:{place}").into_boxed_str();
    // The session begins with the first of those that wait for nothing.
    let roots = calls.iter().filter(|(start, _)| start.rows.is_empty());
    let begins_ms = roots.map(|(start, _)| start.delay_ms).fold(f64::INFINITY, f64::min);
    let row = |(place, (start, row)): (usize, (Start, TraceRow))| {
        let links = (!is_chain).then(|| Links {
            request_id: Some(id(place)),
            wait_for: Some(start.rows.iter().copied().map(id).collect()),
            ..Links::default()
        });
        let since_ms = if start.rows.is_empty() { begins_ms } else { 0.0 };
        let delay_ms = Some(start.delay_ms - since_ms).filter(|ms| *ms > 0.0 || !start.rows.is_empty());
        TraceRow { delay_ms, links: links.map(Box::new), ..row }
    };
    calls.into_iter().enumerate().map(row).collect()
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
