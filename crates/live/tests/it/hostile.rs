//! Clients that mean no good, or do not know what they do: each gets an answer, and the server goes on.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use servecast_live::{Dialect, ServeOptions, Timeouts};

use crate::client::{get, post, send};
use crate::server::{Server, options, recorded, topology};

/// What no field, or hardly one, takes.
fn values() -> Vec<Value> {
    let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
    vec![
        json!(null),
        json!(true),
        json!(-1),
        json!(0),
        json!(1.5),
        json!(-1e308),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(""),
        json!("x"),
        json!("NaN"),
        json!("-Infinity"),
        json!("1e999"),
        json!("\u{0}\u{ffff}🙂"),
        json!("\u{e000}".repeat(2000)),
        json!([]),
        json!([[]]),
        json!([[[7]]]),
        json!([null]),
        json!([-1]),
        json!([u64::MAX]),
        json!(["x", 7]),
        json!([{}]),
        json!({}),
        json!({"a": {"b": null}}),
        deep,
    ]
}

const FIELDS: [&str; 42] = [
    "model",
    "prompt",
    "messages",
    "input",
    "instructions",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "min_tokens",
    "n",
    "best_of",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "stop",
    "stop_token_ids",
    "include_stop_str_in_output",
    "ignore_eos",
    "stream",
    "stream_options",
    "echo",
    "logprobs",
    "top_logprobs",
    "prompt_logprobs",
    "logit_bias",
    "allowed_token_ids",
    "return_token_ids",
    "return_tokens_as_token_ids",
    "add_special_tokens",
    "truncate_prompt_tokens",
    "priority",
    "request_id",
    "user",
    "suffix",
    "tools",
    "tool_choice",
    "response_format",
    "cache_salt",
    "presence_penalty",
    "bad_words",
];

const OF_SGLANG: [&str; 18] = [
    "text",
    "input_ids",
    "sampling_params",
    "stream",
    "rid",
    "return_logprob",
    "extra_key",
    "cache_salt",
    "input_embeds",
    "image_data",
    "lora_path",
    "max_new_tokens",
    "min_new_tokens",
    "n",
    "stop",
    "stop_token_ids",
    "sampling_seed",
    "no_stop_trim",
];

/// Asks with every field at every value, and takes whatever comes, but no error of the server.
fn try_all(address: SocketAddr, path: &str, usual: &Value, fields: &[&str], place: Option<&str>) {
    for field in fields {
        for value in values() {
            let mut body = usual.clone();
            match place {
                None => body[field] = value.clone(),
                Some(place) => body[place][field] = value.clone(),
            }
            let answer = post(address, path, &body).answer(false);
            let status = answer.status();
            let told = || format!("{path} {field}: {value} was answered with {answer:?}");
            assert!((200..500).contains(&status), "{}", told());
            if answer.chunks.is_none() {
                let said: Value = serde_json::from_str(&answer.body).unwrap_or_else(|_| panic!("{}", told()));
                let is_error = said.get("error").is_some() || said["object"] == "error";
                assert_eq!(status >= 400, is_error, "{}", told());
            }
        }
    }
}

#[test]
fn any_field_may_be_anything() {
    let server = Server::new();
    let usual = json!({
        "prompt": "x", "messages": [{"role": "user", "content": "hi"}], "input": "x", "max_tokens": 2,
        "max_completion_tokens": 2, "max_output_tokens": 2,
    });
    for path in ["/v1/completions", "/v1/chat/completions", "/v1/responses"] {
        try_all(server.address, path, &usual, &FIELDS, None);
    }
    let fields = ["prompt", "messages", "model", "add_special_tokens", "return_token_strs"];
    try_all(server.address, "/tokenize", &json!({"prompt": "x"}), &fields, None);
    try_all(server.address, "/detokenize", &json!({"tokens": [7]}), &["tokens", "model"], None);
    for message in values() {
        for body in
            [json!({"messages": [message]}), json!({"messages": [{"role": "user", "content": message}]})]
        {
            let mut body = body;
            body["max_tokens"] = json!(1);
            let status = post(server.address, "/v1/chat/completions", &body).answer(false).status();
            assert!((200..500).contains(&status), "{body}");
        }
    }
    assert_eq!(get(server.address, "/health").status(), 200);
}

#[test]
fn any_field_of_sglang_may_be_anything() {
    let mut engine = recorded();
    engine["engine_type"] = json!("sglang");
    engine.as_object_mut().unwrap().remove("max_num_batched_tokens");
    let server = Server::with(ServeOptions { dialect: Dialect::Sglang, ..options(topology(1, &engine)) });
    let usual = json!({"text": "x", "sampling_params": {"max_new_tokens": 2}});
    try_all(server.address, "/generate", &usual, &OF_SGLANG, None);
    try_all(server.address, "/generate", &usual, &OF_SGLANG, Some("sampling_params"));
    let usual = json!({"prompt": "x", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2});
    for path in ["/v1/completions", "/v1/chat/completions"] {
        try_all(
            server.address,
            path,
            &usual,
            &["n", "stop", "prompt", "messages", "logprobs", "extra_key"],
            None,
        );
    }
    for query in ["dp_rank=-1", "dp_rank=99999999999999999999", "include=%00", "format=x", "&&&=", "include"]
    {
        let status = get(server.address, &format!("/v1/loads?{query}")).status();
        assert!((200..500).contains(&status), "{query}");
    }
    assert_eq!(get(server.address, "/health").status(), 200);
}

