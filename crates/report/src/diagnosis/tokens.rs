//! Rules about gaps between tokens that miss a target.
//!
//! A gap is a pass. Those with prompts in them take longer, so of all gaps the longest are taken to have prompts, as many as
//! make up the time in which prompts were computed; the others say what decodes take by themselves.

use servecast_record::RequestRecord;
use servecast_types::{Duration, Role};

use super::deployment::pool_ratio_of;
use super::engine::times_with_prompts;
use super::facts::{Facts, rounded_percent};
use super::finding::{Finding, FindingKind, WhatIf};
use super::load::one_more;
use crate::latency::tpot_ms;
use crate::slo::Metric;
use crate::table::grouped;

/// Share of the time between tokens in which prompts are computed from which on these are what is slow, where no limit says
/// how long a token may take.
const BESIDE_PROMPTS: f64 = 0.5;

/// How many times as long as without prompts a pass with them takes at least, if they are what is slow.
const LONGER: f64 = 1.25;

/// Share of the time between tokens without prompts from which on it says what decodes take by themselves.
const BY_THEMSELVES: f64 = 0.1;

/// Which share of the gaps with prompts is as long as a long one, or longer.
const LONG: f64 = 0.1;

/// How many times as many prompt tokens as come a worker has to compute with smaller chunks.
const ROOM_FOR_PROMPTS: f64 = 1.05;

/// How many times as long as the fastest a token takes that is slow without a target.
const SLOW: f64 = 5.0;

/// The gaps between tokens of a pool, without prompts beside them and with.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Gaps {
    /// Share of the time between tokens in which prompts were computed.
    beside: f64,
    /// Mean length without prompts and with them, in ms; 0 where there are none.
    without_ms: f64,
    with_ms: f64,
    /// One in ten of those with prompts is as long or longer.
    long_ms: f64,
    /// How many there are, and the share of them that has prompts.
    count: u64,
    with: f64,
    /// How many without prompts are longer than the limit, and how many with them.
    without_beyond: u64,
    with_beyond: u64,
    /// Prompt tokens that are computed in a pass with prompts, and in one that takes as long as one in ten of them.
    prompt_tokens: f64,
    most_prompt_tokens: f64,
}

impl Gaps {
    fn new(facts: &Facts<'_>, pool: usize, limit_ms: Option<f64>) -> Self {
        let mut gaps = Self::of(&facts.run.gaps.sorted(), share_beside(facts, pool), limit_ms);
        let (with_prompts_ns, _) = times_with_prompts(facts, pool);
        let passes = with_prompts_ns / (gaps.with_ms * 1e6).max(1.0);
        gaps.prompt_tokens = prompt_tokens(facts, pool) / passes.max(1.0);
        // What passes take beyond those without prompts goes with the prompt tokens in them.
        let beyond = |ms: f64| (ms - gaps.without_ms).max(0.0);
        let times_the_mean = beyond(gaps.long_ms) / beyond(gaps.with_ms).max(1e-9);
        gaps.most_prompt_tokens = gaps.prompt_tokens * times_the_mean.max(1.0);
        gaps
    }

    /// The same of lengths in order, each with how often it occurs, without what follows from prompts.
    fn of(sorted: &[(Duration, u64)], beside: f64, limit_ms: Option<f64>) -> Self {
        let mut gaps = Self { beside, ..Self::default() };
        let all_ms: f64 = sorted.iter().map(|(gap, times)| gap.as_ms() * *times as f64).sum();
        let mut left_ms = all_ms * (1.0 - beside);
        let (mut without, mut without_ms, mut with_ms) = (0, 0.0, 0.0);
        let mut have_prompts = Vec::new();
        for &(gap, times) in sorted {
            let ms = gap.as_ms();
            let fit = if ms > 0.0 { ((left_ms / ms).round() as u64).min(times) } else { times };
            left_ms -= ms * fit as f64;
            without += fit;
            without_ms += ms * fit as f64;
            with_ms += ms * (times - fit) as f64;
            have_prompts.push((ms, times - fit));
            gaps.count += times;
            if limit_ms.is_some_and(|limit| ms > limit) {
                gaps.without_beyond += fit;
                gaps.with_beyond += times - fit;
            }
        }
        let with = gaps.count - without;
        let mean = |ms: f64, count: u64| if count > 0 { ms / count as f64 } else { 0.0 };
        (gaps.without_ms, gaps.with_ms) = (mean(without_ms, without), mean(with_ms, with));
        gaps.with = with as f64 / gaps.count.max(1) as f64;
        let mut longer = (LONG * with as f64) as u64;
        let is_long = |&(_, times): &(f64, u64)| {
            let is_long = times > longer;
            longer = longer.saturating_sub(times);
            is_long
        };
        gaps.long_ms = have_prompts.into_iter().rev().find(is_long).map_or(gaps.with_ms, |(ms, _)| ms);
        gaps
    }

