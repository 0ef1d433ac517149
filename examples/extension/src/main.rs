//! Runs a load on the deployment of the library beside this, and prints what came of it.

use extension::{LongestPass, run};
use serde_json::json;
use servecast::report::{SummaryOptions, TableOptions, render_table, summarize};

fn main() -> Result<(), String> {
    let settings = json!({
        "engine_preset": "vllm-0.33", "num_gpu_blocks": 20_000, "num_workers": 2, "input_tokens": 2000,
        "output_tokens": 100, "request_count": 200, "arrival_interval_ms": 60, "arrival_process": "poisson",
        "shared_prefix_ratio": 0.5, "num_prefix_groups": 8,
    });
    let mut longest = LongestPass::default();
    let record = run(&settings, &mut longest)?;
    let report = summarize(&record, &SummaryOptions::default());
    print!("{}", render_table(&report, TableOptions::default()));
    if let Some((ms, worker, tokens)) = longest.longest {
        println!(
            "The longest of {} passes took {ms:.1} ms, on worker {worker}, for {tokens} tokens",
            longest.passes
        );
    }
    Ok(())
}
