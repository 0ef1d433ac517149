//! Flags that have a second name: messages say which one stands on the command line.

use std::ffi::OsString;

use crate::config::Layers;

/// Settings whose flag has a second name, and that name.
const SECOND_NAMES: [(&str, &str); 9] = [
    ("engine_args", "--engine-args"),
    ("num_workers", "--workers"),
    ("num_prefill_workers", "--prefill-workers"),
    ("num_decode_workers", "--decode-workers"),
    ("tensor_parallel_size", "--tp"),
    ("pipeline_parallel_size", "--pp"),
    ("data_parallel_size", "--dp"),
    ("expert_parallel_size", "--ep"),
    ("sla_tpot_ms", "--sla-itl-ms"),
];

/// Settings that are told of by the names of their flags that stand on the command line.
pub(crate) fn as_typed(mut layers: Layers, typed: impl Iterator<Item = OsString>) -> Layers {
    for argument in typed {
        let flag = argument.to_str().and_then(|text| text.split('=').next());
        if let Some((key, flag)) = SECOND_NAMES.into_iter().find(|(_, second)| Some(*second) == flag) {
            layers = layers.with_flag(key, flag);
        }
    }
    layers
}

#[cfg(test)]
mod tests {
    use clap::{Args, Command};

    use super::*;
    use crate::commands::replay::ReplayArgs;
    use crate::config::RouterFlags;

    #[test]
    fn second_names_are_those_of_flags() {
        let command = ReplayArgs::augment_args(Command::new("replay"));
        let router = RouterFlags::augment_args(Command::new("replay"));
        let of_router: Vec<_> = router.get_arguments().map(|arg| arg.get_id().clone()).collect();
        let mut known = Vec::new();
        for arg in command.get_arguments().filter(|arg| !of_router.contains(arg.get_id())) {
            let names = arg.get_visible_aliases().into_iter().flatten();
            known.extend(names.map(|name| (arg.get_id().to_string(), format!("--{name}"))));
        }
        known.sort();
        let mut told = SECOND_NAMES.map(|(key, flag)| (key.to_owned(), flag.to_owned()));
        told.sort();
        assert_eq!(known, told);
    }
}
