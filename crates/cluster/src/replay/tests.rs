use servecast_types::{Prompt, Run};

use super::*;

fn ms(ms: u64) -> Time {
    Time::from_ns(ms * 1_000_000)
}

fn session(first_line: u64, starts: &[TurnStart]) -> Session {
    let turn = |(index, &start): (usize, &TurnStart)| Turn {
        line: first_line + index as u64,
        start,
        prompt: Prompt::new([Run::tokens(0, 4)]),
        output_tokens: 1,
        priority: 0,
        stop_after: None,
        output: None,
        class: None,
        lora: None,
        grammar: None,
    };
    Session { turns: starts.iter().enumerate().map(turn).collect(), ..Session::default() }
}

fn replay(sessions: Vec<Session>, mode: LoadMode) -> Replay {
    Replay::new(Workload { sessions, ..Workload::default() }, mode, Host::NONE).unwrap()
}

fn due(replay: &mut Replay, now: Time) -> Vec<(u32, u32)> {
    std::iter::from_fn(|| replay.pop_turn(now)).map(|(id, _)| (id.session, id.turn)).collect()
}

fn delay(ms: u64) -> TurnStart {
    TurnStart::AfterPrevious(Duration::from_ns(ms * 1_000_000))
}

#[test]
fn an_open_loop_follows_the_clock_and_then_the_lines() {
    let at = |time| [TurnStart::At(ms(time))];
    let sessions = vec![session(1, &at(5)), session(2, &at(0)), session(3, &at(5))];
    let mut replay = replay(sessions, LoadMode::OpenLoop);
    assert_eq!(replay.next(), Some(ms(0)));
    assert_eq!(due(&mut replay, ms(4)), [(1, 0)]);
    assert_eq!(due(&mut replay, ms(5)), [(0, 0), (2, 0)]);
    assert_eq!(replay.next(), None);
}

#[test]
fn later_turns_wait_for_their_delay_or_their_time() {
    let turns =
        [TurnStart::At(ms(0)), delay(10), TurnStart::NotBefore(ms(100)), TurnStart::NotBefore(ms(20))];
    let mut replay = replay(vec![session(1, &turns)], LoadMode::OpenLoop);
    let mut ends = [30, 50, 130].into_iter();
    let mut arrivals = Vec::new();
    while let Some(time) = replay.next() {
        let (turn, _) = replay.pop_turn(time).unwrap();
        arrivals.push(time);
        if let Some(end) = ends.next() {
            replay.turn_ended(turn, ms(end));
        }
    }
    assert_eq!(arrivals, [0, 40, 100, 130].map(ms));
}

#[test]
fn a_closed_loop_gives_a_place_to_the_next_session_when_one_has_ended() {
    let at = TurnStart::At(Time::ZERO);
    let sessions = vec![session(1, &[at, delay(100)]), session(3, &[at]), session(4, &[at])];
    let mut replay = replay(sessions, LoadMode::ClosedLoop { concurrency: 2 });
    assert_eq!(due(&mut replay, ms(0)), [(0, 0), (1, 0)]);
    assert_eq!(replay.next(), None);
    replay.turn_ended(TurnId { session: 0, turn: 0 }, ms(10));
    assert_eq!(replay.next(), Some(ms(110)), "the session thinks and keeps its place");
    replay.turn_ended(TurnId { session: 1, turn: 0 }, ms(20));
    assert_eq!(replay.next(), Some(ms(20)));
    assert_eq!(due(&mut replay, ms(20)), [(2, 0)]);
    assert_eq!(due(&mut replay, ms(110)), [(0, 1)]);
}

#[test]
fn a_front_end_lies_between_sending_and_being_due() {
    let workload = Workload {
        sessions: vec![session(1, &[TurnStart::At(ms(5)), delay(10)]), session(3, &[TurnStart::At(ms(6))])],
        ..Workload::default()
    };
    let host = Host { front_end_us: 2000.0, ..Host::NONE };
    let mut replay = Replay::new(workload, LoadMode::OpenLoop, host).unwrap();
    assert_eq!(replay.next(), Some(ms(7)));
    assert_eq!(due(&mut replay, ms(6)), []);
    let (id, turn) = replay.pop_turn(ms(7)).unwrap();
    assert_eq!((id, replay.sent(&turn, ms(7))), (TurnId { session: 0, turn: 0 }, ms(5)));
    replay.turn_ended(TurnId { session: 0, turn: 0 }, ms(20));
    assert_eq!(due(&mut replay, ms(31)), [(1, 0)]);
    assert_eq!(replay.next(), Some(ms(32)));
}

