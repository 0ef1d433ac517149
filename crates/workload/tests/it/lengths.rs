//! Tables of times and lengths: what they become, and how those are refused that cannot be read.

use servecast_types::Time;
use servecast_workload::{Load, TimeUnit, TraceForm, TraceFormat, TurnStart, Workload, read_trace};

fn read(text: &str, form: &TraceForm) -> Result<Workload, String> {
    let trace = read_trace(text.as_bytes(), form).map_err(|error| error.to_string())?;
    trace.workload(512, Load::Open { arrival_speedup_ratio: 1.0 }).map_err(|error| error.to_string())
}

fn with_columns(columns: &str) -> TraceForm {
    TraceForm { columns: Some(columns.parse().unwrap()), ..TraceForm::default() }
}

/// Arrival in ms, prompt and output of every request.
fn requests(workload: &Workload) -> Vec<(f64, u32, u32)> {
    let turns = workload.turns().map(|turn| {
        let TurnStart::At(at) = turn.start else { panic!("a row is a session of its own") };
        (at.since(Time::ZERO).as_ms(), turn.prompt.tokens(), turn.output_tokens)
    });
    turns.collect()
}

#[test]
fn tables_of_known_tools_need_no_columns() {
    for text in [
        "TIMESTAMP,ContextTokens,GeneratedTokens\n\
         2023-11-16 18:15:46.5000000,374,44\n2023-11-16 18:15:48.0000000,396,109\n",
        "\u{feff}TIMESTAMP,ContextTokens,GeneratedTokens\r\n\
         2024-05-10 00:00:00.009930+00:00,374,44\r\n2024-05-10 00:00:01.509930+00:00,396,109\r\n",
        "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type\n\
         5,a,1,GPT-4,374,44,418,Conversation log\n6.5,b,1,GPT-4,396,109,505,API log\n",
        "request_id,timestamp,input_tokens,output_tokens\n0,1767225600,374,44\n1,1767225601.5,396,109\n",
        "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,374.0,44\n1.5,396,109.0\n",
        "arrived_at,prefill_tokens,decode_tokens\n0,374,44\n1.5,396,109\n",
    ] {
        let workload = read(text, &TraceForm::default()).unwrap_or_else(|error| panic!("{text}{error}"));
        assert_eq!(requests(&workload), [(0.0, 374, 44), (1500.0, 396, 109)], "{text}");
        assert_eq!(workload.notes.without_content, 2);
    }
}

#[test]
fn any_table_is_read_by_the_columns_that_are_named() {
    let form = with_columns("time=when, input=prompt tokens, output=completion");
    for separator in [",", ";", "\t"] {
        let lines = ["id,completion,when,prompt tokens,who", "1,7,100,20,\"x\"", "2,8,350,30,y", ""];
        let text = lines.join("\n").replace(',', separator);
        assert_eq!(requests(&read(&text, &form).unwrap()), [(0.0, 20, 7), (250.0, 30, 8)], "{text}");
    }
    let seconds = TraceForm { unit: Some(TimeUnit::S), ..form };
    let text = "completion,when,prompt tokens\n7,1,20\n8,3,30\n";
    assert_eq!(requests(&read(text, &seconds).unwrap())[1], (2000.0, 30, 8));
}

#[test]
fn no_prompt_shares_anything_with_another() {
    let text = "arrived_at,prefill_tokens,decode_tokens\n0,2000,4\n1,2000,4\n2,1,4\n";
    let workload = read(text, &TraceForm::default()).unwrap();
    let prompts: Vec<_> = workload.turns().map(|turn| &turn.prompt).collect();
    for (index, one) in prompts.iter().enumerate() {
        for other in &prompts[index + 1..] {
            assert_eq!(one.common_prefix(other), 0);
        }
    }
    let note = "3 rows have lengths only: no prompt shares anything with another, so that caches hit nothing";
    assert!(workload.notes.sentences().contains(&note.to_owned()));
}

