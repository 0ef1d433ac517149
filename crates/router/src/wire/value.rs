//! A msgpack value that is not interpreted yet.

use std::borrow::Cow;
use std::fmt;

use serde::de::{self, EnumAccess, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Elements to make room for before any of them is read: a length in the input is not to be trusted.
const MAX_RESERVED: usize = 256;
/// Characters of a text that go into an error message.
const MAX_SHOWN: usize = 40;

/// Any msgpack value, so that events can be judged one by one after the batch is known to be whole.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value<'a> {
    Nil,
    Bool(bool),
    Unsigned(u64),
    /// Below zero.
    Negative(i64),
    Float(f64),
    Text(Cow<'a, str>),
    Bytes(Cow<'a, [u8]>),
    Array(Vec<Value<'a>>),
    Map(Vec<(Value<'a>, Value<'a>)>),
    /// An application-specific type; engine events have none. Its content is dropped.
    Extension,
}

impl Value<'static> {
    pub(super) const NIL: &'static Self = &Value::Nil;
}

impl<'a> Value<'a> {
    pub(super) fn text(text: &'a str) -> Self {
        Value::Text(Cow::Borrowed(text))
    }

    pub(super) fn signed(value: i64) -> Self {
        u64::try_from(value).map_or(Value::Negative(value), Value::Unsigned)
    }

    pub(super) fn optional<T>(value: Option<T>, of: impl FnOnce(T) -> Self) -> Self {
        value.map_or(Value::Nil, of)
    }

    pub(super) fn as_text(&self) -> Option<&str> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The integer modulo 2⁶⁴: a negative one as the unsigned number of the same bits.
    pub(super) fn as_bits(&self) -> Option<u64> {
        match *self {
            Value::Unsigned(value) => Some(value),
            Value::Negative(value) => Some(value.cast_unsigned()),
            _ => None,
        }
    }

    pub(super) fn as_u64(&self) -> Option<u64> {
        match *self {
            Value::Unsigned(value) => Some(value),
            _ => None,
        }
    }

    pub(super) fn as_u32(&self) -> Option<u32> {
        self.as_u64().and_then(|value| u32::try_from(value).ok())
    }

    pub(super) fn as_i64(&self) -> Option<i64> {
        match *self {
            Value::Unsigned(value) => i64::try_from(value).ok(),
            Value::Negative(value) => Some(value),
            _ => None,
        }
    }

    pub(super) fn as_number(&self) -> Option<f64> {
        match *self {
            Value::Unsigned(value) => Some(value as f64),
            Value::Negative(value) => Some(value as f64),
            Value::Float(value) => Some(value),
            _ => None,
        }
    }

    /// The value for an error message: enough to recognise it, never all of a long one.
    pub(super) fn describe(&self) -> String {
        match self {
            Value::Nil => "nil".into(),
            Value::Bool(value) => value.to_string(),
            Value::Unsigned(value) => value.to_string(),
            Value::Negative(value) => value.to_string(),
            Value::Float(value) => format!("{value:?}"),
            Value::Text(text) if text.chars().nth(MAX_SHOWN).is_none() => format!("{text:?}"),
            Value::Text(text) => format!("{:?}…", text.chars().take(MAX_SHOWN).collect::<String>()),
            Value::Bytes(bytes) => format!("{} bytes", bytes.len()),
            Value::Array(items) => format!("an array of {}", items.len()),
            Value::Map(entries) => format!("a map of {}", entries.len()),
            Value::Extension => "an extension type".into(),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Value<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any msgpack value")
    }

    fn visit_unit<E>(self) -> Result<Value<'de>, E> {
        Ok(Value::Nil)
    }

    fn visit_none<E>(self) -> Result<Value<'de>, E> {
        Ok(Value::Nil)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value<'de>, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value<'de>, E> {
        Ok(Value::Unsigned(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value<'de>, E> {
        Ok(Value::signed(value))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value<'de>, E> {
        Ok(Value::Float(value))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value<'de>, E> {
        Ok(Value::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Value<'de>, E> {
        Ok(Value::Bytes(Cow::Borrowed(bytes)))
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Value<'de>, E> {
        Ok(Value::Bytes(Cow::Owned(bytes.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value<'de>, A::Error> {
        let mut items = Vec::with_capacity(elements.size_hint().unwrap_or(0).min(MAX_RESERVED));
        while let Some(item) = elements.next_element()? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut elements: A) -> Result<Value<'de>, A::Error> {
        let mut entries = Vec::with_capacity(elements.size_hint().unwrap_or(0).min(MAX_RESERVED));
        while let Some(entry) = elements.next_entry()? {
            entries.push(entry);
        }
        Ok(Value::Map(entries))
    }

    /// Extension types arrive as this; they must be read to get past them.
    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value<'de>, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Value::Extension)
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<Value<'de>, A::Error> {
        Err(de::Error::custom("msgpack has no enums"))
    }
}

impl Serialize for Value<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            // Nothing is written for the content of an extension type, since nothing was kept of it.
            Value::Nil | Value::Extension => serializer.serialize_unit(),
            Value::Bool(value) => serializer.serialize_bool(*value),
            Value::Unsigned(value) => serializer.serialize_u64(*value),
            Value::Negative(value) => serializer.serialize_i64(*value),
            Value::Float(value) => serializer.serialize_f64(*value),
            Value::Text(text) => serializer.serialize_str(text),
            Value::Bytes(bytes) => serializer.serialize_bytes(bytes),
            Value::Array(items) => serializer.collect_seq(items),
            Value::Map(entries) => serializer.collect_map(entries.iter().map(|(key, value)| (key, value))),
        }
    }
}
