//! `servecast recommend`: the answer is that of trying everything.

use serde_json::{Value, json};

use crate::sandbox::Sandbox;

/// Requests that one worker of a linear engine cannot serve in time, and three can.
const LOAD: &[&str] = &[
    "--input-tokens",
    "800",
    "--output-tokens",
    "40",
    "--request-count",
    "240",
    "--arrival-interval-ms",
    "20",
    "--arrival-process",
    "poisson",
    "--length-distribution",
    "lognormal",
    "--length-spread",
    "0.6",
];
const LINEAR: &[&str] = &["--latency", "linear:6000,30,200", "--max-num-batched-tokens", "2048"];

fn json(sandbox: &Sandbox, command: &str, arguments: &[&[&str]]) -> Value {
    let arguments: Vec<&str> =
        [command, "-q", "--format", "json"].into_iter().chain(arguments.concat()).collect();
    let outcome = sandbox.run(&arguments);
    assert!(outcome.code == Some(0) || outcome.code == Some(3), "{arguments:?}: {outcome:?}");
    serde_json::from_str(&outcome.stdout).unwrap()
}

fn gpus(settings: &Value, tp: u64) -> u64 {
    let of = |key: &str| settings[key].as_u64().unwrap_or(0);
    let tp = settings["tensor_parallel_size"].as_u64().unwrap_or(tp);
    (of("num_workers") + of("num_prefill_workers") + of("num_decode_workers")) * tp
}

/// The fewest GPUs with which a run keeps all objectives, and the settings of the run with the most room among those: by
/// running all.
fn enumerated(sandbox: &Sandbox, common: &[&str], varied: &[&[&str]]) -> Option<(u64, f64, Vec<Value>)> {
    let mut best: Option<(u64, f64, Vec<Value>)> = None;
    for varied in varied {
        let vary: Vec<&str> = varied.iter().flat_map(|one| ["--vary", *one]).collect();
        let runs = json(sandbox, "replay", &[common, &vary]);
        for run in runs["runs"].as_array().unwrap() {
            let slo = run["report"]["slo"].as_array().unwrap();
            if !slo.iter().all(|one| one["met"] == true) {
                continue;
            }
            let gpus = gpus(&run["settings"], 1);
            let room = slo.iter().map(|one| one["margin"].as_f64().unwrap()).fold(f64::INFINITY, f64::min);
            let settings = run["settings"].clone();
            match &mut best {
                Some((least, most, tied)) if *least == gpus && most.total_cmp(&room).is_eq() => {
                    tied.push(settings);
                }
                Some((least, most, _)) if (*least, -*most) < (gpus, -room) => {}
                _ => best = Some((gpus, room, vec![settings])),
            }
        }
    }
    best
}

/// Traces, models, targets, aggregated and disaggregated, and prompts that share their beginnings.
#[test]
fn the_answer_is_that_of_enumeration() {
    let sandbox = Sandbox::new();
    let shared: Vec<&str> = [LOAD, &["--shared-prefix-ratio", "0.6", "--num-prefix-groups", "6"]].concat();
    let model: &[&str] =
        &["--model", "meta-llama/Llama-3.1-8B", "--gpu", "H100-SXM", "--engine-preset", "vllm-0.33"];
    let quick: Vec<&str> = LOAD.iter().map(|word| if *word == "20" { "12" } else { word }).collect();
    let p95 = ["--slo", "p95 ttft <= 700ms"];
    let both = ["--slo", "p90 ttft <= 500ms", "--slo", "p95 itl <= 60ms"];
    let share = ["--slo", "goodput >= 90% (ttft <= 600ms, tpot <= 30ms)"];
    let of_model = ["--slo", "p95 ttft <= 60ms", "--slo", "p95 tpot <= 9ms"];
    let aggregated: &[&str] =
        &["num_workers=1..5", "router_mode=round_robin,least_loaded", "engine_args.max_num_seqs=8,64"];
    let staged: &[&str] =
        &["num_prefill_workers=1..3", "num_decode_workers=1..3", "router_mode=round_robin,least_loaded"];
    let routed: &[&str] = &["num_workers=1..5", "router_mode=least_loaded,kv_router"];
    let sizes: &[&str] = &["num_workers=1..3", "tensor_parallel_size=1,2", "max_num_seqs=32,256"];
    // What is not given, `recommend` tries.
    let small = ["--max-num-seqs", "64"];
    let fixed = ["--max-num-batched-tokens", "4096", "--router-mode", "least_loaded"];
    let cases: [(&str, Vec<&str>, &[&str]); 5] = [
        ("aggregated", [LOAD, LINEAR, &p95].concat(), aggregated),
        ("prefill and decode", [LOAD, LINEAR, &small, &both].concat(), staged),
        ("shared prefixes", [&shared, LINEAR, &small, &share].concat(), routed),
        ("a model", [&quick[..], model, &of_model, &fixed].concat(), sizes),
        ("a target that nobody keeps", [LOAD, LINEAR, &["--slo", "max ttft <= 1ms"]].concat(), aggregated),
    ];
    for (name, common, varied) in cases {
        let has_answer = agrees_with_enumeration(&sandbox, name, &common, varied);
        assert_eq!(has_answer, name != "a target that nobody keeps", "{name}");
    }
}

