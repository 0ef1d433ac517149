use serde_json::{Value, json};

use super::super::fixture::Fixture;
use super::*;

/// Offers requests, given as prompt and output length, to a batch; the tokens of those that it takes, and how it
/// answered to each.
fn offer(pages: u32, own: &Value, requests: &[(u32, u32)]) -> (Vec<u32>, Vec<AddResult>) {
    let mut fixture = Fixture::new(pages, own);
    let mut adder = adder(&fixture, 0, &[]);
    let answers = requests.iter().enumerate().map(|(number, &(prompt, output))| {
        let slot = fixture.add(&[(1_000 * number as u32, prompt)], output);
        add(&mut adder, &mut fixture, slot)
    });
    let answers = answers.collect();
    (adder.taken.iter().map(|taken| taken.tokens).collect(), answers)
}

/// A batch beside running requests, `mixed` of which ride along.
fn adder(fixture: &Fixture, mixed: u32, running: &[Slot]) -> PrefillAdder {
    let running = running.iter().map(|&slot| &fixture.requests[slot]);
    PrefillAdder::new(&fixture.sglang(), &fixture.cache, 0.5, mixed, running)
}

fn add(adder: &mut PrefillAdder, fixture: &mut Fixture, slot: Slot) -> AddResult {
    let Fixture { cache, requests, .. } = fixture;
    let known = requests[slot].known();
    let found = cache.find_tiers(&mut requests[slot], known - 1);
    adder.add(slot, requests, &[], found, cache, true)
}

use AddResult::{Continue, NoToken, Other};

#[test]
fn memory_is_kept_for_the_whole_output_and_a_page_of_each() {
    let own = json!({});
    let all = offer(100, &own, &[(40, 10), (30, 10), (1, 5)]);
    assert_eq!(all, (vec![40, 30, 1], vec![Continue, Continue, Continue]));
    // 100 - (40 + 10 + 1) - (30 + 10 + 1) leaves 8, of which one token has to stay.
    let two = offer(100, &own, &[(40, 10), (30, 10), (1, 6)]);
    assert_eq!(two, (vec![40, 30], vec![Continue, Continue, NoToken]));
    let clipped = offer(100, &json!({"clip_max_new_tokens": 5}), &[(40, 500), (45, 500)]);
    assert_eq!(clipped, (vec![40, 45], vec![Continue, Continue]));
    let pages = offer(6, &json!({"page_size": 16}), &[(33, 1), (14, 1)]);
    assert_eq!(pages, (vec![33], vec![Continue, NoToken]), "33 tokens take 48, and a page more");
}

#[test]
fn a_page_on_top_counts_where_outputs_are_known_to_be_as_long_as_asked_for() {
    let own = json!({"page_size": 16, "disable_radix_cache": true, "chunked_prefill_size": -1});
    let answer = |output| {
        let mut fixture = Fixture::new(8, &own);
        let slots = [(11, 1), (43, output)].map(|(prompt, output)| fixture.add(&[(0, prompt)], output));
        for slot in slots {
            fixture.requests[slot].ignore_eos = true;
        }
        let mut adder = adder(&fixture, 0, &[]);
        slots.map(|slot| add(&mut adder, &mut fixture, slot))
    };
    // 128 - (16 + 16) - (48 + 16) leaves 32 for the output of two, of which a token of each has to stay.
    assert_eq!(answer(15), [Continue, NoToken]);
    assert_ne!(answer(14)[1], NoToken);
}

#[test]
fn a_request_is_not_alone_beside_one_that_outran_what_was_foreseen() {
    let own = json!({"page_size": 16, "disable_radix_cache": true, "chunked_prefill_size": -1});
    let is_admitted = |running: usize| {
        let mut fixture = Fixture::new(7, &own);
        let [other, newcomer] =
            [(16, 100), (43, 62)].map(|(prompt, output)| fixture.add(&[(0, prompt)], output));
        // Half of 100 was foreseen, 60 are there already: of its output nothing is left to be foreseen.
        fixture.requests[other].outputs = 60;
        fixture.requests[newcomer].ignore_eos = true;
        let running = &[other][..running];
        let mut adder = adder(&fixture, 0, running);
        let Fixture { cache, requests, .. } = &mut fixture;
        let known = requests[newcomer].known();
        let found = cache.find_tiers(&mut requests[newcomer], known - 1);
        adder.add(newcomer, requests, running, found, cache, true);
        !adder.taken.is_empty()
    };
    // 112 - 48 - 62 leaves 2, of which one token has to stay; a page on top is too much.
    assert!(is_admitted(0));
    assert!(!is_admitted(1));
}

#[test]
fn a_prompt_that_would_use_up_the_input_waits_unless_it_is_the_first() {
    let own = json!({"max_prefill_tokens": 50, "chunked_prefill_size": -1});
    assert_eq!(offer(1_000, &own, &[(60, 1)]), (vec![60], vec![Other]));
    assert_eq!(offer(1_000, &own, &[(20, 1), (30, 1)]), (vec![20], vec![Continue, Other]));
    assert_eq!(offer(1_000, &own, &[(20, 1), (29, 1)]), (vec![20, 29], vec![Continue, Continue]));
}

