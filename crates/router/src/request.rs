//! What the router is asked.

use std::sync::Arc;

use servecast_types::hash::{self, Salt};
use servecast_types::{BlockHash, Rank, RequestId, Role, SequenceHash};

use crate::{RadixTree, RouterConfigOverride};

/// A request to be routed.
#[derive(Debug, Clone, PartialEq)]
pub struct RoutingRequest {
    /// Its number, unique among requests that are waiting or booked.
    pub id: RequestId,
    /// Prompt length in tokens.
    pub isl_tokens: u32,
    /// Identities of the full blocks of the prompt, each covering all before it: equal identities mean equal prefixes.
    pub blocks: Arc<[SequenceHash]>,
    /// Hashes of the content of each block, where the index knows blocks by those; otherwise `blocks` are used.
    pub block_hashes: Option<Arc<[BlockHash]>>,
    /// Full blocks of the prompt for the load model when nothing is shared; by default as many as fit into
    /// `isl_tokens`. EAGLE prompts have fewer.
    pub full_blocks: Option<u32>,
    /// How many tokens the output is expected to have: generated blocks weigh less towards its end.
    pub expected_output_tokens: Option<u32>,
    /// Settings of this request.
    pub overrides: RouterConfigOverride,
    /// Which stage of a request this is.
    pub stage: Stage,
    /// The rank that must serve it.
    pub pinned: Option<Rank>,
    /// Where it goes once it is its turn, whatever the router would choose: to replay recorded decisions. Unlike a pin
    /// it changes nothing about when that is, and what every candidate would have cost is still judged.
    pub steered: Option<Rank>,
    /// The workers that may serve it; all if absent.
    pub allowed: Option<Arc<[u32]>>,
    /// Seconds by which it counts as earlier (or later, or heavier) in the queue; negative ones count as 0.
    pub priority_jump: f64,
}

/// What a request is to the router of its pool. Not a [`Role`]: a router treats a whole request and a prefill alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Stage {
    /// All of it, or the prefill of a disaggregated request.
    #[default]
    Whole,
    /// The decode stage of a disaggregated request: [`RouterConfigOverride::DECODE_STAGE`] holds for it.
    Decode,
}

impl Stage {
    /// What requests are to the router of a pool of this role.
    pub const fn of(role: Role) -> Self {
        match role {
            Role::Aggregated | Role::Prefill => Self::Whole,
            Role::Decode => Self::Decode,
        }
    }
}

impl RoutingRequest {
    /// A request whose blocks have one identity, as in the simulation.
    pub fn new(id: RequestId, isl_tokens: u32, blocks: impl Into<Arc<[SequenceHash]>>) -> Self {
        Self {
            id,
            isl_tokens,
            blocks: blocks.into(),
            block_hashes: None,
            full_blocks: None,
            expected_output_tokens: None,
            overrides: RouterConfigOverride::default(),
            stage: Stage::Whole,
            pinned: None,
            steered: None,
            allowed: None,
            priority_jump: 0.0,
        }
    }

    /// A request of real tokens, hashed as engines and routers do on the wire.
    pub fn from_tokens(id: RequestId, tokens: &[u32], block_size: u32, salt: Salt<'_>) -> Self {
        Self::from_hashes(id, tokens, &hash::block_hashes(tokens, block_size as usize, salt))
    }

    /// A request of real tokens to an engine with EAGLE drafting, whose blocks look one token ahead.
    pub fn from_eagle_tokens(id: RequestId, tokens: &[u32], block_size: u32, salt: Salt<'_>) -> Self {
        Self::from_hashes(id, tokens, &hash::eagle_block_hashes(tokens, block_size as usize, salt))
    }

    fn from_hashes(id: RequestId, tokens: &[u32], block_hashes: &[BlockHash]) -> Self {
        let tokens = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
        let full_blocks = block_hashes.len() as u32;
        Self {
            block_hashes: Some(block_hashes.into()),
            full_blocks: Some(full_blocks),
            ..Self::new(id, tokens, hash::sequence_hashes(block_hashes))
        }
    }

    /// The request as the decode stage of a disaggregated one.
    #[must_use]
    pub fn for_decode(self) -> Self {
        Self { stage: Stage::Decode, ..self }
    }

    /// The overrides that hold: those of the stage in front of the request's own.
    pub(crate) fn overrides_of_stage(&self) -> RouterConfigOverride {
        match self.stage {
            Stage::Whole => self.overrides,
            Stage::Decode => self.overrides.under(RouterConfigOverride::DECODE_STAGE),
        }
    }

    /// How many of its blocks each rank holds, into `depths` by slot.
    pub(crate) fn look_up(&self, tree: &RadixTree, depths: &mut Vec<u32>) {
        match &self.block_hashes {
            Some(locals) => tree.look_up(locals, |local| local.0, depths),
            None => tree.look_up(&self.blocks, |block| block.0, depths),
        }
    }

    /// The blocks as the index knows them: (local, external).
    pub(crate) fn index_blocks(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let locals = self.block_hashes.as_deref();
        self.blocks
            .iter()
            .enumerate()
            .map(move |(at, block)| (locals.map_or(block.0, |locals| locals[at].0), block.0))
    }
}
