//! What a report says of requests, told one request at a time.
//!
//! A tally is the one way from requests to figures: that of a run that kept them all is fed from its records, that of a run
//! that keeps none when each has ended. Counts, sums, means and extremes are the same in both, and so is what is said of an
//! overload; percentiles are exact where every sample is kept, and within 0.1 % where samples are counted by length.

use std::collections::BTreeMap;

use servecast_record::{RejectReason, RequestRecord, RequestStatus, RunRecord, TokenGaps};
use servecast_types::{Duration, Time};

use crate::latency::{queue_time, tpot_ms, ttst};
use crate::measured::Measured;
use crate::part::Judges;
use crate::report::Counts;
use crate::samples::Samples;
use crate::saturation::{Course, Overload};
use crate::sla::Sla;
use crate::slo::{LatencyLimit, Metric, Slo, SloOutcome, SloSamples};
use crate::stats::Stats;
use crate::summary::{SummaryOptions, name};

/// Figures of requests that have ended, fed in order of arrival.
#[derive(Debug, Clone)]
pub struct Tally {
    sla: Option<Sla>,
    count_rejected: bool,
    objectives: Vec<Objective>,
    pub(crate) requests: u64,
    pub(crate) completed: Totals,
    pub(crate) rejected: Totals,
    reused_tokens: u64,
    /// Those of them that came from the memory of the host.
    host_reused_tokens: u64,
    rejected_by: BTreeMap<RejectReason, u64>,
    pub(crate) withdrawn: u64,
    unserved: Unserved,
    first_arrival: Option<Time>,
    last_token: Option<Time>,
    pub(crate) ttft: Samples,
    pub(crate) ttst: Samples,
    pub(crate) tpot: Samples,
    pub(crate) e2e: Samples,
    pub(crate) queue_time: Samples,
    good: Totals,
    course: Course,
}

/// Requests, and their tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) requests: u64,
    pub(crate) input_tokens: u64,
    pub(crate) output_tokens: u64,
}

impl Totals {
    fn add(&mut self, request: &RequestRecord) {
        self.requests += 1;
        self.input_tokens += u64::from(request.input_tokens);
        self.output_tokens += u64::from(request.output_tokens);
    }
}

/// Requests that were not served to the end: all, and those that asked for a token or more, or for two or more.
#[derive(Debug, Clone, Copy, Default)]
struct Unserved {
    all: u64,
    one_token: u64,
    two_tokens: u64,
}

/// An objective, and how many requests keep it: each of its limits, and for a latency those that have a sample of it.
#[derive(Debug, Clone)]
struct Objective {
    slo: Slo,
    kept: u64,
}

impl Tally {
    /// The tally of a run whose requests are told when they have ended, in memory that does not grow with their number.
    pub(crate) fn streamed(options: &SummaryOptions) -> Self {
        Self::new(&options.judges(), Samples::counted)
    }

    /// The tally of the requests that a run has kept.
    pub fn of(run: &RunRecord, judges: &Judges<'_>) -> Self {
        let mut tally = Self::new(judges, Samples::all);
        run.requests.iter().for_each(|request| tally.add(request));
        tally
    }

    fn new(judges: &Judges<'_>, none: fn() -> Samples) -> Self {
        Self {
            sla: judges.sla,
            count_rejected: judges.count_rejected,
            objectives: judges.slo.iter().map(|slo| Objective { slo: slo.clone(), kept: 0 }).collect(),
            requests: 0,
            completed: Totals::default(),
            rejected: Totals::default(),
            reused_tokens: 0,
            host_reused_tokens: 0,
            rejected_by: BTreeMap::new(),
            withdrawn: 0,
            unserved: Unserved::default(),
            first_arrival: None,
            last_token: None,
            ttft: none(),
            ttst: none(),
            tpot: none(),
            e2e: none(),
            queue_time: none(),
            good: Totals::default(),
            course: Course::default(),
        }
    }

    /// A request has ended.
    ///
    /// # Panics
    /// When it reused more tokens than its prompt has, which no sound run records.
    pub fn add(&mut self, request: &RequestRecord) {
        self.requests += 1;
        let first = self.first_arrival.get_or_insert(request.arrival);
        *first = (*first).min(request.arrival);
        self.last_token = self.last_token.max(request.last_token);
        self.course.add(request.arrival, request.ended);
        match request.status {
            RequestStatus::Finished => self.add_completed(request),
            status => self.add_unserved(request, status),
        }
    }

