#!/usr/bin/env bash
# Builds the docs site into target/book, with an example of each kind of page that servecast writes. It needs mdbook
# (`cargo install mdbook`) and, unless $SERVECAST names a binary, builds one.
set -euo pipefail
cd "$(dirname "$0")/.."

python3 tools/check_links.py
if [ -z "${SERVECAST:-}" ]; then
  cargo build --release --locked --bin servecast
  SERVECAST="$(cargo metadata --format-version 1 --no-deps --locked |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')/release/servecast"
fi
mdbook build
SERVECAST="$SERVECAST" docs/examples.sh target/book/examples
