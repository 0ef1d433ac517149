//! What `--fail-if` asks of runs beside the first, and what would let them pass for the wrong reason.

use servecast_report::{Check, Difference, Differences, FailIf, MatchedRequests, RunDifference, Verdict};
use servecast_types::Message;

use super::{CompareArgs, Run, is_measured, match_requests};
use crate::error::Failure;
use crate::files::note;

/// Everything that was checked.
#[derive(Debug, Default)]
pub(super) struct Gate {
    /// What came of each check, in order; none without conditions.
    pub(super) checks: Vec<Check>,
    /// Why a run cannot be held against the first at all, of the first such run.
    pub(super) refusal: Option<Failure>,
}

/// What has to be the same in runs that are judged by each other, and the settings that say so: which requests figures are
/// of, and the targets that goodput and misses are figures of.
const SAME: [(&str, &str, &[&str]); 2] = [
    ("same requests in figures", "figures of the same requests", &["warmup", "cooldown", "count_rejected"]),
    (
        "same targets",
        "runs with the same targets",
        &["sla_ttft_ms", "sla_tpot_ms", "sla_e2e_ms", "sla_pooled_itl_ms", "slo"],
    ),
];

/// How much earlier or later than in another run a request may be sent for times to be the same: by so many ms, and by this
/// share of the time in which all are sent. Clients are not exact to the millisecond.
const SHIFT_MS: f64 = 100.0;
const SHIFT_SHARE: f64 = 0.01;

const SAME_WORKLOAD: &str = "same workload";
const SERVES: &str = "serves requests";
const NO_FEWER: &str = "completes no fewer requests";

/// What lets runs be judged by each other that did not run the same.
const ALL_THE_SAME: &str = "--different-workloads judges them all the same";

impl Gate {
    /// Checks runs, the first of which is the baseline, by conditions.
    pub(super) fn new(
        args: &CompareArgs,
        runs: &[Run],
        differences: &Differences,
        conditions: &[FailIf],
    ) -> Self {
        let mut gate = Self::default();
        let Some((baseline, others)) = runs.split_first().filter(|_| !conditions.is_empty()) else {
            return gate;
        };
        for (run, difference) in others.iter().zip(&differences.runs) {
            let is_comparable = if is_measured(baseline, run) {
                gate.add_same_as_measured(args, baseline, run)
            } else {
                gate.add_same(args, baseline, run)
            };
            for condition in conditions {
                if is_comparable {
                    gate.add_limit(condition, &differences.baseline.name, difference);
                } else {
                    gate.add(run, &condition.to_string(), Verdict::Skipped("not judged".to_owned()));
                }
            }
        }
        for run in runs {
            gate.add(run, SERVES, served_any(run));
        }
        for run in others {
            gate.add(run, NO_FEWER, served_no_fewer(baseline, run, args.allow_fewer));
        }
        gate
    }

    fn add(&mut self, run: &Run, name: &str, verdict: Verdict) {
        self.checks.push(Check::new(&run.figures.name, name, verdict));
    }

    /// Adds a check that refuses its run.
    fn refuse(&mut self, run: &str, name: &str, failure: Failure) {
        self.checks.push(Check::new(run, name, Verdict::Refused(failure.message().to_string())));
        self.refusal.get_or_insert(failure);
    }

