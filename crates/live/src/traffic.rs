//! What vLLM's web framework counts of requests, whatever they ask for: series that begin with `http_`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use hyper::StatusCode;

use crate::clock::unix_time;

/// Upper bounds of how long all requests take.
const FINE: [f64; 21] = [
    0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 4.5, 5.0, 7.5, 10.0,
    30.0, 60.0,
];

/// Upper bounds of how long those to a path take.
const COARSE: [f64; 3] = [0.1, 0.5, 1.0];

/// Paths that are not counted.
const LEFT_OUT: [&str; 6] = ["/health", "/metrics", "/ping", "/load", "/version", "/server_info"];

/// Counts of the requests to a port.
#[derive(Debug)]
pub(crate) struct Traffic {
    counts: Mutex<Counts>,
    created: f64,
}

#[derive(Debug)]
struct Counts {
    requests: BTreeMap<(&'static str, &'static str, &'static str), Counter>,
    sizes: BTreeMap<&'static str, Sizes>,
    durations: BTreeMap<(&'static str, &'static str), Durations>,
    all: Durations,
}

#[derive(Debug)]
struct Counter {
    count: u64,
    created: f64,
}

#[derive(Debug)]
struct Sizes {
    count: u64,
    request: u64,
    response: u64,
    created: f64,
}

#[derive(Debug)]
struct Durations {
    bounds: &'static [f64],
    counts: Vec<u64>,
    sum: f64,
    created: f64,
}

impl Durations {
    fn new(bounds: &'static [f64]) -> Self {
        Self { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0, created: unix_time().as_secs_f64() }
    }

    fn add(&mut self, seconds: f64) {
        self.counts[self.bounds.partition_point(|&bound| bound < seconds)] += 1;
        self.sum += seconds;
    }
}

/// A request on its way, which counts when it is dropped.
#[derive(Debug)]
pub(crate) struct Underway {
    traffic: Arc<Traffic>,
    handler: &'static str,
    method: &'static str,
    came: Instant,
    status: &'static str,
    sizes: (u64, u64),
}

impl Underway {
    /// Of this method to a path that is known, or to none; with the length that it says its body has.
    pub(crate) fn new(
        traffic: &Arc<Traffic>,
        handler: Option<&'static str>,
        method: &hyper::Method,
        length: u64,
    ) -> Option<Self> {
        let handler = handler.unwrap_or("none");
        if LEFT_OUT.contains(&handler) {
            return None;
        }
        let known = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"];
        let method = known.into_iter().find(|&known| known == method.as_str()).unwrap_or("OTHER");
        let traffic = Arc::clone(traffic);
        Some(Self { traffic, handler, method, came: Instant::now(), status: "5xx", sizes: (length, 0) })
    }

