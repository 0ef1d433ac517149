use std::num::NonZeroU32;

use servecast_router::wire::{
    BlockMmInfo, BlockRemoved, BlockStored, Converted, DecodedBatch, EngineEvent, EventBatch, EventConverter,
    EventError, EventForm, EventProblem, ExtraKey, IndexEventData, MmObject, StorageTier, StoredBlocks,
    TokenIds, decode_batch, encode_batch,
};
use servecast_types::SequenceHash;

const IMAGE: &str = "000000000000002affffffffffffffffffffffffffffffffffffffffffffffff";

fn stored(hashes: &[u64], token_ids: TokenIds, block_size: u32) -> BlockStored {
    BlockStored {
        block_hashes: hashes.iter().copied().map(SequenceHash).collect(),
        token_ids,
        block_size,
        ..BlockStored::default()
    }
}

fn removed(hashes: &[u64]) -> BlockRemoved {
    BlockRemoved {
        block_hashes: hashes.iter().copied().map(SequenceHash).collect(),
        ..BlockRemoved::default()
    }
}

fn converter(block_size: u32) -> EventConverter {
    EventConverter::new(7, 3, NonZeroU32::new(block_size).unwrap())
}

fn convert(block_size: u32, event: BlockStored) -> Converted {
    let events = vec![EngineEvent::BlockStored(event)];
    converter(block_size).convert(9, &EventBatch { events, ..EventBatch::default() }.into())
}

/// The one stored event that must have come of it.
fn blocks(converted: Converted) -> StoredBlocks {
    let [event] = converted.events.try_into().unwrap();
    match event.event.data {
        IndexEventData::Stored(stored) => stored,
        other => panic!("{other:?}"),
    }
}

fn pairs(converted: Converted) -> Vec<(u64, u64)> {
    blocks(converted).blocks.iter().map(|block| (block.block_hash.0, block.tokens_hash.0)).collect()
}

#[test]
fn blocks_are_paired_with_the_hash_of_their_content() {
    let parent = BlockStored {
        parent_block_hash: Some(SequenceHash(99)),
        ..stored(&[11, 12, 13], TokenIds::Flat((1..=12).collect()), 4)
    };
    let converted = convert(4, parent);
    assert_eq!(converted.problems, []);
    let event = &converted.events[0];
    assert_eq!((event.worker_id, event.storage_tier), (7, StorageTier::Device));
    assert_eq!((event.event.event_id, event.event.dp_rank), (9, 3));
    assert_eq!(blocks(converted.clone()).parent_hash, Some(SequenceHash(99)));
    let expect = [(11, 14643705804678351452), (12, 16777012769546811212), (13, 483935686894639516)];
    assert_eq!(pairs(converted), expect);
}

#[test]
fn adapters_salt_the_content() {
    let event = BlockStored {
        lora_name: Some("adapter-a".into()),
        lora_id: Some(1),
        ..stored(&[1, 2], TokenIds::Flat((1..=8).collect()), 4)
    };
    assert_eq!(pairs(convert(4, event)), [(1, 11381080598872079209), (2, 5698110331184095209)]);
}

#[test]
fn bigrams_hash_one_token_ahead() {
    let bigrams = TokenIds::Bigrams(vec![[0, 1], [1, 2], [2, 3], [3, 4]]);
    let expect = [(1, 11646242937812223497), (2, 9948816348502404300)];
    assert_eq!(pairs(convert(2, stored(&[1, 2], bigrams, 2))), expect);
}

#[test]
fn multimodal_objects_come_from_the_infos_or_else_from_the_extra_keys() {
    let plain = 10773075109927122010;
    let with_42 = 8042846820486697486;
    let event = stored(&[1], TokenIds::Flat(vec![1, 2]), 2);
    let keys = |key| BlockStored { extra_keys: Some(vec![Some(vec![key])]), ..event.clone() };
    let info = BlockMmInfo { mm_objects: vec![MmObject { mm_hash: 42, offsets: vec![] }] };

    for key in [
        ExtraKey::Text(IMAGE.into()),
        ExtraKey::Text(IMAGE.to_uppercase()),
        ExtraKey::Placed { identifier: IMAGE.into(), offset: -5 },
    ] {
        let converted = convert(2, keys(key));
        assert_eq!(blocks(converted.clone()).blocks[0].mm_extra_info, Some(info.clone()));
        assert_eq!(pairs(converted), [(1, with_42)]);
    }
    for key in [ExtraKey::Text("adapter".into()), ExtraKey::Text(IMAGE[1..].into()), ExtraKey::Unsigned(42)] {
        let converted = convert(2, keys(key));
        assert_eq!(blocks(converted.clone()).blocks[0].mm_extra_info, None);
        assert_eq!(pairs(converted), [(1, plain)]);
    }

    let infos = BlockStored { block_mm_infos: Some(vec![Some(info)]), ..event.clone() };
    assert_eq!(pairs(convert(2, infos)), [(1, with_42)]);
    let neither = BlockStored { block_mm_infos: Some(vec![None]), ..keys(ExtraKey::Text(IMAGE.into())) };
    assert_eq!(pairs(convert(2, neither)), [(1, plain)]);
}

