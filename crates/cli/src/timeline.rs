//! A run as Chrome trace events, which Perfetto and `chrome://tracing` show: a track a worker, a track a request, in
//! virtual time.
//!
//! Iterations of one worker in which the same number of requests decode, one after the other, are one slice that says how
//! many they are: a run of hours has millions.

use std::io::{self, Write};

use servecast_cluster::record::{PoolRole, RequestRecord, RunRecord};
use servecast_engine::Iteration;
use servecast_types::{RequestId, Time, WorkerId};

/// Process of the tracks of requests; those of pools are below.
const REQUESTS: usize = 10;

/// The part of a run that a timeline shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Window {
    pub(crate) from: Time,
    pub(crate) to: Time,
}

impl Window {
    /// A window of the form `FROM..TO` in seconds, either of which may be left out.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let refused = || {
            format!(
                "`timeline_window` is {text:?}, but must be FROM..TO in seconds of the simulated clock, as 60..90"
            )
        };
        let (from, to) = text.split_once("..").ok_or_else(refused)?;
        let time = |text: &str, open: Time| match text.trim() {
            "" => Ok(open),
            text => {
                text.parse().ok().and_then(|secs: f64| Time::from_ms(secs * 1000.0).ok()).ok_or_else(refused)
            }
        };
        let window = Self { from: time(from, Time::ZERO)?, to: time(to, Time::MAX)? };
        if window.from < window.to { Ok(window) } else { Err(refused()) }
    }

    fn shows(&self, start: Time, end: Time) -> bool {
        start <= self.to && end >= self.from
    }
}

impl Default for Window {
    fn default() -> Self {
        Self { from: Time::ZERO, to: Time::MAX }
    }
}

/// Writes the events of a run as it goes on.
pub(crate) struct Timeline<W> {
    out: W,
    window: Window,
    is_first: bool,
    /// Of each worker, by pool.
    workers: [Vec<Worker>; 3],
}

/// What is not written yet of a worker.
#[derive(Clone, Copy, Default)]
struct Worker {
    decodes: Option<Decodes>,
    waiting: u32,
    free_blocks: u32,
}

/// Iterations one after the other, in which the same number of requests decode.
#[derive(Clone, Copy)]
struct Decodes {
    start: Time,
    end: Time,
    requests: u64,
    iterations: u64,
}

impl<W: Write> Timeline<W> {
    pub(crate) fn new(out: W, window: Window) -> Self {
        Self { out, window, is_first: true, workers: Default::default() }
    }

    pub(crate) fn out(&self) -> &W {
        &self.out
    }

    /// An iteration that is known request by request ended.
    pub(crate) fn iteration(
        &mut self,
        pool: PoolRole,
        worker: WorkerId,
        iteration: &Iteration,
    ) -> io::Result<()> {
        self.flush(pool, worker)?;
        if !self.window.shows(iteration.start, iteration.end) {
            return Ok(());
        }
        let Iteration { start, end, num_running, num_waiting, free_blocks_after_schedule: free, .. } =
            *iteration;
        let (process, track) = (pool as usize, worker.0);
        if end > start {
            let requests = iteration.scheduled.len();
            let prompts = iteration.scheduled.iter().filter(|one| one.tokens > 1).count();
            let (admitted, preempted) = (iteration.admitted.len(), iteration.preempted.len());
            let name = if prompts > 0 { "prefill" } else { "decode" };
            let (at, length) = (Micros(start.as_ns()), Micros(end.since(start).as_ns()));
            let tokens = iteration.total_tokens();
            self.event(format_args!(
                r#"{{"ph":"X","name":"{name}","pid":{process},"tid":{track},"ts":{at},"dur":{length},"args":{{"iterations":1,"requests":{requests},"prompts":{prompts},"tokens":{tokens},"admitted":{admitted},"preempted":{preempted},"running":{num_running},"waiting":{num_waiting},"free_blocks":{free}}}}}"#
            ))?;
        }
        let known = self.worker(pool, worker);
        let (waiting, blocks) = (known.waiting != num_waiting, known.free_blocks != free);
        (known.waiting, known.free_blocks) = (num_waiting, free);
        let at = Micros(start.as_ns());
        for (name, value) in [("waiting", num_waiting, waiting), ("free blocks", free, blocks)]
            .into_iter()
            .filter_map(|(name, value, changed)| changed.then_some((name, value)))
        {
            self.event(format_args!(
                r#"{{"ph":"C","name":"{name}, worker {track}","pid":{process},"ts":{at},"args":{{"value":{value}}}}}"#
            ))?;
        }
        Ok(())
    }

    /// An iteration ended in which so many requests got a token each.
    pub(crate) fn decoded(
        &mut self,
        pool: PoolRole,
        worker: WorkerId,
        (start, end): (Time, Time),
        requests: u64,
    ) -> io::Result<()> {
        if let Some(open) = &mut self.worker(pool, worker).decodes
            && open.end == start
            && open.requests == requests
        {
            open.end = end;
            open.iterations += 1;
            return Ok(());
        }
        self.flush(pool, worker)?;
        self.worker(pool, worker).decodes = Some(Decodes { start, end, requests, iterations: 1 });
        Ok(())
    }

    /// Writes what is left, and what happened to requests.
    pub(crate) fn finish(mut self, run: &RunRecord) -> io::Result<W> {
        for pool in &run.pools {
            let process = pool.role as usize;
            self.name("process_name", process, None, pool.role.name())?;
            for number in 0..pool.workers.len() as u32 {
                self.flush(pool.role, WorkerId(number))?;
                self.name(
                    "thread_name",
                    process,
                    Some(number),
                    &format!("{} worker {number}", pool.role.name()),
                )?;
            }
        }
        self.name("process_name", REQUESTS, None, "requests")?;
        for (ordinal, request) in run.requests.iter().enumerate() {
            if self.window.shows(request.arrival, request.ended) {
                self.request(RequestId(ordinal as u32), request)?;
            }
        }
        let end: &[u8] = if self.is_first { b"{\"traceEvents\":[]}\n" } else { b"\n]}\n" };
        self.out.write_all(end)?;
        Ok(self.out)
    }

