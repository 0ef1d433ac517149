//! What CI systems read of runs: Markdown and JUnit XML, and that nothing passes there for the wrong reason.

use roxmltree::Document;

use crate::sandbox::{Outcome, Sandbox};

const FORMATS: [&str; 5] = ["table", "text", "json", "markdown", "junit"];

/// The test cases of JUnit XML, each with its suite, its name and what its element says: `failure`, `error`, `skipped`,
/// `system-out`, or nothing.
fn cases(xml: &str) -> Vec<(String, String, String, String)> {
    let document = Document::parse(xml).unwrap_or_else(|error| panic!("{error}: {xml}"));
    let root = document.root_element();
    let cases = root.descendants().filter(|node| node.has_tag_name("testcase"));
    let of = |node: roxmltree::Node<'_, '_>, name: &str| node.attribute(name).unwrap_or_default().to_owned();
    let cases: Vec<_> = cases
        .map(|case| {
            let told = case.first_element_child();
            let what = told.map_or_else(String::new, |told| told.tag_name().name().to_owned());
            let message = told.map_or_else(String::new, |told| match told.attribute("message") {
                Some(message) => message.to_owned(),
                None => told.text().unwrap_or_default().to_owned(),
            });
            assert_eq!(of(case, "classname"), of(case.parent().unwrap(), "name"), "{xml}");
            (of(case, "classname"), of(case, "name"), what, message)
        })
        .collect();
    let count = |what: &str| cases.iter().filter(|(.., told, _)| told == what).count().to_string();
    let counts = [cases.len().to_string(), count("failure"), count("error"), count("skipped")];
    assert_eq!(["tests", "failures", "errors", "skipped"].map(|name| of(root, name)), counts, "{xml}");
    cases
}

/// The case of this name of a run.
fn case(outcome: &Outcome, run: &str, name: &str) -> (String, String) {
    let cases = cases(&outcome.stdout);
    let found = cases.iter().find(|(of, case, ..)| of == run && case == name);
    let (.., what, message) = found.unwrap_or_else(|| panic!("{run}: {name} is not in {cases:#?}"));
    (what.clone(), message.clone())
}

/// Reports of one worker and of two, of nobody served, of another load and with other targets.
fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    let slo = ["--slo", "p95 ttft <= 1s"];
    for (name, more) in [
        ("one.json", &slo[..]),
        ("two<&\"|`.json", &[&slo[..], &["--workers", "2"]].concat()),
        ("nobody.json", &[&slo[..], &["--num-gpu-blocks", "2"]].concat()),
        ("targets.json", &["--slo", "p95 ttft <= 2s"]),
    ] {
        sandbox.run(&[&["replay", "t.jsonl", "-q", "--report-json", name], more].concat()).success();
    }
    sandbox.run(&[&["replay", "-q", "--report-json", "load.json"], &slo[..]].concat()).success();
    sandbox
}

fn compare(sandbox: &Sandbox, run: &str, format: &str, more: &[&str]) -> Outcome {
    sandbox.run(&[&["compare", "one.json", run, "--format", format], more].concat())
}

const LOOSE: [&str; 2] = ["--fail-if", "mean_ttft_ms>+100000%"];

#[test]
fn what_must_not_pass_passes_in_no_format() {
    let sandbox = sandbox();
    for format in FORMATS {
        for (run, code) in [("nobody.json", 3), ("load.json", 2), ("targets.json", 2), ("one.json", 0)] {
            let outcome = compare(&sandbox, run, format, &LOOSE);
            assert_eq!(outcome.code, Some(code), "{run} as {format}: {outcome:?}");
            let is_told = code == 0 || outcome.stderr.starts_with("error: ");
            assert!(is_told, "{run} as {format}: {outcome:?}");
        }
    }
    let refused = |run: &str, name: &str| {
        let outcome = compare(&sandbox, run, "junit", &LOOSE);
        assert_eq!(case(&outcome, run, "mean_ttft_ms>+100000%").0, "skipped", "{outcome:?}");
        let (what, message) = case(&outcome, run, name);
        assert_eq!(what, "error", "{message}");
        let markdown = compare(&sandbox, run, "markdown", &LOOSE).stdout;
        assert!(
            markdown.contains("⛔ **Not judged**") && !markdown.contains("All checks pass"),
            "{markdown}"
        );
        message
    };
    assert!(refused("load.json", "same workload").contains("load.json ran the built-in sample (hash "));
    assert!(refused("targets.json", "same targets").contains("of `slo` one.json has"));
    let nobody = compare(&sandbox, "nobody.json", "junit", &LOOSE);
    let (what, message) = case(&nobody, "nobody.json", "serves requests");
    assert_eq!((what.as_str(), message.as_str()), ("failure", "nobody.json served no request"));
    let markdown = compare(&sandbox, "nobody.json", "markdown", &LOOSE).stdout;
    assert!(markdown.contains("❌ **") && markdown.contains("nobody.json served no request"), "{markdown}");
    // What is let pass on purpose is not hidden.
    let allowed = compare(&sandbox, "load.json", "junit", &[&LOOSE[..], &["--different-workloads"]].concat());
    let (what, message) = case(&allowed, "load.json", "same workload");
    assert!(what == "skipped" && message.contains("--different-workloads lets it pass"), "{message}");
}

