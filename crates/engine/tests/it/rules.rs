//! Small schedules that can be worked out by hand, one for each rule that is easily got wrong.

use serde_json::{Value, json};
use servecast_engine::{
    Begun, Decodes, Engine, EngineArgs, EngineConfig, EngineRequest, EngineState, EngineTracing, Fetch,
    Finished, Grammar, Iteration, IterationSink, Joined, LastIteration, Links,
};
use servecast_types::{Prompt, RequestId, Run, Time};

use crate::expand::Expander;

/// Every iteration takes a millisecond.
const MS: u64 = 1_000_000;

/// Iterations as `request:tokens@computed before`, with `!` for a preemption.
#[derive(Default)]
struct Schedule(Vec<String>);

impl Links for Schedule {
    fn begin(&mut self, _: Fetch, now: Time) -> Begun {
        Begun::At(now)
    }
}

impl IterationSink for Schedule {
    fn joined(&mut self, joined: Joined, _: Time) {
        self.0.push(format!(
            "{} {}",
            joined.id,
            if joined.is_finished { "joined and ended" } else { "joined" }
        ));
    }

    fn iteration_ended(&mut self, iteration: &Iteration) {
        let preempted = iteration.preempted.iter().map(|id| format!("{id}!"));
        let scheduled = iteration.scheduled.iter();
        let scheduled = scheduled.map(|each| format!("{}:{}@{}", each.id, each.tokens, each.computed));
        let given_up = iteration.rejected.iter().map(|(id, _)| format!("{id}x"));
        self.0.push(preempted.chain(given_up).chain(scheduled).collect::<Vec<_>>().join(" "));
    }
}

/// Serves requests given as first prompt token, prompt length, output length and arrival in milliseconds.
#[track_caller]
pub(crate) fn check(changes: &Value, requests: &[Numbers], expected: &[&str]) {
    check_requests(changes, &numbered(requests), expected);
}

/// A request: first prompt token, prompt length, output length and arrival in milliseconds.
pub(crate) type Numbers = (u32, u32, u32, u64);

pub(crate) fn numbered(requests: &[Numbers]) -> Vec<EngineRequest> {
    let request = |(index, &(first, prompt, max_tokens, at)): (usize, &Numbers)| {
        let prompt = Prompt::new([Run::tokens(first, prompt)]);
        EngineRequest::new(RequestId(index as u32), prompt, max_tokens, Time::from_ns(at * MS))
    };
    requests.iter().enumerate().map(request).collect()
}

#[track_caller]
pub(crate) fn check_requests(changes: &Value, requests: &[EngineRequest], expected: &[&str]) {
    let mut settings = json!({"block_size": 4, "latency": "linear:1000,0,0"});
    settings.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    let args = EngineArgs::from_json(settings).unwrap();
    check_engine(&args, &args.validate(None).unwrap(), requests, expected);
}

/// The same on an engine with these settings, however it decides.
#[track_caller]
pub(crate) fn check_engine(
    args: &EngineArgs,
    config: &EngineConfig,
    requests: &[EngineRequest],
    expected: &[&str],
) {
    for stretches in [false, true] {
        let tracing = EngineTracing { stretches, ..EngineTracing::default() };
        let mut schedule = Expander::new(Schedule::default(), args);
        for request in requests {
            schedule.submitted(request.id, request.prompt.tokens());
        }
        serve(&mut Engine::new(config.clone(), tracing), requests.to_vec(), &mut schedule);
        schedule.flush();
        assert_eq!(schedule.sink.0, expected, "decodes together: {stretches}");
    }
}

/// Serves requests, in order of arrival, to their ends.
pub(crate) fn serve(engine: &mut Engine, requests: Vec<EngineRequest>, sink: &mut impl IterationSink) {
    let (mut now, mut requests) = (Time::ZERO, requests.into_iter().peekable());
    loop {
        while let Some(request) = requests.next_if(|request| request.arrival <= now) {
            engine.submit(request).unwrap();
        }
        let EngineState::Busy { until } = engine.run(now, sink).unwrap() else { break };
        now = until;
        engine.end_iteration(now, sink);
        engine.check().unwrap();
    }
}

#[test]
fn decodes_come_before_prompts_and_prompts_fill_the_budget() {
    let requests = [(0, 6, 3, 0), (100, 6, 1, 0)];
    check(&json!({"max_num_batched_tokens": 8}), &requests, &["0:6@0 1:2@0", "0:1@6 1:4@2", "0:1@7"]);
}

/// What an engine tells of that takes decodes together: `+n` for n requests that decoded besides, or only decoded.
#[derive(Default)]
struct Together(Vec<String>);

