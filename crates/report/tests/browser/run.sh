#!/usr/bin/env bash
# Replays the sample (or what the arguments say), opens its page in headless Chromium, and keeps screenshots in $OUT.
# Needs node, npm and Debian's chromium ($CHROMIUM names another).
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
out="${OUT:-$(mktemp -d)}"
modules="${MODULES:-${XDG_CACHE_HOME:-$HOME/.cache}/servecast-browser}"
mkdir -p "$modules" "$out"
cp "$here/package.json" "$here/page.mjs" "$modules"
[ -d "$modules/node_modules/playwright-core" ] || npm install --prefix "$modules" --no-audit --no-fund --silent
cargo run --quiet --locked --release --bin servecast -- replay --quiet --report-html "$out/report.html" "$@" > "$out/report.txt"
node "$modules/page.mjs" "$out/report.html" "$out"
echo "page and screenshots: $out"
