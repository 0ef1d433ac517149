//! Why measured layer times cannot be used.

/// Why measured layer times cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// A file that is no table of comma-separated values.
    #[error("{file}: {problem}")]
    Table {
        /// Which file.
        file: &'static str,
        /// What the reader says.
        problem: String,
    },
    /// A column is missing, or has another unit.
    #[error("{file}: there is no column `{column}`, only `{}`", found.join("`, `"))]
    Column {
        /// Which file.
        file: &'static str,
        /// What is needed.
        column: &'static str,
        /// What the header has.
        found: Vec<String>,
    },
    /// A value that is no number, or none that can be meant.
    #[error("{file}, line {line}: `{column}` is `{found}`, but must be {expected}")]
    Value {
        /// Which file.
        file: &'static str,
        /// Where, from 1.
        line: u64,
        /// Which column.
        column: String,
        /// What is there.
        found: String,
        /// What would be right.
        expected: &'static str,
    },
    /// A layer that the model runs was not measured.
    #[error("{file}: layer `{layer}` is missing, which the model runs in every pass; measure it")]
    MissingLayer {
        /// Which file.
        file: &'static str,
        /// Which layer.
        layer: String,
    },
    /// A model with experts whose experts were not measured.
    #[error(
        "moe.csv is missing, but the model has {count} experts a block: measure them by tokens and activated experts"
    )]
    NoExperts {
        /// Experts a block.
        count: u32,
    },
    /// A layer whose place in a pass is not known.
    #[error(
        "{file}: layer `{layer}` is unknown; expected {expected}, unless `layers` in profile.json says how often others run"
    )]
    UnknownLayer {
        /// Which file.
        file: &'static str,
        /// Which layer.
        layer: String,
        /// The layers of a dense model.
        expected: String,
    },
    /// The points of a layer are not in increasing order, or there is one twice.
    #[error("{file}, line {line}: {found} of layer `{layer}` comes after {before}, but points must increase")]
    Order {
        /// Which file.
        file: &'static str,
        /// Where, from 1.
        line: u64,
        /// Which layer.
        layer: String,
        /// The point.
        found: String,
        /// The point before it.
        before: String,
    },
    /// A table with too few points.
    #[error("{file}: {problem}")]
    Points {
        /// Which file.
        file: &'static str,
        /// What is missing.
        problem: String,
    },
}
