# For scripts that open pages in headless Chromium: sets `out`, `modules`, `servecast` and CHROMIUM, and installs what is
# missing of Chromium (Debian's), Node, npm (all as root) and the packages of package.json. To be sourced.
#
# OUT is where pages and screenshots go, MODULES where packages are kept, CHROMIUM another browser.
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$here/../../../.." && pwd)"
out="${OUT:-$(mktemp -d)}"
modules="${MODULES:-${XDG_CACHE_HOME:-$HOME/.cache}/servecast-browser}"
export CHROMIUM="${CHROMIUM:-/usr/bin/chromium}"
mkdir -p "$modules" "$out"

fail() {
  echo "browser: $1" >&2
  exit 1
}

packages=()
[ -x "$CHROMIUM" ] || packages+=(chromium)
command -v node > /dev/null || packages+=(nodejs)
command -v npm > /dev/null || packages+=(npm)
if [ "${#packages[@]}" -gt 0 ]; then
  export DEBIAN_FRONTEND=noninteractive
  { apt-get update -qq && apt-get install -y -qq --no-install-recommends "${packages[@]}"; } > "$out/apt.log" 2>&1 ||
    fail "cannot install ${packages[*]}: $(tail -n 3 "$out/apt.log")"
fi
cp "$here"/package.json "$here"/*.mjs "$modules"
npm install --prefix "$modules" --no-audit --no-fund --silent > "$out/npm.log" 2>&1 ||
  fail "cannot install what package.json names: $(tail -n 3 "$out/npm.log")"

cargo build --quiet --locked --manifest-path "$root/Cargo.toml" --bin servecast
target="$(cargo metadata --format-version 1 --no-deps --locked --manifest-path "$root/Cargo.toml" |
  node -p 'JSON.parse(require("fs").readFileSync(0)).target_directory')"
servecast="$target/debug/servecast"
