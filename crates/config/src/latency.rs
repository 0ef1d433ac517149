//! Latency models that are read from files, made of a model and a GPU, or that a program brings along.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use servecast_engine::LatencySpec;
use servecast_latency::{CapacitySetup, ErrorBar, Grid, GridError, LatencyModel, Ring, Step};

use servecast_types::message;

use crate::error::Failure;
use crate::files;

mod ops;
mod options;
mod profile;
mod roofline;

pub use ops::{OpsSettings, is_version};
pub(crate) use options::of_setting;
pub use options::{Deployed, KvType, gpu_sheet, model_shape};
pub use profile::ProfileSettings;
use roofline::RooflineSettings;

/// Latency models that a program brings along, by the names that follow `callable:`.
pub type Models = BTreeMap<String, Arc<dyn LatencyModel>>;

/// The model that a setting names, unless an engine has it built in: that of a file, a folder or a GPU, or one of
/// `models`.
pub fn load(spec: &LatencySpec, models: &Models) -> Result<Option<Arc<dyn LatencyModel>>, Failure> {
    match spec {
        LatencySpec::Callable(name) => match models.get(name) {
            Some(model) => Ok(Some(Arc::clone(model))),
            None => Err(Failure::user(message!(
                "{latency} is `callable:{}`, but no latency model of that name was brought along",
                name
            ))
            .with_hint("a program in Python can: docs/python.md says how")),
        },
        LatencySpec::Polynomial | LatencySpec::Linear(_) => Ok(None),
        LatencySpec::Grid(path) => Ok(Some(Arc::new(read_grid(Path::new(path))?))),
        LatencySpec::Profile(text) => Ok(Some(Arc::new(profile_settings(text)?.read()?))),
        LatencySpec::Step(path) => Ok(Some(Arc::new(read_step(Path::new(path))?))),
        LatencySpec::Roofline(options) => Ok(Some(Arc::new(RooflineSettings::of(options)?.read()?))),
        LatencySpec::Ops(options) => Ok(Some(Arc::new(OpsSettings::of(options)?.read()?))),
    }
}

/// Where the times of a model come from: what it is, and of which model and GPU, if any. `loaded`: the model, unless an
/// engine has it built in.
pub fn source(spec: &LatencySpec, loaded: Option<&dyn LatencyModel>) -> Result<String, Failure> {
    if let Some(source) = loaded.and_then(LatencyModel::source) {
        return Ok(source.to_owned());
    }
    let name = |path: &str| {
        let path = Path::new(path);
        path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
    };
    Ok(match spec {
        LatencySpec::Polynomial => {
            "polynomial, of no particular GPU: the constants of Dynamo's mocker".to_owned()
        }
        LatencySpec::Linear(_) => "linear, of no particular GPU: prices that were given".to_owned(),
        LatencySpec::Grid(path) => format!("grid {}: measured, on a GPU that it does not name", name(path)),
        LatencySpec::Step(path) => {
            format!(
                "step model {}: prices fitted to what was measured, on a GPU that it does not name",
                name(path)
            )
        }
        LatencySpec::Profile(text) => {
            let folder = text.split_once(',').map_or(text.as_str(), |(folder, _)| folder);
            let Deployed { model, gpu, gpus, .. } = profile_settings(text)?.deployed;
            let model =
                model.map_or_else(|| "a model that it does not name".to_owned(), |model| name(&model));
            let gpu = gpu.map_or_else(|| "GPU that it does not name".to_owned(), |gpu| name(&gpu));
            format!("profile {}: measured layers of {model} on {} {gpu}", name(folder), gpus.unwrap_or(1))
        }
        LatencySpec::Roofline(options) => {
            let roofline = RooflineSettings::of(options)?.read()?;
            let estimate = roofline.estimate().unwrap_or("roofline");
            format!("{estimate}: an estimate, nothing was measured")
        }
        LatencySpec::Ops(_) => "operators".to_owned(),
        LatencySpec::Callable(_) => "a function of the program that ran it".to_owned(),
    })
}

/// How far off the times of a model are, or why that is not known. `loaded`: the model, unless an engine has it built in.
pub fn error_bar(spec: &LatencySpec, loaded: Option<&dyn LatencyModel>) -> ErrorBar {
    if let Some(known) = loaded.and_then(LatencyModel::error_bar) {
        return known;
    }
    ErrorBar::unknown(match spec {
        LatencySpec::Polynomial | LatencySpec::Linear(_) | LatencySpec::Grid(_) => "of no GPU",
        LatencySpec::Profile(_) => {
            "`profile.json` states none (`error`): `servecast validate` measures it on a recorded run"
        }
        LatencySpec::Step(_) => "the file of the step model states none (`[error]`)",
        LatencySpec::Roofline(_) => "an estimate: nothing was measured",
        LatencySpec::Ops(_) => "no measured run is like it",
        LatencySpec::Callable(_) => "a function of the program that ran it",
    })
}

/// What the KV capacity of an engine follows from, if its latency model knows model and GPU.
pub fn capacity(spec: &LatencySpec) -> Result<Option<CapacitySetup>, Failure> {
    match spec {
        LatencySpec::Profile(text) => {
            let settings = profile_settings(text)?;
            settings.deployed.capacity_setup(settings.shape()?)
        }
        LatencySpec::Roofline(options) => {
            let deployed = RooflineSettings::of(options)?.deployed;
            let Some(model) = &deployed.model else { return Ok(None) };
            deployed.capacity_setup(model_shape(model)?)
        }
        LatencySpec::Ops(options) => OpsSettings::of(options)?.capacity_setup(),
        _ => Ok(None),
    }
}

