//! Whether a run took more requests than it could serve: its backlog grew for as long as requests came.
//!
//! The backlog is the number of requests that have arrived and not ended. It is looked at in [`WINDOWS`] windows of equal
//! length from the time at which a deployment could be full (twice what an early request takes) to the last arrival. A
//! line that is level up to some window and rises from there is fitted to it by least squares. The changes of the backlog
//! in the windows of the rise are a sample whose mean is the growth: the run is overloaded if that mean is above 0 by
//! [`SURE`] of its standard errors, and if the growth is [`MATERIAL`] of the arrivals at least.
//!
//! Changes over windows add up to the backlog at the end. In a queue that is stable they are bounded together, so that the
//! statistic stays near 0 however long the run is; at a load of exactly 1 it is that of a random walk, and beyond that it
//! grows with the root of the length. The tests hold that against M/D/1 queues on both sides of 1.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use servecast_record::RunRecord;
use servecast_types::Time;

use crate::table::grouped;

const WINDOWS: usize = 24;

/// Windows that a rise has at least.
const FEWEST: usize = 6;

/// Requests below which nothing is said.
const FEWEST_REQUESTS: usize = 100;

/// Standard errors.
const SURE: f64 = 4.5;

/// Share of the arrivals that are not served.
const MATERIAL: f64 = 0.01;

/// Requests whose times are kept. Of more than that, the times of one in so many stand for all of them.
const MOST_KEPT: usize = 1 << 16;

/// That a run took more than it could serve. Of more than 65,536 requests, one in so many is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Overload {
    /// Since when the backlog grows, in ms of the run.
    pub from_ms: f64,
    /// By how many requests a second it grows.
    pub growth_rps: f64,
    /// How many requests a second arrive meanwhile.
    pub arrival_rps: f64,
    /// Requests that had arrived and not ended when the last one came.
    pub backlog: u64,
}

/// Whether requests of a run came faster than they were served, until the last of them. In a closed loop they do not: nobody
/// comes before others have gone.
pub fn overload(run: &RunRecord) -> Option<Overload> {
    let mut course = Course::default();
    run.requests.iter().for_each(|request| course.add(request.arrival, request.ended));
    course.overload()
}

/// The same of requests that wait for their first token. Those are few until a deployment is full, so it can be said of
/// shorter runs, in which requests take as long as half of the trace.
pub(crate) fn overload_of_first_tokens(run: &RunRecord) -> Option<Overload> {
    let mut course = Course::default();
    run.requests
        .iter()
        .for_each(|request| course.add(request.arrival, request.first_token.unwrap_or(request.ended)));
    course.overload().or_else(|| course.grown())
}

/// When requests came and went: of all of them, or of every second, fourth, ... in order of arrival, so that they are no more
/// than [`MOST_KEPT`].
#[derive(Debug, Clone)]
pub(crate) struct Course {
    /// One in so many is kept.
    step: u64,
    seen: u64,
    kept: Vec<(Time, Time)>,
}

impl Default for Course {
    fn default() -> Self {
        Self { step: 1, seen: 0, kept: Vec::new() }
    }
}

impl Course {
    /// A request arrived and ended.
    pub(crate) fn add(&mut self, arrival: Time, ended: Time) {
        if self.seen.is_multiple_of(self.step) {
            if self.kept.len() == MOST_KEPT {
                let mut number = 0_usize;
                self.kept.retain(|_| {
                    number += 1;
                    number % 2 == 1
                });
                self.step *= 2;
            }
            // The first one that is not in a full list is a multiple of the next step, too, since such a list is even.
            self.kept.push((arrival, ended));
        }
        self.seen += 1;
    }

