//! The closing line of `cargo test`: how many recordings the tests of all crates compared, and how many they missed.
//!
//! No tests are here. A test binary of its own prints to the terminal, where `cargo test` would keep back what a test
//! prints; it runs last, since its crate is the last by name.

#![expect(clippy::print_stdout, reason = "the line is all that this is for")]

fn main() {
    // Tools ask test binaries for their tests.
    if std::env::args().any(|argument| argument == "--list") {
        return;
    }
    let tally = testkit::Tally::take();
    // With a filter, there may have been no test of recordings.
    if tally != testkit::Tally::default() {
        println!("\n{tally}\n");
    }
}
