//! The deployments that are looked at: what is sensible for model and GPU, narrowed or widened by `--vary`.

use serde_json::{Map, Value, json};
use servecast_cluster::RouterMode;
use servecast_engine::EngineType;
use servecast_recommend::{Candidate, Price};
use servecast_types::message;

use servecast_config::error::Failure;
use servecast_config::latency::{gpu_sheet, model_shape};
use servecast_config::settings::{
    Layers, LimitsConfig, ReplayConfig, SyntheticConfig, TraceConfig, Varied, varied,
};

/// GPUs up to which deployments are looked at, unless somebody says otherwise.
pub(super) const DEFAULT_MAX_GPUS: u32 = 64;

/// Most deployments: far more than anybody waits for.
const MOST_CANDIDATES: usize = 1_000_000;

/// The dimension of how a worker is spread over GPUs.
const LAYOUT: &str = "GPUs of a worker";

/// Keys that say how many GPUs a worker has.
const SIZES: [&str; 3] = ["tensor_parallel_size", "data_parallel_size", "expert_parallel_size"];

/// Keys of the settings of the pools of a disaggregated deployment.
const POOLS: [&str; 2] = ["prefill_engine_args", "decode_engine_args"];

/// Keys that say how many workers there are.
const WORKERS: [&str; 3] = ["num_workers", "num_prefill_workers", "num_decode_workers"];

/// What limits the space.
#[derive(Debug, Clone)]
pub struct Limits {
    /// GPUs up to which deployments are looked at.
    pub max_gpus: u32,
    /// GPUs of a node, if whole nodes are taken.
    pub node_gpus: Option<u32>,
    /// Workers of each pool that only stand by.
    pub spare: u32,
    /// What GPUs cost.
    pub prices: Vec<Price>,
    /// Whether prompts of the load have enough in common for a router that goes by the cache.
    pub shares_prefixes: bool,
}

/// The deployments, and of what they are the product.
pub struct Space {
    /// All of them.
    pub candidates: Vec<Candidate>,
    /// What they are the product of, beside numbers of workers.
    pub dimensions: Vec<Dimension>,
}

type Settings = Vec<(String, Value)>;

/// Something that deployments differ in, with its choices.
#[derive(Debug, Clone)]
pub struct Dimension {
    /// The setting, or what several settings stand for.
    pub name: String,
    /// Settings of each choice.
    pub choices: Vec<Settings>,
}

impl Dimension {
    /// A setting and its values.
    fn of(path: &str, values: &[Value]) -> Self {
        let choices = values.iter().map(|value| vec![(path.to_owned(), value.clone())]);
        Self { name: path.to_owned(), choices: choices.collect() }
    }
}

impl Space {
    /// All deployments that the settings and the values of `texts` leave open.
    pub fn new(
        layers: &Layers,
        config: &ReplayConfig,
        texts: &[String],
        limits: &Limits,
    ) -> Result<Self, Failure> {
        if config.deployment.pool.is_some() {
            let message = message!("{pool} says which pools there are, but that is what is looked for");
            let hint = message!(
                "what is to hold for all deployments are settings of engines ({engine_args}) and, if they are fixed, numbers \
                 of workers ({num_workers})"
            );
            return Err(layers.refused(message).with_hint(hint));
        }
        let refused = |problem: String| Failure::user(layers.about("vary", problem));
        let given = varied(texts).map_err(refused)?;
        if let Some(key) = given.iter().map(|one| &one.path).find(|path| is_of_question(path)) {
            return Err(refused(format!("`{key}` is part of the question: it is the same for all deployments"))
                .with_hint(message!("{--growth} searches for several factors of the load; other loads and targets are a search each")));
        }
        let dimensions = common(config, &given, limits)?;
        let counts = Counts::new(config, &given, dimensions.iter().find(|one| one.name == LAYOUT));
        let mut candidates = Vec::new();
        for settings in product(&dimensions).map_err(refused)? {
            counts.add(&settings, config, limits, &mut candidates);
            if candidates.len() > MOST_CANDIDATES {
                return Err(Failure::user(format!("the space has more than {MOST_CANDIDATES} deployments"))
                    .with_hint(message!("{--max_gpus} or {--vary} KEY=VALUE,... narrows it")));
            }
        }
        Ok(Self { candidates, dimensions })
    }
}

