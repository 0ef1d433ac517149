//! A load as rows of a trace, for programs that want to have it in hand: to look at it, to change it, to replay it often.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;
use servecast_config::error::Failure;
use servecast_config::settings::{Layers, ReplayConfig, SyntheticConfig, TraceConfig};
use servecast_config::source::{LoadRows, Source, unusable_trace};
use servecast_types::{Message, message};
use servecast_workload::{read_trace, write_mooncake};

use crate::plan::load;
use crate::replay::{Refusal, RefusalKind, Replay, TRACE, layers};

/// Tokens of a block where every token has an id: those of `servecast trace convert`.
const TOKENS_PER_BLOCK: u32 = 16;

/// Settings of a load that say how it is replayed.
const OF_A_REPLAY: [&str; 3] = ["replay_mode", "speed", "warm_start"];

/// Requests as rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MadeRows {
    /// JSON Lines of Mooncake's keys.
    pub text: Vec<u8>,
    /// Prompt tokens that an id of theirs stands for.
    pub block_size: u32,
    /// What was odd about the trace that they are of, in sentences.
    pub notes: Vec<String>,
}

/// The requests that a replay sends, as a trace that has the same.
///
/// # Errors
/// A setting is none of a load, or the load is refused as by a replay.
#[expect(clippy::missing_panics_doc, reason = "memory can be written to")]
pub fn load_rows(replay: &Replay) -> Result<MadeRows, Refusal> {
    let refused = |failure| Refusal::of(RefusalKind::Config, failure);
    let layers = layers(replay).map_err(refused)?;
    let config = layers.parse().map_err(refused)?;
    refuse_others(&config, &layers).map_err(refused)?;
    let (_, load) = load(&config, &layers).map_err(refused)?;
    let source = Source::of(&config, &layers).map_err(refused)?;
    let refused = |failure| Refusal::of(RefusalKind::of_load(&source), failure);
    let rows = rows(replay.trace.as_deref(), &source, &layers).map_err(refused)?;
    // Rows are cut as the trace is, where its ids are of blocks.
    let block_size = match (config.trace.trace_block_size, rows.block_size()) {
        (Some(given), _) => given,
        (None, 1) => TOKENS_PER_BLOCK,
        (None, cut) => cut,
    };
    let workload = rows.into_workload(load, &layers).map_err(refused)?;
    let notes = workload.notes.messages().iter().map(Refusal::shown).collect();
    let made: Vec<_> = workload.mooncake_rows(block_size, load).collect();
    let mut text = Vec::new();
    write_mooncake(&made, &mut text).expect("memory can be written to");
    Ok(MadeRows { text, block_size, notes })
}

/// The rows of a source, of a `trace` if that is no file.
fn rows(trace: Option<&[u8]>, source: &Source, layers: &Layers) -> Result<LoadRows, Failure> {
    match (trace, source) {
        (Some(text), Source::Trace { reading, .. }) => {
            let path = Path::new(TRACE);
            let trace = read_trace(text, &reading.form).map_err(|error| unusable_trace(path, &error))?;
            source.with_trace(path, trace, layers)
        }
        _ => source.rows(servecast_config::settings::DEFAULT_TRACE_BLOCK_SIZE, layers),
    }
}

/// Refuses a setting that is none of a load.
fn refuse_others(config: &ReplayConfig, layers: &Layers) -> Result<(), Failure> {
    let load = [keys(&TraceConfig::default()), keys(&SyntheticConfig::default())].concat();
    let of_load = |key: &String| load.contains(key) && !OF_A_REPLAY.contains(&key.as_str());
    let Some(other) = given(config).into_iter().find(|key| !of_load(key)) else { return Ok(()) };
    Err(layers
        .refused(message!("{} says nothing of a load", Message::key(other)))
        .with_hint("give it to the replay"))
}

/// The keys that have a value.
fn given(config: &ReplayConfig) -> Vec<String> {
    let Ok(Value::Object(values)) = serde_json::to_value(config) else { return Vec::new() };
    values.into_iter().filter(|(_, value)| !value.is_null()).map(|(key, _)| key).collect()
}

/// The keys of settings.
fn keys(settings: &impl Serialize) -> Vec<String> {
    let Ok(Value::Object(values)) = serde_json::to_value(settings) else { return Vec::new() };
    values.into_iter().map(|(key, _)| key).collect()
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use serde_json::json;

    use super::*;
    use crate::replay::replay;

    fn settings(settings: Value) -> Replay {
        let Value::Object(settings) = settings else { panic!("an object") };
        Replay { settings, ..Replay::default() }
    }

    /// Times of requests and of their first tokens.
    fn times(one: &Replay) -> Vec<(f64, Option<f64>)> {
        let outcome = replay(one, &mut |_| ControlFlow::Continue(())).unwrap();
        let requests = outcome.record.requests.iter();
        requests.map(|one| (one.arrival.as_ms(), one.ttft().map(servecast_types::Duration::as_ms))).collect()
    }

    #[test]
    fn rows_are_the_load_that_a_replay_would_send() {
        for load in [
            json!({"input_tokens": 900, "output_tokens": 20, "request_count": 30, "request_rate": 20, "burstiness": 0.3}),
            json!({"input_tokens": 900, "output_tokens": 20, "request_count": 9, "turns_per_session": 3, "request_rate": 5,
                   "inter_turn_delay_ms": 40, "shared_prefix_ratio": 0.5, "num_prefix_groups": 2, "trace_block_size": 64}),
            json!({"input_tokens": 900, "output_tokens": 20, "request_count": 30, "length_distribution": "lognormal",
                   "length_spread": 0.5, "seed": 7, "repeat": 2, "trace_block_size": 64}),
        ] {
            let made = load_rows(&settings(load.clone())).unwrap();
            let again = Replay {
                trace: Some(made.text),
                ..settings(json!({"trace_block_size": made.block_size, "num_workers": 2}))
            };
            let mut direct = settings(load);
            direct.settings.insert("num_workers".to_owned(), 2.into());
            assert_eq!(times(&again), times(&direct));
        }
    }

    #[test]
    fn a_trace_becomes_rows_of_a_part_of_it() {
        let trace = b"{\"timestamp\": 0, \"input_length\": 5, \"output_length\": 1}
            {\"timestamp\": 2000, \"input_length\": 6, \"output_length\": 1}";
        let part = Replay { trace: Some(trace.to_vec()), ..settings(json!({"time_range": "1..3"})) };
        let made = load_rows(&part).unwrap();
        assert_eq!(made.block_size, 512);
        let text = String::from_utf8(made.text).unwrap();
        assert_eq!(text.lines().count(), 1);
        assert!(text.contains("\"input_length\":6"), "{text}");
    }

    #[test]
    fn what_says_nothing_of_a_load_is_refused() {
        let load = json!({"input_tokens": 900, "output_tokens": 20, "request_count": 30});
        for (key, value) in [
            ("num_workers", json!(2)),
            ("max_num_seqs", json!(4)),
            ("speed", json!(2)),
            ("slo", json!(["x"])),
        ] {
            let mut with = settings(load.clone());
            with.settings.insert(key.to_owned(), value);
            let refusal = load_rows(&with).unwrap_err();
            assert_eq!(refusal.message, format!("`{key}` says nothing of a load"));
        }
        let refusal = load_rows(&settings(json!({"input_tokens": 900}))).unwrap_err();
        assert!(refusal.message.contains("output_tokens, request_count are missing"), "{}", refusal.message);
    }
}
