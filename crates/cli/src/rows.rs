//! JSON Lines, a row at a time.

use std::io::{self, Write};

use serde::Serialize;

/// Writes rows to an output.
pub(crate) struct Rows<W> {
    out: W,
    /// Kept for its memory.
    line: Vec<u8>,
}

impl<W: Write> Rows<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, line: Vec::new() }
    }

    pub(crate) fn write(&mut self, row: &impl Serialize) -> io::Result<()> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, row)?;
        self.line.push(b'\n');
        self.out.write_all(&self.line)
    }

    pub(crate) fn out(&self) -> &W {
        &self.out
    }

    pub(crate) fn into_inner(self) -> W {
        self.out
    }
}
