use super::*;

fn ids(pool: &BlockPool) -> Vec<u32> {
    pool.free_list().map(|block| block.0).collect()
}

fn take(pool: &mut BlockPool, n: u32) -> Vec<BlockId> {
    let mut taken = Vec::new();
    pool.take(n, &mut taken);
    taken
}

fn store(pool: &mut BlockPool, blocks: &[BlockId], first: u64) {
    store_as(pool, blocks, first, Told::Yes);
}

fn store_as(pool: &mut BlockPool, blocks: &[BlockId], first: u64, told: Told) {
    let hashes = HashRun::up(SequenceHash(first), blocks.len() as u32).into();
    pool.store(blocks, 0, Contents { hashes: &hashes, is_new: false, told });
}

fn hits(pool: &BlockPool, first: u64, len: u32) -> Vec<u32> {
    let mut hits = Hits::default();
    pool.find_hits(HashRun::up(SequenceHash(first), len), &mut hits);
    hits.blocks.iter().map(|block| block.0).collect()
}

#[test]
fn the_null_block_is_never_handed_out() {
    assert_eq!(ids(&BlockPool::new(4, true, true, false)), [1, 2, 3]);
    assert_eq!(ids(&BlockPool::new(4, false, true, false)), [0, 1, 2, 3]);
    assert!(ids(&BlockPool::new(1, true, true, false)).is_empty());
    assert!(ids(&BlockPool::new(0, true, true, false)).is_empty());
}

#[test]
fn content_goes_to_the_tail_and_the_rest_to_the_head_tail_of_the_sequence_first() {
    let mut pool = BlockPool::new(8, true, true, false);
    let blocks = take(&mut pool, 5);
    store(&mut pool, &blocks[..3], 10);
    pool.release(&blocks);
    assert_eq!(ids(&pool), [5, 4, 6, 7, 3, 2, 1]);
    pool.check(std::iter::empty()).unwrap();
    assert_eq!(take(&mut pool, 4), [5, 4, 6, 7].map(BlockId));
    assert_eq!(ids(&pool), [3, 2, 1]);
}

#[test]
fn older_releases_put_every_freed_block_at_the_tail() {
    let mut pool = BlockPool::new(6, true, false, false);
    let blocks = take(&mut pool, 3);
    store(&mut pool, &blocks[..2], 10);
    pool.release(&blocks);
    assert_eq!(ids(&pool), [4, 5, 3, 2, 1]);
}

#[test]
fn a_hit_takes_a_block_off_the_free_list_and_keeps_its_content() {
    let mut pool = BlockPool::new(5, true, true, false);
    let blocks = take(&mut pool, 2);
    store(&mut pool, &blocks[..1], 7);
    pool.release(&blocks);
    let hit = &blocks[..1];
    assert_eq!(hits(&pool, 7, 2), [1], "as far as there are some");
    pool.touch(hit);
    pool.touch(hit);
    assert_eq!(ids(&pool), [2, 3, 4]);
    pool.release(hit);
    pool.check(hit.iter().copied()).unwrap();
}

#[test]
fn a_prefix_that_is_hit_parts_from_the_rest() {
    let mut pool = BlockPool::new(7, true, true, true);
    let blocks = take(&mut pool, 4);
    store(&mut pool, &blocks, 10);
    pool.release(&blocks);
    pool.touch(&blocks[..2]);
    assert_eq!(ids(&pool), [5, 6, 4, 3]);
    let other = take(&mut pool, 3);
    assert_eq!(other, [5, 6, 4].map(BlockId));
    let hashes = [HashRun::up(SequenceHash(10), 4), HashRun::up(SequenceHash(50), 1)].into_iter().collect();
    let contents = Contents { hashes: &hashes, is_new: false, told: Told::Yes };
    pool.store(&[&blocks[..2], &other].concat(), 2, contents);
    assert_eq!(hits(&pool, 10, 9), [1, 2, 3, 6], "block 5 has the content of block 3, which had it first");
    assert_eq!(pool.num_cached(), 5);
    pool.check(blocks[..2].iter().chain(&other).copied()).unwrap();
    pool.release(&[&blocks[..2], &other].concat());
    assert_eq!(ids(&pool), [3, 4, 6, 5, 2, 1]);
    pool.check(std::iter::empty()).unwrap();
}

#[test]
fn a_sequence_may_leave_a_run_and_go_on_elsewhere() {
    let mut pool = BlockPool::new(8, true, true, false);
    let blocks = take(&mut pool, 6);
    store(&mut pool, &blocks[..4], 10);
    store(&mut pool, &blocks[4..], 50);
    pool.release(&blocks);
    let hits = [&blocks[..2], &blocks[4..]].concat();
    pool.touch(&hits);
    pool.check(hits.iter().copied()).unwrap();
    assert_eq!(ids(&pool), [7, 4, 3]);
}

#[test]
fn events_do_not_tell_of_contents_that_nobody_is_told_of() {
    let mut pool = BlockPool::new(6, true, true, true);
    let blocks = take(&mut pool, 4);
    store(&mut pool, &blocks[..2], 7);
    // They go on as numbers do, but are not part of the same segment.
    let hashes = HashRun::up(SequenceHash(7), 4).into();
    pool.store(&blocks, 2, Contents { hashes: &hashes, is_new: true, told: Told::No });
    assert_eq!((pool.num_cached(), hits(&pool, 7, 4)), (4, vec![1, 2, 3, 4]));
    pool.release(&blocks);
    take(&mut pool, 4);
    assert_eq!((pool.num_cached(), hits(&pool, 7, 4)), (1, vec![1]));
    let mut events = Vec::new();
    pool.take_events(&mut events);
    let stored = KvEvent::Stored { parent: None, blocks: HashRun::up(SequenceHash(7), 2).into() };
    let removed = KvEvent::Removed { blocks: HashRun::up(SequenceHash(8), 1).into() };
    assert_eq!(events, [stored, removed]);
}

#[test]
fn duplicates_are_evicted_one_by_one_and_each_is_announced() {
    let mut pool = BlockPool::new(6, true, true, true);
    let blocks = take(&mut pool, 4);
    let (first, second) = blocks.split_at(2);
    store(&mut pool, first, 7);
    store(&mut pool, second, 7);
    assert_eq!(hits(&pool, 7, 2), [1, 2], "the first ones are hit");
    assert_eq!(pool.num_cached(), 2);
    pool.release(first);
    take(&mut pool, 2);
    pool.check(second.iter().copied().chain([BlockId(5), BlockId(2)])).unwrap();
    assert_eq!(hits(&pool, 7, 2), [1, 4]);
    let mut events = Vec::new();
    pool.take_events(&mut events);
    let stored = KvEvent::Stored { parent: None, blocks: HashRun::up(SequenceHash(7), 2).into() };
    let removed = KvEvent::Removed { blocks: HashRun::up(SequenceHash(8), 1).into() };
    assert_eq!(events, [stored.clone(), stored, removed]);
    pool.release(second);
    take(&mut pool, 3);
    assert_eq!((pool.num_cached(), hits(&pool, 7, 2)), (0, vec![]));
}