    /// What is said of them.
    pub(crate) fn overload(&self) -> Option<Overload> {
        if self.kept.len() < FEWEST_REQUESTS {
            return None;
        }
        let mut arrivals: Vec<f64> = self.kept.iter().map(|(arrival, _)| arrival.as_ms()).collect();
        let early = self.kept.iter().take(self.kept.len() / 10);
        let mut stays: Vec<f64> = early.map(|(arrival, ended)| ended.since(*arrival).as_ms()).collect();
        let mut ends: Vec<f64> = self.kept.iter().map(|(_, ended)| ended.as_ms()).collect();
        for times in [&mut arrivals, &mut stays, &mut ends] {
            times.sort_unstable_by(f64::total_cmp);
        }
        let found = Backlog::new(&arrivals, &ends, stays[stays.len() / 2])?.overload()?;
        Some(Overload {
            growth_rps: found.growth_rps * self.step as f64,
            arrival_rps: found.arrival_rps * self.step as f64,
            backlog: found.backlog * self.step,
            ..found
        })
    }
}

/// Requests that a short run has at least, standard deviations of a Poisson process by which it has grown, and the share of
/// its largest that the backlog is at the end, if it grew to the end.
const FEWEST_OF_SHORT: usize = 40;
const GROWN: f64 = 2.5;
const AT_THE_END: f64 = 0.8;

impl Course {
    /// Whether the backlog grew by more than a deployment would let it that serves as many as come, although the changes of
    /// windows are too few to say so: by `GROWN` √n for n requests.
    fn grown(&self) -> Option<Overload> {
        if self.kept.len() < FEWEST_OF_SHORT || self.step > 1 {
            return None;
        }
        let mut arrivals: Vec<f64> = self.kept.iter().map(|(arrival, _)| arrival.as_ms()).collect();
        let mut ends: Vec<f64> = self.kept.iter().map(|(_, ended)| ended.as_ms()).collect();
        arrivals.sort_unstable_by(f64::total_cmp);
        ends.sort_unstable_by(f64::total_cmp);
        let backlog = Backlog::new(&arrivals, &ends, 0.0)?;
        let (from, growth) = backlog.rise()?;
        let last = backlog.sizes[WINDOWS];
        let grown = last - backlog.sizes[from];
        let came = (arrivals.len() - arrivals.partition_point(|&at| at <= backlog.edges[from])) as f64;
        let largest = backlog.sizes.iter().copied().fold(0.0, f64::max);
        (grown >= GROWN * (arrivals.len() as f64).sqrt() && last >= AT_THE_END * largest && growth > 0.0)
            .then(|| Overload {
                from_ms: backlog.edges[from],
                growth_rps: growth * 1000.0,
                arrival_rps: came / (backlog.edges[WINDOWS] - backlog.edges[from]) * 1000.0,
                backlog: last as u64,
            })
    }
}

/// The backlog at the edges of windows.
struct Backlog<'a> {
    arrivals: &'a [f64],
    edges: Vec<f64>,
    sizes: Vec<f64>,
}

impl<'a> Backlog<'a> {
    /// `None` if the run is over before a deployment could be full.
    fn new(arrivals: &'a [f64], ends: &[f64], stay: f64) -> Option<Self> {
        let (first, last) = (*arrivals.first()?, *arrivals.last()?);
        let start = first + 2.0 * stay;
        if last <= first || last - start < (last - first) / 2.0 {
            return None;
        }
        let edge = |number| start + (last - start) * f64::from(number) / WINDOWS as f64;
        // The last edge is the last arrival, whatever is lost in rounding.
        let edges: Vec<f64> = (0..WINDOWS as u32).map(edge).chain([last]).collect();
        let until = |times: &[f64], at: f64| times.partition_point(|&time| time <= at) as f64;
        let sizes = edges.iter().map(|&at| until(arrivals, at) - until(ends, at)).collect();
        Some(Self { arrivals, edges, sizes })
    }

