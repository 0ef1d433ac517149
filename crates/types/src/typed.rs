//! Reads settings of their types from JSON, with what was expected as data.

use std::fmt;

use serde::de::value::{MapDeserializer, SeqDeserializer, StrDeserializer};
use serde::de::{self, DeserializeOwned, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::Value;

/// What the value of a setting should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// A whole number from 0 to `most`.
    Count {
        /// The largest.
        most: u64,
    },
    /// A whole number, be it negative.
    Integer,
    /// A number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// A string.
    Text,
    /// A list.
    List,
    /// An object.
    Object,
    /// One of these names.
    OneOf(&'static [&'static str]),
    /// What a type of its own says.
    Other(String),
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count { most } => write!(f, "a whole number from 0 to {most}"),
            Self::Integer => f.write_str("a whole number"),
            Self::Number => f.write_str("a number"),
            Self::Boolean => f.write_str("true or false"),
            Self::Text => f.write_str("a string"),
            Self::List => f.write_str("a list"),
            Self::Object => f.write_str("an object"),
            Self::OneOf([name]) => write!(f, "`{name}`"),
            Self::OneOf([one, other]) => write!(f, "`{one}` or `{other}`"),
            Self::OneOf(names) => write!(f, "one of `{}`", names.join("`, `")),
            Self::Other(words) => f.write_str(words),
        }
    }
}

/// The first value of settings that has the wrong type.
#[derive(Debug, Clone, PartialEq)]
pub struct Mistyped {
    /// Where it is: keys with dots between them, and the place in a list in brackets.
    pub path: String,
    /// What it should be.
    pub expected: Expected,
}

impl Mistyped {
    /// What is there instead, in the value that was read.
    pub fn found<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        value.pointer(&format!("/{}", self.path.replace(['.', '['], "/").replace(']', "")))
    }
}

/// Reads a value of a type.
pub fn typed<T: DeserializeOwned>(value: &Value) -> Result<T, Mistyped> {
    serde_path_to_error::deserialize(Typed(value)).map_err(|error| {
        let path = error.path().to_string();
        Mistyped { path, expected: error.into_inner().0 }
    })
}

/// What was expected, as the error of a deserializer.
#[derive(Debug)]
struct Unfit(Expected);

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {}", self.0)
    }
}

impl std::error::Error for Unfit {}

impl de::Error for Unfit {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(Expected::Other(message.to_string()))
    }

    fn invalid_type(_: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self(Expected::Other(expected.to_string()))
    }

    fn invalid_value(_: de::Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self(Expected::Other(expected.to_string()))
    }

    fn unknown_variant(_: &str, names: &'static [&'static str]) -> Self {
        Self(Expected::OneOf(names))
    }
}

/// A JSON value as a deserializer that is told the type before it looks at the value.
#[derive(Clone, Copy)]
struct Typed<'de>(&'de Value);

impl<'de> IntoDeserializer<'de, Unfit> for Typed<'de> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

impl Typed<'_> {
    fn count(self, most: u64) -> Result<u64, Unfit> {
        self.0.as_u64().filter(|number| *number <= most).ok_or(Unfit(Expected::Count { most }))
    }
}

/// Deserializers of whole numbers up to the largest of their types.
macro_rules! counts {
    ($($deserialize:ident, $most:expr;)*) => {
        $(fn $deserialize<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
            visitor.visit_u64(self.count($most)?)
        })*
    };
}

/// Deserializers of negative numbers, too.
macro_rules! integers {
    ($($deserialize:ident)*) => {
        $(fn $deserialize<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
            visitor.visit_i64(self.0.as_i64().ok_or(Unfit(Expected::Integer))?)
        })*
    };
}

/// Deserializers of something that is written as a string.
macro_rules! texts {
    ($($deserialize:ident)*) => {
        $(fn $deserialize<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
            visitor.visit_borrowed_str(self.0.as_str().ok_or(Unfit(Expected::Text))?)
        })*
    };
}

