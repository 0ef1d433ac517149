//! Routers, requests and times for the tests.

use std::sync::Arc;

use rand::SeedableRng;
use rand_pcg::Pcg64;
use servecast_router::wire::{IndexEventData, RemovedBlocks, StoredBlock, StoredBlocks};
use servecast_router::{Admission, Decision, KvRouterConfig, Queued, RankInfo, Router, RoutingRequest};
use servecast_types::{BlockHash, Duration, KvEvent, Rank, RequestId, SequenceHash, Time, WorkerId};

pub(crate) const A: Rank = Rank::of_worker(WorkerId(0));
pub(crate) const B: Rank = Rank::of_worker(WorkerId(1));
pub(crate) const C: Rank = Rank::of_worker(WorkerId(2));

pub(crate) fn secs(secs: f64) -> Time {
    Time::ZERO + Duration::from_secs(secs).unwrap()
}

pub(crate) fn id(number: u32) -> RequestId {
    RequestId(number)
}

pub(crate) fn hashes(numbers: impl IntoIterator<Item = u64>) -> Arc<[SequenceHash]> {
    numbers.into_iter().map(SequenceHash).collect()
}

/// A request with the given blocks.
pub(crate) fn request(number: u32, isl_tokens: u32, blocks: impl IntoIterator<Item = u64>) -> RoutingRequest {
    RoutingRequest::new(id(number), isl_tokens, hashes(blocks))
}

/// A request whose blocks nobody else has.
pub(crate) fn distinct(number: u32, isl_tokens: u32, block_size: u32) -> RoutingRequest {
    let first = u64::from(number) << 32;
    request(number, isl_tokens, (first..).take((isl_tokens / block_size) as usize))
}

pub(crate) fn stored(parent: Option<u64>, blocks: impl IntoIterator<Item = u64>) -> KvEvent {
    KvEvent::Stored {
        parent: parent.map(SequenceHash),
        blocks: blocks.into_iter().map(SequenceHash).collect(),
    }
}

pub(crate) fn removed(blocks: impl IntoIterator<Item = u64>) -> KvEvent {
    KvEvent::Removed { blocks: blocks.into_iter().map(SequenceHash).collect() }
}

/// An event of an engine with its own names: (content, name) of each block.
pub(crate) fn index_stored(parent: Option<u64>, blocks: &[(u64, u64)]) -> IndexEventData {
    let block = |&(local, external): &(u64, u64)| StoredBlock {
        block_hash: SequenceHash(external),
        tokens_hash: BlockHash(local),
        mm_extra_info: None,
    };
    let blocks = blocks.iter().map(block).collect();
    IndexEventData::Stored(StoredBlocks { parent_hash: parent.map(SequenceHash), blocks })
}

pub(crate) fn index_removed(names: &[u64]) -> IndexEventData {
    let block_hashes = names.iter().copied().map(SequenceHash).collect();
    IndexEventData::Removed(RemovedBlocks { block_hashes })
}

/// A router over `ranks` with batches of `batch` tokens.
pub(crate) fn router_with(config: &KvRouterConfig, block_size: u32, batch: u32, ranks: &[Rank]) -> Router {
    let mut router = Router::new(config.validate().unwrap(), block_size, 1);
    for &rank in ranks {
        let info = RankInfo { max_num_batched_tokens: Some(batch) };
        assert!(router.add_rank(rank, info, Time::ZERO).is_empty());
    }
    router
}

/// A router of the worked examples: blocks of 4 tokens, batches of 16, ranks A and B.
pub(crate) fn router(config: &KvRouterConfig) -> Router {
    router_with(config, 4, 16, &[A, B])
}

pub(crate) fn admitted(decision: Decision) -> Admission {
    match decision {
        Decision::Admit(admission) => admission,
        Decision::Queued(queued) => panic!("not admitted: {queued:?}"),
    }
}

pub(crate) fn queued(decision: Decision) -> Queued {
    match decision {
        Decision::Queued(queued) => queued,
        Decision::Admit(admission) => panic!("not queued: {admission:?}"),
    }
}

pub(crate) fn ids(admissions: &[Admission]) -> Vec<u32> {
    admissions.iter().map(|admission| admission.ticket.id.0).collect()
}

/// Cost of each rank, in order, as a peek sees it.
pub(crate) fn costs(router: &mut Router, request: &RoutingRequest, now: Time) -> Vec<f64> {
    router.peek(request.clone(), now).unwrap().terms.iter().map(|terms| terms.cost).collect()
}

/// (prefill tokens, decode blocks) of each rank with a request on it.
pub(crate) fn loads(router: &Router, request: &RoutingRequest, now: Time) -> Vec<(u64, u64)> {
    let loads = router.potential_loads(request.clone(), now).unwrap();
    loads.iter().map(|load| (load.prefill_tokens, load.decode_blocks)).collect()
}

/// Cases of a property test: few in the default run; `SERVECAST_PROPERTY_CASES` asks for a long campaign.
pub(crate) fn cases() -> u32 {
    let given = std::env::var_os("SERVECAST_PROPERTY_CASES");
    given.map_or(256, |given| given.to_str().unwrap().parse().expect("SERVECAST_PROPERTY_CASES is a number"))
}

/// Random operations of a model test: 65,536 by default, a million for 4,000 cases.
pub(crate) fn operations() -> u32 {
    cases().saturating_mul(256)
}

/// The generator of the model tests.
pub(crate) fn random(seed: u64) -> Pcg64 {
    Pcg64::seed_from_u64(seed)
}
