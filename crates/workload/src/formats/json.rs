//! The objects of a JSON text, wherever its lines break, and what is in them.

use std::collections::hash_map::Entry;
use std::io::BufRead;
use std::str;

use rustc_hash::FxHashMap;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::graph::Links;
use crate::row::{delay_in, is_delay, is_timestamp, timestamp_in, tokens_up_to};
use crate::{TimeUnit, TraceError, TraceRow, fields, reader};

/// The longest object that is read, in bytes: it has to be in memory as a whole.
const LONGEST_ITEM: usize = 1 << 30;

/// The objects of a JSON text, one after another: JSON Lines, one list, or objects over several lines.
pub(crate) struct Items<'a> {
    input: &'a mut dyn BufRead,
    /// The line at which the input stands, from 1.
    line: u64,
    /// Whether the objects are the elements of a list, and where that stands.
    list: List,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum List {
    /// Nothing has been read.
    Unknown,
    /// The objects are in no list.
    None,
    /// Within the list.
    Open,
    /// Behind an element, where only a comma or the end may follow.
    Element,
    /// Behind the list.
    Closed,
}

/// The names of what stands in a file once, each with its line.
#[derive(Debug, Default)]
pub(crate) struct Names(FxHashMap<(String, String), u64>);

impl Names {
    /// Adds the name that an object has at `key`, if it has one; equal names in other scopes are others.
    pub(crate) fn add(&mut self, object: &Fields, key: &str, scope: &str) -> Result<(), TraceError> {
        let (Some(name), Some(value)) = (object.name(key)?, object.get(key)) else { return Ok(()) };
        match self.0.entry((scope.to_owned(), name)) {
            Entry::Vacant(new) => {
                new.insert(object.line);
                Ok(())
            }
            Entry::Occupied(first) => {
                let first = first.get();
                Err(object.wrong(key, value, format!("a name of its own: line {first} has it")))
            }
        }
    }
}

/// The text of an object.
pub(crate) struct Item {
    /// The line at which it begins.
    pub(crate) line: u64,
    text: String,
}

impl<'a> Items<'a> {
    pub(crate) fn new(input: &'a mut dyn BufRead) -> Self {
        Self { input, line: 1, list: List::Unknown }
    }

    /// The next object, or `None` at the end of the text.
    pub(crate) fn next(&mut self) -> Result<Option<Item>, TraceError> {
        loop {
            let Some(byte) = self.byte()? else {
                return if matches!(self.list, List::Open | List::Element) {
                    Err(self.cut_off("the list".to_owned()))
                } else {
                    Ok(None)
                };
            };
            match (byte, self.list) {
                (b'\n', _) => self.line += 1,
                (b' ' | b'\t' | b'\r', _) => {}
                (b'\xef', List::Unknown) if self.line == 1 => self.byte_order_mark()?,
                (b'[', List::Unknown) | (b',', List::Element) => self.list = List::Open,
                (b']', List::Open | List::Element) => self.list = List::Closed,
                (b'{', List::Unknown | List::None | List::Open) => {
                    self.list = if self.list == List::Open { List::Element } else { List::None };
                    return self.object().map(Some);
                }
                (_, List::Element) => return Err(self.unexpected(byte, "a comma or the end of the list")),
                (_, List::Closed) => return Err(self.unexpected(byte, "nothing behind the list")),
                _ => return Err(self.unexpected(byte, "a JSON object")),
            }
        }
    }

