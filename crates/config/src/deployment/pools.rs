//! The pools that settings ask for: tables, or the shorthand of one pool or two with workers of one kind each.

use serde_json::{Map, Value};
use servecast_cluster::MAX_WORKERS;
use servecast_engine::lay_over;
use servecast_types::{Message, Role, message};

use super::DEFAULT_WORKERS;
use crate::error::Failure;
use crate::settings::{Layers, PoolTable, ReplayConfig};

/// A pool as it is asked for.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) name: String,
    pub(super) role: Role,
    /// At least one.
    pub(super) groups: Vec<AskedGroup>,
}

/// Equal workers of a pool, as they are asked for.
#[derive(Debug)]
pub(super) struct AskedGroup {
    pub(super) workers: u32,
    /// Engine settings of these workers alone.
    pub(super) explicit: Map<String, Value>,
    /// Where those stand: what comes later goes over what comes before.
    pub(super) keys: Vec<String>,
}

/// The pools in the order in which a request meets them.
pub(super) fn asked(config: &ReplayConfig, layers: &Layers) -> Result<Vec<Asked>, Failure> {
    match &config.deployment.pool {
        Some(tables) => of_tables(tables, config, layers),
        None => of_shorthand(config, layers),
    }
}

/// What the shorthand has of a pool: role, workers, settings, and the key of those.
type Short<'a> = (Role, Option<u32>, &'a Option<Map<String, Value>>, &'static str);

fn of_shorthand(config: &ReplayConfig, layers: &Layers) -> Result<Vec<Asked>, Failure> {
    let given = &config.deployment;
    let pools: &[Short<'_>] = match staged_key(config) {
        None => &[(Role::Aggregated, given.num_workers, &given.engine_args, "engine_args")],
        Some(staged) => {
            check_staged(config, layers, staged)?;
            let (prefill, decode) = (&given.prefill_engine_args, &given.decode_engine_args);
            &[
                (Role::Prefill, given.num_prefill_workers, prefill, "prefill_engine_args"),
                (Role::Decode, given.num_decode_workers, decode, "decode_engine_args"),
            ]
        }
    };
    let asked = |&(role, workers, explicit, key): &Short<'_>| Asked {
        name: role.name().to_owned(),
        role,
        groups: vec![AskedGroup {
            workers: workers.unwrap_or(DEFAULT_WORKERS),
            explicit: explicit.clone().unwrap_or_default(),
            keys: vec![key.to_owned()],
        }],
    };
    Ok(pools.iter().map(asked).collect())
}

fn of_tables(tables: &[PoolTable], config: &ReplayConfig, layers: &Layers) -> Result<Vec<Asked>, Failure> {
    if let Some((key, _)) = shorthand(config).into_iter().find(|(_, is_given)| *is_given) {
        let message =
            message!("{pool} and {} cannot be combined: both say what pools there are", Message::key(key));
        let hint = message!("a table of {pool} has `role`, `workers` and `engine_args`");
        return Err(layers.refused(message).with_hint(hint));
    }
    let pools = tables.iter().enumerate().map(|(number, table)| of_table(number, table, layers));
    let mut pools: Vec<Asked> = pools.collect::<Result<_, _>>()?;
    for (number, pool) in pools.iter().enumerate() {
        if let Some(other) = pools[..number].iter().position(|other| other.name == pool.name) {
            return Err(layers.refused(message!(
                "{} and {} are both called `{}`: give each a `name` of its own",
                Message::key(format!("pool[{other}]")),
                Message::key(format!("pool[{number}]")),
                &pool.name
            )));
        }
    }
    // Prefill comes before decode.
    pools.sort_by_key(|pool| pool.role == Role::Decode);
    let roles: Vec<Role> = pools.iter().map(|pool| pool.role).collect();
    if matches!(roles[..], [Role::Aggregated] | [Role::Prefill, Role::Decode]) {
        return Ok(pools);
    }
    let found = match roles[..] {
        [] => "no table".to_owned(),
        _ => roles.iter().map(|role| role.name()).collect::<Vec<_>>().join(", "),
    };
    let message = message!(
        "{pool} has {}, but requests go through one aggregated pool, or through one prefill pool and one decode pool",
        found
    );
    Err(layers
        .refused(message)
        .with_hint("workers that differ can be in one pool: each kind is a `[[pool.group]]`"))
}

