//! The scores of a table of measured runs, for a reader.

use super::scores::{Group, groups};
use super::table::NotJudged;
use super::{Outcome, Results};

/// Reasons that are shown; the others are in the JSON.
const MOST_REASONS: usize = 20;

/// All that was found out.
pub(super) fn text(results: &Results) -> String {
    let (judged, others) = (results.judged(), results.others());
    let mut lines = vec![format!(
        "{} measured runs, of which {} are judged; iteration times: {}",
        results.rows.len(),
        judged.len(),
        results.latency
    )];
    lines.extend(not_run(&judged, "judged"));
    lines.extend(not_run(&others, "other"));
    let implausible = results.rows.iter().filter_map(|row| Some((&row.id, row.implausible.as_deref()?)));
    lines.extend(implausible.map(|(id, problem)| format!("not judged: {id}: {problem}")));
    lines.push(String::new());
    lines.push(head("judged runs"));
    lines.extend(Group::of("all", judged.iter().copied()).iter().map(line));
    for (key, groups) in groups(&judged) {
        lines.push(format!("by {key}"));
        lines.extend(groups.iter().map(line));
    }
    if let Some(group) = Group::of("all", others.iter().copied()) {
        lines.push(String::new());
        lines.push(head("not judged"));
        lines.push(line(&group));
        let by_reason = NotJudged::ALL.map(|reason| (reason, results.not_judged(reason)));
        let by_reason =
            by_reason.iter().filter_map(|(reason, rows)| Group::of(reason.says(), rows.iter().copied()));
        lines.extend(by_reason.map(|group| line(&group)));
    }
    lines.join("\n") + "\n"
}

const WIDTH: usize = 34;

fn head(what: &str) -> String {
    let columns = ["MAPE", "median", "p90", "bias"];
    let of = |time: &str| columns.map(|column| format!("{:>13}", format!("{time} {column}"))).concat();
    let (what, rest) = if what.len() > WIDTH { (format!("{what}\n"), WIDTH) } else { (what.to_owned(), 0) };
    let width = if rest > 0 { what.len() + rest } else { WIDTH };
    format!("{what:<width$}{:>6}{}{}", "runs", of("TPOT"), of("TTFT"))
}

fn line(group: &Group) -> String {
    let scores = [group.tpot, group.ttft].map(|score| {
        format!("{:>11.1} %{:>11.1} %{:>11.1} %{:>+11.1} %", score.mape, score.median, score.p90, score.bias)
    });
    format!("  {:<width$}{:>6}{}", group.name, group.n, scores.concat(), width = WIDTH - 2)
}

/// Rows that could not be simulated, by their reasons.
fn not_run(rows: &[&Outcome], what: &str) -> Vec<String> {
    let mut reasons: Vec<(&str, Vec<&str>)> = Vec::new();
    for row in rows {
        let Some(reason) = row.reason.as_deref() else { continue };
        match reasons.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, ids)) => ids.push(&row.id),
            None => reasons.push((reason, vec![&row.id])),
        }
    }
    let count: usize = reasons.iter().map(|(_, ids)| ids.len()).sum();
    if count == 0 {
        return Vec::new();
    }
    let share = count as f64 / rows.len() as f64 * 100.0;
    let mut lines =
        vec![format!("{count} of the {} {what} runs cannot be simulated ({share:.1} %):", rows.len())];
    let more = reasons.len().saturating_sub(MOST_REASONS);
    lines.extend(reasons.iter().take(MOST_REASONS).map(|(reason, ids)| match ids.as_slice() {
        [id] => format!("  {id}: {reason}"),
        [id, rest @ ..] => format!("  {id} and {} more: {reason}", rest.len()),
        [] => unreachable!("a reason has a row"),
    }));
    lines.extend((more > 0).then(|| format!("  … and {more} more reasons (--format json has all)")));
    lines
}
