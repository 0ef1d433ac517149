//! Behaviour of the engine against recordings of the real schedulers, and under random load.

mod oracle_vllm;
mod properties;
mod rules;
