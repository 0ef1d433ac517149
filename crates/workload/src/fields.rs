//! From the text of one JSON object to a row: keys, their types, and what to say when they are wrong.
//!
//! Values stay text until their key is known, so that a message can show what stands in the file, and so that
//! `1e3` is no integer and 1180591620717411303424 no float.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::row::{self, MAX_INPUT_TOKENS, MAX_OUTPUT_TOKENS, TraceRow};
use crate::unit::date_ms;
use crate::{TimeUnit, TraceError};

/// A date for messages.
const DATE: &str = "2026-01-31T12:00:00.5Z";

const TIMESTAMP: [&str; 2] = ["timestamp", "created_time"];
const DELAY: [&str; 2] = ["delay", "delay_ms"];
const INPUT_LENGTH: [&str; 2] = ["input_length", "input_tokens"];
const OUTPUT_LENGTH: [&str; 2] = ["output_length", "output_tokens"];
const SESSION_ID: &str = "session_id";
const HASH_IDS: &str = "hash_ids";
const PRIORITY: &str = "priority";
const OUTPUT_HASH_IDS: &str = "output_hash_ids";

/// Keys of workloads with token ids.
const ARRIVAL_TIME_NS: &str = "arrival_time_ns";
const INPUT_TOKS: &str = "input_toks";
const OUTPUT_TOKS: &str = "output_toks";
const INPUT_TOK_IDS: &str = "input_tok_ids";
const OUTPUT_TOK_IDS: &str = "output_tok_ids";

/// How many of [`KEYS`] others may be misspelt forms of: names for token ids are many.
const SPELT: usize = 11;

const KEYS: [&str; 17] = [
    TIMESTAMP[0],
    INPUT_LENGTH[0],
    OUTPUT_LENGTH[0],
    HASH_IDS,
    SESSION_ID,
    DELAY[0],
    PRIORITY,
    TIMESTAMP[1],
    DELAY[1],
    INPUT_LENGTH[1],
    OUTPUT_LENGTH[1],
    ARRIVAL_TIME_NS,
    INPUT_TOKS,
    OUTPUT_TOKS,
    INPUT_TOK_IDS,
    OUTPUT_TOK_IDS,
    OUTPUT_HASH_IDS,
];

/// The values of one object by key, not yet interpreted.
#[derive(Debug, Default)]
pub(crate) struct Object<'a> {
    values: [Option<&'a RawValue>; KEYS.len()],
    twice: Option<&'static str>,
    /// Keys that mean nothing here.
    pub(crate) unknown: Vec<String>,
}

impl<'a> Object<'a> {
    /// Parses the text of one object; `Err` is the parser's view of the syntax.
    pub(crate) fn parse(text: &'a str) -> serde_json::Result<Self> {
        let mut parser = serde_json::Deserializer::from_str(text);
        let object = parser.deserialize_map(ObjectVisitor)?;
        parser.end()?;
        Ok(object)
    }

    /// The row that the object stands for; its times are in `unit`, or if nobody says, timestamps are left as they are.
    pub(crate) fn row(&self, line: u64, unit: Option<TimeUnit>) -> Result<TraceRow, TraceError> {
        self.check_keys(line)?;
        if self.has_token_ids() {
            return self.token_row(line, unit);
        }
        Ok(TraceRow {
            line,
            session_id: self.field(line, SESSION_ID).map(|field| field.string()).transpose()?,
            timestamp_ms: self.either(line, TIMESTAMP)?.map(|field| field.timestamp(unit)).transpose()?,
            delay_ms: self.delay(line, unit)?,
            input_length: self
                .either(line, INPUT_LENGTH)?
                .map(|field| field.tokens(MAX_INPUT_TOKENS))
                .transpose()?,
            output_length: self
                .either(line, OUTPUT_LENGTH)?
                .ok_or(TraceError::Missing {
                    line,
                    field: OUTPUT_LENGTH[0],
                    expected: "the number of tokens to generate, from 1 to 999999",
                })?
                .tokens(MAX_OUTPUT_TOKENS)?,
            hash_ids: self
                .field(line, HASH_IDS)
                .ok_or(TraceError::Missing {
                    line,
                    field: HASH_IDS,
                    expected: "a list with an id for every block of the prompt",
                })?
                .hash_ids()?,
            shares_nothing: false,
            output_ids: self.ids(line, OUTPUT_HASH_IDS)?,
            priority: self.field(line, PRIORITY).map_or(Ok(0), |field| field.priority())?,
        })
    }

    /// Whether its timestamp is a date.
    pub(crate) fn is_dated(&self) -> bool {
        TIMESTAMP.iter().filter_map(|key| self.raw(key)).any(|raw| raw.get().starts_with('"'))
    }