    fn request(&mut self, id: RequestId, request: &RequestRecord) -> io::Result<()> {
        let RequestRecord { input_tokens, output_tokens, line, .. } = request;
        let end = request.last_token.unwrap_or(request.ended);
        let status = if request.is_finished() { "finished" } else { "rejected" };
        let args = format!(
            r#"{{"line":{line},"input_tokens":{input_tokens},"output_tokens":{output_tokens},"reused_tokens":{},"status":"{status}"}}"#,
            request.reused_tokens()
        );
        self.span(id, &format!("request {id}"), request.arrival, end, &args)?;
        let mut handed_off = None;
        for stage in &request.stages {
            let mut at = stage.arrived;
            let worker = stage.worker;
            let args = format!(r#"{{"pool":"{}","worker":{worker}}}"#, stage.pool.name());
            let points = [
                ("router queue", Some(stage.queued)),
                ("queue", stage.transfer_start.or(stage.admitted)),
                ("KV transfer", stage.transfer_end),
                ("queue", stage.admitted),
                ("prefill", stage.first_token),
                ("decode", stage.last_token),
            ];
            for (name, to) in points {
                if let Some(to) = to.filter(|&to| to > at) {
                    self.span(id, name, at, to, &args)?;
                    at = to;
                }
            }
            let (process, track) = (stage.pool as usize, worker.0);
            if let (Some((process, track, at)), Some(admitted)) = (handed_off, stage.admitted) {
                self.flow("s", id, process, track, at)?;
                self.flow("f", id, stage.pool as usize, worker.0, admitted)?;
            }
            handed_off = stage.first_token.map(|first_token| (process, track, first_token));
        }
        Ok(())
    }

    /// A part of the life of a request.
    fn span(&mut self, id: RequestId, name: &str, start: Time, end: Time, args: &str) -> io::Result<()> {
        let (start, end) = (Micros(start.as_ns()), Micros(end.as_ns()));
        self.event(format_args!(
            r#"{{"ph":"b","cat":"request","id":{id},"name":"{name}","pid":{REQUESTS},"tid":0,"ts":{start},"args":{args}}}"#
        ))?;
        self.event(format_args!(
            r#"{{"ph":"e","cat":"request","id":{id},"name":"{name}","pid":{REQUESTS},"tid":0,"ts":{end}}}"#
        ))
    }

    /// An end of the arrow from the worker that computed a prompt to the one that goes on with it.
    fn flow(&mut self, phase: &str, id: RequestId, process: usize, track: u32, at: Time) -> io::Result<()> {
        let at = Micros(at.as_ns());
        let binding = if phase == "f" { r#","bp":"e""# } else { "" };
        self.event(format_args!(
            r#"{{"ph":"{phase}","cat":"hand-off","name":"hand-off","id":{id},"pid":{process},"tid":{track},"ts":{at}{binding}}}"#
        ))
    }

    fn name(&mut self, what: &str, process: usize, track: Option<u32>, name: &str) -> io::Result<()> {
        let track = track.unwrap_or(0);
        self.event(format_args!(
            r#"{{"ph":"M","name":"{what}","pid":{process},"tid":{track},"args":{{"name":"{name}"}}}}"#
        ))
    }

    fn flush(&mut self, pool: PoolRole, worker: WorkerId) -> io::Result<()> {
        let Some(decodes) = self.worker(pool, worker).decodes.take() else { return Ok(()) };
        let Decodes { start, end, requests, iterations } = decodes;
        if end <= start || !self.window.shows(start, end) {
            return Ok(());
        }
        let (process, track, tokens) = (pool as usize, worker.0, requests * iterations);
        let (at, length) = (Micros(start.as_ns()), Micros(end.since(start).as_ns()));
        self.event(format_args!(
            r#"{{"ph":"X","name":"decode","pid":{process},"tid":{track},"ts":{at},"dur":{length},"args":{{"iterations":{iterations},"requests":{requests},"tokens":{tokens}}}}}"#
        ))
    }

    fn worker(&mut self, pool: PoolRole, worker: WorkerId) -> &mut Worker {
        let workers = &mut self.workers[pool as usize];
        if workers.len() <= worker.index() {
            workers.resize(worker.index() + 1, Worker::default());
        }
        &mut workers[worker.index()]
    }

    fn event(&mut self, event: std::fmt::Arguments<'_>) -> io::Result<()> {
        let before = if self.is_first { "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n" } else { ",\n" };
        self.is_first = false;
        self.out.write_all(before.as_bytes())?;
        self.out.write_fmt(event)
    }
}

/// Nanoseconds as microseconds, the unit of the format, exactly.
struct Micros(u64);

impl std::fmt::Display for Micros {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_two_times_in_seconds() {
        let ms = |ms| Time::from_ms(ms).unwrap();
        assert_eq!(Window::parse("1.5..2"), Ok(Window { from: ms(1500.0), to: ms(2000.0) }));
        assert_eq!(Window::parse("3.."), Ok(Window { from: ms(3000.0), to: Time::MAX }));
        for text in ["", "5", "2..1", "-1..2", "a..b", "1..1", "nan.."] {
            assert!(Window::parse(text).unwrap_err().contains("must be FROM..TO"), "{text}");
        }
    }
}
