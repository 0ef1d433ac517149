//! What is measured, and the table of what came out.

use std::path::Path;

use serde_json::{Value, json};
use servecast_cluster::RouterMode;
use servecast_workload::{ArrivalProcess, LengthDistribution, SyntheticSpec};

use crate::point::{Figures, Point, Source};

/// Points that differ in one thing.
#[derive(Debug)]
pub(crate) struct Suite {
    pub(crate) name: &'static str,
    /// All that is the same.
    about: String,
    pub(crate) points: Vec<Point>,
    goals: Vec<Goal>,
}

/// What a cost is a cost of.
#[derive(Debug, Clone, Copy)]
enum Unit {
    Request,
    OutputToken,
}

/// A bound on the cost of a unit at one point, as a multiple of that at another.
#[derive(Debug)]
struct Goal {
    unit: Unit,
    from: &'static str,
    to: &'static str,
    most: f64,
}

/// How far the dimensions go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    Quick,
    Full,
}

impl Scale {
    /// The first of `values` only, or all.
    fn of<T: Copy>(self, values: &[T], quick: usize) -> Vec<T> {
        values[..if self == Self::Quick { quick } else { values.len() }].to_vec()
    }

    fn pick<T>(self, quick: T, full: T) -> T {
        if self == Self::Quick { quick } else { full }
    }
}

/// What one worker gets a second, about as much as it can do.
const RATE_PER_WORKER: f64 = 600.0 / 64.0;
const WORKERS: u32 = 8;
const BLOCK_SIZE: u32 = 64;

/// Prompts of which half the blocks are those of one of 64 groups.
fn spec(input_tokens: u64, output_tokens: u64, request_count: u64) -> SyntheticSpec {
    SyntheticSpec {
        shared_prefix_ratio: 0.5,
        num_prefix_groups: 64,
        trace_block_size: BLOCK_SIZE,
        ..SyntheticSpec::new(input_tokens, output_tokens, request_count)
    }
}

fn poisson(mut spec: SyntheticSpec, rate: f64) -> Source {
    spec.arrival_process = ArrivalProcess::Poisson;
    spec.arrival_interval_ms = 1e3 / rate;
    Source::Open(spec)
}

/// Lengths vary by half in a closed loop, or requests that began together would end together all along.
fn closed(mut spec: SyntheticSpec, in_flight: u32) -> Source {
    spec.length_distribution = LengthDistribution::Uniform;
    spec.length_spread = 0.5;
    Source::Closed(spec, in_flight)
}

fn vllm() -> Value {
    json!({"block_size": BLOCK_SIZE})
}

/// 1,000 to 1,000,000 requests.
pub(crate) fn requests(scale: Scale, router_mode: RouterMode) -> Suite {
    let counts = scale.of(&[1_000, 10_000, 100_000, 1_000_000], 2);
    let point = |count: u64| Point {
        label: grouped(count),
        size: count as f64,
        source: poisson(spec(1_024, 256, count), RATE_PER_WORKER * f64::from(WORKERS)),
        workers: WORKERS,
        router_mode,
        engine: vllm(),
    };
    Suite {
        name: "requests",
        about: format!(
            "1,024 + 256 tokens, half of each prompt shared, Poisson at {RATE_PER_WORKER} a second and \
             worker, {WORKERS} workers, {}",
            name_of(router_mode)
        ),
        points: counts.into_iter().map(point).collect(),
        goals: vec![Goal { unit: Unit::Request, from: "10,000", to: "1,000,000", most: 1.5 }],
    }
}

