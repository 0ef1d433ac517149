//! Measured iteration times on a grid, as Dynamo's profiler writes them.

mod raw;

use std::io::{Cursor, Read};

use crate::{Batch, LatencyModel, PassTime};

/// Iteration times interpolated between measured points.
///
/// - Prompt: piecewise linear in the new prompt tokens, extended beyond both ends along the outermost segments.
/// - Decode: bilinear in Σ context of the decoding requests and ⌊Σ context / requests⌋, extended likewise, at
///   least 1 ms.
///
/// An `.npz` file is one whole grid ([`Grid::from_npz`]); a profiler's folder has the measurements of prompts and of
/// decodes in a file each ([`Grid::from_raw`]).
#[derive(Debug, Clone, PartialEq)]
pub struct Grid {
    prompt: Curve,
    decode_active: Vec<f64>,
    decode_context: Vec<f64>,
    /// Row-major: a row a point of `decode_active`, a column a point of `decode_context`.
    decode_ms: Vec<f64>,
}

#[derive(Debug, Clone, PartialEq)]
struct Curve {
    x: Vec<f64>,
    y: Vec<f64>,
}

impl Grid {
    /// Reads an `.npz` archive (stored or deflated) of these `float64` arrays: `prefill_isl` and
    /// `prefill_ttft_ms` \[n\], `decode_active_kv_tokens` \[r\], `decode_context_length` \[c\],
    /// `decode_itl` \[r × c\] in ms.
    pub fn from_npz(bytes: &[u8]) -> Result<Self, GridError> {
        let mut archive = zip::ZipArchive::new(Cursor::new(bytes))
            .map_err(|error| GridError::Archive(error.to_string()))?;
        let mut array = |name: &'static str| read_array(&mut archive, name);
        let prompt = Curve { x: axis(array("prefill_isl")?)?, y: vector(array("prefill_ttft_ms")?)? };
        let decode_active = axis(array("decode_active_kv_tokens")?)?;
        let decode_context = axis(array("decode_context_length")?)?;
        let itl = array("decode_itl")?;
        if prompt.x.len() != prompt.y.len() {
            return Err(GridError::Shape {
                name: "prefill_ttft_ms",
                found: vec![prompt.y.len() as u64],
                expected: vec![prompt.x.len() as u64],
            });
        }
        let expected = vec![decode_active.len() as u64, decode_context.len() as u64];
        if itl.shape != expected {
            return Err(GridError::Shape { name: "decode_itl", found: itl.shape, expected });
        }
        Ok(Self { prompt, decode_active, decode_context, decode_ms: itl.row_major })
    }

    fn decode_ms(&self, active_tokens: f64, mean_context: f64) -> f64 {
        let row = segment(&self.decode_active, active_tokens);
        let column = segment(&self.decode_context, mean_context);
        let along_active = |column: usize| {
            let at = |row: usize| self.decode_ms[row * self.decode_context.len() + column];
            line(
                (self.decode_active[row], at(row)),
                (self.decode_active[row + 1], at(row + 1)),
                active_tokens,
            )
        };
        line(
            (self.decode_context[column], along_active(column)),
            (self.decode_context[column + 1], along_active(column + 1)),
            mean_context,
        )
    }
}

impl LatencyModel for Grid {
    fn pass(&self, batch: &Batch) -> PassTime {
        let prompt_ms = match batch.prompt.requests {
            0 => 0.0,
            _ => self.prompt.at(batch.prompt.tokens_by_truncated_means() as f64).max(0.0),
        };
        let decode_ms = match batch.decode.requests {
            0 => 0.0,
            n => {
                let context = batch.decode.context_tokens;
                self.decode_ms(context as f64, (context / n) as f64).max(1.0)
            }
        };
        PassTime { prompt_ms, decode_ms }
    }
}

impl Curve {
    fn at(&self, x: f64) -> f64 {
        let i = segment(&self.x, x);
        line((self.x[i], self.y[i]), (self.x[i + 1], self.y[i + 1]), x)
    }
}

/// The segment of a strictly increasing axis on which `x` lies; the outermost ones reach to infinity.
fn segment(axis: &[f64], x: f64) -> usize {
    axis.partition_point(|&point| point <= x).saturating_sub(1).min(axis.len() - 2)
}

