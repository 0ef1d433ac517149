//! Transfers that share the network ports of workers.
//!
//! Every worker has a port with the bandwidth of the hand-off, which sends and receives at the same time. A transfer takes
//! part in one way of two ports: out of the worker that holds the KV, into the one that fetches it. A port divides its
//! bandwidth equally among the transfers of a way at every moment (processor sharing), and a transfer goes on at the
//! smaller of its two shares: 1/n of the bandwidth, n being the larger number of transfers. What it leaves of the other
//! share nobody takes up. So a transfer more never speeds up another one, one less never slows one down, and only those
//! that share a port with it have to be looked at.
//!
//! What is left of a transfer is kept as the time that it would take alone, in units of 2⁻³² ns, and counted down when n
//! changes, rounded down; its end is the nearest nanosecond. All of that is arithmetic of whole numbers: the same on every
//! machine, and a transfer that is always alone takes exactly as long as one that shares nothing. One whose n changed k
//! times ends at most half a nanosecond and k·n units from where exact arithmetic would have it.

use rustc_hash::FxHashMap;
use servecast_types::{Duration, RequestId, Time};

use super::Ends;
use crate::cluster::Place;

/// Units of a nanosecond, as a power of two.
const UNIT_BITS: u32 = 32;

/// The ports of all workers.
#[derive(Debug, Default)]
pub(super) struct Ports {
    transfers: FxHashMap<RequestId, Transfer>,
    /// The transfers on each way of a port that has some.
    ways: FxHashMap<Way, Vec<RequestId>>,
}

/// One way of the port of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Way {
    OutOf(Place),
    Into(Place),
}

/// A transfer that is under way.
#[derive(Debug)]
struct Transfer {
    /// Its place among those that end at one time.
    order: u64,
    ways: [Way; 2],
    /// How long it would have taken from `since` on alone, in units.
    left: u128,
    since: Time,
    /// It has so great a part of the bandwidth since then.
    one_in: u64,
    end: Time,
}

impl Transfer {
    /// It has one part in so many of the bandwidth from `now` on.
    fn go_on(&mut self, one_in: u64, now: Time) {
        let done = (u128::from(now.since(self.since).as_ns()) << UNIT_BITS) / u128::from(self.one_in);
        self.left = self.left.saturating_sub(done);
        (self.since, self.one_in) = (now, one_in);
        let units = self.left * u128::from(one_in) + (1 << (UNIT_BITS - 1));
        let ns = u64::try_from(units >> UNIT_BITS).unwrap_or(u64::MAX);
        self.end = now + Duration::from_ns(ns);
    }
}

impl Ports {
    /// A transfer begins that would take so long alone.
    pub(super) fn begin(
        &mut self,
        request: RequestId,
        order: u64,
        [from, to]: [Place; 2],
        alone: Duration,
        now: Time,
        ends: &mut Ends,
    ) {
        let ways = [Way::OutOf(from), Way::Into(to)];
        for way in ways {
            self.ways.entry(way).or_default().push(request);
        }
        let left = u128::from(alone.as_ns()) << UNIT_BITS;
        let end = now + alone;
        ends.insert((end, order, request));
        self.transfers.insert(request, Transfer { order, ways, left, since: now, one_in: 1, end });
        self.share(ways, now, ends);
    }

    /// A transfer is over, or broken off: others have its share. Returns whether it was under way.
    pub(super) fn stop(&mut self, request: RequestId, now: Time, ends: &mut Ends) -> bool {
        let Some(Transfer { order, ways, end, .. }) = self.transfers.remove(&request) else { return false };
        ends.remove(&(end, order, request));
        for way in ways {
            if let Some(transfers) = self.ways.get_mut(&way) {
                transfers.retain(|&other| other != request);
                if transfers.is_empty() {
                    self.ways.remove(&way);
                }
            }
        }
        self.share(ways, now, ends);
        true
    }

    /// One of the transfers that a worker takes part in.
    pub(super) fn first_of(&self, worker: Place) -> Option<RequestId> {
        let ways = [Way::OutOf(worker), Way::Into(worker)];
        ways.iter().find_map(|way| self.ways.get(way)?.first().copied())
    }