#[test]
fn who_asks_for_very_much_is_refused() {
    let server = Server::new();
    for more in [
        json!({"n": 1_000_000}),
        json!({"n": 60_000, "max_tokens": 2000}),
        json!({"max_tokens": i64::MAX}),
        json!({"prompt": vec!["x"; 100_000], "max_tokens": 2000}),
        json!({"logprobs": 1_000_000}),
        json!({"prompt_logprobs": -7}),
        json!({"prompt": vec![json!([u64::MAX]); 3]}),
    ] {
        let mut body = json!({"prompt": "x"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = post(server.address, "/v1/completions", &body).answer(false);
        assert_eq!(answer.status(), 400, "{}", &more.to_string()[..60.min(more.to_string().len())]);
    }
}

#[test]
fn lines_that_are_no_http_hurt_nobody() {
    let server = Server::new();
    let long = "x".repeat(200_000);
    for bytes in [
        format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n"),
        format!("GET /health HTTP/1.1\r\nHost: x\r\nX: {long}\r\n\r\n"),
        "GET /health HTTP/1.1\r\n".to_owned() + &"A: b\r\n".repeat(2000) + "\r\n",
        "GET /health HTTP/9.9\r\nHost: x\r\n\r\n".to_owned(),
        "GET /%ff%00/../../etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: \
         chunked\r\n\r\nffffffffffffffff\r\n"
            .to_owned(),
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n".to_owned(),
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef"
            .to_owned(),
        "\r\n\r\n\r\n".to_owned(),
    ] {
        let mut stream = TcpStream::connect(server.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        // It may be told of the end before it has said all.
        let _ = stream.write_all(bytes.as_bytes());
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        let begin = &bytes[..bytes.len().min(60)];
        assert!(answer.is_empty() || answer.starts_with("HTTP/1."), "{begin:?}: {answer}");
        assert!(!answer.starts_with("HTTP/1.1 5") && !answer.contains("root:"), "{begin:?}: {answer}");
        assert_eq!(get(server.address, "/health").status(), 200, "{begin:?}");
    }
}

#[test]
fn slow_clients_are_cut_off() {
    let short = Duration::from_millis(300);
    let timeouts = Timeouts { head: short, body: short, ..Timeouts::default() };
    let server = Server::with(ServeOptions { timeouts, ..options(topology(1, &recorded())) });
    let start = Instant::now();
    // Part of a head, and a connection on which nothing is said.
    let heads = ["GET /health HTTP/1.1\r\nHo", ""].map(|part| send(server.address, part.as_bytes()));
    let body = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: \
                500\r\n\r\n{\"prompt\":";
    let slow = send(server.address, body.as_bytes());
    assert_eq!(slow.answer(false).status(), 400);
    for mut head in heads {
        let mut answer = Vec::new();
        let _ = head.0.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 408"), "{answer}");
    }
    assert!(start.elapsed() < Duration::from_secs(15));
    assert_eq!(get(server.address, "/health").status(), 200);
}

#[test]
fn who_does_not_read_is_cut_off() {
    let timeouts = Timeouts { answer: Duration::from_millis(300), ..Timeouts::default() };
    let server = Server::with(ServeOptions { timeouts, ..options(topology(1, &recorded())) });
    // More than the system keeps for a connection.
    let body = json!({"prompt": "word ".repeat(3 << 20)});
    let mut connection = post(server.address, "/tokenize", &body);
    let (_, headers) = connection.head();
    let length = headers.iter().find(|(name, _)| name == "content-length").map(|(_, length)| length);
    let length: usize = length.unwrap().parse().unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    let mut answer = Vec::new();
    let _ = connection.0.read_to_end(&mut answer);
    assert!(answer.len() < length, "{} of {length} bytes", answer.len());
    assert_eq!(get(server.address, "/health").status(), 200);
}

/// File descriptors that may be open.
fn most_files() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(256)
}

#[test]
fn half_open_connections_hold_up_nobody() {
    let server = Server::new();
    // Each has one on both sides, and other tests want some.
    let number = (most_files().saturating_sub(400) / 2).min(1000);
    assert!(number > 50, "a limit of {} open files is too low for this test", most_files());
    let half = |_| send(server.address, b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Le");
    let open: Vec<_> = (0..number).map(half).collect();
    let body = json!({"prompt": "x", "max_tokens": 5});
    for _ in 0..3 {
        assert_eq!(post(server.address, "/v1/completions", &body).answer(false).status(), 200);
    }
    drop(open);
    assert_eq!(get(server.address, "/health").status(), 200);
}

#[test]
fn large_bodies_take_no_memory_for_long() {
    let server = Server::new();
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB").trim();
        line.trim_end_matches(" kB").parse::<u64>().unwrap_or(0) / 1000
    };
    let before = resident();
    // 100 MB, with a length and without one; what it does not take it does not keep.
    for chunked in [false, true] {
        let coding = if chunked { "Transfer-Encoding: chunked" } else { "Content-Length: 104857600" };
        let head = format!(
            "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{coding}\r\n\r\n"
        );
        let mut connection = send(server.address, head.as_bytes());
        let mebibyte = vec![b' '; 1 << 20];
        for _ in 0..100 {
            let stream = connection.0.get_mut();
            let sent = if chunked {
                stream
                    .write_all(b"100000\r\n")
                    .and_then(|()| stream.write_all(&mebibyte))
                    .and_then(|()| stream.write_all(b"\r\n"))
            } else {
                stream.write_all(&mebibyte)
            };
            if sent.is_err() {
                break;
            }
        }
        let mut answer = Vec::new();
        let _ = connection.0.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        // The connection may be reset before the answer is read.
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 413"), "{answer}");
    }
    assert_eq!(get(server.address, "/health").status(), 200);
    // Other tests run beside this one.
    assert!(resident() < before + 300, "{} MB were {before} MB", resident());
}
