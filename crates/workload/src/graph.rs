//! Requests that wait for several others: which rows belong together, and in which order they can be sent.
//!
//! A row may name the requests that it waits for (`wait_for`), or those that wait for it (`branches`). Rows that hang
//! together, by that or by the name of their session, are one session; a row without `wait_for`, that no other row
//! names as its branch, waits for the row before it in its session.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

use crate::order::TurnOrder;
use crate::{TraceError, TraceNotes, TraceRow};

/// What a row says of other rows.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Links {
    /// What other rows call it.
    pub request_id: Option<Box<str>>,
    /// The requests that it waits for; `None` if it does not say.
    pub wait_for: Option<Vec<Box<str>>>,
    /// Requests that wait for it.
    pub branches: Vec<Box<str>>,
    /// Whether its prompt begins anew: nothing of the turn before is a part of it.
    pub prefix_reset: bool,
}

impl Links {
    /// Gives all requests other names.
    pub(crate) fn rename(&mut self, to: impl Fn(&str) -> Box<str>) {
        let named = self.wait_for.iter_mut().flatten().chain(&mut self.branches);
        self.request_id.iter_mut().chain(named).for_each(|name| *name = to(name));
    }
}

/// Places of the turns that a turn waits for.
pub type Waits = SmallVec<[u32; 1]>;

/// The sessions of rows some of which wait for several others.
pub(crate) struct Graph {
    /// The session of each row, numbered in order of first appearance.
    pub(crate) sessions: Vec<usize>,
    /// The rows of each session, in an order in which each comes after those that it waits for. The first one is the one
    /// that is sent first.
    pub(crate) members: Vec<Vec<usize>>,
    /// By row, the rows that it waits for.
    waits: Vec<SmallVec<[usize; 1]>>,
    /// What sessions are called.
    names: Vec<Option<Box<str>>>,
}

impl Graph {
    /// Whether a row names others.
    pub(crate) fn is_one(rows: &[TraceRow]) -> bool {
        let names_others = |links: &Links| links.wait_for.is_some() || !links.branches.is_empty();
        rows.iter().filter_map(|row| row.links.as_deref()).any(names_others)
    }

    /// The graph of rows; `None` if no row names another.
    ///
    /// # Errors
    /// If a row names one that is not there, if two have one name, and if rows wait for one another in a cycle.
    pub(crate) fn of(rows: &[TraceRow]) -> Result<Option<Self>, TraceError> {
        if !Self::is_one(rows) {
            return Ok(None);
        }
        let waits = waits(rows)?;
        let (sessions, count) = sessions(rows, &waits);
        let mut members = vec![Vec::new(); count];
        for (row, &session) in sessions.iter().enumerate() {
            members[session].push(row);
        }
        let names = session_names(rows, &members);
        let mut graph = Self { sessions, members: Vec::with_capacity(count), waits, names };
        for rows_of_session in members {
            let sorted = graph.sorted(rows, &rows_of_session)?;
            graph.members.push(sorted);
        }
        Ok(Some(graph))
    }

    /// What a session is called; `None` if it has one row and no name.
    pub(crate) fn name_of(&self, session: usize) -> Option<Box<str>> {
        self.names[session].clone()
    }

