//! Configuration files in TOML, as the JSON that settings are laid over one another in.

use serde_json::{Map, Value};

/// The object that a TOML file is, or what is wrong with it.
pub(super) fn toml_object(text: &str) -> Result<Map<String, Value>, String> {
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| {
        let line = error.span().map(|span| text[..span.start].matches('\n').count() + 1);
        let message = error.message();
        line.map_or_else(|| message.to_owned(), |line| format!("line {line}: {message}"))
    })?;
    table.into_iter().map(|(key, value)| json(&key, value).map(|value| (key, value))).collect()
}

fn json(key: &str, value: toml::Value) -> Result<Value, String> {
    Ok(match value {
        toml::Value::String(text) => text.into(),
        toml::Value::Integer(number) => number.into(),
        toml::Value::Float(number) => serde_json::Number::from_f64(number)
            .map(Value::Number)
            .ok_or_else(|| format!("`{key}` is {number}, but must be a finite number"))?,
        toml::Value::Boolean(boolean) => boolean.into(),
        toml::Value::Datetime(datetime) => datetime.to_string().into(),
        toml::Value::Array(items) => {
            items.into_iter().map(|item| json(key, item)).collect::<Result<Vec<_>, _>>()?.into()
        }
        toml::Value::Table(table) => {
            let entries = table.into_iter().map(|(name, value)| {
                let value = json(&format!("{key}.{name}"), value)?;
                Ok((name, value))
            });
            Value::Object(entries.collect::<Result<_, String>>()?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toml_is_json() {
        let object = toml_object("a = 1\nb = [0.5, true]\n[c]\nd = \"e\"\n").unwrap();
        assert_eq!(Value::Object(object), serde_json::json!({"a": 1, "b": [0.5, true], "c": {"d": "e"}}));
        assert_eq!(toml_object("[a]\nb = nan").unwrap_err(), "`a.b` is NaN, but must be a finite number");
        assert!(toml_object("a = 1\na = 2").unwrap_err().starts_with("line 2: "));
    }
}
