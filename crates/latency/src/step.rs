//! Iteration times from a handful of prices, as `servecast calibrate` fits them.

use std::fmt::Write as _;

use toml::{Table, Value};

use crate::{Batch, ErrorBar, Host, LatencyModel, PassTime};

/// What a pass computes, as far as a step model puts a price on it.
///
/// A request with more than one new token computes a prompt, or what a preempted one lost; one with a single new token
/// takes a step, whose price is in the context that it reads.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct StepFeatures {
    /// New tokens of requests that compute more than one.
    pub prefill_tokens: f64,
    /// Requests, and drafts that they verify: each of those is a row of the batch, as if it were a request.
    pub sequences: f64,
    /// Σ of the contexts of requests that compute one token or verify drafts: it is read once for all rows of a request.
    pub context_tokens: f64,
    /// Query-key pairs of the others: Σ of n·start + n·(n + 1)/2 for n new tokens after `start` others.
    pub attention_pairs: f64,
    /// New tokens of all requests.
    pub tokens: f64,
}

impl StepFeatures {
    /// The features of a batch.
    pub fn of(batch: &Batch) -> Self {
        let steps = batch.steps;
        Self {
            prefill_tokens: batch.chunk_tokens() as f64,
            sequences: batch.sampled_rows() as f64,
            context_tokens: steps.context_tokens as f64,
            attention_pairs: batch.chunk_pairs() as f64,
            tokens: batch.tokens as f64,
        }
    }

    /// Whether anybody computes more than one token, so that the prices of prompts hold.
    pub fn computes_prompts(&self) -> bool {
        self.prefill_tokens > 0.0
    }
}

/// The prices of a pass, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct StepPrices {
    /// Of the pass itself.
    pub base_us: f64,
    /// Of each of [`StepFeatures::prefill_tokens`].
    pub per_prefill_token_us: f64,
    /// Of each request.
    pub per_sequence_us: f64,
    /// Of each of [`StepFeatures::context_tokens`].
    pub per_context_token_us: f64,
    /// Of each of [`StepFeatures::attention_pairs`].
    pub per_attention_pair_us: f64,
}

/// The experts of a layer, of which every token activates some: the more tokens, the more of them have to be read, up to
/// all of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepExperts {
    /// How many there are.
    pub count: u32,
    /// How many a token activates.
    pub per_token: u32,
    /// Microseconds that a pass takes for all of them, in all layers.
    pub all_us: f64,
}

impl StepExperts {
    /// The share of the experts that so many tokens activate if each chooses at random: 1 − (1 − k/n)^tokens.
    pub fn activated(count: u32, per_token: u32, tokens: u64) -> f64 {
        // By squaring, since what the logarithm and exponential of a platform give differs in the last digit.
        let (mut base, mut exponent, mut idle) = (1.0 - f64::from(per_token) / f64::from(count), tokens, 1.0);
        while exponent > 0 {
            if exponent & 1 == 1 {
                idle *= base;
            }
            base *= base;
            exponent >>= 1;
        }
        1.0 - idle
    }
}

/// A pass priced by what it computes:
///
/// `base + prefill tokens + sequences + context tokens + attention pairs (+ activated experts)`, each at its price.
///
/// Passes in which anybody computes more than one token have one set of prices, those of steps alone may have another:
/// engines run them differently (CUDA graphs). What the host takes besides is fitted with them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Step {
    /// Of passes in which prompts are computed, with or without steps beside them.
    pub prefill: StepPrices,
    /// Of passes that consist of steps.
    pub decode: StepPrices,
    /// What a pass of steps takes at least, however little it computes: starting its kernels, say.
    pub least_decode_us: f64,
    /// Of a mixture-of-experts model.
    pub experts: Option<StepExperts>,
    /// What the host takes besides passes.
    pub host: Host,
    /// How far off it was for what played no part in the fit, if the file says so.
    pub error: Option<ErrorBar>,
}