/// Whether a setting says what is asked: the load, or what a deployment has to keep.
fn is_of_question(path: &str) -> bool {
    let parts =
        [json!(TraceConfig::default()), json!(SyntheticConfig::default()), json!(LimitsConfig::default())];
    parts.iter().any(|part| part.get(path).is_some())
}

/// What all kinds of deployment differ in.
fn common(config: &ReplayConfig, given: &[Varied], limits: &Limits) -> Result<Vec<Dimension>, Failure> {
    // Within the settings of a pool, too.
    let pools = [
        &config.deployment.engine_args,
        &config.deployment.prefill_engine_args,
        &config.deployment.decode_engine_args,
    ];
    let is_varied = |key: &str| {
        given.iter().any(|one| one.path.rsplit('.').next() == Some(key))
            || pools.iter().any(|pool| pool.as_ref().is_some_and(|settings| settings.contains_key(key)))
    };
    let others = given.iter().filter(|one| !WORKERS.contains(&one.path.as_str()));
    let mut dimensions: Vec<Dimension> = others.map(|one| Dimension::of(&one.path, &one.values)).collect();
    let mut add = |is_given: bool, key: &str, values: &[Value]| {
        if !is_given && !is_varied(key) {
            dimensions.push(Dimension::of(key, values));
        }
    };
    if let Some(gpus) = config.engine.gpu.as_ref().filter(|gpus| gpus.contains(',')) {
        add(false, "gpu", &gpus.split(',').map(|gpu| json!(gpu.trim())).collect::<Vec<_>>());
    }
    let mut modes = vec![json!(RouterMode::RoundRobin), json!(RouterMode::LeastLoaded)];
    if limits.shares_prefixes {
        modes.push(json!(RouterMode::KvRouter));
    }
    add(config.deployment.router_mode.is_some(), "router_mode", &modes);
    let (batches, chunks) = (BATCHES.map(Value::from), CHUNKS.map(Value::from));
    if engine(config) == EngineType::Sglang {
        let given = config.sglang.max_running_requests.or(config.engine.max_num_seqs);
        add(given.is_some() || is_varied("max_num_seqs"), "max_running_requests", &batches);
        add(config.sglang.chunked_prefill_size.is_some(), "chunked_prefill_size", &chunks);
    } else {
        add(config.engine.max_num_seqs.is_some(), "max_num_seqs", &batches);
        add(config.engine.max_num_batched_tokens.is_some(), "max_num_batched_tokens", &chunks);
    }
    let engine = &config.engine;
    let is_given =
        engine.tensor_parallel_size.or(engine.data_parallel_size).or(engine.expert_parallel_size).is_some();
    let is_varied = SIZES.iter().any(|size| is_varied(size));
    if let Some(model) = engine.model.as_ref().filter(|_| !is_given && !is_varied && engine.latency.is_none())
    {
        let has_experts = model_shape(model)?.experts.is_some();
        let shares_out = config.sglang.enable_dp_attention == Some(true);
        let choices = if shares_out {
            ranks_of_sglang(has_experts, limits.max_gpus)
        } else {
            layouts(has_experts, limits.max_gpus)
        };
        dimensions.push(Dimension { name: LAYOUT.to_owned(), choices });
    }
    Ok(dimensions)
}

/// Limits of a batch: a small one, and that of the presets.
const BATCHES: [u32; 2] = [128, 1024];

/// Tokens of a pass: small chunks of a prompt beside decodes, and the default of the presets.
const CHUNKS: [u32; 2] = [2048, 8192];

/// How layers are shared out over the GPUs of a worker; experts may be kept whole, and attention in ranks.
fn layouts(has_experts: bool, max_gpus: u32) -> Vec<Settings> {
    let mut layouts = Vec::new();
    for gpus in [1_u32, 2, 4, 8].into_iter().filter(|gpus| *gpus <= max_gpus) {
        let with = |sizes: &[(&str, u32)]| {
            sizes.iter().map(|(key, size)| ((*key).to_owned(), json!(size))).collect()
        };
        layouts.push(with(&[("tensor_parallel_size", gpus)]));
        if has_experts && gpus > 1 {
            layouts.push(with(&[("tensor_parallel_size", gpus), ("expert_parallel_size", gpus)]));
            layouts.push(with(&[
                ("tensor_parallel_size", 1),
                ("data_parallel_size", gpus),
                ("expert_parallel_size", gpus),
            ]));
        }
    }
    layouts
}

