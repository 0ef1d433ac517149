//! The library as C programs see it: installed, found by pkg-config, linked, run, and run under valgrind.
#![cfg(target_os = "linux")]

mod documentation;
mod installed;
mod programs;
