//! What the turns of a session have of one another, and what a trace says of replies.

use servecast_types::Prompt;
use servecast_workload::{Cut, Load, Noted, Turn, Turns, Workload, read_mooncake, stats};

const OPEN: Load = Load::Open { arrival_speedup_ratio: 1.0 };

fn workload(text: &str, block_size: u32, turns: Turns) -> Workload {
    read_mooncake(text.as_bytes())
        .unwrap()
        .workload(Cut { block_size, turns, max_requests: None }, OPEN)
        .unwrap()
}

fn whole(text: &str, block_size: u32) -> Workload {
    workload(text, block_size, Turns::Whole)
}

/// Prompt and reply of a turn.
fn all_of(turn: &Turn) -> Prompt {
    let reply = turn.output.as_ref().expect("the reply is named");
    Prompt::new(turn.prompt.runs().iter().chain(reply.runs()).copied())
}

#[test]
fn ids_of_generated_tokens_are_the_content_of_the_reply() {
    let text = "{\"output_toks\": 3, \"arrival_time_ns\": 0, \"input_tok_ids\": [7, 9], \"output_tok_ids\": [5, 6, 8]}\n\
                {\"output_toks\": 1, \"arrival_time_ns\": 9, \"input_tok_ids\": [7, 9, 5, 6, 8, 1]}";
    let workload = whole(text, 512);
    let turns: Vec<&Turn> = workload.turns().collect();
    assert_eq!(all_of(turns[0]).common_prefix(&turns[1].prompt), 5);
    assert_eq!(turns[1].output, None);
    // Four tokens of the first request have KV: the last that it generates has none.
    assert_eq!(stats(&workload, 2).reusable_blocks, 2);
    assert_eq!((stats(&workload, 2).blocks, stats(&workload, 2).distinct_blocks), (4, 3));
}

#[test]
fn hash_ids_of_the_reply_are_its_content() {
    let text = "{\"timestamp\": 0, \"input_length\": 20, \"output_length\": 15, \"hash_ids\": [1, 2], \
                \"output_hash_ids\": [3, 4]}\n\
                {\"timestamp\": 9, \"input_length\": 40, \"output_length\": 1, \"hash_ids\": [1, 2, 3, 4]}";
    let workload = whole(text, 10);
    let turns: Vec<&Turn> = workload.turns().collect();
    assert_eq!(all_of(turns[0]).common_prefix(&turns[1].prompt), 35);
    assert!(workload.notes.sentences().is_empty());
}

#[test]
fn another_number_of_ids_than_of_generated_tokens_is_noted_with_the_line() {
    let row = |output: u64, ids: &str| {
        format!(
            "{{\"output_toks\": {output}, \"arrival_time_ns\": 0, \"input_tok_ids\": [7], \"output_tok_ids\": {ids}}}\n"
        )
    };
    let text = [row(2, "[1, 2]"), row(3, "[1, 2]"), row(1, "[1, 2]"), row(4, "[]")].concat();
    let workload = whole(&text, 512);
    let named: Vec<Option<u32>> =
        workload.turns().map(|turn| turn.output.as_ref().map(|output| output.tokens())).collect();
    assert_eq!(named, [Some(2), Some(2), Some(1), None]);
    assert_eq!(workload.notes.other_output_ids, Noted { rows: 2, first_line: 2 });
    assert_eq!(
        workload.notes.sentences(),
        [
            "2 rows have ids of generated tokens for another length than that of the output: what has no id is never \
             hit, surplus ids are ignored (line 2 first)"
        ]
    );
}

/// A session of two turns, the first of 20 tokens with a reply of `output`.
fn two_turns(output: u32, second: &str) -> String {
    format!(
        "{{\"session_id\": \"a\", \"timestamp\": 0, \"input_length\": 20, \"output_length\": {output}, \"hash_ids\": \
         [1, 2]}}\n{{\"session_id\": \"a\", \"delay\": 1, \"output_length\": 1, {second}}}"
    )
}

#[test]
fn a_reply_is_what_the_next_turn_repeats_of_it() {
    let check = |output, second: &str, named: Option<u32>| {
        let workload = whole(&two_turns(output, second), 10);
        let turns: Vec<&Turn> = workload.turns().collect();
        assert_eq!(turns[0].output.as_ref().map(|output| output.tokens()), named, "{output} {second}");
        if let Some(named) = named {
            assert_eq!(all_of(turns[0]).common_prefix(&turns[1].prompt), 20 + named);
        }
    };
    check(15, "\"input_length\": 40, \"hash_ids\": [1, 2, 3, 4]", Some(15));
    check(20, "\"input_length\": 40, \"hash_ids\": [1, 2, 3, 4]", Some(20));
    // Too short for the reply, or another beginning.
    check(21, "\"input_length\": 40, \"hash_ids\": [1, 2, 3, 4]", None);
    check(15, "\"input_length\": 40, \"hash_ids\": [1, 9, 3, 4]", None);
    check(15, "\"input_length\": 20, \"hash_ids\": [1, 2]", None);
}

#[test]
fn a_turn_that_goes_on_from_nothing_is_noted() {
    let unrelated = whole(&two_turns(5, "\"input_length\": 12, \"hash_ids\": [7, 8]"), 10);
    assert_eq!(
        unrelated.notes.sentences(),
        [
            "1 row has nothing in common with the turn before it: --turns delta if rows hold only what is new in a \
             turn (line 2)"
        ]
    );
    let related = whole(&two_turns(5, "\"input_length\": 12, \"hash_ids\": [1, 8]"), 10);
    assert_eq!(related.notes.sentences(), [""; 0]);
}

