//! A load that several kinds of clients make together, each with arrivals, lengths and sharing of its own, as services see
//! it: the mix of clients, not one distribution for all, is what makes such a load bursty (ServeGen, 2025).

mod lengths;

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use rand::RngExt;
use rand_pcg::Pcg64;
use serde::Deserialize;
use servecast_types::{Message, Seed, message};

use self::lengths::Law;
pub use self::lengths::{Histogram, Lengths, Lognormal, Uniform};
use crate::random::{rounded_ms, stream};
use crate::rate::{Arrivals, RateProfile};
use crate::row::{MAX_INPUT_TOKENS, MAX_OUTPUT_TOKENS};
use crate::{MAX_TIME_MS, TraceRow};

/// Several kinds of clients: tables `[[client]]` of a TOML file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientMix {
    /// The clients.
    pub client: Vec<Client>,
}

/// One kind of clients.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Client {
    /// The class that its requests are of.
    pub name: String,
    /// Sessions that it begins in a second, unless it has a profile.
    pub rate_per_s: Option<f64>,
    /// A rate that changes over time.
    pub profile: Option<RateProfile>,
    /// Shape of the gaps between its sessions: 1 is a Poisson process, less has bursts.
    #[serde(default = "one")]
    pub burstiness: f64,
    /// Tokens that a turn adds to its prompt.
    pub input_tokens: Option<Lengths>,
    /// Tokens that a turn generates.
    pub output_tokens: Option<Lengths>,
    /// A trace whose requests lend each turn both lengths, in place of the two above.
    pub lengths_of: Option<String>,
    /// Tokens that all its prompts begin with, in whole blocks.
    #[serde(default)]
    pub shared_prefix_tokens: u64,
    /// Requests of a session, each of which goes on from the one before and its reply.
    #[serde(default = "one_turn")]
    pub turns: u64,
    /// Seconds between a reply and the next turn.
    #[serde(default)]
    pub think_time_s: f64,
}

const fn one() -> f64 {
    1.0
}

const fn one_turn() -> u64 {
    1
}

/// The most that a rate, a shape of gaps or a spread may be.
const MOST: f64 = 1e9;

/// The most requests of a load, as many as a synthetic workload may have.
const MOST_ROWS: u64 = 10_000_000;

/// The most turns of a session.
const MOST_TURNS: u64 = 10_000;

impl ClientMix {
    /// Checks what the file says, but for what traces hold.
    ///
    /// # Errors
    /// In words that begin with the client.
    pub fn validate(&self) -> Result<(), Message> {
        if self.client.is_empty() {
            return Err("there is no client: each is a table [[client]]".into());
        }
        for (place, client) in self.client.iter().enumerate() {
            if self.client[..place].iter().any(|other| other.name == client.name) || client.name.is_empty() {
                return Err(message!(
                    "client {}: `name` is {}, but must be a name of its own",
                    place as u64 + 1,
                    format!("{:?}", client.name)
                ));
            }
            client.validate().map_err(|problem| message!("client `{}`: {}", client.name.clone(), problem))?;
        }
        Ok(())
    }

