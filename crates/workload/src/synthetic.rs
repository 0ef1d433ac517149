//! Workloads made to measure: so many requests, so long, so often, sharing so much.

use rand::RngExt;
use rand_distr::{Distribution, Exp1, LogNormal};
use rand_pcg::Pcg64;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::SyntheticError;
use crate::random::{rounded_ms, stream};
use crate::row::{MAX_INPUT_TOKENS, MAX_OUTPUT_TOKENS, TraceRow};

/// A synthetic workload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SyntheticSpec {
    /// Prompt length in tokens, the mean if lengths vary.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub input_tokens: u64,
    /// Output length in tokens, the mean if lengths vary.
    #[schemars(range(min = 1, max = 999_999))]
    pub output_tokens: u64,
    /// Number of requests; of sessions, if they have several turns.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub request_count: u64,
    /// Milliseconds from one arrival to the next, the mean if arrivals are random; 0 sends all at once.
    #[serde(default = "default_arrival_interval_ms")]
    #[schemars(range(min = 0.0, max = 1e9))]
    pub arrival_interval_ms: f64,
    /// How arrivals are spaced.
    #[serde(default)]
    pub arrival_process: ArrivalProcess,
    /// How lengths vary from request to request.
    #[serde(default)]
    pub length_distribution: LengthDistribution,
    /// How far lengths vary, relative to their mean; what it means depends on the distribution.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 10.0))]
    pub length_spread: f64,
    /// Requests per session; each is sent after the one before it completes.
    #[serde(default = "default_turns_per_session")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub turns_per_session: u64,
    /// Milliseconds from the end of a turn to the next turn of its session.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1e9))]
    pub inter_turn_delay_ms: f64,
    /// Share of the blocks of a prompt that is the same for all sessions of its group.
    #[serde(default)]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub shared_prefix_ratio: f64,
    /// Number of groups, each with a prefix of its own; a session joins one at random.
    #[serde(default)]
    #[schemars(range(max = 1_000_000))]
    pub num_prefix_groups: u64,
    /// Tokens that one hash id stands for.
    #[serde(default = "default_trace_block_size")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub trace_block_size: u32,
    /// Seed of everything random: the same seed gives the same workload.
    #[serde(default = "default_seed")]
    pub seed: u64,
}

/// How arrivals are spaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ArrivalProcess {
    /// Always the same interval.
    #[default]
    Constant,
    /// Exponential gaps with the interval as their mean.
    Poisson,
}

/// How lengths vary from request to request. Drawn lengths are rounded and at least 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LengthDistribution {
    /// All are the mean; the spread must be 0.
    #[default]
    Constant,
    /// Uniform from mean × (1 − spread) to mean × (1 + spread), with a spread of at most 1.
    Uniform,
    /// Log-normal with the spread as its coefficient of variation (standard deviation over mean).
    Lognormal,
}

const fn default_arrival_interval_ms() -> f64 {
    1.0
}

const fn default_turns_per_session() -> u64 {
    1
}

const fn default_trace_block_size() -> u32 {
    512
}

const fn default_seed() -> u64 {
    42
}

const MAX_TURNS: u64 = 10_000_000;
const MAX_BLOCKS: u64 = 100_000_000;
const MAX_INTERVAL_MS: f64 = 1e9;
/// Far enough below [`MAX_TIME_MS`](crate::MAX_TIME_MS) for the sum of random gaps.
const MAX_LAST_ARRIVAL_MS: f64 = 1e13;
const MAX_PREFIX_GROUPS: u64 = 1_000_000;
const MAX_TRACE_BLOCK_SIZE: u32 = 1_000_000;

impl SyntheticSpec {
    /// A workload of `request_count` requests of fixed lengths, 1 ms apart, that share nothing.
    pub fn new(input_tokens: u64, output_tokens: u64, request_count: u64) -> Self {
        Self {
            input_tokens,
            output_tokens,
            request_count,
            arrival_interval_ms: default_arrival_interval_ms(),
            arrival_process: ArrivalProcess::default(),
            length_distribution: LengthDistribution::default(),
            length_spread: 0.0,
            turns_per_session: default_turns_per_session(),
            inter_turn_delay_ms: 0.0,
            shared_prefix_ratio: 0.0,
            num_prefix_groups: 0,
            trace_block_size: default_trace_block_size(),
            seed: default_seed(),
        }
    }

