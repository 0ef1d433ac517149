//! Names of families of models, and of generations of GPUs: what errors have in common.

/// Beginnings of names of models, with their family; the first that fits counts.
const FAMILIES: [(&str, &str); 22] = [
    ("llama-4", "Llama 4"),
    ("llama", "Llama"),
    ("qwen3.5", "Qwen3.5"),
    ("qwen3-next", "Qwen3-Next"),
    ("qwen3-coder-next", "Qwen3-Next"),
    ("qwen3", "Qwen3"),
    ("qwen2", "Qwen2"),
    ("gpt-oss", "gpt-oss"),
    ("deepseek-v3.2", "DeepSeek-V3.2"),
    ("deepseek-v4", "DeepSeek-V4"),
    ("deepseek", "DeepSeek"),
    ("kimi", "Kimi"),
    ("minimax", "MiniMax"),
    ("glm-5", "GLM-5"),
    ("glm", "GLM"),
    ("mixtral", "Mixtral"),
    ("mistral", "Mistral"),
    ("gemma", "Gemma"),
    ("nemotron-3", "Nemotron-3"),
    ("nemotron", "Nemotron"),
    ("step", "Step"),
    ("phi", "Phi"),
];

/// The family of a model: what is built alike, whatever its size. That of Qwen3 with experts is one of its own.
pub fn family(model: &str) -> String {
    let name = model.rsplit('/').next().unwrap_or(model);
    let plain = name.to_lowercase().replace("meta-llama", "llama").replace("nvidia-", "");
    let known =
        FAMILIES.iter().find(|(beginning, _)| plain.starts_with(beginning)).map(|(_, family)| *family);
    match known {
        // The active parameters are in the names of models with experts alone.
        Some("Qwen3") if plain.split('-').any(is_active_size) => "Qwen3 MoE".to_owned(),
        Some(family) => family.to_owned(),
        None => name.split('-').next().unwrap_or(name).to_owned(),
    }
}

/// Whether a part of a name says how many parameters a token meets: `a22b`.
fn is_active_size(part: &str) -> bool {
    let size = part.strip_prefix('a').and_then(|rest| rest.strip_suffix('b'));
    size.is_some_and(|size| size.parse::<f64>().is_ok())
}

/// Beginnings of names of GPUs, with their generation.
const GENERATIONS: [(&str, &str); 14] = [
    ("a100", "Ampere"),
    ("a10", "Ampere"),
    ("h100", "Hopper"),
    ("h200", "Hopper"),
    ("h20", "Hopper"),
    ("gh200", "Hopper"),
    ("b200", "Blackwell"),
    ("b300", "Blackwell"),
    ("gb200", "Blackwell"),
    ("gb300", "Blackwell"),
    ("l4", "Ada"),
    ("rtx-4090", "Ada"),
    ("rtx-pro-6000", "Blackwell workstation"),
    ("mi", "CDNA"),
];

/// The generation of a GPU, or its name.
pub fn generation(gpu: &str) -> String {
    let plain = gpu.to_lowercase().replace([' ', '_'], "-");
    let known = GENERATIONS.iter().find(|(beginning, _)| plain.starts_with(beginning));
    known.map_or(gpu, |(_, generation)| generation).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_alike_is_one_family() {
        for (model, expected) in [
            ("meta-llama/Llama-3.1-70B", "Llama"),
            ("nvidia/Llama-3.3-70B-Instruct-FP4", "Llama"),
            ("meta-llama/Meta-Llama-3-8B", "Llama"),
            ("Qwen/Qwen3-32B-FP8", "Qwen3"),
            ("Qwen/Qwen3-235B-A22B", "Qwen3 MoE"),
            ("Qwen/Qwen3.5-397B-A17B", "Qwen3.5"),
            ("deepseek-ai/DeepSeek-R1", "DeepSeek"),
            ("zai-org/GLM-5", "GLM-5"),
            ("acme/Newcomer-7B", "Newcomer"),
        ] {
            assert_eq!(family(model), expected, "{model}");
        }
        for (gpu, expected) in
            [("H100-SXM", "Hopper"), ("GB200", "Blackwell"), ("L40S", "Ada"), ("TPU", "TPU")]
        {
            assert_eq!(generation(gpu), expected, "{gpu}");
        }
    }
}
