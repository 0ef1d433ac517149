//! The latency model `profile`: the folder of measured layers, its manifest, and options over both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use servecast_latency::{
    ErrorBar, Host, Layers, MOST_HOST_US, ModelShape, Profile, ProfileSetup, ProfileTables, SkewUse,
    WeightType,
};

use super::options::{Deployed, KvType, known_models, model_shape, pairs, refused_option, shape_of_config};
use super::text;
use servecast_types::message;

use crate::error::Failure;
use crate::files;

const WHAT: &str = "profile";
const OWN_KEYS: &str = "dp, ep, skew, gap_us and the other times of a host";
/// The one unit that tables have.
const UNIT: &str = "us";
/// Bytes of a bf16 or fp16 number, in which activations are exchanged.
const BYTES_PER_NUMBER: f64 = 2.0;

/// `profile.json` of a folder of measured layers.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Manifest {
    /// Form of the folder: 1.
    schema_version: Option<u32>,
    /// What the model is called.
    model: Option<String>,
    /// GPUs that shared each layer.
    tensor_parallel_size: Option<u32>,
    /// GPUs that shared out the experts of a block.
    expert_parallel_size: Option<u32>,
    /// How weights were stored.
    dtype: Option<String>,
    /// How the KV cache was stored.
    kv_cache_dtype: Option<String>,
    /// What the GPU is called.
    gpu: Option<String>,
    /// What GPUs were connected by.
    link: Option<String>,
    /// The engine that was measured, and its release; for people.
    engine: Option<String>,
    /// For people.
    engine_version: Option<String>,
    /// Unit of all times: `us`.
    time_unit: Option<String>,
    /// Layers of `dense.csv` by how often they run, for models that have others than a llama.
    layers: Option<ManifestLayers>,
    /// What the host took besides passes, by the names of its settings.
    host: BTreeMap<String, f64>,
    /// How far off times were for runs that nothing was fitted to.
    error: Option<ErrorBar>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ManifestLayers {
    /// Times in each block.
    block: BTreeMap<String, f64>,
    /// Times in a pass.
    pass: BTreeMap<String, f64>,
}

/// What has to be known of a profile beside its tables.
#[derive(Debug, Clone, PartialEq)]
pub struct ProfileSettings {
    folder: PathBuf,
    /// Model, GPU, number of GPUs and number formats, as far as somebody says them.
    pub deployed: Deployed,
    expert_parallel_size: u32,
    /// Data-parallel ranks of the attention.
    pub ranks: u32,
    layers: Option<Layers>,
    skew: SkewUse,
    host: Host,
    error: Option<ErrorBar>,
}

impl ProfileSettings {
    /// The settings of a folder: those of its `profile.json` (or of the `meta.json` of a recorded run, there or one
    /// folder up), and over them `key=value` options, separated by commas.
    pub fn of(folder: &Path, options: &str) -> Result<Self, Failure> {
        let inner = folder.join("profile");
        let tables = if inner.join("dense.csv").exists() || inner.join("dense.csv.gz").exists() {
            inner
        } else {
            folder.to_owned()
        };
        let mut settings = Self {
            folder: tables.clone(),
            deployed: Deployed::default(),
            expert_parallel_size: 1,
            ranks: 1,
            layers: None,
            skew: SkewUse::default(),
            host: Host::NONE,
            error: None,
        };
        let canonical = std::fs::canonicalize(&tables).unwrap_or_else(|_| tables.clone());
        let above = canonical.parent().map(|parent| parent.join("meta.json"));
        let manifest = tables.join("profile.json");
        let recording =
            [Some(tables.join("meta.json")), above].into_iter().flatten().find(|path| path.exists());
        if manifest.exists() {
            settings.take_manifest(&manifest)?;
        } else if let Some(path) = recording {
            settings.take_recording(&path)?;
        }
        if let Some(path) = settings.path("all_reduce.csv") {
            settings.deployed.measured_all_reduce(path);
        }
        settings.take_options(options)?;
        Ok(settings)
    }

