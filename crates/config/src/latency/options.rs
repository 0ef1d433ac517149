//! What latency models and the arithmetic of capacity have to know of a model, its GPUs and their links, as
//! `key=value` options and as keys of a manifest.

use std::path::{Path, PathBuf};

use servecast_latency::{
    AllReduce, AllReduceTable, CapacitySetup, DRIVER_BYTES, GpuSheet, ModelShape, Ring, WeightType,
};

use servecast_types::{Message, message};

use crate::error::{Failure, RefusedOption};
use crate::files;

use super::text;

/// The key of an option, its value, and what is wrong with it.
pub(super) type OptionProblem = (&'static str, String, String);

/// What GPUs without a sheet are connected by unless somebody says otherwise.
const DEFAULT_LINK: &str = "pcie";
/// Most GPUs that share a layer.
const MOST_GPUS: u32 = 1024;

/// A model, its GPUs and their links, as far as they are given.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Deployed {
    /// What the model is called, or where its `config.json` is.
    pub model: Option<String>,
    /// The part of it that is run, if that is not all.
    part: Option<ModelPart>,
    /// What the GPU is called, or where its sheet is.
    pub gpu: Option<String>,
    /// GPUs that share each layer.
    pub gpus: Option<u32>,
    /// How weights are stored.
    pub dtype: Option<WeightType>,
    /// How the KV cache is stored.
    pub kv_dtype: Option<KvType>,
    /// What connects the GPUs, if that is not in the sheet of the GPU.
    pub link: Option<String>,
    all_reduce_us: Option<f64>,
    all_reduce_gb_per_s: Option<f64>,
    /// Where all-reduces are from, if that is said.
    all_reduce: Option<AllReduceFrom>,
    /// Bytes of memory that a program sees, where that was recorded.
    pub memory_bytes: Option<f64>,
}

/// A part of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ModelPart {
    /// A module that drafts tokens.
    Mtp,
}

/// Where the times of all-reduces are from.
#[derive(Debug, Clone, PartialEq)]
enum AllReduceFrom {
    /// The link.
    Ring,
    /// Measurements.
    Table(PathBuf),
}

impl AllReduceFrom {
    fn of(text: &str) -> Self {
        if text == "ring" { Self::Ring } else { Self::Table(PathBuf::from(text)) }
    }
}

/// How numbers are stored in the KV cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KvType {
    /// 2 bytes.
    #[default]
    Bf16,
    /// 1 byte.
    Fp8,
}

impl KvType {
    /// The one of that name, among them those of vLLM's `kv_cache_dtype`.
    pub fn by_name(name: &str) -> Option<Self> {
        match name {
            "auto" | "bf16" | "fp16" | "bfloat16" | "float16" => Some(Self::Bf16),
            "fp8" | "fp8_e4m3" | "fp8_e5m2" => Some(Self::Fp8),
            _ => None,
        }
    }

    /// Bytes of a value.
    pub fn bytes(self) -> f64 {
        match self {
            Self::Bf16 => 2.0,
            Self::Fp8 => 1.0,
        }
    }

    /// Its name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::Fp8 => "fp8",
        }
    }
}

impl Deployed {
    /// The options that it takes.
    pub const KEYS: &'static str =
        "model, gpu, tp, dtype, kv_dtype, link, all_reduce, all_reduce_us, all_reduce_gb_per_s";

