//! Tests through the functions that C calls.

mod fuzz;
mod header;
mod threads;
