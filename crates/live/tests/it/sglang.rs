//! The API of SGLang.

use serde_json::{Value, json};
use servecast_live::{Dialect, LogFormat, RequestLog, ServeOptions};

use crate::client::{Answer, get, post};
use crate::server::{Server, Shared, options, recorded, topology};

fn engine() -> Value {
    let mut engine = recorded();
    engine["engine_type"] = json!("sglang");
    engine.as_object_mut().unwrap().remove("max_num_batched_tokens");
    engine
}

fn server() -> Server {
    Server::with(ServeOptions { dialect: Dialect::Sglang, ..options(topology(1, &engine())) })
}

fn ask(server: &Server, path: &str, body: &Value) -> Value {
    post(server.address, path, body).answer(false).json()
}

/// The events of a stream but the last one, which says that it is over.
fn events(answer: &Answer) -> Vec<Value> {
    let chunks = answer.chunks.as_ref().unwrap();
    let data: Vec<&str> =
        chunks.iter().filter_map(|chunk| chunk.strip_prefix("data: ")).map(str::trim_end).collect();
    assert_eq!(data.last(), Some(&"[DONE]"));
    data[..data.len() - 1].iter().map(|data| serde_json::from_str(data).unwrap()).collect()
}

#[test]
fn generate_answers_as_a_whole() {
    let server = server();
    let body = json!({"text": "one two three", "sampling_params": {"max_new_tokens": 5}, "rid": "r1"});
    let answer = ask(&server, "/generate", &body);
    let meta = &answer["meta_info"];
    assert_eq!((&meta["id"], &meta["prompt_tokens"]), (&json!("r1"), &json!(4)));
    assert_eq!((&meta["completion_tokens"], &meta["cached_tokens"]), (&json!(5), &json!(0)));
    assert_eq!(meta["finish_reason"], json!({"type": "length", "length": 5}));
    assert!(meta["e2e_latency"].as_f64().unwrap() >= 0.005);
    assert_eq!(answer["output_ids"].as_array().unwrap().len(), 5);
    let again = json!({"input_ids": vec![7; 100], "sampling_params": {"max_new_tokens": 1}});
    let cached = |_| ask(&server, "/generate", &again)["meta_info"]["cached_tokens"].as_u64().unwrap();
    assert_eq!([0, 1].map(cached), [0, 96]);
    let list = ask(
        &server,
        "/generate",
        &json!({"text": ["a", "b"], "sampling_params": {"n": 2, "max_new_tokens": 2}}),
    );
    let indices: Vec<&Value> = list.as_array().unwrap().iter().map(|one| &one["index"]).collect();
    assert_eq!(indices, [0, 1, 2, 3]);
}

#[test]
fn generate_streams_what_is_there_so_far() {
    let server = server();
    let body = json!({"text": "one two three", "stream": true, "sampling_params": {"max_new_tokens": 4}});
    let events = events(&post(server.address, "/generate", &body).answer(false));
    let lengths: Vec<usize> =
        events.iter().map(|event| event["output_ids"].as_array().unwrap().len()).collect();
    assert_eq!(lengths, [1, 2, 3, 4]);
    assert!(events[1]["text"].as_str().unwrap().starts_with(events[0]["text"].as_str().unwrap()));
    assert_eq!(events[2]["meta_info"]["finish_reason"], Value::Null);
    assert_eq!(events[3]["meta_info"]["finish_reason"]["type"], "length");
}

