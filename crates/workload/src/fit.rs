//! The parameters of a synthetic load that resembles a trace.

use schemars::JsonSchema;
use serde::Serialize;

use crate::resemble::Families;
use crate::synthetic::LengthDistribution;
use crate::{Load, SyntheticSpec, TraceRow, TraceStats, TurnStart, Workload, stats};

/// A load in the parameters of a generator.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Fit {
    /// The load itself.
    pub stats: TraceStats,
    /// Sessions that arrive in a second; none if all arrive at once.
    pub session_rate_per_s: Option<f64>,
    /// Shape of a gamma distribution with the variance of the gaps between arrivals: 1 is a Poisson process, less has
    /// bursts; none with fewer than three arrivals or if all gaps are equal.
    pub burstiness: Option<f64>,
    /// Standard deviation of prompt lengths over their mean.
    pub input_spread: f64,
    /// The same of outputs.
    pub output_spread: f64,
    /// Requests of one session, or with a prefix in common that is not everybody's.
    pub families: u64,
    /// Distinct blocks that many requests begin with.
    pub common_blocks: u64,
    /// The synthetic workload that is nearest; arrivals are those of rate and burstiness.
    pub synthetic: SyntheticSpec,
}

/// Finds the parameters of a load that was read with `load`, with prefix reuse counted in blocks of `block_size` tokens.
///
/// # Panics
/// If `block_size` is 0.
pub fn fit(workload: &Workload, block_size: u32, load: Load) -> Fit {
    let stats = stats(workload, block_size);
    let rows: Vec<TraceRow> = workload.mooncake_rows(block_size, load).collect();
    let families = Families::of(&rows);
    let (session_rate_per_s, burstiness) = arrivals(workload);
    let spread = |lengths: &mut dyn Iterator<Item = u32>, mean: f64| {
        let (count, squares) = lengths
            .fold((0.0, 0.0), |(count, sum), length| (count + 1.0, sum + (f64::from(length) - mean).powi(2)));
        if mean > 0.0 { (squares / f64::max(count, 1.0)).sqrt() / mean } else { 0.0 }
    };
    let input_spread =
        spread(&mut workload.turns().map(|turn| turn.prompt.tokens()), stats.input_tokens.mean);
    let output_spread =
        spread(&mut workload.turns().map(|turn| turn.output_tokens), stats.output_tokens.mean);
    let num_families = families.members.len() as u64;
    Fit {
        synthetic: synthetic(&stats, input_spread, num_families),
        session_rate_per_s,
        burstiness,
        input_spread,
        output_spread,
        families: num_families,
        common_blocks: families.num_common() as u64,
        stats,
    }
}

/// Sessions a second, and the shape of the gaps between them.
fn arrivals(workload: &Workload) -> (Option<f64>, Option<f64>) {
    let start = |turn: &TurnStart| match turn {
        TurnStart::At(time) | TurnStart::NotBefore(time) => time.as_ms(),
        TurnStart::AfterPrevious(_) => 0.0,
    };
    let first_turns = workload.sessions.iter().filter_map(|session| session.turns.first());
    let mut times: Vec<f64> = first_turns.map(|turn| start(&turn.start)).collect();
    times.sort_unstable_by(f64::total_cmp);
    let gaps: Vec<f64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    let mean = gaps.iter().sum::<f64>() / gaps.len().max(1) as f64;
    let variance = gaps.iter().map(|gap| (gap - mean).powi(2)).sum::<f64>() / gaps.len().max(1) as f64;
    let shape = mean * mean / variance;
    (
        (mean > 0.0).then(|| 1000.0 / mean),
        (gaps.len() > 1 && shape.is_finite() && shape > 0.0).then_some(shape),
    )
}

/// The synthetic workload with these means, and as much to reuse.
fn synthetic(stats: &TraceStats, spread: f64, families: u64) -> SyntheticSpec {
    let (requests, reuse) = (stats.requests as f64, stats.token_reuse_ratio);
    let whole = |mean: f64| (mean.round() as u64).max(1);
    let turns = whole(stats.turns_per_session_mean);
    // The first request of a group finds nothing, so a group for each family unless that leaves too few to share.
    let groups = (families as f64).min((requests * (1.0 - reuse)).floor()).max(1.0);
    let shared = if groups < requests { (reuse / (1.0 - groups / requests)).min(1.0) } else { 0.0 };
    let varies = spread >= 0.01;
    SyntheticSpec {
        turns_per_session: turns,
        length_distribution: if varies {
            LengthDistribution::Lognormal
        } else {
            LengthDistribution::Constant
        },
        length_spread: if varies { rounded(spread).min(10.0) } else { 0.0 },
        shared_prefix_ratio: rounded(shared),
        num_prefix_groups: if rounded(shared) > 0.0 { (groups as u64).min(1_000_000) } else { 0 },
        trace_block_size: stats.block_size,
        ..SyntheticSpec::new(
            whole(stats.input_tokens.mean),
            whole(stats.output_tokens.mean),
            (stats.requests / turns).max(1),
        )
    }
}

/// Three digits, which are more than a mean is worth.
fn rounded(share: f64) -> f64 {
    (share * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ArrivalProcess, generate};

    const OPEN: Load = Load::Open { arrival_speedup_ratio: 1.0 };

    #[test]
    fn a_synthetic_load_is_found_again() {
        let spec = SyntheticSpec {
            arrival_interval_ms: 50.0,
            arrival_process: ArrivalProcess::Poisson,
            length_distribution: LengthDistribution::Lognormal,
            length_spread: 0.8,
            shared_prefix_ratio: 0.5,
            num_prefix_groups: 40,
            trace_block_size: 16,
            ..SyntheticSpec::new(2000, 100, 5000)
        };
        let rows = generate(&spec).unwrap();
        let of = |rows: &[TraceRow]| fit(&Workload::from_rows(rows, 16, OPEN).unwrap(), 16, OPEN);
        let fit = of(&rows);
        assert!((fit.session_rate_per_s.unwrap() / 20.0 - 1.0).abs() < 0.05, "{fit:?}");
        assert!((fit.burstiness.unwrap() - 1.0).abs() < 0.1, "{fit:?}");
        assert!((fit.input_spread - 0.8).abs() < 0.1, "{fit:?}");
        let again = of(&generate(&fit.synthetic).unwrap());
        assert!((again.stats.input_tokens.mean / fit.stats.input_tokens.mean - 1.0).abs() < 0.05);
        assert!((again.stats.token_reuse_ratio - fit.stats.token_reuse_ratio).abs() < 0.05);
    }

    #[test]
    fn a_single_request_has_no_rate() {
        let rows = generate(&SyntheticSpec::new(10, 5, 1)).unwrap();
        let fit = fit(&Workload::from_rows(&rows, 512, OPEN).unwrap(), 512, OPEN);
        assert_eq!((fit.session_rate_per_s, fit.burstiness, fit.families), (None, None, 1));
        generate(&fit.synthetic).unwrap();
    }
}
