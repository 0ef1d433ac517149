use servecast_router::wire::{
    BlockMmInfo, BlockRemoved, BlockStored, EngineEvent, EventBatch, EventError, EventForm, ExtraKey,
    MmObject, TokenIds, WireError, decode_batch, decode_frames, encode_batch, encode_frames,
};
use servecast_types::SequenceHash;

/// 1.5 as a msgpack double.
const TS: &[u8] = b"\xcb\x3f\xf8\x00\x00\x00\x00\x00\x00";

fn stored() -> BlockStored {
    BlockStored {
        block_hashes: vec![SequenceHash(1), SequenceHash(u64::MAX)],
        parent_block_hash: Some(SequenceHash(9)),
        token_ids: TokenIds::Flat(vec![1, 2, 3, 300]),
        block_size: 2,
        medium: Some("GPU".into()),
        ..BlockStored::default()
    }
}

fn batch() -> EventBatch {
    EventBatch {
        ts: 1.5,
        events: vec![
            EngineEvent::BlockStored(stored()),
            EngineEvent::BlockRemoved(BlockRemoved {
                block_hashes: vec![SequenceHash(1)],
                medium: Some("GPU".into()),
                group_idx: None,
            }),
            EngineEvent::AllBlocksCleared,
        ],
        data_parallel_rank: Some(2),
    }
}

fn positional_payload() -> Vec<u8> {
    [
        b"\x93",
        TS,
        b"\x93",
        b"\x98\xabBlockStored\x92\x01\xcf\xff\xff\xff\xff\xff\xff\xff\xff\x09",
        b"\x94\x01\x02\x03\xcd\x01\x2c\x02\xc0\xa3GPU\xc0",
        b"\x93\xacBlockRemoved\x91\x01\xa3GPU",
        b"\x91\xb0AllBlocksCleared",
        b"\x02",
    ]
    .concat()
}

fn named_payload() -> Vec<u8> {
    [
        b"\x93",
        TS,
        b"\x93",
        b"\x88\xa4type\xabBlockStored\xacblock_hashes\x92\x01\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xb1parent_block_hash\x09\xa9token_ids\x94\x01\x02\x03\xcd\x01\x2c\xaablock_size\x02",
        b"\xa7lora_id\xc0\xa6medium\xa3GPU\xa9lora_name\xc0",
        b"\x83\xa4type\xacBlockRemoved\xacblock_hashes\x91\x01\xa6medium\xa3GPU",
        b"\x81\xa4type\xb0AllBlocksCleared",
        b"\x02",
    ]
    .concat()
}

/// A batch of one event, spelled out.
fn one(event: &[u8]) -> Vec<u8> {
    [b"\x92", TS, b"\x91", event].concat()
}

fn decode_one(event: &[u8]) -> Result<EngineEvent, EventError> {
    decode_batch(&one(event)).unwrap().events.pop().unwrap()
}

fn decode_stored(event: &[u8]) -> BlockStored {
    match decode_one(event) {
        Ok(EngineEvent::BlockStored(stored)) => stored,
        other => panic!("{other:?}"),
    }
}

#[test]
fn both_forms_are_read_and_written_byte_for_byte() {
    for (form, payload) in
        [(EventForm::Positional, positional_payload()), (EventForm::Named, named_payload())]
    {
        assert_eq!(encode_batch(&batch(), form).unwrap(), payload, "{form:?}");
        assert_eq!(decode_batch(&payload).unwrap(), batch().into(), "{form:?}");
    }
}

#[test]
fn a_message_is_three_frames_with_a_big_endian_sequence() {
    let frames = encode_frames(b"kv-events", 0x0102, &batch(), EventForm::Named).unwrap();
    assert_eq!(frames[0], b"kv-events");
    assert_eq!(frames[1], [0, 0, 0, 0, 0, 0, 1, 2]);
    assert_eq!(frames[2], named_payload());

    let message = decode_frames(&frames).unwrap();
    assert_eq!((message.topic.as_slice(), message.sequence), (&b"kv-events"[..], 0x0102));
    assert_eq!(message.batch, batch().into());

    assert!(matches!(decode_frames(&frames[..2]), Err(WireError::FrameCount { found: 2 })));
    let frames: [&[u8]; 3] = [b"", b"\x01\x02", b""];
    assert!(matches!(decode_frames(&frames), Err(WireError::SequenceLength { found: 2 })));
}

#[test]
fn the_batch_may_lack_its_rank_have_more_or_be_a_map() {
    let cleared = b"\x91\x91\xb0AllBlocksCleared";
    let payloads = [
        [b"\x92", TS, cleared].concat(),
        [b"\x93", TS, cleared, b"\xc0"].concat(),
        [b"\x95", TS, cleared, b"\xc0\x07\xa1x"].concat(),
        [b"\x82\xa2ts", TS, b"\xa6events", cleared].concat(),
        [&b"\x84\xa3new\xc3\xa6events"[..], cleared, b"\xa2ts", TS, b"\xb2data_parallel_rank\xc0"].concat(),
    ];
    for payload in payloads {
        let batch = decode_batch(&payload).unwrap();
        assert_eq!((batch.ts, batch.data_parallel_rank), (1.5, None));
        assert_eq!(batch.events, [Ok(EngineEvent::AllBlocksCleared)]);
    }
}