    /// Whether it is a row of the Bailian (Qwen) traces.
    pub(crate) fn is_chat(&self) -> bool {
        ["chat_id", "parent_chat_id"].iter().all(|key| self.unknown.iter().any(|unknown| unknown == key))
    }

    /// Whether it is a row of a workload with token ids.
    pub(crate) fn has_token_ids(&self) -> bool {
        [INPUT_TOK_IDS, INPUT_TOKS].iter().any(|key| self.raw(key).is_some())
    }

    /// A row whose hash ids are the ids of the tokens, each of which is a block of its own.
    fn token_row(&self, line: u64, unit: Option<TimeUnit>) -> Result<TraceRow, TraceError> {
        let missing = |field, expected| TraceError::Missing { line, field, expected };
        let mooncake = [TIMESTAMP, INPUT_LENGTH, OUTPUT_LENGTH, [HASH_IDS; 2], [OUTPUT_HASH_IDS; 2]];
        let of_tokens = [ARRIVAL_TIME_NS, INPUT_TOKS, OUTPUT_TOKS, INPUT_TOK_IDS, OUTPUT_TOK_IDS];
        for (names, second) in mooncake.iter().zip(of_tokens) {
            if let Some(first) = names.iter().find(|name| self.raw(name).is_some()) {
                return Err(TraceError::BothNames { line, first, second });
            }
        }
        let ids = self.field(line, INPUT_TOK_IDS);
        let ids = ids.ok_or(missing(INPUT_TOK_IDS, "a list with the id of every token of the prompt"))?;
        let hash_ids = ids.hash_ids()?;
        if hash_ids.is_empty() {
            return Err(ids.wrong("a list with at least one id".into()));
        }
        if let Some(tokens) = self.field(line, INPUT_TOKS)
            && tokens.tokens(MAX_INPUT_TOKENS)? != hash_ids.len() as u64
        {
            return Err(tokens.wrong(format!("{}, the number of `input_tok_ids`", hash_ids.len())));
        }
        Ok(TraceRow {
            line,
            timestamp_ms: self
                .field(line, ARRIVAL_TIME_NS)
                .map(|field| field.time_in(unit.unwrap_or(TimeUnit::Ns)))
                .transpose()?,
            output_length: self
                .field(line, OUTPUT_TOKS)
                .ok_or(missing(OUTPUT_TOKS, "the number of tokens to generate, from 1 to 999999"))?
                .tokens(MAX_OUTPUT_TOKENS)?,
            input_length: Some(hash_ids.len() as u64),
            hash_ids,
            shares_nothing: false,
            output_ids: self.ids(line, OUTPUT_TOK_IDS)?,
            session_id: self.field(line, SESSION_ID).map(|field| field.string()).transpose()?,
            delay_ms: self.delay(line, unit)?,
            priority: self.field(line, PRIORITY).map_or(Ok(0), |field| field.priority())?,
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

    /// Milliseconds of whichever key there is for a delay, one of which has the unit in its name.
    fn delay(&self, line: u64, unit: Option<TimeUnit>) -> Result<Option<f64>, TraceError> {
        let unit = |name| unit.filter(|_| name == DELAY[0]).unwrap_or(TimeUnit::Ms);
        self.either(line, DELAY)?.map(|field| field.delay(unit(field.name))).transpose()
    }

    /// The ids of a list that need not be there.
    fn ids(&self, line: u64, name: &'static str) -> Result<Vec<u64>, TraceError> {
        self.field(line, name).map_or_else(|| Ok(Vec::new()), |field| field.hash_ids())
    }

    /// The value of a key; null is no value.
    fn field(&self, line: u64, name: &'static str) -> Option<Field<'a>> {
        self.raw(name).map(|raw| Field { line, name, text: raw.get() }).filter(|field| field.text != "null")
    }

    /// The value of whichever key is there of two that mean the same.
    fn either(&self, line: u64, [first, second]: [&'static str; 2]) -> Result<Option<Field<'a>>, TraceError> {
        if self.raw(first).is_some() && self.raw(second).is_some() {
            return Err(TraceError::BothNames { line, first, second });
        }
        Ok(self.field(line, first).or_else(|| self.field(line, second)))
    }

    fn raw(&self, name: &str) -> Option<&'a RawValue> {
        KEYS.iter().position(|key| *key == name).and_then(|index| self.values[index])
    }
}

/// The known key that an unknown one is probably meant to be.
///
/// A slip or two per word counts, and so do other separators or capitals. A whole word more or less does not:
/// traces carry `chat_id`, `text_input` or `input_token_ids` for other readers.
fn near_miss(key: &str) -> Option<&'static str> {
    // Nobody misspells a key into something of this length, and the distance takes quadratic time.
    const LONGEST: usize = 24;
    if key.len() > LONGEST {
        return None;
    }
    let words = |key: &str| key.split('_').count();
    let key = key.to_lowercase().replace(['-', ' ', '.'], "_");
    let joined = key.replace('_', "");
    let distance = |known: &str| {
        let joined_distance = strsim::damerau_levenshtein(&joined, &known.replace('_', ""));
        let slips = if words(&key) == words(known) { (known.len() / 6).max(1) } else { 1 };
        // Of two keys as near, the one with as many words is meant.
        (joined_distance <= slips).then_some((joined_distance, words(&key) != words(known)))
    };
    let near = KEYS[..SPELT].iter().copied().filter_map(|known| Some((distance(known)?, known)));
    near.min_by_key(|(distance, _)| *distance).map(|(_, known)| known)
}

/// A key of a row with the text of its value.
struct Field<'a> {
    line: u64,
    name: &'static str,
    text: &'a str,
}

impl Field<'_> {
    fn tokens(&self, max: u64) -> Result<u64, TraceError> {
        match self.text.parse() {
            Ok(tokens) if (1..=max).contains(&tokens) => Ok(tokens),
            _ => Err(self.wrong(row::tokens_up_to(max))),
        }
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

    fn string(&self) -> Result<String, TraceError> {
        serde_json::from_str(self.text).map_err(|_| self.wrong("a string or null".into()))
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
        TraceError::Value { line: self.line, field: self.name.into(), found: described(self.text), expected }
    }
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

struct ObjectVisitor;

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Object<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut object = Object::default();
        while let Some(key) = map.next_key_seed(KeySeed)? {
            let value = map.next_value::<&RawValue>()?;
            match key {
                Ok(index) if object.values[index].is_some() => {
                    object.twice = object.twice.or(Some(KEYS[index]));
                }
                Ok(index) => object.values[index] = Some(value),
                Err(unknown) => object.unknown.push(unknown),
            }
        }
        Ok(object)
    }
}

/// Looks a key up while it is still borrowed: an index into `KEYS`, or the key itself if it is unknown.
struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Result<usize, String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed {
    type Value = Result<usize, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(KEYS.iter().position(|known| *known == key).ok_or_else(|| key.to_owned()))
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
            field: format!("{}[{}]", self.field.name, self.ids.len()),
            found: described(text),
            expected: format!("a whole number from 0 to {}", u64::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_near_misses() {
        for (key, meant) in [
            ("hash_id", "hash_ids"),
            ("hashids", "hash_ids"),
            ("input_lenght", "input_length"),
            ("inputLength", "input_length"),
            ("input-length", "input_length"),
            ("timestmap", "timestamp"),
            ("Timestamp", "timestamp"),
            ("timestamps", "timestamp"),
            ("outputlength", "output_length"),
            ("ouptut_lenght", "output_length"),
            ("output_token", "output_tokens"),
            ("sesion_id", "session_id"),
            ("delay_s", "delay_ms"),
            ("create_time", "created_time"),
            ("priorty", "priority"),
        ] {
            assert_eq!(near_miss(key), Some(meant), "{key}");
        }
    }

    #[test]
    fn keys_of_other_readers_are_not() {
        for key in [
            "extra",
            "text_input",
            "chat_id",
            "parent_chat_id",
            "type",
            "model",
            "turn",
            "id",
            "foo",
            "prompt",
            "user",
            "request_id",
            "input",
            "output",
            "hash",
            "hashes",
            "time",
            "created",
            "created_at",
            "block_hashes",
            "stop",
            "input_token_ids",
            "max_output_tokens",
            "total_tokens",
            "session",
            "text_output",
            "tenant",
            "user_id",
            "",
        ] {
            assert_eq!(near_miss(key), None, "{key}");
        }
    }

    #[test]
    fn values_are_shown_with_their_type_and_not_in_full() {
        assert_eq!(described("\"a\\nb\""), "the string \"a\\nb\"");
        assert_eq!(described("true"), "true");
        assert_eq!(described(&"9".repeat(60)), format!("the number {}…", "9".repeat(40)));
        assert_eq!(shown("a\u{0}é"), "a\u{fffd}é");
    }

    #[test]
    fn escaped_keys_are_known() {
        let object = Object::parse(r#"{"output\u005flength": 3, "hash_ids": [1], "\u0066oo": 1}"#).unwrap();
        assert_eq!(object.row(1, None).unwrap().output_length, 3);
        assert_eq!(object.unknown, ["foo"]);
    }
}
