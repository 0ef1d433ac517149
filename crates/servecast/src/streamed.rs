//! A trace that is used as it is read: what does not go together with that is refused.

use servecast_cluster::RouterMode;
use servecast_config::error::Failure;
use servecast_config::settings::{Layers, ReplayConfig, ReplayMode};
use servecast_config::source::{Source, sort_window};
use servecast_types::{Duration, Message, message};

/// How long a row may come before one above it, if the trace is used as it is read.
pub(crate) fn streamed(
    config: &ReplayConfig,
    layers: &Layers,
    source: &Source,
) -> Result<Option<Duration>, Failure> {
    let output = &config.output;
    let window = sort_window(output.sort_window).map_err(|problem| layers.refused(problem))?;
    if output.stream != Some(true) {
        return match output.sort_window {
            Some(_) => Err(layers
                .refused(message!(
                    "{sort_window} is for a trace that is used as it is read, but this one is not"
                ))
                .with_hint(message!("{--stream} uses it as it is read"))),
            None => Ok(None),
        };
    }
    if !matches!(source, Source::Trace { .. }) {
        return Err(layers
            .refused(message!("{stream} uses a trace as it is read, but there is none"))
            .with_hint("name a TRACE"));
    }
    if let Some((key, why)) = needs_all(config) {
        return Err(layers
            .refused(message!("{} {}, but {stream} uses a trace as it is read", Message::key(key), why))
            .with_hint("leave one of the two out"));
    }
    if let Some(key) = needs_requests(config) {
        return Err(layers
            .refused(message!("{} is made of all requests of a run, but {stream} keeps none", Message::key(key)))
            .with_hint(message!(
                "{--report_json}, {--requests_jsonl}, {--iterations_jsonl} and {--routing_jsonl} write what is known along \
                 the way"
            )));
    }
    Ok(Some(window))
}

/// The first given setting that needs all of the load, and why.
fn needs_all(config: &ReplayConfig) -> Option<(&'static str, &'static str)> {
    let (trace, measured) = (&config.trace, &config.measured);
    let is_online = trace.replay_mode == Some(ReplayMode::Online);
    let by_names = config.deployment.router_mode == Some(RouterMode::PrefixHash);
    let stays = config.deployment.router_session_affinity_ttl_secs.is_some();
    let of_load = "is made of all of the load";
    let is_searched = measured.warmup.as_deref().is_some_and(|margin| margin.trim() == "auto");
    [
        ("merge", trace.merge.is_some(), "sends several traces at the same time"),
        ("time_range", trace.time_range.is_some(), of_load),
        ("sample", trace.sample.is_some(), of_load),
        ("repeat", trace.repeat.is_some(), of_load),
        ("request_rate", trace.request_rate.is_some(), of_load),
        ("rate_profile", trace.rate_profile.is_some(), of_load),
        ("replay_concurrency", trace.replay_concurrency.is_some(), "does not follow the times of a trace"),
        ("replay_mode", is_online, "goes by the clock of the machine"),
        ("router_mode", by_names, "goes by names of content that are known when all of the trace is read"),
        (
            "router_session_affinity_ttl_secs",
            stays,
            "needs sessions, and rows of a stream are sent one by one",
        ),
        ("warmup", is_searched, "is `auto`, and looks for a steady state in all requests of the run"),
    ]
    .into_iter()
    .find_map(|(key, is_given, why)| is_given.then_some((key, why)))
}

/// The first given output that is made of all requests.
fn needs_requests(config: &ReplayConfig) -> Option<&'static str> {
    let output = &config.output;
    [
        ("output_dir", output.output_dir.is_some()),
        ("report_html", output.report_html.is_some()),
        ("timeline", output.timeline.is_some()),
        ("diagnosis", output.diagnosis == Some(true)),
        ("diagnose", output.diagnoses()),
        ("export", output.export.is_some()),
    ]
    .into_iter()
    .find_map(|(key, is_given)| is_given.then_some(key))
}