    /// Checks that a run has in common with the baseline what it has to; returns whether it can be judged by it.
    fn add_same(&mut self, args: &CompareArgs, baseline: &Run, run: &Run) -> bool {
        let mut is_comparable = true;
        for (name, what, keys) in SAME {
            match differing(baseline, run, what, keys) {
                None => self.add(run, name, Verdict::Passed(None)),
                Some(message) if args.different_workloads => self.add(run, name, tolerated(&message)),
                Some(message) => {
                    self.refuse(&run.figures.name, name, Failure::user(message).with_hint(ALL_THE_SAME));
                    is_comparable = false;
                }
            }
        }
        match (baseline.figures.ran_what(&run.figures), other_workload(baseline, run)) {
            (Some(true), _) => self.add(run, SAME_WORKLOAD, Verdict::Passed(None)),
            (Some(false), message) if args.different_workloads => {
                self.add(run, SAME_WORKLOAD, tolerated(&message));
            }
            (Some(false), message) => {
                let failure = Failure::user(message).with_hint(ALL_THE_SAME);
                self.refuse(&run.figures.name, SAME_WORKLOAD, failure);
                is_comparable = false;
            }
            (None, _) => {
                let reason = format!(
                    "whether {} ran the workload of {} is not known: a report of an older release has no hash of it, nor \
                     has that of a streamed trace",
                    run.figures.name, baseline.figures.name
                );
                note(&format!("note: {reason}"));
                self.add(run, SAME_WORKLOAD, Verdict::Skipped(reason));
            }
        }
        is_comparable
    }

    /// The same where a client measured one of the two: it knows no settings and no workload, so that requests are the same
    /// if their lengths are, one by one, and were sent at the same times.
    fn add_same_as_measured(&mut self, args: &CompareArgs, baseline: &Run, run: &Run) -> bool {
        let mut is_comparable = true;
        let [requests_in_figures, targets] = SAME;
        let name = &run.figures.name;
        let sentence = |problem: &str| {
            let (one, other) = (&baseline.figures.name, &run.figures.name);
            format!("--fail-if is for runs of the same requests, {one} and {other}: {problem}")
        };
        let left_out = [baseline, run].into_iter().find_map(|run| leaves_out(run, requests_in_figures.2));
        let passed = |told: Option<String>| Ok(Verdict::Passed(told));
        let (workload, times) = match match_requests(baseline, run) {
            Ok(matched) => (passed(Some(matched.sentence())), sent_alike(baseline, run, &matched)),
            Err(problem) => {
                (Err(problem), Ok(Verdict::Skipped("requests are not those of the other run".to_owned())))
            }
        };
        let found = [
            (requests_in_figures.0, left_out.map_or(passed(None), Err)),
            (SAME_WORKLOAD, workload),
            ("same times of sending", times),
        ];
        for (check, found) in found {
            match found.map_err(|problem| Message::from(sentence(&problem))) {
                Ok(verdict) => self.add(run, check, verdict),
                Err(message) if args.different_workloads => self.add(run, check, tolerated(&message)),
                Err(message) => {
                    self.refuse(name, check, Failure::user(message).with_hint(ALL_THE_SAME));
                    is_comparable = false;
                }
            }
        }
        self.add(run, targets.0, Verdict::Skipped("what was measured has no targets".to_owned()));
        is_comparable
    }

    /// Checks a figure of a run against a limit.
    fn add_limit(&mut self, condition: &FailIf, baseline: &str, run: &RunDifference) {
        let (name, metric) = (&run.name, &condition.metric);
        let verdict = match run.figures.get(metric) {
            None => {
                let failure = Failure::user(format!("--fail-if {condition}: {name} has no `{metric}`"));
                return self.refuse(name, &condition.to_string(), failure);
            }
            Some(&Difference { baseline: Some(before), value: Some(after), relative_change, .. }) => {
                let share = relative_change.map(|share| format!(", {:+.2}%", share * 100.0));
                let found = format!("{before} became {after}{}", share.unwrap_or_default());
                if condition.is_broken_by(after, before) {
                    Verdict::Failed(format!("{condition}: {found} in {name}"))
                } else {
                    Verdict::Passed(Some(found))
                }
            }
            Some(figure) => {
                let without = if figure.value.is_none() { name } else { baseline };
                Verdict::Failed(format!("{condition}: {without} has no sample of it"))
            }
        };
        self.checks.push(Check::new(name, condition.to_string(), verdict));
    }
}

/// A difference that the user knows of.
fn tolerated(message: &Message) -> Verdict {
    Verdict::Skipped(format!("{message}; --different-workloads lets it pass"))
}

