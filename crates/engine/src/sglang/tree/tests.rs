use super::*;

fn prompt(runs: &[(u32, u32)]) -> Prompt {
    Prompt::new(runs.iter().map(|&(first, len)| Run::tokens(first, len)))
}

fn key(content: &Prompt) -> Key<'_> {
    Key { content, tokens: content.tokens(), hashes: None }
}

#[test]
fn what_is_shared_is_kept_once_and_cut_at_page_boundaries() {
    let mut tree = RadixTree::new(4);
    let (first, second) = (prompt(&[(0, 18)]), prompt(&[(0, 10), (100, 6)]));
    assert_eq!(tree.insert(Prefix::EMPTY, key(&first)).existing, 0);
    assert_eq!(tree.evictable_tokens(), 16, "the last two tokens fill no page");
    assert_eq!(tree.insert(Prefix::EMPTY, key(&second)).existing, 8, "the third page differs");
    assert_eq!(tree.evictable_tokens(), 24);
    let found = tree.find(Key { tokens: 11, ..key(&second) });
    assert_eq!(found.whole.tokens, 8);
    tree.check(std::iter::empty()).unwrap();
}

#[test]
fn leaves_go_in_order_of_last_use_and_locked_paths_stay() {
    let mut tree = RadixTree::new(1);
    let contents = [prompt(&[(0, 4), (10, 2)]), prompt(&[(0, 4), (20, 3)]), prompt(&[(50, 5)])];
    for content in &contents {
        tree.insert(Prefix::EMPTY, key(content));
    }
    let found = tree.find(key(&contents[0]));
    tree.lock(found.whole.node);
    tree.check([found.whole.node].into_iter()).unwrap();
    assert_eq!((tree.evictable_tokens(), tree.protected_tokens()), (8, 6));
    assert_eq!(tree.evict_leaf().unwrap().tokens, 3);
    assert_eq!(tree.evict_leaf().unwrap().tokens, 5);
    assert_eq!(tree.evict_leaf(), None, "the rest is locked");
    tree.unlock(found.whole.node);
    assert_eq!(tree.evict_leaf().unwrap().tokens, 2);
    assert_eq!(tree.evict_leaf().unwrap().tokens, 4, "a node without children is a leaf");
    tree.check(std::iter::empty()).unwrap();
}

/// The ids of evicted nodes are reused, the last one first, so that they tell nothing of age.
#[test]
fn the_rest_of_a_cut_node_is_older_than_the_leaf_beside_it() {
    let mut tree = RadixTree::new(1);
    for first in [100, 200, 300] {
        tree.insert(Prefix::EMPTY, key(&prompt(&[(first, 1)])));
    }
    while tree.evict_leaf().is_some() {}
    tree.insert(Prefix::EMPTY, key(&prompt(&[(0, 10)])));
    tree.insert(Prefix::EMPTY, key(&prompt(&[(0, 6), (50, 9)])));
    assert_eq!(tree.evict_leaf().unwrap().tokens, 4);
    tree.check(std::iter::empty()).unwrap();
}

#[test]
fn a_walk_is_a_use_of_all_that_is_above_its_end() {
    let mut tree = RadixTree::new(1);
    let (long, short) = (prompt(&[(0, 4), (10, 2)]), prompt(&[(50, 5)]));
    let start = tree.insert(Prefix::EMPTY, Key { tokens: 4, ..key(&long) });
    tree.insert(start.prefix, key(&long));
    tree.insert(Prefix::EMPTY, key(&short));
    tree.find(key(&long));
    let sizes: Vec<u32> = std::iter::from_fn(|| tree.evict_leaf()).map(|leaf| leaf.tokens).collect();
    assert_eq!(sizes, [5, 2, 4]);
}

#[test]
fn an_insertion_continues_where_the_prefix_ends_that_is_known() {
    let mut tree = RadixTree::new(4);
    let content = prompt(&[(0, 10), (90, 20)]);
    let mut known = Prefix::EMPTY;
    for tokens in [9, 17, 30] {
        let inserted = tree.insert(known, Key { tokens, ..key(&content) });
        assert_eq!(inserted.existing, known.tokens);
        tree.lock_below(known.node, inserted.prefix.node);
        known = inserted.prefix;
    }
    // It is cut, but still ends where it did.
    tree.find(Key { tokens: 20, ..key(&content) });
    assert_eq!(tree.find(key(&content)).whole, known);
    tree.check([known.node].into_iter()).unwrap();
    tree.unlock(known.node);
    assert_eq!((tree.evictable_tokens(), tree.protected_tokens()), (28, 0));
}

