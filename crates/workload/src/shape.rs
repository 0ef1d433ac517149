//! A part of a load, more of it, or the same at other times.
//!
//! Sessions stay whole: a turn builds on the one before. What is asked for is done in this order: a range of time, a
//! sample, repetition, other arrivals, a start in the middle of sessions, the first requests.

use std::num::NonZeroUsize;

use rand::RngExt;
use servecast_types::{Duration, Message, Time, message, settings_error};

use crate::random::stream;
use crate::rate::{Arrivals, RateProfile};
use crate::workload::{Load, Session, TurnStart, Workload};

/// What is made of a load before it is replayed. By default nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// Sessions that begin from the first time on, and before the second, in time from the first arrival.
    pub time_range: Option<(Time, Time)>,
    /// The share of sessions that is kept, above 0 and at most 1.
    pub sample: f64,
    /// How often the load is sent, one time after the other.
    pub repeat: u32,
    /// When sessions arrive, in place of their times, and the shape of the gaps between them.
    pub arrivals: Option<(RateProfile, f64)>,
    /// Sessions of a closed loop that are under way at a time: so many begin at a turn that is drawn.
    pub warm_start: Option<u32>,
    /// Requests that are used, the first ones; all without it.
    pub max_requests: Option<NonZeroUsize>,
    /// Seed of the sample, the arrivals and the turns that sessions begin at.
    pub seed: u64,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            time_range: None,
            sample: 1.0,
            repeat: 1,
            arrivals: None,
            warm_start: None,
            max_requests: None,
            seed: 0,
        }
    }
}

/// Why a load cannot be given a shape.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum ShapeError {
    /// No session begins in the range.
    EmptyRange {
        /// When the last one begins.
        last: Time,
    },
    /// No session is in the sample.
    EmptySample {
        /// The sessions there are.
        sessions: usize,
        /// The share of them.
        share: f64,
    },
    /// A load repeated so often has too many requests.
    TooMany {
        /// How many it would have.
        requests: u64,
        /// How many it may have.
        most: u64,
    },
    /// The profile of the rate ends before all requests are sent.
    RateEnds {
        /// Sessions that it sends.
        sent: usize,
        /// Sessions there are.
        sessions: usize,
    },
    /// No session has a middle to start in.
    NoLaterTurns,
    /// A time does not fit into 64 bits of nanoseconds.
    TimeSpan,
}

settings_error!(ShapeError);

impl From<&ShapeError> for Message {
    fn from(error: &ShapeError) -> Self {
        match *error {
            ShapeError::EmptyRange { last } => message!(
                "no session begins in {time_range}: the last one begins {} s after the first",
                last.as_ms() / 1000.0
            ),
            ShapeError::EmptySample { sessions, share } => message!(
                "{sample} is {}, which leaves none of {} sessions: choose a larger share or another {seed}",
                share,
                sessions
            ),
            ShapeError::TooMany { requests, most } => {
                message!("{repeat} makes {} requests, but there may be {} at most", requests, most)
            }
            ShapeError::RateEnds { sent, sessions } => message!(
                "{rate_profile} ends with a rate of 0 after {} of {} sessions: give its last segment a rate, set `repeat = \
                 true` in it, or use fewer with {--max_requests}",
                sent,
                sessions
            ),
            ShapeError::NoLaterTurns => {
                message!("{warm_start} begins sessions at one of their later requests, but each has only one")
            }
            ShapeError::TimeSpan => {
                "the times of the load do not fit into 64 bits of nanoseconds, which are 584 years".into()
            }
        }
    }
}

/// The most requests that repetition makes, as many as a synthetic workload has.
const MOST_REQUESTS: u64 = 10_000_000;

impl Shape {
    /// Whether it leaves a load as it is but for its length.
    pub fn is_plain(&self) -> bool {
        *self == Self { max_requests: self.max_requests, seed: self.seed, ..Self::default() }
    }

    /// Whether it needs to know when sessions arrive, whatever the load is replayed by.
    pub fn needs_times(&self) -> bool {
        self.time_range.is_some()
    }

