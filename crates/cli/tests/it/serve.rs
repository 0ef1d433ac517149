//! A server that is started and stopped.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use crate::sandbox::Sandbox;

/// A server at any free port, and its address.
fn start(sandbox: &Sandbox, arguments: &[&str]) -> (Child, String) {
    let mut command = sandbox.command(&[&["serve", "--port", "0"], arguments].concat());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    for line in BufReader::new(child.stderr.take().unwrap()).lines() {
        let line = line.unwrap();
        if let Some((_, address)) = line.split_once(" at http://") {
            return (child, address.trim_end_matches("/v1").to_owned());
        }
    }
    panic!("it ended: {:?}", child.wait());
}

fn ask(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_server_answers_until_it_is_told_to_stop() {
    let sandbox = Sandbox::new();
    let deployment = ["--workers", "2", "--router-mode", "kv_router", "--latency", "linear:1000,0,0"];
    let more = ["--served-model-name", "mock", "--record", "r.jsonl", "--seed", "7"];
    let (mut child, address) = start(&sandbox, &[&deployment[..], &more].concat());
    let models = ask(&address, "GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert!(models.starts_with("HTTP/1.1 200 OK") && models.contains("\"id\":\"mock\""), "{models}");
    let body = r#"{"prompt": "one two three", "max_tokens": 3}"#;
    let length = body.len();
    let answer = ask(
        &address,
        &format!(
            "POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        ),
    );
    assert!(answer.contains("\"completion_tokens\":3"), "{answer}");
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(TcpStream::connect(&address).is_err());
    let report = sandbox.report(&[&["r.jsonl"], &deployment[..]].concat());
    assert_eq!((&report["completed_requests"], &report["total_output_tokens"]), (&1.into(), &3.into()));
}

#[test]
fn sequences_are_as_long_as_the_model_and_the_cache_allow() {
    let sandbox = Sandbox::new();
    let known = ["--model", "meta-llama/Llama-3.1-8B", "--gpu", "H100-SXM", "--engine-preset", "vllm-0.33"];
    for (more, max_model_len) in [
        (&[][..], 131_072),
        (&["--max-model-len", "5000"], 5000),
        (&["--num-gpu-blocks", "1000", "--block-size", "16"], 999 * 16),
    ] {
        let (mut child, address) = start(&sandbox, &[&known[..], more].concat());
        let models = ask(&address, "GET /v1/models HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(models.contains(&format!("\"max_model_len\":{max_model_len},")), "{more:?}: {models}");
    }
}

