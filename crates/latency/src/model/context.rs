//! How long the sequences of known models may be: `max_position_embeddings` in the `config.json` of their repositories.

/// Tokens, and the known models of which that is certain.
const CONTEXTS: [(u32, &[&str]); 10] = [
    (4_096, &["Llama-2-7b-hf", "Llama-2-13b-hf", "Llama-2-70b-hf", "Phi-3-mini-4k-instruct"]),
    (8_192, &["Meta-Llama-3-8B", "Meta-Llama-3-70B", "gemma-2-9b", "gemma-2-27b"]),
    (16_384, &["phi-4"]),
    (
        32_768,
        &["Mistral-7B-v0.3", "Mistral-Small-24B-2501", "Mixtral-8x7B-v0.1", "Qwen2.5-0.5B", "Qwen2.5-3B"],
    ),
    (
        40_960,
        &[
            "QwQ-32B",
            "Qwen3-0.6B",
            "Qwen3-1.7B",
            "Qwen3-4B",
            "Qwen3-8B",
            "Qwen3-14B",
            "Qwen3-32B",
            "Qwen3-30B-A3B",
            "Qwen3-235B-A22B",
        ],
    ),
    (65_536, &["Mixtral-8x22B-v0.1"]),
    (
        131_072,
        &[
            "Llama-3.1-8B",
            "Llama-3.1-70B",
            "Llama-3.1-405B",
            "Llama-3.2-1B",
            "Llama-3.2-3B",
            "Llama-3.3-70B",
            "Llama-3.1-Nemotron-70B",
            "DeepSeek-R1-Distill-Llama-8B",
            "DeepSeek-R1-Distill-Llama-70B",
            "DeepSeek-R1-Distill-Qwen-7B",
            "DeepSeek-R1-Distill-Qwen-14B",
            "DeepSeek-R1-Distill-Qwen-32B",
            "Qwen2.5-1.5B",
            "Qwen2.5-7B",
            "Qwen2.5-14B",
            "Qwen2.5-32B",
            "Qwen2.5-72B",
            "Kimi-K2",
            "gpt-oss-20b",
            "gpt-oss-120b",
            "GLM-4.5-Air",
            "GLM-4.5",
            "gemma-3-12b-it",
            "gemma-3-27b-it",
            "Phi-3.5-MoE",
            "Phi-3.5-mini-instruct",
        ],
    ),
    (163_840, &["DeepSeek-V2-Lite", "DeepSeek-V3", "DeepSeek-R1", "DeepSeek-V3.1", "DeepSeek-V3.2"]),
    (202_752, &["GLM-4.6", "GLM-4.7", "GLM-5"]),
    (
        262_144,
        &[
            "Qwen3-Coder-30B-A3B",
            "Qwen3-Coder-480B-A35B",
            "Qwen3-Next-80B-A3B",
            "Qwen3.5-27B",
            "Qwen3.5-35B-A3B",
            "Qwen3.5-122B-A10B",
            "Qwen3.5-397B-A17B",
            "Kimi-K2-Thinking",
            "Kimi-K2.5",
            "NVIDIA-Nemotron-3-Nano-30B-A3B",
        ],
    ),
];

/// Tunings whose sequences are not as long as those of their model: what the name of the model begins with, what is part of
/// theirs, and tokens.
const TUNINGS: [(&str, &str, u32); 7] = [
    ("qwen2.5-", "instruct", 32_768),
    ("qwq-", "preview", 32_768),
    ("qwen3-", "base", 32_768),
    ("qwen3-", "2507", 262_144),
    ("kimi-k2", "0905", 262_144),
    ("llama-4-scout-", "instruct", 10_485_760),
    ("llama-4-maverick-", "instruct", 1_048_576),
];

/// Tokens of a sequence, of a model by the name with which it is listed and the parts of the name that was asked for.
pub(super) fn of(listed: &str, parts: &[&str]) -> Option<u32> {
    let base = listed.rsplit('/').next().unwrap_or(listed);
    let tuning = TUNINGS
        .iter()
        .find(|(start, part, _)| base.to_ascii_lowercase().starts_with(start) && parts.contains(part));
    if let Some((.., tokens)) = tuning {
        return Some(*tokens);
    }
    CONTEXTS.iter().find(|(_, names)| names.contains(&base)).map(|(tokens, _)| *tokens)
}

#[cfg(test)]
mod tests {
    use super::super::{ModelShape, names};
    use super::*;

    #[test]
    fn contexts_are_those_of_the_repositories() {
        for (name, context) in [
            ("meta-llama/Llama-3.1-8B", Some(131_072)),
            ("meta-llama/Meta-Llama-3-8B-Instruct", Some(8_192)),
            ("nvidia/Llama-3.3-70B-Instruct-FP8", Some(131_072)),
            ("Qwen/Qwen2.5-7B", Some(131_072)),
            ("Qwen/Qwen2.5-7B-Instruct-AWQ", Some(32_768)),
            ("Qwen/Qwen3-32B-FP8", Some(40_960)),
            ("Qwen/Qwen3-30B-A3B-Thinking-2507", Some(262_144)),
            ("moonshotai/Kimi-K2-Instruct", Some(131_072)),
            ("moonshotai/Kimi-K2-Instruct-0905", Some(262_144)),
            ("meta-llama/Llama-4-Scout-17B-16E-Instruct", Some(10_485_760)),
            ("meta-llama/Llama-4-Scout-17B-16E", None),
        ] {
            assert_eq!(ModelShape::by_name(name).unwrap().context, context, "{name}");
        }
    }

    #[test]
    fn every_name_is_that_of_a_known_model() {
        for name in CONTEXTS.iter().flat_map(|(_, names)| *names) {
            assert!(names::names().any(|known| known.rsplit('/').next() == Some(name)), "{name}");
        }
    }
}
