use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u32);

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
    RequestId
);
id!(
    /// One worker of a pool, numbered from 0.
    WorkerId
);
id!(
    /// One physical KV block of a worker; with a reserved null block the usable ones start at 1, as in vLLM.
    BlockId
);