#[test]
fn a_batch_that_means_nothing_is_refused_with_its_field() {
    let check = |payload: &[u8], expect: &str| {
        assert_eq!(decode_batch(payload).unwrap_err().to_string(), expect);
    };
    check(
        b"\xa2hi",
        "frame 2 (payload): `batch` must be an array [ts, events, data_parallel_rank] or a map of these, found \"hi\"",
    );
    check(b"\x92\xc0\x90", "frame 2 (payload): `ts` must be a number of seconds, found nil");
    check(b"\x92\x01\x80", "frame 2 (payload): `events` must be a list, found a map of 0");
    check(
        b"\x93\x01\x90\xff",
        "frame 2 (payload): `data_parallel_rank` must be nil or an integer from 0 to 4294967295, found -1",
    );
    check(b"", "cannot read msgpack at `.`");
    check(b"\x92\x01\x90\x00", "bytes after the end of the msgpack value: a message is exactly one value");
}

#[test]
fn one_bad_event_leaves_the_others() {
    let good = b"\x91\xb0AllBlocksCleared";
    let payload = [
        b"\x92",
        TS,
        b"\x96",
        good,
        b"\x92\xadBlockRenamed!\x01",
        b"\x07",
        b"\x82\xa4type\xacBlockRemoved\xacblock_hashes\x92\x01\xa1x",
        b"\x81\xa6medium\xa3GPU",
        good,
    ]
    .concat();
    let batch = decode_batch(&payload).unwrap();
    let shown: Vec<String> = batch
        .events
        .iter()
        .map(|event| event.as_ref().map_or_else(ToString::to_string, |event| format!("{event:?}")))
        .collect();
    assert_eq!(
        shown,
        [
            "AllBlocksCleared",
            "unknown event type \"BlockRenamed!\": known are BlockStored, BlockRemoved, AllBlocksCleared",
            "expected a map with the key `type` or an array that starts with the event's type, found 7",
            "BlockRemoved: `block_hashes[1]` must be an integer or bytes, found \"x\"",
            "expected a map with the key `type` or an array that starts with the event's type, found a map of 1",
            "AllBlocksCleared",
        ]
    );
}

