//! A request inside vLLM's scheduler, with the counters by which it is scheduled.

use std::sync::Arc;

use servecast_types::{BlockHasher, BlockId, HashRuns, RequestId, SequenceHash, Time};

use super::groups::Tables;
use crate::EngineRequest;
use crate::order::{Asked, Key, OwnOrder};
use crate::sequence::Sequence;

/// Preemptions without a token in between after which the rules bend; the real scheduler was seen to get out of more
/// than 20 when a reader was done or another request ended.
const STARVED_AFTER: u32 = 64;

/// Where a request stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    /// In the waiting queue, never run.
    Waiting,
    /// Blocks are allocated and KV is on its way to them.
    Loading,
    /// In the running list.
    Running,
    /// In the waiting queue after it lost its blocks.
    Preempted,
    /// Ended, but a transfer still reads its blocks, or writes to them.
    Held,
}

/// Place in a waiting queue that goes by a key: the priority under that policy, or what an order of a program says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    key: i64,
    arrival: Time,
    tie_break: u64,
}

/// How important a request is under the `priority` policy, and reverse order of preemption.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PriorityKey {
    priority: i32,
    arrival: Time,
    tie_break: u64,
}

impl PriorityKey {
    pub(crate) fn new(priority: i32, arrival: Time, tie_break: u64) -> Self {
        Self { priority, arrival, tie_break }
    }

    /// What a preemption goes by: the highest is hit first.
    pub(crate) fn rank(self) -> (i32, Time) {
        (self.priority, self.arrival)
    }

    pub(crate) fn tie_break(self) -> u64 {
        self.tie_break
    }

    /// Its place in a queue that goes by `key`, if that is given, and by priority otherwise.
    pub(crate) fn place(self, key: Option<Key>) -> Place {
        let Self { priority, arrival, tie_break } = self;
        Place { key: key.map_or(i64::from(priority), |key| key.0), arrival, tie_break }
    }
}

/// A request as the scheduler keeps it, with vLLM's counters.
///
/// In order of how often they are needed, by cache line: with many workers each visit finds them out of the cache.
#[derive(Debug)]
#[repr(C, align(64))]
pub(crate) struct Request {
    pub(crate) blocks: Vec<BlockId>,
    /// Iterations of the stretch that had been decided when it joined it. As long as it is a member, `computed`, `outputs` and
    /// `last_iteration` stay what they were then.
    pub(crate) joined: u64,
    /// Tokens whose KV is there once what is in flight has run.
    pub(crate) computed: u32,
    /// How many of `blocks` can be hit by others.
    pub(crate) stored: u32,
    /// Tokens generated and known.
    pub(crate) outputs: u32,
    pub(crate) prompt_tokens: u32,
    pub(crate) max_tokens: u32,
    /// Tokens in flight that the scheduler counts on but does not know yet.
    pub(crate) placeholders: u32,
    /// Tokens that iterations in flight compute, where nothing counts on their results.
    pub(crate) unsettled: u32,
    pub(crate) status: Status,
    /// Whether its last iteration stopped short of what is known, so that no token comes out.
    pub(crate) is_mid_prefill: bool,
    pub(crate) hold_kv: bool,
    /// The KV of the whole prompt was transferred here, and still is here.
    pub(crate) prompt_was_here: bool,
    /// Whether nobody else names what it generates, so that nobody else can hit it.
    pub(crate) has_private_output: bool,
    /// Drafts that it verifies when it is scheduled next; and how many of these rows are drafts indeed and no padding.
    pub(crate) drafts: u8,
    pub(crate) real_drafts: u8,
    /// Iterations in flight that give it tokens.
    pub(crate) sampling: u8,

    /// Number of the last iteration that computes something for it.
    pub(crate) last_iteration: u64,
    pub(crate) id: RequestId,
    pub(crate) stop_after: Option<u32>,
    pub(crate) preemptions: u32,
    /// Preemptions since its last token.
    pub(crate) preemptions_in_vain: u32,
    /// Verifications so far.
    pub(crate) verifications: u32,
    sequence: Sequence,

