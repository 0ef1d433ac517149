//! A run as Chrome trace events, which Perfetto and `chrome://tracing` show: a track a worker, and tracks on which
//! requests are spans with the phases of their lives, in virtual time.
//!
//! Iterations of one worker in which the same number of requests decode, one after the other, are one slice that says how
//! many they are: a run of hours has millions. Sampling merges other slices too, so that their sums stay what they are.

mod event;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io::{self, Write};

use servecast_cluster::MAX_WORKERS;
use servecast_engine::{Decodes, Iteration};
use servecast_record::{RequestRecord, RunRecord};
use servecast_types::{Message, RequestId, Role, Time, WorkerId, message};

use self::event::Event;

/// Process of the tracks of requests; those of pools are below.
const REQUESTS: usize = 10;

/// The part of a run that a timeline shows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Window {
    /// What ends before is not shown.
    pub from: Time,
    /// What begins later is not shown.
    pub to: Time,
}

impl Window {
    /// A window of the form `FROM..TO` in seconds, either of which may be left out.
    pub fn parse(text: &str) -> Result<Self, Message> {
        let refused = || {
            message!(
                "{timeline_window} is {}, but must be FROM..TO in seconds of the simulated clock, as 60..90",
                format!("{text:?}")
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

/// How a run is drawn.
#[derive(Debug, Clone, Copy)]
pub struct TimelineOptions {
    /// The part of the run that is shown.
    pub window: Window,
    /// One request in so many is shown, and so many slices of a worker without a pause between them are one; at least 1.
    pub sample: u32,
}

/// Writes the events of a run as it goes on.
pub struct Timeline<W> {
    out: W,
    options: TimelineOptions,
    /// The event that is being written; kept for its memory.
    event: Event,
    is_first: bool,
    /// Of each worker, by pool.
    workers: [Vec<Worker>; 3],
    /// Of each part of a worker but the first, by pool.
    parts: [BTreeMap<Track, Worker>; 3],
}

/// A data-parallel rank of a worker, or one of the batches that its pipeline has under way; mostly there is only part 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Track {
    worker: u32,
    part: u32,
    is_batch: bool,
}

impl Track {
    fn of(worker: WorkerId) -> Self {
        Self { worker: worker.0, part: 0, is_batch: false }
    }

    fn of_iteration(worker: WorkerId, iteration: &Iteration) -> Self {
        let batch = iteration.micro_batch;
        Self { worker: worker.0, part: iteration.dp_rank.max(batch), is_batch: batch > 0 }
    }

    /// Its number among the tracks of its pool: workers first.
    fn number(self) -> u32 {
        self.part * MAX_WORKERS + self.worker
    }

    /// What its parts are called.
    fn kind(self) -> &'static str {
        if self.is_batch { "batch" } else { "rank" }
    }
}

/// What is not written yet of a worker.
#[derive(Clone, Copy, Default)]
struct Worker {
    slice: Option<Slice>,
    waiting: u32,
    free_blocks: u32,
}

/// Iterations one after the other.
#[derive(Clone, Copy)]
struct Slice {
    start: Time,
    end: Time,
    iterations: u64,
    /// At most, in one iteration.
    requests: u64,
    /// Requests more than one token of which was computed, over all iterations.
    prompts: u64,
    tokens: u64,
    admitted: u64,
    preempted: u64,
    /// How many slices it is in a timeline without sampling.
    pieces: u32,
    /// Requests of the last of them, if all they do is decode.
    decodes: Option<u64>,
}

impl Slice {
    fn new(iteration: &Iteration) -> Self {
        let Iteration { start, end, scheduled, .. } = iteration;
        let (requests, admitted) = (iteration.num_scheduled(), iteration.admitted.len() as u64);
        let prompts = scheduled.iter().filter(|one| one.tokens > 1).count() as u64;
        let preempted = iteration.preempted.len() as u64;
        Self {
            start: *start,
            end: *end,
            iterations: 1,
            requests,
            prompts,
            tokens: iteration.total_tokens(),
            admitted,
            preempted,
            pieces: 1,
            decodes: (prompts + admitted + preempted == 0).then_some(requests),
        }
    }

    fn of_decodes(decodes: &Decodes) -> Self {
        let requests = decodes.requests;
        Self {
            start: decodes.start,
            end: decodes.end(),
            iterations: decodes.count(),
            requests,
            prompts: 0,
            tokens: decodes.count() * requests,
            admitted: 0,
            preempted: 0,
            pieces: 1,
            decodes: Some(requests),
        }
    }

    /// Takes in what comes next if the two are one slice; returns whether they are.
    fn take_in(&mut self, next: &Self, sample: u32) -> bool {
        let is_same = next.decodes.is_some() && next.decodes == self.decodes;
        if self.end != next.start || !is_same && self.pieces >= sample {
            return false;
        }
        self.end = next.end;
        self.iterations += next.iterations;
        self.requests = self.requests.max(next.requests);
        self.prompts += next.prompts;
        self.tokens += next.tokens;
        self.admitted += next.admitted;
        self.preempted += next.preempted;
        self.pieces += u32::from(!is_same);
        self.decodes = next.decodes;
        true
    }
}

impl<W: Write> Timeline<W> {
    /// A timeline that goes to `out`.
    pub fn new(out: W, options: TimelineOptions) -> Self {
        Self {
            out,
            options,
            event: Event::default(),
            is_first: true,
            workers: Default::default(),
            parts: Default::default(),
        }
    }

    /// Where it goes.
    pub fn out(&self) -> &W {
        &self.out
    }

    /// An iteration that is known request by request ended.
    pub fn iteration(&mut self, pool: Role, worker: WorkerId, iteration: &Iteration) -> io::Result<()> {
        let track = Track::of_iteration(worker, iteration);
        let is_new = iteration.end <= iteration.start || self.slice(pool, track, &Slice::new(iteration))?;
        let Iteration { start, end, num_waiting: waiting, free_blocks_after_schedule: free, .. } = *iteration;
        if !is_new || !self.options.window.shows(start, end) {
            return Ok(());
        }
        let known = self.worker(pool, track);
        let is_changed = [known.waiting != waiting, known.free_blocks != free];
        (known.waiting, known.free_blocks) = (waiting, free);
        for ((name, value), _) in
            [("waiting", waiting), ("free blocks", free)].into_iter().zip(is_changed).filter(|(_, is)| *is)
        {
            let (of, number) = match track.part {
                0 => (", worker ".to_owned(), worker.0),
                part => (format!(", worker {worker} {} ", track.kind()), part),
            };
            self.event.begin("C").text("name", &[name, &of], Some(number)).place(pool as usize, None);
            self.event.time("ts", start.as_ns()).args().number("value", u64::from(value));
            self.write()?;
        }
        Ok(())
    }

    /// Iterations ended in which every running request got a token.
    pub fn decoded(&mut self, pool: Role, worker: WorkerId, decodes: &Decodes) -> io::Result<()> {
        self.slice(pool, Track::of(worker), &Slice::of_decodes(decodes)).map(drop)
    }

    /// Writes what is left, and what happened to requests.
    pub fn finish(mut self, run: &RunRecord) -> io::Result<W> {
        for pool in &run.pools {
            let (process, name) = (pool.role as usize, pool.role.name());
            self.name("process_name", (process, 0), &[name], None)?;
            for number in 0..pool.workers.len() as u32 {
                self.flush(pool.role, Track::of(WorkerId(number)))?;
                self.name("thread_name", (process, number), &[name, " worker "], Some(number))?;
            }
            for track in self.parts[process].keys().copied().collect::<Vec<_>>() {
                self.flush(pool.role, track)?;
                let of = format!(" worker {} {} ", track.worker, track.kind());
                self.name("thread_name", (process, track.number()), &[name, &of], Some(track.part))?;
            }
        }
        self.name("process_name", (REQUESTS, 0), &["requests"], None)?;
        self.requests(run)?;
        let end: &[u8] = if self.is_first { b"{\"traceEvents\":[]}\n" } else { b"\n]}\n" };
        self.out.write_all(end)?;
        Ok(self.out)
    }

    /// Requests, each on the lowest track that is free when it arrives.
    fn requests(&mut self, run: &RunRecord) -> io::Result<()> {
        let mut shown: Vec<(usize, &RequestRecord)> = run
            .requests
            .iter()
            .enumerate()
            .step_by(self.options.sample as usize)
            .filter(|(_, request)| self.options.window.shows(request.arrival, request.ended))
            .collect();
        shown.sort_unstable_by_key(|(ordinal, request)| (request.arrival, *ordinal));
        let mut taken: BinaryHeap<Reverse<(Time, u32)>> = BinaryHeap::new();
        let (mut free, mut tracks) = (BinaryHeap::new(), 0);
        for (ordinal, request) in shown {
            while let Some(&Reverse((_, track))) = taken.peek().filter(|one| one.0.0 <= request.arrival) {
                taken.pop();
                free.push(Reverse(track));
            }
            let track = free.pop().map_or(tracks, |Reverse(track)| track);
            if track == tracks {
                tracks += 1;
                self.name("thread_name", (REQUESTS, track), &["requests, track "], Some(track))?;
            }
            taken.push(Reverse((request.ended, track)));
            self.request(RequestId(ordinal as u32), request, track)?;
        }
        Ok(())
    }

    fn request(&mut self, id: RequestId, request: &RequestRecord, track: u32) -> io::Result<()> {
        let end = request.last_token.unwrap_or(request.ended);
        let place = (REQUESTS, track);
        self.event.begin("X").text("name", &["request "], Some(id.0)).place(place.0, Some(place.1));
        self.event.span(request.arrival, end).args().number("line", request.line);
        self.event.number("input_tokens", u64::from(request.input_tokens));
        self.event.number("output_tokens", u64::from(request.output_tokens));
        self.event.number("reused_tokens", u64::from(request.reused_tokens()));
        if !request.is_finished() {
            self.event.text("status", &["rejected"], None);
        }
        self.write()?;
        let mut handed_off = None;
        for stage in &request.stages {
            // It came to both stages at once where memory for its prompt came first: until that is computed it is shown there.
            let ahead = stage.reserved.and(stage.transfer_start);
            let mut at = ahead.unwrap_or(stage.arrived);
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
                    self.event
                        .begin("X")
                        .text("name", &[name], None)
                        .place(place.0, Some(place.1))
                        .span(at, to);
                    self.event.args().text("worker", &[stage.pool.name(), " "], Some(stage.worker.0));
                    self.write()?;
                    at = to;
                }
            }
            let (process, track) = (stage.pool as usize, stage.worker.0);
            if let (Some((process, track, at)), Some(admitted)) = (handed_off, stage.admitted) {
                self.flow("s", id, process, track, at)?;
                self.flow("f", id, stage.pool as usize, stage.worker.0, admitted)?;
            }
            handed_off = stage.first_token.map(|first_token| (process, track, first_token));
        }
        Ok(())
    }

