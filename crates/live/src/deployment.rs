//! The deployment at work, in a thread of its own: requests of clients go in, tokens come out.
//!
//! The thread drives a [`Cluster`] by the clock of the machine. Handlers send it [`Command`]s, and get [`Event`]s on a
//! channel a request, each with the instant at which the client is to see it. Events of one instant go out together, as
//! [`Letter`]s which the thread of the connections hands on: to wake that thread for each would be a system call a token.

mod message;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use rustc_hash::FxHashMap;
use servecast_cluster::{
    Arrival, Cluster, Control, Delivery, Detail, NewRequest, Observer, RunError, SimulationOptions, Source,
    Timer, Topology, WallClock, WorkerChange, drive_with,
};
use servecast_engine::{Iteration, Joined};
use servecast_latency::Host;
use servecast_record::RequestStatus;
use servecast_types::{Duration, RequestId, Role, Time, WorkerId};
use tokio::sync::{mpsc, oneshot};

pub(crate) use self::message::{Asked, Command, Ended, Event, Letter, Outbox, Request};
use crate::admin::{Order, is_up};
use crate::content::content;
use crate::events::Feed;
use crate::faults::Waits;
use crate::metrics::Metrics;
use crate::record::Log;

/// The least by which two instants differ.
const TICK: Duration = Duration::from_ns(1);

/// What the thread does.
#[derive(Debug)]
pub(crate) struct Setting {
    /// Its pools.
    pub(crate) topology: Topology,
    /// How they are simulated.
    pub(crate) options: SimulationOptions,
    /// How many times as fast as the clock of the machine it goes.
    pub(crate) speed: f64,
    /// What it measures.
    pub(crate) metrics: Metrics,
    /// Where requests are recorded.
    pub(crate) log: Option<Log>,
    /// Where workers tell of their caches.
    pub(crate) events: Option<Feed>,
    /// How long a worker takes to start again.
    pub(crate) startup: Duration,
    /// Who is told that a worker has come or gone.
    pub(crate) lives: mpsc::UnboundedSender<(WorkerId, bool)>,
    /// Who hands events on.
    pub(crate) letters: mpsc::UnboundedSender<Vec<Letter>>,
}

