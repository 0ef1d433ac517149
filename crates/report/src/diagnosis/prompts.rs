//! Rules about a few prompts that are far longer than others.

use servecast_record::{RequestRecord, StageRecord};
use servecast_types::{Role, Time};

use super::facts::{Facts, rounded_percent};
use super::finding::{Finding, FindingKind};
use crate::table::{count, grouped};

/// How many times as long as the 90th percentile a long prompt is.
const LONG: f64 = 5.0;

/// Share of the requests that have one at most.
const FEW: f64 = 0.02;

/// Share of the TTFT, or of long gaps, that has to lie within the computation of long prompts.
const HELD_UP: f64 = 0.5;

/// How many times as long as the median a TTFT or a gap is that is held up.
const SLOW: f64 = 5.0;

/// Share of the time between tokens that is in such gaps.
const STALLED: f64 = 0.1;

/// A long prompt, while it was computed.
struct Long<'a> {
    ordinal: usize,
    stage: &'a StageRecord,
    from: Time,
    to: Time,
}

impl Long<'_> {
    /// For how long of a time that a stage spent on the worker, in ms.
    fn overlap_ms(&self, stage: &StageRecord, from: Time, to: Time) -> f64 {
        if stage.pool != self.stage.pool || stage.worker != self.stage.worker {
            return 0.0;
        }
        to.min(self.to).since(from.max(self.from)).as_ms()
    }
}

fn new_tokens(request: &RequestRecord) -> u32 {
    request.input_tokens - request.reused_tokens().min(request.input_tokens)
}

/// The few prompts that are far longer than others, and how long others are.
fn long_prompts<'a>(facts: &Facts<'a>) -> (Vec<Long<'a>>, f64) {
    let computed =
        || facts.run.requests.iter().enumerate().filter(|(_, request)| request.first_token.is_some());
    let mut tokens: Vec<u32> = computed().map(|(_, request)| new_tokens(request)).collect();
    if tokens.is_empty() {
        return (Vec::new(), 0.0);
    }
    let ninetieth = (tokens.len() - 1) * 9 / 10;
    let usual = f64::from(*tokens.select_nth_unstable(ninetieth).1).max(1.0);
    let long: Vec<Long<'a>> = computed()
        .filter(|(_, request)| f64::from(new_tokens(request)) >= LONG * usual)
        .filter_map(|(ordinal, request)| {
            let stage = request.stages.iter().find(|stage| stage.pool != Role::Decode)?;
            Some(Long { ordinal, stage, from: stage.admitted?, to: stage.first_token? })
        })
        .collect();
    let most = (FEW * tokens.len() as f64).max(1.0);
    (if long.len() as f64 <= most { long } else { Vec::new() }, usual)
}

/// Others waited for their first token while a few long prompts were computed.
pub(super) fn long_prompt(facts: &Facts<'_>) -> Option<Finding> {
    let (long, usual) = long_prompts(facts);
    let others =
        facts.causes.requests.iter().filter(|ordinal| long.iter().all(|long| long.ordinal != **ordinal));
    let (mut ttft_ms, mut held_up_ms, mut held_up) = (0.0, 0.0, 0_u64);
    for &ordinal in others.clone() {
        let request = &facts.run.requests[ordinal];
        ttft_ms += request.ttft()?.as_ms();
        let Some(stage) = request.stages.iter().find(|stage| stage.pool != Role::Decode) else { continue };
        let to = stage.first_token.unwrap_or(stage.queued);
        let ms: f64 = long.iter().map(|long| long.overlap_ms(stage, stage.queued, to)).sum();
        held_up_ms += ms;
        held_up += u64::from(ms > 0.0);
    }
    let mean_ms = ttft_ms / others.count().max(1) as f64;
    let median_ms = (*facts.report.ttft_ms)?.median;
    let is_slow = facts.causes.miss_a_target || mean_ms >= SLOW * median_ms;
    if long.is_empty() || held_up_ms < HELD_UP * ttft_ms || !is_slow {
        return None;
    }
    let share = held_up_ms / ttft_ms;
    let longest = longest(facts, &long);
    let sentence = format!(
        "{}: {} requests waited for their first token meanwhile, {} of their time (mean TTFT {} ms)",
        named(&long, longest, usual),
        count(held_up),
        rounded_percent(share),
        grouped(mean_ms, 0)
    );
    Some(finding(facts, &long, sentence, longest, usual).with("held_up", share, "share"))
}

/// Others got their tokens late while a few long prompts were computed.
pub(super) fn stalled_decodes(facts: &Facts<'_>) -> Option<Finding> {
    let (long, usual) = long_prompts(facts);
    if long.is_empty() || facts.targets.are_met() {
        return None;
    }
    let gaps = facts.run.gaps.sorted();
    let median_ms = (*facts.report.itl_ms)?.median;
    let (mut all_ms, mut long_ms, mut longest_ms) = (0.0, 0.0, 0.0_f64);
    for &(gap, times) in &gaps {
        let ms = gap.as_ms() * times as f64;
        all_ms += ms;
        if gap.as_ms() >= SLOW * median_ms {
            long_ms += ms;
            longest_ms = longest_ms.max(gap.as_ms());
        }
    }
    let within_ms: f64 = facts
        .run
        .requests
        .iter()
        .enumerate()
        .filter(|(ordinal, _)| long.iter().all(|long| long.ordinal != *ordinal))
        .filter_map(|(_, request)| {
            let stage = request.stages.last()?;
            let (from, to) = request.first_token.zip(request.last_token)?;
            Some(long.iter().map(|long| long.overlap_ms(stage, from, to)).sum::<f64>())
        })
        .sum();
    if long_ms < STALLED * all_ms || within_ms < HELD_UP * long_ms {
        return None;
    }
    let longest = longest(facts, &long);
    let sentence = format!(
        "{}: others got their tokens late meanwhile, up to {} ms apart instead of {} ms",
        named(&long, longest, usual),
        grouped(longest_ms, 0),
        grouped(median_ms, 1)
    );
    let finding = finding(facts, &long, sentence, longest, usual);
    Some(finding.with("longest_gap", longest_ms, "ms").with("median_gap", median_ms, "ms"))
}

fn longest(facts: &Facts<'_>, long: &[Long<'_>]) -> u32 {
    long.iter().map(|long| new_tokens(&facts.run.requests[long.ordinal])).max().unwrap_or(0)
}

fn named(long: &[Long<'_>], longest: u32, usual: f64) -> String {
    let who = if long.len() == 1 {
        "One long prompt stalls others".to_owned()
    } else {
        format!("{} long prompts stall others", long.len())
    };
    format!("{who} ({} tokens to compute; 90 % have at most {})", count(longest.into()), grouped(usual, 0))
}

fn finding(facts: &Facts<'_>, long: &[Long<'_>], sentence: String, longest: u32, usual: f64) -> Finding {
    let role = long.first().map_or(Role::Aggregated, |long| long.stage.pool);
    let seconds: f64 = long.iter().map(|long| long.to.since(long.from).as_ms()).sum();
    Finding::new(FindingKind::LongPrompt, sentence)
        .with("long_prompts", long.len() as f64, "requests")
        .with("longest_prompt", f64::from(longest), "tokens")
        .with("p90_prompt", usual, "tokens")
        .with("time_computing_them", seconds, "ms")
        .tested_by(facts.given.half_the_chunk(role))
}
