//! The file of a GPU's measured operators: `docs/ops-packs.md` describes its form.

use std::borrow::Cow;
use std::sync::Arc;

use serde::Deserialize;

use crate::grid::Grid;

const MAGIC: &[u8; 4] = b"SVOP";
/// The only form of the file so far.
const SCHEMA: u32 = 1;
/// Bytes before the packed header: magic, schema, and the header's length.
const PREFIX: usize = 12;
/// Most bytes that a header or a section unpacks to: a hundred times what any has.
const MOST_BYTES: usize = 1 << 28;

/// Why a pack cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackError {
    /// The file is of another kind.
    #[error("it is no pack of operators: it does not begin with SVOP")]
    NoPack,
    /// The file is of a form that this version does not know.
    #[error("it has schema {found}, but this version of servecast reads schema {SCHEMA}")]
    Schema {
        /// The schema that it has.
        found: u32,
    },
    /// Bytes are missing.
    #[error("it is truncated: {what} should end at byte {end}, but the file has {has}")]
    Truncated {
        /// What is not all there.
        what: String,
        /// Where it should end.
        end: u64,
        /// The file's length.
        has: usize,
    },
    /// A part cannot be unpacked, or does not hold what it should.
    #[error("{what} is damaged: {problem}")]
    Damaged {
        /// Which part.
        what: String,
        /// What is wrong.
        problem: String,
    },
}

/// What a pack says of itself and of what it holds.
#[derive(Debug, Clone, Deserialize)]
pub struct PackHeader {
    /// The GPU, by the name of its [sheet](servecast_latency::GpuSheet).
    pub gpu: String,
    /// Licence of the figures.
    pub licence: String,
    /// Whose they are.
    pub attribution: String,
    /// What was changed of them.
    pub changes: String,
    /// The package that they come from.
    pub package: String,
    /// Measured operators, by engine and version.
    pub sections: Vec<SectionHeader>,
}

/// One operator of one version of an engine.
#[derive(Debug, Clone, Deserialize)]
pub struct SectionHeader {
    /// The operator.
    pub op: String,
    /// The engine whose kernels were timed.
    pub engine: String,
    /// The engine's version.
    pub version: String,
    /// Names of what a table's key consists of.
    pub key: Vec<String>,
    /// Names of the axes of its tables, the slowest first.
    pub axes: Vec<String>,
    values: Vec<Vec<f64>>,
    tables: Vec<(Vec<KeyValue>, Vec<usize>)>,
    offset: u64,
    bytes: u64,
}

/// A part of a table's key.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum KeyValue {
    /// A number.
    Number(f64),
    /// A name.
    Text(String),
}

impl KeyValue {
    /// The number, if it is one.
    pub fn number(&self) -> Option<u32> {
        match self {
            Self::Number(number) => Some(*number as u32),
            Self::Text(_) => None,
        }
    }

    /// The name, if it is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Number(_) => None,
            Self::Text(text) => Some(text),
        }
    }
}

impl SectionHeader {
    /// The keys of its tables.
    pub fn keys(&self) -> impl Iterator<Item = &[KeyValue]> {
        self.tables.iter().map(|(key, _)| key.as_slice())
    }

    /// How it is called in messages.
    pub fn name(&self) -> String {
        format!("{} of {} {}", self.op, self.engine, self.version)
    }

    /// Codes of a table.
    fn points(&self, table: usize) -> Option<usize> {
        let mut lengths = self.tables[table].1.iter().map(|axis| self.values.get(*axis).map(Vec::len));
        lengths.try_fold(1_usize, |points, length| points.checked_mul(length?))
    }
}

/// Measured operators of a GPU.
#[derive(Debug, Clone)]
pub struct Pack {
    header: Arc<PackHeader>,
    sections: Cow<'static, [u8]>,
}

impl Pack {
    /// Reads a pack's header; its sections are unpacked where they are asked for.
    pub fn read(bytes: impl Into<Cow<'static, [u8]>>) -> Result<Self, PackError> {
        let bytes = bytes.into();
        if bytes.get(..4) != Some(MAGIC) {
            return Err(PackError::NoPack);
        }
        let truncated =
            |what: &str, end: u64| PackError::Truncated { what: what.to_owned(), end, has: bytes.len() };
        let number = |at: usize| {
            let number = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
            number.map(u32::from_le_bytes).ok_or_else(|| truncated("its header", PREFIX as u64))
        };
        let schema = number(4)?;
        if schema != SCHEMA {
            return Err(PackError::Schema { found: schema });
        }
        let end = PREFIX as u64 + u64::from(number(8)?);
        let packed = bytes.get(PREFIX..end as usize).ok_or_else(|| truncated("its header", end))?;
        let damaged = |problem: String| PackError::Damaged { what: "its header".to_owned(), problem };
        let text = unpacked(packed).map_err(|error| damaged(error.to_string()))?;
        let header: PackHeader = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
        let has = bytes.len() as u64;
        for section in &header.sections {
            let last = end.saturating_add(section.offset).saturating_add(section.bytes);
            if last > has {
                return Err(truncated(&section.name(), last));
            }
        }
        let sections = match bytes {
            Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[end as usize..]),
            Cow::Owned(mut bytes) => Cow::Owned(bytes.split_off(end as usize)),
        };
        Ok(Self { header: Arc::new(header), sections })
    }

    /// What it says of itself.
    pub fn header(&self) -> &PackHeader {
        &self.header
    }

    /// The tables of a section, in the order of its [keys](SectionHeader::keys).
    pub fn tables(&self, section: usize) -> Result<Vec<Grid>, PackError> {
        let section = &self.header.sections[section];
        let damaged = |problem: String| PackError::Damaged { what: section.name(), problem };
        let packed = &self.sections[section.offset as usize..(section.offset + section.bytes) as usize];
        let codes = unpacked(packed).map_err(|error| damaged(error.to_string()))?;
        let points = (0..section.tables.len()).map(|table| section.points(table));
        let points = points.collect::<Option<Vec<usize>>>().filter(|points| {
            points.iter().try_fold(0_usize, |sum, points| sum.checked_add(*points)) == Some(codes.len() / 2)
                && codes.len().is_multiple_of(2)
        });
        let points = points.ok_or_else(|| {
            damaged(format!("it unpacks to {} bytes, which are not those of its tables", codes.len()))
        })?;
        let (low, high) = codes.split_at(codes.len() / 2);
        let mut at = 0;
        let mut grids = Vec::with_capacity(points.len());
        for ((_, axes), points) in section.tables.iter().zip(points) {
            let axes: Vec<Vec<f64>> = axes.iter().map(|axis| section.values[*axis].clone()).collect();
            let codes = low[at..at + points].iter().zip(&high[at..at + points]);
            let differences = codes.map(|(low, high)| u16::from_le_bytes([*low, *high]));
            let grid = Grid::from_differences(axes, differences)
                .ok_or_else(|| damaged("the values of an axis do not rise".to_owned()))?;
            grids.push(grid);
            at += points;
        }
        Ok(grids)
    }
}

fn unpacked(packed: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut decoder = zstd::Decoder::new(packed)?;
    let mut bytes = Vec::new();
    let limited = &mut std::io::Read::take(&mut decoder, MOST_BYTES as u64);
    std::io::Read::read_to_end(limited, &mut bytes)?;
    Ok(bytes)
}
