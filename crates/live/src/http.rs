//! The port: connections, and who answers what.
//!
//! Routes, methods and their refusals are those of the real server, down to HEAD, so they are a table here and not a
//! framework's.

mod models;
mod tokens;

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Either, Full, LengthLimitError, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ALLOW, AUTHORIZATION, CONTENT_LENGTH,
    CONTENT_TYPE, HeaderName, HeaderValue, ORIGIN, SERVER, VARY,
};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioTimer;
use serde_json::{Map, Value};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::admin::Order;
use crate::answer::Head;
use crate::app::App;
use crate::blocking::work;
use crate::clock::unix_time;
use crate::deployment::Command;
use crate::error::{ApiError, Shape};
use crate::generate::{Answers, EventStream};
use crate::metrics::Snapshot;
use crate::params::object;
use crate::patience::Patience;
use crate::request::{Api, Dialect, Wanted};
use crate::traffic::Underway;
use crate::{responses, sglang};

/// Bytes of the largest body.
const MOST_BODY: usize = 32 << 20;

/// Connections at a time; others wait for one to end.
const MOST_CONNECTIONS: usize = 8192;

/// How long clients may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timeouts {
    /// For the head of a request.
    pub head: Duration,
    /// For its body.
    pub body: Duration,
    /// To take some of an answer that waits to be sent.
    pub answer: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        Self { head: Duration::from_secs(30), body: minute, answer: minute }
    }
}

pub(crate) use self::tokens::tokenize_or_not;

pub(crate) type Answer = Response<Either<Full<Bytes>, EventStream>>;

/// Takes connections for ever. Those that there are end with it.
pub(crate) async fn serve(listener: TcpListener, app: Arc<App>) {
    serve_by(listener, app.timeouts, move |request| answer(request, Arc::clone(&app))).await;
}

/// The same, with somebody else who answers.
pub(crate) async fn serve_by<B, F>(
    listener: TcpListener,
    timeouts: Timeouts,
    answer: impl Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
) where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= MOST_CONNECTIONS {
            connections.join_next().await;
            continue;
        }
        let Ok((connection, _)) = listener.accept().await else {
            // Out of file descriptors, say: it may be better in a moment.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        connections.spawn(talk(connection, timeouts, answer.clone()));
    }
}

