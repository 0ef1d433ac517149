//! Every recording of vLLM's data-parallel ranks is reproduced pass by pass.
//!
//! A recording has an entry for each pass that the ranks made together: who computed what, who took part with a dummy, when
//! it began and ended.

use std::collections::VecDeque;

use serde_json::{Value, json};
use servecast_engine::{Engine, EngineArgs, EngineRequest, EngineState, EngineTracing, Iteration};
use servecast_types::{RequestId, Time};

use crate::oracle_vllm::settings;
use crate::recording::{Log, Recording, from_us, us};

/// Whether a recording is of ranks in lock step.
pub(crate) fn is_dp(config: &Value) -> bool {
    config["data_parallel_size"].as_u64() > Some(1)
}

fn engine(case: &Recording) -> Result<Engine, String> {
    let recorded = &case.expected["config"];
    let mut config = settings(case)?;
    let keys = config.as_object_mut().unwrap();
    for key in ["data_parallel_size", "dummy_us", "wave_delay_us"] {
        keys.remove(key);
    }
    keys.insert("dp_size".into(), recorded["data_parallel_size"].clone());
    keys.insert("dp_dummy_us".into(), case.expected["dummy_us"].clone());
    keys.insert("dp_wave_delay_us".into(), recorded["wave_delay_us"].as_f64().unwrap_or(0.0).into());
    keys.insert("latency".into(), case.latency().into());
    let args = EngineArgs::from_json(config).map_err(|error| error.to_string())?;
    let config = args.validate(None).map_err(|error| error.to_string())?;
    Ok(Engine::new(config, EngineTracing::default()))
}

/// Runs the case and compares it with what was recorded; says where they first part.
pub(crate) fn replay(case: &Recording) -> Result<(), String> {
    let mut engine = engine(case)?;
    let (mut log, mut arrivals, mut now) = (Log::default(), case.arrivals(), Time::ZERO);
    loop {
        take_arrivals(case, &mut arrivals, now, &mut engine);
        let arrival = arrivals.front().map(|&request| from_us(case.requests[request].arrival_us));
        let state = engine.run(now, &mut log).unwrap();
        engine.check().unwrap();
        let (end, next) = match state {
            EngineState::Busy { until } => (true, Some(until)),
            EngineState::Idle { wake } => (false, wake.into_iter().chain(arrival).min()),
        };
        // An arrival is between two passes, or in the middle of one.
        match (end, next, arrival) {
            (true, Some(until), Some(arrival)) if arrival < until => now = arrival,
            (true, Some(until), _) => {
                now = until;
                engine.end_iteration(now, &mut log);
            }
            (_, Some(next), _) => now = next.max(now),
            (_, None, _) => break,
        }
    }
    compare(case, &log.ended, &engine)
}

fn take_arrivals(case: &Recording, arrivals: &mut VecDeque<usize>, now: Time, engine: &mut Engine) {
    while let Some(&index) = arrivals.front()
        && from_us(case.requests[index].arrival_us) <= now
    {
        arrivals.pop_front();
        let request = EngineRequest {
            priority: case.requests[index].priority.unwrap_or(0),
            tie_break: case.tie_break(index),
            dp_rank: Some(case.requests[index].rank),
            ..case.request(index)
        };
        engine.submit(request).unwrap();
    }
}

/// Compares what ranks computed with what was recorded, and what became of requests.
fn compare(case: &Recording, ended: &[Iteration], engine: &Engine) -> Result<(), String> {
    let steps = case.expected["steps"].as_array().unwrap();
    let ranks = case.expected["config"]["data_parallel_size"].as_u64().unwrap();
    for rank in 0..ranks {
        let place = rank as usize;
        let recorded = steps.iter().enumerate().filter_map(|(number, step)| {
            let this = &step["ranks"][place];
            // A rank may take the results of a pass later than it ended.
            let mut later = steps[number..].iter().map(|step| &step["ranks"][place]);
            let taken = later.find(|rank| rank["processed"] == number);
            let taken = taken.and_then(|rank| rank["t_schedule_us"].as_u64());
            (this["kind"] == "real").then(|| computed(step, this, taken.unwrap_or(0)))
        });
        let recorded: Vec<Value> = recorded.collect();
        let of_rank = ended.iter().filter(|each| u64::from(each.dp_rank) == rank);
        let found: Vec<Value> =
            of_rank.filter(|each| !each.scheduled.is_empty()).map(|each| described(case, each)).collect();
        for (number, (recorded, found)) in recorded.iter().zip(&found).enumerate() {
            if recorded != found {
                return Err(format!("rank {rank}, pass {number} is {found}, recorded {recorded}"));
            }
        }
        if recorded.len() != found.len() {
            return Err(format!("rank {rank} computes {} times, recorded {}", found.len(), recorded.len()));
        }
    }
    let dummies = case.expected["totals"]["dummies"].as_u64().unwrap();
    if engine.num_dummies() != dummies {
        return Err(format!("{} dummies, recorded {dummies}", engine.num_dummies()));
    }
    requests(case, ended)
}

/// What was recorded of a rank in a pass that it computed something in, whose results it took at a certain time.
fn computed(step: &Value, rank: &Value, taken_us: u64) -> Value {
    json!({
        "t_schedule_us": rank["t_schedule_us"], "t_start_us": step["t_start_us"],
        "t_end_us": step["t_end_us"].as_u64().map(|end| end.max(taken_us)),
        "scheduled": rank["scheduled"], "preempted": rank["preempted"],
        "num_running": rank["num_running"], "num_waiting": rank["num_waiting"],
    })
}

fn described(case: &Recording, iteration: &Iteration) -> Value {
    let scheduled = iteration.scheduled.iter();
    json!({
        "t_schedule_us": us(iteration.scheduled_at), "t_start_us": us(iteration.start), "t_end_us": us(iteration.end),
        "scheduled": scheduled.map(|each| json!([case.name(each.id), each.tokens, each.computed])).collect::<Value>(),
        "preempted": case.names(&iteration.preempted),
        "num_running": iteration.num_running, "num_waiting": iteration.num_waiting,
    })
}

fn requests(case: &Recording, ended: &[Iteration]) -> Result<(), String> {
    for (index, request) in case.requests.iter().enumerate() {
        let is_it = |id: RequestId| id.index() == index;
        let scheduled = ended.iter().find(|each| each.scheduled.iter().any(|scheduled| is_it(scheduled.id)));
        let mut emitted = ended.iter().filter(|each| each.emitted.iter().any(|emitted| is_it(emitted.id)));
        let tokens = ended.iter().flat_map(|each| &each.emitted).filter(|emitted| is_it(emitted.id));
        let tokens: u32 = tokens.map(|emitted| emitted.tokens).sum();
        let finish = ended.iter().find(|each| each.finished.iter().any(|finished| is_it(finished.id)));
        let found = json!({
            "rank": request.rank,
            "arrival_us": request.arrival_us,
            "first_scheduled_us": scheduled.map(|each| us(each.scheduled_at)),
            "first_token_us": emitted.next().map(|each| us(each.end)),
            "finish_us": finish.map(|each| us(each.end)),
            "output_tokens": tokens,
            "preemptions": ended.iter().filter(|each| each.preempted.iter().any(|&id| is_it(id))).count(),
        });
        let recorded = &case.expected["requests"][&request.id];
        if *recorded != found {
            return Err(format!("request {} is {found}, recorded {recorded}", request.id));
        }
    }
    Ok(())
}
