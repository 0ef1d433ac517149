//! The latency model `ops`: a model on GPUs whose operators were measured.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::PathBuf;

use servecast_latency::{CapacitySetup, GpuSheet};
use servecast_ops::{
    AttentionKernels, Composition, Constants, EngineName, GraphSettings, Graphs, Ops, OpsSetup, Pack,
};

use super::options::{Deployed, gpus, known_models, model_shape, refused_option, take_all};
use servecast_types::{Message, message};

use crate::error::Failure;
use crate::files;

const WHAT: &str = "ops";
const OWN_KEYS: &str = "part, ep, dp, engine, engine_version, eager, graph_sizes, largest_graph, graph_padding, attention, factors, \
                        constants and pack";

/// What `ops:OPTIONS` says.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct OpsSettings {
    /// Model, GPU, number of GPUs and number formats.
    pub deployed: Deployed,
    expert_parallel_size: Option<u32>,
    /// Groups of GPUs with requests of their own.
    pub data_parallel_size: Option<u32>,
    engine: EngineName,
    engine_version: Option<String>,
    graphs: GraphSettings,
    attention: AttentionKernels,
    pack: Option<PathBuf>,
    without_factors: bool,
    constants: ConstantsFrom,
}

/// Where the constants around the operators are from.
#[derive(Debug, Clone, PartialEq, Default)]
enum ConstantsFrom {
    #[default]
    BuiltIn,
    Nowhere,
    File(PathBuf),
}

/// A switch.
fn is_on(value: &str) -> Result<bool, String> {
    match value {
        "on" | "true" => Ok(true),
        "off" | "false" => Ok(false),
        _ => Err("expected on or off".to_owned()),
    }
}

/// Whether a text begins with two numbers, as the versions of engines do.
pub fn is_version(text: &str) -> bool {
    let mut parts = text.split('.').map(|part| part.starts_with(|first: char| first.is_ascii_digit()));
    parts.next() == Some(true) && parts.next() == Some(true)
}

/// Tokens of a recorded graph.
fn size(text: &str) -> Result<u32, String> {
    let size = text.trim().parse::<u32>().ok().filter(|size| (1..=1 << 16).contains(size));
    size.ok_or_else(|| "expected sizes from 1 to 65536, with a + between two".to_owned())
}

impl OpsSettings {
    /// The settings that options `KEY=VALUE,KEY=VALUE` describe.
    pub fn of(options: &str) -> Result<Self, Failure> {
        let mut settings = Self::default();
        take_all(WHAT, OWN_KEYS, options, |key, value| {
            Ok(settings.deployed.take(key, value)? || settings.take(key, value)?)
        })?;
        Ok(settings)
    }