    /// Makes the rows of the first so many sessions, by their times. `lengths` has for each client with
    /// [`Client::lengths_of`] the prompt and output lengths of that trace. The draws of one client do not depend on the
    /// others.
    ///
    /// # Errors
    /// As [`ClientMix::validate`], and if no client begins so many sessions.
    ///
    /// # Panics
    /// If `block_size` is 0, or lengths are missing.
    pub fn generate(
        &self,
        lengths: &[Vec<(u64, u64)>],
        sessions: u64,
        block_size: u32,
        seed: u64,
    ) -> Result<Vec<TraceRow>, Message> {
        self.validate()?;
        let profiles: Vec<RateProfile> = self.client.iter().map(Client::profile).collect();
        let mut makers: Vec<Maker> = self
            .client
            .iter()
            .zip(&profiles)
            .enumerate()
            .map(|(place, (client, profile))| {
                Maker::new(client, profile, lengths.get(place).map_or(&[], Vec::as_slice), seed)
            })
            .collect();
        let mut next: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::new();
        for (place, maker) in makers.iter_mut().enumerate() {
            next.extend(maker.next_us().map(|at| Reverse((at, place))));
        }
        let too_short = |client: &&Client| (1..u64::from(block_size)).contains(&client.shared_prefix_tokens);
        if let Some(client) = self.client.iter().find(too_short) {
            return Err(message!(
                "client `{}`: `shared_prefix_tokens` is {}, less than a block of {} tokens, which is the least that can be shared: \
                 {--trace_block_size} is that of blocks",
                client.name.clone(),
                client.shared_prefix_tokens,
                block_size
            ));
        }
        let mut blocks = BlockNames { size: block_size.into(), next: 0 };
        for maker in &mut makers {
            maker.prefix = blocks.take(maker.client.shared_prefix_tokens / blocks.size);
        }
        let mut rows = Vec::new();
        for session in 0..sessions {
            let Some(Reverse((at_us, place))) = next.pop() else {
                return Err(message!(
                    "no client begins another session after {} of {} sessions: its rate ends at 0, or the times of such a rate are \
                     beyond what a trace can hold",
                    session,
                    sessions
                ));
            };
            if rows.len() as u64 + self.client[place].turns > MOST_ROWS {
                return Err(message!(
                    "{} sessions of so many `turns` are more than the {} requests that a load may have",
                    sessions,
                    MOST_ROWS
                ));
            }
            makers[place].session(at_us as f64 / 1e3, session, &mut blocks, &mut rows)?;
            next.extend(makers[place].next_us().map(|at| Reverse((at, place))));
        }
        rows.iter_mut().zip(1..).for_each(|(row, line)| row.line = line);
        Ok(rows)
    }
}

impl Client {
    fn validate(&self) -> Result<(), Message> {
        match (self.rate_per_s, &self.profile) {
            (Some(rate), None) if rate > 0.0 && rate <= MOST => {}
            (Some(rate), None) => {
                return Err(message!("`rate_per_s` is {}, but must be above 0 and at most {}", rate, MOST));
            }
            (None, Some(profile)) => profile.validate()?,
            (None, None) => return Err("`rate_per_s` is missing: give it, or a `profile`".into()),
            (Some(_), Some(_)) => return Err("`rate_per_s` and `profile` both say the rate".into()),
        }
        if !(self.burstiness > 0.0 && self.burstiness <= MOST) {
            return Err(message!(
                "`burstiness` is {}, but must be above 0 and at most {}",
                self.burstiness,
                MOST
            ));
        }
        match (&self.lengths_of, &self.input_tokens, &self.output_tokens) {
            (Some(_), None, None) => {}
            (Some(_), ..) => {
                return Err(
                    "`lengths_of` says both lengths: leave `input_tokens` and `output_tokens` out".into()
                );
            }
            (None, Some(input), Some(output)) => {
                input.validate("input_tokens", MAX_INPUT_TOKENS)?;
                output.validate("output_tokens", MAX_OUTPUT_TOKENS)?;
            }
            (None, input, _) => {
                let missing = if input.is_none() { "input_tokens" } else { "output_tokens" };
                return Err(message!("`{}` is missing: give it, or `lengths_of` a trace", missing));
            }
        }
        if !(1..=MOST_TURNS).contains(&self.turns) {
            return Err(message!("`turns` is {}, but must be from 1 to {}", self.turns, MOST_TURNS));
        }
        if !(0.0..=MOST).contains(&self.think_time_s) {
            return Err(message!("`think_time_s` is {}, but must be from 0 to {}", self.think_time_s, MOST));
        }
        if self.shared_prefix_tokens > MAX_INPUT_TOKENS {
            return Err(message!(
                "`shared_prefix_tokens` is {}, but must be at most {}",
                self.shared_prefix_tokens,
                MAX_INPUT_TOKENS
            ));
        }
        Ok(())
    }

    fn profile(&self) -> RateProfile {
        let constant = || RateProfile::constant(self.rate_per_s.unwrap_or_default());
        self.profile.clone().unwrap_or_else(constant)
    }
}

