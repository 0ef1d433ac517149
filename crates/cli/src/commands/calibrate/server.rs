//! `servecast calibrate --config`: what lies between the passes of a deployment and before its engine, from runs of a server
//! of which only load and figures are known.

use std::fmt::Write as _;
use std::io::Write as _;

use serde_json::{Value, json};

use super::CalibrateArgs;
use crate::commands::validate::server::{Recorded, layers_of};
use crate::config::{Format, Layers, Origin};
use crate::error::Failure;
use crate::files::{self, OutputFile};

/// Simulations at most: each brings the times of tokens about as near as closed loops let it.
const MOST_TRIES: usize = 10;
/// A share of the time between tokens that does not matter.
const SETTLED: f64 = 1e-4;

/// What is fitted of the host, and what times of passes are divided by: 1 unless they are too long without any gap.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Found {
    gap_us: f64,
    front_end_us: f64,
    speedup: f64,
}

/// Mean times of a run, in ms.
#[derive(Debug, Clone, Copy)]
struct Times {
    ttft: f64,
    /// Of a token after the first.
    token: f64,
    /// From the first token to the last.
    decoding: f64,
}

impl Times {
    fn of(figure: impl Fn(&str) -> Option<f64>) -> Option<Self> {
        let ttft = figure("mean_ttft_ms")?;
        let token = figure("mean_tpot_ms")?;
        let decoding = figure("mean_e2e_latency_ms").map_or(token, |e2e| e2e - ttft);
        (ttft > 0.0 && token > 0.0 && decoding > 0.0).then_some(Self { ttft, token, decoding })
    }
}

/// A run as recorded.
struct Run {
    recorded: Recorded,
    real: Times,
}

/// Runs the command.
pub(super) fn run(args: &CalibrateArgs) -> Result<(), Failure> {
    let runs = args.inputs.iter().map(|path| {
        let recorded = Recorded::read(path)?;
        let real = Times::of(|name| recorded.figure(name)).ok_or_else(|| {
            Failure::user("there is nothing to fit to: TTFT and times of tokens are needed")
                .about(path.display().to_string())
        })?;
        Ok(Run { recorded, real })
    });
    let runs: Vec<Run> = runs.collect::<Result<_, Failure>>()?;
    let layers = layers_of(&args.config)?;
    for key in ["prefill_engine_args", "decode_engine_args"] {
        if layers.origin(key).is_some() {
            return Err(Failure::user(format!(
                "`{key}`: the passes of one kind of worker are fitted, not of two"
            )));
        }
    }
    if layers.origin("pool").is_some() {
        let message = "`pool`: what is fitted holds for all workers, which are one kind here";
        let hint = "say `num_workers` and `engine_args` instead";
        return Err(Failure::user(message).with_hint(hint));
    }
    let (found, ours) = fit(&runs, &layers)?;
    if let Some(path) = &args.output {
        let mut file = OutputFile::create(path)?;
        file.write_all(toml(&found, args).as_bytes()).map_err(|error| file.failure(&error))?;
        file.commit()?;
    }
    files::print(&match args.format {
        Format::Json => json_text(&found, &runs, &ours, args),
        Format::Table => table(&found, &runs, &ours, args),
    })
}

/// Fits to the means of all runs together.
///
/// The gap is such that requests take as long from their first token to their last as they did: a closed loop of them holds
/// about as many however long passes take, so that each token comes later by what a gap grows.
fn fit(runs: &[Run], layers: &Layers) -> Result<(Found, Vec<Times>), Failure> {
    let mut found = Found { gap_us: 0.0, front_end_us: 0.0, speedup: 1.0 };
    let mut ours = times(runs, layers, found)?;
    let mut best = (off_by(runs, &ours), found, ours.clone());
    for _ in 0..MOST_TRIES {
        let count = runs.len() as f64;
        let mean = |of: &dyn Fn(&Times, &Times) -> f64| {
            runs.iter().zip(&ours).map(|(run, ours)| of(&run.real, ours)).sum::<f64>() / count
        };
        let ratio = mean(&|real, ours| ours.decoding / real.decoding);
        let longer_us = 1e3 * mean(&|real, ours| (real.decoding / ours.decoding - 1.0) * ours.token);
        let late_us = 1e3 * mean(&|real, ours| real.ttft - ours.ttft);
        let before = found;
        found.front_end_us = (found.front_end_us + late_us).max(0.0);
        if found.speedup > 1.0 || found.gap_us + longer_us < 0.0 {
            (found.gap_us, found.speedup) = (0.0, (found.speedup * ratio).clamp(1.0, 100.0));
        } else {
            found.gap_us += longer_us;
        }
        ours = times(runs, layers, found)?;
        // First tokens come with a pass: they are not to be had at any time.
        let off = off_by(runs, &ours);
        if off < best.0 {
            best = (off, found, ours.clone());
        }
        let moved = (found.front_end_us - before.front_end_us).abs();
        if (ratio - 1.0).abs() < SETTLED && moved <= SETTLED * 1e3 * runs[0].real.ttft {
            break;
        }
    }
    Ok((best.1, best.2))
}

