//! What conversations, rows with text and rows of lengths become, with their requests worked out by hand.

use servecast_types::Prompt;
use servecast_workload::{Cut, Load, TextTokenizer, Trace, TraceError, TraceForm, Turns, read_trace};

use crate::formats::{LENGTHS_ONLY, check, check_in, prompts, read, refused};

#[test]
fn conversations_of_sharegpt_are_sessions_with_what_was_said() {
    let says = |from: &str, text: &str| format!("{{\"from\": \"{from}\", \"value\": \"{text}\"}}");
    let question = "q".repeat(100);
    let talk =
        [says("human", &question), says("gpt", &"a".repeat(30)), says("human", "more"), says("gpt", "b")];
    let text = format!(
        "[\n{{\"id\": \"c1\", \"conversations\": [{}]}},\n{{\"id\": \"c2\", \"conversations\": [{}, {}, {}]}}\n]",
        talk.join(", "),
        says("gpt", "hello"),
        says("human", &format!("{question}!")),
        says("gpt", "c"),
    );
    // 25 tokens, 8 of the answer, 1 more; then 2 of a greeting and 26.
    check_in(
        Load::Closed,
        &text,
        "c1#1: @0 25>8 +0 34>1\nc2#2: @0 28>1\n",
        &["1 row has 0 tokens of prompt or output, as requests that failed have: they are left out (line 3)"],
    );
    let found = prompts(&text);
    assert_eq!(found[0].common_prefix(&found[1]), 25);
    assert_eq!(found[0].common_prefix(&found[2]), 0, "there is a greeting before it");
    let same = prompts(&text.replace(&format!("{}, ", says("gpt", "hello")), ""));
    assert_eq!(same[0].common_prefix(&same[2]), 16, "up to the piece in which they part");
    refused(
        &text.replace("\"value\": \"more\"", "\"value\": 5"),
        "line 2: `conversations[2].value` is the number 5, but must be a string",
    );
    refused(&text[..text.len() - 2], "line 3: the file ends within the list: it is cut off");
}

#[test]
fn rows_with_text_share_what_they_begin_with() {
    let text = r#"{"timestamp": 0, "text_input": "What is a block?", "output_length": 50}
{"timestamp": 250, "session_id": 7, "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Hello"}]}], "output_length": 9}
{"delay": 800, "session_id": 7, "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi there."}, {"role": "user", "content": "Bye"}], "max_tokens": 5}
{"timestamp": 500, "custom_id": "b", "body": {"prompt": "What is a block?!", "max_tokens": 6}}
"#;
    check(text, "-: @0 4>50\n7: @250 5>9 +800 9>5\n-: @500 5>6\n", &[]);
    let found = prompts(text);
    assert_eq!(found[1].common_prefix(&found[2]), 5);
    refused(
        &text.replacen("\"output_length\": 50", "\"n\": 50", 1),
        "line 1: `output_length` is missing or null: give the number of tokens to",
    );
    refused(
        &text.replacen("50}", "50, \"input_length\": 9}", 1),
        "line 1: `text_input` is the string \"What is a block?\", but must be left out beside `input_length`",
    );
    refused(
        &text.replacen("What is a block?\"", "\"", 1),
        "line 1: `text_input` is the string \"\", but must be text of at least one token",
    );
}

