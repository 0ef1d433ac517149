//! Which row is which turn of which session.

use rustc_hash::FxHashMap;

use crate::graph::Graph;
use crate::workload::Session;
use crate::{TraceNotes, TraceRow};

/// The sessions of the rows of a trace, and the order of their turns.
pub(crate) struct TurnOrder {
    /// The session of each row, numbered in order of first appearance.
    sessions: Vec<usize>,
    /// Whether each row is the first turn of its session.
    first: Vec<bool>,
    num_sessions: usize,
    /// For each session whose rows are not in order of time: which of its rows is its first turn, its second, ….
    sorted: FxHashMap<usize, Vec<usize>>,
}

impl TurnOrder {
    pub(crate) fn of(rows: &[TraceRow], notes: &mut TraceNotes) -> Self {
        let mut by_name = FxHashMap::default();
        let mut order = Self {
            sessions: Vec::with_capacity(rows.len()),
            first: Vec::with_capacity(rows.len()),
            num_sessions: 0,
            sorted: FxHashMap::default(),
        };
        // The latest timestamp of each session so far.
        let mut latest: Vec<f64> = Vec::new();
        for row in rows {
            let place = match &row.session_id {
                Some(name) => *by_name.entry(name).or_insert(order.num_sessions),
                None => order.num_sessions,
            };
            let is_first = place == order.num_sessions;
            order.num_sessions += usize::from(is_first);
            order.sessions.push(place);
            order.first.push(is_first);
            if is_first {
                latest.push(f64::NEG_INFINITY);
            }
            if let Some(time) = row.timestamp_ms {
                if time < latest[place] {
                    notes.unordered_turns.add(row.line);
                    order.sorted.entry(place).or_default();
                }
                latest[place] = latest[place].max(time);
            }
        }
        order.sort_turns(rows);
        order
    }

    /// The rows of each session, in the order of its turns.
    pub(crate) fn members(&self) -> Vec<Vec<usize>> {
        let mut members = vec![Vec::new(); self.num_sessions];
        for (row, session) in self.sessions.iter().enumerate() {
            members[*session].push(row);
        }
        for (session, turns) in &self.sorted {
            let rows = &members[*session];
            members[*session] = turns.iter().map(|&turn| rows[turn]).collect();
        }
        members
    }

    /// The order in which rows that wait for one another can be sent.
    pub(crate) fn of_graph(graph: &Graph) -> Self {
        let mut order = Self {
            sessions: graph.sessions.clone(),
            first: vec![false; graph.sessions.len()],
            num_sessions: graph.members.len(),
            sorted: FxHashMap::default(),
        };
        for (session, turns) in graph.members.iter().enumerate() {
            order.first[turns[0]] = true;
            if !turns.is_sorted() {
                let mut rows = turns.clone();
                rows.sort_unstable();
                let place: FxHashMap<usize, usize> = rows.into_iter().zip(0..).collect();
                order.sorted.insert(session, turns.iter().map(|row| place[row]).collect());
            }
        }
        order
    }

    /// Finds the order of the turns of sessions whose rows are not in order.
    fn sort_turns(&mut self, rows: &[TraceRow]) {
        if self.sorted.is_empty() {
            return;
        }
        let mut members: FxHashMap<usize, Vec<usize>> = FxHashMap::default();
        for (index, place) in self.sessions.iter().enumerate() {
            if self.sorted.contains_key(place) {
                members.entry(*place).or_default().push(index);
            }
        }
        for (place, members) in members {
            let has_delay = |row: &TraceRow| row.delay_ms.is_some_and(|ms| ms > 0.0);
            let mut turns = by_time(&members, |index| rows[index].timestamp_ms);
            if has_delay(&rows[members[turns[0]]]) {
                // It comes after another turn, so it is its delay that counts.
                turns =
                    by_time(&members, |index| rows[index].timestamp_ms.filter(|_| !has_delay(&rows[index])));
            }
            self.first[members[0]] = false;
            self.first[members[turns[0]]] = true;
            self.sorted.insert(place, turns);
        }
    }

    /// How many sessions there are.
    pub(crate) fn num_sessions(&self) -> usize {
        self.num_sessions
    }

    /// The session of a row.
    pub(crate) fn session(&self, row: usize) -> usize {
        self.sessions[row]
    }

    /// Whether a row is the first turn of its session.
    pub(crate) fn is_first(&self, row: usize) -> bool {
        self.first[row]
    }

    /// Puts the turns of sessions, which are in order of their rows, in order of time.
    pub(crate) fn sort(mut self, sessions: &mut [Session]) {
        for (place, session) in sessions.iter_mut().enumerate() {
            if let Some(turns) = self.sorted.remove(&place) {
                let mut rows: Vec<_> = std::mem::take(&mut session.turns).into_iter().map(Some).collect();
                session.turns.extend(turns.into_iter().filter_map(|row| rows[row].take()));
            }
        }
    }
}

/// The order of the rows `members` by time; one without a time follows the row before it.
fn by_time(members: &[usize], time_of: impl Fn(usize) -> Option<f64>) -> Vec<usize> {
    let mut time = f64::NEG_INFINITY;
    let mut times = Vec::with_capacity(members.len());
    for &index in members {
        time = time_of(index).unwrap_or(time);
        times.push(time);
    }
    let mut turns: Vec<usize> = (0..members.len()).collect();
    turns.sort_by(|&one, &other| times[one].total_cmp(&times[other]));
    turns
}
