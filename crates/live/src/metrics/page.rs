//! The page of the metrics, in Prometheus' text format 0.0.4.

use std::fmt::Write;

use servecast_types::WorkerId;

use super::{Engine, Histogram, Metrics};
use crate::request::Dialect;

impl Metrics {
    /// The page when so many requests have not ended; of a worker alone it is that of a server with one engine.
    pub(crate) fn render(&self, unfinished: usize, worker: Option<WorkerId>) -> String {
        if self.dialect == Dialect::Sglang {
            return self.render_sglang(unfinished, worker, self.context);
        }
        let mut page = Page { text: String::new(), model: escaped(&self.model), created: self.created };
        let (engines, first) = match worker {
            None => (&self.engines[..], 0),
            Some(worker) => (&self.engines[worker.index()..=worker.index()], worker.index()),
        };
        let all_running = self.running();
        // An engine with nothing in its batch has nobody who waits for a place in it.
        let all_waiting = self.engines.iter().zip(&all_running);
        let all_waiting = all_waiting.map(|(engine, &running)| if running == 0 { 0 } else { engine.waiting });
        let all_waiting: Vec<u64> = all_waiting.collect();
        // What no engine knows of is parked by a router, or on its way.
        let placed = all_running.iter().chain(&all_waiting).sum();
        let deferred = if worker.is_none() { (unfinished as u64).saturating_sub(placed) } else { 0 };
        let (running, waiting) = (&all_running[first..], &all_waiting[first..]);
        for (name, help) in [
            ("estimated_flops_per_gpu", "Not estimated"),
            ("estimated_read_bytes_per_gpu", "Not estimated"),
            ("estimated_write_bytes_per_gpu", "Not estimated"),
        ] {
            page.counter(engines, name, help, &[("", &|_| 0)]);
        }
        page.gauge(
            engines,
            "num_requests_running",
            "Requests in a batch",
            &[("", &|number, _| running[number] as f64)],
        );
        // The first engine has those that are not at any engine yet.
        let unplaced = |number: usize| if number == 0 { deferred as f64 } else { 0.0 };
        page.gauge(
            engines,
            "num_requests_waiting",
            "Requests that wait",
            &[("", &|number, _| waiting[number] as f64 + unplaced(number))],
        );
        page.gauge(
            engines,
            "num_requests_waiting_by_reason",
            "Requests that wait, by what for: a place (capacity), or something else (deferred)",
            &[
                ("reason=\"capacity\"", &|number, _| waiting[number] as f64),
                ("reason=\"deferred\"", &|number, _| unplaced(number)),
            ],
        );
        page.gauge(
            engines,
            "engine_sleep_state",
            "Whether the engine is awake",
            &[
                ("sleep_state=\"awake\"", &|_, _| 1.0),
                ("sleep_state=\"weights_offloaded\"", &|_, _| 0.0),
                ("sleep_state=\"discard_all\"", &|_, _| 0.0),
            ],
        );
        page.gauge(
            engines,
            "kv_cache_usage_perc",
            "Share of the KV blocks in use, from 0 to 1",
            &[("", &|_, engine| {
                if unfinished == 0 { 0.0 } else { engine.kv_usage }
            })],
        );
        cache_counters(&mut page, engines);
        token_counters(&mut page, engines);
        histograms(&mut page, engines);
        page.cache_config(engines);
        page.text
    }
}

fn cache_counters(page: &mut Page, engines: &[Engine]) {
    page.counter(
        engines,
        "prefix_cache_queries",
        "Tokens looked up in the prefix cache",
        &[("", &|engine| engine.prefix_queries)],
    );
    page.counter(
        engines,
        "prefix_cache_hits",
        "Tokens found in the prefix cache",
        &[("", &|engine| engine.prefix_hits)],
    );
    for name in
        ["external_prefix_cache_queries", "external_prefix_cache_hits", "mm_cache_queries", "mm_cache_hits"]
    {
        page.counter(engines, name, "There is no such cache", &[("", &|_| 0)]);
    }
    page.counter(
        engines,
        "num_preemptions",
        "Preempted requests that run again",
        &[("", &|engine| engine.preemptions)],
    );
}

