//! Sessions whose turns wait for several others, as a source sends them.

use servecast_cluster::{LoadMode, Replay, Source};
use servecast_latency::Host;
use servecast_record::{RejectReason, RequestStatus};
use servecast_types::{RequestId, Time};
use servecast_workload::{Load, read_mooncake};

/// A source, and what it has sent.
struct Sent {
    replay: Replay,
    requests: u32,
}

impl Sent {
    fn new(lines: &[&str], mode: LoadMode) -> Self {
        let begin = r#"{"input_length": 10, "output_length": 1, "hash_ids": [1], "#;
        let rows: Vec<String> = lines.iter().map(|line| format!("{begin}{line}}}")).collect();
        let text = rows.join("\n");
        let load = match mode {
            LoadMode::OpenLoop => Load::Open { arrival_speedup_ratio: 1.0 },
            LoadMode::ClosedLoop { .. } => Load::Closed,
        };
        let workload = read_mooncake(text.as_bytes()).unwrap().workload(512, load).unwrap();
        Self { replay: Replay::new(workload, mode, Host::NONE).unwrap(), requests: 0 }
    }

    /// The lines of what is sent by a time, in order.
    fn by(&mut self, at_ms: u64) -> Vec<u64> {
        let mut lines = Vec::new();
        while let Some(at) = self.replay.next().filter(|at| *at <= ms(at_ms)) {
            let arrival = self.replay.pop_due(at).unwrap();
            self.replay.arrived(RequestId(self.requests));
            self.requests += 1;
            lines.push(arrival.origin.line);
        }
        lines
    }

    /// A request ends, by the order in which they were sent; the lines of those that are not sent for that.
    fn ends(&mut self, request: u32, status: RequestStatus, at_ms: u64) -> Vec<u64> {
        self.replay.ended(RequestId(request), status, ms(at_ms));
        let mut refused = Vec::new();
        while let Some(origin) = self.replay.pop_refused() {
            self.replay.arrived(RequestId(self.requests));
            self.requests += 1;
            refused.push(origin.line);
        }
        refused
    }

    fn served(&mut self, request: u32, at_ms: u64) {
        assert_eq!(self.ends(request, RequestStatus::Finished, at_ms), [0; 0]);
    }
}

fn ms(ms: u64) -> Time {
    Time::from_ns(ms * 1_000_000)
}

const DIAMOND: [&str; 4] = [
    r#""request_id": "plan", "timestamp": 0"#,
    r#""request_id": "left", "wait_for": ["plan"], "tool_wait_ms": 5"#,
    r#""request_id": "right", "wait_for": ["plan"], "timestamp": 90"#,
    r#""request_id": "join", "wait_for": ["left", "right"], "tool_wait_ms": 20"#,
];

#[test]
fn a_join_is_sent_when_the_last_of_those_that_it_waits_for_has_ended() {
    let mut sent = Sent::new(&DIAMOND, LoadMode::OpenLoop);
    assert_eq!(sent.by(1000), [1]);
    sent.served(0, 30);
    assert_eq!(sent.by(34), [0; 0]);
    assert_eq!(sent.by(35), [2], "the tool takes 5 ms");
    assert_eq!(sent.by(89), [0; 0]);
    assert_eq!(sent.by(90), [3], "its time has come");
    sent.served(2, 200);
    assert_eq!(sent.by(1000), [0; 0]);
    sent.served(1, 300);
    assert_eq!(sent.by(319), [0; 0]);
    assert_eq!(sent.by(320), [4]);
    sent.served(3, 400);
    assert!(sent.replay.is_over());
}

#[test]
fn what_waits_for_a_request_that_was_not_served_is_not_sent() {
    let lines = [&DIAMOND[..], &[r#""request_id": "alone", "wait_for": ["right"]"#]].concat();
    let mut sent = Sent::new(&lines, LoadMode::OpenLoop);
    assert_eq!(sent.by(0), [1]);
    sent.served(0, 0);
    assert_eq!(sent.by(90), [2, 3]);
    let rejected = RequestStatus::Rejected(RejectReason::KvCapacity);
    assert_eq!(sent.ends(1, rejected, 100), [4], "the join, once");
    assert_eq!(sent.ends(2, RequestStatus::Failed, 110), [5], "not the join again");
    assert!(sent.replay.is_over());
}

#[test]
fn requests_that_wait_for_nothing_are_sent_with_the_first_in_a_closed_loop() {
    let lines = [
        r#""session_id": "s", "request_id": "a", "wait_for": [], "timestamp": 10"#,
        r#""session_id": "s", "request_id": "b", "wait_for": [], "timestamp": 500"#,
        r#""session_id": "s", "request_id": "c", "wait_for": ["a", "b"]"#,
        r#""session_id": "t", "request_id": "d", "timestamp": 0"#,
    ];
    let mut sent = Sent::new(&lines, LoadMode::ClosedLoop { concurrency: 1 });
    assert_eq!(sent.by(0), [1, 2]);
    sent.served(1, 40);
    assert_eq!(sent.by(1000), [0; 0], "the session keeps its place");
    sent.served(0, 50);
    assert_eq!(sent.by(1000), [3]);
    sent.served(2, 60);
    assert_eq!(sent.by(59), [0; 0]);
    assert_eq!(sent.by(60), [4], "all of the session has ended");
}

#[test]
fn a_place_is_free_when_all_of_a_broken_session_has_ended() {
    let lines = [&DIAMOND[..], &[r#""request_id": "next", "timestamp": 1"#]].concat();
    let mut sent = Sent::new(&lines, LoadMode::ClosedLoop { concurrency: 1 });
    assert_eq!(sent.by(0), [1]);
    sent.served(0, 10);
    assert_eq!(sent.by(15), [3, 2], "times mean nothing in a closed loop");
    assert_eq!(sent.ends(1, RequestStatus::Failed, 20), [4]);
    assert_eq!(sent.by(1000), [0; 0], "the other branch is still under way");
    sent.served(2, 70);
    assert_eq!(sent.by(69), [0; 0]);
    assert_eq!(sent.by(70), [5]);
}
