#!/usr/bin/env bash
# Builds what a release hands out, step by step, into $DIST (dist): `tools/release.sh STEP…`, or `all` of those that this
# machine can do. .github/workflows/release.yml calls the same steps for the other platforms.
#
#   wheel            the Python package for manylinux_2_28 x86-64, linked against glibc 2.28 by zig
#   check-wheel      installs it in a new virtual environment, off-line and without a compiler, and runs it
#   binary           a binary for $TARGET that needs nothing of the system that it runs on, in an archive with licences,
#                    man pages and completions, and its SBOM
#   check-binary     unpacks the archive and runs it, on Linux in a root folder with nothing else in it if we may (chroot)
#   container-root   what tools/release/Containerfile copies: the static binaries by architecture
#   version          the tag, if there is one, the crates, CITATION.cff and the changelog name one version
#   checksums        SHA256SUMS of everything in $DIST
#   formula          servecast.rb for Homebrew, of the archives in $DIST
#
# $TARGET is x86_64-unknown-linux-musl unless it is set. Where no standard library for musl can be had, `binary` links glibc
# statically instead and says so; $BUILD_STD names a rustc whose sources lie beside it, from which it is then built.
set -euo pipefail
cd "$(dirname "$0")/.."

dist="$(mkdir -p "${DIST:-dist}" && cd "${DIST:-dist}" && pwd)"
target="${TARGET:-x86_64-unknown-linux-musl}"
cargo="${CARGO:-cargo}"
version="$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)"
# First command of a user, whose result should be there in under ten seconds.
first=(replay --quiet)

scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT

fail() {
  printf 'release.sh: %s\n' "$1" >&2
  exit 1
}

size() {
  printf '%s: %s bytes\n' "$(basename "$1")" "$(wc -c < "$1" | tr -d ' ')"
}

# Programs of Python packages that a step needs, in an environment of its own.
tools() {
  if [ ! -x "$scratch/tools/bin/$1" ]; then
    [ -d "$scratch/tools" ] || python3 -m venv "$scratch/tools"
    "$scratch/tools/bin/pip" install --quiet --disable-pip-version-check "$@"
    export PATH="$scratch/tools/bin:$PATH"
  fi
}

target_folder() {
  "$cargo" metadata --format-version 1 --no-deps --locked |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])'
}