/// The beginnings of two recorded traces, one of which has prefixes in common, on measured operators.
#[test]
fn the_answer_for_recorded_traces_is_that_of_enumeration() {
    let Some(folder) = testkit::outside(testkit::DATA) else { return };
    let sandbox = Sandbox::new();
    let begin = |text: &str, lines: usize| {
        text.lines().take(lines).map(|line| line.to_owned() + "\n").collect::<String>()
    };
    let mooncake = std::fs::read_to_string(folder.join("traces/mooncake_conversation.jsonl")).unwrap();
    sandbox.write("mooncake.jsonl", begin(&mooncake, 240));
    let packed = std::fs::File::open(folder.join("traces/AzureLLMInferenceTrace_conv.csv.gz")).unwrap();
    let azure = std::io::read_to_string(flate2::read::GzDecoder::new(packed)).unwrap();
    sandbox.write("azure.csv", begin(&azure, 400));
    let on = |trace: &'static str, model: &'static str, gpu: &'static str, speedup: &'static str| {
        let fixed =
            ["--engine-preset", "vllm-0.33", "--max-num-seqs", "256", "--max-num-batched-tokens", "8192"];
        [&[trace, "--model", model, "--gpu", gpu, "--arrival-speedup-ratio", speedup][..], &fixed].concat()
    };
    let (ttft, itl) = (["--slo", "p90 ttft <= 2s"], ["--slo", "p95 itl <= 40ms"]);
    let routed = [&on("mooncake.jsonl", "meta-llama/Llama-3.1-8B", "H100-SXM", "4")[..], &ttft].concat();
    let router = ["--router-mode", "least_loaded"];
    let staged = [&on("azure.csv", "Qwen/Qwen3-32B", "H200", "10")[..], &ttft, &itl, &router].concat();
    assert!(agrees_with_enumeration(
        &sandbox,
        "shared prefixes of a recorded trace",
        &routed,
        &["num_workers=1..5", "tensor_parallel_size=1,2", "router_mode=round_robin,kv_router"],
    ));
    assert!(agrees_with_enumeration(
        &sandbox,
        "prefill and decode of a recorded trace",
        &staged,
        &["num_prefill_workers=1..3", "num_decode_workers=1..3", "tensor_parallel_size=1,2"],
    ));
}

