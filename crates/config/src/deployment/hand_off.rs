//! What a hand-off from prefill to decode workers moves, and how fast, as far as nobody says.

use servecast_engine::{EngineArgs, KvRole};
use servecast_types::{Message, message};

use super::{Group, Pool};
use crate::error::Failure;
use crate::latency::{self, Transfer};
use crate::settings::Layers;

/// What says something of a hand-off where there is none.
pub(super) fn unused(args: &EngineArgs) -> impl Iterator<Item = Message> {
    let given = [
        ("kv_transfer_bandwidth", args.kv_transfer_bandwidth.is_some()),
        ("kv_bytes_per_token", args.kv_bytes_per_token.is_some() && !args.offloads_kv()),
        ("kv_transfer_sharing", args.kv_transfer_sharing.is_some()),
    ];
    let given = given.into_iter().filter(|(_, is_given)| *is_given);
    given.map(|(key, _)| message!("{} is for prefill and decode workers", Message::key(key)))
}

/// What is said where a hand-off costs nothing.
const FREE: &str = "the hand-off of KV from prefill to decode workers takes no time, since no `kv_transfer_bandwidth` (with \
                    `kv_bytes_per_token`) is given: TTFT is too short by the transfer";

const LINK: &str =
    "all GPUs of the deployment are on one link, and read from one another as fast as all-reduces do";
const NETWORK: &str =
    "the nominal rate of the network adapters that the GPUs of a worker have in their vendor's systems";

/// What is said where SGLang's own queues hand requests over and nobody says how long their workers take to know each other.
pub(super) fn told(pools: &[Pool]) -> Option<String> {
    let own = |group: &Group| group.args.sglang.clone().unwrap_or_default();
    let groups = || pools.iter().flat_map(|pool| &pool.groups);
    let is_said = groups().any(|group| own(group).disaggregation_bootstrap_us.is_some())
        && groups().any(|group| own(group).disaggregation_handshake_us.is_some());
    (!is_said).then(|| {
        "SGLang's own queues hand requests over (`disaggregation_mode`): a decode worker has memory for a prompt before it is \
         computed. That both workers learn of each other at once is an assumption: `sglang.disaggregation_handshake_us` and \
         `sglang.disaggregation_bootstrap_us` say how long it takes"
            .to_owned()
    })
}

/// Works out what a hand-off moves and how fast, where the latency models know model and GPU; returns what is to be
/// said of it. A bandwidth of 0 says that it takes no time.
///
/// A token has its KV in the cache of the prefill engine, each number once however many GPUs share it. If a link connects
/// as many GPUs as all workers of both pools have, GPUs read from one another over it; otherwise every GPU of a worker has
/// the network adapter of its vendor's systems, at its nominal rate. The side with fewer GPUs decides. What a transfer
/// really reaches is to be measured. Where workers of a pool differ, it has to come to the same for all.
pub(super) fn work_out(
    prefill: &mut Pool,
    decode: &Pool,
    layers: &Layers,
) -> Result<Option<String>, Failure> {
    let gpus = gpus(prefill)?.zip(gpus(decode)?).map(|(one, other)| one + other);
    let mut first = None;
    for group in &mut prefill.groups {
        let given = group.args.clone();
        for other in &decode.groups {
            group.args = given.clone();
            let said = work_out_pair(&mut group.args, &other.args, gpus)?;
            check(&group.args, &other.args, layers)?;
            let bytes = group.args.kv_bytes_per_token.or(other.args.kv_bytes_per_token);
            let bandwidth = group.args.kv_transfer_bandwidth.or(other.args.kv_transfer_bandwidth);
            let found = (bytes, bandwidth, said);
            if *first.get_or_insert_with(|| found.clone()) != found {
                let message = message!(
                    "hand-offs from `{}` to `{}` move other amounts, or at other rates, by the group of the workers",
                    &prefill.name,
                    &decode.name
                );
                let hint = message!(
                    "{--kv_transfer_bandwidth} and {--kv_bytes_per_token} say what holds for all of them"
                );
                return Err(layers.refused(message).with_hint(hint));
            }
        }
    }
    Ok(first.and_then(|(.., said)| said))
}

/// GPUs of all workers of a pool, if their latency models know them.
fn gpus(pool: &Pool) -> Result<Option<u64>, Failure> {
    pool.groups.iter().try_fold(Some(0), |sum, group| {
        let each = transfer(&group.args)?.map(|transfer| u64::from(transfer.gpus) * u64::from(group.workers));
        Ok(sum.zip(each).map(|(sum, each)| sum + each))
    })
}

