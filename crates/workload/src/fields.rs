//! From the text of one JSON object to a row: keys, their types, and what to say when they are wrong.
//!
//! Values stay text until their key is known, so that a message can show what stands in the file, and so that no id
//! goes through a float.

mod keys;

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use self::keys::{DELAY, INPUT_LENGTH, KEYS, Key, KeySeed, OUTPUT_LENGTH, TIMESTAMP, near_miss};
use crate::graph::Links;
use crate::row::{self, MAX_INPUT_TOKENS, MAX_OUTPUT_TOKENS, TraceRow};
use crate::unit::date_ms;
use crate::{TimeUnit, TraceError};

/// A date for messages.
const DATE: &str = "2026-01-31T12:00:00.5Z";

/// Keys of the Bailian (Qwen) traces.
const CHAT: [&str; 3] = ["chat_id", "parent_chat_id", "type"];

/// The values of one object by key, not yet interpreted.
#[derive(Debug, Default)]
pub(crate) struct Object<'a> {
    values: [Option<&'a RawValue>; KEYS.len()],
    /// The hash ids, if they have been read already.
    hash_ids: Option<Vec<u64>>,
    twice: Option<&'static str>,
    /// The values of [`CHAT`], which are keys that mean nothing but there.
    chat: [Option<&'a RawValue>; 3],
    /// Keys that mean nothing here.
    pub(crate) unknown: Vec<String>,
}

impl<'a> Object<'a> {
    /// Parses the text of one object; `Err` is the parser's view of the syntax. `ids` is kept for its memory.
    pub(crate) fn parse(text: &'a str, ids: &mut Vec<u64>) -> serde_json::Result<Self> {
        // Hash ids are most of a trace, so they are read with the rest of the line. If anything is wrong with it, it is
        // read again with all values as text, to say what.
        Self::parse_with(text, Some(ids)).or_else(|_| Self::parse_with(text, None))
    }

    fn parse_with(text: &'a str, ids: Option<&mut Vec<u64>>) -> serde_json::Result<Self> {
        let mut parser = serde_json::Deserializer::from_str(text);
        let object = parser.deserialize_map(ObjectVisitor { ids })?;
        parser.end()?;
        Ok(object)
    }

    /// The row that the object stands for; its times are in `unit`, or if nobody says, timestamps are left as they are.
    pub(crate) fn row(&mut self, line: u64, unit: Option<TimeUnit>) -> Result<TraceRow, TraceError> {
        self.check_keys(line)?;
        if self.has_token_ids() {
            return self.token_row(line, unit);
        }
        let session_id = self.field(line, Key::SessionId).map(|field| field.name()).transpose()?;
        let timestamp_ms = self.either(line, TIMESTAMP)?.map(|field| field.timestamp(unit)).transpose()?;
        let delay_ms = self.delay(line, unit)?;
        let input_length = self.either(line, INPUT_LENGTH)?;
        let input_length = input_length.map(|field| field.tokens(MAX_INPUT_TOKENS)).transpose()?;
        let output_length = self
            .either(line, OUTPUT_LENGTH)?
            .ok_or(TraceError::Missing {
                line,
                field: OUTPUT_LENGTH[0].name().into(),
                expected: "the number of tokens to generate, from 1 to 999999",
            })?
            .tokens(MAX_OUTPUT_TOKENS)?;
        let hash_ids = match self.hash_ids.take() {
            Some(ids) => Some(ids),
            None => self.field(line, Key::HashIds).map(|field| field.hash_ids()).transpose()?,
        };
        // Null where a list belongs is no list that was left out.
        if hash_ids.is_none() && (input_length.is_none() || self.has(Key::HashIds)) {
            return Err(TraceError::Missing {
                line,
                field: Key::HashIds.name().into(),
                expected: "a list with an id for every block of the prompt, or leave it out beside `input_length`: \
                           nothing is shared then",
            });
        }
        Ok(TraceRow {
            line,
            session_id,
            timestamp_ms,
            delay_ms,
            input_length,
            output_length,
            shares_nothing: hash_ids.is_none(),
            hash_ids: hash_ids.unwrap_or_default(),
            hash_runs: Vec::new(),
            output_ids: self.ids(line, Key::OutputHashIds)?,
            priority: self.field(line, Key::Priority).map_or(Ok(0), |field| field.priority())?,
            max_output: self.max_output(line)?,
            class: self.class(line)?,
            lora: self.label(line, Key::Lora)?,
            grammar: self.label(line, Key::Grammar)?,
            links: self.links(line)?,
        })
    }

    /// Whether its timestamp is a date.
    pub(crate) fn is_dated(&self) -> bool {
        TIMESTAMP.iter().filter_map(|key| self.raw(*key)).any(|raw| raw.get().starts_with('"'))
    }

    /// What a row of the Bailian (Qwen) traces is called, and the row before it in its chat, as they stand there;
    /// `None` if it is no such row.
    pub(crate) fn chat_and_parent(&self) -> Option<(&'a str, &'a str)> {
        let [chat, parent, _] = self.chat;
        Some((chat?.get(), parent?.get()))
    }

    /// Whether it is a row of a workload with token ids.
    pub(crate) fn has_token_ids(&self) -> bool {
        [Key::InputTokIds, Key::InputToks].iter().any(|key| self.has(*key))
    }

    /// A row whose hash ids are the ids of the tokens, each of which is a block of its own.
    fn token_row(&self, line: u64, unit: Option<TimeUnit>) -> Result<TraceRow, TraceError> {
        let missing = |key: Key, expected| TraceError::Missing { line, field: key.name().into(), expected };
        let mooncake = [TIMESTAMP, INPUT_LENGTH, OUTPUT_LENGTH, [Key::HashIds; 2], [Key::OutputHashIds; 2]];
        let of_tokens =
            [Key::ArrivalTimeNs, Key::InputToks, Key::OutputToks, Key::InputTokIds, Key::OutputTokIds];
        for (keys, second) in mooncake.iter().zip(of_tokens) {
            if let Some(first) = keys.iter().find(|key| self.has(**key)) {
                return Err(TraceError::BothNames { line, first: first.name(), second: second.name() });
            }
        }
        let tokens = self.field(line, Key::InputToks);
        let length = tokens.as_ref().map(|tokens| tokens.tokens(MAX_INPUT_TOKENS)).transpose()?;
        let hash_ids = match self.field(line, Key::InputTokIds) {
            None => Vec::new(),
            Some(field) => {
                let ids = field.hash_ids()?;
                if ids.is_empty() {
                    return Err(field.wrong("a list with at least one id".into()));
                }
                ids
            }
        };
        let counted = Some(hash_ids.len() as u64).filter(|ids| *ids > 0);
        if let Some((tokens, counted)) = tokens.zip(counted)
            && length != Some(counted)
        {
            return Err(tokens.wrong(format!("{counted}, the number of `input_tok_ids`")));
        }
        let expected = "a list with the id of every token of the prompt, or `input_toks`";
        let input_length = counted.or(length).ok_or_else(|| missing(Key::InputTokIds, expected))?;
        Ok(TraceRow {
            line,
            timestamp_ms: self
                .field(line, Key::ArrivalTimeNs)
                .map(|field| field.time_in(unit.unwrap_or(TimeUnit::Ns)))
                .transpose()?,
            output_length: self
                .field(line, Key::OutputToks)
                .ok_or(missing(Key::OutputToks, "the number of tokens to generate, from 1 to 999999"))?
                .tokens(MAX_OUTPUT_TOKENS)?,
            input_length: Some(input_length),
            shares_nothing: hash_ids.is_empty(),
            hash_ids,
            hash_runs: Vec::new(),
            output_ids: self.ids(line, Key::OutputTokIds)?,
            session_id: self.field(line, Key::SessionId).map(|field| field.name()).transpose()?,
            delay_ms: self.delay(line, unit)?,
            priority: self.field(line, Key::Priority).map_or(Ok(0), |field| field.priority())?,
            max_output: self.max_output(line)?,
            class: self.class(line)?,
            lora: self.label(line, Key::Lora)?,
            grammar: self.label(line, Key::Grammar)?,
            links: self.links(line)?,
        })
    }

    fn check_keys(&self, line: u64) -> Result<(), TraceError> {
        if let Some(key) = self.twice {
            return Err(TraceError::DuplicateKey { line, key });
        }
        for key in &self.unknown {
            if let Some(suggestion) = near_miss(key) {
                return Err(TraceError::MisspeltKey { line, key: shown(key), suggestion });
            }
        }
        Ok(())
    }

    /// Milliseconds of whichever key there is for a delay, two of which have the unit in their names.
    fn delay(&self, line: u64, unit: Option<TimeUnit>) -> Result<Option<f64>, TraceError> {
        let unit = |key| unit.filter(|_| key == DELAY[0]).unwrap_or(TimeUnit::Ms);
        let delay = self.either(line, DELAY)?;
        let of_tool =
            self.either(line, [delay.as_ref().map_or(DELAY[0], |field| field.key), Key::ToolWaitMs])?;
        of_tool.map(|field| field.delay(unit(field.key))).transpose()
    }

    /// The class of the request, which in the Bailian traces is its `type`.
    fn class(&self, line: u64) -> Result<Option<Box<str>>, TraceError> {
        let field = self.field(line, Key::Class);
        let class = match (field, self.chat) {
            (Some(field), _) => Some(field.name()?),
            (None, [Some(_), Some(_), Some(kind)]) => serde_json::from_str::<String>(kind.get()).ok(),
            (None, _) => None,
        };
        Ok(class.filter(|class| !class.is_empty()).map(Box::from))
    }

    /// The adapter that is asked for, or the grammar of the output.
    fn label(&self, line: u64, key: Key) -> Result<Option<Box<str>>, TraceError> {
        let name = self.field(line, key).map(|field| field.name()).transpose()?;
        Ok(name.filter(|name| !name.is_empty()).map(Box::from))
    }

    /// What the row says of others; `None` if it says nothing.
    fn links(&self, line: u64) -> Result<Option<Box<Links>>, TraceError> {
        let request_id = self.field(line, Key::RequestId).map(|field| field.name()).transpose()?;
        let links = Links {
            request_id: request_id.map(Box::from),
            wait_for: self.field(line, Key::WaitFor).map(|field| field.names()).transpose()?,
            branches: self
                .field(line, Key::Branches)
                .map_or_else(|| Ok(Vec::new()), |field| field.names())?,
            prefix_reset: self.field(line, Key::PrefixReset).map_or(Ok(false), |field| field.flag())?,
        };
        Ok((links != Links::default()).then(|| Box::new(links)))
    }

    /// Tokens that were asked for, if that is not what was generated.
    fn max_output(&self, line: u64) -> Result<Option<u32>, TraceError> {
        let most =
            self.field(line, Key::MaxOutputToks).map(|field| field.tokens(MAX_OUTPUT_TOKENS)).transpose()?;
        // It is below a million.
        Ok(most.map(|most| most as u32))
    }

    /// The ids of a list that need not be there.
    fn ids(&self, line: u64, key: Key) -> Result<Vec<u64>, TraceError> {
        self.field(line, key).map_or_else(|| Ok(Vec::new()), |field| field.hash_ids())
    }

    /// The value of a key; null is no value.
    fn field(&self, line: u64, key: Key) -> Option<Field<'a>> {
        self.raw(key).map(|raw| Field { line, key, text: raw.get() }).filter(|field| field.text != "null")
    }

    /// The value of whichever key there is of two that mean the same.
    fn either(&self, line: u64, [first, second]: [Key; 2]) -> Result<Option<Field<'a>>, TraceError> {
        if self.has(first) && self.has(second) {
            return Err(TraceError::BothNames { line, first: first.name(), second: second.name() });
        }
        Ok(self.field(line, first).or_else(|| self.field(line, second)))
    }

    fn has(&self, key: Key) -> bool {
        self.raw(key).is_some() || (key == Key::HashIds && self.hash_ids.is_some())
    }

    fn raw(&self, key: Key) -> Option<&'a RawValue> {
        self.values[key as usize]
    }
}

