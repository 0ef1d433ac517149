//! A server and its clients, over sockets of this machine.

mod client;
mod conformance;
mod events;
mod live;
mod page;
mod server;
mod sglang;
mod tokens;
