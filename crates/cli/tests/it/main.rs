//! The `servecast` binary, from outside.

mod bad_input;
mod calibrate;
mod compare;
mod help;
mod interrupt;
mod kv_router;
mod latency;
mod oracle_bad;
mod output;
mod provenance;
mod readme;
mod replay;
mod sandbox;
mod settings;
mod sglang;
mod terminal;
mod timeline;
mod trace;
mod validate;
mod vary;
mod workspace;
