//! What SGLang's `/metrics` says, by the names, labels, types and buckets of version 0.5.23.
//!
//! Series of schedulers are there for each worker, with a `dp_rank` if there are several; those of requests are of all
//! together, as in a server with data-parallel ranks.

use std::fmt::Write;

use servecast_types::WorkerId;

use super::{Engine, Histogram, Metrics};

const TTFT: [f64; 18] =
    [0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 20.0, 40.0, 60.0, 80.0, 100.0, 200.0, 400.0];
const E2E: [f64; 22] = [
    0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 4.0, 6.0, 8.0, 10.0, 20.0, 40.0, 60.0, 80.0, 100.0, 200.0, 400.0,
    600.0, 1200.0, 1800.0, 2400.0,
];
const TOKEN: [f64; 23] = [
    0.002, 0.004, 0.006, 0.008, 0.010, 0.015, 0.020, 0.025, 0.030, 0.035, 0.040, 0.060, 0.080, 0.100, 0.200,
    0.400, 0.600, 0.800, 1.0, 2.0, 4.0, 6.0, 8.0,
];
const QUEUE: [f64; 40] = [
    0.0, 0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0,
    50.0, 60.0, 70.0, 80.0, 90.0, 100.0, 200.0, 300.0, 400.0, 500.0, 600.0, 700.0, 800.0, 900.0, 1000.0,
    1200.0, 1400.0, 1600.0, 1800.0, 2000.0, 2500.0, 3000.0,
];

/// Passes after which the rate of generation is told anew.
const PASSES: u32 = 40;

/// What one engine counts for SGLang beside what it counts for vLLM. What is in pairs is for requests without a stream, and
/// with one.
#[derive(Debug)]
pub(crate) struct Counts {
    prompt_tokens: [u64; 2],
    generation_tokens: [u64; 2],
    requests: [u64; 2],
    cached_tokens: u64,
    aborted: u64,
    ttft: [Histogram; 2],
    itl: Histogram,
    tpot: [Histogram; 2],
    e2e: [Histogram; 2],
    queue: Histogram,
    /// Of the last pass that took prompts.
    pub(crate) cache_hit_rate: f64,
    /// Tokens a second of the machine, over the last passes.
    pub(crate) gen_throughput: f64,
    passes: u32,
    tokens: u64,
    since: f64,
}

/// A request that has ended, with times in seconds of the machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    pub(crate) stream: bool,
    pub(crate) prompt_tokens: u64,
    pub(crate) cached_tokens: u64,
    pub(crate) tokens: u64,
    pub(crate) queue: f64,
    pub(crate) decode: f64,
    pub(crate) e2e: f64,
}

impl Counts {
    pub(crate) fn new() -> Self {
        let pair = |bounds: &[f64]| [Histogram::new(bounds), Histogram::new(bounds)];
        Self {
            prompt_tokens: [0; 2],
            generation_tokens: [0; 2],
            requests: [0; 2],
            cached_tokens: 0,
            aborted: 0,
            ttft: pair(&TTFT),
            itl: Histogram::new(&TOKEN),
            tpot: pair(&TOKEN),
            e2e: pair(&E2E),
            queue: Histogram::new(&QUEUE),
            cache_hit_rate: 0.0,
            gen_throughput: 0.0,
            passes: 0,
            tokens: 0,
            since: 0.0,
        }
    }

    /// A pass ended at so many seconds of the machine.
    pub(crate) fn passed(&mut self, emitted: u64, at: f64) {
        self.tokens += emitted;
        self.passes += 1;
        if self.passes == PASSES {
            let took = at - self.since;
            self.gen_throughput = if took > 0.0 { self.tokens as f64 / took } else { 0.0 };
            (self.passes, self.tokens, self.since) = (0, 0, at);
        }
    }

    /// A pass took prompts of so many tokens, of which so many were cached.
    pub(crate) fn admitted(&mut self, prompt: u64, cached: u64) {
        if prompt > 0 {
            self.cache_hit_rate = cached as f64 / prompt as f64;
        }
    }

    pub(crate) fn first_token(&mut self, stream: bool, seconds: f64) {
        self.ttft[usize::from(stream)].add(seconds);
    }

    pub(crate) fn next_token(&mut self, seconds: f64) {
        self.itl.add(seconds);
    }

    pub(crate) fn aborted(&mut self) {
        self.aborted += 1;
    }

    pub(crate) fn ended(&mut self, ended: Ended) {
        let place = usize::from(ended.stream);
        self.prompt_tokens[place] += ended.prompt_tokens;
        self.generation_tokens[place] += ended.tokens;
        self.requests[place] += 1;
        self.cached_tokens += ended.cached_tokens;
        self.queue.add(ended.queue);
        self.e2e[place].add(ended.e2e);
        if ended.tokens > 1 {
            self.tpot[place].add(ended.decode / (ended.tokens - 1) as f64);
        }
    }
}