    /// Gives a load that was read at its own speed, or in a closed loop, this shape, and then the times of `load`.
    ///
    /// # Errors
    /// When nothing is left of it, or too much comes of it.
    pub fn apply(&self, mut workload: Workload, load: Load) -> Result<Workload, ShapeError> {
        if let Some((from, to)) = self.time_range {
            workload = in_range(workload, from, to)?;
        }
        if self.sample < 1.0 {
            workload = self.sampled(workload)?;
        }
        workload = self.repeated(workload)?;
        match (&self.arrivals, load) {
            (Some((profile, burstiness)), Load::Open { .. }) => {
                let mut arrivals = Arrivals::new(profile, *burstiness, self.seed);
                arrive(&mut workload, || arrivals.next_ms())?;
            }
            _ => from_the_first(&mut workload),
        }
        if let Some(concurrency) = self.warm_start {
            self.start_within(&mut workload, concurrency)?;
        }
        if let Some(most) = self.max_requests {
            first_requests(&mut workload, most.get());
        }
        for turn in workload.sessions.iter_mut().flat_map(|session| &mut session.turns) {
            turn.start = match load {
                Load::Open { arrival_speedup_ratio } => faster(turn.start, arrival_speedup_ratio)?,
                Load::Closed => without_times(turn.start),
            };
        }
        Ok(workload)
    }

    /// Has the sessions that a closed loop begins with start at one of their turns, each as likely as the others.
    fn start_within(&self, workload: &mut Workload, concurrency: u32) -> Result<(), ShapeError> {
        if workload.sessions.iter().all(|session| session.turns.len() == 1) {
            return Err(ShapeError::NoLaterTurns);
        }
        let mut random = stream(self.seed, "warm_start");
        for session in workload.sessions.iter_mut().take(concurrency as usize) {
            let turn = random.random_range(0..session.turns.len());
            session.begin_at(turn);
        }
        Ok(())
    }

    fn sampled(&self, workload: Workload) -> Result<Workload, ShapeError> {
        let mut random = stream(self.seed, "sample");
        let sessions = workload.sessions.len();
        let kept = keep(workload, |_| random.random_bool(self.sample));
        if kept.sessions.is_empty() {
            return Err(ShapeError::EmptySample { sessions, share: self.sample });
        }
        Ok(kept)
    }

    /// The load, and as long after its last session as one comes after another on average, the load again.
    fn repeated(&self, mut workload: Workload) -> Result<Workload, ShapeError> {
        if self.repeat == 1 {
            return Ok(workload);
        }
        let requests = workload.requests() as u64 * u64::from(self.repeat);
        if requests > MOST_REQUESTS {
            return Err(ShapeError::TooMany { requests, most: MOST_REQUESTS });
        }
        from_the_first(&mut workload);
        let starts = || workload.sessions.iter().map(start_of);
        let span = starts().max().unwrap_or(Time::ZERO).as_ns();
        let others = (workload.sessions.len() as u64).saturating_sub(1).max(1);
        let period = span.checked_add(span / others).ok_or(ShapeError::TimeSpan)?;
        let once = workload.sessions.clone();
        for time in 1..self.repeat {
            let later = period.checked_mul(u64::from(time)).ok_or(ShapeError::TimeSpan)?;
            workload.sessions.extend(once.iter().map(|session| {
                let mut session = session.clone();
                session.name = session.name.map(|name| format!("{name}#{}", time + 1).into());
                for turn in &mut session.turns {
                    turn.start = moved(turn.start, |at| at + Duration::from_ns(later));
                }
                session
            }));
        }
        Ok(workload)
    }
}

fn keep(mut workload: Workload, keeps: impl FnMut(&Session) -> bool) -> Workload {
    workload.sessions.retain(keeps);
    workload
}

fn start_of(session: &Session) -> Time {
    match session.turns.first().map(|turn| turn.start) {
        Some(TurnStart::At(time) | TurnStart::NotBefore(time)) => time,
        _ => Time::ZERO,
    }
}

