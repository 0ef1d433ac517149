//! KV events, as a subscriber has them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;
use servecast_live::{KvEventsConfig, ServeOptions};
use servecast_router::wire::{DecodedMessage, EngineEvent, decode_frames};

use crate::client::{post, send};
use crate::server::{Server, options, recorded, topology};

/// A socket of the other side, which sees every byte.
struct Peer(TcpStream);

impl Peer {
    fn new(port: u16, kind: &str) -> Self {
        Self::on(TcpStream::connect(("127.0.0.1", port)).unwrap(), kind)
    }

    fn on(stream: TcpStream, kind: &str) -> Self {
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut peer = Self(stream);
        let mut greeting = [0; 64];
        greeting[0] = 0xff;
        greeting[9..11].copy_from_slice(&[0x7f, 3]);
        greeting[12..16].copy_from_slice(b"NULL");
        peer.0.write_all(&greeting).unwrap();
        peer.0.read_exact(&mut [0; 64]).unwrap();
        let ready = format!("\x05READY\x0bSocket-Type\0\0\0{}{kind}", char::from(kind.len() as u8));
        peer.0.write_all(&[&[4, ready.len() as u8], ready.as_bytes()].concat()).unwrap();
        peer.frame();
        peer
    }

    /// The next frame, and whether the message goes on.
    fn frame(&mut self) -> (Vec<u8>, bool) {
        let mut head = [0; 2];
        self.0.read_exact(&mut head).unwrap();
        let length = if head[0] & 2 == 0 {
            u64::from(head[1])
        } else {
            let mut rest = [0; 8];
            rest[0] = head[1];
            self.0.read_exact(&mut rest[1..]).unwrap();
            u64::from_be_bytes(rest)
        };
        let mut content = vec![0; length as usize];
        self.0.read_exact(&mut content).unwrap();
        (content, head[0] & 1 == 1)
    }

    fn message(&mut self) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        loop {
            let (frame, goes_on) = self.frame();
            frames.push(frame);
            if !goes_on {
                return frames;
            }
        }
    }

    fn events(&mut self) -> DecodedMessage {
        decode_frames(&self.message()).unwrap()
    }

    fn subscribe(mut self, topic: &str) -> Self {
        self.0.write_all(&[&[0, topic.len() as u8 + 1, 1], topic.as_bytes()].concat()).unwrap();
        self
    }

    /// Asks for messages from one on.
    fn replay(&mut self, from: u8) -> Vec<DecodedMessage> {
        self.0.write_all(&[1, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, from]).unwrap();
        let mut messages = Vec::new();
        loop {
            let frames = self.message();
            assert!(frames[0].is_empty());
            if frames[2] == [0xff; 8] {
                assert_eq!(frames.len(), 4);
                return messages;
            }
            messages.push(decode_frames(&frames[1..]).unwrap());
        }
    }
}

/// So many ports in a row that are free.
fn free(ports: u16) -> u16 {
    loop {
        let first = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let is_free = |port| TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port))).is_ok();
        if first < u16::MAX - ports && (first..first + ports).all(is_free) {
            return first;
        }
    }
}

fn server(workers: u32, config: &serde_json::Value) -> Server {
    let mut config = config.clone();
    config["enable_kv_cache_events"] = true.into();
    Server::with(ServeOptions {
        kv_events: KvEventsConfig::from_json(&config.to_string()).unwrap(),
        dev_mode: true,
        ..options(topology(workers, &recorded()))
    })
}

fn ask(server: &Server, prompt: &[u32]) {
    let body = json!({"prompt": prompt, "max_tokens": 2});
    assert_eq!(post(server.address, "/v1/completions", &body).answer(false).status(), 200);
}

/// Numbers of blocks that were stored, and those that were removed.
fn blocks(messages: &[DecodedMessage]) -> (Vec<u64>, Vec<u64>) {
    let (mut stored, mut removed) = (Vec::new(), Vec::new());
    for event in messages.iter().flat_map(|message| &message.batch.events) {
        match event.as_ref().unwrap() {
            EngineEvent::BlockStored(event) => stored.extend(event.block_hashes.iter().map(|hash| hash.0)),
            EngineEvent::BlockRemoved(event) => removed.extend(event.block_hashes.iter().map(|hash| hash.0)),
            EngineEvent::AllBlocksCleared => {}
        }
    }
    (stored, removed)
}

