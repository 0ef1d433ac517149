//! What surrounds the GPU, and how far off times are, as fitted to measured servers: `data/constants.toml`.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::Deserialize;
use servecast_latency::{ErrorBar, GpuSheet, Host};

use crate::compose::Measured;
use crate::family::{family, generation};
use crate::setup::{EngineName, OpsSetup};

const TEXT: &str = include_str!("../data/constants.toml");

/// Fitted constants.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Constants {
    #[serde(rename = "schema")]
    _schema: u32,
    /// What they were fitted to.
    pub source: String,
    /// By engine.
    #[serde(default)]
    front_end: BTreeMap<String, FrontEnd>,
    /// By engine.
    #[serde(default)]
    prompt: BTreeMap<String, PromptFactor>,
    #[serde(default)]
    factor: Vec<Factor>,
    /// From the closest to the widest.
    #[serde(default)]
    error: Vec<Bar>,
    /// The same by GPU, for listings: what a deployment takes goes by its family first.
    #[serde(default)]
    gpu: Vec<GpuBar>,
}

/// From sending a request to when it is at the engine.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrontEnd {
    /// Of each request.
    pub us: f64,
    /// Of each 1,000 tokens of its prompt.
    pub us_per_1k_prompt_tokens: f64,
    /// Measured runs that it was fitted to.
    pub n: u32,
    /// Mean error of TTFT that is left, in per cent.
    pub ttft_mape: f64,
}

/// What multiplies the times of passes with prompts of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PromptFactor {
    factor: f64,
    /// Measured runs that it was fitted to.
    n: u32,
}

/// What multiplies the times of passes without prompts of some models, and their own front end.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Factor {
    engine: String,
    generation: String,
    family: String,
    #[serde(rename = "factor")]
    decodes: f64,
    front_end_us: f64,
    front_end_us_per_1k_prompt_tokens: f64,
    /// Measured runs that they were fitted to.
    n: u32,
    /// Mean errors that are left, in per cent.
    tpot_mape: f64,
    ttft_mape: f64,
}

/// How far off runs were that were left out of the fit, in per cent.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bar {
    engine: Option<String>,
    generation: Option<String>,
    family: Option<String>,
    n: u32,
    tpot_mape: f64,
    tpot_p90: f64,
    ttft_mape: f64,
    ttft_p90: f64,
}

/// How far off the runs on a GPU were that were left out of the fit, in per cent.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct GpuBar {
    gpu: String,
    n: u32,
    tpot_mape: f64,
    tpot_p90: f64,
    ttft_mape: f64,
    ttft_p90: f64,
}

/// Constants that cannot be read.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct ConstantsError(String);

