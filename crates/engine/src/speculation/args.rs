//! Settings of speculative decoding, by the names of vLLM's `speculative_config`.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use servecast_latency::{LatencyModel, Speedup};
use servecast_types::{Duration, Message, message};

use super::acceptance::{Acceptance, conditional, with_least_variance, with_mean_length};
use super::drafter::Drafter;
use super::{MOST_DRAFTS, Speculation};
use crate::args::VllmVersion;
use crate::{ConfigError, EngineArgs, EngineConfig, EngineType, LatencySpec};

/// Speculative decoding: who proposes tokens, how many, and how many of them are accepted.
///
/// The first keys are those of vLLM's `speculative_config`, with its meaning. vLLM finds out in operation how many drafts
/// are accepted; here that has to be given, by one of the `acceptance` keys or one of vLLM's `synthetic` ones.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SpeculativeArgs {
    /// Who proposes tokens.
    pub method: Option<SpeculativeMethod>,
    /// Tokens that are proposed for a request in each step.
    pub num_speculative_tokens: Option<u32>,
    /// How many are proposed by the number of requests in a step: ranges `[from, to, tokens]`, the first from 1; beyond the
    /// last, and between them, as in the one before.
    pub num_speculative_tokens_per_batch_size: Option<Vec<(u32, u32, u32)>>,
    /// The drafter: its name on the Hugging Face hub, or the path of its `config.json`; its time is worked out from that by
    /// latency models that know shapes.
    pub model: Option<String>,
    /// GPUs that share each layer of the drafter; absent, as many as share those of the model.
    pub draft_tensor_parallel_size: Option<u32>,
    /// µs that a pass of the drafter takes, before any speedup, instead of what its shape says, or where the latency model
    /// knows no shapes; absent there, it takes no time.
    pub draft_pass_us: Option<f64>,
    /// MTP layers that the model has; with more than one of them in use the scheduler keeps a prompt's last chunk longer.
    pub num_nextn_predict_layers: Option<u32>,
    /// Whether all tokens are proposed in one pass of the drafter (P-EAGLE, PARD).
    pub parallel_drafting: bool,
    /// Whether the last block of a prefix hit is kept, whatever the drafter would need.
    pub disable_eagle_block_drop: bool,
    /// Whether the hash of a block covers nothing behind it, as before vLLM 0.33.
    pub disable_lookahead_block_hashes: bool,
    /// Longest n-gram that is looked up; without effect here, since the acceptance is given.
    pub prompt_lookup_max: Option<u32>,
    /// Shortest n-gram that is looked up; without effect here, since the acceptance is given.
    pub prompt_lookup_min: Option<u32>,
    /// vLLM's `synthetic` says that acceptance is drawn by the two keys that follow; without effect here.
    pub rejection_sample_method: Option<String>,
    /// vLLM's name of `acceptance_rates`.
    pub synthetic_acceptance_rates: Option<Vec<f64>>,
    /// Tokens that a verification gives in the mean, the model's own among them, by vLLM's rule: the first drafts are always
    /// accepted, the next one sometimes, the others never.
    pub synthetic_acceptance_length: Option<f64>,
    /// By position, the share of verifications in which the draft there and all before it are accepted, as vLLM logs it
    /// ("Per-position acceptance rate"): one for each proposed token, none above the one before.
    pub acceptance_rates: Option<Vec<f64>>,
    /// By position, how often the draft there is accepted if all before it were.
    pub conditional_acceptance_rates: Option<Vec<f64>>,
    /// Tokens that a verification gives in the mean, the model's own among them, as vLLM logs it ("Mean acceptance
    /// length"); each draft is accepted equally often if all before it were.
    pub acceptance_length: Option<f64>,
    /// Seed of what is accepted; the same seed gives the same verification of the same request.
    pub acceptance_seed: u64,
}

/// Who proposes tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SpeculativeMethod {
    /// What followed the same n-gram in the request.
    Ngram,
    /// The same, looked up on the GPU.
    NgramGpu,
    /// What followed the same suffix in any request.
    Suffix,
    /// An EAGLE head.
    Eagle,
    /// An EAGLE-3 head.
    Eagle3,
    /// Multi-token prediction layers of the model.
    Mtp,
    /// Another, smaller model.
    DraftModel,
    /// A `DFlash` head, which proposes all tokens in one pass.
    Dflash,
}

