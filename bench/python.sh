#!/usr/bin/env bash
# Times replays from Python beside those of the binary, in turns, and says by how many per cent they cost more.
#
# Binary and wheel are release builds of this checkout; the wheel goes into a virtual environment in a scratch folder.
set -euo pipefail

usage() {
  cat <<'EOF'
Time replays from Python beside those of the binary on one trace: CPU seconds and ratios

Usage: bench/python.sh [OPTIONS] TRACE

Arguments:
  TRACE  Trace in Mooncake JSON Lines, 512 tokens a hash id

Options:
  --rounds N           Counted runs of each, after one that is not counted [default: 10]
  --fail-above PERCENT Exit with 1 if a call from Python costs more than that over the binary
  --python FILE        Python 3.10 or newer [default: python3]
  -h, --help           Print help
EOF
}

fail() {
  printf 'python.sh: %s\n' "$1" >&2
  exit 2
}

rounds=10
python=python3
trace=
limit=()

while [ $# -gt 0 ]; do
  case "$1" in
    --rounds | --python | --fail-above)
      [ $# -ge 2 ] || fail "$1 needs a value"
      case "$1" in
        --rounds) rounds="$2" ;;
        --python) python="$2" ;;
        --fail-above) limit=(--fail-above "$2") ;;
      esac
      shift 2
      ;;
    -h | --help) usage && exit 0 ;;
    -*) fail "unknown option $1; see --help" ;;
    *)
      [ -z "$trace" ] || fail "one trace at a time: $trace, $1"
      trace="$1"
      shift
      ;;
  esac
done

[ -n "$trace" ] || fail "name a trace; see --help"
[ -r "$trace" ] || fail "cannot read $trace"
[[ "$rounds" =~ ^[1-9][0-9]*$ ]] || fail "--rounds $rounds: not a number of rounds"
command -v "$python" >/dev/null || fail "no $python; name a Python with --python"

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
trace="$(cd "$(dirname "$trace")" && pwd)/$(basename "$trace")"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT

cd "$here/.."
"$python" -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --disable-pip-version-check 'maturin>=1.8,<2'
cargo build --quiet --release --locked -p servecast-cli
"$scratch/venv/bin/maturin" build --quiet --release --locked --interpreter "$scratch/venv/bin/python" --out "$scratch"
"$scratch/venv/bin/pip" install --quiet --disable-pip-version-check "$scratch"/*.whl
"$python" python/tools/check_wheel.py "$scratch"/*.whl
target="$(cargo metadata --format-version 1 --no-deps --locked |
  "$python" -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')"

"$scratch/venv/bin/python" "$here/python_cost.py" --servecast "$target/release/servecast" --rounds "$rounds" \
  ${limit[@]+"${limit[@]}"} "$trace"
