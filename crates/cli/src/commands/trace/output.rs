//! Rows as a file.

use std::io;
use std::path::Path;

use servecast_workload::{TraceRow, write_mooncake};

use crate::config::DEFAULT_TRACE_BLOCK_SIZE;
use crate::error::Failure;
use crate::files::{self, OutputFile, note};
use crate::interrupt::Interrupt;

/// Writes rows whose ids stand for `block_size` tokens, to a file with a note of how to replay it.
pub(super) fn write(
    rows: &[TraceRow],
    block_size: u32,
    path: &Path,
    interrupt: &Interrupt,
) -> Result<(), Failure> {
    if files::is_standard_stream(path) {
        let stdout = io::BufWriter::with_capacity(1 << 16, io::stdout().lock());
        return write_mooncake(rows, stdout).map_err(|error| Failure::write("standard output", &error));
    }
    interrupt.defer()?;
    let mut file = OutputFile::create(path)?;
    for rows in rows.chunks(1024) {
        write_mooncake(rows, &mut Unflushed(&mut file)).map_err(|error| file.failure(&error))?;
        interrupt.check()?;
    }
    file.commit()?;
    let size = if block_size == DEFAULT_TRACE_BLOCK_SIZE {
        String::new()
    } else {
        format!(" --trace-block-size {block_size}")
    };
    note(&format!("wrote {} requests; try `servecast replay {}{size}`", rows.len(), path.display()));
    Ok(())
}

/// Leaves out the flushes between chunks, which would end a compressed frame each.
struct Unflushed<'a>(&'a mut OutputFile);

impl io::Write for Unflushed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
