//! Which CUDA graphs are recorded, by the names that each engine has for it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use servecast_types::{Message, message};

use crate::args::{EngineArgs, EngineType};
use crate::{ConfigError, TrtllmArgs};

/// The largest batch that a graph may be recorded for: beyond any engine's, and few enough to have a table of.
const MOST_TOKENS: u32 = 1 << 16;
/// vLLM records graphs of up to twice its requests, this at most, unless settings say otherwise.
const VLLM_LARGEST: u32 = 512;

/// TensorRT-LLM's `cuda_graph_config`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CudaGraphConfig {
    /// Batches that graphs are recorded for; null for those up to `max_batch_size`.
    pub batch_sizes: Option<Vec<u32>>,
    /// The largest of them; null or 0 for 128.
    pub max_batch_size: Option<u32>,
    /// Whether a batch between two of them is padded to the next; otherwise it runs without a graph.
    pub enable_padding: bool,
}

/// What settings say of recorded graphs; what they do not say is the engine's default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Graphs<'a> {
    sizes: Option<(&'static str, &'a [u32])>,
    largest: Option<(&'static str, u32)>,
    is_padded: Option<bool>,
    is_off: bool,
}

impl EngineArgs {
    fn graphs(&self) -> Graphs<'_> {
        let graphs = match self.engine_type {
            EngineType::Vllm => Graphs {
                sizes: self
                    .cudagraph_capture_sizes
                    .as_deref()
                    .map(|sizes| ("cudagraph_capture_sizes", sizes)),
                largest: self.max_cudagraph_capture_size.map(|size| ("max_cudagraph_capture_size", size)),
                ..Graphs::default()
            },
            EngineType::Sglang => self.sglang.as_ref().map_or_else(Graphs::default, |own| Graphs {
                sizes: own.cuda_graph_bs.as_deref().map(|sizes| ("sglang.cuda_graph_bs", sizes)),
                largest: own.cuda_graph_max_bs.map(|size| ("sglang.cuda_graph_max_bs", size)),
                is_padded: own.disable_cuda_graph_padding.then_some(false),
                is_off: own.disable_cuda_graph,
            }),
            EngineType::Trtllm => match &self.trtllm {
                None => Graphs::default(),
                Some(TrtllmArgs { cuda_graph_config: None, .. }) => {
                    Graphs { is_off: true, ..Graphs::default() }
                }
                Some(TrtllmArgs { cuda_graph_config: Some(own), .. }) => {
                    let sizes = "trtllm.cuda_graph_config.batch_sizes";
                    let largest = "trtllm.cuda_graph_config.max_batch_size";
                    Graphs {
                        sizes: own.batch_sizes.as_deref().map(|given| (sizes, given)),
                        largest: own.max_batch_size.filter(|&size| size > 0).map(|size| (largest, size)),
                        is_padded: Some(own.enable_padding),
                        is_off: false,
                    }
                }
            },
        };
        Graphs { is_off: graphs.is_off || self.enforce_eager, ..graphs }
    }

    /// Refuses graphs of vLLM for another engine, and sizes that no graph has.
    pub(crate) fn check_graphs(&self) -> Result<(), ConfigError> {
        let of_vllm = [
            ("cudagraph_capture_sizes", self.cudagraph_capture_sizes.is_some()),
            ("max_cudagraph_capture_size", self.max_cudagraph_capture_size.is_some()),
        ];
        if let Some((key, _)) = of_vllm.into_iter().find(|(_, is_given)| *is_given) {
            let instead = match self.engine_type {
                EngineType::Vllm => None,
                EngineType::Sglang => Some("use `sglang.cuda_graph_bs` and `sglang.cuda_graph_max_bs`"),
                EngineType::Trtllm => Some("use `trtllm.cuda_graph_config`"),
            };
            if let Some(instead) = instead {
                let name = self.engine_type.name();
                return Err(ConfigError::Conflict(message!(
                    "{} is a setting of vLLM, but {engine_type} is `{}`: {}",
                    Message::key(key),
                    name,
                    instead
                )));
            }
        }
        let graphs = self.graphs();
        let expected = format!("expected batches of 1 to {MOST_TOKENS}");
        if let Some((key, size)) = graphs.largest
            && !(1..=MOST_TOKENS).contains(&size)
        {
            return Err(ConfigError::wrong(key, size, expected));
        }
        let Some((key, sizes)) = graphs.sizes else { return Ok(()) };
        if sizes.is_empty() || !sizes.iter().all(|size| (1..=MOST_TOKENS).contains(size)) {
            return Err(ConfigError::wrong(key, format!("{sizes:?}"), expected));
        }
        match (graphs.largest, sizes.iter().max()) {
            (Some((other, largest)), Some(&last)) if largest != last => Err(ConfigError::Conflict(message!(
                "{} is {}, but the largest of {} is {}: leave {} out",
                Message::key(other),
                largest,
                Message::key(key),
                last,
                Message::key(other)
            ))),
            _ => Ok(()),
        }
    }

    /// Whether settings say which graphs are recorded, but no graph is.
    pub fn has_unused_graphs(&self) -> Option<&'static str> {
        let graphs = self.graphs();
        let key = graphs.sizes.map(|(key, _)| key).or(graphs.largest.map(|(key, _)| key));
        key.filter(|_| graphs.is_off)
    }

    /// The same as options of a latency model; nothing of what is the engine's default.
    pub(crate) fn graph_options(&self) -> [(&'static str, Option<String>); 4] {
        let Graphs { sizes, largest, is_padded, is_off } = self.graphs();
        let listed = |sizes: &[u32]| sizes.iter().map(u32::to_string).collect::<Vec<_>>().join("+");
        let largest = largest.map(|(_, size)| size).or_else(|| self.default_largest());
        [
            ("graph_sizes", sizes.map(|(_, sizes)| listed(sizes))),
            ("largest_graph", largest.filter(|_| sizes.is_none()).map(|size| size.to_string())),
            ("graph_padding", is_padded.map(|is_on| if is_on { "on" } else { "off" }.to_owned())),
            ("eager", is_off.then(|| "on".to_owned())),
        ]
    }

    /// The largest graph where it follows from another setting.
    fn default_largest(&self) -> Option<u32> {
        let requests = self.max_num_seqs.filter(|_| self.engine_type == EngineType::Vllm)?;
        Some(requests.saturating_mul(2)).filter(|&largest| largest < VLLM_LARGEST)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::LatencySpec;

    fn options(settings: Value) -> String {
        let args = EngineArgs::from_json(settings).unwrap();
        args.check_graphs().unwrap();
        let LatencySpec::Ops(options) = args.latency_spec().unwrap() else { unreachable!("it has a GPU") };
        let (_, own) = options.split_once(",engine=").unwrap();
        own.trim_end_matches(',').to_owned()
    }

    #[test]
    fn each_engine_has_its_own_names_for_graphs() {
        let of = |settings: Value| {
            let mut all = json!({"model": "m", "gpu": "g"});
            all.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
            options(all)
        };
        assert_eq!(of(json!({})), "vllm");
        assert_eq!(of(json!({"cudagraph_capture_sizes": [1, 8, 4]})), "vllm,graph_sizes=1+8+4");
        assert_eq!(of(json!({"max_cudagraph_capture_size": 64})), "vllm,largest_graph=64");
        assert_eq!(of(json!({"max_num_seqs": 100})), "vllm,largest_graph=200");
        assert_eq!(of(json!({"max_num_seqs": null})), "vllm");
        assert_eq!(of(json!({"enforce_eager": true})), "vllm,eager=on");
        let sglang = |own: Value| of(json!({"engine_type": "sglang", "sglang": own}));
        assert_eq!(
            sglang(json!({"cuda_graph_bs": [1, 2], "cuda_graph_max_bs": 2})),
            "sglang,graph_sizes=1+2"
        );
        assert_eq!(sglang(json!({"cuda_graph_max_bs": 32})), "sglang,largest_graph=32");
        assert_eq!(sglang(json!({"disable_cuda_graph": true})), "sglang,eager=on");
        assert_eq!(sglang(json!({"disable_cuda_graph_padding": true})), "sglang,graph_padding=off");
        let trtllm = |own: Value| of(json!({"engine_type": "trtllm", "trtllm": {"cuda_graph_config": own}}));
        assert_eq!(trtllm(json!({"max_batch_size": 0})), "trtllm,graph_padding=off");
        let padded = json!({"batch_sizes": [4, 64], "enable_padding": true});
        assert_eq!(trtllm(padded), "trtllm,graph_sizes=4+64,graph_padding=on");
        assert_eq!(trtllm(json!(null)), "trtllm,eager=on");
    }

    #[test]
    fn graphs_that_cannot_be_are_refused() {
        let refused = |settings: Value, message: &str| {
            let error = EngineArgs::from_json(settings).and_then(|args| args.validate(None)).unwrap_err();
            assert_eq!(error.to_string(), message);
        };
        let sizes = "expected batches of 1 to 65536";
        refused(
            json!({"cudagraph_capture_sizes": [8, 0]}),
            &format!("`cudagraph_capture_sizes` is [8, 0]: {sizes}"),
        );
        refused(json!({"cudagraph_capture_sizes": []}), &format!("`cudagraph_capture_sizes` is []: {sizes}"));
        refused(
            json!({"max_cudagraph_capture_size": 0}),
            &format!("`max_cudagraph_capture_size` is 0: {sizes}"),
        );
        refused(
            json!({"cudagraph_capture_sizes": [8, 16], "max_cudagraph_capture_size": 32}),
            "`max_cudagraph_capture_size` is 32, but the largest of `cudagraph_capture_sizes` is 16: leave \
             `max_cudagraph_capture_size` out",
        );
        refused(
            json!({"engine_type": "sglang", "cudagraph_capture_sizes": [8]}),
            "`cudagraph_capture_sizes` is a setting of vLLM, but `engine_type` is `sglang`: use \
             `sglang.cuda_graph_bs` and `sglang.cuda_graph_max_bs`",
        );
        refused(
            json!({"engine_type": "trtllm", "max_cudagraph_capture_size": 8}),
            "`max_cudagraph_capture_size` is a setting of vLLM, but `engine_type` is `trtllm`: use \
             `trtllm.cuda_graph_config`",
        );
        refused(
            json!({"engine_type": "sglang", "sglang": {"cuda_graph_bs": [1 << 17]}}),
            &format!("`sglang.cuda_graph_bs` is [131072]: {sizes}"),
        );
        refused(
            json!({"engine_type": "trtllm", "trtllm": {"cuda_graph_config": {"batch_sizes": 8}}}),
            "`trtllm.cuda_graph_config.batch_sizes` is 8: expected a list",
        );
        refused(
            json!({"cudagraph_capture_sizes": ["a"]}),
            "`cudagraph_capture_sizes[0]` is \"a\": expected a whole number from 0 to 4294967295",
        );
    }
}