/// 1 to 1,024 workers at the same load per worker.
pub(crate) fn workers(scale: Scale, router_mode: RouterMode) -> Suite {
    const REQUESTS_PER_WORKER: u64 = 400;
    let counts = scale.of(&[1, 8, 64, 256, 1_024], 3);
    let point = |workers: u32| Point {
        label: grouped(workers.into()),
        size: f64::from(workers),
        source: poisson(
            spec(1_024, 256, REQUESTS_PER_WORKER * u64::from(workers)),
            RATE_PER_WORKER * f64::from(workers),
        ),
        workers,
        router_mode,
        engine: vllm(),
    };
    Suite {
        name: "workers",
        about: format!(
            "1,024 + 256 tokens, half of each prompt shared, Poisson at {RATE_PER_WORKER} a second and \
             worker, {REQUESTS_PER_WORKER} requests a worker, {}",
            name_of(router_mode)
        ),
        points: counts.into_iter().map(point).collect(),
        goals: vec![Goal { unit: Unit::Request, from: "8", to: "1,024", most: 2.0 }],
    }
}

/// 10 to 10,000 output tokens.
pub(crate) fn output(scale: Scale, router_mode: RouterMode) -> Suite {
    const REQUESTS: u64 = 4_000;
    const IN_FLIGHT: u32 = 16;
    let lengths = scale.of(&[10, 100, 1_000, 10_000], 3);
    let point = |tokens: u64| Point {
        label: grouped(tokens),
        size: tokens as f64,
        source: closed(spec(1_024, tokens, REQUESTS), IN_FLIGHT * WORKERS),
        workers: WORKERS,
        router_mode,
        engine: vllm(),
    };
    Suite {
        name: "output",
        about: format!(
            "{} requests of 1,024 prompt tokens, half of them shared, lengths varying by half, \
             {IN_FLIGHT} in flight a worker, {WORKERS} workers, {}",
            grouped(REQUESTS),
            name_of(router_mode)
        ),
        points: lengths.into_iter().map(point).collect(),
        goals: Vec::new(),
    }
}

/// 100 to 100,000 prompt tokens.
pub(crate) fn prompt(scale: Scale, router_mode: RouterMode) -> Suite {
    const REQUESTS: u64 = 4_000;
    const IN_FLIGHT: u32 = 4;
    let lengths = scale.of(&[100, 1_000, 10_000, 100_000], 3);
    let point = |tokens: u64| Point {
        label: grouped(tokens),
        size: tokens as f64,
        source: closed(spec(tokens, 64, REQUESTS), IN_FLIGHT * WORKERS),
        workers: WORKERS,
        router_mode,
        engine: vllm(),
    };
    Suite {
        name: "prompt",
        about: format!(
            "{} requests with 64 output tokens, half of each prompt shared, lengths varying by half, \
             {IN_FLIGHT} in flight a worker, {WORKERS} workers, {}",
            grouped(REQUESTS),
            name_of(router_mode)
        ),
        points: lengths.into_iter().map(point).collect(),
        goals: Vec::new(),
    }
}

/// One million requests on 64 workers with the KV-aware router.
pub(crate) fn million(scale: Scale) -> Suite {
    let count = scale.pick(20_000, 1_000_000);
    let point = Point {
        label: grouped(count),
        size: count as f64,
        source: poisson(spec(1_024, 256, count), 600.0),
        workers: 64,
        router_mode: RouterMode::KvRouter,
        engine: vllm(),
    };
    Suite {
        name: "million",
        about: "1,024 + 256 tokens, Poisson at 600 a second, half of each prompt shared in 64 groups, \
                64 workers, kv_router; for a million the goal is 20 s and 500 MB"
            .into(),
        points: vec![point],
        goals: Vec::new(),
    }
}

/// Long outputs against short ones, with as many output tokens a second.
pub(crate) fn output_cost(scale: Scale) -> Suite {
    let count = scale.pick(1_000, 100_000);
    let point = |tokens: u64| Point {
        label: grouped(tokens),
        size: tokens as f64,
        source: poisson(spec(512, tokens, count), f64::from(WORKERS) * 1_000.0 / tokens as f64),
        workers: WORKERS,
        router_mode: RouterMode::RoundRobin,
        engine: vllm(),
    };
    Suite {
        name: "output-cost",
        about: format!(
            "{} requests of 512 prompt tokens, half of them shared, Poisson, 1,000 output tokens a second \
             and worker, {WORKERS} workers, round_robin",
            grouped(count)
        ),
        points: [100, 2_000].into_iter().map(point).collect(),
        goals: vec![Goal { unit: Unit::OutputToken, from: "100", to: "2,000", most: 0.2 }],
    }
}

