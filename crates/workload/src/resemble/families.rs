//! Which requests of a load belong together.

use rustc_hash::{FxHashMap, FxHashSet};

use crate::TraceRow;

/// How many ways a prefix has to go on to be one that many requests begin with.
const WAYS_ON: u32 = 16;

/// Requests that belong together: of one session, or with a prefix that is not everybody's.
pub(crate) struct Families {
    /// The rows of each, in order; families in the order of their first rows.
    pub(crate) members: Vec<Vec<usize>>,
    /// Ids of prefixes that many begin with.
    common: FxHashSet<u64>,
    /// How often each id occurs.
    uses: FxHashMap<u64, u32>,
}

impl Families {
    /// Of rows in order of time.
    pub(crate) fn of(rows: &[TraceRow]) -> Self {
        let common = common(rows);
        let mut uses: FxHashMap<u64, u32> = FxHashMap::default();
        let mut first_of: FxHashMap<u64, usize> = FxHashMap::default();
        let mut first_of_session: FxHashMap<&str, usize> = FxHashMap::default();
        let mut joined = Joined((0..rows.len()).collect());
        for (place, row) in rows.iter().enumerate() {
            if let Some(name) = &row.session_id {
                joined.join(*first_of_session.entry(name).or_insert(place), place);
            }
            for &id in row.hash_ids.iter().chain(&row.output_ids) {
                *uses.entry(id).or_default() += 1;
                if !common.contains(&id) {
                    joined.join(*first_of.entry(id).or_insert(place), place);
                }
            }
        }
        let mut families: FxHashMap<usize, usize> = FxHashMap::default();
        let mut members: Vec<Vec<usize>> = Vec::new();
        for place in 0..rows.len() {
            let next = members.len();
            let family = *families.entry(joined.root(place)).or_insert(next);
            if family == next {
                members.push(Vec::new());
            }
            members[family].push(place);
        }
        Self { members, common, uses }
    }

    /// Whether an id is part of what many requests begin with.
    pub(crate) fn is_common(&self, id: u64) -> bool {
        self.common.contains(&id)
    }

    /// Whether an id occurs once.
    pub(crate) fn is_alone(&self, id: u64) -> bool {
        self.uses.get(&id) == Some(&1)
    }

    /// How many ids are part of what many requests begin with.
    pub(crate) fn num_common(&self) -> usize {
        self.common.len()
    }
}

/// Ids after which prompts go on in many ways, and those before them.
fn common(rows: &[TraceRow]) -> FxHashSet<u64> {
    let mut steps: FxHashSet<(u64, u64)> = FxHashSet::default();
    let mut ways: FxHashMap<u64, u32> = FxHashMap::default();
    for pair in rows.iter().flat_map(|row| row.hash_ids.windows(2)) {
        if steps.insert((pair[0], pair[1])) {
            *ways.entry(pair[0]).or_default() += 1;
        }
    }
    let mut common = FxHashSet::default();
    for row in rows {
        let last = row.hash_ids.iter().rposition(|id| ways.get(id).is_some_and(|ways| *ways >= WAYS_ON));
        common.extend(row.hash_ids[..last.map_or(0, |last| last + 1)].iter().copied());
    }
    common
}

/// Sets of rows that are joined one by one.
struct Joined(Vec<usize>);

impl Joined {
    fn root(&mut self, mut place: usize) -> usize {
        while self.0[place] != place {
            self.0[place] = self.0[self.0[place]];
            place = self.0[place];
        }
        place
    }

    fn join(&mut self, one: usize, other: usize) {
        let (one, other) = (self.root(one), self.root(other));
        self.0[one.max(other)] = one.min(other);
    }
}
