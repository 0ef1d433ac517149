//! `[[pool]]`: the pools of a deployment as tables, each with workers of one kind or of several.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use servecast_engine::EngineArgs;
use servecast_types::{Message, Role, message, similar};

use super::keys::keys_of;

/// The key of the tables.
pub(super) const POOL: &str = "pool";

/// A pool of workers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PoolTable {
    /// What it is called in messages; its role without it
    pub name: Option<String>,
    /// What its workers do of a request: all of it (the default), the prompt, or the output
    pub role: Option<Role>,
    /// Number of workers; 1 without it
    pub workers: Option<u32>,
    /// Engine settings of its workers
    #[schemars(with = "Option<EngineArgs>")]
    pub engine_args: Option<Map<String, Value>>,
    /// Groups of workers that differ, in place of `workers`
    pub group: Option<Vec<GroupTable>>,
}

/// Equal workers of a pool.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GroupTable {
    /// Number of workers; 1 without it
    pub workers: Option<u32>,
    /// Engine settings of these workers, key by key over those of the pool
    #[schemars(with = "Option<EngineArgs>")]
    pub engine_args: Option<Map<String, Value>>,
}

/// Says what is wrong with the keys of pool tables, if anything is; values are of any type.
pub(super) fn check_keys(tables: &Value) -> Result<(), Message> {
    for (number, table) in tables.as_array().into_iter().flatten().enumerate() {
        let place = format!("{POOL}[{number}]");
        check_table::<PoolTable>(table, &place)?;
        let groups = table.get("group").and_then(Value::as_array);
        for (number, group) in groups.into_iter().flatten().enumerate() {
            check_table::<GroupTable>(group, &format!("{place}.group[{number}]"))?;
        }
    }
    Ok(())
}

fn check_table<T: Default + Serialize>(table: &Value, place: &str) -> Result<(), Message> {
    let known = keys_of::<T>();
    let unknown = table.as_object().into_iter().flatten().map(|(key, _)| key);
    let Some(key) = unknown.filter(|key| !known.contains(key)).min() else { return Ok(()) };
    let place = Message::key(place);
    if EngineArgs::keys().contains(key) {
        return Err(message!(
            "{} has `{}`, a setting of the engine: it belongs into its `engine_args`",
            place,
            key
        ));
    }
    if let Some(similar) = similar(key, known.iter().map(String::as_str)) {
        return Err(message!("{} has the unknown key `{}`, did you mean `{}`?", place, key, similar));
    }
    let known: Vec<String> = known.iter().map(|key| format!("`{key}`")).collect();
    Err(message!("{} has the unknown key `{}`: its keys are {}", place, key, known.join(", ")))
}
