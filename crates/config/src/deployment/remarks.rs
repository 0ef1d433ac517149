//! What is said of a group of workers: what was assumed or left out, and which settings have no effect.

use servecast_engine::{EngineArgs, EngineConfig, EngineType, LatencySpec, SglangArgs};
use servecast_types::{Message, message};

use super::group::Given;
use super::settings::Settings;
use crate::error::Failure;
use crate::latency::{self, OpsSettings};

/// What the times of iterations rest on, where it was not given.
pub(super) fn of_times(
    given: &Given<'_>,
    settings: &Settings<'_>,
    args: &EngineArgs,
    spec: &LatencySpec,
) -> Result<Vec<String>, Failure> {
    let stages = (args.pipeline_parallel_size > 1).then(|| EVEN_STAGES.to_owned());
    let remarks = [
        latency::other_version(spec)?,
        of_the_mocker(given, settings, spec),
        ranks_as_one_engine(args, spec),
        stages,
    ];
    Ok(remarks.into_iter().flatten().collect())
}

/// What was given but has no effect, and why; `knows_no_gpu`: the number of blocks does not follow from one.
pub(super) fn unused(
    settings: &Settings<'_>,
    args: &EngineArgs,
    spec: &LatencySpec,
    knows_no_gpu: bool,
) -> Vec<Message> {
    let is_of_gpus = matches!(spec, LatencySpec::Ops(_) | LatencySpec::Roofline(_));
    let of_served = (args.says_what_is_served() && !is_of_gpus).then(|| {
        message!(
            "{model}, {gpu} and how they are shared out are for `ops` and `roofline`: {latency} has times of its own"
        )
    });
    let is_of_operators = matches!(spec, LatencySpec::Ops(_));
    let of_attention = (args.attention_backend.is_some() && !is_of_operators).then(|| {
        message!(
            "{attention_backend} is for iteration times composed of operators ({model} and {gpu}): other latency models have \
             the kernels that were measured"
        )
    });
    let of_memory = (knows_no_gpu && settings.values.contains_key("gpu_memory_utilization")).then(|| {
        message!(
            "{gpu_memory_utilization} is for working out {num_gpu_blocks}, which is given or does not follow, since the \
             latency model knows no GPU"
        )
    });
    let shares_experts = args.data_parallel_size.or(args.expert_parallel_size).is_some();
    let of_experts = (shares_experts && matches!(spec, LatencySpec::Roofline(_))).then(|| {
        message!(
            "{data_parallel_size} and {expert_parallel_size} are for iteration times composed of operators: `roofline` has no \
             groups of GPUs that share experts"
        )
    });
    let explained = |message: Message| settings.explained(message);
    let mut unused: Vec<Message> = settings.unused(args).collect();
    unused.extend(of_served.into_iter().chain(of_experts).map(explained));
    unused.extend(settings.unused_graphs(args, spec));
    unused.extend(of_attention.into_iter().chain(of_memory).map(explained));
    unused
}

/// What is assumed of the time of a drafter, or left out.
pub(super) fn of_drafter(args: &EngineArgs, config: &EngineConfig) -> Option<&'static str> {
    let is_timed = args.of_drafter().is_ok_and(|drafter| drafter.is_some());
    if is_timed && args.drafts_by_own_layers() {
        return Some(MTP_MODULE);
    }
    if config.drafts_for_nothing(args) {
        return Some(
            "the drafter takes no time: the latency model knows no shapes, and `draft_pass_us` of \
             `speculative_config` is not given",
        );
    }
    let by_network = args.sglang.as_ref().is_some_and(SglangArgs::drafts_by_network);
    by_network.then_some("the drafter takes no time: that of SGLang's is left out")
}

/// What is assumed of a drafter that nothing is said of, since it is a part of the model.
const MTP_MODULE: &str = "a pass of the drafter is taken for one block of the model as its last, with attention and experts if it has \
     any, and its head; `model` of `speculative_config` describes another, `draft_pass_us` says how long it takes";

/// What the times of a pipeline rest on.
const EVEN_STAGES: &str = "each stage of the pipeline takes an even share of a pass, an assumption: layers are spread evenly, \
                           and what goes from one stage to the next takes no time";

/// What is said where data-parallel ranks of the attention are no ranks of the engine.
fn ranks_as_one_engine(args: &EngineArgs, spec: &LatencySpec) -> Option<String> {
    let LatencySpec::Ops(options) = spec else { return None };
    let ranks = OpsSettings::of(options).ok()?.data_parallel_size;
    let ranks = ranks.filter(|&ranks| ranks > 1 && args.dp_size == 1)?;
    let instead = match args.engine_type {
        EngineType::Vllm => format!("; `dp_size` {ranks} simulates ranks in lock step"),
        EngineType::Sglang => "; `enable_dp_attention` simulates ranks in lock step".to_owned(),
        EngineType::Trtllm => String::new(),
    };
    Some(format!(
        "the {ranks} data-parallel ranks are one engine with the KV blocks of all, each with an equal part of the requests: none \
         waits for another{instead}"
    ))
}

/// What is said where a real GPU is to serve as Dynamo's mocker would: batches of its size make other latencies.
fn of_the_mocker(given: &Given<'_>, settings: &Settings<'_>, spec: &LatencySpec) -> Option<String> {
    let own = ["max_num_seqs", "max_num_batched_tokens", "async_scheduling", "vllm_version"];
    let says = own.iter().any(|key| settings.values.contains_key(*key));
    let applies = given.preset.is_none() && given.engine == EngineType::Vllm && !says;
    (applies && matches!(spec, LatencySpec::Ops(_))).then(|| {
        "what is not given of the engine is as in Dynamo's mocker (256 requests at a time, no asynchronous scheduling): \
         `engine_preset` vllm-0.33 has the defaults of that release"
            .to_owned()
    })
}