#[test]
fn turns_that_hold_what_is_new_become_whole_prompts() {
    let text = "{\"session_id\": \"a\", \"timestamp\": 0, \"input_length\": 4190, \"output_length\": 592, \
                \"hash_ids\": [1, 2, 3, 4, 5, 6, 7, 8, 9]}\n\
                {\"timestamp\": 5, \"input_length\": 100, \"output_length\": 7, \"hash_ids\": [50]}\n\
                {\"session_id\": \"a\", \"delay\": 1000, \"input_length\": 592, \"output_length\": 16, \
                \"hash_ids\": [10, 11]}\n\
                {\"session_id\": \"a\", \"delay\": 1000, \"input_length\": 30, \"output_length\": 1, \
                \"hash_ids\": [12]}";
    let workload = workload(text, 512, Turns::Delta);
    let turns: Vec<&Turn> = workload.sessions[0].turns.iter().collect();
    let lengths: Vec<u32> = turns.iter().map(|turn| turn.prompt.tokens()).collect();
    assert_eq!(lengths, [4190, 4190 + 592 + 592, 4190 + 592 + 592 + 16 + 30]);
    for pair in turns.windows(2) {
        let before = all_of(pair[0]);
        assert_eq!(before.common_prefix(&pair[1].prompt), before.tokens());
    }
    assert_eq!(workload.notes.sentences(), [""; 0]);
    // Nobody repeats the reply to another session.
    assert_eq!(workload.sessions[1].turns[0].output, None);
}

#[test]
fn replies_of_new_parts_keep_the_ids_that_they_have() {
    let text = "{\"session_id\": \"a\", \"output_toks\": 3, \"arrival_time_ns\": 0, \"input_tok_ids\": [7, 9], \
                \"output_tok_ids\": [5, 6]}\n\
                {\"session_id\": \"a\", \"output_toks\": 1, \"input_tok_ids\": [8]}\n\
                {\"output_toks\": 1, \"arrival_time_ns\": 1, \"input_tok_ids\": [7, 9, 5, 6, 4]}";
    let workload = workload(text, 512, Turns::Delta);
    let turns: Vec<&Turn> = workload.turns().collect();
    assert_eq!((turns[1].prompt.tokens(), turns[0].output.as_ref().unwrap().tokens()), (6, 3));
    assert_eq!(turns[1].prompt.common_prefix(&turns[2].prompt), 4);
}

#[test]
fn a_session_that_grows_too_long_is_refused() {
    let row = "{\"session_id\": \"a\", \"timestamp\": 0, \"input_length\": 600000000, \"output_length\": 1, \
               \"hash_ids\": [1]}";
    let text = format!("{row}\n{row}");
    let cut = Cut { block_size: 1_000_000_000, turns: Turns::Delta, max_requests: None };
    let error = read_mooncake(text.as_bytes()).unwrap().workload(cut, OPEN).unwrap_err();
    assert_eq!(
        error.to_string(),
        "line 2: with all that came before it in its session the prompt has 1200000001 tokens, but must have a whole \
         number of tokens from 1 to 1000000000"
    );
}

#[test]
fn a_reply_that_the_next_turn_repeats_is_hit_after_it_was_converted() {
    let text = "{\"session_id\": \"a\", \"timestamp\": 0, \"input_length\": 635, \"output_length\": 37, \"hash_ids\": [0, 1]}\n\
                {\"session_id\": \"a\", \"delay\": 1, \"input_length\": 1433, \"output_length\": 5, \"hash_ids\": [0, 1, 3]}";
    let before = whole(text, 512);
    let rows: Vec<_> = before.mooncake_rows(512, OPEN).collect();
    let after = Workload::from_rows(&rows, 512, OPEN).unwrap();
    let shared = |of: &Workload| {
        let turns: Vec<&Turn> = of.turns().collect();
        all_of(turns[0]).common_prefix(&turns[1].prompt)
    };
    assert_eq!((shared(&before), shared(&after)), (672, 672));
    assert_eq!(stats(&after, 64).reusable_blocks, stats(&before, 64).reusable_blocks);
}

/// A closed loop goes by the order of the trace, whatever the times of its rows say.
#[test]
fn sessions_keep_their_order_when_they_are_converted() {
    let row = |name: &str, at: u32, id: u32| {
        format!(
            r#"{{"session_id": "{name}", "timestamp": {at}, "input_length": 9, "output_length": 1, "hash_ids": [{id}]}}"#
        )
    };
    let text = [row("late", 900, 1), row("early", 5, 2), row("late", 950, 3), row("early", 7, 4)].join("\n");
    let names = |of: &Workload| -> Vec<Option<Box<str>>> {
        of.sessions.iter().map(|session| session.name.clone()).collect()
    };
    let before = whole(&text, 512);
    let rows: Vec<_> = before.mooncake_rows(512, OPEN).collect();
    for load in [OPEN, Load::Closed] {
        let (before, after) = (
            read_mooncake(text.as_bytes()).unwrap().workload(512, load).unwrap(),
            Workload::from_rows(&rows, 512, load).unwrap(),
        );
        assert_eq!(names(&before), names(&after));
        assert_eq!(names(&after)[0].as_deref(), Some("late"));
        let starts = |of: &Workload| of.turns().map(|turn| turn.start).collect::<Vec<_>>();
        assert_eq!(starts(&before), starts(&after));
    }
}
