//! The requests of a run that keeps none, of which those at its ends may be left out.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use servecast_record::{EndedRequest, RequestRecord, RunRecord, TokenGaps, TtftBreakdown};
use servecast_types::{RequestId, Time};

use crate::part::Figures;
use crate::report::Report;
use crate::sent_times::SentTimes;
use crate::summary::{SummaryOptions, report};
use crate::tally::Tally;
use crate::window::{FoundBy, Margin, MeasuredPart};

/// Figures of requests that are told when they have ended. Memory goes with the requests that are sent within the margin at the
/// end of the [window](crate::Window), and not with the others.
#[derive(Debug)]
pub struct StreamedTally {
    whole: Tally,
    /// What is measured of it, where that is not all.
    part: Option<Part>,
}

#[derive(Debug)]
struct Part {
    sent: Rc<RefCell<SentTimes>>,
    measured: Tally,
    gaps: TokenGaps,
    left_out_before: u64,
    left_out_after: u64,
    /// When the first and the last of the measured requests were sent.
    from_to: Option<(Time, Time)>,
    /// Requests that may be left out at the end, and those behind them, in order of their numbers.
    held: VecDeque<Held>,
}

#[derive(Debug)]
struct Held {
    request: SettledRequest,
    tokens: Vec<Time>,
}

/// A request that has ended, of which it is known whether figures are of it.
#[derive(Debug, Clone, PartialEq)]
pub struct SettledRequest {
    /// Its number, in order of arrival.
    pub id: RequestId,
    /// What happened to it.
    pub record: RequestRecord,
    /// Where the time to its first token went, if it had one.
    pub ttft_breakdown: Option<TtftBreakdown>,
    /// Whether it is measured; `None` where all requests are.
    pub is_measured: Option<bool>,
}

impl StreamedTally {
    /// No requests yet.
    ///
    /// # Panics
    /// If the window looks for a steady state, which is found when all requests are known.
    pub fn new(options: &SummaryOptions) -> Self {
        let window = options.window;
        let margins = [window.warmup, window.cooldown];
        assert!(!margins.contains(&Some(Margin::Unsteady)), "a steady state is found in all requests");
        let part = || Part {
            sent: Rc::new(RefCell::new(SentTimes::new(window))),
            measured: Tally::streamed(options),
            gaps: TokenGaps::default(),
            left_out_before: 0,
            left_out_after: 0,
            from_to: None,
            held: VecDeque::new(),
        };
        Self { whole: Tally::streamed(options), part: (!window.is_whole()).then(part) }
    }

    /// What has to be told of each request when it is sent; `None` where all requests are measured.
    pub fn sent_times(&self) -> Option<Rc<RefCell<SentTimes>>> {
        self.part.as_ref().map(|part| Rc::clone(&part.sent))
    }

    /// A request has ended; told in order of their numbers. Hands out, in this order, the requests that are settled by that.
    ///
    /// # Errors
    /// That of `settled`.
    ///
    /// # Panics
    /// If a part of the run is measured, and the times of the request's tokens were not kept.
    pub fn add<E>(
        &mut self,
        ended: &EndedRequest<'_>,
        mut settled: impl FnMut(&SettledRequest) -> Result<(), E>,
    ) -> Result<(), E> {
        self.whole.add(ended.record);
        let mut request = SettledRequest {
            id: ended.id,
            record: ended.record.clone(),
            ttft_breakdown: ended.ttft_breakdown(),
            is_measured: None,
        };
        let Some(part) = &mut self.part else { return settled(&request) };
        let tokens = ended.tokens.expect("a part of a run is measured with the times of its tokens");
        let is_before = part.sent.borrow_mut().is_in_warmup(request.record.arrival);
        request.is_measured = Some(!is_before);
        part.held.push_back(Held { request, tokens: tokens.to_vec() });
        part.settle(false, settled)
    }

    /// The run is over. Hands out the requests that are left.
    ///
    /// # Errors
    /// That of `settled`.
    pub fn finish<E>(&mut self, settled: impl FnMut(&SettledRequest) -> Result<(), E>) -> Result<(), E> {
        self.part.as_mut().map_or(Ok(()), |part| part.settle(true, settled))
    }

    /// The report of a run that kept no requests, all of which were told, and which is [over](StreamedTally::finish).
    pub fn summarize(&self, run: &RunRecord, options: &SummaryOptions) -> Report {
        let Some(part) = &self.part else { return report(&self.whole, &self.whole, run, None, options) };
        let measured = MeasuredPart {
            from_ms: part.from_to.map(|(from, _)| from.as_ms()),
            to_ms: part.from_to.map(|(_, to)| to.as_ms()),
            requests: part.measured.requests,
            left_out_before: part.left_out_before,
            left_out_after: part.left_out_after,
            found_by: FoundBy::Given,
            whole_run: Figures::of_tally(&self.whole, &run.gaps),
        };
        let run = RunRecord { gaps: part.gaps.clone(), ..run.clone() };
        report(&part.measured, &self.whole, &run, Some(measured), options)
    }
}

impl Part {
    /// Hands out the first requests of those that are held, as far as they are settled; when the run is over, all.
    fn settle<E>(
        &mut self,
        is_over: bool,
        mut settled: impl FnMut(&SettledRequest) -> Result<(), E>,
    ) -> Result<(), E> {
        while let Some(first) = self.held.front() {
            let arrival = first.request.record.arrival;
            let mut sent = self.sent.borrow_mut();
            let may_be_after = sent.may_be_in_cooldown(arrival);
            if may_be_after && !is_over {
                break;
            }
            let is_after = may_be_after && sent.is_in_cooldown(arrival);
            drop(sent);
            let Some(Held { mut request, tokens }) = self.held.pop_front() else { break };
            let is_before = request.is_measured == Some(false);
            request.is_measured = Some(!is_before && !is_after);
            match (is_before, is_after) {
                // Where the margins overlap, the one at the end counts, as in a run that keeps its requests.
                (_, true) => self.left_out_after += 1,
                (true, false) => self.left_out_before += 1,
                (false, false) => self.measure(&request.record, &tokens),
            }
            settled(&request)?;
        }
        Ok(())
    }

    fn measure(&mut self, record: &RequestRecord, tokens: &[Time]) {
        self.measured.add(record);
        tokens.windows(2).for_each(|pair| self.gaps.add(pair[1].since(pair[0]), 1));
        let (from, to) = self.from_to.unwrap_or((record.arrival, record.arrival));
        self.from_to = Some((from.min(record.arrival), to.max(record.arrival)));
    }
}