async fn talk<B, F>(connection: TcpStream, timeouts: Timeouts, answer: impl Fn(Request<Incoming>) -> F)
where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + 'static,
    F: Future<Output = Response<B>>,
{
    // A token is not to wait for the next one.
    let _ = connection.set_nodelay(true);
    let service = service_fn(|request| {
        let answered = answer(request);
        async move { Ok::<_, Infallible>(answered.await) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(timeouts.head).max_buf_size(64 << 10);
    // A token is some 200 bytes: to copy them is quicker than to send the parts of an HTTP chunk from where they are.
    http.writev(false);
    // What is wrong with a connection ends it.
    let _ = http.serve_connection(Patience::new(connection, timeouts.answer), service).await;
}

async fn answer(request: Request<Incoming>, app: Arc<App>) -> Answer {
    let is_head = request.method() == Method::HEAD;
    let dialect = app.served.dialect;
    let mut answer = dispatch(request, app).await;
    let headers = answer.headers_mut();
    headers.insert(SERVER, HeaderValue::from_static("uvicorn"));
    if dialect == Dialect::Vllm {
        headers.entry(VARY).or_insert(HeaderValue::from_static("Origin"));
    }
    if is_head {
        *answer.body_mut() = Either::Left(Full::default());
    }
    answer
}

async fn dispatch(request: Request<Incoming>, app: Arc<App>) -> Answer {
    let path = request.uri().path().to_owned();
    let guarded = match app.served.dialect {
        Dialect::Vllm => is_guarded(request.method(), &path),
        Dialect::Sglang => sglang::is_guarded(request.method(), &path),
    };
    if guarded && !is_authorized(&request, app.api_key.as_deref()) {
        return json(StatusCode::UNAUTHORIZED, r#"{"error":"Unauthorized"}"#.to_owned());
    }
    if app.served.dialect == Dialect::Sglang {
        return sglang::dispatch(request, app).await;
    }
    if let Some(answer) = preflight(&request) {
        return answer;
    }
    let dev_routes = if app.dev_mode { &DEV_ROUTES[..] } else { &[] };
    let route = ROUTES.iter().chain(dev_routes).find(|(known, _)| *known == path);
    let fits = |methods: &str| methods.split(", ").any(|method| method == request.method().as_str());
    let handler = route.filter(|(_, methods)| fits(methods)).map(|(known, _)| *known);
    let length = request.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    let underway = Underway::new(&app.traffic, handler, request.method(), length.unwrap_or(0));
    let mut answer = match (route, handler) {
        (None, _) => detail(StatusCode::NOT_FOUND, "Not Found"),
        (Some((_, methods)), None) => {
            let mut answer = detail(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
            answer
        }
        (_, Some(handler)) => handle(handler, request, app).await,
    };
    if let Some(mut underway) = underway {
        let length = answer.body().size_hint().exact();
        underway.answered(answer.status(), length.unwrap_or(0));
        if let Either::Right(stream) = answer.body_mut() {
            stream.underway = Some(underway);
        }
    }
    answer
}

/// What a browser is told that asks on behalf of another site: that it may not.
fn preflight(request: &Request<Incoming>) -> Option<Answer> {
    let headers = request.headers();
    headers.get(ORIGIN).and(headers.get(ACCESS_CONTROL_REQUEST_METHOD))?;
    if request.method() != Method::OPTIONS {
        return None;
    }
    let mut answer = text(StatusCode::BAD_REQUEST, "Disallowed CORS origin".to_owned());
    let vary = "Origin, Access-Control-Request-Method, Access-Control-Request-Headers, \
                Access-Control-Request-Private-Network";
    let methods = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT, QUERY";
    let told = answer.headers_mut();
    told.insert(VARY, HeaderValue::from_static(vary));
    told.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
    told.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    if let Some(asked) = headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        told.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
    }
    Some(answer)
}

/// Paths, and the methods that each has.
const ROUTES: [(&str, &str); 13] = [
    ("/health", "GET"),
    ("/version", "GET"),
    ("/load", "GET"),
    ("/v1/models", "GET"),
    ("/metrics", "GET, HEAD"),
    ("/ping", "GET, POST"),
    ("/v1/completions", "POST"),
    ("/v1/chat/completions", "POST"),
    ("/v1/responses", "POST"),
    ("/tokenize", "POST"),
    ("/detokenize", "POST"),
    ("/v1/completions/render", "POST"),
    ("/inference/v1/generate", "POST"),
];

/// The same in development mode.
const DEV_ROUTES: [(&str, &str); 1] = [("/reset_prefix_cache", "POST")];

async fn handle(path: &str, request: Request<Incoming>, app: Arc<App>) -> Answer {
    match path {
        "/health" | "/ping" => empty(),
        "/version" => json(StatusCode::OK, format!(r#"{{"version":"{VLLM_VERSION}"}}"#)),
        "/load" => json(StatusCode::OK, format!(r#"{{"server_load":{}}}"#, app.under_way())),
        "/metrics" => metrics(&app).await,
        "/v1/models" => json(StatusCode::OK, models::models(&app)),
        "/v1/completions" => generate(request, app, Api::Completions).await,
        "/v1/chat/completions" => generate(request, app, Api::Chat).await,
        "/v1/responses" => generate(request, app, Api::Responses).await,
        "/reset_prefix_cache" => reset_prefix_cache(&request, &app).await,
        "/v1/completions/render" | "/inference/v1/generate" => refusal(
            &ApiError::permission(
                "Scale-out endpoints are disabled. Restart vllm serve with --enable-scale-out to enable them.",
            ),
            Shape::Nested,
        ),
        path => tokenize_or_not(request, app, path == "/tokenize").await,
    }
}

/// `/reset_prefix_cache`: nothing is preempted for it, so it fails while a worker has requests.
async fn reset_prefix_cache(request: &Request<Incoming>, app: &App) -> Answer {
    let query = request.uri().query().unwrap_or_default();
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let preempts = |(key, value): (&str, &str)| {
        key == "reset_running_requests" && !["false", "0", "no", "off", "f", "n"].contains(&value)
    };
    if pairs.any(preempts) {
        let error =
            ApiError::bad_request("reset_running_requests is not there: running requests are not preempted");
        return refusal(&error, Shape::Nested);
    }
    match reset_caches(app).await {
        Ok(success) => json(StatusCode::OK, format!(r#"{{"success":{success}}}"#)),
        Err(error) => refusal(&error, Shape::Nested),
    }
}

/// Empties the prefix caches behind a port; whether nobody used them.
pub(crate) async fn reset_caches(app: &App) -> Result<bool, ApiError> {
    let (sender, is_reset) = oneshot::channel();
    let stopping = || ApiError::internal("the server is stopping");
    app.commands.send(Command::Order(Order::ResetCaches(app.worker, sender))).map_err(|_| stopping())?;
    is_reset.await.map_err(|_| stopping())
}

/// The release of vLLM that is imitated.
pub(crate) const VLLM_VERSION: &str = "0.32.0";

/// Whether a path asks for the key, if there is one.
fn is_guarded(method: &Method, path: &str) -> bool {
    let guarded = ["/v1", "/v2", "/inference", "/cohere"];
    method != Method::OPTIONS && guarded.iter().any(|start| path.starts_with(start))
}

/// Whether a request has the key.
fn is_authorized(request: &Request<Incoming>, key: Option<&str>) -> bool {
    let Some(key) = key else { return true };
    let given = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
    given
        .and_then(|given| given.strip_prefix(b"Bearer "))
        .is_some_and(|given| is_equal(given, key.as_bytes()))
}

/// Compares without saying by the time that it takes how much is right.
fn is_equal(given: &[u8], key: &[u8]) -> bool {
    let mut differences = u8::from(given.len() != key.len());
    for (place, &byte) in key.iter().enumerate() {
        differences |= byte ^ given.get(place).copied().unwrap_or(0);
    }
    std::hint::black_box(differences) == 0
}

pub(crate) async fn generate(request: Request<Incoming>, app: Arc<App>, api: Api) -> Answer {
    let header_id = request.headers().get("x-request-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    let shape = app.shape(api);
    let load_format = LoadFormat::of(&request).filter(|_| app.served.dialect == Dialect::Vllm);
    let ours = Arc::clone(&app);
    let read = move |body: &Map<String, Value>, app: &App| match api {
        Api::Responses => responses::wanted(body, &app.served, &app.tokenizer),
        api => Wanted::of(api, body, &app.served, &app.tokenizer),
    };
    match answered(request, app, header_id, read).await {
        Err(error) => refusal(&error, shape),
        Ok(Answered::Stream(stream)) => event_stream(*stream),
        Ok(Answered::Whole(text)) => {
            let mut answer = json(StatusCode::OK, text);
            if let (Some(format), Ok(snapshots)) = (load_format, snapshot(&ours).await) {
                answer.headers_mut().extend(format.header(&snapshots));
            }
            answer
        }
    }
}

/// What a client gets that asked for an answer.
pub(crate) enum Answered {
    Stream(Box<EventStream>),
    Whole(String),
}

/// Reads what a client wants, and answers it. What takes long is done elsewhere.
pub(crate) async fn answered(
    request: Request<Incoming>,
    app: Arc<App>,
    header_id: Option<String>,
    read: impl FnOnce(&Map<String, Value>, &App) -> Result<Wanted, ApiError> + Send + 'static,
) -> Result<Answered, ApiError> {
    let came = Instant::now();
    let body = body(request, &app).await?;
    let ours = Arc::clone(&app);
    let wanted = work(body.len(), move || read(&object(&body)?, &ours)).await??;
    let head = head(&app, &wanted, header_id);
    let (is_stream, size) = (wanted.stream, wanted.tokens(&app.served));
    let begin = move || {
        let answers = Answers::begin(app, wanted, head, came)?;
        Ok::<_, ApiError>(if is_stream {
            Begun::Stream(Box::new(answers.stream()))
        } else {
            Begun::Whole(Box::new(answers))
        })
    };
    match work(size, begin).await?? {
        Begun::Stream(stream) => Ok(Answered::Stream(stream)),
        Begun::Whole(answers) => Ok(Answered::Whole(answers.whole().await?)),
    }
}

/// Answers that are on their way.
enum Begun {
    Stream(Box<EventStream>),
    Whole(Box<Answers>),
}

/// How a client wants to be told of the load, in the words of ORCA.
#[derive(Debug, Clone, Copy)]
enum LoadFormat {
    Json,
    Text,
}

impl LoadFormat {
    fn of(request: &Request<Incoming>) -> Option<Self> {
        let format = request.headers().get("endpoint-load-metrics-format")?.to_str().ok()?;
        match format.to_ascii_uppercase().as_str() {
            "JSON" => Some(Self::Json),
            "TEXT" => Some(Self::Text),
            _ => None,
        }
    }

    /// What the workers behind a port say together.
    fn header(self, snapshots: &[Snapshot]) -> Option<(HeaderName, HeaderValue)> {
        let waiting = snapshots.iter().map(|one| one.waiting).sum::<u64>() as f64;
        let usage = snapshots.iter().map(|one| one.usage).sum::<f64>() / snapshots.len().max(1) as f64;
        let text = match self {
            Self::Json => format!(
                "JSON {{\"named_metrics\": {{\"num_requests_waiting\": {waiting:?}, \"kv_cache_usage_perc\": {usage:?}}}}}"
            ),
            Self::Text => format!(
                "TEXT named_metrics.num_requests_waiting={waiting:?}, named_metrics.kv_cache_usage_perc={usage:?}"
            ),
        };
        Some((HeaderName::from_static("endpoint-load-metrics"), HeaderValue::from_str(&text).ok()?))
    }
}

/// Answers as a stream of events.
pub(crate) fn event_stream(stream: EventStream) -> Answer {
    let mut answer = Response::new(Either::Right(stream));
    let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}

pub(crate) fn head(app: &App, wanted: &Wanted, header_id: Option<String>) -> Head {
    let kind = match wanted.api {
        Api::Completions => "cmpl-",
        Api::Chat => "chatcmpl-",
        Api::Responses => "resp_",
        Api::Generate { .. } => "",
    };
    let digits = || format!("{:016x}", digits(app));
    let id = header_id.or_else(|| wanted.request_id.clone()).unwrap_or_else(digits);
    Head {
        id: format!("{kind}{id}"),
        created: unix_time().as_secs(),
        model: app.served.model.clone(),
        fingerprint: app.fingerprint.clone(),
        end: app.tokenizer.end(),
    }
}

/// Digits of an id, which differ from those of all others of this server and most of others.
pub(crate) fn digits(app: &App) -> u64 {
    let bytes = [app.number(), unix_time().as_nanos() as u64].map(u64::to_le_bytes).concat();
    xxhash_rust::xxh3::xxh3_64(&bytes)
}

/// The body of a request that says that it is JSON.
async fn body(request: Request<Incoming>, app: &App) -> Result<Bytes, ApiError> {
    let kind = request.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        let message = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed";
        return Err(ApiError::schema(message.to_owned(), None));
    }
    let body = Limited::new(request.into_body(), MOST_BODY).collect();
    match tokio::time::timeout(app.timeouts.body, body).await {
        Err(_) => Err(ApiError::bad_request("The body did not come in time")),
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(ApiError::too_large(MOST_BODY)),
        Ok(Err(_)) => Err(ApiError::bad_request("The body did not come as a whole")),
    }
}

pub(crate) async fn metrics(app: &App) -> Answer {
    let (sender, text) = oneshot::channel();
    let asked = app.commands.send(Command::Metrics(app.worker, sender));
    match (asked, text.await) {
        (Ok(()), Ok(mut text)) => {
            if app.served.dialect == Dialect::Vllm {
                text += &app.traffic.render();
            }
            let mut answer = Response::new(Either::Left(Full::new(Bytes::from(text))));
            let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            answer.headers_mut().insert(CONTENT_TYPE, kind);
            answer
        }
        _ => refusal(&ApiError::internal("the server is stopping"), app.shape(Api::Completions)),
    }
}

/// How the workers behind a port are.
pub(crate) async fn snapshot(app: &App) -> Result<Vec<Snapshot>, ApiError> {
    let (sender, snapshots) = oneshot::channel();
    let stopping = || ApiError::internal("the server is stopping");
    app.commands.send(Command::Snapshot(app.worker, sender)).map_err(|_| stopping())?;
    snapshots.await.map_err(|_| stopping())
}

pub(crate) fn refusal(error: &ApiError, shape: Shape) -> Answer {
    json(error.status, error.json(shape))
}

pub(crate) fn detail(status: StatusCode, detail: &str) -> Answer {
    json(status, format!(r#"{{"detail":"{detail}"}}"#))
}

pub(crate) fn json(status: StatusCode, text: String) -> Answer {
    let mut answer = Response::new(Either::Left(Full::new(Bytes::from(text))));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

/// Plain text.
pub(crate) fn text(status: StatusCode, text: String) -> Answer {
    let mut answer = Response::new(Either::Left(Full::new(Bytes::from(text))));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

pub(crate) fn empty() -> Answer {
    Response::new(Either::Left(Full::default()))
}