/// Why a deployment does not serve any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DeploymentError {
    /// Its simulation cannot go on.
    #[error(transparent)]
    Run(#[from] RunError),
    /// What came in cannot be written.
    #[error("the record of requests cannot be written")]
    Log(#[from] std::io::Error),
}

/// Starts a deployment. `stopped` is told of its end, and why if nobody closed it.
pub(crate) fn start(
    setting: Setting,
    stopped: oneshot::Sender<Result<(), DeploymentError>>,
) -> std::io::Result<(Sender<Command>, JoinHandle<()>)> {
    let (sender, commands) = channel();
    let thread = std::thread::Builder::new().name("deployment".to_owned()).spawn(move || {
        // Who waits for it may have gone.
        let _ = stopped.send(serve(setting, commands));
    })?;
    Ok((sender, thread))
}

fn serve(setting: Setting, commands: Receiver<Command>) -> Result<(), DeploymentError> {
    drive(setting, commands).map(|_| ())
}

/// The deployment as it is at the end, and when that is.
fn drive(setting: Setting, commands: Receiver<Command>) -> Result<(Cluster, Time), DeploymentError> {
    let Setting { topology, options, speed, metrics, log, events, startup, lives, letters } = setting;
    let last = topology.groups().last().map(|(role, ..)| role);
    let hosts = topology.groups().filter(|(role, ..)| Some(*role) == last);
    let deliveries =
        hosts.flat_map(|(_, workers, engine)| (0..workers).map(|_| Delivery::new(engine.host())));
    let desk = Rc::new(RefCell::new(Desk {
        commands,
        clock: Machine { started: Instant::now(), speed },
        host: topology.front_host(),
        woke: Time::ZERO,
        not_before: Time::ZERO,
        inbox: VecDeque::new(),
        on_the_way: BTreeMap::new(),
        taken_back: VecDeque::new(),
        clients: FxHashMap::default(),
        ids: FxHashMap::default(),
        arrived: 0,
        lines: 0,
        deliveries: deliveries.collect(),
        metrics,
        log,
        events,
        orders: Vec::new(),
        pools: pool_names(&topology),
        startup,
        lives,
        outbox: Outbox::new(letters),
        failure: None,
        is_closing: false,
    }));
    let mut cluster = Cluster::new(&topology, &options);
    let desk = Shared(desk);
    let mut clock = WallClock::new(desk.clone());
    let end = drive_with(&mut cluster, &mut desk.clone(), &mut clock, &mut desk.clone(), &mut desk.clone());
    let mut desk = desk.0.borrow_mut();
    desk.outbox.send();
    let end = end?;
    if let Some(error) = desk.failure.take() {
        return Err(error.into());
    }
    if let Some(log) = desk.log.take() {
        log.finish()?;
    }
    Ok((cluster, end))
}

/// The clock of the machine.
#[derive(Debug, Clone, Copy)]
struct Machine {
    started: Instant,
    speed: f64,
}

impl Machine {
    fn now(&self) -> Time {
        let ns = self.started.elapsed().as_secs_f64() * self.speed * 1e9;
        // A cast saturates.
        Time::from_ns(ns as u64)
    }

    /// When a time of the deployment is.
    fn at(&self, time: Time) -> Instant {
        self.started + self.real(time.since(Time::ZERO))
    }

    /// How long a time of the deployment takes, a year at most.
    fn real(&self, length: Duration) -> std::time::Duration {
        const YEAR: f64 = 365.0 * 86400.0;
        std::time::Duration::from_secs_f64((length.as_secs() / self.speed).min(YEAR))
    }
}

/// Where handlers and deployment meet.
struct Desk {
    commands: Receiver<Command>,
    clock: Machine,
    /// What lies between clients and deployment.
    host: Host,
    /// What the clock said last.
    woke: Time,
    /// No request comes before that.
    not_before: Time,
    /// Requests that were not stamped yet, in order.
    inbox: VecDeque<Request>,
    /// Stamped requests, by when they are at the deployment and in order.
    on_the_way: BTreeMap<(Time, u64), (Time, Request)>,
    /// Requests whose clients have gone.
    taken_back: VecDeque<RequestId>,
    /// Requests in the deployment.
    clients: FxHashMap<RequestId, Client>,
    /// The same, by their numbers.
    ids: FxHashMap<u64, RequestId>,
    /// Requests that have come to the deployment.
    arrived: u32,
    /// Requests that were stamped.
    lines: u64,
    /// What workers hand to clients, by worker of the last pool.
    deliveries: Vec<Delivery>,
    metrics: Metrics,
    log: Option<Log>,
    events: Option<Feed>,
    /// What is to be done with workers.
    orders: Vec<Order>,
    /// What pools are for.
    pools: Vec<&'static str>,
    startup: Duration,
    lives: mpsc::UnboundedSender<(WorkerId, bool)>,
    outbox: Outbox,
    failure: Option<std::io::Error>,
    is_closing: bool,
}

/// Whoever waits for a request.
struct Client {
    number: u64,
    index: u32,
    events: mpsc::UnboundedSender<(u32, Event)>,
    cached_tokens: Option<u32>,
    delay: std::time::Duration,
    /// Until it is in a batch.
    waits: Option<Waits>,
}

impl Desk {
    /// Takes what has been sent meanwhile.
    fn collect(&mut self) {
        loop {
            match self.commands.try_recv() {
                Ok(command) => {
                    self.take(command);
                }
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.close();
                    return;
                }
            }
        }
    }

    /// Takes a command; whether the deployment has something to do then.
    fn take(&mut self, command: Command) -> bool {
        match command {
            Command::Submit(request) if !self.is_closing => self.inbox.push_back(request),
            // Its channel closes with it.
            Command::Submit(_) => return false,
            Command::Cancel(number) => return self.cancel(number),
            Command::Metrics(worker, answer) => {
                let waiting = self.inbox.len() + self.on_the_way.len();
                // Who asked may have gone.
                let _ = answer.send(self.metrics.render(self.clients.len() + waiting, worker));
                return false;
            }
            Command::Snapshot(worker, answer) => {
                let _ = answer.send(self.metrics.snapshots(self.clients.len(), worker));
                return false;
            }
            Command::Order(order) => self.orders.push(order),
            Command::Close => self.close(),
        }
        true
    }

    fn cancel(&mut self, number: u64) -> bool {
        if let Some(&id) = self.ids.get(&number) {
            self.taken_back.push_back(id);
            return true;
        }
        self.inbox.retain(|request| request.number != number);
        self.on_the_way.retain(|_, (_, request)| request.number != number);
        self.metrics.forgotten(number);
        false
    }

    fn close(&mut self) {
        self.is_closing = true;
        self.inbox.clear();
        self.on_the_way.clear();
        let mut ids: Vec<RequestId> = self.clients.keys().copied().collect();
        ids.sort_unstable();
        self.taken_back = ids.into();
    }

    /// Stamps what is in the inbox.
    fn stamp(&mut self, now: Time) {
        while let Some(request) = self.inbox.pop_front() {
            self.metrics.arrived(&request, now);
            if let Some(log) = &mut self.log
                && let Err(error) = log.write(&request, now)
            {
                self.failure.get_or_insert(error);
                self.close();
                return;
            }
            let due = now + self.host.front_end(request.prompt.len() as u32);
            self.on_the_way.insert((due, self.lines), (now, request));
            self.lines += 1;
        }
    }

    fn token(&mut self, worker: WorkerId, id: RequestId, at: Time) {
        self.metrics.token(worker, id, at);
        let Some(client) = self.clients.get(&id) else { return };
        let cached_tokens = client.cached_tokens.unwrap_or(0);
        let event = Event::Token { at: self.clock.at(at) + client.delay, cached_tokens };
        self.outbox.push(Letter { to: client.events.clone(), index: client.index, event });
    }
}

