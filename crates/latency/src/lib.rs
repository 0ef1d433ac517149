//! How long one iteration of an inference engine takes.
//!
//! An engine describes an iteration as a [`Batch`] of sums, a [`LatencyModel`] says what the forward pass costs in
//! milliseconds, and [`Latency`] turns that into whole nanoseconds under the configured speedups.
//!
//! - [`Polynomial`]: the model and constants of Dynamo's mocker, for comparable numbers.
//! - [`Linear`]: a base, a price a token and a price a request; what the recordings of real schedulers use.
//! - [`Grid`]: measured times on a grid, read from an `.npz` file.
//! - [`Profile`]: measured times of a model's layers, summed over what a pass runs.
//! - [`Step`]: prices of what a pass computes, fitted to measured iterations or requests.
//! - [`Roofline`]: an estimate from the shape of a model ([`ModelShape`]) and the data sheet of a GPU ([`GpuSheet`]).
//!
//! [`Host`] is what the machine around a GPU takes, whatever the model.
//!
//! [`CapacitySetup`] works out how many KV blocks fit beside a model.
//!
//! **Invariant:** a model is a pure function of the batch. It sees sums only, so an engine that keeps them up to date
//! never walks over its requests to price an iteration.

mod batch;
mod capacity;
mod error_bar;
mod gpu;
mod grid;
mod host;
mod kv_plan;
mod linear;
mod link;
mod model;
mod polynomial;
mod profile;
mod roofline;
mod step;

use std::fmt;
use std::sync::Arc;

use servecast_types::{Duration, Message, message, settings_error};

pub use batch::{Batch, DecodeWork, DraftWork, PromptWork, StepWork};
pub use capacity::{Capacity, CapacityError, CapacitySetup, DRIVER_BYTES, GIB, TooLarge};
pub use error_bar::ErrorBar;
pub use gpu::{GpuProblem, GpuSheet};
pub use grid::{Grid, GridError};
pub use host::{Host, MOST_HOST_US};
pub use kv_plan::{KvGroup, KvKind, KvLayer, KvPlan, KvPlanError, KvPlanSetup};
pub use linear::Linear;
pub use link::{AllReduce, AllReduceTable, Quickest, Ring};
pub use model::{
    Attention, Experts, FourBit, LinearKind, LinearLayers, ModelError, ModelShape, SparseIndex, StoredAs,
    UnevenExperts, UnevenHeads, WeightType, Window,
};
pub use polynomial::Polynomial;
pub use profile::{Layers, Profile, ProfileError, ProfileSetup, ProfileTables, SkewUse};
pub use roofline::{Efficiency, Roofline, RooflineSetup};
pub use step::{Step, StepError, StepExperts, StepFeatures, StepPrices};

/// The most iterations that [`Latency::decode_iterations`] times in one call.
pub const MOST_DECODES: usize = 32;

/// The price of one forward pass over everything in a batch.
pub trait LatencyModel: fmt::Debug + Send + Sync {
    /// What the pass costs; both parts are finite and not negative.
    fn pass(&self, batch: &Batch) -> PassTime;

    /// What passes cost in which the same requests decode a token each, one pass after the other, as
    /// [`LatencyModel::pass`] says; `first` is what the first of them computes.
    fn decode_passes(&self, first: StepWork, kv_capacity_tokens: u64, passes: &mut [PassTime]) {
        one_by_one(self, first, kv_capacity_tokens, passes);
    }

    /// Whether the batch lies outside what the model was measured on, so that its time is extrapolated.
    fn extrapolates(&self, _batch: &Batch) -> bool {
        false
    }

    /// How many of the next `passes` [passes](Self::decode_passes) are extrapolated.
    fn extrapolated_decodes(&self, first: StepWork, kv_capacity_tokens: u64, passes: usize) -> u64 {
        let works = std::iter::successors(Some(first), |work| Some(work.after(1)));
        let extrapolated = |&work: &StepWork| self.extrapolates(&Batch::of_decodes(work, kv_capacity_tokens));
        works.take(passes).filter(extrapolated).count() as u64
    }

    /// Data-parallel ranks over which it spreads a batch: each has an even part of the attention, experts see the tokens of
    /// all.
    fn ranks(&self) -> u32 {
        1
    }

    /// What a pass costs that data-parallel ranks make together: `own` is what the slowest of them computes, and all of them
    /// compute `tokens` tokens. A model of one rank prices `own`.
    fn pass_of_ranks(&self, own: &Batch, _tokens: u64) -> PassTime {
        self.pass(own)
    }

    /// What the host of the engine takes besides, as far as it was measured with the passes.
    fn host(&self) -> Host {
        Host::NONE
    }

    /// What the times are estimated from, if nothing of them was measured.
    fn estimate(&self) -> Option<&str> {
        None
    }

    /// How far off the times are, if the model knows that.
    fn error_bar(&self) -> Option<ErrorBar> {
        None
    }

    /// What is to be said of the times to whoever reads them, in sentences.
    fn notes(&self) -> &[String] {
        &[]
    }

