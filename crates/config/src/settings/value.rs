//! How single values are read from text.

use std::fmt;
use std::path::Path;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use serde::de::{DeserializeOwned, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::not_yet;
use crate::files;

/// A number that is one.
///
/// # Errors
/// For a text that is none, infinities and NaN.
pub fn finite(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => Err("expected a finite number".to_owned()),
    }
}

/// Yes or no, in the words that flags and variables of the KV router take too.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("expected true, 1, yes or on, or false, 0, no or off".to_owned()),
    }
}

/// One of the values of an enumeration, by its name in files; names that are not there yet are refused in a sentence.
pub fn choice<T: DeserializeOwned + Clone + Send + Sync + 'static>(
    key: &'static str,
    names: &'static [&'static str],
) -> impl TypedValueParser<Value = T> {
    let shown = names.iter().map(|name| PossibleValue::new(*name));
    let hidden = ["online"]
        .into_iter()
        .filter(move |name| not_yet::instead_of(key, name).is_some())
        .map(|name| PossibleValue::new(name).hide(true));
    PossibleValuesParser::new(shown.chain(hidden)).try_map(move |name| {
        match not_yet::instead_of(key, &name) {
            Some(instead) => Err(format!("not there yet, {instead}")),
            None => serde_json::from_value(Value::String(name)).map_err(|error| error.to_string()),
        }
    })
}

/// Settings of an engine or a router: a JSON object, or the name of a file that holds one after an `@`.
pub fn settings(text: &str) -> Result<Map<String, Value>, String> {
    match text.strip_prefix('@') {
        None => json_object(text),
        Some(path) => {
            let text = files::read_text(Path::new(path)).map_err(|failure| failure.message().to_string())?;
            json_object(&text).map_err(|problem| format!("{path}: {problem}"))
        }
    }
}

/// A JSON object in which no key is there twice.
pub(super) fn json_object(text: &str) -> Result<Map<String, Value>, String> {
    match serde_json::from_str::<Unique>(text) {
        Ok(Unique(Value::Object(object))) => Ok(object),
        Ok(_) => Err("expected a JSON object, {\"KEY\": VALUE, ...}".to_owned()),
        Err(error) => Err(format!("not valid JSON: {error}")),
    }
}

/// A JSON value in which no key of an object is there twice.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Unique;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Unique, E> {
        Ok(Unique(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Unique, E> {
        Ok(Unique(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Unique, E> {
        Ok(Unique(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Unique, E> {
        Ok(Unique(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Unique, E> {
        Ok(Unique(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Unique, E> {
        Ok(Unique(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Unique, A::Error> {
        let mut array = Vec::new();
        while let Some(Unique(item)) = items.next_element()? {
            array.push(item);
        }
        Ok(Unique(array.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Unique, A::Error> {
        let mut object = Map::new();
        while let Some((key, Unique(value))) = entries.next_entry::<String, Unique>()? {
            if object.contains_key(&key) {
                return Err(A::Error::custom(format!("`{key}` is given twice")));
            }
            object.insert(key, value);
        }
        Ok(Unique(object.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_read_once_a_key() {
        let object = json_object(r#"{"a": [1, -2, 0.5, null], "b": {"c": "d", "e": true}}"#).unwrap();
        assert_eq!(
            Value::Object(object),
            serde_json::json!({"a": [1, -2, 0.5, null], "b": {"c": "d", "e": true}})
        );
        for (text, problem) in [
            (r#"{"a": 1, "a": 1}"#, "`a` is given twice"),
            (r#"{"a": {"b": 1, "b": 2}}"#, "`b` is given twice"),
            ("[]", "expected a JSON object"),
            ("{", "not valid JSON: EOF"),
        ] {
            assert!(json_object(text).unwrap_err().contains(problem), "{text}");
        }
    }

    #[test]
    fn yes_and_no_have_several_names() {
        for (text, expected) in [("true", true), ("1", true), ("Yes", true), ("OFF", false), ("0", false)] {
            assert_eq!(boolean(text), Ok(expected));
        }
        assert!(boolean("2").is_err() && boolean("").is_err());
    }

    #[test]
    fn only_numbers_are_numbers() {
        assert_eq!(finite("1e3"), Ok(1000.0));
        for text in ["nan", "inf", "-inf", "", "1x"] {
            assert!(finite(text).is_err(), "{text}");
        }
    }
}
