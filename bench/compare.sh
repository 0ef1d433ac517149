#!/usr/bin/env bash
# Times servecast beside other simulators, or an older build of itself, on the same trace and the same deployments, in
# turns, and prints ratios.
#
# The others come from their package index into virtual environments in a scratch folder; nothing is installed
# elsewhere.
set -euo pipefail

usage() {
  cat <<'EOF'
Time servecast beside other simulators, or beside another build of itself, on one trace: CPU seconds, peak memory, and
ratios

Usage: bench/compare.sh [OPTIONS] TRACE

Arguments:
  TRACE  Trace in Mooncake JSON Lines, uncompressed, 512 tokens a hash id

Options:
  --rounds N        Counted runs of each simulator and deployment, after one that is not counted [default: 5]
  --peer-dir DIR    Folder of the virtual environments [default: ${TMPDIR:-/tmp}/servecast-peers]
  --peers LIST      Releases of ai-dynamo-runtime to time, with commas; empty for none [default: 1.1.1,1.6.1]
  --topologies LIST Any of round_robin, kv_router, disaggregated, with commas [default: all]
  --skip-install    Use the virtual environments as they are
  --servecast FILE  Binary to time [default: a release build of this checkout]
  --baseline FILE   A second binary of servecast to compare with, say that of an older commit: it runs in turns with
                    the first, and every deployment gets a line with servecast's cost over the baseline's (the median
                    over rounds of the ratio within a round; above 1, servecast costs more)
  --python FILE     Python 3.10 or newer for the virtual environments [default: python3]
  -h, --help        Print help

Give a machine rest while it runs: it judges by CPU time, which a busy neighbour still stretches.
EOF
}

fail() {
  printf 'compare.sh: %s\n' "$1" >&2
  exit "${2:-2}"
}

rounds=5
peer_dir="${TMPDIR:-/tmp}/servecast-peers"
peers=1.1.1,1.6.1
topologies=round_robin,kv_router,disaggregated
install=yes
servecast=
baseline=
python=python3
trace=

while [ $# -gt 0 ]; do
  case "$1" in
    --rounds | --peer-dir | --peers | --topologies | --servecast | --baseline | --python)
      [ $# -ge 2 ] || fail "$1 needs a value"
      option="${1#--}"
      printf -v "${option//-/_}" '%s' "$2"
      shift 2
      ;;
    --skip-install) install=no && shift ;;
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
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || fail "$python is older than Python 3.10"

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

# Puts one release of the peer into a virtual environment of its own, unless it is there.
install_peer() {
  local version="$1" venv="$peer_dir/$1"
  if [ -e "$venv/complete" ]; then
    return
  fi
  printf 'installing ai-dynamo-runtime %s into %s\n' "$version" "$venv" >&2
  rm -rf "$venv"
  "$python" -m venv "$venv" || return
  "$venv/bin/pip" install --quiet --disable-pip-version-check "ai-dynamo-runtime==$version" || return
  touch "$venv/complete"
}

IFS=, read -r -a versions <<<"$peers"
ready=()
for version in ${versions[@]+"${versions[@]}"}; do
  if [ "$install" = yes ] && ! install_peer "$version"; then
    printf 'compare.sh: ai-dynamo-runtime %s cannot be installed (message above): going on without it\n' \
      "$version" >&2
  elif [ ! -x "$peer_dir/$version/bin/python" ]; then
    printf 'compare.sh: no virtual environment %s: going on without it\n' "$peer_dir/$version" >&2
  else
    ready+=(--peer "$version=$peer_dir/$version/bin/python")
  fi
done
if [ -n "$peers" ] && [ ${#ready[@]} -eq 0 ]; then
  fail "there is no peer to compare with" 1
fi

if [ -z "$servecast" ]; then
  (cd "$here/.." && cargo build --quiet --release --locked -p servecast-cli)
  target="$(cd "$here/.." && cargo metadata --format-version 1 --no-deps --locked |
    "$python" -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')"
  servecast="$target/release/servecast"
fi
[ -x "$servecast" ] || fail "cannot run $servecast"
[ -z "$baseline" ] || [ -x "$baseline" ] || fail "cannot run $baseline, the baseline"

exec "$python" "$here/compare.py" --servecast "$servecast" --rounds "$rounds" --topologies "$topologies" \
  ${baseline:+--baseline "$baseline"} ${ready[@]+"${ready[@]}"} "$trace"