impl Constants {
    /// Those that come with servecast.
    ///
    /// # Panics
    /// Never: a test reads the same text.
    pub fn built_in() -> &'static Self {
        static BUILT_IN: OnceLock<Constants> = OnceLock::new();
        BUILT_IN.get_or_init(|| Self::from_toml(TEXT).expect("a test reads the same text"))
    }

    /// None: no front end, no factor, nothing known of the error.
    pub fn none() -> Self {
        Self::default()
    }

    /// Reads them in the form of `data/constants.toml`.
    pub fn from_toml(text: &str) -> Result<Self, ConstantsError> {
        let constants: Self = toml::from_str(text).map_err(|error| ConstantsError(error.to_string()))?;
        let is_wrong = |factor: &&Factor| !(0.1..=10.0).contains(&factor.decodes);
        if let Some(Factor { engine, family, decodes, .. }) = constants.factor.iter().find(is_wrong) {
            return Err(ConstantsError(format!(
                "the `factor` of {engine} and {family} is {decodes}, but must be from 0.1 to 10"
            )));
        }
        if let Some((engine, prompt)) =
            constants.prompt.iter().find(|(_, prompt)| !(0.1..=10.0).contains(&prompt.factor))
        {
            let factor = prompt.factor;
            return Err(ConstantsError(format!(
                "`prompt.{engine}.factor` is {factor}, but must be from 0.1 to 10"
            )));
        }
        let of_engines = constants
            .front_end
            .iter()
            .map(|(engine, front_end)| (engine.clone(), [front_end.us, front_end.us_per_1k_prompt_tokens]));
        let of_families = constants.factor.iter().map(|factor| {
            let name = format!("{} and {}", factor.engine, factor.family);
            (name, [factor.front_end_us, factor.front_end_us_per_1k_prompt_tokens])
        });
        for (name, times) in of_engines.chain(of_families) {
            if !times.iter().all(|us| Host::is_time(*us)) {
                return Err(ConstantsError(format!(
                    "the front end of {name} has {} and {} µs, but times are from 0 to an hour",
                    times[0], times[1]
                )));
            }
        }
        Ok(constants)
    }

    /// Constants whose error is not known.
    pub(crate) fn of(
        source: String,
        front_end: BTreeMap<String, FrontEnd>,
        prompt: BTreeMap<String, PromptFactor>,
        factor: Vec<Factor>,
    ) -> Self {
        Self { source, front_end, prompt, factor, ..Self::default() }
    }

    /// The same without factors and front ends of families.
    #[must_use]
    pub fn without_factors(&self) -> Self {
        Self { factor: Vec::new(), ..self.clone() }
    }

    /// The host of a setup as a server with HTTP in front: that of its family, if enough runs of it were measured, or that
    /// of its engine.
    pub fn host(&self, setup: &OpsSetup) -> Host {
        let of_engine = self.front_end.get(setup.engine.name());
        let of_engine =
            of_engine.map_or([0.0; 2], |front_end| [front_end.us, front_end.us_per_1k_prompt_tokens]);
        let [front_end_us, front_end_us_per_1k_prompt_tokens] = self
            .of_family(setup)
            .map_or(of_engine, |own| [own.front_end_us, own.front_end_us_per_1k_prompt_tokens]);
        Host { front_end_us, front_end_us_per_1k_prompt_tokens, ..Host::NONE }
    }

    /// What multiplies passes with prompts of an engine.
    pub fn prompt_factor(&self, engine: EngineName) -> f64 {
        self.prompt.get(engine.name()).map_or(1.0, |prompt| prompt.factor)
    }

    /// What multiplies passes without prompts of a setup, if enough runs of its kind were measured.
    pub fn factor(&self, setup: &OpsSetup) -> Option<f64> {
        self.of_family(setup).map(|own| own.decodes)
    }

    fn of_family(&self, setup: &OpsSetup) -> Option<&Factor> {
        let (generation, family) = (generation(&setup.gpu.name), family(&setup.model_name));
        let is_of = |factor: &&Factor| {
            (factor.engine.as_str(), &factor.generation, &factor.family)
                == (setup.engine.name(), &generation, &family)
        };
        self.factor.iter().find(is_of)
    }

    /// How far off times of a setup are, by the closest runs of which enough were measured. Those had tables of all their
    /// operators: where there are none of some, it is no less than the error of any wider group.
    pub fn error_bar(&self, setup: &OpsSetup, measured: Measured) -> ErrorBar {
        if measured == Measured::Nothing {
            return ErrorBar::unknown("an estimate: no operator was measured on this GPU");
        }
        let (generation, family) = (generation(&setup.gpu.name), family(&setup.model_name));
        let own = [setup.engine.name(), generation.as_str(), family.as_str()];
        let is_of = |bar: &&Bar| {
            let keys = [&bar.engine, &bar.generation, &bar.family];
            keys.into_iter().zip(own).all(|(key, own)| key.as_deref().is_none_or(|key| key == own))
        };
        let mut bars = self.error.iter().filter(is_of);
        let Some(bar) = bars.next() else {
            return ErrorBar::unknown("no measured run is like it");
        };
        let same = match (bar.engine.is_some(), bar.generation.is_some(), bar.family.is_some()) {
            (true, true, true) => "of the same family, engine and GPU generation",
            (true, false, true) => "of the same family and engine",
            (true, _, false) => "of the same engine and other families",
            (false, ..) => "of other families and engines",
        };
        let times = |bar: &Bar| [[bar.tpot_mape, bar.tpot_p90], [bar.ttft_mape, bar.ttft_p90]];
        if measured == Measured::All {
            return known(bar.n, times(bar), same);
        }
        let wider = |one: [[f64; 2]; 2], other: &Bar| {
            let other = times(other);
            [0, 1].map(|time| [0, 1].map(|figure| one[time][figure].max(other[time][figure])))
        };
        let widest = bars.fold(times(bar), wider);
        let n = self.error.last().map_or(bar.n, |all| all.n);
        known(n, widest, "of other families and engines, whose operators were all measured")
    }

    /// How far off times are on a GPU, if enough runs on it were measured.
    pub fn error_of_gpu(&self, gpu: &GpuSheet) -> Option<ErrorBar> {
        let is_it = |bar: &&GpuBar| GpuSheet::by_name(&bar.gpu).is_some_and(|sheet| sheet.name == gpu.name);
        let bar = self.gpu.iter().find(is_it)?;
        let times = [[bar.tpot_mape, bar.tpot_p90], [bar.ttft_mape, bar.ttft_p90]];
        Some(known(bar.n, times, "on it, of all engines and families"))
    }
}

