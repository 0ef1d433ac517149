//! Names of models: versions and tunings of one shape, and repositories of quantised weights.

use super::known::MODELS;
use super::{ModelShape, WeightType, context};

/// Parts of a name that change nothing about the shape.
const TUNINGS: [&str; 26] = [
    "meta",
    "nvidia",
    "instruct",
    "base",
    "chat",
    "hf",
    "it",
    "thinking",
    "reasoning",
    "tput",
    "terminus",
    "exp",
    "speciale",
    "original",
    "preview",
    "2407",
    "2501",
    "2503",
    "2506",
    "2507",
    "2508",
    "0324",
    "0528",
    "0711",
    "0905",
    "1206",
];

/// Parts of a name that say how the weights are stored.
const STORED: [(&str, WeightType); 15] = [
    ("fp8", WeightType::Fp8),
    ("fp8_block", WeightType::Fp8Block),
    ("awq", WeightType::Int4),
    ("gptq", WeightType::Int4),
    ("int4", WeightType::Int4),
    ("w4a16", WeightType::Int4),
    ("quantized.w4a16", WeightType::Int4),
    ("autoround", WeightType::Int4),
    ("nvfp4", WeightType::Nvfp4),
    ("nvfp4a16", WeightType::Nvfp4),
    ("fp4", WeightType::Nvfp4),
    ("mxfp4", WeightType::Mxfp4),
    ("bf16", WeightType::Bf16),
    ("bfloat16", WeightType::Bf16),
    ("fp16", WeightType::Bf16),
];

/// What may follow, and changes nothing about that.
const STORED_HOW: [&str; 9] = ["dynamic", "static", "kv", "int4", "4bit", "v2", "preview", "marlin", "ptpc"];

/// Publishers of fp8 weights that have a scale for each matrix or row of models whose own publisher has them for blocks.
const OF_ROWS: [&str; 4] = ["redhatai", "neuralmagic", "nvidia", "amd"];

/// The shape that a name means. Who publishes it does not matter, but for how fp8 weights are scaled.
pub(super) fn shape(name: &str) -> Option<ModelShape> {
    let name = name.trim_end_matches('/').to_ascii_lowercase();
    let (owner, base) = name.rsplit_once('/').unwrap_or(("", &name));
    let parts: Vec<&str> = base.split('-').collect();
    let is_stored = |part: &&str| STORED.iter().any(|(known, _)| known == part);
    let quantised = parts.iter().position(is_stored).unwrap_or(parts.len());
    let (plain, suffix) = parts.split_at(quantised);
    let shape = known(plain)?;
    let [kind, how @ ..] = suffix else { return Some(shape) };
    if !how.iter().all(|part| STORED_HOW.contains(part) || *part == "block") {
        return None;
    }
    let (_, weights) = *STORED.iter().find(|(known, _)| known == kind)?;
    let of_rows =
        OF_ROWS.contains(&owner) || how.iter().any(|part| ["dynamic", "static", "ptpc"].contains(part));
    let weights = match weights {
        WeightType::Fp8 if how.contains(&"block") || (shape.block_fp8 && !of_rows) => WeightType::Fp8Block,
        other => other,
    };
    Some(ModelShape { quantisation: Some(weights), block_fp8: shape.block_fp8 && !of_rows, ..shape })
}

/// The shape of a name without what says how it is stored.
fn known(parts: &[&str]) -> Option<ModelShape> {
    let wanted = untuned(parts);
    let of = |name: &'static str| {
        let base = name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
        untuned(&base.split('-').collect::<Vec<_>>()).iter().map(|&part| part.to_owned()).collect::<Vec<_>>()
    };
    let exact = parts.join("-");
    let is_exact = |name: &str| name.rsplit('/').next().is_some_and(|base| base.eq_ignore_ascii_case(&exact));
    let found = MODELS
        .iter()
        .find(|(name, _)| is_exact(name))
        .or_else(|| MODELS.iter().find(|(name, _)| of(name) == wanted))
        .or_else(|| MODELS.iter().find(|(name, _)| unversioned(&of(name)) == wanted));
    found.map(|(name, shape)| ModelShape { context: context::of(name, parts), ..shape.clone() })
}

/// The parts of a name that may say something about the shape.
fn untuned<'a>(parts: &[&'a str]) -> Vec<&'a str> {
    parts.iter().filter(|part| !TUNINGS.contains(part)).copied().collect()
}

/// The same without a version like `v0.1`.
fn unversioned(parts: &[String]) -> Vec<&str> {
    let is_version = |part: &str| {
        part.strip_prefix("v0.").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
    };
    parts.iter().map(String::as_str).filter(|part| !is_version(part)).collect()
}

/// All names that are known.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    MODELS.iter().map(|(name, _)| *name)
}

