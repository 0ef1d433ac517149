//! Waiting queues in the order of a program: small schedules that can be worked out by hand.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use servecast_engine::{EngineArgs, EngineRequest, Order, WaitingRequest};
use servecast_types::{RequestId, Time};

use crate::rules::{check_engine, check_requests, numbered};

/// Short prompts first.
#[derive(Debug)]
struct Shortest;

impl Order for Shortest {
    fn key(&self, request: &WaitingRequest, _: Time) -> f64 {
        f64::from(request.prompt_tokens)
    }

    fn is_fixed(&self) -> bool {
        true
    }
}

/// The same, which does not say that its keys stay as they are.
#[derive(Debug)]
struct ShortestAnew;

impl Order for ShortestAnew {
    fn key(&self, request: &WaitingRequest, now: Time) -> f64 {
        Shortest.key(request, now)
    }
}

/// A millisecond of waiting makes a prompt as good as one that is a token shorter.
#[derive(Debug)]
struct Aging;

impl Order for Aging {
    fn key(&self, request: &WaitingRequest, now: Time) -> f64 {
        f64::from(request.prompt_tokens) - now.since(request.arrival).as_ms()
    }
}

fn shortest() -> [Arc<dyn Order>; 2] {
    [Arc::new(Shortest), Arc::new(ShortestAnew)]
}

/// Serves requests in an order; every iteration takes a millisecond.
#[track_caller]
fn check(changes: &Value, order: &Arc<dyn Order>, requests: &[EngineRequest], expected: &[&str]) {
    let mut settings = json!({"block_size": 4, "latency": "linear:1000,0,0"});
    settings.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
    let args = EngineArgs::from_json(settings).unwrap();
    let config = args.validate(None).unwrap().with_order(Arc::clone(order));
    check_engine(&args, &config, requests, expected);
}

/// Engines that serve one request at a time, and decide an iteration when the one before has ended.
fn one_at_a_time() -> [Value; 4] {
    let own = |policy: &str| json!({"disable_overlap_schedule": true, "schedule_policy": policy});
    [
        json!({"max_num_seqs": 1}),
        json!({"max_num_seqs": 1, "engine_type": "trtllm"}),
        json!({"max_num_seqs": 1, "engine_type": "sglang", "sglang": own("fcfs")}),
        json!({"max_num_seqs": 1, "engine_type": "sglang", "sglang": own("lpm")}),
    ]
}

#[test]
fn the_lowest_key_goes_first_and_of_equals_the_one_that_came_first() {
    // Request 4 comes while 2 is served.
    let requests = numbered(&[(0, 6, 2, 0), (100, 9, 1, 0), (200, 4, 1, 0), (300, 4, 1, 0), (400, 3, 1, 1)]);
    let expected = ["2:4@0", "4:3@0", "3:4@0", "0:6@0", "0:1@6", "1:9@0"];
    for settings in one_at_a_time() {
        for order in shortest() {
            check(&settings, &order, &requests, &expected);
        }
    }
}

/// At 5 ms request 1 has waited for 5 ms, and 2 for one.
#[test]
fn an_order_that_changes_goes_by_the_time_of_the_decision() {
    let requests = numbered(&[(0, 5, 5, 0), (100, 20, 1, 0), (200, 18, 1, 4)]);
    let first = ["0:5@0", "0:1@5", "0:1@6", "0:1@7", "0:1@8"];
    for settings in one_at_a_time() {
        let aged = [&first[..], &["1:20@0", "2:18@0"]].concat();
        check(&settings, &(Arc::new(Aging) as Arc<dyn Order>), &requests, &aged);
        let by_length = [&first[..], &["2:18@0", "1:20@0"]].concat();
        for order in shortest() {
            check(&settings, &order, &requests, &by_length);
        }
    }
}

/// Request 1 is preempted when 0 needs a fourth block. Six blocks have no room for all of it beside 0; by vLLM's own order
/// request 2 waits behind it.
#[test]
fn who_was_preempted_goes_back_by_its_key() {
    let settings = json!({"num_gpu_blocks": 6, "reserve_null_block": false, "enable_prefix_caching": false});
    let requests = numbered(&[(0, 8, 9, 0), (100, 8, 9, 0), (200, 4, 1, 3)]);
    let expected = [
        "0:8@0 1:8@0",
        "0:1@8 1:1@8",
        "0:1@9 1:1@9",
        "0:1@10 1:1@10",
        "0:1@11 1:1@11",
        "1! 0:1@12",
        "0:1@13 2:4@0",
        "0:1@14",
        "0:1@15",
        "1:13@0",
        "1:1@13",
        "1:1@14",
        "1:1@15",
    ];
    for order in shortest() {
        check(&settings, &order, &requests, &expected);
    }
    let mut own = expected;
    (own[6], own[9]) = ("0:1@13", "1:13@0 2:4@0");
    check_requests(&settings, &requests, &own);
}

/// Keys that it gave, and what it was asked with.
#[derive(Debug, Default)]
struct Noted {
    is_fixed: bool,
    asked: Mutex<Vec<(WaitingRequest, Time)>>,
}

impl Order for Noted {
    fn key(&self, request: &WaitingRequest, now: Time) -> f64 {
        self.asked.lock().unwrap().push((*request, now));
        f64::NAN
    }

    fn is_fixed(&self) -> bool {
        self.is_fixed
    }
}

#[test]
fn an_order_knows_what_a_scheduler_may_know() {
    let requests = numbered(&[(0, 8, 9, 0), (100, 8, 9, 0)]);
    let requests: Vec<EngineRequest> = requests
        .into_iter()
        .map(|request| EngineRequest { priority: 3, routing_key: Some(7), stop_after: Some(8), ..request })
        .collect();
    let settings = json!({"num_gpu_blocks": 6, "reserve_null_block": false, "enable_prefix_caching": false});
    let served = [
        "0:8@0 1:8@0",
        "0:1@8 1:1@8",
        "0:1@9 1:1@9",
        "0:1@10 1:1@10",
        "0:1@11 1:1@11",
        "1! 0:1@12",
        "0:1@13",
        "0:1@14",
        "1:13@0",
        "1:1@13",
        "1:1@14",
    ];
    for is_fixed in [true, false] {
        let order = Arc::new(Noted { is_fixed, ..Noted::default() });
        check(&settings, &(Arc::clone(&order) as Arc<dyn Order>), &requests, &served);
        let asked = order.asked.lock().unwrap();
        let (first, at) = asked[0];
        assert_eq!((first.id, first.arrival, at), (RequestId(0), Time::ZERO, Time::ZERO));
        assert_eq!((first.prompt_tokens, first.max_tokens), (8, 9), "not where it stops");
        assert_eq!((first.priority, first.session, first.lora), (3, Some(7), None));
        assert_eq!((first.output_tokens, first.preemptions), (0, 0));
        let (last, at) = *asked.last().unwrap();
        if is_fixed {
            assert_eq!(asked.len(), 2 * 2, "each once, in the plain run and the other");
        } else {
            assert_eq!((last.id, last.output_tokens, last.preemptions), (RequestId(1), 5, 1));
            assert_eq!(at, Time::from_ns(8_000_000), "when it was admitted again");
        }
    }
}
