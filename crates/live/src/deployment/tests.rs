//! What a server records, replayed: the same decisions.

use std::sync::{Arc, Mutex};
use std::time::Duration as Real;

use proptest::prelude::*;
use serde_json::{Value, json};
use servecast_cluster::{PoolEngine, RouterMode, RouterOptions, Simulation};
use servecast_engine::EngineArgs;
use servecast_record::RequestRecord;
use servecast_workload::{Load, read_mooncake};

use super::*;
use crate::faults;
use crate::request::Dialect;

/// A deployment that can be made as often as it is wanted.
#[derive(Debug, Clone)]
struct Deployment {
    engine: Value,
    /// Workers, and those of a decode pool if there is one.
    workers: (u32, Option<u32>),
    mode: RouterMode,
    seed: u64,
    speed: f64,
}

impl Deployment {
    fn topology(&self) -> Topology {
        let args = EngineArgs::from_json(self.engine.clone()).unwrap();
        let Some(decode_workers) = self.workers.1 else {
            let config = args.validate(None).unwrap();
            return Topology::aggregated(PoolEngine {
                workers: self.workers.0,
                args: &args,
                config: &config,
            })
            .unwrap();
        };
        let pool = |role: &str, workers| {
            let mut engine = self.engine.clone();
            engine["worker_type"] = role.into();
            (EngineArgs::from_json(engine).unwrap(), workers)
        };
        let (prefill, decode) = (pool("prefill", self.workers.0), pool("decode", decode_workers));
        let [one, two] = [&prefill, &decode].map(|(args, _)| args.validate(None).unwrap());
        Topology::disaggregated(
            PoolEngine { workers: prefill.1, args: &prefill.0, config: &one },
            PoolEngine { workers: decode.1, args: &decode.0, config: &two },
        )
        .unwrap()
    }

    fn options(&self) -> SimulationOptions {
        let router = RouterOptions { mode: self.mode, prefix_hash_blocks: 2, ..RouterOptions::default() };
        SimulationOptions { router, seed: self.seed, check: true, ..SimulationOptions::default() }
    }
}

/// A request of a client.
#[derive(Debug, Clone)]
struct Wish {
    /// Microseconds of the machine after the one before.
    gap_us: u64,
    /// Prompts of a family begin alike.
    family: u32,
    prompt: u32,
    max_tokens: u32,
    /// Tokens that it generates, of all that it may.
    share: f64,
    priority: i32,
    salt: Option<&'static str>,
}

impl Wish {
    fn request(&self, number: u64, events: mpsc::UnboundedSender<(u32, Event)>) -> Request {
        let tokens = ((f64::from(self.max_tokens) * self.share) as u32).clamp(1, self.max_tokens);
        let prompt: Vec<u32> = (0..self.prompt).map(|place| 1000 * self.family + place % 97).collect();
        let salt = self.salt.map(Into::into);
        Request {
            number,
            index: 0,
            content: content(&prompt, salt.as_ref()),
            prompt,
            salt,
            max_tokens: self.max_tokens,
            output: (0..tokens).map(|place| 50_000 + 100 * self.family + place).collect(),
            priority: self.priority,
            worker: None,
            asked: Asked::default(),
            events,
            delay: Real::ZERO,
            waits: faults::Desk::new(faults::Faults::default(), 0).admit(0, 1).unwrap().remove(0),
        }
    }
}

/// Memory that is written to.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What becomes of requests on the clock, and their record.
fn live(deployment: &Deployment, wishes: &[Wish]) -> (Vec<RequestRecord>, Vec<u8>) {
    let written = Written::default();
    let (lives, _lives) = mpsc::unbounded_channel();
    let (letters, mut posted) = mpsc::unbounded_channel::<Vec<Letter>>();
    let topology = deployment.topology();
    let metrics =
        Metrics::new(Dialect::Vllm, &topology, "m".to_owned(), true, u32::MAX, deployment.speed, 0.0);
    let setting = Setting {
        topology,
        options: deployment.options(),
        speed: deployment.speed,
        metrics,
        log: Some(Log::new(Box::new(written.clone()))),
        events: None,
        startup: Duration::ZERO,
        lives,
        letters,
    };
    let (commands, received) = channel();
    std::thread::spawn(move || {
        while let Some(letters) = posted.blocking_recv() {
            letters.into_iter().for_each(Letter::deliver);
        }
    });
    let thread = std::thread::spawn(move || {
        let (cluster, end) = drive(setting, received).unwrap();
        cluster.finish(end).unwrap().requests
    });
    let (sender, mut events) = mpsc::unbounded_channel();
    for (number, wish) in (0..).zip(wishes) {
        std::thread::sleep(Real::from_micros(wish.gap_us));
        commands.send(Command::Submit(wish.request(number, sender.clone()))).unwrap();
    }
    let mut ended = 0;
    while ended < wishes.len() {
        if let (_, Event::Ended(_)) = events.blocking_recv().unwrap() {
            ended += 1;
        }
    }
    commands.send(Command::Close).unwrap();
    let requests = thread.join().unwrap();
    let bytes = written.0.lock().unwrap().clone();
    (requests, bytes)
}

/// What becomes of them in a replay of the record.
fn replayed(deployment: &Deployment, record: &[u8]) -> Vec<RequestRecord> {
    let trace = read_mooncake(record).unwrap();
    let workload = trace.into_workload(512, Load::Open { arrival_speedup_ratio: 1.0 }).unwrap();
    let simulation = Simulation::new(&deployment.topology(), workload, &deployment.options()).unwrap();
    simulation.run(&mut ()).unwrap().requests
}

