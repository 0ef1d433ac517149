//! The wire formats against bytes and texts spelled out by hand, and against random ones.

mod wire_convert;
mod wire_engine;
mod wire_index;
mod wire_properties;
mod wire_replica;
