//! Experts that tokens are sent to.

use servecast_latency::{Experts, WeightType};

use super::{Part, Workbench};
use crate::grid::Grid;
use crate::library::{Found, Key};
use crate::pack::PackError;
use crate::roof::{Roof, Stored};

/// Experts of a model's blocks, as they lie on one GPU.
#[derive(Debug)]
pub(super) struct ExpertsPart {
    layers: f64,
    shape: Shape,
    stored: Stored,
    table: Option<(Grid, Shape)>,
    roof: Roof,
}

/// The experts of a block and how they are shared out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Shape {
    hidden: u32,
    inner: u32,
    top_k: u32,
    count: u32,
    /// GPUs that each expert is cut over.
    tp: u32,
    /// GPUs that whole experts are shared out over.
    ep: u32,
}

impl Shape {
    fn of(key: Key<'_>) -> Option<Self> {
        let shape = Self {
            hidden: key.number("hidden"),
            inner: key.number("inner"),
            top_k: key.number("topk"),
            count: key.number("experts"),
            tp: key.number("tp"),
            ep: key.number("ep"),
        };
        let parts = [shape.hidden, shape.inner, shape.top_k, shape.count, shape.tp, shape.ep];
        (!parts.contains(&0)).then_some(shape)
    }

    /// How unlike the experts of another block are; being cut otherwise counts least.
    fn far_from(self, other: Self) -> f64 {
        let unlike = |one: u32, other: u32| (f64::from(one) / f64::from(other)).ln().abs();
        unlike(self.hidden, other.hidden)
            + unlike(self.inner, other.inner)
            + unlike(self.top_k, other.top_k)
            + unlike(self.count, other.count)
            + 0.5 * unlike(self.tp, other.tp)
            + 0.5 * unlike(self.ep, other.ep)
    }

    /// What the data sheet says of so many tokens, in µs.
    fn roof_us(self, roof: &Roof, tokens: f64, stored: Stored) -> f64 {
        let numbers = 3.0 * f64::from(self.hidden) * f64::from(self.inner) / f64::from(self.tp);
        let (count, top_k) = (f64::from(self.count), f64::from(self.top_k));
        let own = count / f64::from(self.ep);
        // The mean if tokens choose independently and evenly.
        let chosen = own * (1.0 - libm::exp(tokens * libm::log1p(-(top_k / count).min(1.0 - 1e-9))));
        roof.experts_us(tokens, numbers * top_k / f64::from(self.ep), numbers * chosen, stored)
    }

    fn name(self) -> String {
        let Self { hidden, inner, top_k, count, tp, ep } = self;
        format!("{count} experts of {hidden} x {inner}, {top_k} a token, tp {tp}, ep {ep}")
    }
}

impl ExpertsPart {
    pub(super) fn new(bench: &mut Workbench<'_>) -> Result<Option<Self>, PackError> {
        let setup = bench.setup;
        let Some(experts) = setup.model.experts else { return Ok(None) };
        let Experts { count, per_token, inner_size, layers, .. } = experts;
        let ep = setup.expert_parallel_size.max(1);
        let shape = Shape {
            hidden: setup.model.hidden_size,
            inner: inner_size,
            top_k: per_token,
            count,
            tp: (setup.gpus() / ep).max(1),
            ep,
        };
        let weights = setup.model.stored_as(setup.weights).experts;
        let (mut table, mut origin) = (None, String::new());
        for name in table_names(weights) {
            let found = bench.library.find("moe", |key| {
                if key.text("dtype") != *name {
                    return None;
                }
                let measured = Shape::of(key)?;
                Some((shape.far_from(measured), measured))
            })?;
            let Some(Found { grid, key: measured, source }) = found else { continue };
            let is_own = measured == shape;
            if is_own || table.is_none() {
                table = Some((grid, measured));
                origin = source;
            }
            if is_own {
                break;
            }
        }
        match &table {
            Some((_, measured)) if *measured != shape => {
                let rule = format!("{origin}, carried over from {} to {}", measured.name(), shape.name());
                bench.origins.estimated(Part::Experts, rule);
            }
            Some(_) => bench.origins.measured(Part::Experts, origin),
            None => {
                let rule = format!("{}: the data sheet, for want of a table", shape.name());
                bench.origins.estimated(Part::Experts, rule);
            }
        }
        Ok(Some(Self {
            layers: f64::from(layers),
            shape,
            stored: Stored::of(&setup.model, weights),
            table,
            roof: bench.roof,
        }))
    }

    /// For the tokens of all groups of GPUs, in µs: experts get those of all.
    pub(super) fn us(&self, all: f64) -> f64 {
        let roof = self.shape.roof_us(&self.roof, all, self.stored);
        let us = match &self.table {
            Some((grid, measured)) => grid.us(&[all]).map(|us| {
                if *measured == self.shape {
                    us
                } else {
                    us * roof / measured.roof_us(&self.roof, all, self.stored)
                }
            }),
            None => None,
        };
        self.layers * us.unwrap_or(roof)
    }
}

/// What tables call experts that are stored so, in the order in which they are looked for.
fn table_names(weights: WeightType) -> &'static [&'static str] {
    match weights {
        WeightType::Bf16 => &["bf16"],
        WeightType::Fp8 => &["fp8", "fp8_block"],
        WeightType::Fp8Block => &["fp8_block", "fp8"],
        WeightType::Int4 => &["int4"],
        WeightType::Mxfp4 => &["mxfp4_mxfp8", "mxfp4"],
        WeightType::Nvfp4 => &["nvfp4"],
    }
}
