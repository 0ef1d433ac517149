//! `servecast calibrate --base`: what the host takes besides passes whose times are known.

use std::fmt::Write as _;
use std::io::Write as _;

use serde_json::json;
use servecast_calibrate::{Fit, HeldOut, HostFit, PassRun, RequestRun, fit_host};
use servecast_engine::EngineArgs;
use servecast_latency::Step;

use super::{CalibrateArgs, input, output, refused};
use crate::config::Format;
use crate::error::Failure;
use crate::files::{self, OutputFile};
use crate::latency::{self, Models};
use crate::progress::FitProgress;

/// Fits the host that goes with a latency model.
pub(super) fn run(
    spec: &str,
    passes: &[PassRun],
    runs: &[RequestRun],
    args: &CalibrateArgs,
) -> Result<(), Failure> {
    if !passes.is_empty() {
        return Err(Failure::user(
            "--base has the times of passes: fit the host to requests, without iterations",
        ));
    }
    let named = EngineArgs { latency: Some(spec.to_owned()), ..EngineArgs::default() };
    let parsed = named.latency_spec().map_err(Failure::user)?;
    let model = latency::load(&parsed, &Models::new())?.ok_or_else(|| {
        Failure::user(format!("--base is `{spec}`, which is no model of a GPU"))
            .with_hint("profile:DIR, roofline:OPTIONS, grid:FILE and step:FILE.toml are")
    })?;
    let kept =
        args.first_requests.map_or_else(|| Ok(runs.to_vec()), |first| input::first_times(runs, first))?;
    let progress = FitProgress::new(args.quiet);
    let fit = fit_host(&kept, &model, &mut |loss| progress.tick(loss));
    progress.finish();
    let fit = fit.map_err(refused)?;
    let requests: usize =
        kept.iter().map(|run| run.rows.iter().filter(|row| row.times.is_some()).count()).sum();
    let what = format!("{requests} requests, over {spec}");
    if let Some(path) = &args.output {
        let mut file = OutputFile::create(path)?;
        let text = format!(
            "# Fitted by `servecast calibrate --base {spec}` to {requests} requests.\n# Held out of the fit: {}\n\n[host]\n{}",
            output::error_line(&fit.error),
            lines(&fit)
        );
        file.write_all(text.as_bytes()).map_err(|error| file.failure(&error))?;
        file.commit()?;
    }
    files::print(&match args.format {
        Format::Json => json_text(&fit),
        Format::Table => table(&fit, &what, args),
    })
}

/// The keys of the host that were fitted.
fn lines(fit: &HostFit) -> String {
    let line = |one: &servecast_calibrate::Coefficient| format!("{} = {:?}\n", one.name, one.value_us);
    fit.coefficients.iter().map(line).collect()
}

fn json_text(fit: &HostFit) -> String {
    let levels = fit.levels.iter().map(output::level_json);
    let result = json!({
        "coefficients": fit.coefficients,
        "levels": levels.collect::<Vec<_>>(),
        "all": output::errors_json(&fit.all.errors_percent),
        "held_out": output::parts_json(&fit.held_out),
        "latency_error": fit.error,
        "warnings": fit.warnings,
    });
    serde_json::to_string_pretty(&result).expect("figures are plain data") + "\n"
}

fn table(fit: &HostFit, what: &str, args: &CalibrateArgs) -> String {
    let as_fit = Fit {
        step: Step { error: Some(fit.error.clone()), ..Step::default() },
        coefficients: fit.coefficients.clone(),
        levels: fit.levels.clone(),
        held_out: Vec::new(),
        warnings: fit.warnings.clone(),
    };
    let itself = [fit.all.clone()];
    let parts: [(&str, &[HeldOut]); 2] = [("of the fit itself", &itself), (output::HELD_OUT, &fit.held_out)];
    let mut text = output::table(&as_fit, "Host", what, &parts);
    if let Some(path) = &args.output {
        let _ = writeln!(text, "\nreplay with `servecast replay --config {}`", path.display());
    }
    text
}
