//! Text and tables in the Markdown of GitHub, for comments of pull requests and summaries of jobs.

use crate::gate::{Check, Verdict};
use crate::printable::printable;

/// A table whose first columns are text and whose others are figures; every line ends in a newline.
///
/// Cells are Markdown already.
pub(crate) fn table(headers: &[String], rows: &[Vec<String>], text_columns: usize) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let rule: Vec<String> = (0..headers.len())
        .map(|column| if column < text_columns { "---" } else { "---:" }.to_owned())
        .collect();
    let rows = rows.iter().map(|row| line(row));
    [line(headers), line(&rule)].into_iter().chain(rows).collect()
}

/// Text that stands for itself in a line or a cell.
pub(crate) fn text(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in printable(text).chars() {
        match c {
            '\n' | '\t' => shown.push(' '),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' | '#' => shown.extend(['\\', c]),
            '&' => shown += "&amp;",
            '<' => shown += "&lt;",
            '>' => shown += "&gt;",
            c => shown.push(c),
        }
    }
    shown
}

/// Text in the letters of code, in a line or a cell.
pub(crate) fn code(text: &str) -> String {
    let shown = printable(text).replace(['\n', '\t'], " ").replace('|', "\\|");
    let longest = longest_fence(&shown);
    if longest == 0 {
        return format!("`{shown}`");
    }
    let fence = "`".repeat(longest + 1);
    format!("{fence} {shown} {fence}")
}

/// Lines that are shown as they are.
pub(crate) fn block(text: &str) -> String {
    let shown = printable(text);
    let fence = "`".repeat(longest_fence(&shown).max(2) + 1);
    format!("{fence}text\n{}\n{fence}\n", shown.trim_end())
}

/// How many backticks follow each other at most.
fn longest_fence(text: &str) -> usize {
    text.split(|c| c != '`').map(str::len).max().unwrap_or(0)
}

/// The checks of a gate as a table, behind a line that says what came of all; empty without checks.
pub(crate) fn checks(checks: &[Check]) -> String {
    if checks.is_empty() {
        return String::new();
    }
    let count = |is: fn(&Verdict) -> bool| checks.iter().filter(|check| is(&check.verdict)).count();
    let failed = count(|verdict| matches!(verdict, Verdict::Failed(_)));
    let refused = count(|verdict| matches!(verdict, Verdict::Refused(_)));
    let passed = count(|verdict| matches!(verdict, Verdict::Passed(_)));
    let skipped = checks.len() - passed - failed - refused;
    let headline = match (refused, failed) {
        (0, 0) if skipped > 0 => {
            format!("✅ **{passed} of {} checks pass**, {skipped} not made", checks.len())
        }
        (0, 0) => "✅ **All checks pass**".to_owned(),
        (0, failed) => format!("❌ **{failed} of {} checks fail**", checks.len()),
        (_, _) => "⛔ **Not judged**".to_owned(),
    };
    let row = |check: &Check| {
        let (mark, found) = match &check.verdict {
            Verdict::Passed(found) => ("✅", found.clone().unwrap_or_default()),
            Verdict::Failed(reason) => ("❌", reason.clone()),
            Verdict::Refused(reason) => ("⛔", reason.clone()),
            Verdict::Skipped(reason) => ("❔", reason.clone()),
        };
        vec![mark.to_owned(), code(&check.name), text(&check.run), text(&found)]
    };
    let rows: Vec<Vec<String>> = checks.iter().map(row).collect();
    let headers = ["result", "check", "run", "found"].map(str::to_owned);
    format!("{headline}\n\n{}\n", table(&headers, &rows, 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_breaks_out_of_a_cell() {
        assert_eq!(text("a|b *c* <d> `e`\nf"), "a\\|b \\*c\\* &lt;d&gt; \\`e\\` f");
        assert_eq!(code("a|b\nc"), "`a\\|b c`");
        assert_eq!(code("a``b"), "``` a``b ```");
    }
}