    /// The rows of a session in an order in which they can be sent: of those that could be next, the one that is first in
    /// the file.
    fn sorted(&self, rows: &[TraceRow], members: &[usize]) -> Result<Vec<usize>, TraceError> {
        let mut dependents: FxHashMap<usize, Vec<usize>> = FxHashMap::default();
        let mut missing: FxHashMap<usize, usize> = FxHashMap::default();
        for &row in members {
            missing.insert(row, self.waits[row].len());
            for &before in &self.waits[row] {
                dependents.entry(before).or_default().push(row);
            }
        }
        let time =
            |row: usize| (rows[row].timestamp_ms.unwrap_or(f64::INFINITY), rows[row].delay_ms.unwrap_or(0.0));
        let earlier =
            |one: (f64, f64), other: (f64, f64)| one.0.total_cmp(&other.0).then(one.1.total_cmp(&other.1));
        let roots = || members.iter().copied().filter(|&row| self.waits[row].is_empty());
        let first = roots().min_by(|&one, &other| earlier(time(one), time(other)).then(one.cmp(&other)));
        let mut next: BinaryHeap<Reverse<(bool, usize)>> =
            roots().map(|row| Reverse((Some(row) != first, row))).collect();
        let mut sorted = Vec::with_capacity(members.len());
        while let Some(Reverse((_, row))) = next.pop() {
            sorted.push(row);
            for &dependent in dependents.get(&row).into_iter().flatten() {
                let left = missing.entry(dependent).or_default();
                *left -= 1;
                if *left == 0 {
                    next.push(Reverse((true, dependent)));
                }
            }
        }
        if sorted.len() == members.len() {
            return Ok(sorted);
        }
        let never_sent: FxHashSet<usize> = members.iter().copied().filter(|row| missing[row] > 0).collect();
        let start = members.iter().copied().find(|row| never_sent.contains(row)).unwrap_or_default();
        Err(self.cycle(rows, start, &never_sent))
    }

    /// The error about the cycle that is found from a row that is in one, or that waits for one, as all that are never sent.
    fn cycle(&self, rows: &[TraceRow], start: usize, never_sent: &FxHashSet<usize>) -> TraceError {
        let mut path = vec![start];
        let mut place = FxHashMap::from_iter([(start, 0)]);
        let mut row = start;
        // One of those that it waits for is never sent.
        while let Some(&before) = self.waits[row].iter().find(|before| never_sent.contains(before)) {
            if let Some(&begin) = place.get(&before) {
                path.drain(..begin);
                break;
            }
            place.insert(before, path.len());
            path.push(before);
            row = before;
        }
        let first = path.iter().copied().min().unwrap_or(start);
        let begin = path.iter().position(|&row| row == first).unwrap_or(0);
        path.rotate_left(begin);
        let names = path.iter().chain(path.first()).map(|&row| format!("`{}`", name(&rows[row])));
        TraceError::CircularWait {
            line: rows[first].line,
            cycle: names.collect::<Vec<_>>().join(" waits for "),
        }
    }

    /// By turn of a session, the turns that it waits for; `None` where each waits for the one before.
    pub(crate) fn waits_of(&self, session: usize) -> Option<Box<[Waits]>> {
        let members = &self.members[session];
        let place: FxHashMap<usize, u32> = members.iter().copied().zip(0..).collect();
        let waits_of = |&row: &usize| {
            let mut waits: Waits = self.waits[row].iter().map(|before| place[before]).collect();
            waits.sort_unstable();
            waits
        };
        not_in_turn(members.iter().map(waits_of).collect())
    }
}

/// What turns wait for, unless that is always the one before.
pub(crate) fn not_in_turn(waits: Vec<Waits>) -> Option<Box<[Waits]>> {
    let is_chain = |(turn, waits): (usize, &Waits)| waits.iter().copied().eq((turn as u32).checked_sub(1));
    (!waits.iter().enumerate().all(is_chain)).then(|| waits.into())
}

/// What sessions are called: by the first of their rows that has a name for it, or, if they have several rows, by the first
/// request; no two of these are called alike.
fn session_names(rows: &[TraceRow], members: &[Vec<usize>]) -> Vec<Option<Box<str>>> {
    let mut taken: FxHashSet<Box<str>> =
        rows.iter().filter_map(|row| row.session_id.as_deref()).map(Box::from).collect();
    let mut name_of = |members: &Vec<usize>| -> Option<Box<str>> {
        let given = members.iter().find_map(|&row| rows[row].session_id.as_deref());
        if given.is_some() || members.len() < 2 {
            return given.map(Box::from);
        }
        let id = members.iter().find_map(|&row| rows[row].links.as_ref()?.request_id.as_deref());
        let mut name = id.unwrap_or_default().to_owned();
        while !taken.insert(name.as_str().into()) {
            name.push('\'');
        }
        Some(name.into())
    };
    members.iter().map(&mut name_of).collect()
}

