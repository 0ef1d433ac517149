//! How tokens are to be drawn, which a mock only checks.

use serde_json::Value;

use super::Dialect;
use crate::error::ApiError;
use crate::params::{Fields, float};

/// Fields of a body, each of its type.
#[derive(Debug, Default)]
pub(super) struct Sampling {
    pub(super) temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<i64>,
    min_p: Option<f64>,
    presence_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    repetition_penalty: Option<f64>,
    has_empty_bad_word: bool,
}

impl Sampling {
    pub(super) fn read(fields: &mut Fields<'_>) -> Self {
        let bad_words = fields.get("bad_words").and_then(Value::as_array);
        Self {
            temperature: fields.number("temperature"),
            top_p: fields.number("top_p"),
            top_k: fields.int("top_k"),
            min_p: fields.number("min_p"),
            presence_penalty: fields.number("presence_penalty"),
            frequency_penalty: fields.number("frequency_penalty"),
            repetition_penalty: fields.number("repetition_penalty"),
            has_empty_bad_word: bad_words.is_some_and(|words| words.iter().any(|word| word == "")),
        }
    }

    /// In the order and the words of vLLM.
    pub(super) fn check(&self, dialect: Dialect) -> Result<(), ApiError> {
        let bad = |message: String| Err(ApiError::bad_request(message));
        for (name, value) in
            [("presence_penalty", self.presence_penalty), ("frequency_penalty", self.frequency_penalty)]
        {
            if let Some(value) = value.filter(|value| !(-2.0..=2.0).contains(value)) {
                return bad(format!("{name} must be in [-2, 2], got {}.", float(value)));
            }
        }
        match self.repetition_penalty {
            Some(value) if !value.is_finite() => {
                return bad(format!("repetition_penalty must be a finite number, got {}.", float(value)));
            }
            Some(value) if value <= 0.0 => {
                return bad(format!("repetition_penalty must be greater than zero, got {}.", float(value)));
            }
            _ => {}
        }
        let wrong = |param: &str, what: &str, value: f64| {
            let value = float(value);
            Err(ApiError::of(param, format!("{param} must be {what}, got {value}."), Some(&value)))
        };
        match self.temperature {
            Some(value) if !value.is_finite() => return wrong("temperature", "a finite number", value),
            Some(value) if value < 0.0 => return wrong("temperature", "non-negative", value),
            Some(value) if value > 2.0 && dialect == Dialect::Vllm => {
                return wrong("temperature", "in [0, 2]", value);
            }
            _ => {}
        }
        if let Some(value) = self.top_p.filter(|value| !(*value > 0.0 && *value <= 1.0)) {
            return wrong("top_p", "in (0, 1]", value);
        }
        if let Some(value) = self.top_k.filter(|&value| value < -1) {
            return bad(format!("top_k must be 0 (disable), or at least 1, got {value}."));
        }
        if let Some(value) = self.min_p.filter(|value| !(0.0..=1.0).contains(value)) {
            return bad(format!("min_p must be in [0, 1], got {}.", float(value)));
        }
        Ok(())
    }

    /// What is checked behind the rest.
    pub(super) fn check_words(&self) -> Result<(), ApiError> {
        if self.has_empty_bad_word {
            return Err(ApiError::bad_request("bad_words cannot contain an empty string."));
        }
        Ok(())
    }
}
