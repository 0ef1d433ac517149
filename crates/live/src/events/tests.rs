//! Recorded messages of vLLM 0.32, and subscribers of ours.

use std::path::Path;

use rustc_hash::FxHashMap;
use serde_json::Value;
use testkit::ORACLE;

use super::hash::{BlockDigests, Digest, published};
use super::wire::{BlockEvent, payload};
use super::*;

/// Numbers that Python 3.11 computed, with `pickle` and with `cbor2`.
#[test]
fn digests_are_those_of_python() {
    let expected = [
        (
            HashAlgorithm::Sha256,
            [
                1313587708560275904,
                4012542965325586575,
                7450750779071660855,
                8277835430612317849,
                10309282155813981168,
                12262773037183220419,
                6833428831215337661,
                13320415869525886149,
                5065430595016313320,
            ],
        ),
        (
            HashAlgorithm::Sha256Cbor,
            [
                594637888835702507,
                6327745385739664683,
                15046739343611041061,
                2024258956522812117,
                9134468223228738045,
                12009346384364793183,
                5015190061827119123,
                5263435345566019974,
                3122812028340818358,
            ],
        ),
    ];
    for (algorithm, expected) in expected {
        let [zero, usual, empty] = ["0", "vllm-none-hash", ""].map(|seed| BlockDigests::new(algorithm, seed));
        let first = zero.block(None, &[1, 300, 70000, 1 << 31], None);
        let long: Vec<u32> = (200_000..240_000).collect();
        let computed = [
            first,
            zero.block(Some(&first), &[5, 6, 7, 8], None),
            zero.block(None, &[1, 2, 3, 4], Some("sälz")),
            // A pickle of several frames.
            zero.block(None, &long, None),
            usual.block(None, &[1], None),
            zero.block(None, &[1, 2], None),
            zero.block(None, &[1, 2, 3], None),
            zero.block(None, &[1, 2, 3, 4], Some(&"x".repeat(300))),
            empty.block(None, &[1, 2, 3, 4], None),
        ];
        assert_eq!(computed.map(|digest| published(&digest)), expected, "{algorithm:?}");
    }
}

/// A recorded event.
fn recorded(event: &Value) -> BlockEvent {
    let numbers = |key: &str| event[key].as_array().unwrap().iter().map(|number| number.as_u64().unwrap());
    match event["type"].as_str().unwrap() {
        "BlockStored" => BlockEvent::Stored {
            parent: event["parent_block_hash"].as_u64(),
            hashes: numbers("block_hashes").collect(),
            tokens: numbers("token_ids").map(|id| id as u32).collect(),
            block_size: event["block_size"].as_u64().unwrap() as u32,
            salt: event["extra_keys"][0][0].as_str().map(Into::into),
        },
        "BlockRemoved" => BlockEvent::Removed(numbers("block_hashes").next().unwrap()),
        "AllBlocksCleared" => BlockEvent::Cleared,
        other => panic!("{other}"),
    }
}

fn messages(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn recorded_blocks_have_the_numbers_that_we_compute() {
    let Some(root) = testkit::outside(ORACLE) else { return };
    let mut compared = 0;
    for (file, algorithm, seed) in [
        ("wire-cases", HashAlgorithm::Sha256, "0"),
        ("preemption-and-eviction", HashAlgorithm::Sha256, "0"),
        ("reset", HashAlgorithm::Sha256, "0"),
        ("sha256_cbor", HashAlgorithm::Sha256Cbor, "vllm-none-hash"),
    ] {
        let digests = BlockDigests::new(algorithm, seed);
        let mut known: FxHashMap<u64, Digest> = FxHashMap::default();
        let messages = messages(&root.join("live/kv-events").join(format!("{file}.jsonl")));
        for event in messages.iter().flat_map(|message| message["payload"][1].as_array().unwrap()) {
            let BlockEvent::Stored { parent, hashes, tokens, block_size, salt } = recorded(event) else {
                continue;
            };
            let mut parent = parent.map(|parent| known[&parent]);
            let mut salt = salt.as_deref();
            for (&number, tokens) in hashes.iter().zip(tokens.chunks_exact(block_size as usize)) {
                let digest = digests.block(parent.as_ref(), tokens, salt.take());
                assert_eq!(published(&digest), number, "{file}");
                known.insert(number, digest);
                parent = Some(digest);
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 367);
    testkit::compared(compared);
}

#[test]
fn recorded_messages_are_written_to_the_byte() {
    let Some(root) = testkit::outside(ORACLE) else { return };
    let mut compared = 0;
    for file in ["wire-cases", "preemption-and-eviction", "reset", "sha256_cbor"] {
        for message in messages(&root.join("live/kv-events").join(format!("{file}.jsonl"))) {
            let batch = &message["payload"];
            let events: Vec<BlockEvent> = batch[1].as_array().unwrap().iter().map(recorded).collect();
            let ours = payload(batch[0].as_f64().unwrap(), &events, 0, EventFormat::Map);
            let hex = message["frames_hex"][2].as_str().unwrap();
            let theirs =
                (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap());
            assert_eq!(ours, theirs.collect::<Vec<_>>(), "{file}");
            compared += 1;
        }
    }
    testkit::compared(compared);
}

#[test]
fn earlier_releases_wrote_arrays() {
    let stored = BlockEvent::Stored {
        parent: None,
        hashes: vec![7, u64::MAX],
        tokens: vec![1, 2, 3, 300],
        block_size: 2,
        salt: Some("s".into()),
    };
    let bytes = payload(0.5, &[stored, BlockEvent::Removed(7), BlockEvent::Cleared], 3, EventFormat::Array);
    let mut expected = b"\x93\xcb\x3f\xe0\0\0\0\0\0\0\x93".to_vec();
    expected.extend(b"\x99\xabBlockStored\x92\x07\xcf\xff\xff\xff\xff\xff\xff\xff\xff\xc0\x94\x01\x02\x03\xcd\x01\x2c\x02\xc0\xa3GPU\xc0\x92\x91\xa1s\xc0");
    expected.extend(b"\x93\xacBlockRemoved\x91\x07\xa3GPU\x91\xb0AllBlocksCleared\x03");
    assert_eq!(bytes, expected);
}
