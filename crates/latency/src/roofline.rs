//! Iteration times that nobody measured: what a model computes and reads, over what a GPU can compute and read.

use crate::link::AllReduce;
use crate::model::{Attention, BF16_BYTES, ModelShape, WeightType};
use crate::{Batch, GpuSheet, LatencyModel, PassTime};

/// How far a GPU is from its data sheet, and what an iteration costs beside its work.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Efficiency {
    /// Share of the FLOP/s that large matrix products reach.
    pub compute: f64,
    /// Share of the FLOP/s that the attention of prompts reaches.
    pub attention: f64,
    /// Share of the memory bandwidth that is reached.
    pub memory: f64,
    /// Time of the shortest kernel, in µs.
    pub kernel_us: f64,
    /// Time of an iteration in which the GPU waits for its host, in µs.
    pub host_us: f64,
}

/// Shares that well-tuned kernels reach on large inputs, a kernel that does nothing, and a host that is mostly hidden
/// behind the GPU. Assumptions, not measurements of any machine.
impl Default for Efficiency {
    fn default() -> Self {
        Self { compute: 0.75, attention: 0.5, memory: 0.85, kernel_us: 2.5, host_us: 500.0 }
    }
}

/// A model on so many GPUs, each with a part of every layer.
#[derive(Debug, Clone, PartialEq)]
pub struct RooflineSetup {
    /// The model.
    pub model: ModelShape,
    /// What the model is called in reports.
    pub model_name: String,
    /// The GPU.
    pub gpu: GpuSheet,
    /// GPUs that share each layer.
    pub tensor_parallel_size: u32,
    /// How weights are stored.
    pub weights: WeightType,
    /// Bytes of a number in the KV cache.
    pub kv_bytes: f64,
    /// How far from the data sheet.
    pub efficiency: Efficiency,
    /// The link between GPUs; without it that of the GPU.
    pub all_reduce: Option<AllReduce>,
}

/// Kernels of a block that are too short to be bound by anything: norms, rotary embedding, activation, KV writes, and
/// the ends of matrix products.
const KERNELS_PER_BLOCK: f64 = 8.0;
/// The same with experts, whose choice and sorting take some more.
const KERNELS_PER_BLOCK_WITH_EXPERTS: f64 = 14.0;

/// An estimate: each part of a pass takes what the slower of computing and reading takes.
///
/// - Matrices of the blocks: 2 operations a parameter and token, or reading them once.
/// - Experts: the same, of which those are read that some token goes to ([`Experts::activated`](crate::Experts)).
/// - Linear attention: the states of all sequences, read and written once. Sparse attention: keys of its index for all
///   tokens, and the KV of those that it chooses.
/// - Head: 2 operations a parameter and request, or reading it once.
/// - Attention: 4 operations a query-key pair, head and number for prompts, and the KV of all requests read once; blocks
///   with a window see no further than that.
/// - Activations are written and read between kernels, and no kernel is shorter than `kernel_us`.
/// - An all-reduce after each attention and each feed-forward part where several GPUs share it, and `host_us` an iteration.
#[derive(Debug, Clone, PartialEq)]
pub struct Roofline {
    label: String,
    /// µs a token of the matrices of all blocks if bound by computing, and µs if bound by reading: those of attention, and
    /// of feed-forward parts.
    blocks: [[f64; 2]; 2],
    /// The same of the experts: µs a token, and µs an activated expert of each block.
    experts: [f64; 2],
    /// Activated experts by tokens.
    activated: Vec<f64>,
    /// The same of the head: µs a request, and µs.
    head: [f64; 2],
    /// µs a token for activations between kernels.
    us_per_token: f64,
    /// µs a query-key pair of prompts in a block.
    us_per_pair: f64,
    /// µs to read the KV of a token in a block, and to compute with it.
    us_per_context: f64,
    /// µs of computing, for a query-key pair of a decode: more than one row of a request share what is read.
    us_per_row_pair: f64,
    /// The same of the keys of an index, in all blocks: µs a pair, and µs a token that is attended to.
    index: [f64; 2],
    /// µs a sequence to read and write the states of all linear blocks.
    us_per_state: f64,
    /// Blocks with attention.
    layers: f64,
    /// Blocks with a window, and how far it goes.
    windowed: (f64, f64),
    /// All-reduces of a pass: µs without data, and µs a token.
    all_reduce: Option<(AllReduce, f64, f64)>,
    fixed_us: f64,
}

