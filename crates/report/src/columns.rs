//! Rows as columns of numbers and names, for programs that take millions of them: what JSON lines say, without the text.
//!
//! A row is whatever [`serde`] sees as a struct, so that columns and lines have the same keys and values: numbers, names
//! (strings, variants), structs, whose fields become columns of their own, and lists of these.

use std::{fmt, iter};

use rustc_hash::FxHashMap;
use serde::ser::{Error as _, Impossible, SerializeSeq, SerializeStruct, SerializeTuple};
use serde::{Serialize, Serializer};

/// A table of rows, all with the same keys. A key that a row lacks, or for which it has nothing, has a missing value.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Columns {
    columns: Vec<Column>,
    rows: usize,
}

/// The values of a key.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// The key.
    pub name: &'static str,
    /// A value for each row.
    pub values: Values,
}

/// Values of a kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Values {
    /// So many missing ones, of which it is not known what they would be.
    Missing(usize),
    /// Whole numbers, none of them missing.
    Whole(Vec<i64>),
    /// Numbers; a missing one is NaN.
    Numbers(Vec<f64>),
    /// Yes or no, as 1 or 0.
    Flags(Vec<u8>),
    /// Names, by their place in a list of them; -1 is a missing one.
    Names(Vec<i32>, Names),
    /// Structs; all values of a missing one are missing.
    Parts(Columns),
    /// Lists.
    Lists(Lists),
}

/// The names of a column, each once, in order of appearance.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Names {
    list: Vec<String>,
    places: FxHashMap<String, i32>,
}

/// A list for each row.
#[derive(Debug, Clone, PartialEq)]
pub struct Lists {
    /// Where the list of each row ends, in elements; it begins where that of the row before it ends.
    pub ends: Vec<u64>,
    /// Values of each element, if the elements are tuples, which all are equally long.
    pub width: Option<usize>,
    /// The values of all elements, one after the other.
    pub values: Box<Values>,
}

impl Names {
    /// All of them; a name is called by its place here.
    pub fn list(&self) -> &[String] {
        &self.list
    }

    fn place(&mut self, name: &str) -> i32 {
        if let Some(&place) = self.places.get(name) {
            return place;
        }
        let place = i32::try_from(self.list.len()).expect("fewer names than rows");
        self.list.push(name.to_owned());
        self.places.insert(name.to_owned(), place);
        place
    }
}

impl Columns {
    /// How many rows there are.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The columns in order, parts of structs behind all others.
    pub fn columns(&self) -> impl Iterator<Item = &Column> {
        let of_parts = |column: &&Column| matches!(column.values, Values::Parts(_));
        let parts =
            self.columns.iter().filter(of_parts).flat_map(|column| -> Box<dyn Iterator<Item = &Column>> {
                if let Values::Parts(table) = &column.values {
                    Box::new(table.columns())
                } else {
                    Box::new(iter::empty())
                }
            });
        self.columns.iter().filter(move |column| !of_parts(column)).chain(parts)
    }

    /// Takes a column of lists of structs out: a table with a row for each of them, and the row of this table that each
    /// belongs to under the name `owner`.
    #[must_use]
    pub fn take_lists(&mut self, name: &str, owner: &'static str) -> Self {
        let Some(place) = self.columns.iter().position(|column| column.name == name) else {
            return Self::default();
        };
        let Values::Lists(Lists { ends, values, .. }) = self.columns.remove(place).values else {
            return Self::default();
        };
        let Values::Parts(mut table) = *values else { return Self::default() };
        let mut owners = Vec::with_capacity(table.rows);
        for (row, end) in (0..).zip(ends) {
            owners.resize(end as usize, row);
        }
        table.columns.insert(0, Column { name: owner, values: Values::Whole(owners) });
        table
    }

    /// Adds a row.
    ///
    /// # Panics
    /// For a row that has something else than numbers, names, structs, tuples of numbers, and lists of them, or values of
    /// another kind than the rows before it.
    pub fn push(&mut self, row: &impl Serialize) {
        row.serialize(Place::Row(self)).expect("rows are numbers, names, structs and lists of them");
    }

    /// Adds a row all of whose values are missing.
    fn push_missing(&mut self) {
        self.rows += 1;
        self.fill();
    }

    /// Gives rows that end before others what they lack.
    fn fill(&mut self) {
        for column in &mut self.columns {
            while column.values.len() < self.rows {
                column.values.push_missing();
            }
        }
    }

    /// The values of a key, most likely at this place.
    fn column(&mut self, at: usize, name: &'static str) -> usize {
        if self.columns.get(at).is_some_and(|column| column.name == name) {
            return at;
        }
        let known = self.columns.iter().position(|column| column.name == name);
        known.unwrap_or_else(|| {
            // What a unit is part of the name of is a number, even if there is none.
            let is_time = name.ends_with("_ms");
            let values = match self.rows {
                rows if is_time => Values::Numbers(vec![f64::NAN; rows]),
                rows => Values::Missing(rows),
            };
            self.columns.push(Column { name, values });
            self.columns.len() - 1
        })
    }
}

