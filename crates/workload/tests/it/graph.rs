//! Requests that wait for several others, and classes of requests.

use servecast_types::{ClassId, Time};
use servecast_workload::{
    Cut, Links, Load, TraceRow, TurnStart, Turns, Workload, read_mooncake, write_mooncake,
};

const OPEN: Load = Load::Open { arrival_speedup_ratio: 1.0 };

fn rows(lines: &[&str]) -> Vec<TraceRow> {
    let rows = lines.iter().map(|line| {
        let begin = r#"{"input_length": 10, "output_length": 1, "hash_ids": [1], "#;
        format!("{begin}{line}}}")
    });
    read_mooncake(rows.collect::<Vec<_>>().join("\n").as_bytes()).unwrap().rows
}

fn workload(lines: &[&str]) -> Workload {
    Workload::from_rows(&rows(lines), 512, OPEN).unwrap_or_else(|error| panic!("{error}"))
}

/// One line a session: its turns by their lines, each with its start and the lines that it waits for.
fn dump(workload: &Workload) -> Vec<String> {
    let session = |session: &servecast_workload::Session| {
        let line = |turn: u32| session.turns[turn as usize].line.to_string();
        let turn = |place: usize| {
            let start = match session.turns[place].start {
                TurnStart::At(time) => format!("@{}", time.since(Time::ZERO).as_ms()),
                TurnStart::AfterPrevious(delay) => format!("+{}", delay.as_ms()),
                TurnStart::NotBefore(time) => format!(">{}", time.since(Time::ZERO).as_ms()),
            };
            let waits: Vec<String> = session.waits_for(place).into_iter().map(line).collect();
            format!("{}{start}({})", line(place as u32), waits.join(","))
        };
        (0..session.turns.len()).map(turn).collect::<Vec<_>>().join(" ")
    };
    workload.sessions.iter().map(session).collect()
}

#[track_caller]
fn refused(lines: &[&str], problem: &str) {
    let error = Workload::from_rows(&rows(lines), 512, OPEN).unwrap_err();
    assert_eq!(error.to_string(), problem);
}

#[test]
fn rows_that_wait_for_one_another_are_a_session_that_forks_and_joins() {
    let lines = [
        r#""request_id": "plan", "timestamp": 100"#,
        r#""request_id": "other", "timestamp": 101"#,
        r#""request_id": "left", "wait_for": ["plan"], "tool_wait_ms": 5"#,
        r#""request_id": "right", "wait_for": ["plan"], "timestamp": 130"#,
        r#""request_id": "join", "wait_for": ["right", "left", "right"], "tool_wait_ms": 20"#,
    ];
    let workload = workload(&lines);
    assert_eq!(dump(&workload), ["1@0() 3+5(1) 4>30(1) 5+20(3,4)", "2@1()"]);
    assert!(workload.sessions[1].waits.is_none());
}

#[test]
fn branches_say_the_same_from_the_other_end() {
    let lines = [
        r#""request_id": "a", "timestamp": 0, "branches": ["b", 7]"#,
        r#""request_id": "b", "session_id": "s""#,
        r#""request_id": 7, "session_id": "s""#,
        r#""request_id": "d", "session_id": "s", "wait_for": ["b", "7"]"#,
    ];
    assert_eq!(dump(&workload(&lines)), ["1@0() 2+0(1) 3+0(1) 4+0(2,3)"]);
}

#[test]
fn a_row_that_says_nothing_waits_for_the_one_before_it_in_its_session() {
    let lines = [
        r#""session_id": "s", "request_id": "a", "timestamp": 0"#,
        r#""session_id": "s", "request_id": "b", "delay": 3"#,
        r#""session_id": "s", "request_id": "c", "wait_for": [], "timestamp": 9"#,
        r#""session_id": "s", "request_id": "d", "wait_for": ["a"]"#,
    ];
    assert_eq!(dump(&workload(&lines)), ["1@0() 2+3(1) 3>9() 4+0(1)"]);
}

#[test]
fn an_order_that_needs_no_graph_is_that_of_a_plain_session() {
    let linked = [
        r#""request_id": "b", "wait_for": ["a"], "delay": 3"#,
        r#""request_id": "a", "timestamp": 0, "wait_for": []"#,
    ];
    let workload = workload(&linked);
    assert_eq!(dump(&workload), ["2@0() 1+3(2)"]);
    assert!(workload.sessions[0].waits.is_none());
}

