//! Tokenizers of users.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use servecast_live::{OutputText, ServeOptions, Tokenizer};

use crate::client::post;
use crate::server::{Server, options, recorded, topology};

/// The characters by which byte-level vocabularies write bytes.
fn written(byte: u8) -> char {
    let is_shown = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if is_shown(byte) {
        return byte.into();
    }
    let before = (0..byte).filter(|&byte| !is_shown(byte)).count() as u32;
    char::from_u32(256 + before).unwrap()
}

/// A byte-level vocabulary: tokens that begin and end texts, the bytes, and a few pairs of them.
fn write_tokenizer(dir: &Path, config: Option<Value>) {
    let space = written(b' ');
    let mut tokens = vec!["<s>".to_owned(), "</s>".to_owned()];
    tokens.extend((0..=255).map(|byte| written(byte).to_string()));
    let merges = [("t", "h"), ("th", "e"), ("a", "t"), ("i", "n"), ("o", "r"), ("l", "or"), ("e", "r")];
    tokens.extend(merges.map(|(one, other)| format!("{one}{other}")));
    tokens.push(format!("{space}the"));
    let mut merges: Vec<[String; 2]> = merges.map(|(one, other)| [one.to_owned(), other.to_owned()]).to_vec();
    merges.push([space.to_string(), "the".to_owned()]);
    let vocabulary: Map<String, Value> =
        tokens.into_iter().enumerate().map(|(id, token)| (token, json!(id))).collect();
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
               "normalized": false, "special": true})
    };
    let byte_level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
        "added_tokens": [special(0, "<s>"), special(1, "</s>")],
        "pre_tokenizer": byte_level, "decoder": byte_level,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}},
        },
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
                  "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                  "vocab": vocabulary, "merges": merges},
    });
    fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    if let Some(config) = config {
        fs::write(dir.join("tokenizer_config.json"), config.to_string()).unwrap();
    }
}

fn tokenizer() -> Tokenizer {
    let dir = tempfile::tempdir().unwrap();
    write_tokenizer(dir.path(), Some(json!({"bos_token": "<s>", "eos_token": {"content": "</s>"}})));
    Tokenizer::from_dir(dir.path()).unwrap()
}

fn server(output: OutputText) -> Server {
    Server::with(ServeOptions { tokenizer: tokenizer(), output, ..options(topology(1, &recorded())) })
}

fn ask(server: &Server, path: &str, body: &Value) -> Value {
    post(server.address, path, body).answer(false).json()
}

#[test]
fn prompts_and_answers_are_in_tokens_of_the_user() {
    let server = server(OutputText::Lorem);
    let tokens = ask(&server, "/tokenize", &json!({"prompt": "the cat", "return_token_strs": true}));
    assert_eq!(tokens["token_strs"], json!(["<s>", "the", "Ġ", "c", "at"]));
    let back = ask(&server, "/detokenize", &json!({"tokens": tokens["tokens"]}));
    assert_eq!(back["prompt"], "<s>the cat");
    let body = json!({"prompt": "the cat", "max_tokens": 40, "return_token_ids": true, "echo": true});
    let answer = ask(&server, "/v1/completions", &body);
    assert_eq!(answer["usage"]["prompt_tokens"], 5);
    assert_eq!(answer["usage"]["completion_tokens"], 40);
    let choice = &answer["choices"][0];
    let said = choice["text"].as_str().unwrap().strip_prefix("the cat ").unwrap();
    let again =
        ask(&server, "/tokenize", &json!({"prompt": format!(" {said}"), "add_special_tokens": false}));
    assert_eq!(again["tokens"], choice["token_ids"]);
    let refused = ask(&server, "/v1/completions", &json!({"prompt": [266]}));
    assert_eq!(refused["error"]["message"], "Token id 266 is out of vocabulary");
}

