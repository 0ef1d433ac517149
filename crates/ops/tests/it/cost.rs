//! What a look-up costs, beside one of `linear` in the same run.

use std::hint::black_box;
use std::time::{Duration, Instant};

use servecast_latency::{LatencyModel, Linear, PassTime};

use crate::support;

/// Times of which the least counts: what else the machine does makes some longer, none shorter.
const ROUNDS: usize = 300;

#[expect(clippy::disallowed_methods, reason = "this is about the time that passes")]
fn least(mut run: impl FnMut() -> f64) -> Duration {
    let round = |_| {
        let start = Instant::now();
        black_box(run());
        start.elapsed()
    };
    (0..ROUNDS).map(round).min().expect("there are some")
}

/// How many times as long as `linear` it takes.
fn ratio(run: impl Fn(&dyn LatencyModel) -> f64) -> f64 {
    let linear = Linear { base_us: 8000.0, per_token_us: 40.0, per_seq_us: 20.0 };
    let ops = support::ops();
    least(|| run(&ops)).as_secs_f64() / least(|| run(&linear)).as_secs_f64()
}

#[test]
fn a_look_up_of_a_mixed_batch_costs_what_arithmetic_does() {
    let batches = support::mixed_batches();
    let ratio = ratio(|model| support::price_all(model, &batches));
    // 150 ns where one of `linear` takes 3.3 ns; it is 10 to 15 times.
    assert!(ratio < 45.0, "{ratio:.1} times `linear`");
}

#[test]
fn decodes_in_a_row_cost_less_than_a_batch_each() {
    let ratio = ratio(|model| {
        let mut passes = [PassTime::default(); support::PASSES];
        model.decode_passes(black_box(support::decodes()), 1 << 20, &mut passes);
        passes.iter().map(|pass| pass.decode_ms).sum()
    });
    // 20 ns a pass where `linear`, which makes a batch of each, takes 26 ns; it is a fifth.
    assert!(ratio < 0.75, "{ratio:.1} times `linear`");
}