#[test]
fn the_request_that_is_sent_first_is_the_first_turn() {
    let lines = [
        r#""request_id": "late", "wait_for": [], "timestamp": 50"#,
        r#""request_id": "early", "wait_for": [], "timestamp": 20"#,
        r#""request_id": "join", "wait_for": ["late", "early"]"#,
    ];
    assert_eq!(dump(&workload(&lines)), ["2@0() 1>30() 3+0(2,1)"]);
}

#[test]
fn what_is_written_is_read_back_as_the_same_graph() {
    let lines = [
        r#""request_id": "plan", "timestamp": 100, "class": "agent""#,
        r#""request_id": "left", "wait_for": ["plan"], "delay": 5, "class": "tool""#,
        r#""request_id": "right", "wait_for": ["plan"], "delay": 6, "class": "agent""#,
        r#""request_id": "join", "wait_for": ["right", "left"], "delay": 20"#,
        r#""timestamp": 102"#,
    ];
    let before = workload(&lines);
    let mut file = Vec::new();
    write_mooncake(&before.mooncake_rows(512, OPEN).collect::<Vec<_>>(), &mut file).unwrap();
    let after = read_mooncake(&file[..]).unwrap().workload(512, OPEN).unwrap();
    assert_eq!(dump(&after), dump(&before));
    let classes = |of: &Workload| -> Vec<Option<String>> {
        of.turns().map(|turn| turn.class.map(|class| of.classes[class.index()].to_string())).collect()
    };
    assert_eq!(
        classes(&after),
        [Some("agent"), Some("tool"), Some("agent"), None, None].map(|name| name.map(str::to_owned))
    );
    assert_eq!(classes(&after), classes(&before));
}

#[test]
fn what_turns_wait_for_is_a_part_of_what_is_replayed() {
    let chain = workload(&[
        r#""request_id": "a", "timestamp": 0"#,
        r#""request_id": "b", "wait_for": ["a"]"#,
        r#""request_id": "c", "wait_for": ["b"]"#,
    ]);
    let fork = workload(&[
        r#""request_id": "a", "timestamp": 0"#,
        r#""request_id": "b", "wait_for": ["a"]"#,
        r#""request_id": "c", "wait_for": ["a"]"#,
    ]);
    assert_ne!(chain.fingerprint(), fork.fingerprint());
}

#[test]
fn a_cut_load_has_no_request_that_waits_for_one_that_is_gone() {
    let lines = [
        r#""request_id": "a", "timestamp": 0"#,
        r#""request_id": "b", "wait_for": ["a"]"#,
        r#""request_id": "c", "wait_for": ["a"]"#,
        r#""request_id": "d", "wait_for": ["b", "c"]"#,
    ];
    let shape = servecast_workload::Shape {
        max_requests: 3.try_into().ok(),
        repeat: 2,
        ..servecast_workload::Shape::default()
    };
    let shaped = shape.apply(workload(&lines), OPEN).unwrap();
    assert_eq!(dump(&shaped), ["1@0() 2+0(1) 3+0(1)"]);
}

