//! Grids from the raw measurements of Dynamo's profiler: prompts and decodes in a file each.

use std::io::{Cursor, Read};

use serde_json::{Map, Value};

use super::{Curve, Grid, GridError};

impl Grid {
    /// Makes a grid of two files of measurements, each an `.npz` archive or a JSON object of arrays:
    ///
    /// - prompts: `prefill_isl` in tokens and `prefill_ttft` in ms;
    /// - decodes: `x_kv_usage` as a share of the KV cache, `y_context_length` in tokens and `z_itl` in ms, point by
    ///   point, and `max_kv_tokens`, the tokens that the cache holds.
    ///
    /// Decodes are measured at some fillings for each context length. A grid needs them at the same ones, so each
    /// context length is interpolated linearly at the fillings of all others, and constant beyond its own.
    pub fn from_raw(prompts: &[u8], decodes: &[u8]) -> Result<Self, GridError> {
        let (prompts, decodes) = (Arrays::read(prompts)?, Arrays::read(decodes)?);
        let isl = prompts.vector("prefill_isl", None)?;
        let prompt = curve("prefill_isl", pairs(&isl, &prompts.vector("prefill_ttft", Some(isl.len()))?))?;
        let usage = decodes.vector("x_kv_usage", None)?;
        let context = decodes.vector("y_context_length", Some(usage.len()))?;
        let itl_ms = decodes.vector("z_itl", Some(usage.len()))?;
        let capacity = decodes.vector("max_kv_tokens", Some(1))?[0];
        if capacity < 1.0 {
            return Err(GridError::Array {
                name: "max_kv_tokens",
                problem: format!("it is {capacity}, but must be at least 1"),
            });
        }
        let contexts = distinct(&context);
        let usages = distinct(&usage);
        if contexts.len() < 2 {
            return Err(GridError::Points(format!(
                "decodes were measured at {} context length, but a grid needs at least two",
                contexts.len()
            )));
        }
        let mut columns = Vec::new();
        for &length in &contexts {
            let at_length = (0..usage.len()).filter(|&point| context[point].total_cmp(&length).is_eq());
            columns
                .push(curve("x_kv_usage", at_length.map(|point| (usage[point], itl_ms[point])).collect())?);
        }
        let row = |&usage: &f64| columns.iter().map(move |column| column.clamped(usage)).collect::<Vec<_>>();
        Ok(Self {
            prompt,
            decode_ms: usages.iter().flat_map(row).collect(),
            decode_active: usages.iter().map(|usage| usage * capacity).collect(),
            decode_context: contexts,
        })
    }
}

impl Curve {
    /// The value at `x`; constant beyond both ends.
    fn clamped(&self, x: f64) -> f64 {
        self.at(x.clamp(self.x[0], self.x[self.x.len() - 1]))
    }
}

fn pairs(x: &[f64], y: &[f64]) -> Vec<(f64, f64)> {
    x.iter().copied().zip(y.iter().copied()).collect()
}

/// A curve through measured points in any order; points measured twice count with their mean.
fn curve(name: &'static str, mut points: Vec<(f64, f64)>) -> Result<Curve, GridError> {
    points.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)));
    let mut curve = Curve { x: Vec::new(), y: Vec::new() };
    for same in points.chunk_by(|a, b| a.0.total_cmp(&b.0).is_eq()) {
        curve.x.push(same[0].0);
        curve.y.push(same.iter().map(|point| point.1).sum::<f64>() / same.len() as f64);
    }
    if curve.x.len() < 2 { Err(GridError::Axis { name }) } else { Ok(curve) }
}

fn distinct(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_unstable_by(f64::total_cmp);
    values.dedup();
    values
}

/// Arrays of numbers by name, from either kind of file.
enum Arrays<'a> {
    Npz(&'a [u8]),
    Json(Map<String, Value>),
}

impl<'a> Arrays<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, GridError> {
        if bytes.starts_with(b"PK") {
            return Ok(Self::Npz(bytes));
        }
        let object = serde_json::from_slice(bytes).map_err(|error| GridError::Json(error.to_string()))?;
        Ok(Self::Json(object))
    }

    /// The numbers of an array, none of them negative, and as many as there should be.
    fn vector(&self, name: &'static str, length: Option<usize>) -> Result<Vec<f64>, GridError> {
        let numbers = match self {
            Self::Npz(bytes) => of_npz(bytes, name)?,
            Self::Json(object) => of_json(object, name)?,
        };
        if let Some(number) = numbers.iter().find(|number| !(number.is_finite() && **number >= 0.0)) {
            return Err(GridError::Array { name, problem: format!("it holds {number}") });
        }
        match length {
            Some(length) if length != numbers.len() => Err(GridError::Shape {
                name,
                found: vec![numbers.len() as u64],
                expected: vec![length as u64],
            }),
            _ => Ok(numbers),
        }
    }
}

fn of_json(object: &Map<String, Value>, name: &'static str) -> Result<Vec<f64>, GridError> {
    let value = object.get(name).ok_or(GridError::Missing { name })?;
    let numbers = match value {
        Value::Array(values) => values.iter().map(Value::as_f64).collect(),
        value => value.as_f64().map(|number| vec![number]),
    };
    numbers
        .ok_or_else(|| GridError::Array { name, problem: "it is not an array of numbers alone".to_owned() })
}

