//! A server and its clients, over sockets of this machine.

mod caches;
mod client;
mod conformance;
mod events;
mod faults;
mod hostile;
mod live;
mod load;
mod page;
mod server;
mod sglang;
mod tokens;
