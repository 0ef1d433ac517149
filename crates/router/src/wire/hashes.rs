//! Hashes as plain `u64` on the wire and as the types that keep the two kinds apart in memory: for
//! `#[serde(with = …)]`.

use servecast_types::{BlockHash, SequenceHash};

pub(super) trait Hash64: Copy {
    fn new(value: u64) -> Self;
    fn get(self) -> u64;
}

macro_rules! hash64 {
    ($hash:ident) => {
        impl Hash64 for $hash {
            fn new(value: u64) -> Self {
                Self(value)
            }

            fn get(self) -> u64 {
                self.0
            }
        }
    };
}

hash64!(BlockHash);
hash64!(SequenceHash);

macro_rules! plain {
    ($(#[$doc:meta])* $module:ident: $many:ty as $raw:ty, $write:expr, $read:expr) => {
        $(#[$doc])*
        pub(in crate::wire) mod $module {
            use serde::{Deserialize, Deserializer, Serialize, Serializer};

            use super::Hash64;

            pub(in crate::wire) fn serialize<T: Hash64, S: Serializer>(
                value: &$many,
                serializer: S,
            ) -> Result<S::Ok, S::Error> {
                let write: fn(&$many) -> $raw = $write;
                write(value).serialize(serializer)
            }

            pub(in crate::wire) fn deserialize<'de, T: Hash64, D: Deserializer<'de>>(
                deserializer: D,
            ) -> Result<$many, D::Error> {
                let read: fn($raw) -> $many = $read;
                <$raw>::deserialize(deserializer).map(read)
            }
        }
    };
}

plain!(
    /// One hash.
    one: T as u64, |hash| hash.get(), T::new
);
plain!(
    /// A hash or null.
    optional: Option<T> as Option<u64>, |hash| hash.map(T::get), |raw| raw.map(T::new)
);
plain!(
    /// A list of hashes.
    many: Vec<T> as Vec<u64>,
    |hashes| hashes.iter().map(|hash| hash.get()).collect(),
    |raw| raw.into_iter().map(T::new).collect()
);
plain!(
    /// A list of hashes or null.
    optional_many: Option<Vec<T>> as Option<Vec<u64>>,
    |hashes| hashes.as_ref().map(|hashes| hashes.iter().map(|hash| hash.get()).collect()),
    |raw| raw.map(|raw| raw.into_iter().map(T::new).collect())
);