    /// Checks every option; [`generate`] does so too.
    pub fn validate(&self) -> Result<(), SyntheticError> {
        whole("input_tokens", self.input_tokens, 1, MAX_INPUT_TOKENS)?;
        whole("output_tokens", self.output_tokens, 1, MAX_OUTPUT_TOKENS)?;
        whole("request_count", self.request_count, 1, MAX_TURNS)?;
        whole("turns_per_session", self.turns_per_session, 1, MAX_TURNS)?;
        whole("num_prefix_groups", self.num_prefix_groups, 0, MAX_PREFIX_GROUPS)?;
        whole("trace_block_size", self.trace_block_size.into(), 1, MAX_TRACE_BLOCK_SIZE.into())?;
        number("arrival_interval_ms", self.arrival_interval_ms, MAX_INTERVAL_MS)?;
        number("inter_turn_delay_ms", self.inter_turn_delay_ms, MAX_INTERVAL_MS)?;
        number("shared_prefix_ratio", self.shared_prefix_ratio, 1.0)?;
        self.check_spread()?;
        if self.shared_prefix_ratio > 0.0 && self.num_prefix_groups == 0 {
            return Err(SyntheticError::NoPrefixGroups { ratio: self.shared_prefix_ratio });
        }
        // Neither product overflows: their factors are at most 10^7 and 10^9.
        let turns = self.request_count * self.turns_per_session;
        if turns > MAX_TURNS {
            return Err(SyntheticError::TooManyTurns { turns, max: MAX_TURNS });
        }
        let blocks = turns * self.input_tokens.div_ceil(self.trace_block_size.into());
        if blocks > MAX_BLOCKS {
            return Err(SyntheticError::TooManyBlocks { blocks, max: MAX_BLOCKS });
        }
        if self.request_count as f64 * self.arrival_interval_ms > MAX_LAST_ARRIVAL_MS {
            let longest = MAX_LAST_ARRIVAL_MS / self.request_count as f64;
            let allowed = format!(
                "at most {longest} for so many requests, whose arrivals must fit {MAX_LAST_ARRIVAL_MS:e} ms"
            );
            return Err(out_of_range("arrival_interval_ms", &self.arrival_interval_ms, &allowed));
        }
        Ok(())
    }

    /// A spread that changes nothing is as wrong as one without a meaning: the user expected something of it.
    fn check_spread(&self) -> Result<(), SyntheticError> {
        let spread = self.length_spread;
        let (max, allowed) = match self.length_distribution {
            LengthDistribution::Constant if spread == 0.0 => return Ok(()),
            LengthDistribution::Constant => return Err(SyntheticError::SpreadOfConstant { spread }),
            LengthDistribution::Uniform => (1.0, "above 0 and at most 1 for uniform lengths"),
            LengthDistribution::Lognormal => (10.0, "above 0 and at most 10 for lognormal lengths"),
        };
        if spread > 0.0 && spread <= max {
            Ok(())
        } else {
            Err(out_of_range("length_spread", &spread, allowed))
        }
    }
}

fn whole(field: &'static str, value: u64, min: u64, max: u64) -> Result<(), SyntheticError> {
    if (min..=max).contains(&value) {
        Ok(())
    } else {
        Err(out_of_range(field, &value, &format!("from {min} to {max}")))
    }
}

fn number(field: &'static str, value: f64, max: f64) -> Result<(), SyntheticError> {
    if (0.0..=max).contains(&value) {
        Ok(())
    } else {
        Err(out_of_range(field, &value, &format!("a number from 0 to {max}")))
    }
}

fn out_of_range(field: &'static str, found: &impl ToString, allowed: &str) -> SyntheticError {
    SyntheticError::OutOfRange { field, found: found.to_string(), allowed: allowed.into() }
}

