use servecast_router::wire::{
    BlockMmInfo, IndexEvent, IndexEventData, MmObject, RemovedBlocks, RouterEvent, StorageTier, StoredBlock,
    StoredBlocks, WireError, from_json, from_msgpack, to_json, to_msgpack,
};
use servecast_types::{BlockHash, KvEvent, SequenceHash};

fn event(storage_tier: StorageTier, data: IndexEventData) -> RouterEvent {
    RouterEvent { worker_id: 7, storage_tier, event: IndexEvent { event_id: 5, data, dp_rank: 1 } }
}

fn stored(mm_extra_info: Option<BlockMmInfo>) -> IndexEventData {
    IndexEventData::Stored(StoredBlocks {
        parent_hash: Some(SequenceHash(u64::MAX)),
        blocks: vec![StoredBlock { block_hash: SequenceHash(11), tokens_hash: BlockHash(22), mm_extra_info }],
    })
}

fn check_json(event: &RouterEvent, json: &str) {
    assert_eq!(to_json(event).unwrap(), json);
    assert_eq!(&from_json::<RouterEvent>(json.as_bytes()).unwrap(), event);
    assert_eq!(&from_msgpack::<RouterEvent>(&to_msgpack(event).unwrap()).unwrap(), event);
}

#[test]
fn json_has_these_shapes() {
    check_json(
        &event(StorageTier::HostPinned, stored(None)),
        r#"{"worker_id":7,"storage_tier":"host_pinned","event":{"event_id":5,"data":{"stored":{"parent_hash":18446744073709551615,"blocks":[{"block_hash":11,"tokens_hash":22}]}},"dp_rank":1}}"#,
    );
    let info = BlockMmInfo { mm_objects: vec![MmObject { mm_hash: 3, offsets: vec![(0, 4)] }] };
    check_json(
        &event(StorageTier::Device, stored(Some(info))),
        r#"{"worker_id":7,"storage_tier":"device","event":{"event_id":5,"data":{"stored":{"parent_hash":18446744073709551615,"blocks":[{"block_hash":11,"tokens_hash":22,"mm_extra_info":{"mm_objects":[{"mm_hash":3,"offsets":[[0,4]]}]}}]}},"dp_rank":1}}"#,
    );
    let removed = RemovedBlocks { block_hashes: vec![SequenceHash(11), SequenceHash(12)] };
    check_json(
        &event(StorageTier::Disk, IndexEventData::Removed(removed)),
        r#"{"worker_id":7,"storage_tier":"disk","event":{"event_id":5,"data":{"removed":{"block_hashes":[11,12]}},"dp_rank":1}}"#,
    );
    check_json(
        &event(StorageTier::External, IndexEventData::Cleared),
        r#"{"worker_id":7,"storage_tier":"external","event":{"event_id":5,"data":"cleared","dp_rank":1}}"#,
    );
}

#[test]
fn msgpack_has_named_fields() {
    let bytes = [
        &b"\x83\xa9worker_id\x07\xacstorage_tier\xa6device\xa5event"[..],
        b"\x83\xa8event_id\x05\xa4data\x81\xa6stored",
        b"\x82\xabparent_hash\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\xa6blocks\x91\x82\xaablock_hash\x0b\xabtokens_hash\x16\xa7dp_rank\x01",
    ]
    .concat();
    let event = event(StorageTier::Device, stored(None));
    assert_eq!(to_msgpack(&event).unwrap(), bytes);
    assert_eq!(from_msgpack::<RouterEvent>(&bytes).unwrap(), event);

    let bytes = b"\x83\xa8event_id\x05\xa4data\xa7cleared\xa7dp_rank\x01";
    assert_eq!(
        to_msgpack(&IndexEvent { event_id: 5, data: IndexEventData::Cleared, dp_rank: 1 }).unwrap(),
        bytes
    );
}

#[test]
fn absent_tier_rank_and_parent_have_defaults_and_unknown_fields_are_ignored() {
    let json = r#"{"worker_id":7,"new":[1],"event":{"event_id":5,"data":{"stored":{"start_position":3,"blocks":[]}}}}"#;
    let data = IndexEventData::Stored(StoredBlocks { parent_hash: None, blocks: Vec::new() });
    let expect = RouterEvent {
        worker_id: 7,
        storage_tier: StorageTier::Device,
        event: IndexEvent { event_id: 5, data, dp_rank: 0 },
    };
    assert_eq!(from_json::<RouterEvent>(json.as_bytes()).unwrap(), expect);
    assert_eq!(from_json::<Vec<RouterEvent>>(format!("[{json}]").as_bytes()).unwrap(), [expect]);
}

#[test]
fn errors_name_the_field() {
    let json = r#"{"worker_id":7,"event":{"event_id":5,"data":{"removed":{"block_hashes":[1,-2]}}}}"#;
    let Err(WireError::Json { path, source }) = from_json::<RouterEvent>(json.as_bytes()) else { panic!() };
    assert_eq!(path, "event.data.removed.block_hashes[1]");
    assert!(source.to_string().contains("-2"), "{source}");

    let Err(WireError::Msgpack { path, .. }) = from_msgpack::<RouterEvent>(b"\x81\xa9worker_id\xa1x") else {
        panic!()
    };
    assert_eq!(path, "worker_id");
    assert!(matches!(from_json::<u64>(b"1 2"), Err(WireError::Json { .. })));
    assert!(matches!(from_msgpack::<u64>(b"\x01\x02"), Err(WireError::TrailingBytes)));
}

#[test]
fn media_have_tiers_and_an_unknown_one_is_not_the_device() {
    let cases = [
        (StorageTier::Device, &["GPU", "DEVICE", "gpu"][..]),
        (StorageTier::HostPinned, &["CPU", "CPU_PINNED", "CPU_TIER1"]),
        (StorageTier::Disk, &["CPU_TIER2", "DISK", "NVME", "FS", "STORAGE"]),
        (StorageTier::External, &["EXTERNAL", "NETWORK", "REMOTE", "SHARED", "OBJ"]),
    ];
    for (tier, media) in cases {
        for medium in media {
            assert_eq!(StorageTier::from_medium(Some(medium)), Some(tier), "{medium}");
        }
    }
    assert_eq!(StorageTier::from_medium(None), Some(StorageTier::Device));
    assert_eq!(StorageTier::from_medium(Some("TAPE")), None);
}

#[test]
fn simulated_engines_name_content_and_position_by_one_hash() {
    let event =
        KvEvent::Stored { parent: Some(SequenceHash(1)), blocks: [SequenceHash(2)].into_iter().collect() };
    let block = StoredBlock { block_hash: SequenceHash(2), tokens_hash: BlockHash(2), mm_extra_info: None };
    let stored = StoredBlocks { parent_hash: Some(SequenceHash(1)), blocks: vec![block] };
    assert_eq!(IndexEventData::from(&event), IndexEventData::Stored(stored));

    let event = KvEvent::Removed { blocks: [SequenceHash(2)].into_iter().collect() };
    let removed = RemovedBlocks { block_hashes: vec![SequenceHash(2)] };
    assert_eq!(IndexEventData::from(&event), IndexEventData::Removed(removed));
    assert_eq!(IndexEventData::from(&KvEvent::Cleared), IndexEventData::Cleared);
}
