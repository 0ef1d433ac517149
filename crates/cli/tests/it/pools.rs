//! `[[pool]]`: deployments as tables.

use serde_json::{Value, json};

use crate::sandbox::Sandbox;

/// A report but for what the run itself took.
fn report(sandbox: &Sandbox, arguments: &[&str]) -> String {
    let mut report = sandbox.report(&[&["t.jsonl"], arguments].concat());
    report.as_object_mut().unwrap().remove("wall_time_ms");
    serde_json::to_string_pretty(&report).unwrap()
}

#[test]
fn a_table_and_the_shorthand_of_one_deployment_give_the_same_report() {
    let engine = "block_size = 16\nnum_gpu_blocks = 500\n";
    let transfer = "kv_bytes_per_token = 131072\nkv_transfer_bandwidth = 25.0\n";
    for (short, tables) in [
        ("num_workers = 3\n".to_owned(), "[[pool]]\nworkers = 3\n".to_owned()),
        (
            format!("num_workers = 2\n[engine_args]\n{engine}"),
            format!("[[pool]]\nname = \"all\"\nrole = \"aggregated\"\nworkers = 2\n[pool.engine_args]\n{engine}"),
        ),
        (
            format!("num_workers = 2\n[engine_args]\n{engine}"),
            format!("[[pool]]\n[[pool.group]]\nworkers = 2\n[pool.group.engine_args]\n{engine}"),
        ),
        (
            format!(
                "num_prefill_workers = 2\nnum_decode_workers = 1\n[prefill_engine_args]\n{engine}{transfer}\
                 [decode_engine_args]\n{engine}"
            ),
            format!(
                "[[pool]]\nname = \"output\"\nrole = \"decode\"\nengine_args = {{ block_size = 16, num_gpu_blocks = 500 }}\n\
                 [[pool]]\nname = \"prompts\"\nrole = \"prefill\"\nworkers = 2\n[pool.engine_args]\n{engine}{transfer}"
            ),
        ),
        (
            "num_prefill_workers = 1\nnum_decode_workers = 2\nmodel = \"meta-llama/Llama-3.1-8B\"\ngpu = \"H100-SXM\"\n"
                .to_owned(),
            "model = \"meta-llama/Llama-3.1-8B\"\ngpu = \"H100-SXM\"\n[[pool]]\nrole = \"prefill\"\n[[pool]]\nrole = \
             \"decode\"\nworkers = 2\n"
                .to_owned(),
        ),
    ] {
        let sandbox = Sandbox::new();
        sandbox.write("short.toml", &short);
        sandbox.write("tables.toml", &tables);
        let [one, other] = ["short.toml", "tables.toml"].map(|file| report(&sandbox, &["--config", file]));
        assert_eq!(one, other, "{tables}");
    }
}

/// Two small workers and a large one, for which a long prompt is made.
const MIXED: &str = "[[pool]]\nname = \"serve\"\n[pool.engine_args]\nblock_size = 16\n\
                     [[pool.group]]\nworkers = 2\nengine_args = { num_gpu_blocks = 60 }\n\
                     [[pool.group]]\n[pool.group.engine_args]\nnum_gpu_blocks = 500\nmax_num_seqs = 8\n";

#[test]
fn workers_of_a_pool_may_differ() {
    let sandbox = Sandbox::new();
    sandbox.write("mixed.toml", MIXED);
    let report = sandbox.report(&["t.jsonl", "--config", "mixed.toml", "--output-dir", "out"]);
    assert_eq!((&report["rejected_requests"], &report["pools"][0]["workers"]), (&json!(0), &json!(3)));
    let small =
        sandbox.report(&["t.jsonl", "--workers", "2", "--block-size", "16", "--num-gpu-blocks", "60"]);
    assert_eq!(small["rejected_requests"], 3, "the small ones have no room for them");
    let pool = &report["settings"]["pool"][0];
    assert_eq!((&pool["name"], &pool["role"]), (&json!("serve"), &json!("aggregated")));
    let of = |key: &str| [0, 1].map(|group: usize| pool["group"][group]["engine_args"][key].clone());
    assert_eq!(of("num_gpu_blocks"), [json!(60), json!(500)]);
    assert_eq!((of("block_size"), of("max_num_seqs")), ([json!(16), json!(16)], [json!(256), json!(8)]));
    let workers: Vec<Value> = sandbox
        .read("out/requests.jsonl")
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["stages"][0]["worker"].clone())
        .collect();
    assert!(workers.contains(&json!(2)), "{workers:?}");
    // What is written repeats the run.
    let mut again = sandbox.report(&["--config", "out/config.toml"]);
    let mut report = report;
    for report in [&mut again, &mut report] {
        report.as_object_mut().unwrap().remove("wall_time_ms");
    }
    assert_eq!(again, report);
}

#[test]
fn disaggregated_pools_may_have_workers_of_several_kinds_if_a_hand_off_costs_the_same() {
    let sandbox = Sandbox::new();
    let pools = |other: &str| {
        format!(
            "[[pool]]\nrole = \"prefill\"\nworkers = 2\nengine_args = {{ kv_bytes_per_token = 131072, kv_transfer_bandwidth = \
             25.0 }}\n[[pool]]\nrole = \"decode\"\n[[pool.group]]\n[[pool.group]]\nengine_args = {{ {other} }}\n"
        )
    };
    sandbox.write("d.toml", pools("max_num_seqs = 16"));
    let report = sandbox.report(&["t.jsonl", "--config", "d.toml"]);
    assert_eq!((&report["pools"][1]["workers"], &report["rejected_requests"]), (&json!(2), &json!(0)));
    sandbox.write("d.toml", pools("kv_transfer_timing_mode = \"destination_missing\""));
    sandbox.run(&["replay", "t.jsonl", "--config", "d.toml"]).is_refused(&[
        "what a hand-off costs",
        "`kv_transfer_timing_mode`",
        "differs among the workers of a pool",
    ]);
}