fn in_range(workload: Workload, from: Time, to: Time) -> Result<Workload, ShapeError> {
    let last = workload.sessions.iter().map(start_of).max().unwrap_or(Time::ZERO);
    let kept = keep(workload, |session| (from..to).contains(&start_of(session)));
    if kept.sessions.is_empty() { Err(ShapeError::EmptyRange { last }) } else { Ok(kept) }
}

/// A start with its time, if it has one, moved.
fn moved(start: TurnStart, to: impl Fn(Time) -> Time) -> TurnStart {
    match start {
        TurnStart::At(time) => TurnStart::At(to(time)),
        TurnStart::NotBefore(time) => TurnStart::NotBefore(to(time)),
        after @ TurnStart::AfterPrevious(_) => after,
    }
}

/// Counts times from the first arrival.
fn from_the_first(workload: &mut Workload) {
    let first = workload.sessions.iter().map(start_of).min().unwrap_or(Time::ZERO);
    if first == Time::ZERO {
        return;
    }
    for turn in workload.sessions.iter_mut().flat_map(|session| &mut session.turns) {
        turn.start = moved(turn.start, |at| Time::ZERO + at.since(first));
    }
}

/// Has sessions begin at these times, in their order. Later turns keep their distance to the first.
fn arrive(workload: &mut Workload, mut next_ms: impl FnMut() -> Option<f64>) -> Result<(), ShapeError> {
    let order = workload.arrival_order();
    for (sent, &index) in order.iter().enumerate() {
        let ms = next_ms().ok_or(ShapeError::RateEnds { sent, sessions: order.len() })?;
        let arrival = Time::from_ms(ms).map_err(|_| ShapeError::TimeSpan)?;
        let session = &mut workload.sessions[index];
        let first = start_of(session);
        for turn in &mut session.turns {
            turn.start = moved(turn.start, |at| arrival + at.since(first));
        }
    }
    Ok(())
}

/// Drops what comes after so many requests, session by session in order of arrival.
pub(crate) fn first_requests(workload: &mut Workload, most: usize) {
    let mut left = most;
    for index in workload.arrival_order() {
        let session = &mut workload.sessions[index];
        session.truncate(left);
        left -= session.turns.len();
    }
    workload.sessions.retain(|session| !session.turns.is_empty());
}

fn faster(start: TurnStart, ratio: f64) -> Result<TurnStart, ShapeError> {
    if (ratio - 1.0).abs() <= 0.0 {
        return Ok(start);
    }
    let time = |at: Time| Time::from_ms(at.as_ms() / ratio).map_err(|_| ShapeError::TimeSpan);
    Ok(match start {
        TurnStart::At(at) => TurnStart::At(time(at)?),
        TurnStart::NotBefore(at) => TurnStart::NotBefore(time(at)?),
        TurnStart::AfterPrevious(delay) => TurnStart::AfterPrevious(
            Duration::from_ms(delay.as_ms() / ratio).map_err(|_| ShapeError::TimeSpan)?,
        ),
    })
}

/// As a closed loop has it: times mean nothing, delays stay.
fn without_times(start: TurnStart) -> TurnStart {
    match start {
        TurnStart::At(_) => TurnStart::At(Time::ZERO),
        TurnStart::NotBefore(_) => TurnStart::AfterPrevious(Duration::ZERO),
        after @ TurnStart::AfterPrevious(_) => after,
    }
}

/// Puts the sessions of several loads, which follow one another as so many each, in an order in which all of them go on
/// alike: a closed loop takes sessions in their order.
pub fn interleave(sessions: &mut Vec<Session>, of_each: &[usize]) {
    let places = of_each.iter().flat_map(|&count| {
        // Twice the place in the middle of its part, over the parts.
        (0..count).map(move |index| (2 * index + 1, 2 * count.max(1)))
    });
    let mut placed: Vec<((usize, usize), Session)> = places.zip(std::mem::take(sessions)).collect();
    placed.sort_by(|((one, of_one), _), ((other, of_other), _)| {
        (*one as u128 * *of_other as u128).cmp(&(*other as u128 * *of_one as u128))
    });
    sessions.extend(placed.into_iter().map(|(_, session)| session));
}

#[cfg(test)]
mod tests {
    use servecast_types::{Prompt, Run};
    use smallvec::SmallVec;

