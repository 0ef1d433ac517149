//! The models of a server, of which there is one.

use serde::Serialize;

use super::digits;
use crate::app::App;
use crate::clock::unix_time;

#[derive(Serialize)]
struct Models<'a> {
    object: &'static str,
    data: [Model<'a>; 1],
}

#[derive(Serialize)]
struct Model<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    owned_by: &'static str,
    root: &'a str,
    parent: Option<()>,
    max_model_len: u32,
    permission: [Permission; 1],
}

#[derive(Serialize)]
struct Permission {
    id: String,
    object: &'static str,
    created: u64,
    allow_create_engine: bool,
    allow_sampling: bool,
    allow_logprobs: bool,
    allow_search_indices: bool,
    allow_view: bool,
    allow_fine_tuning: bool,
    organization: &'static str,
    group: Option<()>,
    is_blocking: bool,
}

/// What `/v1/models` says.
pub(super) fn models(app: &App) -> String {
    let created = unix_time().as_secs();
    let model = &app.served.model;
    let permission = Permission {
        id: format!("modelperm-{:016x}", digits(app)),
        object: "model_permission",
        created,
        allow_create_engine: false,
        allow_sampling: true,
        allow_logprobs: true,
        allow_search_indices: false,
        allow_view: true,
        allow_fine_tuning: false,
        organization: "*",
        group: None,
        is_blocking: false,
    };
    let model = Model {
        id: model,
        object: "model",
        created,
        owned_by: "vllm",
        root: model,
        parent: None,
        max_model_len: app.served.max_model_len,
        permission: [permission],
    };
    serde_json::to_string(&Models { object: "list", data: [model] }).expect("texts and numbers are JSON")
}