/// The desk as clock, source and observer of the deployment, which call it one after the other.
#[derive(Clone)]
struct Shared(Rc<RefCell<Desk>>);

impl Timer for Shared {
    fn now(&mut self) -> Time {
        let mut desk = self.0.borrow_mut();
        // What happened at the instant before has happened.
        desk.outbox.send();
        desk.clock.now()
    }

    fn sleep(&mut self, until: Option<Time>) {
        let mut desk = self.0.borrow_mut();
        loop {
            let received = match until {
                None => desk.commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(until) => {
                    let now = desk.clock.now();
                    if until <= now {
                        return;
                    }
                    desk.commands.recv_timeout(desk.clock.real(until.since(now)))
                }
            };
            match received {
                Ok(command) => {
                    if desk.take(command) {
                        return;
                    }
                }
                Err(RecvTimeoutError::Timeout) => return,
                Err(RecvTimeoutError::Disconnected) => {
                    // Nobody is left who could send anything.
                    desk.close();
                    return;
                }
            }
        }
    }
}

impl Source for Shared {
    fn next(&self) -> Option<Time> {
        let desk = self.0.borrow();
        let new = (!desk.inbox.is_empty()).then(|| desk.woke.max(desk.not_before));
        let arrives = desk.on_the_way.keys().next().map(|&(due, _)| due);
        let goes = (!desk.taken_back.is_empty()).then_some(desk.woke);
        new.into_iter().chain(arrives).chain(goes).min()
    }

    fn woke(&mut self, now: Time) {
        let mut desk = self.0.borrow_mut();
        desk.woke = now;
        desk.collect();
    }

    fn pop_due(&mut self, now: Time) -> Option<Arrival> {
        let mut desk = self.0.borrow_mut();
        if now >= desk.woke && now >= desk.not_before {
            desk.stamp(now);
            // What comes later comes at a later instant, as it does when the record is replayed.
            desk.not_before = now + TICK;
        }
        let first = desk.on_the_way.first_entry().filter(|first| first.key().0 <= now)?;
        let ((_, line), (sent, request)) = first.remove_entry();
        let id = RequestId(desk.arrived);
        desk.arrived += 1;
        desk.ids.insert(request.number, id);
        let Request { number, index, events, delay, waits, .. } = request;
        let client = Client { number, index, events, cached_tokens: None, delay, waits: Some(waits) };
        desk.clients.insert(id, client);
        desk.metrics.entered(id, request.number);
        if let Some(events) = &desk.events {
            events.arrived(id, [&request.prompt[..], &request.output].concat(), request.salt.clone());
        }
        let tokens = request.output.len() as u32;
        Some(Arrival {
            origin: NewRequest {
                session: line as u32,
                turn: 0,
                line: line + 1,
                class: None,
                lora: None,
                grammar: None,
                arrival: sent,
                input_tokens: request.prompt.len() as u32,
                output_tokens: request.max_tokens,
            },
            prompt: request.content,
            output: Some(Box::new(content(&request.output, None))),
            stop_after: (tokens < request.max_tokens).then_some(tokens),
            priority: request.priority,
            placement: request.worker.into_iter().collect(),
        })
    }

