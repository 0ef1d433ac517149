//! Small schedules that can be worked out by hand, one for each rule that is easily got wrong.

use serde_json::{Value, json};
use servecast_engine::{
    Engine, EngineArgs, EngineRequest, EngineState, EngineTracing, Iteration, IterationSink, Transfer,
};
use servecast_types::{Prompt, RequestId, Run, Time};

/// Every iteration takes a millisecond.
const MS: u64 = 1_000_000;

/// Iterations as `request:tokens@computed before`, with `!` for a preemption.
#[derive(Default)]
struct Schedule(Vec<String>);

impl IterationSink for Schedule {
    fn transfer_started(&mut self, _: &Transfer, _: Time) {}

    fn iteration_ended(&mut self, iteration: &Iteration) {
        let preempted = iteration.preempted.iter().map(|id| format!("{id}!"));
        let scheduled = iteration.scheduled.iter();
        let scheduled = scheduled.map(|each| format!("{}:{}@{}", each.id, each.tokens, each.computed));
        self.0.push(preempted.chain(scheduled).collect::<Vec<_>>().join(" "));
    }
}

/// Serves requests given as first prompt token, prompt length, output length and arrival in milliseconds.
#[track_caller]
fn check(changes: &Value, requests: &[(u32, u32, u32, u64)], expected: &[&str]) {
    let mut settings = json!({"block_size": 4, "latency": "linear:1000,0,0"});
    settings.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    let config = EngineArgs::from_json(settings).unwrap().validate(None).unwrap();
    let mut engine = Engine::new(config, EngineTracing::default());
    let (mut now, mut submitted, mut schedule) = (Time::ZERO, 0, Schedule::default());
    loop {
        while let Some(&(first, prompt, max_tokens, at)) = requests.get(submitted)
            && Time::from_ns(at * MS) <= now
        {
            let id = RequestId(submitted as u32);
            let prompt = Prompt::new([Run::tokens(first, prompt)]);
            engine.submit(EngineRequest::new(id, prompt, max_tokens, now)).unwrap();
            submitted += 1;
        }
        let EngineState::Busy { until } = engine.run(now, &mut schedule).unwrap() else { break };
        now = until;
        engine.end_iteration(now, &mut schedule);
        engine.check();
    }
    assert_eq!(schedule.0, expected);
}

#[test]
fn decodes_come_before_prompts_and_prompts_fill_the_budget() {
    let requests = [(0, 6, 3, 0), (100, 6, 1, 0)];
    check(&json!({"max_num_batched_tokens": 8}), &requests, &["0:6@0 1:2@0", "0:1@6 1:4@2", "0:1@7"]);
}

#[test]
fn a_prompt_that_is_all_cached_computes_its_last_block_again() {
    check(&json!({}), &[(0, 8, 1, 0), (0, 8, 1, 1), (0, 9, 1, 2)], &["0:8@0", "1:4@4", "2:1@8"]);
}

#[test]
fn a_prompt_hits_what_another_one_computes_in_the_same_iteration() {
    check(&json!({}), &[(0, 9, 1, 0), (0, 9, 1, 0)], &["0:9@0 1:1@8"]);
}

#[test]
fn the_last_one_is_preempted_and_computes_its_own_output_again() {
    let settings = json!({"num_gpu_blocks": 4, "reserve_null_block": false, "enable_prefix_caching": false});
    let expected = ["0:7@0 1:7@0", "0:1@7 1:1@7", "1! 0:1@8", "0:1@9", "1:9@0"];
    check(&settings, &[(0, 7, 4, 0), (100, 7, 3, 0)], &expected);
}

#[test]
fn under_asynchronous_scheduling_an_arrival_misses_the_iteration_that_is_decided() {
    let expected = ["0:4@0", "0:1@4", "0:1@5 1:4@0", "0:1@6"];
    check(&json!({"async_scheduling": true}), &[(0, 4, 4, 0), (100, 4, 1, 1)], &expected[..]);
}

/// Even the last token of a prompt, which looks like a decode step, waits for an iteration with prompts.
#[test]
fn an_interval_holds_the_rest_of_a_prompt_back_while_others_decode() {
    let settings = json!({"prefill_schedule_interval": 3, "max_num_batched_tokens": 8});
    let expected = ["0:4@0", "0:1@4", "0:1@5", "0:1@6 1:7@0", "0:1@7", "0:1@8", "0:1@9 1:1@7"];
    check(&settings, &[(0, 4, 7, 0), (100, 8, 1, 2)], &expected);
}

#[test]
fn tensorrt_llm_admits_what_fits_to_completion() {
    let settings = |engine| json!({"engine_type": engine, "num_gpu_blocks": 4, "reserve_null_block": false});
    let requests = [(0, 4, 4, 0), (100, 4, 4, 0), (200, 4, 1, 0)];
    let waits = ["0:4@0 1:4@0", "0:1@4 1:1@4", "0:1@5 1:1@5", "0:1@6 1:1@6", "2:4@0"];
    check(&settings("trtllm"), &requests, &waits);
    let starts = ["0:4@0 1:4@0 2:4@0", "0:1@4 1:1@4", "0:1@5 1:1@5", "0:1@6 1:1@6"];
    check(&settings("vllm"), &requests, &starts);
}

#[test]
fn tensorrt_llm_hits_a_whole_prompt() {
    check(&json!({"engine_type": "trtllm"}), &[(0, 8, 1, 0), (0, 8, 1, 1)], &["0:8@0", "1:1@7"]);
}
