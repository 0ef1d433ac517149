//! `servecast validate --silicon`: tables of measured runs.

use serde_json::Value;

use crate::sandbox::Sandbox;

/// Three runs that are judged and can be simulated, one of an unknown client, one with speculative decoding perhaps, and one
/// of a model without a shape.
const TABLE: &str = "\
id,model,gpu,engine,engine_version,dtype,kv_dtype,tp,isl,osl,concurrency,max_num_batched_tokens,max_num_seqs,\
chunked_prefill,chunked_prefill_size,max_prefill_tokens,scheduler_recv_interval,gpu_memory_utilization,client,\
maybe_speculative,ttft_ms,tpot_ms
a,meta-llama/Llama-3.1-8B,H100-SXM,vllm,0.19.0,bf16,bf16,1,1000,100,4,2048,256,1,,,,0.9,inferencex,0,40,8
b,meta-llama/Llama-3.1-70B,H200,sglang,0.5.9,fp8,fp8,2,500,50,8,,256,1,4096,4096,10,0.9,inferencex,0,400,20
c,openai/gpt-oss-120b,B200,trtllm,nan,mxfp4,fp8,1,300,60,2,20000,512,0,,,,0.9,inferencex,0,30,4
d,meta-llama/Llama-3.1-8B,H100-SXM,vllm,nan,bf16,bf16,1,128,32,1,,,,,,,,other,0,1,1
e,meta-llama/Llama-3.1-8B,H100-SXM,vllm,0.11.2,bf16,bf16,1,128,32,1,,,,,,,,inferencex,1,1,1
f,acme/Unheard-Of-9B,H100-SXM,vllm,0.19.0,bf16,bf16,1,128,32,1,,,,,,,,inferencex,0,10,10
";

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("table.csv", TABLE);
    sandbox
}

fn json(sandbox: &Sandbox, more: &[&str]) -> Value {
    let arguments = ["validate", "--silicon", "table.csv", "--latency", "roofline", "--format", "json"];
    let text = sandbox.run(&[&arguments[..], more].concat()).success();
    serde_json::from_str(&text).unwrap()
}

fn row<'a>(results: &'a Value, id: &str) -> &'a Value {
    results["rows"].as_array().unwrap().iter().find(|row| row["id"] == id).unwrap()
}

#[test]
fn a_row_is_the_closed_loop_that_is_described() {
    let sandbox = sandbox();
    let results = json(&sandbox, &[]);
    let by_hand = |roofline: &str, isl: &str, osl: &str, slots: &str, more: &[&str]| {
        let count = (slots.parse::<u32>().unwrap() * 10).to_string();
        let block = (2 * isl.parse::<u32>().unwrap() * 10 / 9).to_string();
        let common = [
            "--input-tokens",
            isl,
            "--output-tokens",
            osl,
            "--request-count",
            &count,
            "--length-distribution",
            "uniform",
            "--length-spread",
            "0.1111111111111111",
            "--seed",
            "42",
            "--arrival-interval-ms",
            "0",
            "--replay-concurrency",
            slots,
            "--trace-block-size",
            &block,
            "--latency",
            roofline,
            "--enable-prefix-caching=false",
            "--max-num-seqs",
            "256",
        ];
        let report = sandbox.report(&[&common[..], more].concat());
        (report["mean_ttft_ms"].as_f64().unwrap(), report["mean_tpot_ms"].as_f64().unwrap())
    };
    let check = |id: &str, (ttft, tpot): (f64, f64)| {
        let row = row(&results, id);
        let simulated = &row["simulated"];
        assert_eq!((&simulated["ttft_ms"], &simulated["tpot_ms"]), (&ttft.into(), &tpot.into()), "{row}");
        let error = (ttft / row["measured_ttft_ms"].as_f64().unwrap() - 1.0) * 100.0;
        assert!((row["ttft_error_percent"].as_f64().unwrap() - error).abs() < 1e-9, "{row}");
    };
    let roofline = "roofline:model=meta-llama/Llama-3.1-8B,gpu=H100-SXM,dtype=bf16,kv_dtype=bf16,tp=1";
    let vllm = ["--engine-preset", "vllm-0.19", "--max-num-batched-tokens", "2048"];
    check("a", by_hand(roofline, "900", "90", "4", &vllm));
    let roofline = "roofline:model=meta-llama/Llama-3.1-70B,gpu=H200,dtype=fp8,kv_dtype=fp8,tp=2";
    let sglang = [
        "--engine-preset",
        "sglang-0.5",
        "--engine",
        "sglang",
        "--chunked-prefill-size",
        "4096",
        "--max-prefill-tokens",
        "4096",
        "--scheduler-recv-interval",
        "10",
    ];
    check("b", by_hand(roofline, "450", "45", "8", &sglang));
}

