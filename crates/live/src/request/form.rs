//! `response_format`: what form an answer is to have. Answers are made up and have none, but what is no form is refused.

use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::params::{Fields, Problem};

const PATH: &str = "body.response_format";

/// Forms of an answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Form {
    /// Any, or one that needs nothing else.
    #[default]
    Any,
    /// By a schema that is missing.
    NoSchema,
}

impl Form {
    pub(super) fn read(fields: &mut Fields<'_>) -> Self {
        let Some(value) = fields.get("response_format") else { return Self::Any };
        let Some(form) = value.as_object() else {
            let msg = "Input should be a valid dictionary or object to extract fields from";
            fields.wrong(Problem::new("model_attributes_type", PATH, msg, value));
            return Self::Any;
        };
        match form.get("type").and_then(Value::as_str) {
            Some("text" | "json_object") => return Self::Any,
            Some("json_schema") => {
                let has_schema = form.get("json_schema").is_some_and(|schema| !schema.is_null());
                return if has_schema { Self::Any } else { Self::NoSchema };
            }
            Some("structural_tag")
                if has(form, "format") || (has(form, "structures") && has(form, "triggers")) =>
            {
                return Self::Any;
            }
            _ => {}
        }
        for problem in none_of_three(form) {
            fields.wrong(problem);
        }
        Self::Any
    }

    pub(super) fn check(&self) -> Result<(), ApiError> {
        if *self == Self::Any {
            return Ok(());
        }
        let message = "When response_format type is 'json_schema', the 'json_schema' field must be provided.";
        Err(ApiError::of("response_format", message, None))
    }
}

fn has(form: &Map<String, Value>, key: &str) -> bool {
    form.contains_key(key)
}

/// Why an object is none of the three kinds of forms that there are.
fn none_of_three(form: &Map<String, Value>) -> Vec<Problem> {
    let loc = |key: &str| format!("{PATH}.{key}");
    let kind = |known: &str| match form.get("type") {
        None => Some(Problem::missing(&loc("type"), form)),
        Some(kind) if kind == "structural_tag" && known.contains("structural") => None,
        Some(kind) => Some(Problem::literal(loc("type"), known, kind)),
    };
    let missing = |key: &str| (!has(form, key)).then(|| Problem::missing(&loc(key), form));
    let problems = [
        kind("'text', 'json_object' or 'json_schema'"),
        kind("'structural_tag'"),
        missing("format"),
        kind("'structural_tag'"),
        missing("structures"),
        missing("triggers"),
    ];
    problems.into_iter().flatten().collect()
}