    /// An end of the arrow from the worker that computed a prompt to the one that goes on with it.
    fn flow(
        &mut self,
        phase: &'static str,
        id: RequestId,
        process: usize,
        track: u32,
        at: Time,
    ) -> io::Result<()> {
        let event =
            self.event.begin(phase).text("cat", &["hand-off"], None).text("name", &["hand-off"], None);
        event.number("id", u64::from(id.0)).place(process, Some(track)).time("ts", at.as_ns());
        if phase == "f" {
            event.text("bp", &["e"], None);
        }
        self.write()
    }

    /// Names a process or a track of it.
    fn name(
        &mut self,
        what: &str,
        (process, track): (usize, u32),
        name: &[&str],
        number: Option<u32>,
    ) -> io::Result<()> {
        let event = self.event.begin("M").text("name", &[what], None).place(process, Some(track));
        event.args().text("name", name, number);
        self.write()
    }

    /// Goes on with the slice of a worker, or begins another; whether it did that.
    fn slice(&mut self, pool: Role, track: Track, next: &Slice) -> io::Result<bool> {
        let sample = self.options.sample;
        if let Some(open) = &mut self.worker(pool, track).slice
            && open.take_in(next, sample)
        {
            return Ok(false);
        }
        self.flush(pool, track)?;
        self.worker(pool, track).slice = Some(*next);
        Ok(true)
    }

