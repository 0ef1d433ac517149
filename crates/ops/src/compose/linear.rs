//! Linear attention: a convolution and a recurrence, whose cost does not grow with the context.

use super::{Part, Workbench};
use crate::grid::Grid;
use crate::library::Found;
use crate::pack::PackError;
use crate::roof::Roof;

/// Blocks with linear attention.
#[derive(Debug)]
pub(super) struct LinearPart {
    layers: f64,
    /// Over requests.
    decode: Option<Grid>,
    /// Over requests and their length.
    prompt: Option<Grid>,
    /// The shape's heads of values over those of the tables.
    ratio: [f64; 2],
    /// Numbers of a sequence's state in a block.
    state: f64,
    roof: Roof,
}

impl LinearPart {
    pub(super) fn new(bench: &mut Workbench<'_>) -> Result<Option<Self>, PackError> {
        let Some(linear) = bench.model().linear else { return Ok(None) };
        let shards = bench.shards();
        let (keys, values) = (linear.key_heads.div_ceil(shards), linear.value_heads.div_ceil(shards));
        let state = f64::from(values * linear.key_size * linear.value_size);
        let mut part = Self {
            layers: f64::from(linear.layers),
            decode: None,
            prompt: None,
            ratio: [1.0; 2],
            state,
            roof: bench.roof,
        };
        for (index, op) in ["gdn_decode", "gdn_context"].into_iter().enumerate() {
            let found = bench.library.find(op, |key| {
                let unlike = |one: u32, other: u32| (f64::from(one.max(1)) / f64::from(other)).ln().abs();
                let (of_keys, of_values) = (key.number("k_heads"), key.number("v_heads"));
                let fits = key.number("k_dim") == linear.key_size && key.number("v_dim") == linear.value_size;
                let far = unlike(of_values, values) + 0.1 * unlike(of_keys, keys);
                fits.then_some((far, (far, of_values)))
            })?;
            let Some(Found { grid, key: (far, heads), source }) = found else {
                let rule = "linear attention: the data sheet, for want of a table".to_owned();
                bench.origins.estimated(Part::LinearAttention, rule);
                continue;
            };
            if far > 0.0 {
                let rule = format!("{source}, carried over from {heads} heads of values to {values}");
                bench.origins.estimated(Part::LinearAttention, rule);
            } else {
                bench.origins.measured(Part::LinearAttention, source);
            }
            part.ratio[index] = f64::from(values) / f64::from(heads.max(1));
            *(if index == 0 { &mut part.decode } else { &mut part.prompt }) = Some(grid);
        }
        Ok(Some(part))
    }

    pub(super) fn decode_us(&self, requests: f64) -> f64 {
        let measured =
            self.decode.as_ref().and_then(|grid| grid.us(&[requests])).map(|us| us * self.ratio[0]);
        // The state is read and written in 32 bits.
        self.layers * measured.unwrap_or_else(|| self.roof.attention_us(0.0, requests * self.state * 8.0))
    }

    pub(super) fn prompt_us(&self, requests: f64, length: f64) -> f64 {
        let measured = self.prompt.as_ref().and_then(|grid| grid.us(&[requests, length]));
        let flop = requests * length * self.state * 4.0;
        let estimated = || self.roof.attention_us(flop, requests * self.state * 8.0);
        self.layers * measured.map_or_else(estimated, |us| us * self.ratio[1])
    }
}