/// `recommend` and all runs of `replay --vary` agree on the best; returns whether there is one.
fn agrees_with_enumeration(sandbox: &Sandbox, name: &str, common: &[&str], varied: &[&str]) -> bool {
    let vary: Vec<&str> = varied.iter().flat_map(|one| ["--vary", *one]).collect();
    let found = json(sandbox, "recommend", &[common, &vary, &["--max-gpus", "10"]]);
    let ranking = found["loads"][0]["ranking"].as_array().unwrap();
    let best = enumerated(sandbox, common, &[varied]);
    let Some((least, room, settings)) = best else {
        assert!(ranking.is_empty(), "{name}: {ranking:?}");
        assert!(!found["loads"][0]["nearest"].as_array().unwrap().is_empty(), "{name}");
        return false;
    };
    assert_eq!(ranking[0]["gpus"], least, "{name}");
    let slo = ranking[0]["figures"]["slo"].as_array().unwrap();
    let margin = slo.iter().map(|one| one["margin"].as_f64().unwrap()).fold(f64::INFINITY, f64::min);
    assert!(margin.total_cmp(&room).is_eq(), "{name}: {margin} is not {room}");
    // In front of one worker all routers are the same, and the first of them stands for all.
    let is_same = |settings: &Value| {
        let own = ranking[0]["settings"].as_object().unwrap();
        own.iter().all(|(key, value)| settings[key] == *value)
    };
    assert!(settings.iter().any(is_same), "{name}: {} is none of {settings:?}", ranking[0]["settings"]);
    let tally = &found["loads"][0]["tally"];
    let of = |key: &str| tally[key].as_u64().unwrap();
    assert_eq!(of("candidates"), of("simulated") + of("proved_worse") + of("refused"), "{name}: {tally}");
    true
}

fn least_gpus(found: &Value, load: usize) -> u64 {
    found["loads"][load]["ranking"][0]["gpus"].as_u64().unwrap_or(u64::MAX)
}

#[test]
fn less_load_looser_targets_and_more_gpus_never_need_more() {
    let sandbox = Sandbox::new();
    let run = |more: &[&str]| json(&sandbox, "recommend", &[LOAD, LINEAR, more]);
    let vary = ["--max-num-seqs", "32", "--router-mode", "least_loaded"];
    let strict = ["--slo", "p95 ttft <= 400ms"];
    let loads = run(&[&vary[..], &strict, &["--max-gpus", "8", "--growth", "0.5,1,1.5"]].concat());
    let needed: Vec<u64> = (0..3).map(|load| least_gpus(&loads, load)).collect();
    assert!(needed.is_sorted() && needed[0] < needed[2], "{needed:?}");
    let loose = run(&[&vary[..], &["--slo", "p95 ttft <= 900ms", "--max-gpus", "8"]].concat());
    assert!(least_gpus(&loose, 0) <= needed[1]);
    let more = run(&[&vary[..], &strict, &["--max-gpus", "12"]].concat());
    assert_eq!(more["loads"][0]["ranking"][0]["settings"], loads["loads"][1]["ranking"][0]["settings"]);
    let spare =
        run(&[&vary[..], &strict, &["--max-gpus", "12", "--spare", "1", "--node-gpus", "4"]].concat());
    assert_eq!(least_gpus(&spare, 0), (needed[1] + 1).div_ceil(4) * 4);
    let headroom = loads["loads"][1]["ranking"][0]["headroom"]["factor"].as_f64().unwrap();
    assert!(headroom >= 1.0, "{headroom}");
}

#[test]
fn threads_and_a_search_that_goes_on_change_nothing() {
    let sandbox = Sandbox::new();
    let arguments: Vec<&str> = [
        &[
            "recommend",
            "-q",
            "--format",
            "json",
            "--max-gpus",
            "4",
            "--slo",
            "p95 ttft <= 700ms",
            "--vary",
            "max_num_seqs=8,64",
        ],
        LOAD,
        LINEAR,
    ]
    .concat();
    let run = |more: &[&str]| {
        let outcome = sandbox.run(&[&arguments[..], more].concat());
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        outcome.stdout
    };
    let alone = run(&["--threads", "1"]);
    assert_eq!(run(&["--threads", "3"]), alone);
    assert_eq!(run(&["--resume", "s.jsonl"]), alone);
    let journal = sandbox.read("s.jsonl");
    // As if it had been ended within a line.
    let half: String =
        journal.lines().take(journal.lines().count() / 2).flat_map(|line| [line, "\n"]).collect();
    sandbox.write("s.jsonl", format!("{half}{{\"of\": \"[\\\"num_"));
    assert_eq!(run(&["--resume", "s.jsonl"]), alone);
    let lines = sandbox.read("s.jsonl").lines().count();
    assert_eq!(run(&["--resume", "s.jsonl"]), alone);
    assert_eq!(sandbox.read("s.jsonl").lines().count(), lines, "nothing is run twice");
    let other = sandbox.run(&[&arguments[..], &["--resume", "s.jsonl", "--seed", "7"]].concat());
    assert_eq!(other.code, Some(2));
    assert!(other.stderr.contains("`s.jsonl` is of another search"), "{}", other.stderr);
}