#[test]
fn only_judged_rows_count_and_the_others_are_told_apart() {
    let sandbox = sandbox();
    let results = json(&sandbox, &[]);
    assert_eq!(results["judged"], 4);
    assert_eq!(results["not_run"], 25.0, "one of four");
    let reason = row(&results, "f")["reason"].as_str().unwrap();
    assert!(reason.contains("the shape of the model `acme/Unheard-Of-9B` is not known"), "{reason}");
    let errors: Vec<f64> =
        ["a", "b", "c"].iter().map(|id| row(&results, id)["tpot_error_percent"].as_f64().unwrap()).collect();
    let mape = errors.iter().map(|error| error.abs()).sum::<f64>() / 3.0;
    assert!((results["tpot_mape"].as_f64().unwrap() - mape).abs() < 1e-9, "{errors:?}");
    let bias = errors.iter().sum::<f64>() / 3.0;
    assert!((results["tpot_bias"].as_f64().unwrap() - bias).abs() < 1e-9, "{errors:?}");
    let engines = results["groups"]["engine"].as_array().unwrap();
    assert_eq!(engines.iter().map(|group| &group["name"]).collect::<Vec<_>>(), ["sglang", "trtllm", "vllm"]);
    assert_eq!(results["not_judged"]["n"], 2);
    let reasons = &results["not_judged_reasons"];
    assert_eq!(reasons.as_object().unwrap().len(), 2, "{reasons}");
    for (id, reason) in [("d", "other_client"), ("e", "maybe_speculative")] {
        assert_eq!((&row(&results, id)["not_judged"], &reasons[reason]["rows"]), (&reason.into(), &1.into()));
        let error = row(&results, id)["tpot_error_percent"].as_f64().unwrap();
        assert_eq!(reasons[reason]["score"]["tpot"]["bias"], error, "{reason}");
    }
    assert_eq!(row(&results, "e")["release"], "vllm-0.14");
    let text = sandbox.run(&["validate", "--silicon", "table.csv", "--latency", "roofline"]).success();
    for words in [
        "6 measured runs, of which 4 are judged",
        "1 of the 4 judged runs cannot be simulated",
        "  f: ",
        "  another client ",
        "  perhaps speculative decoding ",
    ] {
        assert!(text.contains(words), "{words:?} is missing in {text}");
    }
}

#[test]
fn threads_change_nothing_and_a_sample_is_always_the_same() {
    let sandbox = sandbox();
    let all = json(&sandbox, &["--threads", "1"]);
    assert_eq!(all, json(&sandbox, &["--threads", "3"]));
    let two = json(&sandbox, &["--sample", "2"]);
    assert_eq!((&two["judged"], two["rows"].as_array().unwrap().len()), (&2.into(), 2));
    assert_eq!(json(&sandbox, &["--sample", "9"])["rows"].as_array().unwrap().len(), 4, "judged ones only");
    for found in two["rows"].as_array().unwrap() {
        assert_eq!(found, row(&all, found["id"].as_str().unwrap()));
    }
}

#[test]
fn a_packed_table_and_conditions_on_scores() {
    let sandbox = sandbox();
    let results = json(&sandbox, &[]);
    let mape = results["tpot_mape"].as_f64().unwrap();
    let check = |condition: &str| {
        sandbox.run(&["validate", "--silicon", "table.csv", "--latency", "roofline", "--fail-if", condition])
    };
    check(&format!("tpot_mape>{}", mape + 0.01)).success();
    check(&format!("tpot_mape>{}%", mape + 0.01)).success();
    let broken = check(&format!("tpot_mape>{}%", mape - 0.01));
    assert_eq!(broken.code, Some(3), "{broken:?}");
    assert!(broken.stderr.contains(&format!("`tpot_mape` is {mape:.2} %")), "{broken:?}");
    assert_eq!(check("not_run>2").code, Some(3));
    check("mean_tpot_ms>1").is_refused(&["there is no figure `mean_tpot_ms`", "tpot_mape, ttft_mape"]);
    // Nothing is compared where no judged row can be simulated.
    let rows: Vec<&str> = TABLE.lines().filter(|line| !line.starts_with(['a', 'b', 'c'])).collect();
    sandbox.write("table.csv", rows.join("\n"));
    let nothing = check("tpot_mape>50");
    assert_eq!(nothing.code, Some(3), "{nothing:?}");
    assert!(nothing.stderr.contains("there is nothing to compare"), "{nothing:?}");
}

