//! Names that rows give to what they have in common, a class or an adapter.

use rustc_hash::FxHashMap;
use servecast_types::ClassId;

use crate::{TraceError, TraceRow};

/// The most classes that figures are told apart for: each has a tally of its own.
const MOST_CLASSES: usize = 1000;

/// Names, numbered in the order in which they turn up.
#[derive(Debug, Default)]
pub(crate) struct Labels {
    numbers: FxHashMap<Box<str>, u32>,
    names: Vec<Box<str>>,
}

impl Labels {
    /// The number of a name.
    pub(crate) fn number(&mut self, name: &str) -> u32 {
        if let Some(number) = self.numbers.get(name) {
            return *number;
        }
        let number = self.names.len() as u32;
        self.numbers.insert(name.into(), number);
        self.names.push(name.into());
        number
    }

    /// The class of a row, if it has one; all names are those of classes.
    pub(crate) fn class_of(&mut self, row: &TraceRow) -> Result<Option<ClassId>, TraceError> {
        let Some(class) = &row.class else { return Ok(None) };
        let number = self.number(class);
        if number as usize == MOST_CLASSES {
            let class = crate::fields::described(&format!("{class:?}"));
            return Err(TraceError::TooManyClasses { line: row.line, class, most: MOST_CLASSES });
        }
        Ok(Some(ClassId(number as u16)))
    }

    pub(crate) fn into_names(self) -> Vec<Box<str>> {
        self.names
    }
}
