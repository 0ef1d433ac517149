//! Speculative decoding: a decode batch verifies several tokens of each request.
//!
//! Before a pass a request has memory for two passes of drafts behind what is known to be computed, whatever it accepts;
//! that grows and never shrinks while it runs. What a pass accepts is known when its result is, so that with the overlap
//! schedule the next one is planned without it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use servecast_types::message;

use super::scheduler::{Scheduler, entry};
use super::settings::SglangArgs;
use crate::iteration::{Emitted, Iteration, Scheduled, Verified};
use crate::speculation::{Acceptance, MOST_DRAFTS};
use crate::step::{Entry, Step};
use crate::table::Slot;
use crate::{ConfigError, EngineArgs, EngineConfig};

/// Who proposes tokens to SGLang.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum SpeculativeAlgorithm {
    /// An EAGLE head.
    Eagle,
    /// An EAGLE-3 head.
    Eagle3,
    /// Another, smaller model.
    Standalone,
    /// What followed the same n-gram.
    Ngram,
}

/// Continuations of an n-gram that are followed at a time: the default of `--speculative-ngram-max-bfs-breadth`.
const NGRAM_BREADTH: u32 = 10;
/// Tokens that are verified with n-grams unless said otherwise.
const NGRAM_WIDTH: u32 = 12;

/// Speculative decoding, worked out from its settings.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SglangSpeculation {
    /// Tokens that a pass verifies for each request.
    width: u32,
    /// Tokens behind those that are computed for which a request has memory.
    reserve: u32,
    /// Whether cached prefixes are told apart by pairs of tokens, since the drafter reads one ahead.
    pub(super) by_pairs: bool,
    acceptance: Acceptance,
}

impl SglangArgs {
    /// Whether a network proposes tokens.
    pub fn drafts_by_network(&self) -> bool {
        self.speculative_algorithm.is_some_and(|algorithm| algorithm != SpeculativeAlgorithm::Ngram)
    }

    /// Speculative decoding as it is set, checked.
    pub(super) fn speculation(&self, args: &EngineArgs) -> Result<Option<SglangSpeculation>, ConfigError> {
        let conflict = |message| Err(ConfigError::Conflict(message));
        let Some(algorithm) = self.speculative_algorithm else {
            let given = [
                ("speculative_num_steps", self.speculative_num_steps),
                ("speculative_num_draft_tokens", self.speculative_num_draft_tokens),
                ("speculative_eagle_topk", self.speculative_eagle_topk),
            ];
            if let Some((key, value)) = given.into_iter().find_map(|(key, value)| Some((key, value?))) {
                let problem = "it needs `sglang.speculative_algorithm`";
                return Err(ConfigError::wrong(&format!("sglang.{key}"), value, problem));
            }
            if args.speculative_config.is_some() {
                return conflict(message!("{speculative_config} needs {sglang.speculative_algorithm}"));
            }
            return Ok(None);
        };
        if let Some(branches) = self.speculative_eagle_topk.filter(|&branches| branches != 1) {
            let problem = "only a drafter that follows one branch is simulated: make it 1";
            return Err(ConfigError::wrong("sglang.speculative_eagle_topk", branches, problem));
        }
        if self.enable_mixed_chunk {
            return conflict(message!(
                "{sglang.enable_mixed_chunk} is true, but with {sglang.speculative_algorithm} decodes do not ride along in \
                 prefill batches: leave it out"
            ));
        }
        let is_ngram = algorithm == SpeculativeAlgorithm::Ngram;
        let branches = if is_ngram { NGRAM_BREADTH } else { 1 };
        let (steps, width) = match (self.speculative_num_steps, self.speculative_num_draft_tokens) {
            (steps, width) if is_ngram => (steps.unwrap_or(1), width.unwrap_or(NGRAM_WIDTH)),
            (steps, Some(width)) => (steps.unwrap_or(width.saturating_sub(1)), width),
            (Some(steps), None) => (steps, steps.saturating_add(1)),
            (None, None) => {
                return conflict(message!(
                    "{sglang.speculative_algorithm} needs {sglang.speculative_num_draft_tokens}: how many tokens a pass \
                     verifies"
                ));
            }
        };
        for (key, value, least) in
            [("sglang.speculative_num_draft_tokens", width, 2), ("sglang.speculative_num_steps", steps, 1)]
        {
            if !(least..=MOST_DRAFTS + 1).contains(&value) {
                let problem = format!("expected a number from {least} to {}", MOST_DRAFTS + 1);
                return Err(ConfigError::wrong(key, value, problem));
            }
        }
        Ok(Some(SglangSpeculation {
            width,
            // Two passes: the result of one may be unknown when the next is planned.
            reserve: 2 * (steps * branches).max(width),
            by_pairs: matches!(algorithm, SpeculativeAlgorithm::Eagle | SpeculativeAlgorithm::Eagle3),
            acceptance: args.acceptance_of_sglang(width - 1)?,
        }))
    }
}

