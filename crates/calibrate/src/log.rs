//! Which requests were in the iterations of an engine's log, which says only how many: prompts are computed in order of
//! arrival, so that the requests of the same run tell.

use std::collections::VecDeque;

use servecast_latency::{Batch, StepFeatures};

use crate::requests::{RequestRow, RequestRun};

/// What a line of a log says of an iteration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLine {
    /// Requests that computed prompts.
    pub context_requests: u64,
    /// Tokens of these.
    pub context_tokens: u64,
    /// Requests that decoded.
    pub generation_requests: u64,
}

/// Iterations at the beginning of a log that may be of other requests, such as those that warm the engine up.
const MOST_SKIPPED: usize = 400;
/// Lines that do not fit, as a share of all, from which on log and requests are not of one run.
const MOST_UNFIT: f64 = 0.05;

/// A request at work.
#[derive(Debug, Clone, Copy)]
struct Active {
    row: usize,
    /// Tokens that have to be computed before the next one comes out, and those that have been.
    known: u64,
    computed: u64,
    /// Output so far.
    tokens: u64,
}

/// What each iteration of a log computed that is of this run; `None` for lines that do not fit, and for the log if too many
/// do not.
pub(crate) fn align(lines: &[LogLine], run: &RequestRun) -> Option<Vec<Option<StepFeatures>>> {
    if run.rows.is_empty() || lines.is_empty() {
        return None;
    }
    let mut order: Vec<usize> = (0..run.rows.len()).collect();
    order.sort_by(|&left, &right| run.rows[left].arrival_s.total_cmp(&run.rows[right].arrival_s));
    // A run begins with a prompt of which nobody decodes.
    let starts = (0..lines.len().min(MOST_SKIPPED))
        .filter(|&at| lines[at].context_requests > 0 && lines[at].generation_requests == 0);
    let tried = starts.map(|start| {
        let found = walk(&lines[start..], &run.rows, &order);
        let unfit = found.iter().filter(|features| features.is_none()).count();
        (unfit, start, found)
    });
    let (unfit, start, found) = tried.min_by_key(|(unfit, start, _)| (*unfit, *start))?;
    if unfit as f64 > MOST_UNFIT * found.len() as f64 {
        return None;
    }
    Some(std::iter::repeat_n(None, start).chain(found).collect())
}

fn walk(lines: &[LogLine], rows: &[RequestRow], order: &[usize]) -> Vec<Option<StepFeatures>> {
    let mut waiting: VecDeque<Active> = order
        .iter()
        .map(|&row| {
            let known = u64::from(rows[row].input_tokens);
            let cached = u64::from(rows[row].cached_tokens.unwrap_or(0)).min(known - 1);
            Active { row, known, computed: cached, tokens: 0 }
        })
        .collect();
    let mut running: Vec<Active> = Vec::new();
    let line = |line: &LogLine| iteration(line, rows, &mut running, &mut waiting);
    lines.iter().map(line).collect()
}

/// Takes a line in; `None` if it does not go with who is there.
fn iteration(
    line: &LogLine,
    rows: &[RequestRow],
    running: &mut Vec<Active>,
    waiting: &mut VecDeque<Active>,
) -> Option<StepFeatures> {
    let is_decode = |one: &Active| one.known - one.computed == 1 && one.tokens > 0;
    let mut fits = true;
    // Who was preempted last came last, and begins again.
    while running.iter().filter(|one| is_decode(one)).count() as u64 > line.generation_requests {
        let last = running.iter().rposition(is_decode).expect("there is one too many");
        let lost = running.remove(last);
        waiting.push_front(Active { computed: 0, ..lost });
    }
    fits &= running.iter().filter(|one| is_decode(one)).count() as u64 == line.generation_requests;
    let prefilling = running.iter().filter(|one| !is_decode(one)).count() as u64;
    for _ in prefilling..line.context_requests {
        match waiting.pop_front() {
            Some(next) => running.push(next),
            None => fits = false,
        }
    }
    let mut batch = Batch::new(0);
    let (mut left, mut others) = (line.context_tokens, line.context_requests);
    for one in running.iter_mut() {
        if is_decode(one) {
            batch.add_tokens(one.computed, one.known);
            one.computed = one.known;
        } else if others > 0 {
            // Each computes something, and all but the last what it has to.
            others -= 1;
            let part = (one.known - one.computed).min(left.saturating_sub(others));
            fits &= part > 0 && (others > 0 || part == left);
            if part > 0 {
                batch.add_tokens(one.computed, one.computed + part);
            }
            one.computed += part;
            left -= part;
        }
    }
    fits &= left == 0;
    for one in running.iter_mut().filter(|one| one.computed == one.known) {
        one.tokens += 1;
        one.known += 1;
    }
    running.retain(|one| one.tokens < u64::from(rows[one.row].output_tokens));
    fits.then(|| StepFeatures::of(&batch))
}

#[cfg(test)]
mod tests {
    use servecast_engine::EngineArgs;

    use super::*;

    fn row(arrival_s: f64, input_tokens: u32, output_tokens: u32) -> RequestRow {
        RequestRow { line: 1, arrival_s, input_tokens, output_tokens, ..RequestRow::default() }
    }

    #[test]
    fn requests_tell_whose_tokens_a_log_counts() {
        let rows = vec![row(0.2, 30, 2), row(0.0, 100, 3)];
        let run = RequestRun { name: "run".to_owned(), rows, engine: EngineArgs::default(), workers: 1 };
        let line = |context_requests, context_tokens, generation_requests| LogLine {
            context_requests,
            context_tokens,
            generation_requests,
        };
        // A warm-up request of 40 tokens, then 64 of the first prompt, its rest and the second, and decodes.
        let lines =
            [line(1, 40, 0), line(0, 0, 1), line(1, 64, 0), line(2, 66, 0), line(0, 0, 2), line(0, 0, 1)];
        let found = align(&lines, &run).unwrap();
        assert_eq!(found.len(), 6);
        assert_eq!(found[..2], [None, None]);
        let features: Vec<StepFeatures> = found[2..].iter().map(|features| features.unwrap()).collect();
        let pairs: Vec<f64> = features.iter().map(|one| one.attention_pairs).collect();
        assert_eq!(pairs, [64.0 * 65.0 / 2.0, 36.0 * 64.0 + 36.0 * 37.0 / 2.0 + 30.0 * 31.0 / 2.0, 0.0, 0.0]);
        assert_eq!([2, 3].map(|place| features[place].context_tokens as u64), [101 + 31, 102]);
        let other = [line(1, 40, 0), line(0, 0, 1), line(2, 64, 0), line(1, 3, 5), line(0, 0, 2)];
        assert_eq!(align(&other, &run), None);
    }
}
