//! What the turns of a session have of one another.

use rustc_hash::FxHashSet;
use servecast_types::{ContentNames, Prompt, Run};

use crate::workload::{Session, Turn};
use crate::{MAX_INPUT_TOKENS, TraceError, TraceNotes};

/// Gives replies without a name the one that the next turn has for them, and notes turns that go on from nothing.
///
/// The next turn repeats a reply if its prompt begins with the whole prompt before and is long enough for the reply.
pub(crate) fn name_replies(sessions: &mut [Session], notes: &mut TraceNotes) {
    for session in sessions {
        for place in 1..session.turns.len() {
            let waits = session.waits_for(place);
            let (before, rest) = session.turns.split_at_mut(place);
            let Some(next) = rest.first() else { continue };
            for turn in waits {
                let shared = name_reply(&mut before[turn as usize], next);
                // Of lengths alone nobody expects anything in common, and of several turns it is one that is gone on from.
                if shared == 0 && notes.without_content == 0 && session.waits.is_none() {
                    notes.unrelated_turns.add(next.line);
                }
            }
        }
    }
}

/// Gives the reply of a turn the name that a later one has for it, if that goes on from there; how many tokens their prompts
/// share.
fn name_reply(turn: &mut Turn, next: &Turn) -> u32 {
    name_rest(turn, next);
    let shared = turn.prompt.common_prefix(&next.prompt);
    let end = u64::from(turn.prompt.tokens()) + u64::from(turn.generated());
    let repeats = shared == turn.prompt.tokens() && u64::from(next.prompt.tokens()) >= end;
    if turn.output.is_none() && repeats {
        // It is within the next prompt, so it fits.
        turn.output = Some(Box::new(Prompt::new(next.prompt.range(shared..end as u32))));
    }
    shared
}

/// Gives the tokens behind the last id of a prompt the names that the next turn has for them, if it has all before: ids
/// of some traces are those of full blocks.
fn name_rest(turn: &mut Turn, next: &Turn) {
    let [.., _, rest] = turn.prompt.runs() else { return };
    let tokens = turn.prompt.tokens();
    if !rest.is_unique() || next.prompt.tokens() < tokens {
        return;
    }
    let named = Prompt::new(next.prompt.range(0..tokens));
    let is_known = named.runs().last().is_some_and(|run| !run.is_unique());
    if is_known && turn.prompt.common_prefix(&named) >= tokens - rest.len() {
        turn.prompt = named;
    }
}

/// Makes whole prompts of what is new in each turn: the prompt before, the reply, and that. Turns of the lines `resets` begin
/// anew.
pub(crate) fn join_turns(
    sessions: &mut [Session],
    names: &mut ContentNames,
    resets: &FxHashSet<u64>,
) -> Result<(), TraceError> {
    let mut replies = 0..;
    for session in sessions {
        if let (Some(_), [.., last]) = (&session.waits, session.turns.as_slice()) {
            return Err(TraceError::DeltaGraph { line: last.line });
        }
        let name = session.name.as_deref().unwrap_or_default();
        for place in 1..session.turns.len() {
            let (before, rest) = session.turns.split_at_mut(place);
            let (Some(turn), Some(next)) = (before.last_mut(), rest.first_mut()) else { continue };
            if resets.contains(&next.line) {
                continue;
            }
            name_whole_reply(turn, replies.next().unwrap_or_default());
            names.add_reply(name, place - 1);
            let reply = turn.output.as_deref();
            let tokens = u64::from(turn.prompt.tokens())
                + u64::from(turn.generated())
                + u64::from(next.prompt.tokens());
            if tokens > MAX_INPUT_TOKENS {
                return Err(TraceError::SessionTooLong { line: next.line, tokens });
            }
            let parts = [Some(&turn.prompt), reply, Some(&next.prompt)];
            let runs = parts.into_iter().flatten().flat_map(|part| part.runs().iter().copied());
            next.prompt = Prompt::new(runs);
        }
    }
    Ok(())
}

/// Names every token of a reply, which later turns repeat.
fn name_whole_reply(turn: &mut Turn, number: u32) {
    let tokens = turn.generated();
    let output = turn.output.get_or_insert_default();
    let unnamed = tokens - output.tokens();
    output.push(Run::reply(number, unnamed));
}