/// The same where SGLang spreads attention over ranks, one on each GPU.
fn ranks_of_sglang(has_experts: bool, max_gpus: u32) -> Vec<Settings> {
    let sizes = [2_u32, 4, 8].into_iter().filter(|gpus| *gpus <= max_gpus);
    let keys = ["tensor_parallel_size", "data_parallel_size", "expert_parallel_size"];
    let keys = if has_experts { &keys[..] } else { &keys[..2] };
    sizes.map(|gpus| keys.iter().map(|key| ((*key).to_owned(), json!(gpus))).collect()).collect()
}

/// The engine that is asked for.
pub(super) fn engine(config: &ReplayConfig) -> EngineType {
    let preset = config.engine.engine_preset.as_deref().unwrap_or_default();
    let of_preset = preset.starts_with("sglang").then_some(EngineType::Sglang);
    config.engine.engine.or(of_preset).unwrap_or(EngineType::Vllm)
}

/// All combinations of choices, the last dimension changing fastest.
fn product(dimensions: &[Dimension]) -> Result<Vec<Settings>, String> {
    let runs = dimensions.iter().try_fold(1_usize, |runs, one| runs.checked_mul(one.choices.len()));
    if runs.is_none_or(|runs| runs > MOST_CANDIDATES) {
        return Err(format!("the values make more than {MOST_CANDIDATES} deployments"));
    }
    let mut combinations = vec![Settings::new()];
    for Dimension { choices, .. } in dimensions {
        let with = |below: &Settings, choice: &Settings| [below.as_slice(), choice.as_slice()].concat();
        combinations = combinations
            .iter()
            .flat_map(|below| choices.iter().map(move |choice| with(below, choice)))
            .collect();
    }
    Ok(combinations)
}

/// How many workers of each kind there may be.
struct Counts {
    /// Of an aggregated deployment; `None` if there is to be none.
    aggregated: Option<Count>,
    /// Of both pools of a disaggregated one.
    staged: Option<[Count; 2]>,
    /// How a worker may be spread over GPUs, where that is open.
    layouts: Vec<Settings>,
}

/// Numbers of workers of a pool.
#[derive(Clone)]
enum Count {
    Any,
    OneOf(Vec<u32>),
}

impl Count {
    /// The numbers that so many GPUs allow.
    fn up_to(&self, most: u32) -> Vec<u32> {
        match self {
            Self::Any => (1..=most).collect(),
            Self::OneOf(numbers) => {
                numbers.iter().copied().filter(|number| (1..=most).contains(number)).collect()
            }
        }
    }
}

impl Counts {
    fn new(config: &ReplayConfig, given: &[Varied], layouts: Option<&Dimension>) -> Self {
        let deployment = &config.deployment;
        let numbers = [deployment.num_workers, deployment.num_prefill_workers, deployment.num_decode_workers];
        let count = |place: usize| {
            let of = given.iter().find(|one| one.path == WORKERS[place]);
            let varied =
                of.map(|one| one.values.iter().filter_map(|value| Some(value.as_u64()? as u32)).collect());
            varied.or(numbers[place].map(|number| vec![number])).map(Count::OneOf)
        };
        let [aggregated, prefill, decode] = [count(0), count(1), count(2)];
        let varies_within = |key: &str| given.iter().any(|one| one.path.starts_with(key));
        let is_staged = prefill.is_some()
            || decode.is_some()
            || deployment.prefill_engine_args.is_some()
            || deployment.decode_engine_args.is_some()
            || varies_within("prefill_engine_args")
            || varies_within("decode_engine_args");
        let is_aggregated =
            aggregated.is_some() || deployment.engine_args.is_some() || varies_within("engine_args");
        let any = |count: Option<Count>| count.unwrap_or(Count::Any);
        Self {
            aggregated: (is_aggregated || !is_staged).then(|| any(aggregated)),
            staged: (is_staged || !is_aggregated).then(|| [any(prefill), any(decode)]),
            layouts: layouts.map(|layouts| layouts.choices.clone()).unwrap_or_default(),
        }
    }

