//! The keys of a row, and what a misspelt one is meant to be.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Visitor};

/// A key that means something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Timestamp,
    InputLength,
    OutputLength,
    HashIds,
    SessionId,
    Delay,
    Priority,
    CreatedTime,
    DelayMs,
    InputTokens,
    OutputTokens,
    // Of workloads with token ids.
    ArrivalTimeNs,
    InputToks,
    OutputToks,
    InputTokIds,
    OutputTokIds,
    OutputHashIds,
    MaxOutputToks,
    Class,
    Lora,
    Grammar,
    // Of requests that wait for several others.
    RequestId,
    WaitFor,
    Branches,
    PrefixReset,
    ToolWaitMs,
}

pub(super) const KEYS: [Key; 26] = [
    Key::Timestamp,
    Key::InputLength,
    Key::OutputLength,
    Key::HashIds,
    Key::SessionId,
    Key::Delay,
    Key::Priority,
    Key::CreatedTime,
    Key::DelayMs,
    Key::InputTokens,
    Key::OutputTokens,
    Key::Class,
    Key::Lora,
    Key::Grammar,
    Key::RequestId,
    Key::WaitFor,
    Key::Branches,
    Key::PrefixReset,
    Key::ToolWaitMs,
    Key::ArrivalTimeNs,
    Key::InputToks,
    Key::OutputToks,
    Key::InputTokIds,
    Key::OutputTokIds,
    Key::OutputHashIds,
    Key::MaxOutputToks,
];

/// Their names, which are compared with every key of a trace.
const NAMES: [&str; KEYS.len()] = {
    let mut names = [""; KEYS.len()];
    let mut place = 0;
    while place < names.len() {
        names[place] = KEYS[place].name();
        place += 1;
    }
    names
};

/// How many of [`KEYS`] others may be misspelt forms of: names for token ids are many.
const SPELT: usize = 19;

pub(super) const TIMESTAMP: [Key; 2] = [Key::Timestamp, Key::CreatedTime];
pub(super) const DELAY: [Key; 2] = [Key::Delay, Key::DelayMs];
pub(super) const INPUT_LENGTH: [Key; 2] = [Key::InputLength, Key::InputTokens];
pub(super) const OUTPUT_LENGTH: [Key; 2] = [Key::OutputLength, Key::OutputTokens];

impl Key {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Timestamp => "timestamp",
            Self::InputLength => "input_length",
            Self::OutputLength => "output_length",
            Self::HashIds => "hash_ids",
            Self::SessionId => "session_id",
            Self::Delay => "delay",
            Self::Priority => "priority",
            Self::CreatedTime => "created_time",
            Self::DelayMs => "delay_ms",
            Self::InputTokens => "input_tokens",
            Self::OutputTokens => "output_tokens",
            Self::ArrivalTimeNs => "arrival_time_ns",
            Self::InputToks => "input_toks",
            Self::OutputToks => "output_toks",
            Self::InputTokIds => "input_tok_ids",
            Self::OutputTokIds => "output_tok_ids",
            Self::OutputHashIds => "output_hash_ids",
            Self::MaxOutputToks => "max_output_toks",
            Self::Class => "class",
            Self::Lora => "lora",
            Self::Grammar => "grammar",
            Self::RequestId => "request_id",
            Self::WaitFor => "wait_for",
            Self::Branches => "branches",
            Self::PrefixReset => "prefix_reset",
            Self::ToolWaitMs => "tool_wait_ms",
        }
    }
}

/// The known key that an unknown one is probably meant to be.
///
/// A slip or two per word counts, and so do other separators or capitals. A whole word more or less does not:
/// traces carry `chat_id`, `text_input` or `input_token_ids` for other readers.
pub(super) fn near_miss(key: &str) -> Option<&'static str> {
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
    let near = KEYS[..SPELT].iter().map(|key| key.name()).filter_map(|known| Some((distance(known)?, known)));
    near.min_by_key(|(distance, _)| *distance).map(|(_, known)| known)
}

/// Looks a key up while it is still borrowed: what is unknown is the error.
pub(super) struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Result<Key, String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed {
    type Value = Result<Key, String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        let place = NAMES.iter().position(|known| *known == name);
        Ok(place.map(|place| KEYS[place]).ok_or_else(|| name.to_owned()))
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
            ("waitfor", "wait_for"),
            ("wait-for", "wait_for"),
            ("branchs", "branches"),
            ("tool_wait_m", "tool_wait_ms"),
            ("Class", "class"),
            ("loras", "lora"),
            ("grammer", "grammar"),
            ("prefix_rest", "prefix_reset"),
            ("requestid", "request_id"),
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
}
