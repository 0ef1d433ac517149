//! Settings as lines of a TOML file.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::grown_concurrency;

/// Settings of a TOML file: key and value as text; none where a setting is taken away.
pub(super) type Lines = BTreeMap<String, Option<String>>;

/// What a factor of the load changes in the settings of a run.
pub(super) fn of_factor(factor: f64, common: &Map<String, Value>) -> Map<String, Value> {
    if (factor - 1.0).abs() < f64::EPSILON {
        return Map::new();
    }
    let given = |key: &str| common.get(key).and_then(Value::as_f64);
    let (key, value) = match given("replay_concurrency") {
        Some(sessions) => ("replay_concurrency", json!(grown_concurrency(sessions as u32, factor))),
        None => ("arrival_speedup_ratio", json!(given("arrival_speedup_ratio").unwrap_or(1.0) * factor)),
    };
    Map::from_iter([(key.to_owned(), value)])
}

/// The settings of a deployment as lines of a TOML file, those within others together with what these have in common.
pub(super) fn own_lines(settings: &BTreeMap<String, Value>, common: &Map<String, Value>) -> Lines {
    let mut own = Map::new();
    for (path, value) in settings {
        let mut keys = path.split('.');
        let first = keys.next().unwrap_or(path);
        let shared = || common.get(first).cloned().unwrap_or_else(|| json!({}));
        let place = own.entry(first).or_insert_with(shared);
        *keys.fold(place, |place, key| {
            if !place.is_object() {
                *place = json!({});
            }
            &mut place[key]
        }) = value.clone();
    }
    lines(&own)
}

pub(super) fn lines(settings: &Map<String, Value>) -> Lines {
    settings.iter().map(|(key, value)| (key.clone(), toml(value))).collect()
}

/// A value as it stands in a TOML file, where there is no null.
fn toml(value: &Value) -> Option<String> {
    let text = match value {
        Value::Null => return None,
        Value::Array(items) => format!("[{}]", items.iter().filter_map(toml).collect::<Vec<_>>().join(", ")),
        Value::Object(members) => {
            let member = |(key, value)| Some(format!("{} = {}", toml(&Value::String(key))?, toml(value)?));
            let members = members.iter().map(|(key, value)| (key.clone(), value)).filter_map(member);
            format!("{{ {} }}", members.collect::<Vec<_>>().join(", "))
        }
        // Strings of JSON are those of TOML, but for one character that may not stand for itself there.
        Value::String(_) => value.to_string().replace('\u{7f}', "\\u007f"),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    };
    Some(text)
}