    fn arrived(&mut self, id: RequestId) {
        debug_assert_eq!(id.index() + 1, self.0.borrow().arrived as usize);
    }

    fn ended(&mut self, id: RequestId, status: RequestStatus, at: Time) {
        let mut desk = self.0.borrow_mut();
        if let Some(events) = &desk.events {
            events.ended(id, at);
        }
        desk.metrics.ended(id, status);
        let Some(client) = desk.clients.remove(&id) else { return };
        desk.ids.remove(&client.number);
        let cached_tokens = client.cached_tokens.unwrap_or(0);
        let event = Event::Ended(Ended { status, cached_tokens });
        desk.outbox.push(Letter { to: client.events, index: client.index, event });
    }

    fn pop_withdrawn(&mut self, _now: Time) -> Option<RequestId> {
        self.0.borrow_mut().taken_back.pop_front()
    }

    fn is_over(&self) -> bool {
        let desk = self.0.borrow();
        desk.is_closing && desk.clients.is_empty()
    }
}

/// Tells clients of their tokens.
impl Observer for Shared {
    fn detail(&self) -> Detail {
        Detail::Iterations
    }

    fn iteration(&mut self, pool: Role, worker: WorkerId, iteration: &Iteration) {
        let mut desk = self.0.borrow_mut();
        for admitted in &iteration.admitted {
            if let Some(client) = desk.clients.get_mut(&admitted.id) {
                client.cached_tokens.get_or_insert(admitted.cached_tokens);
                client.waits = None;
            }
        }
        desk.metrics.iteration(pool, worker, iteration);
        if let Some(events) = &desk.events {
            events.passed(desk.metrics.engine(pool, worker), iteration);
        }
        // Nobody sees the tokens of a prefill pool.
        if pool == Role::Prefill || iteration.num_scheduled() == 0 {
            return;
        }
        let out = desk.deliveries[worker.index()].pass(iteration.end, iteration.num_scheduled());
        for emitted in &iteration.emitted {
            // The tokens of an iteration come together.
            (0..emitted.tokens).for_each(|_| desk.token(worker, emitted.id, out));
        }
        // Not behind the next pass, which is decided before the clock is looked at again.
        desk.outbox.send();
    }

    fn joined(&mut self, pool: Role, worker: WorkerId, joined: Joined, now: Time) {
        if pool != Role::Prefill {
            let mut desk = self.0.borrow_mut();
            let out = desk.deliveries[worker.index()].handed_over(now);
            desk.token(worker, joined.id, out);
        }
    }

    fn worker_changed(&mut self, change: &WorkerChange) {
        let desk = self.0.borrow();
        if let Some(events) = &desk.events {
            events.worker_changed(desk.metrics.engine(change.pool, change.worker), change.state);
        }
        if change.pool == Role::Aggregated {
            // Whoever has the ports may have gone.
            let _ = desk.lives.send((change.worker, is_up(change.state)));
        }
    }
}

/// Changes workers as somebody outside orders.
impl Control for Shared {
    fn next(&self) -> Option<Time> {
        let desk = self.0.borrow();
        (!desk.orders.is_empty()).then_some(desk.woke)
    }

    fn act(&mut self, now: Time, cluster: &mut Cluster) {
        let (orders, ready, pools) = {
            let mut desk = self.0.borrow_mut();
            (std::mem::take(&mut desk.orders), now + desk.startup, desk.pools.clone())
        };
        for order in orders {
            order.carry_out(cluster, &pools, ready);
        }
    }
}

/// What pools are for, in order.
fn pool_names(topology: &Topology) -> Vec<&'static str> {
    let mut roles: Vec<Role> = topology.groups().map(|(role, ..)| role).collect();
    roles.dedup();
    roles.into_iter().map(Role::name).collect()
}

#[cfg(test)]
mod tests;