/// An error of so many runs: mean and 90th percentile of both times in per cent.
fn known(n: u32, [tpot, ttft]: [[f64; 2]; 2], which: &str) -> ErrorBar {
    let share = |percent: f64| Some(percent / 100.0);
    ErrorBar {
        tpot_p90: share(tpot[1]),
        ttft_p90: share(ttft[1]),
        tpot_mape: share(tpot[0]),
        ttft_mape: share(ttft[0]),
        n: Some(u64::from(n)),
        basis: format!("{n} runs {which}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_engine_has_a_front_end_and_an_error_with_their_source() {
        let constants = Constants::built_in();
        assert!(!constants.source.is_empty());
        for engine in [EngineName::Vllm, EngineName::Sglang, EngineName::Trtllm] {
            assert!(constants.front_end[engine.name()].us > 0.0, "{engine:?}");
            assert!(constants.front_end[engine.name()].n >= 12, "{engine:?}");
            let is_alone = |bar: &Bar| bar.engine.as_deref() == Some(engine.name()) && bar.family.is_none();
            assert!(constants.error.iter().any(is_alone), "{engine:?}");
        }
        assert!(constants.prompt.values().all(|prompt| prompt.n >= 12));
        assert!(constants.error.iter().all(|bar| bar.n >= 12));
        let of_gpu = |gpu: &str| constants.error_of_gpu(&GpuSheet::by_name(gpu).unwrap());
        for gpu in ["H100-SXM", "H200", "B200"] {
            assert!(of_gpu(gpu).is_some_and(|bar| bar.n >= Some(12)), "{gpu}");
        }
        assert_eq!(of_gpu("A100-SXM"), None);
        assert!(
            constants
                .factor
                .iter()
                .all(|factor| factor.n >= 12 && factor.tpot_mape > 0.0 && factor.ttft_mape > 0.0)
        );
        let widest = constants.error.last().unwrap();
        assert!(widest.engine.is_none() && widest.family.is_none(), "{widest:?}");
    }

    #[test]
    fn constants_that_cannot_be_are_refused() {
        let text = "schema = 1\nsource = \"x\"\n[[factor]]\nengine = \"vllm\"\ngeneration = \"Hopper\"\n\
                    family = \"Llama\"\nfactor = 0.0\nfront_end_us = 1.0\n\
                    front_end_us_per_1k_prompt_tokens = 1.0\nn = 20\ntpot_mape = 3.0\nttft_mape = 3.0\n";
        let error = Constants::from_toml(text).unwrap_err().to_string();
        assert_eq!(error, "the `factor` of vllm and Llama is 0, but must be from 0.1 to 10");
        assert!(Constants::from_toml("schema = 1\nsorce = \"x\"\n").is_err());
    }
}
