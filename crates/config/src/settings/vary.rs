//! `--vary KEY=VALUE,VALUE,...`: several configurations out of one, a run for each combination of values.

use std::borrow::Cow;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};
use servecast_engine::{EngineArgs, check_key};
use servecast_router::Field;
use servecast_types::foreign;

use super::keys::known_key;
use super::layers::{Layers, NESTED, Origin, value_of};
use crate::error::Failure;

/// Most runs of a comparison: far more than anybody waits for, and few enough to keep.
const MOST_RUNS: usize = 10_000;

/// Keys that are the same in all runs.
const FIXED: [&str; 15] = [
    "pool",
    "vary",
    "threads",
    "fail_if",
    "format",
    "quiet",
    "check",
    "plain",
    "diagnose",
    "stream",
    "sort_window",
    "report_json",
    "requests_jsonl",
    "iterations_jsonl",
    "routing_jsonl",
];

/// A setting and the values that it takes.
#[derive(Debug, Clone, PartialEq)]
pub struct Varied {
    /// The key; of a setting within another, the keys with dots between them.
    pub path: String,
    /// The values, at least one.
    pub values: Vec<Value>,
}

/// What makes one run differ from the others, by paths, in the order in which they were given.
pub type Difference = Vec<(String, Value)>;

/// The settings of `texts`, each `KEY=VALUE,VALUE,...`, in which `1..4` stands for 1, 2, 3 and 4.
pub fn varied(texts: &[String]) -> Result<Vec<Varied>, String> {
    let mut varied: Vec<Varied> = Vec::new();
    for text in texts {
        let one = Varied::parse(text)?;
        if varied.iter().any(|other| other.path == one.path) {
            return Err(format!("`{}` is varied twice: give all its values at once", one.path));
        }
        varied.push(one);
    }
    Ok(varied)
}

/// All combinations of the values of `texts`, each `KEY=VALUE,VALUE,...`; the last key changes fastest.
///
/// A deployment is aggregated or disaggregated: where settings of both kinds are varied, those of the one are not
/// combined with those of the other. Aggregated deployments come first.
pub fn combinations(texts: &[String]) -> Result<Vec<Difference>, String> {
    let varied = varied(texts)?;
    let kinds = by_kind(&varied);
    let runs_of =
        |kind: &Vec<&Varied>| kind.iter().try_fold(1_usize, |runs, one| runs.checked_mul(one.values.len()));
    let runs = kinds.iter().try_fold(0_usize, |runs, kind| runs.checked_add(runs_of(kind)?));
    if runs.is_none_or(|runs| runs > MOST_RUNS) {
        return Err(format!("the values of `vary` make more than {MOST_RUNS} runs"));
    }
    Ok(kinds.iter().flat_map(|kind| product(kind)).collect())
}

/// What is varied together: all of it, unless there are settings of both kinds of deployment.
fn by_kind(varied: &[Varied]) -> Vec<Vec<&Varied>> {
    let kinds = [DeploymentKind::Aggregated, DeploymentKind::Disaggregated];
    let has = |kind| varied.iter().any(|one| DeploymentKind::of(&one.path) == Some(kind));
    if !kinds.into_iter().all(has) {
        return vec![varied.iter().collect()];
    }
    let is_of = |one: &&Varied, kind| DeploymentKind::of(&one.path).is_none_or(|of| of == kind);
    kinds.map(|kind| varied.iter().filter(|one| is_of(one, kind)).collect()).to_vec()
}

fn product(varied: &[&Varied]) -> Vec<Difference> {
    let mut combinations = vec![Difference::new()];
    for Varied { path, values } in varied {
        let with = |below: &Difference, value: &Value| {
            below.iter().cloned().chain([(path.clone(), value.clone())]).collect()
        };
        combinations = combinations
            .iter()
            .flat_map(|below| values.iter().map(move |value| with(below, value)))
            .collect();
    }
    combinations
}

/// Whether each worker does all of a request, or prompts and output have a pool each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeploymentKind {
    /// Workers compute prompts and output.
    Aggregated,
    /// A pool of workers computes prompts, another one the output.
    Disaggregated,
}

impl DeploymentKind {
    /// The kind that alone has the setting at a path; `None` where both have it.
    pub fn of(path: &str) -> Option<Self> {
        match path.split('.').next() {
            Some("num_workers" | "engine_args") => Some(Self::Aggregated),
            Some(
                "num_prefill_workers" | "num_decode_workers" | "prefill_engine_args" | "decode_engine_args",
            ) => Some(Self::Disaggregated),
            _ => None,
        }
    }
}