impl Values {
    /// How many there are.
    #[expect(clippy::len_without_is_empty, reason = "a column is as long as its table")]
    pub fn len(&self) -> usize {
        match self {
            Self::Missing(rows) => *rows,
            Self::Whole(values) => values.len(),
            Self::Numbers(values) => values.len(),
            Self::Flags(values) => values.len(),
            Self::Names(values, _) => values.len(),
            Self::Parts(table) => table.rows,
            Self::Lists(lists) => lists.ends.len(),
        }
    }

    fn push_missing(&mut self) {
        match self {
            Self::Missing(rows) => *rows += 1,
            Self::Numbers(values) => values.push(f64::NAN),
            Self::Names(values, _) => values.push(-1),
            Self::Parts(table) => table.push_missing(),
            Self::Lists(lists) => lists.end(),
            Self::Whole(_) | Self::Flags(_) => self.numbers().push(f64::NAN),
        }
    }

    /// The same as numbers that may be missing.
    fn numbers(&mut self) -> &mut Vec<f64> {
        let numbers = match self {
            Self::Missing(rows) => Some(vec![f64::NAN; *rows]),
            Self::Whole(values) => Some(values.iter().map(|&value| value as f64).collect()),
            Self::Flags(values) => Some(values.iter().map(|&value| f64::from(value)).collect()),
            _ => None,
        };
        if let Some(numbers) = numbers {
            *self = Self::Numbers(numbers);
        }
        match self {
            Self::Numbers(values) => values,
            _ => unreachable!("only numbers become numbers"),
        }
    }

    fn push_whole(&mut self, value: i64) -> Result<(), NoColumn> {
        match self {
            Self::Whole(values) => values.push(value),
            Self::Missing(0) => *self = Self::Whole(vec![value]),
            Self::Missing(_) | Self::Numbers(_) => self.numbers().push(value as f64),
            _ => return Err(NoColumn::mixed()),
        }
        Ok(())
    }

    fn push_number(&mut self, value: f64) -> Result<(), NoColumn> {
        match self {
            Self::Numbers(values) => values.push(value),
            Self::Missing(_) | Self::Whole(_) => self.numbers().push(value),
            _ => return Err(NoColumn::mixed()),
        }
        Ok(())
    }

    fn push_flag(&mut self, value: bool) -> Result<(), NoColumn> {
        match self {
            Self::Flags(values) => values.push(value.into()),
            Self::Missing(0) => *self = Self::Flags(vec![value.into()]),
            Self::Missing(_) | Self::Numbers(_) => self.numbers().push(value.into()),
            _ => return Err(NoColumn::mixed()),
        }
        Ok(())
    }

    fn push_name(&mut self, value: &str) -> Result<(), NoColumn> {
        if let Self::Missing(rows) = self {
            *self = Self::Names(vec![-1; *rows], Names::default());
        }
        let Self::Names(values, names) = self else { return Err(NoColumn::mixed()) };
        values.push(names.place(value));
        Ok(())
    }

    /// The table of structs.
    fn parts(&mut self) -> Result<&mut Columns, NoColumn> {
        if let Self::Missing(rows) = *self {
            *self = Self::Parts(Columns { columns: Vec::new(), rows });
        }
        if let Self::Parts(table) = self { Ok(table) } else { Err(NoColumn::mixed()) }
    }

    fn lists(&mut self) -> Result<&mut Lists, NoColumn> {
        if let Self::Missing(rows) = *self {
            *self =
                Self::Lists(Lists { ends: vec![0; rows], width: None, values: Box::new(Self::Missing(0)) });
        }
        if let Self::Lists(lists) = self { Ok(lists) } else { Err(NoColumn::mixed()) }
    }
}

impl Lists {
    /// Ends the list of a row.
    fn end(&mut self) {
        self.ends.push((self.values.len() / self.width.unwrap_or(1)) as u64);
    }
}

/// A value that has no place in a column.
#[derive(Debug)]
struct NoColumn(String);

impl NoColumn {
    fn mixed() -> Self {
        Self("a column has values of two kinds".to_owned())
    }

    fn unknown() -> Self {
        Self("a value is no number, name, struct or list".to_owned())
    }
}

impl fmt::Display for NoColumn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for NoColumn {}

impl serde::ser::Error for NoColumn {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

/// The fields of a struct that is being added as a row.
struct Fields<'a> {
    table: &'a mut Columns,
    /// The place of the next key if it is that of the row before.
    at: usize,
}

impl SerializeStruct for Fields<'_> {
    type Ok = ();
    type Error = NoColumn;

    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        name: &'static str,
        value: &T,
    ) -> Result<(), NoColumn> {
        let place = self.table.column(self.at, name);
        self.at = place + 1;
        value.serialize(Place::Value(&mut self.table.columns[place].values))
    }

    fn end(self) -> Result<(), NoColumn> {
        self.table.rows += 1;
        self.table.fill();
        Ok(())
    }
}

/// The elements of a list that is being added.
struct Elements<'a>(&'a mut Lists);