#[test]
fn the_folder_repeats_the_run_and_starts_the_deployment() {
    let sandbox = Sandbox::new();
    let model = ["--model", "meta-llama/Llama-3.1-8B", "--gpu", "H100-SXM", "--max-gpus", "4"];
    let load = [
        "--input-tokens",
        "900",
        "--output-tokens",
        "30",
        "--request-count",
        "150",
        "--arrival-interval-ms",
        "20",
    ];
    let rest = [
        "--slo",
        "p95 ttft <= 100ms",
        "--slo",
        "p95 itl <= 15ms",
        "--gpu-hour",
        "H100-SXM=2.5",
        "--output-dir",
        "out",
    ];
    let arguments: Vec<&str> = [&["recommend", "-q"][..], &model, &load, &rest].concat();
    let outcome = sandbox.run(&arguments);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(
        outcome.stdout.contains("the lowest cost")
            && outcome.stdout.contains("vllm serve meta-llama/Llama-3.1-8B"),
        "{}",
        outcome.stdout
    );
    let found: Value = serde_json::from_str(&sandbox.read("out/recommendation.json")).unwrap();
    let best = &found["loads"][0]["ranking"][0];
    assert!(best.get("over_seeds").is_none(), "nothing of this load is random");
    let hours = best["figures"]["duration_ms"].as_f64().unwrap() / 3.6e6;
    let cost = best["gpus"].as_f64().unwrap() * 2.5 * hours;
    assert!((best["cost"]["total"].as_f64().unwrap() / cost - 1.0).abs() < 1e-9, "{}", best["cost"]);
    let again = sandbox.run(&["replay", "--config", "out/1.toml", "-q", "--format", "json"]);
    let report: Value = serde_json::from_str(&again.stdout).unwrap();
    assert_eq!(report["slo"], best["figures"]["slo"]);
    assert!(
        sandbox.read("out/start.sh").contains("vllm serve")
            && sandbox.read("out/recommendation.csv").lines().count() > 1
    );
    let schema = sandbox.run(&["schema", "recommendation"]).stdout;
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let errors: Vec<String> = jsonschema::validator_for(&schema)
        .unwrap()
        .iter_errors(&found)
        .map(|error| error.to_string())
        .collect();
    assert!(errors.is_empty(), "{errors:?}");
}

/// Everything that the page says of a load, and the settings of a deployment as it puts them together.
fn page_data(page: &str) -> Value {
    let (_, rest) = page.split_once("<script id=\"data\" type=\"application/json\">").unwrap();
    serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
}

fn page_settings(data: &Value, load: usize, point: &Value) -> String {
    let mut all = data["common"].as_object().unwrap().clone();
    for settings in [&data["loads"][load]["settings"], &point["settings"]] {
        all.extend(settings.as_object().unwrap().clone());
    }
    all.iter().filter_map(|(key, value)| Some(format!("{key} = {}\n", value.as_str()?))).collect()
}

