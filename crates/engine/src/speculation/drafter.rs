//! How long a drafter takes.

use std::sync::Arc;

use servecast_latency::{Batch, Latency, LatencyError, LatencyModel, Speedup, StepWork};
use servecast_types::Duration;

/// A drafter that takes time after each pass of the model.
#[derive(Debug, Clone)]
pub(crate) struct Drafter {
    time: PassTimes,
    /// Whether all drafts come from one pass.
    is_parallel: bool,
}

/// How long its passes take.
#[derive(Debug, Clone)]
enum PassTimes {
    /// As long as each other.
    Each(Duration),
    /// By its shape.
    Modelled(Latency),
}

/// What is proposed after an iteration.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Proposals {
    /// Requests that get proposals, as decodes.
    pub(crate) requests: StepWork,
    /// Tokens that are proposed for each.
    pub(crate) drafts: u32,
}

impl Drafter {
    /// One of which every pass takes as long.
    pub(super) fn of_time(pass: Duration, is_parallel: bool) -> Self {
        Self { time: PassTimes::Each(pass), is_parallel }
    }

    /// One whose passes are timed by a model of its own.
    pub(super) fn of_model(model: Arc<dyn LatencyModel>, speedup: Speedup, is_parallel: bool) -> Self {
        Self { time: PassTimes::Modelled(Latency::shared(model, speedup)), is_parallel }
    }

    /// What it takes after an iteration.
    ///
    /// Its first pass goes over all tokens of the iteration, prompts too, whose KV it needs; each further one over one
    /// token of each request that gets proposals. One that drafts in parallel has them all as rows of its only pass.
    pub(crate) fn time(&self, batch: &Batch, proposals: &Proposals) -> Result<Duration, LatencyError> {
        let Proposals { requests, drafts } = *proposals;
        let passes = if self.is_parallel { drafts.min(1) } else { drafts };
        let latency = match &self.time {
            PassTimes::Each(pass) => {
                return Ok(Duration::from_ns(pass.as_ns().saturating_mul(passes.into())));
            }
            PassTimes::Modelled(latency) => latency,
        };
        let mut first = *batch;
        if self.is_parallel {
            first.add_rows(requests, drafts.into());
        }
        let mut time = latency.iteration(&first)?;
        let mut steps = requests;
        for _ in 1..passes {
            steps = steps.after(1);
            time += latency.iteration(&Batch::of_decodes(steps, batch.kv_capacity_tokens))?;
        }
        Ok(time)
    }
}

#[cfg(test)]
mod tests {
    use servecast_latency::Linear;

    use super::*;

    fn batch() -> (Batch, Proposals) {
        let mut batch = Batch::new(0);
        batch.add_tokens(0, 100);
        batch.add_verification(50, 3);
        let mut requests = StepWork::default();
        requests.add(100);
        requests.add(54);
        (batch, Proposals { requests, drafts: 3 })
    }

    #[test]
    fn its_first_pass_has_all_tokens_and_the_others_one_a_request() {
        let (batch, proposals) = batch();
        let linear = Linear { base_us: 10.0, per_token_us: 1.0, per_seq_us: 0.0 };
        let of = |is_parallel| Drafter::of_model(Arc::new(linear), Speedup::default(), is_parallel);
        let us = |drafter: &Drafter, proposals| drafter.time(&batch, &proposals).unwrap().as_ns() / 1000;
        assert_eq!(us(&of(false), proposals), (10 + 104) + 2 * (10 + 2));
        assert_eq!(us(&of(true), proposals), 10 + 104 + 2 * 3);
        assert_eq!(us(&of(false), Proposals::default()), 10 + 104, "its KV of prompts");
    }

    #[test]
    fn passes_of_one_length_are_counted() {
        let (batch, proposals) = batch();
        let each = Duration::from_ns(7_000);
        assert_eq!(Drafter::of_time(each, false).time(&batch, &proposals).unwrap().as_ns(), 21_000);
        assert_eq!(Drafter::of_time(each, true).time(&batch, &proposals).unwrap().as_ns(), 7_000);
        assert_eq!(
            Drafter::of_time(each, false).time(&batch, &Proposals::default()).unwrap(),
            Duration::ZERO
        );
    }
}