#[test]
fn sub_requests_follow_one_another_after_their_tools() {
    let text = r#"{"session_id": "s0", "arrival_time_ns": 1000000, "sub_requests": [{"input_toks": 1472, "output_toks": 133, "tool_duration_ns": 127000000}, {"input_toks": 1800, "output_toks": 20}]}
{"session_id": 5, "arrival_time_ns": 3000000, "sub_requests": [{"input_toks": 2, "output_toks": 1, "input_tok_ids": [7, 8], "output_tok_ids": [9]}, {"input_toks": 3, "output_toks": 1, "input_tok_ids": [7, 8, 9]}]}
"#;
    check(text, "s0: @0 1472>133 +127 1800>20\n5: @2 2>1 +0 3>1\n", &[LENGTHS_ONLY]);
    let found = prompts(text);
    assert_eq!(found[2].common_prefix(&found[3]), 2);
    refused(
        &text.replace(": 5,", ": \"s0\","),
        "line 2: `session_id` is the string \"s0\", but must be a name of its own: line 1 has it",
    );
    refused(
        &text.replace("[7, 8]", "[7]"),
        "line 2: `sub_requests[0].input_toks` is the number 2, but must be 1, the number of `input_tok_ids`",
    );
    refused(
        &text.replace("\"output_toks\": 133", "\"output_toks\": 0"),
        "line 1: `sub_requests[0].output_toks` is the number 0, but must be a whole",
    );
}

#[test]
fn turn_lengths_make_prompts_of_all_that_came_before() {
    let text = r#"{"num_turns": 2, "input_prompt_length": 1000, "assistant_response_length": [50, 60], "tool_call_output_length": [200, 100], "tool_call_latency": [1.5, 0.3], "final_assistant_response_length": 300}"#;
    check_in(
        Load::Closed,
        text,
        "line 1: @0 1000>50 +1500 1250>60 +300 1410>300\n",
        &["3 rows have lengths only: no prompt shares anything with another, so that caches hit nothing"],
    );
    let found = prompts(text);
    assert_eq!(found[1].common_prefix(&found[2]), 1250);
    refused(
        &text.replace("[50, 60]", "[50]"),
        "line 1: `assistant_response_length` is the list [50], but must be a list of 2, which is `num_turns`",
    );
    refused(
        &text.replace("0.3", "-1"),
        "line 1: `tool_call_latency[1]` is the number -1, but must be a number of seconds from 0",
    );
}

#[test]
fn rows_may_do_without_ids_and_write_whole_numbers_as_they_like() {
    let text = r#"{"timestamp": 0, "input_length": 1200.0, "output_length": 5.2e1, "session_id": 3}
{"timestamp": 10, "input_length": 512, "output_length": 1, "hash_ids": [0], "session_id": "3"}
{"timestamp": 20, "input_length": 512, "output_length": 1}
"#;
    check(text, "3: @0 1200>52 >10 512>1\n-: @20 512>1\n", &[LENGTHS_ONLY]);
    let found = prompts(text);
    assert_eq!(found[0].common_prefix(&found[1]), 0);
    assert_eq!(found[1].common_prefix(&found[2]), 0);
    refused(
        &text.replace("\"input_length\": 1200.0, ", ""),
        "line 1: `hash_ids` is missing or null: give a list with an id for every block of the prompt, or leave it",
    );
    refused(&text.replace("1200.0", "1200.5"), "line 1: `input_length` is the number 1200.5");
    let token_rows = "{\"arrival_time_ns\": 0, \"input_toks\": 9, \"output_toks\": 3}\n{\"arrival_time_ns\": 1000000, \"input_toks\": 8, \"output_toks\": 2}\n";
    check(token_rows, "-: @0 9>3\n-: @1 8>2\n", &[LENGTHS_ONLY]);
}