/// SGLang's pages of one token against pages of 64, on a trace.
pub(crate) fn page_size(trace: &Path, router_mode: RouterMode) -> Suite {
    const TOKENS: u32 = 1_048_576;
    let point = |page_size: u32| Point {
        label: page_size.to_string(),
        size: f64::from(page_size),
        source: Source::Trace(trace.to_owned(), 512),
        workers: WORKERS,
        router_mode,
        engine: json!({
            "engine_type": "sglang",
            "sglang": {"page_size": page_size},
            "num_gpu_blocks": TOKENS / page_size,
        }),
    };
    Suite {
        name: "page-size",
        about: format!(
            "SGLang with {} tokens of KV cache, {}, {WORKERS} workers, {}",
            grouped(TOKENS.into()),
            trace.display(),
            name_of(router_mode)
        ),
        points: [64, 1].into_iter().map(point).collect(),
        goals: vec![Goal { unit: Unit::Request, from: "64", to: "1", most: 3.0 }],
    }
}

impl Suite {
    /// Prints the figures of each point, and how they compare.
    pub(crate) fn print(&self, figures: &[Figures]) {
        println!("{}: {}\n", self.name, self.about);
        println!(
            "{:>11} {:>10} {:>11} {:>9} {:>11} {:>12} {:>10} {:>10} {:>8} {:>6}",
            self.name,
            "requests",
            "iterations",
            "CPU s",
            "µs/request",
            "ns/iteration",
            "ns/output",
            "ns/prompt",
            "MB",
            "order"
        );
        let mut above: Option<(&Point, &Figures)> = None;
        for (point, run) in self.points.iter().zip(figures) {
            let order = above.map_or(String::new(), |(before, was)| {
                format!("{:.2}", (run.cpu_s / was.cpu_s).ln() / (point.size / before.size).ln())
            });
            println!(
                "{:>11} {:>10} {:>11} {:>9.3} {:>11.2} {:>12.1} {:>10.2} {:>10.3} {:>8.1} {order:>6}",
                point.label,
                grouped(run.requests),
                grouped(run.iterations),
                run.cpu_s,
                run.cpu_s * 1e6 / run.requests as f64,
                run.simulation_cpu_s * 1e9 / run.iterations as f64,
                run.cpu_s * 1e9 / run.output_tokens as f64,
                run.cpu_s * 1e9 / run.prompt_tokens as f64,
                run.peak_mb,
            );
            above = Some((point, run));
        }
        println!();
        self.compare(figures);
    }

    fn compare(&self, figures: &[Figures]) {
        for Goal { unit, from, to, most } in &self.goals {
            let cost = |label: &str| {
                let at = self.points.iter().position(|point| point.label == label)?;
                Some(unit.cost(&figures[at]))
            };
            if let (Some(before), Some(after)) = (cost(from), cost(to)) {
                println!(
                    "cost per {}, {} {from} -> {to}: x {:.2} (goal: at most {most})\n",
                    unit.name(),
                    self.name,
                    after / before
                );
            }
        }
    }
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::OutputToken => "output token",
        }
    }

    fn cost(self, run: &Figures) -> f64 {
        let units = match self {
            Self::Request => run.requests,
            Self::OutputToken => run.output_tokens,
        };
        run.cpu_s / units as f64
    }
}

/// The name that the command line gives a routing policy.
fn name_of(mode: RouterMode) -> String {
    serde_json::to_value(mode)
        .ok()
        .and_then(|name| Some(name.as_str()?.to_owned()))
        .expect("a mode is a name")
}

/// A number with commas between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let group = |chunk: &[u8]| chunk.iter().map(|&digit| char::from(digit)).collect::<String>();
    let first = (digits.len() - 1) % 3 + 1;
    let (head, tail) = digits.as_bytes().split_at(first);
    std::iter::once(group(head)).chain(tail.chunks(3).map(group)).collect::<Vec<_>>().join(",")
}
