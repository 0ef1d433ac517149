//! Reads the shape of a model from a Hugging Face `config.json`.

use serde_json::{Map, Value};

use super::{Attention, Experts, ModelShape, WeightType, Window};

/// Families whose blocks are known, by `model_type`.
const FAMILIES: [(&str, Family); 18] = [
    ("llama", Family::PLAIN),
    ("mistral", Family { windowed: Windowed::All, ..Family::PLAIN }),
    ("qwen2", Family { windowed: Windowed::IfUsed, ..Family::PLAIN }),
    ("qwen3", Family { qk_norm: true, windowed: Windowed::IfUsed, ..Family::PLAIN }),
    ("phi", Family { gated: false, norms: 1, ..Family::PLAIN }),
    ("phi3", Family { windowed: Windowed::All, ..Family::PLAIN }),
    ("phimoe", Family { experts: Some(ExpertKeys::LOCAL), ..Family::PLAIN }),
    ("mixtral", Family { experts: Some(ExpertKeys::LOCAL), windowed: Windowed::All, ..Family::PLAIN }),
    ("qwen2_moe", Family { experts: Some(ExpertKeys::QWEN), windowed: Windowed::IfUsed, ..Family::PLAIN }),
    (
        "qwen3_moe",
        Family {
            qk_norm: true,
            experts: Some(ExpertKeys::QWEN),
            windowed: Windowed::IfUsed,
            ..Family::PLAIN
        },
    ),
    ("deepseek_v2", Family { latent: true, experts: Some(ExpertKeys::DEEPSEEK), ..Family::PLAIN }),
    ("deepseek_v3", Family { latent: true, experts: Some(ExpertKeys::DEEPSEEK), ..Family::PLAIN }),
    ("gpt_oss", Family { experts: Some(ExpertKeys::LOCAL), windowed: Windowed::Every(2), ..Family::PLAIN }),
    ("gemma", Family { tied: true, ..Family::PLAIN }),
    ("gemma2", Family { tied: true, norms: 4, windowed: Windowed::Every(2), ..Family::PLAIN }),
    ("gemma3", Family::GEMMA3),
    ("gemma3_text", Family::GEMMA3),
    ("ministral", Family { windowed: Windowed::All, ..Family::PLAIN }),
];

/// How the models of a family differ from a llama.
#[derive(Debug, Clone, Copy)]
struct Family {
    qk_norm: bool,
    gated: bool,
    norms: u32,
    /// Whether the head is the embedding unless the file says otherwise.
    tied: bool,
    latent: bool,
    windowed: Windowed,
    experts: Option<ExpertKeys>,
}

impl Family {
    const PLAIN: Self = Self {
        qk_norm: false,
        gated: true,
        norms: 2,
        tied: false,
        latent: false,
        windowed: Windowed::Never,
        experts: None,
    };
    const GEMMA3: Self =
        Self { tied: true, norms: 4, qk_norm: true, windowed: Windowed::Pattern, ..Self::PLAIN };
}

/// Which blocks look back no further than `sliding_window`, where `layer_types` does not say.
#[derive(Debug, Clone, Copy)]
enum Windowed {
    Never,
    All,
    /// Those from `max_window_layers` on, if `use_sliding_window`.
    IfUsed,
    /// All but each n-th.
    Every(u32),
    /// All but each `sliding_window_pattern`-th.
    Pattern,
}

/// Where the experts are described.
#[derive(Debug, Clone, Copy)]
struct ExpertKeys {
    count: &'static str,
    per_token: &'static str,
    inner_size: &'static str,
    /// Blocks before the first with experts.
    first: Option<&'static str>,
    /// How many experts all tokens go through.
    shared_count: Option<&'static str>,
    /// How wide what all tokens go through is.
    shared_inner_size: Option<&'static str>,
}

impl ExpertKeys {
    const LOCAL: Self = Self {
        count: "num_local_experts",
        per_token: "num_experts_per_tok",
        inner_size: "intermediate_size",
        first: None,
        shared_count: None,
        shared_inner_size: None,
    };
    const QWEN: Self = Self {
        count: "num_experts",
        inner_size: "moe_intermediate_size",
        shared_inner_size: Some("shared_expert_intermediate_size"),
        ..Self::LOCAL
    };
    const DEEPSEEK: Self = Self {
        count: "n_routed_experts",
        inner_size: "moe_intermediate_size",
        first: Some("first_k_dense_replace"),
        shared_count: Some("n_shared_experts"),
        ..Self::LOCAL
    };
}

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

