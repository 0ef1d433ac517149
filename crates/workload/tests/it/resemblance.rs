//! More of a recorded trace, which is like it and has nothing of it.

use rustc_hash::FxHashSet;
use servecast_workload::{Load, TraceRow, Workload, read_mooncake, resembling, stats};

const OPEN: Load = Load::Open { arrival_speedup_ratio: 1.0 };
const BLOCK: u32 = 512;

#[test]
fn more_of_a_recorded_trace_has_its_rate_its_lengths_and_its_sharing() {
    let Some(folder) = testkit::outside(testkit::DATA) else { return };
    for name in ["mooncake_conversation.jsonl", "mooncake_synthetic.jsonl"] {
        let file = crate::read(&folder.join("traces").join(name));
        let trace = read_mooncake(&file[..]).unwrap();
        let source = trace.workload(BLOCK, OPEN).unwrap();
        let expected = figures(&source);
        let stretches = stretches(&trace.rows);
        for (times, seed) in [(1, 42), (2, 7)] {
            let rows = resembling(&source, BLOCK, OPEN, times * source.requests(), seed);
            let made = Workload::from_rows(&rows, BLOCK, OPEN).unwrap();
            assert_eq!(made.requests(), times * source.requests());
            for ((figure, made), expected) in FIGURES.iter().zip(figures(&made)).zip(expected) {
                assert!(
                    (made / expected - 1.0).abs() < 0.05,
                    "{name} × {times}, {figure}: {made}, not {expected}"
                );
            }
            assert!(self::stretches(&rows).is_disjoint(&stretches), "{name} × {times}");
        }
    }
}

const FIGURES: [&str; 10] = [
    "rate",
    "mean input",
    "p50 input",
    "p90 input",
    "p99 input",
    "mean output",
    "p50 output",
    "p90 output",
    "p99 output",
    "reuse",
];

fn figures(workload: &Workload) -> [f64; 10] {
    let stats = stats(workload, BLOCK);
    let (input, output) = (stats.input_tokens, stats.output_tokens);
    let rate = stats.request_rate_per_s.unwrap();
    let reuse = stats.token_reuse_ratio;
    [
        rate,
        input.mean,
        input.p50,
        input.p90,
        input.p99,
        output.mean,
        output.p50,
        output.p90,
        output.p99,
        reuse,
    ]
}

/// Gap in ns, prompt and output of ten requests in a row.
type Stretch = Vec<(u64, u64, u64)>;

fn stretches(rows: &[TraceRow]) -> FxHashSet<Stretch> {
    let triples: Stretch = rows
        .windows(2)
        .map(|pair| {
            let gap = pair[1].timestamp_ms.unwrap() - pair[0].timestamp_ms.unwrap();
            ((gap * 1e6).round() as u64, pair[1].input_length.unwrap(), pair[1].output_length)
        })
        .collect();
    triples.windows(10).map(<[_]>::to_vec).collect()
}
