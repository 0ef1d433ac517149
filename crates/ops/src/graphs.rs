//! Which passes are recorded CUDA graphs, and to which size each is padded.

use servecast_latency::GpuSheet;

use crate::setup::EngineName;

/// What is said of recorded graphs; what is not said is the engine's default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GraphSettings {
    /// Whether there are none.
    pub are_off: bool,
    /// The sizes that are recorded.
    pub sizes: Option<Vec<u32>>,
    /// The largest of the engine's default sizes.
    pub largest: Option<u32>,
    /// Whether a pass between two sizes is padded to the next; otherwise it runs without a graph.
    pub are_padded: Option<bool>,
}

/// The recorded graphs of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Graphs {
    /// The size of the graph that a pass runs as, by its tokens; 0 for none.
    padded: Vec<u32>,
    sizes: usize,
    are_padded: bool,
    /// Whether passes with prompts are recorded, too.
    with_prompts: bool,
    /// Groups of GPUs that have graphs of their own.
    groups: u64,
    /// Where sizes are from.
    source: &'static str,
}

/// Where default sizes are documented.
const SOURCES: [(EngineName, &str); 3] = [
    (EngineName::Vllm, "defaults of vLLM 0.19, CompilationConfig"),
    (EngineName::Sglang, "defaults of SGLang 0.5, by the memory of the GPU"),
    (EngineName::Trtllm, "defaults of TensorRT-LLM 1.3, DecodeCudaGraphConfig"),
];

impl Graphs {
    /// The graphs of an engine with the attention of a layer on so many GPUs, in so many groups.
    pub fn new(
        settings: &GraphSettings,
        engine: EngineName,
        gpu: &GpuSheet,
        [shards, groups]: [u32; 2],
    ) -> Self {
        let is_default = settings.sizes.is_none() && settings.largest.is_none();
        let are_padded = settings.are_padded.unwrap_or(engine != EngineName::Trtllm);
        let largest = settings.largest.unwrap_or_else(|| default_largest(engine, gpu, shards));
        let mut sizes = match &settings.sizes {
            _ if settings.are_off => Vec::new(),
            Some(sizes) => sizes.clone(),
            // Without padding, SGLang records each batch.
            None if engine == EngineName::Sglang && !are_padded => (1..=largest).collect(),
            None => default_sizes(engine, largest),
        };
        sizes.sort_unstable();
        sizes.dedup();
        let documented = SOURCES.iter().find(|(known, _)| *known == engine && is_default);
        Self {
            padded: table(&sizes, are_padded),
            sizes: sizes.len(),
            are_padded,
            with_prompts: engine == EngineName::Vllm,
            groups: u64::from(groups.max(1)),
            source: documented.map_or("as set", |(_, source)| source),
        }
    }

    /// The tokens that a pass of so many computes as a graph; `None` if it is none.
    #[inline]
    pub fn padded(&self, tokens: u64, has_prompts: bool) -> Option<u64> {
        if has_prompts && !self.with_prompts {
            return None;
        }
        let own = if self.groups == 1 { tokens } else { tokens.div_ceil(self.groups) };
        match self.padded.get(own as usize) {
            None | Some(0) => None,
            Some(&size) => Some(u64::from(size) * self.groups),
        }
    }

    /// Whether all decodes of up to so many requests are graphs.
    pub fn cover(&self, requests: u64) -> bool {
        (1..=requests.min(self.largest() + 1)).all(|requests| self.padded(requests, false).is_some())
    }

    /// Most tokens of a graph over all groups; 0 if there is none.
    pub fn largest(&self) -> u64 {
        (self.padded.len() as u64 - 1) * self.groups
    }
}

/// What passes are graphs, in words.
impl std::fmt::Display for Graphs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.sizes == 0 {
            return f.write_str("no pass is one");
        }
        let Self { sizes, source, .. } = self;
        let largest = self.padded.len() - 1;
        let each = if self.groups > 1 { " of a group" } else { "" };
        let what = if self.with_prompts {
            format!("passes of up to {largest} tokens{each}")
        } else {
            format!("decodes of up to {largest} requests{each}")
        };
        let how = if self.are_padded { "each padded to the next of" } else { "if they are exactly one of" };
        write!(f, "{what}, {how} {sizes} sizes ({source})")
    }
}

/// The size that each number of tokens is padded to, from 0 on.
fn table(sizes: &[u32], are_padded: bool) -> Vec<u32> {
    let mut padded = vec![0];
    for &size in sizes {
        let between = if are_padded { size } else { 0 };
        padded.resize(size as usize, between);
        padded.push(size);
    }
    padded
}

/// The largest default size.
///
/// vLLM 0.19: `max_cudagraph_capture_size` is twice the requests, 512 at most (who knows the requests says so). SGLang 0.5:
/// `cuda_graph_max_bs` by memory and tensor parallel size. TensorRT-LLM 1.3: `max_batch_size` of its `cuda_graph_config`.
fn default_largest(engine: EngineName, gpu: &GpuSheet, shards: u32) -> u32 {
    let gib = gpu.memory_mib / 1024.0;
    let [few, many] = match gib {
        gib if gib < 20.0 => [8, 8],
        gib if gib < 35.0 => [24, 80],
        gib if gib < 60.0 => [32, 160],
        gib if gib < 160.0 => [256, 512],
        _ => [512, 512],
    };
    match engine {
        EngineName::Vllm => 512,
        EngineName::Sglang if shards < 4 => few,
        EngineName::Sglang => many,
        EngineName::Trtllm => 128,
    }
}