/// Rows in the order in which they were sent, with times from the first one on.
fn rows(mut requests: Vec<RequestRecord>) -> Vec<RequestRecord> {
    requests.sort_by_key(|request| request.line);
    let first = requests.iter().map(|request| request.arrival).min().unwrap_or_default();
    let moved = |at: &mut Time| *at = Time::ZERO + at.since(first);
    for request in &mut requests {
        // A client has no sessions.
        request.session = 0;
        let RequestRecord { arrival, ended, first_token, second_token, last_token, .. } = request;
        [arrival, ended].into_iter().for_each(moved);
        [first_token, second_token, last_token].into_iter().flatten().for_each(moved);
        for stage in &mut request.stages {
            [&mut stage.arrived, &mut stage.queued].into_iter().for_each(moved);
            let others = [
                &mut stage.admitted,
                &mut stage.reserved,
                &mut stage.transfer_start,
                &mut stage.transfer_end,
                &mut stage.first_token,
                &mut stage.last_token,
            ];
            others.into_iter().flatten().for_each(moved);
        }
    }
    requests
}

fn deployments() -> impl Strategy<Value = Deployment> {
    let vllm = (any::<bool>(), any::<bool>()).prop_map(|(is_async, by_priority)| {
        let policy = if by_priority { "priority" } else { "fcfs" };
        json!({"async_scheduling": is_async, "scheduling_policy": policy, "max_num_batched_tokens": 64})
    });
    let sglang = any::<bool>().prop_map(|overlaps| {
        let own = json!({"disable_overlap_schedule": !overlaps, "chunked_prefill_size": 64});
        json!({"engine_type": "sglang", "sglang": own})
    });
    let engine = (prop_oneof![2 => vllm, 1 => sglang], 30_u32..120, 2_u32..8, 0_u32..2).prop_map(
        |(mut engine, blocks, seqs, front_end)| {
            engine.as_object_mut().unwrap().extend(
                json!({
                    "block_size": 4, "num_gpu_blocks": blocks, "max_num_seqs": seqs,
                    "latency": "linear:1000,20,30",
                    "host": {"front_end_us": 700 * front_end, "delivery_us": 300 * front_end},
                })
                .as_object()
                .unwrap()
                .clone(),
            );
            engine
        },
    );
    let modes = [
        RouterMode::RoundRobin,
        RouterMode::Random,
        RouterMode::LeastLoaded,
        RouterMode::PrefixHash,
        RouterMode::KvRouter,
    ];
    let workers = (1_u32..4, prop_oneof![3 => Just(None), 1 => (1_u32..3).prop_map(Some)]);
    let speed = prop_oneof![Just(1.0), Just(10.0)];
    (engine, workers, prop::sample::select(modes.to_vec()), any::<u64>(), speed)
        .prop_map(|(engine, workers, mode, seed, speed)| Deployment { engine, workers, mode, seed, speed })
}

fn wishes() -> impl Strategy<Value = Vec<Wish>> {
    let salt = prop_oneof![3 => Just(None), 1 => Just(Some("salt")), 1 => Just(Some("pepper"))];
    let gap_us = prop_oneof![2 => Just(0), 1 => 0_u64..2000];
    let share = prop_oneof![1 => Just(1.0), 1 => 0.0..1.0];
    let wish = (gap_us, 0_u32..3, 1_u32..60, 1_u32..16, share, -2..3, salt).prop_map(
        |(gap_us, family, prompt, max_tokens, share, priority, salt)| Wish {
            gap_us,
            family,
            prompt,
            max_tokens,
            share,
            priority,
            salt,
        },
    );
    prop::collection::vec(wish, 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 30, ..ProptestConfig::default() })]

    /// Answers that end before they have all that they may have among them, and prompts of several clients.
    #[test]
    fn a_record_replays_as_it_was_served(deployment in deployments(), wishes in wishes()) {
        let (served, record) = live(&deployment, &wishes);
        let again = replayed(&deployment, &record);
        prop_assert_eq!(rows(served), rows(again));
    }
}

#[test]
fn a_record_has_what_was_asked_for_and_what_was_generated() {
    let engine = json!({"block_size": 4, "num_gpu_blocks": 50, "latency": "linear:1000,0,0"});
    let deployment =
        Deployment { engine, workers: (1, None), mode: RouterMode::RoundRobin, seed: 1, speed: 10.0 };
    let wish = Wish { gap_us: 0, family: 1, prompt: 3, max_tokens: 8, share: 0.5, priority: 0, salt: None };
    let whole = Wish { share: 1.0, ..wish.clone() };
    let salted = Wish { salt: Some("salt"), ..whole.clone() };
    let (_, record) = live(&deployment, &[wish, whole, salted]);
    let record = String::from_utf8(record).unwrap();
    let lines: Vec<Value> = record.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |key: &str| lines.iter().map(|line| line[key].clone()).collect::<Vec<_>>();
    assert_eq!(of("output_toks"), [4, 8, 8]);
    assert_eq!(of("max_output_toks"), [json!(8), Value::Null, Value::Null]);
    let prompts = of("input_tok_ids");
    assert_eq!(prompts[..2], [json!([1000, 1001, 1002]), json!([1000, 1001, 1002])]);
    assert!(prompts[2][0].as_u64().unwrap() >= 1 << 63 && prompts[2][1] == 1001);
}
