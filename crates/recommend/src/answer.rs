//! The answer, as programs read it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use servecast_report::{ErrorBar, SchemaVersion};

use crate::{Figures, Goal, Headroom, OverSeeds, Price, Tally};

/// JSON Schema of [`Recommendation`], as text.
pub const RECOMMENDATION_SCHEMA: &str = include_str!("../schema/recommendation.schema.json");

/// Most deployments of a list beside the ranking. An answer of everything that lost would be as large as the space.
pub const MOST_OTHERS: usize = 1000;

/// Which deployments keep the targets, the best first.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Recommendation {
    /// Version of the keys of this object.
    pub schema_version: SchemaVersion,
    /// The release of servecast that made it.
    pub servecast_version: String,
    /// What was replayed: the name of the trace's file, or that it was made.
    pub workload_name: String,
    /// Hash of what was replayed, as in a report.
    pub workload_hash: String,
    /// What that is, before any factor.
    pub workload: WorkloadFigures,
    /// The settings that all deployments have in common, as they were given, by the keys of a configuration file.
    pub given: BTreeMap<String, Value>,
    /// The targets.
    pub slo: Vec<String>,
    /// What was asked for; two of them for the deployments that no other one beats in both.
    pub objective: Vec<Goal>,
    /// GPUs up to which deployments were looked at.
    pub max_gpus: u32,
    /// Prices of GPUs.
    pub prices: Vec<Price>,
    /// Where the iteration times of the first place come from; of the first deployment that could be built if none keeps
    /// the targets.
    pub latency_source: String,
    /// How far off these are.
    pub latency_error: ErrorBar,
    /// The answer under each load.
    pub loads: Vec<LoadAnswer>,
}

/// What was replayed, in a few figures.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct WorkloadFigures {
    /// Requests.
    pub requests: u64,
    /// From the first arrival to the last, in ms; absent in a closed loop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub span_ms: Option<f64>,
    /// Mean length of prompts.
    pub mean_input_tokens: f64,
    /// Mean length of what is generated.
    pub mean_output_tokens: f64,
}

/// The answer under one load.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct LoadAnswer {
    /// Factor of the load.
    pub factor: f64,
    /// How many deployments had which fate.
    pub tally: Tally,
    /// Why engines refused settings, each reason with the number of deployments.
    pub refused: BTreeMap<String, u64>,
    /// The deployments that keep all targets and were not proved to be worse, the best first.
    pub ranking: Vec<Entry>,
    /// If there is none, those that were simulated to the end, the nearest first.
    pub nearest: Vec<Entry>,
    /// Those that were simulated to the end and are in neither: they miss a target, or are beaten in both objectives.
    /// The nearest to their targets first, 1000 at most.
    pub others: Vec<Entry>,
    /// Those whose runs were ended when a target was lost, the ones that came furthest first, 1000 at most.
    pub cut_off: Vec<CutOffEntry>,
    /// Whether the first place stays if iteration times are off by what they are known to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sure: Option<Sure>,
}

/// A deployment and what it came to.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Entry {
    /// In a few words.
    pub deployment: String,
    /// The settings that tell it from the others, by the keys of a configuration file.
    pub settings: BTreeMap<String, Value>,
    /// GPUs that it takes.
    pub gpus: u32,
    /// Settings of others that take as many GPUs and came to the same figures.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub same: Vec<BTreeMap<String, Value>>,
    /// What it costs, if prices are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<Cost>,
    /// What its run came to.
    pub figures: Figures,
    /// How much more load it takes, where that was looked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub headroom: Option<Headroom>,
    /// What the targets come to under synthetic loads of other seeds, where that was looked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub over_seeds: Option<OverSeeds>,
}

impl Entry {
    /// The deployment in a few words, and how many others came to the same.
    pub fn title(&self) -> String {
        match self.same.len() {
            0 => self.deployment.clone(),
            others => format!("{} (and {others} alike)", self.deployment),
        }
    }
}

/// A deployment whose run was ended, since a target was lost.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct CutOffEntry {
    /// In a few words.
    pub deployment: String,
    /// The settings that tell it from the others.
    pub settings: BTreeMap<String, Value>,
    /// GPUs that it takes.
    pub gpus: u32,
    /// What it costs an hour, if prices are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost_per_hour: Option<f64>,
    /// Which target was lost, and when.
    pub reason: String,
    /// Requests that had arrived by then.
    pub arrived: u64,
}

/// What a deployment costs, in the currency of the prices.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Cost {
    /// An hour: GPUs times price.
    pub per_hour: f64,
    /// The load: that, times the hours from the first arrival to the last token.
    pub total: f64,
    /// A million output tokens of completed requests.
    pub per_million_output_tokens: Option<f64>,
    /// A million tokens of completed requests, prompts and output.
    pub per_million_tokens: Option<f64>,
    /// A request that arrived.
    pub per_request: Option<f64>,
    /// A month of 730.5 hours.
    pub per_month: f64,
}

/// Whether the first place stays if iterations take more or less.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Sure {
    /// How far off iteration times are, as a share: that of TPOT which nine of ten measured runs do not exceed.
    pub iteration_time_error: f64,
    /// Whether the first one keeps its targets if iterations take that much more.
    pub first_keeps_if_slower: bool,
    /// The first one of a whole search in which they do; absent if none keeps its targets.
    pub if_slower: Option<Alternative>,
    /// The first one of a whole search in which iterations take that much less.
    pub if_faster: Option<Alternative>,
    /// Whether the first place is the same in all three.
    pub first_stays: bool,
}

/// The first place under other iteration times.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Alternative {
    /// In a few words.
    pub deployment: String,
    /// GPUs that it takes.
    pub gpus: u32,
    /// The settings that tell it from the others.
    pub settings: BTreeMap<String, Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(
        clippy::disallowed_methods,
        reason = "only the test that keeps the file fresh asks the environment"
    )]
    fn the_checked_in_schema_is_fresh() {
        let mut schema = schemars::schema_for!(Recommendation).to_value();
        // The order of keys must not depend on the features of serde_json that other crates switch on.
        schema.sort_all_objects();
        let fresh = serde_json::to_string_pretty(&schema).unwrap() + "\n";
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/schema/recommendation.schema.json");
        if std::env::var("UPDATE_SCHEMA").is_ok() {
            std::fs::write(file, fresh).unwrap();
        } else {
            assert!(fresh == RECOMMENDATION_SCHEMA, "run UPDATE_SCHEMA=1 cargo test -p servecast-recommend");
        }
    }
}
