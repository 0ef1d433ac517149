//! The `servecast` binary, from outside.

mod bad_input;
mod calibrate;
mod compare;
mod formats;
mod help;
mod interrupt;
mod known;
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
mod silicon;
mod terminal;
mod timeline;
mod trace;
mod trace_forms;
mod unknown;
mod validate;
mod vary;
mod workspace;
