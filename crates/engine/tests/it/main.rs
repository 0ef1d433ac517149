//! Behaviour of the engine against recordings of the real schedulers, and under random load.

mod expand;
mod groups;
mod load;
mod news;
mod offload;
mod oracle_dp;
mod oracle_sglang;
mod oracle_sglang_dp;
mod oracle_sglang_pd;
mod oracle_vllm;
mod order;
mod pipeline;
mod properties;
mod properties_sglang;
mod properties_sglang_pd;
mod ranks;
mod recording;
mod rules;
mod rules_drafts;
mod rules_lora;
mod rules_offload;
mod rules_sglang;
mod served;
