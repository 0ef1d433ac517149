//! SGLang's own hand-over: a decode worker reserves memory first, then the prompt is computed and its KV moves.

use serde_json::{Value, json};
use servecast_cluster::{
    Arrival, Cluster, LoadMode, PoolEngine, Replay, SimulationOptions, Source, Topology, VirtualClock, drive,
};
use servecast_engine::EngineArgs;
use servecast_latency::Host;
use servecast_record::{RequestStatus, RunRecord, StageRecord};
use servecast_types::{Duration, RequestId, Time};
use servecast_workload::{Load, TraceRow, Workload};

/// Passes of 1 ms and 10 µs a token; KV of 1,000 bytes a token moves at 0.1 GB/s, 10 µs a token.
fn engine(own: &Value) -> EngineArgs {
    EngineArgs::from_json(json!({
        "engine_type": "sglang", "latency": "linear:1000,10,0", "sglang": own,
    }))
    .unwrap()
}

fn topology(prefill: &Value, decode: &Value) -> Topology {
    let mut prefill = engine(prefill);
    prefill.kv_bytes_per_token = Some(1_000);
    prefill.kv_transfer_bandwidth = Some(0.1);
    let decode = engine(decode);
    let configs = [&prefill, &decode].map(|args| args.validate(None).unwrap());
    let pool = |args, config| PoolEngine { workers: 1, args, config };
    Topology::disaggregated(pool(&prefill, &configs[0]), pool(&decode, &configs[1])).unwrap()
}

/// Prompts and outputs of so many tokens, all sent at 0.
fn replay(requests: &[(u64, u64)]) -> Replay {
    let row = |(line, &(input, output)): (u64, &(u64, u64))| TraceRow {
        line,
        timestamp_ms: Some(0.0),
        input_length: Some(input),
        output_length: output,
        hash_ids: vec![line],
        ..TraceRow::default()
    };
    let rows: Vec<TraceRow> = (1..).zip(requests).map(row).collect();
    let workload = Workload::from_rows(&rows, 512, Load::Open { arrival_speedup_ratio: 1.0 }).unwrap();
    Replay::new(workload, LoadMode::OpenLoop, Host::NONE).unwrap()
}

fn run(topology: &Topology, source: &mut impl Source) -> RunRecord {
    let options = SimulationOptions { check: true, ..SimulationOptions::default() };
    let mut cluster = Cluster::new(topology, &options);
    let end = drive(&mut cluster, source, &mut VirtualClock, &mut ()).unwrap();
    cluster.finish(end).unwrap()
}

fn us(time: Option<Time>) -> Option<u64> {
    time.map(|time| time.as_ns() / 1_000)
}

fn stages(record: &RunRecord, number: usize) -> [&StageRecord; 2] {
    let [prompt, output] = &record.requests[number].stages[..] else { panic!("two stages") };
    [prompt, output]
}

const PREFILL: &str = "disaggregation_bootstrap_us";

/// The decode worker knows its prefill worker at 300, which learns of the memory at 500 and computes 100 tokens until 2,500.
#[test]
fn memory_comes_first_then_the_prompt_then_its_kv() {
    let prefill = json!({"disaggregation_mode": "prefill", PREFILL: 200});
    let decode = json!({"disaggregation_mode": "decode", "disaggregation_handshake_us": 300});
    let record = run(&topology(&prefill, &decode), &mut replay(&[(100, 3)]));
    let [prompt, output] = stages(&record, 0);
    assert_eq!((us(output.reserved), us(prompt.admitted)), (Some(300), Some(500)));
    assert_eq!(us(prompt.last_token), Some(2_500));
    assert_eq!((us(output.transfer_start), us(output.transfer_end)), (Some(2_500), Some(3_500)));
    let request = &record.requests[0];
    // Its first token came with the KV; then two decode passes.
    let tokens = [request.first_token, request.second_token, request.last_token];
    assert_eq!(tokens.map(us), [Some(3_500), Some(4_510), Some(5_520)]);
    let parts = record.ttft_breakdown(0).unwrap();
    let in_us = [parts.decode_wait, parts.engine_queue, parts.prefill_compute, parts.kv_transfer];
    assert_eq!(in_us.map(|part| part.as_ns() / 1_000), [300, 200, 2_000, 1_000]);
}

/// Two chunks of 50 tokens: until 1,500 and 3,000. The first one moves beside the second pass, or where decisions are made
/// ahead, from the end of its own pass.
#[test]
fn the_kv_of_a_chunk_moves_while_the_next_one_is_computed() {
    let decode = json!({"disaggregation_mode": "decode"});
    for (serial, chunk, end) in [(true, 50, 3_500), (false, 50, 3_500), (true, 100, 3_000)] {
        let prefill = json!({
            "disaggregation_mode": "prefill", "chunked_prefill_size": chunk, "disable_overlap_schedule": serial,
        });
        let record = run(&topology(&prefill, &decode), &mut replay(&[(100, 1)]));
        assert_eq!(us(record.requests[0].last_token), Some(end), "chunks of {chunk}, serial: {serial}");
    }
}

