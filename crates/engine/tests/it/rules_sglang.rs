//! Small schedules of SGLang that can be worked out by hand.

use serde_json::{Value, json};
use servecast_engine::EngineRequest;
use servecast_types::{Prompt, RequestId, Run, Time};

use crate::rules::{check, check_requests};

/// Settings of SGLang with a pool of so many pages of 4 tokens.
fn sglang(pages: u32, own: &Value) -> Value {
    json!({"engine_type": "sglang", "num_gpu_blocks": pages, "sglang": own})
}

/// Requests that share nothing and reserve nothing for their output once they run, so that memory runs out.
fn careless(pages: u32, changes: &Value) -> Value {
    let mut own = json!({"disable_radix_cache": true, "schedule_conservativeness": 0});
    own.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    sglang(pages, &own)
}

#[test]
fn prompts_come_before_decodes_and_alone() {
    let expected = ["0:6@0", "1:6@0", "0:1@6", "0:1@7"];
    check(&sglang(100, &json!({})), &[(0, 6, 3, 0), (100, 6, 1, 1)], &expected);
}

#[test]
fn decodes_ride_along_in_mixed_chunks() {
    let settings = sglang(100, &json!({"enable_mixed_chunk": true}));
    check(&settings, &[(0, 6, 3, 0), (100, 6, 1, 1)], &["0:6@0", "1:6@0 0:1@6", "0:1@7"]);
}

#[test]
fn prompts_of_one_batch_do_not_share_those_of_the_next_do() {
    let requests = [(0, 9, 1, 0), (0, 9, 1, 0), (0, 9, 1, 1)];
    check(&sglang(100, &json!({})), &requests, &["0:9@0 1:9@0", "2:1@8"]);
}

#[test]
fn a_long_prompt_goes_first_in_each_batch_until_its_last_chunk_leaves_room() {
    let settings = sglang(100, &json!({"chunked_prefill_size": 8}));
    check(&settings, &[(0, 20, 2, 0), (100, 4, 1, 0)], &["0:8@0", "0:8@8", "0:4@16 1:4@0", "0:1@20"]);
}

#[test]
fn the_request_with_the_shortest_output_goes_back_when_memory_is_short() {
    let mut expected = vec!["0:7@0".to_owned(), "1:7@0".to_owned()];
    expected.extend((7..16).map(|computed| format!("0:1@{computed} 1:1@{computed}")));
    let rest = ["1! 0:1@16", "0:1@17", "0:1@18", "0:1@19", "1:17@0", "1:1@17"];
    expected.extend(rest.map(str::to_owned));
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    check(&careless(8, &json!({})), &[(0, 7, 14, 0), (100, 7, 12, 1)], &expected);
}

/// Three decodes would need three pages, of which the prompt leaves two.
#[test]
fn decodes_wait_if_a_mixed_batch_leaves_no_pages_for_them() {
    let settings = careless(9, &json!({"enable_mixed_chunk": true}));
    let requests = [(0, 4, 2, 0), (100, 4, 2, 0), (200, 4, 2, 0), (300, 15, 1, 1)];
    check(&settings, &requests, &["0:4@0 1:4@0 2:4@0", "3:15@0", "0:1@4 1:1@4 2:1@4"]);
}

/// Request 0 decodes alone while the prompt of request 1 waits for its second chunk. Of ten pages the first one has three.
#[test]
fn the_last_request_is_given_up_when_a_prompt_has_the_memory_that_it_needs() {
    let own = json!({
        "chunked_prefill_size": 16, "prefill_decode_interval": 50, "clip_max_new_tokens": 1, "schedule_conservativeness": 0,
    });
    let mut expected = vec!["0:4@0 1:12@0".to_owned()];
    expected.extend((4..28).map(|computed| format!("0:1@{computed}")));
    expected.extend(["0x".to_owned(), "1:12@12".to_owned()]);
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    check(&sglang(10, &own), &[(0, 4, 30, 0), (100, 24, 1, 0)], &expected);
}

