//! Who brings requests, who says what time it is, and the loop that lets a deployment serve them.

use std::ops::ControlFlow;

use servecast_record::RequestStatus;
use servecast_types::{ClassId, Prompt, RequestId, Time, WorkerId};
use smallvec::SmallVec;

use crate::{Cluster, Control, Observer, RunError};

/// What is known of a request when it arrives.
#[derive(Debug, Clone, Copy)]
pub struct NewRequest {
    /// Its session.
    pub session: u32,
    /// Which turn of the session it is, from 0 on.
    pub turn: u32,
    /// Its line in the trace.
    pub line: u64,
    /// Its class.
    pub class: Option<ClassId>,
    /// The LoRA adapter that it asks for; its prompt is [salted](Prompt::salted) with that.
    pub lora: Option<u32>,
    /// The grammar of its structured output, if it has one; equal grammars have the same number.
    pub grammar: Option<u32>,
    /// When the user sent it: before it comes to the deployment if there is something in front.
    pub arrival: Time,
    /// Tokens of its prompt.
    pub input_tokens: u32,
    /// Tokens that it may generate.
    pub output_tokens: u32,
}

/// A request as it arrives at the deployment.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// Who sent it, when, and how much.
    pub origin: NewRequest,
    /// Its prompt.
    pub prompt: Prompt,
    /// What it generates as far as somebody else names it.
    pub output: Option<Box<Prompt>>,
    /// Number of tokens after which it stops by itself.
    pub stop_after: Option<u32>,
    /// Lower is more important.
    pub priority: i32,
    /// The worker of each stage, where that is not the router's choice.
    pub placement: Placement,
}

/// Workers of a request's stages that were fixed beforehand; a stage beyond them has its router's choice.
pub type Placement = SmallVec<[WorkerId; 2]>;

/// What a source acts on at once. Workers on whose iterations nobody acts [lag](crate::Cluster), which costs less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Watches {
    /// Nothing: what it sends next depends on the clock alone.
    Nothing,
    /// Ends of requests, which decide what it sends next. Every iteration is reported when it ends.
    Ends,
}

/// Where requests come from. The [driver](drive) calls it; time never runs back.
pub trait Source {
    /// No request comes before that, as far as is known yet; `None` if none does unless the end of another, or somebody
    /// outside, brings one. When [`Source::pop_due`] and [`Source::pop_withdrawn`] have nothing more for a time, it is
    /// later than that.
    fn next(&self) -> Option<Time>;

    /// The clock says that it is `now`; told each time it was waited for. What was due before may still have to happen.
    fn woke(&mut self, _now: Time) {}

    /// The next request that has come by `now`. What comes at one time is handed out in the order in which it is to
    /// arrive.
    fn pop_due(&mut self, now: Time) -> Option<Arrival>;

    /// The number of the request that was handed out last; requests are numbered in order.
    fn arrived(&mut self, id: RequestId);

    /// A request has ended, which its client knows at `at`.
    fn ended(&mut self, id: RequestId, status: RequestStatus, at: Time);

    /// A request that its client takes back now. Whoever has such [watches](Source::watches) the ends of requests, and
    /// counts them in [`Source::next`].
    fn pop_withdrawn(&mut self, _now: Time) -> Option<RequestId> {
        None
    }

    /// A request that will not be sent, because an earlier one that it builds on was not served; asked after each
    /// [`Source::ended`]. It is recorded as
    /// [rejected](servecast_record::RejectReason::PreviousTurn) at its arrival.
    fn pop_refused(&mut self) -> Option<NewRequest> {
        None
    }

    /// What it acts on. A source that does not say gets to know every end in time.
    fn watches(&self) -> Watches {
        Watches::Ends
    }

    /// Whether it will bring no further request once those that are under way have ended, whatever happens outside.
    fn is_over(&self) -> bool {
        self.next().is_none()
    }
}

/// Says what time it is.
pub trait Clock {
    /// Waits until `until`, or as long as nothing comes from outside if that is `None`, and says what time it is then:
    /// never earlier than the last time, possibly later than `until`, or earlier if something came from outside. `None`
    /// if there is nothing to wait for.
    fn wait(&mut self, until: Option<Time>) -> Option<Time>;
}

/// The clock of a simulation: it is always as late as it has to be.
#[derive(Debug, Clone, Copy, Default)]
pub struct VirtualClock;

impl Clock for VirtualClock {
    fn wait(&mut self, until: Option<Time>) -> Option<Time> {
        until
    }
}

/// A clock that goes by a timer, so that requests take as long as they are said to.
#[derive(Debug, Clone)]
pub struct WallClock<T> {
    timer: T,
    last: Time,
}

/// What a [`WallClock`] goes by: the clock of the machine, or one of a test.
pub trait Timer {
    /// Time since the start of the run.
    fn now(&mut self) -> Time;

    /// Sleeps until then, for good if that is `None`, and wakes before if something comes from outside.
    fn sleep(&mut self, until: Option<Time>);
}

impl<T: Timer> WallClock<T> {
    /// A clock at the start of a run.
    pub fn new(timer: T) -> Self {
        Self { timer, last: Time::ZERO }
    }
}

impl<T: Timer> Clock for WallClock<T> {
    fn wait(&mut self, until: Option<Time>) -> Option<Time> {
        let mut now = self.timer.now();
        if until.is_none_or(|until| now < until) {
            self.timer.sleep(until);
            now = self.timer.now();
        }
        self.last = self.last.max(now);
        Some(self.last)
    }
}