    fn overload(&self) -> Option<Overload> {
        let (from, growth) = self.rise()?;
        let changes: Vec<f64> = self.sizes[from..].windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mean = changes.iter().sum::<f64>() / changes.len() as f64;
        let squares: f64 = changes.iter().map(|change| (change - mean).powi(2)).sum();
        let error = (squares / (changes.len() - 1) as f64 / changes.len() as f64).sqrt();
        let grown = self.sizes[WINDOWS] - self.sizes[from];
        let came = self.arrivals.len() - self.arrivals.partition_point(|&at| at <= self.edges[from]);
        let is_sure = mean > SURE * error && mean > 0.0;
        (is_sure && grown > MATERIAL * came as f64 && growth > 0.0).then(|| Overload {
            from_ms: self.edges[from],
            growth_rps: growth * 1000.0,
            arrival_rps: came as f64 / (self.edges[WINDOWS] - self.edges[from]) * 1000.0,
            backlog: self.sizes[WINDOWS] as u64,
        })
    }

    /// The window from which a line that was level before rises, and its slope in requests a ms, by least squares.
    fn rise(&self) -> Option<(usize, f64)> {
        let fits = (0..=WINDOWS - FEWEST).filter_map(|from| {
            let rise = |at: f64| (at - self.edges[from]).max(0.0);
            let count = self.edges.len() as f64;
            let mean_x = self.edges.iter().map(|&at| rise(at)).sum::<f64>() / count;
            let mean_y = self.sizes.iter().sum::<f64>() / count;
            let points =
                || self.edges.iter().zip(&self.sizes).map(|(&at, size)| (rise(at) - mean_x, size - mean_y));
            let (xx, xy): (f64, f64) = points().fold((0.0, 0.0), |(xx, xy), (x, y)| (xx + x * x, xy + x * y));
            let slope = if xx > 0.0 { xy / xx } else { return None };
            let left: f64 = points().map(|(x, y)| (y - slope * x).powi(2)).sum();
            Some((left, from, slope))
        });
        let best = fits.min_by(|one, other| one.0.total_cmp(&other.0));
        best.map(|(_, from, slope)| (from, slope))
    }
}

