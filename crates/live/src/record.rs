//! What came in, as a trace that `servecast replay` takes.

use std::fmt;
use std::io::{self, Write};

use serde::Serialize;
use servecast_types::Time;

use crate::content;
use crate::deployment::Request;

/// A trace that is being written: a JSON line a request, with its token ids and the time at which it came.
pub(crate) struct Log {
    out: Box<dyn Write + Send>,
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Log")
    }
}

/// A line of a workload with token ids.
#[derive(Serialize)]
struct Row<'a> {
    arrival_time_ns: u64,
    input_toks: usize,
    output_toks: usize,
    /// Of a salted prompt the first one stands for salt and token.
    input_tok_ids: Vec<u64>,
    output_tok_ids: &'a [u32],
    /// What was asked for, if the answer ends before.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_output_toks: Option<u32>,
    #[serde(skip_serializing_if = "is_usual")]
    priority: i32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands it over so")]
fn is_usual(priority: &i32) -> bool {
    *priority == 0
}

impl Log {
    pub(crate) fn new(out: Box<dyn Write + Send>) -> Self {
        Self { out }
    }

    /// A request came. It is written at once, so that a server that is killed leaves what it had.
    pub(crate) fn write(&mut self, request: &Request, now: Time) -> io::Result<()> {
        let row = Row {
            arrival_time_ns: now.as_ns(),
            input_toks: request.prompt.len(),
            output_toks: request.output.len(),
            input_tok_ids: content::ids(&request.prompt, request.salt.as_ref()).collect(),
            output_tok_ids: &request.output,
            max_output_toks: Some(request.max_tokens).filter(|&most| most as usize > request.output.len()),
            priority: request.priority,
        };
        let mut line = serde_json::to_vec(&row)?;
        line.push(b'\n');
        self.out.write_all(&line)
    }

    /// Nothing more comes.
    pub(crate) fn finish(mut self) -> io::Result<()> {
        self.out.flush()
    }
}