fn token_counters(page: &mut Page, engines: &[Engine]) {
    page.counter(
        engines,
        "prompt_tokens",
        "Tokens of prompts that are computed",
        &[("", &|engine| engine.prompt_tokens)],
    );
    page.counter(
        engines,
        "prompt_tokens_by_source",
        "The same, by where their KV came from",
        &[
            ("source=\"local_compute\"", &|engine| engine.prompt_tokens - engine.cached_prompt_tokens),
            ("source=\"local_cache_hit\"", &|engine| engine.cached_prompt_tokens),
            ("source=\"external_kv_transfer\"", &|engine| engine.received_tokens),
        ],
    );
    page.counter(
        engines,
        "prompt_tokens_cached",
        "Tokens of prompts that were cached",
        &[("", &|engine| engine.cached_prompt_tokens)],
    );
    page.counter(
        engines,
        "prompt_tokens_cached_by_source",
        "The same, by the memory that they were in",
        &[
            ("source=\"device\"", &|engine| engine.cached_prompt_tokens),
            ("source=\"host\"", &|_| 0),
            ("source=\"p2p\"", &|_| 0),
            ("source=\"disk\"", &|_| 0),
            ("source=\"external_unspecified\"", &|_| 0),
        ],
    );
    page.counter(
        engines,
        "generation_tokens",
        "Tokens generated",
        &[("", &|engine| engine.generation_tokens)],
    );
    page.counter(
        engines,
        "request_success",
        "Requests served to the end, by why that was the end",
        &[
            ("finished_reason=\"stop\"", &|engine| engine.stopped),
            ("finished_reason=\"length\"", &|engine| engine.full_length),
            ("finished_reason=\"abort\"", &|_| 0),
            ("finished_reason=\"error\"", &|_| 0),
            ("finished_reason=\"repetition\"", &|_| 0),
        ],
    );
    page.rejections();
}

fn histograms(page: &mut Page, engines: &[Engine]) {
    let all: [OfEngine; 16] = [
        ("request_prompt_tokens", "Tokens of the prompt of a request", |engine| {
            &engine.request_prompt_tokens
        }),
        ("request_generation_tokens", "Tokens that a request generated", |engine| {
            &engine.request_generation_tokens
        }),
        ("iteration_tokens_total", "Tokens of an iteration", |engine| &engine.iteration_tokens),
        ("request_max_num_generation_tokens", "Tokens of the longest answer of a request", |engine| {
            &engine.request_generation_tokens
        }),
        ("request_params_n", "Answers that a request asked for", |engine| &engine.params_n),
        ("request_params_max_tokens", "Tokens that a request asked for", |engine| &engine.params_max_tokens),
        ("time_to_first_token_seconds", "From arrival to the first token", |engine| &engine.ttft),
        ("inter_token_latency_seconds", "From a token to the next", |engine| &engine.itl),
        ("request_time_per_output_token_seconds", "The same, mean of a request", |engine| &engine.tpot),
        ("e2e_request_latency_seconds", "From arrival to the last token", |engine| &engine.e2e),
        ("request_queue_time_seconds", "From arrival to the first iteration", |engine| &engine.queue),
        ("request_inference_time_seconds", "From the first iteration to the last token", |engine| {
            &engine.inference
        }),
        ("request_prefill_time_seconds", "From the first iteration to the first token", |engine| {
            &engine.prefill
        }),
        ("request_decode_time_seconds", "From the first token to the last", |engine| &engine.decode),
        ("request_num_preemptions", "How often a request was preempted", |engine| &engine.num_preemptions),
        ("request_prefill_kv_computed_tokens", "Tokens of a prompt that were not cached", |engine| {
            &engine.computed_tokens
        }),
    ];
    for (name, help, of) in all {
        page.histogram(engines, name, help, of);
    }
}

/// A histogram: its name, what it is of, and where it is.
type OfEngine = (&'static str, &'static str, fn(&Engine) -> &Histogram);

/// A page that is being written.
struct Page {
    text: String,
    /// The name of the model, as labels have it.
    model: String,
    created: f64,
}