/// A key of a row with the text of its value.
struct Field<'a> {
    line: u64,
    key: Key,
    text: &'a str,
}

impl Field<'_> {
    fn tokens(&self, max: u64) -> Result<u64, TraceError> {
        let tokens = self.text.parse().ok().or_else(|| whole(self.text));
        tokens.filter(|tokens| (1..=max).contains(tokens)).ok_or_else(|| self.wrong(row::tokens_up_to(max)))
    }

    /// A date or a number, in milliseconds; without a unit a number stays as it is.
    fn timestamp(&self, unit: Option<TimeUnit>) -> Result<f64, TraceError> {
        if self.text.starts_with('"') {
            let date = serde_json::from_str::<String>(self.text).ok().and_then(|text| date_ms(&text));
            let expected = || row::timestamp_in(unit.unwrap_or(TimeUnit::Ms));
            return date.ok_or_else(|| self.wrong(format!("{} or a date such as {DATE}", expected())));
        }
        // Those that are too large for milliseconds may turn out to be in another unit.
        let since_1970 = self.text.parse().ok().filter(|time| TimeUnit::of_epoch(*time).is_some());
        match since_1970 {
            Some(time) if unit.is_none() => Ok(time),
            _ => self.time_in(unit.unwrap_or(TimeUnit::Ms)),
        }
    }

    /// A time in this unit, in milliseconds.
    fn time_in(&self, unit: TimeUnit) -> Result<f64, TraceError> {
        let ms = self.text.parse().ok().map(|time| unit.to_ms(time)).filter(|ms| row::is_timestamp(*ms));
        ms.ok_or_else(|| self.wrong(row::timestamp_in(unit)))
    }

    fn delay(&self, unit: TimeUnit) -> Result<f64, TraceError> {
        let ms = self.text.parse().ok().map(|time| unit.to_ms(time)).filter(|ms| row::is_delay(*ms));
        ms.ok_or_else(|| self.wrong(row::delay_in(unit)))
    }

    fn priority(&self) -> Result<i32, TraceError> {
        self.text.parse().map_err(|_| self.wrong(format!("a whole number from {} to {}", i32::MIN, i32::MAX)))
    }

    /// A name: a string, or a whole number.
    fn name(&self) -> Result<String, TraceError> {
        if self.text.parse::<i64>().is_ok() || self.text.parse::<u64>().is_ok() {
            return Ok(self.text.to_owned());
        }
        serde_json::from_str(self.text).map_err(|_| self.wrong("a string, a whole number or null".into()))
    }

    /// Names of requests.
    fn names(&self) -> Result<Vec<Box<str>>, TraceError> {
        let wrong = || self.wrong("a list of request ids".into());
        let values: Vec<&RawValue> = serde_json::from_str(self.text).map_err(|_| wrong())?;
        let names = values.iter().map(|value| Field { text: value.get(), ..*self }.name().map(Box::from));
        names.collect::<Result<_, _>>().map_err(|_| wrong())
    }

    fn flag(&self) -> Result<bool, TraceError> {
        self.text.parse().map_err(|_| self.wrong("true or false".into()))
    }

    fn hash_ids(&self) -> Result<Vec<u64>, TraceError> {
        // Nearly always all is well; else it is read again, to say what is not.
        if let Ok(ids) = serde_json::from_str(self.text) {
            return Ok(ids);
        }
        let mut ids = Vec::new();
        let seed = HashIds { field: self, ids: &mut ids };
        let wrong = || self.wrong("a list of whole numbers, an id for every block".into());
        seed.deserialize(&mut serde_json::Deserializer::from_str(self.text)).map_err(|_| wrong())??;
        Ok(ids)
    }

    fn wrong(&self, expected: String) -> TraceError {
        TraceError::Value {
            line: self.line,
            field: self.key.name().into(),
            found: described(self.text),
            expected,
        }
    }
}

