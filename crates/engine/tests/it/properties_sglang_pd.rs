//! Random loads of a prefill and a decode worker of SGLang together: every request is served, whether decodes are taken
//! together or not, with speculation and with windows, too.

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::oracle_sglang_pd::Pair;
use crate::properties::cases;
use crate::recording::Recording;

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_request_is_served_by_two_workers(config in config(), requests in requests()) {
        check(&config, requests);
    }
}

fn check(config: &Value, requests: Value) {
    let case = Recording {
        requests: serde_json::from_value(requests).unwrap(),
        expected: json!({
            "config": config,
            "latency": {"prefill": latency(), "decode": latency()},
        }),
    };
    let mut plain = Pair::new(&case, false).unwrap();
    plain.run().unwrap();
    plain.check_outcome();
    let mut together = Pair::new(&case, true).unwrap();
    together.run().unwrap();
    plain.compare_with(&together).unwrap();
}

/// Loads in which the one request that could run has memory for all but its next token, and the rest is held for KV that is
/// under way.
#[test]
fn a_request_that_lacks_one_token_waits_for_what_is_under_way() {
    let check = |overlap: bool, pool: u32, prompts: &[(u32, u32, Option<u32>)]| {
        let config = json!({
            "page_size": 1, "chunked_prefill_size": 4, "overlap": false,
            "disaggregation": {
                "handshake_us": 0, "bootstrap_us": 0, "transfer_us": 0,
                "num_reserved_decode_tokens": 0, "decode_enable_radix_cache": false, "decode_extra_slots": null,
                "decode_polling_interval": 1, "retraction_backup": "cpu_tensor",
                "prefill": {"max_total_tokens": 100, "max_running_requests": 1, "overlap": false},
                "decode": {"max_total_tokens": pool, "max_running_requests": 1, "overlap": overlap},
            },
        });
        let requests = prompts.iter().enumerate().map(|(number, (prompt, max_tokens, eos_after))| {
            json!({
                "id": format!("r{number}"), "arrival_us": 0, "prompt_spans": [[10_000 + 100 * number, prompt]],
                "max_tokens": max_tokens, "eos_after": eos_after,
            })
        });
        self::check(&config, requests.collect());
    };
    check(false, 105, &[(24, 48, None), (35, 2, None)]);
    check(true, 100, &[(1, 13, Some(10)), (1, 51, None), (50, 3, None)]);
    check(true, 132, &[(13, 22, Some(7)), (42, 41, None), (51, 3, None)]);
}

/// A decode worker hits a prefix, so that slots of its window cannot be evicted for the rest of the prompt.
#[test]
fn slots_of_a_prefix_are_no_room_for_the_rest_of_the_prompt() {
    let windows = |slots: u32| json!({"swa_tokens": slots, "window": 36});
    let config = json!({
        "page_size": 1, "chunked_prefill_size": 4, "overlap": false,
        "disaggregation": {
            "handshake_us": 0, "bootstrap_us": 0, "transfer_us": 1,
            "num_reserved_decode_tokens": 2, "decode_enable_radix_cache": true, "decode_extra_slots": null,
            "decode_polling_interval": 3, "retraction_backup": "none",
            "prefill": {"max_total_tokens": 100, "max_running_requests": 1, "overlap": false, "swa": windows(100)},
            "decode": {"max_total_tokens": 157, "max_running_requests": 2, "overlap": false, "swa": windows(136)},
        },
    });
    // When each comes, two spans of its prompt, its most tokens and those after which it stops.
    let load = [
        (2_786, (1_000, 28), (10_000, 7), 11, None),
        (4_811, (2_000, 18), (10_100, 12), 10, Some(20)),
        (8_397, (0, 29), (10_200, 33), 33, Some(27)),
        (12_261, (1_000, 20), (10_300, 17), 30, None),
        (14_329, (2_000, 26), (10_400, 12), 11, Some(29)),
        (16_525, (0, 11), (10_500, 35), 51, None),
        (19_418, (1_000, 24), (10_600, 33), 34, None),
        (22_991, (1_000, 23), (10_700, 36), 30, None),
    ];
    let requests =
        load.iter().enumerate().map(|(number, (arrival_us, shared, own, max_tokens, eos_after))| {
            json!({
                "id": format!("r{number}"), "arrival_us": arrival_us, "prompt_spans": [shared, own],
                "max_tokens": max_tokens, "eos_after": eos_after,
            })
        });
    check(&config, requests.collect());
}