impl SglangSpeculation {
    /// Refuses a pool in which no request could decode.
    pub(super) fn check_pool(&self, config: &EngineConfig) -> Result<(), ConfigError> {
        let (needed, capacity) = (u64::from(self.reserve) + 1, config.kv_capacity_tokens());
        if needed.next_multiple_of(config.block_size.into()) > capacity {
            return Err(ConfigError::Conflict(message!(
                "{sglang.speculative_num_draft_tokens} is {}: a request needs memory for {} tokens to verify them, but the \
                 KV pool holds {}",
                self.width,
                needed,
                capacity
            )));
        }
        Ok(())
    }
}

impl Scheduler {
    /// Tokens of memory that a request lacks for its next pass, in whole pages.
    pub(super) fn lacks(&self, slot: Slot) -> u64 {
        let request = &self.requests[slot];
        match &self.sglang.speculation {
            Some(speculation) => {
                let pages = self.cache.ceil_page(request.computed + speculation.reserve);
                u64::from(pages.saturating_sub(request.allocated))
            }
            None if request.needs_page() => self.config.block_size.into(),
            None => 0,
        }
    }

    /// Evicts for the memory that requests get before a pass; with pages of several tokens a page more for each than they
    /// get, as the real scheduler does.
    fn evict_for_drafts(&mut self, requests: &[Slot]) {
        let Some(speculation) = &self.sglang.speculation else { return };
        let page = self.config.block_size;
        if page == 1 {
            return;
        }
        let lacks = |&slot: &Slot| {
            let request = &self.requests[slot];
            // The page that a prompt ends in counts as far as it is not filled.
            let has = if request.has_reserve { request.allocated } else { request.computed };
            u64::from(self.cache.ceil_page(request.computed + speculation.reserve).saturating_sub(has))
        };
        let lacking: u64 = requests.iter().map(lacks).sum();
        if lacking > 0 {
            self.cache.make_available(lacking + requests.len() as u64 * u64::from(page));
        }
    }

    /// Verifies drafts of each of `requests`, beside their next tokens.
    pub(super) fn verify(&mut self, requests: &[Slot], step: &mut Step) {
        self.evict_for_drafts(requests);
        let Some(speculation) = &self.sglang.speculation else { return };
        let drafts = speculation.width - 1;
        for &slot in requests {
            let request = &mut self.requests[slot];
            let start = request.computed;
            let pages = self.cache.ceil_page(start + speculation.reserve).max(request.allocated);
            self.cache.allocate(request, pages);
            request.has_reserve = true;
            let number = request.verifications;
            request.verifications += 1;
            let accepted = match request.accepted_drafts.as_deref() {
                Some(given) if !given.is_empty() => given[number as usize % given.len()].min(drafts),
                _ => speculation.acceptance.accepted(request.id, number, drafts),
            };
            let entry =
                Entry { drafted: drafts as u8, accepted: accepted as u8, ..entry(slot, request, true) };
            step.push(Scheduled { id: request.id, tokens: 1 + drafts, computed: start }, entry);
            step.batch.add_verification(start.into(), drafts.into());
            step.batch.add_decode(u64::from(start) + 1);
            request.in_flight += 1;
        }
    }

    /// What became of the drafts of a request.
    pub(super) fn deliver_verified(&mut self, entry: &Entry, iteration: &mut Iteration) {
        let request = &mut self.requests[entry.slot];
        let (drafted, accepted) = (u32::from(entry.drafted), u32::from(entry.accepted));
        iteration.verified.push(Verified { id: request.id, drafted, accepted });
        // A run may go on past where the request ends.
        let tokens = (1 + accepted).min(request.tokens_to_come());
        request.in_flight -= 1;
        request.computed += 1 + accepted;
        request.outputs += tokens;
        iteration.emitted.push(Emitted { id: request.id, tokens });
    }
}
