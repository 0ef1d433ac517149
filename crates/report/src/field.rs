//! How a field of the report becomes keys of a flat JSON object, and their schema.
//!
//! `Report` is declared once, through [`flat_object!`]; serialisation, its inverse and the JSON Schema are
//! all derived from that list. Most fields are one key of the same name; a [`Stats`] called `ttft_ms` is the
//! nine keys `mean_ttft_ms`, …, `std_ttft_ms`. A [`Measured`] without a sample is null, and so is a
//! statistic that is infinite; an absent `Option` is no key.

use std::collections::BTreeMap;

use schemars::{JsonSchema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde::ser::SerializeMap;
use serde_json::{Map, Value};

use crate::measured::Measured;
use crate::sla::Sla;
use crate::stats::Stats;

/// A field of the report.
pub(crate) trait Field: Sized {
    /// Writes the keys of the field called `name`.
    fn write<M: SerializeMap>(&self, name: &str, object: &mut M) -> Result<(), M::Error>;

    /// Takes the field called `name` out of what was read; the error names the key.
    fn take(name: &str, object: &mut Map<String, Value>) -> Result<Self, String>;

    /// Adds the keys of the field called `name` to the schema.
    fn describe(name: &str, doc: &str, keys: &mut Keys<'_>);
}

/// The keys of an object, as a schema sees them.
pub(crate) struct Keys<'a> {
    pub(crate) generator: &'a mut SchemaGenerator,
    pub(crate) properties: Map<String, Value>,
    pub(crate) required: Vec<String>,
}

impl Keys<'_> {
    fn add<T: JsonSchema>(&mut self, key: &str, doc: String) {
        let mut schema = self.generator.subschema_for::<T>();
        schema.insert("description".to_owned(), doc.into());
        self.properties.insert(key.to_owned(), schema.to_value());
        self.required.push(key.to_owned());
    }
}

/// Implements [`Field`] for types that are the value of one key.
macro_rules! one_key {
    ($($type:ty),+ $(,)?) => {$(
        impl Field for $type {
            fn write<M: SerializeMap>(&self, name: &str, object: &mut M) -> Result<(), M::Error> {
                object.serialize_entry(name, self)
            }

            fn take(name: &str, object: &mut Map<String, Value>) -> Result<Self, String> {
                take_key(name, object)
            }

            fn describe(name: &str, doc: &str, keys: &mut Keys<'_>) {
                keys.add::<Self>(name, doc.to_owned());
            }
        }
    )+};
}

one_key!(
    u64,
    f64,
    String,
    BTreeMap<String, u64>,
    BTreeMap<String, Value>,
    crate::SchemaVersion,
    Vec<crate::PoolReport>,
    Vec<String>,
    Vec<crate::SloOutcome>,
    Vec<crate::Finding>,
    crate::Overload,
    Sla,
    crate::ErrorBar,
    crate::MeasuredPart,
    crate::SessionFigures,
    BTreeMap<String, crate::Figures>,
);

impl<T: Field> Field for Option<T> {
    fn write<M: SerializeMap>(&self, name: &str, object: &mut M) -> Result<(), M::Error> {
        self.as_ref().map_or(Ok(()), |value| value.write(name, object))
    }

    fn take(name: &str, object: &mut Map<String, Value>) -> Result<Self, String> {
        object.contains_key(name).then(|| T::take(name, object)).transpose()
    }

    fn describe(name: &str, doc: &str, keys: &mut Keys<'_>) {
        let required = keys.required.len();
        T::describe(name, doc, keys);
        keys.required.truncate(required);
    }
}

impl Field for Measured {
    fn write<M: SerializeMap>(&self, name: &str, object: &mut M) -> Result<(), M::Error> {
        object.serialize_entry(name, &self.0)
    }

    fn take(name: &str, object: &mut Map<String, Value>) -> Result<Self, String> {
        take_key(name, object).map(Self)
    }

    fn describe(name: &str, doc: &str, keys: &mut Keys<'_>) {
        keys.add::<Option<f64>>(name, doc.to_owned());
    }
}

impl Field for Measured<Stats> {
    fn write<M: SerializeMap>(&self, name: &str, object: &mut M) -> Result<(), M::Error> {
        for (position, (statistic, _)) in Stats::NAMES.iter().enumerate() {
            let value = self.map(|stats| stats.to_array()[position]);
            object.serialize_entry(&format!("{statistic}_{name}"), &value)?;
        }
        Ok(())
    }

    fn take(name: &str, object: &mut Map<String, Value>) -> Result<Self, String> {
        // Of a metric that has samples, what is null is infinite.
        let (mut values, mut has_samples) = ([f64::INFINITY; Stats::NAMES.len()], false);
        for (position, (statistic, _)) in Stats::NAMES.iter().enumerate() {
            let value: Option<f64> = take_key(&format!("{statistic}_{name}"), object)?;
            has_samples |= value.is_some();
            values[position] = value.unwrap_or(f64::INFINITY);
        }
        Ok(Self(has_samples.then(|| Stats::from_array(values))))
    }

    fn describe(name: &str, doc: &str, keys: &mut Keys<'_>) {
        for (statistic, label) in Stats::NAMES {
            keys.add::<Option<f64>>(&format!("{statistic}_{name}"), format!("{label}. {doc}"));
        }
    }
}

fn take_key<T: DeserializeOwned>(key: &str, object: &mut Map<String, Value>) -> Result<T, String> {
    let value = object.remove(key).ok_or_else(|| format!("missing key `{key}`"))?;
    serde_json::from_value(value).map_err(|error| format!("key `{key}`: {error}"))
}

/// Declares a struct whose JSON form is one flat object with the keys of its fields in order; see [`Field`].
///
/// Unknown keys are ignored when reading, since keys may be added within a schema version.
macro_rules! flat_object {
    ($(#[$attribute:meta])* pub struct $name:ident {
        $($(#[doc = $doc:literal])+ pub $field:ident: $type:ty,)+
    }) => {
        $(#[$attribute])*
        pub struct $name {
            $($(#[doc = $doc])+ pub $field: $type,)+
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut object = serializer.serialize_map(None)?;
                $($crate::field::Field::write(&self.$field, stringify!($field), &mut object)?;)+
                serde::ser::SerializeMap::end(object)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let mut object = serde_json::Map::deserialize(deserializer)?;
                Ok(Self {
                    $($field: $crate::field::Field::take(stringify!($field), &mut object)
                        .map_err(serde::de::Error::custom)?,)+
                })
            }
        }

        impl schemars::JsonSchema for $name {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                let (properties, required) = (serde_json::Map::new(), Vec::new());
                let mut keys = $crate::field::Keys { generator, properties, required };
                $(<$type as $crate::field::Field>::describe(
                    stringify!($field),
                    concat!($($doc),+).trim(),
                    &mut keys,
                );)+
                schemars::json_schema!({
                    "type": "object",
                    "properties": keys.properties,
                    "required": keys.required,
                })
            }
        }
    };
}

pub(crate) use flat_object;