/// Tokens of a sequence that the model is published for, if the latency model knows the model and that is known of it.
pub fn context(spec: &LatencySpec) -> Option<u32> {
    // A profile may be of a model that nothing describes.
    capacity(spec).ok().flatten().and_then(|setup| setup.model.context)
}

/// What a hand-off from an engine moves, and what its GPUs are connected by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Transfer {
    /// KV of a token over all layers, each number once.
    pub bytes_per_token: u64,
    /// GB/s of the network of all GPUs of the engine, where that is known.
    pub network_gb_per_s: Option<f64>,
    /// GB/s at which all GPUs of the engine read the memory of others on their link, where they can.
    pub link_gb_per_s: Option<f64>,
    /// GPUs of the engine.
    pub gpus: u32,
    /// GPUs that the link connects.
    pub domain: u32,
}

/// What a hand-off from or to an engine is like, if its latency model knows the model.
pub fn transfer(spec: &LatencySpec) -> Result<Option<Transfer>, Failure> {
    let Some(setup) = capacity(spec)? else { return Ok(None) };
    let deployed = match spec {
        LatencySpec::Profile(text) => profile_settings(text)?.deployed,
        LatencySpec::Roofline(options) => RooflineSettings::of(options)?.deployed,
        LatencySpec::Ops(options) => OpsSettings::of(options)?.deployed,
        _ => return Ok(None),
    };
    let sheet = deployed.sheet()?;
    let of_all = |each: f64| each * f64::from(setup.tensor_parallel_size);
    let network = sheet.as_ref().and_then(|sheet| sheet.network_gbit_per_s);
    let link = sheet.as_ref().and_then(|sheet| Ring::read_gb_per_s(&sheet.link));
    Ok(Some(Transfer {
        bytes_per_token: setup.model.kv_bytes_per_token(1, setup.kv_bytes).round() as u64,
        network_gb_per_s: network.map(|gbit_per_s| of_all(gbit_per_s / 8.0)),
        link_gb_per_s: link.map(of_all),
        gpus: setup.tensor_parallel_size,
        domain: sheet.map_or(0, |sheet| sheet.domain),
    }))
}

/// Most requests of a decode that is worth a word; engines record graphs of as many, or have few that are larger.
const USUAL_DECODE: u32 = 256;

/// What is left out of decodes that are no recorded graphs, if some of up to so many requests are not.
pub fn without_graphs(spec: &LatencySpec, requests: Option<u32>) -> Result<Option<String>, Failure> {
    let LatencySpec::Ops(options) = spec else { return Ok(None) };
    let graphs = OpsSettings::of(options)?.recorded_graphs()?;
    let are_all = graphs.cover(requests.map_or(USUAL_DECODE, |most| most.min(USUAL_DECODE)).into());
    Ok((!are_all).then(|| {
        format!(
            "decodes that are no recorded CUDA graph are without the host's time to launch their kernels, which was not \
             measured: they take longer where the host is slower than the GPU (graphs: {graphs})"
        )
    }))
}

/// What is taken of an engine's version of which nothing was measured.
pub fn other_version(spec: &LatencySpec) -> Result<Option<String>, Failure> {
    let LatencySpec::Ops(options) = spec else { return Ok(None) };
    OpsSettings::of(options)?.other_version()
}

fn read_step(path: &Path) -> Result<Step, Failure> {
    let text = files::read_text(path)?;
    Step::from_toml(&text).map_err(|error| Failure::input(&error).about(path.display().to_string()))
}

fn profile_settings(text: &str) -> Result<ProfileSettings, Failure> {
    let (folder, options) = text.split_once(',').unwrap_or((text, ""));
    ProfileSettings::of(Path::new(folder), options)
}

/// The measurements of Dynamo's profiler in a folder: its own layout, and one of JSON files.
const RAW_GRIDS: [[&str; 2]; 2] = [
    ["selected_prefill_interpolation/raw_data.npz", "selected_decode_interpolation/raw_data.npz"],
    ["prefill_raw_data.json", "decode_raw_data.json"],
];

fn read_grid(path: &Path) -> Result<Grid, Failure> {
    let refused = |error: GridError| Failure::input(&error).about(path.display().to_string());
    if !path.is_dir() {
        return Grid::from_npz(&files::read(path)?).map_err(refused);
    }
    let found = |place: usize| {
        let names = RAW_GRIDS.iter().map(|names| names[place]);
        names.map(|name| path.join(name)).find(|path| path.exists())
    };
    let (Some(prompts), Some(decodes)) = (found(0), found(1)) else {
        let [npz, json] = RAW_GRIDS;
        let message = format!("{}: the folder holds no measured iteration times", path.display());
        return Err(Failure::user(message).with_hint(format!(
            "there are three forms: an .npz file; a folder with {} and {}; a folder with {} and {}",
            npz[0], npz[1], json[0], json[1]
        )));
    };
    Grid::from_raw(&files::read(&prompts)?, &files::read(&decodes)?).map_err(refused)
}

/// The text of a file, unpacked if it is packed.
pub fn text(path: &Path) -> Result<String, Failure> {
    files::read_unpacked_text(path)
}
