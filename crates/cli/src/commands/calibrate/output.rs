//! What a fit came to, as a file and for readers.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use serde_json::{Map, Value, json};
use servecast_calibrate::{Fit, HeldOut, Level};
use servecast_latency::ErrorBar;

use super::CalibrateArgs;
use crate::error::Failure;
use crate::files::OutputFile;

/// What is said of parts that played no role in a fit.
pub(super) const HELD_OUT: &str = "held out of the fit";

/// Writes the model.
pub(super) fn write(path: &Path, fit: &Fit, what: &str, args: &CalibrateArgs) -> Result<(), Failure> {
    let mut file = OutputFile::create(path)?;
    let inputs: Vec<String> = args.inputs.iter().map(|path| path.display().to_string()).collect();
    let text = format!(
        "# Fitted by `servecast calibrate` to {what} of {}.\n# All prices are in microseconds.\n\n{}",
        inputs.join(", "),
        fit.step.to_toml()
    );
    file.write_all(text.as_bytes()).map_err(|error| file.failure(&error))?;
    file.commit()
}

pub(super) fn errors_json(errors: &[(&str, f64)]) -> Map<String, Value> {
    errors.iter().map(|(name, error)| ((*name).to_owned(), json!(error))).collect()
}

pub(super) fn parts_json(parts: &[HeldOut]) -> Vec<Value> {
    let part =
        |part: &HeldOut| json!({"part": part.part, "errors_percent": errors_json(&part.errors_percent)});
    parts.iter().map(part).collect()
}

pub(super) fn level_json(level: &Level) -> Value {
    let errors = errors_json(&level.errors_percent);
    json!({"under_way": level.under_way, "samples": level.samples, "errors_percent": errors})
}

pub(super) fn json_text(fit: &Fit) -> String {
    let levels = fit.levels.iter().map(level_json);
    let result = json!({
        "coefficients": fit.coefficients,
        "intervals": INTERVALS.join(" "),
        "levels": levels.collect::<Vec<_>>(),
        "held_out": parts_json(&fit.held_out),
        "latency_error": fit.step.error,
        "warnings": fit.warnings,
    });
    serde_json::to_string_pretty(&result).expect("figures are plain data") + "\n"
}

/// What the intervals of prices are, and are not.
const INTERVALS: [&str; 2] = [
    "± is the 95 % interval of a price over other data of the same kind: how far it moves when each twentieth of the rows \
     is left out.",
    "It is no error of predictions: for that, see what was held out of the fit.",
];

/// The fit, for a reader; `parts` are what it is judged by, each with how.
pub(super) fn table(fit: &Fit, model: &str, what: &str, parts: &[(&str, &[HeldOut])]) -> String {
    let mut text = format!("{model} fitted to {what}\n\n");
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{:<32}{:>14}{:>14}", "price", "µs", "± (95 %)");
    for coefficient in &fit.coefficients {
        let (value, width) = (number(coefficient.value_us), number(coefficient.half_width_us));
        let _ = writeln!(text, "{:<32}{value:>14}{width:>14}", coefficient.name);
    }
    let _ = writeln!(text, "{}", INTERVALS.join("\n"));
    let most = fit.levels.iter().map(|level| &level.errors_percent).max_by_key(|errors| errors.len());
    let names: Vec<&str> = most.into_iter().flatten().map(|(name, _)| *name).collect();
    let mut header = String::new();
    for name in &names {
        let _ = write!(header, "{:>16}", name.replace('_', " "));
    }
    let cells = |errors: &[(&str, f64)]| -> String {
        let of = |name: &&str| errors.iter().find(|(known, _)| known == name);
        names
            .iter()
            .map(|name| match of(name) {
                Some((name, error)) if name.ends_with("mape") => format!("{:>16}", format!("{error:.2} %")),
                Some((_, error)) => format!("{:>16}", format!("{error:+.2} %")),
                None => format!("{:>16}", "-"),
            })
            .collect()
    };
    let _ = writeln!(text, "\n{:<32}{:>10}{header}", "under way at a time", "samples");
    for level in &fit.levels {
        let _ =
            writeln!(text, "{:<32}{:>10}{}", level.under_way, level.samples, cells(&level.errors_percent));
    }
    for (how, judged) in parts.iter().filter(|(_, judged)| !judged.is_empty()) {
        let _ = writeln!(text, "\n{how:<42}{header}");
        for part in *judged {
            let _ = writeln!(text, "{:<42}{}", part.part, cells(&part.errors_percent));
        }
    }
    if let Some(error) = &fit.step.error {
        let _ = writeln!(text, "in the file: {}", error_line(error));
    }
    for warning in &fit.warnings {
        let _ = writeln!(text, "\nwarning: {warning}");
    }
    text
}

/// What a file says of the error of its fit.
pub(super) fn error_line(error: &ErrorBar) -> String {
    match (error.tpot_p90, error.ttft_p90) {
        (Some(tpot), Some(ttft)) => format!(
            "TPOT ±{:.1} %, TTFT ±{:.1} %, nine of ten of {}",
            tpot * 100.0,
            ttft * 100.0,
            error.basis
        ),
        _ => format!("no error, {}", error.basis),
    }
}

/// Six digits, whatever the size.
fn number(value: f64) -> String {
    if value == 0.0 {
        return "0".to_owned();
    }
    let digits = (5 - value.abs().log10().floor() as i32).clamp(0, 9) as usize;
    let text = format!("{value:.digits$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}
