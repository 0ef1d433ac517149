//! Fields of a request's body, read as leniently as the real server reads them, and what is wrong with them in its words.

use std::fmt::Write;

use serde_json::{Map, Value};

use crate::error::ApiError;

/// Something wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    kind: &'static str,
    loc: String,
    msg: String,
    input: String,
    ctx: Option<(&'static str, String)>,
}

impl Problem {
    /// `input` is not what the field at `loc` takes.
    pub(crate) fn new(kind: &'static str, loc: impl Into<String>, msg: &str, input: &Value) -> Self {
        Self { kind, loc: loc.into(), msg: msg.to_owned(), input: shown(input), ctx: None }
    }

    /// A field that has to be there is missing in `object`.
    pub(crate) fn missing(loc: &str, object: &Map<String, Value>) -> Self {
        let input = format!("<dict of {} items>", object.len());
        Self { kind: "missing", loc: loc.to_owned(), msg: "Field required".to_owned(), input, ctx: None }
    }

    /// A value that is none of those that there are, which `known` lists.
    pub(crate) fn literal(loc: String, known: &str, input: &Value) -> Self {
        let problem = Self::new("literal_error", loc, &format!("Input should be {known}"), input);
        problem.with("expected", quoted(known))
    }

    #[must_use]
    fn with(self, key: &'static str, value: String) -> Self {
        Self { ctx: Some((key, value)), ..self }
    }

    /// A body that is no JSON, from this character on.
    fn not_json(at: usize, error: &str) -> Self {
        Self {
            kind: "json_invalid",
            loc: format!("body.{at}"),
            msg: "JSON decode error".to_owned(),
            input: "<dict of 0 items>".to_owned(),
            ctx: Some(("error", quoted(error))),
        }
    }
}

/// Problems that a message tells of.
const MOST_PROBLEMS: usize = 10;

/// What a list of problems comes to.
pub(crate) fn invalid(problems: &[Problem]) -> ApiError {
    let noun = if problems.len() == 1 { "error" } else { "errors" };
    let mut message = format!("{} validation {noun}:", problems.len());
    for Problem { kind, loc, msg, input, ctx } in problems.iter().take(MOST_PROBLEMS) {
        let [loc, msg, input] = [loc, msg, input].map(|text| quoted(text));
        let _ = write!(message, "\n  {{'type': '{kind}', 'loc': {loc}, 'msg': {msg}, 'input': {input}");
        if let Some((key, value)) = ctx {
            let _ = write!(message, ", 'ctx': {{'{key}': {value}}}");
        }
        message.push('}');
    }
    if let Some(more) = problems.len().checked_sub(MOST_PROBLEMS).filter(|&more| more > 0) {
        let _ = write!(message, "\n  ...and {more} more errors");
    }
    ApiError::schema(message, problems.first().map(|problem| problem.loc.clone()))
}

/// A text as Python shows it.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut shown = String::from(quote);
    for char in text.chars() {
        match char {
            '\\' => shown += "\\\\",
            '\n' => shown += "\\n",
            '\r' => shown += "\\r",
            '\t' => shown += "\\t",
            char if char == quote => {
                shown.push('\\');
                shown.push(char);
            }
            char => shown.push(char),
        }
    }
    shown.push(quote);
    shown
}

/// Most characters of a value that a message repeats.
const MOST_SHOWN: usize = 200;

/// A value in a message.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.chars().take(MOST_SHOWN).collect(),
        Value::Array(items) => format!("<list of {} items>", items.len()),
        Value::Object(members) => format!("<dict of {} items>", members.len()),
    }
}

/// A float as Python shows it.
pub(crate) fn float(value: f64) -> String {
    if value.is_nan() { "nan".to_owned() } else { format!("{value:?}") }
}

/// The object that a body holds.
pub(crate) fn object(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    if body.is_empty() {
        let problem = Problem::new("missing", "body", "Field required", &Value::Null);
        return Err(invalid(&[problem]));
    }
    let text = std::str::from_utf8(body)
        .map_err(|_| ApiError::bad_request("There was an error parsing the body"))?;
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(other) => {
            let msg = "Input should be a valid dictionary or object to extract fields from";
            Err(invalid(&[Problem::new("model_attributes_type", "body", msg, &other)]))
        }
        Err(error) => {
            let before = text.lines().take(error.line().saturating_sub(1));
            let at = before.map(|line| line.chars().count() + 1).sum::<usize>() + error.column();
            let what = if error.is_eof() { "Expecting value" } else { "Expecting property name or value" };
            Err(invalid(&[Problem::not_json(at.min(text.chars().count()), what)]))
        }
    }
}

