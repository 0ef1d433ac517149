//! Iteration times of the GPUs that people rent, composed from measured times of their operators.
//!
//! A [`Pack`] holds the measured operators of a GPU, a [`Composition`] adds up those that a model needs, and [`Ops`] is
//! the [latency model](servecast_latency::LatencyModel) over it. `docs/ops-packs.md` says what packs hold, and
//! `docs/latency.md` how times are composed.

mod compose;
mod constants;
mod family;
mod folds;
mod graphs;
mod grid;
mod library;
mod model;
mod pack;
mod packs;
mod roof;
mod setup;
mod surface;

pub use compose::{Composition, Measured, Origin, Part};
pub use constants::{Constants, ConstantsError, FrontEnd};
pub use family::{family, generation};
pub use folds::{LeftOut, constants_without, fold_of_scenario};
pub use graphs::{GraphSettings, Graphs};
pub use grid::Grid;
pub use model::Ops;
pub use pack::{KeyValue, Pack, PackError, PackHeader, SectionHeader};
pub use setup::{AttentionKernels, EngineName, OpsSetup};
