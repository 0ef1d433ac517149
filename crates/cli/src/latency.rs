//! Latency models that are read from files, or that a program brings along.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use servecast_engine::LatencySpec;
use servecast_latency::{AllReduce, Grid, LatencyModel, ModelShape, Profile, ProfileTables, SkewUse};

use crate::error::{Failure, chain};
use crate::files;

/// Latency models that a program brings along, by the names that follow `callable:`.
pub type Models = BTreeMap<String, Arc<dyn LatencyModel>>;

/// The model that a setting names, unless an engine has it built in: that of a file or a folder, or one of `models`.
pub(crate) fn load(spec: &LatencySpec, models: &Models) -> Result<Option<Arc<dyn LatencyModel>>, Failure> {
    match spec {
        LatencySpec::Callable(name) => match models.get(name) {
            Some(model) => Ok(Some(Arc::clone(model))),
            None => Err(Failure::user(format!(
                "`latency` is `callable:{name}`, but no latency model of that name was brought along"
            ))
            .with_hint("a program in Python can: docs/python.md says how")),
        },
        LatencySpec::Polynomial | LatencySpec::Linear(_) => Ok(None),
        LatencySpec::Grid(path) => Ok(Some(Arc::new(read_grid(Path::new(path))?))),
        LatencySpec::Profile(text) => {
            let (folder, options) = text.split_once(',').unwrap_or((text, ""));
            let settings = ProfileSettings::of(Path::new(folder), options)?;
            Ok(Some(Arc::new(settings.read()?)))
        }
    }
}

fn read_grid(path: &Path) -> Result<Grid, Failure> {
    let bytes = files::read(path)?;
    Grid::from_npz(&bytes).map_err(|error| Failure::user(format!("{}: {}", path.display(), chain(&error))))
}

/// What has to be known of a profile beside its tables.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ProfileSettings {
    folder: PathBuf,
    /// What the model is called, or where its `config.json` is.
    model: Option<String>,
    tensor_parallel_size: u32,
    /// GPUs that shared a layer when it was measured, if the folder says so.
    link: Option<String>,
    all_reduce_us: Option<f64>,
    all_reduce_gb_per_s: Option<f64>,
    skew: SkewUse,
}

/// Bytes of a bf16 or fp16 number, in which activations are exchanged.
const BYTES_PER_NUMBER: f64 = 2.0;
/// What GPUs are connected by unless somebody says otherwise.
const DEFAULT_LINK: &str = "pcie";
const OPTIONS: &str = "model, tp, link, all_reduce_us, all_reduce_gb_per_s and skew";

impl ProfileSettings {
    /// The settings of a folder: those of its `profile.json` (or of the `meta.json` of a recorded run, there or one
    /// folder up), and over them `key=value` options, separated by commas.
    pub(crate) fn of(folder: &Path, options: &str) -> Result<Self, Failure> {
        let inner = folder.join("profile");
        let tables = if inner.join("dense.csv").exists() || inner.join("dense.csv.gz").exists() {
            inner
        } else {
            folder.to_owned()
        };
        let mut settings = Self {
            folder: tables.clone(),
            model: None,
            tensor_parallel_size: 1,
            link: None,
            all_reduce_us: None,
            all_reduce_gb_per_s: None,
            skew: SkewUse::default(),
        };
        let canonical = std::fs::canonicalize(&tables).unwrap_or_else(|_| tables.clone());
        let above = canonical.parent().map(|parent| parent.join("meta.json"));
        let candidates = [Some(tables.join("profile.json")), Some(tables.join("meta.json")), above];
        if let Some(path) = candidates.into_iter().flatten().find(|path| path.exists()) {
            settings.take_manifest(&path)?;
        }
        for option in options.split(',').filter(|option| !option.is_empty()) {
            settings.take_option(option)?;
        }
        Ok(settings)
    }

    fn take_manifest(&mut self, path: &Path) -> Result<(), Failure> {
        let refused = |problem: String| Failure::user(format!("{}: {problem}", path.display()));
        let manifest: Value =
            serde_json::from_str(&files::read_text(path)?).map_err(|error| refused(error.to_string()))?;
        let text = |key: &str| manifest.get(key).and_then(Value::as_str).map(str::to_owned);
        self.model = text("model");
        self.link = text("link");
        let gpus = manifest
            .get("tensor_parallel_size")
            .or_else(|| manifest.pointer("/engine_kwargs/tensor_parallel_size"));
        if let Some(gpus) = gpus {
            let checked = gpus.as_u64().filter(|gpus| (1..=1024).contains(gpus)).ok_or_else(|| {
                refused(format!(
                    "`tensor_parallel_size` is {gpus}, but must be a whole number from 1 to 1024"
                ))
            })?;
            self.tensor_parallel_size = checked as u32;
        }
        Ok(())
    }

