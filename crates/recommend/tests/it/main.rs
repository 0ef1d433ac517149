//! Searches against enumeration, and runs that are cut off against runs to the end.

mod cutoff;
mod search;
