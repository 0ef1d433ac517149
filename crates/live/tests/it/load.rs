//! Many streams at once, and how late their tokens are.
//!
//! `SERVECAST_LOAD=2000,60,8,2000 cargo test --release -p servecast-live --test it -- load:: --nocapture` has so many streams
//! for so many seconds, on so many workers behind one port, which begin within so many milliseconds. With one worker and no
//! time to begin in, all tokens of a pass are due at the same instant. Without it there are 200 for 3 s, and nobody looks at
//! how late they are.

mod streams;

use std::time::Duration;

use rand::SeedableRng;
use rand::distr::{Distribution, Uniform};
use rand_pcg::Pcg64;
use rustc_hash::FxHashMap;
use serde_json::{Value, json};
use servecast_cluster::{
    LoadMode, RouterMode, RouterOptions, Simulation, SimulationOptions, Topology, WithTokens,
};
use servecast_live::ServeOptions;
use servecast_workload::{Load, read_mooncake};

use crate::server::{Server, Shared, options, topology};

/// How long a pass takes of as many streams as a worker has on average, in microseconds.
const PASS_US: usize = 100_000;

/// What all passes take. Workers have not as many streams as each other, so they are not in step for long.
const BASE_US: usize = 40_000;

/// How many streams, for how long, and who serves them.
#[derive(Debug, Clone, Copy)]
struct Campaign {
    streams: usize,
    seconds: usize,
    workers: usize,
    /// In how many milliseconds streams begin.
    within: u64,
}

impl Campaign {
    /// Of a text such as `2000,60,8,2000`.
    fn of(text: &str) -> Self {
        let numbers: Vec<usize> = text.split(',').map(|number| number.parse().unwrap()).collect();
        let [streams, seconds, workers, within] = numbers[..] else {
            panic!("SERVECAST_LOAD is {text}, but must be STREAMS,SECONDS,WORKERS,MILLISECONDS")
        };
        Self { streams, seconds, workers, within: within as u64 }
    }

    /// Tokens of a stream.
    fn tokens(&self) -> usize {
        self.seconds * 1_000_000 / PASS_US
    }

    fn topology(&self) -> Topology {
        let each = ((PASS_US - BASE_US) * self.workers) as f64 / self.streams as f64;
        let engine = json!({
            "block_size": 16, "num_gpu_blocks": self.streams * (self.tokens() / 16 + 3),
            "max_num_seqs": self.streams, "max_num_batched_tokens": 4 * self.streams,
            "latency": format!("linear:{BASE_US},0,{each}"),
        });
        topology(self.workers as u32, &engine)
    }

    /// When streams begin, in order.
    fn starts(&self) -> Vec<Duration> {
        let mut random = Pcg64::seed_from_u64(7);
        let within = Uniform::new_inclusive(0, self.within * 1000).unwrap();
        let mut starts: Vec<u64> = within.sample_iter(&mut random).take(self.streams).collect();
        starts.sort_unstable();
        starts.into_iter().map(Duration::from_micros).collect()
    }

    /// What streams ask for: the first token of a prompt tells whose it is.
    fn bodies(&self) -> Vec<String> {
        let tokens = self.tokens();
        let body = |stream: usize| {
            json!({"prompt": [stream, 1, 2], "max_tokens": tokens, "stream": true, "ignore_eos": true})
                .to_string()
        };
        (0..self.streams).map(body).collect()
    }
}

fn simulated() -> SimulationOptions {
    let router = RouterOptions { mode: RouterMode::Random, ..RouterOptions::default() };
    SimulationOptions { router, load: LoadMode::OpenLoop, ..SimulationOptions::default() }
}