/// How far off the means of runs are, decoding above all.
fn off_by(runs: &[Run], ours: &[Times]) -> f64 {
    let one = |(run, ours): (&Run, &Times)| {
        10.0 * (ours.decoding / run.real.decoding - 1.0).abs() + (ours.ttft / run.real.ttft - 1.0).abs()
    };
    runs.iter().zip(ours).map(one).sum()
}

/// What runs come to.
fn times(runs: &[Run], layers: &Layers, found: Found) -> Result<Vec<Times>, Failure> {
    let mut layers = layers.clone();
    let origin = Origin::Flag("what is fitted".to_owned());
    let host = json!({
        "gap_us": found.gap_us,
        "front_end_us": found.front_end_us,
        "front_end_us_per_1k_prompt_tokens": 0.0,
    });
    layers.add("host", host, &origin)?;
    if found.speedup > 1.0 {
        layers.add("speedup_ratio", json!(found.speedup), &origin)?;
    }
    let one = |run: &Run| {
        let figures = run.recorded.simulated(&layers)?;
        Times::of(|name| figures.get(name).copied())
            .ok_or_else(|| Failure::user("requests have one token each"))
    };
    runs.iter().map(one).collect()
}

/// The fitted settings, as a file that goes over that of the deployment.
fn toml(found: &Found, args: &CalibrateArgs) -> String {
    let names = |paths: &[std::path::PathBuf]| {
        paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    };
    let speedup =
        if found.speedup > 1.0 { format!("speedup_ratio = {:?}\n\n", found.speedup) } else { String::new() };
    format!(
        "# Fitted by `servecast calibrate --config {}` to {}.\n\n{speedup}[host]\ngap_us = {:?}\nfront_end_us = {:?}\n\
         front_end_us_per_1k_prompt_tokens = 0.0\n",
        names(&args.config),
        names(&args.inputs),
        found.gap_us,
        found.front_end_us
    )
}

fn off(ours: f64, real: f64) -> f64 {
    (ours / real - 1.0) * 100.0
}

fn json_text(found: &Found, runs: &[Run], ours: &[Times], args: &CalibrateArgs) -> String {
    let errors = args.inputs.iter().zip(runs).zip(ours).map(|((path, run), ours)| {
        json!({
            "run": path.display().to_string(),
            "mean_ttft_percent": off(ours.ttft, run.real.ttft),
            "mean_decode_percent": off(ours.decoding, run.real.decoding),
        })
    });
    let value = json!({
        "gap_us": found.gap_us,
        "front_end_us": found.front_end_us,
        "speedup_ratio": found.speedup,
        "runs": errors.collect::<Vec<Value>>(),
    });
    serde_json::to_string_pretty(&value).expect("figures are plain data") + "\n"
}

fn table(found: &Found, runs: &[Run], ours: &[Times], args: &CalibrateArgs) -> String {
    let mut text = format!(
        "Host fitted to {} runs: gap_us {:.0}, front_end_us {:.0}\n",
        runs.len(),
        found.gap_us,
        found.front_end_us
    );
    if found.speedup > 1.0 {
        let _ = writeln!(
            text,
            "passes are shorter than the latency model says: speedup_ratio {:.4}",
            found.speedup
        );
    }
    let _ = writeln!(text, "\n{:<60} {:>12} {:>14}", "of the fit itself", "mean ttft", "mean decoding");
    for ((path, run), ours) in args.inputs.iter().zip(runs).zip(ours) {
        let [ttft, decoding] = [off(ours.ttft, run.real.ttft), off(ours.decoding, run.real.decoding)];
        let name = path.display().to_string();
        let _ = writeln!(text, "{name:<60} {ttft:>+10.2} % {decoding:>+12.2} %");
    }
    if let Some(path) = &args.output {
        let _ = writeln!(
            text,
            "\nuse with `--config` behind that of the deployment: --config {}",
            path.display()
        );
    }
    text
}
