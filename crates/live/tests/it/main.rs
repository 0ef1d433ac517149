//! A server and its clients, over sockets of this machine.

mod client;
mod conformance;
mod events;
mod faults;
mod live;
mod load;
mod page;
mod server;
mod sglang;
mod tokens;