    use crate::Turn;

    use super::*;

    const OPEN: Load = Load::Open { arrival_speedup_ratio: 1.0 };

    fn ms(ms: u64) -> Time {
        Time::from_ns(ms * 1_000_000)
    }

    fn session(name: &str, starts: &[TurnStart]) -> Session {
        let turn = |&start: &TurnStart| Turn {
            line: 1,
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
        let turns = starts.iter().map(turn).collect::<SmallVec<_>>();
        Session { name: Some(name.into()), turns, waits: None }
    }

    /// Sessions `a`, `b`, … that begin so many ms after the start, each with a turn 5 ms after the first's end and one not
    /// before 20 ms after its start.
    fn workload(starts: &[u64]) -> Workload {
        let sessions = starts.iter().zip('a'..).map(|(&start, name)| {
            let delay = TurnStart::AfterPrevious(Duration::from_ns(5_000_000));
            session(
                &name.to_string(),
                &[TurnStart::At(ms(start)), delay, TurnStart::NotBefore(ms(start + 20))],
            )
        });
        Workload { sessions: sessions.collect(), ..Workload::default() }
    }

    fn dump(workload: &Workload) -> String {
        let start = |turn: &Turn| match turn.start {
            TurnStart::At(time) => format!("{}", time.as_ms()),
            TurnStart::AfterPrevious(delay) => format!("+{}", delay.as_ms()),
            TurnStart::NotBefore(time) => format!("≥{}", time.as_ms()),
        };
        let session = |session: &Session| {
            let turns: Vec<_> = session.turns.iter().map(start).collect();
            format!("{} {}", session.name.as_deref().unwrap_or("-"), turns.join(" "))
        };
        workload.sessions.iter().map(session).collect::<Vec<_>>().join("; ")
    }

    fn check(shape: &Shape, load: Load, expected: &str) {
        let outcome = shape.apply(workload(&[0, 100, 300]), load);
        assert_eq!(outcome.map_or_else(|error| error.to_string(), |workload| dump(&workload)), expected);
    }

    #[test]
    fn a_range_of_time_keeps_sessions_that_begin_in_it() {
        let of = |from, to| Shape { time_range: Some((ms(from), ms(to))), ..Shape::default() };
        check(&of(100, 400), OPEN, "b 0 +5 ≥20; c 200 +5 ≥220");
        check(&of(0, 300), OPEN, "a 0 +5 ≥20; b 100 +5 ≥120");
        check(&of(100, 400), Load::Closed, "b 0 +5 +0; c 0 +5 +0");
        check(
            &of(301, 400),
            OPEN,
            "no session begins in `time_range`: the last one begins 0.3 s after the first",
        );
    }

    #[test]
    fn a_load_comes_again_after_as_long_as_sessions_are_apart() {
        let twice = Shape { repeat: 2, max_requests: NonZeroUsize::new(11), ..Shape::default() };
        check(&twice, OPEN, "a 0 +5 ≥20; b 100 +5 ≥120; c 300 +5 ≥320; a#2 450 +5");
        check(
            &twice,
            Load::Open { arrival_speedup_ratio: 2.0 },
            "a 0 +2.5 ≥10; b 50 +2.5 ≥60; c 150 +2.5 ≥160; a#2 225 +2.5",
        );
        let often = Shape { repeat: u32::MAX, ..Shape::default() };
        check(&often, OPEN, "`repeat` makes 38654705655 requests, but there may be 10000000 at most");
    }

    #[test]
    fn a_sample_has_about_its_share_of_whole_sessions_and_is_that_of_its_seed() {
        let starts: Vec<u64> = (0..1000).collect();
        let sample = |sample, seed| {
            let shape = Shape { sample, seed, ..Shape::default() };
            shape.apply(workload(&starts), OPEN).unwrap()
        };
        let kept = sample(0.1, 1);
        assert!((60..140).contains(&kept.sessions.len()), "{}", kept.sessions.len());
        assert!(kept.sessions.iter().all(|session| session.turns.len() == 3));
        assert_eq!(kept, sample(0.1, 1));
        assert_ne!(kept, sample(0.1, 2));
        let none = Shape { sample: 1e-12, ..Shape::default() };
        check(
            &none,
            OPEN,
            "`sample` is 0.000000000001, which leaves none of 3 sessions: choose a larger share or another `seed`",
        );
    }

    #[test]
    fn other_arrivals_keep_the_order_of_sessions_and_the_distance_of_their_turns() {
        let rate = Some((RateProfile::constant(10.0), 1e6));
        let shape = Shape { arrivals: rate, ..Shape::default() };
        let shaped = shape.apply(workload(&[300, 0, 100]), OPEN).unwrap();
        let starts: Vec<f64> = shaped.sessions.iter().map(|session| start_of(session).as_ms()).collect();
        for (start, expected) in starts.iter().zip([200.0, 0.0, 100.0]) {
            assert!((start - expected).abs() < 2.0, "{starts:?}");
        }
        for session in &shaped.sessions {
            let TurnStart::NotBefore(last) = session.turns[2].start else { panic!("{session:?}") };
            assert_eq!(last.since(start_of(session)).as_ms().round() as u64, 20);
        }
    }

    #[test]
    fn a_rate_that_ends_says_how_far_it_comes() {
        let segment =
            serde_json::json!([{"duration_s": 1, "rate_per_s": 2}, {"duration_s": 1, "rate_per_s": 0}]);
        let profile: RateProfile = serde_json::from_value(serde_json::json!({"segment": segment})).unwrap();
        let shape = Shape { arrivals: Some((profile, 1e6)), ..Shape::default() };
        check(
            &shape,
            OPEN,
            "`rate_profile` ends with a rate of 0 after 2 of 3 sessions: give its last segment a rate, set `repeat = true` \
             in it, or use fewer with --max-requests",
        );
    }

    #[test]
    fn several_loads_go_on_alike() {
        let mut sessions: Vec<Session> =
            "abcdxy".chars().map(|name| session(&name.to_string(), &[TurnStart::At(Time::ZERO)])).collect();
        interleave(&mut sessions, &[4, 2]);
        let names: Vec<_> = sessions.iter().filter_map(|session| session.name.as_deref()).collect();
        assert_eq!(names.concat(), "axbcyd");
    }

    #[test]
    fn a_shape_that_changes_nothing_is_plain() {
        assert!(Shape { seed: 3, max_requests: NonZeroUsize::new(4), ..Shape::default() }.is_plain());
        assert!(!Shape { repeat: 2, ..Shape::default() }.is_plain());
    }

    #[test]
    fn the_sessions_that_a_closed_loop_begins_with_start_within() {
        let delay = TurnStart::AfterPrevious(Duration::from_ns(5_000_000));
        let starts = [TurnStart::At(Time::ZERO), delay, delay, delay];
        let workload = || Workload {
            sessions: (0..40).map(|number| session(&number.to_string(), &starts)).collect(),
            ..Workload::default()
        };
        let shaped = |seed| {
            let shape = Shape { warm_start: Some(30), seed, ..Shape::default() };
            shape.apply(workload(), Load::Closed).unwrap()
        };
        let turns = |workload: &Workload| -> Vec<usize> {
            workload.sessions.iter().map(|session| session.turns.len()).collect()
        };
        let of = turns(&shaped(1));
        for left in 1..=4 {
            assert!(of[..30].contains(&left), "{of:?}");
        }
        assert_eq!(of[30..], [4; 10], "later sessions are whole");
        assert_eq!((turns(&shaped(1)), turns(&shaped(2)) == of), (of, false));
        for session in shaped(1).sessions {
            assert_eq!(session.turns[0].start, TurnStart::At(Time::ZERO));
            assert!(session.turns[1..].iter().all(|turn| turn.start == delay));
        }
    }

    #[test]
    fn sessions_of_one_request_have_no_middle() {
        let workload =
            Workload { sessions: vec![session("a", &[TurnStart::At(Time::ZERO)])], ..Workload::default() };
        let shape = Shape { warm_start: Some(1), ..Shape::default() };
        assert_eq!(shape.apply(workload, Load::Closed), Err(ShapeError::NoLaterTurns));
    }
}