/// Where a client has its lengths from.
enum Source<'a> {
    Laws(Law<'a>, Law<'a>),
    Pairs(&'a [(u64, u64)]),
}

/// Makes the sessions of one client.
struct Maker<'a> {
    client: &'a Client,
    arrivals: Arrivals<'a>,
    source: Source<'a>,
    lengths: Pcg64,
    /// The blocks that its prompts begin with.
    prefix: Vec<u64>,
}

impl<'a> Maker<'a> {
    fn new(client: &'a Client, profile: &'a RateProfile, pairs: &'a [(u64, u64)], seed: u64) -> Self {
        let Seed(seed) = Seed(seed).purpose(&format!("client {}", client.name));
        let mut arrivals = Arrivals::new(profile, client.burstiness, seed);
        // Of many clients not all begin at once: the first session comes after a gap, too.
        arrivals.next_ms();
        let source = match (&client.input_tokens, &client.output_tokens) {
            (Some(input), Some(output)) => Source::Laws(Law::of(input), Law::of(output)),
            _ => Source::Pairs(pairs),
        };
        Self { client, arrivals, source, lengths: stream(seed, "lengths"), prefix: Vec::new() }
    }

    /// When the next session begins, in microseconds.
    fn next_us(&mut self) -> Option<u64> {
        self.arrivals
            .next_ms()
            .filter(|ms| *ms <= MAX_TIME_MS / 2.0)
            .map(|ms| (rounded_ms(ms) * 1e3).round() as u64)
    }

    /// Tokens that a turn adds, and tokens that it generates.
    fn lengths(&mut self) -> (u64, u64) {
        match &self.source {
            Source::Laws(input, output) => {
                let random = &mut self.lengths;
                (input.draw(random, MAX_INPUT_TOKENS), output.draw(random, MAX_OUTPUT_TOKENS))
            }
            Source::Pairs(pairs) => pairs[self.lengths.random_range(0..pairs.len())],
        }
    }

    fn session(
        &mut self,
        at_ms: f64,
        number: u64,
        blocks: &mut BlockNames,
        rows: &mut Vec<TraceRow>,
    ) -> Result<(), Message> {
        let Client { name, turns, think_time_s, .. } = self.client;
        let mut prompt = Prompt { tokens: self.prefix.len() as u64 * blocks.size, ids: self.prefix.clone() };
        for turn in 0..*turns {
            let (added, output_length) = self.lengths();
            prompt.add(added, blocks);
            if prompt.tokens > MAX_INPUT_TOKENS {
                return Err(message!(
                    "client `{}`: a prompt has {} tokens, but may have {} at most",
                    name.clone(),
                    prompt.tokens,
                    MAX_INPUT_TOKENS
                ));
            }
            rows.push(TraceRow {
                session_id: (*turns > 1).then(|| format!("session_{number}")),
                timestamp_ms: (turn == 0).then_some(at_ms),
                delay_ms: (turn > 0).then_some(think_time_s * 1e3),
                input_length: Some(prompt.tokens),
                output_length,
                hash_ids: prompt.ids.clone(),
                class: Some(name.as_str().into()),
                ..TraceRow::default()
            });
            prompt.add(output_length, blocks);
        }
        Ok(())
    }
}

/// A conversation so far. A block that is not full keeps its id and grows.
struct Prompt {
    tokens: u64,
    ids: Vec<u64>,
}

impl Prompt {
    fn add(&mut self, tokens: u64, blocks: &mut BlockNames) {
        self.tokens += tokens;
        let missing = self.tokens.div_ceil(blocks.size) - self.ids.len() as u64;
        self.ids.extend(blocks.take(missing));
    }
}

/// Gives out ids that nothing has yet.
struct BlockNames {
    size: u64,
    next: u64,
}

impl BlockNames {
    fn take(&mut self, blocks: u64) -> Vec<u64> {
        let first = self.next;
        self.next += blocks;
        (first..self.next).collect()
    }
}

#[cfg(test)]
mod tests;
