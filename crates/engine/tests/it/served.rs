//! Serves requests with an engine, whatever kind it is, and sees what it does.

use proptest::prelude::*;
use servecast_engine::{
    Begun, Engine, EngineRequest, EngineState, Fetch, Iteration, IterationSink, Joined, Links,
};
use servecast_types::{Duration, Prompt, RequestId, Run, Time};

/// When requests got their tokens, and who computed what when.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Seen {
    pub(crate) tokens: Vec<(RequestId, Time)>,
    pub(crate) iterations: Vec<Iteration>,
}

impl Links for Seen {
    /// Every transfer takes a millisecond.
    fn begin(&mut self, _: Fetch, now: Time) -> Begun {
        Begun::At(now + Duration::from_ns(1_000_000))
    }
}

impl IterationSink for Seen {
    fn joined(&mut self, joined: Joined, _: Time) {
        unreachable!("{joined:?}, but nothing is handed over")
    }

    fn iteration_ended(&mut self, iteration: &Iteration) {
        self.tokens.extend(iteration.emitted.iter().map(|emitted| (emitted.id, iteration.end)));
        self.iterations.push(iteration.clone());
    }
}

/// A request: when it comes, in tenths of a millisecond, tokens of its prompt and its output.
pub(crate) type Asked = (u64, u32, u32);

/// Serves requests, each on the rank that `rank` says.
pub(crate) fn serve(
    mut engine: Engine,
    asked: &[Asked],
    rank: impl Fn(usize) -> Option<u32>,
) -> (Seen, Time) {
    let mut requests: Vec<(usize, &Asked)> = asked.iter().enumerate().collect();
    requests.sort_by_key(|(_, asked)| asked.0);
    let mut coming = requests.into_iter().peekable();
    let (mut now, mut seen) = (Time::ZERO, Seen::default());
    loop {
        let at = |asked: &Asked| Time::from_ns(asked.0 * 100_000);
        while let Some((number, &asked)) = coming.next_if(|(_, asked)| at(asked) <= now) {
            let prompt = Prompt::new([Run::tokens(1000 * number as u32, asked.1)]);
            let request = EngineRequest::new(RequestId(number as u32), prompt, asked.2, at(&asked));
            engine.submit(EngineRequest { dp_rank: rank(number), ..request }).unwrap();
        }
        let next = coming.peek().map(|(_, asked)| at(asked));
        match engine.run(now, &mut seen).unwrap() {
            EngineState::Busy { until } if next.is_none_or(|next| until <= next) => {
                now = until;
                engine.end_iteration(now, &mut seen);
            }
            EngineState::Busy { .. } => now = next.unwrap(),
            EngineState::Idle { .. } => match next {
                Some(next) => now = next,
                None => break,
            },
        }
        engine.check().unwrap();
    }
    assert!(engine.is_empty(), "nothing is left");
    (seen, now)
}

pub(crate) fn load() -> impl Strategy<Value = Vec<Asked>> {
    prop::collection::vec((0_u64..400, 1_u32..100, 1_u32..30), 1..30)
}
