//! The API of SGLang: its own endpoints, and those below `/v1` as it answers them.
//!
//! Names and shapes are those of its package, version 0.5.23; no server of it was recorded.

pub(crate) mod answer;
mod request;

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};

use crate::app::App;
use crate::clock::{rfc3339, unix_time};
use crate::error::{ApiError, Shape};
use crate::http::{
    Answer, Answered, answered, detail, empty, event_stream, generate, json as json_answer, metrics, refusal,
    reset_caches, snapshot, text, tokenize_or_not,
};
use crate::metrics::Snapshot;
use crate::request::Api;

/// The release of SGLang that is imitated.
pub(crate) const VERSION: &str = "0.5.23";

/// How long it takes to try again to empty caches that are in use.
const FLUSH_RETRY: Duration = Duration::from_millis(20);

/// What a client gets.
pub(crate) async fn dispatch(request: Request<Incoming>, app: Arc<App>) -> Answer {
    let path = request.uri().path().to_owned();
    let allowed = match path.as_str() {
        "/health" | "/health_generate" | "/ready" | "/metrics" | "/v1/loads" | "/v1/models"
        | "/get_model_info" | "/model_info" | "/get_server_info" | "/server_info" => "GET",
        "/generate" => "POST, PUT",
        "/flush_cache" => "GET, POST",
        "/v1/completions"
        | "/v1/chat/completions"
        | "/tokenize"
        | "/v1/tokenize"
        | "/detokenize"
        | "/v1/detokenize" => "POST",
        path if path.starts_with("/v1/models/") => "GET",
        _ => return detail(StatusCode::NOT_FOUND, "Not Found"),
    };
    if !allowed.split(", ").any(|method| method == request.method().as_str()) {
        let mut answer = detail(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
        return answer;
    }
    match path.as_str() {
        "/health" | "/health_generate" | "/ready" => empty(),
        "/metrics" => metrics(&app).await,
        "/v1/loads" => match snapshot(&app).await {
            Ok(snapshots) => loads(request.uri().query().unwrap_or_default(), &snapshots),
            Err(error) => refusal(&error, Shape::Flat),
        },
        "/v1/models" => {
            json_answer(StatusCode::OK, json!({"object": "list", "data": [model(&app)]}).to_string())
        }
        "/get_model_info" | "/model_info" => json_answer(StatusCode::OK, model_info(&app)),
        "/get_server_info" | "/server_info" => match snapshot(&app).await {
            Ok(snapshots) => json_answer(StatusCode::OK, server_info(&app, &snapshots)),
            Err(error) => refusal(&error, Shape::Flat),
        },
        "/flush_cache" => flush_cache(request.uri().query().unwrap_or_default(), &app).await,
        "/generate" => native(request, app).await,
        "/v1/completions" => generate(request, app, Api::Completions).await,
        "/v1/chat/completions" => generate(request, app, Api::Chat).await,
        "/tokenize" | "/v1/tokenize" => tokenize_or_not(request, app, true).await,
        "/detokenize" | "/v1/detokenize" => tokenize_or_not(request, app, false).await,
        _ if path.strip_prefix("/v1/models/") == Some(&app.served.model) => {
            json_answer(StatusCode::OK, model(&app).to_string())
        }
        _ => {
            let error = json!({
                "message": "There is no such model", "type": "invalid_request_error", "param": "model",
                "code": "model_not_found",
            });
            json_answer(StatusCode::NOT_FOUND, json!({ "error": error }).to_string())
        }
    }
}

/// Whether a path asks for the key, if there is one: all but those by which others look whether the server is there.
pub(crate) fn is_guarded(method: &Method, path: &str) -> bool {
    method != Method::OPTIONS && !path.starts_with("/health") && !path.starts_with("/metrics")
}

/// `/flush_cache`: empties the prefix caches as soon as nobody uses them, for which it waits as long as it is told.
async fn flush_cache(query: &str, app: &App) -> Answer {
    let timeout = query.split('&').find_map(|pair| pair.strip_prefix("timeout=")).unwrap_or("0");
    let timeout = timeout.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let Some(timeout) = timeout else {
        let error = ApiError::bad_request("timeout has to be a number of seconds, 0 or more");
        return refusal(&error, Shape::Flat);
    };
    let until = Instant::now().checked_add(timeout);
    loop {
        match reset_caches(app).await {
            Err(error) => return refusal(&error, Shape::Flat),
            Ok(true) => {
                let said = "Cache flushed.\nPlease check backend logs for more details. (When there are running or \
                            waiting requests, the operation will not be performed.)\n";
                return text(StatusCode::OK, said.to_owned());
            }
            Ok(false) if until.is_some_and(|until| Instant::now() >= until) => {
                return text(StatusCode::BAD_REQUEST, "Flush cache failed.\n".to_owned());
            }
            Ok(false) => tokio::time::sleep(FLUSH_RETRY).await,
        }
    }
}

/// `/generate`.
async fn native(request: Request<Incoming>, app: Arc<App>) -> Answer {
    let read =
        |body: &serde_json::Map<String, Value>, app: &App| request::wanted(body, &app.served, &app.tokenizer);
    match answered(request, app, None, read).await {
        Err(error) => refusal(&error, Shape::Bare),
        Ok(Answered::Stream(stream)) => event_stream(*stream),
        Ok(Answered::Whole(text)) => json_answer(StatusCode::OK, text),
    }
}

fn model(app: &App) -> Value {
    json!({
        "id": app.served.model, "object": "model", "created": unix_time().as_secs(), "owned_by": "sglang",
        "root": app.served.model, "parent": null, "max_model_len": app.served.max_model_len,
    })
}

fn model_info(app: &App) -> String {
    let info = json!({
        "model_path": app.served.model, "served_model_name": app.served.model, "tokenizer_path": app.served.model,
        "is_generation": true, "preferred_sampling_params": null, "weight_version": "default",
        "load_format": "auto", "reasoning_parser": null, "tool_call_parser": null,
        "disaggregation_mode": "null", "has_image_understanding": false, "has_audio_understanding": false,
        "model_type": null, "architectures": null,
    });
    info.to_string()
}

fn server_info(app: &App, snapshots: &[Snapshot]) -> String {
    let states = snapshots.iter().map(|snapshot| {
        json!({
            "last_gen_throughput": snapshot.gen_throughput,
            "memory_usage": {"token_capacity": snapshot.capacity},
        })
    });
    let info = json!({
        "model_path": app.served.model, "served_model_name": app.served.model,
        "context_length": app.served.max_model_len, "page_size": snapshots.first().map(|one| one.page_size),
        "max_total_num_tokens": snapshots.first().map(|one| one.capacity), "dp_size": snapshots.len(),
        "random_seed": app.seed, "disaggregation_mode": "null", "status": "ready",
        "internal_states": states.collect::<Vec<_>>(), "version": VERSION,
    });
    info.to_string()
}

/// Numbers of a worker, as `/v1/loads` calls them.
fn core(rank: usize, snapshot: &Snapshot) -> Vec<(&'static str, Value)> {
    vec![
        ("timestamp", json!(unix_time().as_secs_f64())),
        ("dp_rank", json!(rank)),
        ("num_running_reqs", json!(snapshot.running)),
        ("num_waiting_reqs", json!(snapshot.waiting)),
        ("num_used_tokens", json!(snapshot.used)),
        ("num_total_tokens", json!(snapshot.used)),
        ("num_active_tokens", json!(snapshot.used)),
        ("max_total_num_tokens", json!(snapshot.capacity)),
        ("max_running_requests", json!(snapshot.max_running)),
        ("token_usage", json!(snapshot.usage)),
        ("gen_throughput", json!(snapshot.gen_throughput)),
        ("cache_hit_rate", json!(snapshot.cache_hit_rate)),
        ("utilization", json!(snapshot.usage)),
    ]
}

/// `/v1/loads`, as JSON or as a page for Prometheus.
fn loads(query: &str, snapshots: &[Snapshot]) -> Answer {
    let asked = |key: &str| {
        query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(name, _)| *name == key)
            .map(|(_, value)| value)
    };
    let rank = match asked("dp_rank").map(str::parse::<usize>) {
        None => None,
        Some(Ok(rank)) => Some(rank),
        Some(Err(_)) => {
            return refusal(&ApiError::bad_request("dp_rank has to be a whole number"), Shape::Flat);
        }
    };
    let sections: Vec<&str> = asked("include").map_or(vec!["all"], |include| include.split(',').collect());
    let known = ["core", "memory", "spec", "lora", "disagg", "queues", "all"];
    if let Some(section) = sections.iter().find(|section| !known.contains(section)) {
        let message = format!("include has {section:?}, but there are only {}", known.join(", "));
        return refusal(&ApiError::bad_request(message), Shape::Flat);
    }
    let ranks = snapshots.iter().enumerate().filter(|(number, _)| rank.is_none_or(|rank| rank == *number));
    if asked("format") == Some("prometheus") {
        let mut page = String::new();
        let ranks: Vec<_> = ranks.map(|(number, snapshot)| (number, core(number, snapshot))).collect();
        for place in 0..ranks.first().map_or(0, |(_, numbers)| numbers.len()) {
            let name = ranks[0].1[place].0;
            if name == "dp_rank" {
                continue;
            }
            let _ = writeln!(page, "# TYPE sglang_{name} gauge");
            for (number, numbers) in &ranks {
                let _ = writeln!(page, "sglang_{name}{{dp_rank=\"{number}\"}} {}", numbers[place].1);
            }
        }
        let mut answer = Response::new(http_body_util::Either::Left(page.into()));
        let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        answer.headers_mut().insert(CONTENT_TYPE, kind);
        return answer;
    }
    let wants = |section| sections.contains(&"all") || sections.contains(&section);
    let loads = ranks.map(|(number, snapshot)| {
        let mut load: serde_json::Map<String, Value> =
            core(number, snapshot).into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        if wants("memory") {
            let memory =
                json!({"weight_gb": 0.0, "kv_cache_gb": 0.0, "graph_gb": 0.0, "token_capacity": snapshot.capacity});
            load.insert("memory".to_owned(), memory);
        }
        if wants("queues") {
            let queues = json!({
                "waiting": snapshot.waiting, "grammar": 0, "paused": 0, "retracted": 0, "prealloc_ready": 0,
            });
            load.insert("queues".to_owned(), queues);
        }
        load
    });
    let answer = json!({
        "timestamp": rfc3339(unix_time()), "version": VERSION, "accelerator": null, "num_accelerators": 1,
        "loads": loads.collect::<Vec<_>>(),
    });
    json_answer(StatusCode::OK, answer.to_string())
}
