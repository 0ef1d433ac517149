//! A hash table whose entries lie in the order of their keys, as far as keys are adjacent numbers.
//!
//! [`BlockHasher`](crate::BlockHasher) gives the blocks of one run of tokens consecutive identities. Such blocks come and
//! go together, so a table that keeps them side by side costs a miss of the processor's cache or two a run, instead of
//! one a block.
//!
//! ```text
//!  identity   …  bits 4 and up        bits 0–3
//!                └─ hashed ─▶ group   └─▶ place in the group of 16, and on from there to the next free one
//! ```

/// A set of numbers below 2³² − 2, each found by the 64-bit key that the caller knows it to have.
///
/// Open addressing with linear probing, at most half full. An entry that is removed leaves a mark where others were
/// pushed beyond it or may have been; the last one of a row leaves nothing and clears the marks before it, and so does a
/// run of neighbours that goes from its end.
#[derive(Debug, Clone)]
pub struct NearTable {
    /// Low half: the value, [`FREE`] or [`GONE`]. High half: the [`tag`] of the value.
    slots: Vec<u64>,
    len: usize,
    /// Slots with [`GONE`].
    gone: usize,
}

/// Ends a search.
const FREE: u64 = u32::MAX as u64;
/// A search goes on behind it.
const GONE: u64 = FREE - 1;
const FEWEST_SLOTS: usize = 64;
/// Bits of a tag that are the place in a group.
const GROUP_BITS: u32 = 4;

/// 32 bits of a key that tell it from its neighbours, and from nearly all others.
///
/// The upper half is spread over all bits and added, which leaves neighbours neighbours.
const fn tag(key: u64) -> u32 {
    let upper = (key >> 32).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    (key as u32).wrapping_add(upper as u32)
}

impl Default for NearTable {
    fn default() -> Self {
        Self { slots: vec![FREE; FEWEST_SLOTS], len: 0, gone: 0 }
    }
}

impl NearTable {
    /// Number of entries.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no entries.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The values, in no order that means anything.
    pub fn values(&self) -> impl Iterator<Item = u32> + '_ {
        self.slots.iter().filter(|&&slot| is_entry(slot)).map(|&slot| slot as u32)
    }

    /// The value with this key; `key_of` gives the key of a value in the table.
    pub fn get(&self, key: u64, key_of: impl Fn(u32) -> u64) -> Option<u32> {
        self.find(key, key_of).ok().map(|at| self.slots[at] as u32)
    }

    /// Adds a value unless there is one with its key, which is then returned.
    pub fn insert(&mut self, key: u64, new: u32, key_of: impl Fn(u32) -> u64) -> Option<u32> {
        debug_assert!(u64::from(new) < GONE, "the last two numbers are no values");
        match self.find(key, key_of) {
            Ok(at) => Some(self.slots[at] as u32),
            Err(at) => {
                self.gone -= usize::from(self.slots[at] == GONE);
                self.slots[at] = entry(key, new);
                self.len += 1;
                if (self.len + self.gone) * 2 > self.slots.len() {
                    self.rebuild();
                }
                None
            }
        }
    }

    /// Puts another value in the place of the one with this key.
    ///
    /// # Panics
    /// If there is none.
    pub fn replace(&mut self, key: u64, new: u32, key_of: impl Fn(u32) -> u64) {
        let at = self.find(key, key_of).expect("what is replaced is there");
        self.slots[at] = entry(key, new);
    }

    /// Takes a value out; false if it is not there under this key.
    pub fn remove(&mut self, key: u64, old: u32) -> bool {
        let wanted = entry(key, old);
        let mut at = self.home(tag(key));
        while self.slots[at] != wanted {
            if self.slots[at] == FREE {
                return false;
            }
            at = self.after(at);
        }
        self.len -= 1;
        if self.slots[self.after(at)] != FREE {
            self.slots[at] = GONE;
            self.gone += 1;
            return true;
        }
        self.slots[at] = FREE;
        at = self.before(at);
        while self.slots[at] == GONE {
            self.slots[at] = FREE;
            self.gone -= 1;
            at = self.before(at);
        }
        true
    }

    /// Where the key is, or where it would go.
    fn find(&self, key: u64, key_of: impl Fn(u32) -> u64) -> Result<usize, usize> {
        let tag = tag(key);
        let mut at = self.home(tag);
        let mut gone = None;
        loop {
            let slot = self.slots[at];
            if slot == FREE {
                return Err(gone.unwrap_or(at));
            }
            if slot == GONE {
                gone = gone.or(Some(at));
            } else if (slot >> 32) as u32 == tag && key_of(slot as u32) == key {
                return Ok(at);
            }
            at = self.after(at);
        }
    }

    fn home(&self, tag: u32) -> usize {
        let group = u64::from(tag >> GROUP_BITS).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        let place = ((group as usize) << GROUP_BITS) | (tag as usize & ((1 << GROUP_BITS) - 1));
        place & (self.slots.len() - 1)
    }

    fn after(&self, at: usize) -> usize {
        (at + 1) & (self.slots.len() - 1)
    }

    fn before(&self, at: usize) -> usize {
        at.wrapping_sub(1) & (self.slots.len() - 1)
    }

    /// Drops the marks of what was removed, and makes room if that was not enough.
    fn rebuild(&mut self) {
        let size = self.slots.len() << u32::from(self.len * 4 > self.slots.len());
        self.gone = 0;
        for slot in std::mem::replace(&mut self.slots, vec![FREE; size]) {
            if is_entry(slot) {
                let mut at = self.home((slot >> 32) as u32);
                while self.slots[at] != FREE {
                    at = self.after(at);
                }
                self.slots[at] = slot;
            }
        }
    }
}

