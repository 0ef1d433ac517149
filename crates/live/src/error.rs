//! What is answered to requests that cannot be served, in the three shapes that the real server has.

use std::fmt;

use hyper::StatusCode;
use serde::Serialize;

/// How errors look, to clients of this or that API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// In an object `error`, as vLLM has them.
    Nested,
    /// By themselves, as SGLang has those of `/v1`.
    Flat,
    /// A message in an object `error`, as SGLang has those of its own API.
    Bare,
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    message: String,
    kind: &'static str,
    param: Option<String>,
}

#[derive(Serialize)]
struct Body<'a> {
    error: Error<'a>,
}

#[derive(Serialize)]
struct Flat<'a> {
    object: &'static str,
    #[serde(flatten)]
    error: Error<'a>,
}

#[derive(Serialize)]
struct Error<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    param: Option<&'a str>,
    code: u16,
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl ApiError {
    /// A request of which the server itself says that it makes no sense.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        let kind = "BadRequestError";
        Self { status: StatusCode::BAD_REQUEST, message: message.into(), kind, param: None }
    }

    /// The same, of a field and its value.
    pub(crate) fn of(param: &str, message: impl fmt::Display, value: Option<&str>) -> Self {
        let value = value.map_or_else(String::new, |value| format!(", value={value}"));
        let message = format!("{message} (parameter={param}{value})");
        Self { param: Some(param.to_owned()), ..Self::bad_request(message) }
    }

    /// A body that is not what its schema says.
    pub(crate) fn schema(message: String, param: Option<String>) -> Self {
        Self { kind: "Bad Request", param, ..Self::bad_request(message) }
    }

    /// A model that is not served.
    pub(crate) fn no_model(model: &str, served: &str) -> Self {
        let message = format!("The model `{model}` does not exist. Valid aliases: {served}.");
        let param = Some("model".to_owned());
        Self { status: StatusCode::NOT_FOUND, message, kind: "NotFoundError", param }
    }

    /// Something that the server was not told to do for clients.
    pub(crate) fn permission(message: &str) -> Self {
        let kind = "PermissionDeniedError";
        Self { status: StatusCode::FORBIDDEN, message: message.to_owned(), kind, param: None }
    }

    /// A body that is larger than the server takes.
    pub(crate) fn too_large(most: usize) -> Self {
        let message = format!("The body has more than {most} bytes");
        Self { status: StatusCode::PAYLOAD_TOO_LARGE, ..Self::bad_request(message) }
    }

    /// A request that is not served, with the status of that.
    pub(crate) fn of_status(status: StatusCode, message: &str) -> Self {
        let kind = status.canonical_reason().unwrap_or("Error");
        Self { status, message: message.to_owned(), kind, param: None }
    }

    /// Something else went wrong.
    pub(crate) fn internal(message: &str) -> Self {
        let kind = "InternalServerError";
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, message: message.to_owned(), kind, param: None }
    }

    /// What the client gets.
    pub(crate) fn json(&self, shape: Shape) -> String {
        let Self { status, message, kind, param } = self;
        let error = Error { message, kind, param: param.as_deref(), code: status.as_u16() };
        let json = match shape {
            Shape::Nested => serde_json::to_string(&Body { error }),
            Shape::Flat => serde_json::to_string(&Flat { object: "error", error }),
            Shape::Bare => serde_json::to_string(&serde_json::json!({ "error": { "message": message } })),
        };
        json.expect("texts and numbers are JSON")
    }
}
