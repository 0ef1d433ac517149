//! The README shows what the binary prints, and the pages beside it are complete.

use std::fs;
use std::path::Path;

use crate::sandbox::{Outcome, Sandbox};

const TRACE: &str = "mooncake_conversation.jsonl";

/// A command of the README and the lines that it shows of its output.
struct Example {
    command: Vec<String>,
    shown: Vec<String>,
}

/// A file of the repository.
fn page(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(name)).unwrap()
}

/// The commands of the README that replay something and show what comes out.
fn examples() -> Vec<Example> {
    examples_of(&page("README.md")).into_iter().filter(|example| example.command[0] == "replay").collect()
}

/// The commands of a page that show what comes out.
fn examples_of(page: &str) -> Vec<Example> {
    let page = page.replace("\\\n", " ");
    let blocks = page.split("```console\n").skip(1).filter_map(|rest| rest.split_once("```"));
    let examples = blocks.filter_map(|(block, _)| {
        let (command, output) = block.strip_prefix("$ servecast ")?.split_once('\n')?;
        let command = words(command);
        let shown: Vec<String> = output.lines().map(str::to_owned).collect();
        (!shown.is_empty()).then_some(Example { command, shown })
    });
    examples.collect()
}

/// The words of a command, those between quotes as one.
fn words(command: &str) -> Vec<String> {
    let parts = command.split('\'').enumerate();
    let words = parts.flat_map(|(place, part)| match place % 2 {
        0 => part.split_whitespace().map(str::to_owned).collect::<Vec<_>>(),
        _ => vec![part.to_owned()],
    });
    words.collect()
}

/// Holds that each line that an example shows is printed, in their order.
#[track_caller]
fn prints(example: &Example, text: &str) {
    let mut lines = text.lines();
    let is_stable = |line: &&String| *line != "…" && !line.starts_with("Wall time");
    for shown in example.shown.iter().filter(is_stable) {
        assert!(lines.any(|line| line == shown), "{:?} does not print\n{shown}\nin\n{text}", example.command);
    }
}

#[test]
fn the_question_at_its_top_has_the_answer_that_it_shows() {
    let examples = examples();
    let first = &examples[0];
    assert!(first.command.iter().any(|word| word == "--diagnose"), "{:?}", first.command);
    let command: Vec<&str> = first.command.iter().map(String::as_str).collect();
    let text = Sandbox::new().run(&command).success();
    prints(first, &text);
    // What the sentence above it says.
    let readme = page("README.md");
    let (top, _) = readme.split_once("```console").unwrap();
    for figure in ["second 91", "99.7 %"] {
        assert!(top.contains(figure) && text.contains(figure), "{figure}");
    }
}

#[test]
fn what_it_shows_is_what_comes_out() {
    let Some(folder) = testkit::outside(testkit::DATA) else { return };
    let trace = folder.join("traces").join(TRACE);
    let sandbox = Sandbox::new();
    let of_trace = |example: &Example| example.command.iter().any(|word| word == TRACE);
    let started: Vec<_> = examples()
        .into_iter()
        .filter(of_trace)
        .map(|example| {
            let command = example.command.iter().map(String::as_str);
            let command: Vec<&str> =
                command.map(|word| if word == TRACE { trace.to_str().unwrap() } else { word }).collect();
            (sandbox.command(&command).spawn().unwrap(), example)
        })
        .collect();
    assert_eq!(started.len(), 4, "round robin, disaggregated, KV router, several runs");
    for (child, example) in started {
        let text = Outcome::of(child.wait_with_output().unwrap()).success();
        prints(&example, &text);
    }
}

#[test]
fn the_tutorial_shows_what_comes_out() {
    let tutorial = page("docs/tutorial.md");
    let sandbox = Sandbox::new();
    let (_, rest) = tutorial.split_once("```toml\n").unwrap();
    let (file, _) = rest.split_once("```").unwrap();
    sandbox.write("chat.toml", file);
    let examples = examples_of(&tutorial);
    let examples: Vec<_> =
        examples.iter().filter(|example| example.command.iter().any(|word| word == "chat.toml")).collect();
    assert_eq!(examples.len(), 5, "one worker, more of them, shorter passes, a recommendation, a check");
    for example in examples {
        let command: Vec<&str> = example.command.iter().map(String::as_str).collect();
        prints(example, &sandbox.run(&command).success());
    }
}

#[test]
fn every_setting_of_sglang_is_documented() {
    let page = page("docs/engines.md");
    let schema: serde_json::Value =
        serde_json::from_str(&Sandbox::new().run(&["schema", "config"]).success()).unwrap();
    for key in schema["$defs"]["SglangArgs"]["properties"].as_object().unwrap().keys() {
        assert!(page.contains(&format!("| `{key}` |")), "{key}");
    }
}