impl LatencyModel for Step {
    fn pass(&self, batch: &Batch) -> PassTime {
        if batch.requests == 0 {
            return PassTime::default();
        }
        PassTime::whole(batch, self.us(&StepFeatures::of(batch), batch.tokens) / 1000.0)
    }

    fn host(&self) -> Host {
        self.host
    }

    fn error_bar(&self) -> Option<ErrorBar> {
        self.error.clone()
    }
}

impl Step {
    fn us(&self, features: &StepFeatures, tokens: u64) -> f64 {
        let prices = if features.computes_prompts() { &self.prefill } else { &self.decode };
        let us = prices.base_us
            + prices.per_prefill_token_us * features.prefill_tokens
            + prices.per_sequence_us * features.sequences
            + prices.per_context_token_us * features.context_tokens
            + prices.per_attention_pair_us * features.attention_pairs;
        let us = match self.experts {
            None => us,
            Some(StepExperts { count, per_token, all_us }) => {
                us + all_us * StepExperts::activated(count, per_token, tokens)
            }
        };
        if features.computes_prompts() { us } else { us.max(self.least_decode_us) }
    }

    /// Reads a model from the text of a TOML file, see [`Step::to_toml`].
    ///
    /// # Errors
    /// For text that is no TOML, keys that mean nothing, and values that are no price.
    pub fn from_toml(text: &str) -> Result<Self, StepError> {
        let table: Table =
            text.parse().map_err(|error: toml::de::Error| StepError::Toml { problem: error.to_string() })?;
        let mut root = Section { path: "", table: &table };
        let tables = ["prefill", "decode", "experts", ERROR];
        root.check(&Host::KEYS.into_iter().chain(tables).collect::<Vec<_>>())?;
        let prefill = root.section("prefill")?.ok_or(StepError::Missing { key: "prefill" })?;
        let prefill_keys =
            [BASE, "per_prefill_token_us", PER_SEQUENCE, PER_CONTEXT_TOKEN, "per_attention_pair_us"];
        let prefill = prefill.prices(&prefill_keys)?;
        let (decode, least_decode_us) = match root.section("decode")? {
            Some(decode) => (
                decode.prices(&[BASE, PER_SEQUENCE, PER_CONTEXT_TOKEN, LEAST])?,
                decode.price(LEAST)?.unwrap_or(0.0),
            ),
            // What prompts alone have plays no part in them.
            None => (prefill, 0.0),
        };
        let experts = root.section("experts")?.map(|experts| experts.experts()).transpose()?;
        let of_steps =
            |prices: &StepPrices| prices.base_us + prices.per_sequence_us + prices.per_context_token_us;
        for (phase, us) in
            [("prefill", of_steps(&prefill) + prefill.per_prefill_token_us), ("decode", of_steps(&decode))]
        {
            if us <= 0.0 {
                return Err(StepError::Free { phase });
            }
        }
        let mut host = Host::NONE;
        for key in Host::KEYS {
            if let (Some(us), Some(value)) = (root.price(key)?, host.value_mut(key)) {
                *value = us;
            }
        }
        let error = root.section(ERROR)?.map(|error| error.error_bar()).transpose()?;
        Ok(Self { prefill, decode, least_decode_us, experts, host, error })
    }

