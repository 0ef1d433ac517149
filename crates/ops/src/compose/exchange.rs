//! What GPUs that share a layer tell each other.

use servecast_latency::AllReduce;

use super::{Part, Workbench};
use crate::grid::Grid;
use crate::pack::PackError;
use crate::roof::BF16_BYTES;

/// Sums and exchanges of a pass.
#[derive(Debug)]
pub(super) struct Exchange {
    /// Sums over the GPUs that share a layer.
    sum: Option<Collective>,
    sums: f64,
    /// With several groups of GPUs: tokens go to all experts and come back.
    around_experts: Option<[Collective; 2]>,
    times_around_experts: f64,
    groups: f64,
    bytes_per_token: f64,
    bytes_per_logits: f64,
}

/// A collective operation, by its bytes.
#[derive(Debug)]
enum Collective {
    /// Measured: inside a recorded graph, outside of one, and by the general library. The fastest of those that there are
    /// is taken, as engines do.
    Measured { graph: Option<Grid>, eager: Option<Grid>, library: Option<Grid> },
    /// The rule of a link, and the share of an all-reduce that it is.
    Ruled(AllReduce, f64),
}

impl Collective {
    fn us(&self, bytes: f64, is_graph: bool) -> f64 {
        match self {
            Self::Measured { graph, eager, library } => {
                let custom = if is_graph {
                    graph.as_ref().or(eager.as_ref())
                } else {
                    eager.as_ref().or(graph.as_ref())
                };
                // Beyond their largest size, custom kernels are not used where the library was measured.
                let custom = custom.filter(|grid| library.is_none() || bytes <= grid.last(0));
                let times =
                    [custom, library.as_ref()].into_iter().flatten().filter_map(|grid| grid.us(&[bytes]));
                times.fold(f64::INFINITY, f64::min)
            }
            Self::Ruled(rule, share) => share * rule.time_us(bytes),
        }
    }
}

impl Exchange {
    pub(super) fn new(bench: &mut Workbench<'_>) -> Result<Self, PackError> {
        let setup = bench.setup;
        let model = &setup.model;
        let (shards, groups) = (bench.shards(), setup.data_parallel_size.max(1));
        let sum = collective(bench, "all_reduce", shards, 1.0)?;
        let with_experts = f64::from(model.experts.map_or(0, |experts| experts.layers));
        let feed_forward = f64::from(model.feed_forward_layers);
        let attention = f64::from(model.attention_layers + model.linear.map_or(0, |linear| linear.layers));
        let around_experts = if groups > 1 && with_experts > 0.0 {
            // Each is half of an all-reduce.
            let out = collective(bench, "all_gather", setup.gpus(), 0.5)?;
            let back = collective(bench, "reduce_scatter", setup.gpus(), 0.5)?;
            out.zip(back).map(|(out, back)| [out, back])
        } else {
            None
        };
        let sums_of_experts = if around_experts.is_some() { 0.0 } else { with_experts };
        Ok(Self {
            sum,
            sums: attention + feed_forward - with_experts + sums_of_experts,
            around_experts,
            times_around_experts: with_experts,
            groups: f64::from(groups),
            bytes_per_token: f64::from(model.hidden_size) * BF16_BYTES,
            bytes_per_logits: f64::from(model.vocabulary) * BF16_BYTES,
        })
    }

    /// For `own` tokens of a group of GPUs and `all` of all groups.
    pub(super) fn us(&self, own: f64, all: f64, is_graph: bool) -> f64 {
        let sums =
            self.sum.as_ref().map_or(0.0, |sum| self.sums * sum.us(own * self.bytes_per_token, is_graph));
        sums + self.around_experts_us(all, is_graph)
    }

    /// The way of `all` tokens to the experts and back.
    pub(super) fn around_experts_us(&self, all: f64, is_graph: bool) -> f64 {
        let bytes = all.max(self.groups) * self.bytes_per_token;
        let around = self.around_experts.iter().flatten().map(|step| step.us(bytes, is_graph)).sum::<f64>();
        self.times_around_experts * around
    }

    /// Logits of so many requests, which each GPU has a part of.
    pub(super) fn head_us(&self, requests: f64) -> f64 {
        // A gather sends half of what a sum does.
        self.sum.as_ref().map_or(0.0, |sum| 0.5 * sum.us(requests * self.bytes_per_logits, true))
    }
}

fn collective(
    bench: &mut Workbench<'_>,
    op: &str,
    gpus: u32,
    share: f64,
) -> Result<Option<Collective>, PackError> {
    if gpus < 2 {
        return Ok(None);
    }
    if let Some(rule) = &bench.setup.all_reduce {
        bench.origins.estimated(Part::Exchange, format!("{op} over {gpus} GPUs: the link that was given"));
        return Ok(Some(Collective::Ruled(rule.clone(), share)));
    }
    let mut find = |kind: &str| {
        bench
            .library
            .find(op, |key| (key.text("kind") == kind && key.number("gpus") == gpus).then_some((0.0, ())))
    };
    let [graph, eager, library] = [find("custom_graph")?, find("custom_eager")?, find("nccl")?];
    let sources = [&graph, &eager, &library].into_iter().flatten().map(|found| found.source.clone());
    let sources: Vec<String> = sources.collect();
    if sources.is_empty() {
        let rule = AllReduce::over(&bench.setup.gpu.link, gpus);
        bench.origins.estimated(
            Part::Exchange,
            format!("{op} over {gpus} GPUs: the rule of the link, for want of a table"),
        );
        return Ok(rule.map(|rule| Collective::Ruled(rule, share)));
    }
    for source in sources {
        bench.origins.measured(Part::Exchange, source);
    }
    let [graph, eager, library] = [graph, eager, library].map(|found| found.map(|found| found.grid));
    Ok(Some(Collective::Measured { graph, eager, library }))
}
