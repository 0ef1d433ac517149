//! The built-in workload: what a chat service sees in a busy minute, small enough for a first run.

use rand::RngExt;
use rand_distr::{Distribution, Exp1, LogNormal};
use rand_pcg::Pcg64;

use crate::TraceRow;
use crate::random::{rounded_ms, stream};

/// Tokens that one hash id of the built-in workload stands for.
pub const SAMPLE_BLOCK_SIZE: u32 = 64;

const SESSIONS: u64 = 60;
const MEAN_GAP_MS: f64 = 1000.0;
/// Lengths of the system prompts in blocks: 1024, 1920 and 2944 tokens.
///
/// They end at a block's end, since a block that begins with the system prompt and ends with a user's words is
/// no other session's block.
const SYSTEM_PROMPT_BLOCKS: [u64; 3] = [16, 30, 46];
const USER_TOKENS: Law = Law { mean: 180.0, variation: 1.0, min: 8.0, max: 2000.0 };
const OUTPUT_TOKENS: Law = Law { mean: 220.0, variation: 0.7, min: 4.0, max: 1000.0 };
const THINK_MS: Law = Law { mean: 6000.0, variation: 0.8, min: 500.0, max: 60_000.0 };

/// About 60 chat sessions of 2 to 6 turns that arrive over about a minute, the same for the same seed.
///
/// Each session starts with one of three system prompts, and each turn's prompt is the whole conversation so far
/// and what the user adds; so the later the turn, the more of its prompt was computed before. One hash id stands
/// for [`SAMPLE_BLOCK_SIZE`] tokens. Rows are grouped by session, their lines numbered from 1.
pub fn sample_chat_sessions(seed: u64) -> Vec<TraceRow> {
    let mut arrivals = stream(seed, "sample_arrivals");
    let mut shapes = stream(seed, "sample_shapes");
    let mut lengths = stream(seed, "sample_lengths");
    let mut thinking = stream(seed, "sample_think_times");
    let mut arrival_ms = 0.0;
    let mut next_block = SYSTEM_PROMPT_BLOCKS.iter().sum();
    let mut rows = Vec::new();
    for session in 0..SESSIONS {
        let mut chat = Chat::new(shapes.random_range(0..SYSTEM_PROMPT_BLOCKS.len()));
        for turn in 0..shapes.random_range(2..=6) {
            chat.say(USER_TOKENS.draw(&mut lengths).round() as u64, &mut next_block);
            let output_length = OUTPUT_TOKENS.draw(&mut lengths).round() as u64;
            rows.push(TraceRow {
                line: rows.len() as u64 + 1,
                session_id: Some(format!("chat-{}", session + 1)),
                timestamp_ms: (turn == 0).then(|| rounded_ms(arrival_ms)),
                delay_ms: (turn > 0).then(|| rounded_ms(THINK_MS.draw(&mut thinking))),
                input_length: Some(chat.tokens),
                output_length,
                hash_ids: chat.blocks.clone(),
                ..TraceRow::default()
            });
            chat.say(output_length, &mut next_block);
        }
        let gap: f64 = Exp1.sample(&mut arrivals);
        arrival_ms += gap * MEAN_GAP_MS;
    }
    rows
}

/// A conversation so far.
struct Chat {
    tokens: u64,
    blocks: Vec<u64>,
}

impl Chat {
    fn new(system_prompt: usize) -> Self {
        let first: u64 = SYSTEM_PROMPT_BLOCKS[..system_prompt].iter().sum();
        let count = SYSTEM_PROMPT_BLOCKS[system_prompt];
        Self { tokens: count * u64::from(SAMPLE_BLOCK_SIZE), blocks: (first..first + count).collect() }
    }

    /// Adds a message. A block that is not full yet keeps its id and grows: its beginning stays what it was.
    fn say(&mut self, tokens: u64, next_block: &mut u64) {
        self.tokens += tokens;
        let missing = self.tokens.div_ceil(SAMPLE_BLOCK_SIZE.into()) - self.blocks.len() as u64;
        self.blocks.extend(*next_block..*next_block + missing);
        *next_block += missing;
    }
}

/// A log-normal quantity within bounds.
struct Law {
    mean: f64,
    variation: f64,
    min: f64,
    max: f64,
}

impl Law {
    fn draw(&self, rng: &mut Pcg64) -> f64 {
        let law = LogNormal::from_mean_cv(self.mean, self.variation).expect("the constants are above 0");
        law.sample(rng).clamp(self.min, self.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Load, Workload, stats};

    #[test]
    fn the_sample_is_what_it_says() {
        let rows = sample_chat_sessions(42);
        assert_eq!(rows, sample_chat_sessions(42));
        assert_ne!(rows, sample_chat_sessions(43));
        let load = Load::Open { arrival_speedup_ratio: 1.0 };
        let workload = Workload::from_rows(&rows, SAMPLE_BLOCK_SIZE, load).unwrap();
        assert_eq!(workload.sessions.len(), 60);
        assert!(workload.sessions.iter().all(|session| (2..=6).contains(&session.turns.len())));
        let times: Vec<f64> = rows.iter().filter_map(|row| row.timestamp_ms).collect();
        assert!(
            times.is_sorted() && times[0] == 0.0 && (30_000.0..90_000.0).contains(&times[59]),
            "{times:?}"
        );
        assert_eq!(workload.notes.sentences(), [""; 0]);
        let stats = stats(&workload, SAMPLE_BLOCK_SIZE);
        assert!((0.6..0.95).contains(&stats.token_reuse_ratio), "{stats:?}");
    }

    #[test]
    fn every_turn_repeats_the_one_before_it() {
        for pair in sample_chat_sessions(7).windows(2) {
            let (before, after) = (&pair[0], &pair[1]);
            if before.session_id == after.session_id {
                assert!(after.hash_ids.starts_with(&before.hash_ids));
                assert!(after.input_length.unwrap() > before.input_length.unwrap() + before.output_length);
            } else {
                let of_users = |id: &&u64| **id >= SYSTEM_PROMPT_BLOCKS.iter().sum();
                assert!(!after.hash_ids.iter().filter(of_users).any(|id| before.hash_ids.contains(id)));
            }
        }
    }
}
