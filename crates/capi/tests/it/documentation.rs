//! What `docs/c.md` shows is what there is.

use std::fs;

use crate::installed::{BUILD, command, crate_dir, has, succeeded};
use crate::programs::programs;

/// The contents of the code blocks of a page that begin with a fence and a language.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    page.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

#[test]
fn the_example_and_its_output_are_those_of_the_page() {
    let page = fs::read_to_string(crate_dir().join("../../docs/c.md")).unwrap();
    let source = crate_dir().join("tests/c/example.c");
    assert_eq!(blocks(&page, "c")[0], fs::read_to_string(&source).unwrap());
    if !has(&BUILD) {
        return;
    }
    let program = programs().iter().find(|program| program.ends_with("example-Shared")).unwrap();
    let output = succeeded(&mut command(program));
    let shown = blocks(&page, "console").into_iter().find_map(|block| block.split_once("$ ./example\n"));
    assert_eq!(shown.map(|(_, shown)| shown), Some(output.as_str()));
}

#[test]
fn every_function_and_code_is_on_the_page() {
    let page = fs::read_to_string(crate_dir().join("../../docs/c.md")).unwrap();
    let header = fs::read_to_string(crate_dir().join("include/servecast_router.h")).unwrap();
    let names = header.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let named = |name: &&str| {
        let is_code = name.starts_with("SERVECAST_")
            && *name != "SERVECAST_ROUTER_H"
            && !name.starts_with("SERVECAST_ROUTER_");
        is_code || (name.starts_with("servecast_") && header.contains(&format!("{name}(")))
    };
    let missing: Vec<&str> = names.filter(named).filter(|name| !page.contains(name)).collect();
    assert!(missing.is_empty(), "docs/c.md says nothing of {missing:?}");
}