    /// What the times are made from, if the model knows more of it than the setting that names it.
    fn source(&self) -> Option<&str> {
        None
    }
}

/// [`LatencyModel::decode_passes`] of a model that has no shorter way.
fn one_by_one(
    model: &(impl LatencyModel + ?Sized),
    first: StepWork,
    kv_capacity_tokens: u64,
    passes: &mut [PassTime],
) {
    let mut work = first;
    for pass in passes {
        *pass = model.pass(&Batch::of_decodes(work, kv_capacity_tokens));
        work = work.after(1);
    }
}

/// The duration of a pass in two parts, which are rounded and sped up each on its own.
///
/// A model that prices the pass as a whole puts it into `prompt_ms` if any prompt tokens are computed, otherwise
/// into `decode_ms`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PassTime {
    /// Milliseconds for prompt tokens.
    pub prompt_ms: f64,
    /// Milliseconds for the decode step.
    pub decode_ms: f64,
}

impl PassTime {
    /// The time of a model that does not tell prompt and decode work apart.
    pub fn whole(batch: &Batch, ms: f64) -> Self {
        if batch.prompt.requests > 0 {
            Self { prompt_ms: ms, decode_ms: 0.0 }
        } else {
            Self { prompt_ms: 0.0, decode_ms: ms }
        }
    }
}

/// How much faster than its model an engine runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Speedup {
    prompt: f64,
    decode: f64,
}

impl Speedup {
    /// Prompt time is divided by `speedup_ratio`, decode time by the product of both.
    pub fn new(speedup_ratio: f64, decode_speedup_ratio: f64) -> Result<Self, LatencyError> {
        let decode = speedup_ratio * decode_speedup_ratio;
        for (name, ratio) in
            [("speedup_ratio", speedup_ratio), ("decode_speedup_ratio", decode_speedup_ratio)]
        {
            if !(ratio.is_finite() && ratio > 0.0) {
                return Err(LatencyError::Speedup { name, ratio });
            }
        }
        if !(decode.is_finite() && decode > 0.0) {
            return Err(LatencyError::Speedup {
                name: "speedup_ratio * decode_speedup_ratio",
                ratio: decode,
            });
        }
        Ok(Self { prompt: speedup_ratio, decode })
    }

    /// How long a pass takes that would take `pass` without a speedup and is timed as a decode.
    #[expect(clippy::float_cmp, reason = "only a division by exactly 1 changes nothing")]
    pub fn of_decode(&self, pass: Duration) -> Result<Duration, LatencyError> {
        if self.decode == 1.0 {
            return Ok(pass);
        }
        let no_duration = |_| LatencyError::NoDuration { ms: pass.as_ms(), ratio: self.decode };
        pass.divided_by(self.decode).map_err(no_duration)
    }
}

impl Default for Speedup {
    fn default() -> Self {
        Self { prompt: 1.0, decode: 1.0 }
    }
}

/// A model together with the speedups of an engine: batch in, whole nanoseconds out.
#[derive(Debug, Clone)]
pub struct Latency {
    model: Arc<dyn LatencyModel>,
    speedup: Speedup,
}

impl Latency {
    /// A model that runs `speedup` times as fast.
    pub fn new(model: impl LatencyModel + 'static, speedup: Speedup) -> Self {
        Self::shared(Arc::new(model), speedup)
    }

    /// The same of a model that others may use, too.
    pub fn shared(model: Arc<dyn LatencyModel>, speedup: Speedup) -> Self {
        Self { model, speedup }
    }

    /// Whether the time of the iteration is extrapolated.
    pub fn extrapolates(&self, batch: &Batch) -> bool {
        self.model.extrapolates(batch)
    }

    /// How many of the first `iterations` of [`decode_iterations`](Self::decode_iterations) are extrapolated.
    pub fn extrapolated_decodes(&self, first: StepWork, kv_capacity_tokens: u64, iterations: usize) -> u64 {
        self.model.extrapolated_decodes(first, kv_capacity_tokens, iterations)
    }

    /// How long a pass takes that data-parallel ranks make together; `own` is what the slowest of them computes, of `tokens`
    /// tokens in all.
    pub fn iteration_of_ranks(&self, own: &Batch, tokens: u64) -> Result<Duration, LatencyError> {
        self.duration(self.model.pass_of_ranks(own, tokens))
    }

    /// Data-parallel ranks over which the model spreads a batch.
    pub fn ranks(&self) -> u32 {
        self.model.ranks()
    }

    /// What the host of the engine takes besides; no speedup divides it.
    pub fn host(&self) -> Host {
        self.model.host()
    }

    /// What the times are estimated from, if nothing of them was measured.
    pub fn estimate(&self) -> Option<&str> {
        self.model.estimate()
    }

    /// How long the iteration takes.
    ///
    /// Each part of the pass is rounded to nanoseconds before *and* after its division by the speedup, since the
    /// recorded times of other simulators were.
    pub fn iteration(&self, batch: &Batch) -> Result<Duration, LatencyError> {
        self.duration(self.model.pass(batch))
    }