fn line((x1, y1): (f64, f64), (x2, y2): (f64, f64), x: f64) -> f64 {
    let slope = (y2 - y1) / (x2 - x1);
    slope * (x - x1) + y1
}

struct Array {
    name: &'static str,
    shape: Vec<u64>,
    row_major: Vec<f64>,
}

fn read_array<R: Read + std::io::Seek>(
    archive: &mut zip::ZipArchive<R>,
    name: &'static str,
) -> Result<Array, GridError> {
    let mut entry = match archive.by_name(&format!("{name}.npy")) {
        Ok(entry) => entry,
        Err(zip::result::ZipError::FileNotFound) => return Err(GridError::Missing { name }),
        Err(error) => return Err(GridError::Archive(error.to_string())),
    };
    let unreadable = |error: std::io::Error| GridError::Array { name, problem: error.to_string() };
    let mut bytes = Vec::new();
    entry.read_to_end(&mut bytes).map_err(unreadable)?;
    let file = npyz::NpyFile::new(&bytes[..]).map_err(unreadable)?;
    let shape = file.shape().to_vec();
    if file.order() != npyz::Order::C && shape.len() > 1 {
        return Err(GridError::Array {
            name,
            problem: "it is in Fortran order, but must be in C order".to_owned(),
        });
    }
    let row_major = file.into_vec::<f64>().map_err(unreadable)?;
    if let Some(value) = row_major.iter().find(|value| !value.is_finite()) {
        return Err(GridError::Array { name, problem: format!("it holds {value}") });
    }
    Ok(Array { name, shape, row_major })
}

fn vector(array: Array) -> Result<Vec<f64>, GridError> {
    match array.shape.as_slice() {
        [_] => Ok(array.row_major),
        shape => {
            let problem = format!("it has {} dimensions, but must have one", shape.len());
            Err(GridError::Array { name: array.name, problem })
        }
    }
}

fn axis(array: Array) -> Result<Vec<f64>, GridError> {
    let name = array.name;
    let points = vector(array)?;
    if points.len() < 2 || points.windows(2).any(|pair| pair[0] >= pair[1]) {
        return Err(GridError::Axis { name });
    }
    Ok(points)
}

/// Why a grid could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GridError {
    /// The bytes are no readable `.npz` archive.
    #[error("not a readable .npz archive: {0}")]
    Archive(String),
    /// An array is absent.
    #[error("array `{name}` is missing")]
    Missing {
        /// Its name.
        name: &'static str,
    },
    /// An array is unusable.
    #[error("array `{name}` is unusable: {problem} (expected float64)")]
    Array {
        /// Its name.
        name: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// An axis has fewer than two points or is not strictly increasing.
    #[error("axis `{name}` needs at least two points in strictly increasing order")]
    Axis {
        /// Its name.
        name: &'static str,
    },
    /// The bytes are no JSON, or no object of arrays.
    #[error("not a readable JSON object of arrays of numbers: {0}")]
    Json(String),
    /// Measurements that make no grid.
    #[error("{0}")]
    Points(String),
    /// An array does not fit its axes.
    #[error("array `{name}` has shape {found:?}, but its axes ask for {expected:?}")]
    Shape {
        /// Its name.
        name: &'static str,
        /// Its shape.
        found: Vec<u64>,
        /// The shape that its axes need.
        expected: Vec<u64>,
    },
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "grid points and halves are exact")]
mod tests {
    use std::io::Write;

    use npyz::WriterBuilder;
    use zip::CompressionMethod;

    use super::*;

