//! Reads the shape of a model from a Hugging Face `config.json`.

mod families;

use serde_json::{Map, Value};

use self::families::{ExpertKeys, FAMILIES, Family, Windowed};
use super::{
    Attention, Experts, FourBit, LinearKind, LinearLayers, ModelShape, SparseIndex, WeightType, Window,
};

/// Why a description is none of a model whose blocks are known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// No JSON object.
    #[error("not a readable JSON object: {0}")]
    Json(String),
    /// A family whose blocks are not known.
    #[error(
        "`model_type` is {found}, whose blocks are not known; known are {}: if the blocks of the model are those of one \
         of them, name that one in a copy of the file",
        families()
    )]
    Family {
        /// What is there.
        found: String,
    },
    /// A key that is absent, or whose value cannot be.
    #[error("`{key}` is {found}, but must be {expected}")]
    Key {
        /// Which.
        key: &'static str,
        /// What is there.
        found: String,
        /// What would be right.
        expected: &'static str,
    },
}

fn families() -> String {
    FAMILIES.map(|(name, _)| name).join(", ")
}

/// A description, key by key.
struct Config(Map<String, Value>);

impl Config {
    fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key).filter(|value| !value.is_null())
    }

    fn refused(&self, key: &'static str, expected: &'static str) -> ModelError {
        let found = self.get(key).map_or_else(|| "absent".to_owned(), Value::to_string);
        ModelError::Key { key, found, expected }
    }

    /// A number of at least `least`.
    fn number(&self, key: &'static str, least: u64) -> Result<u32, ModelError> {
        let value = self.get(key).and_then(Value::as_u64).filter(|value| (least..1 << 24).contains(value));
        let expected = if least == 0 { "a whole number" } else { "a whole number of at least 1" };
        value.map(|value| value as u32).ok_or_else(|| self.refused(key, expected))
    }

    /// The same, or a value for where the key is absent.
    fn number_or(&self, key: &'static str, otherwise: u32) -> Result<u32, ModelError> {
        if self.get(key).is_some() { self.number(key, 0) } else { Ok(otherwise) }
    }

    fn is_on(&self, key: &str, otherwise: bool) -> bool {
        self.get(key).and_then(Value::as_bool).unwrap_or(otherwise)
    }
}

/// How many blocks are of which kind.
#[derive(Debug, Clone, Copy)]
struct Blocks {
    attention: u32,
    linear: u32,
    feed_forward: u32,
    /// Those of the feed-forward parts that are experts, where the kinds of blocks say so.
    experts: Option<u32>,
}

pub(super) fn read(text: &str) -> Result<ModelShape, ModelError> {
    let whole: Map<String, Value> =
        serde_json::from_str(text).map_err(|error| ModelError::Json(error.to_string()))?;
    // A model that reads pictures as well has the language model in an object of its own.
    let quantised = whole.get("quantization_config").cloned();
    let outer = whole.get("model_type").and_then(Value::as_str).map(str::to_owned);
    let config = match whole.get("text_config") {
        Some(Value::Object(text)) if text.contains_key("hidden_size") => Config(text.clone()),
        _ => Config(whole),
    };
    let quantised = quantised.or_else(|| config.get("quantization_config").cloned());
    let family = family(&config, outer.as_deref())?;
    let layers = config.number("num_hidden_layers", 1)?;
    let heads = config.number("num_attention_heads", 1)?;
    let hidden_size = config.number("hidden_size", 1)?;
    let (attention, head_size) =
        if family.latent { latent(&config)? } else { grouped(&config, family.kv_heads, hidden_size, heads)? };
    let blocks = blocks(&config, family, layers)?;
    let output_gate = match family {
        Family { head_gate: true, .. } => 1,
        Family { hybrid: true, .. } if config.is_on("attn_output_gate", true) => head_size,
        _ => 0,
    };
    let inner_size = match family.experts {
        // A model with experts in all blocks need not say how wide other feed-forward parts are.
        Some(keys) if config.get(family.inner_size).is_none() => config.number(keys.inner_size, 1)?,
        _ => config.number(family.inner_size, 1)?,
    };
    let quantisation = quantised.as_ref().map(weight_type).transpose()?.flatten();
    let of_int4 = quantised.as_ref().filter(|_| quantisation == Some(WeightType::Int4));
    Ok(ModelShape {
        layers,
        attention_layers: blocks.attention,
        linear: linear(&config, family, blocks.linear)?,
        feed_forward_layers: blocks.feed_forward,
        hidden_size,
        heads,
        head_size,
        attention,
        sparse: sparse(&config, family)?,
        output_gate,
        inner_size,
        gated: family.gated,
        vocabulary: config.number("vocab_size", 1)?,
        context: context(&config),
        tied_embeddings: config.is_on("tie_word_embeddings", family.tied),
        qk_norm: config.is_on("use_qk_norm", family.qk_norm),
        norms: family.norms,
        window: window(&config, family.windowed, layers)?,
        experts: family
            .experts
            .map(|keys| experts(&config, keys, blocks))
            .transpose()?
            .filter(|found| found.layers > 0),
        quantisation,
        block_fp8: family.block_fp8,
        four_bit: quantised.as_ref().and_then(four_bit).unwrap_or(family.four_bit),
        int4_group: of_int4.map_or(128, int4_group),
    })
}