impl Links for Together {
    fn begin(&mut self, _: Fetch, now: Time) -> Begun {
        Begun::At(now)
    }
}

impl IterationSink for Together {
    fn joined(&mut self, joined: Joined, _: Time) {
        self.0.push(format!("{} joined", joined.id));
    }

    fn iteration_ended(&mut self, iteration: &Iteration) {
        let scheduled = iteration.scheduled.iter();
        let scheduled = scheduled.map(|each| format!("{}:{}@{}", each.id, each.tokens, each.computed));
        let decoded = (iteration.decoded > 0).then(|| format!("+{}", iteration.decoded));
        self.0.push(decoded.into_iter().chain(scheduled).collect::<Vec<_>>().join(" "));
    }

    fn decoded(&mut self, decodes: &Decodes) {
        self.0.extend(decodes.ends.iter().map(|_| format!("+{}", decodes.requests)));
    }

    fn finished_decoding(&mut self, finished: Finished, end: Time, _: LastIteration) {
        self.0.push(format!("{} has {} tokens at {}", finished.id, finished.output_tokens, end.as_ns() / MS));
    }

    fn caught_up(&mut self, request: RequestId, output_tokens: u32, last_token: Time) {
        self.0.push(format!("{request} had {output_tokens} tokens at {}", last_token.as_ns() / MS));
    }
}

#[test]
fn decodes_go_on_together_beside_a_prompt_and_are_told_of_one_by_one_when_blocks_run_out() {
    let settings = json!({
        "block_size": 4, "latency": "linear:1000,0,0", "max_num_batched_tokens": 8, "num_gpu_blocks": 6,
        "reserve_null_block": false, "enable_prefix_caching": false, "scheduler_reserve_full_isl": false,
    });
    let one_by_one = [
        "0:4@0",
        "0:1@4",
        "0:1@5",
        "0:1@6 1:7@0",
        "0:1@7 1:5@7",
        "1! 0:1@8",
        "0:1@9 1:7@0",
        "1! 0:1@10",
        "0:1@11 1:7@0",
        "1:6@7",
        "1:1@13",
    ];
    check(&settings, &[(0, 4, 9, 0), (100, 12, 3, 3)], &one_by_one);
    let config = EngineArgs::from_json(settings).unwrap().validate(None).unwrap();
    let mut engine = Engine::new(config, EngineTracing { stretches: true, ..EngineTracing::default() });
    let mut told = Together::default();
    serve(&mut engine, numbered(&[(0, 4, 9, 0), (100, 12, 3, 3)]), &mut told);
    let together = [
        "0:4@0",
        "0:1@4",
        "+1",
        "+1 1:7@0",
        "+1 1:5@7",
        "0 had 5 tokens at 5",
        "0:1@8",
        "+1 1:7@0",
        "0 had 7 tokens at 7",
        "0:1@10",
        "0 has 9 tokens at 9",
        "+1 1:7@0",
        "1:6@7",
        "+1",
        "1 has 3 tokens at 11",
    ];
    assert_eq!(told.0, together);
}

