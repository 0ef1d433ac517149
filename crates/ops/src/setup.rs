//! What is served, on what, by which engine.

use servecast_latency::{AllReduce, GpuSheet, ModelShape, WeightType};

use crate::graphs::{GraphSettings, Graphs};

/// An engine whose kernels were timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EngineName {
    /// vLLM.
    #[default]
    Vllm,
    /// `SGLang`.
    Sglang,
    /// `TensorRT-LLM`.
    Trtllm,
}

impl EngineName {
    /// All of them, in the order in which they stand in for each other.
    const ALL: [Self; 3] = [Self::Vllm, Self::Sglang, Self::Trtllm];

    /// The one of that name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|engine| engine.name() == name)
    }

    /// Its name in settings and packs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vllm => "vllm",
            Self::Sglang => "sglang",
            Self::Trtllm => "trtllm",
        }
    }

    /// 0 for its own measurements, more for those of others; libraries that all use come last.
    pub(crate) fn preference(self, engine: &str) -> usize {
        if engine == self.name() {
            return 0;
        }
        1 + Self::ALL.iter().position(|other| other.name() == engine).unwrap_or(Self::ALL.len())
    }
}

/// Whose kernels attention runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AttentionKernels {
    /// Those that the engine takes by itself on the GPU.
    #[default]
    Usual,
    /// `FlashInfer`'s own: SGLang's backend `flashinfer`, and vLLM's `FLASHINFER` without TensorRT-LLM's attention.
    FlashInfer,
}

impl AttentionKernels {
    /// The ones of that name.
    pub fn by_name(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "auto" => Some(Self::Usual),
            "flashinfer" => Some(Self::FlashInfer),
            _ => None,
        }
    }
}

/// A model on GPUs, as one engine runs it.
#[derive(Debug, Clone, PartialEq)]
pub struct OpsSetup {
    /// The model.
    pub model: ModelShape,
    /// What the model is called in reports.
    pub model_name: String,
    /// The GPU.
    pub gpu: GpuSheet,
    /// The engine.
    pub engine: EngineName,
    /// The engine's version; without one, the newest that was measured.
    pub engine_version: Option<String>,
    /// How weights are stored.
    pub weights: WeightType,
    /// Bytes of a number in the KV cache: 2 or 1.
    pub kv_bytes: f64,
    /// GPUs that share the attention of each layer.
    pub tensor_parallel_size: u32,
    /// Groups of such GPUs, each with requests of its own.
    pub data_parallel_size: u32,
    /// GPUs over which whole experts are shared out; 1 if each expert is cut instead.
    pub expert_parallel_size: u32,
    /// The all-reduce to reckon with instead of what was measured.
    pub all_reduce: Option<AllReduce>,
    /// Which passes are recorded graphs.
    pub graphs: GraphSettings,
    /// Whose kernels attention runs.
    pub attention: AttentionKernels,
}

impl OpsSetup {
    /// GPUs of the engine.
    pub fn gpus(&self) -> u32 {
        self.tensor_parallel_size * self.data_parallel_size
    }

    /// The passes that are recorded graphs.
    pub fn recorded_graphs(&self) -> Graphs {
        let groups = [self.tensor_parallel_size, self.data_parallel_size];
        Graphs::new(&self.graphs, self.engine, &self.gpu, groups)
    }
}
