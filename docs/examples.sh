#!/usr/bin/env bash
# Writes an example of each kind of page into a folder: `docs/examples.sh [DIR]`, examples by default. $SERVECAST names
# another binary than the one on PATH. It takes half a minute, and needs nothing but the binary.
set -euo pipefail

out="${1:-examples}"
servecast="${SERVECAST:-servecast}"
mkdir -p "$out"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

model=(--quiet --model meta-llama/Llama-3.1-8B --gpu H100-SXM)
load=(--input-tokens 2000 --output-tokens 200 --request-count 1500 --arrival-interval-ms 60 --arrival-process poisson
  --length-distribution lognormal --length-spread 0.7)

# One run, with what is wrong with it and the runs that test that.
"$servecast" replay "${model[@]}" "${load[@]}" --slo 'p95 ttft <= 500ms' --diagnose --report-html "$out/run.html" > /dev/null
# Several runs.
"$servecast" replay "${model[@]}" "${load[@]}" --vary num_workers=1,2,3,4 --vary max_num_seqs=16,64,256 \
  --report-html "$out/runs.html" > /dev/null
# Two runs beside each other, request by request.
"$servecast" replay "${model[@]}" "${load[@]}" --workers 2 --output-dir "$work/two" > /dev/null
"$servecast" replay "${model[@]}" "${load[@]}" --workers 3 --output-dir "$work/three" > /dev/null
"$servecast" compare "$work/two" "$work/three" --html "$out/compare.html" > /dev/null
# The deployments that keep targets.
"$servecast" recommend "${model[@]}" "${load[@]}" --max-gpus 6 --gpu-hour H100-SXM=2.5 --slo 'p95 ttft <= 500ms' \
  --slo 'p95 itl <= 20ms' --objective gpus,latency --growth 1,2 --html "$out/recommend.html" > /dev/null
# What a client measured beside what a deployment file says; here a simulation stands in for the server.
"$servecast" replay "${model[@]}" "${load[@]}" --workers 2 --max-num-seqs 64 --export "vllm-bench=$work/measured.json" > /dev/null
printf 'model = "meta-llama/Llama-3.1-8B"\ngpu = "H100-SXM"\nnum_workers = 2\n' > "$work/deployment.toml"
"$servecast" validate "$work/measured.json" --config "$work/deployment.toml" --html "$out/validate.html" > /dev/null
# What a pass of a model takes on a GPU, operator by operator.
"$servecast" explain latency --model meta-llama/Llama-3.1-70B --gpu H100-SXM --tp 4 --html "$out/latency.html" > /dev/null

printf '%s\n' "$out"/*.html
