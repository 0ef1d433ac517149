//! What a model is made of, and how its parts talk to each other.

/// The shape of a dense transformer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModelShape {
    /// Transformer blocks.
    pub layers: u32,
    /// Width of the residual stream, in numbers.
    pub hidden_size: u32,
    /// Heads of keys and values.
    pub kv_heads: u32,
    /// Numbers a head.
    pub head_size: u32,
    /// Parameters, embeddings included.
    pub parameters: u64,
    /// Whether queries and keys are normalised in each block.
    pub qk_norm: bool,
}

/// Shapes of models whose `config.json` is public, by the name that it has on the Hugging Face hub.
const KNOWN: [(&str, ModelShape); 12] = [
    ("meta-llama/Llama-3.1-8B", shape((32, 4096), (8, 128), 8030, false)),
    ("meta-llama/Llama-3.1-8B-Instruct", shape((32, 4096), (8, 128), 8030, false)),
    ("meta-llama/Llama-3.1-70B", shape((80, 8192), (8, 128), 70554, false)),
    ("meta-llama/Llama-3.1-70B-Instruct", shape((80, 8192), (8, 128), 70554, false)),
    ("meta-llama/Llama-3.3-70B-Instruct", shape((80, 8192), (8, 128), 70554, false)),
    ("meta-llama/Llama-3.2-1B", shape((16, 2048), (8, 64), 1236, false)),
    ("meta-llama/Llama-3.2-3B", shape((28, 3072), (8, 128), 3213, false)),
    ("Qwen/Qwen3-1.7B", shape((28, 2048), (8, 128), 1721, true)),
    ("Qwen/Qwen3-4B", shape((36, 2560), (8, 128), 4022, true)),
    ("Qwen/Qwen3-8B", shape((36, 4096), (8, 128), 8191, true)),
    ("Qwen/Qwen3-14B", shape((40, 5120), (8, 128), 14768, true)),
    ("Qwen/Qwen3-32B", shape((64, 5120), (8, 128), 32762, true)),
];

const fn shape(
    (layers, hidden_size): (u32, u32),
    (kv_heads, head_size): (u32, u32),
    millions: u64,
    qk_norm: bool,
) -> ModelShape {
    ModelShape { layers, hidden_size, kv_heads, head_size, parameters: millions * 1_000_000, qk_norm }
}

impl ModelShape {
    /// The shape of a model by its name on the Hugging Face hub.
    pub fn by_name(name: &str) -> Option<Self> {
        KNOWN.iter().find(|(known, _)| *known == name).map(|&(_, shape)| shape)
    }

    /// Bytes of KV cache that a token takes on each of `gpus` GPUs.
    pub fn kv_bytes_per_token(&self, gpus: u32, bytes_per_number: f64) -> f64 {
        let heads = self.kv_heads.div_ceil(gpus.max(1));
        2.0 * f64::from(self.layers) * f64::from(heads) * f64::from(self.head_size) * bytes_per_number
    }

    /// The names of all models that are known.
    pub fn names() -> impl Iterator<Item = &'static str> {
        KNOWN.iter().map(|(name, _)| *name)
    }
}

/// What it costs to sum an activation over the GPUs that share a layer: a ring.
///
/// Each of 2 (n − 1) steps sends an n-th of the bytes to the next GPU: time = 2 (n − 1) · (latency + bytes / n /
/// bandwidth), the bandwidth in one direction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AllReduce {
    /// GPUs that share a layer.
    pub gpus: u32,
    /// Time of a step without data, in µs.
    pub latency_us: f64,
    /// GB/s (10⁹ bytes) in one direction.
    pub bandwidth_gb_per_s: f64,
}

/// Links by name: time of a step in µs, and GB/s that collectives get in one direction.
///
/// `pcie` is GPUs without `NVLink` that exchange through host memory: 16 GB/s and 20 µs, whatever the generation of the
/// bus. `nvlink3` to `nvlink5` are 0.8 of what NVIDIA states for A100 (300 GB/s a direction), H100 (450) and B200 (900),
/// with 4 µs a step. All are assumptions: measure a machine with nccl-tests where it matters.
const LINKS: [(&str, f64, f64); 4] =
    [("pcie", 20.0, 16.0), ("nvlink3", 4.0, 240.0), ("nvlink4", 4.0, 360.0), ("nvlink5", 4.0, 720.0)];

impl AllReduce {
    /// Over a link of that name.
    pub fn over(link: &str, gpus: u32) -> Option<Self> {
        let (_, latency_us, bandwidth_gb_per_s) = *LINKS.iter().find(|(name, ..)| *name == link)?;
        Some(Self { gpus, latency_us, bandwidth_gb_per_s })
    }

    /// The links that are known by name.
    pub fn links() -> impl Iterator<Item = &'static str> {
        LINKS.iter().map(|(name, ..)| *name)
    }

    /// The time of one all-reduce of so many bytes on each GPU, in µs.
    pub fn time_us(&self, bytes: f64) -> f64 {
        if self.gpus < 2 {
            return 0.0;
        }
        let n = f64::from(self.gpus);
        2.0 * (n - 1.0) * (self.latency_us + bytes / n / (self.bandwidth_gb_per_s * 1e3))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_all_reduce_is_two_rounds_of_the_ring() {
        let ring = |gpus| AllReduce { gpus, latency_us: 10.0, bandwidth_gb_per_s: 10.0 };
        assert!(ring(1).time_us(1e6).abs() < 1e-12);
        assert!((ring(2).time_us(1e6) - 120.0).abs() < 1e-9);
        assert!((ring(4).time_us(1e6) - 210.0).abs() < 1e-9);
    }
}