    /// The rest of an object that has begun.
    fn object(&mut self) -> Result<Item, TraceError> {
        let (line, mut bytes) = (self.line, vec![b'{']);
        let (mut depth, mut in_string, mut escaped) = (1_u32, false, false);
        while depth > 0 {
            let buffer =
                self.input.fill_buf().map_err(|source| TraceError::Read { line: self.line, source })?;
            if buffer.is_empty() {
                return Err(self.cut_off(format!("the object that begins at line {line}")));
            }
            let mut used = 0;
            for &byte in buffer {
                used += 1;
                self.line += u64::from(byte == b'\n');
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' if in_string => escaped = true,
                    b'"' => in_string = !in_string,
                    b'{' | b'[' if !in_string => depth += 1,
                    b'}' | b']' if !in_string => depth -= 1,
                    _ => {}
                }
                if depth == 0 {
                    break;
                }
            }
            bytes.extend_from_slice(&buffer[..used]);
            self.input.consume(used);
            if bytes.len() > LONGEST_ITEM {
                return Err(self.wrong(&format!("the object has more than {} MiB", LONGEST_ITEM >> 20)));
            }
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let before = &error.as_bytes()[..error.utf8_error().valid_up_to()];
            let start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            let breaks = before.split(|byte| *byte == b'\n').count() as u64 - 1;
            TraceError::NotUtf8 { line: line + breaks, byte: before.len() - start + 1 }
        })?;
        Ok(Item { line, text })
    }

    fn byte(&mut self) -> Result<Option<u8>, TraceError> {
        let line = self.line;
        let buffer = self.input.fill_buf().map_err(|source| TraceError::Read { line, source })?;
        let byte = buffer.first().copied();
        if byte.is_some() {
            self.input.consume(1);
        }
        Ok(byte)
    }

    fn byte_order_mark(&mut self) -> Result<(), TraceError> {
        for expected in *b"\xbb\xbf" {
            if self.byte()? != Some(expected) {
                return Err(TraceError::NotUtf8 { line: 1, byte: 1 });
            }
        }
        Ok(())
    }

    fn cut_off(&self, within: String) -> TraceError {
        TraceError::CutOff { line: self.line, within }
    }

    fn wrong(&self, problem: &str) -> TraceError {
        TraceError::NotJson { line: self.line, column: 1, problem: problem.to_owned() }
    }

    fn unexpected(&self, byte: u8, expected: &str) -> TraceError {
        let found = byte.escape_ascii();
        self.wrong(&format!("expected {expected}, but found `{found}`"))
    }
}

impl Item {
    /// What the text says, as far as it is looked at.
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> Result<T, TraceError> {
        serde_json::from_str(&self.text).map_err(|error| self.not_json(&error))
    }

    /// The syntax error, or wrong type, at its place in the file.
    fn not_json(&self, error: &serde_json::Error) -> TraceError {
        if error.line() <= 1 && error.is_syntax() {
            return reader::not_json(&self.text, self.line, error);
        }
        let problem = reader::expectation(&error.to_string()).to_owned();
        let line = self.line + (error.line() as u64).saturating_sub(1);
        TraceError::NotJson { line, column: error.column(), problem }
    }
}