/// Tokens of a sequence. No time and no size follows from it, so what is no number of tokens says nothing.
fn context(config: &Config) -> Option<u32> {
    let tokens = config.get("max_position_embeddings")?.as_u64()?;
    u32::try_from(tokens).ok().filter(|&tokens| tokens > 0)
}

/// The family of a language model, whose wrapper may have a name of its own.
fn family(config: &Config, outer: Option<&str>) -> Result<Family, ModelError> {
    let name = config.get("model_type").and_then(Value::as_str).or(outer);
    let of = |name: &str| FAMILIES.iter().find(|(known, _)| *known == name).map(|(_, family)| *family);
    let found = name.and_then(of).ok_or_else(|| ModelError::Family {
        found: name.map_or_else(|| "absent".to_owned(), |name| format!("`{name}`")),
    })?;
    // What is stored in four bits is a matter of the whole repository.
    let four_bit = outer.and_then(of).map_or(found.four_bit, |outer| outer.four_bit);
    Ok(Family { four_bit, ..found })
}

/// Which blocks have what.
fn blocks(config: &Config, family: Family, layers: u32) -> Result<Blocks, ModelError> {
    if family.pattern {
        const KEY: &str = "hybrid_override_pattern";
        let refused = || config.refused(KEY, "a letter M, *, E or - for each of `num_hidden_layers` blocks");
        let pattern = config.get(KEY).and_then(Value::as_str).ok_or_else(refused)?;
        let count = |letter: char| pattern.chars().filter(|&found| found == letter).count() as u32;
        let (linear, attention, experts, plain) = (count('M'), count('*'), count('E'), count('-'));
        if pattern.len() as u32 != layers || linear + attention + experts + plain != layers {
            return Err(refused());
        }
        return Ok(Blocks { attention, linear, feed_forward: experts + plain, experts: Some(experts) });
    }
    let attention = match config.get("layer_types").and_then(Value::as_array) {
        _ if !family.hybrid => layers,
        Some(kinds) => kinds.iter().filter(|kind| *kind == "full_attention").count() as u32,
        None => layers / config.number_or("full_attention_interval", 4)?.max(1),
    };
    if attention > layers {
        return Err(config.refused("layer_types", "one kind for each of `num_hidden_layers` blocks"));
    }
    Ok(Blocks { attention, linear: layers - attention, feed_forward: layers, experts: None })
}

fn linear(config: &Config, family: Family, layers: u32) -> Result<Option<LinearLayers>, ModelError> {
    if layers == 0 {
        return Ok(None);
    }
    let keys = if family.pattern {
        ["n_groups", "ssm_state_size", "mamba_num_heads", "mamba_head_dim", "conv_kernel"]
    } else {
        [
            "linear_num_key_heads",
            "linear_key_head_dim",
            "linear_num_value_heads",
            "linear_value_head_dim",
            "linear_conv_kernel_dim",
        ]
    };
    let [key_heads, key_size, value_heads, value_size, convolution] = keys;
    Ok(Some(LinearLayers {
        layers,
        kind: if family.pattern { LinearKind::Mamba2 } else { LinearKind::GatedDelta },
        key_heads: config.number(key_heads, 1)?,
        key_size: config.number(key_size, 1)?,
        value_heads: config.number(value_heads, 1)?,
        value_size: config.number(value_size, 1)?,
        convolution: config.number(convolution, 1)?,
        cached_number_bytes: cached_number_bytes(config, family)?,
    }))
}

/// Bytes of a number of a state as engines keep it, which the file may say by two names.
fn cached_number_bytes(config: &Config, family: Family) -> Result<u32, ModelError> {
    let keys = ["mamba_ssm_dtype", "mamba_ssm_cache_dtype"];
    let Some(key) = keys.into_iter().find(|key| config.get(key).is_some()) else {
        return Ok(if family.short_states { 2 } else { 4 });
    };
    match config.get(key).and_then(Value::as_str) {
        Some("float32") => Ok(4),
        Some("bfloat16" | "float16") => Ok(2),
        _ => Err(config.refused(key, "`float32`, `bfloat16` or `float16`")),
    }
}