#[test]
fn the_page_has_all_deployments_and_repeats_each_of_them() {
    let sandbox = Sandbox::new();
    let row = |n: u32| format!("{},{},30", f64::from(n) * 0.02, 300 + n * 7);
    let rows: Vec<String> = ["time,input,output".to_owned()].into_iter().chain((0..120).map(row)).collect();
    sandbox.write("t.csv", rows.join("\n"));
    let ask = [
        "t.csv",
        "--columns",
        "time=time,input=input,output=output",
        "--time-unit",
        "s",
        "--max-gpus",
        "4",
        "--growth",
        "1,1.5",
    ];
    let more = ["--slo", "p95 ttft <= 900ms", "--slo", "p95 itl <= 60ms", "--objective", "gpus,latency"];
    let arguments: Vec<&str> = [&ask[..], LINEAR, &more].concat();
    let found = json(&sandbox, "recommend", &[&arguments, &["--html", "p.html", "--report-json", "a.json"]]);
    let page = sandbox.read("p.html");
    let data = page_data(&page);
    for load in 0..2 {
        let points = data["loads"][load]["points"].as_array().unwrap();
        let of = |key: &str| found["loads"][load][key].as_array().unwrap().len();
        assert_eq!(points.len(), of("ranking") + of("others") + of("cut_off"));
        let ranking = found["loads"][load]["ranking"].as_array().unwrap();
        let alike: usize = ranking.iter().map(|one| one["same"].as_array().map_or(0, Vec::len)).sum();
        let simulated = found["loads"][load]["tally"]["simulated"].as_u64().unwrap();
        assert_eq!((points.len() + alike) as u64, simulated);
        assert!(of("others") > 0 && of("cut_off") > 0, "{}", found["loads"][load]["tally"]);
        let headroom = &found["loads"][load]["ranking"][0]["headroom"]["tried"];
        let has_figures = |probe: &&Value| probe["values"].as_array().unwrap().len() == 2;
        let tried = headroom.as_array().unwrap();
        assert!(
            tried.iter().filter(|probe| probe["met"] == true).all(|probe| has_figures(&probe)),
            "{headroom}"
        );
        // The first, one that misses or is beaten, and one that was cut off.
        for place in [0, of("ranking"), points.len() - 1] {
            sandbox.write("again.toml", page_settings(&data, load, &points[place]));
            let again = sandbox.run(&["replay", "--config", "again.toml", "-q", "--format", "json"]);
            let report: Value = serde_json::from_str(&again.success()).unwrap();
            let slo = report["slo"].as_array().unwrap();
            let figures = points[place]["figures"].as_array().unwrap();
            if figures.is_empty() {
                assert!(slo.iter().any(|one| one["met"] == false), "it was cut off: {slo:?}");
            }
            for (again, known) in slo.iter().zip(figures) {
                assert_eq!(
                    (&again["value"], &again["met"]),
                    (&known[0], &known[1]),
                    "load {load}, place {place}"
                );
            }
        }
    }
    let about = data["about"].as_array().unwrap();
    for (part, key) in [("Workload", "workload_hash"), ("servecast", "servecast_version")] {
        let text = &about.iter().find(|line| line[0] == part).unwrap()[1];
        assert!(text.as_str().unwrap().ends_with(found[key].as_str().unwrap()), "{about:?}");
    }
    assert!(about.contains(&json!(["Seed", "42"])), "{about:?}");
    // The first ones over time, under each load.
    for load in 0..2 {
        let curves = data["loads"][load]["over_time"].as_array().unwrap();
        let ranking = found["loads"][load]["ranking"].as_array().unwrap();
        assert_eq!(curves.len(), ranking.len().min(3));
        for (curves, ranked) in curves.iter().zip(ranking) {
            assert!(ranked["deployment"].as_str().unwrap().starts_with(curves["name"].as_str().unwrap()));
            let arrivals = curves["curves"]["arrivals"].as_array().unwrap();
            let seconds = curves["curves"]["bin_s"].as_f64().unwrap();
            let all: f64 = arrivals.iter().map(|rate| rate.as_f64().unwrap() * seconds).sum();
            let requests = found["workload"]["requests"].as_f64().unwrap();
            assert!((all / requests - 1.0).abs() < 0.02, "{all} of {requests} requests");
        }
    }
    let with_page = sandbox.read("a.json");
    json(
        &sandbox,
        "recommend",
        &[&arguments, &["--html", "q.html", "--report-json", "b.json", "--threads", "1"]],
    );
    assert!(sandbox.read("q.html") == page, "the same bytes whatever the number of threads");
    assert!(sandbox.read("b.json") == with_page);
    json(&sandbox, "recommend", &[&arguments, &["--report-html", "r.html"]]);
    assert!(sandbox.read("r.html") == page, "by the name that it has for a run, too");
    let folder = json(&sandbox, "recommend", &[&arguments, &["--output-dir", "out"]]);
    assert!(sandbox.read("out/recommendation.html") == page && folder == found);
    for (files, message) in [
        (["--html", "same", "--csv", "same"], "`html` and `csv` are the same file"),
        (["--html", "x.html", "--report-json", "./x.html"], "`html` and `report_json` are the same file"),
        (["--html", "t.csv", "--csv", "c.csv"], "`html` and `trace_file` are the same file"),
        (["--html", "no/such.html", "--csv", "c.csv"], "no/such.html"),
        (["--html", "-", "--csv", "c.csv"], "`-` is no path of an output file"),
    ] {
        sandbox.run(&[&["recommend"], &arguments[..], &files].concat()).is_refused(&[message]);
    }
    let replay = sandbox.run(&["replay", "t.csv", "--html", "p.html"]);
    assert_eq!(replay.code, Some(2), "--html is for `recommend`: {replay:?}");
}

