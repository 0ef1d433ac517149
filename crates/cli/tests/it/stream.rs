//! `trace stats --stream`: a trace that is used as it is read.

use std::fmt::Write as _;

use crate::sandbox::Sandbox;

/// So many requests, 10 ms apart, a third of which have 500 tokens in common, now and then a bit late.
fn trace(requests: u32) -> String {
    let mut text = String::new();
    for number in 0..requests {
        let late = if number % 7 == 3 { 25 } else { 0 };
        let (family, output) = (number % 3, 1 + number * 37 % 50);
        let _ = writeln!(
            text,
            r#"{{"timestamp": {}, "input_length": 600, "output_length": {output}, "hash_ids": [{family}, {}]}}"#,
            10 * number + 1000 - late,
            number + 10
        );
    }
    text
}

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("s.jsonl", trace(3000));
    sandbox
}

/// What a trace looks like, read in both ways; with notes and errors alike.
#[test]
fn statistics_are_those_of_the_whole_trace() {
    let sandbox = sandbox();
    for format in ["json", "table"] {
        let stats = ["trace", "stats", "s.jsonl", "--format", format];
        let (whole, streamed) = (sandbox.run(&stats), sandbox.run(&[&stats[..], &["--stream"]].concat()));
        assert_eq!((whole.code, &whole.stdout, &whole.stderr), (Some(0), &streamed.stdout, &streamed.stderr));
    }
    sandbox.write("table.csv", "arrived_at,num_prefill_tokens,num_decode_tokens\n100.5,374,44\n203.5,9,9\n");
    let [whole, streamed] =
        [&["trace", "stats", "table.csv"][..], &["trace", "stats", "table.csv", "--stream"]]
            .map(|arguments| sandbox.run(arguments));
    assert_eq!((streamed.code, streamed.stdout), (Some(0), whole.stdout));
    let stats = ["trace", "stats", "s.jsonl", "--stream", "--sort-window", "0.01"];
    let late = sandbox.run(&stats);
    assert_eq!((late.code, late.stdout), (Some(0), sandbox.run(&stats[..3]).stdout));
    assert!(late.stderr.contains("note: all of the trace is read: line 4:"), "{}", late.stderr);
    let pipe = sandbox
        .run_with_input(&["trace", "stats", "-", "--stream", "--sort-window", "0"], trace(9).as_bytes());
    assert_eq!(pipe.code, Some(2));
    assert!(pipe.stderr.contains("leave --stream out"), "{}", pipe.stderr);
}