#[test]
fn memory_that_a_prefix_locks_is_missed_before_the_input_is() {
    let own = json!({"max_prefill_tokens": 20, "chunked_prefill_size": -1});
    let mut fixture = Fixture::new(40, &own);
    fixture.cache_prompt(&[(0, 20)]);
    let (first, other) = (fixture.add(&[(500, 10)], 1), fixture.add(&[(0, 31)], 1));
    let mut adder = adder(&fixture, 0, &[]);
    assert_eq!(add(&mut adder, &mut fixture, first), Continue);
    // 40 - (10 + 1 + 1) leaves 28 for its 11 + 1 + 1, and 8 behind the lock; of the input 10 are left.
    assert_eq!(add(&mut adder, &mut fixture, other), NoToken);
}

#[test]
fn where_prompts_are_cut_the_one_that_exceeds_the_input_is_the_last_of_the_batch() {
    let own = json!({"max_prefill_tokens": 64, "chunked_prefill_size": 256});
    let requests = [(15, 1), (39, 1), (44, 1)];
    assert_eq!(offer(1_000, &own, &requests), (vec![15, 39, 44], vec![Continue, Continue, Other]));
}

#[test]
fn the_last_prompt_is_cut_to_whole_pages_of_what_is_left_of_the_chunk() {
    let own = json!({"page_size": 8, "chunked_prefill_size": 32});
    assert_eq!(offer(100, &own, &[(20, 1), (8, 1)]), (vec![20, 8], vec![Continue, Other]));
    assert_eq!(offer(100, &own, &[(12, 1), (20, 1)]), (vec![12, 16], vec![Continue, Other]));
    let mut fixture = Fixture::new(100, &own);
    let mut adder = adder(&fixture, 25, &[]);
    let slot = fixture.add(&[(0, 20)], 1);
    assert_eq!(add(&mut adder, &mut fixture, slot), Other, "25 decodes leave no page of the chunk");
    assert!(adder.taken.is_empty() && adder.new_chunked.is_none());
}

#[test]
fn a_cached_prefix_costs_nothing_but_the_memory_that_it_locks() {
    let mut fixture = Fixture::new(20, &json!({"max_prefill_tokens": 4}));
    fixture.cache_prompt(&[(0, 10)]);
    let (long, other) = (fixture.add(&[(0, 12)], 2), fixture.add(&[(50, 3)], 2));
    let mut adder = adder(&fixture, 0, &[]);
    assert_eq!(add(&mut adder, &mut fixture, long), Continue);
    assert_eq!(adder.taken[0].tokens, 2);
    assert!((adder.rem_total(&fixture.cache) - 5.0).abs() < 1e-9, "20 - 10 locked - (2 + 2 + 1)");
    assert_eq!(add(&mut adder, &mut fixture, other), NoToken, "it needs 3 + 2 + 1");
}

#[test]
fn running_requests_reserve_their_share_and_decodes_that_ride_along_a_token() {
    let mut fixture = Fixture::new(1_000, &json!({"chunked_prefill_size": 64, "clip_max_new_tokens": 50}));
    let (one, endless) = (fixture.add(&[(0, 1)], 20), fixture.add(&[(0, 1)], 500));
    fixture.requests[one].outputs = 4;
    fixture.requests[endless].ignore_eos = true;
    let adder = adder(&fixture, 2, &[one, endless]);
    let left = 1_000.0 - 16.0 * 0.5 - 50.0 - 2.0;
    assert!((adder.rem_total(&fixture.cache) - left).abs() < 1e-9);
    assert_eq!((adder.rem_input, adder.rem_chunk), (16_382, Some(62)));
}

#[test]
fn a_chunk_that_continues_always_gets_on() {
    let mut fixture = Fixture::new(100, &json!({"page_size": 8, "chunked_prefill_size": 32}));
    let slot = fixture.add(&[(0, 100)], 1);
    let running = fixture.add(&[(500, 1)], 10_000);
    let next = |adder: &PrefillAdder| adder.next_chunk(&fixture.requests[slot], &fixture.cache, None);
    assert_eq!(next(&adder(&fixture, 0, &[])), 32);
    assert_eq!(next(&adder(&fixture, 3, &[])), 29);
    let crowded = adder(&fixture, 0, &[running]);
    assert!(crowded.rem_total(&fixture.cache) < 0.0);
    assert_eq!(next(&crowded), 32, "even if the memory is promised to others");
    assert_eq!(next(&adder(&fixture, 40, &[])), 8, "even if there are more decodes than a chunk has tokens");
    let mut adder = adder(&fixture, 0, &[]);
    assert!(adder.add_chunked(slot, &fixture.requests[slot], 32, &fixture.cache), "more is left");
    assert_eq!(adder.state(&fixture.cache), Other);
}

#[test]
fn without_end_and_without_sharing_it_is_foreseen_when_memory_becomes_free() {
    let own = json!({"disable_radix_cache": true, "chunked_prefill_size": 64});
    let mut answers = Vec::new();
    for ignore_eos in [false, true] {
        let mut fixture = Fixture::new(100, &own);
        let slots = [fixture.add(&[(0, 40)], 20), fixture.add(&[(500, 30)], 10)];
        for slot in slots {
            fixture.requests[slot].ignore_eos = ignore_eos;
        }
        let mut adder = adder(&fixture, 0, &[]);
        answers.extend(slots.map(|slot| add(&mut adder, &mut fixture, slot)));
        if ignore_eos {
            // 40 of the chunk are used, and pages are single tokens, so that 24 are left.
            assert_eq!(adder.taken[1].tokens, 24);
        }
    }
    assert_eq!(answers, [Continue, NoToken, Continue, Other]);
}
