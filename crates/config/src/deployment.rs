//! From settings to pools of checked engines.

use servecast_cluster::{PoolSpec, Topology};
use servecast_engine::{EngineArgs, EnginePreset, EngineType};
use servecast_latency::ErrorBar;
use servecast_types::{Message, Role, message};

use self::group::{Given, Group};
use self::pools::Asked;
use crate::error::Failure;
use crate::settings::{Layers, ReplayConfig};

pub use self::capacity::{capacity_setup, kv_plan_setup};
pub use self::settings::{GRAPHS, without_effect};

mod capacity;
mod group;
mod hand_off;
mod pools;
mod remarks;
mod settings;

/// Workers of a pool, unless somebody says otherwise.
pub const DEFAULT_WORKERS: u32 = 1;

/// A deployment that can be simulated.
#[derive(Debug)]
pub struct Deployment {
    /// Pools, workers, engines, hand-off.
    pub topology: Topology,
    /// Tokens a KV block, the same in all pools.
    pub block_size: u32,
    /// What engines say of the queue of the KV router.
    pub queue_policies: QueuePolicies,
    /// Its pools with their settings, in the order in which a request meets them.
    pub pools: Vec<PoolSettings>,
    /// What was given but has no effect, and why.
    pub unused: Vec<Message>,
    /// What was not given, but follows from the rest.
    pub derived: Vec<String>,
    /// Where iteration times come from.
    pub latency_source: String,
    /// How far off they are.
    pub latency_error: ErrorBar,
}

/// A pool, as settings that repeat a run have it.
#[derive(Debug, Clone)]
pub struct PoolSettings {
    /// What it is called.
    pub name: String,
    /// What it is for.
    pub role: Role,
    /// Workers of each kind, and their settings; at least one.
    pub groups: Vec<(u32, EngineArgs)>,
}

/// What engine settings say of the queue of their router.
#[derive(Debug, Default)]
pub struct QueuePolicies {
    /// Of the first pool that a request comes to.
    pub first: Option<String>,
    /// Of the decode pool, if it is another.
    pub decode: Option<String>,
}

/// Builds the deployment that the settings describe.
pub fn build(config: &ReplayConfig, layers: &Layers) -> Result<Deployment, Failure> {
    let preset = preset(config, layers)?;
    let asked = pools::asked(config, layers)?;
    let given: Vec<Vec<Given<'_>>> = asked.iter().map(|pool| Given::of(pool, config, preset)).collect();
    let engines: Vec<EngineType> = given.iter().flatten().map(|given| given.engine).collect();
    let build = |(asked, given): (&Asked, &Vec<Given>)| {
        let groups = given.iter().map(|given| Group::build(given, &engines, config, layers));
        Ok(Pool {
            name: asked.name.clone(),
            role: asked.role,
            groups: groups.collect::<Result<_, Failure>>()?,
        })
    };
    let mut pools: Vec<Pool> = asked.iter().zip(&given).map(build).collect::<Result<_, Failure>>()?;
    pools.iter().try_for_each(|pool| pool.check_identities(layers))?;
    let hand_off = match &mut pools[..] {
        [prefill, decode] => hand_off::work_out(prefill, decode, layers)?,
        _ => None,
    };
    let policies = pools.iter().map(|pool| pool.queue_policy(layers)).collect::<Result<Vec<_>, Failure>>()?;
    let mut policies = policies.into_iter();
    let queue_policies =
        QueuePolicies { first: policies.next().flatten(), decode: policies.next().flatten() };
    let specs: Vec<PoolSpec<'_>> = pools.iter().map(Pool::spec).collect();
    let topology = Topology::new(&specs).map_err(|error| layers.refused(error))?;
    let unused = pools.iter().flat_map(|pool| pool.unused(layers)).collect();
    let pools_at_once = topology.is_paired().then(|| hand_off::told(&pools)).flatten();
    let derived = pools.iter().flat_map(|pool| &pool.groups).flat_map(|group| group.derived.clone());
    Ok(Deployment {
        topology,
        block_size: pools[0].groups[0].config.block_size(),
        queue_policies,
        unused,
        derived: derived.chain(hand_off).chain(pools_at_once).collect(),
        latency_source: of_both(pools.iter().map(|pool| (pool.role, pool.latency_source()))),
        latency_error: reported(&pools[0].error_bar(), &pools[pools.len() - 1].error_bar()),
        pools: pools.into_iter().map(Pool::settings).collect(),
    })
}

/// What is said of each pool, once if it is the same.
fn of_both(said: impl Iterator<Item = (Role, String)>) -> String {
    let said: Vec<(Role, String)> = said.collect();
    if said.iter().all(|(_, text)| *text == said[0].1) {
        return said[0].1.clone();
    }
    said.iter().map(|(role, text)| format!("{}: {text}", role.name())).collect::<Vec<_>>().join("; ")
}

