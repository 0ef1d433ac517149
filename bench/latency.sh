#!/usr/bin/env bash
# Times replays that differ in their latency model only, in turns: user and system CPU time in seconds, the least of
# ROUNDS. Usage: bench/latency.sh SERVECAST TRACE PROFILE [WORKERS]
set -euo pipefail
servecast="$1" trace="$2" profile="$3" workers="${4:-100}"
TIMEFORMAT='%U %S'
declare -A least
for _ in $(seq "${ROUNDS:-5}"); do
  for spec in polynomial "profile:$profile" "roofline:model=meta-llama/Llama-3.1-8B,gpu=RTX-4090"; do
    spent=$({ time "$servecast" replay "$trace" --quiet --format json --num-workers "$workers" \
      --num-gpu-blocks 16384 --latency "$spec" >/dev/null; } 2>&1 | awk '{ printf "%.3f", $1 + $2 }')
    before="${least[$spec]:-$spent}"
    least[$spec]=$(awk -v a="$spent" -v b="$before" 'BEGIN { print (a < b) ? a : b }')
  done
done
for spec in "${!least[@]}"; do echo "${least[$spec]} $spec"; done | sort