    /// It is answered so, with a body of this length if that is known.
    pub(crate) fn answered(&mut self, status: StatusCode, length: u64) {
        self.status = match status.as_u16() / 100 {
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            _ => "5xx",
        };
        self.sizes.1 = length;
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        let seconds = self.came.elapsed().as_secs_f64();
        let created = unix_time().as_secs_f64();
        let mut counts = self.traffic.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let Self { handler, method, status, sizes, .. } = *self;
        let counter =
            counts.requests.entry((handler, method, status)).or_insert(Counter { count: 0, created });
        counter.count += 1;
        let of_path =
            counts.sizes.entry(handler).or_insert(Sizes { count: 0, request: 0, response: 0, created });
        of_path.count += 1;
        of_path.request += sizes.0;
        of_path.response += sizes.1;
        counts.durations.entry((handler, method)).or_insert_with(|| Durations::new(&COARSE)).add(seconds);
        counts.all.add(seconds);
    }
}

impl Default for Traffic {
    fn default() -> Self {
        let counts = Counts {
            requests: BTreeMap::new(),
            sizes: BTreeMap::new(),
            durations: BTreeMap::new(),
            all: Durations::new(&FINE),
        };
        Self { counts: Mutex::new(counts), created: unix_time().as_secs_f64() }
    }
}

impl Traffic {
    /// The series, in Prometheus' text format.
    pub(crate) fn render(&self) -> String {
        let counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut page = String::new();
        family(&mut page, "http_requests_total", "counter", "Requests");
        for ((handler, method, status), counter) in &counts.requests {
            let labels = format!("handler=\"{handler}\",method=\"{method}\",status=\"{status}\"");
            let _ = writeln!(page, "http_requests_total{{{labels}}} {:?}", counter.count as f64);
        }
        if !counts.requests.is_empty() {
            family(&mut page, "http_requests_created", "gauge", "Requests");
        }
        for ((handler, method, status), counter) in &counts.requests {
            let labels = format!("handler=\"{handler}\",method=\"{method}\",status=\"{status}\"");
            let _ = writeln!(page, "http_requests_created{{{labels}}} {:?}", counter.created);
        }
        for (name, is_request) in [("http_request_size_bytes", true), ("http_response_size_bytes", false)] {
            let of = |sizes: &Sizes| if is_request { sizes.request } else { sizes.response };
            family(&mut page, name, "summary", "Length that bodies are said to have");
            for (handler, sizes) in &counts.sizes {
                let _ = writeln!(page, "{name}_count{{handler=\"{handler}\"}} {:?}", sizes.count as f64);
                let _ = writeln!(page, "{name}_sum{{handler=\"{handler}\"}} {:?}", of(sizes) as f64);
            }
            if !counts.sizes.is_empty() {
                family(&mut page, &format!("{name}_created"), "gauge", "Length that bodies are said to have");
            }
            for (handler, sizes) in &counts.sizes {
                let _ = writeln!(page, "{name}_created{{handler=\"{handler}\"}} {:?}", sizes.created);
            }
        }
        let name = "http_request_duration_highr_seconds";
        family(&mut page, name, "histogram", "How long requests take");
        histogram(&mut page, name, "", &counts.all);
        family(&mut page, &format!("{name}_created"), "gauge", "How long requests take");
        let _ = writeln!(page, "{name}_created {:?}", self.created);
        let name = "http_request_duration_seconds";
        family(&mut page, name, "histogram", "How long requests to a path take");
        for ((handler, method), durations) in &counts.durations {
            histogram(&mut page, name, &format!("handler=\"{handler}\",method=\"{method}\""), durations);
        }
        if !counts.durations.is_empty() {
            family(&mut page, &format!("{name}_created"), "gauge", "How long requests to a path take");
        }
        for ((handler, method), durations) in &counts.durations {
            let labels = format!("handler=\"{handler}\",method=\"{method}\"");
            let _ = writeln!(page, "{name}_created{{{labels}}} {:?}", durations.created);
        }
        page
    }
}

fn family(page: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(page, "# HELP {name} {help}.\n# TYPE {name} {kind}");
}

fn histogram(page: &mut String, name: &str, labels: &str, durations: &Durations) {
    let bounds = durations.bounds.iter().map(|bound| format!("{bound:?}")).chain(["+Inf".to_owned()]);
    let mut up_to = 0;
    // Between `handler` and `method`, by name.
    let (before, after) = labels.split_once(',').unwrap_or(("", ""));
    for (bound, count) in bounds.zip(&durations.counts) {
        up_to += count;
        let le = format!("le=\"{bound}\"");
        let all: Vec<&str> = [before, &le, after].into_iter().filter(|label| !label.is_empty()).collect();
        let _ = writeln!(page, "{name}_bucket{{{}}} {:?}", all.join(","), up_to as f64);
    }
    let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
    let _ = writeln!(page, "{name}_count{labels} {:?}", up_to as f64);
    let _ = writeln!(page, "{name}_sum{labels} {:?}", durations.sum);
}