    /// Iterations in flight when it was preempted: their tokens still arrive.
    pub(crate) stale: u32,
    /// Whether others were let pass since it last ran, or had to be from the beginning.
    pub(crate) is_passed_over: bool,
    /// Iterations in flight when it was preempted whose tokens are thrown away when they arrive.
    pub(crate) dropped: u32,
    /// Drafts that are accepted in its verifications, if that is given.
    pub(crate) accepted_drafts: Option<Arc<[u32]>>,
    pub(crate) key: PriorityKey,
    /// What an order of a program says of it, if the engine was given one.
    pub(crate) asked: Option<Box<Asked>>,
    /// Tokens that were loaded from the host since it last ran.
    pub(crate) host_tokens: u32,
    /// KV that is still to be fetched when blocks can be had.
    pub(crate) remote_prefill: bool,
    /// Its LoRA adapter.
    pub(crate) lora: Option<u32>,
    /// When its grammar is compiled; at the start of time if it has none.
    pub(crate) grammar_ready: Time,
    /// Its blocks in place of `blocks` where layers are groups.
    pub(crate) tables: Option<Box<Tables>>,
}

impl Request {
    /// `hasher` stands at the start of a prompt.
    pub(crate) fn new(request: EngineRequest, hasher: BlockHasher) -> Self {
        let EngineRequest { id, prompt, output, max_tokens, arrival, .. } = request;
        let prompt_tokens = prompt.tokens();
        Self {
            id,
            key: PriorityKey::new(request.priority, arrival, request.tie_break),
            asked: None,
            status: Status::Waiting,
            prompt_tokens,
            max_tokens,
            stop_after: request.stop_after,
            hold_kv: request.hold_kv,
            has_private_output: output.is_none(),
            remote_prefill: request.remote_prefill,
            lora: request.lora,
            grammar_ready: request.grammar_ready.unwrap_or(Time::ZERO),
            host_tokens: 0,
            prompt_was_here: false,
            computed: 0,
            outputs: 0,
            placeholders: 0,
            unsettled: 0,
            stale: 0,
            dropped: 0,
            preemptions: 0,
            preemptions_in_vain: 0,
            drafts: 0,
            real_drafts: 0,
            sampling: 0,
            verifications: 0,
            accepted_drafts: request.accepted_drafts,
            is_mid_prefill: false,
            is_passed_over: request.grammar_ready.is_some(),
            last_iteration: 0,
            joined: 0,
            blocks: Vec::new(),
            tables: None,
            stored: 0,
            sequence: Sequence::new(id, prompt, output.as_deref(), max_tokens, hasher),
        }
    }

    /// Its place in the waiting queue, where that does not go by when requests come to it.
    pub(super) fn place(&self) -> Place {
        self.key.place(self.asked.as_ref().map(|asked| asked.key))
    }

    /// Asks an order of a program where it belongs `now`.
    pub(super) fn ask(&mut self, order: &OwnOrder, now: Time) {
        if let Some(asked) = &mut self.asked {
            asked.ask(order, now, self.outputs, self.preemptions);
        }
    }

    /// Tokens that are known: the prompt and what has been generated.
    pub(crate) fn known(&self) -> u32 {
        self.prompt_tokens + self.outputs
    }

    /// Tokens that are known or in flight.
    pub(crate) fn scheduled_to(&self) -> u32 {
        self.known() + self.placeholders
    }

    /// Whether it was preempted again and again without getting a token.
    ///
    /// The real scheduler can go round for ever in such a state; here its rules bend so that somebody gets on.
    pub(crate) fn is_starved(&self) -> bool {
        self.preemptions_in_vain >= STARVED_AFTER
    }

    /// Whether it did not help that the rules were bent.
    pub(crate) fn is_hopeless(&self) -> bool {
        self.preemptions_in_vain >= 2 * STARVED_AFTER
    }

    /// Whether its last token is already in flight, so that nothing more is scheduled for it.
    pub(crate) fn ends_in_flight(&self) -> bool {
        // Of the drafts in flight none may be accepted.
        self.placeholders > 0 && self.outputs + 1 >= self.max_tokens
    }

    /// Whether its prompt is not computed yet.
    pub(super) fn computes_prompt(&self) -> bool {
        self.computed < self.prompt_tokens
    }

    /// The block of its prompt behind those that others can hit, if it is a full one.
    pub(super) fn next_prompt_block(&mut self, block_size: u32) -> Option<SequenceHash> {
        let (next, full) = (self.stored, self.prompt_tokens / block_size);
        (next < full).then(|| self.hashes(next + 1).get(next)).flatten()
    }

    /// Tokens that it has at most.
    pub(crate) fn most_tokens(&self) -> u32 {
        self.prompt_tokens.saturating_add(self.stop_after.unwrap_or(u32::MAX).min(self.max_tokens))
    }

    /// Tokens that it still generates until it is complete, at least 1.
    ///
    /// The scheduler must not decide by it, since it does not know where a request stops by itself.
    pub(super) fn tokens_to_come(&self, max_model_len: u32) -> u32 {
        let target = self.stop_after.unwrap_or(u32::MAX).min(self.most_output(max_model_len));
        target.saturating_sub(self.outputs).max(1)
    }