fn of_table(number: usize, table: &PoolTable, layers: &Layers) -> Result<Asked, Failure> {
    let place = format!("pool[{number}]");
    let role = table.role.unwrap_or_default();
    let name = table.name.clone().unwrap_or_else(|| role.name().to_owned());
    if name.trim().is_empty() {
        let message = message!(
            "{} is empty: leave it out, or give the pool a name",
            Message::key(format!("{place}.name"))
        );
        return Err(layers.refused(message));
    }
    let shared = table.engine_args.clone().unwrap_or_default();
    let keys = vec![format!("{place}.engine_args")];
    let Some(tables) = &table.group else {
        let workers = workers(table.workers, &place, layers)?;
        return Ok(Asked { name, role, groups: vec![AskedGroup { workers, explicit: shared, keys }] });
    };
    if table.workers.is_some() {
        let (one, other) = (Message::key(format!("{place}.workers")), Message::key(format!("{place}.group")));
        let message =
            message!("{} and {} are both given: each group says how many workers it has", one, other);
        return Err(layers.refused(message));
    }
    if tables.is_empty() {
        let message = message!("{} is empty, but a pool has workers", Message::key(format!("{place}.group")));
        return Err(layers.refused(message));
    }
    let group = |(number, group): (usize, &crate::settings::GroupTable)| {
        let place = format!("{place}.group[{number}]");
        let mut explicit = shared.clone();
        lay_over(&mut explicit, group.engine_args.clone().unwrap_or_default());
        let keys = [keys.clone(), vec![format!("{place}.engine_args")]].concat();
        Ok(AskedGroup { workers: workers(group.workers, &place, layers)?, explicit, keys })
    };
    let groups: Vec<AskedGroup> = tables.iter().enumerate().map(group).collect::<Result<_, Failure>>()?;
    let all = groups.iter().fold(0, |all: u32, group| all.saturating_add(group.workers));
    if all > MAX_WORKERS {
        return Err(too_many(all, &place, layers));
    }
    Ok(Asked { name, role, groups })
}

fn workers(given: Option<u32>, place: &str, layers: &Layers) -> Result<u32, Failure> {
    match given.unwrap_or(DEFAULT_WORKERS) {
        0 => {
            let key = Message::key(format!("{place}.workers"));
            Err(layers
                .refused(message!("{} is 0, but a pool needs at least 1 worker, as does each group", key)))
        }
        workers if workers > MAX_WORKERS => Err(too_many(workers, place, layers)),
        workers => Ok(workers),
    }
}

fn too_many(workers: u32, place: &str, layers: &Layers) -> Failure {
    layers.refused(message!(
        "{} has {} workers, but a pool has at most {}",
        Message::key(place),
        workers,
        MAX_WORKERS
    ))
}

/// The settings of the shorthand, and whether each is given.
fn shorthand(config: &ReplayConfig) -> [(&'static str, bool); 6] {
    let given = &config.deployment;
    [
        ("num_workers", given.num_workers.is_some()),
        ("engine_args", given.engine_args.is_some()),
        ("prefill_engine_args", given.prefill_engine_args.is_some()),
        ("decode_engine_args", given.decode_engine_args.is_some()),
        ("num_prefill_workers", given.num_prefill_workers.is_some()),
        ("num_decode_workers", given.num_decode_workers.is_some()),
    ]
}

/// The first setting, if there is one, that makes the deployment disaggregated.
fn staged_key(config: &ReplayConfig) -> Option<&'static str> {
    shorthand(config)[2..].iter().find_map(|&(key, is_given)| is_given.then_some(key))
}

/// Refuses settings of an aggregated deployment in a disaggregated one, and half of a disaggregated one.
fn check_staged(config: &ReplayConfig, layers: &Layers, staged: &str) -> Result<(), Failure> {
    let given = &config.deployment;
    let refused = |message: Message, hint: Message| Err(layers.refused(message).with_hint(hint));
    let not_combined = |key: &str| {
        message!(
            "{} and {} cannot be combined: the one is for aggregated, the other for disaggregated serving",
            Message::key(key),
            Message::key(staged)
        )
    };
    if given.engine_args.is_some() {
        return refused(
            not_combined("engine_args"),
            message!(
                "{--prefill_engine_args} and {--decode_engine_args} set up one pool each; flags such as {--block_size} hold \
                 for both"
            ),
        );
    }
    if given.num_workers.is_some() {
        return refused(
            not_combined("num_workers"),
            message!("{--num_prefill_workers} and {--num_decode_workers} say how many there are of each"),
        );
    }
    let alone = match (given.num_prefill_workers, given.num_decode_workers) {
        (Some(_), None) => Some(["num_prefill_workers", "num_decode_workers"]),
        (None, Some(_)) => Some(["num_decode_workers", "num_prefill_workers"]),
        _ => None,
    };
    if let Some([one, other]) = alone {
        return refused(
            message!(
                "{} is given without {}, but a disaggregated deployment has both pools",
                Message::key(one),
                Message::key(other)
            ),
            message!(
                "{} says how many there are of the other; {--num_workers} makes an aggregated deployment",
                Message::flag(other)
            ),
        );
    }
    match (&given.prefill_engine_args, &given.decode_engine_args) {
        (Some(_), None) => refused(
            message!(
                "{prefill_engine_args} is given without {decode_engine_args}, but each pool needs its settings"
            ),
            message!("{--decode_engine_args} '{{}}' takes the defaults"),
        ),
        (None, Some(_)) => refused(
            message!(
                "{decode_engine_args} is given without {prefill_engine_args}, but each pool needs its settings"
            ),
            message!("{--prefill_engine_args} '{{}}' takes the defaults"),
        ),
        _ => Ok(()),
    }
}
