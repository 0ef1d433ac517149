//! Servers that fail, and what clients see of it.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use servecast_live::{Faults, ServeOptions};

use crate::client::{Answer, get, post, send};
use crate::server::{Server, options, recorded, topology};

fn wait_until(mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn with(faults: Faults) -> Server {
    Server::with(ServeOptions { faults, ..options(topology(1, &recorded())) })
}

fn ask(address: SocketAddr, tokens: u32) -> Answer {
    post(address, "/v1/completions", &json!({"prompt": "x", "max_tokens": tokens})).answer(false)
}

#[test]
fn requests_fail_as_often_as_they_are_to() {
    let server = with(Faults { fail: "rate=0.5,status=502".parse().ok(), ..Faults::default() });
    let answers: Vec<Answer> = (0..60).map(|_| ask(server.address, 1)).collect();
    let (failed, served): (Vec<_>, Vec<_>) = answers.iter().partition(|answer| answer.status() == 502);
    assert!(failed.len() > 10 && served.iter().filter(|answer| answer.status() == 200).count() > 10);
    let error = &failed[0].json()["error"];
    assert_eq!((&error["type"], &error["code"]), (&json!("Bad Gateway"), &json!(502)));
    // What is no request is refused before, and nothing else fails.
    let body = json!({"prompt": 7.5});
    assert!((0..20).all(|_| post(server.address, "/v1/completions", &body).answer(false).status() == 400));
    assert!((0..20).all(|_| get(server.address, "/health").status() == 200));
}

#[test]
fn a_full_queue_refuses() {
    let server = with(Faults { max_queue: "2,status=429".parse().ok(), ..Faults::default() });
    let body = json!({"prompt": "x", "max_tokens": 500});
    let running = || {
        get(server.address, "/metrics")
            .body
            .contains("vllm:num_requests_running{engine=\"0\",model_name=\"tiny\"} 8.0")
    };
    let mut under_way = Vec::new();
    while !running() {
        // No more than 8 run at a time.
        if under_way.len() < 8 {
            under_way.push(post(server.address, "/v1/completions", &body));
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    under_way.extend((0..2).map(|_| post(server.address, "/v1/completions", &body)));
    wait_until(|| get(server.address, "/load").body == r#"{"server_load":10}"#);
    let refused = ask(server.address, 1);
    assert_eq!((refused.status(), &refused.json()["error"]["type"]), (429, &json!("Too Many Requests")));
    for connection in under_way {
        assert_eq!(connection.answer(false).status(), 200);
    }
    assert_eq!(ask(server.address, 1).status(), 200);
}

#[test]
fn who_is_stalled_gets_its_tokens_later() {
    let server = with(Faults { stall: "rate=1,seconds=0.4".parse().ok(), ..Faults::default() });
    for stream in [false, true] {
        let start = Instant::now();
        let body = json!({"prompt": "x", "max_tokens": 3, "stream": stream});
        let mut connection = post(server.address, "/v1/completions", &body);
        connection.head();
        // The head of a stream comes at once.
        assert_eq!(start.elapsed() < Duration::from_millis(350), stream);
        connection.0.read_exact(&mut [0]).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(400));
    }
}

fn workers(answer: &Answer) -> Vec<(u64, String)> {
    let workers = answer.json();
    let worker =
        |worker: &Value| (worker["worker"].as_u64().unwrap(), worker["state"].as_str().unwrap().to_owned());
    workers.as_array().unwrap().iter().map(worker).collect()
}

#[test]
fn workers_fail_and_come_back() {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Server::with(ServeOptions {
        workers: Some(any),
        admin: Some(any),
        ..options(topology(2, &recorded()))
    });
    let [front, first, second, admin] = server.ports[..] else { panic!("{:?}", server.ports) };
    let order = |path: &str| {
        send(admin, format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").as_bytes())
            .answer(false)
    };
    let serving = |worker| (worker, "serving".to_owned());
    assert_eq!(workers(&get(admin, "/workers")), [serving(0), serving(1)]);
    let body = json!({"prompt": "x", "max_tokens": 2000, "stream": true});
    let mut lost = post(second, "/v1/completions", &body);
    lost.head();
    lost.chunk();
    assert_eq!(order("/workers/1/fail").status(), 200);
    // The connection ends in the middle.
    let mut rest = String::new();
    let _ = lost.0.read_to_string(&mut rest);
    assert!(!rest.contains("[DONE]"));
    wait_until(|| TcpStream::connect(second).is_err());
    assert_eq!(workers(&get(admin, "/workers")), [serving(0), (1, "down".to_owned())]);
    assert_eq!(order("/workers/1/fail").status(), 409);
    assert_eq!(order("/workers/7/fail").status(), 404);
    assert_eq!(order("/workers/x/fail").status(), 404);
    assert_eq!(order("/workers/1/explode").status(), 404);
    assert_eq!(get(admin, "/workers/1/fail").status(), 405);
    // The others go on.
    assert!([front, front, first].iter().all(|&address| ask(address, 2).status() == 200));
    assert_eq!(order("/workers/1/restart").status(), 200);
    wait_until(|| TcpStream::connect(second).is_ok());
    assert_eq!(ask(second, 2).status(), 200);
    // Nobody serves any more: who comes waits, and is served when somebody does.
    assert!([0, 1].iter().all(|worker| order(&format!("/workers/{worker}/fail")).status() == 200));
    let waiting = post(front, "/v1/completions", &json!({"prompt": "x", "max_tokens": 2}));
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(order("/workers/0/restart").status(), 200);
    assert_eq!(waiting.answer(false).status(), 200);
}

#[test]
fn requests_end_with_their_worker() {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Server::with(ServeOptions { admin: Some(any), ..options(topology(1, &recorded())) });
    let [front, admin] = server.ports[..] else { panic!("{:?}", server.ports) };
    let whole = post(front, "/v1/completions", &json!({"prompt": "x", "max_tokens": 2000}));
    let mut stream =
        post(front, "/v1/completions", &json!({"prompt": "x", "max_tokens": 2000, "stream": true}));
    stream.head();
    stream.chunk();
    send(admin, b"POST /workers/0/fail HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").answer(false);
    assert_eq!(whole.answer(false).status(), 500);
    let rest =
        std::iter::from_fn(|| Some(stream.chunk()).filter(|chunk| !chunk.is_empty())).collect::<String>();
    assert!(rest.contains("InternalServerError"), "{rest}");
    assert_eq!(get(front, "/load").body, r#"{"server_load":0}"#);
}

#[test]
fn a_server_that_starts_is_not_there_yet() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    drop(taken);
    let start = Instant::now();
    let early = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        TcpStream::connect(address).is_err()
    });
    let server = Server::with(ServeOptions {
        address: Some(address),
        startup: servecast_types::Duration::from_ns(800_000_000),
        ..options(topology(1, &recorded()))
    });
    assert!(early.join().unwrap());
    assert!(start.elapsed() >= Duration::from_millis(800));
    assert_eq!(ask(server.address, 1).status(), 200);
}