#[test]
fn requests_of_openai_are_answered_with_keys_of_sglang() {
    let server = server();
    let chat = json!({"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3, "model": "any"});
    let answer = ask(&server, "/v1/chat/completions", &chat);
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["choices"][0]["matched_stop"], Value::Null);
    assert_eq!(answer["usage"]["completion_tokens"], 3);
    let mut chat = chat;
    chat["stream"] = json!(true);
    chat["stream_options"] = json!({"include_usage": true});
    let events = events(&post(server.address, "/v1/chat/completions", &chat).answer(false));
    // The role, three tokens, why it ended, and the usage.
    assert_eq!(events.len(), 6);
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(events[3]["choices"][0]["finish_reason"], Value::Null);
    assert_eq!(events[4]["choices"][0]["finish_reason"], "length");
    assert_eq!(events[5]["usage"]["completion_tokens"], 3);
    let open =
        ask(&server, "/v1/chat/completions", &json!({"messages": [{"role": "user", "content": "hi"}]}));
    assert_eq!(
        (&open["choices"][0]["finish_reason"], &open["choices"][0]["matched_stop"]),
        (&json!("stop"), &json!(2))
    );
}

#[test]
fn errors_have_the_shapes_of_sglang() {
    let server = server();
    let refused = |path, body: Value| {
        let answer = post(server.address, path, &body).answer(false);
        (answer.status(), answer.json())
    };
    let (status, error) = refused("/v1/completions", json!({"prompt": "x", "max_tokens": 5000}));
    assert_eq!((status, &error["object"], &error["code"]), (400, &json!("error"), &json!(400)));
    assert!(error["message"].as_str().unwrap().contains("2048"), "{error}");
    for body in [
        json!({}),
        json!({"text": "x", "input_ids": [1]}),
        json!({"input_ids": [5_000_000]}),
        json!({"text": "x", "sampling_params": {"max_new_tokens": 0}}),
        json!({"text": "x", "sampling_params": {"temperature": -1}}),
        json!({"text": "x", "sampling_params": 1}),
        json!({"text": []}),
    ] {
        let (status, error) = refused("/generate", body);
        assert_eq!(status, 400, "{error}");
        assert!(error["error"]["message"].is_string(), "{error}");
    }
    assert_eq!(get(server.address, "/generate").status(), 405);
    assert_eq!(get(server.address, "/v1/nothing").status(), 404);
    assert_eq!(get(server.address, "/v1/models/other").status(), 404);
}

#[test]
fn the_server_says_how_it_is() {
    let server = server();
    let body = json!({"text": "a b c", "sampling_params": {"max_new_tokens": 1500}});
    let connections: Vec<_> = (0..3).map(|_| post(server.address, "/generate", &body)).collect();
    while get(server.address, "/v1/loads").json()["loads"][0]["num_running_reqs"] != 3 {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let page = get(server.address, "/v1/loads?format=prometheus&include=core").body;
    assert!(page.contains("sglang_num_running_reqs{dp_rank=\"0\"} 3\n"), "{page}");
    assert_eq!(get(server.address, "/v1/loads?include=all,more").status(), 400);
    drop(connections);
    for path in ["/health", "/health_generate", "/ready"] {
        assert_eq!(get(server.address, path).status(), 200);
    }
    assert_eq!(get(server.address, "/get_model_info").json(), get(server.address, "/model_info").json());
    assert_eq!(get(server.address, "/model_info").json()["model_path"], "tiny");
    assert_eq!(get(server.address, "/server_info").json()["max_total_num_tokens"], 200 * 32);
    assert_eq!(get(server.address, "/v1/models").json()["data"][0]["owned_by"], "sglang");
}

#[test]
fn metrics_count_what_was_served() {
    let server = server();
    for stream in [true, false] {
        let body = json!({"prompt": "one two", "max_tokens": 4, "stream": stream});
        post(server.address, "/v1/completions", &body).answer(false);
    }
    let page = get(server.address, "/metrics").body;
    let value = |series: &str| {
        let line =
            page.lines().find(|line| line.starts_with(series)).unwrap_or_else(|| panic!("{series}\n{page}"));
        line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()
    };
    let labels = "{engine_type=\"unified\",is_streaming=\"True\",model_name=\"tiny\"}";
    assert_eq!(value(&format!("sglang:generation_tokens_total{labels}")) as u64, 4);
    assert_eq!(value(&format!("sglang:time_to_first_token_seconds_count{labels}")) as u64, 1);
    assert_eq!(
        value("sglang:inter_token_latency_seconds_count{engine_type=\"unified\",model_name=\"tiny\"}") as u64,
        6
    );
    assert_eq!(
        value(
            "sglang:num_running_reqs{engine_type=\"unified\",model_name=\"tiny\",moe_ep_rank=\"0\",pp_rank=\"0\",tp_rank=\"0\"}"
        ) as u64,
        0
    );
    // No series of vLLM is there.
    assert!(!page.contains("vllm:"));
}

#[test]
fn requests_are_told_of_a_line_each() {
    let file = Shared::default();
    let log = RequestLog::new(LogFormat::Json, Box::new(file.clone()));
    let server = Server::with(ServeOptions { log: Some(log), ..options(topology(1, &recorded())) });
    let body = json!({"prompt": "one two", "max_tokens": 4, "request_id": "a\"b"});
    post(server.address, "/v1/completions", &body).answer(false);
    let mut gone =
        post(server.address, "/v1/completions", &json!({"prompt": "x", "max_tokens": 2000, "stream": true}));
    gone.head();
    gone.chunk();
    drop(gone);
    let lines = || -> Vec<Value> {
        let text = String::from_utf8(file.content()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    while lines().len() < 2 {
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let [finished, aborted] = &lines()[..] else { panic!("{:?}", lines()) };
    assert_eq!((&finished["id"], &finished["status"]), (&json!("cmpl-a\"b"), &json!("finished")));
    assert_eq!((&finished["prompt_tokens"], &finished["completion_tokens"]), (&json!(3), &json!(4)));
    assert!(finished["ttft_ms"].as_f64().unwrap() <= finished["e2e_ms"].as_f64().unwrap());
    assert_eq!((&aborted["status"], &aborted["stream"]), (&json!("aborted"), &json!(true)));
}