    /// Gives the transfers on two ways their shares, which may be others from `now` on.
    fn share(&mut self, changed: [Way; 2], now: Time, ends: &mut Ends) {
        let Self { transfers, ways } = self;
        for way in changed {
            for &request in ways.get(&way).into_iter().flatten() {
                let transfer = transfers.get_mut(&request).expect("what is on a way is under way");
                let [one, other] = transfer.ways.map(|way| ways[&way].len() as u64);
                let one_in = one.max(other);
                if one_in != transfer.one_in {
                    ends.remove(&(transfer.end, transfer.order, request));
                    transfer.go_on(one_in, now);
                    ends.insert((transfer.end, transfer.order, request));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use servecast_types::{PoolId, WorkerId};

    use super::*;

    /// A transfer between two workers that begins then and takes so long alone, in ms or ns.
    type Job = (u64, [u32; 2], u64);

    const MS: u64 = 1_000_000;

    fn ports([from, to]: [u32; 2]) -> [Place; 2] {
        let place = |pool, worker| Place { pool: PoolId(pool), worker: WorkerId(worker) };
        [place(0, from), place(1, to)]
    }

    /// Lets transfers begin, in order, and end; `broken` is one that is broken off, and when. Returns their ends.
    fn run(jobs: &[Job], broken: Option<(usize, u64)>) -> Vec<u64> {
        let (mut ports_of_all, mut ends, mut found) = (Ports::default(), Ends::new(), vec![0; jobs.len()]);
        let mut inputs: Vec<(u64, usize, bool)> =
            jobs.iter().enumerate().map(|(number, job)| (job.0, number, true)).collect();
        inputs.extend(broken.map(|(number, at)| (at, number, false)));
        inputs.sort_by_key(|&(at, ..)| at);
        let mut inputs = inputs.into_iter().peekable();
        loop {
            let end = ends.first().copied();
            match (end, inputs.peek().copied()) {
                (Some((end, _, request)), next) if next.is_none_or(|(at, ..)| end <= Time::from_ns(at)) => {
                    found[request.index()] = end.as_ns();
                    assert!(ports_of_all.stop(request, end, &mut ends));
                }
                (_, Some((at, number, begins))) => {
                    inputs.next();
                    let (request, at) = (RequestId(number as u32), Time::from_ns(at));
                    let (_, way, alone) = jobs[number];
                    if begins {
                        let alone = Duration::from_ns(alone);
                        ports_of_all.begin(request, number as u64, ports(way), alone, at, &mut ends);
                    } else if ports_of_all.stop(request, at, &mut ends) {
                        found[number] = at.as_ns();
                    }
                }
                (None, None) => break,
                (Some(_), None) => unreachable!("an end comes if nothing else does"),
            }
        }
        assert!(ports_of_all.transfers.is_empty() && ports_of_all.ways.is_empty());
        found
    }

    #[track_caller]
    fn check(jobs: &[Job], broken: Option<(usize, u64)>, expected: &[u64]) {
        let jobs: Vec<Job> = jobs.iter().map(|&(at, way, alone)| (MS * at, way, MS * alone)).collect();
        let ends = run(&jobs, broken.map(|(number, at)| (number, MS * at)));
        assert_eq!(ends, expected.iter().map(|end| MS * end).collect::<Vec<_>>());
    }

    /// In ms, what is left of each alone:
    ///
    /// | from | A, 0 → 0 | B, 0 → 1 | C, 1 → 1 | |
    /// |--:|--:|--:|--:|---|
    /// | 0 | 60 | | | A alone |
    /// | 20 | 40 | 20 | | A and B leave worker 0, each at a half |
    /// | 40 | 30 | 10 | 40 | B and C enter worker 1: all go on at a half |
    /// | 60 | 20 | 0 | 30 | B has ended: A and C are alone |
    /// | 80 | 0 | | 10 | |
    /// | 90 | | | 0 | |
    #[test]
    fn three_overlapping_transfers_take_equal_parts_of_the_ports_that_they_share() {
        check(&[(0, [0, 0], 60), (20, [0, 1], 20), (40, [1, 1], 40)], None, &[80, 60, 90]);
    }

    /// All three leave worker 0: a third each until 30, when the first has moved its 10, then halves until the second has
    /// moved the 10 that are left of its 20.
    #[test]
    fn a_port_is_divided_by_the_number_of_transfers() {
        check(&[(0, [0, 0], 10), (0, [0, 1], 20), (0, [0, 2], 30)], None, &[30, 50, 60]);
    }

    #[test]
    fn what_is_sent_takes_nothing_from_what_is_received_elsewhere() {
        check(&[(0, [0, 1], 50), (0, [1, 0], 50), (10, [2, 2], 50)], None, &[50, 50, 60]);
    }

    /// Both have moved 15 of 60 by 30.
    #[test]
    fn what_is_broken_off_brings_the_ends_of_others_forward() {
        let jobs = [(0, [0, 0], 60), (0, [0, 1], 60)];
        check(&jobs, None, &[120, 120]);
        check(&jobs, Some((1, 30)), &[75, 30]);
    }

    /// Beside a long transfer two short ones come and go 1,000 times, and each goes on at a third. The long one ends to the
    /// nanosecond when all is moved.
    #[test]
    fn parts_of_nanoseconds_do_not_add_up() {
        let short = (0..2_000).map(|number| (number / 2 * 1_000_000 * MS, [0, 1], 222_222_222_223));
        let jobs: Vec<Job> = std::iter::once((0, [0, 0], 900_000_000 * MS)).chain(short).collect();
        let all: u64 = jobs.iter().map(|job| job.2).sum();
        assert_eq!(run(&jobs, None)[0], all);
    }

    fn jobs(sources: u32) -> impl Strategy<Value = Vec<Job>> {
        let job = (0_u64..3_000, [0..sources, 0_u32..4], prop_oneof![1_u64..50, 1_u64..2_000]);
        prop::collection::vec(job, 1..25).prop_map(|mut jobs| {
            jobs.sort_by_key(|job| job.0);
            jobs
        })
    }

    /// How long some of the transfers were under way.
    fn busy(jobs: &[Job], ends: &[u64], of: impl Fn(&Job) -> bool) -> u64 {
        let (mut busy, mut until) = (0, 0);
        for (job, &end) in jobs.iter().zip(ends).filter(|(job, _)| of(job)) {
            busy += end.saturating_sub(job.0.max(until));
            until = until.max(end);
        }
        busy
    }

    proptest! {
        /// Nanoseconds may be lost or won at each end, which is a whole number of them.
        #[test]
        fn a_port_moves_no_more_than_its_bandwidth(jobs in jobs(3)) {
            let ends = run(&jobs, None);
            for worker in 0..4 {
                for side in [0, 1] {
                    let of = |job: &Job| job.1[side] == worker;
                    let moved: u64 = jobs.iter().filter(|job| of(job)).map(|job| job.2).sum();
                    prop_assert!(moved <= busy(&jobs, &ends, of) + jobs.len() as u64);
                }
            }
        }

        /// Where all share one port, that is never idle as long as there is something to move.
        #[test]
        fn a_port_moves_as_much_as_its_bandwidth(jobs in jobs(1)) {
            let moved: u64 = jobs.iter().map(|job| job.2).sum();
            prop_assert!(busy(&jobs, &run(&jobs, None), |_| true).abs_diff(moved) <= jobs.len() as u64);
        }

        #[test]
        fn no_transfer_is_faster_than_alone_and_none_gains_by_another(jobs in jobs(3), without in any::<prop::sample::Index>()) {
            let ends = run(&jobs, None);
            for (job, end) in jobs.iter().zip(&ends) {
                prop_assert!(*end >= job.0 + job.2);
            }
            let without = without.index(jobs.len());
            let (mut fewer, mut others) = (jobs.clone(), ends);
            fewer.remove(without);
            others.remove(without);
            // An end that comes half a nanosecond early may let others begin to have more.
            for (end, with) in run(&fewer, None).into_iter().zip(others) {
                prop_assert!(end <= with + jobs.len() as u64);
            }
        }

        #[test]
        fn one_after_the_other_takes_as_long_as_alone(lengths in prop::collection::vec(1_u64..1_000_000_007, 1..20)) {
            let mut at = 0;
            let jobs: Vec<Job> = lengths
                .iter()
                .map(|&alone| {
                    let begins = at;
                    at += alone;
                    (begins, [0, 0], alone)
                })
                .collect();
            let expected: Vec<u64> = jobs.iter().map(|job| job.0 + job.2).collect();
            prop_assert_eq!(run(&jobs, None), expected);
        }
    }
}