    fn flush(&mut self, pool: Role, track: Track) -> io::Result<()> {
        let Some(slice) = self.worker(pool, track).slice.take() else { return Ok(()) };
        if slice.end <= slice.start || !self.options.window.shows(slice.start, slice.end) {
            return Ok(());
        }
        let name = if slice.prompts > 0 { "prefill" } else { "decode" };
        let event =
            self.event.begin("X").text("name", &[name], None).place(pool as usize, Some(track.number()));
        event.span(slice.start, slice.end).args();
        event.number("iterations", slice.iterations).number("requests", slice.requests);
        event.number("tokens", slice.tokens);
        for (name, count) in
            [("prompts", slice.prompts), ("admitted", slice.admitted), ("preempted", slice.preempted)]
        {
            if count > 0 {
                event.number(name, count);
            }
        }
        self.write()
    }

    fn worker(&mut self, pool: Role, track: Track) -> &mut Worker {
        if track.part > 0 {
            return self.parts[pool as usize].entry(track).or_default();
        }
        let (workers, worker) = (&mut self.workers[pool as usize], track.worker as usize);
        if workers.len() <= worker {
            workers.resize(worker + 1, Worker::default());
        }
        &mut workers[worker]
    }

    fn write(&mut self) -> io::Result<()> {
        let before = if self.is_first { "{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n" } else { ",\n" };
        self.is_first = false;
        self.out.write_all(before.as_bytes())?;
        self.out.write_all(self.event.end())
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
            assert!(Window::parse(text).unwrap_err().to_string().contains("must be FROM..TO"), "{text}");
        }
    }
}
