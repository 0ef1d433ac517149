"""Check that a wheel is what it should be: one small module for all Python releases from 3.10 on, typed, on its own."""

from __future__ import annotations

import argparse
import sys
import zipfile
from email.parser import BytesParser
from pathlib import Path

# Of which the operator packs of GPUs, packed as they are, take up to 6 MB. What is promised is of the release;
# development builds are larger, by a fifth.
MOST_BYTES = {"release": 14_000_000, "dev": 17_000_000}
WANTED = ["__init__.py", "__main__.py", "py.typed", "_config.pyi", "_results.pyi", "_native.pyi"]
# As Linux and macOS call it, and Windows.
MODULES = ["_native.abi3.so", "_native.pyd"]


def problems(path: Path, profile: str) -> list[str]:
    """Return what is wrong with a wheel."""
    found = []
    if "-cp310-abi3-" not in path.name:
        found.append(f"{path.name} is not for every Python from 3.10 on: its tag is not cp310-abi3")
    if (size := path.stat().st_size) > (most := MOST_BYTES[profile]):
        found.append(f"it has {size / 1e6:.1f} MB, more than {most / 1e6:.0f}")
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        found += [f"servecast/{name} is missing" for name in WANTED if f"servecast/{name}" not in names]
        if not any(f"servecast/{name}" in names for name in MODULES):
            found.append(f"servecast/{MODULES[0]} is missing")
        found += [f"{name} does not belong" for name in names if not name.startswith(("servecast/", "servecast-"))]
        [metadata] = [name for name in names if name.endswith(".dist-info/METADATA")]
        needed = BytesParser().parsebytes(wheel.read(metadata)).get_all("Requires-Dist") or []
        found += [f"it needs {one}" for one in needed if "extra ==" not in one]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--profile", choices=MOST_BYTES, default="release", help="how it was built")
    args = parser.parse_args()
    found = problems(args.wheel, args.profile)
    for problem in found:
        print(f"{args.wheel.name}: {problem}")
    if not found:
        print(f"{args.wheel.name}: {args.wheel.stat().st_size / 1e6:.1f} MB")
    return min(len(found), 1)


if __name__ == "__main__":
    sys.exit(main())
