//! The text of a Chrome trace event.

use servecast_types::Time;

/// The text of one event. All of it is ours but numbers, so nothing needs escaping.
#[derive(Default)]
pub(super) struct Event {
    text: Vec<u8>,
    has_args: bool,
    numbers: itoa::Buffer,
}

impl Event {
    /// Starts anew, with an event of a kind: `X` a span, `C` a counter, `M` a name.
    pub(super) fn begin(&mut self, phase: &str) -> &mut Self {
        self.text.clear();
        self.has_args = false;
        self.push("{\"ph\":\"").push(phase).push("\"")
    }

    fn push(&mut self, text: &str) -> &mut Self {
        self.text.extend_from_slice(text.as_bytes());
        self
    }

    fn push_number(&mut self, number: u64) -> &mut Self {
        self.text.extend_from_slice(self.numbers.format(number).as_bytes());
        self
    }

    fn key(&mut self, key: &str) -> &mut Self {
        if self.text.last() != Some(&b'{') {
            self.push(",");
        }
        self.push("\"").push(key).push("\":")
    }

    /// A key with a number.
    pub(super) fn number(&mut self, key: &str, number: u64) -> &mut Self {
        self.key(key).push_number(number)
    }

    /// A text of several parts, with a number at its end.
    pub(super) fn text(&mut self, key: &str, parts: &[&str], number: Option<u32>) -> &mut Self {
        self.key(key).push("\"");
        for part in parts {
            self.push(part);
        }
        if let Some(number) = number {
            self.push_number(u64::from(number));
        }
        self.push("\"")
    }

    /// The process and the track that it belongs to.
    pub(super) fn place(&mut self, process: usize, track: Option<u32>) -> &mut Self {
        self.number("pid", process as u64);
        match track {
            Some(track) => self.number("tid", u64::from(track)),
            None => self,
        }
    }

    /// When it begins, and how long it is.
    pub(super) fn span(&mut self, start: Time, end: Time) -> &mut Self {
        self.time("ts", start.as_ns()).time("dur", end.since(start).as_ns())
    }

    /// Nanoseconds as microseconds, the unit of the format, exactly.
    pub(super) fn time(&mut self, key: &str, ns: u64) -> &mut Self {
        self.number(key, ns / 1000);
        let rest = (ns % 1000) as u32;
        if rest > 0 {
            let digits = [rest / 100, rest / 10 % 10, rest % 10].map(|digit| b'0' + digit as u8);
            self.text.push(b'.');
            self.text.extend_from_slice(&digits);
        }
        self
    }

    /// What follows says more about it.
    pub(super) fn args(&mut self) -> &mut Self {
        self.has_args = true;
        self.key("args").push("{")
    }

    /// The whole text.
    pub(super) fn end(&mut self) -> &[u8] {
        if self.has_args {
            self.push("}");
        }
        self.push("}");
        &self.text
    }
}
