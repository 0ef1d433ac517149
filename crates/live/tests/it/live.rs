//! Clients of all kinds.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use serde_json::json;
use servecast_cluster::{LoadMode, Simulation, SimulationOptions};
use servecast_workload::{Load, read_mooncake};

use crate::client::{get, post, send};
use crate::server::{Server, Shared, options, recorded, topology};

fn gauge(server: &Server, name: &str) -> u64 {
    let page = get(server.address, "/metrics").body;
    let line = page.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}"));
    line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap() as u64
}

fn wait_until(mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn tokens_come_when_the_simulation_says_so() {
    let server = Server::new();
    let started = Instant::now();
    let body = json!({"prompt": "a b c", "max_tokens": 100, "stream": true});
    let mut stream = post(server.address, "/v1/completions", &body);
    stream.head();
    let head = started.elapsed();
    let mut tokens = 0;
    while stream.chunk().contains("\"choices\"") {
        tokens += 1;
    }
    // 100 iterations of 1 ms.
    let took = started.elapsed();
    assert_eq!(tokens, 100);
    assert!(head < took && took >= Duration::from_millis(100), "{head:?} {took:?}");
}

#[test]
fn the_next_turn_of_a_chat_finds_the_first_one_cached() {
    let server = Server::new();
    let question = "Why is the sky blue and the sea green? ".repeat(20);
    let mut messages = vec![json!({"role": "user", "content": question})];
    let ask = |messages: &[serde_json::Value]| {
        let body = json!({"messages": messages, "max_tokens": 64});
        post(server.address, "/v1/chat/completions", &body).answer(false).json()
    };
    let first = ask(&messages);
    assert_eq!(first["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    messages.push(first["choices"][0]["message"].clone());
    messages.push(json!({"role": "user", "content": "And why?"}));
    let second = ask(&messages);
    let cached = second["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    // All whole blocks of the first turn, whose last token was not computed.
    let known = first["usage"]["total_tokens"].as_u64().unwrap() - 1;
    assert_eq!(cached, known / 32 * 32);
}

#[test]
fn who_goes_away_is_taken_back() {
    let server = Server::new();
    for stream in [true, false] {
        let body = json!({"prompt": "x", "max_tokens": 2000, "stream": stream});
        let connection = post(server.address, "/v1/completions", &body);
        wait_until(|| gauge(&server, "vllm:num_requests_running") > 0);
        drop(connection);
        wait_until(|| gauge(&server, "vllm:num_requests_running") == 0);
        wait_until(|| get(server.address, "/load").body == r#"{"server_load":0}"#);
    }
    assert_eq!(gauge(&server, "vllm:request_success_total{engine=\"0\",finished_reason=\"abort\""), 0);
}

#[test]
fn what_waits_for_a_place_is_told_of_and_served() {
    let server = Server::new();
    let body = json!({"prompt": "x", "max_tokens": 400});
    let connections: Vec<_> = (0..12).map(|_| post(server.address, "/v1/completions", &body)).collect();
    wait_until(|| gauge(&server, "vllm:num_requests_waiting{") == 4);
    assert_eq!(gauge(&server, "vllm:num_requests_running"), 8);
    for connection in connections {
        assert_eq!(connection.answer(false).json()["usage"]["completion_tokens"], 400);
    }
    assert_eq!(gauge(&server, "vllm:request_success_total{engine=\"0\",finished_reason=\"length\""), 12);
    assert_eq!(gauge(&server, "vllm:generation_tokens_total"), 4800);
}

#[test]
fn a_record_can_be_replayed() {
    let file = Shared::default();
    let engine = recorded();
    let server = Server::with(servecast_live::ServeOptions {
        record: Some(Box::new(file.clone())),
        ..options(topology(2, &engine))
    });
    let ask = |number: usize| {
        let body = json!({"prompt": vec![number % 3 + 300; 100 + number], "max_tokens": 5 + number});
        post(server.address, "/v1/completions", &body)
    };
    let connections: Vec<_> = (0..20).map(ask).collect();
    let answers = connections.into_iter().map(|connection| connection.answer(false).json());
    let mut cached: Vec<(u64, u64)> = answers
        .map(|answer| {
            let usage = &answer["usage"];
            let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
            (usage["prompt_tokens"].as_u64().unwrap(), cached)
        })
        .collect();
    server.stop().unwrap();
    let trace = read_mooncake(&file.content()[..]).unwrap();
    let workload = trace.into_workload(512, Load::Open { arrival_speedup_ratio: 1.0 }).unwrap();
    let simulation = SimulationOptions { load: LoadMode::OpenLoop, ..SimulationOptions::default() };
    let record = Simulation::new(&topology(2, &engine), workload, &simulation).unwrap().run(&mut ()).unwrap();
    let replayed = record.requests.iter();
    let mut replayed: Vec<(u64, u64)> =
        replayed.map(|request| (request.input_tokens.into(), request.reused_tokens().into())).collect();
    cached.sort_unstable();
    replayed.sort_unstable();
    assert_eq!(cached, replayed);
    assert!(cached.iter().any(|&(_, cached)| cached > 0));
}

#[test]
fn a_key_is_asked_for_where_the_real_server_asks() {
    let server = Server::with(servecast_live::ServeOptions {
        api_key: Some("secret".to_owned()),
        ..options(topology(1, &recorded()))
    });
    assert_eq!(get(server.address, "/v1/models").body, r#"{"error":"Unauthorized"}"#);
    assert_eq!(get(server.address, "/v1/nothing").status(), 401);
    assert_eq!(get(server.address, "/health").status(), 200);
    for (key, status) in [("secret", 200), ("secre", 401), ("secrets", 401), ("", 401)] {
        let head = format!("GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n");
        assert_eq!(send(server.address, head.as_bytes()).answer(false).status(), status, "{key}");
    }
}

#[test]
fn what_is_no_request_hurts_nobody() {
    let server = Server::new();
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00"[..],
        b"GET\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    ] {
        let mut connection = send(server.address, bytes);
        // It says that it is none of its kind, or closes the connection.
        connection.0.get_mut().shutdown(std::net::Shutdown::Write).unwrap();
        let _ = connection.0.read_to_end(&mut Vec::new());
    }
    let refused = |head: &str, body: &[u8]| {
        let mut connection = send(server.address, head.as_bytes());
        // The server need not wait for the end of what it does not take.
        let _ = connection.0.get_mut().write_all(body);
        connection.answer(false).status()
    };
    let head = |length: usize| {
        format!(
            "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    let deep = "[".repeat(1_000_000);
    for body in [deep.as_bytes(), b"\xff\xfe{}", b"{\"prompt\": \"\\ud800\"}"] {
        assert_eq!(refused(&head(body.len()), body), 400);
    }
    assert_eq!(refused(&head(100 << 20), &vec![b' '; 33 << 20]), 413);
    assert_eq!(get(server.address, "/health").status(), 200);
}

#[test]
fn a_server_that_stops_lets_go_of_its_port() {
    let server = Server::new();
    let address = server.address;
    let body = json!({"prompt": "x", "max_tokens": 2000, "stream": true});
    let mut stream = post(address, "/v1/completions", &body);
    stream.head();
    stream.chunk();
    server.stop().unwrap();
    assert!(std::net::TcpStream::connect(address).is_err());
    let taken = std::net::TcpListener::bind(address).unwrap();
    let options = servecast_live::ServeOptions {
        address: taken.local_addr().ok(),
        ..options(topology(1, &recorded()))
    };
    let error = servecast_live::serve(options, |_| {}, std::future::pending()).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot listen on {address}"));
}

#[test]
fn each_worker_may_have_a_port_of_its_own() {
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Server::with(servecast_live::ServeOptions {
        workers: Some(any),
        ..options(topology(2, &recorded()))
    });
    let [whole, first, second] = server.ports[..] else { panic!("{:?}", server.ports) };
    let body = json!({"prompt": vec![7; 100], "max_tokens": 5});
    let cached = |address| {
        let answer = post(address, "/v1/completions", &body).answer(false).json();
        answer["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
    };
    assert_eq!([first, second, first].map(cached), [0, 0, 96]);
    let total = |address, engine: u32| {
        let page = get(address, "/metrics").body;
        let start = format!("vllm:prompt_tokens_total{{engine=\"{engine}\"");
        let line = page.lines().find(|line| line.starts_with(&start))?;
        line.rsplit_once(' ')?.1.parse::<f64>().ok()
    };
    assert_eq!([total(whole, 0), total(whole, 1)], [Some(200.0), Some(100.0)]);
    assert_eq!([total(first, 0), total(first, 1)], [Some(200.0), None]);
    assert_eq!([total(second, 0), total(second, 1)], [Some(100.0), None]);
}