/// A series of an engine: what it has beside the usual labels, and its value.
type Counted<'a> = (&'a str, &'a dyn Fn(&Engine) -> u64);
type Measured<'a> = (&'a str, &'a dyn Fn(usize, &Engine) -> f64);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}.\n# TYPE {name} {kind}");
    }

    /// The labels of an engine with one more, sorted by name as the client library of Prometheus does.
    fn labels(&self, engine: usize, more: &str) -> String {
        let mut labels = vec![format!("engine=\"{engine}\""), format!("model_name=\"{}\"", self.model)];
        if !more.is_empty() {
            labels.push(more.to_owned());
        }
        labels.sort_by(|one, other| label(one).cmp(label(other)));
        labels.join(",")
    }

    fn gauge(&mut self, engines: &[Engine], name: &str, help: &str, series: &[Measured<'_>]) {
        let name = format!("vllm:{name}");
        self.family(&name, "gauge", help);
        for (number, engine) in engines.iter().enumerate() {
            for (more, value) in series {
                let labels = self.labels(number, more);
                let _ = writeln!(self.text, "{name}{{{labels}}} {:?}", value(number, engine));
            }
        }
    }

    fn counter(&mut self, engines: &[Engine], name: &str, help: &str, series: &[Counted<'_>]) {
        let total = format!("vllm:{name}_total");
        self.family(&total, "counter", help);
        for (number, engine) in engines.iter().enumerate() {
            for (more, value) in series {
                let labels = self.labels(number, more);
                let _ = writeln!(self.text, "{total}{{{labels}}} {:?}", value(engine) as f64);
            }
        }
        let more: Vec<&str> = series.iter().map(|(more, _)| *more).collect();
        self.created(engines.len(), name, help, &more);
    }

    /// When the series of a name began.
    fn created(&mut self, engines: usize, name: &str, help: &str, series: &[&str]) {
        let name = format!("vllm:{name}_created");
        self.family(&name, "gauge", help);
        for number in 0..engines {
            for more in series {
                let labels = self.labels(number, more);
                let _ = writeln!(self.text, "{name}{{{labels}}} {:?}", self.created);
            }
        }
    }

    fn histogram(&mut self, engines: &[Engine], name: &str, help: &str, of: fn(&Engine) -> &Histogram) {
        let full = format!("vllm:{name}");
        self.family(&full, "histogram", help);
        for (number, engine) in engines.iter().enumerate() {
            let Histogram { bounds, counts, sum } = of(engine);
            let mut up_to = 0;
            let bounds = bounds.iter().map(|bound| format!("{bound:?}")).chain(["+Inf".to_owned()]);
            for (bound, count) in bounds.zip(counts) {
                up_to += count;
                let labels = self.labels(number, &format!("le=\"{bound}\""));
                let _ = writeln!(self.text, "{full}_bucket{{{labels}}} {:?}", up_to as f64);
            }
            let labels = self.labels(number, "");
            let _ = writeln!(self.text, "{full}_count{{{labels}}} {:?}", up_to as f64);
            let _ = writeln!(self.text, "{full}_sum{{{labels}}} {sum:?}");
        }
        self.created(engines.len(), name, help, &[""]);
    }

    /// Nobody is turned away.
    fn rejections(&mut self) {
        let (model, created) = (self.model.clone(), self.created);
        for (name, kind, value) in [
            ("vllm:admission_rejections_total", "counter", 0.0),
            ("vllm:admission_rejections_created", "gauge", created),
        ] {
            self.family(name, kind, "Requests that were turned away since too many waited");
            for reason in ["max_num_queued_reqs", "max_num_queued_tokens"] {
                let _ = writeln!(self.text, "{name}{{model_name=\"{model}\",reason=\"{reason}\"}} {value:?}");
            }
        }
    }

    /// What the caches are like.
    fn cache_config(&mut self, engines: &[Engine]) {
        self.family("vllm:cache_config_info", "gauge", "Size and settings of the KV cache");
        for (number, engine) in engines.iter().enumerate() {
            let Engine { block_size, blocks, .. } = engine;
            let caching = if engine.prefix_caching { "True" } else { "False" };
            let _ = writeln!(
                self.text,
                "vllm:cache_config_info{{block_size=\"{block_size}\",enable_prefix_caching=\"{caching}\",\
                 engine=\"{number}\",kv_cache_size_tokens=\"{}\",num_gpu_blocks=\"{blocks}\"}} 1.0",
                u64::from(*block_size) * u64::from(*blocks)
            );
        }
    }
}

/// The name of a label.
fn label(label: &str) -> &str {
    label.split_once('=').map_or(label, |(name, _)| name)
}

/// The value of a label as text.
pub(super) fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
