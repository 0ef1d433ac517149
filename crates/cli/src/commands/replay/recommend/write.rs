//! The files and the text of an answer.

use std::io::Write as _;

use servecast::recommend::{Growth, Prepared, Watch, csv, page, settings_of_leaders, start_of_best, table};
use servecast_recommend::{Outcome, Recommendation, Verdict};

use super::super::outputs::put_in_place;
use super::Files;
use crate::config::ReportFormat;
use crate::error::Failure;
use crate::files::{OutputFile, print};

/// Prints and writes the answer.
pub(super) fn files(
    prepared: &Prepared,
    answer: &Recommendation,
    growths: &[Growth],
    files: &Files,
    watch: &dyn Watch,
) -> Result<(), Failure> {
    let question = &prepared.question;
    let output = &question.config.output;
    let json = super::super::json(answer);
    let mut texts: Vec<(std::path::PathBuf, String)> = Vec::new();
    texts.extend(output.report_json.clone().map(|path| (path, json.clone())));
    texts.extend(files.csv.clone().map(|path| (path, csv(answer))));
    let folder = output.output_dir.as_deref();
    let given = files.html.iter().chain(&output.report_html).cloned();
    let pages: Vec<_> = given.chain(folder.map(|folder| folder.join("recommendation.html"))).collect();
    if !pages.is_empty() {
        let page = page(prepared, answer, growths, watch);
        texts.extend(pages.into_iter().map(|path| (path, page.clone())));
    }
    if let Some(folder) = folder {
        texts.push((folder.join("recommendation.json"), json.clone()));
        texts.push((folder.join("recommendation.csv"), csv(answer)));
        for (place, text) in settings_of_leaders(question, growths)?.into_iter().enumerate() {
            texts.push((folder.join(format!("{}.toml", place + 1)), text));
        }
        texts.extend(start_of_best(question, growths).map(|script| (folder.join("start.sh"), script)));
    }
    let mut complete = Vec::new();
    for (path, text) in texts {
        let mut file = OutputFile::create(&path)?;
        file.write_all(text.as_bytes()).map_err(|error| file.failure(&error))?;
        complete.push(file);
    }
    put_in_place(complete)?;
    print(&match output.format.unwrap_or_default() {
        ReportFormat::Json => json,
        // Formats for CI are refused.
        ReportFormat::Table | ReportFormat::Markdown | ReportFormat::Junit => {
            table(question, answer, growths, super::super::table_options())
        }
    })
}

/// That nothing keeps the targets: what comes nearest, and why.
pub(super) fn impossible(growth: &Growth) -> Failure {
    let search = &growth.search;
    let tally = search.tally();
    let message = format!("no deployment keeps all targets: {} were simulated", tally.simulated);
    let failure = Failure::condition(message);
    let lost = search.verdicts.iter().find_map(|verdict| match verdict {
        Verdict::Tried(Outcome::CutOff { reason, .. }) => Some(reason.as_str()),
        _ => None,
    });
    match (search.nearest().first(), lost) {
        (Some(&nearest), _) => {
            let figures = search.figures(nearest).expect("it ran");
            let missed = figures.slo.iter().filter(|slo| !slo.met).map(servecast_report::render_slo);
            failure.with_hint(format!(
                "{} comes nearest: {}; a looser target or more GPUs (--max-gpus) may help",
                search.candidates[nearest].name,
                missed.collect::<Vec<_>>().join("; ")
            ))
        }
        (None, Some(lost)) => failure.with_hint(format!("all lost a target before their end, such as {lost}; a looser target or more GPUs (--max-gpus) may help")),
        (None, None) => failure.with_hint("all were refused: the table says why"),
    }
}