#[test]
fn hashes_are_integers_of_either_sign_or_the_tail_of_bytes() {
    let removed = |hash: &[u8]| {
        decode_one(&[b"\x92\xacBlockRemoved\x91", hash].concat()).map(|event| match event {
            EngineEvent::BlockRemoved(removed) => removed.block_hashes[0].0,
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(removed(b"\x05"), Ok(5));
    assert_eq!(removed(b"\xff"), Ok(u64::MAX));
    assert_eq!(removed(b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00"), Ok(1 << 63));
    assert_eq!(removed(b"\xcf\x80\x00\x00\x00\x00\x00\x00\x00"), Ok(1 << 63));
    assert_eq!(removed(b"\xc4\x02\x01\x02"), Ok(0x0102));
    assert_eq!(removed(b"\xc4\x08\x01\x02\x03\x04\x05\x06\x07\x08"), Ok(0x0102_0304_0506_0708));
    let digest: Vec<u8> = (0..32).collect();
    assert_eq!(removed(&[&b"\xc4\x20"[..], &digest].concat()), Ok(0x1819_1a1b_1c1d_1e1f));

    let error = removed(b"\xc4\x00").unwrap_err();
    assert_eq!(
        error.to_string(),
        "BlockRemoved: `block_hashes[0]` must be an integer or bytes, found 0 bytes"
    );
    assert!(removed(b"\xca\x3f\x80\x00\x00").is_err());
    // An extension type: 4 bytes of type 1. What follows it is read in the right place.
    assert!(removed(b"\xd6\x01\xaa\xbb\xcc\xdd").unwrap_err().to_string().contains("an extension type"));
}

/// The shortest stored event there is: nothing with a default.
#[test]
fn most_fields_of_a_stored_event_may_be_missing() {
    let expect = BlockStored {
        block_hashes: vec![SequenceHash(1)],
        token_ids: TokenIds::Flat(vec![7, 8]),
        block_size: 2,
        ..BlockStored::default()
    };
    assert_eq!(decode_stored(b"\x95\xabBlockStored\x91\x01\xc0\x92\x07\x08\x02"), expect);
    let named =
        b"\x84\xa4type\xabBlockStored\xacblock_hashes\x91\x01\xa9token_ids\x92\x07\x08\xaablock_size\x02";
    assert_eq!(decode_stored(named), expect);

    let error = decode_one(b"\x82\xa4type\xabBlockStored\xacblock_hashes\x91\x01").unwrap_err();
    assert_eq!(error.to_string(), "BlockStored: `block_size` is missing: it must be a positive integer");
    let error = decode_one(b"\x95\xabBlockStored\x91\x01\xc0\x92\x07\x08\x00").unwrap_err();
    assert_eq!(error.to_string(), "BlockStored: `block_size` must be a positive integer, found 0");
}

#[test]
fn token_ids_are_flat_or_pairs_and_never_both() {
    let tokens = |list: &[u8]| {
        decode_one(&[b"\x95\xabBlockStored\x90\xc0", list, b"\x02"].concat()).map(|event| match event {
            EngineEvent::BlockStored(stored) => stored.token_ids,
            other => panic!("{other:?}"),
        })
    };
    assert_eq!(tokens(b"\x90"), Ok(TokenIds::Flat(vec![])));
    let pairs = tokens(b"\x92\x92\x01\x02\x92\x02\x03").unwrap();
    assert_eq!(pairs, TokenIds::Bigrams(vec![[1, 2], [2, 3]]));
    assert_eq!(*pairs.sequence(), [1, 2, 3]);
    assert_eq!(*TokenIds::Bigrams(vec![]).sequence(), [0; 0]);

    for (list, place, found) in [
        (&b"\x92\x01\xff"[..], 1, "-1"),
        (b"\x91\xcf\x00\x00\x00\x01\x00\x00\x00\x00", 0, "4294967296"),
        (b"\x92\x01\x92\x01\x02", 1, "an array of 2"),
        (b"\x92\x92\x01\x02\x03", 1, "3"),
        (b"\x91\x93\x01\x02\x03", 0, "an array of 3"),
    ] {
        let error = tokens(list).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("BlockStored: `token_ids[{place}]` must be a token id")),
            "{error}"
        );
        assert!(error.ends_with(&format!("found {found}")), "{error}");
    }
}

fn with_everything() -> BlockStored {
    BlockStored {
        lora_id: Some(4),
        lora_name: Some("adapter".into()),
        extra_keys: Some(vec![
            None,
            Some(vec![
                ExtraKey::Text("salt".into()),
                ExtraKey::Placed { identifier: "image".into(), offset: -3 },
                ExtraKey::Bytes(vec![1, 2]),
                ExtraKey::Unsigned(5),
                ExtraKey::Negative(-5),
                ExtraKey::Float(0.5),
                ExtraKey::Flag(true),
            ]),
        ]),
        ..stored()
    }
}

#[test]
fn the_late_fields_are_read_in_both_forms() {
    let infos = vec![
        Some(BlockMmInfo { mm_objects: vec![MmObject { mm_hash: 42, offsets: vec![(0, 2), (5, 7)] }] }),
        None,
    ];
    let with_infos = BlockStored { block_mm_infos: Some(infos), ..with_everything() };
    let with_group = BlockStored {
        group_idx: Some(1),
        kv_cache_spec_kind: Some("sliding_window".into()),
        ..with_everything()
    };
    for form in [EventForm::Positional, EventForm::Named] {
        for event in [&with_infos, &with_group] {
            let events = vec![EngineEvent::BlockStored(event.clone())];
            let batch = EventBatch { ts: 0.0, events, data_parallel_rank: None };
            assert_eq!(decode_batch(&encode_batch(&batch, form).unwrap()).unwrap(), batch.into());
        }
    }

    let both = BlockStored { group_idx: Some(1), ..with_infos };
    let batch = EventBatch { events: vec![EngineEvent::BlockStored(both)], ..EventBatch::default() };
    assert!(encode_batch(&batch, EventForm::Named).is_ok());
    let error = encode_batch(&batch, EventForm::Positional).unwrap_err();
    assert!(matches!(error, WireError::NotPositional { index: 0 }));
}

#[test]
fn places_and_names_that_are_not_known_are_ignored() {
    // Twelve places after the tag; the ninth is neither of the two things that it can be.
    let event = b"\x9d\xabBlockStored\x91\x01\xc0\x92\x07\x08\x02\xc0\xc0\xc0\xc0\xa1?\xc3\x01\x02";
    let expect = BlockStored {
        block_hashes: vec![SequenceHash(1)],
        token_ids: TokenIds::Flat(vec![7, 8]),
        block_size: 2,
        ..BlockStored::default()
    };
    assert_eq!(decode_stored(event), expect);

    let event = b"\x95\xa4type\xacBlockRemoved\xacblock_hashes\x90\xa8locality\xa5LOCAL\x01\x02\xc0\xc3";
    let event = [b"\x85", &event[1..]].concat();
    assert_eq!(decode_one(&event), Ok(EngineEvent::BlockRemoved(BlockRemoved::default())));

    // Some engines number their adapters with texts; the number means nothing outside them.
    let event = b"\x96\xabBlockStored\x91\x01\xc0\x92\x07\x08\x02\xa4uuid";
    assert_eq!(decode_stored(event), expect);
}

#[test]
fn deep_nesting_is_an_error_and_no_stack_overflow() {
    let payload = vec![0x91; 1_000_000];
    assert!(matches!(decode_batch(&payload), Err(WireError::Msgpack { .. })));
    // An array that claims 2³² - 1 elements.
    assert!(matches!(decode_batch(b"\xdd\xff\xff\xff\xff\x01"), Err(WireError::Msgpack { .. })));
}