/// What a scheduler says of itself.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Snapshot {
    pub(crate) running: u64,
    pub(crate) waiting: u64,
    /// Tokens of the KV cache, of requests.
    pub(crate) used: u64,
    /// Tokens that it has room for.
    pub(crate) capacity: u64,
    pub(crate) usage: f64,
    pub(crate) page_size: u32,
    pub(crate) max_running: u32,
    pub(crate) gen_throughput: f64,
    pub(crate) cache_hit_rate: f64,
}

impl Metrics {
    /// How the schedulers are, of a worker or of all, when so many requests have not ended.
    pub(crate) fn snapshots(&self, unfinished: usize, worker: Option<WorkerId>) -> Vec<Snapshot> {
        let running = self.running();
        let of = |(place, engine): (usize, &Engine)| {
            let capacity = u64::from(engine.blocks) * u64::from(engine.block_size);
            let usage = if unfinished == 0 { 0.0 } else { engine.kv_usage };
            Snapshot {
                running: running[place],
                waiting: if running[place] == 0 { 0 } else { engine.waiting },
                used: (usage * capacity as f64) as u64,
                capacity,
                usage,
                page_size: engine.block_size,
                max_running: engine.max_running,
                gen_throughput: if running[place] == 0 { 0.0 } else { engine.sglang.gen_throughput },
                cache_hit_rate: engine.sglang.cache_hit_rate,
            }
        };
        let all = self.engines.iter().enumerate();
        match worker {
            None => all.map(of).collect(),
            Some(worker) => all.skip(worker.index()).take(1).map(of).collect(),
        }
    }

    /// SGLang's page.
    pub(crate) fn render_sglang(&self, unfinished: usize, worker: Option<WorkerId>, context: u32) -> String {
        let snapshots = self.snapshots(unfinished, worker);
        let engines = match worker {
            None => &self.engines[..],
            Some(worker) => &self.engines[worker.index()..=worker.index()],
        };
        let model = super::page::escaped(&self.model);
        let usual = vec!["engine_type=\"unified\"".to_owned(), format!("model_name=\"{model}\"")];
        let mut page = Page { text: String::new(), usual };
        page.schedulers(&snapshots, engines, context);
        page.requests(engines);
        page.text
    }
}

struct Page {
    text: String,
    /// Labels of all series.
    usual: Vec<String>,
}

/// A series of requests without a stream, and with one: its name, what it is of, and where it is.
type Split<T> = (&'static str, &'static str, fn(&Counts) -> T);

type OfPairs = (&'static str, &'static str, fn(&Counts) -> &[Histogram; 2]);

/// A gauge of schedulers.
type Gauge = (&'static str, &'static str, fn(&Snapshot) -> f64);