/// An object of a file, and where it stands.
#[derive(Clone)]
pub(crate) struct Fields<'a> {
    /// The line of the file, or where entries have none, the number of the entry, from 1.
    pub(crate) line: u64,
    /// What leads to it within the row, with a dot at the end.
    path: String,
    object: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(line: u64, object: &'a Map<String, Value>) -> Self {
        Self { line, path: String::new(), object }
    }

    /// The same object at `path` within its file.
    pub(crate) fn within(self, path: &str) -> Self {
        Self { path: format!("{path}."), ..self }
    }

    /// The value of a key; null is no value.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    pub(crate) fn missing(&self, key: &str, expected: &'static str) -> TraceError {
        TraceError::Missing { line: self.line, field: format!("{}{key}", self.path).into(), expected }
    }

    pub(crate) fn wrong(&self, key: &str, value: &Value, expected: impl Into<String>) -> TraceError {
        let field = format!("{}{key}", self.path);
        let found = fields::described(&value.to_string());
        TraceError::Value { line: self.line, field, found, expected: expected.into() }
    }

    /// A number of tokens, 0 included.
    pub(crate) fn tokens(&self, key: &str, most: u64) -> Result<Option<u64>, TraceError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let tokens = whole(value).filter(|tokens| *tokens <= most);
        tokens.map(Some).ok_or_else(|| self.wrong(key, value, tokens_up_to(most)))
    }

    pub(crate) fn needed_tokens(&self, key: &str, most: u64) -> Result<u64, TraceError> {
        self.tokens(key, most)?.ok_or_else(|| self.missing(key, "a number of tokens"))
    }

    /// A time from any origin, in milliseconds.
    pub(crate) fn time_ms(&self, key: &str, unit: TimeUnit) -> Result<Option<f64>, TraceError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let ms = number(value).map(|time| unit.to_ms(time)).filter(|ms| is_timestamp(*ms));
        ms.map(Some).ok_or_else(|| self.wrong(key, value, timestamp_in(unit)))
    }

    /// A length of time, in milliseconds.
    pub(crate) fn duration_ms(&self, key: &str, unit: TimeUnit) -> Result<Option<f64>, TraceError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let ms = number(value).map(|time| unit.to_ms(time)).filter(|ms| is_delay(*ms));
        ms.map(Some).ok_or_else(|| self.wrong(key, value, delay_in(unit)))
    }

    /// A name: a string, or a whole number.
    pub(crate) fn name(&self, key: &str) -> Result<Option<String>, TraceError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(name)) => Ok(Some(name.clone())),
            Some(Value::Number(number)) if !number.is_f64() => Ok(Some(number.to_string())),
            Some(value) => Err(self.wrong(key, value, "a string or a whole number")),
        }
    }

    /// Gives a row what rows of any form may say beside times, lengths and content: class, adapter and grammar.
    pub(crate) fn add_labels(&self, row: &mut TraceRow) -> Result<(), TraceError> {
        let label = |key| Ok(self.name(key)?.filter(|name| !name.is_empty()).map(Box::from));
        row.class = label("class")?.or(row.class.take());
        row.lora = label("lora")?.or(row.lora.take());
        row.grammar = label("grammar")?.or(row.grammar.take());
        Ok(())
    }

    /// What a row says of others; `None` if it says nothing.
    pub(crate) fn links(&self) -> Result<Option<Box<Links>>, TraceError> {
        let names = |key: &str| -> Result<Option<Vec<Box<str>>>, TraceError> {
            let wrong = |value: &Value| self.wrong(key, value, "a list of request ids");
            let Some(list) = self.get(key) else { return Ok(None) };
            let name = |value: &Value| match value {
                Value::String(name) => Ok(name.as_str().into()),
                Value::Number(number) if number.is_i64() || number.is_u64() => Ok(number.to_string().into()),
                _ => Err(wrong(list)),
            };
            let names = list.as_array().ok_or_else(|| wrong(list))?.iter().map(name);
            names.collect::<Result<_, _>>().map(Some)
        };
        let links = Links {
            request_id: self.name("request_id")?.map(Box::from),
            wait_for: names("wait_for")?,
            branches: names("branches")?.unwrap_or_default(),
            prefix_reset: match self.get("prefix_reset") {
                None => false,
                Some(value) => {
                    value.as_bool().ok_or_else(|| self.wrong("prefix_reset", value, "true or false"))?
                }
            },
        };
        Ok((links != Links::default()).then(|| Box::new(links)))
    }

    /// A text, as it stands there.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&'a str>, TraceError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(value) => Err(self.wrong(key, value, "a string")),
        }
    }

    /// The number of tokens at `place` of a list, 0 included.
    pub(crate) fn tokens_at(&self, key: &str, place: usize, most: u64) -> Result<u64, TraceError> {
        let value = self.get(key).and_then(|list| list.get(place)).unwrap_or(&Value::Null);
        let tokens = whole(value).filter(|tokens| *tokens <= most);
        tokens.ok_or_else(|| self.wrong(&format!("{key}[{place}]"), value, tokens_up_to(most)))
    }

    /// The length of time at `place` of a list, in milliseconds.
    pub(crate) fn duration_ms_at(&self, key: &str, place: usize, unit: TimeUnit) -> Result<f64, TraceError> {
        let value = self.get(key).and_then(|list| list.get(place)).unwrap_or(&Value::Null);
        let ms = number(value).map(|time| unit.to_ms(time)).filter(|ms| is_delay(*ms));
        ms.ok_or_else(|| self.wrong(&format!("{key}[{place}]"), value, delay_in(unit)))
    }

    pub(crate) fn list(&self, key: &str) -> Result<Option<&'a [Value]>, TraceError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(value) => Err(self.wrong(key, value, "a list")),
        }
    }

    pub(crate) fn needed_list(&self, key: &str, expected: &'static str) -> Result<&'a [Value], TraceError> {
        self.list(key)?.ok_or_else(|| self.missing(key, expected))
    }

    /// The objects of a list that must be there.
    pub(crate) fn elements(
        &self,
        key: &'static str,
    ) -> Result<impl Iterator<Item = Result<Self, TraceError>> + use<'a>, TraceError> {
        let of = self.clone();
        let list = self.needed_list(key, "a list of objects")?;
        Ok(list.iter().enumerate().map(move |(place, value)| of.element(key, place, value)))
    }

    /// The element of a list under `key`, which must be an object.
    pub(crate) fn element(&self, key: &str, place: usize, value: &'a Value) -> Result<Self, TraceError> {
        let key = format!("{key}[{place}]");
        match value {
            Value::Object(object) => {
                Ok(Self { line: self.line, path: format!("{}{key}.", self.path), object })
            }
            other => Err(self.wrong(&key, other, "an object")),
        }
    }

    pub(crate) fn object(&self, key: &str) -> Result<Option<Self>, TraceError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Object(object)) => {
                Ok(Some(Self { line: self.line, path: format!("{}{key}.", self.path), object }))
            }
            Some(value) => Err(self.wrong(key, value, "an object")),
        }
    }
}