#[test]
fn names_that_lead_nowhere_are_refused() {
    let a = r#""request_id": "a", "timestamp": 0"#;
    refused(&[a, r#""wait_for": ["b"]"#], "line 2: `wait_for` names `b`, but no row has this `request_id`");
    refused(&[a, r#""branches": ["b"]"#], "line 2: `branches` names `b`, but no row has this `request_id`");
    refused(
        &[a, r#""request_id": "a", "wait_for": []"#],
        "line 2: `request_id` is `a`, as in line 1: give each request a name of its own",
    );
}

#[test]
fn requests_that_wait_in_a_cycle_are_refused() {
    refused(
        &[
            r#""request_id": "r", "timestamp": 0"#,
            r#""request_id": "x", "wait_for": ["r", "z"]"#,
            r#""request_id": "y", "wait_for": ["x"]"#,
            r#""request_id": "z", "wait_for": ["y"]"#,
            r#""request_id": "behind", "wait_for": ["z"]"#,
        ],
        "line 2: `x` waits for `z` waits for `y` waits for `x`: requests that wait for one another in a cycle are never sent",
    );
    refused(
        &[r#""request_id": "x", "wait_for": ["x"]"#],
        "line 1: `x` waits for `x`: requests that wait for one another in a cycle are never sent",
    );
}

#[test]
fn values_that_are_no_names_are_refused() {
    for (value, problem) in [
        (r#""wait_for": "a""#, "`wait_for` is the string \"a\", but must be a list of request ids"),
        (r#""wait_for": [[1]]"#, "`wait_for` is the list [[1]], but must be a list of request ids"),
        (r#""branches": 2"#, "`branches` is the number 2, but must be a list of request ids"),
        (r#""prefix_reset": 1"#, "`prefix_reset` is the number 1, but must be true or false"),
        (r#""delay": 1, "tool_wait_ms": 2"#, "`delay` and `tool_wait_ms` mean the same: keep one of them"),
        (
            r#""tool_wait_ms": -1"#,
            "`tool_wait_ms` is the number -1, but must be a number of milliseconds from 0",
        ),
        (r#""class": [1]"#, "`class` is the list [1], but must be a string, a whole number or null"),
    ] {
        let row = format!(r#"{{"timestamp": 0, "input_length": 10, "output_length": 1, {value}}}"#);
        let error = read_mooncake(row.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with("line 1: ") && error.contains(problem), "{error}");
    }
}

#[test]
fn rows_with_what_is_new_begin_anew_where_the_prefix_is_reset() {
    let delta = |reset: &str| {
        let lines = [
            r#""session_id": "s", "timestamp": 0"#.to_owned(),
            format!(r#""session_id": "s", "delay": 1{reset}"#),
        ];
        let rows = rows(&lines.each_ref().map(String::as_str));
        let cut = Cut { block_size: 512, turns: Turns::Delta, max_requests: None };
        Workload::from_rows(&rows, cut, OPEN).unwrap().sessions[0].turns[1].prompt.tokens()
    };
    assert_eq!((delta(""), delta(r#", "prefix_reset": true"#)), (21, 10));
}

#[test]
fn rows_with_what_is_new_cannot_fork() {
    let rows = rows(&[
        r#""request_id": "a", "timestamp": 0"#,
        r#""request_id": "b", "wait_for": ["a"]"#,
        r#""request_id": "c", "wait_for": ["a"]"#,
    ]);
    let cut = Cut { block_size: 512, turns: Turns::Delta, max_requests: None };
    let error = Workload::from_rows(&rows, cut, OPEN).unwrap_err().to_string();
    assert!(error.contains("give whole prompts"), "{error}");
}

#[test]
fn the_type_of_a_bailian_row_is_its_class() {
    let row = |chat: u64, kind: &str| {
        format!(
            r#"{{"chat_id": {chat}, "parent_chat_id": -1, "timestamp": {chat}, "input_length": 16, "output_length": 1, "type": "{kind}", "turn": 1, "hash_ids": [{chat}]}}"#
        )
    };
    let text = format!("{}\n{}\n{}", row(1, "text"), row(2, "search"), row(3, "text"));
    let workload = read_mooncake(text.as_bytes()).unwrap().workload(16, OPEN).unwrap();
    assert_eq!(workload.classes, ["text".into(), "search".into()]);
    let classes: Vec<usize> = workload.turns().filter_map(|turn| turn.class).map(ClassId::index).collect();
    assert_eq!(classes, [0, 1, 0]);
}

#[test]
fn there_are_only_so_many_classes() {
    let rows: Vec<TraceRow> = (1..=1001)
        .map(|line| TraceRow {
            line,
            timestamp_ms: Some(0.0),
            input_length: Some(1),
            output_length: 1,
            shares_nothing: true,
            class: Some(line.to_string().into()),
            ..TraceRow::default()
        })
        .collect();
    assert_eq!(Workload::from_rows(&rows[..1000], 512, OPEN).unwrap().classes.len(), 1000);
    let error = Workload::from_rows(&rows, 512, OPEN).unwrap_err();
    assert_eq!(
        error.to_string(),
        "line 1001: `class` is the string \"1001\", one more than the 1000 that figures are told apart for: give fewer, or leave `class` out"
    );
}

#[test]
fn a_chain_without_a_session_stays_one_when_it_is_written() {
    let lines = [
        r#""request_id": "a", "timestamp": 0"#,
        r#""request_id": "b", "wait_for": ["a"], "delay": 7"#,
        r#""session_id": "a", "timestamp": 1"#,
    ];
    let before = workload(&lines);
    let names = |of: &Workload| of.sessions.iter().map(|session| session.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&before), [Some("a'".into()), Some("a".into())], "a name of its own");
    let mut file = Vec::new();
    write_mooncake(&before.mooncake_rows(512, OPEN).collect::<Vec<_>>(), &mut file).unwrap();
    let after = read_mooncake(&file[..]).unwrap().workload(512, OPEN).unwrap();
    assert_eq!(dump(&after), ["1@0() 2+7(1)", "3@1()"]);
    let like = servecast_workload::resembling(&before, 512, OPEN, 3, 1);
    assert_eq!(
        like.iter().filter(|row| row.session_id.is_some()).count(),
        2,
        "a session of two, and a request"
    );
}

#[test]
fn rows_that_are_linked_leave_the_order_of_other_sessions_as_it_is() {
    let others = [r#""session_id": "s", "timestamp": 9"#, r#""session_id": "s", "timestamp": 4"#];
    let linked = [r#""request_id": "a", "timestamp": 4"#, r#""request_id": "b", "wait_for": ["a"]"#];
    assert_eq!(dump(&workload(&others)), ["2@0() 1>5(2)"]);
    assert_eq!(dump(&workload(&[&others[..], &linked].concat()))[0], "2@0() 1>5(2)");
}

#[test]
fn the_first_requests_of_rows_in_any_order_are_those_of_the_first_sessions() {
    let lines = [
        r#""request_id": "late", "wait_for": ["early"]"#,
        r#""request_id": "other", "timestamp": 5"#,
        r#""request_id": "early", "timestamp": 0, "branches": ["late"]"#,
    ];
    for (most, expected) in [(1, &["3@0()"][..]), (2, &["3@0() 1+0(3)"]), (3, &["3@0() 1+0(3)", "2@5()"])] {
        let cut = Cut { block_size: 512, turns: Turns::Whole, max_requests: most.try_into().ok() };
        let workload = Workload::from_rows(&rows(&lines), cut, OPEN).unwrap();
        assert_eq!(dump(&workload), expected);
        assert!(!workload.forks());
    }
}

/// A valid chain that leads to two requests that wait for each other.
#[test]
fn a_long_chain_in_front_of_a_cycle_is_refused_soon() {
    let row = |line: u64, waits: u64| TraceRow {
        line,
        input_length: Some(1),
        output_length: 1,
        shares_nothing: true,
        timestamp_ms: Some(0.0),
        links: Some(Box::new(Links {
            request_id: Some(line.to_string().into()),
            wait_for: Some(vec![waits.to_string().into()]),
            ..Links::default()
        })),
        ..TraceRow::default()
    };
    let mut rows: Vec<TraceRow> = (1..=200_000).map(|line| row(line, line + 1)).collect();
    rows.push(row(200_001, 200_000));
    let error = Workload::from_rows(&rows, 512, OPEN).unwrap_err().to_string();
    assert!(error.starts_with("line 200000: `200000` waits for `200001` waits for `200000`"), "{error}");
}

#[test]
fn rows_with_text_say_the_same_of_others() {
    let text = r#"{"request_id": "a", "timestamp": 0, "prompt": "What is it?", "output_length": 3, "class": "chat"}
{"request_id": 2, "wait_for": ["a"], "tool_wait_ms": 4, "messages": [{"role": "user", "content": "And this?"}], "output_length": 3}
{"wait_for": ["a"], "delay": 5, "text_input": "Then?", "output_length": 3, "lora": "sql", "grammar": "plan.json"}
"#;
    let read = |text: &str| {
        servecast_workload::read_trace(text.as_bytes(), &servecast_workload::TraceForm::default())
    };
    let workload = read(text).unwrap().workload(1, OPEN).unwrap();
    assert_eq!(dump(&workload), ["1@0() 2+4(1) 3+5(1)"]);
    assert_eq!((&workload.classes[..], &workload.loras[..]), (&["chat".into()][..], &["sql".into()][..]));
    assert_eq!(workload.grammars, ["plan.json".into()]);
    let error = read(&text.replace(r#"["a"], "tool_wait_ms": 4"#, r#""a""#)).unwrap_err().to_string();
    assert!(
        error.contains("line 2: `wait_for` is the string \"a\", but must be a list of request ids"),
        "{error}"
    );
    let error =
        read(&text.replace(r#""delay": 5"#, r#""delay": 5, "tool_wait_ms": 5"#)).unwrap_err().to_string();
    assert!(error.contains("`delay` and `tool_wait_ms` mean the same"), "{error}");
}