impl SpeculativeMethod {
    /// Whether draft KV is made of the model's hidden states.
    fn reads_hidden_states(self) -> bool {
        matches!(self, Self::Eagle | Self::Eagle3 | Self::Mtp | Self::Dflash)
    }

    /// Whether draft KV at a position depends on the token behind it.
    fn reads_next_token(self) -> bool {
        self.reads_hidden_states() && self != Self::Dflash
    }

    /// Whether it is a network that computes drafts, and has KV of its own.
    pub fn has_network(self) -> bool {
        self.reads_hidden_states() || self == Self::DraftModel
    }
}

const SECTION: &str = "speculative_config";

/// Longest pass of a drafter, in µs: an hour.
const MOST_PASS_US: f64 = 3.6e9;

/// Most GPUs that share each layer of a drafter, as of the model.
const MOST_DRAFT_GPUS: u32 = 1024;

/// Options of `roofline` and `ops` that say what the model is, not the drafter.
const OF_MODEL: [&str; 4] = ["model", "dtype", "dp", "ep"];

impl EngineArgs {
    /// Speculative decoding as it is set, checked.
    pub(crate) fn speculation(&self) -> Result<Option<Speculation>, ConfigError> {
        let Some(given) = &self.speculative_config else { return Ok(None) };
        if self.engine_type == EngineType::Sglang {
            // Of this it has the acceptance; the rest are settings of its own.
            return Ok(None);
        }
        if self.engine_type != EngineType::Vllm {
            return Err(ConfigError::Conflict(message!(
                "{speculative_config} is a setting of vLLM, but {engine_type} is `{}`",
                self.engine_type.name()
            )));
        }
        let method =
            given.method.ok_or_else(|| missing("method", "who proposes tokens, such as `eagle3`"))?;
        let drafts = given.drafts()?;
        let ranges = given.drafts_by_requests(drafts)?;
        let acceptance = Acceptance::new(given.acceptance_seed, &given.rates(drafts)?);
        let needs_drop = method.reads_next_token() && !given.disable_eagle_block_drop;
        let modules = given.num_nextn_predict_layers.unwrap_or(1).min(drafts);
        let prefill_lookahead = match method {
            SpeculativeMethod::Mtp if modules > 1 => drafts,
            method => u32::from(method.reads_hidden_states()),
        };
        let hashes_ahead = needs_drop
            && !given.disable_lookahead_block_hashes
            && self.vllm_version >= VllmVersion::V0_33
            && self.enable_prefix_caching
            && self.kv_role.is_none()
            && self.kv_offloading_size.is_none();
        let lookahead = match method {
            SpeculativeMethod::Dflash => drafts + 1,
            method if method.has_network() => drafts,
            _ => 0,
        };
        let input_slots = match (method, given.parallel_drafting) {
            (SpeculativeMethod::DraftModel, true) => drafts,
            (SpeculativeMethod::DraftModel, false) => 1,
            (SpeculativeMethod::Eagle | SpeculativeMethod::Eagle3, true) => drafts - 1,
            _ => 0,
        };
        let speculation = Speculation {
            drafts,
            drafts_by_requests: ranges,
            lookahead,
            input_slots,
            hash_lookahead: if hashes_ahead { prefill_lookahead } else { 0 },
            prefill_lookahead,
            drops_last_hit: needs_drop && !hashes_ahead,
            stores_verified: self.vllm_version >= VllmVersion::V0_33,
            acceptance,
        };
        self.check_speculation(given, &speculation)?;
        Ok(Some(speculation))
    }

    /// The drafter, if how long it takes is given.
    pub(crate) fn drafter(&self, speedup: Speedup) -> Result<Option<Drafter>, ConfigError> {
        let Some(given) = &self.speculative_config else { return Ok(None) };
        let Some(us) = given.draft_pass_us else { return Ok(None) };
        if !(0.0..=MOST_PASS_US).contains(&us) {
            return Err(wrong(
                "draft_pass_us",
                us,
                format!("expected microseconds from 0 to {MOST_PASS_US:e}"),
            ));
        }
        let pass = speedup.of_decode(Duration::from_ns((us * 1e3).round() as u64))?;
        Ok(Some(Drafter::of_time(pass, given.is_parallel())))
    }

