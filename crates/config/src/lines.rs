//! Input whose lines may not be longer than a row can be.

use std::io::{self, BufRead, Read};

use memchr::{memchr_iter, memrchr};

/// The longest line of an input: eight times what a prompt of a million token ids takes.
///
/// What goes on beyond that is no file of lines, or a small packed file that unpacks to no end, and would sooner or later
/// take all memory.
pub const LONGEST_LINE: u64 = 1 << 28;

/// A line is too long.
#[derive(Debug, thiserror::Error)]
#[error("line {line} has more than {} MiB: every row is a line of its own", limit >> 20)]
pub struct LongLine {
    line: u64,
    limit: u64,
}

/// Passes an input on as far as its lines have no more bytes than the limit.
pub struct Lines<R> {
    input: R,
    limit: u64,
    /// The line that is being read, from 1.
    line: u64,
    /// Bytes of that line so far.
    length: u64,
}

impl<R: BufRead> Lines<R> {
    /// An input that fails at a line of more than `limit` bytes.
    pub fn new(input: R, limit: u64) -> Self {
        Self { input, limit, line: 1, length: 0 }
    }
}

impl<R: BufRead> BufRead for Lines<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.length > self.limit {
            let error = LongLine { line: self.line, limit: self.limit };
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        self.input.fill_buf()
    }

    fn consume(&mut self, amount: usize) {
        // What is consumed has been read, so this does not fail.
        let read =
            self.input.fill_buf().map(|buffer| &buffer[..amount.min(buffer.len())]).unwrap_or_default();
        match memrchr(b'\n', read) {
            Some(end) => {
                self.line += memchr_iter(b'\n', read).count() as u64;
                self.length = (read.len() - end - 1) as u64;
            }
            None => self.length += read.len() as u64,
        }
        self.input.consume(amount);
    }
}

impl<R: BufRead> Read for Lines<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let mut buffer = self.fill_buf()?;
        let amount = buffer.read(out)?;
        self.consume(amount);
        Ok(amount)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read through a buffer of `capacity` bytes with lines of at most 5.
    fn read(text: &str, capacity: usize) -> Result<String, String> {
        let mut out = String::new();
        let input = io::BufReader::with_capacity(capacity, text.as_bytes());
        let result = Lines::new(input, 5).read_to_string(&mut out);
        result.map(|_| out).map_err(|error| error.to_string())
    }

    #[test]
    fn lines_pass_up_to_their_limit() {
        let line_3 = "line 3 has more than 0 MiB: every row is a line of its own".to_owned();
        for capacity in [1, 2, 3, 6, 100] {
            for text in ["", "\n\n", "12345\n12345", "1\n\n12345\n"] {
                assert_eq!(read(text, capacity), Ok(text.to_owned()), "{text:?} by {capacity}");
            }
        }
        for capacity in [1, 2, 4] {
            assert_eq!(read("12345\n\n1234567890\n", capacity), Err(line_3.clone()), "by {capacity}");
        }
    }

    #[test]
    fn a_line_without_an_end_is_given_up() {
        let input = io::BufReader::new(io::repeat(b'x'));
        let error = Lines::new(input, LONGEST_LINE / 1000).lines().next().unwrap().unwrap_err();
        assert!(
            error.get_ref().is_some_and(<dyn std::error::Error + Send + Sync>::is::<LongLine>),
            "{error}"
        );
    }
}