/// What a row is called in messages.
fn name(row: &TraceRow) -> &str {
    row.links.as_ref().and_then(|links| links.request_id.as_deref()).unwrap_or("a request without an id")
}

/// By row, the rows that it waits for, each once.
fn waits(rows: &[TraceRow]) -> Result<Vec<SmallVec<[usize; 1]>>, TraceError> {
    let links = |row: usize| rows[row].links.as_deref();
    let mut ids: FxHashMap<&str, usize> = FxHashMap::default();
    for (row, source) in rows.iter().enumerate() {
        let Some(id) = links(row).and_then(|links| links.request_id.as_deref()) else { continue };
        if let Some(first) = ids.insert(id, row) {
            return Err(TraceError::SameRequest {
                line: source.line,
                id: id.into(),
                first: rows[first].line,
            });
        }
    }
    let find = |row: usize, field: &'static str, id: &str| {
        let found = ids.get(id).copied();
        found.ok_or_else(|| TraceError::UnknownRequest { line: rows[row].line, field, id: id.into() })
    };
    let mut waits: Vec<SmallVec<[usize; 1]>> = vec![SmallVec::new(); rows.len()];
    let mut is_branch = vec![false; rows.len()];
    for row in 0..rows.len() {
        for id in links(row).map_or(&[][..], |links| &links.branches) {
            let branch = find(row, "branches", id)?;
            is_branch[branch] = true;
            waits[branch].push(row);
        }
    }
    let names_none =
        |row: usize| links(row).is_none_or(|links| links.wait_for.is_none() && links.branches.is_empty());
    for mut session in TurnOrder::of(rows, &mut TraceNotes::default()).members() {
        // By their times go the turns of a session that says nothing else, as they do where no row names another.
        if !session.iter().all(|&row| names_none(row) && !is_branch[row]) {
            session.sort_unstable();
        }
        for (place, &row) in session.iter().enumerate() {
            let before = place.checked_sub(1).map(|before| session[before]);
            match links(row).and_then(|links| links.wait_for.as_deref()) {
                Some(named) => {
                    for id in named {
                        waits[row].push(find(row, "wait_for", id)?);
                    }
                }
                None if is_branch[row] => {}
                None => waits[row].extend(before),
            }
            waits[row].sort_unstable();
            waits[row].dedup();
        }
    }
    Ok(waits)
}

/// The session of each row, numbered in order of first appearance, and how many there are: rows of one name, and rows that
/// wait for one another, are of one.
fn sessions(rows: &[TraceRow], waits: &[SmallVec<[usize; 1]>]) -> (Vec<usize>, usize) {
    let mut groups = Groups { parent: (0..rows.len()).collect() };
    let mut by_name: FxHashMap<&str, usize> = FxHashMap::default();
    for (row, source) in rows.iter().enumerate() {
        if let Some(name) = source.session_id.as_deref() {
            groups.union(*by_name.entry(name).or_insert(row), row);
        }
        waits[row].iter().for_each(|&before| groups.union(before, row));
    }
    let mut numbers: FxHashMap<usize, usize> = FxHashMap::default();
    let sessions = (0..rows.len()).map(|row| {
        let next = numbers.len();
        *numbers.entry(groups.find(row)).or_insert(next)
    });
    let sessions: Vec<usize> = sessions.collect();
    (sessions, numbers.len())
}

/// Which rows hang together: a union-find forest.
struct Groups {
    parent: Vec<usize>,
}

impl Groups {
    fn find(&mut self, mut row: usize) -> usize {
        while self.parent[row] != row {
            self.parent[row] = self.parent[self.parent[row]];
            row = self.parent[row];
        }
        row
    }

    /// The first row stands for all of them.
    fn union(&mut self, one: usize, other: usize) {
        let (one, other) = (self.find(one), self.find(other));
        self.parent[one.max(other)] = one.min(other);
    }
}
