//! Behaviour of the engine against recordings of the real schedulers, and under random load.

mod oracle_sglang;
mod oracle_vllm;
mod properties;
mod recording;
mod rules;