    /// Adds the deployments of these settings.
    fn add(
        &self,
        settings: &Settings,
        config: &ReplayConfig,
        limits: &Limits,
        candidates: &mut Vec<Candidate>,
    ) {
        if let Some(count) = &self.aggregated {
            let gpus = gpus_of("engine_args", config.deployment.engine_args.as_ref(), settings, config);
            for workers in count.up_to(limits.max_gpus / gpus) {
                let taken = (workers + limits.spare).saturating_mul(gpus);
                let name = format!("{workers} x {}", size(gpus));
                let counts = [("num_workers", workers)];
                push(&name, &counts, taken, settings, config, limits, candidates);
            }
        }
        if let Some(counts) = &self.staged {
            for settings in self.with_other_layouts(settings) {
                add_staged(counts, &settings, config, limits, candidates);
            }
        }
    }

    /// The settings as they are, and those under which decode workers are spread over more or fewer GPUs than prefill
    /// workers, in the same manner.
    fn with_other_layouts(&self, settings: &Settings) -> Vec<Settings> {
        let is_size = |(key, _): &&(String, Value)| SIZES.contains(&key.as_str());
        let (own, rest): (Settings, Settings) = settings.iter().cloned().partition(|one| is_size(&one));
        let keys = |layout: &Settings| layout.iter().map(|(key, _)| key.clone()).collect::<Vec<_>>();
        let within = |pool: &str, layout: &Settings| -> Settings {
            layout.iter().map(|(key, value)| (format!("{pool}.{key}"), value.clone())).collect()
        };
        let others = self.layouts.iter().filter(|layout| **layout != own && keys(layout) == keys(&own));
        let with =
            |layout: &Settings| [rest.clone(), within(POOLS[0], &own), within(POOLS[1], layout)].concat();
        std::iter::once(settings.clone()).chain(others.map(with)).collect()
    }
}

/// Adds the disaggregated deployments of these settings.
fn add_staged(
    [prefill, decode]: &[Count; 2],
    settings: &Settings,
    config: &ReplayConfig,
    limits: &Limits,
    candidates: &mut Vec<Candidate>,
) {
    let deployment = &config.deployment;
    let sizes = [
        gpus_of(POOLS[0], deployment.prefill_engine_args.as_ref(), settings, config),
        gpus_of(POOLS[1], deployment.decode_engine_args.as_ref(), settings, config),
    ];
    for prompts in prefill.up_to(limits.max_gpus / sizes[0]) {
        let left = limits.max_gpus.saturating_sub(prompts * sizes[0]);
        for outputs in decode.up_to(left / sizes[1]) {
            let taken = (prompts + limits.spare).saturating_mul(sizes[0])
                + (outputs + limits.spare).saturating_mul(sizes[1]);
            let name = format!("{prompts}P x {} + {outputs}D x {}", size(sizes[0]), size(sizes[1]));
            let counts = [("num_prefill_workers", prompts), ("num_decode_workers", outputs)];
            push(&name, &counts, taken, settings, config, limits, candidates);
        }
    }
}

/// What settings are called in the name of a deployment; nothing where the value says enough.
const SHORT: [(&str, &str); 8] = [
    ("router_mode", ""),
    ("gpu", ""),
    ("max_num_seqs", "seqs"),
    ("max_running_requests", "seqs"),
    ("max_num_batched_tokens", "tokens"),
    ("chunked_prefill_size", "tokens"),
    ("data_parallel_size", "dp"),
    ("expert_parallel_size", "ep"),
];

fn size(gpus: u32) -> String {
    if gpus == 1 { "1 GPU".to_owned() } else { format!("{gpus} GPUs") }
}