    /// Whether prompts are why tokens come late: without them the limit would be kept, or most of what is beyond it has
    /// them.
    fn have_prompts(&self, limit: Limit, batch: f64) -> bool {
        if self.with <= 0.0 {
            return false;
        }
        if self.beside > 1.0 - BY_THEMSELVES {
            // What decodes take by themselves is not known: what more of is computed in a pass.
            return self.prompt_tokens >= batch;
        }
        let are_longer = self.with_ms >= LONGER * self.without_ms;
        are_longer
            && match limit {
                Limit::EachGap(_) => self.with_beyond >= self.without_beyond,
                Limit::Mean(ms) => self.without_ms <= ms,
                Limit::OfAll | Limit::Unasked => self.beside >= BESIDE_PROMPTS,
            }
    }
}

/// How long a token may take.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Limit {
    /// Each gap by itself, in ms.
    EachGap(f64),
    /// The mean of the gaps of a request, in ms.
    Mean(f64),
    /// A part of the whole time, which is limited.
    OfAll,
    /// Nobody says.
    Unasked,
}

impl Limit {
    fn ms(self) -> Option<f64> {
        match self {
            Self::EachGap(ms) | Self::Mean(ms) => Some(ms),
            Self::OfAll | Self::Unasked => None,
        }
    }
}

/// What makes tokens slow, where a target on them is missed.
pub(super) fn slow_tokens(facts: &Facts<'_>) -> Option<Finding> {
    let (of_mean, of_gaps) = (facts.targets.missed(Metric::Tpot), facts.targets.missed(Metric::Itl));
    let of_all = facts.targets.missed(Metric::E2e).filter(|_| !facts.misses_first_tokens());
    let misses = of_mean.or(of_gaps).or(of_all).is_some();
    if facts.targets.are_met() {
        return None;
    }
    let otherwise = if misses { Limit::OfAll } else { Limit::Unasked };
    let limit = of_gaps.map(Limit::EachGap).or(of_mean.map(Limit::Mean)).unwrap_or(otherwise);
    let is_slow = |request: &RequestRecord| match of_mean {
        Some(limit) => tpot_ms(request).is_some_and(|ms| ms > limit),
        None => request.output_tokens > 1,
    };
    let slow = || facts.run.requests.iter().filter(|request| request.is_finished() && is_slow(request));
    let pool = facts.run.pools.iter().rposition(|pool| pool.role != Role::Prefill)?;
    let count = slow().count();
    if count == 0 {
        return None;
    }
    let mean_ms = slow().filter_map(tpot_ms).sum::<f64>() / count as f64;
    let batch = facts.report.pools[pool].mean_batch_size.unwrap_or(1.0);
    let gaps = Gaps::new(facts, pool, limit.ms());
    let prompts = facts.pool(pool).role == Role::Aggregated && gaps.have_prompts(limit, batch);
    // Without a target, tokens that take five times as long as the fastest are alarming, if prompts are why.
    let fastest_ms = facts.run.gaps.sorted().iter().map(|(gap, _)| gap.as_ms()).find(|&ms| ms > 0.0);
    let are_slow = fastest_ms.is_some_and(|fastest_ms| mean_ms >= SLOW * fastest_ms);
    if !(misses || prompts && are_slow) {
        return None;
    }
    let who = format!("the {count} requests {}", if misses { "that miss a target" } else { "of the run" });
    let slow = Slowness { who, mean_ms, limit };
    let finding = if prompts {
        stalled(facts, pool, &gaps, &slow)
    } else if let Some(found) = pool_ratio_of(facts, pool) {
        return Some(found);
    } else {
        large_batch(facts, pool, &gaps, &slow)
    };
    Some(finding.with("mean_tpot", mean_ms, "ms").with("mean_batch_size", batch, "requests"))
}

/// Prompt tokens that a pool computed.
fn prompt_tokens(facts: &Facts<'_>, pool: usize) -> f64 {
    let role = facts.pool(pool).role;
    let stages = facts.run.requests.iter().flat_map(|request| {
        let of_pool = request.stages.iter().filter(|stage| stage.pool == role && stage.first_token.is_some());
        of_pool.map(|stage| f64::from(request.input_tokens.saturating_sub(stage.reused_tokens)))
    });
    stages.sum()
}