    /// Settings whose latency model is that of the drafter, if it takes time and that follows from its shape.
    ///
    /// # Errors
    /// If nothing says what its shape is, or no number of GPUs can share it.
    pub fn of_drafter(&self) -> Result<Option<Self>, ConfigError> {
        let drafts = self.speculative_config.as_ref().filter(|given| {
            given.draft_pass_us.is_none() && given.method.is_some_and(SpeculativeMethod::has_network)
        });
        let Some(given) = drafts else { return Ok(None) };
        if !matches!(self.latency_spec()?, LatencySpec::Ops(_) | LatencySpec::Roofline(_)) {
            return Ok(None);
        }
        given.check_gpus()?;
        if self.drafts_by_own_layers() {
            if given.draft_tensor_parallel_size.is_some() {
                return Err(ConfigError::Conflict(message!(
                    "{speculative_config.draft_tensor_parallel_size} is for a drafter of its own ({speculative_config.model}): \
                     layers of the model that draft run on its GPUs"
                )));
            }
            return Ok(Some(self.of_own_layers()));
        }
        let model = given.model.clone().ok_or_else(|| {
            ConfigError::Conflict(message!(
                "{speculative_config.model} is missing: iteration times are worked out from shapes, and that of the drafter \
                 is not given (the name of a known model, or its `config.json`); {speculative_config.draft_pass_us} says how \
                 long a pass of it takes instead"
            ))
        })?;
        let latency = self.latency.as_ref().map(|text| match text.split_once(':') {
            None => text.clone(),
            Some((kind, options)) => {
                let of_model =
                    |option: &&str| OF_MODEL.contains(&option.split('=').next().unwrap_or("").trim());
                let kept: Vec<&str> = options.split(',').filter(|option| !of_model(option)).collect();
                format!("{kind}:{}", kept.join(","))
            }
        });
        let tensor_parallel_size = given.draft_tensor_parallel_size.or(self.tensor_parallel_size);
        let (data_parallel_size, expert_parallel_size, dtype) = (None, None, None);
        let of_model = Self { speculative_config: None, ..self.clone() };
        Ok(Some(Self {
            model: Some(model),
            latency,
            tensor_parallel_size,
            data_parallel_size,
            expert_parallel_size,
            dtype,
            ..of_model
        }))
    }

    /// Whether layers of the model itself draft, of which nothing else is said.
    pub fn drafts_by_own_layers(&self) -> bool {
        let given = self.speculative_config.as_ref();
        given.is_some_and(|given| {
            given.method == Some(SpeculativeMethod::Mtp)
                && given.model.is_none()
                && given.draft_pass_us.is_none()
        })
    }

    /// The same engine with an MTP module of the model alone.
    fn of_own_layers(&self) -> Self {
        let text = self.latency.as_deref().filter(|text| *text != "auto").unwrap_or("ops:");
        Self { latency: Some(format!("{text},part=mtp")), speculative_config: None, ..self.clone() }
    }

    /// Refuses what leaves no room for drafts, so that requests would never get on.
    fn check_speculation(
        &self,
        given: &SpeculativeArgs,
        speculation: &Speculation,
    ) -> Result<(), ConfigError> {
        let Speculation { drafts, lookahead, input_slots, .. } = *speculation;
        let conflict = |message| Err(ConfigError::Conflict(message));
        given.check_gpus()?;
        if given.parallel_drafting && input_slots == 0 && drafts > 1 {
            return conflict(message!(
                "{speculative_config.parallel_drafting} is true, but only `eagle`, `eagle3` and `draft_model` draft in \
                 parallel: leave it out"
            ));
        }
        let rows = 1 + drafts;
        let least = rows + input_slots;
        if let Some(budget) = self.max_num_batched_tokens.filter(|&budget| budget < least.max(lookahead + 1))
        {
            return conflict(message!(
                "{max_num_batched_tokens} is {}, but a request that verifies {} drafts takes {}: raise it or lower \
                 {speculative_config.num_speculative_tokens}",
                budget,
                drafts,
                least.max(lookahead + 1)
            ));
        }
        let threshold = self.long_prefill_token_threshold;
        if (1..rows).contains(&threshold) {
            return conflict(message!(
                "{long_prefill_token_threshold} is {}, but a request that verifies {} drafts computes {} tokens: raise it",
                threshold,
                drafts,
                rows
            ));
        }
        let block_size = self.resolved_block_size();
        if self.enable_prefix_caching && speculation.prefill_lookahead > block_size {
            return conflict(message!(
                "{block_size} is {}, but with prefix caching several MTP modules need blocks of at least \
                 {speculative_config.num_speculative_tokens}, which is {}",
                block_size,
                drafts
            ));
        }
        let usable = self.num_gpu_blocks - u32::from(self.reserve_null_block).min(self.num_gpu_blocks);
        let capacity = u64::from(usable) * u64::from(block_size);
        let needed = u64::from(rows + lookahead);
        // Groups of layers look for themselves.
        if self.kv_groups.is_none() && needed > capacity {
            return conflict(message!(
                "{speculative_config.num_speculative_tokens} is {}: a request needs KV slots for {} tokens to verify its \
                 drafts, but the KV cache holds {}",
                drafts,
                needed,
                capacity
            ));
        }
        Ok(())
    }
}