fn entry(key: u64, value: u32) -> u64 {
    u64::from(tag(key)) << 32 | u64::from(value)
}

const fn is_entry(slot: u64) -> bool {
    slot & 0xFFFF_FFFF < GONE
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rustc_hash::FxHashMap;

    use super::*;

    #[test]
    fn neighbours_lie_side_by_side() {
        let mut table = NearTable::default();
        let first = 0x1234_5678_9ABC_DE45;
        let key_of = |value: u32| first + u64::from(value);
        (0..8).for_each(|value| assert_eq!(table.insert(key_of(value), value, key_of), None));
        let taken: Vec<usize> = (0..table.slots.len()).filter(|&at| is_entry(table.slots[at])).collect();
        let groups = taken.chunk_by(|a, b| a + 1 == *b).count();
        assert!(groups <= 2, "eight neighbours are in two groups at most: {taken:?}");
        (0..8).rev().for_each(|value| assert!(table.remove(key_of(value), value)));
        assert_eq!((table.len(), table.gone), (0, 0), "a run that goes from its end leaves no marks");
    }

    proptest! {
        /// Keys that meet often: few groups, equal tags with other keys, runs of neighbours.
        #[test]
        fn it_is_a_map(steps in prop::collection::vec((0_u8..4, 0_u64..3, 0_u64..60), 1..400)) {
            let (mut table, mut model) = (NearTable::default(), FxHashMap::default());
            let mut keys = Vec::new();
            for (what, upper, lower) in steps {
                // Equal tags for different `upper`.
                let key = upper << 32 | (lower.wrapping_sub(u64::from(tag(upper << 32))) & 0xFFFF_FFFF);
                prop_assert_eq!(u64::from(tag(key)), lower);
                let new = keys.len() as u32;
                keys.push(key);
                let key_of = |value: u32| keys[value as usize];
                match what {
                    0 | 1 => {
                        let there = model.get(&key).copied();
                        prop_assert_eq!(table.insert(key, new, key_of), there);
                        model.entry(key).or_insert(new);
                    }
                    2 => {
                        let there = model.remove(&key);
                        prop_assert_eq!(table.remove(key, there.unwrap_or(new)), there.is_some());
                    }
                    _ => if let Some(value) = model.get_mut(&key) {
                        table.replace(key, new, key_of);
                        *value = new;
                    }
                }
                prop_assert_eq!(table.get(key, key_of), model.get(&key).copied());
                prop_assert_eq!(table.len(), model.len());
                prop_assert_eq!(table.is_empty(), model.is_empty());
                prop_assert_eq!(table.gone, table.slots.iter().filter(|&&slot| slot == GONE).count());
            }
            let mut values: Vec<u32> = table.values().collect();
            values.sort_unstable();
            let mut expected: Vec<u32> = model.values().copied().collect();
            expected.sort_unstable();
            prop_assert_eq!(values, expected);
            for (&key, &value) in &model {
                prop_assert_eq!(table.get(key, |value| keys[value as usize]), Some(value));
            }
        }
    }
}
