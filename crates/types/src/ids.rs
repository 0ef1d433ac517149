//! The numbers of requests, workers, blocks and pools.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($number:ty)) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $number);

        impl $name {
            /// The id as an index into a vector.
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// One request of a run, numbered in order of arrival at the cluster.
    RequestId(u32)
);
id!(
    /// One worker of a pool, numbered from 0.
    WorkerId(u32)
);
id!(
    /// One pool of a deployment, in the order in which a request meets them.
    PoolId(u16)
);
id!(
    /// One physical KV block of a worker; with a reserved null block the usable ones start at 1, as in vLLM.
    BlockId(u32)
);
id!(
    /// A class of requests, in the order in which the trace names them.
    ClassId(u16)
);

/// What requests are routed to: one data-parallel rank of one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rank {
    /// The worker.
    pub worker: WorkerId,
    /// Its data-parallel rank, from 0.
    #[serde(rename = "dp_rank", default)]
    pub dp: u32,
}

impl Rank {
    /// The first rank of a worker, which is its only one without data parallelism.
    pub const fn of_worker(worker: WorkerId) -> Self {
        Self { worker, dp: 0 }
    }
}

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "worker {} rank {}", self.worker, self.dp)
    }
}