    type Entry<'a> = (&'a str, &'a [u64], &'a [f64]);

    const ARRAYS: [Entry<'_>; 5] = [
        ("prefill_isl", &[3], &[100.0, 200.0, 400.0]),
        ("prefill_ttft_ms", &[3], &[10.0, 30.0, 40.0]),
        ("decode_active_kv_tokens", &[2], &[0.0, 1000.0]),
        ("decode_context_length", &[3], &[10.0, 20.0, 40.0]),
        ("decode_itl", &[2, 3], &[2.0, 4.0, 8.0, 12.0, 14.0, 18.0]),
    ];

    fn npz(method: CompressionMethod, arrays: &[Entry<'_>]) -> Vec<u8> {
        let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (name, shape, values) in arrays {
            let options = zip::write::SimpleFileOptions::default().compression_method(method);
            archive.start_file(format!("{name}.npy"), options).unwrap();
            let mut npy = Vec::new();
            let mut writer =
                npyz::WriteOptions::new().default_dtype().shape(shape).writer(&mut npy).begin_nd().unwrap();
            writer.extend(values.iter().copied()).unwrap();
            writer.finish().unwrap();
            archive.write_all(&npy).unwrap();
        }
        archive.finish().unwrap().into_inner()
    }

    fn with(name: &str, shape: &'static [u64], values: &'static [f64]) -> Result<Grid, GridError> {
        let arrays = ARRAYS.map(|entry| if entry.0 == name { (entry.0, shape, values) } else { entry });
        Grid::from_npz(&npz(CompressionMethod::Stored, &arrays))
    }

    #[test]
    fn stored_and_deflated_archives_read_alike() {
        let stored = Grid::from_npz(&npz(CompressionMethod::Stored, &ARRAYS)).unwrap();
        let deflated = Grid::from_npz(&npz(CompressionMethod::Deflated, &ARRAYS)).unwrap();
        assert_eq!(stored, deflated);
    }

    #[test]
    fn times_between_points_lie_on_the_segment_and_beyond_them_on_its_extension() {
        let grid = Grid::from_npz(&npz(CompressionMethod::Stored, &ARRAYS)).unwrap();
        for (tokens, ms) in
            [(100.0, 10.0), (150.0, 20.0), (200.0, 30.0), (300.0, 35.0), (600.0, 50.0), (0.0, -10.0)]
        {
            assert_eq!(grid.prompt.at(tokens), ms, "{tokens} tokens");
        }
        for (active, context, ms) in
            [(0.0, 10.0, 2.0), (500.0, 15.0, 8.0), (1000.0, 40.0, 18.0), (2000.0, 80.0, 36.0)]
        {
            assert_eq!(grid.decode_ms(active, context), ms, "{active} active, context {context}");
        }
    }

    #[test]
    fn a_pass_never_costs_less_than_its_floor() {
        let grid = Grid::from_npz(&npz(CompressionMethod::Stored, &ARRAYS)).unwrap();
        let mut batch = Batch::new(0);
        assert_eq!(grid.pass(&batch), PassTime::default());
        batch.add_prompt(0, 0);
        batch.add_decode(1);
        assert_eq!(grid.pass(&batch), PassTime { prompt_ms: 0.0, decode_ms: 1.0 });
    }

    #[test]
    fn what_is_wrong_with_an_archive_is_said_by_name() {
        let message = |result: Result<Grid, GridError>| result.unwrap_err().to_string();
        assert!(message(Grid::from_npz(b"junk")).starts_with("not a readable .npz archive"));
        assert_eq!(
            message(Grid::from_npz(&npz(CompressionMethod::Stored, &ARRAYS[1..]))),
            "array `prefill_isl` is missing"
        );
        assert_eq!(
            message(with("prefill_ttft_ms", &[2], &[1.0, 2.0])),
            "array `prefill_ttft_ms` has shape [2], but its axes ask for [3]"
        );
        assert_eq!(
            message(with("decode_itl", &[3, 2], &[2.0, 4.0, 8.0, 12.0, 14.0, 18.0])),
            "array `decode_itl` has shape [3, 2], but its axes ask for [2, 3]"
        );
        assert_eq!(
            message(with("prefill_isl", &[3], &[1.0, 1.0, 2.0])),
            "axis `prefill_isl` needs at least two points in strictly increasing order"
        );
        assert_eq!(
            message(with("decode_context_length", &[3], &[1.0, f64::NAN, 2.0])),
            "array `decode_context_length` is unusable: it holds NaN (expected float64)"
        );
    }

    #[test]
    fn arrays_of_another_type_are_refused() {
        let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
        archive.start_file("prefill_isl.npy", zip::write::SimpleFileOptions::default()).unwrap();
        let mut npy = Vec::new();
        let mut writer =
            npyz::WriteOptions::new().default_dtype().shape(&[2]).writer(&mut npy).begin_nd().unwrap();
        writer.extend([1_i64, 2]).unwrap();
        writer.finish().unwrap();
        archive.write_all(&npy).unwrap();
        let error = Grid::from_npz(&archive.finish().unwrap().into_inner()).unwrap_err().to_string();
        assert!(error.starts_with("array `prefill_isl` is unusable"), "{error}");
    }
}
