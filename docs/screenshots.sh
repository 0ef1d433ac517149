#!/usr/bin/env bash
# Makes the pictures of docs/images: runs of a synthetic workload, their pages, a comparison and several runs, in headless
# Chromium.
set -euo pipefail
cd "$(dirname "$0")/.."
source crates/report/tests/browser/setup.sh

# In $out, so that titles are short.
cd "$out"
load=(--input-tokens 5000 --output-tokens 220 --request-count 4000 --arrival-interval-ms 36 --arrival-process poisson
  --length-distribution lognormal --length-spread 0.9 --shared-prefix-ratio 0.4 --num-prefix-groups 12
  --router-mode kv_router --kv-bytes-per-token 131072 --kv-transfer-bandwidth 25 --num-gpu-blocks 2000
  --sla-ttft-ms 1000 --sla-tpot-ms 40 --quiet --overwrite)
"$servecast" replay "${load[@]}" --prefill-workers 2 --decode-workers 10 --output-dir 2-prefill > /dev/null
"$servecast" replay "${load[@]}" --prefill-workers 3 --decode-workers 10 --output-dir 3-prefill > /dev/null
"$servecast" compare 2-prefill 3-prefill --html compare.html --fail-if 'p99_ttft_ms>+5%' > compare.txt
"$servecast" replay --quiet --model meta-llama/Llama-3.1-8B --gpu H100-SXM --input-tokens 2000 --output-tokens 200 \
  --request-count 1500 --arrival-interval-ms 60 --arrival-process poisson --length-distribution lognormal --length-spread 0.7 \
  --vary num_workers=1,2,3,4 --vary max_num_seqs=16,64,256 --report-html vary.html > /dev/null
mkdir -p "$root/docs/images"
node "$modules/shots.mjs" "$root/docs/images" 2-prefill/report.html compare.html vary.html
cat compare.txt
