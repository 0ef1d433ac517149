//! Shapes of models whose `config.json` is public, by the name that they have on the Hugging Face hub.

use super::{Attention, Experts, ModelShape, WeightType, Window};

/// A model of plain blocks: layers, hidden size, feed-forward width, (heads, KV heads, head size), vocabulary.
type Row = (&'static str, u32, u32, u32, (u32, u32, u32), u32, Kind);

/// What else is to be said of a model.
#[derive(Clone, Copy)]
enum Kind {
    Plain,
    /// The head is the embedding.
    Tied,
    /// Queries and keys are normalised.
    Normed,
    /// Both of that.
    NormedTied,
    /// Experts: count, a token, width; with queries and keys normalised or not.
    Experts(u32, u32, u32, bool),
}

const ROWS: [Row; 35] = [
    ("meta-llama/Llama-2-7b-hf", 32, 4096, 11008, (32, 32, 128), 32000, Kind::Plain),
    ("meta-llama/Llama-2-70b-hf", 80, 8192, 28672, (64, 8, 128), 32000, Kind::Plain),
    ("meta-llama/Meta-Llama-3-8B", 32, 4096, 14336, (32, 8, 128), 128256, Kind::Plain),
    ("meta-llama/Meta-Llama-3-70B", 80, 8192, 28672, (64, 8, 128), 128256, Kind::Plain),
    ("meta-llama/Llama-3.1-8B", 32, 4096, 14336, (32, 8, 128), 128256, Kind::Plain),
    ("meta-llama/Llama-3.1-70B", 80, 8192, 28672, (64, 8, 128), 128256, Kind::Plain),
    ("meta-llama/Llama-3.1-405B", 126, 16384, 53248, (128, 8, 128), 128256, Kind::Plain),
    ("meta-llama/Llama-3.2-1B", 16, 2048, 8192, (32, 8, 64), 128256, Kind::Tied),
    ("meta-llama/Llama-3.2-3B", 28, 3072, 8192, (24, 8, 128), 128256, Kind::Tied),
    ("meta-llama/Llama-3.3-70B", 80, 8192, 28672, (64, 8, 128), 128256, Kind::Plain),
    ("mistralai/Mistral-7B-v0.3", 32, 4096, 14336, (32, 8, 128), 32768, Kind::Plain),
    ("mistralai/Mistral-7B-Instruct-v0.3", 32, 4096, 14336, (32, 8, 128), 32768, Kind::Plain),
    ("mistralai/Mistral-Small-24B-2501", 40, 5120, 32768, (32, 8, 128), 131072, Kind::Plain),
    ("mistralai/Mixtral-8x7B-v0.1", 32, 4096, 14336, (32, 8, 128), 32000, Kind::Experts(8, 2, 14336, false)),
    ("mistralai/Mixtral-8x22B-v0.1", 56, 6144, 16384, (48, 8, 128), 32768, Kind::Experts(8, 2, 16384, false)),
    ("Qwen/Qwen2.5-0.5B", 24, 896, 4864, (14, 2, 64), 151936, Kind::Tied),
    ("Qwen/Qwen2.5-1.5B", 28, 1536, 8960, (12, 2, 128), 151936, Kind::Tied),
    ("Qwen/Qwen2.5-3B", 36, 2048, 11008, (16, 2, 128), 151936, Kind::Tied),
    ("Qwen/Qwen2.5-7B", 28, 3584, 18944, (28, 4, 128), 152064, Kind::Plain),
    ("Qwen/Qwen2.5-14B", 48, 5120, 13824, (40, 8, 128), 152064, Kind::Plain),
    ("Qwen/Qwen2.5-32B", 64, 5120, 27648, (40, 8, 128), 152064, Kind::Plain),
    ("Qwen/Qwen2.5-72B", 80, 8192, 29568, (64, 8, 128), 152064, Kind::Plain),
    ("Qwen/Qwen3-0.6B", 28, 1024, 3072, (16, 8, 128), 151936, Kind::NormedTied),
    ("Qwen/Qwen3-1.7B", 28, 2048, 6144, (16, 8, 128), 151936, Kind::NormedTied),
    ("Qwen/Qwen3-4B", 36, 2560, 9728, (32, 8, 128), 151936, Kind::NormedTied),
    ("Qwen/Qwen3-8B", 36, 4096, 12288, (32, 8, 128), 151936, Kind::Normed),
    ("Qwen/Qwen3-14B", 40, 5120, 17408, (40, 8, 128), 151936, Kind::Normed),
    ("Qwen/Qwen3-32B", 64, 5120, 25600, (64, 8, 128), 151936, Kind::Normed),
    ("Qwen/Qwen3-30B-A3B", 48, 2048, 6144, (32, 4, 128), 151936, Kind::Experts(128, 8, 768, true)),
    ("Qwen/Qwen3-Coder-30B-A3B", 48, 2048, 6144, (32, 4, 128), 151936, Kind::Experts(128, 8, 768, true)),
    ("Qwen/Qwen3-235B-A22B", 94, 4096, 12288, (64, 4, 128), 151936, Kind::Experts(128, 8, 1536, true)),
    ("microsoft/Phi-3.5-MoE", 32, 4096, 6400, (32, 8, 128), 32064, Kind::Experts(16, 2, 6400, false)),
    ("microsoft/phi-4", 40, 5120, 17920, (40, 10, 128), 100352, Kind::Plain),
    ("microsoft/Phi-3.5-mini-instruct", 32, 3072, 8192, (32, 32, 96), 32064, Kind::Plain),
    ("microsoft/Phi-3-mini-4k-instruct", 32, 3072, 8192, (32, 32, 96), 32064, Kind::Plain),
];

/// Endings of names that change nothing about the shape.
const ENDINGS: [&str; 7] =
    ["-Instruct", "-instruct", "-Base", "-Instruct-v0.1", "-Instruct-2507", "-Thinking-2507", "-chat-hf"];

/// Endings of names of models whose weights are stored in another form.
const STORED: [(&str, WeightType); 4] = [
    ("-FP8", WeightType::Fp8),
    ("-FP8-dynamic", WeightType::Fp8),
    ("-AWQ", WeightType::Int4),
    ("-GPTQ-Int4", WeightType::Int4),
];

pub(super) fn shape(name: &str) -> Option<ModelShape> {
    let stored = STORED.iter().find_map(|&(ending, kind)| Some((name.strip_suffix(ending)?, kind)));
    if let Some((plain, kind)) = stored {
        return Some(ModelShape { quantisation: Some(kind), ..shape(plain)? });
    }
    if let Some(shape) = special(name) {
        return Some(shape);
    }
    let is = |known: &str| {
        let ending = name.strip_prefix(known.trim_end_matches("-hf").trim_end_matches("-v0.1"));
        *name == *known || ending.is_some_and(|ending| ENDINGS.contains(&ending))
    };
    // Meta's first name of Llama 3.1.
    let other =
        name.strip_prefix("meta-llama/Meta-Llama-3.1-").map(|rest| format!("meta-llama/Llama-3.1-{rest}"));
    match other {
        Some(other) => shape(&other),
        None => ROWS.iter().find(|row| is(row.0)).map(of_row),
    }
}

pub(super) fn names() -> impl Iterator<Item = &'static str> {
    ROWS.iter().map(|row| row.0).chain(SPECIAL)
}

