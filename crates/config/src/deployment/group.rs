//! Equal workers of a pool: what is given for them, and the engine that follows.

use std::sync::Arc;

use serde_json::{Map, Value};
use servecast_cluster::PoolEngine;
use servecast_engine::{ConfigError, EngineArgs, EngineConfig, EnginePreset, EngineType, LatencySpec, merge};
use servecast_latency::{ErrorBar, LatencyModel};
use servecast_types::{Message, Role, message};

use super::capacity::{take_kv_bytes, work_out_blocks};
use super::pools::{Asked, AskedGroup};
use super::remarks;
use super::settings::Settings;
use crate::error::Failure;
use crate::latency;
use crate::settings::{Engines, Layers, ReplayConfig};

/// What is given for the engine of equal workers of a pool.
pub(super) struct Given<'a> {
    pub(super) role: Role,
    /// What messages call it, if they have to.
    pub(super) name: String,
    pub(super) asked: &'a AskedGroup,
    pub(super) preset: Option<EnginePreset>,
    pub(super) engine: EngineType,
}

impl<'a> Given<'a> {
    /// For each group of a pool.
    pub(super) fn of(pool: &'a Asked, config: &ReplayConfig, preset: Option<EnginePreset>) -> Vec<Self> {
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
    pub(super) fn key(&self) -> &str {
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

/// Equal workers of a pool, and their engine.
pub(super) struct Group {
    pub(super) workers: u32,
    pub(super) args: EngineArgs,
    pub(super) config: EngineConfig,
    /// What was given but has no effect, and why.
    pub(super) unused: Vec<Message>,
    /// What was not given, but follows from the rest.
    pub(super) derived: Vec<String>,
    /// Where iteration times come from.
    pub(super) latency_source: String,
    /// How far off they are.
    pub(super) error_bar: ErrorBar,
}

impl Group {
    /// Builds workers of a deployment in which there are these engines.
    pub(super) fn build(
        given: &Given<'_>,
        engines: &[EngineType],
        config: &ReplayConfig,
        layers: &Layers,
    ) -> Result<Self, Failure> {
        let name = given.name.as_str();
        let settings = Settings::collect(given, engines, config, layers)?;
        let named = |message: Message| Message::from(name).then(message);
        let refused = |error: ConfigError| Failure::user(named(settings.explained(error.into())));
        let preset = given.preset_settings(engines, layers)?;
        let mut args =
            EngineArgs::from_json(merge(preset, settings.values.clone().into())).map_err(refused)?;
        args.share_out_attention().map_err(refused)?;
        if let Some(conflict) = conflict(&args, given.role) {
            return Err(Failure::user(named(settings.explained(conflict))));
        }
        let spec = args.latency_spec().map_err(refused)?;
        let load = |args: &EngineArgs, spec: &LatencySpec| load(args, spec, &settings, layers);
        let measured = load(&args, &spec)?;
        let drafter = match args.of_drafter().map_err(refused)? {
            Some(drafter) => load(&args, &drafter.latency_spec().map_err(refused)?)?,
            None => None,
        };
        let (latency_source, error_bar) = source(&args, &spec, measured.as_deref())?;
        let setup = if settings.give_capacity() { None } else { latency::capacity(&spec)? };
        let mut derived: Vec<String> = measured.iter().flat_map(|model| model.notes().to_vec()).collect();
        derived.extend(remarks::of_times(given, &settings, &args, &spec)?);
        if let Some(setup) = &setup {
            derived.push(work_out_blocks(&mut args, setup)?);
        }
        derived.extend(take_kv_bytes(&mut args, &spec)?);
        let mut config = args.validate(measured).map_err(refused)?;
        derived.extend(config.assumed_host_link(&args));
        if let Some(model) = drafter {
            config = config.with_drafter(&args, model).map_err(refused)?;
        }
        derived.extend(remarks::of_drafter(&args, &config).map(str::to_owned));
        derived.extend(latency::without_graphs(&spec, config.max_num_seqs())?);
        let unused =
            remarks::unused(&settings, &args, &spec, setup.is_none()).into_iter().map(named).collect();
        let derived = derived.into_iter().map(|note| format!("{name}{note}")).collect();
        let workers = given.asked.workers;
        Ok(Self { workers, args, config, unused, derived, latency_source, error_bar })
    }

    pub(super) fn engine(&self) -> PoolEngine<'_> {
        PoolEngine { workers: self.workers, args: &self.args, config: &self.config }
    }
}

/// What does not go together in a deployment, though an engine by itself would take it.
fn conflict(args: &EngineArgs, role: Role) -> Option<Message> {
    if args.kv_groups.is_some() && args.disable_hybrid_kv_cache_manager == Some(true) {
        return Some(message!(
            "{disable_hybrid_kv_cache_manager} is for groups of layers that follow from the model, but {kv_groups} says what \
             they are: leave one of the two out"
        ));
    }
    (args.kv_offloading_size.is_some() && role != Role::Aggregated).then(|| {
        message!(
            "{kv_offloading_size} does not go together with prefill and decode workers yet: leave it out"
        )
    })
}

/// The latency model in files, or of a model on GPUs, if `spec` names one.
fn load(
    args: &EngineArgs,
    spec: &LatencySpec,
    settings: &Settings<'_>,
    layers: &Layers,
) -> Result<Option<Arc<dyn LatencyModel>>, Failure> {
    latency::load(spec, layers.models()).map_err(|failure| {
        let is_given = |key: &str| settings.values.contains_key(key);
        let failure = latency::of_setting(failure, args.latency.as_deref(), is_given);
        failure.with_message(|message| settings.explained(message))
    })
}

/// Where iteration times come from, and how far off they are.
fn source(
    args: &EngineArgs,
    spec: &LatencySpec,
    measured: Option<&dyn LatencyModel>,
) -> Result<(String, ErrorBar), Failure> {
    let source = latency::source(spec, measured)?;
    let stages = args.pipeline_parallel_size;
    Ok(if stages > 1 {
        let unknown = ErrorBar::unknown("pipelines were not measured");
        (format!("{source}, in {stages} stages of a pipeline"), unknown)
    } else {
        (source, latency::error_bar(spec, measured))
    })
}
