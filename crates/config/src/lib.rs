//! What a deployment is, as its users say it, and what follows from that: settings in layers that know where each value
//! came from, engines, routers, latency models, and the load.
//!
//! ```text
//!  file, environment, flags, arguments ─▶ Layers ─▶ ReplayConfig ─▶ deployment::build ─▶ Topology
//!                                                        ├────────▶ router::build
//!                                                        └────────▶ Source::of ─▶ Workload
//! ```
//!
//! One definition of a setting ([`settings::ReplayConfig`]) is its key in files, its flag, its variable, its help and its
//! schema. Here files are read; nothing is written and nothing is printed.

pub mod deployment;
pub mod error;
pub mod files;
pub mod latency;
pub mod lines;
pub mod router;
pub mod settings;
pub mod source;