/// An overload in words.
pub fn render_overload(overload: &Overload) -> String {
    let seconds = overload.from_ms / 1000.0;
    let from = if seconds < 120.0 {
        format!("second {}", grouped(seconds, 0))
    } else {
        format!("minute {}", grouped(seconds / 60.0, 0))
    };
    let growth = overload.growth_rps;
    let decimals = if growth < 0.1 { 3 } else { 1 };
    format!(
        "Overloaded from {from}: the queue grows by {} requests/s of {} that arrive, so latencies depend on the length of \
         the trace",
        grouped(growth, decimals),
        grouped(overload.arrival_rps, decimals)
    )
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng};
    use rand_pcg::Pcg64Mcg;
    use servecast_types::Time;

    use super::*;
    use crate::fixture;

    /// A queue of one server who takes 10 ms a request, at loads that change after so many requests each: M/D/1.
    fn queue(loads: &[(f64, usize)], seed: u64) -> RunRecord {
        let mut random = Pcg64Mcg::seed_from_u64(seed);
        let sample = fixture::run().requests[0].clone();
        let (mut at, mut free) = (0.0_f64, 0.0_f64);
        let mut run = RunRecord::default();
        for &(load, requests) in loads {
            for _ in 0..requests {
                at += -(1.0 - random.random::<f64>()).ln() * 10.0 / load;
                free = free.max(at) + 10.0;
                let time = |ms: f64| Time::from_ms(ms).unwrap();
                run.requests.push(servecast_record::RequestRecord {
                    arrival: time(at),
                    ended: time(free),
                    ..sample.clone()
                });
            }
        }
        run
    }

    /// Below 1 an M/D/1 queue has a length of its own, ρ + ρ² / (2 (1 - ρ)) on average; 10.4 at 0.95.
    #[test]
    fn a_stable_queue_is_not_overloaded() {
        for load in [0.3, 0.5, 0.8, 0.9, 0.95] {
            for requests in [100, 300, 3000] {
                for seed in 0..40 {
                    let found = overload(&queue(&[(load, requests)], seed));
                    assert_eq!(found, None, "load {load}, {requests} requests, seed {seed}");
                }
            }
        }
        for seed in 0..4 {
            assert_eq!(overload(&queue(&[(0.9, 50_000)], seed)), None, "seed {seed}");
        }
    }

    /// Above 1 it grows by λ - μ, where μ is 100 a second.
    #[test]
    fn an_unstable_queue_is_overloaded_and_grows_by_what_it_lacks() {
        for (load, requests) in [(1.1, 8000), (1.2, 3000), (1.5, 1500), (3.0, 600)] {
            for seed in 0..40 {
                let found = overload(&queue(&[(load, requests)], seed));
                let found = found.unwrap_or_else(|| panic!("load {load}, {requests} requests, seed {seed}"));
                let growth = 100.0 * (load - 1.0);
                let off = (found.growth_rps / growth - 1.0).abs();
                assert!(off < 0.5, "load {load}, seed {seed}: {found:?}");
                assert!(found.backlog as f64 > 0.5 * (1.0 - 1.0 / load) * requests as f64);
            }
        }
    }

    /// Of runs too short for the statistic, those that are far from stable.
    #[test]
    fn a_short_run_that_grows_to_its_end_is_overloaded() {
        let grown = |load, requests, seed| {
            let mut course = Course::default();
            let run = queue(&[(load, requests)], seed);
            run.requests.iter().for_each(|request| course.add(request.arrival, request.ended));
            course.grown()
        };
        for seed in 0..40 {
            for requests in [40, 100, 300] {
                for load in [0.5, 0.8, 0.9] {
                    assert_eq!(
                        grown(load, requests, seed),
                        None,
                        "load {load}, {requests} requests, seed {seed}"
                    );
                }
            }
            assert!(grown(2.0, 100, seed).is_some(), "seed {seed}");
        }
    }

    #[test]
    fn it_says_since_when() {
        for seed in 0..20 {
            let run = queue(&[(0.7, 6000), (1.4, 6000)], seed);
            let found = overload(&run).unwrap_or_else(|| panic!("seed {seed}"));
            let (began, last) = (run.requests[6000].arrival.as_ms(), run.requests[11_999].arrival.as_ms());
            assert!((found.from_ms - began).abs() < 0.1 * last, "{found:?}, began at {began} of {last}");
        }
    }

    /// Latencies do not depend on how long the trace is if the queue has been worked off.
    #[test]
    fn a_peak_that_passes_is_no_overload() {
        for seed in 0..20 {
            assert_eq!(overload(&queue(&[(0.6, 3000), (1.3, 1500), (0.5, 5000)], seed)), None, "seed {seed}");
        }
    }

    /// Requests that take half the trace each pile up until the first of them end.
    #[test]
    fn filling_up_is_no_overload() {
        let mut run = queue(&[(0.5, 1000)], 1);
        for request in &mut run.requests {
            request.ended = Time::from_ms(request.arrival.as_ms() + 10_000.0).unwrap();
        }
        assert_eq!(overload(&run), None);
        let all_at_once = RunRecord { requests: vec![run.requests[0].clone(); 500], ..RunRecord::default() };
        assert_eq!(overload(&all_at_once), None);
    }

    #[test]
    fn it_reads_as_people_would_say_it() {
        let one = Overload { from_ms: 27.0 * 60e3, growth_rps: 3.84, arrival_rps: 11.0, backlog: 900 };
        assert_eq!(
            render_overload(&one),
            "Overloaded from minute 27: the queue grows by 3.8 requests/s of 11.0 that arrive, so latencies depend on \
             the length of the trace"
        );
        let slow = render_overload(&Overload { from_ms: 59_999.0, growth_rps: 0.0123, ..one });
        assert!(
            slow.starts_with("Overloaded from second 60: the queue grows by 0.012 requests/s of 11.000"),
            "{slow}"
        );
    }
}
