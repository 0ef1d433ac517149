//! From settings to pools of checked engines.

use serde_json::{Map, Value};
use servecast_cluster::{PoolEngine, PoolSpec, Topology};
use servecast_engine::{
    ConfigError, EngineArgs, EngineConfig, EnginePreset, EngineType, KvGroupArgs, KvGroupType, LatencySpec,
    MAX_NUM_GPU_BLOCKS, SglangArgs, merge,
};
use servecast_latency::{Capacity, CapacitySetup, ErrorBar, GIB, KvGroup, KvKind, KvPlanSetup};
use servecast_types::{Message, Role, message};

use self::pools::{Asked, AskedGroup};
use self::settings::Settings;
use crate::error::Failure;
use crate::latency;
use crate::settings::{Engines, Layers, ReplayConfig};

pub use self::settings::{GRAPHS, without_effect};

mod hand_off;
mod pools;
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

/// What is given for the engine of equal workers of a pool.
struct Given<'a> {
    role: Role,
    /// What messages call it, if they have to.
    name: String,
    asked: &'a AskedGroup,
    preset: Option<EnginePreset>,
    engine: EngineType,
}

impl<'a> Given<'a> {
    /// For each group of a pool.
    fn of(pool: &'a Asked, config: &ReplayConfig, preset: Option<EnginePreset>) -> Vec<Self> {
        let groups = pool.groups.iter().enumerate();
        groups.map(|(number, group)| Self::new(pool, number, group, config, preset)).collect()
    }

    fn new(
        pool: &Asked,
        number: usize,
        asked: &'a AskedGroup,
        config: &ReplayConfig,
        preset: Option<EnginePreset>,
    ) -> Self {
        let named = asked.explicit.get("engine_type");
        // A name that is none is refused with the other settings.
        let named = named.and_then(|name| serde_json::from_value(name.clone()).ok());
        let engine = named.or(config.engine.engine).or(preset.map(|preset| preset.engine_type()));
        let name = match pool.role {
            _ if pool.groups.len() > 1 => format!("group {} of pool `{}`: ", number + 1, pool.name),
            Role::Aggregated => String::new(),
            Role::Prefill => "prefill engine: ".to_owned(),
            Role::Decode => "decode engine: ".to_owned(),
        };
        let engine = engine.unwrap_or(EngineArgs::default().engine_type);
        Self { role: pool.role, name, asked, preset, engine }
    }

    /// The key of the settings of these workers alone.
    fn key(&self) -> &str {
        self.asked.keys.last().map_or("engine_args", String::as_str)
    }

    /// What the preset says, unless it is for the engine of another pool.
    fn preset_settings(
        &self,
        engines: &[EngineType],
        layers: &Layers,
    ) -> Result<Map<String, Value>, Failure> {
        let Some(preset) = self.preset else { return Ok(Map::new()) };
        let of = match preset.engine_type() {
            EngineType::Sglang => Engines::Sglang,
            EngineType::Vllm | EngineType::Trtllm => Engines::Vllm,
        };
        if of.include(self.engine) {
            let mut settings = preset.settings(self.role);
            // SGLang hands over to SGLang alone.
            let own = settings.get_mut("sglang").and_then(Value::as_object_mut);
            if let Some(own) = own.filter(|_| engines.iter().any(|&engine| engine != EngineType::Sglang)) {
                own.remove("disaggregation_mode");
            }
            return Ok(settings);
        }
        if engines.iter().any(|&engine| of.include(engine)) {
            return Ok(Map::new());
        }
        let (release, engine) = (preset.engine_type().name(), self.engine.name());
        let message =
            message!("{engine_preset} has the defaults of {}, but the engine is {}", release, engine);
        Err(layers.refused(message).with_hint("choose a preset of that engine, or none"))
    }
}

/// What is served where, with what the engine takes of it.
pub fn capacity_setup(args: &EngineArgs, setup: &CapacitySetup) -> CapacitySetup {
    let page_size = args.sglang.as_ref().and_then(|sglang| sglang.page_size);
    CapacitySetup {
        // What is out of range is refused with the other settings.
        gpu_memory_utilization: args.gpu_memory_utilization.clamp(0.01, 1.0),
        block_size: page_size.unwrap_or_else(|| args.resolved_block_size()),
        pipeline_parallel_size: setup.pipeline_parallel_size.max(args.pipeline_parallel_size),
        max_num_batched_tokens: args.max_num_batched_tokens.unwrap_or(setup.max_num_batched_tokens),
        max_num_seqs: args.max_num_seqs.unwrap_or(setup.max_num_seqs),
        // The layers of a drafter, which would be among the groups, are not planned.
        groups: (args.engine_type == EngineType::Vllm && args.speculative_config.is_none())
            .then(|| kv_plan_setup(args, setup)),
        ..setup.clone()
    }
}