impl Roofline {
    /// The estimate for a model on a GPU.
    pub fn new(setup: &RooflineSetup) -> Self {
        let RooflineSetup { model, gpu, efficiency, weights, .. } = setup;
        let gpus = f64::from(setup.tensor_parallel_size.max(1));
        // 10¹² operations a second are 10⁶ a µs, and 10⁹ bytes a second 10³.
        let bf16 = gpu.bf16_tflops * 1e6;
        let stored = model.stored_as(*weights);
        let rate = |weights: WeightType| gpu.tflops(weights) * 1e6;
        let read = gpu.memory_gb_per_s * 1e3 * efficiency.memory;
        let expert_bytes = model.expert_parameters() as f64 * model.bytes_of(stored.experts);
        let layers = f64::from(model.layers);
        let per_token = |parameters: f64, flops: f64| 2.0 * parameters / gpus / (flops * efficiency.compute);
        let with_experts = model.experts.map_or(0.0, |experts| f64::from(experts.layers));
        let experts_per_token = model.experts.map_or(0.0, |experts| f64::from(experts.per_token));
        let head = model.embedding_parameters() as f64;
        let (pair_flops, context_flops) = attention_flops(model);
        let context_bytes = model.kv_bytes_of_block(setup.tensor_parallel_size, setup.kv_bytes);
        let attention_layers = f64::from(model.attention_layers);
        // Sparse attention sees as many tokens as its index lets it.
        let limited = model.sparse.map(|index| (attention_layers, f64::from(index.top_k)));
        let windowed = model.window.map(|window| (f64::from(window.layers), f64::from(window.tokens)));
        let window = limited.or(windowed).unwrap_or((0.0, f64::INFINITY));
        let block = |parameters: u64, weights: WeightType| {
            let parameters = parameters as f64;
            [per_token(parameters, rate(weights)), parameters * model.bytes_of(weights) / gpus / read]
        };
        let kernels =
            KERNELS_PER_BLOCK * (layers - with_experts) + KERNELS_PER_BLOCK_WITH_EXPERTS * with_experts;
        let of_link = || AllReduce::over(&gpu.link, setup.tensor_parallel_size);
        let all_reduce =
            (setup.tensor_parallel_size > 1).then(|| setup.all_reduce.clone().or_else(of_link)).flatten();
        Self {
            label: format!("roofline of {} on {} {}", setup.model_name, setup.tensor_parallel_size, gpu.name),
            blocks: [
                block(model.all_attention_parameters(), stored.attention),
                block(model.all_feed_forward_parameters(), stored.feed_forward),
            ],
            experts: [
                per_token(
                    with_experts * experts_per_token * model.expert_parameters() as f64,
                    rate(stored.experts),
                ),
                with_experts * expert_bytes / gpus / read,
            ],
            activated: model.experts.map_or_else(|| vec![0.0], |experts| experts.activated(1)),
            head: [per_token(head, bf16), head * BF16_BYTES / gpus / read],
            us_per_token: layers * activation_numbers(model, gpus) * BF16_BYTES / read,
            us_per_pair: pair_flops / gpus / (bf16 * efficiency.attention),
            us_per_context: (context_bytes / read).max(context_flops / gpus / (bf16 * efficiency.attention)),
            us_per_row_pair: context_flops / gpus / (bf16 * efficiency.attention),
            index: index_us(model, read, rate(WeightType::Fp8) * efficiency.attention)
                .map(|us| us * attention_layers),
            // A step reads the state of a sequence and writes it back.
            us_per_state: 2.0 * model.state_bytes_per_sequence(setup.tensor_parallel_size) / read,
            layers: attention_layers,
            windowed: window,
            all_reduce: all_reduce.map(|link| {
                (link, f64::from(model.all_reduces()), f64::from(model.hidden_size) * BF16_BYTES)
            }),
            fixed_us: efficiency.host_us + kernels * efficiency.kernel_us,
        }
    }

    /// What the attention of all blocks takes, in µs.
    fn attention_us(&self, batch: &Batch) -> f64 {
        let steps = batch.steps;
        let (windowed, window) = self.windowed;
        // How much of the pairs or contexts a block with a window has, by their mean.
        let share = |mean: f64| if mean > window { window / mean } else { 1.0 };
        let blocks = |mean: f64| self.layers - windowed + windowed * share(mean);
        let prompt_tokens = batch.chunk_tokens() as f64;
        let pairs = batch.chunk_pairs() as f64;
        let mut us = 0.0;
        if prompt_tokens > 0.0 {
            // Each prompt reads the KV before it once, which its pairs over its tokens bound.
            let context = pairs / prompt_tokens + prompt_tokens / 2.0;
            let computing = pairs * self.us_per_pair * blocks(pairs / prompt_tokens);
            us += computing.max(context * self.us_per_context * blocks(context));
        }
        if steps.requests > 0 {
            let context = steps.context_tokens as f64;
            let rows = context + batch.drafts.attention_pairs as f64;
            let reading_or_computing = (context * self.us_per_context).max(rows * self.us_per_row_pair);
            us += reading_or_computing * blocks(context / steps.requests as f64);
        }
        let [us_per_pair, us_per_key] = self.index;
        us + batch.requests as f64 * self.us_per_state
            + (pairs * us_per_pair).max(0.0)
            + steps.context_tokens as f64 * us_per_key
    }
}

