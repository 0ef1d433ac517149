//! Iterations of each scheduler while it decodes, computes prompts, or runs out of memory:
//! `cargo bench -p servecast-engine`.

use divan::Bencher;
use divan::counter::ItemsCount;
use serde_json::{Value, json};
use servecast_engine::{
    Begun, Engine, EngineArgs, EngineRequest, EngineState, EngineTracing, Fetch, Iteration, IterationSink,
    Joined, Links,
};
use servecast_types::{Prompt, RequestId, Run, Time};

/// Engines with room for a million tokens.
const ENGINES: [&str; 4] = ["vllm", "vllm_async", "trtllm", "sglang"];

fn main() {
    divan::main();
}

/// 256 requests decode; the time is that of 1,000 iterations.
#[divan::bench(args = ENGINES)]
fn decode_256(bencher: Bencher, engine: &str) {
    const ITERATIONS: u64 = 1_000;
    let prepare = || {
        let mut run = Load::new(roomy(engine), 256, |index| (Run::tokens(index * 10_000, 500), 2_000));
        run.go(10);
        run
    };
    bencher
        .with_inputs(prepare)
        .counter(ItemsCount::new(ITERATIONS))
        .bench_local_refs(|run| run.go(ITERATIONS));
}

/// 64 prompts of 8,000 tokens, of which pairs are equal; the time is that of all of them.
#[divan::bench(args = ENGINES)]
fn prefill_64(bencher: Bencher, engine: &str) {
    let prepare = || Load::new(roomy(engine), 64, |index| (Run::tokens(index / 2 * 10_000, 8_000), 1));
    bencher.with_inputs(prepare).counter(ItemsCount::new(64_u32)).bench_local_refs(|run| run.go(u64::MAX));
}

/// 256 requests of 500 + 500 tokens in a cache for a quarter of them; the time is that of all of them.
#[divan::bench]
fn memory_pressure(bencher: Bencher) {
    let prepare = || {
        let settings =
            json!({"block_size": 16, "num_gpu_blocks": 1_000, "scheduler_reserve_full_isl": false});
        Load::new(settings, 256, |index| (Run::tokens(index * 10_000, 500), 500))
    };
    bencher.with_inputs(prepare).counter(ItemsCount::new(256_u32)).bench_local_refs(|run| run.go(u64::MAX));
}

fn roomy(engine: &str) -> Value {
    match engine {
        "vllm" => json!({"block_size": 16, "num_gpu_blocks": 65_536}),
        "vllm_async" => json!({"block_size": 16, "num_gpu_blocks": 65_536, "async_scheduling": true}),
        "trtllm" => json!({"engine_type": "trtllm", "block_size": 16, "num_gpu_blocks": 65_536}),
        "sglang" => json!({"engine_type": "sglang", "block_size": 1, "num_gpu_blocks": 1_048_576}),
        _ => unreachable!("every engine has settings"),
    }
}

struct Load {
    engine: Engine,
    now: Time,
    iterations: Count,
}

#[derive(Default)]
struct Count(u64);

impl Links for Count {
    fn begin(&mut self, _: Fetch, now: Time) -> Begun {
        Begun::At(now)
    }
}

impl IterationSink for Count {
    fn joined(&mut self, _: Joined, _: Time) {}

    fn iteration_ended(&mut self, _: &Iteration) {
        self.0 += 1;
    }
}

impl Load {
    /// An engine with `requests` requests, whose prompts and output lengths `request` gives.
    fn new(mut settings: Value, requests: u32, request: impl Fn(u32) -> (Run, u32)) -> Self {
        settings["latency"] = "linear:5000,10,20".into();
        let config = EngineArgs::from_json(settings).unwrap().validate(None).unwrap();
        let mut engine = Engine::new(config, EngineTracing { kv_events: true, ..EngineTracing::default() });
        for index in 0..requests {
            let (prompt, max_tokens) = request(index);
            let request = EngineRequest::new(RequestId(index), Prompt::new([prompt]), max_tokens, Time::ZERO);
            engine.submit(request).unwrap();
        }
        Self { engine, now: Time::ZERO, iterations: Count::default() }
    }

    /// Goes on for that many iterations, or until all requests have ended.
    fn go(&mut self, iterations: u64) {
        let until_count = self.iterations.0.saturating_add(iterations);
        while self.iterations.0 < until_count
            && let EngineState::Busy { until } = self.engine.run(self.now, &mut self.iterations).unwrap()
        {
            self.now = until;
            self.engine.end_iteration(until, &mut self.iterations);
        }
    }
}
