//! How many KV blocks fit a GPU beside a model.

use crate::kv_plan::{KvPlan, KvPlanError, KvPlanSetup};
use crate::model::{BF16_BYTES, ModelShape, WeightType};

/// What is served, and on what.
#[derive(Debug, Clone, PartialEq)]
pub struct CapacitySetup {
    /// The model.
    pub model: ModelShape,
    /// How weights are stored.
    pub weights: WeightType,
    /// Bytes of a number in the KV cache.
    pub kv_bytes: f64,
    /// Bytes of memory that a program sees on the GPU.
    pub memory_bytes: f64,
    /// Share of the memory that the engine may take.
    pub gpu_memory_utilization: f64,
    /// GPUs that share each layer, those of all ranks together where attention has several.
    pub tensor_parallel_size: u32,
    /// Ranks that each have attention and KV cache of their own requests, and share the rest of each layer.
    pub attention_ranks: u32,
    /// Groups of GPUs that have some layers each.
    pub pipeline_parallel_size: u32,
    /// Tokens a KV block.
    pub block_size: u32,
    /// Most tokens of an iteration.
    pub max_num_batched_tokens: u32,
    /// Most requests of an iteration.
    pub max_num_seqs: u32,
    /// Whether layers that keep different things of a sequence share one pool of blocks in groups, and what that goes by, as
    /// in vLLM. Without, blocks are of the layers that keep everything, and memory is set aside for what the others keep.
    pub groups: Option<KvPlanSetup>,
}

/// The arithmetic of [`CapacitySetup::capacity`], all in bytes on one GPU (the fullest one).
#[derive(Debug, Clone, PartialEq)]
pub struct Capacity {
    /// What the engine may take.
    pub budget: f64,
    /// Weights.
    pub weights: f64,
    /// The largest activations of an iteration.
    pub activations: f64,
    /// Context of the driver, libraries, graphs, and buffers of collectives.
    pub runtime: f64,
    /// What blocks with linear attention or a window keep of sequences, however long they are.
    pub states: f64,
    /// What is left for the KV cache.
    pub kv_cache: f64,
    /// KV of a token in the blocks that keep all tokens.
    pub kv_per_token: f64,
    /// KV of a block.
    pub kv_per_block: f64,
    /// How many blocks that makes, of all ranks together where attention has several.
    pub num_gpu_blocks: u64,
    /// The groups of layers, if there are others than one that keeps everything.
    pub plan: Option<KvPlan>,
}

/// Why there is no KV cache.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CapacityError {
    /// The model leaves no room.
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    /// Its layers cannot share one.
    #[error(transparent)]
    Plan(#[from] KvPlanError),
}

/// A model that does not fit its GPUs.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error(
    "the model is too large for its GPUs by {missing_gib:.2} GiB a GPU: it needs {needed_gib:.2} GiB with one KV block, \
     but may take {budget_gib:.2} GiB"
)]
pub struct TooLarge {
    /// How much is missing a GPU, in GiB.
    pub missing_gib: f64,
    /// What is needed with a single KV block, in GiB.
    pub needed_gib: f64,
    /// What there is, in GiB.
    pub budget_gib: f64,
}

/// Bytes of a GiB.
pub const GIB: f64 = (1_u64 << 30) as f64;

/// What the driver keeps of the memory that it reports, before any program starts: half a GiB.
pub const DRIVER_BYTES: f64 = 0.5 * GIB;

/// Context of the driver, libraries with their workspaces, and graphs.
const RUNTIME_BYTES: f64 = 0.6 * GIB;

/// Buffers of collectives, where there are several GPUs.
const COLLECTIVE_BYTES: f64 = 0.4 * GIB;

/// Share of what is left that states of sequences take at most, so that the KV cache has some as well: what SGLang gives
/// them unless told otherwise (`mamba_full_memory_ratio` of 0.9, or 0.9 of 1.9).
const MOST_FOR_STATES: f64 = 0.9 / 1.9;

/// Bytes a logit while tokens are sampled: in bf16, and in 32 bits raw, as probabilities, and sorted.
const BYTES_PER_LOGIT: f64 = 2.0 + 3.0 * 4.0;