/// A whole number that is written as a float, `44.0`: some programs know of no others.
fn whole(text: &str) -> Option<u64> {
    let number = text.parse::<f64>().ok()?;
    (number.fract() == 0.0 && (0.0..=1e15).contains(&number)).then_some(number as u64)
}

/// Says what a JSON value is: its type, and as much of it as fits a message.
pub(crate) fn described(text: &str) -> String {
    let kind = match text.as_bytes().first() {
        Some(b'"') => "the string ",
        Some(b'[') => "the list ",
        Some(b'{') => "the object ",
        Some(b'-' | b'0'..=b'9') => "the number ",
        _ => "",
    };
    format!("{kind}{}", shown(text))
}

/// The beginning of a text, short enough for a message and without control characters.
pub(crate) fn shown(text: &str) -> String {
    const LONGEST: usize = 40;
    let printable = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    let mut cut: String = text.chars().take(LONGEST).map(printable).collect();
    if text.chars().nth(LONGEST).is_some() {
        cut.push('…');
    }
    cut
}

/// Collects the values of an object. With `ids`, hash ids are read at once by way of it, and what else stands in their
/// place is an error.
struct ObjectVisitor<'a> {
    ids: Option<&'a mut Vec<u64>>,
}

impl<'de> Visitor<'de> for ObjectVisitor<'_> {
    type Value = Object<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut object = Object::default();
        while let Some(key) = map.next_key_seed(KeySeed)? {
            if let Ok(key) = key
                && object.has(key)
            {
                object.twice = object.twice.or(Some(key.name()));
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            match (key, &mut self.ids) {
                (Ok(Key::HashIds), Some(ids)) => {
                    map.next_value_seed(Ids(ids))?;
                    object.hash_ids = Some(Vec::clone(ids));
                }
                (Ok(key), _) => object.values[key as usize] = Some(map.next_value()?),
                (Err(unknown), _) => {
                    match CHAT.iter().position(|key| *key == unknown) {
                        Some(place) => object.chat[place] = Some(map.next_value()?),
                        None => _ = map.next_value::<IgnoredAny>()?,
                    }
                    object.unknown.push(unknown);
                }
            }
        }
        Ok(object)
    }
}

