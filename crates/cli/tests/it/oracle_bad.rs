//! A collection of odd and malformed traces, replayed one by one.
//!
//! The collection is no part of the project: `SERVECAST_ORACLE` names the folder that has it.

use std::fs;

use crate::sandbox::Sandbox;

/// Traces that are odd, but mean something.
const ACCEPTED: [&str; 10] = [
    "blank_lines",
    "bom",
    "crlf",
    "extra_field",
    "float_ts",
    "many_hashes",
    "neg_ts",
    // Nothing is shared then.
    "no_hash",
    "no_input",
    "session_no_delay",
];

/// Traces of several lines, the second of which is wrong.
const WRONG_IN_LINE_2: [&str; 2] = ["delay_no_session", "second_bad"];

#[test]
fn each_is_replayed_or_refused_by_its_line() {
    let Some(folder) = testkit::outside(testkit::ORACLE) else { return };
    let sandbox = Sandbox::new();
    let mut names = Vec::new();
    for entry in fs::read_dir(folder.join("bad")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "jsonl") {
            continue;
        }
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let path = fs::canonicalize(&path).unwrap();
        let outcome = sandbox.run(&["replay", path.to_str().unwrap()]);
        let line = match name.as_str() {
            // There is no line to name.
            "empty" => "the trace has no rows".to_owned(),
            name if WRONG_IN_LINE_2.contains(&name) => "line 2".to_owned(),
            _ => "line 1".to_owned(),
        };
        if ACCEPTED.contains(&name.as_str()) {
            assert_eq!(outcome.code, Some(0), "{name}: {outcome:?}");
        } else {
            outcome.is_refused(&[&format!("{name}.jsonl: {line}")]);
        }
        names.push(name);
    }
    for name in ACCEPTED.iter().chain(&WRONG_IN_LINE_2) {
        assert!(names.iter().any(|found| found == name), "{name} is missing");
    }
}