    /// Whether it ends before it has all the tokens that it may have, which the scheduler does not know beforehand.
    pub(super) fn stops_by_itself(&self, max_model_len: u32) -> bool {
        self.stop_after.is_some_and(|stop| stop < self.most_output(max_model_len))
    }

    /// Tokens that it may generate.
    fn most_output(&self, max_model_len: u32) -> u32 {
        self.max_tokens.min(max_model_len.saturating_sub(self.prompt_tokens))
    }

    /// Whether it has generated what it was asked for, has stopped by itself or fills the model's context.
    pub(crate) fn is_complete(&self, max_model_len: u32) -> bool {
        self.outputs >= self.max_tokens
            || self.stop_after.is_some_and(|stop| self.outputs >= stop)
            || self.known() >= max_model_len
    }

    /// Identities of its first `blocks` blocks, whose tokens must be known, and maybe of some more.
    pub(crate) fn hashes(&mut self, blocks: u32) -> &HashRuns {
        self.sequence.hashes(blocks)
    }

    /// Its blocks in a group of layers, or all of them where layers are no groups, with the identities that were asked for.
    pub(super) fn blocks_and_hashes(&self, group: usize) -> (&[BlockId], &HashRuns) {
        (self.blocks_of(group).0, self.sequence.known_hashes())
    }

    /// Its blocks in a group of layers by place; and whether all of them are new to it.
    pub(super) fn blocks_of(&self, group: usize) -> (&[BlockId], bool) {
        self.tables.as_ref().map_or((&self.blocks, false), |tables| tables.blocks_of(group))
    }

    /// Its blocks that are new in the iteration being decided, the first of `blocks` from `first_new` on; all of them if it
    /// was admitted.
    pub(super) fn new_blocks(&self, first_new: u32) -> impl Iterator<Item = BlockId> {
        let in_tables = self.tables.iter().flat_map(|tables| tables.new_blocks());
        self.blocks[first_new as usize..].iter().copied().chain(in_tables)
    }

    /// All its blocks, the null block among them.
    pub(super) fn all_blocks(&self) -> impl Iterator<Item = BlockId> {
        let in_tables = self.tables.iter().flat_map(|tables| tables.blocks());
        self.blocks.iter().copied().chain(in_tables)
    }

    /// Tokens that it was seen to share with others beyond what it hit, or 0.
    pub(super) fn junction(&self) -> u32 {
        self.tables.as_ref().map_or(0, |tables| tables.junction())
    }

    /// What it consists of, in blocks of another size.
    pub(super) fn sequence_in_blocks_of(&self, block_size: u32) -> Sequence {
        self.sequence.in_blocks_of(block_size)
    }

    /// Its blocks, with the identities of the first `blocks` of them and maybe of some more.
    pub(crate) fn hashed_blocks(&mut self, blocks: u32) -> (&[BlockId], &HashRuns) {
        (&self.blocks, self.sequence.hashes(blocks))
    }
}

#[cfg(test)]
mod tests {
    use servecast_types::{Prompt, Run};

    use super::*;

    fn request(prompt_tokens: u32, max_tokens: u32) -> Request {
        let prompt = Prompt::new([Run::tokens(0, prompt_tokens)]);
        Request::new(EngineRequest::new(RequestId(0), prompt, max_tokens, Time::ZERO), BlockHasher::new(4))
    }

    #[test]
    fn it_is_complete_by_whichever_limit_comes_first() {
        let check = |outputs, stop_after, max_model_len, complete| {
            let request = Request { outputs, stop_after, ..request(10, 5) };
            assert_eq!(
                request.is_complete(max_model_len),
                complete,
                "{outputs} {stop_after:?} {max_model_len}"
            );
        };
        check(4, None, 100, false);
        check(5, None, 100, true);
        check(3, Some(3), 100, true);
        check(2, Some(3), 100, false);
        check(1, Some(0), 100, true);
        check(2, Some(3), 12, true);
        check(1, Some(3), 12, false);
    }

    #[test]
    fn tokens_in_flight_count_as_scheduled_and_the_last_one_is_foreseen() {
        let request = |outputs, placeholders| Request { outputs, placeholders, ..request(10, 3) };
        assert_eq!((request(1, 1).known(), request(1, 1).scheduled_to()), (11, 12));
        assert!(!request(2, 0).ends_in_flight(), "nothing is in flight");
        assert!(!request(1, 1).ends_in_flight());
        assert!(request(2, 1).ends_in_flight());
        assert!(!request(1, 4).ends_in_flight(), "drafts may all be rejected");
    }
}
