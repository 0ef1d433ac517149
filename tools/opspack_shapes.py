"""Shapes that packs keep: axis values, and heads of known models under tensor parallelism."""

from __future__ import annotations

# Axis values that are kept, see docs/ops-packs.md for the errors of interpolating what is left out.
GEMM_M = (
    1,
    2,
    4,
    8,
    16,
    17,
    32,
    33,
    48,
    64,
    65,
    96,
    128,
    129,
    160,
    161,
    192,
    224,
    225,
    256,
    257,
    512,
    513,
    768,
    769,
    1024,
    1025,
    1280,
    1281,
    1536,
    2048,
    2049,
    2816,
    2817,
    3072,
    4096,
    4097,
    8192,
    16384,
    32768,
)
GEMM_NK = (
    64,
    128,
    256,
    512,
    768,
    1024,
    1536,
    2048,
    2560,
    3072,
    3584,
    4096,
    5120,
    6144,
    7168,
    8192,
    10240,
    12288,
    16384,
    51200,
    65536,
)
LENGTHS = (1, 16, 32, 64, 128, 256, 512, 1024, 1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 32768)
MOE_TOKENS = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192, 16384)
CONTEXTS = (*(2**power for power in range(18)), 1536, 3072, 6144)
PREFIXES = (0, 2048, 8192, 32768, 131072)
MOE_RANKS = 64

# Heads, KV heads, head size and windows (0 for none) of models; their shards under tensor parallelism are kept.
HEADS = (
    (32, 8, 128, (0,)),  # Llama-3 8B, Mistral, Qwen3-4B and 8B, Mixtral 8x7B
    (64, 8, 128, (0,)),  # Llama-3 70B, Qwen3-32B, Qwen2.5-72B
    (128, 8, 128, (0,)),  # Llama-3 405B
    (32, 8, 64, (0,)),  # Llama-3.2 1B
    (24, 8, 128, (0,)),  # Llama-3.2 3B
    (32, 32, 128, (0,)),  # Llama-2 7B
    (40, 40, 128, (0,)),  # Llama-2 13B
    (48, 8, 128, (0,)),  # Mixtral 8x22B, MiniMax-M2
    (96, 8, 128, (0,)),  # GLM-4.5, Qwen3-Coder-480B
    (14, 2, 64, (0,)),  # Qwen2.5 0.5B
    (12, 2, 128, (0,)),  # Qwen2.5 1.5B
    (16, 2, 128, (0,)),  # Qwen2.5 3B
    (28, 4, 128, (0,)),  # Qwen2.5 7B
    (40, 8, 128, (0, 8192)),  # Qwen2.5 14B and 32B, Qwen3-14B, Llama-4
    (40, 10, 128, (0,)),  # phi-4
    (16, 8, 128, (0,)),  # Qwen3 0.6B and 1.7B
    (32, 4, 128, (0,)),  # Qwen3-30B-A3B
    (64, 4, 128, (0,)),  # Qwen3-235B-A22B
    (32, 2, 128, (0,)),  # Nemotron-3
    (32, 2, 256, (0,)),  # Qwen3.5 122B and 397B
    (16, 2, 256, (0,)),  # Qwen3.5 35B, Qwen3-Next
    (24, 4, 256, (0,)),  # Qwen3.5 27B
    (16, 4, 256, (0,)),  # Qwen3.5 4B and 9B
    (8, 2, 256, (0,)),  # Qwen3.5 2B
    (64, 8, 64, (0, 128)),  # gpt-oss
    (32, 16, 128, (0, 1024)),  # Gemma-3 27B
    (16, 8, 256, (0, 1024)),  # Gemma-3 12B
    (8, 4, 256, (0, 1024)),  # Gemma-3 4B
)
TENSOR_PARALLEL = (1, 2, 4, 8, 16)


def shards() -> set[tuple[int, int, int, int]]:
    """Heads, KV heads, head size and window of a GPU, of all models of `HEADS`."""
    return {
        (heads // tp, max(1, kv_heads // tp), head_dim, window)
        for heads, kv_heads, head_dim, windows in HEADS
        for tp in TENSOR_PARALLEL
        for window in windows
        if heads % tp == 0
    }