#[test]
fn a_server_that_cannot_be_is_refused() {
    let sandbox = Sandbox::new();
    sandbox.write("blank.txt", "\n");
    std::fs::create_dir(sandbox.path("bad")).unwrap();
    sandbox.write("bad/tokenizer.json", "{\"model\": 1}");
    sandbox.write("load.toml", "trace_file = \"t.jsonl\"\n");
    sandbox.write("result.toml", "report_json = \"r.json\"\n");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (arguments, words) in [
        (&["--port", port.as_str()][..], &["cannot listen on 127.0.0.1:", "--port 0 any that is free"][..]),
        (&["--port", "70000"], &["'70000'", "--port"]),
        (&["--host", "nowhere"], &["'nowhere'", "--host"]),
        (
            &["--host", "203.0.113.1"],
            &["cannot listen on 203.0.113.1:8000", "--host is an address of this machine"],
        ),
        (
            &["--port", "0", "--admin-port", port.as_str()],
            &[
                "cannot listen on 127.0.0.1:",
                "--worker-port, --admin-port and --kv-events-config name others",
            ],
        ),
        (&["--speed", "0"], &["`speed` is 0, but must be above 0", "(from --speed)"]),
        (&["--speed", "-1"], &["`speed` is -1, but must be above 0"]),
        (&["--worker-port", "65535", "--workers", "2"], &["the last of 2 workers has port 65536"]),
        (
            &["--worker-port", "8000", "--workers", "4", "--port", "8002"],
            &["--port is 8002, which is the port of a worker"],
        ),
        (
            &["--worker-port", "8000", "--prefill-workers", "1", "--decode-workers", "1"],
            &["--worker-port is for aggregated deployments"],
        ),
        (&["--fail", "rate=2"], &["'rate=2'", "rate is 2, but has to be from 0 to 1"]),
        (&["--stall", "seconds=1"], &["rate is missing"]),
        (&["--max-queue", "few"], &["'few'", "such as 64 or 64,status=429"]),
        (&["--startup-s", "-1"], &["--startup-s is -1, but has to be from 0 to 86400"]),
        (
            &["--engine-host", r#"{"gap_us": 5}"#, "--engine-args", r#"{"host": {"gap_us": 7}}"#],
            &["give it once", "`host` from --engine-host"],
        ),
        (&["--engine-host", "{"], &["--engine-host"]),
        (&["--engine-host", r#"{"gap_us": -5}"#], &["`host.gap_us` is -5", "(from --engine-host)"]),
        (&["--engine-host", r#"{"gpa_us": 5}"#], &["unknown key `host.gpa_us`", "(from --engine-host)"]),
        (&["--gap-us", "-5"], &["`host.gap_us` is -5", "(from --gap-us)"]),
        (&["--engine-args", r#"{"block_size": 1}"#], &["`block_size` is 1", "(from --engine-args)"]),
        (&["--extra-engine-args", r#"{"block_size": 1}"#], &["(from --extra-engine-args)"]),
        (&["--speed", "nan"], &["'nan'", "--speed", "a finite number"]),
        (&["--api-key", ""], &["--api-key is empty"]),
        (&["--kv-events-config", "{"], &["--kv-events-config: it is no JSON object"]),
        (
            &["--kv-events-config", r#"{"hwm": 0}"#],
            &["--kv-events-config: hwm is 0, but has to be a whole number"],
        ),
        (
            &[
                "--kv-events-config",
                r#"{"enable_kv_cache_events": true, "endpoint": "tcp://*:65535"}"#,
                "--port",
                "0",
                "--workers",
                "2",
            ],
            &["--kv-events-config", "endpoint has the port 65535 for the first of 2 workers"],
        ),
        (&["--prefix-caching-hash-algo", "md5"], &["'md5'", "sha256_cbor"]),
        (&["--output-tokens", "0"], &["--output-tokens is 0"]),
        (&["--output-tokens-distribution", "uniform"], &["--output-tokens-spread is missing"]),
        (
            &["--output-tokens-distribution", "uniform", "--output-tokens-spread", "1.5"],
            &["--output-tokens-spread is 1.5, but must be above 0 and at most 1 for uniform lengths"],
        ),
        (&["--output-tokens-spread", "0.5"], &["lengths do not vary without --output-tokens-distribution"]),
        (&["--output", "no.txt"], &["no.txt"]),
        (&["--output", "blank.txt"], &["`blank.txt`, which has no text"]),
        (&["--tokenizer", "no"], &["no/tokenizer.json", "--tokenizer names a folder"]),
        (&["--tokenizer", "bad"], &["bad/tokenizer.json", "--tokenizer names a folder"]),
        (&["--workers", "0"], &["`num_workers` is 0", "(from --workers)"]),
        (&["--record", "none/r.jsonl"], &["none/r.jsonl"]),
        (&["--config", "load.toml"], &["`trace_file` is a load for a replay"]),
        (
            &["--config", "result.toml"],
            &["`report_json` names a result of a replay, which a server does not have"],
        ),
        (
            &["--router-session-affinity-ttl-secs", "60"],
            &["`router_session_affinity_ttl_secs` is for a replay", "has no sessions"],
        ),
        (&["--input-tokens", "5"], &["--input-tokens"]),
    ] {
        sandbox.run(&[&["serve", "--quiet"], arguments].concat()).is_refused(words);
    }
}