/// The fields of an object, with what is wrong with those that were looked at.
pub(crate) struct Fields<'a> {
    object: &'a Map<String, Value>,
    path: &'a str,
    problems: Vec<Problem>,
}

impl<'a> Fields<'a> {
    /// Those of a body.
    pub(crate) fn new(object: &'a Map<String, Value>) -> Self {
        Self::within(object, "body")
    }

    /// Those of an object at a path.
    pub(crate) fn within(object: &'a Map<String, Value>, path: &'a str) -> Self {
        Self { object, path, problems: Vec::new() }
    }

    /// The object.
    pub(crate) fn object(&self) -> &'a Map<String, Value> {
        self.object
    }

    /// A field that is there and not null.
    pub(crate) fn get(&self, key: &str) -> Option<&'a Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    /// Notes a problem.
    pub(crate) fn wrong(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// What is wrong.
    pub(crate) fn problems(self) -> Vec<Problem> {
        self.problems
    }

    /// Nothing is wrong, or what is.
    pub(crate) fn checked(&mut self) -> Result<(), ApiError> {
        if self.problems.is_empty() { Ok(()) } else { Err(invalid(&self.problems)) }
    }

    fn fail(&mut self, key: &str, kind: &'static str, msg: &str, value: &Value) {
        let loc = format!("{}.{key}", self.path);
        self.problems.push(Problem::new(kind, loc, msg, value));
    }

    /// A whole number, which may be a text.
    pub(crate) fn int(&mut self, key: &str) -> Option<i64> {
        let value = self.get(key)?;
        match value {
            Value::Bool(one) => return Some(i64::from(*one)),
            Value::Number(number) => {
                if let Some(int) = number.as_i64() {
                    return Some(int);
                }
                let float = number.as_f64().unwrap_or(f64::NAN);
                if float.fract() == 0.0 && float.abs() < 9e15 {
                    return Some(float as i64);
                }
                let msg = "Input should be a valid integer, got a number with a fractional part";
                self.fail(key, "int_from_float", msg, value);
            }
            Value::String(text) => {
                if let Ok(int) = text.trim().parse() {
                    return Some(int);
                }
                let msg = "Input should be a valid integer, unable to parse string as an integer";
                self.fail(key, "int_parsing", msg, value);
            }
            _ => self.fail(key, "int_type", "Input should be a valid integer", value),
        }
        None
    }

    /// A whole number from `least` on, which may be a text.
    pub(crate) fn int_from(&mut self, key: &str, least: i64) -> Option<i64> {
        let int = self.int(key)?;
        if int >= least {
            return Some(int);
        }
        let msg = format!("Input should be greater than or equal to {least}");
        let problem =
            Problem::new("greater_than_equal", format!("{}.{key}", self.path), &msg, self.get(key)?);
        self.wrong(problem.with("ge", least.to_string()));
        None
    }

    /// A number, which may be a text.
    pub(crate) fn number(&mut self, key: &str) -> Option<f64> {
        let value = self.get(key)?;
        match value {
            Value::Bool(one) => return Some(f64::from(u8::from(*one))),
            Value::Number(number) => return number.as_f64(),
            Value::String(text) => {
                if let Ok(number) = text.trim().parse() {
                    return Some(number);
                }
                let msg = "Input should be a valid number, unable to parse string as a number";
                self.fail(key, "float_parsing", msg, value);
            }
            _ => self.fail(key, "float_type", "Input should be a valid number", value),
        }
        None
    }

    /// Yes or no, in several words.
    pub(crate) fn bool(&mut self, key: &str) -> Option<bool> {
        let value = self.get(key)?;
        match value {
            Value::Bool(is) => return Some(*is),
            Value::Number(_) | Value::String(_) => {
                match shown(value).to_ascii_lowercase().as_str() {
                    "true" | "1" | "1.0" | "yes" | "on" | "t" | "y" => return Some(true),
                    "false" | "0" | "0.0" | "no" | "off" | "f" | "n" => return Some(false),
                    _ => {}
                }
                let msg = "Input should be a valid boolean, unable to interpret input";
                self.fail(key, "bool_parsing", msg, value);
            }
            _ => self.fail(key, "bool_type", "Input should be a valid boolean", value),
        }
        None
    }

    /// A text.
    pub(crate) fn text(&mut self, key: &str) -> Option<&'a str> {
        let value = self.get(key)?;
        if value.as_str().is_none() {
            self.fail(key, "string_type", "Input should be a valid string", value);
        }
        value.as_str()
    }

    /// A text or a list of texts.
    pub(crate) fn texts(&mut self, key: &str) -> Vec<String> {
        let Some(value) = self.get(key) else { return Vec::new() };
        match value {
            Value::String(text) => return vec![text.clone()],
            Value::Array(items) => {
                let texts: Option<Vec<String>> =
                    items.iter().map(|item| item.as_str().map(str::to_owned)).collect();
                if let Some(texts) = texts {
                    return texts;
                }
            }
            _ => {}
        }
        self.fail(key, "string_type", "Input should be a valid string", value);
        Vec::new()
    }

    /// A list of token ids.
    pub(crate) fn ids(&mut self, key: &str) -> Vec<u32> {
        let Some(value) = self.get(key) else { return Vec::new() };
        let Some(items) = value.as_array() else {
            self.fail(key, "list_type", "Input should be a valid list", value);
            return Vec::new();
        };
        let mut ids = Vec::with_capacity(items.len());
        for (place, item) in items.iter().enumerate() {
            match token_id(item) {
                Ok(id) => ids.push(id),
                Err(kind) => self.wrong(not_an_id(kind, format!("{}.{key}.{place}", self.path), item)),
            }
        }
        ids
    }
}