/// The known name that is nearest to `name`, if it is near.
pub(super) fn suggestion(name: &str) -> Option<&'static str> {
    let base = |name: &str| name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
    let wanted = base(name);
    let near = |known: &str| strsim::jaro_winkler(&wanted, &base(known));
    let (name, likeness) =
        names().map(|name| (name, near(name))).max_by(|(_, one), (_, other)| one.total_cmp(other))?;
    (likeness > 0.85).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names on the hub, the name of the shape that they have, and how their weights are stored.
    const NAMES: [(&str, &str, Option<WeightType>); 34] = [
        ("nvidia/Llama-3.3-70B-Instruct-FP4", "meta-llama/Llama-3.1-70B", Some(WeightType::Nvfp4)),
        ("nvidia/Llama-3.3-70B-Instruct-FP8", "meta-llama/Llama-3.1-70B", Some(WeightType::Fp8)),
        ("nvidia/DeepSeek-R1-0528-FP4", "deepseek-ai/DeepSeek-V3", Some(WeightType::Nvfp4)),
        ("nvidia/DeepSeek-R1-0528-NVFP4-v2", "deepseek-ai/DeepSeek-V3", Some(WeightType::Nvfp4)),
        ("nvidia/Qwen3-235B-A22B-FP4", "Qwen/Qwen3-235B-A22B", Some(WeightType::Nvfp4)),
        ("nvidia/Kimi-K2.5-NVFP4", "moonshotai/Kimi-K2.5", Some(WeightType::Nvfp4)),
        ("nvidia/Llama-3.1-405B-Instruct-FP4", "meta-llama/Llama-3.1-405B", Some(WeightType::Nvfp4)),
        ("amd/Llama-3.3-70B-Instruct-FP8-KV", "meta-llama/Llama-3.1-70B", Some(WeightType::Fp8)),
        ("amd/DeepSeek-R1-0528-MXFP4-Preview", "deepseek-ai/DeepSeek-V3", Some(WeightType::Mxfp4)),
        ("RedHatAI/Qwen3-32B-FP8-dynamic", "Qwen/Qwen3-32B", Some(WeightType::Fp8)),
        (
            "RedHatAI/Meta-Llama-3.1-8B-Instruct-quantized.w4a16",
            "meta-llama/Llama-3.1-8B",
            Some(WeightType::Int4),
        ),
        ("RedHatAI/Qwen3-30B-A3B-NVFP4", "Qwen/Qwen3-30B-A3B", Some(WeightType::Nvfp4)),
        ("Qwen/Qwen3-32B-FP8", "Qwen/Qwen3-32B", Some(WeightType::Fp8Block)),
        ("Qwen/Qwen3-235B-A22B-Instruct-2507-FP8", "Qwen/Qwen3-235B-A22B", Some(WeightType::Fp8Block)),
        ("Qwen/Qwen3.5-397B-A17B-FP8", "Qwen/Qwen3.5-397B-A17B", Some(WeightType::Fp8Block)),
        ("Qwen/Qwen2.5-7B-Instruct-AWQ", "Qwen/Qwen2.5-7B", Some(WeightType::Int4)),
        ("Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "Qwen/Qwen2.5-7B", Some(WeightType::Int4)),
        ("zai-org/GLM-5-FP8", "zai-org/GLM-5", Some(WeightType::Fp8Block)),
        ("unsloth/DeepSeek-R1-BF16", "deepseek-ai/DeepSeek-V3", Some(WeightType::Bf16)),
        (
            "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-FP8",
            "nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B",
            Some(WeightType::Fp8),
        ),
        ("deepseek-ai/DeepSeek-V3-0324", "deepseek-ai/DeepSeek-V3", Some(WeightType::Fp8Block)),
        ("deepseek-ai/DeepSeek-V3.1-Terminus", "deepseek-ai/DeepSeek-V3", Some(WeightType::Fp8Block)),
        ("deepseek-ai/DeepSeek-V3.2-Exp", "deepseek-ai/DeepSeek-V3.2", Some(WeightType::Fp8Block)),
        ("moonshotai/Kimi-K2-Instruct-0905", "moonshotai/Kimi-K2", Some(WeightType::Fp8Block)),
        ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B", None),
        ("meta-llama/Meta-Llama-3.1-70B-Instruct", "meta-llama/Llama-3.1-70B", None),
        ("meta-llama/Llama-2-7b-chat-hf", "meta-llama/Llama-2-7b-hf", None),
        ("meta-llama/Llama-4-Scout-17B-16E-Instruct", "meta-llama/Llama-4-Scout-17B-16E", None),
        ("mistralai/Mistral-7B-Instruct-v0.3", "mistralai/Mistral-7B-v0.3", None),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mistralai/Mixtral-8x7B-v0.1", None),
        ("Mixtral-8x22B", "mistralai/Mixtral-8x22B-v0.1", None),
        ("Qwen/Qwen3-30B-A3B-Thinking-2507", "Qwen/Qwen3-30B-A3B", None),
        ("google/gemma-2-27b-it", "google/gemma-2-27b", None),
        ("Qwen3-32B", "Qwen/Qwen3-32B", None),
    ];

    #[test]
    fn tunings_and_quantised_repositories_have_the_shape_of_their_model() {
        for (name, of, stored) in NAMES {
            let found = shape(name).unwrap_or_else(|| panic!("{name} is not known"));
            let expected = shape(of).unwrap_or_else(|| panic!("{of} is not known"));
            assert_eq!(found.quantisation, stored, "{name}");
            let same = ModelShape {
                quantisation: stored,
                block_fp8: found.block_fp8,
                context: found.context,
                ..expected
            };
            assert_eq!(found, same, "{name} is not {of}");
        }
    }

    #[test]
    fn other_models_are_not_known() {
        let unknown = [
            "meta-llama/Llama-3.1-8B-Vision",
            "Qwen/Qwen2.5-7B-Instruct-GPTQ-Int8",
            "mistralai/Mistral-7B-v0.1",
            "meta-llama/Llama-3.1-9B",
            "Qwen/Qwen3-32B-FP8-extra",
            "",
            "a/b",
        ];
        for name in unknown {
            assert_eq!(shape(name), None, "{name}");
        }
        for name in names() {
            assert!(shape(name).is_some(), "{name}");
        }
    }

    #[test]
    fn a_name_that_is_nearly_one_is_suggested() {
        assert_eq!(suggestion("meta-llama/Llama-3.1-80B"), Some("meta-llama/Llama-3.1-8B"));
        assert_eq!(suggestion("deepseek/deepseek-r2"), Some("deepseek-ai/DeepSeek-R1"));
        assert_eq!(suggestion("my-own-model"), None);
    }
}