/// How slow tokens are, and for whom.
struct Slowness {
    /// `the 12 requests that miss a target`.
    who: String,
    mean_ms: f64,
    limit: Limit,
}

impl Slowness {
    /// In words.
    fn text(&self, gaps: &Gaps) -> String {
        let Self { who, mean_ms, limit } = self;
        match *limit {
            Limit::EachGap(ms) => {
                let beyond = (gaps.without_beyond + gaps.with_beyond) as f64;
                format!(
                    "{} of the gaps between tokens are longer than {} ms, and {} of these have prompts in them",
                    fine_percent(beyond / gaps.count.max(1) as f64),
                    grouped(ms, 1),
                    rounded_percent(gaps.with_beyond as f64 / beyond.max(1.0)),
                )
            }
            Limit::Mean(ms) => format!(
                "{who} get a token every {} ms, of at most {} ms that are asked for",
                grouped(*mean_ms, 1),
                grouped(ms, 1)
            ),
            Limit::OfAll | Limit::Unasked => format!("{who} get a token every {} ms", grouped(*mean_ms, 1)),
        }
    }
}

/// A share, with a decimal if it is small.
fn fine_percent(share: f64) -> String {
    if share >= 0.1 { rounded_percent(share) } else { format!("{:.1} %", 100.0 * share) }
}

/// Chunks of prompts that are computed beside decodes.
fn stalled(facts: &Facts<'_>, pool: usize, gaps: &Gaps, slow: &Slowness) -> Finding {
    // Without a target, prompts are computed most of the time.
    let (kind, name) = match slow.limit {
        Limit::Unasked => (FindingKind::PrefillBound, "Prefill-bound"),
        _ => (FindingKind::PrefillStalls, "Prefill stalls decodes"),
    };
    let sentence = format!(
        "{name}: {}; with prompts, {} tokens of them on average, a gap is {} ms long, without {} ms, and {} of the gaps have prompts",
        slow.text(gaps),
        grouped(gaps.prompt_tokens, 0),
        grouped(gaps.with_ms, 1),
        grouped(gaps.without_ms, 1),
        fine_percent(gaps.with),
    );
    with_gaps(Finding::new(kind, sentence), gaps).tested_by(smaller_chunks(facts, pool, gaps))
}

/// Decodes that take too long by themselves.
fn large_batch(facts: &Facts<'_>, pool: usize, gaps: &Gaps, slow: &Slowness) -> Finding {
    let others = facts.report.pools[pool].mean_batch_size.unwrap_or(1.0) - 1.0;
    let prompts = if gaps.with > 0.0 {
        format!(
            "; {} of the gaps have prompts, and are {} ms long",
            fine_percent(gaps.with),
            grouped(gaps.with_ms, 1)
        )
    } else {
        String::new()
    };
    let sentence = format!(
        "Decode-bound by the batch: {}; without prompts a gap is {} ms long, with {} others in the pass on average{prompts}",
        slow.text(gaps),
        grouped(gaps.without_ms, 1),
        grouped(others.max(0.0), 1),
    );
    with_gaps(Finding::new(FindingKind::DecodeBoundBatch, sentence), gaps).tested_by(one_more(facts, pool))
}

fn with_gaps(finding: Finding, gaps: &Gaps) -> Finding {
    finding
        .with("gap_without_prompts", gaps.without_ms, "ms")
        .with("gap_with_prompts", gaps.with_ms, "ms")
        .with("gaps_with_prompts", gaps.with, "share")
        .with("beside_prompts", gaps.beside, "share")
        .with("prompt_tokens_a_pass", gaps.prompt_tokens, "tokens")
        .with("prompt_tokens_a_long_pass", gaps.most_prompt_tokens, "tokens")
}

/// Half the chunk, or of what is computed of prompts in a long pass, where that is less; one more worker where an engine has no
/// such setting, or would not keep up with the prompts.
fn smaller_chunks(facts: &Facts<'_>, pool: usize, gaps: &Gaps) -> Option<WhatIf> {
    let role = facts.pool(pool).role;
    let batch = facts.report.pools[pool].mean_batch_size.unwrap_or(1.0);
    let come = prompt_tokens_a_ms(facts, pool);
    let keeps_up = |tokens: u64| {
        // The rest of a pass is for decodes.
        let of_prompts = tokens as f64 - batch;
        let longer_ms = (gaps.with_ms - gaps.without_ms) * of_prompts / gaps.prompt_tokens.max(1.0);
        of_prompts > 0.0 && of_prompts >= ROOM_FOR_PROMPTS * come * (gaps.without_ms + longer_ms)
    };
    facts.given.smaller_chunks(role, gaps.most_prompt_tokens, keeps_up).or_else(|| one_more(facts, pool))
}

