//! Runs beside each other, after the fact.

use serde_json::Value;

use crate::sandbox::Sandbox;

/// Reports and rows of one worker and of two, and of other requests.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    for (name, workers) in [("a", "1"), ("b", "2")] {
        let (report, rows) = (format!("{name}.json"), format!("{name}.jsonl.gz"));
        let files = ["--report-json", &report, "--requests-jsonl", &rows, "--workers", workers];
        sandbox.run(&[&["replay", "t.jsonl"], &files[..]].concat()).success();
    }
    let files = ["--report-json", "other.json", "--requests-jsonl", "other.jsonl"];
    sandbox.run(&[&["replay"], &files[..]].concat()).success();
    sandbox
}

#[test]
fn a_table_shows_each_run_beside_the_first() {
    let sandbox = sandbox();
    let table = sandbox.run(&["compare", "a.json", "b.json", "a.json"]).success();
    let line = table.lines().find(|line| line.contains("TTFT p99 (ms)")).unwrap();
    assert!(line.contains('%') && line.trim_end_matches(['│', ' ']).ends_with('='), "{line}");
    assert!(!table.contains("request by request"));
}

#[test]
fn runs_of_the_same_requests_are_paired() {
    let sandbox = sandbox();
    let rows = ["--requests", "a.jsonl.gz", "--requests", "b.jsonl.gz"];
    let arguments = [&["compare", "a.json", "b.json"], &rows[..]].concat();
    let table = sandbox.run(&arguments).success();
    assert!(table.contains("b.json, request by request") && table.contains("ttft_ms: mean "), "{table}");
    let text = sandbox.run(&[&arguments[..], &["--format", "json"]].concat()).success();
    let differences: Value = serde_json::from_str(&text).unwrap();
    let run = &differences["runs"][0];
    let (pooled, paired) = (&run["figures"]["mean_ttft_ms"]["change"], &run["paired"][0]["mean_change_ms"]);
    assert_eq!(run["paired"][0]["pairs"], 4);
    assert!((pooled.as_f64().unwrap() - paired.as_f64().unwrap()).abs() < 1e-9, "{pooled} {paired}");

    let rows = ["--requests", "a.jsonl.gz", "--requests", "other.jsonl"];
    let outcome = sandbox.run(&[&["compare", "a.json", "other.json"], &rows[..]].concat());
    assert!(outcome.stderr.contains("did not run the requests of a.json"), "{outcome:?}");
    assert!(!outcome.success().contains("request by request"));
}

#[test]
fn differences_follow_their_schema() {
    let sandbox = sandbox();
    let text = sandbox.run(&["compare", "a.json", "b.json", "other.json", "--format", "json"]).success();
    let schema = sandbox.run(&["schema", "differences"]).success();
    let (differences, schema): (Value, Value) =
        (serde_json::from_str(&text).unwrap(), serde_json::from_str(&schema).unwrap());
    let validator = jsonschema::validator_for(&schema).unwrap();
    let errors: Vec<String> = validator.iter_errors(&differences).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(
        (&differences["schema_version"], &differences["runs"][1]["name"]),
        (&"1".into(), &"other.json".into())
    );
}

#[test]
fn a_page_shows_the_runs_and_what_fails() {
    let sandbox = sandbox();
    let rows = ["--requests", "a.jsonl.gz", "--requests", "b.jsonl.gz"];
    let compare = |more: &[&str]| {
        sandbox.run(&[&["compare", "a.json", "b.json", "--html", "c.html"], &rows[..], more].concat())
    };
    let outcome = compare(&["--fail-if", "mean_ttft_ms<+0"]);
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    let page = sandbox.read("c.html");
    assert!(
        page.starts_with("<!doctype html>") && page.contains("mean_ttft_ms\\u003c+0: "),
        "it says what fails"
    );
    let (_, rest) = page.split_once("<script id=\"data\" type=\"application/json\">").unwrap();
    let data: Value = serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap();
    let report: Value = serde_json::from_str(&sandbox.read("b.json")).unwrap();
    let list = &data["runs"]["list"];
    assert_eq!((&list[0]["name"], &list[1]["name"]), (&"a.json".into(), &"b.json".into()));
    assert_eq!(list[1]["figures"][0], report["mean_ttft_ms"]);
    assert!(list[1]["curves"]["running"].is_array(), "rows have what workers did: {list}");
    compare(&[]).success();
    assert_eq!(sandbox.read("c.html").matches("mean_ttft_ms\\u003c+0").count(), 0);
    let refused = |page: &str, words: &[&str]| {
        sandbox.run(&["compare", "a.json", "b.json", "--html", page]).is_refused(words);
    };
    refused("none/c.html", &["the folder `none` does not exist"]);
    refused("./b.json", &["--html is `./b.json`, which is read"]);
}

