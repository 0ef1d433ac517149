//! How reports differ from the first of them, as Markdown for a pull request.

use std::collections::BTreeSet;

use crate::client_run::{ClientRun, about_requests, about_run};
use crate::differences::{
    Differences, NamedFigures, RunDifference, SHOWN, figure, relative, sentences, value_text,
};
use crate::gate::Check;
use crate::markdown::{self, code};
use crate::table::or_none;

/// Renders differences as Markdown: what differs in the settings first, then what came of `checks`, then the figures.
pub fn render_differences_markdown(differences: &Differences, checks: &[Check]) -> String {
    let Differences { baseline, runs, .. } = differences;
    let others: Vec<String> = runs.iter().map(|run| markdown::text(&run.name)).collect();
    let title = format!("### servecast: {} beside {}\n\n", others.join(", "), markdown::text(&baseline.name));
    let paired: String = runs.iter().map(paired).collect();
    let source = source(baseline).unwrap_or_default();
    title + &settings(differences) + &markdown::checks(checks) + &figures(differences) + &paired + &source
}

/// The workload and the settings in which runs differ, a row each, and a line for each run that has none.
fn settings(Differences { baseline, runs, .. }: &Differences) -> String {
    let of = |run: &RunDifference, path: &String| run.settings.as_ref()?.get(path).cloned();
    let same = || "=".to_owned();
    let row = |path: &String| {
        let before = runs.iter().find_map(|run| of(run, path)).map(|change| value_text(&change.baseline));
        let after = runs
            .iter()
            .map(|run| of(run, path).map_or_else(same, |change| markdown::text(&value_text(&change.value))));
        let before = markdown::text(&before.unwrap_or_default());
        [code(path), before].into_iter().chain(after).collect()
    };
    let workload =
        baseline.workload.as_ref().filter(|_| runs.iter().any(|run| run.other_workload(baseline).is_some()));
    let workload = workload.map(|workload| {
        let other = |run: &RunDifference| run.other_workload(baseline).map(|(_, after)| after.to_string());
        let others = runs.iter().map(|run| other(run).map_or_else(same, |text| markdown::text(&text)));
        ["workload".to_owned(), markdown::text(&workload.to_string())].into_iter().chain(others).collect()
    });
    let paths: BTreeSet<&String> =
        runs.iter().flat_map(|run| run.settings.iter().flatten()).map(|(path, _)| path).collect();
    let rows: Vec<Vec<String>> = workload.into_iter().chain(paths.into_iter().map(row)).collect();
    let table = if rows.is_empty() {
        String::new()
    } else {
        let names = [&baseline.name].into_iter().chain(runs.iter().map(|run| &run.name));
        let names = names.map(|name| markdown::text(name));
        let headers: Vec<String> = ["setting".to_owned()].into_iter().chain(names).collect();
        markdown::table(&headers, &rows, headers.len()) + "\n"
    };
    let paragraph = |name: &str, run: Option<&ClientRun>| -> String {
        let sentences = about_run(name, run).into_iter();
        sentences.map(|sentence| markdown::text(&sentence) + ".\n\n").collect()
    };
    let of_baseline = paragraph(&baseline.name, baseline.measured.as_ref());
    let others = runs.iter().map(|run| {
        paragraph(&run.name, run.measured.as_ref()) + &without_settings(run, baseline).unwrap_or_default()
    });
    table + &of_baseline + &others.collect::<String>()
}

/// A line on a run of which no setting is in the table.
fn without_settings(run: &RunDifference, baseline: &NamedFigures) -> Option<String> {
    if let Some(sentence) = about_requests(run, baseline) {
        return Some(markdown::text(&sentence) + ".\n\n");
    }
    let (one, other) = (markdown::text(&baseline.name), markdown::text(&run.name));
    match &run.settings {
        None => {
            Some(format!("In which settings {other} differs from {one} is not known: a report has none.\n\n"))
        }
        Some(changes) if changes.is_empty() && run.other_workload(baseline).is_none() => {
            Some(format!("{other} has the settings and the workload of {one}.\n\n"))
        }
        Some(_) => None,
    }
}

fn figures(Differences { baseline, runs, .. }: &Differences) -> String {
    let changes = runs.iter().flat_map(|run| [markdown::text(&run.name), "change".to_owned()]);
    let headers: Vec<String> =
        ["figure".to_owned(), markdown::text(&baseline.name)].into_iter().chain(changes).collect();
    let row = |(key, name): (&str, &str)| {
        let before = *baseline.figures.get(key)?;
        let others = runs.iter().flat_map(|run| match run.figures.get(key) {
            Some(difference) => [figure(key, difference.value), relative(difference)],
            None => [or_none(None), String::new()],
        });
        Some([name.to_owned(), figure(key, before)].into_iter().chain(others).collect())
    };
    let rows: Vec<Vec<String>> = SHOWN.into_iter().filter_map(row).collect();
    markdown::table(&headers, &rows, 1) + "\n"
}