/// The first of these settings in which a run differs from the baseline, if both reports have settings.
fn differing(baseline: &Run, run: &Run, what: &str, keys: &[&str]) -> Option<Message> {
    let of = |run: &Run, key: &str| {
        let settings = run.figures.settings.as_ref()?;
        Some(settings.get(key).filter(|value| !value.is_null()).map(ToString::to_string))
    };
    let told = |run: &Run, value: Option<String>| {
        format!("{} has {}", run.figures.name, value.unwrap_or_else(|| "none".to_owned()))
    };
    keys.iter().find_map(|key| {
        let (before, after) = of(baseline, key).zip(of(run, key))?;
        (before != after).then(|| {
            let (one, other) = (told(baseline, before), told(run, after));
            format!("--fail-if is for {what}, but of `{key}` {one}, and {other}").into()
        })
    })
}

/// Which of these settings of a simulated run leaves requests out of its figures.
fn leaves_out(run: &Run, keys: &[&str]) -> Option<String> {
    let settings = run.figures.settings.as_ref()?;
    let is_given = |key: &&&str| {
        settings.get(**key).is_some_and(|value| !value.is_null() && value.as_bool() != Some(false))
    };
    let key = keys.iter().find(is_given)?;
    Some(format!("{} has `{key}`, and its figures are of other requests", run.figures.name))
}

/// Whether the requests of two runs were sent at the same times, as far as that says something.
fn sent_alike(baseline: &Run, run: &Run, matched: &MatchedRequests<'_>) -> Result<Verdict, String> {
    let skipped = |reason: &str| {
        let (one, other) = (&baseline.figures.name, &run.figures.name);
        let reason = format!("whether {other} was sent at the times of {one} {reason}");
        note(&format!("note: {reason}"));
        Ok(Verdict::Skipped(reason))
    };
    let Some((shift, span)) = matched.largest_shift_ms().zip(matched.span_ms()) else {
        return skipped("is not known: one of them has no times");
    };
    let told = format!("requests were sent up to {:.2} s apart in {:.2} s", shift / 1e3, span / 1e3);
    if shift <= SHIFT_MS + SHIFT_SHARE * span {
        Ok(Verdict::Passed(Some(told)))
    } else if baseline.is_limited || run.is_limited {
        skipped(
            "is not checked: requests waited for others, so that it follows from how fast these were served",
        )
    } else {
        Err(told)
    }
}

/// That two runs replayed different workloads.
fn other_workload(baseline: &Run, run: &Run) -> Message {
    let told = |run: &Run| {
        let workload = run.figures.workload.as_ref()?;
        Some(format!("{} ran {} (hash {})", run.figures.name, workload.name, workload.hash))
    };
    let told: Vec<String> = [baseline, run].into_iter().filter_map(told).collect();
    format!("--fail-if is for runs of one workload, but {}", told.join(" and ")).into()
}

fn completed(run: &Run) -> Option<f64> {
    run.figures.figures.get("completed_requests").copied().flatten()
}

/// A run that served nobody has no figure that says anything.
fn served_any(run: &Run) -> Verdict {
    match completed(run) {
        Some(0.0) => Verdict::Failed(format!("{} served no request", run.figures.name)),
        Some(requests) => Verdict::Passed(Some(format!("{requests} completed"))),
        None => Verdict::Skipped("how many requests were completed is not known".to_owned()),
    }
}

/// The figures of the requests that are left can only look better for it if a run completed fewer than the baseline.
fn served_no_fewer(baseline: &Run, run: &Run, may_be_fewer: bool) -> Verdict {
    let Some((before, after)) = completed(baseline).zip(completed(run)) else {
        return Verdict::Skipped("how many requests were completed is not known".to_owned());
    };
    let (name, other) = (&run.figures.name, &baseline.figures.name);
    let told = format!("{name} completed {after} requests, {other} {before}");
    match (after < before, may_be_fewer) {
        (false, _) => Verdict::Passed(Some(told)),
        (true, true) => Verdict::Skipped(format!("{told}; --allow-fewer lets it pass")),
        (true, false) => Verdict::Failed(format!("{told} (--allow-fewer lets it pass)")),
    }
}