#[test]
fn a_condition_that_holds_is_status_3() {
    let sandbox = sandbox();
    let compare = |condition: &str| sandbox.run(&["compare", "b.json", "a.json", "--fail-if", condition]);
    let outcome = compare("mean_ttft_ms>0");
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert!(outcome.stdout.contains("TTFT p99") && outcome.stderr.starts_with("error: mean_ttft_ms>0: "));
    assert!(outcome.stderr.contains(" became ") && outcome.stderr.contains(" in a.json"));
    compare("mean_ttft_ms>+100000%").success();
    compare("mean_ttft_m>+5%").is_refused(&["did you mean `mean_ttft_ms`?"]);
    compare("mean_ttft_ms").is_refused(&[]);
}

#[test]
fn a_gate_does_not_pass_because_nothing_is_served() {
    let sandbox = sandbox();
    let report = |name: &str, blocks: &str| {
        let arguments = ["replay", "t.jsonl", "--num-gpu-blocks", blocks, "--report-json", name];
        sandbox.run(&arguments).success();
    };
    report("nobody.json", "2");
    report("three.json", "22");
    let compare = |runs: [&str; 2], more: &[&str]| {
        let condition = ["--fail-if", "mean_ttft_ms>+500%"];
        sandbox.run(&[&["compare", runs[0], runs[1]], &condition[..], more].concat())
    };
    for runs in [["a.json", "nobody.json"], ["nobody.json", "a.json"]] {
        let outcome = compare(runs, &["--allow-fewer"]);
        assert_eq!(outcome.code, Some(3), "{outcome:?}");
        assert!(outcome.stderr.contains("nobody.json has no sample of it"), "{outcome:?}");
        assert!(outcome.stdout.contains("N/A"), "{outcome:?}");
    }
    // Three of four are served, and faster than the fourth.
    let outcome = compare(["a.json", "three.json"], &[]);
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert!(
        outcome.stderr.contains("three.json completed 3 requests, a.json 4 (--allow-fewer"),
        "{outcome:?}"
    );
    compare(["a.json", "three.json"], &["--allow-fewer"]).success();
    compare(["three.json", "a.json"], &[]).success();
    sandbox.run(&["compare", "a.json", "three.json"]).success();
    let text = sandbox.run(&["compare", "a.json", "nobody.json", "--format", "json"]).success();
    let differences: Value = serde_json::from_str(&text).unwrap();
    let figure = &differences["runs"][0]["figures"]["mean_ttft_ms"];
    assert!(
        figure["value"].is_null() && figure["change"].is_null() && figure["baseline"].is_f64(),
        "{figure}"
    );
}

#[test]
fn runs_with_other_targets_or_without_an_answer_do_not_pass() {
    let sandbox = Sandbox::new();
    let run = |name: &str, more: &[&str]| {
        let outcome = sandbox.run(&[&["replay", "t.jsonl", "-q", "--report-json", name], more].concat());
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
    };
    run("a.json", &["--slo", "p95 ttft <= 1s"]);
    run("b.json", &["--slo", "p95 ttft <= 2s"]);
    run("c.json", &["--max-model-len", "2"]);
    let compare = |one: &str, other: &str, more: &[&str]| {
        let arguments = ["compare", one, other, "--fail-if", "total_preemptions>+5"];
        sandbox.run(&[&arguments[..], more].concat())
    };
    let targets = compare("a.json", "b.json", &[]);
    assert_eq!(targets.code, Some(2), "{targets:?}");
    assert!(targets.stderr.contains("with the same targets, but of `slo` a.json has"), "{}", targets.stderr);
    assert_eq!(compare("a.json", "b.json", &["--different-workloads"]).code, Some(0));
    let nothing = compare("c.json", "c.json", &[]);
    assert_eq!(nothing.code, Some(3), "{nothing:?}");
    assert!(nothing.stderr.contains("c.json served no request"), "{}", nothing.stderr);
}

