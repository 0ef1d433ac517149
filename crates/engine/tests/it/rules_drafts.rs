//! Small schedules with drafters that can be worked out by hand. No draft is accepted.

use serde_json::{Value, json};
use servecast_types::{Prompt, Run};

use crate::rules::{check_requests, handed_over, numbered};

fn drafter(method: &str, drafts: u32, own: &Value) -> Value {
    let mut drafter = json!({
        "method": method, "num_speculative_tokens": drafts, "conditional_acceptance_rates": vec![0.0; drafts as usize],
    });
    drafter.as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
    drafter
}

/// With several modules of multi-token prediction and K drafts, the last module reads K tokens ahead, so that the side that
/// decodes computes the last K - 1 tokens of a prompt that comes from elsewhere; if there are no more than that, only the last
/// one. Where one token is missing, rows for drafts are computed beside it.
#[test]
fn several_modules_compute_the_last_tokens_of_a_prompt_that_comes_from_elsewhere() {
    let check = |(modules, drafts): (u32, u32), prompt_tokens: u32, [first, second]: [&str; 2]| {
        let modules = json!({"num_nextn_predict_layers": modules});
        let settings =
            json!({"kv_role": "kv_consumer", "speculative_config": drafter("mtp", drafts, &modules)});
        let requests = handed_over(&[((0, prompt_tokens, 2, 0), None)]);
        // The transfer begins in an iteration of its own.
        check_requests(&settings, &requests, &["", first, second]);
    };
    check((1, 3), 12, ["0:4@11", "0:4@12"]);
    check((2, 1), 12, ["0:2@11", "0:2@12"]);
    check((2, 3), 12, ["0:2@10", "0:4@12"]);
    check((3, 4), 12, ["0:3@9", "0:5@12"]);
    check((2, 3), 3, ["0:2@1", "0:4@3"]);
    check((2, 3), 2, ["0:4@1", "0:4@2"]);
}

/// A second prompt begins as the first one does and differs in its last block. Beside a sliding window that looks back at two
/// blocks, a drafter that reads hidden states computes the last block of what is hit again, unless the identity of a block
/// covers the token behind it, too, or it is told not to.
#[test]
fn a_drafter_drops_the_last_block_of_a_hit_beside_groups_of_layers() {
    let groups = json!([{"type": "full"}, {"type": "sliding_window", "sliding_window": 8}]);
    let check = |drafter: Value, expected: &str| {
        let settings = json!({
            "kv_groups": groups, "prefix_cache_retention_interval": "dense", "num_gpu_blocks": 64, "speculative_config": drafter,
        });
        let mut requests = numbered(&[(0, 17, 2, 0), (0, 18, 1, 1)]);
        requests[1].prompt = Prompt::new([Run::tokens(0, 17), Run::tokens(500, 1)]);
        check_requests(&settings, &requests, &["0:17@0", &format!("0:2@17 {expected}")]);
    };
    let no_lookahead = json!({"disable_lookahead_block_hashes": true});
    check(drafter("ngram", 1, &json!({})), "1:2@16");
    check(drafter("eagle3", 1, &no_lookahead), "1:6@12");
    check(drafter("eagle3", 1, &json!({})), "1:2@16");
    check(drafter("mtp", 1, &no_lookahead), "1:6@12");
    check(
        drafter(
            "eagle3",
            1,
            &json!({"disable_lookahead_block_hashes": true, "disable_eagle_block_drop": true}),
        ),
        "1:2@16",
    );
}
