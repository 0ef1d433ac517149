//! Tables of comma-separated values, checked number by number.

use super::ProfileError;

/// Rows of numbers, with the line of each and the name of a layer where the table has one.
pub(crate) struct Rows {
    pub(crate) rows: Vec<Row>,
}

pub(crate) struct Row {
    pub(crate) line: u64,
    pub(crate) layer: String,
    pub(crate) values: Vec<f64>,
}

/// Reads the named columns, which hold finite numbers of at least 0 unless they are in `signed`.
pub(crate) fn read(
    file: &'static str,
    text: &str,
    layer: bool,
    columns: &[&'static str],
) -> Result<Rows, ProfileError> {
    let broken = |error: &csv::Error| ProfileError::Table { file, problem: error.to_string() };
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::Headers).from_reader(text.as_bytes());
    let header: Vec<String> =
        reader.headers().map_err(|error| broken(&error))?.iter().map(str::to_owned).collect();
    let place = |column: &'static str| {
        header.iter().position(|name| name == column).ok_or_else(|| ProfileError::Column {
            file,
            column,
            found: header.clone(),
        })
    };
    let layer_place = if layer { Some(place("layer")?) } else { None };
    let places: Vec<usize> = columns.iter().map(|&column| place(column)).collect::<Result<_, _>>()?;
    let mut rows = Vec::new();
    let mut record = csv::StringRecord::new();
    while reader.read_record(&mut record).map_err(|error| broken(&error))? {
        let line = record.position().map_or(0, csv::Position::line);
        let value = |(&place, &column): (&usize, &&'static str)| {
            let found = record[place].trim();
            match found.parse::<f64>() {
                Ok(value) if value.is_finite() && value >= 0.0 => Ok(value),
                _ => Err(ProfileError::Value {
                    file,
                    line,
                    column: column.to_owned(),
                    found: found.to_owned(),
                    expected: "a number of at least 0",
                }),
            }
        };
        let mut values = Vec::with_capacity(columns.len());
        for column in places.iter().zip(columns) {
            values.push(value(column)?);
        }
        let layer = layer_place.map_or_else(String::new, |place| record[place].trim().to_owned());
        rows.push(Row { line, layer, values });
    }
    if rows.is_empty() {
        return Err(ProfileError::Points { file, problem: "the table has no rows".to_owned() });
    }
    Ok(Rows { rows })
}

/// A measured curve: strictly increasing points, linear in between.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Curve {
    points: Vec<(f64, f64)>,
}

impl Curve {
    pub(crate) fn add(&mut self, file: &'static str, row: &Row) -> Result<(), ProfileError> {
        let (x, y) = (row.values[0], row.values[1]);
        if let Some(&(before, _)) = self.points.last()
            && x <= before
        {
            return Err(ProfileError::Order {
                file,
                line: row.line,
                layer: row.layer.clone(),
                found: x.to_string(),
                before: before.to_string(),
            });
        }
        self.points.push((x, y));
        Ok(())
    }

    pub(crate) fn last(&self) -> f64 {
        self.points.last().map_or(0.0, |&(x, _)| x)
    }

    /// The value at `x`; constant before the first point and after the last one.
    pub(crate) fn at(&self, x: f64) -> f64 {
        let next = self.points.partition_point(|&(point, _)| point < x);
        let after = self.points[next.min(self.points.len() - 1)];
        let before = self.points[next.saturating_sub(1)];
        if after.0 <= before.0 || x >= after.0 {
            return after.1;
        }
        before.1 + (after.1 - before.1) * (x - before.0) / (after.0 - before.0)
    }
}