/// Reads a list of ids in the place of what is there.
struct Ids<'a>(&'a mut Vec<u64>);

impl<'de> DeserializeSeed<'de> for Ids<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Ids<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of ids")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        self.0.clear();
        while let Some(id) = seq.next_element()? {
            self.0.push(id);
        }
        Ok(())
    }
}

/// Collects the ids of a list; the inner error is about an element, the outer one about the list.
struct HashIds<'a> {
    field: &'a Field<'a>,
    ids: &'a mut Vec<u64>,
}

impl<'de> DeserializeSeed<'de> for HashIds<'_> {
    type Value = Result<(), TraceError>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for HashIds<'_> {
    type Value = Result<(), TraceError>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut problem = None;
        while let Some(value) = seq.next_element::<&RawValue>()? {
            match value.get().parse() {
                Ok(id) => self.ids.push(id),
                // The rest must be read all the same: the parser does not let go in the middle of a list.
                Err(_) => problem = problem.or_else(|| Some(self.wrong(value.get()))),
            }
        }
        Ok(problem.map_or(Ok(()), Err))
    }
}

impl HashIds<'_> {
    fn wrong(&self, text: &str) -> TraceError {
        TraceError::Value {
            line: self.field.line,
            field: format!("{}[{}]", self.field.key.name(), self.ids.len()),
            found: described(text),
            expected: format!("a whole number from 0 to {}", u64::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shown_with_their_type_and_not_in_full() {
        assert_eq!(described("\"a\\nb\""), "the string \"a\\nb\"");
        assert_eq!(described("true"), "true");
        assert_eq!(described(&"9".repeat(60)), format!("the number {}…", "9".repeat(40)));
        assert_eq!(shown("a\u{0}é"), "a\u{fffd}é");
    }

    #[test]
    fn escaped_keys_are_known() {
        let text = r#"{"output\u005flength": 3, "hash_ids": [1], "\u0066oo": 1}"#;
        let mut object = Object::parse(text, &mut Vec::new()).unwrap();
        assert_eq!(object.row(1, None).unwrap().output_length, 3);
        assert_eq!(object.unknown, ["foo"]);
    }
}