    fn take_manifest(&mut self, path: &Path) -> Result<(), Failure> {
        let about = |failure: Failure| failure.about(path.display().to_string());
        let refused = |problem: String| about(Failure::user(problem));
        let manifest: Manifest =
            serde_json::from_str(&files::read_text(path)?).map_err(|error| about(Failure::input(&error)))?;
        if let Some(version) = manifest.schema_version.filter(|&version| version != 1) {
            return Err(refused(format!("`schema_version` is {version}, but only 1 is known")));
        }
        if let Some(unit) = manifest.time_unit.as_deref().filter(|&unit| unit != UNIT) {
            return Err(refused(format!(
                "`time_unit` is `{unit}`, but must be `{UNIT}`: tables hold µs in columns `time_us`"
            )));
        }
        let sizes = [
            ("tensor_parallel_size", manifest.tensor_parallel_size),
            ("expert_parallel_size", manifest.expert_parallel_size),
        ];
        if let Some((key, Some(size))) =
            sizes.into_iter().find(|(_, size)| size.is_some_and(|size| !(1..=1024).contains(&size)))
        {
            return Err(refused(format!("`{key}` is {size}, but must be from 1 to 1024")));
        }
        let times = manifest.layers.iter().flat_map(|layers| layers.block.iter().chain(&layers.pass));
        for (layer, &times) in times {
            if !(times.is_finite() && times >= 0.0) {
                return Err(refused(format!(
                    "layer `{layer}` runs {times} times, but must run at least 0 times"
                )));
            }
        }
        let named =
            [("dtype", &manifest.dtype), ("kv_dtype", &manifest.kv_cache_dtype), ("link", &manifest.link)];
        for (key, value) in named {
            let Some(value) = value else { continue };
            let value = if key == "dtype" { plain_dtype(value) } else { value };
            self.deployed
                .take(key, value)
                .map_err(|problem| refused(format!("`{key}` is `{value}`: {problem}")))?;
        }
        for (key, &us) in &manifest.host {
            take_host(&mut self.host, key, us)
                .ok_or_else(|| {
                    refused(format!("`host` has no key `{key}`; there are {}", Host::KEYS.join(", ")))
                })?
                .map_err(|problem| refused(format!("`host.{key}` is {us}: {problem}")))?;
        }
        if let Some((key, share)) = manifest.error.as_ref().and_then(ErrorBar::problem) {
            return Err(refused(format!(
                "`error.{key}` is {share}, but must be a share from 0: 0.13 is 13 %"
            )));
        }
        self.error = manifest.error;
        // For people only.
        let _ = (manifest.engine, manifest.engine_version);
        self.deployed.model = manifest.model;
        self.deployed.gpu = manifest.gpu;
        self.deployed.gpus = manifest.tensor_parallel_size;
        self.expert_parallel_size = manifest.expert_parallel_size.unwrap_or(1);
        self.layers = manifest.layers.map(|ManifestLayers { block, pass }| Layers { block, pass });
        Ok(())
    }

    /// Takes what the `meta.json` of a recorded run says of model and GPU.
    fn take_recording(&mut self, path: &Path) -> Result<(), Failure> {
        let about = |failure: Failure| failure.about(path.display().to_string());
        let refused = |problem: String| about(Failure::user(problem));
        let meta: Value =
            serde_json::from_str(&files::read_text(path)?).map_err(|error| about(Failure::input(&error)))?;
        let of_engine = |key: &str| {
            let stated = meta.pointer(&format!("/engine_kwargs/{key}")).or_else(|| meta.get(key));
            stated.filter(|value| !value.is_null())
        };
        let text = |key: &str| of_engine(key).and_then(Value::as_str);
        self.deployed.model = text("model").map(str::to_owned);
        self.deployed.link = text("link").map(str::to_owned);
        if let Some(size) = of_engine("tensor_parallel_size") {
            let checked = size.as_u64().filter(|size| (1..=1024).contains(size)).ok_or_else(|| {
                refused(format!(
                    "`tensor_parallel_size` is {size}, but must be a whole number from 1 to 1024"
                ))
            })?;
            self.deployed.gpus = Some(checked as u32);
        }
        let share_out = of_engine("enable_expert_parallel").and_then(Value::as_bool).unwrap_or(false);
        if share_out {
            let ranks = of_engine("data_parallel_size").and_then(Value::as_u64).unwrap_or(1) as u32;
            self.ranks = ranks.max(1);
            self.expert_parallel_size = self.deployed.gpus.unwrap_or(1).saturating_mul(self.ranks);
        }
        self.deployed.kv_dtype = text("kv_cache_dtype").and_then(KvType::by_name);
        self.deployed.dtype =
            text("quantization").or(text("dtype")).and_then(|name| WeightType::by_name(plain_dtype(name)));
        self.deployed.memory_bytes =
            meta.pointer("/hardware/device_total_memory_bytes").and_then(Value::as_f64);
        Ok(())
    }

    fn take_options(&mut self, options: &str) -> Result<(), Failure> {
        let keys = format!("{}, {OWN_KEYS}", Deployed::KEYS);
        let measured = self.deployed.gpus;
        for pair in pairs(WHAT, &keys, options) {
            let (key, value) = pair?;
            let refused = |problem: String| refused_option(WHAT, key, value, problem);
            let is_taken =
                self.deployed.take(key, value).and_then(|taken| Ok(taken || self.take(key, value)?));
            if !is_taken.map_err(refused)? {
                return Err(refused(format!("unknown key; there are {keys}")));
            }
            if let (Some(measured), Some(gpus)) = (measured, self.deployed.gpus)
                && measured != gpus
            {
                return Err(refused(format!(
                    "the layers were measured with tensor_parallel_size {measured}: measure them with {gpus}, or leave \
                     the option out"
                )));
            }
        }
        Ok(())
    }