impl<'de> Deserializer<'de> for Typed<'de> {
    type Error = Unfit;

    counts! {
        deserialize_u8, u8::MAX.into();
        deserialize_u16, u16::MAX.into();
        deserialize_u32, u32::MAX.into();
        deserialize_u64, u64::MAX;
    }
    integers! { deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 }
    texts! { deserialize_str deserialize_string deserialize_char }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        match self.0 {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::String(text) => visitor.visit_borrowed_str(text),
            Value::Array(_) => self.deserialize_seq(visitor),
            Value::Object(_) => self.deserialize_map(visitor),
            Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => visitor.visit_u64(number),
                (_, Some(number)) => visitor.visit_i64(number),
                _ => self.deserialize_f64(visitor),
            },
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        visitor.visit_bool(self.0.as_bool().ok_or(Unfit(Expected::Boolean))?)
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        visitor.visit_f64(self.0.as_f64().ok_or(Unfit(Expected::Number))?)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        if self.0.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Unfit> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        let items = self.0.as_array().ok_or(Unfit(Expected::List))?;
        visitor.visit_seq(SeqDeserializer::new(items.iter().map(Typed)))
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Unfit> {
        let entries = self.0.as_object().ok_or(Unfit(Expected::Object))?;
        visitor
            .visit_map(MapDeserializer::new(entries.iter().map(|(key, value)| (key.as_str(), Typed(value)))))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unfit> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Unfit> {
        let name = self.0.as_str().filter(|name| names.contains(name));
        let name = name.ok_or(Unfit(Expected::OneOf(names)))?;
        visitor.visit_enum(StrDeserializer::new(name))
    }

    forward_to_deserialize_any! {
        i128 u128 bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::{Map, json};

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Order {
        #[default]
        First,
        #[serde(alias = "lifo")]
        Last,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Settings {
        count: u32,
        large: Option<u64>,
        offset: i64,
        share: f64,
        is_on: bool,
        name: Option<String>,
        order: Order,
        sizes: Vec<u16>,
        object: Map<String, Value>,
        within: Option<Box<Settings>>,
    }

    #[test]
    fn values_are_read_as_serde_json_reads_them() {
        for value in [
            json!({}),
            json!({"count": 3, "large": null, "offset": -3, "share": 2, "is_on": true, "name": "x"}),
            json!({"order": "last", "sizes": [1, 2], "object": {"a": [null, 1.5, -2, "b"]}, "large": u64::MAX}),
            json!({"order": "lifo", "within": {"count": 1, "within": {"share": 0.5}}}),
        ] {
            let expected: Settings = serde_json::from_value(value.clone()).unwrap();
            assert_eq!(typed::<Settings>(&value), Ok(expected), "{value}");
        }
    }

    #[test]
    fn what_was_expected_is_said_with_its_place() {
        for (value, path, expected) in [
            (json!({"count": -1}), "count", "a whole number from 0 to 4294967295"),
            (json!({"count": 1.0}), "count", "a whole number from 0 to 4294967295"),
            (json!({"large": "1"}), "large", "a whole number from 0 to 18446744073709551615"),
            (json!({"offset": 0.5}), "offset", "a whole number"),
            (json!({"share": "expected true"}), "share", "a number"),
            (json!({"is_on": 1}), "is_on", "true or false"),
            (json!({"name": 1}), "name", "a string"),
            (json!({"sizes": 1}), "sizes", "a list"),
            (json!({"sizes": [1, 65536]}), "sizes[1]", "a whole number from 0 to 65535"),
            (json!({"object": []}), "object", "an object"),
            (json!({"within": 3}), "within", "an object"),
            (json!({"within": {"is_on": null}}), "within.is_on", "true or false"),
            (json!({"order": 3}), "order", "one of `first`, `last`, `lifo`"),
            (json!([]), ".", "an object"),
        ] {
            let mistyped = typed::<Settings>(&value).unwrap_err();
            assert_eq!((mistyped.path.as_str(), mistyped.expected.to_string().as_str()), (path, expected));
        }
        let value = json!({"within": {"sizes": [1, "x"]}});
        assert_eq!(typed::<Settings>(&value).unwrap_err().found(&value), Some(&json!("x")));
    }
}