/// Adds a deployment if it is within the limits and differs from those that are there.
fn push(
    name: &str,
    counts: &[(&str, u32)],
    taken: u32,
    settings: &Settings,
    config: &ReplayConfig,
    limits: &Limits,
    candidates: &mut Vec<Candidate>,
) {
    let gpus = limits.node_gpus.map_or(taken, |node| taken.div_ceil(node) * node);
    if gpus > limits.max_gpus {
        return;
    }
    // In front of one worker all routers do the same: the first will do.
    let is_alone = counts.iter().all(|(_, workers)| *workers == 1);
    let is_other = |(key, value): &(String, Value)| {
        key == "router_mode"
            && *value != json!(RouterMode::RoundRobin)
            && config.deployment.router_mode.is_none()
    };
    if is_alone && settings.iter().any(is_other) {
        return;
    }
    let counts = counts.iter().map(|(key, workers)| ((*key).to_owned(), json!(workers)));
    // The sizes of workers are told already.
    let is_told = |(path, _): &&(String, Value)| {
        !(path.ends_with("tensor_parallel_size") || is_alone && path == "router_mode")
    };
    let told = settings.iter().filter(is_told).map(|(path, value)| {
        let (pool, key) = match path.split_once("_engine_args.") {
            Some((pool, key)) => (format!("{pool} "), key),
            None => (String::new(), path.as_str()),
        };
        let key = SHORT.iter().find(|(long, _)| *long == key).map_or(key, |(_, short)| *short);
        let value = value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
        if key.is_empty() { format!(", {pool}{value}") } else { format!(", {pool}{key} {value}") }
    });
    let name = format!("{name}{}", told.collect::<String>());
    let gpu = text_of("gpu", settings).or(config.engine.gpu.as_deref());
    candidates.push(Candidate {
        name,
        settings: settings.iter().cloned().chain(counts).collect(),
        gpus,
        price_per_hour: price(gpu, limits).map(|price| price * f64::from(gpus)),
    });
}

fn text_of<'a>(key: &str, settings: &'a Settings) -> Option<&'a str> {
    settings.iter().find(|(path, _)| path == key).and_then(|(_, value)| value.as_str())
}

fn price(gpu: Option<&str>, limits: &Limits) -> Option<f64> {
    let gpu = gpu?;
    // A GPU has several names.
    let name = gpu_sheet(gpu).map_or_else(|_| gpu.to_owned(), |sheet| sheet.name.into_owned());
    limits.prices.iter().find(|price| price.gpu == name).map(|price| price.per_hour)
}

/// The GPUs of a worker of a pool: stages times ranks times those that share each layer.
fn gpus_of(
    pool: &str,
    given: Option<&Map<String, Value>>,
    settings: &Settings,
    config: &ReplayConfig,
) -> u32 {
    let number = |key: &str, general: Option<u32>| {
        let path = format!("{pool}.{key}");
        let varied = |path: &str| {
            settings.iter().find(|(known, _)| known == path).and_then(|(_, value)| value.as_u64())
        };
        let own = varied(&path).or_else(|| given?.get(key)?.as_u64());
        own.or_else(|| varied(key)).map(|number| number as u32).or(general)
    };
    let engine = &config.engine;
    let tensor = number("tensor_parallel_size", engine.tensor_parallel_size);
    // A roofline or a profile may say it among its options.
    let tensor = tensor.or_else(|| {
        let options = engine.latency.as_deref()?.split([',', ':']);
        options.filter_map(|option| option.split_once('=')).find_map(|(key, value)| {
            if matches!(key, "tp" | "tensor_parallel_size") { value.parse().ok() } else { None }
        })
    });
    let ranks = number("dp_size", None).or_else(|| {
        // SGLang's ranks share out the GPUs that `tensor_parallel_size` counts.
        let shares_out = shares_out_attention(pool, given, settings, config);
        number("data_parallel_size", engine.data_parallel_size).filter(|_| !shares_out)
    });
    let stages = number("pipeline_parallel_size", engine.pipeline_parallel_size);
    (tensor.unwrap_or(1) * ranks.unwrap_or(1) * stages.unwrap_or(1)).max(1)
}

/// Whether ranks of SGLang's attention share out the GPUs of a worker of a pool.
fn shares_out_attention(
    pool: &str,
    given: Option<&Map<String, Value>>,
    settings: &Settings,
    config: &ReplayConfig,
) -> bool {
    let key = "enable_dp_attention";
    let varied =
        |path: &str| settings.iter().find(|(known, _)| known == path).and_then(|(_, value)| value.as_bool());
    let own = varied(&format!("{pool}.sglang.{key}")).or_else(|| given?.get("sglang")?.get(key)?.as_bool());
    own.or_else(|| varied(key)).or(config.sglang.enable_dp_attention) == Some(true)
}