#[test]
fn texts_that_begin_alike_share_blocks() {
    let server = server(OutputText::Lorem);
    let start = "Once upon a time there was a server of small requests. ".repeat(9);
    let cached = |more: &str| {
        let answer = ask(&server, "/v1/completions", &json!({"prompt": format!("{start}{more}")}));
        answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
    };
    assert_eq!(cached("It had a queue."), 0);
    let count = ask(&server, "/tokenize", &json!({"prompt": start}))["count"].as_u64().unwrap();
    assert_eq!(cached("Nobody knew."), (count - 1) / 32 * 32);
}

#[test]
fn the_next_turn_of_a_chat_finds_what_was_said() {
    let server = server(OutputText::Lorem);
    let mut messages = vec![json!({"role": "user", "content": "Where is the cat? ".repeat(20)})];
    let chat = |messages: &Vec<Value>| {
        ask(&server, "/v1/chat/completions", &json!({"messages": messages, "max_tokens": 64}))
    };
    let first = chat(&messages);
    messages.push(first["choices"][0]["message"].clone());
    messages.push(json!({"role": "user", "content": "On the mat?"}));
    let cached = chat(&messages)["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert_eq!(cached, (first["usage"]["total_tokens"].as_u64().unwrap() - 1) / 32 * 32);
}

#[test]
fn characters_of_several_tokens_come_whole() {
    let server = server(OutputText::Echo);
    let body = json!({"prompt": "at 🙂 ü", "max_tokens": 20, "stream": true});
    let answer = post(server.address, "/v1/completions", &body).answer(false);
    let texts: Vec<String> = answer
        .chunks
        .unwrap()
        .iter()
        .filter_map(|chunk| serde_json::from_str::<Value>(chunk.strip_prefix("data: ")?.trim()).ok())
        .map(|chunk| chunk["choices"][0]["text"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(texts.len(), 20);
    let text = texts.concat();
    assert!(text.starts_with("at 🙂 ü") && !text.contains('\u{fffd}'), "{text}");
}

#[test]
fn a_tokenizer_that_cannot_be_used_is_told_of() {
    let dir = tempfile::tempdir().unwrap();
    let error = || Tokenizer::from_dir(dir.path()).unwrap_err().to_string();
    assert!(error().contains("tokenizer.json: "), "{}", error());
    write_tokenizer(dir.path(), Some(json!({"eos_token": "<end>"})));
    assert!(
        error().ends_with("has no token <end>, which tokenizer_config.json names as eos_token"),
        "{}",
        error()
    );
    fs::write(dir.path().join("tokenizer_config.json"), "{").unwrap();
    assert!(error().contains("tokenizer_config.json: "), "{}", error());
    fs::write(dir.path().join("tokenizer.json"), "{\"version\": \"1.0\"}").unwrap();
    assert!(error().contains("tokenizer.json: "), "{}", error());
}

#[test]
fn who_has_a_long_prompt_holds_up_nobody() {
    let server = server(OutputText::Lorem);
    let body = json!({"prompt": "x", "max_tokens": 2000, "ignore_eos": true, "stream": true});
    let mut stream = post(server.address, "/v1/completions", &body);
    stream.head();
    stream.chunk();
    let text = "the rain in the north ".repeat(1 << 16);
    let address = server.address;
    let tokenized = std::thread::spawn(move || {
        let start = Instant::now();
        let answer = post(address, "/tokenize", &json!({"prompt": text})).answer(false);
        assert!(answer.json()["count"].as_u64().unwrap() > 100_000);
        start.elapsed()
    });
    let mut latest = Instant::now();
    let mut longest = Duration::ZERO;
    while !tokenized.is_finished() && stream.chunk().contains("\"choices") {
        longest = longest.max(latest.elapsed());
        latest = Instant::now();
    }
    let took = tokenized.join().unwrap();
    // Its tokens come every millisecond.
    assert!(longest < took / 2, "nothing came for {longest:?} while the prompt was cut for {took:?}");
}