    /// The model as the text of a TOML file.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        let prices = |text: &mut String, name: &str, entries: &[(&str, f64)]| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "\n[{name}]");
            for (key, us) in entries {
                let _ = writeln!(text, "{key} = {us:?}");
            }
        };
        for (key, us) in Host::KEYS.into_iter().zip(self.host.values()) {
            // The front end stands there even if it takes no time.
            if us != 0.0 || key == "front_end_us" {
                let _ = writeln!(text, "{key} = {us:?}");
            }
        }
        let StepPrices {
            base_us,
            per_prefill_token_us,
            per_sequence_us,
            per_context_token_us,
            per_attention_pair_us,
        } = self.prefill;
        let prefill = [
            (BASE, base_us),
            ("per_prefill_token_us", per_prefill_token_us),
            (PER_SEQUENCE, per_sequence_us),
            (PER_CONTEXT_TOKEN, per_context_token_us),
            ("per_attention_pair_us", per_attention_pair_us),
        ];
        prices(&mut text, "prefill", &prefill);
        let StepPrices { base_us, per_sequence_us, per_context_token_us, .. } = self.decode;
        let decode =
            [(BASE, base_us), (PER_SEQUENCE, per_sequence_us), (PER_CONTEXT_TOKEN, per_context_token_us)];
        prices(&mut text, "decode", &decode);
        if self.least_decode_us != 0.0 {
            let _ = writeln!(text, "{LEAST} = {:?}", self.least_decode_us);
        }
        if let Some(StepExperts { count, per_token, all_us }) = self.experts {
            let _ =
                writeln!(text, "\n[experts]\ncount = {count}\nper_token = {per_token}\nall_us = {all_us:?}");
        }
        if let Some(error) = &self.error {
            let _ = writeln!(text, "\n[{ERROR}]");
            for (key, share) in error.shares() {
                let _ = writeln!(text, "{key} = {share:?}");
            }
            if let Some(n) = error.n {
                let _ = writeln!(text, "n = {n}");
            }
            let _ = writeln!(text, "basis = {}", Value::from(error.basis.as_str()));
        }
        text
    }
}

const BASE: &str = "base_us";
const PER_SEQUENCE: &str = "per_sequence_us";
const PER_CONTEXT_TOKEN: &str = "per_context_token_us";
const LEAST: &str = "least_us";
const ERROR: &str = "error";
/// An hour, in microseconds: no price is higher, and sums of prices stay within 64-bit nanoseconds.
const MOST_US: f64 = 3.6e9;

/// A table of the file.
struct Section<'a> {
    path: &'a str,
    table: &'a Table,
}

