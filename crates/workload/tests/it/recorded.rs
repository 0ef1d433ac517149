//! A trace of real conversations.

use servecast_workload::{Load, read_mooncake, stats};

use crate::read;

#[test]
fn conversations_have_their_known_size_and_reuse() {
    let Some(folder) = testkit::outside(testkit::DATA) else { return };
    let bytes = read(&folder.join("traces/mooncake_conversation.jsonl"));
    let trace = read_mooncake(bytes.as_slice()).unwrap();
    let workload = trace.workload(512, Load::Open { arrival_speedup_ratio: 1.0 }).unwrap();
    assert_eq!((workload.requests(), workload.sessions.len()), (12_031, 12_031));
    assert_eq!(workload.notes.sentences(), [""; 0]);
    let stats = stats(&workload, 512);
    assert_eq!(stats.blocks, 288_500);
    assert_eq!((stats.distinct_blocks, stats.reusable_blocks), (170_899, 105_592));
    assert!((stats.block_reuse_ratio - 0.366).abs() < 0.0005, "{}", stats.block_reuse_ratio);
    assert!((stats.token_reuse_ratio - 0.37338).abs() < 0.00001, "{}", stats.token_reuse_ratio);
    assert_eq!(stats.requests_per_bucket.iter().sum::<u64>(), 12_031);
    assert!((15..=25).contains(&stats.requests_per_bucket.len()));
}
