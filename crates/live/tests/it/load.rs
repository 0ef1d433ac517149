//! Many streams at once, and how late their tokens are.
//!
//! `SERVECAST_LOAD=2000,60,8 cargo test --release -p servecast-live --test it -- load:: --nocapture` has so many streams for so
//! many seconds, on so many workers behind one port; without it there are 200 for 3 s, and nobody looks at how late they are.
//! With one worker all tokens of a pass are due at the same instant.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::json;
use servecast_live::ServeOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::server::{Server, options, topology};

/// A pass of all streams.
const PERIOD: Duration = Duration::from_millis(100);

/// When the tokens of a stream came.
async fn stream(address: SocketAddr, tokens: usize) -> Vec<Instant> {
    let body =
        json!({"prompt": [1, 2, 3], "max_tokens": tokens, "stream": true, "ignore_eos": true}).to_string();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let mut connection = TcpStream::connect(address).await.unwrap();
    connection.write_all((head + &body).as_bytes()).await.unwrap();
    let (mut times, mut rest) = (Vec::with_capacity(tokens), Vec::new());
    let mut buffer = vec![0; 4096];
    loop {
        let read = connection.read(&mut buffer).await.unwrap();
        assert!(read > 0, "a stream ended after {} tokens", times.len());
        rest.extend_from_slice(&buffer[..read]);
        let now = Instant::now();
        let mut done = 0;
        // An event ends with an empty line.
        while let Some(end) = rest[done..].windows(2).position(|pair| pair == b"\n\n") {
            let event = &rest[done..done + end];
            if event.windows(8).any(|part| part == b"\"choices") {
                times.push(now);
            }
            done += end + 2;
        }
        rest.drain(..done);
        if times.len() == tokens {
            return times;
        }
    }
}

/// By token, how much later it came than the promptest one of its stream would have it, since passes are as long as each other.
fn lateness(streams: &[Vec<Instant>]) -> Vec<Duration> {
    let of_stream = |times: &Vec<Instant>| {
        let offsets = offsets(times);
        let first = offsets.iter().copied().min().unwrap();
        offsets.into_iter().map(move |offset| offset.duration_since(first)).collect::<Vec<_>>()
    };
    streams.iter().flat_map(of_stream).collect()
}

/// By token, how long after its pass it came: all streams are in the same passes, which cannot have ended later than the
/// promptest token of any stream came.
fn after_pass(streams: &[Vec<Instant>]) -> Vec<Duration> {
    let offsets: Vec<_> = streams.iter().map(|times| offsets(times)).collect();
    let promptest = offsets.iter().map(|offsets| *offsets.iter().min().unwrap());
    let first = promptest.clone().min().unwrap();
    let into_pass = |at: Instant| (at.duration_since(first).as_nanos() % PERIOD.as_nanos()) as u64;
    // Where in a period passes end: in no stream does a token come shortly before that.
    let mut places: Vec<u64> = promptest.map(into_pass).collect();
    places.sort_unstable();
    let next = places.iter().skip(1).copied().chain([places[0] + PERIOD.as_nanos() as u64]);
    let end =
        places.iter().zip(next).max_by_key(|&(&place, next)| next - place).map(|(_, next)| next).unwrap();
    let end = (first + Duration::from_nanos(end)).checked_sub(PERIOD).unwrap();
    let of_stream = |offsets: &Vec<Instant>| {
        let first = *offsets.iter().min().unwrap();
        let passes = first.duration_since(end).as_nanos() / PERIOD.as_nanos();
        let due = end + PERIOD * passes as u32;
        offsets.iter().map(|offset| offset.duration_since(due)).collect::<Vec<_>>()
    };
    offsets.iter().flat_map(of_stream).collect()
}

/// By token, when it came, less a period for each token before it.
fn offsets(times: &[Instant]) -> Vec<Instant> {
    let of_token = |(number, &at): (usize, &Instant)| at.checked_sub(PERIOD * number as u32).unwrap();
    times.iter().enumerate().map(of_token).collect()
}

/// Percentiles, as text.
fn percentiles(mut late: Vec<Duration>) -> String {
    late.sort_unstable();
    let at = |share: f64| late[((late.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    format!("p50 {:.1}, p99 {:.1}, most {:.1} ms", at(0.5), at(0.99), at(1.0))
}

/// User and system time of the process so far, in seconds.
fn processor_time() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
    // In hundredths, behind eleven other fields.
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// The most memory that the process had, in MB.
fn peak_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).map_or(0, |kb| kb / 1000)
}

#[test]
#[expect(clippy::print_stdout, reason = "whoever runs it by hand reads it")]
fn many_streams_get_their_tokens() {
    let given = std::env::var("SERVECAST_LOAD").ok();
    let numbers: Vec<usize> =
        given.as_deref().unwrap_or("200,3,2").split(',').map(|number| number.parse().unwrap()).collect();
    let [streams, seconds, workers] = numbers[..] else { panic!("STREAMS,SECONDS,WORKERS") };
    let tokens = seconds * 1000 / PERIOD.as_millis() as usize;
    let engine = json!({
        "block_size": 16, "num_gpu_blocks": streams * (tokens / 16 + 3), "max_num_seqs": streams.div_ceil(workers),
        "max_num_batched_tokens": 4 * streams, "latency": format!("linear:{},0,0", PERIOD.as_micros()),
    });
    let mut of_server = options(topology(workers as u32, &engine));
    of_server.options.check = false;
    let server = Server::with(ServeOptions { max_model_len: None, ..of_server });
    let address = server.address;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let start = Instant::now();
    let times = runtime.block_on(async {
        let mut clients: JoinSet<_> = (0..streams).map(|_| stream(address, tokens)).collect();
        let mut times = Vec::new();
        while let Some(done) = clients.join_next().await {
            times.push(done.unwrap());
        }
        times
    });
    let took = start.elapsed();
    assert_eq!(times.iter().map(Vec::len).sum::<usize>(), streams * tokens);
    if given.is_some() {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let all = streams * tokens;
        let of_pass = if workers == 1 {
            format!("; after the pass by {}", percentiles(after_pass(&times)))
        } else {
            String::new()
        };
        println!(
            "{streams} streams of {workers} workers, {all} tokens in {:.1} s: late by {}{of_pass}; server and client: {} MB, \
             {:.1} µs of processor time a token; load {load}",
            took.as_secs_f64(),
            percentiles(lateness(&times)),
            peak_mb(),
            processor_time() * 1e6 / all as f64,
        );
    }
}
