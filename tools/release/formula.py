"""Prints the Homebrew formula of a release: formula.py VERSION SHA256SUMS."""

from __future__ import annotations

import sys
from pathlib import Path

REPOSITORY = "https://github.com/servecast/servecast"
FORMULA = """\
class Servecast < Formula
  desc "Simulator of LLM serving: latency, throughput and cache reuse before GPUs are rented"
  homepage "{repository}"
  version "{version}"
  license "Apache-2.0"

  on_macos do
    on_arm do
      url "{repository}/releases/download/v{version}/{aarch64-apple-darwin}"
      sha256 "{sum:aarch64-apple-darwin}"
    end
    on_intel do
      url "{repository}/releases/download/v{version}/{x86_64-apple-darwin}"
      sha256 "{sum:x86_64-apple-darwin}"
    end
  end

  on_linux do
    on_arm do
      url "{repository}/releases/download/v{version}/{aarch64-unknown-linux-musl}"
      sha256 "{sum:aarch64-unknown-linux-musl}"
    end
    on_intel do
      url "{repository}/releases/download/v{version}/{x86_64-unknown-linux-musl}"
      sha256 "{sum:x86_64-unknown-linux-musl}"
    end
  end

  def install
    bin.install "servecast"
    man1.install Dir["man/*.1"]
    bash_completion.install "completions/servecast.bash" => "servecast"
    zsh_completion.install "completions/servecast.zsh" => "_servecast"
    fish_completion.install "completions/servecast.fish"
  end

  test do
    assert_match "Time to First Token", shell_output("#{{bin}}/servecast replay --quiet")
  end
end
"""
TARGETS = ["aarch64-apple-darwin", "x86_64-apple-darwin", "aarch64-unknown-linux-musl", "x86_64-unknown-linux-musl"]


def formula(version: str, sums: dict[str, str]) -> str:
    """The formula for a version, with the checksums of its archives by name."""
    values = {"repository": REPOSITORY, "version": version}
    for target in TARGETS:
        archive = f"servecast-{version}-{target}.tar.gz"
        if archive not in sums:
            raise SystemExit(f"formula.py: no checksum of {archive}")
        values[target] = archive
        values[f"sum:{target}"] = sums[archive]
    text = FORMULA
    for name, value in values.items():
        text = text.replace(f"{{{name}}}", value)
    return text.replace("{{", "{").replace("}}", "}")


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    lines = Path(sys.argv[2]).read_text().splitlines()
    print(formula(sys.argv[1], {name: digest for digest, name in map(str.split, lines)}), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
