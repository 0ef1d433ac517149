//! JSON Lines, a row at a time.

use std::io::{self, Write};

use serde::Serialize;

/// Writes rows to an output.
pub struct Rows<W> {
    out: W,
    /// Kept for its memory.
    line: Vec<u8>,
}

impl<W: Write> Rows<W> {
    /// Rows that go to `out`.
    pub fn new(out: W) -> Self {
        Self { out, line: Vec::new() }
    }

    /// Writes a row and ends its line.
    pub fn write(&mut self, row: &impl Serialize) -> io::Result<()> {
        self.line.clear();
        serde_json::to_writer(&mut self.line, row)?;
        self.line.push(b'\n');
        self.out.write_all(&self.line)
    }

    /// Where rows go.
    pub fn out(&self) -> &W {
        &self.out
    }

    /// Where rows went.
    pub fn into_inner(self) -> W {
        self.out
    }
}