impl LatencyModel for Roofline {
    fn pass(&self, batch: &Batch) -> PassTime {
        if batch.requests == 0 {
            return PassTime::default();
        }
        let slower =
            |[computing, reading]: [f64; 2], amount: f64, read: f64| (computing * amount).max(reading * read);
        let (tokens, rows) = (batch.tokens as f64, batch.sampled_rows() as f64);
        let last = self.activated.len() - 1;
        let activated = self.activated[last.min(batch.tokens as usize)];
        let mut us = self.fixed_us
            + slower(self.blocks[0], tokens, 1.0)
            + slower(self.blocks[1], tokens, 1.0)
            + slower(self.experts, tokens, activated)
            + slower(self.head, rows, 1.0)
            + tokens * self.us_per_token
            + self.attention_us(batch);
        if let Some((link, times, bytes_per_token)) = &self.all_reduce {
            us += times * link.time_us(tokens * bytes_per_token);
        }
        PassTime::whole(batch, us / 1000.0)
    }

    fn estimate(&self) -> Option<&str> {
        Some(&self.label)
    }
}

/// µs of the index of a block for a pair of a prompt, and for a token before a decode: 2 operations a number of its heads,
/// which all GPUs do alike, or reading its key.
fn index_us(model: &ModelShape, read: f64, fp8: f64) -> [f64; 2] {
    let pair =
        model.sparse.map_or(0.0, |index| 2.0 * f64::from(index.heads) * f64::from(index.head_size) / fp8);
    [pair, pair.max(model.index_bytes_of_block() / read)]
}

/// Operations of a block for a query-key pair of a prompt, and for a token that a decode attends to.
fn attention_flops(model: &ModelShape) -> (f64, f64) {
    let (heads, size) = (f64::from(model.heads), f64::from(model.head_size));
    match model.attention {
        Attention::Grouped { .. } => (4.0 * heads * size, 4.0 * heads * size),
        Attention::Latent { kv_rank, rope_size, value_size, .. } => {
            let (rank, rope) = (f64::from(kv_rank), f64::from(rope_size));
            // Decodes work on the compressed vector itself.
            (2.0 * heads * (size + f64::from(value_size)), 2.0 * heads * (2.0 * rank + rope))
        }
    }
}