/// How far off times are: TTFT by the pool of prompts, TPOT by that of output.
fn reported(prompts: &ErrorBar, output: &ErrorBar) -> ErrorBar {
    let bases = [(Role::Prefill, prompts.basis.clone()), (Role::Decode, output.basis.clone())];
    ErrorBar {
        tpot_p90: output.tpot_p90,
        ttft_p90: prompts.ttft_p90,
        tpot_mape: output.tpot_mape,
        ttft_mape: prompts.ttft_mape,
        n: prompts.n.min(output.n),
        basis: of_both(bases.into_iter()),
    }
}

fn preset(config: &ReplayConfig, layers: &Layers) -> Result<Option<EnginePreset>, Failure> {
    let preset = config.engine.engine_preset.as_deref().map(EnginePreset::by_name).transpose();
    preset.map_err(|error| layers.refused(error))
}

/// A pool whose engines are checked.
struct Pool {
    name: String,
    role: Role,
    groups: Vec<Group>,
}

impl Pool {
    fn spec(&self) -> PoolSpec<'_> {
        PoolSpec {
            name: &self.name,
            role: self.role,
            groups: self.groups.iter().map(Group::engine).collect(),
        }
    }

    fn settings(self) -> PoolSettings {
        let groups = self.groups.into_iter().map(|group| (group.workers, group.args));
        PoolSettings { name: self.name, role: self.role, groups: groups.collect() }
    }

    /// What was given but has no effect, and why.
    fn unused(&self, layers: &Layers) -> Vec<Message> {
        let of_group = |group: &Group| {
            let hand_off = hand_off::unused(&group.args).filter(|_| self.role == Role::Aggregated);
            let hand_off = hand_off.map(|reason| layers.explained(reason));
            group.unused.iter().cloned().chain(hand_off).collect::<Vec<_>>()
        };
        self.groups.iter().flat_map(of_group).collect()
    }

    /// What its engines say of the queue of their router, which they share.
    fn queue_policy(&self, layers: &Layers) -> Result<Option<String>, Failure> {
        let mut policies = self.groups.iter().map(|group| &group.args.router_queue_policy);
        let first = policies.next().cloned().flatten();
        if policies.any(|other| *other != first) {
            return Err(layers.refused(message!(
                "{router_queue_policy} differs among the groups of pool `{}`, which have one router",
                &self.name
            )));
        }
        Ok(first)
    }

    /// Refuses groups whose blocks have identities that the router of the pool cannot compare.
    fn check_identities(&self, layers: &Layers) -> Result<(), Failure> {
        let mut lookaheads = self.groups.iter().map(|group| group.config.hash_lookahead());
        let first = lookaheads.next();
        if lookaheads.any(|other| Some(other) != first) {
            return Err(layers.refused(message!(
                "{speculative_config} differs among the groups of pool `{}` in how far the hashes of blocks look ahead, so \
                 that no router could compare them: {speculative_config.disable_lookahead_block_hashes} makes them alike",
                &self.name
            )));
        }
        Ok(())
    }

    /// Where iteration times come from, of each group if they differ.
    fn latency_source(&self) -> String {
        self.of_groups(|group| group.latency_source.clone())
    }

    /// How far off they are: where groups differ, as far as the worst.
    fn error_bar(&self) -> ErrorBar {
        let bars = || self.groups.iter().map(|group| &group.error_bar);
        // What is unknown of one is unknown of all.
        let worst = |of: fn(&ErrorBar) -> Option<f64>| {
            bars().map(of).collect::<Option<Vec<f64>>>().and_then(|all| all.into_iter().reduce(f64::max))
        };
        ErrorBar {
            tpot_p90: worst(|bar| bar.tpot_p90),
            ttft_p90: worst(|bar| bar.ttft_p90),
            tpot_mape: worst(|bar| bar.tpot_mape),
            ttft_mape: worst(|bar| bar.ttft_mape),
            n: bars().map(|bar| bar.n).min().flatten(),
            basis: self.of_groups(|group| group.error_bar.basis.clone()),
        }
    }

    /// What is said of each group, once if it is the same.
    fn of_groups(&self, said: impl Fn(&Group) -> String) -> String {
        let first = said(&self.groups[0]);
        if self.groups.iter().all(|group| said(group) == first) {
            return first;
        }
        let said = |(number, group)| format!("group {number}: {}", said(group));
        (1..).zip(&self.groups).map(said).collect::<Vec<_>>().join("; ")
    }
}
