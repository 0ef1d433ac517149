//! A request inside SGLang's scheduler.

use std::sync::Arc;

use servecast_types::{BlockHasher, Prompt, RequestId, Run, Time};

use super::settings::SglangConfig;
use super::tree::Prefix;
use crate::order::{Asked, OwnOrder};
use crate::sequence::Sequence;
use crate::{EngineConfig, EngineRequest, Rejection};

/// Where a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    /// In the waiting queue.
    Waiting,
    /// Pages are allocated and KV is on its way to them.
    Loading,
    /// Being computed.
    Active,
    /// Ended, but its KV is held for a reader.
    Held,
}

/// A request as the scheduler keeps it.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) id: RequestId,
    pub(super) status: Status,
    pub(super) prompt_tokens: u32,
    /// Most tokens that it generates, cut to what context and pool have room for; 0 stands for one token.
    pub(super) max_new_tokens: u32,
    pub(super) stop_after: Option<u32>,
    pub(super) ignore_eos: bool,
    pub(super) priority: i32,
    pub(super) tie_break: u64,
    pub(super) routing_key: Option<u32>,
    /// What an order of a program says of it, if the engine was given one.
    pub(super) asked: Option<Box<Asked>>,
    /// When it entered the waiting queue, last time: a number that grows.
    pub(super) entered: u64,
    /// Tokens that the engine had [counted](super::progress::Progress) as computed by then.
    pub(super) computed_before: u64,
    /// Why it is given up with its first token: it stands for a request that was refused.
    pub(super) refused: Option<Rejection>,
    pub(super) hold_kv: bool,
    /// KV that is still to be fetched when pages can be had.
    pub(super) remote_prefill: bool,
    /// When the worker of the other stage is known to have it, where that matters; not before [`Time::MAX`] until then.
    pub(super) known_at: Time,
    /// Tokens of its prompt that were sent to its decode worker or were there.
    pub(super) sent: u32,
    pub(super) sequence: Sequence,

    /// Tokens generated and known.
    pub(super) outputs: u32,
    /// Tokens in flight that are counted on but not known yet.
    pub(super) in_flight: u32,
    /// Tokens that were known when it was last looked up or decoded beside prompts; 0 before that.
    pub(super) filled: u32,
    /// Those of them that it would have had to compute.
    pub(super) extend: u32,
    /// Tokens that it would hit, as far as the policy looked that up when it put the queue in order.
    pub(super) matched: u32,
    /// Drafts that are accepted in its verifications, where that is given, and how many of these were begun.
    pub(super) accepted_drafts: Option<Arc<[u32]>>,
    pub(super) verifications: u32,
    /// Whether it has memory for drafts, beyond what is computed.
    pub(super) has_reserve: bool,
    /// How often it was sent back to the queue: results that were under way then are void.
    pub(super) requeues: u32,
    /// Tokens that it had generated and computed when there was last no memory for a chunk of it though nobody else had any.
    pub(super) stuck_at: (u32, u32),

    /// Tokens whose KV is there once what is in flight has run.
    pub(super) computed: u32,
    /// Tokens that its pages hold.
    pub(super) allocated: u32,
    /// Its prefix that is in the tree, which it locks.
    pub(super) shared: Prefix,
    /// Tokens that its insertions have counted as hits of.
    pub(super) counted: u32,
    /// What it has in the pool of sliding windows.
    pub(super) window: InWindow,
}

/// What a request has in the pool of layers with a sliding window, where they have one.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct InWindow {
    /// Slots of its first tokens that it has given back, as they fell out of the window.
    pub(super) freed: u32,
    /// Where the nodes of the tree begin that its window locks.
    pub(super) locked_from: u32,
    /// Where what was cached ended when it was admitted, if it could not hit all of it.
    pub(super) cached: Option<u32>,
    /// Whether it has begun to decode.
    pub(super) decodes: bool,
}

