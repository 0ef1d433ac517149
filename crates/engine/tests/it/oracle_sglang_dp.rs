//! Recordings of SGLang's data-parallel ranks, which compute every pass together.

use serde_json::{Value, json};
use servecast_engine::{
    Begun, Engine, EngineArgs, EngineRequest, EngineState, EngineTracing, Fetch, Iteration, IterationSink,
    Joined, Links,
};
use servecast_types::Time;

use crate::oracle_sglang::{Told, accepted_drafts, describe, priority_of, settings};
use crate::recording::{Recording, from_us};

/// Runs the case and compares every rank with what was recorded; says where they first part.
pub(crate) fn replay(case: &Recording) -> Result<(), String> {
    let mut config = case.expected["config"].clone();
    let ranks = config.as_object_mut().unwrap().remove("dp_size").unwrap().as_u64().unwrap() as u32;
    let args = EngineArgs::from_json(of_server(settings(&config, &case.expected["latency"]), ranks)).unwrap();
    let engine_config = args.validate(None).map_err(|error| error.to_string())?;
    let page_size = engine_config.block_size();
    let tracing = EngineTracing { kv_events: true, sglang_state: true, ..EngineTracing::default() };
    let ended = run(case, Engine::new(engine_config, tracing), ranks)?;
    // Each rank numbers its hashes.
    let mut told: Vec<Told> = (0..ranks).map(|_| Told::default()).collect();
    let steps = case.expected["steps"].as_array().unwrap();
    for (number, (expected, of_all)) in steps.iter().zip(passes(&ended, ranks)).enumerate() {
        let iteration = &ended[number];
        let rank = iteration.dp_rank;
        let mut found = describe(case, &config, iteration, page_size, &mut told[rank as usize]);
        found.insert("rank", json!(rank));
        found.extend(of_pass(iteration, of_all));
        for (key, found) in &found {
            let expected = &expected[*key];
            if expected != found {
                return Err(format!("step {number}, rank {rank}: `{key}` is {found}, recorded {expected}"));
            }
        }
    }
    if steps.len() != ended.len() {
        return Err(format!("{} steps, recorded {}", ended.len(), steps.len()));
    }
    Ok(())
}

/// The settings of a server whose ranks have the given ones: as in the real one, some are shared out.
fn of_server(mut settings: Value, ranks: u32) -> Value {
    settings["dp_size"] = json!(ranks);
    let own = settings["sglang"].as_object_mut().unwrap();
    own.insert("enable_dp_attention".to_owned(), json!(true));
    for key in ["chunked_prefill_size", "max_running_requests"] {
        if let Some(each) = own[key].as_i64().filter(|&each| each > 0) {
            own[key] = json!(each * i64::from(ranks));
        }
    }
    let conservativeness = own.get("schedule_conservativeness").and_then(Value::as_f64).unwrap_or(1.0);
    own.insert("schedule_conservativeness".to_owned(), json!(conservativeness / 0.3));
    settings
}

/// The pass that each of the iterations belongs to.
fn passes(ended: &[Iteration], ranks: u32) -> impl Iterator<Item = &[Iteration]> {
    ended.chunks(ranks as usize).flat_map(|pass| pass.iter().map(move |_| pass))
}

/// What ranks know of each other.
fn of_pass(iteration: &Iteration, pass: &[Iteration]) -> Vec<(&'static str, Value)> {
    let prefills = |iteration: &Iteration| iteration.sglang.as_deref().unwrap().prefills;
    // A request that verifies drafts counts once.
    let tokens = |iteration: &Iteration| {
        let each = iteration.scheduled.iter().enumerate();
        each.map(|(position, each)| if position < prefills(iteration) { each.tokens } else { 1 }).sum::<u32>()
    };
    let mut found = vec![
        ("is_extend_in_batch", json!(pass.iter().any(|each| prefills(each) > 0))),
        ("global_num_tokens", pass.iter().map(tokens).collect()),
        ("t_start_us", json!(iteration.start.as_ns() / 1_000)),
        ("t_end_us", json!(iteration.end.as_ns() / 1_000)),
    ];
    if iteration.scheduled.is_empty() {
        found.push(("mode", json!("idle")));
    }
    found
}

/// What ranks did, pass by pass.
#[derive(Default)]
struct Log(Vec<Iteration>);

impl Links for Log {
    fn begin(&mut self, fetch: Fetch, _: Time) -> Begun {
        unreachable!("{fetch:?}, which is not computed here")
    }
}

impl IterationSink for Log {
    fn joined(&mut self, joined: Joined, _: Time) {
        unreachable!("{joined:?}, which is not computed here")
    }

    fn iteration_ended(&mut self, iteration: &Iteration) {
        self.0.push(iteration.clone());
    }
}

/// Serves the case to its end; the iterations of ranks, pass by pass.
fn run(case: &Recording, mut engine: Engine, ranks: u32) -> Result<Vec<Iteration>, String> {
    let mut log = Log::default();
    let mut arrivals = case.arrivals();
    let mut now = Time::ZERO;
    loop {
        let next = |arrivals: &std::collections::VecDeque<usize>| {
            arrivals.front().map(|&next| from_us(case.requests[next].arrival_us))
        };
        while next(&arrivals).is_some_and(|next| next <= now)
            && let Some(index) = arrivals.pop_front()
        {
            let rank = case.requests[index].dp_rank.unwrap_or(index as u32 % ranks);
            let request = EngineRequest { dp_rank: Some(rank), ..request(case, index) };
            engine.submit(request).map_err(|reason| format!("{}: {reason}", case.requests[index].id))?;
        }
        let state = engine.run(now, &mut log).unwrap();
        engine.check().unwrap();
        match (state, next(&arrivals)) {
            (EngineState::Busy { until }, _) => {
                now = until;
                engine.end_iteration(now, &mut log);
            }
            (EngineState::Idle { .. }, Some(next)) => now = now.max(next),
            (EngineState::Idle { .. }, None) => return Ok(log.0),
        }
    }
}

fn request(case: &Recording, index: usize) -> EngineRequest {
    EngineRequest {
        priority: priority_of(case, index),
        tie_break: case.tie_break(index),
        ignore_eos: case.requests[index].ignore_eos,
        accepted_drafts: accepted_drafts(case, index),
        ..case.request(index)
    }
}