/// What vLLM's plan of groups of layers goes by.
pub fn kv_plan_setup(args: &EngineArgs, setup: &CapacitySetup) -> KvPlanSetup {
    let stages = setup.pipeline_parallel_size.max(args.pipeline_parallel_size);
    let batches = u64::from(stages) + u64::from(args.async_scheduling);
    let tokens = args.max_num_batched_tokens.unwrap_or(setup.max_num_batched_tokens);
    KvPlanSetup {
        disable_hybrid: args.disable_hybrid_kv_cache_manager == Some(true),
        in_flight_tokens: batches * u64::from(tokens),
        keeps_states: args.enable_prefix_caching,
    }
}

/// Gives an engine the blocks that fit, which so many ranks share out, and the groups that its layers are in.
fn take_capacity(args: &mut EngineArgs, capacity: &Capacity, ranks: u32) {
    let blocks = capacity.num_gpu_blocks / u64::from(ranks);
    args.num_gpu_blocks = blocks.min(u64::from(MAX_NUM_GPU_BLOCKS)) as u32;
    let Some(plan) = &capacity.plan else { return };
    let setting = |group: &KvGroup| {
        let (kind, sliding_window, chunk) = match group.layer.kind {
            KvKind::Full => (KvGroupType::Full, None, None),
            KvKind::SlidingWindow(window) => (KvGroupType::SlidingWindow, Some(window), None),
            KvKind::ChunkedLocal(chunk) => (KvGroupType::ChunkedLocal, None, Some(chunk)),
            KvKind::State(_) => (KvGroupType::Mamba, None, None),
        };
        KvGroupArgs {
            kind,
            block_size: Some(group.layer.block_size),
            sliding_window,
            chunk,
            num_speculative_blocks: None,
        }
    };
    args.kv_groups = Some(plan.groups.iter().map(setting).collect());
    let full = plan.groups.iter().find(|group| group.layer.kind == KvKind::Full);
    args.block_size = full.or(plan.groups.first()).map_or(args.block_size, |group| group.layer.block_size);
}

/// Works out how many KV blocks fit the GPU, and says so.
fn work_out_blocks(args: &mut EngineArgs, setup: &CapacitySetup) -> Result<String, Failure> {
    if args.kv_groups.is_some() {
        return Err(Failure::user(message!(
            "{kv_groups} is given, so that the number of blocks does not follow from the model"
        ))
        .with_hint(message!("give {--num_gpu_blocks}, or leave {kv_groups} to the model")));
    }
    let setup = capacity_setup(args, setup);
    let capacity = setup.capacity().map_err(|error| {
        Failure::input(&error).with_hint(message!(
            "more GPUs (tp=N), fewer bytes a weight (dtype=fp8) or a larger {--gpu_memory_utilization} make room; \
             {--num_gpu_blocks} sets the capacity regardless"
        ))
    })?;
    let each = if args.dp_size > 1 { " of each rank" } else { "" };
    // The arithmetic is of all ranks that it knows of.
    let ranks = if args.dp_size > 1 { setup.attention_ranks.max(1) } else { 1 };
    take_capacity(args, &capacity, ranks);
    let blocks = args.num_gpu_blocks;
    if let Some(plan) = &capacity.plan {
        if args.kv_offloading_size.is_some() && plan.groups.len() > 1 {
            let of_all = plan.bytes_per_block * u64::from(setup.tensor_parallel_size);
            args.kv_offloading.get_or_insert_default().bytes_per_block.get_or_insert(of_all);
        }
        return Ok(format!(
            "`num_gpu_blocks` is {blocks}, worked out from the memory of the GPU: {:.2} GiB for the KV cache{each}, which {} groups of \
             layers share (`servecast explain kv` shows them)",
            capacity.kv_cache / GIB,
            plan.groups.len()
        ));
    }
    Ok(format!(
        "`num_gpu_blocks` is {blocks}, worked out from the memory of the GPU: {:.2} GiB for the KV cache{each}, blocks of \
         {} tokens",
        capacity.kv_cache / GIB,
        setup.block_size
    ))
}