/// A whole number from 0; programs that know of no whole numbers write `44.0`.
pub(crate) fn whole(value: &Value) -> Option<u64> {
    let integral = |number: &f64| number.fract() == 0.0 && (0.0..=1e15).contains(number);
    value.as_u64().or_else(|| value.as_f64().filter(integral).map(|number| number as u64))
}

/// A number, which may stand in quotes: 64-bit ones often do.
pub(crate) fn number(value: &Value) -> Option<f64> {
    let number = value.as_f64().or_else(|| value.as_str()?.parse().ok());
    number.filter(|number| number.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The line and text of each object, or what is wrong.
    fn items(text: &str) -> Result<Vec<(u64, String)>, String> {
        let mut input = std::io::BufReader::with_capacity(3, text.as_bytes());
        let mut items = Items::new(&mut input);
        let mut found = Vec::new();
        while let Some(item) = items.next().map_err(|error| error.to_string())? {
            found.push((item.line, item.text));
        }
        Ok(found)
    }

    #[test]
    fn objects_stand_in_lines_in_a_list_or_by_themselves() {
        let (one, two) = (r#"{"a": "\"}{", "b": [{}]}"#, "{\n  \"c\": 1\n}");
        let both = |lines: [u64; 2]| Ok(vec![(lines[0], one.to_owned()), (lines[1], two.to_owned())]);
        assert_eq!(items(&format!("{one}\r\n\n{two}\n")), both([1, 3]));
        assert_eq!(items(&format!("\u{feff}[\n {one} ,{two}]\n")), both([2, 2]));
        assert_eq!(items(&format!("{one}{two}")), both([1, 1]));
        assert_eq!(items("[]"), Ok(vec![]));
        assert_eq!(items(""), Ok(vec![]));
    }

    #[test]
    fn what_is_between_objects_must_be_right() {
        for (text, problem) in [
            (
                "[{}\n{}]",
                "line 2, column 1: not valid JSON: expected a comma or the end of the list, but found `{`",
            ),
            ("[{}", "the file ends within the list: it is cut off"),
            (
                "{}\n{\"a\": [1,\n",
                "line 3: the file ends within the object that begins at line 2: it is cut off",
            ),
            ("[{}]\n{}", "expected nothing behind the list, but found `{`"),
            ("{}, {}", "expected a JSON object, but found `,`"),
            ("[1]", "expected a JSON object, but found `1`"),
        ] {
            let error = items(text).unwrap_err();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_wrong_in_an_object_is_said_with_its_line() {
        let mut input = "\n{\n\"a\": 1,\n\"b\": nope}".as_bytes();
        let item = Items::new(&mut input).next().unwrap().unwrap();
        let error = item.parse::<Value>().unwrap_err().to_string();
        assert_eq!(error, "line 4, column 7: not valid JSON: expected `true`, `false` or `null`");
    }
}
