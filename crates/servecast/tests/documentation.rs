//! What the documents for those who change the code say of its files.

#![expect(clippy::disallowed_methods, reason = "documents are files")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const DOCUMENTS: [&str; 5] = [
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "docs/life-of-a-request.md",
    "docs/glossary.md",
    "docs/extending.md",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The files below a folder that people write.
fn files(folder: &Path, into: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            if !["target", "node_modules"].contains(&&*name) && !name.starts_with('.') {
                files(&path, into);
            }
        } else {
            into.insert(path);
        }
    }
}

/// Texts between backticks that look like files of source.
fn named(text: &str) -> impl Iterator<Item = &str> {
    let quoted = text.split('`').skip(1).step_by(2);
    quoted.filter(|name| {
        let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
        let is_file =
            extension.is_some_and(|extension| ["rs", "py", "pyi", "toml", "sh"].contains(&extension));
        // A bare name of a .toml file is an example.
        let is_example = extension == Some("toml") && !name.contains('/');
        is_file && !is_example && !name.contains(['*', '{', ' ', ':', '-']) && !name.contains("NAME")
    })
}

#[test]
fn files_that_documents_name_are_there() {
    let root = root();
    let mut known = BTreeSet::new();
    files(&root, &mut known);
    for document in DOCUMENTS {
        let text = fs::read_to_string(root.join(document)).unwrap();
        for name in named(&text) {
            // Where it is clear which folder is meant, a document gives the end of the path.
            assert!(
                known.iter().any(|path| path.ends_with(name)),
                "{document} names `{name}`, which is not there"
            );
        }
    }
}