#[test]
fn pages_of_several_runs_are_told_apart() {
    let mut tree = RadixTree::new(4);
    let (one, other) = (prompt(&[(0, 2), (10, 2)]), prompt(&[(0, 3), (11, 1)]));
    tree.insert(Prefix::EMPTY, key(&one));
    assert_eq!(tree.find(key(&other)).whole.tokens, 0);
    tree.insert(Prefix::EMPTY, key(&other));
    assert_eq!((tree.find(key(&one)).whole.tokens, tree.find(key(&other)).whole.tokens), (4, 4));
    tree.check(std::iter::empty()).unwrap();
}

#[test]
fn a_prefix_is_hit_where_the_window_before_its_end_has_slots() {
    let mut tree = RadixTree::new(1).with_windows(4);
    let content = prompt(&[(0, 10), (50, 3)]);
    // Of 10 tokens the first 5 fell out of the window of the next: [5 without slots][1][4].
    let cached = tree.insert_with_window(Prefix::EMPTY, Key { tokens: 10, ..key(&content) }, 5);
    assert_eq!((cached.in_window, tree.window_evictable(), tree.evictable_tokens()), (5, 5, 10));
    assert_eq!(tree.find(key(&content)).device.tokens, 10);
    let short = tree.find(Key { tokens: 8, ..key(&content) });
    assert_eq!((short.device.tokens, short.cached), (0, 8), "of the window of 4 only 3 have slots");
    assert_eq!(tree.find(Key { tokens: 9, ..key(&content) }).device.tokens, 9);
    tree.check(std::iter::empty()).unwrap();
    tree.check_windows(std::iter::empty(), false).unwrap();
}

#[test]
fn who_computes_a_prefix_without_slots_again_gives_it_slots() {
    let mut tree = RadixTree::new(1).with_windows(4);
    let content = prompt(&[(0, 10)]);
    tree.insert_with_window(Prefix::EMPTY, key(&content), 5);
    let again = tree.insert_with_window(Prefix::EMPTY, Key { tokens: 8, ..key(&content) }, 3);
    assert_eq!(
        (again.existing, again.in_window),
        (8, 2),
        "the first 3 have no slots in the second one either"
    );
    assert_eq!(tree.window_evictable(), 7);
    assert_eq!(tree.find(Key { tokens: 8, ..key(&content) }).device.tokens, 8);
    tree.check_windows(std::iter::empty(), false).unwrap();
}

#[test]
fn a_window_is_locked_in_whole_nodes_and_what_is_above_loses_its_slots_first() {
    let mut tree = RadixTree::new(1).with_windows(4);
    let (one, other) = (prompt(&[(0, 6), (10, 3)]), prompt(&[(50, 2)]));
    let start = tree.insert_with_window(Prefix::EMPTY, Key { tokens: 6, ..key(&one) }, 0);
    let leaf = tree.insert_with_window(start.prefix, key(&one), 0);
    tree.insert_with_window(Prefix::EMPTY, key(&other), 0);
    tree.lock(leaf.prefix.node);
    // [2][4] and [3]: the window before the end takes the 4 as a whole.
    let first = tree.lock_window(leaf.prefix);
    assert_eq!((first, tree.window_protected(), tree.window_evictable()), (2, 7, 4));
    assert_eq!(tree.evict_window(), Some(WindowVictim::Inner { tokens: 2 }));
    assert!(matches!(tree.evict_window(), Some(WindowVictim::Leaf(_))));
    tree.check_windows([(leaf.prefix, first)].into_iter(), false).unwrap();
    tree.unlock(leaf.prefix.node);
    tree.unlock_window(leaf.prefix, first);
    assert_eq!((tree.window_protected(), tree.window_evictable()), (0, 9));
    tree.check_windows(std::iter::empty(), false).unwrap();
}

#[test]
fn a_leaf_that_somebody_needs_without_its_window_loses_only_its_slots() {
    let mut tree = RadixTree::new(1).with_windows(4);
    let content = prompt(&[(0, 6)]);
    let leaf = tree.insert_with_window(Prefix::EMPTY, key(&content), 0).prefix;
    tree.lock(leaf.node);
    assert_eq!(tree.evict_window(), Some(WindowVictim::Inner { tokens: 2 }));
    assert_eq!(tree.evict_window(), Some(WindowVictim::Inner { tokens: 4 }));
    assert_eq!((tree.evict_window(), tree.protected_tokens()), (None, 6));
    tree.check(std::iter::once(leaf.node)).unwrap();
}