fn transfer(args: &EngineArgs) -> Result<Option<Transfer>, Failure> {
    let Ok(spec) = args.latency_spec() else { return Ok(None) };
    let stages = args.pipeline_parallel_size;
    let of_all = |of_stage: f64| of_stage * f64::from(stages);
    // Each stage has GPUs of its own, and the KV of its layers.
    Ok(latency::transfer(&spec)?.map(|transfer| Transfer {
        gpus: transfer.gpus.saturating_mul(stages),
        network_gb_per_s: transfer.network_gb_per_s.map(of_all),
        link_gb_per_s: transfer.link_gb_per_s.map(of_all),
        ..transfer
    }))
}

/// The same between two kinds of workers in a deployment of so many GPUs.
fn work_out_pair(
    prefill: &mut EngineArgs,
    decode: &EngineArgs,
    gpus: Option<u64>,
) -> Result<Option<String>, Failure> {
    let bandwidth = prefill.kv_transfer_bandwidth.or(decode.kv_transfer_bandwidth);
    let bytes = prefill.kv_bytes_per_token.or(decode.kv_bytes_per_token);
    if bandwidth == Some(0.0) || (bandwidth.is_some() && bytes.is_some()) {
        return Ok(None);
    }
    let (source, destination) = (transfer(prefill)?, transfer(decode)?);
    let way = source.zip(destination).and_then(|(source, destination)| {
        let link = source.link_gb_per_s.zip(destination.link_gb_per_s);
        let domain = u64::from(source.domain.min(destination.domain));
        let link = link.filter(|_| gpus.is_some_and(|gpus| gpus <= domain));
        let network = || source.network_gb_per_s.zip(destination.network_gb_per_s);
        let (rates, what) =
            link.map(|rates| (rates, LINK)).or_else(|| network().map(|rates| (rates, NETWORK)))?;
        Some((rates.0.min(rates.1), what))
    });
    let known = bytes.or(source.map(|source| source.bytes_per_token));
    let mut parts = Vec::new();
    if let (None, Some(bytes), true) = (bytes, known, bandwidth.is_some() || way.is_some()) {
        prefill.kv_bytes_per_token = Some(bytes);
        parts.push(format!("`kv_bytes_per_token` is {bytes}, the KV cache of the model"));
    }
    if let (None, Some((gb_per_s, what)), Some(_)) = (bandwidth, way, known) {
        prefill.kv_transfer_bandwidth = Some(gb_per_s);
        parts.push(format!("`kv_transfer_bandwidth` is {gb_per_s} GB/s, an assumption: {what}"));
    }
    let is_free = prefill.kv_transfer_bandwidth.or(decode.kv_transfer_bandwidth).is_none();
    Ok(if is_free {
        Some(FREE.to_owned())
    } else {
        (!parts.is_empty()).then(|| format!("hand-off: {}", parts.join("; ")))
    })
}

/// Refuses a bandwidth that nothing would be divided by, since the hand-off would silently take no time, and engines that
/// have the role of the other side.
fn check(prefill: &EngineArgs, decode: &EngineArgs, layers: &Layers) -> Result<(), Failure> {
    let sides = [
        ("prefill", prefill, KvRole::KvConsumer, ["kv_consumer", "kv_producer"]),
        ("decode", decode, KvRole::KvProducer, ["kv_producer", "kv_consumer"]),
    ];
    for (pool, args, wrong, [found, right]) in sides {
        if args.kv_role == Some(wrong) {
            let message =
                message!("the {} engine has {kv_role} {}: leave it out or make it {}", pool, found, right);
            return Err(layers.refused(message));
        }
    }
    let bandwidth = [prefill, decode].into_iter().find_map(|args| args.kv_transfer_bandwidth);
    let bytes = prefill.kv_bytes_per_token.or(decode.kv_bytes_per_token);
    match (bandwidth.filter(|&bandwidth| bandwidth > 0.0), bytes) {
        (Some(bandwidth), None) => {
            let message =
                message!("{kv_transfer_bandwidth} is {}, but {kv_bytes_per_token} is not given", bandwidth);
            let hint = message!(
                "{--kv_bytes_per_token} says how much there is to transfer: 2 · layers · KV heads · head size · bytes a \
                 number"
            );
            Err(layers.refused(message).with_hint(hint))
        }
        _ => Ok(()),
    }
}