/// Gives an engine with KV in the memory of its host the bytes of a token, if the model has to say them, and says so.
fn take_kv_bytes(args: &mut EngineArgs, spec: &LatencySpec) -> Result<Option<String>, Failure> {
    if !args.offloads_kv() || args.kv_bytes_per_token.is_some() {
        return Ok(None);
    }
    args.kv_bytes_per_token = latency::transfer(spec)?.map(|transfer| transfer.bytes_per_token);
    Ok(args
        .kv_bytes_per_token
        .map(|bytes| format!("`kv_bytes_per_token` is {bytes}, the KV cache of the model")))
}

/// What is assumed of the time of a drafter, or left out.
fn of_drafter(args: &EngineArgs, config: &EngineConfig) -> Option<&'static str> {
    let is_timed = args.of_drafter().is_ok_and(|drafter| drafter.is_some());
    if is_timed && args.drafts_by_own_layers() {
        return Some(MTP_MODULE);
    }
    if config.drafts_for_nothing(args) {
        return Some(
            "the drafter takes no time: the latency model knows no shapes, and `draft_pass_us` of \
             `speculative_config` is not given",
        );
    }
    let by_network = args.sglang.as_ref().is_some_and(SglangArgs::drafts_by_network);
    by_network.then_some("the drafter takes no time: that of SGLang's is left out")
}

/// What is assumed of a drafter that nothing is said of, since it is a part of the model.
const MTP_MODULE: &str = "a pass of the drafter is taken for one block of the model as its last, with attention and experts if it has \
     any, and its head; `model` of `speculative_config` describes another, `draft_pass_us` says how long it takes";

/// What the times of a pipeline rest on.
const EVEN_STAGES: &str = "each stage of the pipeline takes an even share of a pass, an assumption: layers are spread evenly, \
                           and what goes from one stage to the next takes no time";

/// What is said where data-parallel ranks of the attention are no ranks of the engine.
fn ranks_as_one_engine(args: &EngineArgs, spec: &LatencySpec) -> Option<String> {
    let ranks = args.data_parallel_size.filter(|&ranks| ranks > 1 && args.dp_size == 1)?;
    let instead = match args.engine_type {
        EngineType::Vllm => format!("; `dp_size` {ranks} simulates ranks in lock step"),
        EngineType::Sglang => "; `enable_dp_attention` simulates ranks in lock step".to_owned(),
        EngineType::Trtllm => String::new(),
    };
    matches!(spec, LatencySpec::Ops(_)).then(|| {
        format!(
            "the {ranks} data-parallel ranks are one engine with the KV blocks of all, each with an equal part of the \
             requests: none waits for another{instead}"
        )
    })
}