/// 160 tokens of memory, 40 of them in reserve for each request: 60 + 40 fit, then 67 + 40 do not until the first one has
/// ended, although the prefill worker is idle.
#[test]
fn a_prompt_waits_for_memory_on_the_decode_worker() {
    let prefill = json!({"disaggregation_mode": "prefill"});
    let decode = json!({
        "disaggregation_mode": "decode", "max_total_tokens": 160, "num_reserved_decode_tokens": 40,
    });
    let record = run(&topology(&prefill, &decode), &mut replay(&[(60, 5), (67, 1)]));
    let ([first, _], [second, output]) = (stages(&record, 0), stages(&record, 1));
    assert_eq!((us(first.admitted), us(first.last_token)), (Some(0), Some(1_600)));
    // 600 µs for its KV and four decodes of 1,010 each.
    assert_eq!(us(record.requests[0].last_token), Some(6_240));
    assert_eq!((us(output.reserved), us(second.admitted)), (Some(6_240), Some(6_240)));
    let parts = record.ttft_breakdown(1).unwrap();
    assert_eq!((parts.decode_wait.as_ns(), parts.engine_queue.as_ns()), (6_240_000, 0));
}

/// Takes a request back at a time.
struct TakesBack {
    replay: Replay,
    request: RequestId,
    at: Option<Time>,
}

impl Source for TakesBack {
    fn next(&self) -> Option<Time> {
        self.replay.next().into_iter().chain(self.at).min()
    }

    fn pop_due(&mut self, now: Time) -> Option<Arrival> {
        self.replay.pop_due(now)
    }

    fn arrived(&mut self, id: RequestId) {
        self.replay.arrived(id);
    }

    fn ended(&mut self, id: RequestId, status: RequestStatus, at: Time) {
        self.replay.ended(id, status, at);
    }

    fn pop_withdrawn(&mut self, now: Time) -> Option<RequestId> {
        self.at.take_if(|at| *at <= now).map(|_| self.request)
    }
}

/// Wherever it is, nothing of it is left on either worker: the one behind it has all of the memory.
#[test]
fn what_is_taken_back_leaves_both_workers() {
    let prefill = json!({"disaggregation_mode": "prefill", "chunked_prefill_size": 20});
    let decode = json!({
        "disaggregation_mode": "decode", "max_total_tokens": 110, "num_reserved_decode_tokens": 0,
        "disaggregation_handshake_us": 100,
    });
    // Just come, waiting, being computed, on its way, decoding.
    for at in [0, 50, 1_000, 5_000, 6_100, 8_000] {
        let at = Some(Time::ZERO + Duration::from_ns(at * 1_000));
        let mut source = TakesBack { replay: replay(&[(100, 4), (100, 2)]), request: RequestId(0), at };
        let record = run(&topology(&prefill, &decode), &mut source);
        let [first, second] = &record.requests[..] else { panic!("two requests") };
        assert_eq!(first.status, RequestStatus::Withdrawn, "{at:?}");
        assert!(second.is_finished() && second.output_tokens == 2, "{at:?}");
    }
}

#[test]
fn one_side_alone_is_refused() {
    let refused = |prefill: &Value, decode: &Value| {
        let (prefill, decode) = (engine(prefill), engine(decode));
        let configs = [&prefill, &decode].map(|args| args.validate(None).unwrap());
        let pool = |args, config| PoolEngine { workers: 1, args, config };
        let topology = Topology::disaggregated(pool(&prefill, &configs[0]), pool(&decode, &configs[1]));
        topology.unwrap_err().to_string()
    };
    let mode = |mode: &str| json!({"disaggregation_mode": mode});
    assert_eq!(
        refused(&mode("prefill"), &mode("null")),
        "`sglang.disaggregation_mode` is set for workers of the prefill pool, but not for all of the decode pool: SGLang's own \
         queues need both, so set it to prefill and decode, or to null everywhere"
    );
    assert_eq!(
        refused(&mode("decode"), &mode("decode")),
        "the prefill engine has `sglang.disaggregation_mode` decode: make it prefill, or leave it out"
    );
    let args = engine(&mode("decode"));
    let config = args.validate(None).unwrap();
    let alone = Topology::aggregated(PoolEngine { workers: 1, args: &args, config: &config }).unwrap_err();
    let message = alone.to_string();
    assert!(
        message.starts_with("`sglang.disaggregation_mode` is decode, but there are no prefill"),
        "{message}"
    );
}
