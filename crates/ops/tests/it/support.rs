//! A model on a GPU and iterations to price, for tests and benches.

use servecast_latency::{Batch, GpuSheet, LatencyModel, ModelShape, StepWork, WeightType};
use servecast_ops::{AttentionKernels, Composition, EngineName, GraphSettings, Ops, OpsSetup, Pack};

/// Iterations that differ, so that no look-up has its table in the nearest cache.
const BATCHES: usize = 1024;
/// Decodes that are priced in a row.
pub(crate) const PASSES: usize = 64;

/// Llama-3.1-8B on an H100.
pub(crate) fn ops() -> Ops {
    let gpu = "H100-SXM";
    let model_name = "meta-llama/Llama-3.1-8B";
    let setup = OpsSetup {
        model: ModelShape::by_name(model_name).expect("it is in the table"),
        model_name: model_name.to_owned(),
        gpu: GpuSheet::by_name(gpu).expect("it is in the table"),
        engine: EngineName::Vllm,
        engine_version: None,
        weights: WeightType::Bf16,
        kv_bytes: 2.0,
        tensor_parallel_size: 1,
        data_parallel_size: 1,
        expert_parallel_size: 1,
        all_reduce: None,
        graphs: GraphSettings::default(),
        attention: AttentionKernels::default(),
    };
    let pack = Pack::of_gpu(gpu).expect("it has one").expect("it is whole");
    Ops::new(&Composition::new(setup, Some(&pack)).expect("all of it was measured"))
}

/// 64 requests that decode and a chunk of a prompt, each time others.
pub(crate) fn mixed_batches() -> Vec<Batch> {
    // A linear congruential generator is enough to spread lengths.
    let mut state = 1_u64;
    let mut random = |limit: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % limit
    };
    let batch = |_| {
        let mut batch = Batch::new(1 << 20);
        for _ in 0..64 {
            let context = 1 + random(4000);
            batch.add_tokens(context, context + 1);
            batch.add_decode(context + 1);
        }
        let (start, tokens) = (random(4000), 2 + random(1800));
        batch.add_tokens(start, start + tokens);
        batch.add_prompt(start, start + tokens);
        batch
    };
    (0..BATCHES).map(batch).collect()
}

/// 64 requests of 1,000 to 4,000 tokens that decode.
pub(crate) fn decodes() -> StepWork {
    let mut steps = StepWork::default();
    (0..64).for_each(|request| steps.add(1000 + 47 * request));
    steps
}

/// What they come to, so that no look-up is left out.
pub(crate) fn price_all(model: &dyn LatencyModel, batches: &[Batch]) -> f64 {
    let price = |batch| {
        let pass = model.pass(batch);
        pass.prompt_ms + pass.decode_ms
    };
    batches.iter().map(price).sum()
}
