//! Sessions that fork and join, that begin within, and classes of requests.

use serde_json::Value;

use crate::sandbox::Sandbox;

/// Twenty tasks that begin 50 ms apart: a plan, two branches with tools of different lengths, and what joins them.
fn trace() -> String {
    let mut text = String::new();
    for task in 0..20 {
        let row = |name: &str, class: &str, others: String| {
            format!(
                r#"{{"request_id": "{name}{task}", "class": "{class}", "input_length": 600, "output_length": 9, "hash_ids": [{}, 0], {others}}}"#,
                task + 1
            ) + "\n"
        };
        let wait = |tool_ms: u64| format!(r#""wait_for": ["plan{task}"], "tool_wait_ms": {tool_ms}"#);
        text += &row("plan", "planner", format!(r#""timestamp": {}"#, task * 50));
        text += &row("left", "worker", wait(30));
        text += &row("right", "worker", wait(300));
        text += &row("join", "planner", format!(r#""wait_for": ["left{task}", "right{task}"]"#));
    }
    text
}

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("s.jsonl", trace());
    sandbox
}

fn rows(sandbox: &Sandbox, file: &str) -> Vec<Value> {
    sandbox.read(file).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value}"))
}

#[test]
fn a_join_comes_after_all_that_it_waits_for() {
    let sandbox = sandbox();
    for load in [&[][..], &["--replay-concurrency", "3"], &["--arrival-speedup-ratio", "10"]] {
        let arguments = [&["s.jsonl", "--requests-jsonl", "rows.jsonl", "--overwrite"], load].concat();
        let report = sandbox.report(&arguments);
        assert_eq!(report["completed_requests"], 80);
        let rows = rows(&sandbox, "rows.jsonl");
        let of = |line: u64| rows.iter().find(|row| row["line"] == line).unwrap();
        let tools =
            if load.first() == Some(&"--arrival-speedup-ratio") { [3.0, 30.0] } else { [30.0, 300.0] };
        for plan in (1..80).step_by(4) {
            let end = |line: u64| number(&of(line)["ended_ms"]);
            let after = |line: u64, before: f64, ms: f64| {
                let arrival = number(&of(line)["arrival_ms"]);
                assert!(
                    (arrival - before - ms).abs() < 1e-6,
                    "{line}: {arrival} is not {ms} ms after {before}"
                );
            };
            after(plan + 1, end(plan), tools[0]);
            after(plan + 2, end(plan), tools[1]);
            after(plan + 3, end(plan + 1).max(end(plan + 2)), 0.0);
        }
        let sessions = &report["sessions"];
        assert_eq!((&sessions["num_sessions"], &sessions["completed_sessions"]), (&20.into(), &20.into()));
        assert!(number(&sessions["idle_ratio"]) > 0.0);
    }
}

#[test]
fn classes_have_figures_of_their_own() {
    let sandbox = sandbox();
    let report = sandbox.report(&["s.jsonl", "--requests-jsonl", "rows.jsonl", "--slo", "p95 itl <= 1s"]);
    let [planner, worker] = ["planner", "worker"].map(|class| &report["classes"][class]);
    for class in [planner, worker] {
        assert_eq!(class["num_requests"], 40);
        assert!(number(&class["itl_ms"]["mean"]) > 0.0 && class["slo"][0]["met"] == true);
    }
    let [one, other] = [planner, worker].map(|class| number(&class["ttft_ms"]["mean"]));
    let mean = f64::midpoint(one, other);
    assert!((mean - number(&report["mean_ttft_ms"])).abs() < 1e-9);
    let classes: Vec<Value> = rows(&sandbox, "rows.jsonl").iter().map(|row| row["class"].clone()).collect();
    assert_eq!(classes.iter().filter(|class| *class == "worker").count(), 40);
    let gated = |condition: &str| sandbox.run(&["replay", "s.jsonl", "--fail-if", condition]);
    assert_eq!(gated("classes.planner.num_requests<40").code, Some(0));
    let failed = gated("classes.worker.p50_ttft_ms>0");
    assert_eq!(failed.code, Some(3), "{}", failed.stderr);
    assert!(failed.stderr.contains("classes.worker.median_ttft_ms>0: it is "), "{}", failed.stderr);
    let unknown = gated("classes.none.p99_ttft_ms>1e9");
    assert_eq!(unknown.code, Some(3), "{}", unknown.stderr);
    assert!(
        unknown.stderr.contains("the load has no request of class `none`: it has `planner`, `worker`"),
        "{}",
        unknown.stderr
    );
    gated("classes.worker.p99_tfft_ms>1").is_refused(&["did you mean `classes.worker.p99_ttft_ms`?"]);
    let markdown = sandbox.run(&["replay", "s.jsonl", "--format", "markdown"]).success();
    assert!(markdown.contains("**By class (ms)**") && markdown.contains("| planner | 40 |"), "{markdown}");
    let table = sandbox.run(&["replay", "s.jsonl", "--format", "table"]);
    assert!(table.stdout.contains("By class (ms)") && table.stdout.contains("│ planner"), "{}", table.stdout);
    assert!(
        table.stdout.contains("Sessions: 20 of several requests, 20 served to the end"),
        "{}",
        table.stdout
    );
}

#[test]
fn a_run_by_the_clock_is_replayed_from_its_stamps() {
    let sandbox = sandbox();
    let online = ["s.jsonl", "--replay-mode", "online", "--speed", "20", "--log-arrivals", "sent.jsonl"];
    sandbox.report(&[&online[..], &["--requests-jsonl", "online.jsonl"]].concat());
    sandbox.report(&["sent.jsonl", "--requests-jsonl", "offline.jsonl"]);
    let [online, offline] = ["online.jsonl", "offline.jsonl"].map(|file| rows(&sandbox, file));
    assert_eq!(online.len(), 80);
    for (online, offline) in online.iter().zip(&offline) {
        let of = |row: &Value| {
            ["line", "turn", "class", "arrival_ms", "first_token_ms", "ended_ms"].map(|key| row[key].clone())
        };
        assert_eq!(of(online), of(offline));
    }
}

#[test]
fn a_closed_loop_begins_within_sessions() {
    let sandbox = Sandbox::new();
    let turn = |session: u32, turn: u32| {
        let time = if turn == 0 { r#""timestamp": 0"# } else { r#""delay": 100"# };
        format!(
            r#"{{"session_id": "{session}", {time}, "input_length": 100, "output_length": 5, "hash_ids": [1]}}"#
        ) + "\n"
    };
    let text: String = (0..10).flat_map(|session| (0..6).map(move |number| turn(session, number))).collect();
    sandbox.write("t.jsonl", text);
    let closed = ["t.jsonl", "--replay-concurrency", "5", "--warm-start"];
    let report = sandbox.report(&closed);
    let requests = report["num_requests"].as_u64().unwrap();
    assert!((35..60).contains(&requests), "{requests}");
    assert_eq!(report["settings"]["warm_start"], true);
    assert_eq!(sandbox.report(&closed)["workload_hash"], report["workload_hash"]);
    let other = sandbox.report(&[&closed[..], &["--seed", "7"]].concat());
    assert_ne!(other["workload_hash"], report["workload_hash"]);
    let refused = |arguments: &[&str], problem: &str| {
        let refused = sandbox.run(&[&["replay"], arguments].concat());
        assert_eq!(refused.code, Some(2), "{}", refused.stderr);
        assert!(refused.stderr.contains(problem), "{}", refused.stderr);
    };
    refused(&["t.jsonl", "--warm-start"], "`warm_start` is for a closed loop");
    sandbox.write("one.jsonl", r#"{"timestamp": 0, "input_length": 100, "output_length": 5}"#);
    refused(&["one.jsonl", "--replay-concurrency", "1", "--warm-start"], "each has only one");
}

#[test]
fn clients_of_several_kinds_make_one_load() {
    let sandbox = sandbox();
    let file = |lengths: &str| {
        format!(
            "[[client]]\nname = \"chat\"\nrate_per_s = 5\nlengths_of = \"{lengths}\"\n\n[[client]]\nname = \"batch\"\n\
             rate_per_s = 2\ninput_tokens = 2000\noutput_tokens = 100\n"
        )
    };
    sandbox.write("clients.toml", file("s.jsonl"));
    let generate = ["trace", "generate", "--clients", "clients.toml", "--request-count", "200", "-o"];
    for name in ["one.jsonl", "two.jsonl"] {
        let made = sandbox.run(&[&generate[..], &[name]].concat());
        assert_eq!(made.code, Some(0), "{}", made.stderr);
    }
    assert_eq!(sandbox.read("one.jsonl"), sandbox.read("two.jsonl"));
    let report = sandbox.report(&["one.jsonl"]);
    let [chat, batch] =
        ["chat", "batch"].map(|name| report["classes"][name]["num_requests"].as_u64().unwrap());
    assert!(chat + batch == 200 && (120..165).contains(&chat), "{chat} {batch}");
    assert_eq!(report["classes"]["chat"]["total_input_tokens"], chat * 600);
    let refused = |arguments: &[&str], problem: &str| {
        let refused = sandbox.run(arguments);
        assert_eq!(refused.code, Some(2), "{}", refused.stderr);
        assert!(refused.stderr.contains(problem), "{}", refused.stderr);
    };
    refused(&["trace", "generate", "--clients", "clients.toml"], "`request_count` says how many sessions");
    refused(
        &[&generate[..6], &["--input-tokens", "5"]].concat(),
        "--input-tokens cannot be combined with --clients",
    );
    sandbox.write("clients.toml", file("nowhere.jsonl"));
    refused(&generate[..6], "nowhere.jsonl");
    sandbox.write("clients.toml", "[[client]]\nname = \"a\"\nrte_per_s = 1\n");
    refused(&generate[..6], "`clients.toml`: line 3: unknown field `rte_per_s`");
}

/// Forty requests at once for one prompt, a quarter of them under each of three adapters and a quarter under none.
fn adapters() -> String {
    let lora = |number: usize| ["", r#", "lora": "sql""#, r#", "lora": "law""#, r#", "lora": 7"#][number % 4];
    let row = |number| {
        let begin = r#"{"timestamp": 0, "input_length": 512, "output_length": 50, "hash_ids": [1]"#;
        format!("{begin}{}}}", lora(number))
    };
    (0..40).map(row).collect::<Vec<_>>().join("\n")
}

#[test]
fn only_so_many_adapters_run_at_a_time() {
    let sandbox = Sandbox::new();
    sandbox.write("l.jsonl", adapters());
    let replay = |most: u32| {
        let most = most.to_string();
        let engine = ["--engine", "vllm", "--enable-lora", "--max-loras", &most, "--block-size", "16"];
        sandbox
            .report(&[&["l.jsonl", "--requests-jsonl", "rows.jsonl", "--overwrite"], &engine[..]].concat());
        rows(&sandbox, "rows.jsonl")
    };
    for most in 1..=3 {
        let rows = replay(most);
        let running = |at: f64| {
            let runs = |row: &&Value| {
                number(&row["stages"][0]["admitted_ms"]) <= at && at < number(&row["ended_ms"])
            };
            // Lines 1, 5, … ask for none.
            let of = |row: &Value| row["line"].as_u64().unwrap() % 4;
            let mut adapters: Vec<u64> =
                rows.iter().filter(runs).map(of).filter(|adapter| *adapter != 1).collect();
            adapters.sort_unstable();
            adapters.dedup();
            adapters.len()
        };
        let most_at_once = rows.iter().map(|row| running(number(&row["stages"][0]["admitted_ms"]))).max();
        assert_eq!(most_at_once, Some(most as usize));
        let late = rows.iter().filter(|row| number(&row["stages"][0]["admitted_ms"]) > 100.0);
        assert_eq!(late.count() > 0, most < 3, "some wait for an adapter");
    }
}

#[test]
fn prompts_share_nothing_under_different_adapters() {
    let sandbox = Sandbox::new();
    let engine = r#"{"enable_lora": true, "max_loras": 3, "block_size": 16}"#;
    let row = |at: u32, lora: &str| {
        format!(r#"{{"timestamp": {at}, "input_length": 512, "output_length": 2, "hash_ids": [1]{lora}}}"#)
    };
    let of = |lora: &str| format!(r#", "lora": "{lora}""#);
    let loras = ["", &of("sql"), &of("law"), &of("sql"), ""];
    let text: Vec<String> = (0..).zip(loras).map(|(place, lora)| row(place * 1000, lora)).collect();
    sandbox.write("l.jsonl", text.join("\n"));
    sandbox.report(&["l.jsonl", "--engine-args", engine, "--requests-jsonl", "rows.jsonl"]);
    let reused = |file: &str| -> Vec<bool> {
        rows(&sandbox, file).iter().map(|row| row["reused_tokens"].as_u64().unwrap() > 0).collect()
    };
    assert_eq!(reused("rows.jsonl"), [false, false, false, true, true]);
    let adapters: Vec<Value> = rows(&sandbox, "rows.jsonl").iter().map(|row| row["lora"].clone()).collect();
    assert_eq!(Value::from(adapters), serde_json::json!([null, "sql", "law", "sql", null]));
    let converted = sandbox.run(&["trace", "convert", "l.jsonl", "-o", "c.jsonl"]);
    assert_eq!(converted.code, Some(0), "{}", converted.stderr);
    sandbox.report(&["c.jsonl", "--engine-args", engine, "--requests-jsonl", "again.jsonl"]);
    assert_eq!(reused("again.jsonl"), reused("rows.jsonl"));
    let refused = |arguments: &[&str], problem: &str| {
        let refused = sandbox.run(arguments);
        assert_eq!(refused.code, Some(2), "{}", refused.stderr);
        assert!(refused.stderr.contains(problem), "{}", refused.stderr);
    };
    refused(&["replay", "l.jsonl"], "the trace asks for the LoRA adapter `sql`, but `enable_lora` is off");
    refused(&["replay", "l.jsonl", "--engine", "sglang"], "`enable_lora` is off");
    refused(&["replay", "l.jsonl", "--engine-args", engine, "--stream"], "the row has a `lora`");
}

/// Passes of 1 ms; the adapter of the first request comes from elsewhere, in 8 ms and 2 ms, that of the second, too; the third
/// finds its own where the GPU has two places, and loads it again where the host alone has two.
#[test]
fn adapters_take_time_to_load() {
    let sandbox = Sandbox::new();
    let row = |at: u32, lora: &str| {
        format!(r#"{{"timestamp": {at}, "input_length": 5, "output_length": 1, "lora": "{lora}"}}"#)
    };
    sandbox.write("l.jsonl", [row(0, "sql"), row(100, "law"), row(200, "sql")].join("\n"));
    let with =
        ["--enable-lora", "--latency", "linear:1000,0,0", "--lora-load-ms", "2", "--lora-fetch-ms", "8"];
    let ttft = |more: &[&str]| -> Vec<f64> {
        let out = ["--requests-jsonl", "rows.jsonl", "--overwrite"];
        sandbox.report(&[&["l.jsonl"], &with[..], more, &out[..]].concat());
        rows(&sandbox, "rows.jsonl").iter().map(|row| number(&row["ttft_ms"])).collect()
    };
    assert_eq!(ttft(&[]), [11.0, 11.0, 11.0]);
    assert_eq!(ttft(&["--max-cpu-loras", "2"]), [11.0, 11.0, 3.0]);
    assert_eq!(ttft(&["--max-loras", "2"]), [11.0, 11.0, 1.0]);
    let refused = |more: &[&str], problem: &str| {
        let refused = sandbox.run(&[&["replay", "l.jsonl"], &with[..], more].concat());
        assert_eq!(refused.code, Some(2), "{}", refused.stderr);
        assert!(refused.stderr.contains(problem), "{}", refused.stderr);
    };
    let at_least = "expected at least `max_loras`, which is 3";
    refused(&["--max-loras", "3", "--max-cpu-loras", "2"], at_least);
    refused(&["--engine", "sglang"], "--enable-lora");
}

/// Passes of 1 ms, and 20 ms to compile a grammar: the second request waits for the same compilation as the first, the third
/// needs none, the fourth comes when its grammar is compiled, and the last one has another.
#[test]
fn requests_wait_for_their_grammars() {
    let sandbox = Sandbox::new();
    let row = |at: u32, grammar: &str| {
        format!(r#"{{"timestamp": {at}, "input_length": 5, "output_length": 1{grammar}}}"#)
    };
    let of = |grammar: &str| format!(r#", "grammar": {grammar}"#);
    let grammars = [of(r#""a.json""#), of(r#""a.json""#), String::new(), of(r#""a.json""#), of("7")];
    let lines: Vec<_> =
        [0, 10, 12, 50, 100].into_iter().zip(&grammars).map(|(at, grammar)| row(at, grammar)).collect();
    sandbox.write("g.jsonl", lines.join("\n"));
    let ttft = |file: &str, more: &[&str]| -> Vec<f64> {
        let with = ["--latency", "linear:1000,0,0", "--requests-jsonl", "rows.jsonl", "--overwrite"];
        sandbox.report(&[&[file], &with[..], more].concat());
        rows(&sandbox, "rows.jsonl").iter().map(|row| number(&row["ttft_ms"])).collect()
    };
    let compile = ["--grammar-compile-ms", "20"];
    assert_eq!(ttft("g.jsonl", &[]), [1.0; 5]);
    assert_eq!(ttft("g.jsonl", &compile), [21.0, 11.0, 1.0, 1.0, 21.0]);
    assert_eq!(ttft("g.jsonl", &[&compile[..], &["--plain"]].concat()), [21.0, 11.0, 1.0, 1.0, 21.0]);
    let converted = sandbox.run(&["trace", "convert", "g.jsonl", "-o", "c.jsonl"]);
    assert_eq!(converted.code, Some(0), "{}", converted.stderr);
    assert_eq!(ttft("c.jsonl", &compile), [21.0, 11.0, 1.0, 1.0, 21.0]);
    let sglang = sandbox.run(&["replay", "g.jsonl", "--engine", "sglang"]);
    let told = "4 rows have a `grammar`, for which they wait on vLLM as long as `grammar_compile_ms` says, by default not at all";
    assert!(sglang.stderr.contains(told), "{}", sglang.stderr);
    let refused = |arguments: &[&str], problem: &str| {
        let refused = sandbox.run(arguments);
        assert_eq!(refused.code, Some(2), "{}", refused.stderr);
        assert!(refused.stderr.contains(problem), "{}", refused.stderr);
    };
    let negative = ["replay", "g.jsonl", "--grammar-compile-ms=-1"];
    refused(&negative, "`grammar_compile_ms` is -1: expected milliseconds from 0 to 3.6e6");
    refused(
        &["replay", "g.jsonl", "--engine", "sglang", "--grammar-compile-ms", "1"],
        "--grammar-compile-ms",
    );
    refused(&["replay", "g.jsonl", "--stream"], "the row has a `grammar`");
    sandbox.write("bad.jsonl", row(0, &of("{}")));
    refused(&["replay", "bad.jsonl"], "line 1: `grammar` is");
}

#[test]
fn rejections_go_by_the_reason_of_those_that_others_follow() {
    let sandbox = sandbox();
    let long = trace().replacen(
        r#""input_length": 600, "output_length": 9, "hash_ids": [1, 0]"#,
        r#""input_length": 5000, "output_length": 9"#,
        1,
    );
    sandbox.write("long.jsonl", long);
    let table = sandbox.run(&["replay", "long.jsonl", "--max-model-len", "2000", "--format", "table"]);
    assert_eq!(table.code, Some(0), "{}", table.stderr);
    let found = "Rejections: 4 of 80 requests (5.0 %) were not served, 1 as max_model_len, and 3 that follow such ones";
    assert!(table.stdout.contains(found), "{}", table.stdout);
    assert!(table.stdout.contains("a longer context"), "{}", table.stdout);
}

#[test]
fn what_goes_by_single_rows_refuses_forks() {
    let sandbox = sandbox();
    let refused = |arguments: &[&str], problem: &str| {
        let refused = sandbox.run(arguments);
        assert_eq!(refused.code, Some(2), "{}", refused.stderr);
        assert!(refused.stderr.contains(problem), "{}", refused.stderr);
    };
    refused(&["replay", "s.jsonl", "--stream"], "line 2: the row has `wait_for` or `branches`");
    refused(&["trace", "generate", "--like", "s.jsonl", "-o", "x.jsonl"], "--like does not make more of");
    let check = sandbox.run(&["trace", "check", "s.jsonl"]);
    assert_eq!(check.code, Some(0), "{}", check.stderr);
    assert!(check.stdout.contains("80 in 20 sessions"), "{}", check.stdout);
    let converted = sandbox.run(&["trace", "convert", "s.jsonl", "-o", "c.jsonl"]);
    assert_eq!(converted.code, Some(0), "{}", converted.stderr);
    let [before, after] = ["s.jsonl", "c.jsonl"].map(|file| sandbox.report(&[file]));
    assert_eq!(
        (&before["mean_e2e_latency_ms"], &before["sessions"]),
        (&after["mean_e2e_latency_ms"], &after["sessions"])
    );
}