only() {
  # The one file of a pattern.
  [ $# -eq 1 ] && [ -e "$1" ] || fail "expected one file, not $*"
  printf '%s' "$1"
}

wheel() {
  tools maturin ziglang cargo-zigbuild
  rm -f "$dist"/*.whl
  CARGO="$cargo" maturin build --release --locked --zig --target x86_64-unknown-linux-gnu \
    --compatibility manylinux_2_28 --compression-level 9 --out "$dist"
  python3 python/tools/check_wheel.py "$dist"/*.whl
}

check-wheel() {
  local wheel venv="$scratch/venv" bin=bin start
  wheel="$(only "$dist"/*.whl)"
  python3 -m venv "$venv"
  [ -d "$venv/bin" ] || bin=Scripts
  # Nothing but the environment on PATH: no compiler, no Cargo, and nothing fetched.
  start="$(date +%s%N)"
  PATH="$venv/$bin" "$venv/$bin/pip" install --quiet --disable-pip-version-check --no-index "$wheel"
  PATH="$venv/$bin" "$venv/$bin/servecast" "${first[@]}" > "$scratch/first"
  took "wheel installed and first result" "$start"
  grep -q 'Time to First Token' "$scratch/first"
  (cd "$scratch" && PATH="$venv/$bin" "$venv/$bin/python" -c '
import servecast
report = servecast.run_synthetic_trace_replay(256, 32, 8)
assert report.completed_requests == 8, report')
}

# Fails if a user would wait ten seconds for a first result.
took() {
  local ms=$((($(date +%s%N) - $2) / 1000000))
  printf '%s after %s ms\n' "$1" "$ms"
  [ "$ms" -lt 10000 ] || fail "that took more than 10 s"
}

binary() {
  local folder name built shell
  folder="$(target_folder)"
  case "$target" in
    *-linux-musl) build_musl ;;
    *-windows-msvc) RUSTFLAGS="-C target-feature=+crt-static" "$cargo" build --release --locked -p servecast-cli --target "$target" ;;
    *-apple-darwin) MACOSX_DEPLOYMENT_TARGET=11.0 "$cargo" build --release --locked -p servecast-cli --target "$target" ;;
    *) fail "no recipe for $target" ;;
  esac
  built="$folder/$target/release/servecast"
  [ -e "$built" ] || built="$built.exe"
  name="servecast-$version-$target"
  rm -rf "${scratch:?}/$name"
  mkdir -p "$scratch/$name/man" "$scratch/$name/completions"
  cp "$built" LICENSE README.md CHANGELOG.md "$scratch/$name/"
  "$built" man --output-dir "$scratch/$name/man"
  for shell in bash zsh fish elvish powershell; do
    "$built" completions "$shell" > "$scratch/$name/completions/servecast.$shell"
  done
  python3 tools/release/sbom.py --target "$target" --sbom "$dist/$name.cdx.json" \
    --licenses "$scratch/$name/THIRD-PARTY-LICENSES.txt"
  size "$built"
  tar -C "$scratch" -czf "$dist/$name.tar.gz" "$name"
  size "$dist/$name.tar.gz"
}

# A static binary by musl: with the target of the toolchain, one that rustup brings, or one built from the sources of
# $BUILD_STD; where none can be had with glibc.
build_musl() {
  local compiler="${BUILD_STD:-}" flags=()
  if [ -z "$compiler" ] && [ ! -d "$(rustc --print target-libdir --target "$target")" ]; then
    rustup target add "$target" 2> "$scratch/rustup" || compiler=none
  fi
  case "$compiler" in
    none)
      target="${target%-musl}-gnu"
      printf 'no standard library for musl (%s): glibc is linked statically instead\n' "$(tail -1 "$scratch/rustup")"
      RUSTFLAGS="-C target-feature=+crt-static" "$cargo" build --release --locked -p servecast-cli --target "$target"
      ;;
    *)
      tools ziglang cargo-zigbuild
      if [ -n "$compiler" ]; then
        # Such a compiler brings no start files of musl along; zig does.
        export RUSTC="$compiler" RUSTC_BOOTSTRAP=1 RUSTFLAGS="-C link-self-contained=no"
        flags=(-Z build-std=std,panic_unwind)
      fi
      CARGO="$cargo" cargo-zigbuild zigbuild --release --locked -p servecast-cli --target "$target" "${flags[@]}"
      unset RUSTC RUSTC_BOOTSTRAP RUSTFLAGS
      ;;
  esac
}

check-binary() {
  local archive name root start
  archive="$(only "$dist"/servecast-"$version"-"${target%-*}"-*.tar.gz)"
  name="$(basename "$archive" .tar.gz)"
  start="$(date +%s%N)"
  tar -C "$scratch" -xzf "$archive"
  if [ "$(uname)" = Linux ] && [ "$(id -u)" = 0 ]; then
    # A root folder with the binary and nothing else: no loader, no library, no /proc, no /etc.
    root="$(mktemp -d "$scratch/root.XXXX")"
    cp "$scratch/$name/servecast" "$root/"
    chroot "$root" /servecast "${first[@]}" > "$scratch/first"
    took "binary unpacked and first result in a bare root" "$start"
  else
    "$scratch/$name"/servecast* "${first[@]}" > "$scratch/first"
    took "binary unpacked and first result" "$start"
  fi
  grep -q 'Time to First Token' "$scratch/first"
}

container-root() {
  local pair architecture archive
  for pair in amd64:x86_64 arm64:aarch64; do
    architecture="${pair%:*}"
    archive="$(only "$dist"/servecast-"$version"-"${pair#*:}"-unknown-linux-*.tar.gz)"
    mkdir -p "$dist/container/$architecture"
    tar -C "$dist/container/$architecture" --strip-components 1 -xzf "$archive"
  done
}

version() {
  local tag="${GITHUB_REF_NAME:-}"
  case "$tag" in v*) [ "$tag" = "v$version" ] || fail "the tag is $tag and Cargo.toml says $version" ;; esac
  grep -q "^version: $version\$" CITATION.cff || fail "CITATION.cff does not say $version"
  grep -q "^## $version" CHANGELOG.md || fail "CHANGELOG.md has no section $version"
  case "$tag" in v*) ! grep -q "^## $version - unreleased" CHANGELOG.md || fail "CHANGELOG.md has no date for $version" ;; esac
  # What the release page says: the section of the changelog.
  mkdir -p target
  awk -v want="## $version" 'index($0, "## ") == 1 { on = index($0, want) == 1; next } on' CHANGELOG.md \
    > target/release-notes.md
  printf 'version %s\n' "$version"
}

checksums() {
  local sum=(sha256sum)
  command -v sha256sum > /dev/null || sum=(shasum -a 256)
  (cd "$dist" && find . -maxdepth 1 -type f ! -name SHA256SUMS | sed 's|^\./||' | LC_ALL=C sort | xargs "${sum[@]}" > SHA256SUMS)
  cat "$dist/SHA256SUMS"
}

formula() {
  python3 tools/release/formula.py "$version" "$dist/SHA256SUMS" > "$dist/servecast.rb"
}

all() {
  version
  wheel
  check-wheel
  binary
  check-binary
  checksums
}

[ $# -gt 0 ] || { sed -n '2,/^set /p' "$0" | sed -n 's/^# \{0,1\}//p'; exit 2; }
for step in "$@"; do
  case "$step" in
    wheel | check-wheel | binary | check-binary | container-root | version | checksums | formula | all) "$step" ;;
    *) fail "no step $step: there are wheel, check-wheel, binary, check-binary, container-root, version, checksums, formula and all" ;;
  esac
done