    fn take(&mut self, key: &str, value: &str) -> Result<bool, String> {
        match (key, value) {
            ("dp" | "data_parallel_size", size) => self.ranks = super::options::gpus(size)?,
            ("ep" | "expert_parallel_size", size) => self.expert_parallel_size = super::options::gpus(size)?,
            ("skew", "mixed") => self.skew = SkewUse::Mixed,
            ("skew", "all") => self.skew = SkewUse::All,
            ("skew", "none") => self.skew = SkewUse::Nowhere,
            ("skew", _) => return Err("expected mixed, all or none".to_owned()),
            (key, us) => {
                let us = us.parse().unwrap_or(f64::NAN);
                return take_host(&mut self.host, key, us).transpose().map(|taken| taken.is_some());
            }
        }
        Ok(true)
    }

    /// The shape of the model.
    pub fn shape(&self) -> Result<ModelShape, Failure> {
        let folder = self.folder.display().to_string();
        let config = self.folder.join("config.json");
        match &self.deployed.model {
            Some(path) if Path::new(path).extension().is_some_and(|extension| extension == "json") => {
                shape_of_config(Path::new(path))
            }
            _ if config.exists() => shape_of_config(&config),
            Some(name) => model_shape(name).map_err(|failure| {
                failure.about(folder.clone()).with_hint(format!(
                    "put its config.json from the Hugging Face hub into the folder; {}",
                    known_models()
                ))
            }),
            None => Err(Failure::user(format!("{folder}: nothing says which model was measured"))
                .with_hint(format!("profile:DIR,model=NAME names it; {}", known_models()))),
        }
    }

    /// Reads the tables.
    pub fn read(&self) -> Result<Profile, Failure> {
        let [dense, per_sequence, attention] =
            ["dense.csv", "per_sequence.csv", "attention.csv"].map(|name| self.table(name));
        let (dense, per_sequence, attention) = (dense?, per_sequence?, attention?);
        let [skew, experts] =
            ["skew.csv", "moe.csv"].map(|name| self.path(name).map(|path| text(&path)).transpose());
        let (skew, experts) = (skew?, experts?);
        let tables = ProfileTables {
            dense: &dense,
            per_sequence: &per_sequence,
            attention: &attention,
            experts: experts.as_deref(),
            skew: skew.as_deref(),
        };
        let (shape, gpus) = (self.shape()?, self.deployed.gpus.unwrap_or(1));
        shape.check_shared_by(gpus).map_err(|error| {
            let problem = message!("{tensor_parallel_size} is {}: {}", gpus, error.to_string());
            Failure::user(problem).about(self.folder.display().to_string())
        })?;
        let setup = ProfileSetup {
            shape,
            all_reduce: self.deployed.all_reduce(gpus)?,
            bytes_per_number: BYTES_PER_NUMBER,
            expert_parallel_size: self.expert_parallel_size,
            ranks: self.ranks,
            exchange: self.deployed.all_reduce(if self.ranks > 1 { self.expert_parallel_size } else { 1 })?,
            layers: self.layers.clone(),
        };
        Profile::new(&tables, &setup)
            .map(|profile| profile.with_skew(self.skew).with_host(self.host).with_error(self.error.clone()))
            .map_err(|error| Failure::input(&error).about(self.folder.display().to_string()))
    }

    fn table(&self, name: &str) -> Result<String, Failure> {
        let path = self.path(name).ok_or_else(|| {
            Failure::user(format!("{}: there is no {name} or {name}.gz", self.folder.display()))
                .with_hint("a profile is a folder of dense.csv, per_sequence.csv, attention.csv and skew.csv")
        })?;
        text(&path)
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        [name.to_owned(), format!("{name}.gz")]
            .into_iter()
            .map(|name| self.folder.join(name))
            .find(|path| path.exists())
    }
}

/// Takes a time of the host; `None` for a key that is none of them.
fn take_host(host: &mut Host, key: &str, us: f64) -> Option<Result<(), String>> {
    let value = host.value_mut(key)?;
    if !Host::is_time(us) {
        return Some(Err(format!("expected microseconds from 0 to {MOST_HOST_US:e}")));
    }
    *value = us;
    Some(Ok(()))
}

/// The name of a number type as options have it.
fn plain_dtype(name: &str) -> &str {
    match name {
        "bfloat16" | "float16" | "auto" => "bf16",
        "awq" | "gptq" | "awq_marlin" | "gptq_marlin" => "int4",
        name => name,
    }
}
