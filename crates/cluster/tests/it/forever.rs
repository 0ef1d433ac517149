//! Runs whose records nobody asks for: the same decisions, and no more memory for more requests.

use std::hash::{Hash, Hasher};

use rustc_hash::FxHasher;
use serde_json::json;
use servecast_cluster::{
    Arrival, Cluster, Detail, NewRequest, Observer, PoolEngine, RouterMode, RouterOptions, SimulationOptions,
    Source, Topology, VirtualClock, drive,
};
use servecast_engine::EngineArgs;
use servecast_record::RequestStatus;
use servecast_types::{Prompt, RequestId, Run, Time};

/// A few requests at a time, as many as are wanted; some are taken back in the middle.
struct Clients {
    left: u32,
    under_way: u32,
    now: Time,
    sent: u32,
    taken_back: Option<RequestId>,
    /// Of all ends.
    digest: FxHasher,
    withdrawn: u32,
}

impl Source for Clients {
    fn next(&self) -> Option<Time> {
        (self.taken_back.is_some() || (self.left > 0 && self.under_way < 12)).then_some(self.now)
    }

    fn woke(&mut self, now: Time) {
        self.now = now;
    }

    fn pop_due(&mut self, now: Time) -> Option<Arrival> {
        if self.left == 0 || self.under_way == 12 {
            return None;
        }
        self.left -= 1;
        self.under_way += 1;
        self.sent += 1;
        let (first, tokens) = (self.sent % 97 * 1000, 20 + self.sent % 200);
        Some(Arrival {
            origin: NewRequest {
                session: self.sent,
                turn: 0,
                line: self.sent.into(),
                class: None,
                lora: None,
                grammar: None,
                arrival: now,
                input_tokens: tokens,
                output_tokens: 2 + self.sent % 9,
            },
            prompt: Prompt::new([Run::tokens(first, tokens)]),
            output: Some(Box::new(Prompt::new([Run::tokens(self.sent, 10)]))),
            stop_after: self.sent.is_multiple_of(5).then_some(1),
            priority: 0,
            placement: [].into_iter().collect(),
        })
    }

    fn arrived(&mut self, id: RequestId) {
        if self.sent.is_multiple_of(7) {
            self.taken_back = Some(RequestId(id.0.saturating_sub(3)));
        }
    }

    fn ended(&mut self, id: RequestId, status: RequestStatus, at: Time) {
        (id.0, format!("{status:?}"), at.as_ns()).hash(&mut self.digest);
        self.withdrawn += u32::from(status == RequestStatus::Withdrawn);
        self.under_way -= 1;
    }

    fn pop_withdrawn(&mut self, _now: Time) -> Option<RequestId> {
        self.taken_back.take()
    }

    fn is_over(&self) -> bool {
        self.left == 0 && self.under_way == 0
    }
}

/// As the observer of a server, which looks at each iteration.
struct Each;

impl Observer for Each {
    fn detail(&self) -> Detail {
        Detail::Iterations
    }
}

fn run(topology: &Topology, requests: u32, keep_ended: bool) -> (u64, u32) {
    let options = SimulationOptions {
        keep_ended,
        router: RouterOptions { mode: RouterMode::KvRouter, ..RouterOptions::default() },
        ..SimulationOptions::default()
    };
    let mut cluster = Cluster::new(topology, &options);
    let mut clients = Clients {
        left: requests,
        under_way: 0,
        now: Time::ZERO,
        sent: 0,
        taken_back: None,
        digest: FxHasher::default(),
        withdrawn: 0,
    };
    let end = drive(&mut cluster, &mut clients, &mut VirtualClock, &mut Each).unwrap();
    let record = cluster.finish(end).unwrap();
    assert_eq!(record.requests.len(), if keep_ended { requests as usize } else { 0 });
    (clients.digest.finish(), clients.withdrawn)
}

fn topologies() -> [Topology; 2] {
    // Short of memory, so that there are preemptions.
    let args = EngineArgs::from_json(json!({
        "block_size": 16, "num_gpu_blocks": 40, "max_num_seqs": 4, "max_num_batched_tokens": 128,
        "async_scheduling": true, "latency": "linear:1000,10,50",
    }))
    .unwrap();
    let config = args.validate(None).unwrap();
    let pool = |workers| PoolEngine { workers, args: &args, config: &config };
    [Topology::aggregated(pool(2)).unwrap(), Topology::disaggregated(pool(2), pool(2)).unwrap()]
}

#[test]
fn whether_records_are_kept_changes_no_decision() {
    for topology in topologies() {
        let [kept, dropped] = [true, false].map(|keep_ended| run(&topology, 3000, keep_ended));
        assert_eq!(kept, dropped);
        assert!(kept.1 > 100);
    }
}

/// Bytes of memory that the process has.
#[cfg(target_os = "linux")]
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

/// Run by itself, since other tests of the process need memory, too.
#[test]
#[ignore = "run by the test below"]
#[cfg(target_os = "linux")]
fn memory_of_a_long_run() {
    for topology in topologies() {
        run(&topology, 3000, false);
        let before = resident();
        run(&topology, 60_000, false);
        let grown = resident().saturating_sub(before);
        assert!(grown < 2 << 20, "{grown} bytes more for 57,000 requests more");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn more_requests_take_no_more_memory() {
    let this = std::env::current_exe().unwrap();
    let arguments = ["--exact", "forever::memory_of_a_long_run", "--ignored", "--nocapture"];
    let done = std::process::Command::new(this).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(
        done.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&done.stderr)
    );
}