/// Why a value is no token id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotAnId {
    /// It is below 0.
    Negative,
    /// It is no whole number.
    Type,
}

/// A token id; those beyond any vocabulary are the largest there is.
pub(crate) fn token_id(value: &Value) -> Result<u32, NotAnId> {
    match value.as_i64() {
        Some(id) if id < 0 => Err(NotAnId::Negative),
        Some(id) => Ok(u32::try_from(id).unwrap_or(u32::MAX)),
        None => Err(NotAnId::Type),
    }
}

/// What is wrong with a value that is no token id.
pub(crate) fn not_an_id(why: NotAnId, loc: String, value: &Value) -> Problem {
    match why {
        NotAnId::Negative => {
            let msg = "Input should be greater than or equal to 0";
            Problem::new("greater_than_equal", loc, msg, value).with("ge", "0".to_owned())
        }
        NotAnId::Type => Problem::new("int_type", loc, "Input should be a valid integer", value),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[expect(clippy::needless_pass_by_value, reason = "a value is given as it stands")]
    fn check<T: std::fmt::Debug + PartialEq>(
        value: Value,
        read: impl Fn(&mut Fields<'_>) -> Option<T>,
        expected: Result<T, &str>,
    ) {
        let object = json!({ "x": value });
        let mut fields = Fields::new(object.as_object().unwrap());
        let read = read(&mut fields);
        match expected {
            Ok(expected) => assert_eq!((read, fields.checked().is_ok()), (Some(expected), true)),
            Err(kind) => {
                let message = fields.checked().unwrap_err().to_string();
                assert!(message.contains(&format!("'type': '{kind}', 'loc': 'body.x'")), "{message}");
            }
        }
    }

    #[test]
    fn numbers_and_switches_may_be_texts() {
        check(json!("3"), |fields| fields.int("x"), Ok(3));
        check(json!(3.0), |fields| fields.int("x"), Ok(3));
        check(json!(3.5), |fields| fields.int("x"), Err("int_from_float"));
        check(json!("many"), |fields| fields.int("x"), Err("int_parsing"));
        check(json!([1]), |fields| fields.int("x"), Err("int_type"));
        check(json!("0.5"), |fields| fields.number("x"), Ok(0.5));
        check(json!("yes"), |fields| fields.bool("x"), Ok(true));
        check(json!(0), |fields| fields.bool("x"), Ok(false));
        check(json!("perhaps"), |fields| fields.bool("x"), Err("bool_parsing"));
        check(json!({}), |fields| fields.bool("x"), Err("bool_type"));
    }

    #[test]
    fn a_body_that_is_no_object_is_told_of() {
        let message = |body: &[u8]| object(body).unwrap_err().to_string();
        assert_eq!(
            message(b"{\"model\": \"tiny\", \"prompt\": "),
            "1 validation error:\n  {'type': 'json_invalid', 'loc': 'body.28', 'msg': 'JSON decode error', 'input': \
             '<dict of 0 items>', 'ctx': {'error': 'Expecting value'}}"
        );
        assert!(message(b"[1,2]").contains("'input': '<list of 2 items>'"));
        assert!(message(b"").contains("'loc': 'body', 'msg': 'Field required', 'input': 'None'"));
        let deep = "[".repeat(100_000);
        assert!(message(deep.as_bytes()).contains("json_invalid"));
        assert!(object(b"\xff{}").is_err());
    }

    #[test]
    fn texts_are_quoted_as_python_does() {
        assert_eq!(quoted("plain"), "'plain'");
        assert_eq!(quoted("it's"), "\"it's\"");
        assert_eq!(quoted("it's \"x\"\n\\"), "'it\\'s \"x\"\\n\\\\'");
    }
}