pub(super) fn read(text: &str) -> Result<ModelShape, ModelError> {
    let whole: Map<String, Value> =
        serde_json::from_str(text).map_err(|error| ModelError::Json(error.to_string()))?;
    // A model that reads pictures as well has the language model in an object of its own.
    let quantised = whole.get("quantization_config").cloned();
    let config = match whole.get("text_config") {
        Some(Value::Object(text)) if text.contains_key("hidden_size") => Config(text.clone()),
        _ => Config(whole),
    };
    let quantisation = quantised.as_ref().or(config.get("quantization_config")).and_then(weight_type);
    let name = config.get("model_type").and_then(Value::as_str);
    let family = FAMILIES.iter().find(|(known, _)| Some(*known) == name).map(|(_, family)| *family);
    let family = family.ok_or_else(|| ModelError::Family {
        found: name.map_or_else(|| "absent".to_owned(), |name| format!("`{name}`")),
    })?;
    let layers = config.number("num_hidden_layers", 1)?;
    let heads = config.number("num_attention_heads", 1)?;
    let hidden_size = config.number("hidden_size", 1)?;
    let (attention, head_size) =
        if family.latent { latent(&config)? } else { grouped(&config, hidden_size, heads)? };
    Ok(ModelShape {
        layers,
        hidden_size,
        heads,
        head_size,
        attention,
        inner_size: config.number("intermediate_size", 1)?,
        gated: family.gated,
        vocabulary: config.number("vocab_size", 1)?,
        tied_embeddings: config.is_on("tie_word_embeddings", family.tied),
        qk_norm: family.qk_norm,
        norms: family.norms,
        window: window(&config, family.windowed, layers)?,
        experts: family.experts.map(|keys| experts(&config, keys, layers)).transpose()?,
        quantisation,
    })
}

fn grouped(config: &Config, hidden_size: u32, heads: u32) -> Result<(Attention, u32), ModelError> {
    let kv_heads = config.number_or("num_key_value_heads", heads)?;
    if kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
        return Err(config.refused("num_key_value_heads", "a divisor of `num_attention_heads`"));
    }
    let head_size = match config.get("head_dim") {
        Some(_) => config.number("head_dim", 1)?,
        None if hidden_size.is_multiple_of(heads) => hidden_size / heads,
        None => {
            return Err(config
                .refused("head_dim", "given, since `num_attention_heads` does not divide `hidden_size`"));
        }
    };
    Ok((Attention::Grouped { kv_heads }, head_size))
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

fn experts(config: &Config, keys: ExpertKeys, layers: u32) -> Result<Experts, ModelError> {
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
    let first = keys.first.map_or(Ok(0), |key| config.number_or(key, 0))?.min(layers);
    // Qwen has them in each n-th block but those listed.
    let step = config.number_or("decoder_sparse_step", 1)?.max(1);
    let plain = config.get("mlp_only_layers").and_then(Value::as_array).map_or(0, Vec::len) as u32;
    Ok(Experts {
        count,
        per_token,
        inner_size,
        shared_inner_size: shared,
        layers: ((layers - first) / step).saturating_sub(plain),
    })
}

fn window(config: &Config, windowed: Windowed, layers: u32) -> Result<Option<Window>, ModelError> {
    if config.get("sliding_window").is_none() {
        return Ok(None);
    }
    let listed = config.get("layer_types").and_then(Value::as_array);
    let with = match (listed, windowed) {
        (Some(kinds), _) => kinds.iter().filter(|kind| *kind == "sliding_attention").count() as u32,
        (None, Windowed::All) => layers,
        (None, Windowed::IfUsed) if config.is_on("use_sliding_window", false) => {
            layers.saturating_sub(config.number_or("max_window_layers", layers)?)
        }
        (None, Windowed::Never | Windowed::IfUsed) => 0,
        (None, Windowed::Every(n)) => layers - layers / n,
        (None, Windowed::Pattern) => layers - layers / config.number_or("sliding_window_pattern", 6)?.max(1),
    };
    let tokens = config.number("sliding_window", 1)?;
    Ok((with > 0).then_some(Window { tokens, layers: with }))
}