#[test]
fn what_cannot_be_indexed_is_reported_and_the_rest_is_used() {
    let good = || stored(&[1], TokenIds::Flat(vec![1, 2]), 2);
    let events = vec![
        Ok(EngineEvent::BlockStored(stored(&[1], TokenIds::Flat(vec![1, 2, 3]), 3))),
        Ok(EngineEvent::BlockStored(stored(&[1, 1], TokenIds::Flat(vec![1, 2, 3, 4]), 2))),
        Ok(EngineEvent::BlockStored(BlockStored { parent_block_hash: Some(SequenceHash(1)), ..good() })),
        Ok(EngineEvent::BlockStored(BlockStored { medium: Some("TAPE".into()), ..good() })),
        Err(EventError::NotAnEvent { found: "7".into() }),
        Ok(EngineEvent::BlockStored(stored(&[1, 2, 3], TokenIds::Flat(vec![1, 2, 3]), 2))),
        Ok(EngineEvent::BlockStored(stored(&[4], TokenIds::Flat(vec![]), 2))),
        Ok(EngineEvent::BlockRemoved(removed(&[]))),
        Ok(EngineEvent::BlockRemoved(BlockRemoved { medium: Some("CPU".into()), ..removed(&[1]) })),
        Ok(EngineEvent::AllBlocksCleared),
    ];
    let batch = DecodedBatch { ts: 0.0, events, data_parallel_rank: Some(0) };
    let converted = converter(2).convert(9, &batch);
    assert_eq!(
        converted.problems.into_iter().map(|problem| (problem.index, problem.reason)).collect::<Vec<_>>(),
        [
            (0, EventError::BlockSize { found: 3, expected: 2 }),
            (1, EventError::RepeatedHash { hash: 1 }),
            (2, EventError::RepeatedHash { hash: 1 }),
            (3, EventError::UnknownMedium { found: "TAPE".into() }),
            (4, EventError::NotAnEvent { found: "7".into() }),
            (5, EventError::TooFewTokens { filled: 1, named: 3 }),
            (6, EventError::TooFewTokens { filled: 0, named: 1 }),
        ]
    );
    let shown: Vec<_> = converted
        .events
        .iter()
        .map(|event| match &event.event.data {
            IndexEventData::Stored(stored) => (event.storage_tier, "stored", stored.blocks.len()),
            IndexEventData::Removed(removed) => (event.storage_tier, "removed", removed.block_hashes.len()),
            IndexEventData::Cleared => (event.storage_tier, "cleared", 0),
        })
        .collect();
    assert_eq!(
        shown,
        [
            (StorageTier::Device, "stored", 1),
            (StorageTier::HostPinned, "removed", 1),
            (StorageTier::Device, "cleared", 0)
        ]
    );
    assert!(converted.events.iter().all(|event| event.event.dp_rank == 0), "the batch's rank wins");
}

#[test]
fn groups_that_do_not_hold_whole_prefixes_are_left_out_when_stored_and_when_removed() {
    let group = |group_idx, kind: &str| {
        EngineEvent::BlockStored(BlockStored {
            group_idx: Some(group_idx),
            kv_cache_spec_kind: Some(kind.into()),
            ..stored(&[1], TokenIds::Flat(vec![1, 2]), 2)
        })
    };
    let drop =
        |group_idx| EngineEvent::BlockRemoved(BlockRemoved { group_idx: Some(group_idx), ..removed(&[1]) });
    let mut converter = converter(2);
    let mut problems = |events| {
        let batch = EventBatch { events, ..EventBatch::default() };
        let Converted { events, problems } = converter.convert(0, &batch.into());
        (events.len(), problems.iter().map(|problem| problem.index).collect::<Vec<_>>())
    };
    assert_eq!(problems(vec![group(0, "full_attention"), group(1, "sliding_window")]), (1, vec![1]));
    assert_eq!(problems(vec![drop(1), drop(0), drop(5)]), (2, vec![0]));
    assert_eq!(problems(vec![group(1, "mla_attention"), drop(1)]), (2, vec![]));
}

/// From bytes to index events, as a listener would.
#[test]
fn a_published_batch_reaches_the_index() {
    let events = vec![
        EngineEvent::BlockStored(stored(&[u64::MAX], TokenIds::Flat(vec![7; 64]), 64)),
        EngineEvent::BlockRemoved(removed(&[u64::MAX])),
    ];
    let batch = EventBatch { ts: 1.0, events, data_parallel_rank: Some(1) };
    for form in [EventForm::Positional, EventForm::Named] {
        let batch = decode_batch(&encode_batch(&batch, form).unwrap()).unwrap();
        let converted = converter(64).convert(4, &batch);
        assert_eq!(converted.problems, []);
        assert_eq!(converted.events.len(), 2);
        assert_eq!(converted.events[1].event.dp_rank, 1);
        let first = Converted { events: converted.events[..1].to_vec(), ..Converted::default() };
        assert_eq!(pairs(first), [(u64::MAX, 17903371052352623343)]);
    }
}

#[test]
fn a_problem_says_which_event_and_why() {
    let reason = EventError::BlockSize { found: 16, expected: 64 };
    assert_eq!(
        EventProblem { index: 2, reason }.to_string(),
        "event 2: BlockStored: `block_size` is 16, but the router's is 64: set both to the same value"
    );
}
