//! What it costs to price an iteration: `cargo bench -p servecast-latency`.
//!
//! The tables are made up, as large as those that a profiler measures in a day: the cost of a lookup does not depend on
//! what they hold.

use std::fmt::Write as _;

use divan::Bencher;
use divan::counter::ItemsCount;
use servecast_latency::{
    Batch, Efficiency, GpuSheet, LatencyModel, ModelShape, Polynomial, Profile, ProfileSetup, ProfileTables,
    Roofline, RooflineSetup, SkewUse, WeightType,
};

fn main() {
    divan::main();
}

/// Iterations that differ, so that no lookup has its table in the nearest cache.
const BATCHES: u64 = 1024;

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// 64 requests that decode.
    Decodes,
    /// The same and a chunk of a prompt.
    Mixed,
}

fn batches(kind: Kind) -> Vec<Batch> {
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
        if matches!(kind, Kind::Mixed) {
            let (start, tokens) = (random(4000), 2 + random(1800));
            batch.add_tokens(start, start + tokens);
            batch.add_prompt(start, start + tokens);
        }
        batch
    };
    (0..BATCHES).map(batch).collect()
}

fn price(bencher: Bencher<'_, '_>, model: &dyn LatencyModel, kind: Kind) {
    let batches = batches(kind);
    bencher.counter(ItemsCount::new(BATCHES)).bench_local(|| {
        batches
            .iter()
            .map(|batch| {
                let pass = model.pass(batch);
                pass.prompt_ms + pass.decode_ms
            })
            .sum::<f64>()
    });
}

#[divan::bench(args = [Kind::Decodes, Kind::Mixed])]
fn polynomial(bencher: Bencher, kind: Kind) {
    price(bencher, &Polynomial, kind);
}

#[divan::bench(args = [Kind::Decodes, Kind::Mixed])]
fn profile(bencher: Bencher, kind: Kind) {
    price(bencher, &measured(SkewUse::Mixed), kind);
}

#[divan::bench(args = [Kind::Decodes, Kind::Mixed])]
fn profile_with_skew_everywhere(bencher: Bencher, kind: Kind) {
    price(bencher, &measured(SkewUse::All), kind);
}

#[divan::bench(args = [Kind::Decodes, Kind::Mixed])]
fn roofline(bencher: Bencher, kind: Kind) {
    let setup = RooflineSetup {
        model: shape(),
        model_name: "Qwen/Qwen3-32B".to_owned(),
        gpu: GpuSheet::by_name("H100-SXM").expect("it is in the table"),
        tensor_parallel_size: 2,
        weights: WeightType::Bf16,
        kv_bytes: 2.0,
        efficiency: Efficiency::default(),
        all_reduce: None,
    };
    price(bencher, &Roofline::new(&setup), kind);
}

fn shape() -> ModelShape {
    ModelShape::by_name("Qwen/Qwen3-32B").expect("it is in the table")
}

fn measured(skew_use: SkewUse) -> Profile {
    let mut dense = "layer,tokens,time_us\n".to_owned();
    for layer in [
        "embedding",
        "final_layernorm",
        "layernorm",
        "qkv_proj",
        "rotary_emb",
        "qk_norm",
        "o_proj",
        "gate_up_proj",
        "act_fn",
        "down_proj",
    ] {
        for tokens in 1..=2048_u32 {
            let _ = writeln!(dense, "{layer},{tokens},{}", 3.0 + f64::from(tokens) * 0.1);
        }
    }
    let mut per_sequence = "layer,sequences,time_us\n".to_owned();
    for layer in ["lm_head", "sampler"] {
        for sequences in 1..=256_u32 {
            let _ = writeln!(per_sequence, "{layer},{sequences},{}", 100.0 + f64::from(sequences));
        }
    }
    let doubling = |first: u32, times: u32| (0..times).map(move |power| first << power).collect::<Vec<_>>();
    let (chunks, kvs, decodes) = (doubling(16, 8), doubling(16, 11), doubling(1, 9));
    let mut attention = "prefill_chunk,kv_prefill,n_decode,kv_decode,time_us\n".to_owned();
    let mut skew = "pc,n,ratio,t_mean_us,t_max_us,t_skew_us\n".to_owned();
    for &n in &decodes {
        for &kv in &kvs {
            let _ = writeln!(attention, "0,0,{n},{kv},{}", 8 + n * kv / 256);
        }
    }
    for &chunk in &chunks {
        for before in std::iter::once(0).chain(kvs.iter().copied()) {
            let prompt = 8 + chunk * (before + chunk) / 4096;
            let _ = writeln!(attention, "{chunk},{before},0,0,{prompt}");
            for &n in &decodes {
                for &kv in &kvs {
                    let _ = writeln!(attention, "{chunk},{before},{n},{kv},{}", prompt + n * kv / 256);
                }
            }
        }
    }
    for chunk in std::iter::once(0).chain(chunks) {
        for &n in &decodes[1..] {
            let _ = writeln!(skew, "{chunk},{n},0.25,10,20,13");
        }
    }
    let tables = ProfileTables {
        dense: &dense,
        per_sequence: &per_sequence,
        attention: &attention,
        experts: None,
        skew: Some(&skew),
    };
    let setup = ProfileSetup {
        shape: shape(),
        all_reduce: None,
        bytes_per_number: 2.0,
        expert_parallel_size: 1,
        ranks: 1,
        exchange: None,
        layers: None,
    };
    Profile::new(&tables, &setup).expect("the tables are sound").with_skew(skew_use)
}
