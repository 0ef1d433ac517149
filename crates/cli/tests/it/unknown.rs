//! Names that are no settings: what there is for them is said, and what merely looks alike is not.

use serde_json::json;

use crate::sandbox::Sandbox;

/// Options of other tools, and what `servecast replay` says to them.
const FLAGS: &[(&str, &str)] = &[
    ("--tp-size=2", "--tensor-parallel-size how many GPUs share each layer"),
    ("--gpu-type=H100", "--gpu on what"),
    ("--model-path=x", "--model says what is served"),
    ("--num-prompts=10", "--max-requests replays no more than the first requests of a load"),
    ("--trace-type=azure", "recognised by its content"),
    ("--num-g2-blocks=10", "KV cache outside the GPU"),
    ("--overlap-score-credit=1", "--router-kv-overlap-score-weight weighs"),
    ("--trace=t.jsonl", "the trace is the argument TRACE"),
    ("--max-batch-size=4", "--max-num-seqs is how many requests run"),
    ("--num-draft-tokens=4", "speculative decoding is described by --speculative-config"),
    ("--watermark=0.1", "it is the key `watermark` of --extra-engine-args"),
    ("--draft-pass-us=9", "it is the key `draft_pass_us` of --speculative-config"),
    ("--speculative-config.method=mtp", "it is the key `method` of --speculative-config"),
    ("-o=x", "--report-json FILE writes the report"),
    ("--random-seed=1", "--seed is the root"),
    ("--allow-fewer=x", "`servecast replay` has no option `--allow-fewer`, but `servecast compare` has"),
    ("--max-num-seq=3", "did you mean `--max-num-seqs`?"),
    ("--temperature=1", "did you mean `--router-temperature`?"),
    ("--speedup=2", "did you mean `--arrival-speedup-ratio` or `--speedup-ratio`?"),
];

#[test]
fn options_of_other_tools_are_answered_by_what_they_mean() {
    let sandbox = Sandbox::new();
    for (flag, words) in FLAGS {
        let name = flag.split_once('=').unwrap().0;
        let outcome = sandbox.run(&["replay", "t.jsonl", flag]);
        outcome.is_refused(&[&format!("`servecast replay` has no option `{name}`"), words]);
        assert!(outcome.stderr.contains("did you mean") == words.contains("did you mean"), "{outcome:?}");
    }
}

#[test]
fn a_command_names_only_options_that_it_has() {
    let sandbox = Sandbox::new();
    for (arguments, words) in [
        (&["compare", "a", "b", "--model=x"][..], "has no option `--model`, but"),
        (
            &["compare", "a", "b", "--workers", "2"],
            "but `servecast calibrate`, `servecast replay`, `servecast recommend` and `servecast serve` have",
        ),
        (
            &["calibrate", "x", "--num-gpu-blocks", "9"],
            "it is the key `num_gpu_blocks` of --extra-engine-args",
        ),
        (&["calibrate", "x", "--page-size", "9"], "it is the key `sglang.page_size` of --extra-engine-args"),
        (
            &["trace", "stats", "t.jsonl", "--workers=2"],
            "`servecast trace stats` has no option `--workers`, but",
        ),
        (
            &["--vary", "x"],
            "`servecast` has no option `--vary`, but `servecast replay` and `servecast recommend` have",
        ),
        (&["schema", "report", "--zzzz"], "`servecast schema --help` lists those that there are"),
    ] {
        sandbox.run(arguments).is_refused(&[words]);
    }
}

#[test]
fn what_is_hidden_is_never_suggested() {
    let sandbox = Sandbox::new();
    for flag in ["--plan", "--plainn", "--serve-indexr", "--router-reset-state", "--use-remote-index"] {
        let outcome = sandbox.run(&["replay", "t.jsonl", flag]);
        outcome.is_refused(&[&format!("no option `{flag}`")]);
        for hidden in ["--plain`", "indexer", "reset-states"] {
            assert!(!outcome.stderr.contains(hidden), "{outcome:?}");
        }
    }
    sandbox.write("c.toml", "plian = true\n");
    let outcome = sandbox.run(&["replay", "t.jsonl", "--config", "c.toml"]);
    outcome.is_refused(&["unknown key `plian`"]);
    assert!(!outcome.stderr.contains("did you mean"), "{outcome:?}");
}

#[test]
fn keys_and_variables_have_the_answers_of_flags() {
    let sandbox = Sandbox::new();
    let in_file = |content: &str, words: &[&str]| {
        sandbox.write("c.toml", content);
        sandbox.run(&["replay", "t.jsonl", "--config", "c.toml"]).is_refused(words);
    };
    in_file(
        "tp_size = 2",
        &["c.toml: unknown key `tp_size`: `model` says what", "`tensor_parallel_size` how many GPUs"],
    );
    in_file("overlap_score_credit = 1", &["`overlap_score_weight` of `router_config` weighs"]);
    in_file("nextn = 1", &["speculative decoding is described by `speculative_config`"]);
    in_file(
        "[engine_args]\nnum_g2_blocks = 5",
        &["unknown key `num_g2_blocks`: KV cache outside the GPU", "(from c.toml)"],
    );
    in_file(
        "[router_config]\noverlap_score_credit = 1",
        &["`overlap_score_credit`: a cached block counts in full here"],
    );
    let vary = ["replay", "t.jsonl", "--vary", "engine_args.num_g2_blocks=1,2"];
    sandbox.run(&vary).is_refused(&["unknown key `engine_args.num_g2_blocks`: KV cache outside the GPU"]);
    let engine = json!({"max_batch_size": 4}).to_string();
    sandbox.run(&["replay", "t.jsonl", "--extra-engine-args", &engine]).is_refused(&[
        "unknown key `max_batch_size`: `max_num_seqs` is how many",
        "(from --extra-engine-args)",
    ]);
    let sandbox = sandbox.with_variable("SERVECAST_NEXTN", "3");
    sandbox.run(&["replay", "t.jsonl"]).is_refused(&[
        "`SERVECAST_NEXTN`: speculative decoding is described by SERVECAST_SPECULATIVE_CONFIG",
    ]);
}