fn latency() -> Value {
    json!({"base_us": 1_000, "per_token_us": 10, "per_seq_us": 5})
}

/// Pools in which every prompt of the load fits.
fn config() -> impl Strategy<Value = Value> {
    let side = || (100_u32..300, 1_u32..6, any::<bool>());
    let page = prop_oneof![Just(1_u32), Just(4)];
    let delays = (0_u32..3_000, 0_u32..3_000, 0_u32..4_000);
    let decode = (0_u32..60, any::<bool>(), prop::option::of(0_u32..4), 1_u32..4, any::<bool>());
    let drafts = (prop::sample::select(vec!["EAGLE", "STANDALONE", "NGRAM"]), 2_u32..7);
    let more = prop_oneof![
        2 => Just(None),
        1 => drafts.prop_map(|drafts| Some((Some(drafts), 0))),
        1 => (5_u32..40).prop_map(|window| Some((None, window))),
    ];
    let base = base_config(side(), side(), page, delays, decode);
    (base, more).prop_map(|(mut config, more)| {
        match more {
            None => {}
            Some((Some((algorithm, width)), _)) => {
                config["speculative_algorithm"] = json!(algorithm);
                config["speculative_num_draft_tokens"] = json!(width);
                let pair = &mut config["disaggregation"];
                pair["decode_enable_radix_cache"] =
                    json!(algorithm == "EAGLE" && pair["decode_enable_radix_cache"] == true);
            }
            Some((None, window)) => {
                for side in ["prefill", "decode"] {
                    let own = &mut config["disaggregation"][side];
                    let pool = own["max_total_tokens"].as_u64().unwrap();
                    // Every prompt of the load fits.
                    own["swa"] = json!({"window": window, "swa_tokens": pool.min(100 + u64::from(window))});
                }
            }
        }
        config
    })
}

fn base_config(
    prefill: impl Strategy<Value = (u32, u32, bool)>,
    decode_side: impl Strategy<Value = (u32, u32, bool)>,
    page: impl Strategy<Value = u32>,
    delays: impl Strategy<Value = (u32, u32, u32)>,
    decode: impl Strategy<Value = (u32, bool, Option<u32>, u32, bool)>,
) -> impl Strategy<Value = Value> {
    let parts = (prefill, decode_side, page, 1_u32..12, delays, decode);
    parts.prop_map(|(prefill, decode, page, chunk, delays, pair)| {
        let own = |(pool, seats, overlap): (u32, u32, bool)| {
            json!({"max_total_tokens": pool, "max_running_requests": seats, "overlap": overlap})
        };
        let (handshake, bootstrap, transfer) = delays;
        let (reserved, radix, slots, polls, keeps) = pair;
        json!({
            "page_size": page, "chunked_prefill_size": chunk * page * 4, "overlap": false,
            "disaggregation": {
                "handshake_us": handshake, "bootstrap_us": bootstrap, "transfer_us": transfer,
                "num_reserved_decode_tokens": reserved, "decode_enable_radix_cache": radix,
                "decode_extra_slots": slots, "decode_polling_interval": polls,
                "retraction_backup": if keeps { "cpu_tensor" } else { "none" },
                "prefill": own(prefill), "decode": own(decode),
            },
        })
    })
}

fn requests() -> impl Strategy<Value = Value> {
    let request =
        (0_u32..3, 0_u32..40, 1_u32..40, 1_u32..60, prop::option::weighted(0.3, 1_u32..30), 0_u64..5_000);
    let request = (request, prop::collection::vec(1_u32..3, 0..4));
    prop::collection::vec(request, 1..14).prop_map(|requests| {
        let mut arrival = 0;
        let requests = requests.into_iter().enumerate().map(|(number, request)| {
            let ((group, shared, own, max_tokens, eos_after, gap), accept) = request;
            arrival += gap;
            let spans = json!([[1_000 * group, shared], [10_000 + 100 * number, own]]);
            json!({
                "id": format!("r{number}"), "arrival_us": arrival, "prompt_spans": spans, "max_tokens": max_tokens,
                "eos_after": eos_after, "accept": accept,
            })
        });
        requests.collect()
    })
}
