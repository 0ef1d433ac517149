#!/usr/bin/env bash
# Makes pages of runs, of a comparison and of iteration times, opens them in headless Chromium and checks them. What is missing is installed
# (setup.sh); pages and screenshots stay in $OUT.
set -euo pipefail
source "$(dirname "$0")/setup.sh"

replay() {
  "$servecast" replay --quiet "$@" > /dev/null
}
# A few workers, and many of two pools with a router and KV that takes time to move.
replay --workers 3 --sla-ttft-ms 300 --overwrite --output-dir "$out/few"
replay --workers 4 --overwrite --output-dir "$out/more"
replay --prefill-workers 3 --decode-workers 140 --router-mode kv_router --kv-bytes-per-token 131072 \
  --kv-transfer-bandwidth 5 --input-tokens 6000 --output-tokens 150 --request-count 3000 --arrival-interval-ms 40 \
  --arrival-process poisson --length-distribution lognormal --length-spread 0.8 --shared-prefix-ratio 0.5 \
  --num-prefix-groups 8 --report-html "$out/many.html"
"$servecast" compare "$out/few" "$out/more" --html "$out/compare.html" --fail-if 'p99_ttft_ms>+900%' > /dev/null
# All parts that a pass can have, but two: no model has all of them.
"$servecast" explain latency --model Qwen/Qwen3.5-397B-A17B --gpu B200 --tp 8 --html "$out/latency.html" > /dev/null
cp "$out/few/report.html" "$out/few.html"
node "$modules/page.mjs" "$out" run="$out/few.html" run="$out/many.html" compare="$out/compare.html" \
  latency="$out/latency.html" ||
  fail "a page is not as it should be; pages and screenshots: $out"
echo "pages and screenshots: $out"
