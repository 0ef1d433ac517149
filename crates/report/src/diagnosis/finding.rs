//! A finding: what is wrong with a run, in a sentence with its figures.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::tested::Tested;
use crate::report::Settings;

/// What can be wrong with a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// Requests were turned away or given up.
    Rejections,
    /// Requests came faster than they were served until the last of them.
    Overloaded,
    /// A few prompts that are far longer than others held up the rest.
    LongPrompt,
    /// Requests lost their KV blocks to others again and again.
    PreemptionStorm,
    /// Requests waited for an engine while more came than it could serve, for a time.
    QueueAtPeak,
    /// Prompts were computed again although an earlier request had their beginning.
    PoorReuse,
    /// Requests waited while prompts were computed.
    PrefillBound,
    /// Requests got their tokens late, since prompts were computed beside them.
    PrefillStalls,
    /// Requests waited for a seat in the batch.
    DecodeBoundBatch,
    /// Requests waited for room for their KV.
    DecodeBoundKv,
    /// Requests waited for one worker while another one had nothing to wait for.
    WorkerImbalance,
    /// One of prefill and decode pool had too much to do, and the other one too little.
    PoolRatio,
    /// The first token waited for KV on its way.
    LinkBound,
}

impl FindingKind {
    /// Its name in reports.
    pub fn name(self) -> String {
        crate::summary::name(self)
    }
}

/// What is wrong with a run, and what would show it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// What is wrong: `rejections`, `overloaded`, `long_prompt`, `preemption_storm`, `queue_at_peak`, `poor_reuse`,
    /// `prefill_bound`, `prefill_stalls`, `decode_bound_batch`, `decode_bound_kv`, `worker_imbalance`, `pool_ratio` or `link_bound`. A later
    /// release may know more.
    pub kind: String,
    /// The same in a sentence, with the main figures.
    pub sentence: String,
    /// The figures that it follows from.
    pub evidence: Vec<Evidence>,
    /// The run that would test it; null where no setting does.
    pub what_if: Option<WhatIf>,
}

/// A figure behind a finding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Evidence {
    /// What it is.
    pub name: String,
    /// The figure.
    pub value: f64,
    /// Its unit: `ms`, `share` (from 0 to 1), `requests`, `requests/s`, `tokens`, `workers`, `count`.
    pub unit: String,
}

/// Another run that tests a finding.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WhatIf {
    /// What is otherwise, in a few words.
    pub change: String,
    /// The settings that are, by their keys; of one within another, with a dot between them.
    pub settings: Settings,
    /// The command, where the settings of the run are in `config.toml`.
    pub command: String,
    /// What came of that run; absent where it was not made (`diagnose` makes those of the first findings).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tested: Option<Tested>,
}

impl Finding {
    pub(crate) fn new(kind: FindingKind, sentence: String) -> Self {
        Self { kind: kind.name(), sentence, evidence: Vec::new(), what_if: None }
    }

    pub(crate) fn with(mut self, name: &str, value: f64, unit: &str) -> Self {
        // A figure without a sample is not shown.
        if value.is_finite() {
            self.evidence.push(Evidence { name: name.to_owned(), value, unit: unit.to_owned() });
        }
        self
    }

    pub(crate) fn tested_by(mut self, what_if: Option<WhatIf>) -> Self {
        self.what_if = what_if;
        self
    }
}

/// How the command of a what-if begins.
const COMMAND: &str = "servecast replay --config config.toml ";

impl WhatIf {
    /// The flags that make the difference.
    pub fn flags(&self) -> &str {
        self.command.strip_prefix(COMMAND).unwrap_or(&self.command)
    }

    /// The run in which one setting has another value.
    pub(crate) fn one(change: &str, key: &str, before: Option<&Value>, value: Value) -> Self {
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        // Beside the run as it was, where that says something.
        let values = match before {
            Some(before) if !before.is_null() => format!("{},{}", text(before), text(&value)),
            _ => text(&value),
        };
        let command = format!("{COMMAND}--vary {key}={values}");
        Self { change: change.to_owned(), settings: [(key.to_owned(), value)].into(), command, tested: None }
    }

    /// The run in which several settings, some within others, have other values.
    pub(super) fn varied(change: &str, values: &[(String, Value)]) -> Self {
        let flags: Vec<String> =
            values.iter().map(|(path, value)| format!("--vary {path}={value}")).collect();
        Self {
            change: change.to_owned(),
            settings: values.iter().cloned().collect(),
            command: format!("{COMMAND}{}", flags.join(" ")),
            tested: None,
        }
    }

    /// The run in which several settings have other values.
    pub(super) fn several(change: &str, values: &[(String, Value)]) -> Self {
        let flags: Vec<String> =
            values.iter().map(|(key, value)| format!("--{} {value}", key.replace('_', "-"))).collect();
        Self {
            change: change.to_owned(),
            settings: values.iter().cloned().collect(),
            command: format!("{COMMAND}{}", flags.join(" ")),
            tested: None,
        }
    }
}