#[test]
fn a_table_that_cannot_be_meant_is_refused() {
    let sandbox = sandbox();
    let refused = |text: &str, more: &[&str], words: &[&str]| {
        sandbox.write("table.csv", text);
        let arguments = ["validate", "--silicon", "table.csv"];
        sandbox.run(&[&arguments[..], more].concat()).is_refused(words);
    };
    refused(
        "a,b\n1,2\n",
        &[],
        &["table.csv: there is no column `model`", "is a CSV file with the columns model"],
    );
    refused(&TABLE.replace(",40,8", ",40,-8"), &[], &["table.csv: line 2: `tpot_ms` is `-8`"]);
    refused(&TABLE.replace("vllm,0.19.0", "tgi,3"), &[], &["line 2: `engine` is `tgi`, but must be vllm"]);
    refused(TABLE, &["--latency", "polynomial"], &["no row can be simulated", "knows no model and GPU"]);
    refused(TABLE, &["--latency", "roofline:speed=2"], &["no row can be simulated", "unknown key"]);
    refused(TABLE, &["--sample", "0"], &["`--sample` is 0"]);
    refused(TABLE, &["--threads", "0"], &["`--threads` is 0"]);
    refused(TABLE, &["--num-gpu-blocks", "9"], &["cannot be used with"]);
    sandbox
        .run(&["validate", "--sample", "3", "x"])
        .is_refused(&["`--sample` is for a table of measured runs"]);
}

#[test]
fn the_measured_runs_are_met_as_well_as_a_roofline_meets_them() {
    let Some(folder) = testkit::outside(testkit::DATA) else { return };
    let path = folder.join("silicon/visible.csv.gz");
    let arguments = [
        "validate",
        "--silicon",
        path.to_str().unwrap(),
        "--latency",
        "roofline",
        "--sample",
        "40",
        "--format",
        "json",
    ];
    let results: Value = serde_json::from_str(&Sandbox::new().run(&arguments).success()).unwrap();
    assert_eq!(results["judged"], 40);
    assert!(results["tpot_mape"].as_f64().unwrap() < 45.0, "{}", results["tpot_mape"]);
}

#[test]
fn attention_ranks_are_one_engine_unless_they_are_asked_for() {
    let sandbox = Sandbox::new();
    let table = "id,model,gpu,engine,engine_version,dtype,tp,ep,attention_dp,isl,osl,concurrency,client,maybe_speculative,\
                 ttft_ms,tpot_ms\n\
                 a,deepseek-ai/DeepSeek-V3,H200,vllm,0.19.0,fp8,8,8,8,2000,50,16,inferencex,0,900,40\n";
    sandbox.write("table.csv", table);
    let run = |more: &[&str]| {
        sandbox.run(&[&["validate", "--silicon", "table.csv", "--format", "json"], more].concat())
    };
    let simulated = |more: &[&str]| {
        let results: Value = serde_json::from_str(&run(more).success()).unwrap();
        let simulated = row(&results, "a")["simulated"].clone();
        [simulated["ttft_ms"].as_f64().unwrap(), simulated["tpot_ms"].as_f64().unwrap()]
    };
    for engine in ["vllm,0.19.0", "sglang,0.5.9"] {
        sandbox.write("table.csv", table.replace("vllm,0.19.0", engine));
        let ([one_ttft, one_tpot], [ttft, tpot]) = (simulated(&[]), simulated(&["--attention-ranks"]));
        // A rank with a prompt makes all others wait, and its prompt is computed by it alone.
        assert!(ttft > one_ttft, "{engine}: {ttft} {one_ttft}");
        // Under SGLang decodes wait for prompts with or without ranks, which have passes of their own.
        assert!(engine.starts_with("sglang") || tpot > one_tpot, "{engine}: {tpot} {one_tpot}");
    }
    let refused = run(&["--attention-ranks", "--latency", "roofline"]);
    refused.is_refused(&["`--attention-ranks` is for `ops`"]);
}
