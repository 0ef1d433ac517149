//! What it costs to price an iteration, and to load what it is priced by: `cargo bench -p servecast-ops`.

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use servecast_latency::{LatencyModel, Linear, PassTime};
use servecast_ops::Ops;

#[path = "../tests/it/support.rs"]
mod support;

fn main() {
    divan::main();
}

const LINEAR: Linear = Linear { base_us: 8000.0, per_token_us: 40.0, per_seq_us: 20.0 };

fn mixed(bencher: Bencher<'_, '_>, model: &dyn LatencyModel) {
    let batches = support::mixed_batches();
    bencher.counter(ItemsCount::new(batches.len())).bench_local(|| support::price_all(model, &batches));
}

fn in_a_row(bencher: Bencher<'_, '_>, model: &dyn LatencyModel) {
    let mut passes = [PassTime::default(); support::PASSES];
    bencher.counter(ItemsCount::new(support::PASSES)).bench_local(|| {
        model.decode_passes(black_box(support::decodes()), 1 << 20, &mut passes);
        passes[support::PASSES - 1].decode_ms
    });
}

#[divan::bench]
fn mixed_linear(bencher: Bencher<'_, '_>) {
    mixed(bencher, &LINEAR);
}

#[divan::bench]
fn mixed_ops(bencher: Bencher<'_, '_>) {
    mixed(bencher, &support::ops());
}

#[divan::bench]
fn decodes_in_a_row_linear(bencher: Bencher<'_, '_>) {
    in_a_row(bencher, &LINEAR);
}

#[divan::bench]
fn decodes_in_a_row_ops(bencher: Bencher<'_, '_>) {
    in_a_row(bencher, &support::ops());
}

/// Reading a pack, composing a model of it, and sampling that.
#[divan::bench]
fn load() -> Ops {
    support::ops()
}
