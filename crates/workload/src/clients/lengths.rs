//! Lengths of prompts and outputs, and the laws that they are drawn by.

use std::fmt;

use rand::RngExt;
use rand_distr::{Distribution, LogNormal, weighted::WeightedIndex};
use rand_pcg::Pcg64;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use servecast_types::{Message, message};

/// What lengths are drawn from.
#[derive(Debug, Clone, PartialEq)]
pub enum Lengths {
    /// All are so long.
    Fixed(u64),
    /// Log-normal.
    Lognormal(Lognormal),
    /// Uniform.
    Uniform(Uniform),
    /// Of a measured histogram: uniform within each bin.
    Histogram(Histogram),
}

/// A log-normal distribution.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Lognormal {
    /// Mean in tokens.
    pub mean: f64,
    /// Standard deviation over the mean.
    pub spread: f64,
}

/// A uniform distribution of whole numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Uniform {
    /// The fewest tokens.
    pub min: u64,
    /// The most tokens.
    pub max: u64,
}

/// A histogram.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    /// Bins, in order: the most tokens of each, which begins behind the one before (at 1), and its weight.
    pub histogram: Vec<(u64, f64)>,
}

impl<'de> Deserialize<'de> for Lengths {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LengthsVisitor)
    }
}

struct LengthsVisitor;

/// The keys of a law, which say together which it is.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    mean: Option<f64>,
    spread: Option<f64>,
    min: Option<u64>,
    max: Option<u64>,
    histogram: Option<Vec<(u64, f64)>>,
}

impl<'de> Visitor<'de> for LengthsVisitor {
    type Value = Lengths;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a number of tokens, {mean = M, spread = S} (log-normal, S the standard deviation over the mean), {min = A, max = B} \
             (uniform), or {histogram = [[UP_TO, WEIGHT], …]}",
        )
    }

    fn visit_u64<E: Error>(self, tokens: u64) -> Result<Lengths, E> {
        Ok(Lengths::Fixed(tokens))
    }

    fn visit_i64<E: Error>(self, tokens: i64) -> Result<Lengths, E> {
        let wrong = || E::invalid_value(serde::de::Unexpected::Signed(tokens), &self);
        u64::try_from(tokens).map(Lengths::Fixed).map_err(|_| wrong())
    }

    fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Lengths, M::Error> {
        match Keys::deserialize(MapAccessDeserializer::new(map))? {
            Keys { mean: Some(mean), spread: Some(spread), min: None, max: None, histogram: None } => {
                Ok(Lengths::Lognormal(Lognormal { mean, spread }))
            }
            Keys { mean: None, spread: None, min: Some(min), max: Some(max), histogram: None } => {
                Ok(Lengths::Uniform(Uniform { min, max }))
            }
            Keys { mean: None, spread: None, min: None, max: None, histogram: Some(histogram) } => {
                Ok(Lengths::Histogram(Histogram { histogram }))
            }
            _ => Err(M::Error::custom(format_args!("the keys are those of no law: expected {Expected}"))),
        }
    }
}

/// What is expected, in words.
struct Expected;

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        LengthsVisitor.expecting(f)
    }
}

impl Lengths {
    pub(super) fn validate(&self, field: &str, most: u64) -> Result<(), Message> {
        let wrong = |what: String| Err(message!("`{}` {}", field.to_owned(), what));
        match self {
            Self::Fixed(tokens) if !(1..=most).contains(tokens) => {
                wrong(format!("is {tokens}, but must be from 1 to {most}"))
            }
            Self::Lognormal(Lognormal { mean, spread })
                if !((1.0..=most as f64).contains(mean) && *spread > 0.0 && *spread <= 10.0) =>
            {
                wrong(format!(
                    "has mean {mean} and spread {spread}, but the mean must be from 1 to {most} and the spread above 0 and at \
                     most 10"
                ))
            }
            Self::Uniform(Uniform { min, max }) if !(1 <= *min && min <= max && *max <= most) => {
                wrong(format!("is from {min} to {max}, but must lie within 1 and {most}, in this order"))
            }
            Self::Histogram(Histogram { histogram }) => {
                let is_sorted = histogram.windows(2).all(|pair| pair[0].0 < pair[1].0);
                let within = histogram.iter().all(|(up_to, weight)| {
                    (1..=most).contains(up_to) && weight.is_finite() && *weight >= 0.0
                });
                let is_empty = !histogram.iter().any(|(_, weight)| *weight > 0.0);
                if is_sorted && within && !is_empty {
                    return Ok(());
                }
                wrong(format!(
                    "has a histogram whose bins must rise from 1 to {most} tokens at most, with weights from 0, one of them above"
                ))
            }
            _ => Ok(()),
        }
    }
}

/// Draws lengths.
pub(super) enum Law<'a> {
    Fixed(u64),
    Lognormal(LogNormal<f64>),
    Uniform(Uniform),
    Histogram(&'a [(u64, f64)], WeightedIndex<f64>),
}

impl<'a> Law<'a> {
    pub(super) fn of(lengths: &'a Lengths) -> Self {
        match lengths {
            Lengths::Fixed(tokens) => Self::Fixed(*tokens),
            Lengths::Lognormal(Lognormal { mean, spread }) => {
                Self::Lognormal(LogNormal::from_mean_cv(*mean, *spread).expect("both were checked"))
            }
            Lengths::Uniform(uniform) => Self::Uniform(*uniform),
            Lengths::Histogram(Histogram { histogram }) => {
                let weights = WeightedIndex::new(histogram.iter().map(|(_, weight)| *weight));
                Self::Histogram(histogram, weights.expect("weights were checked"))
            }
        }
    }

    pub(super) fn draw(&self, random: &mut Pcg64, most: u64) -> u64 {
        match self {
            Self::Fixed(tokens) => *tokens,
            Self::Lognormal(law) => (law.sample(random).round() as u64).clamp(1, most),
            Self::Uniform(Uniform { min, max }) => random.random_range(*min..=*max),
            Self::Histogram(bins, weights) => {
                let bin = weights.sample(random);
                let first = bin.checked_sub(1).map_or(1, |before| bins[before].0 + 1);
                random.random_range(first..=bins[bin].0)
            }
        }
    }
}