/// What `quantization_config` says, as far as it is known.
fn weight_type(config: &Value) -> Option<WeightType> {
    let bits = config.get("bits").and_then(Value::as_u64);
    match config.get("quant_method").and_then(Value::as_str)? {
        "fp8" | "fbgemm_fp8" => Some(WeightType::Fp8),
        "mxfp4" => Some(WeightType::Mxfp4),
        "awq" | "gptq" if bits.is_none_or(|bits| bits == 4) => Some(WeightType::Int4),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(config: &Value) -> ModelShape {
        read(&config.to_string()).unwrap_or_else(|error| panic!("{config}: {error}"))
    }

    /// A description by a few keys is what stands in the list of models.
    #[track_caller]
    fn same(name: &str, config: &Value) {
        let listed = ModelShape::by_name(name).unwrap();
        assert_eq!(of(config), listed, "{name}");
    }

    fn keys(family: &str, layers: u32, hidden: u32, inner: u32, heads: (u32, u32), vocabulary: u32) -> Value {
        json!({
            "model_type": family, "num_hidden_layers": layers, "hidden_size": hidden, "intermediate_size": inner,
            "num_attention_heads": heads.0, "num_key_value_heads": heads.1, "vocab_size": vocabulary,
        })
    }

    fn with(mut config: Value, more: &Value) -> Value {
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    }

    #[test]
    fn plain_families_are_read() {
        same("meta-llama/Llama-3.1-8B", &keys("llama", 32, 4096, 14336, (32, 8), 128_256));
        same(
            "mistralai/Mistral-7B-v0.3",
            &with(keys("mistral", 32, 4096, 14336, (32, 8), 32768), &json!({"sliding_window": null})),
        );
        let sliding =
            json!({"sliding_window": 131_072, "use_sliding_window": false, "max_window_layers": 28});
        same("Qwen/Qwen2.5-7B", &with(keys("qwen2", 28, 3584, 18944, (28, 4), 152_064), &sliding));
        let tied = json!({"head_dim": 128, "tie_word_embeddings": true});
        same("Qwen/Qwen3-0.6B", &with(keys("qwen3", 28, 1024, 3072, (16, 8), 151_936), &tied));
        same("microsoft/phi-4", &keys("phi3", 40, 5120, 17920, (40, 10), 100_352));
        let phi = of(&keys("phi", 32, 2560, 10240, (32, 32), 51200));
        let billions = phi.parameters() as f64 / 1e9;
        assert!((billions - 2.78).abs() < 0.01, "phi-2 is published with 2.78 billion, not {billions}");
        let first =
            of(&with(keys("mistral", 32, 4096, 14336, (32, 8), 32000), &json!({"sliding_window": 4096})));
        assert_eq!(first.window, Some(Window { tokens: 4096, layers: 32 }));
    }

    #[test]
    fn families_with_experts_are_read() {
        let local = json!({"num_local_experts": 8, "num_experts_per_tok": 2});
        same("mistralai/Mixtral-8x7B-v0.1", &with(keys("mixtral", 32, 4096, 14336, (32, 8), 32000), &local));
        let qwen = json!({
            "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768,
            "decoder_sparse_step": 1, "mlp_only_layers": [], "sliding_window": null,
        });
        same("Qwen/Qwen3-30B-A3B", &with(keys("qwen3_moe", 48, 2048, 6144, (32, 4), 151_936), &qwen));
        let shared = json!({
            "num_experts": 60, "num_experts_per_tok": 4, "moe_intermediate_size": 1408,
            "shared_expert_intermediate_size": 5632,
        });
        let billions = of(&with(keys("qwen2_moe", 24, 2048, 5632, (16, 16), 151_936), &shared)).parameters()
            as f64
            / 1e9;
        assert!(
            (billions - 14.3).abs() < 0.05,
            "Qwen1.5-MoE-A2.7B is published with 14.3 billion, not {billions}"
        );
        let latent = json!({
            "n_routed_experts": 256, "n_shared_experts": 1, "num_experts_per_tok": 8, "moe_intermediate_size": 2048,
            "first_k_dense_replace": 3, "q_lora_rank": 1536, "kv_lora_rank": 512, "qk_rope_head_dim": 64,
            "qk_nope_head_dim": 128, "v_head_dim": 128, "quantization_config": {"quant_method": "fp8"},
        });
        same(
            "deepseek-ai/DeepSeek-V3",
            &with(keys("deepseek_v3", 61, 7168, 18432, (128, 128), 129_280), &latent),
        );
        let lite = json!({
            "n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6, "moe_intermediate_size": 1408,
            "first_k_dense_replace": 1, "q_lora_rank": null, "kv_lora_rank": 512, "qk_rope_head_dim": 64,
            "qk_nope_head_dim": 128, "v_head_dim": 128,
        });
        let billions = of(&with(keys("deepseek_v2", 27, 2048, 10944, (16, 16), 102_400), &lite)).parameters()
            as f64
            / 1e9;
        assert!(
            (billions - 15.7).abs() < 0.05,
            "DeepSeek-V2-Lite is published with 15.7 billion, not {billions}"
        );
        let gpt_oss = json!({
            "head_dim": 64, "num_local_experts": 128, "num_experts_per_tok": 4, "sliding_window": 128,
            "quantization_config": {"quant_method": "mxfp4"},
        });
        same("openai/gpt-oss-120b", &with(keys("gpt_oss", 36, 2880, 2880, (64, 8), 201_088), &gpt_oss));
    }

    #[test]
    fn gemmas_are_read() {
        let gemma2 = json!({"head_dim": 256, "sliding_window": 4096});
        same("google/gemma-2-9b", &with(keys("gemma2", 42, 3584, 14336, (16, 8), 256_000), &gemma2));
        let gemma3 = with(
            keys("gemma3_text", 48, 3840, 15360, (16, 8), 262_208),
            &json!({"head_dim": 256, "sliding_window": 1024, "sliding_window_pattern": 6}),
        );
        same("google/gemma-3-12b-it", &json!({"model_type": "gemma3", "text_config": gemma3}));
        let kinds: Vec<&str> = [["sliding_attention"; 5].as_slice(), &["full_attention"]].concat();
        let listed = of(&with(
            keys("gemma3_text", 6, 64, 64, (2, 1), 10),
            &json!({"sliding_window": 8, "layer_types": kinds}),
        ));
        assert_eq!(listed.window, Some(Window { tokens: 8, layers: 5 }));
        let first = of(&with(keys("gemma", 28, 3072, 24576, (16, 16), 256_000), &json!({"head_dim": 256})));
        let billions = first.parameters() as f64 / 1e9;
        assert!((billions - 8.54).abs() < 0.01, "gemma-7b is published with 8.54 billion, not {billions}");
    }

    #[track_caller]
    fn refused(config: &Value, message: &str) {
        assert_eq!(read(&config.to_string()).unwrap_err().to_string(), message);
    }

    #[test]
    fn what_is_not_known_is_refused_with_what_to_do() {
        let unknown = read(r#"{"model_type": "mamba"}"#).unwrap_err().to_string();
        assert!(
            unknown.starts_with("`model_type` is `mamba`, whose blocks are not known; known are llama, "),
            "{unknown}"
        );
        assert!(unknown.ends_with("name that one in a copy of the file"), "{unknown}");
        assert!(read("{}").unwrap_err().to_string().starts_with("`model_type` is absent"));
        assert!(matches!(read("[]").unwrap_err(), ModelError::Json(_)));
        let llama = keys("llama", 2, 64, 64, (4, 2), 10);
        refused(
            &with(llama.clone(), &json!({"hidden_size": "wide"})),
            "`hidden_size` is \"wide\", but must be a whole number of at least 1",
        );
        refused(
            &with(llama.clone(), &json!({"num_key_value_heads": 3})),
            "`num_key_value_heads` is 3, but must be a divisor of `num_attention_heads`",
        );
        refused(
            &with(llama.clone(), &json!({"vocab_size": null})),
            "`vocab_size` is absent, but must be a whole number of at least 1",
        );
        refused(
            &with(llama, &json!({"model_type": "mixtral", "num_local_experts": 2, "num_experts_per_tok": 3})),
            "`num_experts_per_tok` is 3, but must be no more than there are experts",
        );
    }
}
