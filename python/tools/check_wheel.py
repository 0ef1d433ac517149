"""Check that a wheel is what it should be: one small module for all Python releases from 3.10 on, typed, on its own."""

from __future__ import annotations

import sys
import zipfile
from email.parser import BytesParser
from pathlib import Path

# Of which the operator packs of GPUs, packed as they are, take up to 6 MB.
MOST_BYTES = 16_000_000
WANTED = ["__init__.py", "__main__.py", "py.typed", "_config.pyi", "_results.pyi", "_native.pyi", "_native.abi3.so"]


def problems(path: Path) -> list[str]:
    """Return what is wrong with a wheel."""
    found = []
    if "-cp310-abi3-" not in path.name:
        found.append(f"{path.name} is not for every Python from 3.10 on: its tag is not cp310-abi3")
    if (size := path.stat().st_size) > MOST_BYTES:
        found.append(f"it has {size / 1e6:.1f} MB, more than {MOST_BYTES / 1e6:.0f}")
    with zipfile.ZipFile(path) as wheel:
        names = wheel.namelist()
        found += [f"servecast/{name} is missing" for name in WANTED if f"servecast/{name}" not in names]
        found += [f"{name} does not belong" for name in names if not name.startswith(("servecast/", "servecast-"))]
        [metadata] = [name for name in names if name.endswith(".dist-info/METADATA")]
        needed = BytesParser().parsebytes(wheel.read(metadata)).get_all("Requires-Dist") or []
        found += [f"it needs {one}" for one in needed if "extra ==" not in one]
    return found


def main() -> int:
    paths = [Path(argument) for argument in sys.argv[1:]]
    if len(paths) != 1:
        print(f"name one wheel, not {len(paths)}: {' '.join(map(str, paths))}")
        return 2
    found = problems(paths[0])
    for problem in found:
        print(f"{paths[0].name}: {problem}")
    if not found:
        print(f"{paths[0].name}: {paths[0].stat().st_size / 1e6:.1f} MB")
    return min(len(found), 1)


if __name__ == "__main__":
    sys.exit(main())