/// By stream, when its tokens were due, in microseconds: what comes of a record that is replayed.
fn due(topology: &Topology, record: &[u8]) -> FxHashMap<u64, Vec<i64>> {
    let trace = read_mooncake(record).unwrap();
    let workload = trace.into_workload(512, Load::Open { arrival_speedup_ratio: 1.0 }).unwrap();
    let mut observer = ();
    let mut tokens = WithTokens::new(topology, true, &mut observer);
    Simulation::new(topology, workload, &simulated()).unwrap().run(&mut tokens).unwrap();
    let times = tokens.into_times().unwrap();
    let streams = record.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).map(|line| {
        let row: Value = serde_json::from_slice(line).unwrap();
        row["input_tok_ids"][0].as_u64().unwrap()
    });
    let us = |times: Vec<servecast_types::Time>| {
        times.iter().map(|time| (time.as_ns() / 1000).cast_signed()).collect()
    };
    streams.zip(times.into_iter().map(us)).collect()
}

/// How much later each token came than it was due, in microseconds. The clocks of the client and of the replay began at
/// other times, so the promptest token of all is taken for one that was not late.
fn lateness(came: &[Vec<u32>], due: &FxHashMap<u64, Vec<i64>>) -> Vec<i64> {
    let of_stream = |(stream, came): (usize, &Vec<u32>)| {
        let due = &due[&(stream as u64)];
        assert_eq!(came.len(), due.len(), "tokens of stream {stream}");
        came.iter().zip(due).map(|(&came, due)| i64::from(came) - due).collect::<Vec<_>>()
    };
    let mut late: Vec<i64> = came.iter().enumerate().flat_map(of_stream).collect();
    let promptest = late.iter().copied().min().unwrap();
    for late in &mut late {
        *late -= promptest;
    }
    late
}

/// Tokens a second, and for how many seconds, while all streams were under way.
fn rate(came: &[Vec<u32>]) -> (f64, f64) {
    let begin = came.iter().filter_map(|stream| stream.first()).max().unwrap();
    let end = came.iter().filter_map(|stream| stream.last()).min().unwrap();
    let tokens = came.iter().flatten().filter(|at| (begin..end).contains(at)).count();
    let seconds = f64::from(end.saturating_sub(*begin)) / 1e6;
    (tokens as f64 / seconds, seconds)
}

/// Percentiles, as text.
fn percentiles(mut late: Vec<i64>) -> String {
    late.sort_unstable();
    let at = |share: f64| late[((late.len() - 1) as f64 * share) as usize] as f64 / 1e3;
    format!("p50 {:.1}, p99 {:.1}, most {:.1} ms", at(0.5), at(0.99), at(1.0))
}

/// User and system time so far in seconds, of the process, or of the thread that asks.
fn processor_time(whose: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{whose}/stat")).unwrap_or_default();
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
    let campaign = Campaign::of(given.as_deref().unwrap_or("200,3,2,500"));
    let (topology, record) = (campaign.topology(), Shared::default());
    let server = Server::with(ServeOptions {
        max_model_len: None,
        options: simulated(),
        record: Some(Box::new(record.clone())),
        ..options(topology.clone())
    });
    let (starts, bodies) = (campaign.starts(), campaign.bodies());
    let came = streams::run(server.address, &starts, &bodies, campaign.tokens());
    let (all, of_client) = (processor_time("self"), processor_time("thread-self"));
    let (memory, load) = (peak_mb(), std::fs::read_to_string("/proc/loadavg").unwrap_or_default());
    server.stop().unwrap();
    let late = lateness(&came, &due(&topology, &record.content()));
    let Campaign { streams, workers, within, .. } = campaign;
    assert_eq!(late.len(), streams * campaign.tokens());
    if given.is_some() {
        let (rate, took) = rate(&came);
        let each = |seconds: f64| seconds * 1e6 / late.len() as f64;
        println!(
            "{streams} streams of {workers} workers, begun within {within} ms: {rate:.0} tokens/s while all ran, {took:.1} s; \
             {:.1} µs of processor time a token of the server, {:.1} of the client; server and client {memory} MB; \
             load {}; late by {}",
            each(all - of_client),
            each(of_client),
            load.trim(),
            percentiles(late),
        );
    }
}
