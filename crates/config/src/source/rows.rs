//! A load as it was read or made, before it becomes a workload.

use std::path::{Path, PathBuf};

use servecast_types::message;
use servecast_workload::{
    Cut, Load, Shape, Trace, TraceError, TraceNotes, TraceRow, Turns, Workload, interleave,
};

use super::{Reading, read_trace, unusable_trace};
use crate::error::Failure;
use crate::files;
use crate::settings::Layers;

/// A load as its traces have it, or as it was made.
#[derive(Debug, Clone)]
pub struct LoadRows {
    trace: Trace,
    cut: Cut,
    shape: Shape,
    /// The trace, if it is one.
    path: Option<PathBuf>,
    /// Of each of several traces, how many sessions it has, and whether they have times.
    parts: Vec<(usize, bool)>,
    /// What was odd about what the rows of several traces stand for.
    notes: Vec<TraceNotes>,
}

/// Times as they are in a trace.
const AS_WRITTEN: Load = Load::Open { arrival_speedup_ratio: 1.0 };

impl LoadRows {
    /// A load that was made, in blocks of so many tokens.
    pub(super) fn made(rows: Vec<TraceRow>, block_size: u32, shape: Shape) -> Self {
        let trace = Trace { rows, ..Trace::default() };
        Self { trace, cut: block_size.into(), shape, path: None, parts: Vec::new(), notes: Vec::new() }
    }

    /// The load of a trace.
    pub(super) fn of_trace(path: &Path, trace: Trace, cut: Cut, shape: Shape) -> Self {
        Self { trace, cut, shape, path: Some(path.to_owned()), parts: Vec::new(), notes: Vec::new() }
    }

    /// Adds another trace, the second one or a later one.
    pub(super) fn merge(
        &mut self,
        path: &Path,
        reading: &Reading,
        number: usize,
        layers: &Layers,
    ) -> Result<(), Failure> {
        if self.parts.is_empty() {
            let first = self.path.clone().unwrap_or_default();
            self.add_part(&first, &self.trace.clone(), self.cut)?;
        }
        let trace = read_trace(path, &reading.form()?)?;
        let cut = reading.cut(&trace);
        self.add_part(path, &trace, cut)?;
        self.check_content(path, &trace, cut, layers)?;
        if trace.has_content() && !self.trace.has_content() {
            self.cut = cut;
            self.trace.token_ids = trace.token_ids;
            self.trace.block_size = trace.block_size;
            self.trace.stated_block_size = trace.stated_block_size;
        }
        self.trace.merge(trace, number);
        Ok(())
    }

    /// Finds out whether a trace by itself can be replayed, so that what is wrong with it is said by its name.
    fn add_part(&mut self, path: &Path, trace: &Trace, cut: Cut) -> Result<(), Failure> {
        let unusable = |error: TraceError| unusable_trace(path, &error);
        let (workload, has_times) = match trace.workload(cut, AS_WRITTEN) {
            Err(TraceError::NoTimestamp { .. }) => {
                (trace.workload(cut, Load::Closed).map_err(unusable)?, false)
            }
            workload => (workload.map_err(unusable)?, true),
        };
        self.parts.push((workload.sessions.len(), has_times));
        self.notes.push(workload.notes);
        Ok(())
    }

    /// Refuses a trace whose ids stand for something else than those that are there.
    fn check_content(&self, path: &Path, trace: &Trace, cut: Cut, layers: &Layers) -> Result<(), Failure> {
        let refused = |problem| {
            layers
                .refused(message!("{merge} names {}, {}", files::input_name(path), problem))
                .with_hint("`servecast trace convert` writes each with the same --trace-block-size")
        };
        if cut.turns != self.cut.turns {
            let holds = |turns| match turns {
                Turns::Whole => "whole prompts",
                Turns::Delta => "what is new in a turn",
            };
            return Err(refused(message!(
                "whose rows hold {}, but those of the other hold {}",
                holds(cut.turns),
                holds(self.cut.turns)
            )));
        }
        let size = |trace: &Trace, cut: Cut| if trace.token_ids { 1 } else { cut.block_size };
        let (here, there) = (size(&self.trace, self.cut), size(trace, cut));
        if here != there && self.trace.has_content() && trace.has_content() {
            return Err(refused(message!(
                "whose ids stand for {} tokens, but those of the other for {}",
                there,
                here
            )));
        }
        Ok(())
    }

    /// Its rows.
    pub fn rows(&self) -> &[TraceRow] {
        &self.trace.rows
    }

    /// The same, for whoever needs nothing else.
    pub fn into_rows(self) -> Vec<TraceRow> {
        self.trace.rows
    }

    /// Tokens that a hash id of them stands for.
    pub fn block_size(&self) -> u32 {
        if self.trace.token_ids { 1 } else { self.cut.block_size }
    }

    /// What it comes to.
    pub fn into_workload(self, load: Load, layers: &Layers) -> Result<Workload, Failure> {
        let Self { trace, mut cut, shape, path, parts, notes } = self;
        let unusable = |error: TraceError| match &path {
            Some(path) => unusable_trace(path, &error),
            None => Failure::input(&error),
        };
        let mut workload = if shape.is_plain() && parts.is_empty() {
            cut.max_requests = shape.max_requests;
            trace.into_workload(cut, load).map_err(unusable)?
        } else {
            let mut workload = before_shape(trace, cut, &shape, load).map_err(unusable)?;
            if !parts.is_empty() && (load == Load::Closed || parts.iter().any(|(_, has_times)| !has_times)) {
                let sessions: Vec<usize> = parts.iter().map(|(sessions, _)| *sessions).collect();
                interleave(&mut workload.sessions, &sessions);
            }
            shape.apply(workload, load).map_err(|error| layers.refused(error))?
        };
        if path.is_none() {
            // What is odd about it was asked for.
            workload.notes = TraceNotes::default();
        } else if !notes.is_empty() {
            workload.notes = TraceNotes::of_all(notes);
        }
        Ok(workload)
    }
}

/// The sessions with the times of the trace, or without any where it has none and they are not needed.
fn before_shape(trace: Trace, cut: Cut, shape: &Shape, load: Load) -> Result<Workload, TraceError> {
    if load == Load::Closed && !shape.needs_times() {
        return trace.into_workload(cut, Load::Closed);
    }
    match trace.workload(cut, AS_WRITTEN) {
        Err(TraceError::NoTimestamp { .. }) if shape.arrivals.is_some() && !shape.needs_times() => {
            trace.into_workload(cut, Load::Closed)
        }
        workload => workload,
    }
}