    fn take(&mut self, key: &str, value: &str) -> Result<bool, String> {
        match key {
            "part" => self.deployed.take_part(value)?,
            "ep" | "expert_parallel_size" => self.expert_parallel_size = Some(gpus(value)?),
            "dp" | "data_parallel_size" => self.data_parallel_size = Some(gpus(value)?),
            "engine" => {
                self.engine = EngineName::by_name(value).ok_or("expected vllm, sglang or trtllm")?;
            }
            "engine_version" => {
                if !is_version(value) {
                    return Err("expected numbers with points between them, such as 0.25.0".to_owned());
                }
                self.engine_version = Some(value.to_owned());
            }
            "eager" => self.graphs.are_off = is_on(value)?,
            "graph_sizes" => self.graphs.sizes = Some(value.split('+').map(size).collect::<Result<_, _>>()?),
            "largest_graph" => self.graphs.largest = Some(size(value)?),
            "graph_padding" => self.graphs.are_padded = Some(is_on(value)?),
            "attention" => {
                self.attention = AttentionKernels::by_name(value).ok_or("expected auto or flashinfer")?;
            }
            "factors" => self.without_factors = !is_on(value)?,
            "constants" => {
                self.constants = match value {
                    "on" => ConstantsFrom::BuiltIn,
                    "off" => ConstantsFrom::Nowhere,
                    path => ConstantsFrom::File(PathBuf::from(path)),
                };
            }
            "pack" => self.pack = Some(PathBuf::from(value)),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The model, with its constants.
    pub fn read(&self) -> Result<Ops, Failure> {
        Ok(Ops::with(&self.compose()?, &self.constants()?))
    }

    /// The model with other constants than the setting names.
    pub fn read_with(&self, constants: &Constants) -> Result<Ops, Failure> {
        Ok(Ops::with(&self.compose()?, constants))
    }

    /// What surrounds the operators.
    pub fn constants(&self) -> Result<Constants, Failure> {
        let constants = match &self.constants {
            ConstantsFrom::BuiltIn => Constants::built_in().clone(),
            ConstantsFrom::Nowhere => Constants::none(),
            ConstantsFrom::File(path) => Constants::from_toml(&files::read_text(path)?)
                .map_err(|error| Failure::input(&error).about(path.display().to_string()))?,
        };
        Ok(if self.without_factors { constants.without_factors() } else { constants })
    }

    /// The operators of the model on its GPUs.
    pub fn compose(&self) -> Result<Composition, Failure> {
        self.compose_from(self.read_pack()?.as_ref())
    }

    /// The same from a pack that was read; without one all is estimated.
    pub fn compose_from(&self, pack: Option<&Pack>) -> Result<Composition, Failure> {
        let setup = self.setup()?;
        let name = self.pack.as_ref().map(|path| path.display().to_string());
        Composition::new(setup, pack).map_err(|error| {
            let pack = name.unwrap_or_else(|| "a pack that comes with servecast".to_owned());
            Failure::input(&error).about(pack)
        })
    }

    /// The pack that is named, or that of the GPU, if it has one.
    pub fn read_pack(&self) -> Result<Option<Pack>, Failure> {
        let Some(path) = &self.pack else {
            let sheet = self.sheet()?;
            let pack = Pack::of_gpu(&sheet.name).transpose();
            return pack.map_err(|error| Failure::input(&error).about(format!("the pack of {}", sheet.name)));
        };
        let pack = Pack::read(Cow::Owned(files::read(path)?))
            .map_err(|error| Failure::input(&error).about(path.display().to_string()))?;
        let (of, gpu) = (pack.header().gpu.clone(), self.sheet()?.name);
        if of == gpu {
            return Ok(Some(pack));
        }
        Err(Failure::user(format!("{}: the pack is of {of}, but the GPU is {gpu}", path.display()))
            .with_hint(message!(
                "{--gpu} {} takes the pack's; without `pack` the one that comes with servecast is read",
                of
            )))
    }

    /// What is taken if nothing was measured of the engine's version.
    pub fn other_version(&self) -> Result<Option<String>, Failure> {
        let (Some(version), Some(pack)) = (&self.engine_version, self.read_pack()?) else { return Ok(None) };
        let engine = self.engine.name();
        let own = pack.header().sections.iter().filter(|section| section.engine == engine);
        let measured: BTreeSet<&str> = own.map(|section| section.version.as_str()).collect();
        if measured.is_empty() || measured.contains(version.as_str()) {
            return Ok(None);
        }
        let measured = measured.into_iter().collect::<Vec<_>>().join(", ");
        Ok(Some(format!(
            "`engine_version` is {version}, of which no operator was measured: of each, the nearest of {engine} {measured} \
             is taken"
        )))
    }

    /// The passes that are recorded graphs.
    pub fn recorded_graphs(&self) -> Result<Graphs, Failure> {
        let groups = [self.deployed.gpus.unwrap_or(1), self.data_parallel_size.unwrap_or(1)];
        Ok(Graphs::new(&self.graphs, self.engine, &self.sheet()?, groups))
    }

    fn sheet(&self) -> Result<GpuSheet, Failure> {
        self.deployed.sheet()?.ok_or_else(|| {
            let known = GpuSheet::names().collect::<Vec<_>>().join(", ");
            missing("gpu", format!("known by name are {known}; gpu=FILE.toml describes another"))
        })
    }

    fn setup(&self) -> Result<OpsSetup, Failure> {
        let name = self.deployed.model.as_ref().ok_or_else(|| missing("model", known_models()))?;
        let gpu = self.sheet()?;
        let model = self.deployed.shape(name)?;
        let tensor_parallel_size = self.deployed.gpus.unwrap_or(1);
        let setup = OpsSetup {
            model_name: name.clone(),
            engine: self.engine,
            engine_version: self.engine_version.clone(),
            weights: model.weights(self.deployed.dtype),
            kv_bytes: self.deployed.kv_dtype.unwrap_or_default().bytes(),
            tensor_parallel_size,
            data_parallel_size: self.data_parallel_size.unwrap_or(1),
            expert_parallel_size: self.expert_parallel_size.unwrap_or(1),
            all_reduce: self.deployed.given_all_reduce(tensor_parallel_size)?,
            graphs: self.graphs.clone(),
            attention: self.attention,
            model,
            gpu,
        };
        self.check(&setup)?;
        Ok(setup)
    }

    fn check(&self, setup: &OpsSetup) -> Result<(), Failure> {
        let refused =
            |key: &str, value: &str, problem: String| Err(refused_option(WHAT, key, value, problem));
        let ranks = setup.data_parallel_size;
        if ranks > 1 && setup.engine == EngineName::Vllm && setup.model.experts.is_none() {
            let problem = message!(
                "{} has no experts, so that data-parallel ranks of vLLM share nothing and are workers: give {--num_workers} {}",
                setup.model_name.as_str(),
                ranks
            );
            return Err(refused_option(WHAT, "dp", &ranks.to_string(), problem));
        }
        let name = &setup.model_name;
        let problem = match self.deployed.problem(name, &setup.model)? {
            Some(problem) => Some(problem),
            None => self.deployed.unconnected()?,
        };
        if let Some((key, value, problem)) = problem {
            return refused(key, &value, problem);
        }
        let (ep, gpus) = (setup.expert_parallel_size, setup.gpus());
        if let Err(error) = setup.model.check_experts_shared_by(ep) {
            return refused("ep", &ep.to_string(), format!("{name}: {error}"));
        }
        if !gpus.is_multiple_of(ep) {
            return refused(
                "ep",
                &ep.to_string(),
                format!("the engine has {gpus} GPUs, which {ep} does not divide"),
            );
        }
        Ok(())
    }

    /// The arithmetic of capacity of all GPUs of the engine.
    pub fn capacity_setup(&self) -> Result<Option<CapacitySetup>, Failure> {
        let Some(model) = &self.deployed.model else { return Ok(None) };
        let ranks = self.data_parallel_size.unwrap_or(1);
        let mut deployed = self.deployed.clone();
        deployed.gpus = Some(self.deployed.gpus.unwrap_or(1) * ranks);
        let setup = deployed.capacity_setup(model_shape(model)?)?;
        Ok(setup.map(|setup| CapacitySetup { attention_ranks: ranks, ..setup }))
    }
}

fn missing(key: &str, hint: String) -> Failure {
    let message = message!(
        "{} is missing: times of a model on GPUs follow from {--model} NAME {--gpu} NAME {--tp} N, by flags, keys or options \
         of {latency}",
        Message::key(key)
    );
    Failure::user(message).with_hint(hint)
}