fn sparse(config: &Config, family: Family) -> Result<Option<SparseIndex>, ModelError> {
    if !family.latent || config.get("index_topk").is_none() {
        return Ok(None);
    }
    Ok(Some(SparseIndex {
        heads: config.number("index_n_heads", 1)?,
        head_size: config.number("index_head_dim", 1)?,
        top_k: config.number("index_topk", 1)?,
    }))
}

fn grouped(
    config: &Config,
    kv_heads: &'static str,
    hidden_size: u32,
    heads: u32,
) -> Result<(Attention, u32), ModelError> {
    let found = config.number_or(kv_heads, heads)?;
    if found == 0 || !heads.is_multiple_of(found) {
        return Err(config.refused(kv_heads, "a divisor of `num_attention_heads`"));
    }
    let head_size = match config.get("head_dim") {
        Some(_) => config.number("head_dim", 1)?,
        None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => {
            return Err(config
                .refused("head_dim", "given, since `num_attention_heads` does not divide `hidden_size`"));
        }
    };
    Ok((Attention::Grouped { kv_heads: found }, head_size))
}

fn latent(config: &Config) -> Result<(Attention, u32), ModelError> {
    let rope_size = config.number("qk_rope_head_dim", 1)?;
    let q_rank = config.get("q_lora_rank").map(|_| config.number("q_lora_rank", 1)).transpose()?;
    let attention = Attention::Latent {
        q_rank,
        kv_rank: config.number("kv_lora_rank", 1)?,
        rope_size,
        value_size: config.number("v_head_dim", 1)?,
    };
    Ok((attention, config.number("qk_nope_head_dim", 1)? + rope_size))
}

fn experts(config: &Config, keys: ExpertKeys, blocks: Blocks) -> Result<Experts, ModelError> {
    let (count, per_token) = (config.number(keys.count, 1)?, config.number(keys.per_token, 1)?);
    if per_token > count {
        return Err(config.refused(keys.per_token, "no more than there are experts"));
    }
    let inner_size = config.number(keys.inner_size, 1)?;
    let shared = match (keys.shared_count, keys.shared_inner_size) {
        (Some(count), _) => config.number_or(count, 0)? * inner_size,
        (None, Some(size)) => config.number_or(size, 0)?,
        (None, None) => 0,
    };
    let layers = match blocks.experts {
        Some(layers) => layers,
        None => expert_layers(config, keys, blocks.feed_forward)?,
    };
    Ok(Experts { count, per_token, inner_size, shared_inner_size: shared, layers })
}

/// How many of so many blocks have experts.
fn expert_layers(config: &Config, keys: ExpertKeys, layers: u32) -> Result<u32, ModelError> {
    // A list of their numbers, as text.
    if let Some(listed) = config.get("moe_layers_enum").and_then(Value::as_str) {
        let listed = listed.split(',').filter_map(|number| number.trim().parse::<u32>().ok());
        return Ok(listed.filter(|&number| number < layers).count() as u32);
    }
    let first = keys.first.map_or(Ok(0), |key| config.number_or(key, 0))?.min(layers);
    // Qwen has them in each n-th block but those listed.
    let step = config.number_or(keys.step, 1)?.max(1);
    let plain = config.get("mlp_only_layers").and_then(Value::as_array).map_or(0, Vec::len) as u32;
    Ok(((layers - first) / step).saturating_sub(plain))
}

fn window(config: &Config, windowed: Windowed, layers: u32) -> Result<Option<Window>, ModelError> {
    let key = if matches!(windowed, Windowed::Chunks) { "attention_chunk_size" } else { "sliding_window" };
    if config.get(key).is_none() {
        return Ok(None);
    }
    let listed = config.get("layer_types").and_then(Value::as_array);
    // The blocks of a draft model may follow in the list.
    let of_model = |kinds: &Vec<Value>, wanted: &[&str]| {
        let kinds = kinds.iter().take(layers as usize).filter_map(Value::as_str);
        kinds.filter(|kind| wanted.contains(kind)).count() as u32
    };
    let with = match (listed, windowed) {
        (Some(kinds), _) => of_model(kinds, &["sliding_attention", "chunked_attention"]),
        (None, Windowed::All) => layers,
        (None, Windowed::IfUsed) if config.is_on("use_sliding_window", false) => {
            layers.saturating_sub(config.number_or("max_window_layers", layers)?)
        }
        (None, Windowed::Never | Windowed::IfUsed) => 0,
        (None, Windowed::Every(n)) => layers - layers / n,
        (None, Windowed::Pattern) => layers - layers / config.number_or("sliding_window_pattern", 6)?.max(1),
        (None, Windowed::Chunks) => match config.get("no_rope_layers").and_then(Value::as_array) {
            Some(flags) if !flags.is_empty() => {
                flags.iter().filter(|flag| flag.as_u64() == Some(1)).count() as u32
            }
            _ => layers - layers / config.number_or("no_rope_layer_interval", 4)?.max(1),
        },
    };
    let tokens = config.number(key, 1)?;
    let first = listed.and_then(|kinds| kinds.first()?.as_str());
    Ok((with > 0).then_some(Window {
        tokens,
        layers: with.min(layers),
        chunked: matches!(windowed, Windowed::Chunks),
        // Those without a window are the first ones where the file says from which one on there is one.
        after_full: first.map_or(matches!(windowed, Windowed::IfUsed), |kind| kind == "full_attention"),
    }))
}