#[test]
fn sessions_that_are_not_used_are_told() {
    let header =
        "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,Log Type";
    let text = format!(
        "{header}\n5,a,1,GPT-4,374,44,418,Conversation log\n6,,1,GPT-4,396,109,505,API log\n\
         7,a,1,GPT-4,396,109,505,Conversation log\n"
    );
    let told = |workload: &Workload| workload.notes.unread_sessions.rows;
    assert_eq!(told(&read(&text, &TraceForm::default()).unwrap()), 2);
    let columns =
        with_columns("time=Timestamp,input=Request tokens,output=Response tokens,session=Session ID");
    let used = read(&text, &columns).unwrap();
    assert_eq!((told(&used), used.sessions.len()), (0, 2));
}

#[test]
fn requests_that_failed_are_left_out_and_counted() {
    let text = "arrived_at,prefill_tokens,decode_tokens\n0,20,4\n1,20,0\n2,0,4\n3,20,4\n";
    let workload = read(text, &TraceForm::default()).unwrap();
    assert_eq!(requests(&workload).len(), 2);
    let (noted, sentences) = (workload.notes.without_tokens, workload.notes.sentences());
    assert_eq!((noted.rows, noted.first_line), (2, 3));
    assert!(sentences.iter().any(|one| one.starts_with("2 rows have 0 tokens of prompt or output")));
}

#[test]
fn what_cannot_be_read_is_said_with_line_column_and_value() {
    let known = "arrived_at,prefill_tokens,decode_tokens\n";
    for (rows, problem) in [
        ("0,20\n", "line 2: `decode_tokens` is empty, but must be a whole number of tokens from 1 to 999999"),
        (
            "0,20,4\n\n1,many,4\n",
            "line 4: `prefill_tokens` is \"many\", but must be a whole number of tokens",
        ),
        ("\n0,20,4\n\"\n1\",20,x", "line 4: `decode_tokens` is \"x\""),
        ("0,20,4.5\n", "line 2: `decode_tokens` is \"4.5\", but must be a whole number of tokens"),
        ("0,20,-1\n", "line 2: `decode_tokens` is \"-1\""),
        ("noon,20,4\n", "line 2: `arrived_at` is \"noon\", but must be a number of seconds"),
        ("0,20,4\n2026-01-01 00:00:00,20,4\n", "line 3: some timestamps are dates and others numbers"),
        ("", "no row"),
    ] {
        let error = read(&format!("{known}{rows}"), &TraceForm::default()).unwrap_err();
        assert!(error.contains(problem), "{rows}: {error}");
    }
    let error = read("a,b,c\n1,2,3\n", &with_columns("time=a,input=b,output=d")).unwrap_err();
    assert_eq!(error, "line 1: there is no column `d`: the table has `a`, `b`, `c`");
}

#[test]
fn columns_are_given_as_time_input_and_output() {
    let parse = |text: &str| text.parse::<servecast_workload::Columns>().unwrap_err();
    for (text, problem) in [
        ("time=a,input=b", "`output` is missing"),
        ("time=a,input=b,output=", "`output=` has no column"),
        ("time=a,input=b,output=c,prompt=d", "`prompt` is none of them"),
        ("time=a,time=b,input=c,output=d", "`time` is given twice"),
        ("", "`` has no column"),
    ] {
        assert_eq!(
            parse(text),
            format!(
                "must be time=COLUMN,input=COLUMN,output=COLUMN, and session=COLUMN and class=COLUMN if there are such, but {problem}"
            )
        );
    }
}

#[test]
fn rows_have_lines_of_their_own_however_those_end() {
    for end in ["\n", "\r\n"] {
        let text = ["a,i,o", "0,5,1", "1,5,1", "2,5,1"].join(end);
        let trace = read_trace(text.as_bytes(), &with_columns("time=a,input=i,output=o")).unwrap();
        assert_eq!(trace.rows.iter().map(|row| row.line).collect::<Vec<_>>(), [2, 3, 4], "{end:?}");
    }
}