#[test]
fn sessions_of_any_form_may_have_a_class_and_an_adapter() {
    let talk = r#"[{"id": "c1", "class": "chat", "lora": 7, "conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "a"}, {"from": "human", "value": "b"}, {"from": "gpt", "value": "c"}]},
{"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "a"}]}]"#;
    let lengths = r#"{"class": "chat", "lora": "7", "num_turns": 1, "input_prompt_length": 10, "assistant_response_length": [5], "tool_call_output_length": [2], "tool_call_latency": [1], "final_assistant_response_length": 3}
{"num_turns": 0, "input_prompt_length": 10, "assistant_response_length": [], "tool_call_output_length": [], "tool_call_latency": [], "final_assistant_response_length": 3}"#;
    for text in [talk, lengths] {
        let labels: Vec<_> = read(text).unwrap().rows.into_iter().map(|row| (row.class, row.lora)).collect();
        let both = (Some("chat".into()), Some("7".into()));
        assert_eq!(labels, [both.clone(), both, (None, None)]);
        refused(
            &text.replace(r#""class": "chat""#, r#""class": [1]"#),
            "line 1: `class` is the list [1], but must be",
        );
    }
}

/// A token for each word.
fn by_words(text: &str) -> Result<Trace, TraceError> {
    let tokenizer = TextTokenizer::new(|text| {
        let number = |word: &str| match word {
            "!" => Err("a word that is none".to_owned()),
            word => Ok(word.bytes().map(u32::from).sum()),
        };
        text.split_whitespace().map(number).collect()
    });
    read_trace(text.as_bytes(), &TraceForm { tokenizer: Some(tokenizer), ..TraceForm::default() })
}

#[test]
fn texts_are_cut_by_a_tokenizer() {
    let words = |count: usize, last: &str| format!("{}{last}", "word ".repeat(count));
    let row = |at: u32, text: &str| {
        format!("{{\"timestamp\": {at}, \"text_input\": \"{text}\", \"output_length\": 5}}\n")
    };
    let text = [row(0, &words(40, "a")), row(1, &words(40, "b")), row(2, &words(20, ""))].concat();
    let workload = by_words(&text).unwrap().workload(1, Load::Closed).unwrap();
    let prompts: Vec<_> = workload.turns().map(|turn| turn.prompt.clone()).collect();
    assert_eq!(prompts.iter().map(Prompt::tokens).collect::<Vec<_>>(), [41, 41, 20]);
    assert_eq!(prompts[0].common_prefix(&prompts[1]), 32, "up to the piece of 16 tokens in which they part");
    assert_eq!(prompts[0].common_prefix(&prompts[2]), 16);
    let talk = r#"[{"conversations": [{"from": "human", "value": "one two three"}, {"from": "gpt", "value": "four five"}, {"from": "human", "value": "six"}, {"from": "gpt", "value": "seven"}]}]"#;
    let trace = by_words(talk).unwrap();
    let cut = Cut { turns: Turns::Delta, ..Cut::from(1) };
    let workload = trace.workload(cut, Load::Closed).unwrap();
    let lengths: Vec<_> = workload.turns().map(|turn| (turn.prompt.tokens(), turn.output_tokens)).collect();
    assert_eq!(lengths, [(3, 2), (6, 1)]);
}

#[test]
fn a_tokenizer_needs_texts_that_it_can_cut() {
    let error = |text: &str| by_words(text).unwrap_err().to_string();
    let rows = "{\"timestamp\": 0, \"text_input\": \"a\", \"output_length\": 5}\n";
    assert_eq!(
        error(&format!("{rows}{}", rows.replace("\"a\"", "\"b !\""))),
        "line 2: the tokenizer cannot cut a text of the row: a word that is none"
    );
    assert!(error(&rows.replace("\"a\"", "\" \"")).contains("but must be text of at least one token"));
    let ids = "{\"timestamp\": 0, \"input_length\": 9, \"output_length\": 5, \"hash_ids\": [1]}\n";
    assert!(error(ids).contains("but this one has none"), "{}", error(ids));
}

/// Texts are numbered in each file by itself.
#[test]
fn texts_of_different_files_share_nothing() {
    let row =
        |text: &str| format!("{{\"timestamp\": 0, \"text_input\": \"{text}\", \"output_length\": 5}}\n");
    let mut one = read(&row(&"a".repeat(400))).unwrap();
    one.merge(read(&row(&"b".repeat(400))).unwrap(), 2);
    let workload = one.workload(1, Load::Closed).unwrap();
    let prompts: Vec<_> = workload.turns().map(|turn| &turn.prompt).collect();
    assert_eq!(prompts[0].common_prefix(prompts[1]), 0);
}