/// The default sizes to a largest one.
fn default_sizes(engine: EngineName, largest: u32) -> Vec<u32> {
    let first: &[u32] = match engine {
        EngineName::Vllm | EngineName::Trtllm => &[1, 2, 4],
        EngineName::Sglang => &[1, 2, 4, 8, 12],
    };
    // From where on, to where, and by how much each is above the one before.
    let ranges: &[(u32, u32, usize)] = match engine {
        EngineName::Vllm => &[(8, 256, 8), (256, u32::MAX, 16)],
        EngineName::Sglang => &[(16, 256, 8), (256, 512, 16), (512, u32::MAX, 32)],
        EngineName::Trtllm => &[(8, 128, 8), (128, u32::MAX, 64)],
    };
    let stepped = ranges.iter().flat_map(|&(from, to, step)| (from..=to.min(largest)).step_by(step));
    let sizes = first.iter().copied().filter(|&size| size <= largest).chain(stepped);
    // vLLM's list ends below a largest size that is none of its steps, the others' with it.
    let last = Some(largest).filter(|_| engine != EngineName::Vllm);
    sizes.chain(last).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(engine: EngineName, gpu: &str, settings: &GraphSettings) -> Graphs {
        Graphs::new(settings, engine, &GpuSheet::by_name(gpu).unwrap(), [1, 1])
    }

    #[track_caller]
    fn padded(graphs: &Graphs, expected: &[(u64, Option<u64>)]) {
        for &(tokens, size) in expected {
            assert_eq!(graphs.padded(tokens, false), size, "{tokens}");
        }
    }

    #[test]
    fn defaults_are_those_of_each_engine() {
        let vllm = of(EngineName::Vllm, "H100-SXM", &GraphSettings::default());
        padded(
            &vllm,
            &[
                (0, None),
                (3, Some(4)),
                (5, Some(8)),
                (33, Some(40)),
                (250, Some(256)),
                (257, Some(272)),
                (512, Some(512)),
                (513, None),
            ],
        );
        assert_eq!(vllm.padded(300, true), Some(304), "prompts, too");
        assert!(vllm.cover(512) && !vllm.cover(513));
        let sglang = of(EngineName::Sglang, "H100-SXM", &GraphSettings::default());
        padded(&sglang, &[(9, Some(12)), (13, Some(16)), (250, Some(256)), (257, None)]);
        assert_eq!(sglang.padded(8, true), None);
        let sglang = of(EngineName::Sglang, "B200", &GraphSettings::default());
        padded(&sglang, &[(257, Some(272)), (512, Some(512)), (513, None)]);
        let trtllm = of(EngineName::Trtllm, "H100-SXM", &GraphSettings::default());
        padded(&trtllm, &[(4, Some(4)), (5, None), (128, Some(128)), (192, None)]);
        assert!(trtllm.cover(2) && !trtllm.cover(64));
    }

    #[test]
    fn what_is_set_goes_over_defaults() {
        let sizes = GraphSettings { sizes: Some(vec![16, 4, 4]), ..GraphSettings::default() };
        padded(&of(EngineName::Vllm, "B200", &sizes), &[(3, Some(4)), (5, Some(16)), (17, None)]);
        let exact = GraphSettings { are_padded: Some(false), ..sizes };
        padded(&of(EngineName::Vllm, "B200", &exact), &[(3, None), (4, Some(4)), (5, None), (16, Some(16))]);
        let each = GraphSettings { largest: Some(37), are_padded: Some(false), ..GraphSettings::default() };
        padded(&of(EngineName::Sglang, "B200", &each), &[(3, Some(3)), (37, Some(37)), (38, None)]);
        let largest =
            GraphSettings { largest: Some(250), are_padded: Some(true), ..GraphSettings::default() };
        padded(&of(EngineName::Trtllm, "B200", &largest), &[(129, Some(192)), (249, Some(250)), (251, None)]);
        padded(&of(EngineName::Vllm, "B200", &largest), &[(248, Some(248)), (249, None)]);
        let off = of(EngineName::Vllm, "B200", &GraphSettings { are_off: true, ..GraphSettings::default() });
        padded(&off, &[(0, None), (1, None)]);
        assert_eq!((off.largest(), off.to_string().as_str()), (0, "no pass is one"));
    }

    #[test]
    fn each_group_of_gpus_pads_its_own_tokens() {
        let gpu = GpuSheet::by_name("H200").unwrap();
        let graphs = Graphs::new(&GraphSettings::default(), EngineName::Vllm, &gpu, [1, 4]);
        padded(&graphs, &[(1, Some(4)), (33, Some(64)), (2048, Some(2048)), (2049, None)]);
        assert_eq!(graphs.largest(), 2048);
    }
}
