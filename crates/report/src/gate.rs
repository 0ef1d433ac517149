//! What `--fail-if` asks of runs, what came of it, and the same as JUnit XML for CI systems.

use std::fmt::Write as _;

use crate::printable::printable;

/// Something that a run has to pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// The run that is checked.
    pub run: String,
    /// What is asked of it, such as `p99_ttft_ms>+5%`.
    pub name: String,
    /// What came of it.
    pub verdict: Verdict,
}

/// What came of a [`Check`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The run passes; the figure, if there is one.
    Passed(Option<String>),
    /// The run fails, with the figure and the limit in a sentence.
    Failed(String),
    /// The run cannot be checked, since something given is wrong.
    Refused(String),
    /// Nothing was checked, for this reason.
    Skipped(String),
}

impl Check {
    /// A check of a run.
    pub fn new(run: impl Into<String>, name: impl Into<String>, verdict: Verdict) -> Self {
        Self { run: run.into(), name: name.into(), verdict }
    }

    /// Why the run fails, if it does.
    pub fn failure(&self) -> Option<&str> {
        match &self.verdict {
            Verdict::Failed(sentence) => Some(sentence),
            Verdict::Passed(_) | Verdict::Refused(_) | Verdict::Skipped(_) => None,
        }
    }
}

/// The reasons for which runs fail, in order.
pub fn failures(checks: &[Check]) -> Vec<String> {
    checks.iter().filter_map(Check::failure).map(str::to_owned).collect()
}

/// Renders checks as JUnit XML: a test suite for each run, a test case for each check.
///
/// Times are left out: what a check takes says nothing, and equal checks give equal bytes.
pub fn render_junit(name: &str, checks: &[Check]) -> String {
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    // Writing to a string cannot fail.
    let _ = writeln!(text, "<testsuites name=\"{}\" {}>", escaped(name), counts(checks.iter()));
    let mut runs: Vec<&str> = Vec::new();
    for check in checks {
        if !runs.contains(&check.run.as_str()) {
            runs.push(&check.run);
        }
    }
    for run in runs {
        let of_run = || checks.iter().filter(|check| check.run == run);
        let _ = writeln!(text, "  <testsuite name=\"{}\" {}>", escaped(run), counts(of_run()));
        of_run().for_each(|check| text += &test_case(check));
        text += "  </testsuite>\n";
    }
    text + "</testsuites>\n"
}

fn counts<'a>(checks: impl Iterator<Item = &'a Check>) -> String {
    let (mut tests, mut failures, mut errors, mut skipped) = (0, 0, 0, 0);
    for check in checks {
        tests += 1;
        match check.verdict {
            Verdict::Passed(_) => {}
            Verdict::Failed(_) => failures += 1,
            Verdict::Refused(_) => errors += 1,
            Verdict::Skipped(_) => skipped += 1,
        }
    }
    format!("tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\" skipped=\"{skipped}\"")
}

fn test_case(Check { run, name, verdict }: &Check) -> String {
    // Some readers show the attribute, some the text.
    let told =
        |element: &str, reason: &str| format!("<{element} message=\"{0}\">{0}</{element}>", escaped(reason));
    let content = match verdict {
        Verdict::Passed(None) => String::new(),
        Verdict::Passed(Some(figure)) => format!("<system-out>{}</system-out>", escaped(figure)),
        Verdict::Failed(reason) => told("failure", reason),
        Verdict::Refused(reason) => told("error", reason),
        Verdict::Skipped(reason) => format!("<skipped message=\"{}\"/>", escaped(reason)),
    };
    let (run, name) = (escaped(run), escaped(name));
    format!("    <testcase classname=\"{run}\" name=\"{name}\">{content}</testcase>\n")
}

/// Text as XML has it, between tags and within attributes.
fn escaped(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in printable(text).chars() {
        match c {
            '&' => shown += "&amp;",
            '<' => shown += "&lt;",
            '>' => shown += "&gt;",
            '"' => shown += "&quot;",
            // An attribute would have a space instead.
            '\n' => shown += "&#10;",
            '\t' => shown += "&#9;",
            // No XML may have these.
            '\u{fffe}' | '\u{ffff}' => shown.push('\u{fffd}'),
            c => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checks() -> Vec<Check> {
        let check = |run: &str, name: &str, verdict| Check::new(run, name, verdict);
        vec![
            check("a", "p99_ttft_ms>+5%", Verdict::Failed("p99_ttft_ms>+5%: 1 became 2 in a".to_owned())),
            check("b", "p99_ttft_ms>+5%", Verdict::Passed(Some("1 became 1".to_owned()))),
            check("a", "serves requests", Verdict::Passed(None)),
            check("<\"b\" & \u{1b}[1m\n\u{ffff}>", "workload", Verdict::Refused("ran <x>".to_owned())),
            check("b", "workload", Verdict::Skipped("not known".to_owned())),
        ]
    }

    #[test]
    fn a_run_is_a_suite_and_a_check_a_test_case() {
        insta::assert_snapshot!(render_junit("servecast compare", &checks()), @r#"
        <?xml version="1.0" encoding="UTF-8"?>
        <testsuites name="servecast compare" tests="5" failures="1" errors="1" skipped="1">
          <testsuite name="a" tests="2" failures="1" errors="0" skipped="0">
            <testcase classname="a" name="p99_ttft_ms&gt;+5%"><failure message="p99_ttft_ms&gt;+5%: 1 became 2 in a">p99_ttft_ms&gt;+5%: 1 became 2 in a</failure></testcase>
            <testcase classname="a" name="serves requests"></testcase>
          </testsuite>
          <testsuite name="b" tests="2" failures="0" errors="0" skipped="1">
            <testcase classname="b" name="p99_ttft_ms&gt;+5%"><system-out>1 became 1</system-out></testcase>
            <testcase classname="b" name="workload"><skipped message="not known"/></testcase>
          </testsuite>
          <testsuite name="&lt;&quot;b&quot; &amp; \u001b[1m&#10;�&gt;" tests="1" failures="0" errors="1" skipped="0">
            <testcase classname="&lt;&quot;b&quot; &amp; \u001b[1m&#10;�&gt;" name="workload"><error message="ran &lt;x&gt;">ran &lt;x&gt;</error></testcase>
          </testsuite>
        </testsuites>
        "#);
        assert_eq!(failures(&checks()), ["p99_ttft_ms>+5%: 1 became 2 in a"]);
    }
}