/// What `quantization_config` says; nothing if it is empty.
fn weight_type(config: &Value) -> Result<Option<WeightType>, ModelError> {
    let text = |key: &str| config.get(key).and_then(Value::as_str);
    let of_blocks = || {
        let given = config.get("weight_block_size").is_some_and(|size| !size.is_null());
        given || mentions(config.get("config_groups"), "\"block\"")
    };
    let fp8 = || if of_blocks() { WeightType::Fp8Block } else { WeightType::Fp8 };
    let four_bits = |found: Option<u64>| found.is_none_or(|bits| bits == 4);
    // Only compressed-tensors leaves its name out.
    let method = text("quant_method").or(text("format").map(|_| "compressed-tensors"));
    let Some(method) = method else { return Ok(None) };
    let found = match (method, text("quant_algo"), text("format")) {
        ("fp8" | "fbgemm_fp8", ..) | ("compressed-tensors", _, Some("float-quantized")) => Some(fp8()),
        ("mxfp4", ..) => Some(WeightType::Mxfp4),
        ("awq" | "gptq", ..) if four_bits(config.get("bits").and_then(Value::as_u64)) => {
            Some(WeightType::Int4)
        }
        ("modelopt" | "modelopt_fp4", None | Some("NVFP4"), _)
        | ("compressed-tensors", _, Some("nvfp4-pack-quantized")) => Some(WeightType::Nvfp4),
        ("modelopt", Some("FP8"), _) => Some(WeightType::Fp8),
        ("modelopt", Some("FP8_PB_WO"), _) => Some(WeightType::Fp8Block),
        ("compressed-tensors", _, Some("pack-quantized"))
            if mentions(config.get("config_groups"), "\"num_bits\":4") =>
        {
            Some(WeightType::Int4)
        }
        ("quark", ..) if mentions(config.get("global_quant_config"), "\"dtype\":\"fp4\"") => {
            Some(WeightType::Mxfp4)
        }
        ("quark", ..) if mentions(config.get("global_quant_config"), "\"dtype\":\"fp8") => {
            Some(WeightType::Fp8)
        }
        _ => None,
    };
    found.map(Some).ok_or_else(|| ModelError::Key {
        key: "quantization_config",
        found: [Some(method), text("quant_algo"), text("format")].into_iter().flatten().collect::<Vec<_>>().join(" "),
        expected: "a known form of weights (fp8, mxfp4, 4-bit awq or gptq, modelopt, compressed-tensors, quark); \
                   without it in a copy of the file, `dtype` says how weights are stored",
    })
}

/// How many int4 numbers have a scale in common.
fn int4_group(config: &Value) -> u32 {
    let group = |weights: &Value| weights.get("group_size").and_then(Value::as_u64).filter(|&size| size > 0);
    let mut groups = config.get("config_groups").and_then(Value::as_object).into_iter().flat_map(Map::values);
    let found = group(config).or_else(|| groups.find_map(|one| group(one.get("weights")?)));
    found.map_or(128, |size| size.min(1 << 20) as u32)
}

/// Which parts `quantization_config` leaves alone, if it lists any.
fn four_bit(config: &Value) -> Option<FourBit> {
    let keys = ["ignore", "exclude_modules", "modules_to_not_convert"];
    let listed = keys.into_iter().find_map(|key| {
        config.get(key).filter(|list| list.as_array().is_some_and(|list| !list.is_empty()))
    })?;
    let has = |part: &str| mentions(Some(listed), part);
    if has("shared_expert") {
        return Some(FourBit::Experts);
    }
    (has("self_attn") || has("linear_attn")).then_some(FourBit::FeedForward)
}

/// Whether a text stands somewhere in a value.
fn mentions(value: Option<&Value>, part: &str) -> bool {
    value.is_some_and(|value| value.to_string().contains(part))
}

#[cfg(test)]
mod tests;
