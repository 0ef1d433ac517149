#!/usr/bin/env bash
# Makes pages of runs, of several, of comparisons, of a validation, of iteration times and of recommendations, opens them in
# headless Chromium and checks them. What is missing is installed (setup.sh); pages and screenshots stay in $OUT.
set -euo pipefail
source "$(dirname "$0")/setup.sh"

replay() {
  "$servecast" replay --quiet "$@" > /dev/null
}
# A load of sessions, some of several classes.
"$servecast" trace generate --input-tokens 600 --output-tokens 40 --request-count 120 --turns-per-session 3 \
  --arrival-interval-ms 50 -o "$out/plain.jsonl" > /dev/null
awk '{ sub(/}$/, NR % 3 ? ", \"class\": \"chat\"}" : ", \"class\": \"batch | nightly\"}"); print }' "$out/plain.jsonl" > "$out/classes.jsonl"
replay "$out/classes.jsonl" --workers 2 --sla-ttft-ms 300 --slo 'p95 ttft <= 200ms' --slo 'goodput >= 95% (ttft <= 1s)' \
  --report-html "$out/classes.html"
# A few workers, and many of two pools with a router and KV that takes time to move.
replay --workers 3 --sla-ttft-ms 300 --overwrite --output-dir "$out/few"
replay --workers 4 --overwrite --output-dir "$out/more"
replay --prefill-workers 3 --decode-workers 140 --router-mode kv_router --kv-bytes-per-token 131072 \
  --kv-transfer-bandwidth 5 --input-tokens 6000 --output-tokens 150 --request-count 3000 --arrival-interval-ms 40 \
  --arrival-process poisson --length-distribution lognormal --length-spread 0.8 --shared-prefix-ratio 0.5 \
  --num-prefix-groups 8 --diagnose --report-html "$out/many.html"
"$servecast" compare "$out/few" "$out/more" --html "$out/compare.html" --different-workloads --fail-if 'p99_ttft_ms>+900%' > /dev/null
# Runs of several settings, one of which serves nobody: its prompts are longer than its context.
replay --model meta-llama/Llama-3.1-8B --gpu H100-SXM --input-tokens 900 --output-tokens 60 --request-count 300 \
  --arrival-interval-ms 15 --arrival-process poisson --vary num_workers=1,2,4 --vary max_num_seqs=8,256 \
  --vary max_model_len=800,4096 --report-html "$out/varied.html"
# What a client measured of one GPU (here, of a simulation), beside a deployment with others.
replay --model meta-llama/Llama-3.1-8B --gpu H200 --input-tokens 900 --output-tokens 80 --request-count 300 \
  --arrival-interval-ms 40 --arrival-process poisson --length-distribution lognormal --length-spread 0.6 \
  --export "vllm-bench=$out/result.json"
printf 'model = "meta-llama/Llama-3.1-8B"\ngpu = "H100-SXM"\nnum_workers = 2\n' > "$out/deployment.toml"
"$servecast" validate "$out/result.json" --config "$out/deployment.toml" --html "$out/validate.html" > /dev/null
replay "$out/result.json" --model meta-llama/Llama-3.1-8B --gpu H100-SXM --overwrite --output-dir "$out/simulated"
"$servecast" compare "$out/result.json" "$out/simulated" --html "$out/beside.html" > /dev/null
# All parts that a pass can have, but two: no model has all of them.
"$servecast" explain latency --model Qwen/Qwen3.5-397B-A17B --gpu B200 --tp 8 --html "$out/latency.html" > /dev/null
# Targets that few GPUs miss, under two loads; and one that nobody keeps.
load=(--input-tokens 900 --output-tokens 60 --request-count 400 --arrival-interval-ms 12 --arrival-process poisson
  --length-distribution lognormal --length-spread 0.6)
"$servecast" recommend --quiet --model meta-llama/Llama-3.1-8B --gpu H100-SXM --max-gpus 6 --gpu-hour H100-SXM=2.5 \
  "${load[@]}" --slo 'p95 ttft <= 150ms' --slo 'p95 itl <= 20ms' --objective gpus,latency --growth 1,1.5 \
  --html "$out/recommend.html" > /dev/null
"$servecast" recommend --quiet --latency linear:6000,30,200 "${load[@]}" --max-gpus 3 --slo 'max ttft <= 1ms' \
  --html "$out/none.html" > /dev/null || [ $? = 3 ]
cp "$out/few/report.html" "$out/few.html"
node "$modules/page.mjs" "$out" run="$out/few.html" run="$out/classes.html" diagnosed="$out/many.html" varied="$out/varied.html" \
  compare="$out/compare.html" beside="$out/beside.html" validate="$out/validate.html" latency="$out/latency.html" \
  recommend="$out/recommend.html" none="$out/none.html" ||
  fail "a page is not as it should be; pages and screenshots: $out"
echo "pages and screenshots: $out"