#[test]
fn a_start_in_the_front_end_is_not_put_off_by_a_later_end() {
    let at = TurnStart::At(Time::ZERO);
    let workload =
        Workload { sessions: (1..=4).map(|line| session(line, &[at])).collect(), ..Workload::default() };
    let mode = LoadMode::ClosedLoop { concurrency: 2 };
    let host = Host { front_end_us: 200_000.0, ..Host::NONE };
    let mut replay = Replay::new(workload, mode, host).unwrap();
    assert_eq!(due(&mut replay, ms(200)), [(0, 0), (1, 0)]);
    replay.turn_ended(TurnId { session: 0, turn: 0 }, ms(300));
    replay.turn_ended(TurnId { session: 1, turn: 0 }, ms(400));
    assert_eq!(replay.next(), Some(ms(500)));
    let (id, turn) = replay.pop_turn(ms(500)).unwrap();
    assert_eq!((id, replay.sent(&turn, ms(500))), (TurnId { session: 2, turn: 0 }, ms(300)));
    assert_eq!(due(&mut replay, ms(600)), [(3, 0)]);
}

#[test]
fn a_closed_loop_needs_somebody_in_it() {
    let mode = LoadMode::ClosedLoop { concurrency: 0 };
    let error = Replay::new(Workload::default(), mode, Host::NONE).unwrap_err();
    assert_eq!(error, ClusterError::NoConcurrency);
}

/// A session of one turn with a prompt of so many tokens.
fn prompt_of(tokens: u32, line: u64, at: u64) -> Session {
    let mut one = session(line, &[TurnStart::At(ms(at))]);
    one.turns[0].prompt = Prompt::new([Run::tokens(0, tokens)]);
    one
}

#[test]
fn a_short_prompt_overtakes_a_long_one_on_the_way() {
    let host = Host { front_end_us: 1000.0, front_end_us_per_1k_prompt_tokens: 10_000.0, ..Host::NONE };
    let sessions = vec![prompt_of(1000, 1, 0), prompt_of(100, 2, 2), prompt_of(300, 3, 30)];
    for mode in [LoadMode::OpenLoop, LoadMode::ClosedLoop { concurrency: 2 }] {
        let workload = Workload { sessions: sessions.clone(), ..Workload::default() };
        let mut replay = Replay::new(workload, mode, host).unwrap();
        let (mut arrivals, mut sent) = (Vec::new(), Vec::new());
        while let Some(now) = replay.next() {
            while let Some((id, turn)) = replay.pop_turn(now) {
                arrivals.push((now, id.session));
                sent.push(replay.sent(&turn, now));
                // Its end is known before it comes.
                replay.session_ended(id.session, now + Duration::from_ns(100_000_000));
            }
        }
        if mode == LoadMode::OpenLoop {
            assert_eq!(arrivals, [(ms(4), 1), (ms(11), 0), (ms(34), 2)]);
            assert_eq!(sent, [ms(2), ms(0), ms(30)]);
        } else {
            assert_eq!(arrivals, [(ms(2), 1), (ms(11), 0), (ms(106), 2)]);
            assert_eq!(sent, [ms(0), ms(0), ms(102)]);
        }
    }
}

#[test]
fn the_place_that_is_free_first_is_taken_first() {
    let at = TurnStart::At(Time::ZERO);
    let sessions = (1..=4).map(|line| session(line, &[at])).collect();
    let mut replay = replay(sessions, LoadMode::ClosedLoop { concurrency: 2 });
    assert_eq!(due(&mut replay, ms(0)), [(0, 0), (1, 0)]);
    replay.session_ended(0, ms(30));
    replay.session_ended(1, ms(20));
    assert_eq!(replay.next(), Some(ms(20)));
    assert_eq!(due(&mut replay, ms(20)), [(2, 0)]);
    assert_eq!(due(&mut replay, ms(30)), [(3, 0)]);
}
