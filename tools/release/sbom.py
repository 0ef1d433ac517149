"""What is in a binary: an SBOM (CycloneDX 1.6, JSON) and the licences of everything that is linked or embedded.

    sbom.py --target TRIPLE --sbom FILE --licenses FILE

Packages are those that the binary is linked of for that target (no build scripts, no tests), from `cargo metadata` and
Cargo.lock; beside them stands what is embedded without being a package. The same sources give the same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import tomllib

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "servecast-cli"
# What is embedded: name, version, licence, where its text is, and what it is for.
EMBEDDED = [
    ("uPlot", "1.6", "MIT", "crates/report/vendor/uplot/LICENSE", "charts of pages"),
    ("operator packs", "1", "Apache-2.0", "crates/ops/data/ops/LICENSE", "measured times of GPU operators"),
]
LICENSE_FILES = ("license", "licence", "copying", "notice", "unlicense")

Package = dict[str, Any]


def linked(target: str) -> tuple[list[Package], dict[str, list[str]]]:
    """The packages that the binary is linked of, and on what each depends, by id."""
    command = [os.environ.get("CARGO", "cargo"), "metadata", "--format-version", "1", "--locked"]
    command += ["--filter-platform", target]
    metadata = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    packages = {package["id"]: package for package in metadata["packages"]}
    needs: dict[str, list[str]] = {}
    for node in metadata["resolve"]["nodes"]:
        is_macro = any("proc-macro" in one["kind"] for one in packages[node["id"]]["targets"])
        wanted = [] if is_macro else node["deps"]
        needs[node["id"]] = [one["pkg"] for one in wanted if any(kind["kind"] is None for kind in one["dep_kinds"])]
    [root] = [package["id"] for package in metadata["packages"] if package["name"] == PACKAGE]
    reached, todo = {root}, [root]
    while todo:
        for one in needs[todo.pop()]:
            if one not in reached:
                reached.add(one)
                todo.append(one)
    # The binary itself first.
    order = sorted((packages[one] for one in reached), key=lambda one: (one["name"], one["version"]))
    return sorted(order, key=lambda one: one["name"] != PACKAGE), needs


def expression(package: Package) -> str:
    """Its licence as SPDX has it; old manifests write `/` for `OR`."""
    return " OR ".join(part.strip() for part in (package["license"] or "NOASSERTION").split("/"))


def reference(package: Package) -> str:
    return f"pkg:cargo/{package['name']}@{package['version']}"


def sbom(target: str, packages: list[Package], needs: dict[str, list[str]]) -> dict[str, Any]:
    """The SBOM as a document of CycloneDX."""
    lock = tomllib.loads((ROOT / "Cargo.lock").read_text())
    sums = {(one["name"], one["version"]): one.get("checksum") for one in lock["package"]}
    by_id = {package["id"]: package for package in packages}
    components, dependencies = [], []
    for package in packages:
        component: dict[str, Any] = {
            "type": "application" if package["name"] == PACKAGE else "library",
            "bom-ref": reference(package),
            "name": package["name"],
            "version": package["version"],
            "licenses": [{"expression": expression(package)}],
            "purl": reference(package),
        }
        if digest := sums.get((package["name"], package["version"])):
            component["hashes"] = [{"alg": "SHA-256", "content": digest}]
        if package["repository"]:
            component["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
        components.append(component)
        on = sorted({reference(by_id[one]) for one in needs[package["id"]] if one in by_id})
        dependencies.append({"ref": reference(package), "dependsOn": on})
    embedded = [
        {"type": "data" if "packs" in name else "library", "name": name, "version": version, "description": use,
         "licenses": [{"expression": license}]}
        for name, version, license, _, use in EMBEDDED
    ]  # fmt: skip
    version = [os.environ.get("RUSTC", "rustc"), "--version"]
    compiler = subprocess.run(version, check=True, stdout=subprocess.PIPE, text=True)
    embedded.append(
        {"type": "library", "name": "Rust standard library", "version": compiler.stdout.split()[1],
         "licenses": [{"expression": "MIT OR Apache-2.0"}]}
    )  # fmt: skip
    names = json.dumps([target, [component["bom-ref"] for component in components]])
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.UUID(hashlib.sha256(names.encode()).hexdigest()[:32])}",
        "version": 1,
        "metadata": {"component": components[0], "properties": [{"name": "target", "value": target}]},
        "components": components[1:] + embedded,
        "dependencies": dependencies,
    }


def texts(package: Package) -> list[str]:
    """The licence files of a package."""
    folder = Path(package["manifest_path"]).parent
    files = [path for path in folder.iterdir() if path.is_file() and path.name.lower().startswith(LICENSE_FILES)]
    return [path.read_text(errors="replace").strip() for path in sorted(files)]


def licenses(packages: list[Package]) -> str:
    """All texts, each once, with the packages that come with it."""
    users: dict[str, list[str]] = {}
    without = []
    for package in packages:
        name = f"{package['name']} {package['version']} ({expression(package)})"
        if package["source"] is None:
            continue
        found = texts(package)
        for text in found:
            users.setdefault(text, []).append(name)
        if not found:
            without.append(f"{name}: {package['repository']}")
    for name, version, license, path, _ in EMBEDDED:
        users.setdefault((ROOT / path).read_text().strip(), []).append(f"{name} {version} ({license})")
    line = "=" * 100
    parts = [f"{line}\n" + "\n".join(names) + f"\n{line}\n\n{text}\n" for text, names in users.items()]
    if without:
        parts.append("\n".join([line, "Without a text in the package, under the licence that is named:", *without, ""]))
    return "What the servecast binary is made of beside its own code (Apache-2.0, LICENSE).\n\n" + "\n".join(parts)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", required=True)
    parser.add_argument("--sbom", required=True, type=Path)
    parser.add_argument("--licenses", required=True, type=Path)
    args = parser.parse_args()
    packages, needs = linked(args.target)
    args.sbom.write_text(json.dumps(sbom(args.target, packages, needs), indent=2) + "\n")
    args.licenses.write_text(licenses(packages))
    print(f"{args.sbom.name}: {len(packages)} packages")
    return 0


if __name__ == "__main__":
    sys.exit(main())
