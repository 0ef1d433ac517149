//! What a user of the router sees.

mod config;
mod disaggregation;
mod growth;
mod index;
mod index_model;
mod load;
mod load_model;
mod queue;
mod robustness;
mod selection;
mod standalone;
mod standalone_properties;
mod support;
