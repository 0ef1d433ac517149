//! `/tokenize` and `/detokenize`.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use serde::Serialize;
use serde_json::{Map, Value};

use super::{Answer, body, json, refusal};
use crate::app::App;
use crate::blocking::work;
use crate::error::ApiError;
use crate::params::{Fields, Problem, invalid, object};
use crate::request::{Api, to_tokenize};

/// Cuts a text into tokens, or says what tokens stand for.
pub(crate) async fn tokenize_or_not(request: Request<Incoming>, app: Arc<App>, is_tokenize: bool) -> Answer {
    let shape = app.shape(Api::Completions);
    let answered = async {
        let body = body(request, &app).await?;
        let body_size = body.len();
        let answer = move || {
            let object = object(&body)?;
            if is_tokenize { tokenize(&object, &app) } else { detokenize(&object, &app) }
        };
        work(body_size, answer).await?
    };
    let answered = answered.await;
    answered.map_or_else(|error| refusal(&error, shape), |text| json(StatusCode::OK, text))
}

#[derive(Serialize)]
struct Tokenized {
    count: usize,
    max_model_len: u32,
    tokens: Vec<u32>,
    token_strs: Option<Vec<String>>,
}

fn tokenize(body: &Map<String, Value>, app: &App) -> Result<String, ApiError> {
    let mut fields = Fields::new(body);
    let wants_texts = fields.bool("return_token_strs").unwrap_or(false);
    check_model(&mut fields, app)?;
    let tokens = to_tokenize(body, &app.tokenizer)?;
    let texts = || tokens.iter().map(|&id| app.tokenizer.name(id)).collect();
    let tokenized = Tokenized {
        count: tokens.len(),
        max_model_len: app.served.max_model_len,
        token_strs: wants_texts.then(texts),
        tokens,
    };
    Ok(serde_json::to_string(&tokenized).expect("texts and numbers are JSON"))
}

fn detokenize(body: &Map<String, Value>, app: &App) -> Result<String, ApiError> {
    let mut fields = Fields::new(body);
    if fields.get("tokens").is_none() {
        return Err(invalid(&[Problem::missing("body.tokens", body)]));
    }
    let tokens = fields.ids("tokens");
    fields.checked()?;
    check_model(&mut fields, app)?;
    let text = app.tokenizer.decode(&tokens, true);
    Ok(serde_json::to_string(&serde_json::json!({ "prompt": text })).expect("a text is JSON"))
}

fn check_model(fields: &mut Fields<'_>, app: &App) -> Result<(), ApiError> {
    let model = fields.text("model");
    fields.checked()?;
    match model.filter(|&model| model != app.served.model) {
        Some(model) => Err(ApiError::no_model(model, &app.served.model)),
        None => Ok(()),
    }
}