/// Lets a deployment serve what a source sends, until the source is over and every request has ended; returns the last
/// instant at which it stopped, after which workers that lagged may have gone on.
///
/// All that is due happens at its own time and in order, however late the clock is. Within one instant the order is: what
/// workers end, workers that are ready, transfers that end, arrivals, withdrawals, what workers start.
pub fn drive(
    cluster: &mut Cluster,
    source: &mut impl Source,
    clock: &mut impl Clock,
    observer: &mut impl Observer,
) -> Result<Time, RunError> {
    drive_with(cluster, source, clock, &mut (), observer)
}

/// The same with somebody who changes the deployment while it runs: between withdrawals and what workers start.
pub fn drive_with(
    cluster: &mut Cluster,
    source: &mut impl Source,
    clock: &mut impl Clock,
    control: &mut impl Control,
    observer: &mut impl Observer,
) -> Result<Time, RunError> {
    cluster.watch_for(source.watches());
    cluster.tell(observer.detail());
    cluster.apply_changes(Time::ZERO, observer)?;
    let mut drive = Drive { cluster, source, control, observer, now: Time::ZERO, ended: 0, unsettled: 0 };
    loop {
        let next = drive.next();
        if next.is_none() && drive.source.is_over() {
            break;
        }
        let Some(time) = clock.wait(next) else { break };
        drive.source.woke(time);
        while let Some(due) = drive.next().filter(|due| *due <= time) {
            drive.step(due.max(drive.now))?;
        }
    }
    drive.drain()?;
    Ok(drive.now)
}

struct Drive<'a, S, C, O> {
    cluster: &'a mut Cluster,
    source: &'a mut S,
    control: &'a mut C,
    observer: &'a mut O,
    now: Time,
    /// Requests that have ended.
    ended: u64,
    /// Steps since the observer was told how far all workers are.
    unsettled: usize,
}

impl<S: Source, C: Control, O: Observer> Drive<'_, S, C, O> {
    /// When something happens next.
    fn next(&self) -> Option<Time> {
        let deadline = self.cluster.next_deadline(self.source.is_over());
        let next = self.source.next().into_iter().chain(deadline).min();
        // Mostly there is none.
        match self.next_control() {
            None => next,
            control => next.into_iter().chain(control).min(),
        }
    }

    /// When the deployment is changed next, as long as there is something to serve.
    fn next_control(&self) -> Option<Time> {
        self.control.next().filter(|_| !(self.source.is_over() && self.cluster.is_empty()))
    }

    /// Lets the control act that wants to by now.
    fn change(&mut self, now: Time) -> Result<(), RunError> {
        if self.next_control().is_none_or(|at| at > now) {
            return Ok(());
        }
        self.cluster.bring_all_up(self.observer)?;
        self.follow_ended();
        // It may turn out that all is served.
        if self.next_control().is_some_and(|at| at <= now) {
            self.control.act(now, self.cluster);
            self.cluster.apply_changes(now, self.observer)?;
            self.follow_ended();
        }
        Ok(())
    }

    /// Lets everything happen that is due at one instant.
    fn step(&mut self, now: Time) -> Result<(), RunError> {
        within_time(now, self.now)?;
        self.now = now;
        // Of a source that waits for ends it is not known before it is told of them.
        let sends_no_more = self.source.watches() == Watches::Nothing && self.source.is_over();
        self.cluster.advance(now, sends_no_more, self.observer)?;
        self.follow_ended();
        while let Some(arrival) = self.source.pop_due(now) {
            let id = self.cluster.arrive(arrival, now, self.observer)?;
            self.source.arrived(id);
            self.follow_ended();
        }
        while let Some(id) = self.source.pop_withdrawn(now) {
            self.cluster.withdraw(id, now, self.observer)?;
            self.follow_ended();
        }
        self.change(now)?;
        self.cluster.start(now, self.observer)?;
        self.follow_ended();
        let observer = &mut *self.observer;
        self.cluster.take_routed().iter().for_each(|routed| observer.routed(routed));
        self.unsettled += 1;
        // To find out costs a look at every worker, so it is done once in as many steps.
        if self.unsettled >= self.cluster.num_workers() {
            self.unsettled = 0;
            self.observer.settled(self.cluster.settled());
            if self.cluster.hands_out() {
                self.cluster.hand_out_ended(self.observer)?;
            }
        }
        self.stay_in_control()
    }

    /// Lets workers do what nobody has waited for.
    fn drain(&mut self) -> Result<(), RunError> {
        for place in self.cluster.places() {
            while !self.cluster.drain(place, self.observer)? {
                self.follow_ended();
                self.stay_in_control()?;
            }
            self.follow_ended();
        }
        self.observer.settled(Time::MAX);
        self.cluster.hand_out_rest(self.observer)?;
        self.stay_in_control()
    }

    /// Tells the source of the requests that have ended.
    fn follow_ended(&mut self) {
        while let Some((id, status, at)) = self.cluster.pop_ended() {
            self.ended += 1;
            self.source.ended(id, status, at);
            while let Some(origin) = self.source.pop_refused() {
                let id = self.cluster.refuse(origin);
                self.source.arrived(id);
                self.ended += 1;
            }
        }
    }

    fn stay_in_control(&mut self) -> Result<(), RunError> {
        self.cluster.holds()?;
        let is_to_end = self.observer.progress(self.now, self.ended).is_break()
            || self.observer.recorded(&self.cluster.so_far(), self.ended) == ControlFlow::Break(());
        if is_to_end { Err(RunError::Interrupted { at: self.now }) } else { Ok(()) }
    }
}

/// An error if what comes next is so far away that sums of times have saturated.
pub(crate) fn within_time(next: Time, now: Time) -> Result<(), RunError> {
    if next == Time::MAX { Err(RunError::TimeOverflow { at: now }) } else { Ok(()) }
}