impl EngineConfig {
    /// The same with a drafter whose passes `model` times.
    ///
    /// # Errors
    /// If the speedup of the settings is none.
    pub fn with_drafter(
        mut self,
        args: &EngineArgs,
        model: Arc<dyn LatencyModel>,
    ) -> Result<Self, ConfigError> {
        let is_parallel = args.speculative_config.as_ref().is_some_and(SpeculativeArgs::is_parallel);
        let speedup = Speedup::new(args.speedup_ratio, args.decode_speedup_ratio)?;
        self.drafter = Some(Drafter::of_model(model, speedup, is_parallel));
        Ok(self)
    }

    /// Whether drafts are proposed by a network, and take no time.
    pub fn drafts_for_nothing(&self, args: &EngineArgs) -> bool {
        let method = args.speculative_config.as_ref().and_then(|given| given.method);
        self.drafter.is_none() && method.is_some_and(SpeculativeMethod::has_network)
    }
}

impl EngineArgs {
    /// Which of so many drafts of SGLang are accepted: all that it goes by in `speculative_config`.
    pub(crate) fn acceptance_of_sglang(&self, drafts: u32) -> Result<Acceptance, ConfigError> {
        let given = self.speculative_config.clone().unwrap_or_default();
        let only_acceptance = SpeculativeArgs {
            acceptance_rates: given.acceptance_rates.clone(),
            conditional_acceptance_rates: given.conditional_acceptance_rates.clone(),
            acceptance_length: given.acceptance_length,
            acceptance_seed: given.acceptance_seed,
            ..SpeculativeArgs::default()
        };
        if only_acceptance != given {
            return Err(ConfigError::Conflict(message!(
                "{speculative_config} holds settings of vLLM: for SGLang give {sglang.speculative_algorithm} and \
                 {sglang.speculative_num_draft_tokens}, and here only how many drafts are accepted"
            )));
        }
        Ok(Acceptance::new(given.acceptance_seed, &given.rates(drafts)?))
    }
}

impl SpeculativeArgs {
    /// Whether all drafts come from one pass of the drafter.
    fn is_parallel(&self) -> bool {
        self.parallel_drafting || self.method == Some(SpeculativeMethod::Dflash)
    }

    fn check_gpus(&self) -> Result<(), ConfigError> {
        let wrong_number =
            self.draft_tensor_parallel_size.filter(|gpus| !(1..=MOST_DRAFT_GPUS).contains(gpus));
        wrong_number.map_or(Ok(()), |gpus| {
            let problem = format!("expected a whole number from 1 to {MOST_DRAFT_GPUS}");
            Err(wrong("draft_tensor_parallel_size", gpus, problem))
        })
    }

    fn drafts(&self) -> Result<u32, ConfigError> {
        let key = "num_speculative_tokens";
        let drafts =
            self.num_speculative_tokens.ok_or_else(|| missing(key, "how many tokens are proposed"))?;
        if !(1..=MOST_DRAFTS).contains(&drafts) {
            return Err(wrong(key, drafts, format!("expected 1 to {MOST_DRAFTS} tokens")));
        }
        Ok(drafts)
    }