#[test]
fn columns_name_sessions_and_keys_of_json_objects() {
    let form = with_columns("time=at,input=usage.prompt,output=usage.out,session=user");
    let text = "{\"at\": 0, \"user\": 7, \"usage\": {\"prompt\": 100, \"out\": 5}}\n\
                {\"at\": 20, \"user\": \"b\", \"usage.prompt\": 3, \"usage\": {\"prompt\": 100, \"out\": 5}}\n\
                {\"at\": 30, \"user\": 7, \"usage\": {\"prompt\": 200, \"out\": 0}}\n\
                {\"at\": 40, \"user\": 7, \"usage\": {\"prompt\": 200, \"out\": 6}}\n";
    let turns = |workload: &Workload| -> Vec<_> {
        let sessions = workload.sessions.iter();
        sessions
            .map(|session| session.turns.iter().map(|turn| turn.prompt.tokens()).collect::<Vec<_>>())
            .collect()
    };
    let workload = read(text, &form).unwrap();
    assert_eq!(turns(&workload), [vec![100, 200], vec![3]]);
    assert_eq!(workload.notes.without_tokens.first_line, 3);
    let error = read(&text.replace("200, \"out\": 6", "\"x\", \"out\": 6"), &form).unwrap_err();
    assert_eq!(
        error,
        "line 4: `usage.prompt` is the string \"x\", but must be a whole number of tokens from 1 to 1000000000"
    );
    let error = read(&text.replacen("\"at\"", "\"on\"", 1), &form).unwrap_err();
    assert_eq!(error, "line 1: `at` is missing or null: give when the request came");
    let table = "at,usage.prompt,usage.out,user\n0,100,5,7\n20,3,5,b\n30,200,6,7\n";
    assert_eq!(turns(&read(table, &form).unwrap()), [vec![100, 200], vec![3]]);
    let error = read(&table.replace("user", "who"), &form).unwrap_err();
    assert!(error.contains("there is no column `user`"), "{error}");
}

#[test]
fn columns_name_classes() {
    let form = with_columns("time=at,input=in,output=out,class=tier");
    let classes = |text: &str| -> Vec<Option<String>> {
        let workload = read(text, &form).unwrap();
        let name = |class: servecast_types::ClassId| workload.classes[class.index()].to_string();
        workload.turns().map(|turn| turn.class.map(name)).collect()
    };
    let expected = [Some("gold".to_owned()), None, Some("free".to_owned()), Some("gold".to_owned())];
    assert_eq!(classes("at,in,out,tier\n0,5,1,gold\n1,5,1,\n2,5,1, free \n3,5,1,gold\n"), expected);
    let row = |at: u8, tier: &str| format!("{{\"at\": {at}, \"in\": 5, \"out\": 1{tier}}}\n");
    let keys = [", \"tier\": \"gold\"", "", ", \"tier\": \"free\"", ", \"tier\": \"gold\""];
    let text: String = (0..).zip(keys).map(|(at, tier)| row(at, tier)).collect();
    assert_eq!(classes(&text), expected);
    let error = read("at,in,out\n0,5,1\n", &form).unwrap_err();
    assert!(error.contains("there is no column `tier`"), "{error}");
}

#[test]
fn a_format_that_is_named_goes_before_what_a_file_looks_like() {
    let row = "{\"timestamp\": 0, \"input_length\": 9, \"output_length\": 1, \"prompt\": \"hi\"}\n";
    let as_format = |format| TraceForm { format: Some(format), ..TraceForm::default() };
    assert_eq!(requests(&read(row, &as_format(TraceFormat::Rows)).unwrap()), [(0.0, 9, 1)]);
    let error = read(row, &as_format(TraceFormat::Weka)).unwrap_err();
    assert_eq!(error, "line 1: `id` is missing or null: give the name of the session");
}
