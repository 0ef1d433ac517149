//! Fields that name tokens of the vocabulary, checked as vLLM checks them. None of these refusals was recorded: they are
//! those that its sources document.

use crate::error::ApiError;
use crate::params::{Fields, Problem};

/// What a client says of tokens. What it favours has no effect on answers that are made up.
#[derive(Debug, Default)]
pub(super) struct Vocabulary {
    /// Names of the tokens that it favours, as they are written.
    biased: Vec<String>,
    /// The only tokens that answers may have; nothing, if all may be.
    pub(super) allowed: Option<Vec<u32>>,
}

impl Vocabulary {
    pub(super) fn read(fields: &mut Fields<'_>) -> Self {
        let allowed = fields.get("allowed_token_ids").is_some().then(|| fields.ids("allowed_token_ids"));
        Self { biased: biased(fields), allowed }
    }

    /// Refuses what the vocabulary does not have.
    pub(super) fn check(&self, size: u32) -> Result<(), ApiError> {
        let is_known = |id: i64| (0..i64::from(size)).contains(&id);
        let mut unknown = Vec::new();
        for name in &self.biased {
            let Ok(id) = name.trim().parse::<i64>() else {
                return Err(ApiError::bad_request(format!(
                    "invalid literal for int() with base 10: '{name}'"
                )));
            };
            unknown.extend((!is_known(id)).then_some(id));
        }
        if !unknown.is_empty() {
            let message = format!(
                "token_id(s) {unknown:?} in logit_bias contain out-of-vocab token ids. Vocabulary size: {size}"
            );
            return Err(ApiError::of("logit_bias", message, Some(&format!("{unknown:?}"))));
        }
        let Some(allowed) = &self.allowed else { return Ok(()) };
        let wrong = |what: &str, ids: &[u32]| {
            let message = format!("allowed_token_ids {what}");
            Err(ApiError::of("allowed_token_ids", message, Some(&format!("{ids:?}"))))
        };
        if allowed.is_empty() {
            return wrong("is not None and empty!", allowed);
        }
        let unknown: Vec<u32> = allowed.iter().copied().filter(|&id| !is_known(id.into())).collect();
        if unknown.is_empty() { Ok(()) } else { wrong("contains out-of-vocab token id!", &unknown) }
    }
}

/// The names of the tokens in `logit_bias`, whose values are numbers.
fn biased(fields: &mut Fields<'_>) -> Vec<String> {
    let Some(value) = fields.get("logit_bias") else { return Vec::new() };
    let Some(biases) = value.as_object() else {
        let msg = "Input should be a valid dictionary";
        fields.wrong(Problem::new("dict_type", "body.logit_bias", msg, value));
        return Vec::new();
    };
    let mut values = Fields::within(biases, "body.logit_bias");
    for (name, bias) in biases {
        if bias.is_null() {
            let loc = format!("body.logit_bias.{name}");
            values.wrong(Problem::new("float_type", loc, "Input should be a valid number", bias));
        } else {
            values.number(name);
        }
    }
    for problem in values.problems() {
        fields.wrong(problem);
    }
    biases.keys().cloned().collect()
}