/// Numbers a token that the kernels of a block between its matrix products write and read on each GPU: the residual
/// stream at each norm, queries and keys at the rotary embedding, and the feed-forward part at its activation.
fn activation_numbers(model: &ModelShape, gpus: f64) -> f64 {
    let query_key = f64::from(model.heads) * f64::from(model.head_size);
    let inner = match model.experts {
        Some(experts) => f64::from(experts.per_token * experts.inner_size + experts.shared_inner_size),
        None => f64::from(model.inner_size),
    };
    4.0 * f64::from(model.norms) * f64::from(model.hidden_size) + (2.0 * query_key + 3.0 * inner) / gpus
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup(model: &str, gpu: &str, gpus: u32) -> RooflineSetup {
        let shape = ModelShape::by_name(model).unwrap();
        RooflineSetup {
            weights: shape.quantisation.unwrap_or(WeightType::Bf16),
            model: shape,
            model_name: model.to_owned(),
            gpu: GpuSheet::by_name(gpu).unwrap(),
            tensor_parallel_size: gpus,
            kv_bytes: 2.0,
            efficiency: Efficiency {
                compute: 1.0,
                attention: 1.0,
                memory: 1.0,
                kernel_us: 0.0,
                host_us: 0.0,
            },
            all_reduce: None,
        }
    }

    fn ms(roofline: &Roofline, chunks: &[(u64, u64)]) -> f64 {
        let mut batch = Batch::new(0);
        for &(start, end) in chunks {
            batch.add_tokens(start, end);
        }
        let PassTime { prompt_ms, decode_ms } = roofline.pass(&batch);
        prompt_ms + decode_ms
    }

    #[test]
    fn a_lone_decode_reads_all_weights() {
        let roofline = Roofline::new(&setup("meta-llama/Llama-3.1-8B", "H100-SXM", 1));
        let weights = (8.03e9 - 128_256.0 * 4096.0) * 2.0 / 3350e9 * 1e3;
        let found = ms(&roofline, &[(999, 1000)]);
        let kv = 1000.0 * 131_072.0 / 3350e9 * 1e3;
        assert!((found - weights - kv).abs() < 0.01, "{found}, not {weights} and {kv}");
    }

    #[test]
    fn a_long_prompt_computes() {
        let roofline = Roofline::new(&setup("meta-llama/Llama-3.1-8B", "H100-SXM", 1));
        let products = 2.0 * 8192.0 * 6.98e9 / 989.4e12 * 1e3;
        let attention = 32.0 * 4.0 * 4096.0 * 8192.0 * 8193.0 / 2.0 / 989.4e12 * 1e3;
        let activations = 32.0 * 8192.0 * 2.0 * (8.0 * 4096.0 + 2.0 * 4096.0 + 3.0 * 14336.0) / 3350e9 * 1e3;
        let found = ms(&roofline, &[(0, 8192)]);
        // The head of one request is all that is beside them.
        let head = 128_256.0 * 4096.0 * 2.0 / 3350e9 * 1e3;
        let expected = products + attention + activations + head;
        assert!((found / expected - 1.0).abs() < 0.001, "{found}, not {expected}");
    }

    #[test]
    fn experts_are_read_as_far_as_tokens_go_to_them() {
        let roofline = Roofline::new(&setup("Qwen/Qwen3-30B-A3B", "H100-SXM", 1));
        let few = ms(&roofline, &[(9, 10)]);
        // 3.3 billion parameters are active, of which the embedding is only looked up.
        let expected = 2.0 * 3.04e9 / 3350e9 * 1e3;
        assert!((few / expected - 1.0).abs() < 0.03, "{few}, not {expected}");
        let many = ms(&roofline, &[(9, 10); 256]);
        let all = 2.0 * 30.2e9 / 3350e9 * 1e3;
        assert!((many / all - 1.0).abs() < 0.06, "{many}, not {all}");
    }

    #[test]
    fn several_gpus_share_the_work_and_exchange() {
        let [one, two] = [1, 2].map(|gpus| setup("Qwen/Qwen3-32B", "H100-SXM", gpus));
        let (alone, shared) = (Roofline::new(&one), Roofline::new(&two));
        let decode = [(99, 100)];
        // One shot: a constant, one for each GPU, and what the other has.
        let exchange = 128.0 * (4.3 + 2.0 * 0.07 + 10_240.0 / 265e3) / 1e3;
        let difference = ms(&shared, &decode) - ms(&alone, &decode) / 2.0;
        assert!((difference - exchange).abs() < 0.01, "{difference}, not {exchange}");
        assert_eq!(shared.estimate(), Some("roofline of Qwen/Qwen3-32B on 2 H100-SXM"));
    }

    #[test]
    fn more_gpus_never_slow_a_decode_down() {
        for (model, gpu) in [
            ("meta-llama/Llama-3.1-8B", "A100-80GB"),
            ("meta-llama/Llama-3.1-8B", "H100-SXM"),
            ("meta-llama/Llama-3.1-8B", "H200"),
            ("meta-llama/Llama-3.1-8B", "B200"),
            ("meta-llama/Llama-3.1-70B", "H100-SXM"),
            ("meta-llama/Llama-3.1-70B", "B300"),
        ] {
            for requests in [1, 16, 128] {
                let times = [2, 4, 8].map(|gpus| {
                    let mut whole = setup(model, gpu, gpus);
                    whole.efficiency = Efficiency::default();
                    ms(&Roofline::new(&whole), &vec![(1999, 2000); requests])
                });
                assert!(
                    times[0] > times[1] && times[1] > times[2],
                    "{model} on {gpu}, {requests}: {times:?}"
                );
            }
        }
    }

    #[test]
    fn windows_limit_what_is_attended_to() {
        let whole = setup("google/gemma-3-27b-it", "H200", 1);
        let mut unlimited = whole.clone();
        unlimited.model.window = None;
        let [limited, unlimited] = [&whole, &unlimited].map(Roofline::new);
        let (near, far) = ([(999, 1000)], [(99_999, 100_000)]);
        assert!((ms(&limited, &near) - ms(&unlimited, &near)).abs() < 1e-12);
        assert!(ms(&limited, &far) < ms(&unlimited, &far) - 1.0);
        assert!(ms(&limited, &[(0, 50_000)]) < ms(&unlimited, &[(0, 50_000)]));
    }

    #[test]
    fn more_work_never_takes_less() {
        for model in ModelShape::names() {
            let roofline = Roofline::new(&setup(model, "B200", 8));
            let mut before = 0.0;
            for tokens in [1_u64, 2, 3, 64, 512, 4096, 65_536] {
                let now = ms(&roofline, &[(0, tokens)]);
                assert!(
                    now > before && now.is_finite(),
                    "{model}: {tokens} tokens take {now} after {before}"
                );
                before = now;
            }
        }
    }
}