    /// How long iterations take in which the same requests decode a token each, one after the other; `first` is what the
    /// first of them computes.
    ///
    /// Returns how many of `durations` it has set: all, or those before the first one for which
    /// [`iteration`](Self::iteration) fails.
    ///
    /// # Panics
    /// If there are more than [`MOST_DECODES`].
    pub fn decode_iterations(
        &self,
        first: StepWork,
        kv_capacity_tokens: u64,
        durations: &mut [Duration],
    ) -> usize {
        let mut passes = [PassTime::default(); MOST_DECODES];
        let passes = &mut passes[..durations.len()];
        self.model.decode_passes(first, kv_capacity_tokens, passes);
        for (set, (pass, duration)) in passes.iter().zip(durations).enumerate() {
            match self.duration(*pass) {
                Ok(known) => *duration = known,
                Err(_) => return set,
            }
        }
        passes.len()
    }

    #[inline(always)]
    #[expect(
        clippy::inline_always,
        reason = "the compiler declines, for a twentieth of a run of long outputs"
    )]
    fn duration(&self, PassTime { prompt_ms, decode_ms }: PassTime) -> Result<Duration, LatencyError> {
        Ok(part(prompt_ms, self.speedup.prompt)? + part(decode_ms, self.speedup.decode)?)
    }
}

/// A part of a pass, sped up.
#[inline(always)]
#[expect(clippy::inline_always, reason = "as its caller")]
#[expect(clippy::float_cmp, reason = "only a division by exactly 1 changes nothing")]
fn part(ms: f64, ratio: f64) -> Result<Duration, LatencyError> {
    // What is nothing stays nothing, and a division by 1 changes nothing.
    if ms == 0.0 {
        return Ok(Duration::ZERO);
    }
    let no_duration = |_| LatencyError::NoDuration { ms, ratio };
    let exact = Duration::from_ms(ms).map_err(no_duration)?;
    if ratio == 1.0 { Ok(exact) } else { exact.divided_by(ratio).map_err(no_duration) }
}

/// Why an iteration has no duration.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum LatencyError {
    /// A speedup that is no positive number.
    Speedup {
        /// Which one.
        name: &'static str,
        /// Its value.
        ratio: f64,
    },
    /// A model gave a time that does not fit 64-bit nanoseconds after its division by the speedup.
    NoDuration {
        /// What the model said.
        ms: f64,
        /// The speedup it is divided by.
        ratio: f64,
    },
}

settings_error!(LatencyError);

impl From<&LatencyError> for Message {
    fn from(error: &LatencyError) -> Self {
        match *error {
            LatencyError::Speedup { name, ratio } => {
                message!("{} is {}, but a speedup must be a finite number above 0", Self::key(name), ratio)
            }
            LatencyError::NoDuration { ms, ratio } => message!(
                "the latency model gave {} ms, which divided by a speedup of {} does not fit 64-bit nanoseconds",
                ms,
                format!("{ratio:e}")
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Fixed(PassTime);

    impl LatencyModel for Fixed {
        fn pass(&self, _: &Batch) -> PassTime {
            self.0
        }
    }

    fn check(prompt_ms: f64, decode_ms: f64, speedup: (f64, f64), expected_ns: u64) {
        let speedup = Speedup::new(speedup.0, speedup.1).unwrap();
        let latency = Latency::new(Fixed(PassTime { prompt_ms, decode_ms }), speedup);
        assert_eq!(latency.iteration(&Batch::default()).unwrap().as_ns(), expected_ns);
    }

    #[test]
    fn the_decode_part_is_divided_by_both_ratios() {
        check(10.0, 8.0, (1.0, 1.0), 18_000_000);
        check(10.0, 8.0, (2.0, 1.0), 9_000_000);
        check(10.0, 8.0, (2.0, 4.0), 6_000_000);
    }

    #[test]
    fn each_part_is_rounded_before_and_after_the_division() {
        // 0.9765625 µs is a tie that goes to 976562 ns; a third of that is 325520.67.
        check(0.9765625, 0.0, (3.0, 1.0), 325_521);
        check(0.0000004, 0.0000004, (1.0, 1.0), 0);
    }

    #[test]
    fn speedups_must_be_positive_numbers() {
        for (ratio, decode) in
            [(0.0, 1.0), (-1.0, 1.0), (f64::NAN, 1.0), (1.0, f64::INFINITY), (1e200, 1e200)]
        {
            assert!(Speedup::new(ratio, decode).is_err(), "{ratio} {decode}");
        }
    }

    #[test]
    fn a_time_that_does_not_fit_is_an_error() {
        let slow = Latency::new(
            Fixed(PassTime { prompt_ms: 1.0, decode_ms: 0.0 }),
            Speedup::new(1e-300, 1.0).unwrap(),
        );
        let error = slow.iteration(&Batch::default()).unwrap_err();
        assert!(matches!(error, LatencyError::NoDuration { .. }), "{error}");
    }
}