/// A difference as a user would write it.
pub fn described(difference: &Difference) -> String {
    let one = |(path, value): &(String, Value)| match value {
        Value::String(text) => format!("{path}={text}"),
        value => format!("{path}={value}"),
    };
    difference.iter().map(one).collect::<Vec<_>>().join(" ")
}

impl Layers {
    /// Lays the values of a run over everything else.
    pub fn vary(&mut self, difference: &Difference) -> Result<(), Failure> {
        for (path, value) in difference {
            match path.split_once('.') {
                None if value.is_null() => self.remove(path),
                None => self.add(path, value.clone(), &Origin::flag("vary"))?,
                Some((key, within)) => {
                    self.add(key, nested(within, value.clone()), &Origin::flag("vary"))?;
                }
            }
        }
        Ok(())
    }
}

impl Varied {
    fn parse(text: &str) -> Result<Self, String> {
        let (key, values) = text
            .split_once('=')
            .ok_or_else(|| format!("`vary` is `{text}`, but must be KEY=VALUE,VALUE,..."))?;
        let path = path(key.trim())?;
        let values = split(values);
        if let Some(position) = values.iter().position(|value| value.trim().is_empty()) {
            let count = position + 1;
            return Err(format!("`vary` gives `{path}` no value in place {count}: `{text}`"));
        }
        let mut texts: Vec<Cow<'_, str>> = Vec::new();
        for value in values.into_iter().map(str::trim) {
            match range(value) {
                None => texts.push(value.into()),
                Some(range) if range.clone().take(MOST_RUNS + 1).count() > MOST_RUNS => {
                    return Err(format!("`vary` gives `{path}` more than {MOST_RUNS} values: `{value}`"));
                }
                Some(range) if range.is_empty() => {
                    return Err(format!("`vary` gives `{path}` the range `{value}`, which is empty"));
                }
                Some(range) => texts.extend(range.map(|number| number.to_string().into())),
            }
        }
        let values: Vec<Value> = texts.iter().map(|value| typed(&path, value)).collect::<Result<_, _>>()?;
        let repeated =
            values.iter().enumerate().find(|(position, value)| values[..*position].contains(value));
        if let Some((_, value)) = repeated {
            return Err(format!("`vary` gives `{path}` the value {value} twice"));
        }
        Ok(Self { path, values })
    }
}

/// The whole numbers of `1..16`, both ends among them.
fn range(text: &str) -> Option<RangeInclusive<u64>> {
    let (from, to) = text.split_once("..")?;
    let number =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u64>().ok());
    Some(number(from)??..=number(to)??)
}

/// Short names of keys, by which their flags are known.
const SHORT: [(&str, &str); 4] = [
    ("tp", "tensor_parallel_size"),
    ("pp", "pipeline_parallel_size"),
    ("dp", "data_parallel_size"),
    ("ep", "expert_parallel_size"),
];

/// The canonical path of a key that a user wrote, in which dashes may stand for underscores.
fn path(key: &str) -> Result<String, String> {
    let key = key.trim_start_matches("--").replace('-', "_");
    let long = |name: &str| SHORT.iter().find(|(short, _)| *short == name).map(|(_, long)| *long);
    let key = match key.rsplit_once('.') {
        None => long(&key).map_or(key.clone(), str::to_owned),
        Some((first, within)) => format!("{first}.{}", long(within).unwrap_or(within)),
    };
    let (first, within) = match key.split_once('.') {
        None => (key.as_str(), None),
        Some((first, within)) => (first, Some(within)),
    };
    let is_of_engine = EngineArgs::keys().iter().any(|known| known == first) && foreign(first).is_none();
    if within.is_none() && is_of_engine && known_key(first).is_err() {
        return Err(format!(
            "`{first}` is a setting of the engine: write `engine_args.{first}`, or `prefill_engine_args.{first}` and \
             `decode_engine_args.{first}`"
        ));
    }
    if within.is_none() && Field::by_key(first).is_ok() {
        return Err(format!("`{first}` is a setting of the KV router: write `router_config.{first}`"));
    }
    let first = known_key(first).map_err(|error| error.message)?;
    if FIXED.contains(&first.as_str()) {
        return Err(format!("`{first}` is the same in all runs: it cannot be varied"));
    }
    let Some(within) = within else { return Ok(first) };
    if !NESTED.contains(&first.as_str()) {
        return Err(format!("`{first}` has no settings within it, so there is no `{key}`"));
    }
    let known: Vec<String> = match first.as_str() {
        "router_config" => servecast_router::FIELDS.iter().map(|field| field.key.to_owned()).collect(),
        _ => EngineArgs::keys(),
    };
    let (setting, of_section) = match within.split_once('.') {
        None => (within, None),
        Some((section, setting)) => (section, Some(setting)),
    };
    let unknown = |prefix: &str, key: &str, known: &[String]| {
        check_key(key, known).map_err(|error| error.within(prefix).to_string())
    };
    unknown(&first, setting, &known)?;
    if let Some(key) = of_section {
        unknown(&format!("{first}.{setting}"), key, &EngineArgs::section_keys(setting))?;
    }
    Ok(format!("{first}.{within}"))
}