/// A window of 5 tokens before the end reaches 8 tokens back, and so does the page before that.
#[test]
fn a_use_reaches_a_page_further_than_the_window() {
    let mut tree = RadixTree::new(4).with_windows(5);
    let (one, other) = (prompt(&[(0, 8), (100, 8)]), prompt(&[(50, 8)]));
    let start = tree.insert_with_window(Prefix::EMPTY, Key { tokens: 8, ..key(&one) }, 0);
    tree.insert_with_window(start.prefix, key(&one), 0);
    tree.insert_with_window(Prefix::EMPTY, key(&other), 0);
    assert_eq!(tree.find(key(&one)).device.tokens, 16);
    assert!(
        matches!(tree.evict_window(), Some(WindowVictim::Leaf(_))),
        "the other one is older than all of this"
    );
}

/// A tree with contents of one run each, all of which the host has, too.
fn on_both_tiers(contents: &[(u32, u32)]) -> (RadixTree, Vec<Prompt>) {
    let mut tree = RadixTree::new(1).with_duplicates();
    let contents: Vec<Prompt> = contents.iter().map(|&run| prompt(&[run])).collect();
    for content in &contents {
        let inserted = tree.insert(Prefix::EMPTY, key(content));
        tree.keep_on_host(inserted.prefix.node);
        tree.track_duplicate(inserted.prefix.node);
    }
    (tree, contents)
}

fn sizes(gone: &[Evicted]) -> Vec<u32> {
    gone.iter().map(|gone| gone.tokens).collect()
}

#[test]
fn a_lookup_is_a_use_of_what_only_the_host_has() {
    let (mut tree, contents) = on_both_tiers(&[(0, 4), (100, 5)]);
    while tree.evict_leaf().is_some() {}
    let found = tree.find(key(&contents[0]));
    assert_eq!((found.device.tokens, found.whole.tokens), (0, 4));
    tree.check(std::iter::empty()).unwrap();
    assert_eq!(sizes(&tree.evict_from_host(1, None)), [5]);
    // What is about to be loaded stays.
    assert!(tree.evict_from_host(1, Some(found.whole.node)).is_empty());
    assert_eq!(sizes(&tree.evict_from_host(1, None)), [4]);
    tree.check(std::iter::empty()).unwrap();
}

/// 4 and 5 are leaves on the device, 6 is not; 7 is only on the host.
#[test]
fn the_host_gives_up_what_the_device_has_too_and_leaves_of_the_device_last_of_that() {
    let (mut tree, contents) = on_both_tiers(&[(50, 7), (0, 4), (100, 5), (200, 6)]);
    tree.evict_leaf().unwrap();
    let below = prompt(&[(200, 6), (300, 1)]);
    tree.insert(Prefix::EMPTY, key(&below));
    // It has had its place since before the others.
    tree.find(key(&contents[1]));
    assert_eq!(sizes(&tree.evict_from_host(6, None)), [6]);
    assert_eq!(sizes(&tree.evict_from_host(20, None)), [4, 5, 7]);
    assert_eq!((tree.evictable_tokens(), tree.find(key(&below)).device.tokens), (16, 7));
    tree.check(std::iter::empty()).unwrap();
}

/// A leaf of the device whose copy the host has given up, with two nodes below that only the host has, one below the other.
#[test]
fn a_leaf_is_lost_with_what_only_the_host_has_below_it() {
    let (mut tree, contents) = on_both_tiers(&[(0, 4)]);
    for end in [(100, 5), (100, 7)] {
        let content = prompt(&[(0, 4), end]);
        let inserted = tree.insert(Prefix::EMPTY, key(&content));
        tree.keep_on_host(inserted.prefix.node);
    }
    assert_eq!([tree.evict_leaf(), tree.evict_leaf()].map(|gone| gone.unwrap().tokens), [2, 5]);
    let leaf = tree.find(key(&contents[0])).device.node;
    assert_eq!(sizes(&tree.evict_from_host(4, None)), [4]);
    assert_eq!(sizes(&tree.drop_below(leaf)), [2, 5]);
    assert_eq!(tree.evict(leaf).tokens, 4);
    tree.check(std::iter::empty()).unwrap();
}
