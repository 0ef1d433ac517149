//! The packs that come with servecast.

use crate::pack::{Pack, PackError};

/// GPUs by the name of their sheet, and their packs.
const PACKS: [(&str, &[u8]); 9] = [
    ("A100-80GB", include_bytes!("../data/ops/a100-80gb.ops")),
    ("B200", include_bytes!("../data/ops/b200.ops")),
    ("B300", include_bytes!("../data/ops/b300.ops")),
    ("GB200", include_bytes!("../data/ops/gb200.ops")),
    ("GB300", include_bytes!("../data/ops/gb300.ops")),
    ("H100-SXM", include_bytes!("../data/ops/h100-sxm.ops")),
    ("H200", include_bytes!("../data/ops/h200.ops")),
    ("L40S", include_bytes!("../data/ops/l40s.ops")),
    ("RTX-PRO-6000-Server", include_bytes!("../data/ops/rtx-pro-6000-server.ops")),
];

impl Pack {
    /// The pack of a GPU that comes with servecast, if there is one.
    pub fn of_gpu(name: &str) -> Option<Result<Self, PackError>> {
        PACKS.iter().find(|(gpu, _)| *gpu == name).map(|(_, bytes)| Self::read(*bytes))
    }

    /// The GPUs whose packs come with servecast.
    pub fn gpus() -> impl Iterator<Item = &'static str> {
        PACKS.iter().map(|(gpu, _)| *gpu)
    }
}