/// Beside four decodes a chunk of 8 leaves 4 tokens. The last page goes to the prompt, so that two decodes wait for one;
/// then there is none for the prompt either.
#[test]
fn a_prompt_without_memory_for_its_next_chunk_goes_back() {
    let settings = careless(19, &json!({"enable_mixed_chunk": true, "chunked_prefill_size": 8}));
    let requests = [(0, 4, 14, 0), (100, 4, 14, 0), (200, 4, 14, 0), (300, 4, 14, 0), (400, 32, 1, 3)];
    let expected = [
        "0:4@0 1:4@0",
        "2:4@0 0:1@4 1:1@4",
        "3:4@0 2:1@4 0:1@5 1:1@5",
        "4:4@0 3:1@4 2:1@5 0:1@6 1:1@6",
        "4:4@4 3:1@5 2:1@6 0:1@7 1:1@7",
        "4:4@8 3:1@6 2:1@7 0:1@8 1:1@8",
        "4:4@12 3:1@7 2:1@8 0:1@9 1:1@9",
        "4:4@16 3:1@8 2:1@9 0:1@10 1:1@10",
        "4:4@20 3:1@9 2:1@10 0:1@11 1:1@11",
        "4:4@24",
        "4! 3:1@10 2:1@11 0:1@12 1:1@12",
        "3:1@11 2:1@12 0:1@13 1:1@13",
        "3:1@12 2:1@13 0:1@14 1:1@14",
        "3:1@13 2:1@14 0:1@15 1:1@15",
        "3:1@14 2:1@15 0:1@16 1:1@16",
        "4:4@0 3:1@15 2:1@16",
        "4:7@4 3:1@16",
        "4:8@11",
        "4:8@19",
        "4:5@27",
    ];
    check(&settings, &requests, &expected);
}

#[test]
fn a_more_important_request_takes_the_slot_of_a_running_one() {
    let check = |threshold: u32, expected: &[&str]| {
        let own = json!({
            "max_running_requests": 1, "enable_priority_scheduling": true,
            "priority_scheduling_preemption_threshold": threshold,
        });
        let request = |id: u32, priority, max_tokens, arrival| EngineRequest {
            priority,
            ..EngineRequest::new(
                RequestId(id),
                Prompt::new([Run::tokens(id * 100, 4)]),
                max_tokens,
                Time::from_ns(arrival),
            )
        };
        check_requests(&sglang(100, &own), &[request(0, 0, 5, 0), request(1, 5, 2, 1)], expected);
    };
    check(4, &["0:4@0", "0! 1:4@0", "1:1@4", "0:1@4", "0:1@5", "0:1@6", "0:1@7"]);
    check(5, &["0:4@0", "0:1@4", "0:1@5", "0:1@6", "0:1@7", "1:4@0", "1:1@4"]);
}

#[test]
fn under_overlap_a_stop_costs_a_decode_and_a_foreseen_end_does_not() {
    for (stop_after, max_tokens) in [(Some(2), 5), (None, 3)] {
        let prompt = Prompt::new([Run::tokens(0, 4)]);
        let request =
            EngineRequest { stop_after, ..EngineRequest::new(RequestId(0), prompt, max_tokens, Time::ZERO) };
        let settings = sglang(100, &json!({"disable_overlap_schedule": false}));
        check_requests(&settings, &[request], &["0:4@0", "0:1@4", "0:1@5"]);
    }
}

/// Under the overlap schedule the last token of request 1 is in flight when request 0 needs a page: instead of sending
/// that back the decision waits for the end.
#[test]
fn nobody_goes_back_while_the_memory_of_one_that_ends_is_about_to_be_free() {
    let settings = careless(6, &json!({"disable_overlap_schedule": false}));
    let mut expected = vec!["0:3@0".to_owned(), "0:1@3".to_owned(), "1:3@0".to_owned()];
    expected.extend((3..11).map(|computed| format!("0:1@{} 1:1@{computed}", computed + 1)));
    expected.extend(["0:1@12".to_owned(), "0:1@13".to_owned()]);
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    check(&settings, &[(0, 3, 12, 0), (100, 3, 9, 1)], &expected);
}

