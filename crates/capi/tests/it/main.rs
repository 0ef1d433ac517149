//! The library as C programs see it: installed, found by pkg-config, linked, run, and run under valgrind.

mod documentation;
mod installed;
mod programs;