impl CapacitySetup {
    /// The arithmetic: what the engine may take, less weights, activations and runtime, over the size of a block.
    ///
    /// # Errors
    /// There is no room for a block, or layers cannot share one.
    pub fn capacity(&self) -> Result<Capacity, CapacityError> {
        let plan = self.groups.map(|groups| self.kv_plan(groups)).transpose()?;
        let plan = plan.filter(|plan| !plan.is_plain());
        let of_all =
            f64::from(self.model.layers_that_keep_all()) / f64::from(self.model.attention_layers.max(1));
        let kv_per_token =
            self.model.kv_bytes_per_token(self.gpus_of_rank(), self.kv_bytes) * of_all * self.share();
        let kv_per_block = match &plan {
            Some(plan) => plan.bytes_per_block as f64,
            None => kv_per_token * f64::from(self.block_size),
        };
        let taken = self.taken();
        let left = taken.left();
        let states = match &plan {
            Some(_) => 0.0,
            None => self.state_bytes(self.share()).min(left.max(0.0) * MOST_FOR_STATES),
        };
        let kv_cache = left - states;
        taken.check(states, kv_per_block)?;
        let num_gpu_blocks = (kv_cache / kv_per_block) as u64 * u64::from(self.attention_ranks.max(1));
        let Taken { budget, weights, activations, runtime } = taken;
        Ok(Capacity {
            budget,
            weights,
            activations,
            runtime,
            states,
            kv_cache,
            kv_per_token,
            kv_per_block,
            num_gpu_blocks,
            plan,
        })
    }

    /// Bytes that are left for blocks of the KV cache, of which one has so many.
    ///
    /// # Errors
    /// There is no room for one.
    pub fn memory_for_kv(&self, block_bytes: f64) -> Result<f64, TooLarge> {
        let taken = self.taken();
        taken.check(0.0, block_bytes)?;
        Ok(taken.left())
    }

    /// What is taken before the KV cache.
    fn taken(&self) -> Taken {
        let gpus = f64::from(self.tensor_parallel_size.max(1));
        let stages = f64::from(self.pipeline_parallel_size.max(1));
        let share = self.share();
        // The first group has the embedding and the last one the head: the fuller has one of them at most.
        let embeddings = self.model.weight_bytes_of_embeddings();
        let outside = if stages > 1.0 && !self.model.tied_embeddings { embeddings / 2.0 } else { embeddings };
        let ranks = f64::from(self.attention_ranks.max(1));
        let attention = self.model.weight_bytes_of_attention(self.weights);
        let shared = (self.model.weight_bytes_of_blocks(self.weights) - attention) * share / gpus;
        let collectives = if gpus * stages > 1.0 { COLLECTIVE_BYTES } else { 0.0 };
        Taken {
            budget: self.memory_bytes * self.gpu_memory_utilization,
            weights: shared + (attention * share + outside) * ranks / gpus,
            activations: self.activation_bytes(gpus),
            runtime: RUNTIME_BYTES + collectives,
        }
    }

    /// Share of the layers that the fullest GPU has.
    fn share(&self) -> f64 {
        let layers = f64::from(self.model.layers);
        (layers / f64::from(self.pipeline_parallel_size.max(1))).ceil() / layers
    }

    /// How vLLM groups the layers of a GPU, those of one stage where there are several.
    ///
    /// # Errors
    /// Blocks of its layers cannot be made equal.
    pub fn kv_plan(&self, setup: KvPlanSetup) -> Result<KvPlan, KvPlanError> {
        let layers = self.model.kv_layers(self.gpus_of_rank(), self.kv_bytes, self.block_size);
        Ok(KvPlan::new(&layers, setup)?.of_stage(self.pipeline_parallel_size))
    }

    /// What blocks with linear attention or a window keep of as many sequences as can run, in the layers of a group.
    fn state_bytes(&self, share: f64) -> f64 {
        let state = self.model.state_bytes_per_sequence(self.gpus_of_rank());
        let window = self.model.window_bytes_per_sequence(self.gpus_of_rank(), self.kv_bytes);
        f64::from(self.max_num_seqs) / f64::from(self.attention_ranks.max(1)) * (state + window) * share
    }

    /// GPUs that share the attention of a rank.
    fn gpus_of_rank(&self) -> u32 {
        (self.tensor_parallel_size / self.attention_ranks.max(1)).max(1)
    }

