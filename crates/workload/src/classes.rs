//! Classes of requests, by the names that a trace gives them.

use rustc_hash::FxHashMap;
use servecast_types::ClassId;

use crate::{TraceError, TraceRow};

/// The most classes that figures are told apart for: each has a tally of its own.
const MOST_CLASSES: usize = 1000;

/// The classes of a trace, numbered in the order in which they turn up.
#[derive(Debug, Default)]
pub(crate) struct Classes {
    numbers: FxHashMap<Box<str>, ClassId>,
    names: Vec<Box<str>>,
}

impl Classes {
    /// The class of a row, if it has one.
    pub(crate) fn of_row(&mut self, row: &TraceRow) -> Result<Option<ClassId>, TraceError> {
        let Some(class) = &row.class else { return Ok(None) };
        if let Some(number) = self.numbers.get(class) {
            return Ok(Some(*number));
        }
        if self.names.len() == MOST_CLASSES {
            let class = crate::fields::described(&format!("{class:?}"));
            return Err(TraceError::TooManyClasses { line: row.line, class, most: MOST_CLASSES });
        }
        let number = ClassId(self.names.len() as u16);
        self.numbers.insert(class.clone(), number);
        self.names.push(class.clone());
        Ok(Some(number))
    }

    pub(crate) fn into_names(self) -> Vec<Box<str>> {
        self.names
    }
}