#[test]
fn a_subscriber_hears_of_what_is_stored_and_evicted() {
    let port = free(2);
    let endpoints = [port, port + 1].map(|port| format!("tcp://*:{port}"));
    let server =
        server(1, &json!({"endpoint": endpoints[0], "replay_endpoint": endpoints[1], "topic": "kv"}));
    let mut subscriber = Peer::new(port, "SUB").subscribe("k");
    let mut other = Peer::new(port, "SUB").subscribe("other").subscribe("kv");
    let mut late = Peer::new(port + 1, "DEALER");
    // So that it has subscribed.
    assert!(late.replay(0).is_empty());
    std::thread::sleep(Duration::from_millis(50));
    ask(&server, &[7; 100]);
    let first = subscriber.events();
    assert_eq!(
        (first.topic.as_slice(), first.sequence, first.batch.data_parallel_rank),
        (&b"kv"[..], 0, Some(0))
    );
    let [Ok(EngineEvent::BlockStored(stored))] = &first.batch.events[..] else { panic!("{first:?}") };
    assert_eq!((stored.block_hashes.len(), stored.block_size, stored.parent_block_hash), (3, 32, None));
    assert_eq!(other.events(), first);
    // 200 blocks of 32 tokens hold some of these.
    for number in 0..8 {
        ask(&server, &[number; 1500]);
    }
    let messages = late.replay(0);
    assert_eq!(messages[0], first);
    assert!(messages.iter().zip(0..).all(|(message, number)| message.sequence == number));
    let heard: Vec<DecodedMessage> = messages[1..].iter().map(|_| subscriber.events()).collect();
    assert_eq!(heard, messages[1..]);
    let (stored, removed) = blocks(&messages);
    assert_eq!(stored.len(), 3 + 8 * 46);
    // All but the null block are in use.
    assert_eq!(stored.len() - removed.len(), 199 - 1);
    assert_eq!(late.replay(3).len(), messages.len() - 3);
    assert!(late.replay(200).is_empty());
}

#[test]
fn each_worker_has_a_port_and_a_buffer() {
    let port = free(4);
    let [events, replay] = [port, port + 2].map(|port| format!("tcp://*:{port}"));
    let server = server(2, &json!({"endpoint": events, "replay_endpoint": replay, "buffer_steps": 2}));
    for number in 0..6 {
        ask(&server, &[number; 64]);
    }
    let messages = [port + 2, port + 3].map(|port| Peer::new(port, "REQ").replay(0));
    for (messages, rank) in messages.iter().zip(0..) {
        assert_eq!(messages.iter().map(|message| message.sequence).collect::<Vec<_>>(), [1, 2]);
        assert!(messages.iter().all(|message| message.batch.data_parallel_rank == Some(rank)));
    }
    drop(server);
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[test]
fn who_is_no_subscriber_hurts_nobody() {
    let port = free(2);
    let [events, replay] = [port, port + 1].map(|port| format!("tcp://*:{port}"));
    let server = server(1, &json!({"endpoint": events, "replay_endpoint": replay}));
    for port in [port, port + 1] {
        for bytes in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 64], &[0; 4096]] {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            let _ = stream.write_all(bytes);
        }
        let mut peer = Peer::new(port, "SUB");
        // A frame of 2⁶³ bytes.
        let _ = peer.0.write_all(&[2, 0x80, 0, 0, 0, 0, 0, 0, 0]);
        peer.0.read_to_end(&mut Vec::new()).unwrap();
    }
    let mut late = Peer::new(port + 1, "DEALER");
    // Without the empty frame it is no request.
    late.0.write_all(&[0, 1, 0]).unwrap();
    ask(&server, &[1; 64]);
    assert_eq!(late.replay(0).len(), 1);
}

#[test]
fn a_publisher_goes_to_a_subscriber_that_listens() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = server(1, &json!({"endpoint": format!("tcp://127.0.0.1:{port}")}));
    let (stream, _) = listener.accept().unwrap();
    let mut subscriber = Peer::on(stream, "SUB").subscribe("");
    let start = Instant::now();
    std::thread::sleep(Duration::from_millis(50));
    ask(&server, &[1; 64]);
    assert_eq!(subscriber.events().sequence, 0);
    // It comes back.
    drop(subscriber);
    let (stream, _) = listener.accept().unwrap();
    drop(stream);
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn a_reset_is_told_of_in_front_of_the_next_blocks() {
    let port = free(2);
    let [events, replay] = [0, 1].map(|more| format!("tcp://127.0.0.1:{}", port + more));
    let server = server(1, &json!({"endpoint": events, "replay_endpoint": replay}));
    let prompt = [7; 40];
    ask(&server, &prompt);
    let reset = || {
        let head = b"POST /reset_prefix_cache HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n";
        send(server.address, head).answer(false).body
    };
    // The worker may not have ended its last pass.
    let start = Instant::now();
    while reset() != r#"{"success":true}"# {
        assert!(start.elapsed() < Duration::from_secs(20));
    }
    ask(&server, &prompt);
    let mut peer = Peer::new(port + 1, "DEALER");
    let mut messages = Vec::new();
    while messages.len() < 2 {
        assert!(start.elapsed() < Duration::from_secs(20));
        messages = peer.replay(0);
    }
    let stored = blocks(&messages).0;
    assert_eq!((stored.len(), stored[0]), (2, stored[1]), "the same block is stored again");
    let cleared = |event: &EngineEvent| matches!(event, EngineEvent::AllBlocksCleared);
    let places: Vec<Vec<bool>> = messages
        .iter()
        .map(|message| message.batch.events.iter().map(|event| cleared(event.as_ref().unwrap())).collect())
        .collect();
    assert_eq!(places, [vec![false], vec![true, false]]);
}
