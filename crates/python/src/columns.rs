//! Columns as memory that Python, NumPy and Arrow read as it is.

use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyList, PyTuple};
use servecast_report::{Column, Columns, Values};

/// How many rows, and of each column its name, the kind of its values, and what they are made of: see [`content`].
pub(crate) type Buffers<'py> = (usize, Bound<'py, PyList>);

/// The columns of a table.
pub(crate) fn buffers<'py>(py: Python<'py>, table: &Columns) -> PyResult<Buffers<'py>> {
    let columns = table.columns();
    let columns = columns.map(|Column { name, values }| {
        let (kind, content) = content(py, values)?;
        (*name, kind, content).into_pyobject(py)
    });
    let columns = columns.collect::<PyResult<Vec<_>>>()?;
    Ok((table.rows(), PyList::new(py, columns)?))
}

/// The kind of values and what they are made of:
///
/// - `int`, `float`, `bool`: their bytes, 8 or 1 a value
/// - `text`: the bytes of 32-bit places in a list of names, -1 for none, and the list
/// - `list`: the bytes of 64-bit ends, in elements, the values of an element if it is a tuple, their kind and what they
///   are made of
fn content<'py>(py: Python<'py>, values: &Values) -> PyResult<(&'static str, Bound<'py, PyTuple>)> {
    Ok(match values {
        Values::Whole(values) => {
            ("int", (bytes(py, values, |value| value.to_ne_bytes())?,).into_pyobject(py)?)
        }
        Values::Numbers(values) => {
            ("float", (bytes(py, values, |value| value.to_ne_bytes())?,).into_pyobject(py)?)
        }
        Values::Flags(values) => ("bool", (PyByteArray::new(py, values),).into_pyobject(py)?),
        Values::Names(places, names) => {
            let places = bytes(py, places, |place| place.to_ne_bytes())?;
            ("text", (places, names.list()).into_pyobject(py)?)
        }
        Values::Missing(rows) => {
            let places = bytes(py, &vec![-1_i32; *rows], |place| place.to_ne_bytes())?;
            ("text", (places, PyList::empty(py)).into_pyobject(py)?)
        }
        Values::Lists(lists) => {
            let ends = bytes(py, &lists.ends, |end| end.to_ne_bytes())?;
            // Lists that are all empty are of numbers in other runs.
            let nothing = Values::Whole(Vec::new());
            let values = if lists.values.len() == 0 { &nothing } else { &*lists.values };
            let (kind, content) = content(py, values)?;
            ("list", (ends, lists.width, kind, content).into_pyobject(py)?)
        }
        Values::Parts(_) => unreachable!("parts of structs are columns of their own"),
    })
}

/// Values in a row, of `N` bytes each.
fn bytes<'py, T, const N: usize>(
    py: Python<'py>,
    values: &[T],
    of: impl Fn(&T) -> [u8; N],
) -> PyResult<Bound<'py, PyByteArray>> {
    PyByteArray::new_with(py, values.len() * N, |bytes| {
        for (place, value) in bytes.chunks_exact_mut(N).zip(values) {
            place.copy_from_slice(&of(value));
        }
        Ok(())
    })
}