    /// The largest activations of an iteration: those of a block with the most tokens, or the logits of the most
    /// requests.
    fn activation_bytes(&self, gpus: f64) -> f64 {
        let model = &self.model;
        let ranks = f64::from(self.attention_ranks.max(1));
        let tokens = f64::from(self.max_num_batched_tokens) / ranks;
        let requests = f64::from(self.max_num_seqs.min(self.max_num_batched_tokens)) / ranks;
        let hidden = f64::from(model.hidden_size);
        let query = f64::from(model.heads) * f64::from(model.head_size);
        let inner = match model.experts {
            // Each token is laid out once for each expert that it goes to.
            Some(experts) => {
                let width = f64::from(experts.inner_size) * 3.0 / gpus + hidden;
                f64::from(experts.per_token) * width + f64::from(experts.shared_inner_size) * 3.0 / gpus
            }
            None => f64::from(model.inner_size) * 3.0 / gpus,
        };
        let block = tokens * (3.0 * hidden + (2.0 * query) * ranks / gpus + inner) * BF16_BYTES;
        let logits = requests * f64::from(model.vocabulary) * BYTES_PER_LOGIT + tokens * hidden * BF16_BYTES;
        block.max(logits)
    }
}

/// What is taken of the memory of a GPU before the KV cache, in bytes.
#[derive(Debug, Clone, Copy)]
struct Taken {
    budget: f64,
    weights: f64,
    activations: f64,
    runtime: f64,
}

impl Taken {
    fn left(&self) -> f64 {
        self.budget - self.weights - self.activations - self.runtime
    }