    /// From how many scheduled requests on how many drafts are proposed.
    fn drafts_by_requests(&self, drafts: u32) -> Result<Box<[(u32, u8)]>, ConfigError> {
        let Some(given) = &self.num_speculative_tokens_per_batch_size else { return Ok(Box::default()) };
        let key = "num_speculative_tokens_per_batch_size";
        let refuse = |problem: &str| Err(wrong(key, serde_json::json!(given), problem.to_owned()));
        let mut ranges = given.clone();
        ranges.sort_unstable();
        if ranges.first().is_none_or(|&(from, ..)| from != 1) {
            return refuse("expected ranges [from, to, tokens], the first from 1 request on");
        }
        if ranges.iter().any(|&(from, to, _)| to < from) {
            return refuse("a range ends before it begins");
        }
        if ranges.windows(2).any(|pair| pair[1].0 <= pair[0].1) {
            return refuse("ranges overlap");
        }
        if ranges.iter().any(|&(_, _, tokens)| tokens > drafts) {
            return Err(wrong(
                key,
                serde_json::json!(given),
                message!(
                    "no more than {speculative_config.num_speculative_tokens} can be proposed, which is {}",
                    drafts
                ),
            ));
        }
        Ok(ranges.iter().map(|&(from, _, tokens)| (from, tokens as u8)).collect())
    }

    /// How often each draft is accepted if all before it were.
    fn rates(&self, drafts: u32) -> Result<Vec<f64>, ConfigError> {
        let by_rates = [
            ("acceptance_rates", &self.acceptance_rates, true),
            ("synthetic_acceptance_rates", &self.synthetic_acceptance_rates, true),
            ("conditional_acceptance_rates", &self.conditional_acceptance_rates, false),
        ];
        let by_length = [
            ("acceptance_length", self.acceptance_length),
            ("synthetic_acceptance_length", self.synthetic_acceptance_length),
        ];
        let mut found = None;
        let given = by_rates.iter().filter(|(_, rates, _)| rates.is_some()).map(|&(key, ..)| key);
        let lengths = by_length.iter().filter(|(_, length)| length.is_some()).map(|&(key, _)| key);
        for key in given.chain(lengths) {
            if let Some(other) = found.replace(key) {
                return Err(ConfigError::Conflict(message!(
                    "{} and {} both say how many drafts are accepted: give one of them",
                    Message::key(path(other)),
                    Message::key(path(key))
                )));
            }
        }
        for (key, rates, is_of_all) in by_rates {
            if let Some(rates) = rates {
                check_rates(key, rates, drafts, is_of_all)?;
                return Ok(if is_of_all { conditional(rates) } else { rates.clone() });
            }
        }
        for (key, length) in by_length {
            let Some(length) = length else { continue };
            if !(1.0..=f64::from(drafts + 1)).contains(&length) {
                let problem = format!(
                    "expected a number from 1 (no draft is ever accepted) to {} (all are)",
                    drafts + 1
                );
                return Err(wrong(key, length, problem));
            }
            let least_variance = key == "synthetic_acceptance_length";
            let rates = if least_variance { with_least_variance } else { with_mean_length };
            return Ok(rates(length, drafts));
        }
        Err(missing(
            "acceptance_rates",
            "how many drafts are accepted, which nothing else says, such as [0.67, 0.42, 0.26] (or give \
             `acceptance_length`)",
        ))
    }
}

/// Refuses what are no rates of `drafts` positions; `is_of_all`: a rate is that of all drafts up to its position.
fn check_rates(key: &'static str, rates: &[f64], drafts: u32, is_of_all: bool) -> Result<(), ConfigError> {
    let refuse = |problem: String| Err(wrong(key, serde_json::json!(rates), problem));
    if rates.len() != drafts as usize {
        return refuse(format!("expected one rate for each of the {drafts} proposed tokens"));
    }
    if let Some(rate) = rates.iter().find(|rate| !(0.0..=1.0).contains(*rate)) {
        return refuse(format!("{rate} is no share from 0 to 1"));
    }
    let rises = rates.iter().zip(&rates[1..]).find(|(before, rate)| is_of_all && rate > before);
    if let Some((before, rate)) = rises {
        return refuse(format!(
            "{rate} follows {before}, but a draft is accepted only if the one before it is, so that rates do not rise; \
             how often each is accepted if the one before it was are `conditional_acceptance_rates`"
        ));
    }
    Ok(())
}

fn path(key: &str) -> String {
    format!("{SECTION}.{key}")
}

fn wrong(key: &str, found: impl std::fmt::Display, problem: impl Into<Message>) -> ConfigError {
    ConfigError::wrong(&path(key), found, problem)
}

fn missing(key: &str, what: &str) -> ConfigError {
    ConfigError::Conflict(message!("{} is missing: it says {}", Message::key(path(key)), what.to_owned()))
}

#[cfg(test)]
mod tests;
