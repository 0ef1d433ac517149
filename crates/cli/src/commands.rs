//! The subcommands, a file each.

pub(crate) mod calibrate;
pub(crate) mod compare;
pub(crate) mod completions;
pub(crate) mod explain;
pub(crate) mod man;
pub(crate) mod replay;
pub(crate) mod schema;
pub(crate) mod trace;
pub(crate) mod validate;
