//! What a real vLLM 0.32 answered, request by request, against what our server answers to the same bytes.

use std::fmt::Write;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use servecast_live::ServeOptions;
use testkit::ORACLE;

use crate::client::{Answer, send};
use crate::server::{self, Server, options, topology};

/// Recorded exchanges that ours does not repeat, by name, each with the cause.
fn exception(name: &str) -> Option<&'static str> {
    let (kind, case) = name.split_once('/').unwrap();
    Some(match (kind, case) {
        ("completions", "stop" | "stop_stream" | "stop_included" | "stop_token_ids") | ("chat", "stop") => {
            "made-up answers come to other texts, after another number of tokens"
        }
        (
            "routes",
            "get_world_size"
            | "is_paused"
            | "is_sleeping"
            | "kv_event_sources"
            | "messages_anthropic"
            | "messages_anthropic_stream"
            | "server_info"
            | "server_info_json",
        ) => "the route is not there yet",
        _ => return None,
    })
}

/// JSON with the order of its keys.
#[derive(Debug, Clone, PartialEq)]
enum Node {
    Null,
    Text(String),
    /// As it is written.
    Other(String),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Node;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("JSON")
            }

            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Null)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
                Ok(Node::Other(value.to_string()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
                Ok(Node::Other(value.to_string()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
                Ok(Node::Other(value.to_string()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
                Ok(Node::Other(value.to_string()))
            }

            fn visit_str<E>(self, value: &str) -> Result<Node, E> {
                Ok(Node::Text(value.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Node::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Node, A::Error> {
                let mut object = Vec::new();
                while let Some(member) = members.next_entry()? {
                    object.push(member);
                }
                Ok(Node::Object(object))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

/// Keys whose values vary: ids, times, what a model says and how it counts tokens.
const VARIES: &[&str] = &[
    "id",
    "item_id",
    "created",
    "created_at",
    "delta",
    "input_tokens",
    "text",
    "content",
    "root",
    "prompt_tokens",
    "total_tokens",
    "cached_tokens",
    "tokens",
    "prompt",
    "count",
    "text_offset",
    "token_logprobs",
    "top_logprobs",
    "token",
    "logprob",
    "bytes",
    "system_fingerprint",
    "token_ids",
    "prompt_token_ids",
    "token_strs",
    "logprobs",
    "prompt_logprobs",
];

/// With what varies masked, but whether it is there.
fn masked(node: &Node, out: &mut String) {
    match node {
        Node::Null => out.push_str("null"),
        Node::Text(text) => _ = write!(out, "{text:?}"),
        Node::Other(text) => out.push_str(text),
        Node::List(items) => {
            out.push('[');
            for item in items {
                masked(item, out);
                out.push(',');
            }
            out.push(']');
        }
        Node::Object(members) => {
            out.push('{');
            for (key, value) in members {
                out.push_str(key);
                out.push(':');
                if VARIES.contains(&key.as_str()) && *value != Node::Null && !matches!(value, Node::Object(_))
                {
                    out.push('*');
                } else {
                    masked(value, out);
                }
                out.push(',');
            }
            out.push('}');
        }
    }
}

/// A body as it is compared.
fn body(text: &str) -> String {
    match serde_json::from_str::<Node>(text) {
        Ok(node) => {
            let mut out = String::new();
            masked(&node, &mut out);
            out
        }
        Err(_) => text.to_owned(),
    }
}

/// Chunks as they are compared: how many tokens come in one varies, and so do how many chunks there are and how those of
/// several answers follow each other.
fn stream(chunks: &[String]) -> Vec<String> {
    let messages = chunks.iter().map(|chunk| {
        let (name, data) = chunk.split_once("data: ").unwrap_or((chunk, ""));
        format!("{name}{}", body(data.trim_end()))
    });
    let counted = |message: String| match message.split_once("completion_tokens:") {
        Some((before, after)) if message.contains("choices:[{") => {
            format!(
                "{before}completion_tokens:*{}",
                after.trim_start_matches(|digit: char| digit.is_ascii_digit())
            )
        }
        _ => message,
    };
    let mut messages: Vec<String> = messages.map(counted).collect();
    if messages.iter().any(|message| message.contains("{index:1,")) {
        messages.sort();
    }
    messages.dedup();
    messages
}

/// The headers that a client may go by, in order of name.
fn headers(headers: &[(String, String)]) -> Vec<(String, String)> {
    let varies = ["date", "content-length"];
    let mut kept: Vec<_> =
        headers.iter().filter(|(name, _)| !varies.contains(&name.as_str())).cloned().collect();
    kept.sort();
    kept
}

/// A recorded exchange, if the file has one.
fn recorded(file: &Path) -> Option<(String, Answer)> {
    let text = std::fs::read_to_string(file).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let request = text(&value["request"]["head"]) + &text(&value["request"]["body"]);
    let response = &value["response"];
    let headers = response["headers"].as_array()?.iter();
    let chunks =
        response["chunks"].as_array().map(|chunks| chunks.iter().map(|chunk| text(&chunk[1])).collect());
    let answer = Answer {
        status_line: text(&response["status_line"]),
        headers: headers.map(|pair| (text(&pair[0]).to_ascii_lowercase(), text(&pair[1]))).collect(),
        body: text(&response["body"]),
        chunks,
    };
    Some((request, answer))
}

/// What differs, if anything does.
fn difference(ours: &Answer, theirs: &Answer) -> Option<String> {
    if ours.status_line != theirs.status_line {
        return Some(format!(
            "ours   {} {}\ntheirs {} {}",
            ours.status_line, ours.body, theirs.status_line, theirs.body
        ));
    }
    let pairs = [ours, theirs].map(|answer| format!("{:?}", headers(&answer.headers)));
    let bodies = [ours, theirs].map(|answer| match &answer.chunks {
        Some(chunks) => format!("{:#?}", stream(chunks)),
        None => body(&answer.body),
    });
    let [ours, theirs] = [0, 1].map(|place| format!("{}\n{}", pairs[place], bodies[place]));
    (ours != theirs).then(|| format!("ours   {ours}\ntheirs {theirs}"))
}

#[test]
fn recorded_requests_are_answered_as_by_the_real_server() {
    let Some(root) = testkit::outside(ORACLE) else { return };
    // As the recorded one was.
    let server = Server::with(ServeOptions { dev_mode: true, ..options(topology(1, &server::recorded())) });
    let (mut compared, mut wrong) = (0, Vec::new());
    for kind in ["completions", "chat", "errors", "routes"] {
        let mut files: Vec<_> = std::fs::read_dir(root.join("live/wire").join(kind))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        files.sort();
        for file in files {
            let name = format!("{kind}/{}", file.file_stem().unwrap().to_str().unwrap());
            let Some((request, theirs)) = recorded(&file) else { continue };
            let ours = send(server.address, request.as_bytes()).answer(request.starts_with("HEAD"));
            let difference = difference(&ours, &theirs);
            match (difference, exception(&name)) {
                (None, None) => compared += 1,
                (Some(_), Some(_)) => {}
                (Some(difference), None) => wrong.push(format!("{name}\n{difference}")),
                (None, Some(_)) => wrong.push(format!("{name} is no exception any more")),
            }
        }
    }
    testkit::compared(compared);
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), wrong.len() + compared, wrong.join("\n\n"));
}