/// The changes of requests that both runs have, a list item for each latency.
fn paired(run: &RunDifference) -> String {
    let Some(changes) = &run.paired else { return String::new() };
    let item = |change| format!("- {}\n", markdown::text(sentences(change).trim()));
    let items: String = changes.iter().map(item).collect();
    let name = markdown::text(&run.name);
    format!("{name}, request by request, with 95% confidence intervals:\n\n{items}\n")
}

/// Where the iteration times of the baseline come from; another source of a run is among what differs.
fn source(baseline: &NamedFigures) -> Option<String> {
    let source = baseline.settings.as_ref()?.get("latency_source")?.as_str()?;
    Some(format!("Iteration times: {}\n", markdown::text(source)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::gate::Verdict;
    use crate::{Report, SchemaVersion, SummaryOptions, fixture, summarize};

    fn named(name: &str, change: impl Fn(&mut Report)) -> NamedFigures {
        let options = SummaryOptions { provenance: fixture::provenance(), ..SummaryOptions::default() };
        let mut report = summarize(&fixture::run(), &options);
        change(&mut report);
        NamedFigures::of(name, &report)
    }

    fn differences(baseline: NamedFigures, others: &[NamedFigures]) -> Differences {
        let runs = others.iter().map(|other| RunDifference::of(&baseline, other)).collect();
        Differences { schema_version: SchemaVersion::V1, baseline, runs }
    }

    #[test]
    fn settings_come_first_then_checks_then_figures() {
        let baseline = named("main", |_| {});
        let other = named("my|branch", |report| {
            report.settings.as_mut().unwrap().insert("num_workers".to_owned(), json!(7));
            report.workload_hash = Some("00000000000000ff".to_owned());
            report.total_preemptions += 2;
        });
        let checks = [
            Check::new("my|branch", "p99_ttft_ms>+5%", Verdict::Passed(Some("79.4 became 79.4".to_owned()))),
            Check::new("my|branch", "total_preemptions>3", Verdict::Failed("2 became 4".to_owned())),
        ];
        insta::assert_snapshot!(render_differences_markdown(&differences(baseline, &[other]), &checks), @r"
        ### servecast: my\|branch beside main

        | setting | main | my\|branch |
        | --- | --- | --- |
        | workload | t.jsonl (0000000000000abc) | t.jsonl (00000000000000ff) |
        | `num_workers` | 2 | 7 |

        ❌ **1 of 2 checks fail**

        | result | check | run | found |
        | --- | --- | --- | --- |
        | ✅ | `p99_ttft_ms>+5%` | my\|branch | 79.4 became 79.4 |
        | ❌ | `total_preemptions>3` | my\|branch | 2 became 4 |

        | figure | main | my\|branch | change |
        | --- | ---: | ---: | ---: |
        | TTFT avg (ms) | 50.00 | 50.00 | = |
        | TTFT p50 (ms) | 50.00 | 50.00 | = |
        | TTFT p99 (ms) | 79.40 | 79.40 | = |
        | ITL avg (ms) | 15.71 | 15.71 | = |
        | ITL p99 (ms) | 38.80 | 38.80 | = |
        | TPOT avg (ms) | 15.00 | 15.00 | = |
        | Latency avg (ms) | 100.00 | 100.00 | = |
        | Latency p99 (ms) | 158.80 | 158.80 | = |
        | Queue time avg (ms) | 3.00 | 3.00 | = |
        | Requests/s | 11.76 | 11.76 | = |
        | Output tokens/s | 47.06 | 47.06 | = |
        | Prefix reuse (share) | 0.2500 | 0.2500 | = |
        | Completed | 2 | 2 | = |
        | Rejected | 2 | 2 | = |
        | Preemptions | 2 | 4 | +100.00% |
        | Iterations | 12 | 12 | = |
        | Duration (ms) | 170.00 | 170.00 | = |
        | Requests | 4 | 4 | = |

        Iteration times: a model
        ");
    }

    #[test]
    fn runs_that_do_not_differ_or_do_not_say_so_have_a_sentence() {
        let baseline = named("a", |_| {});
        let old = named("old", |report| report.settings = None);
        let text = render_differences_markdown(&differences(baseline.clone(), &[baseline, old]), &[]);
        assert!(text.contains("\na has the settings and the workload of a.\n"), "{text}");
        assert!(
            text.contains("\nIn which settings old differs from a is not known: a report has none.\n"),
            "{text}"
        );
        assert!(!text.contains("setting |") && !text.contains("check"), "{text}");
    }
}
