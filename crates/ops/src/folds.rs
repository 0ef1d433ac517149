//! Constants that were fitted without some of the measured runs: `data/cross-validation.toml`.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::constants::{Constants, Factor, FrontEnd, PromptFactor};

const TEXT: &str = include_str!("../data/cross-validation.toml");
/// Folds that scenarios are in, as in `tools/fit_constants.py`.
const FOLDS: u64 = 5;

/// What is left out of a fit together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeftOut {
    /// A fifth of the scenarios: model, GPU, engine, number format and lengths.
    Scenario,
    /// A family of models.
    Family,
    /// A GPU.
    Gpu,
}

impl LeftOut {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scenario => "scenario",
            Self::Family => "family",
            Self::Gpu => "gpu",
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Folds {
    #[serde(rename = "schema")]
    _schema: u32,
    source: String,
    fold: Vec<Fold>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fold {
    without: String,
    name: String,
    front_end: BTreeMap<String, FrontEnd>,
    #[serde(default)]
    prompt: BTreeMap<String, PromptFactor>,
    #[serde(default)]
    factor: Vec<Factor>,
}

/// The constants for each fold that was left out, by its name.
///
/// # Panics
/// Never: a test reads the same text.
pub fn constants_without(left_out: LeftOut) -> BTreeMap<String, Constants> {
    let folds: Folds = toml::from_str(TEXT).expect("a test reads the same text");
    let folds_of = folds.fold.into_iter().filter(|fold| fold.without == left_out.name());
    let source = folds.source;
    folds_of
        .map(|fold| (fold.name, Constants::of(source.clone(), fold.front_end, fold.prompt, fold.factor)))
        .collect()
}

/// The fold of a scenario, which is all that the text says of it: FNV-1a, whose low bits are mixed badly.
pub fn fold_of_scenario(scenario: &str) -> String {
    let hash = scenario.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    ((hash ^ (hash >> 32)) % FOLDS).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fold_has_constants_of_its_own() {
        let scenarios = constants_without(LeftOut::Scenario);
        assert_eq!(scenarios.keys().collect::<Vec<_>>(), ["0", "1", "2", "3", "4"]);
        assert!(constants_without(LeftOut::Family).len() >= 5);
        assert!(constants_without(LeftOut::Gpu).len() >= 3);
        for constants in scenarios.values() {
            assert_ne!(constants, Constants::built_in());
        }
    }

    /// As the tool in Python has it.
    #[test]
    fn a_scenario_is_in_the_fold_in_which_the_tool_has_it() {
        let fold = |scenario| fold_of_scenario(scenario);
        assert_eq!(fold("meta-llama/Llama-3.1-70B|H200|vllm|fp8|1024|1024"), "2");
        assert_eq!(fold("deepseek-ai/DeepSeek-R1|B200|sglang|nvfp4|8192|1024"), "0");
    }
}
