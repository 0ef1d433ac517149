use std::num::NonZeroU32;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use servecast_router::wire::{
    BlockMmInfo, BlockRemoved, BlockStored, EngineEvent, EventBatch, EventConverter, EventForm, ExtraKey,
    IndexEvent, IndexEventData, MmObject, PrefillLoadHint, RemovedBlocks, ReplicaEvent, ReplicaEventData,
    ReplicaWorker, RouterEvent, StorageTier, StoredBlock, StoredBlocks, TokenIds, decode_batch,
    decode_frames, encode_batch, encode_frames, from_json, from_msgpack, to_json, to_msgpack,
};
use servecast_types::{BlockHash, Duration, SequenceHash};

fn hash() -> impl Strategy<Value = SequenceHash> {
    prop_oneof![0..8u64, any::<u64>()].prop_map(SequenceHash)
}

fn text() -> impl Strategy<Value = String> {
    "[a-zµ→]{0,5}|[0-9a-f]{64}"
}

fn mm_info() -> impl Strategy<Value = BlockMmInfo> {
    let object = (any::<u64>(), vec(any::<(u64, u64)>(), 0..3))
        .prop_map(|(mm_hash, offsets)| MmObject { mm_hash, offsets });
    vec(object, 0..3).prop_map(|mm_objects| BlockMmInfo { mm_objects })
}

fn index_event() -> impl Strategy<Value = RouterEvent> {
    let tier = prop_oneof![
        Just(StorageTier::Device),
        Just(StorageTier::HostPinned),
        Just(StorageTier::Disk),
        Just(StorageTier::External),
    ];
    let block =
        (hash(), any::<u64>(), option::of(mm_info())).prop_map(|(block_hash, tokens, mm_extra_info)| {
            StoredBlock { block_hash, tokens_hash: BlockHash(tokens), mm_extra_info }
        });
    let data = prop_oneof![
        (option::of(hash()), vec(block, 0..4)).prop_map(|(parent_hash, blocks)| {
            IndexEventData::Stored(StoredBlocks { parent_hash, blocks })
        }),
        vec(hash(), 0..4).prop_map(|block_hashes| IndexEventData::Removed(RemovedBlocks { block_hashes })),
        Just(IndexEventData::Cleared),
    ];
    (any::<u64>(), tier, any::<u64>(), data, any::<u32>()).prop_map(
        |(worker_id, storage_tier, event_id, data, dp_rank)| RouterEvent {
            worker_id,
            storage_tier,
            event: IndexEvent { event_id, data, dp_rank },
        },
    )
}

fn replica_event() -> impl Strategy<Value = ReplicaEvent> {
    let hint = (any::<u64>(), option::of(any::<u64>())).prop_map(|(tokens, ns)| PrefillLoadHint {
        initial_effective_prefill_tokens: tokens,
        expected_prefill_duration: ns.map(Duration::from_ns),
    });
    let add = (
        option::of(vec(hash(), 0..4)),
        any::<u64>(),
        any::<u32>(),
        any::<bool>(),
        option::of(any::<u32>()),
        option::of(hint),
    )
        .prop_map(|(token_sequence, isl, overlap, track, expected_output_tokens, prefill_load_hint)| {
            ReplicaEventData::AddRequest {
                token_sequence,
                isl,
                overlap,
                track_prefill_tokens: track,
                expected_output_tokens,
                prefill_load_hint,
            }
        });
    let data = prop_oneof![add, Just(ReplicaEventData::MarkPrefillCompleted), Just(ReplicaEventData::Free)];
    (text(), any::<(u64, u32, u64)>(), data, option::of(text())).prop_map(
        |(request_id, (worker_id, dp_rank, router_id), data, lora_name)| ReplicaEvent {
            request_id,
            worker: ReplicaWorker { worker_id, dp_rank },
            data,
            router_id,
            lora_name,
        },
    )
}

fn extra_key() -> impl Strategy<Value = ExtraKey> {
    prop_oneof![
        text().prop_map(ExtraKey::Text),
        (text(), any::<i64>()).prop_map(|(identifier, offset)| ExtraKey::Placed { identifier, offset }),
        vec(any::<u8>(), 0..9).prop_map(ExtraKey::Bytes),
        any::<u64>().prop_map(ExtraKey::Unsigned),
        (i64::MIN..0).prop_map(ExtraKey::Negative),
        (-1e9..1e9).prop_map(ExtraKey::Float),
        any::<bool>().prop_map(ExtraKey::Flag),
    ]
}

fn token_ids() -> impl Strategy<Value = TokenIds> {
    prop_oneof![
        vec(any::<u32>(), 0..12).prop_map(TokenIds::Flat),
        vec(any::<[u32; 2]>(), 1..12).prop_map(TokenIds::Bigrams),
    ]
}