    fn add_completed(&mut self, request: &RequestRecord) {
        self.completed.add(request);
        assert!(request.reused_tokens() <= request.input_tokens, "only prompt tokens can be reused");
        self.reused_tokens += u64::from(request.reused_tokens());
        self.host_reused_tokens += u64::from(request.host_reused_tokens());
        let ms = |time: Option<Duration>| time.map(Duration::as_ms);
        for (samples, sample) in [
            (&mut self.ttft, ms(request.ttft())),
            (&mut self.ttst, ms(ttst(request))),
            (&mut self.tpot, tpot_ms(request)),
            (&mut self.e2e, ms(request.e2e())),
            (&mut self.queue_time, ms(queue_time(request))),
        ] {
            if let Some(sample) = sample {
                samples.add(sample);
            }
        }
        if self.sla.is_some_and(|sla| sla.is_met_by(request)) {
            self.good.add(request);
        }
        for Objective { slo, kept } in &mut self.objectives {
            let keeps = |limit: &LatencyLimit| limit.is_kept_by_request(request);
            *kept += u64::from(match slo {
                Slo::Latency { limit, .. } => limit.metric.of(request).is_some() && keeps(limit),
                Slo::Goodput { limits, .. } => limits.iter().all(keeps),
            });
        }
    }

    fn add_unserved(&mut self, request: &RequestRecord, status: RequestStatus) {
        self.unserved.all += 1;
        self.unserved.one_token += u64::from(request.requested_output_tokens >= 1);
        self.unserved.two_tokens += u64::from(request.requested_output_tokens >= 2);
        match status {
            RequestStatus::Rejected(reason) => {
                self.rejected.add(request);
                *self.rejected_by.entry(reason).or_default() += 1;
            }
            RequestStatus::Withdrawn => self.withdrawn += 1,
            RequestStatus::Finished | RequestStatus::Failed => {}
        }
    }

    /// Statistics of a latency of completed requests; if those that were not served count, they are infinite.
    pub(crate) fn stats(&self, samples: &Samples) -> Measured<Stats> {
        Measured(samples.stats(if self.count_rejected { self.unserved.one_token } else { 0 }))
    }

    /// The same of a latency of requests with two tokens or more.
    pub(crate) fn stats_of_gaps(&self, samples: &Samples) -> Measured<Stats> {
        Measured(samples.stats(if self.count_rejected { self.unserved.two_tokens } else { 0 }))
    }

    /// From the first arrival to the last token of any request, if there was one.
    pub(crate) fn duration(&self) -> Option<Duration> {
        self.first_arrival.zip(self.last_token).map(|(first, last)| last.since(first))
    }

    /// The share of prompt tokens that were reused, if there are prompt tokens.
    pub(crate) fn reused_ratio(&self) -> Option<f64> {
        let all = self.completed.input_tokens;
        (all > 0).then(|| self.reused_tokens as f64 / all as f64)
    }

    /// The same of those that the GPUs had, and of those that came from the memory of the host.
    pub(crate) fn reused_ratio_by_tier(&self) -> Option<(f64, f64)> {
        let all = self.completed.input_tokens;
        let share = |tokens: u64| tokens as f64 / all as f64;
        (all > 0)
            .then(|| (share(self.reused_tokens - self.host_reused_tokens), share(self.host_reused_tokens)))
    }

    /// The requests that kept all limits, if there are limits for requests.
    pub(crate) fn good(&self) -> Option<Totals> {
        self.sla.filter(Sla::judges_requests).map(|_| self.good)
    }

    /// Requests that were not served to the end.
    pub(crate) fn unserved(&self) -> u64 {
        self.unserved.all
    }

    pub(crate) fn rejected_by_reason(&self) -> Counts {
        self.rejected_by.iter().map(|(reason, &count)| (name(reason), count)).collect()
    }

    /// The largest relative error of percentiles of latencies; `None` where they are exact.
    pub(crate) fn relative_error(&self) -> Option<f64> {
        self.ttft.relative_error()
    }

    /// Whether requests came faster than they were served, until the last of them. In a closed loop they do not: nobody comes
    /// before others have gone.
    pub fn overload(&self) -> Option<Overload> {
        self.course.overload()
    }

    /// What became of each objective, with the gaps between the tokens of these requests.
    pub fn outcomes(&self, gaps: &TokenGaps) -> Vec<SloOutcome> {
        self.objectives.iter().map(|objective| self.outcome(objective, gaps)).collect()
    }

    fn outcome(&self, Objective { slo, kept }: &Objective, gaps: &TokenGaps) -> SloOutcome {
        let Slo::Latency { statistic, limit } = slo else {
            return slo.judge_share(*kept, self.requests, self.unserved.all);
        };
        let (samples, infinite) = match limit.metric {
            Metric::Ttft => (&self.ttft, self.unserved.all),
            Metric::E2e => (&self.e2e, self.unserved.all),
            Metric::Tpot => (&self.tpot, self.unserved.two_tokens),
            Metric::Itl => {
                let gaps = SloSamples::of_gaps(gaps, *limit);
                return slo.judge_latency(*statistic, *limit, &gaps, self.unserved.all);
            }
        };
        let samples =
            SloSamples { kept: *kept, mean: samples.mean(infinite), sorted: samples.sorted(infinite) };
        slo.judge_latency(*statistic, *limit, &samples, self.unserved.all)
    }
}