    /// Takes an option; returns whether it is one of these.
    pub fn take(&mut self, key: &str, value: &str) -> Result<bool, String> {
        match key {
            "model" => self.model = Some(value.to_owned()),
            "gpu" => self.gpu = Some(value.to_owned()),
            "tp" | "tensor_parallel_size" => self.gpus = Some(gpus(value)?),
            "dtype" => {
                let known = || WeightType::ALL.map(|(name, _)| name).join(", ");
                let dtype =
                    WeightType::by_name(value).ok_or_else(|| format!("expected one of {}", known()))?;
                self.dtype = Some(dtype);
            }
            "kv_dtype" | "kv_cache_dtype" => {
                self.kv_dtype = Some(KvType::by_name(value).ok_or("expected auto, bf16, fp16 or fp8")?);
            }
            "link" => self.link = Some(value.to_owned()),
            "all_reduce" => self.all_reduce = Some(AllReduceFrom::of(value)),
            "all_reduce_us" => self.all_reduce_us = Some(positive(value)?),
            "all_reduce_gb_per_s" => self.all_reduce_gb_per_s = Some(positive(value)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Takes which part of the model is run, where that can be less than all of it.
    pub(super) fn take_part(&mut self, value: &str) -> Result<(), String> {
        let part = (value == "mtp").then_some(ModelPart::Mtp);
        self.part = Some(part.ok_or("expected mtp, a module that drafts tokens")?);
        Ok(())
    }

    /// Measured all-reduces, unless others are named.
    pub fn measured_all_reduce(&mut self, path: PathBuf) {
        self.all_reduce.get_or_insert(AllReduceFrom::Table(path));
    }

    /// The shape of what is run of a model.
    pub(super) fn shape(&self, model: &str) -> Result<ModelShape, Failure> {
        let shape = model_shape(model)?;
        Ok(match self.part {
            Some(ModelPart::Mtp) => shape.mtp_module(),
            None => shape,
        })
    }

    /// The sheet of the GPU, if one is named.
    pub fn sheet(&self) -> Result<Option<GpuSheet>, Failure> {
        self.gpu.as_deref().map(gpu_sheet).transpose()
    }

    /// The all-reduce between GPUs that share a layer, if several do.
    pub fn all_reduce(&self, gpus: u32) -> Result<Option<AllReduce>, Failure> {
        if gpus < 2 {
            return Ok(None);
        }
        if let Some(AllReduceFrom::Table(path)) = &self.all_reduce {
            let table = AllReduceTable::read(&text(path)?, gpus)
                .map_err(|error| Failure::input(&error).about(path.display().to_string()))?;
            return Ok(Some(AllReduce::Table(table)));
        }
        let of_gpu = self.sheet().ok().flatten().map(|sheet| sheet.link);
        let link = self.link.as_deref().or(of_gpu.as_deref()).unwrap_or(DEFAULT_LINK);
        let unknown = || {
            let links = Ring::links().collect::<Vec<_>>().join(", ");
            Failure::user(message!("{latency}: option `link` is `{}`, but must be one of {}", link, links))
        };
        let ring_is_described = self.all_reduce_us.is_some() || self.all_reduce_gb_per_s.is_some();
        if self.all_reduce.is_none() && !ring_is_described {
            return AllReduce::over(link, gpus).map(Some).ok_or_else(unknown);
        }
        let known = Ring::over(link, gpus).ok_or_else(unknown)?;
        Ok(Some(AllReduce::Ring(Ring {
            latency_us: self.all_reduce_us.unwrap_or(known.latency_us),
            bandwidth_gb_per_s: self.all_reduce_gb_per_s.unwrap_or(known.bandwidth_gb_per_s),
            ..known
        })))
    }

    /// The all-reduce, if anything of it is said beside what follows from the GPU.
    pub fn given_all_reduce(&self, gpus: u32) -> Result<Option<AllReduce>, Failure> {
        let is_given = self.link.is_some()
            || self.all_reduce.is_some()
            || self.all_reduce_us.is_some()
            || self.all_reduce_gb_per_s.is_some();
        if is_given { self.all_reduce(gpus) } else { Ok(None) }
    }

    /// The first option that model and GPU cannot have, and why: heads that GPUs cannot share, or weights that the GPU
    /// cannot multiply.
    pub fn problem(&self, model: &str, shape: &ModelShape) -> Result<Option<OptionProblem>, Failure> {
        let gpus = self.gpus.unwrap_or(1);
        if let Err(error) = shape.check_shared_by(gpus) {
            return Ok(Some(("tp", gpus.to_string(), format!("{model}: {error}"))));
        }
        let weights = shape.weights(self.dtype);
        let run = self.sheet()?.map_or(Ok(()), |sheet| sheet.check_weights(weights));
        Ok(run.err().map(|error| ("dtype", weights.name().to_owned(), error.to_string())))
    }

    /// More GPUs than are connected, as an option and why that cannot be, unless the link is named, which may be a network.
    pub fn unconnected(&self) -> Result<Option<OptionProblem>, Failure> {
        let gpus = self.gpus.unwrap_or(1);
        let sheet = self.sheet()?.filter(|_| self.link.is_none() && self.all_reduce.is_none());
        let connected = sheet.map_or(Ok(()), |sheet| sheet.check_domain(gpus));
        Ok(connected.err().map(|error| ("tp", gpus.to_string(), error.to_string())))
    }

    /// The arithmetic of capacity, if model and memory are known; what the engine takes of it is left at defaults.
    pub fn capacity_setup(&self, shape: ModelShape) -> Result<Option<CapacitySetup>, Failure> {
        let memory_bytes = match (self.memory_bytes, self.sheet()?) {
            (Some(bytes), _) => bytes,
            (None, Some(sheet)) => sheet.memory_mib * f64::from(1 << 20) - DRIVER_BYTES,
            (None, None) => return Ok(None),
        };
        Ok(Some(CapacitySetup {
            weights: shape.weights(self.dtype),
            model: shape,
            kv_bytes: self.kv_dtype.unwrap_or_default().bytes(),
            memory_bytes,
            gpu_memory_utilization: 0.9,
            tensor_parallel_size: self.gpus.unwrap_or(1),
            attention_ranks: 1,
            pipeline_parallel_size: 1,
            block_size: 16,
            max_num_batched_tokens: 8192,
            max_num_seqs: 256,
            groups: None,
        }))
    }
}

/// A number of GPUs.
pub(crate) fn gpus(text: &str) -> Result<u32, String> {
    let gpus = text.parse::<u32>().ok().filter(|gpus| (1..=MOST_GPUS).contains(gpus));
    gpus.ok_or_else(|| format!("expected a whole number from 1 to {MOST_GPUS}"))
}

/// A number above 0.
pub(crate) fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse::<f64>().ok().filter(|number| number.is_finite() && *number > 0.0);
    number.ok_or_else(|| "expected a number above 0".to_owned())
}

/// The parts of `key=value` options, separated by commas; `what` has them.
pub(crate) fn pairs<'a>(
    what: &'a str,
    keys: &'a str,
    options: &'a str,
) -> impl Iterator<Item = Result<(&'a str, &'a str), Failure>> {
    options.split(',').map(str::trim).filter(|option| !option.is_empty()).map(move |option| {
        option.split_once('=').map(|(key, value)| (key.trim(), value.trim())).ok_or_else(|| {
            let problem = message!("expected key=value with one of {}", keys);
            Failure::user(of_latency(what, option, &problem))
        })
    })
}

/// Gives each of the options to `take`, which returns whether there is such a one; `own_keys` are those that `what` has
/// beside [`Deployed::KEYS`].
pub(crate) fn take_all(
    what: &str,
    own_keys: &str,
    options: &str,
    mut take: impl FnMut(&str, &str) -> Result<bool, String>,
) -> Result<(), Failure> {
    let keys = format!("{}, {own_keys}", Deployed::KEYS);
    for pair in pairs(what, &keys, options) {
        let (key, value) = pair?;
        if !take(key, value).map_err(|problem| refused_option(what, key, value, problem))? {
            return Err(refused_option(what, key, value, message!("unknown key; there are {}", &keys)));
        }
    }
    Ok(())
}

/// Options of latency models, and the settings of the engine that give the same.
const SETTINGS: [(&str, &str); 8] = [
    ("model", "model"),
    ("gpu", "gpu"),
    ("tp", "tensor_parallel_size"),
    ("dp", "data_parallel_size"),
    ("ep", "expert_parallel_size"),
    ("dtype", "dtype"),
    ("kv_dtype", "kv_cache_dtype"),
    ("engine_version", "engine_version"),
];

/// A [refusal](refused_option) of an option, told of the setting that it came from: one that is given, or any where
/// `latency` has no options of its own.
pub(crate) fn of_setting(
    failure: Failure,
    latency: Option<&str>,
    is_given: impl Fn(&str) -> bool,
) -> Failure {
    let Some(RefusedOption { key, value, problem }) = failure.option() else { return failure };
    let Some((_, setting)) = SETTINGS.iter().find(|(name, _)| name == key) else { return failure };
    let has_option = |text: &str| {
        let (_, options) = text.split_once(':').unwrap_or_default();
        options.split(',').any(|option| option.split_once('=').is_some_and(|(name, _)| name.trim() == key))
    };
    if !latency.is_none_or(|text| is_given(setting) && !has_option(text)) {
        return failure;
    }
    let message = message!("{} is {}: {}", Message::key(*setting), value, problem);
    failure.with_message(|_| message)
}

/// An option that cannot be.
pub(crate) fn refused_option(what: &str, key: &str, value: &str, problem: impl Into<Message>) -> Failure {
    let problem = problem.into();
    let message = of_latency(what, &format!("{key}={value}"), &problem);
    Failure::user(message).of_option(RefusedOption { key: key.to_owned(), value: value.to_owned(), problem })
}

fn of_latency(what: &str, option: &str, problem: &Message) -> Message {
    message!("{latency}: {} option `{}`: {}", what, option, problem)
}

/// The sheet of a GPU by its name, or of a file.
pub fn gpu_sheet(name: &str) -> Result<GpuSheet, Failure> {
    if Path::new(name).extension().is_some_and(|extension| extension == "toml") {
        return gpu_of_file(Path::new(name));
    }
    GpuSheet::by_name(name).ok_or_else(|| {
        let known = GpuSheet::names().collect::<Vec<_>>().join(", ");
        Failure::user(format!("the GPU `{name}` is not known{}", meant(GpuSheet::suggestion(name)))).with_hint(
            format!(
                "a FILE.toml in its place describes it by name, memory_mib, memory_gb_per_s, bf16_tflops, fp8_tflops, \
                 fp4_tflops, nvfp4, link and domain; known by name are {known}"
            ),
        )
    })
}

/// The shape of a model by its name, its `config.json`, or a folder that has one.
pub fn model_shape(name: &str) -> Result<ModelShape, Failure> {
    let path = Path::new(name);
    if path.extension().is_some_and(|extension| extension == "json") {
        return shape_of_config(path);
    }
    if let Some(shape) = ModelShape::by_name(name) {
        return Ok(shape);
    }
    let config = path.join("config.json");
    if config.exists() {
        return shape_of_config(&config);
    }
    if path.is_dir() {
        return Err(Failure::user(format!("{name}: the folder of the model has no config.json"))
            .with_hint("it is beside the weights on the Hugging Face hub, and nothing else is needed"));
    }
    let suggestion = meant(ModelShape::suggestion(name));
    Err(Failure::user(format!("the shape of the model `{name}` is not known{suggestion}")).with_hint(
        format!(
            "the path of its config.json from the Hugging Face hub in its place describes it; {}",
            known_models()
        ),
    ))
}

/// What somebody may have meant, as the end of a sentence.
fn meant(suggestion: Option<&str>) -> String {
    suggestion.map_or_else(String::new, |name| format!(": did you mean `{name}`?"))
}

/// The models that need no description, for a hint.
pub(crate) fn known_models() -> String {
    "`servecast explain models` lists those that are known by name".to_owned()
}

/// The shape in a Hugging Face `config.json`.
pub(crate) fn shape_of_config(path: &Path) -> Result<ModelShape, Failure> {
    ModelShape::from_config(&files::read_text(path)?)
        .map_err(|error| Failure::input(&error).about(path.display().to_string()))
}

fn gpu_of_file(path: &Path) -> Result<GpuSheet, Failure> {
    let refused = |problem: String| Failure::user(problem).about(path.display().to_string());
    let sheet: GpuSheet = toml::from_str(&files::read_text(path)?)
        .map_err(|error| refused(error.to_string().trim_end().to_owned()))?;
    match sheet.problem() {
        Some(problem) => Err(refused(problem)),
        None => Ok(sheet),
    }
}
