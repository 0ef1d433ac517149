//! The prefix caches of workers: what shares them, and who may empty them.

use serde_json::{Value, json};
use servecast_live::{Dialect, ServeOptions};

use crate::client::{Answer, get, post, send};
use crate::server::{Server, options, recorded, topology};

fn dev_server() -> Server {
    Server::with(ServeOptions { dev_mode: true, ..options(topology(2, &recorded())) })
}

fn sglang() -> Server {
    let mut engine = recorded();
    engine["engine_type"] = json!("sglang");
    engine.as_object_mut().unwrap().remove("max_num_batched_tokens");
    Server::with(ServeOptions { dialect: Dialect::Sglang, ..options(topology(1, &engine)) })
}

fn post_nothing(server: &Server, path: &str) -> Answer {
    let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    send(server.address, head.as_bytes()).answer(false)
}

/// Cached tokens of a prompt that always is the same.
fn cached(server: &Server, more: &Value) -> u64 {
    let mut body = json!({"prompt": vec![7; 100], "max_tokens": 2});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let answer = post(server.address, "/v1/completions", &body).answer(false).json();
    answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or_else(|| panic!("{answer}"))
}

#[test]
fn prompts_share_what_has_the_same_salt() {
    let server = Server::new();
    let [none, salt, other] = [json!({}), json!({"cache_salt": "a"}), json!({"cache_salt": "b"})];
    let all = [&none, &salt, &other, &salt, &none].map(|more| cached(&server, more));
    assert_eq!(all, [0, 0, 0, 96, 96]);
    let chat = |salt: &str| {
        let question = "Why is the sky blue and the sea green? ".repeat(20);
        let body = json!({
            "messages": [{"role": "user", "content": question}], "max_tokens": 2, "cache_salt": salt,
        });
        let answer = post(server.address, "/v1/chat/completions", &body).answer(false).json();
        answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
    };
    assert!(chat("a") == 0 && chat("b") == 0 && chat("a") > 0);
}

#[test]
fn a_salt_that_vllm_refuses_is_refused() {
    let server = Server::new();
    let long = "x".repeat(129);
    for salt in [json!(""), json!(7), json!(["a"]), json!("a@b"), json!("a/b"), json!("a\\b"), json!(long)] {
        for (path, prompt) in [
            ("/v1/completions", json!({"prompt": "x"})),
            ("/v1/chat/completions", json!({"messages": [{"role": "user", "content": "x"}]})),
            ("/v1/responses", json!({"input": "x"})),
        ] {
            let mut body = prompt;
            body["cache_salt"] = salt.clone();
            let answer = post(server.address, path, &body).answer(false);
            let error = &answer.json()["error"];
            assert_eq!((answer.status(), &error["param"]), (400, &json!("cache_salt")), "{path} {salt}");
            assert!(error["message"].as_str().unwrap().starts_with("Parameter 'cache_salt' must be"));
        }
    }
    assert_eq!(cached(&server, &json!({"cache_salt": null})), 0);
}

#[test]
fn keys_of_sglang_are_salts() {
    let server = sglang();
    let generated = |more: Value| {
        let mut body = json!({"input_ids": vec![7; 100], "sampling_params": {"max_new_tokens": 2}});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = post(server.address, "/generate", &body).answer(false).json();
        answer["meta_info"]["cached_tokens"].as_u64().unwrap_or_else(|| panic!("{answer}"))
    };
    assert_eq!(generated(json!({})), 0);
    assert_eq!(generated(json!({"cache_salt": "a"})), 0);
    assert_eq!(generated(json!({"extra_key": "b"})), 0);
    assert_eq!(generated(json!({"extra_key": "b", "cache_salt": "a"})), 0);
    assert!(generated(json!({"extra_key": "b", "cache_salt": "a"})) > 0);
    assert!(generated(json!({"cache_salt": "", "extra_key": null})) > 0, "an empty one is none");
    for wrong in [json!(7), json!(["a", "b"]), json!([7])] {
        let body = json!({"text": "x", "cache_salt": wrong});
        assert_eq!(post(server.address, "/generate", &body).answer(false).status(), 400);
    }
    let two = json!({"text": ["x", "y"], "extra_key": ["a", ""], "sampling_params": {"max_new_tokens": 1}});
    assert_eq!(post(server.address, "/generate", &two).answer(false).status(), 200);
}

#[test]
fn caches_are_reset_in_development_mode_when_nobody_uses_them() {
    let server = dev_server();
    assert_eq!([cached(&server, &json!({})), cached(&server, &json!({}))], [0, 0], "there are two workers");
    assert_eq!(cached(&server, &json!({})), 96);
    // One of them has a request.
    let body = json!({"prompt": "x", "max_tokens": 2000, "stream": true});
    let mut stream = post(server.address, "/v1/completions", &body);
    stream.head();
    stream.chunk();
    assert_eq!(post_nothing(&server, "/reset_prefix_cache").body, r#"{"success":false}"#);
    drop(stream);
    let start = std::time::Instant::now();
    while post_nothing(&server, "/reset_prefix_cache?reset_external=true").body != r#"{"success":true}"# {
        assert!(start.elapsed() < std::time::Duration::from_secs(20));
    }
    assert_eq!([cached(&server, &json!({})), cached(&server, &json!({}))], [0, 0]);
    assert_eq!(get(server.address, "/reset_prefix_cache").status(), 405);
    let answer = post_nothing(&server, "/reset_prefix_cache?reset_running_requests=true");
    assert_eq!(answer.status(), 400);
    // Without that mode there is no such route.
    assert_eq!(post_nothing(&Server::new(), "/reset_prefix_cache").status(), 404);
}

#[test]
fn sglang_flushes_its_cache() {
    let server = sglang();
    assert_eq!([cached(&server, &json!({})), cached(&server, &json!({})) / 32], [0, 3]);
    let flushed = get(server.address, "/flush_cache");
    assert_eq!((flushed.status(), flushed.body.starts_with("Cache flushed.\n")), (200, true));
    assert_eq!(cached(&server, &json!({})), 0);
    let body = json!({"text": "x", "sampling_params": {"max_new_tokens": 300}, "stream": true});
    let mut stream = post(server.address, "/generate", &body);
    stream.head();
    stream.chunk();
    assert_eq!(post_nothing(&server, "/flush_cache").status(), 400);
    // It takes 300 ms.
    assert_eq!(post_nothing(&server, "/flush_cache?timeout=20").status(), 200);
    assert_eq!(post_nothing(&server, "/flush_cache?timeout=-1").status(), 400);
    assert_eq!(post_nothing(&server, "/flush_cache?timeout=x").status(), 400);
}