/// What is said where a real GPU is to serve as Dynamo's mocker would: batches of its size make other latencies.
fn of_the_mocker(given: &Given<'_>, settings: &Settings<'_>, spec: &LatencySpec) -> Option<String> {
    let own = ["max_num_seqs", "max_num_batched_tokens", "async_scheduling", "vllm_version"];
    let says = own.iter().any(|key| settings.values.contains_key(*key));
    let applies = given.preset.is_none() && given.engine == EngineType::Vllm && !says;
    (applies && matches!(spec, LatencySpec::Ops(_))).then(|| {
        "what is not given of the engine is as in Dynamo's mocker (256 requests at a time, no asynchronous scheduling): \
         `engine_preset` vllm-0.33 has the defaults of that release"
            .to_owned()
    })
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

/// Equal workers of a pool, and their engine.
struct Group {
    workers: u32,
    args: EngineArgs,
    config: EngineConfig,
    /// What was given but has no effect, and why.
    unused: Vec<Message>,
    /// What was not given, but follows from the rest.
    derived: Vec<String>,
    /// Where iteration times come from.
    latency_source: String,
    /// How far off they are.
    error_bar: ErrorBar,
}

impl Group {
    /// Builds workers of a deployment in which there are these engines.
    fn build(
        given: &Given<'_>,
        engines: &[EngineType],
        config: &ReplayConfig,
        layers: &Layers,
    ) -> Result<Self, Failure> {
        let name = given.name.as_str();
        let settings = Settings::collect(given, engines, config, layers)?;
        let named = |message: Message| Message::from(name).then(message);
        let explained = |message: Message| named(settings.explained(message));
        let refused = |error: ConfigError| Failure::user(explained(error.into()));
        let preset = given.preset_settings(engines, layers)?;
        let mut args =
            EngineArgs::from_json(merge(preset, settings.values.clone().into())).map_err(refused)?;
        if !settings.values.contains_key("dp_size") {
            args.share_out_attention().map_err(refused)?;
        }
        if args.kv_groups.is_some() && args.disable_hybrid_kv_cache_manager == Some(true) {
            return Err(Failure::user(explained(message!(
                "{disable_hybrid_kv_cache_manager} is for groups of layers that follow from the model, but {kv_groups} says \
                 what they are: leave one of the two out"
            ))));
        }
        let spec = args.latency_spec().map_err(refused)?;
        let in_settings = |failure: Failure| {
            let is_given = |key: &str| settings.values.contains_key(key);
            let failure = latency::of_setting(failure, args.latency.as_deref(), is_given);
            failure.with_message(|message| settings.explained(message))
        };
        let measured = latency::load(&spec, layers.models()).map_err(in_settings)?;
        let drafter = match args.of_drafter().map_err(refused)? {
            Some(drafter) => {
                let spec = drafter.latency_spec().map_err(refused)?;
                latency::load(&spec, layers.models()).map_err(in_settings)?
            }
            None => None,
        };
        let latency_source = latency::source(&spec, measured.as_deref())?;
        let is_pipeline = args.pipeline_parallel_size > 1;
        let (latency_source, error_bar) = if is_pipeline {
            let source = format!("{latency_source}, in {} stages of a pipeline", args.pipeline_parallel_size);
            (source, ErrorBar::unknown("pipelines were not measured"))
        } else {
            (latency_source, latency::error_bar(&spec, measured.as_deref()))
        };
        let setup = if settings.give_capacity() { None } else { latency::capacity(&spec)? };
        let notes = measured.as_deref().map_or(&[][..], |model| model.notes());
        let mut derived: Vec<String> = notes.iter().map(|note| format!("{name}{note}")).collect();
        derived.extend(latency::other_version(&spec)?.map(|note| format!("{name}{note}")));
        derived.extend(of_the_mocker(given, &settings, &spec).map(|note| format!("{name}{note}")));
        derived.extend(ranks_as_one_engine(&args, &spec).map(|note| format!("{name}{note}")));
        if is_pipeline {
            derived.push(format!("{name}{EVEN_STAGES}"));
        }
        if let Some(setup) = &setup {
            derived.push(format!("{name}{}", work_out_blocks(&mut args, setup)?));
        }
        if args.kv_offloading_size.is_some() && given.role != Role::Aggregated {
            return Err(Failure::user(explained(message!(
                "{kv_offloading_size} does not go together with prefill and decode workers yet: leave it out"
            ))));
        }
        derived.extend(take_kv_bytes(&mut args, &spec)?.map(|note| format!("{name}{note}")));
        let mut config = args.validate(measured).map_err(refused)?;
        if let Some(link) = config.assumed_host_link(&args) {
            derived.push(format!("{name}{link}"));
        }
        if let Some(model) = drafter {
            config = config.with_drafter(&args, model).map_err(refused)?;
        }
        derived.extend(of_drafter(&args, &config).map(|note| format!("{name}{note}")));
        let mut unused: Vec<Message> = settings.unused(&args).map(named).collect();
        if args.says_what_is_served() && !matches!(spec, LatencySpec::Ops(_) | LatencySpec::Roofline(_)) {
            unused.push(explained(message!(
                "{model}, {gpu} and how they are shared out are for `ops` and `roofline`: {latency} has times of its own"
            )));
        }
        derived.extend(
            latency::without_graphs(&spec, config.max_num_seqs())?.map(|note| format!("{name}{note}")),
        );
        unused.extend(settings.unused_graphs(&args, &spec).map(named));
        if args.attention_backend.is_some() && !matches!(spec, LatencySpec::Ops(_)) {
            unused.push(explained(message!(
                "{attention_backend} is for iteration times composed of operators ({model} and {gpu}): other latency models \
                 have the kernels that were measured"
            )));
        }
        if setup.is_none() && settings.values.contains_key("gpu_memory_utilization") {
            unused.push(explained(message!(
                "{gpu_memory_utilization} is for working out {num_gpu_blocks}, which is given or does not follow, since the \
                 latency model knows no GPU"
            )));
        }
        let workers = given.asked.workers;
        Ok(Self { workers, args, config, unused, derived, latency_source, error_bar })
    }

    fn engine(&self) -> PoolEngine<'_> {
        PoolEngine { workers: self.workers, args: &self.args, config: &self.config }
    }
}