#[test]
fn a_limit_is_a_test_case_with_figure_and_limit() {
    let sandbox = sandbox();
    let run = "two<&\"|`.json";
    let limits = ["--fail-if", "mean_ttft_ms<+0", "--fail-if", "total_preemptions>5"];
    let outcome = compare(&sandbox, run, "junit", &limits);
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    let (what, message) = case(&outcome, run, "mean_ttft_ms<+0");
    assert!(what == "failure" && message.starts_with("mean_ttft_ms<+0: "), "{message}");
    assert!(message.contains(" became ") && message.ends_with(&format!(" in {run}")), "{message}");
    assert!(outcome.stderr.contains(&message), "{outcome:?}");
    let kept = case(&outcome, run, "total_preemptions>5");
    assert_eq!(kept, ("system-out".to_owned(), "0 became 0, +0.00%".to_owned()));
    let markdown = compare(&sandbox, run, "markdown", &limits).stdout;
    let lines: Vec<&str> = markdown.lines().collect();
    assert_eq!(lines[0], "### servecast: two&lt;&amp;\"\\|\\`.json beside one.json");
    let at = |text: &str| {
        lines.iter().position(|line| line.contains(text)).unwrap_or_else(|| panic!("{text}: {markdown}"))
    };
    assert!(at("| `num_workers` | 1 | 2 |") < at("❌ **1 of "), "{markdown}");
    assert!(at("❌ **1 of ") < at("| TTFT p99 (ms) | "), "{markdown}");
    // Each table has as many cells in each row as its head.
    let cells = |line: &&str| line.replace("\\|", "").matches('|').count();
    for table in lines.split(|line| line.is_empty()).filter(|part| part[0].starts_with('|')) {
        assert!(table.iter().all(|line| cells(line) == cells(&table[0])), "{table:#?}");
    }
}

#[test]
fn a_replay_is_judged_by_the_same_formats() {
    let sandbox = Sandbox::new();
    let replay = |format: &str, more: &[&str]| {
        sandbox.run(&[&["replay", "t.jsonl", "-q", "--format", format], more].concat())
    };
    let limits = ["--slo", "p95 ttft <= 1us", "--fail-if", "slo", "--fail-if", "p99_ttft_ms>60000"];
    let outcome = replay("junit", &limits);
    assert_eq!(outcome.code, Some(3), "{outcome:?}");
    assert_eq!(case(&outcome, "t.jsonl", "p95 ttft <= 1us").0, "failure");
    assert_eq!(case(&outcome, "t.jsonl", "p99_ttft_ms>60000").0, "system-out");
    let markdown = replay("markdown", &limits);
    assert_eq!(markdown.code, Some(3), "{markdown:?}");
    assert!(markdown.stdout.contains("❌ **1 of 3 checks fail**"), "{}", markdown.stdout);
    assert!(markdown.stdout.contains("| Time to First Token (ms) | "), "{}", markdown.stdout);
    let nobody = replay("junit", &["--num-gpu-blocks", "2", "--fail-if", "total_preemptions>5"]);
    assert_eq!(nobody.code, Some(3), "{nobody:?}");
    assert_eq!(case(&nobody, "t.jsonl", "serves requests").1, "no request was served");
    let several = replay("junit", &["--vary", "num_workers=1,2", "--fail-if", "total_preemptions>5"]);
    assert_eq!(case(&several, "num_workers=2", "total_preemptions>5").1, "it is 0", "{several:?}");
    let several = replay("markdown", &["--vary", "num_workers=1,2"]).success();
    assert!(several.contains("| `num_workers` | TTFT avg (ms) |"), "{several}");
}

#[test]
fn an_empty_set_of_test_cases_is_refused() {
    let sandbox = sandbox();
    compare(&sandbox, "one.json", "junit", &[]).is_refused(&["`junit`", "--fail-if", "there is none"]);
    let words = ["`format` is `junit`", "--fail-if, but there is none"];
    sandbox.run(&["replay", "t.jsonl", "-q", "--format", "junit"]).is_refused(&words);
    let vary = ["replay", "t.jsonl", "-q", "--format", "junit", "--vary", "num_workers=1,2"];
    sandbox.run(&vary).is_refused(&["`format` is `junit`"]);
    for format in ["junit", "markdown"] {
        let recommend = ["recommend", "t.jsonl", "-q", "--slo", "p95 ttft <= 1s", "--format", format];
        sandbox.run(&recommend).is_refused(&["`recommend` prints a table or JSON"]);
    }
}