impl<'a> Section<'a> {
    fn named(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Refuses keys other than these.
    fn check(&self, known: &[&'static str]) -> Result<(), StepError> {
        for key in self.table.keys() {
            if !known.contains(&key.as_str()) {
                let near = |known: &&&str| strsim::damerau_levenshtein(key, known);
                let nearest = known.iter().min_by_key(near).filter(|known| near(known) <= 6);
                return Err(StepError::UnknownKey {
                    key: self.named(key),
                    expected: nearest.map_or_else(
                        || format!("there are {}", known.join(", ")),
                        |nearest| format!("did you mean `{nearest}`?"),
                    ),
                });
            }
        }
        Ok(())
    }

    fn wrong(&self, key: &str, found: &Value, expected: &'static str) -> StepError {
        StepError::Value { key: self.named(key), found: found.to_string().trim_end().to_owned(), expected }
    }

    fn section(&mut self, key: &'static str) -> Result<Option<Section<'a>>, StepError> {
        match self.table.get(key) {
            None => Ok(None),
            Some(Value::Table(table)) => Ok(Some(Section { path: key, table })),
            Some(found) => Err(self.wrong(key, found, "a table of prices")),
        }
    }

    fn price(&self, key: &str) -> Result<Option<f64>, StepError> {
        let Some(found) = self.table.get(key) else { return Ok(None) };
        let us = match found {
            Value::Integer(us) => Some(*us as f64),
            Value::Float(us) => Some(*us),
            _ => None,
        };
        match us.filter(|us| (0.0..=MOST_US).contains(us)) {
            Some(us) => Ok(Some(us)),
            None => Err(self.wrong(key, found, "a number of microseconds from 0 to 3.6e9")),
        }
    }

    /// Prices that are not given are 0.
    fn prices(&self, known: &[&'static str]) -> Result<StepPrices, StepError> {
        self.check(known)?;
        let price = |key: &str| Ok(self.price(key)?.unwrap_or(0.0));
        Ok(StepPrices {
            base_us: price(BASE)?,
            per_prefill_token_us: price("per_prefill_token_us")?,
            per_sequence_us: price(PER_SEQUENCE)?,
            per_context_token_us: price(PER_CONTEXT_TOKEN)?,
            per_attention_pair_us: price("per_attention_pair_us")?,
        })
    }

    fn error_bar(&self) -> Result<ErrorBar, StepError> {
        let wrong = |expected| StepError::Value {
            key: self.path.to_owned(),
            found: self.table.to_string().trim_end().replace('\n', ", "),
            expected,
        };
        let expected =
            "a table of tpot_p90, ttft_p90, tpot_mape, ttft_mape (shares, or nothing), n and basis";
        let error: ErrorBar = self.table.clone().try_into().map_err(|_: toml::de::Error| wrong(expected))?;
        match error.problem() {
            Some(_) => Err(wrong("shares from 0: 0.13 is 13 %")),
            None => Ok(error),
        }
    }

    fn experts(&self) -> Result<StepExperts, StepError> {
        self.check(&["count", "per_token", "all_us"])?;
        let number = |key: &'static str, most: u32| {
            let found = self.table.get(key).ok_or(StepError::Missing { key: "experts" })?;
            let number = found.as_integer().and_then(|number| u32::try_from(number).ok());
            let number = number.filter(|number| (1..=most).contains(number));
            number.ok_or_else(|| self.wrong(key, found, "a whole number of experts, per_token at most count"))
        };
        let count = number("count", 1 << 20)?;
        let per_token = number("per_token", count)?;
        let all_us = self.price("all_us")?.ok_or(StepError::Missing { key: "experts" })?;
        Ok(StepExperts { count, per_token, all_us })
    }
}

/// Why a file is no step model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// The text is no TOML.
    #[error("not valid TOML: {problem}")]
    Toml {
        /// What the parser says, with the line.
        problem: String,
    },
    /// A key that means nothing.
    #[error("`{key}` is no known key: {expected}")]
    UnknownKey {
        /// With the tables that it is in.
        key: String,
        /// What is near, or what there is.
        expected: String,
    },
    /// A table or one of its keys is missing.
    #[error(
        "`[{key}]` is missing or not complete: [prefill] has prices such as base_us, [experts] has count, per_token and \
         all_us"
    )]
    Missing {
        /// The table.
        key: &'static str,
    },
    /// A value that is no price.
    #[error("`{key}` is {found}, but must be {expected}")]
    Value {
        /// With the tables that it is in.
        key: String,
        /// What is there.
        found: String,
        /// What would be right.
        expected: &'static str,
    },
    /// Passes would take no time.
    #[error(
        "`[{phase}]` prices nothing that every pass has: give base_us, per_sequence_us or another above 0"
    )]
    Free {
        /// The table.
        phase: &'static str,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "front_end_us = 500\n[prefill]\nbase_us = 1000.0\nper_prefill_token_us = 10\n\
                        per_sequence_us = 5\nper_context_token_us = 0.5\nper_attention_pair_us = 0.001\n\
                        [decode]\nbase_us = 800\nper_sequence_us = 6\nper_context_token_us = 0.25\n";

    #[track_caller]
    fn costs(step: &Step, chunks: &[(u64, u64)], ms: f64) {
        let mut batch = Batch::new(0);
        for &(start, end) in chunks {
            batch.add_tokens(start, end);
        }
        let PassTime { prompt_ms, decode_ms } = step.pass(&batch);
        assert!((prompt_ms + decode_ms - ms).abs() < 1e-9, "{} instead of {ms}", prompt_ms + decode_ms);
    }

    #[test]
    fn each_phase_has_its_prices() {
        let step = Step::from_toml(FILE).unwrap();
        assert_eq!(step.host(), Host { front_end_us: 500.0, ..Host::NONE });
        costs(&step, &[], 0.0);
        // 1000 + 10·100 + 5·2 + 0.5·41 + 0.001·(100·7 + 5050)
        costs(&step, &[(7, 107), (40, 41)], 2.03625);
        // 800 + 6·2 + 0.25·(41 + 61)
        costs(&step, &[(40, 41), (60, 61)], 0.8375);
    }

    #[test]
    fn without_prices_of_its_own_a_step_costs_what_prompts_do() {
        let step = Step::from_toml("[prefill]\nbase_us = 1000\nper_context_token_us = 1").unwrap();
        costs(&step, &[(99, 100)], 1.1);
    }

    #[test]
    fn a_pass_of_steps_has_a_least_time() {
        let step = Step::from_toml(&format!("gap_us = 7\n{FILE}least_us = 830\n")).unwrap();
        // 800 + 6 + 0.25·41 would be less.
        costs(&step, &[(40, 41)], 0.83);
        costs(&step, &[(40, 41), (60, 61)], 0.8375);
        // 1000 + 10·2 + 5·2 + 0.5·41 + 0.001·(2·7 + 3)
        costs(&step, &[(7, 9), (40, 41)], 1.050517);
        assert_eq!(Step::from_toml(&step.to_toml()).unwrap(), step);
        assert_eq!(step.host().gap_us as u64, 7);
    }

    #[test]
    fn experts_saturate() {
        let file = "[prefill]\nbase_us = 100\n[experts]\ncount = 8\nper_token = 2\nall_us = 1000";
        let step = Step::from_toml(file).unwrap();
        costs(&step, &[(9, 10)], 0.35);
        costs(&step, &[(9, 11)], 0.1 + (1.0 - 0.75 * 0.75));
        costs(&step, &[(0, 8192)], 1.1);
        assert!((StepExperts::activated(128, 8, 77) - (1.0 - (120_f64 / 128.0).powi(77))).abs() < 1e-12);
    }

    #[test]
    fn what_is_written_is_read_again() {
        let file = format!("{FILE}[experts]\ncount = 128\nper_token = 8\nall_us = 0.125\n");
        let step = Step::from_toml(&file).unwrap();
        assert_eq!(Step::from_toml(&step.to_toml()).unwrap(), step);
    }

    #[test]
    fn a_file_says_how_far_off_it_is() {
        let error = ErrorBar {
            tpot_p90: Some(0.031),
            ttft_p90: Some(0.12),
            tpot_mape: Some(0.02),
            ttft_mape: Some(0.07),
            n: Some(5),
            basis: "5 parts".to_owned(),
        };
        let step = Step { error: Some(error.clone()), ..Step::from_toml(FILE).unwrap() };
        assert_eq!(Step::from_toml(&step.to_toml()).unwrap().error_bar(), Some(error));
        let unknown = Step { error: Some(ErrorBar::unknown("no requests")), ..step };
        assert_eq!(Step::from_toml(&unknown.to_toml()).unwrap(), unknown);
    }

    #[test]
    fn files_that_price_nothing_sensible_are_refused() {
        let check = |text: &str, message: &str| {
            let error = Step::from_toml(text).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        };
        check("front_end_us = 1", "`[prefill]` is missing");
        check("[prefill]\nbase_ms = 1", "`prefill.base_ms` is no known key: did you mean `base_us`?");
        check("[prefill]\nbase_us = 1\n[decode]\nper_prefill_token_us = 1", "`decode.per_prefill_token_us`");
        check("[prefill]\nbase_us = 1\n[warmup]", "`warmup` is no known key");
        check("[prefill]\nbase_us = -1.5", "`prefill.base_us` is -1.5, but must be a number of microseconds");
        check("[prefill]\nbase_us = nan", "`prefill.base_us` is nan");
        check("[prefill]\nbase_us = \"1 ms\"", "`prefill.base_us` is \"1 ms\"");
        check("[prefill]\nbase_us = 1\n[decode]", "`[decode]` prices nothing");
        check("prefill = 3", "`prefill` is 3, but must be a table");
        check("[prefill]\nbase_us = 1\n[experts]\ncount = 4\nper_token = 5\nall_us = 1", "experts.per_token");
        check(
            "[prefill]\nbase_us = 1\n[error]\ntpot_p90 = 3",
            "`error` is tpot_p90 = 3, but must be a table of",
        );
        check("[prefill]\nbase_us = 1\n[error]\nbasis = \"a\"\ntpot_p90 = -0.1", "must be shares from 0");
        check("[prefill", "not valid TOML");
    }
}