impl SerializeSeq for Elements<'_> {
    type Ok = ();
    type Error = NoColumn;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), NoColumn> {
        value.serialize(Place::Element(self.0))
    }

    fn end(self) -> Result<(), NoColumn> {
        self.0.end();
        Ok(())
    }
}

/// The values of a tuple that is being added to a list.
struct Tuple<'a>(&'a mut Values);

impl SerializeTuple for Tuple<'_> {
    type Ok = ();
    type Error = NoColumn;

    fn serialize_element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), NoColumn> {
        value.serialize(Place::Value(self.0))
    }

    fn end(self) -> Result<(), NoColumn> {
        Ok(())
    }
}

/// Where a value goes.
enum Place<'a> {
    /// It is a row.
    Row(&'a mut Columns),
    /// To the end of a column.
    Value(&'a mut Values),
    /// To the end of the list of a row.
    Element(&'a mut Lists),
}

impl<'a> Place<'a> {
    /// The column that takes the value.
    fn values(self) -> Result<&'a mut Values, NoColumn> {
        match self {
            Self::Row(_) => Err(NoColumn::unknown()),
            Self::Value(values) => Ok(values),
            Self::Element(lists) if lists.width.is_none() => Ok(&mut lists.values),
            Self::Element(_) => Err(NoColumn::mixed()),
        }
    }
}

impl<'a> Serializer for Place<'a> {
    type Ok = ();
    type Error = NoColumn;
    type SerializeSeq = Elements<'a>;
    type SerializeTuple = Tuple<'a>;
    type SerializeTupleStruct = Impossible<(), NoColumn>;
    type SerializeTupleVariant = Impossible<(), NoColumn>;
    type SerializeMap = Impossible<(), NoColumn>;
    type SerializeStruct = Fields<'a>;
    type SerializeStructVariant = Impossible<(), NoColumn>;

    fn serialize_bool(self, value: bool) -> Result<(), NoColumn> {
        self.values()?.push_flag(value)
    }

    fn serialize_i8(self, value: i8) -> Result<(), NoColumn> {
        self.serialize_i64(value.into())
    }

    fn serialize_i16(self, value: i16) -> Result<(), NoColumn> {
        self.serialize_i64(value.into())
    }

    fn serialize_i32(self, value: i32) -> Result<(), NoColumn> {
        self.serialize_i64(value.into())
    }

    fn serialize_i64(self, value: i64) -> Result<(), NoColumn> {
        self.values()?.push_whole(value)
    }

    fn serialize_u8(self, value: u8) -> Result<(), NoColumn> {
        self.serialize_i64(value.into())
    }

    fn serialize_u16(self, value: u16) -> Result<(), NoColumn> {
        self.serialize_i64(value.into())
    }

    fn serialize_u32(self, value: u32) -> Result<(), NoColumn> {
        self.serialize_i64(value.into())
    }

    fn serialize_u64(self, value: u64) -> Result<(), NoColumn> {
        self.serialize_i64(value.try_into().map_err(NoColumn::custom)?)
    }

    fn serialize_f32(self, value: f32) -> Result<(), NoColumn> {
        self.serialize_f64(value.into())
    }

    fn serialize_f64(self, value: f64) -> Result<(), NoColumn> {
        self.values()?.push_number(value)
    }

    fn serialize_char(self, value: char) -> Result<(), NoColumn> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result<(), NoColumn> {
        self.values()?.push_name(value)
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, name: &'static str) -> Result<(), NoColumn> {
        self.serialize_str(name)
    }

    fn serialize_none(self) -> Result<(), NoColumn> {
        self.values()?.push_missing();
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), NoColumn> {
        value.serialize(self)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), NoColumn> {
        value.serialize(self)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Fields<'a>, NoColumn> {
        let table = if let Self::Row(table) = self { table } else { self.values()?.parts()? };
        Ok(Fields { table, at: 0 })
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Elements<'a>, NoColumn> {
        Ok(Elements(self.values()?.lists()?))
    }

    fn serialize_tuple(self, length: usize) -> Result<Tuple<'a>, NoColumn> {
        let Self::Element(lists) = self else { return Err(NoColumn::unknown()) };
        if lists.values.len() == 0 {
            lists.width = Some(length);
        }
        if lists.width == Some(length) { Ok(Tuple(&mut lists.values)) } else { Err(NoColumn::mixed()) }
    }

    fn serialize_bytes(self, _: &[u8]) -> Result<(), NoColumn> {
        Err(NoColumn::unknown())
    }

    fn serialize_unit(self) -> Result<(), NoColumn> {
        Err(NoColumn::unknown())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), NoColumn> {
        Err(NoColumn::unknown())
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: &T,
    ) -> Result<(), NoColumn> {
        Err(NoColumn::unknown())
    }

    fn serialize_tuple_struct(
        self,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleStruct, NoColumn> {
        Err(NoColumn::unknown())
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, NoColumn> {
        Err(NoColumn::unknown())
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, NoColumn> {
        Err(NoColumn::unknown())
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, NoColumn> {
        Err(NoColumn::unknown())
    }
}

#[cfg(test)]
mod tests;
