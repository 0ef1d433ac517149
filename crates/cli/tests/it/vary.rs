//! Several runs at once.

use serde_json::{Value, json};

use crate::sandbox::Sandbox;

/// What does not depend on real time.
fn stable(text: &str) -> String {
    text.lines().filter(|line| !line.contains("wall_time_ms")).map(|line| line.to_owned() + "\n").collect()
}

fn comparison(sandbox: &Sandbox, arguments: &[&str]) -> Value {
    let all = [&["replay", "--quiet", "--check", "--format", "json"], arguments].concat();
    serde_json::from_str(&sandbox.run(&all).success()).unwrap()
}

#[test]
fn runs_are_a_row_each_in_the_order_of_their_values() {
    let sandbox = Sandbox::new();
    let arguments =
        ["replay", "t.jsonl", "--vary", "workers=1,2", "--vary", "router-mode=round_robin,kv_router"];
    insta::assert_snapshot!(sandbox.run(&arguments).success(), @r"
                                                                  servecast | Comparison
    ┏━━━━━━━━━━━━━┳━━━━━━━━━━━━━┳━━━━━━━━━━┳━━━━━━━━━━┳━━━━━━━━━┳━━━━━━━━━┳━━━━━━━━━━━━━┳━━━━━━━━━┳━━━━━━━━┳━━━━━━━━━━━┳━━━━━━━━━━━┳━━━━━━━┳━━━━━━━━━━┓
    ┃ num_workers ┃ router_mode ┃ TTFT avg ┃ TTFT p99 ┃ ITL avg ┃ ITL p99 ┃ Latency avg ┃  Output ┃  Reuse ┃     In an ┃     Batch ┃ KV in ┃ Rejected ┃
    ┃             ┃             ┃     (ms) ┃     (ms) ┃    (ms) ┃    (ms) ┃        (ms) ┃ (tok/s) ┃        ┃ iteration ┃ occupancy ┃   use ┃          ┃
    ┡━━━━━━━━━━━━━╇━━━━━━━━━━━━━╇━━━━━━━━━━╇━━━━━━━━━━╇━━━━━━━━━╇━━━━━━━━━╇━━━━━━━━━━━━━╇━━━━━━━━━╇━━━━━━━━╇━━━━━━━━━━━╇━━━━━━━━━━━╇━━━━━━━╇━━━━━━━━━━┩
    │ 1           │ round_robin │    33.28 │    44.69 │    6.36 │   18.00 │       84.12 │   72.39 │ 49.52% │    52.43% │     0.46% │ 0.10% │        0 │
    │ 1           │ kv_router   │    33.28 │    44.69 │    6.36 │   18.00 │       84.12 │   72.39 │ 49.52% │    52.43% │     0.46% │ 0.10% │        0 │
    │ 2           │ round_robin │    28.63 │    35.28 │    5.79 │    5.80 │       74.94 │   76.05 │ 24.76% │    31.66% │     0.39% │ 0.10% │        0 │
    │ 2           │ kv_router   │    27.31 │    35.12 │    6.36 │   18.00 │       78.15 │   76.05 │ 49.52% │    27.54% │     0.46% │ 0.10% │        0 │
    └─────────────┴─────────────┴──────────┴──────────┴─────────┴─────────┴─────────────┴─────────┴────────┴───────────┴───────────┴───────┴──────────┘
    Iteration times: polynomial, of no particular GPU: the constants of Dynamo's mocker
    ");
}

#[test]
fn results_do_not_depend_on_the_number_of_threads() {
    let sandbox = Sandbox::new();
    let varied = [
        "--vary",
        "num_workers=1,2,3",
        "--vary",
        "router_mode=random,kv_router",
        "--vary",
        "engine=vllm,sglang",
        "--vary",
        "seed=1,2",
    ];
    let synthetic = "--input-tokens 900 --output-tokens 30 --request-count 60 --arrival-interval-ms 40 \
                     --arrival-process poisson --shared-prefix-ratio 0.5 --num-prefix-groups 4 --block-size 16";
    let synthetic: Vec<&str> = synthetic.split_whitespace().collect();
    for workload in [&["t.jsonl", "--block-size", "64"][..], &synthetic, &[]] {
        for format in ["table", "json"] {
            let run = |threads: &str| {
                let how = ["replay", "--format", format, "--threads", threads, "--report-json", "r.json"];
                let outcome = sandbox.run(&[&how, &varied[..], workload].concat());
                (outcome.stderr.clone(), stable(&outcome.success()), stable(&sandbox.read("r.json")))
            };
            let (one, four) = (run("1"), run("4"));
            assert!(one == four && one.1.lines().count() > 24, "{workload:?} {format}");
        }
    }
}

#[test]
fn each_run_is_what_it_is_by_itself() {
    let sandbox = Sandbox::new();
    sandbox.write("c.toml", "num_workers = 7\n[engine_args]\nblock_size = 16\nmax_num_seqs = 4\n");
    let varied = ["t.jsonl", "--config", "c.toml", "--vary", "num_workers=1,2"];
    let nested = ["--vary", "engine_args.max_num_seqs=1,null"];
    let whole = comparison(&sandbox, &[&varied[..], &nested].concat());
    assert_eq!(whole["varied"], json!(["num_workers", "engine_args.max_num_seqs"]));
    let runs = whole["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 4);
    for run in runs {
        let (workers, seqs) = (&run["settings"]["num_workers"], &run["settings"]["engine_args.max_num_seqs"]);
        let engine_args = json!({"max_num_seqs": seqs}).to_string();
        let alone = ["t.jsonl", "--config", "c.toml", "--engine-args", &engine_args, "--workers"];
        let mut alone = sandbox.report(&[&alone[..], &[&workers.to_string()]].concat());
        alone["wall_time_ms"] = run["report"]["wall_time_ms"].clone();
        assert_eq!(run["report"], alone);
    }
}

#[test]
fn settings_of_every_kind_are_varied() {
    let sandbox = Sandbox::new();
    sandbox.write("u.jsonl", sandbox.read("t.jsonl").lines().next().unwrap());
    sandbox.write("small.json", r#"{"num_gpu_blocks": 22}"#);
    for (arguments, key, values) in [
        (&["--vary", "trace_file=t.jsonl,u.jsonl"][..], "num_requests", json!([4, 1])),
        (&["t.jsonl", "--vary", "engine_args={},@small.json"], "rejected_requests", json!([0, 1])),
        (&["t.jsonl", "--vary", "engine_args.num_gpu_blocks=22,30"], "rejected_requests", json!([1, 0])),
        (&["t.jsonl", "--vary", "engine_preset=null,vllm-0.33"], "rejected_requests", json!([0, 0])),
        (
            &["t.jsonl", "--engine=sglang", "--vary", "engine_args.sglang.max_total_tokens=1200,1100"],
            "rejected_requests",
            json!([2, 3]),
        ),
        (
            &["t.jsonl", "--router-mode=kv_router", "--vary", "router_config.router_temperature=0,1"],
            "completed_requests",
            json!([4, 4]),
        ),
        (
            &["t.jsonl", "--vary", "latency=polynomial,\"linear:1000,1,1\""],
            "completed_requests",
            json!([4, 4]),
        ),
        (
            &["t.jsonl", "--vary", "prefill-workers=1,2", "--decode-workers=1"],
            "total_iterations",
            json!([35, 36]),
        ),
        (
            &["--request-count=5", "--input-tokens=9", "--output-tokens=2", "--vary", "request_count=3,4"],
            "num_requests",
            json!([3, 4]),
        ),
    ] {
        let runs = comparison(&sandbox, arguments);
        let found: Vec<&Value> =
            runs["runs"].as_array().unwrap().iter().map(|run| &run["report"][key]).collect();
        assert_eq!(json!(found), values, "{arguments:?}");
    }
}

#[test]
fn one_comparison_has_aggregated_and_disaggregated_deployments() {
    let sandbox = Sandbox::new();
    let varied =
        ["t.jsonl", "--vary", "decode-workers=1,2", "--vary", "prefill-workers=2", "--vary", "workers=2..3"];
    let whole = comparison(&sandbox, &varied);
    assert_eq!(whole["varied"], json!(["num_workers", "num_decode_workers", "num_prefill_workers"]));
    let runs = whole["runs"].as_array().unwrap();
    let pools = |run: &Value| {
        let pools = run["report"]["pools"].as_array().unwrap().iter();
        json!(pools.map(|pool| json!([pool["pool"], pool["workers"]])).collect::<Vec<_>>())
    };
    assert_eq!(
        runs.iter().map(pools).collect::<Vec<_>>(),
        [
            json!([["aggregated", 2]]),
            json!([["aggregated", 3]]),
            json!([["prefill", 2], ["decode", 1]]),
            json!([["prefill", 2], ["decode", 2]]),
        ]
    );
    let table = sandbox.run(&[&["replay"][..], &varied].concat()).success();
    assert!(table.contains("│ 3           │                    │                     │"), "{table}");
}

#[test]
fn files_and_variables_vary_settings_too() {
    let sandbox = Sandbox::new();
    let expected = sandbox.run(&["replay", "t.jsonl", "--vary", "num_workers=1,2"]).success();
    sandbox.write("c.toml", "vary = [\"num_workers=1,2\"]\nthreads = 1\n");
    assert_eq!(sandbox.run(&["replay", "t.jsonl", "--config", "c.toml"]).success(), expected);
    for text in ["num_workers=1,2", "[\"num_workers=1,2\"]"] {
        let sandbox = Sandbox::new().with_variable("SERVECAST_VARY", text);
        assert_eq!(sandbox.run(&["replay", "t.jsonl"]).success(), expected);
    }
    let note = "note: a setting has no effect: `threads` is for the runs of --vary (from --threads)\n";
    assert_eq!(sandbox.run(&["replay", "t.jsonl", "--threads", "3"]).stderr, note);
}

#[test]
fn what_cannot_be_varied_is_refused_before_anything_runs() {
    let sandbox = Sandbox::new();
    for (arguments, words) in [
        (
            &["--vary", "num_worker=1,2"][..],
            &["--vary: unknown key `num_worker`, did you mean `num_workers`?"][..],
        ),
        (
            &["--vary", "engine_args.max_num_seq=1"],
            &["unknown key `engine_args.max_num_seq`, did you mean `engine_args.max_num_seqs`?"],
        ),
        (
            &["--vary", "watermark=0,0.1"],
            &["`watermark` is a setting of the engine: write `engine_args.watermark`"],
        ),
        (&["--vary", "num_workers"], &["must be KEY=VALUE"]),
        (&["--vary", "num_workers=1,"], &["no value in place 2"]),
        (&["--vary", "num_workers=1", "--vary", "workers=2"], &["`num_workers` is varied twice"]),
        (&["--vary", "report_json=a,b"], &["`report_json` is the same in all runs"]),
        (&["--vary", "num_workers=1,0"], &["num_workers=0: `num_workers` is 0", "(from --vary)"]),
        (&["--vary", "num_workers=1,x"], &["num_workers=x: `num_workers` is \"x\"", "whole number"]),
        (
            &["--vary", "engine=vllm,sglang", "--vary", "page_size=16,64"],
            &["engine=vllm page_size=16: `page_size` is a setting of SGLang"],
        ),
        (&["--vary", "trace_file=t.jsonl,none.jsonl"], &["trace_file=none.jsonl: cannot read `none.jsonl`"]),
        (
            &["--vary", "trace_block_size=512,100"],
            &["trace_block_size=100: t.jsonl: line 1", "--trace-block-size"],
        ),
        (&["--vary", "seed=1,2", "--threads", "0"], &["`threads` is 0", "(from --threads)"]),
        (&["--vary", "seed=1,2", "--requests-jsonl", "r"], &["`requests_jsonl` has the rows of one run"]),
        (&["--vary", "seed=1,2", "--iterations-jsonl", "r"], &["`iterations_jsonl` has the rows of one run"]),
        (
            &["--vary", "seed=1,2", "--report-json", "t.jsonl"],
            &["`report_json` and `trace_file` are the same file"],
        ),
    ] {
        sandbox.run(&[&["replay", "t.jsonl"], arguments].concat()).is_refused(words);
    }
    let synthetic = ["replay", "--input-tokens=9", "--output-tokens=9", "--request-count=9"];
    sandbox
        .run(&[&synthetic[..], &["--vary", "shared_prefix_ratio=0,2"]].concat())
        .is_refused(&["shared_prefix_ratio=2: `shared_prefix_ratio` is 2", "(from --vary)"]);
    sandbox.write("c.toml", "vary = \"seed=1\"\n");
    sandbox.run(&["replay", "--config", "c.toml"]).is_refused(&["`vary` is \"seed=1\", but must be a list"]);
    assert_eq!(sandbox.files(), ["c.toml", "t.jsonl"]);
}

/// The data of a page.
fn page_data(page: &str) -> Value {
    let (_, rest) = page.split_once("<script id=\"data\" type=\"application/json\">").unwrap();
    serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
}

#[test]
fn a_page_has_all_runs_with_the_figures_of_their_reports() {
    let sandbox = Sandbox::new();
    // Prompts are longer than the context of every other run, so that these serve nobody.
    let varied = ["t.jsonl", "--vary", "num_workers=1,2", "--vary", "max_model_len=100,4096"];
    let page = |name: &str, threads: &str| {
        let files = ["--report-html", name, "--report-json", "r.json", "--threads", threads];
        let json = comparison(&sandbox, &[&varied[..], &files].concat());
        (page_data(&sandbox.read(name)), json)
    };
    let (data, json) = page("p.html", "1");
    let list = data["runs"]["list"].as_array().unwrap();
    assert_eq!(list.len(), 4);
    let keys: Vec<&str> =
        data["runs"]["shown"].as_array().unwrap().iter().map(|shown| shown[0].as_str().unwrap()).collect();
    for (run, known) in list.iter().zip(json["runs"].as_array().unwrap()) {
        for (key, figure) in keys.iter().zip(run["figures"].as_array().unwrap()) {
            let expected = known["report"].get(*key).and_then(Value::as_f64);
            assert_eq!(figure.as_f64(), expected, "{key} of {}", run["name"]);
        }
        assert_eq!(run["curves"]["arrivals"].as_array().unwrap().len(), 100);
    }
    assert_eq!((&data["rows"][0][0], &list[0]["figures"][0]), (&json!("N/A"), &Value::Null));
    assert_eq!(list[1]["name"], "num_workers=1 max_model_len=4096");
    assert_eq!(data["runs"]["varied"], json!(["num_workers", "max_model_len"]));
    assert_eq!(data["runs"]["differs"][0], json!(["num_workers", [1, 1, 2, 2]]));
    let hash = json["runs"][0]["report"]["workload_hash"].as_str().unwrap();
    let workload = json!(["Workload", format!("t.jsonl, hash {hash}")]);
    assert!(data["runs"]["common"].as_array().unwrap().contains(&workload), "{}", data["runs"]["common"]);
    page("q.html", "4");
    assert!(
        sandbox.read("p.html") == sandbox.read("q.html"),
        "the same bytes whatever the number of threads"
    );
    sandbox
        .run(&[&["replay"], &varied[..], &["--report-html", "no/p.html"]].concat())
        .is_refused(&["the folder `no` does not exist"]);
    sandbox
        .run(&[&["replay"], &varied[..], &["--report-html", "x", "--report-json", "./x"]].concat())
        .is_refused(&["`report_html` and `report_json` are the same file"]);
}

#[test]
fn the_first_run_that_fails_is_told() {
    let sandbox = Sandbox::new();
    let latency = r#"latency=polynomial,"linear:1e18,0,0","linear:1e30,0,0""#;
    for threads in ["1", "4"] {
        let arguments =
            ["replay", "t.jsonl", "--vary", latency, "--threads", threads, "--report-json", "r.json"];
        let outcome = sandbox.run(&arguments);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""), "{outcome:?}");
        assert!(
            outcome.stderr.starts_with("error: latency=linear:1e18,0,0: an iteration at 0 ms"),
            "{outcome:?}"
        );
        assert_eq!(sandbox.files(), ["t.jsonl"]);
    }
}

#[test]
fn a_real_trace_gives_the_same_bytes_on_one_thread_and_on_four() {
    let Some(folder) = testkit::outside(testkit::DATA) else { return };
    let sandbox = Sandbox::new();
    let trace = std::fs::read_to_string(folder.join("traces/mooncake_conversation.jsonl")).unwrap();
    sandbox.write("c.jsonl", trace.lines().take(500).collect::<Vec<_>>().join("\n"));
    let varied = ["--vary", "num_workers=1,4", "--vary", "router_mode=round_robin,kv_router"];
    let run = |threads: &str| {
        let how = ["replay", "c.jsonl", "--format", "json", "--threads", threads];
        stable(&sandbox.run(&[&how[..], &varied].concat()).success())
    };
    assert_eq!(run("1"), run("4"));
}
