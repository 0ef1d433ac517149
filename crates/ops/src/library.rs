//! Finds a measured operator: of the engine that runs, or of another one where that has none.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::grid::Grid;
use crate::pack::{KeyValue, Pack, PackError, SectionHeader};
use crate::setup::EngineName;

/// The key of a table, by the names of its parts.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key<'a> {
    names: &'a [String],
    values: &'a [KeyValue],
}

impl<'a> Key<'a> {
    fn value(&self, name: &str) -> Option<&'a KeyValue> {
        self.names.iter().position(|known| known == name).and_then(|at| self.values.get(at))
    }

    /// A part that is a name; empty if there is none.
    pub(crate) fn text(&self, name: &str) -> &'a str {
        self.value(name).and_then(KeyValue::text).unwrap_or_default()
    }

    /// A part that is a number; 0 if there is none.
    pub(crate) fn number(&self, name: &str) -> u32 {
        self.value(name).and_then(KeyValue::number).unwrap_or_default()
    }
}

/// A measured operator and where it was found.
#[derive(Debug, Clone)]
pub(crate) struct Found<K> {
    pub(crate) grid: Grid,
    /// What [`Library::find`]'s caller made of its key.
    pub(crate) key: K,
    /// Operator, engine and version.
    pub(crate) source: String,
}

/// A pack, read in the order of preference of one engine.
#[derive(Debug)]
pub(crate) struct Library<'a> {
    pack: Option<&'a Pack>,
    engine: EngineName,
    version: Option<Version>,
    unpacked: BTreeMap<usize, Vec<Grid>>,
}

impl<'a> Library<'a> {
    pub(crate) fn new(pack: Option<&'a Pack>, engine: EngineName, version: Option<&str>) -> Self {
        Self { pack, engine, version: version.map(Version::of), unpacked: BTreeMap::new() }
    }

    /// The table of an operator that `distance` calls nearest: 0 is what was looked for, `None` no match. Of equal
    /// ones, that of the engine's own, of the version nearest to its own.
    pub(crate) fn find<K>(
        &mut self,
        op: &str,
        distance: impl Fn(Key<'_>) -> Option<(f64, K)>,
    ) -> Result<Option<Found<K>>, PackError> {
        self.find_of(op, self.engine, distance)
    }

    /// The same, with another engine before the others.
    pub(crate) fn find_of<K>(
        &mut self,
        op: &str,
        engine: EngineName,
        distance: impl Fn(Key<'_>) -> Option<(f64, K)>,
    ) -> Result<Option<Found<K>>, PackError> {
        let Some(pack) = self.pack else { return Ok(None) };
        let sections = &pack.header().sections;
        let mut best: Option<(f64, usize, usize, K)> = None;
        for section in self.in_order(op, engine, sections) {
            let header = &sections[section];
            for (table, values) in header.keys().enumerate() {
                let Some((far, key)) = distance(Key { names: &header.key, values }) else { continue };
                if best.as_ref().is_none_or(|(least, ..)| far < *least) {
                    best = Some((far, section, table, key));
                }
            }
        }
        let Some((_, section, table, key)) = best else { return Ok(None) };
        let tables = match self.unpacked.entry(section) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(pack.tables(section)?),
        };
        let grid = tables[table].clone();
        Ok(Some(Found { grid, key, source: sections[section].name() }))
    }

    /// Sections of an operator, the preferred ones first.
    fn in_order(&self, op: &str, engine: EngineName, sections: &[SectionHeader]) -> Vec<usize> {
        let mut found: Vec<usize> =
            (0..sections.len()).filter(|section| sections[*section].op == op).collect();
        let preference = |section: &usize| {
            let header = &sections[*section];
            let version = Version::of(&header.version);
            // Without a version of its own, the newest is the nearest.
            let far = self.version.unwrap_or(Version::NEWEST).far_from(version);
            (engine.preference(&header.engine), far, *section)
        };
        found.sort_by_key(preference);
        found
    }
}

/// A version as a number that grows with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version(u64);

impl Version {
    const NEWEST: Self = Self(u64::MAX);

    /// The first three numbers of a text like `1.3.0rc20`.
    fn of(text: &str) -> Self {
        let number = |part: &str| {
            let digits: String = part.chars().take_while(char::is_ascii_digit).collect();
            digits.parse::<u64>().unwrap_or(0).min(999)
        };
        let mut parts = text.split('.').map(number);
        let mut next = || parts.next().unwrap_or(0);
        Self(next() * 1_000_000 + next() * 1_000 + next())
    }

    fn far_from(self, other: Self) -> u64 {
        self.0.abs_diff(other.0)
    }
}