/// The fourth token of request 1 is out when the iteration after it is in flight, which computes one more in vain. That of
/// request 0 that is its last one is foreseen, so that nothing is decided for it beside that.
#[test]
fn one_iteration_ahead_who_stops_by_itself_computes_once_in_vain() {
    let settings = json!({"block_size": 4, "latency": "linear:1000,0,0", "async_scheduling": true});
    let config = EngineArgs::from_json(settings.clone()).unwrap().validate(None).unwrap();
    let mut requests = numbered(&[(0, 4, 6, 0), (100, 4, 10, 0)]);
    requests[1].stop_after = Some(4);
    let one_by_one = ["0:4@0 1:4@0", "0:1@4 1:1@4", "0:1@5 1:1@5", "0:1@6 1:1@6", "0:1@7 1:1@7", "0:1@8"];
    check_requests(&settings, &requests, &one_by_one);
    let mut engine = Engine::new(config, EngineTracing { stretches: true, ..EngineTracing::default() });
    let mut told = Together::default();
    serve(&mut engine, requests, &mut told);
    let together = [
        "0:4@0 1:4@0",
        "0:1@4 1:1@4",
        "+2",
        "+2",
        "1 has 4 tokens at 4",
        "+1 1:1@7",
        "+1",
        "0 has 6 tokens at 6",
    ];
    assert_eq!(told.0, together);
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

/// Request 1 waits for the adapter's place that request 0 has. That it waits does not end the interval, so that request 2 is
/// held back.
#[test]
fn an_interval_goes_on_while_only_those_wait_who_are_passed_over() {
    let settings = json!({"prefill_schedule_interval": 3, "enable_lora": true, "max_loras": 1});
    let mut requests = numbered(&[(0, 4, 6, 0), (100, 4, 1, 0), (200, 4, 1, 1)]);
    (requests[0].lora, requests[1].lora) = (Some(1), Some(2));
    let expected = ["0:4@0", "0:1@4", "0:1@5", "0:1@6 2:4@0", "0:1@7", "0:1@8", "1:4@0"];
    check_requests(&settings, &requests, &expected);
}

/// Requests 0 and 2 have the same grammar, which is compiled in 2.5 ms, once, and request 3 has another one; who has none passes
/// them, and each keeps its place.
#[test]
fn equal_grammars_are_compiled_once_and_keep_only_their_requests_waiting() {
    let settings = json!({"grammar_compile_ms": 2.5, "max_num_batched_tokens": 5});
    let mut requests =
        numbered(&[(0, 4, 1, 0), (100, 4, 4, 0), (200, 4, 1, 1), (300, 4, 1, 1), (400, 4, 1, 2)]);
    for (request, number) in [(0, 7), (2, 7), (3, 9)] {
        let submitted = requests[request].arrival;
        requests[request].grammar = Some(Grammar { number, submitted });
    }
    let expected = ["1:4@0", "1:1@4", "1:1@5 4:4@0", "1:1@6 0:4@0", "2:4@0 3:1@0", "3:3@1"];
    check_requests(&settings, &requests, &expected);
    let none = json!({"max_num_batched_tokens": 5});
    let expected = ["0:4@0 1:1@0", "1:3@1 2:2@0", "1:1@4 2:2@2 3:2@0", "1:1@5 3:2@2 4:2@0", "1:1@6 4:2@2"];
    check_requests(&none, &requests, &expected);
}

/// The first prompts are not held back, and a single prompt token is none.
#[test]
fn an_interval_holds_nothing_back_before_the_first_prompts() {
    let expected = ["0:1@0", "0:1@1 1:4@0", "0:1@2", "0:1@3"];
    check(&json!({"prefill_schedule_interval": 3}), &[(0, 1, 4, 0), (100, 4, 1, 1)], &expected);
}

/// Only an iteration that could look at the queue ends the holding back.
#[test]
fn an_interval_still_holds_after_an_iteration_that_preempted() {
    let settings = json!({
        "prefill_schedule_interval": 3, "long_prefill_token_threshold": 2, "scheduler_reserve_full_isl": false,
        "num_gpu_blocks": 4, "reserve_null_block": false, "enable_prefix_caching": false,
    });
    let expected = [
        "0:2@0 1:2@0 2:2@0",
        "0:1@2 2:1@2",
        "0:1@3 2:1@3",
        "2! 0:1@4 1:2@2",
        "0:1@5",
        "0:1@6",
        "0:1@7 1:2@4",
        "2:5@0",
    ];
    check(&settings, &[(0, 2, 7, 0), (100, 6, 1, 0), (200, 2, 4, 0)], &expected);
}

/// Request 0 gets no more tokens, since its last one is in flight.
#[test]
fn nobody_is_skipped_when_a_request_that_was_passed_over_is_preempted() {
    let settings = json!({
        "async_scheduling": true, "scheduling_policy": "priority", "num_gpu_blocks": 6, "reserve_null_block": false,
    });
    let expected = ["0:7@0 1:8@0 2:7@0", "0! 1:1@8 2:1@7"];
    check(&settings, &[(0, 7, 1, 0), (100, 8, 2, 0), (200, 7, 2, 0)], &expected);
}

/// The transfer takes no time. It starts while iteration 1 is about to run, but iteration 2 is the first to notice it.
#[test]
fn an_iteration_that_was_decided_before_a_transfer_began_does_not_notice_its_end() {
    let request = |id, max_tokens, arrival| {
        let prompt = Prompt::new([Run::tokens(id * 100, 4)]);
        EngineRequest::new(RequestId(id), prompt, max_tokens, Time::from_ns(arrival))
    };
    let requests = vec![request(0, 6, 0), EngineRequest { remote_prefill: true, ..request(1, 1, MS) }];
    let expected = ["0:4@0", "0:1@4", "0:1@5", "0:1@6", "0:1@7 1:1@3", "0:1@8"];
    check_requests(&json!({"async_scheduling": true, "kv_role": "kv_consumer"}), &requests, &expected);
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

/// Both grow until request 0 lacks a block: request 1, which was started last, loses its blocks, of which request 0 takes the
/// one that was used last; when it comes back, it hits the other one.
#[test]
fn tensorrt_llm_pauses_whom_it_started_last_if_it_is_to_use_all_memory() {
    let settings = json!({
        "engine_type": "trtllm", "num_gpu_blocks": 4, "trtllm": {"capacity_scheduler_policy": "max_utilization"},
    });
    let expected =
        ["0:4@0 1:4@0", "0:1@4 1:1@4", "0:1@5 1:1@5", "0:1@6 1:1@6", "0:1@7 1:1@7", "1! 0:1@8", "1:5@4"];
    check(&settings, &[(0, 4, 6, 0), (100, 4, 6, 0)], &expected);
}

/// The KV of both prompts arrives while two of three blocks are left: the second one waits for that of its first token.
#[test]
fn tensorrt_llm_takes_the_place_of_the_token_that_comes_with_a_prompt() {
    let settings = json!({
        "engine_type": "trtllm", "num_gpu_blocks": 3, "trtllm": {"capacity_scheduler_policy": "max_utilization"},
    });
    let expected = ["0 joined", "0:1@4", "0:1@5", "1 joined", "1:1@4", "1:1@5"];
    check_requests(&settings, &handed_over(&[((0, 4, 3, 0), None), ((100, 4, 3, 0), None)]), &expected);
}

#[test]
fn tensorrt_llm_waits_for_the_end_of_a_static_batch() {
    let settings = json!({"engine_type": "trtllm", "trtllm": {"capacity_scheduler_policy": "static_batch"}});
    let requests = [(0, 4, 3, 0), (100, 4, 1, 0), (200, 4, 1, 1), (300, 4, 2, 1)];
    let expected = ["0:4@0 1:4@0", "0:1@4", "0:1@5", "2:4@0 3:4@0", "3:1@4"];
    check(&settings, &requests, &expected);
}

#[test]
fn tensorrt_llm_hits_a_whole_prompt() {
    check(&json!({"engine_type": "trtllm"}), &[(0, 8, 1, 0), (0, 8, 1, 1)], &["0:8@0", "1:1@7"]);
}

#[test]
fn tensorrt_llm_puts_a_prompt_off_whose_next_block_another_one_computes() {
    let requests = [(0, 8, 2, 0), (0, 8, 2, 0), (100, 4, 1, 0), (0, 5, 1, 0)];
    let expected = ["0:8@0 2:4@0", "0:1@8 1:1@7 3:1@4", "1:1@8"];
    check(&json!({"engine_type": "trtllm"}), &requests, &expected);
    // As long as its chunks take, under either policy.
    for policy in ["fcfs", "priority"] {
        let settings = json!({
            "engine_type": "trtllm", "max_num_batched_tokens": 6, "scheduling_policy": policy, "async_scheduling": false,
        });
        let expected = ["0:6@0", "0:2@6 2:4@0", "0:1@8 1:1@7 3:1@4", "1:1@8"];
        check(&settings, &requests, &expected);
    }
}

/// Requests whose prompt comes from elsewhere, as in [`check`], with the length of their output at which they stop.
pub(crate) fn handed_over(requests: &[(Numbers, Option<u32>)]) -> Vec<EngineRequest> {
    let plain = numbered(&requests.iter().map(|(numbers, _)| *numbers).collect::<Vec<_>>());
    let remote = |(request, (_, stop_after)): (EngineRequest, &(Numbers, Option<u32>))| EngineRequest {
        remote_prefill: true,
        stop_after: *stop_after,
        ..request
    };
    plain.into_iter().zip(requests).map(remote).collect()
}

#[test]
fn the_first_token_comes_with_the_kv_of_a_prompt() {
    let requests =
        [((0, 8, 3, 0), None), ((100, 6, 1, 0), None), ((200, 6, 9, 0), Some(1)), ((300, 6, 9, 0), Some(2))];
    let expected =
        ["0 joined", "1 joined and ended", "2 joined and ended", "3 joined", "0:1@8 3:1@6", "0:1@9"];
    for asynchronous in [false, true] {
        let engines = [
            json!({"engine_type": "trtllm", "async_scheduling": asynchronous}),
            json!({"engine_type": "sglang", "sglang": {"disable_overlap_schedule": !asynchronous}}),
        ];
        for settings in engines {
            // A stop that nobody foresees is noticed an iteration late where that is decided before.
            let late: &[&str] = if asynchronous { &["0:1@9 3:1@7"] } else { &expected[5..] };
            let expected = [&expected[..5], late].concat();
            check_requests(&settings, &handed_over(&requests), &expected);
        }
    }
}

#[test]
fn vllm_computes_the_last_token_of_a_prompt_that_comes_from_elsewhere() {
    check_requests(&json!({}), &handed_over(&[((0, 8, 2, 0), None)]), &["0:1@7", "0:1@8"]);
}
