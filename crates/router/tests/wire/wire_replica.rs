use servecast_router::wire::{
    PrefillLoadHint, ReplicaEvent, ReplicaEventData, ReplicaWorker, WireError, from_json, from_msgpack,
    to_json, to_msgpack,
};
use servecast_types::{Duration, SequenceHash};

fn event(data: ReplicaEventData) -> ReplicaEvent {
    ReplicaEvent {
        request_id: "r1".into(),
        worker: ReplicaWorker { worker_id: 3, dp_rank: 1 },
        data,
        router_id: 9,
        lora_name: None,
    }
}

fn add_request(track_prefill_tokens: bool) -> ReplicaEvent {
    event(ReplicaEventData::AddRequest {
        token_sequence: Some(vec![SequenceHash(1), SequenceHash(u64::MAX)]),
        isl: 100,
        overlap: 2,
        track_prefill_tokens,
        expected_output_tokens: Some(8),
        prefill_load_hint: Some(PrefillLoadHint {
            initial_effective_prefill_tokens: 68,
            expected_prefill_duration: Some(Duration::from_ns(1_000_000_500)),
        }),
    })
}

fn minimal(track_prefill_tokens: bool) -> ReplicaEvent {
    event(ReplicaEventData::AddRequest {
        token_sequence: None,
        isl: 5,
        overlap: 0,
        track_prefill_tokens,
        expected_output_tokens: None,
        prefill_load_hint: None,
    })
}

#[test]
fn json_has_these_shapes() {
    let check = |event: &ReplicaEvent, json: &str| {
        assert_eq!(to_json(event).unwrap(), json);
        assert_eq!(&from_json::<ReplicaEvent>(json.as_bytes()).unwrap(), event);
    };
    check(
        &add_request(false),
        r#"{"request_id":"r1","worker":{"worker_id":3,"dp_rank":1},"data":{"AddRequest":{"token_sequence":[1,18446744073709551615],"isl":100,"overlap":2,"track_prefill_tokens":false,"expected_output_tokens":8,"prefill_load_hint":{"initial_effective_prefill_tokens":68,"expected_prefill_duration":{"secs":1,"nanos":500}}}},"router_id":9,"lora_name":null}"#,
    );
    check(
        &event(ReplicaEventData::MarkPrefillCompleted),
        r#"{"request_id":"r1","worker":{"worker_id":3,"dp_rank":1},"data":"MarkPrefillCompleted","router_id":9,"lora_name":null}"#,
    );
    check(
        &ReplicaEvent { lora_name: Some("a".into()), ..event(ReplicaEventData::Free) },
        r#"{"request_id":"r1","worker":{"worker_id":3,"dp_rank":1},"data":"Free","router_id":9,"lora_name":"a"}"#,
    );
}

/// A peer from before the flag: neither it nor any other field with a default is there.
#[test]
fn a_legacy_event_tracks_prefill() {
    let json = r#"{"request_id":"r1","worker":{"worker_id":3,"dp_rank":1},"data":{"AddRequest":{"token_sequence":null,"isl":5,"overlap":0}},"router_id":9}"#;
    assert_eq!(from_json::<ReplicaEvent>(json.as_bytes()).unwrap(), minimal(true));

    let msgpack = [
        &b"\x84\xaarequest_id\xa2r1\xa6worker\x82\xa9worker_id\x03\xa7dp_rank\x01"[..],
        b"\xa4data\x81\xaaAddRequest\x83\xaetoken_sequence\xc0\xa3isl\x05\xa7overlap\x00\xa9router_id\x09",
    ]
    .concat();
    assert_eq!(from_msgpack::<ReplicaEvent>(&msgpack).unwrap(), minimal(true));
}

#[test]
fn the_flag_is_written_in_maps_and_survives() {
    for track in [false, true] {
        for event in [minimal(track), add_request(track)] {
            let bytes = to_msgpack(&event).unwrap();
            assert_eq!(from_msgpack::<ReplicaEvent>(&bytes).unwrap(), event);
            assert_eq!(from_json::<ReplicaEvent>(to_json(&event).unwrap().as_bytes()).unwrap(), event);
        }
    }
    let bytes = to_msgpack(&minimal(false)).unwrap();
    let flag = b"\xb4track_prefill_tokens\xc2";
    assert!(bytes.windows(flag.len()).any(|window| window == flag), "{bytes:x?}");
}

#[test]
fn what_has_no_default_must_be_there() {
    let json = r#"{"request_id":"r1","worker":{"worker_id":3,"dp_rank":1},"data":{"AddRequest":{"overlap":0}},"router_id":9}"#;
    let Err(WireError::Json { path, source }) = from_json::<ReplicaEvent>(json.as_bytes()) else { panic!() };
    assert_eq!(path, "data.AddRequest");
    assert!(source.to_string().contains("`isl`"), "{source}");
}

#[test]
fn a_duration_that_nanoseconds_cannot_hold_is_refused() {
    let json = r#"{"initial_effective_prefill_tokens":1,"expected_prefill_duration":{"secs":18446744074,"nanos":0}}"#;
    let Err(WireError::Json { path, .. }) = from_json::<PrefillLoadHint>(json.as_bytes()) else { panic!() };
    assert_eq!(path, "expected_prefill_duration");
    let json = r#"{"initial_effective_prefill_tokens":1}"#;
    assert_eq!(from_json::<PrefillLoadHint>(json.as_bytes()).unwrap().expected_prefill_duration, None);
}
