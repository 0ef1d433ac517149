//! Sources and clocks other than those of a simulation: requests that nobody knew of before, and time that passes by
//! itself.

use std::cell::Cell;
use std::collections::VecDeque;

use proptest::prelude::*;
use servecast_cluster::{
    Arrival, Clock, Cluster, LoadMode, NewRequest, Placement, Replay, Source, Timer, VirtualClock, WallClock,
    Watches, drive,
};
use servecast_latency::Host;
use servecast_record::{RequestStatus, RunRecord};
use servecast_types::{Duration, Prompt, RequestId, Run, Time};
use servecast_workload::{Session, Turn, TurnStart, Workload};

use crate::properties::cases;
use crate::scenario::{Scenario, deployment, scenario};

/// A machine whose time passes only while somebody sleeps; it wakes late, or early when a request comes.
struct Machine<'a> {
    now: &'a Cell<Time>,
    /// When requests come from outside, first one in front.
    comes: VecDeque<Time>,
    late: Duration,
}

impl Timer for Machine<'_> {
    fn now(&mut self) -> Time {
        self.now.get()
    }

    fn sleep(&mut self, until: Option<Time>) {
        while self.comes.front().is_some_and(|&at| at <= self.now.get()) {
            self.comes.pop_front();
        }
        let wake = until.map(|until| until + self.late).into_iter().chain(self.comes.front().copied()).min();
        self.now.set(wake.expect("it never wakes"));
    }
}

/// Users of whom nothing is known before they send something.
struct Users<'a> {
    now: &'a Cell<Time>,
    requests: VecDeque<(Time, Sent)>,
    watches: Watches,
    /// When each request came to the deployment.
    log: Vec<(Time, Sent)>,
    under_way: usize,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    first_token: u32,
    input_tokens: u32,
    output_tokens: u32,
}

impl Sent {
    fn prompt(self) -> Prompt {
        Prompt::new([Run::tokens(self.first_token, self.input_tokens)])
    }
}

impl Source for Users<'_> {
    fn next(&self) -> Option<Time> {
        self.requests.front().map(|&(at, _)| at).filter(|&at| at <= self.now.get())
    }

    fn pop_due(&mut self, now: Time) -> Option<Arrival> {
        self.next().filter(|&at| at <= now)?;
        let (_, sent) = self.requests.pop_front()?;
        let line = self.log.len() as u32;
        self.log.push((now, sent));
        self.under_way += 1;
        Some(Arrival {
            origin: NewRequest {
                session: line,
                turn: 0,
                line: u64::from(line),
                arrival: now,
                input_tokens: sent.input_tokens,
                output_tokens: sent.output_tokens,
            },
            prompt: sent.prompt(),
            output: None,
            stop_after: None,
            priority: 0,
            placement: Placement::new(),
        })
    }

    fn arrived(&mut self, id: RequestId) {
        assert_eq!(id.index() + 1, self.log.len());
    }

    fn ended(&mut self, _: RequestId, _: RequestStatus, _: Time) {
        self.under_way -= 1;
    }

    fn watches(&self) -> Watches {
        self.watches
    }

    fn is_over(&self) -> bool {
        self.requests.is_empty()
    }
}

/// The recorded arrivals as a trace.
fn trace(log: &[(Time, Sent)]) -> Workload {
    let session = |(line, &(at, sent)): (usize, &(Time, Sent))| Session {
        name: None,
        turns: [Turn {
            line: line as u64,
            start: TurnStart::At(at),
            prompt: sent.prompt(),
            output_tokens: sent.output_tokens,
            priority: 0,
            stop_after: None,
            output: None,
        }]
        .into(),
    };
    Workload { sessions: log.iter().enumerate().map(session).collect(), ..Workload::default() }
}

fn run(scenario: &Scenario, source: &mut impl Source, clock: &mut impl Clock) -> RunRecord {
    let (topology, options) = deployment(scenario, false);
    let mut cluster = Cluster::new(&topology, &options);
    let end = drive(&mut cluster, source, clock, &mut ()).unwrap();
    cluster.finish(end).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    /// Whatever the clock of the machine and whoever watches, the log of arrivals replays to the same run.
    #[test]
    fn what_came_from_outside_can_be_replayed(
        scenario in scenario(),
        requests in prop::collection::vec((0_u64..60_000, 0_u32..3, 1_u32..100, 1_u32..30), 1..30),
        late_us in prop_oneof![Just(0), 0_u64..5_000],
        watches in prop::sample::select(vec![Watches::Nothing, Watches::Ends, Watches::Tokens]),
    ) {
        let mut requests: Vec<(Time, Sent)> = requests
            .into_iter()
            .map(|(us, first_token, input_tokens, output_tokens)| {
                (Time::from_ns(us * 1_000), Sent { first_token, input_tokens, output_tokens })
            })
            .collect();
        requests.sort_by_key(|&(at, _)| at);
        let now = Cell::new(Time::ZERO);
        let comes = requests.iter().map(|&(at, _)| at).collect();
        let mut users = Users {
            now: &now, requests: requests.into(), watches, log: Vec::new(), under_way: 0,
        };
        let late = Duration::from_ns(late_us * 1_000);
        let live = run(&scenario, &mut users, &mut WallClock::new(Machine { now: &now, comes, late }));
        prop_assert_eq!(users.under_way, 0);
        let mut replay = Replay::new(trace(&users.log), LoadMode::OpenLoop, Host::NONE).unwrap();
        let again = run(&scenario, &mut replay, &mut VirtualClock);
        prop_assert_eq!(&live.requests, &again.requests);
        prop_assert_eq!(&live.gaps, &again.gaps);
        prop_assert_eq!(&live.pools, &again.pools);
    }
}