    fn take_option(&mut self, option: &str) -> Result<(), Failure> {
        let refused =
            |problem: String| Failure::user(format!("`latency`: profile option `{option}`: {problem}"));
        let (key, value) = option
            .split_once('=')
            .ok_or_else(|| refused(format!("expected key=value with one of {OPTIONS}")))?;
        let number = || {
            let number = value.parse::<f64>().ok().filter(|number| number.is_finite() && *number > 0.0);
            number.ok_or_else(|| refused("expected a number above 0".to_owned()))
        };
        match key {
            "model" => self.model = Some(value.to_owned()),
            "link" => self.link = Some(value.to_owned()),
            "all_reduce_us" => self.all_reduce_us = Some(number()?),
            "all_reduce_gb_per_s" => self.all_reduce_gb_per_s = Some(number()?),
            "skew" => {
                self.skew = match value {
                    "mixed" => SkewUse::Mixed,
                    "all" => SkewUse::All,
                    "none" => SkewUse::Nowhere,
                    _ => return Err(refused("expected mixed, all or none".to_owned())),
                };
            }
            "tp" => {
                let gpus = value.parse::<u32>().ok().filter(|gpus| (1..=1024).contains(gpus));
                let gpus =
                    gpus.ok_or_else(|| refused("expected a whole number from 1 to 1024".to_owned()))?;
                if self.tensor_parallel_size > 1 && gpus != self.tensor_parallel_size {
                    let measured = self.tensor_parallel_size;
                    return Err(refused(format!(
                        "the layers were measured with tensor_parallel_size {measured}: measure them with {gpus}, or \
                         leave the option out"
                    )));
                }
                self.tensor_parallel_size = gpus;
            }
            _ => return Err(refused(format!("unknown key; there are {OPTIONS}"))),
        }
        Ok(())
    }

    /// The shape of the model.
    pub(crate) fn shape(&self) -> Result<ModelShape, Failure> {
        let folder = self.folder.display();
        let names =
            || format!("models known by name: {}", ModelShape::names().collect::<Vec<_>>().join(", "));
        let config = self.folder.join("config.json");
        match &self.model {
            Some(path) if Path::new(path).extension().is_some_and(|extension| extension == "json") => {
                shape_of_config(Path::new(path))
            }
            _ if config.exists() => shape_of_config(&config),
            Some(name) => ModelShape::by_name(name).ok_or_else(|| {
                Failure::user(format!("{folder}: the shape of the model `{name}` is not known")).with_hint(
                    format!("put its config.json from the Hugging Face hub into the folder; {}", names()),
                )
            }),
            None => Err(Failure::user(format!("{folder}: nothing says which model was measured"))
                .with_hint(format!("profile:DIR,model=NAME names it; {}", names()))),
        }
    }

    fn all_reduce(&self) -> Result<Option<AllReduce>, Failure> {
        if self.tensor_parallel_size < 2 {
            return Ok(None);
        }
        let link = self.link.as_deref().unwrap_or(DEFAULT_LINK);
        let known = AllReduce::over(link, self.tensor_parallel_size).ok_or_else(|| {
            let links = AllReduce::links().collect::<Vec<_>>().join(", ");
            Failure::user(format!("`latency`: profile option `link` is `{link}`, but must be one of {links}"))
        })?;
        Ok(Some(AllReduce {
            latency_us: self.all_reduce_us.unwrap_or(known.latency_us),
            bandwidth_gb_per_s: self.all_reduce_gb_per_s.unwrap_or(known.bandwidth_gb_per_s),
            ..known
        }))
    }

    /// Reads the tables.
    pub(crate) fn read(&self) -> Result<Profile, Failure> {
        let [dense, per_sequence, attention] =
            ["dense.csv", "per_sequence.csv", "attention.csv"].map(|name| self.table(name));
        let (dense, per_sequence, attention) = (dense?, per_sequence?, attention?);
        let skew = self.path("skew.csv").map(|path| text(&path)).transpose()?;
        let tables = ProfileTables {
            dense: &dense,
            per_sequence: &per_sequence,
            attention: &attention,
            skew: skew.as_deref(),
        };
        Profile::new(&tables, self.shape()?, self.all_reduce()?, BYTES_PER_NUMBER)
            .map(|profile| profile.with_skew(self.skew))
            .map_err(|error| Failure::user(format!("{}: {}", self.folder.display(), chain(&error))))
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

/// The text of a file, unpacked if it is packed.
pub(crate) fn text(path: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    files::open(path)?
        .read_to_string(&mut text)
        .map_err(|error| Failure::user(format!("cannot read {}: {error}", path.display())))?;
    Ok(text)
}

/// The shape in a Hugging Face `config.json` of a dense transformer.
fn shape_of_config(path: &Path) -> Result<ModelShape, Failure> {
    let refused = |problem: String| Failure::user(format!("{}: {problem}", path.display()));
    let config: Value =
        serde_json::from_str(&files::read_text(path)?).map_err(|error| refused(error.to_string()))?;
    let family = config.get("model_type").and_then(Value::as_str).unwrap_or("");
    let qk_norm = match family {
        "llama" | "mistral" | "qwen2" => false,
        "qwen3" => true,
        _ => {
            return Err(refused(format!(
                "`model_type` is `{family}`, but must be llama, mistral, qwen2 or qwen3: the layers of a pass of \
                 another family are not known"
            )));
        }
    };
    let field = |key: &str| {
        let value = config.get(key).and_then(Value::as_u64).filter(|value| (1..1 << 24).contains(value));
        value.ok_or_else(|| refused(format!("`{key}` must be a whole number of at least 1")))
    };
    let (hidden, layers, heads) =
        (field("hidden_size")?, field("num_hidden_layers")?, field("num_attention_heads")?);
    let kv_heads =
        if config.get("num_key_value_heads").is_some() { field("num_key_value_heads")? } else { heads };
    let head_size = if config.get("head_dim").is_some_and(|size| !size.is_null()) {
        field("head_dim")?
    } else {
        hidden / heads
    };
    let (inner, vocabulary) = (field("intermediate_size")?, field("vocab_size")?);
    let tied = config.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(false);
    let block = 2 * hidden * head_size * (heads + kv_heads) + 3 * hidden * inner;
    let embeddings = vocabulary * hidden * if tied { 1 } else { 2 };
    Ok(ModelShape {
        layers: layers as u32,
        hidden_size: hidden as u32,
        kv_heads: kv_heads as u32,
        head_size: head_size as u32,
        parameters: layers * block + embeddings,
        qk_norm,
    })
}