#[test]
fn different_workloads_are_not_judged_by_each_other() {
    let sandbox = sandbox();
    let condition = ["--fail-if", "mean_ttft_ms>+100000%", "--allow-fewer"];
    let compare =
        |more: &[&str]| sandbox.run(&[&["compare", "a.json", "other.json"], &condition[..], more].concat());
    compare(&[]).is_refused(&[
        "a.json ran t.jsonl (hash ",
        "other.json ran the built-in sample (hash ",
        "--different-workloads",
    ]);
    compare(&["--different-workloads"]).success();
    let table = sandbox.run(&["compare", "a.json", "other.json"]).success();
    assert!(table.contains("\n  workload: t.jsonl ("), "{table}");
    // A report of an older release says nothing of its workload.
    let mut old: Value = serde_json::from_str(&sandbox.read("a.json")).unwrap();
    for key in ["workload_hash", "workload_name", "settings", "servecast_version", "seed", "latency_source"] {
        assert!(old.as_object_mut().unwrap().remove(key).is_some(), "{key}");
    }
    sandbox.write("old.json", old.to_string());
    let outcome = sandbox.run(&[&["compare", "old.json", "a.json"], &condition[..]].concat());
    assert!(outcome.stderr.contains("is not known: a report of an older release has no hash"), "{outcome:?}");
    assert!(outcome.success().contains("in which settings a.json differs from old.json is not known"));
}

#[test]
fn settings_that_differ_are_named() {
    let sandbox = sandbox();
    let more = ["--extra-engine-args", r#"{"max_num_seqs": 8}"#, "--report-json", "c.json"];
    sandbox.run(&[&["replay", "t.jsonl"], &more[..]].concat()).success();
    let table = sandbox.run(&["compare", "a.json", "b.json", "c.json", "a.json"]).success();
    assert!(table.contains("b.json differs from a.json in\n  num_workers: 1 → 2\n"), "{table}");
    assert!(
        table.contains("c.json differs from a.json in\n  engine_args.max_num_seqs: 256 → 8\n"),
        "{table}"
    );
    assert!(table.contains("a.json has the settings and the workload of a.json\n"), "{table}");
    let text = sandbox.run(&["compare", "a.json", "b.json", "--format", "json"]).success();
    let differences: Value = serde_json::from_str(&text).unwrap();
    let expected = serde_json::json!({"num_workers": {"baseline": 1, "value": 2}});
    assert_eq!(differences["runs"][0]["settings"], expected);
    assert_eq!(differences["runs"][0]["workload"], differences["baseline"]["workload"]);
}

#[test]
fn the_median_goes_by_both_names() {
    let sandbox = sandbox();
    for name in ["p50_ttft_ms", "median_ttft_ms"] {
        let condition = format!("{name}>0");
        let outcome = sandbox.run(&["compare", "a.json", "b.json", "--fail-if", &condition]);
        assert!(
            outcome.code == Some(3) && outcome.stderr.starts_with("error: median_ttft_ms>0: "),
            "{name}: {outcome:?}"
        );
    }
    sandbox
        .run(&["compare", "a.json", "b.json", "--fail-if", "p50_tft_ms>0"])
        .is_refused(&["median_ttft_ms"]);
}

#[test]
fn what_is_no_report_is_refused() {
    let sandbox = sandbox();
    sandbox.run(&["compare", "a.json"]).is_refused(&[]);
    sandbox.run(&["compare", "a.json", "none.json"]).is_refused(&["cannot read `none.json`"]);
    sandbox
        .run(&["compare", "a.json", "t.jsonl"])
        .is_refused(&["`t.jsonl` holds a trace in Mooncake JSON Lines, no report of a run"]);
    sandbox
        .run(&["compare", "a.json", "b.json", "--requests", "a.jsonl.gz"])
        .is_refused(&["--requests is given 1 times, but there are 2 runs"]);
    let rows = ["--requests", "a.jsonl.gz", "--requests", "b.json"];
    sandbox.run(&[&["compare", "a.json", "b.json"], &rows[..]].concat()).is_refused(&["b.json: line 1: "]);
}