#[test]
fn flags_hold_for_every_group_and_files_go_over_one_another() {
    let sandbox = Sandbox::new();
    sandbox.write("mixed.toml", MIXED);
    let report = sandbox.report(&["t.jsonl", "--config", "mixed.toml", "--max-model-len", "5000"]);
    let groups = report["settings"]["pool"][0]["group"].as_array().unwrap();
    assert!(groups.iter().all(|group| group["engine_args"]["max_model_len"] == 5000));
    sandbox.run(&["replay", "t.jsonl", "--config", "mixed.toml", "--num-gpu-blocks", "9"]).is_refused(&[
        "`num_gpu_blocks` is 9",
        "`pool[0].group[0].engine_args` has `num_gpu_blocks` 60: give it once",
    ]);
    let by_variable = Sandbox::new().with_variable("SERVECAST_POOL", r#"[{"workers": 5}]"#);
    by_variable.write("mixed.toml", MIXED);
    assert_eq!(by_variable.report(&["t.jsonl", "--config", "mixed.toml"])["pools"][0]["workers"], 5);
}

#[test]
fn tables_that_make_no_deployment_are_refused() {
    let sandbox = Sandbox::new();
    for (file, words) in [
        ("pool = 3", &["`pool` is 3, but must be a list of tables, each a pool (from d.toml)"][..]),
        ("pool = []", &["`pool` has no table, but requests go through one aggregated pool"]),
        ("[pool]\nworkers = 2", &["`pool` is {\"workers\":2}, but must be a list of tables"]),
        ("[[pool]]\nwrokers = 2", &["`pool[0]` has the unknown key `wrokers`, did you mean `workers`?"]),
        ("[[pool]]\ncolour = 2", &["`pool[0]` has the unknown key `colour`: its keys are `engine_args`"]),
        (
            "[[pool]]\nmax_num_seqs = 2",
            &["`pool[0]` has `max_num_seqs`, a setting of the engine: it belongs into its `engine_args`"],
        ),
        ("[[pool]]\n[[pool.group]]\nname = \"x\"", &["`pool[0].group[0]` has the unknown key `name`"]),
        ("[[pool]]\nworkers = \"two\"", &["`pool[0].workers` is \"two\", but must be a whole number"]),
        ("[[pool]]\nworkers = 0", &["`pool[0].workers` is 0, but a pool needs at least 1 worker"]),
        ("[[pool]]\nworkers = 200000", &["`pool[0]` has 200000 workers, but a pool has at most 100000"]),
        ("[[pool]]\nrole = \"encode\"", &["`pool[0].role` is \"encode\", but must be one of `aggregated`"]),
        ("[[pool]]\nname = \" \"", &["`pool[0].name` is empty"]),
        ("[[pool]]\nengine_args = { block_siz = 3 }", &["`block_siz`", "did you mean `block_size`?"]),
        ("[[pool]]\nworkers = 2\n[[pool.group]]", &["`pool[0].workers` and `pool[0].group` are both given"]),
        ("[[pool]]\ngroup = []", &["`pool[0].group` is empty, but a pool has workers"]),
        (
            "[[pool]]\nrole = \"prefill\"",
            &["`pool` has prefill, but requests go through one aggregated pool"],
        ),
        (
            "[[pool]]\nname = \"a\"\n[[pool]]\nname = \"b\"",
            &["`pool` has aggregated, aggregated, but", "each kind is a `[[pool.group]]`"],
        ),
        ("[[pool]]\n[[pool]]", &["`pool[0]` and `pool[1]` are both called `aggregated`: give each a `name`"]),
        ("num_workers = 2\n[[pool]]", &["`pool` and `num_workers` cannot be combined"]),
        ("[[pool]]\n[decode_engine_args]", &["`pool` and `decode_engine_args` cannot be combined"]),
        (
            "[[pool]]\n[[pool.group]]\nengine_args = { block_size = 16 }\n[[pool.group]]\nengine_args = { block_size = 32 }",
            &["`block_size` is 16 for some workers of a pool and 32 for others"],
        ),
        (
            "[[pool]]\nrole = \"prefill\"\nengine_args = { worker_type = \"decode\" }\n[[pool]]\nrole = \"decode\"",
            &["the prefill engine has `worker_type` decode"],
        ),
    ] {
        sandbox.write("d.toml", file);
        sandbox.run(&["replay", "t.jsonl", "--config", "d.toml"]).is_refused(words);
    }
}

#[test]
fn who_asks_for_other_deployments_says_so_about_tables() {
    let sandbox = Sandbox::new();
    sandbox.write("d.toml", "[[pool]]\nworkers = 2\n");
    sandbox
        .run(&["replay", "t.jsonl", "--config", "d.toml", "--vary", "num_workers=1,2"])
        .is_refused(&["`pool` and `num_workers` cannot be combined"]);
    sandbox
        .run(&["replay", "t.jsonl", "--vary", "pool=1"])
        .is_refused(&["`pool` is the same in all runs: it cannot be varied"]);
    sandbox
        .run(&["recommend", "t.jsonl", "--config", "d.toml", "--slo", "p95 ttft <= 1s"])
        .is_refused(&["`pool` says which pools there are, but that is what is looked for"]);
    // What holds for all pools may be varied.
    sandbox.run(&["replay", "t.jsonl", "--config", "d.toml", "--vary", "max_num_seqs=1,8"]).success();
}