/// Multimodal infos and groups exclude each other, as in the positional form.
fn stored_event() -> impl Strategy<Value = EngineEvent> {
    let first = (vec(hash(), 0..4), option::of(hash()), token_ids(), 1..5u32);
    let texts = (option::of(any::<i64>()), option::of(text()), option::of(text()));
    let keys = option::of(vec(option::of(vec(extra_key(), 0..3)), 0..3));
    let infos = option::of(vec(option::of(mm_info()), 0..3));
    let group = (option::of(any::<u32>()), option::of(text()));
    (first, texts, keys, infos, group).prop_map(|(first, texts, extra_keys, block_mm_infos, group)| {
        let (block_hashes, parent_block_hash, token_ids, block_size) = first;
        let (lora_id, medium, lora_name) = texts;
        let (group_idx, kv_cache_spec_kind) = if block_mm_infos.is_some() { (None, None) } else { group };
        EngineEvent::BlockStored(BlockStored {
            block_hashes,
            parent_block_hash,
            token_ids,
            block_size,
            lora_id,
            medium,
            lora_name,
            extra_keys,
            block_mm_infos,
            group_idx,
            kv_cache_spec_kind,
        })
    })
}

fn batch() -> impl Strategy<Value = EventBatch> {
    let removed = (vec(hash(), 0..4), option::of(text()), option::of(any::<u32>())).prop_map(
        |(block_hashes, medium, group_idx)| {
            EngineEvent::BlockRemoved(BlockRemoved { block_hashes, medium, group_idx })
        },
    );
    let event = prop_oneof![stored_event(), removed, Just(EngineEvent::AllBlocksCleared)];
    (-1e12..1e12, vec(event, 0..4), option::of(any::<u32>()))
        .prop_map(|(ts, events, data_parallel_rank)| EventBatch { ts, events, data_parallel_rank })
}

fn form() -> impl Strategy<Value = EventForm> {
    prop_oneof![Just(EventForm::Positional), Just(EventForm::Named)]
}

/// Reads `bytes` as everything that there is.
fn read_all(bytes: &[u8]) {
    let _ = from_json::<RouterEvent>(bytes);
    let _ = from_json::<ReplicaEvent>(bytes);
    let _ = from_msgpack::<Vec<RouterEvent>>(bytes);
    let _ = from_msgpack::<RouterEvent>(bytes);
    let _ = from_msgpack::<ReplicaEvent>(bytes);
    if let Ok(batch) = decode_batch(bytes) {
        for block_size in [1, 3, u32::MAX] {
            let mut converter = EventConverter::new(0, 0, NonZeroU32::new(block_size).unwrap());
            let converted = converter.convert(0, &batch);
            let unreadable = batch.events.iter().filter(|event| event.is_err()).count();
            assert!(converted.problems.len() >= unreadable, "an unreadable event must be reported");
        }
    }
}

proptest! {
    #[test]
    fn index_and_replica_events_round_trip(index in index_event(), replica in replica_event()) {
        prop_assert_eq!(&from_json::<RouterEvent>(to_json(&index).unwrap().as_bytes()).unwrap(), &index);
        prop_assert_eq!(&from_msgpack::<RouterEvent>(&to_msgpack(&index).unwrap()).unwrap(), &index);
        prop_assert_eq!(&from_json::<ReplicaEvent>(to_json(&replica).unwrap().as_bytes()).unwrap(), &replica);
        prop_assert_eq!(&from_msgpack::<ReplicaEvent>(&to_msgpack(&replica).unwrap()).unwrap(), &replica);
    }

    #[test]
    fn engine_messages_round_trip(batch in batch(), sequence: u64, topic: Vec<u8>, form in form()) {
        let message = decode_frames(&encode_frames(&topic, sequence, &batch, form).unwrap()).unwrap();
        prop_assert_eq!((message.topic, message.sequence), (topic, sequence));
        prop_assert_eq!(message.batch, batch.into());
    }

    #[test]
    fn arbitrary_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..200)) {
        read_all(&bytes);
    }

    /// Nearly right bytes get further into the readers than arbitrary ones.
    #[test]
    fn damaged_messages_are_read_or_refused(
        batch in batch(),
        form in form(),
        index in index_event(),
        replica in replica_event(),
        damage in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        for mut bytes in [
            encode_batch(&batch, form).unwrap(),
            to_msgpack(&index).unwrap(),
            to_msgpack(&replica).unwrap(),
            to_json(&index).unwrap().into_bytes(),
        ] {
            prop_assert!(decode_batch(&bytes[..cut.index(bytes.len())]).is_err(), "cut short");
            for (at, byte) in &damage {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            read_all(&bytes);
        }
    }
}