/// The profiler writes whole numbers as such, so types other than `float64` are taken, too.
fn of_npz(bytes: &[u8], name: &'static str) -> Result<Vec<f64>, GridError> {
    let unreadable = |problem: String| GridError::Array { name, problem };
    let mut archive =
        zip::ZipArchive::new(Cursor::new(bytes)).map_err(|error| GridError::Archive(error.to_string()))?;
    let mut entry = match archive.by_name(&format!("{name}.npy")) {
        Ok(entry) => entry,
        Err(zip::result::ZipError::FileNotFound) => return Err(GridError::Missing { name }),
        Err(error) => return Err(GridError::Archive(error.to_string())),
    };
    let mut array = Vec::new();
    entry.read_to_end(&mut array).map_err(|error| unreadable(error.to_string()))?;
    let open = || npyz::NpyFile::new(&array[..]).map_err(|error| unreadable(error.to_string()));
    let whole = |numbers: Vec<i64>| numbers.into_iter().map(|number| number as f64).collect();
    let read = match open()?.dtype().descr().as_str() {
        descr if descr.contains("f8") => open()?.into_vec::<f64>(),
        descr if descr.contains("f4") => {
            open()?.into_vec::<f32>().map(|numbers| numbers.into_iter().map(f64::from).collect())
        }
        descr if descr.contains("i4") => {
            open()?.into_vec::<i32>().map(|numbers| numbers.into_iter().map(f64::from).collect())
        }
        _ => open()?.into_vec::<i64>().map(whole),
    };
    read.map_err(|error| unreadable(error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use npyz::WriterBuilder;

    use super::*;

    const PROMPTS: &str = r#"{"prefill_isl": [200, 100], "prefill_ttft": [30.0, 10]}"#;
    const DECODES: &str = r#"{"x_kv_usage": [0.5, 0.25, 0.25, 0.75], "y_context_length": [100, 100, 300, 300],
        "z_itl": [8.0, 4.0, 6.0, 10.0], "max_kv_tokens": [1000]}"#;

    fn npz<T: npyz::AutoSerialize + Copy>(arrays: &[(&str, &[T])]) -> Vec<u8> {
        let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (name, values) in arrays {
            archive.start_file(format!("{name}.npy"), zip::write::SimpleFileOptions::default()).unwrap();
            let mut npy = Vec::new();
            let options = npyz::WriteOptions::new().default_dtype().shape(&[values.len() as u64]);
            let mut writer = options.writer(&mut npy).begin_nd().unwrap();
            writer.extend(values.iter().copied()).unwrap();
            writer.finish().unwrap();
            archive.write_all(&npy).unwrap();
        }
        archive.finish().unwrap().into_inner()
    }

    #[test]
    fn measurements_of_two_files_make_a_grid() {
        let grid = Grid::from_raw(PROMPTS.as_bytes(), DECODES.as_bytes()).unwrap();
        assert_eq!((grid.prompt.at(100.0), grid.prompt.at(150.0)), (10.0, 20.0));
        assert_eq!(grid.decode_active, [250.0, 500.0, 750.0]);
        assert_eq!(grid.decode_context, [100.0, 300.0]);
        // The filling 0.75 was not measured at a context of 100, nor 0.5 at one of 300.
        assert_eq!(grid.decode_ms, [4.0, 6.0, 8.0, 8.0, 8.0, 10.0]);
    }

    #[test]
    fn archives_of_any_number_type_read_as_json_does() {
        let json = Grid::from_raw(PROMPTS.as_bytes(), DECODES.as_bytes()).unwrap();
        let prompts = npz::<i64>(&[("prefill_isl", &[200, 100]), ("prefill_ttft", &[30, 10])]);
        assert_eq!(Grid::from_raw(&prompts, DECODES.as_bytes()).unwrap(), json);
        let decodes = npz::<f32>(&[
            ("x_kv_usage", &[0.5, 0.25, 0.25, 0.75]),
            ("y_context_length", &[100.0, 100.0, 300.0, 300.0]),
            ("z_itl", &[8.0, 4.0, 6.0, 10.0]),
            ("max_kv_tokens", &[1000.0]),
        ]);
        assert_eq!(Grid::from_raw(&prompts, &decodes).unwrap(), json);
    }

    #[track_caller]
    fn refused(prompts: &str, decodes: &str, message: &str) {
        assert_eq!(Grid::from_raw(prompts.as_bytes(), decodes.as_bytes()).unwrap_err().to_string(), message);
    }

    #[test]
    fn what_makes_no_grid_is_refused() {
        refused(
            "{",
            DECODES,
            "not a readable JSON object of arrays of numbers: EOF while parsing an object at line 1 column 1",
        );
        refused(&PROMPTS.replace("isl", "len"), DECODES, "array `prefill_isl` is missing");
        refused(
            &PROMPTS.replace("30.0, ", ""),
            DECODES,
            "array `prefill_ttft` has shape [1], but its axes ask for [2]",
        );
        refused(
            PROMPTS,
            &DECODES.replace("8.0", "-8.0"),
            "array `z_itl` is unusable: it holds -8 (expected float64)",
        );
        refused(
            PROMPTS,
            &DECODES.replace("300, 300", "100, 100"),
            "decodes were measured at 1 context length, but a grid needs at least two",
        );
        refused(
            PROMPTS,
            &DECODES.replace("0.75", "0.25"),
            "axis `x_kv_usage` needs at least two points in strictly increasing order",
        );
    }
}