#[test]
fn pools_may_have_workers_of_different_sizes() {
    let sandbox = Sandbox::new();
    let model = ["--model", "meta-llama/Llama-3.1-8B", "--gpu", "H100-SXM", "--router-mode", "round_robin"];
    let small = ["--max-num-seqs", "64", "--max-num-batched-tokens", "4096", "--max-gpus", "5"];
    let pools = ["--vary", "prefill_workers=1", "--vary", "decode_workers=1"];
    let load = ["--input-tokens", "400", "--output-tokens", "30", "--request-count", "40"];
    let open = ["--arrival-interval-ms", "50", "--slo", "max e2e <= 1m", "--objective", "latency"];
    let found = json(&sandbox, "recommend", &[&model, &small, &pools, &load, &open]);
    let ranking = found["loads"][0]["ranking"].as_array().unwrap();
    let mut names: Vec<&str> = ranking.iter().map(|one| one["deployment"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        [
            "1P x 1 GPU + 1D x 1 GPU",
            "1P x 1 GPU + 1D x 2 GPUs",
            "1P x 1 GPU + 1D x 4 GPUs",
            "1P x 2 GPUs + 1D x 1 GPU",
            "1P x 2 GPUs + 1D x 2 GPUs",
            "1P x 4 GPUs + 1D x 1 GPU",
        ]
    );
    let uneven = ranking.iter().find(|one| one["deployment"] == "1P x 1 GPU + 1D x 2 GPUs").unwrap();
    assert_eq!(uneven["settings"]["decode_engine_args.tensor_parallel_size"], 2);
    // The pools are what the settings say.
    let pools = ["--prefill-workers", "1", "--decode-workers", "1", "--engine-preset", "vllm-0.33"];
    let (one, two) = ("{\"tensor_parallel_size\": 1}", "{\"tensor_parallel_size\": 2}");
    let own = ["--prefill-engine-args", one, "--decode-engine-args", two];
    let report = sandbox.report(&[&model[..], &small[..4], &pools, &own, &load, &open[..4]].concat());
    assert_eq!(report["slo"], uneven["figures"]["slo"]);
    let even = ranking.iter().find(|one| one["deployment"] == "1P x 1 GPU + 1D x 1 GPU").unwrap();
    assert_ne!(even["figures"]["slo"], uneven["figures"]["slo"]);
}

#[test]
fn a_random_load_is_run_with_several_seeds() {
    let sandbox = Sandbox::new();
    let ask = [LOAD, LINEAR, &["--slo", "p95 ttft <= 700ms", "--max-gpus", "3", "--seed", "7"]].concat();
    let arguments: Vec<&str> = [&["recommend", "-q", "--report-json", "a.json"][..], &ask].concat();
    let text = sandbox.run(&arguments).success();
    let found: Value = serde_json::from_str(&sandbox.read("a.json")).unwrap();
    let best = &found["loads"][0]["ranking"][0];
    let seeds = &best["over_seeds"];
    assert_eq!(seeds["seeds"], serde_json::json!([7, 8, 9, 10, 11]));
    let interval = &seeds["targets"][0];
    let [low, mean, high] = ["low", "mean", "high"].map(|key| interval[key].as_f64().unwrap());
    assert!(low < mean && mean < high, "{interval}");
    assert!(text.contains("\nOver 5 seeds of the load, the first keeps all targets with "), "{text}");
}

#[test]
fn a_frontier_and_a_list_of_the_space() {
    let sandbox = Sandbox::new();
    let arguments: Vec<&str> = [LOAD, &["--latency", "linear:6000,30,200"]].concat();
    let dry = sandbox.run(&[&["recommend", "--dry-run", "--max-gpus", "3"][..], &arguments].concat());
    assert_eq!(dry.code, Some(0), "{dry:?}");
    assert!(dry.stdout.starts_with("40 deployments of up to 3 GPUs\n"), "{}", dry.stdout);
    assert!(
        dry.stdout.contains("  max_num_seqs: 128, 1024\n  max_num_batched_tokens: 2048, 8192\n"),
        "{}",
        dry.stdout
    );
    let found = json(
        &sandbox,
        "recommend",
        &[
            &arguments,
            &[
                "--max-gpus",
                "4",
                "--slo",
                "p95 ttft <= 3s",
                "--objective",
                "gpus,latency",
                "--router-mode",
                "least_loaded",
            ],
        ],
    );
    let ranking = found["loads"][0]["ranking"].as_array().unwrap();
    let gpus: Vec<u64> = ranking.iter().map(|entry| entry["gpus"].as_u64().unwrap()).collect();
    let room: Vec<f64> =
        ranking.iter().map(|entry| entry["figures"]["slo"][0]["margin"].as_f64().unwrap()).collect();
    assert!(gpus.len() > 1 && gpus.is_sorted() && room.is_sorted(), "{gpus:?} {room:?}");
    assert_eq!(found["loads"][0]["tally"]["proved_worse"], 0, "a frontier needs all of them");
}

#[test]
fn what_cannot_be_asked_is_refused() {
    let sandbox = Sandbox::new();
    let base: Vec<&str> = [&["recommend"][..], LOAD, &["--latency", "linear:6000,30,200"]].concat();
    let slo = ["--slo", "p95 ttft <= 1s"];
    for (arguments, message) in [
        (&[][..], "a recommendation needs a target to keep"),
        (&["--slo", "p95 ttfx <= 1s"], "error: --slo: unknown figure `ttfx`, did you mean `ttft`?"),
        (&[slo[0], slo[1], "--vary", "seed=1,2"], "`seed` is part of the question"),
        (&[slo[0], slo[1], "--vary", "input_tokens=10,20"], "`input_tokens` is part of the question"),
        (&[slo[0], slo[1], "--gpus", "0"], "--gpus is 0, but a deployment has at least 1 GPU"),
        (&[slo[0], slo[1], "--growth", "0"], "--growth is 0, but must be a factor of the load above 0"),
        (&[slo[0], slo[1], "--growth", "1,-2"], "--growth is -2, but must be a factor of the load above 0"),
        (&[slo[0], slo[1], "--max-gpus", "0"], "--max-gpus is 0, but a deployment has at least 1 GPU"),
        (
            &[slo[0], slo[1], "--gpus", "1", "--spare", "3"],
            "the space is empty: no deployment takes at most 1 GPUs",
        ),
        (&[slo[0], slo[1], "--gpu-hour", "H100-SMX=2"], "the GPU `H100-SMX` is not known"),
        (&[slo[0], slo[1], "--gpu-hour", "H100-SXM"], "--gpu-hour is `H100-SXM`, but must be GPU=PRICE"),
        (&[slo[0], slo[1], "--objective", "cost"], "--objective cost needs prices"),
        (&[slo[0], slo[1], "--objective", "gpu"], "unknown objective `gpu`, did you mean `gpus`?"),
        (
            &[slo[0], slo[1], "--objective", "cost", "--gpu-hour", "H100-SXM=2"],
            "there is no price for a GPU that is not named",
        ),
        (&[slo[0], slo[1], "--vary", "num_workers=4..1"], "the range `4..1`, which is empty"),
        (
            &[slo[0], slo[1], "--requests-jsonl", "r"],
            "`requests_jsonl` is of one run, but `recommend` makes many",
        ),
    ] {
        let outcome = sandbox.run(&[&base[..], arguments].concat());
        assert_eq!(outcome.code, Some(2), "{arguments:?}: {outcome:?}");
        assert!(outcome.stderr.contains(message), "{arguments:?}: {}", outcome.stderr);
    }
    let folder = sandbox.run(&[&["recommend", "--gpu", "H100-SXM", "--model", "."][..], &slo].concat());
    assert_eq!(folder.code, Some(2), "{folder:?}");
    assert!(folder.stderr.contains(".: the folder of the model has no config.json"), "{}", folder.stderr);
    let hopeless = sandbox.run(&[&base[..], &["-q", "--slo", "max ttft <= 1ms", "--max-gpus", "2"]].concat());
    assert_eq!(hopeless.code, Some(3), "{hopeless:?}");
    assert!(hopeless.stderr.contains("comes nearest: ✗ max ttft <= 1ms: "), "{}", hopeless.stderr);
}

/// SGLang counts all GPUs of a server, over which the ranks of the attention are spread, and has them only on demand.
#[test]
fn ranks_start_as_sglang_counts_them() {
    let sandbox = Sandbox::new();
    let arguments = "recommend -q --model Qwen/Qwen3-30B-A3B --gpu H100-SXM --max-gpus 2 --engine-preset sglang-0.5 --tp 1 --dp 2 \
                     --ep 2 --input-tokens 900 --output-tokens 30 --request-count 50 --arrival-interval-ms 50 --output-dir out";
    let arguments: Vec<&str> = arguments.split_whitespace().chain(["--slo", "p95 ttft <= 1s"]).collect();
    let outcome = sandbox.run(&arguments);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let start = sandbox.read("out/start.sh");
    assert!(start.contains(" --tp 2 --dp 2 --enable-dp-attention --ep 2"), "{start}");
    // Where ranks share GPUs out, they are counted once, whoever says so.
    let shared = "recommend -q --model Qwen/Qwen3-30B-A3B --gpu H100-SXM --max-gpus 2 --engine-preset sglang-0.5 --tp 2 --dp 2 --ep 2 \
                  --input-tokens 900 --output-tokens 30 --request-count 50 --arrival-interval-ms 50 --overwrite --output-dir out";
    let shared: Vec<&str> = shared.split_whitespace().chain(["--slo", "p95 ttft <= 1s"]).collect();
    for own in
        [&["--enable-dp-attention"][..], &["--engine-args", r#"{"sglang": {"enable_dp_attention": true}}"#]]
    {
        let outcome = sandbox.run(&[&shared[..], own].concat());
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert!(outcome.stdout.contains("2 GPUs"), "{}", outcome.stdout);
        let start = sandbox.read("out/start.sh");
        assert!(start.contains(" --tp 2 --dp 2 --enable-dp-attention --ep 2"), "{start}");
    }
}

#[test]
fn the_command_says_what_it_lacks() {
    let sandbox = Sandbox::new();
    let arguments = "recommend -q --model meta-llama/Llama-3.1-8B --gpu H100-SXM --max-gpus 1 --tp 1 --input-tokens 900 \
                     --output-tokens 30 --request-count 20 --arrival-interval-ms 50";
    let started = |more: &[&str]| {
        let slo = ["--slo", "p95 ttft <= 1s"];
        let arguments: Vec<&str> =
            arguments.split_whitespace().chain(slo).chain(more.iter().copied()).collect();
        sandbox.run(&arguments).success()
    };
    let vllm = started(&["--enforce-eager", "--max-num-seqs", "64"]);
    assert!(vllm.contains("--max-num-seqs 64") && vllm.contains("# without `enforce_eager`"), "{vllm}");
    let ranks = started(&["--engine", "trtllm", "--dp", "1"]);
    assert!(ranks.contains("# without `data_parallel_size`"), "{ranks}");
    let trtllm = started(&["--engine", "trtllm", "--max-num-seqs", "64"]);
    assert!(
        trtllm.contains("trtllm-serve meta-llama/Llama-3.1-8B --port 8000 --tp_size 1 --max_batch_size 64"),
        "{trtllm}"
    );
}