const GAUGES: [Gauge; 12] = [
    ("num_running_reqs", "Requests in the batch", |one| one.running as f64),
    ("num_queue_reqs", "Requests that wait", |one| one.waiting as f64),
    ("num_grammar_queue_reqs", "Requests that wait for a grammar: there are none", |_| 0.0),
    ("gen_throughput", "Tokens generated a second", |one| one.gen_throughput),
    ("cache_hit_rate", "Share of the last prompts that was cached", |one| one.cache_hit_rate),
    ("token_usage", "Share of the KV cache that requests use", |one| one.usage),
    ("num_used_tokens", "Tokens of the KV cache that requests use", |one| one.used as f64),
    ("kv_used_tokens", "The same", |one| one.used as f64),
    ("kv_available_tokens", "Tokens of the KV cache that no request uses", |one| {
        (one.capacity - one.used) as f64
    }),
    ("max_total_num_tokens", "Tokens of the KV cache", |one| one.capacity as f64),
    ("page_size", "Tokens of a page", |one| f64::from(one.page_size)),
    ("num_pages", "Pages of the KV cache", |one| (one.capacity / u64::from(one.page_size.max(1))) as f64),
];

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP sglang:{name} {help}.\n# TYPE sglang:{name} {kind}");
    }

    /// The usual labels and some more, in the order of their names.
    fn labels(&self, more: &[String]) -> String {
        let mut labels = [&self.usual[..], more].concat();
        labels.sort_unstable();
        labels.join(",")
    }

    /// Series of schedulers.
    fn schedulers(&mut self, snapshots: &[Snapshot], engines: &[Engine], context: u32) {
        let of_rank = |rank: usize| {
            let mut labels =
                ["moe_ep_rank", "pp_rank", "tp_rank"].map(|name| format!("{name}=\"0\"")).to_vec();
            if snapshots.len() > 1 {
                labels.push(format!("dp_rank=\"{rank}\""));
            }
            labels
        };
        let all: Vec<String> = (0..snapshots.len()).map(|rank| self.labels(&of_rank(rank))).collect();
        let labels = |rank: usize| &all[rank];
        let gauge = |page: &mut Self, name: &str, help: &str, of: &dyn Fn(&Snapshot) -> f64| {
            page.family(name, "gauge", help);
            for (rank, snapshot) in snapshots.iter().enumerate() {
                let _ = writeln!(page.text, "sglang:{name}{{{}}} {:?}", labels(rank), of(snapshot));
            }
        };
        for (name, help, of) in GAUGES {
            gauge(self, name, help, &of);
        }
        gauge(self, "context_len", "Tokens of prompt and answer together", &|_| f64::from(context));
        self.family(
            "num_retracted_requests_total",
            "counter",
            "Requests that lost their blocks and run again",
        );
        for (rank, engine) in engines.iter().enumerate() {
            let value = engine.preemptions as f64;
            let _ = writeln!(self.text, "sglang:num_retracted_requests_total{{{}}} {value:?}", labels(rank));
        }
        self.family("queue_time_seconds", "histogram", "From arrival to the first pass");
        for (rank, engine) in engines.iter().enumerate() {
            self.histogram("queue_time_seconds", &of_rank(rank), &[&engine.sglang.queue]);
        }
    }

    /// Series of requests.
    fn requests(&mut self, engines: &[Engine]) {
        let all = || engines.iter().map(|engine| &engine.sglang);
        let streamed = [["is_streaming=\"False\"".to_owned()], ["is_streaming=\"True\"".to_owned()]];
        let by_stream: [Split<[u64; 2]>; 3] = [
            ("prompt_tokens_total", "Tokens of prompts", |counts| counts.prompt_tokens),
            ("generation_tokens_total", "Tokens generated", |counts| counts.generation_tokens),
            ("num_requests_total", "Requests served", |counts| counts.requests),
        ];
        for (name, help, of) in by_stream {
            self.family(name, "counter", help);
            for (place, more) in streamed.iter().enumerate() {
                let sum = all().map(|counts| of(counts)[place]).sum::<u64>() as f64;
                let labels = self.labels(more);
                let _ = writeln!(self.text, "sglang:{name}{{{labels}}} {sum:?}");
            }
        }
        self.family("cached_tokens_total", "counter", "Tokens of prompts that were cached");
        let cached = all().map(|counts| counts.cached_tokens).sum::<u64>() as f64;
        let labels = self.labels(&["cache_source=\"device\"".to_owned()]);
        let _ = writeln!(self.text, "sglang:cached_tokens_total{{{labels}}} {cached:?}");
        self.family("num_aborted_requests_total", "counter", "Requests that were taken back");
        let aborted = all().map(|counts| counts.aborted).sum::<u64>() as f64;
        let labels = self.labels(&[]);
        let _ = writeln!(self.text, "sglang:num_aborted_requests_total{{{labels}}} {aborted:?}");
        let pairs: [OfPairs; 3] = [
            ("time_to_first_token_seconds", "From arrival to the first token", |counts| &counts.ttft),
            (
                "request_time_per_output_token_seconds",
                "From a token to the next, mean of a request",
                |counts| &counts.tpot,
            ),
            ("e2e_request_latency_seconds", "From arrival to the last token", |counts| &counts.e2e),
        ];
        for (name, help, of) in pairs {
            self.family(name, "histogram", help);
            for (place, more) in streamed.iter().enumerate() {
                let parts: Vec<&Histogram> = all().map(|counts| &of(counts)[place]).collect();
                self.histogram(name, more, &parts);
            }
        }
        self.family("inter_token_latency_seconds", "histogram", "From a token to the next");
        let parts: Vec<&Histogram> = all().map(|counts| &counts.itl).collect();
        self.histogram("inter_token_latency_seconds", &[], &parts);
    }

    /// A histogram, the sum of several with the same bounds.
    fn histogram(&mut self, name: &str, more: &[String], parts: &[&Histogram]) {
        let Some(first) = parts.first() else { return };
        let labels = self.labels(more);
        let sum: f64 = parts.iter().map(|part| part.sum).sum();
        let _ = writeln!(self.text, "sglang:{name}_sum{{{labels}}} {sum:?}");
        let bounds = first.bounds.iter().map(|bound| format!("{bound:?}")).chain(["+Inf".to_owned()]);
        let mut up_to = 0;
        for (place, bound) in bounds.enumerate() {
            up_to += parts.iter().map(|part| part.counts[place]).sum::<u64>();
            let bucket = self.labels(&[more, &[format!("le=\"{bound}\"")]].concat());
            let _ = writeln!(self.text, "sglang:{name}_bucket{{{bucket}}} {:?}", up_to as f64);
        }
        let _ = writeln!(self.text, "sglang:{name}_count{{{labels}}} {:?}", up_to as f64);
    }
}