impl Request {
    /// `request` with at most `max_new_tokens` tokens of output.
    pub(super) fn new(
        request: EngineRequest,
        max_new_tokens: u32,
        entered: u64,
        config: &EngineConfig,
    ) -> Self {
        let EngineRequest { id, prompt, output, .. } = request;
        let prompt_tokens = prompt.tokens();
        let hasher = BlockHasher::new(config.block_size);
        let sequence = Sequence::new(id, prompt, output.as_deref(), max_new_tokens.max(1), hasher);
        let by_pairs = config.sglang.as_ref().is_some_and(SglangConfig::tells_by_pairs);
        let sequence = if by_pairs { sequence.pairs() } else { sequence };
        Self {
            id,
            status: Status::Waiting,
            prompt_tokens,
            max_new_tokens,
            stop_after: request.stop_after.filter(|_| !request.ignore_eos),
            ignore_eos: request.ignore_eos,
            priority: request.priority,
            tie_break: request.tie_break,
            routing_key: request.routing_key,
            asked: None,
            entered,
            computed_before: 0,
            refused: None,
            hold_kv: request.hold_kv,
            remote_prefill: request.remote_prefill,
            known_at: Time::MAX,
            sent: 0,
            sequence,
            outputs: 0,
            in_flight: 0,
            filled: 0,
            extend: 0,
            matched: 0,
            accepted_drafts: request.accepted_drafts,
            verifications: 0,
            has_reserve: false,
            requeues: 0,
            stuck_at: (0, 0),
            computed: 0,
            allocated: 0,
            shared: Prefix::EMPTY,
            counted: 0,
            window: InWindow::default(),
        }
    }

    /// What goes through the scheduler for a request that is refused: a prompt of one token, which makes room for as much
    /// output as the request might have had, and ends with its first token.
    pub(super) fn stub(
        request: EngineRequest,
        reason: Rejection,
        max_new_tokens: u32,
        entered: u64,
        config: &EngineConfig,
    ) -> Self {
        let request = EngineRequest { prompt: Prompt::new([Run::tokens(0, 1)]), ..request };
        let stub = Self::new(request, max_new_tokens, entered, config);
        Self { refused: Some(reason), stop_after: Some(1), ..stub }
    }

    /// Asks an order of a program where it belongs `now`.
    pub(super) fn ask(&mut self, order: &OwnOrder, now: Time) {
        if let Some(asked) = &mut self.asked {
            asked.ask(order, now, self.outputs, self.requeues);
        }
    }

    /// It goes back to the queue.
    pub(super) fn note_requeue(&mut self) {
        self.counted = 0;
        self.requeues += 1;
    }

    /// Tokens that are known: the prompt and what has been generated.
    pub(super) fn known(&self) -> u32 {
        self.prompt_tokens + self.outputs
    }

    /// How many of its first `tokens` tokens are shared as long as its prompt is.
    pub(super) fn shareable(&self, tokens: u32) -> u32 {
        tokens.min(self.window.cached.unwrap_or(u32::MAX).max(self.shared.tokens))
    }

    /// Tokens that it would have to compute, by the last look of the policy.
    pub(super) fn uncached(&self) -> u32 {
        (self.known() - self.matched).max(1)
    }

    /// Tokens that it may still generate, as far as is known.
    pub(super) fn remaining(&self) -> u32 {
        self.max_new_tokens.saturating_sub(self.outputs)
    }

    /// Ends it with the next token that users get. `knows_it`: that token is among its outputs already.
    pub(super) fn stop_with_next_token(&mut self, knows_it: bool) {
        self.stop_after = Some(self.outputs + u32::from(!knows_it));
    }

    /// Tokens that it still generates until it is complete, at least 1.
    ///
    /// The scheduler must not decide by it, since it does not know where a request stops by itself.
    pub(super) fn tokens_to_come(&self) -> u32 {
        let target = self.stop_after.unwrap_or(u32::MAX).min(self.max_new_tokens);
        target.saturating_sub(self.outputs).max(1)
    }

    /// Whether it ends before it has all the tokens that it may have, which the scheduler does not know beforehand.
    pub(super) fn stops_by_itself(&self) -> bool {
        self.stop_after.is_some_and(|stop| stop < self.max_new_tokens)
    }

    /// Whether its last token is known or in flight.
    pub(super) fn is_finishing(&self) -> bool {
        self.outputs + self.in_flight >= self.max_new_tokens.max(1)
    }

    /// Whether its last token is in flight.
    pub(super) fn ends_in_flight(&self) -> bool {
        self.status == Status::Active && self.in_flight > 0 && self.is_finishing()
    }

    /// Whether it has generated what it was asked for or has stopped by itself.
    pub(super) fn is_complete(&self) -> bool {
        self.outputs >= self.max_new_tokens || self.stop_after.is_some_and(|stop| self.outputs >= stop)
    }

    /// Whether the next token needs another page.
    pub(super) fn needs_page(&self) -> bool {
        self.computed == self.allocated
    }
}