/// Makes the rows of a synthetic workload, session by session, with lines numbered from 1.
///
/// The first of the prompt's blocks are those of its group: as many as `shared_prefix_ratio` of them, rounded.
/// All others occur once in the whole workload, so turns of one session share no more than their prefix.
///
/// # Errors
/// When an option lies outside its range or options contradict each other.
pub fn generate(spec: &SyntheticSpec) -> Result<Vec<TraceRow>, SyntheticError> {
    spec.validate()?;
    let mut arrivals = Arrivals { spec, rng: stream(spec.seed, "arrivals"), clock_ms: 0.0 };
    let mut inputs = Lengths::new(spec, spec.input_tokens, MAX_INPUT_TOKENS, "input_lengths");
    let mut outputs = Lengths::new(spec, spec.output_tokens, MAX_OUTPUT_TOKENS, "output_lengths");
    let mut groups = stream(spec.seed, "prefix_groups");
    let mut blocks = Blocks { spec, next: 1 };
    let mut rows = Vec::with_capacity((spec.request_count * spec.turns_per_session) as usize);
    for session in 0..spec.request_count {
        let arrival = arrivals.at(session);
        let group = (spec.num_prefix_groups > 0).then(|| groups.random_range(0..spec.num_prefix_groups));
        for turn in 0..spec.turns_per_session {
            let input_length = inputs.draw();
            rows.push(TraceRow {
                line: rows.len() as u64 + 1,
                session_id: (spec.turns_per_session > 1).then(|| format!("session_{session}")),
                timestamp_ms: (turn == 0).then_some(arrival),
                delay_ms: (turn > 0).then_some(spec.inter_turn_delay_ms),
                input_length: Some(input_length),
                output_length: outputs.draw(),
                hash_ids: blocks.prompt(input_length, group),
                ..TraceRow::default()
            });
        }
    }
    Ok(rows)
}

/// When sessions arrive, the first at 0.
struct Arrivals<'a> {
    spec: &'a SyntheticSpec,
    rng: Pcg64,
    clock_ms: f64,
}

impl Arrivals<'_> {
    /// Arrival of a session in milliseconds; sessions must be asked for in order.
    fn at(&mut self, session: u64) -> f64 {
        match self.spec.arrival_process {
            ArrivalProcess::Constant => session as f64 * self.spec.arrival_interval_ms,
            ArrivalProcess::Poisson => {
                if session > 0 {
                    let gap: f64 = Exp1.sample(&mut self.rng);
                    self.clock_ms += gap * self.spec.arrival_interval_ms;
                }
                rounded_ms(self.clock_ms)
            }
        }
    }
}

/// Lengths around a mean.
struct Lengths {
    rng: Pcg64,
    law: Law,
    max: u64,
}

enum Law {
    Constant(u64),
    Uniform(f64, f64),
    Lognormal(LogNormal<f64>),
}

impl Lengths {
    fn new(spec: &SyntheticSpec, mean: u64, max: u64, purpose: &str) -> Self {
        let (center, spread) = (mean as f64, spec.length_spread);
        let law = match spec.length_distribution {
            LengthDistribution::Constant => Law::Constant(mean),
            LengthDistribution::Uniform => Law::Uniform(center * (1.0 - spread), center * (1.0 + spread)),
            LengthDistribution::Lognormal => Law::Lognormal(
                LogNormal::from_mean_cv(center, spread).expect("mean and spread were checked to be above 0"),
            ),
        };
        Self { rng: stream(spec.seed, purpose), law, max }
    }

    fn draw(&mut self) -> u64 {
        let length = match &self.law {
            Law::Constant(length) => return *length,
            Law::Uniform(low, high) => self.rng.random_range(*low..=*high),
            Law::Lognormal(law) => law.sample(&mut self.rng),
        };
        (length.round() as u64).clamp(1, self.max)
    }
}

/// Gives out hash ids: prefixes have the top bit set, all others count from 1.
struct Blocks<'a> {
    spec: &'a SyntheticSpec,
    next: u64,
}

impl Blocks<'_> {
    fn prompt(&mut self, tokens: u64, group: Option<u64>) -> Vec<u64> {
        let count = tokens.div_ceil(self.spec.trace_block_size.into());
        // At most 10^9 blocks and 10^6 groups, so the index has 32 bits and the group those above.
        let prefix = |group: u64| {
            let shared = ((count as f64 * self.spec.shared_prefix_ratio).round() as u64).min(count);
            (0..shared).map(move |index| 1 << 63 | group << 32 | index)
        };
        let mut ids: Vec<u64> = group.into_iter().flat_map(prefix).collect();
        let own = count - ids.len() as u64;
        ids.extend(self.next..self.next + own);
        self.next += own;
        ids
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "the first arrival is exactly 0")]
mod tests;