fn of_row(
    &(_, layers, hidden_size, inner_size, (heads, kv_heads, head_size), vocabulary, kind): &Row,
) -> ModelShape {
    let experts = match kind {
        Kind::Experts(count, per_token, inner_size, _) => {
            Some(Experts { count, per_token, inner_size, shared_inner_size: 0, layers })
        }
        _ => None,
    };
    ModelShape {
        layers,
        hidden_size,
        heads,
        head_size,
        attention: Attention::Grouped { kv_heads },
        inner_size,
        gated: true,
        vocabulary,
        tied_embeddings: matches!(kind, Kind::Tied | Kind::NormedTied),
        qk_norm: matches!(kind, Kind::Normed | Kind::NormedTied | Kind::Experts(_, _, _, true)),
        norms: 2,
        window: None,
        experts,
        quantisation: None,
    }
}

/// Models whose blocks are not all the same.
const SPECIAL: [&str; 8] = [
    "deepseek-ai/DeepSeek-V3",
    "deepseek-ai/DeepSeek-R1",
    "openai/gpt-oss-20b",
    "openai/gpt-oss-120b",
    "google/gemma-2-9b",
    "google/gemma-2-27b",
    "google/gemma-3-12b-it",
    "google/gemma-3-27b-it",
];

fn special(name: &str) -> Option<ModelShape> {
    let gpt_oss = |layers, count| {
        let experts = Some(Experts { count, per_token: 4, inner_size: 2880, shared_inner_size: 0, layers });
        let window = Some(Window { tokens: 128, layers: layers / 2 });
        let quantisation = Some(WeightType::Mxfp4);
        let row = ("", layers, 2880, 2880, (64, 8, 64), 201_088, Kind::Plain);
        ModelShape { window, experts, quantisation, ..of_row(&row) }
    };
    let gemma = |qk_norm, windowed, tokens, row: Row| {
        let window = Some(Window { tokens, layers: windowed });
        ModelShape { tied_embeddings: true, qk_norm, norms: 4, window, ..of_row(&row) }
    };
    let shape = match name.trim_end_matches("-it") {
        "deepseek-ai/DeepSeek-V3" | "deepseek-ai/DeepSeek-R1" => {
            let row = ("", 61, 7168, 18432, (128, 128, 192), 129_280, Kind::Plain);
            let experts =
                Experts { count: 256, per_token: 8, inner_size: 2048, shared_inner_size: 2048, layers: 58 };
            let attention =
                Attention::Latent { q_rank: Some(1536), kv_rank: 512, rope_size: 64, value_size: 128 };
            let quantisation = Some(WeightType::Fp8);
            ModelShape { attention, experts: Some(experts), quantisation, ..of_row(&row) }
        }
        "openai/gpt-oss-20b" => gpt_oss(24, 32),
        "openai/gpt-oss-120b" => gpt_oss(36, 128),
        "google/gemma-2-9b" => {
            gemma(false, 21, 4096, ("", 42, 3584, 14336, (16, 8, 256), 256_000, Kind::Plain))
        }
        "google/gemma-2-27b" => {
            gemma(false, 23, 4096, ("", 46, 4608, 36864, (32, 16, 128), 256_000, Kind::Plain))
        }
        "google/gemma-3-12b" => {
            gemma(true, 40, 1024, ("", 48, 3840, 15360, (16, 8, 256), 262_208, Kind::Plain))
        }
        "google/gemma-3-27b" => {
            gemma(true, 52, 1024, ("", 62, 5376, 21504, (32, 16, 128), 262_208, Kind::Plain))
        }
        _ => return None,
    };
    Some(shape)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_have_as_many_parameters_as_is_published() {
        let billions = [
            ("meta-llama/Llama-3.1-8B-Instruct", 8.03),
            ("meta-llama/Llama-3.1-70B", 70.6),
            ("meta-llama/Llama-3.1-405B", 405.9),
            ("meta-llama/Llama-3.2-1B", 1.24),
            ("meta-llama/Llama-3.2-3B", 3.21),
            ("meta-llama/Llama-2-7b-chat-hf", 6.74),
            ("mistralai/Mistral-7B-v0.3", 7.25),
            ("mistralai/Mistral-Small-24B-2501", 23.6),
            ("mistralai/Mixtral-8x7B-Instruct-v0.1", 46.7),
            ("mistralai/Mixtral-8x22B-v0.1", 140.6),
            ("Qwen/Qwen2.5-0.5B", 0.494),
            ("Qwen/Qwen2.5-7B-Instruct", 7.62),
            ("Qwen/Qwen2.5-32B", 32.8),
            ("Qwen/Qwen2.5-72B", 72.7),
            ("Qwen/Qwen3-0.6B", 0.596),
            ("Qwen/Qwen3-8B", 8.19),
            ("Qwen/Qwen3-32B", 32.8),
            ("Qwen/Qwen3-30B-A3B-Instruct-2507", 30.5),
            ("Qwen/Qwen3-235B-A22B", 235.1),
            ("microsoft/phi-4", 14.7),
            ("microsoft/Phi-3.5-mini-instruct", 3.82),
            ("deepseek-ai/DeepSeek-V3", 671.0),
            ("openai/gpt-oss-20b", 20.9),
            ("openai/gpt-oss-120b", 116.8),
            ("google/gemma-2-9b", 9.24),
            ("google/gemma-2-27b-it", 27.2),
            // The language model alone.
            ("google/gemma-3-12b-it", 11.8),
            ("google/gemma-3-27b-it", 27.0),
        ];
        for (name, expected) in billions {
            let found = shape(name).unwrap_or_else(|| panic!("{name}")).parameters() as f64 / 1e9;
            assert!((found / expected - 1.0).abs() < 0.006, "{name}: {found}, not {expected}");
        }
        assert_eq!(shape("Qwen/Qwen3-32B-FP8").unwrap().quantisation, Some(WeightType::Fp8));
        assert_eq!(shape("Qwen/Qwen2.5-7B-Instruct-AWQ").unwrap().quantisation, Some(WeightType::Int4));
        assert_eq!(shape("meta-llama/Llama-3.1-8B-Vision"), None);
        assert!(names().all(|name| shape(name).is_some()));
    }
}