    /// Whether a block fits beside states of sequences.
    fn check(&self, states: f64, block: f64) -> Result<(), TooLarge> {
        let kv_cache = self.left() - states;
        if kv_cache >= block {
            return Ok(());
        }
        Err(TooLarge {
            missing_gib: (block - kv_cache) / GIB,
            needed_gib: (self.weights + self.activations + self.runtime + states + block) / GIB,
            budget_gib: self.budget / GIB,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup(model: &str, memory_gib: f64, tensor_parallel_size: u32) -> CapacitySetup {
        let model = ModelShape::by_name(model).unwrap();
        CapacitySetup {
            weights: model.quantisation.unwrap_or(WeightType::Bf16),
            model,
            kv_bytes: 2.0,
            memory_bytes: memory_gib * GIB,
            gpu_memory_utilization: 0.9,
            tensor_parallel_size,
            attention_ranks: 1,
            pipeline_parallel_size: 1,
            block_size: 16,
            max_num_batched_tokens: 2048,
            max_num_seqs: 256,
            groups: None,
        }
    }

    #[test]
    fn what_is_left_is_cut_into_blocks() {
        let llama = setup("meta-llama/Llama-3.1-8B", 79.0, 1);
        let found = llama.capacity().unwrap();
        let sum = found.weights + found.activations + found.runtime + found.states + found.kv_cache;
        assert!((sum - found.budget).abs() < 1.0);
        assert!((found.kv_per_token - 131_072.0).abs() < 1e-9);
        let whole = found.num_gpu_blocks as f64 * found.kv_per_block;
        assert!(whole <= found.kv_cache && whole + found.kv_per_block > found.kv_cache);
        let fp8 = CapacitySetup { kv_bytes: 1.0, ..llama }.capacity().unwrap();
        assert_eq!(fp8.num_gpu_blocks / 2, found.num_gpu_blocks, "half the bytes, twice the blocks");
    }

    #[test]
    fn a_recorded_server_has_as_many_tokens() {
        // `nvidia/Llama-3.3-70B-Instruct-FP4` with an fp8 cache on one B200 had room for 782,176 tokens.
        let sheet = crate::GpuSheet::by_name("B200").unwrap();
        let seen =
            setup("nvidia/Llama-3.3-70B-Instruct-FP4", sheet.memory_mib / 1024.0 - DRIVER_BYTES / GIB, 1);
        let recorded =
            CapacitySetup { kv_bytes: 1.0, max_num_batched_tokens: 8192, max_num_seqs: 64, ..seen };
        let tokens = recorded.capacity().unwrap().num_gpu_blocks * 16;
        assert!((tokens as f64 / 782_176.0 - 1.0).abs() < 0.02, "{tokens}");
    }

    #[test]
    fn windows_and_states_take_what_a_sequence_needs() {
        // Half of the blocks of gpt-oss keep 128 tokens of a sequence.
        let windowed = setup("openai/gpt-oss-120b", 79.0, 2);
        let found = windowed.capacity().unwrap();
        assert!((found.kv_per_token - 18.0 * 1024.0).abs() < 1e-9, "{found:?}");
        assert!((found.states - 256.0 * 128.0 * 18.0 * 1024.0).abs() < 1.0, "{found:?}");
        // A quarter of the blocks of Qwen3.5 keep tokens; the others have 192 MB of each sequence.
        let hybrid = setup("Qwen/Qwen3.5-397B-A17B-FP8", 140.0, 8);
        let found = hybrid.capacity().unwrap();
        assert!((found.kv_per_token - 15.0 * 1024.0).abs() < 1e-9, "{found:?}");
        assert!((found.states / 256.0 / 24.0e6 - 1.0).abs() < 0.01, "{found:?}");
        // However many may run, as much is left for the KV cache as SGLang leaves.
        let many = CapacitySetup { max_num_seqs: 100_000, max_num_batched_tokens: 256, ..hybrid }
            .capacity()
            .unwrap();
        assert!((many.states / (many.states + many.kv_cache) - 0.9 / 1.9).abs() < 1e-9, "{many:?}");
    }

    #[test]
    fn groups_of_layers_share_what_is_left() {
        let groups = KvPlanSetup { disable_hybrid: false, in_flight_tokens: 16_384, keeps_states: true };
        let with = |setup: CapacitySetup| CapacitySetup { groups: Some(groups), ..setup }.capacity().unwrap();
        let windowed = setup("openai/gpt-oss-120b", 79.0, 2);
        let (found, before) = (with(windowed.clone()), windowed.capacity().unwrap());
        assert!((found.kv_cache - before.kv_cache - before.states).abs() < 1.0, "nothing is set aside");
        // A block is one of 18 layers of either kind.
        assert!((found.kv_per_block - 16.0 * 18.0 * 1024.0).abs() < 1e-9, "{found:?}");
        assert_eq!(found.plan.unwrap().groups.len(), 2);
        let plain = setup("meta-llama/Llama-3.1-8B", 79.0, 1);
        assert_eq!(with(plain.clone()), plain.capacity().unwrap());
    }

    #[test]
    fn ranks_of_attention_each_have_a_cache() {
        let one = setup("deepseek-ai/DeepSeek-R1", 140.0, 8);
        let eight = CapacitySetup { attention_ranks: 8, ..one.clone() };
        let [one, eight] = [one, eight].map(|setup| setup.capacity().unwrap());
        // The compressed vector of a token is on one GPU, not on all eight; attention and embedding are on each.
        assert!((one.kv_per_token - eight.kv_per_token).abs() < 1e-9);
        let more = 7.0 / 8.0 * (61.0 * 187.1e6 + 2.0 * 2.0 * 129_280.0 * 7168.0);
        assert!(((eight.weights - one.weights) / more - 1.0).abs() < 0.01, "{}", eight.weights - one.weights);
        let ratio = eight.num_gpu_blocks as f64 / one.num_gpu_blocks as f64;
        assert!((4.0..8.0).contains(&ratio), "{ratio}");
        // Heads of keys are shared out over two GPUs a rank.
        let llama = CapacitySetup { attention_ranks: 4, ..setup("meta-llama/Llama-3.1-70B", 140.0, 8) };
        assert!((llama.capacity().unwrap().kv_per_token - 163_840.0).abs() < 1e-9);
    }

    #[test]
    fn more_gpus_hold_more_than_their_number_of_times() {
        let of = |tensor: u32, pipeline: u32| {
            let setup = setup("Qwen/Qwen3-32B", 94.0, tensor);
            CapacitySetup { pipeline_parallel_size: pipeline, ..setup }.capacity().unwrap().num_gpu_blocks
        };
        assert!(of(2, 1) > 4 * of(1, 1), "{} {}", of(2, 1), of(1, 1));
        let ratio = of(1, 2) as f64 / of(2, 1) as f64;
        assert!((0.9..1.1).contains(&ratio), "{ratio}");
    }

    #[test]
    fn a_model_that_does_not_fit_says_by_how_much() {
        let error = setup("meta-llama/Llama-3.1-70B", 79.0, 1).capacity().unwrap_err();
        let CapacityError::TooLarge(error) = error else { panic!("{error}") };
        assert!((error.missing_gib - (error.needed_gib - error.budget_gib)).abs() < 1e-9);
        assert!((error.needed_gib - 70.55 * 2.0 / 1.073_741_824 - 1.1).abs() < 0.5, "{error}");
        let text = error.to_string();
        assert!(text.starts_with("the model is too large for its GPUs by 6"), "{text}");
        // On two GPUs the weights take 65.7 GiB of 71.1, so that it just fits; not with a smaller share.
        let two = setup("meta-llama/Llama-3.1-70B", 79.0, 2);
        assert!((1000..2500).contains(&two.capacity().unwrap().num_gpu_blocks));
        CapacitySetup { gpu_memory_utilization: 0.8, ..two }.capacity().unwrap_err();
    }
}