/// Prompt tokens that come to a worker in a ms; 0 in a closed loop, in which they come when others have gone.
fn prompt_tokens_a_ms(facts: &Facts<'_>, pool: usize) -> f64 {
    let arrivals = || facts.run.requests.iter().map(|request| request.arrival);
    match arrivals().min().zip(arrivals().max()) {
        Some((first, last)) if last > first && !facts.given.is_closed_loop() => {
            let workers = facts.pool(pool).workers.len().max(1) as f64;
            prompt_tokens(facts, pool) / last.since(first).as_ms() / workers
        }
        _ => 0.0,
    }
}

/// In which share of the time between tokens prompts were computed beside them.
fn share_beside(facts: &Facts<'_>, pool: usize) -> f64 {
    let (mut all_ns, mut beside_ns) = (0.0, 0.0);
    for request in facts.run.requests.iter().filter(|request| request.is_finished()) {
        let Some((from, to)) = request.first_token.zip(request.last_token) else { continue };
        let Some(stage) = request.stages.last() else { continue };
        all_ns += to.since(from).as_ns() as f64;
        beside_ns += facts.states[pool].with_prompts(stage.worker.index(), from, to);
    }
    if all_ns > 0.0 { beside_ns / all_ns } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps(lengths: &[(u64, u64)], beside: f64, limit_ms: f64) -> Gaps {
        let sorted: Vec<_> =
            lengths.iter().map(|&(ms, times)| (Duration::from_ns(ms * 1_000_000), times)).collect();
        Gaps::of(&sorted, beside, Some(limit_ms))
    }

    #[test]
    fn the_longest_gaps_have_the_prompts() {
        // 80 gaps of 10 ms, 15 of 40 ms and 5 of 120 ms are 2,000 ms, in 1,200 of which prompts are computed.
        let found = gaps(&[(10, 80), (40, 15), (120, 5)], 0.6, 30.0);
        assert_eq!((found.without_ms, found.with_ms, found.with, found.count), (10.0, 60.0, 0.2, 100));
        assert_eq!((found.without_beyond, found.with_beyond), (0, 20));
        assert!((found.long_ms - 120.0).abs() < 1e-9, "a tenth of 20 are 2");
        // With fewer prompts some of 40 ms have none.
        let found = gaps(&[(10, 80), (40, 15), (120, 5)], 0.3, 30.0);
        assert_eq!((found.without_beyond, found.with_beyond), (15, 5));
        let none = gaps(&[(10, 80)], 0.0, 5.0);
        assert_eq!((none.without_ms, none.with_ms, none.with), (10.0, 0.0, 0.0));
        assert_eq!(gaps(&[], 0.0, 5.0), Gaps::default());
    }

    #[test]
    fn prompts_are_why_if_a_limit_would_be_kept_without_them() {
        let found = gaps(&[(10, 80), (40, 15), (120, 5)], 0.6, 30.0);
        assert!(found.have_prompts(Limit::EachGap(30.0), 8.0) && found.have_prompts(Limit::Mean(12.0), 8.0));
        assert!(!found.have_prompts(Limit::Mean(9.0), 8.0), "decodes take 10 ms by themselves");
        assert!(found.have_prompts(Limit::OfAll, 8.0) && found.have_prompts(Limit::Unasked, 8.0));
        let slow = gaps(&[(10, 80), (40, 15), (120, 5)], 0.6, 9.0);
        assert!(!slow.have_prompts(Limit::EachGap(9.0), 8.0), "80 of 100 are too long without prompts");
        let alike = gaps(&[(40, 95), (42, 5)], 0.3, 30.0);
        assert!(!alike.have_prompts(Limit::Mean(50.0), 8.0), "prompts make a gap no longer");
        // Where all gaps have prompts, more prompt tokens than requests are in a pass, or fewer.
        let all = |prompt_tokens| Gaps { prompt_tokens, ..gaps(&[(40, 100)], 0.97, 30.0) };
        assert!(all(200.0).have_prompts(Limit::EachGap(30.0), 64.0));
        assert!(!all(20.0).have_prompts(Limit::EachGap(30.0), 64.0));
    }
}