/// The texts between commas, but for commas within quotes and brackets.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (Vec::new(), 0, 0_u32);
    let (mut quoted, mut escaped) = (false, false);
    for (position, letter) in text.char_indices() {
        match letter {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ if quoted => {}
            '{' | '[' => depth += 1,
            '}' | ']' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..position]);
                start = position + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// What the text of a value means for its key.
fn typed(path: &str, text: &str) -> Result<Value, String> {
    let Some((key, within)) = path.split_once('.') else { return Ok(value_of(path, text.to_owned())) };
    if key == "router_config" {
        let field = Field::by_key(within).map_err(|error| error.to_string())?;
        return field.parse(within, text).map_err(|error| error.to_string());
    }
    let json = serde_json::from_str::<Value>(text).ok();
    let string = Value::String(text.to_owned());
    let fits = |value: &Value| EngineArgs::from_json(nested(within, value.clone())).is_ok();
    let meanings = [json.clone(), super::value::boolean(text).ok().map(Value::Bool), Some(string.clone())];
    // If none fits, the refusal shows what was written.
    Ok(meanings.into_iter().flatten().find(fits).or(json).unwrap_or(string))
}

/// An object with a value at a path.
fn nested(path: &str, value: Value) -> Value {
    let object = |key: &str, value| Value::Object(Map::from_iter([(key.to_owned(), value)]));
    match path.split_once('.') {
        None => object(path, value),
        Some((key, rest)) => object(key, nested(rest, value)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use servecast_types::Message;

    use super::*;

    fn parsed(texts: &[&str]) -> Result<Vec<String>, String> {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        Ok(combinations(&texts)?.iter().map(described).collect())
    }

    #[test]
    fn the_last_key_changes_fastest() {
        assert_eq!(
            parsed(&["workers=4,8", "--router-mode=random, kv_router"]).unwrap(),
            [
                "num_workers=4 router_mode=random",
                "num_workers=4 router_mode=kv_router",
                "num_workers=8 router_mode=random",
                "num_workers=8 router_mode=kv_router",
            ]
        );
    }

    #[test]
    fn aggregated_and_disaggregated_deployments_are_not_combined() {
        assert_eq!(
            parsed(&[
                "prefill_workers=1,2",
                "seed=7",
                "workers=3",
                "engine_args.block_size=16",
                "decode_workers=1"
            ])
            .unwrap(),
            [
                "seed=7 num_workers=3 engine_args.block_size=16",
                "num_prefill_workers=1 seed=7 num_decode_workers=1",
                "num_prefill_workers=2 seed=7 num_decode_workers=1",
            ]
        );
    }

    #[test]
    fn values_have_the_types_of_their_keys() {
        for (text, values) in [
            ("num_workers=1,2", json!([1, 2])),
            ("num_workers=1..3,8", json!([1, 2, 3, 8])),
            ("tp=1,2", json!([1, 2])),
            ("engine_args.tp=2..3", json!([2, 3])),
            ("timeline_window=1..2.5", json!(["1..2.5"])),
            ("seed=null,7", json!([null, 7])),
            ("trace_file=1,b.jsonl", json!(["1", "b.jsonl"])),
            ("enable_prefix_caching=on,off", json!([true, false])),
            ("latency=polynomial,\"linear:1,2,3\"", json!(["polynomial", "linear:1,2,3"])),
            ("engine_args={\"a\":1,\"b\":2},@e.json", json!([{"a": 1, "b": 2}, "@e.json"])),
            ("engine_args.vllm_version=0.33,0.19", json!(["0.33", "0.19"])),
            ("engine_args.max_num_seqs=null,64", json!([null, 64])),
            ("engine_args.sglang.schedule_policy=lpm,fcfs", json!(["lpm", "fcfs"])),
            ("engine_args.sglang.enable_mixed_chunk=yes,no", json!([true, false])),
            ("router_config.router_temperature=0,0.5", json!([0.0, 0.5])),
            ("router_config.router_queue_threshold=none,4", json!([null, 4.0])),
        ] {
            assert_eq!(Value::Array(Varied::parse(text).unwrap().values), values, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_varied_is_refused() {
        for (texts, message) in [
            (&["num_workers"][..], "`vary` is `num_workers`, but must be KEY=VALUE,VALUE,..."),
            (&["num_worker=1"], "unknown key `num_worker`, did you mean `num_workers`?"),
            (
                &["engine_args.max_num_seq=1"],
                "unknown key `engine_args.max_num_seq`, did you mean `engine_args.max_num_seqs`?",
            ),
            (
                &["engine_args.sglang.pagesize=1"],
                "unknown key `engine_args.sglang.pagesize`, did you mean `engine_args.sglang.page_size`?",
            ),
            (&["engine_args.watermark.x=1"], "unknown key `engine_args.watermark.x`"),
            (&["num_workers.x=1"], "`num_workers` has no settings within it, so there is no `num_workers.x`"),
            (
                &["watermark=1"],
                "`watermark` is a setting of the engine: write `engine_args.watermark`, or \
                 `prefill_engine_args.watermark` and `decode_engine_args.watermark`",
            ),
            (
                &["router_temperature=1"],
                "`router_temperature` is a setting of the KV router: write `router_config.router_temperature`",
            ),
            (&["report_json=a,b"], "`report_json` is the same in all runs: it cannot be varied"),
            (&["stream=true,false"], "`stream` is the same in all runs: it cannot be varied"),
            (&["num_workers=1,,2"], "`vary` gives `num_workers` no value in place 2: `num_workers=1,,2`"),
            (&["num_workers="], "`vary` gives `num_workers` no value in place 1: `num_workers=`"),
            (&["num_workers=3..1"], "`vary` gives `num_workers` the range `3..1`, which is empty"),
            (&["num_workers=1..3,2"], "`vary` gives `num_workers` the value 2 twice"),
            (
                &["tp=1", "tensor_parallel_size=2"],
                "`tensor_parallel_size` is varied twice: give all its values at once",
            ),
            (&["num_workers=1,1"], "`vary` gives `num_workers` the value 1 twice"),
            (&["workers=1", "num_workers=2"], "`num_workers` is varied twice: give all its values at once"),
        ] {
            assert_eq!(parsed(texts).unwrap_err(), message);
        }
        let many = (0..101).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
        let (seeds, workers) = (format!("seed={many}"), format!("num_workers={many}"));
        assert_eq!(
            parsed(&[&seeds, &workers]).unwrap_err(),
            "the values of `vary` make more than 10000 runs"
        );
    }

    #[test]
    fn values_are_laid_over_those_of_other_places() {
        let mut layers = Layers::default();
        let file = Origin::File("a.toml".into());
        layers.add("num_workers", 3.into(), &file).unwrap();
        layers.add("seed", 3.into(), &file).unwrap();
        layers.add("engine_args", json!({"block_size": 16, "sglang": {"page_size": 16}}), &file).unwrap();
        let difference = combinations(&[
            "num_workers=8".to_owned(),
            "seed=null".to_owned(),
            "engine_args.sglang.context_length=99".to_owned(),
        ]);
        layers.vary(&difference.unwrap()[0]).unwrap();
        assert_eq!(layers.value("num_workers"), Some(&json!(8)));
        assert_eq!(layers.value("seed"), None);
        assert_eq!(
            layers.value("engine_args"),
            Some(&json!({"block_size": 16, "sglang": {"page_size": 16, "context_length": 99}}))
        );
        let told = |key: &str| layers.explained(Message::key(key)).to_string();
        assert_eq!(told("seed"), "`seed`");
        assert_eq!(told("sglang.context_length"), "`sglang.context_length` (from --vary)");
    }
}