/// Request 2 waits for memory from the time at which all six pages are in use. When request 1 has ended it is admitted
/// before request 0 decodes again.
#[test]
fn a_decode_that_waits_for_memory_lets_others_be_admitted_first() {
    let settings = careless(6, &json!({"disable_overlap_schedule": false}));
    let mut expected = vec!["0:3@0".to_owned(), "0:1@3".to_owned(), "1:3@0".to_owned()];
    expected.extend((3..11).map(|computed| format!("0:1@{} 1:1@{computed}", computed + 1)));
    expected.extend(["2:1@0", "0:1@12", "0:1@13"].map(str::to_owned));
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    check(&settings, &[(0, 3, 12, 0), (100, 3, 9, 1), (200, 1, 1, 8)], &expected);
}

/// Request 2 needs the memory of one of the prefixes of 0 and 1, of which the older is that of request 3. That is turned
/// away in the same batch, but was looked up, so the other one goes.
#[test]
fn a_request_beyond_the_most_of_a_batch_counts_its_prefix_as_used() {
    let settings = sglang(12, &json!({"prefill_max_requests": 1}));
    let requests = [(0, 8, 1, 0), (100, 8, 1, 1), (200, 33, 1, 2), (0, 12, 1, 2)];
    check(&settings, &requests, &["0:8@0", "1:8@0", "2:33@0", "3:4@8"]);
}

/// Request 1 comes while request 0 decodes, and is looked at when four decodes have gone by since the look that followed
/// the prefill; request 2 comes later and is looked at after the second prefill.
#[test]
fn new_requests_are_looked_at_every_few_decodes() {
    let settings = |interval: u32| sglang(100, &json!({"scheduler_recv_interval": interval}));
    let requests = [(0, 4, 8, 0), (100, 4, 1, 2), (200, 4, 1, 6)];
    let at_once = ["0:4@0", "0:1@4", "1:4@0", "0:1@5", "0:1@6", "0:1@7", "2:4@0"];
    let rest = ["0:1@8", "0:1@9", "0:1@10"];
    check(&settings(1), &requests, &[&at_once[..], &rest].concat());
    let later = ["0:4@0", "0:1@4", "0:1@5", "0:1@6", "0:1@7", "1:4@0", "2:4@0"];
    check(&settings(4), &requests, &[&later[..], &rest].concat());
}

#[test]
fn an_idle_worker_looks_at_new_requests_at_once() {
    let settings = sglang(100, &json!({"scheduler_recv_interval": 50}));
    check(&settings, &[(0, 4, 2, 0), (100, 4, 1, 2)], &["0:4@0", "0:1@4", "1:4@0"]);
}

/// Windows of 34 tokens have a pool of 15 pages of 3. Of the first two prompts, each gets as far as 42 tokens, and has nothing
/// for the next chunk; a third one needs less.
#[test]
fn prompts_that_a_pool_of_windows_cannot_take_are_given_up_though_they_take_turns() {
    let own = json!({"page_size": 3, "sliding_window_size": 34, "swa_full_tokens_ratio": 0.45});
    let mut settings = sglang(34, &own);
    settings["block_size"] = json!(3);
    let expected = [
        "0:24@0", "0:18@24", "0!", "1:27@0", "1:15@27", "1!", "2:9@0", "2:1@9", "0:24@0", "0:18@24", "0x",
        "1:27@0", "1:15@27", "1x",
    ];
    check(&settings, &[(3000, 80, 29, 0), (4000, 75, 14, 0), (5000, 9, 2, 0)], &expected);
}
