"""What resolves where, by the wheels that exist: every extra, Python and platform, asked of the package index by uv.

    pip install uv
    python benchmarks/wheels.py

Nothing is installed and nothing is built from source. The table is the one in docs/install.md.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = ("", "deep", "plot", "video", "export", "sumo", "gui", "cluster")
PYTHONS = ("3.11", "3.12", "3.13")
PLATFORMS = {
    "Linux x86-64": "x86_64-manylinux_2_28",
    "Linux arm64": "aarch64-manylinux_2_28",
    "Windows": "x86_64-pc-windows-msvc",
    "macOS 15 arm64": "aarch64-apple-darwin",
    "macOS 15 Intel": "x86_64-apple-darwin",
}

MACOS = {"MACOSX_DEPLOYMENT_TARGET": "15.0"}
"""The oldest macOS that SUMO's wheels are for."""


def missing(uv: str, extra: str, python: str, platform: str) -> str:
    """Why it does not resolve, in uv's first words; empty if it does."""
    command = [uv, "pip", "compile", "--quiet", "--no-config", "--only-binary", ":all:", "--python-version", python]
    command += ["--python-platform", platform, *(["--extra", extra] if extra else []), "pyproject.toml"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | MACOS, capture_output=True, text=True, check=False)
    return " ".join(done.stderr.split())[:200] if done.returncode else ""


def main() -> None:
    """Print the table, and why what is missing is missing."""
    if (uv := shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")) is None:
        sys.exit("uv is not installed; pip install uv")
    reasons = []
    print(f"| extra | {' | '.join(PLATFORMS)} |\n|---|{'---|' * len(PLATFORMS)}")
    for extra in EXTRAS:
        cells = []
        for name, platform in PLATFORMS.items():
            found = {python: missing(uv, extra, python, platform) for python in PYTHONS}
            good = [python for python, why in found.items() if not why]
            cells.append(", ".join(good) or "-")
            reasons += [f"{extra or 'none'}, {name}, {python}: {why}" for python, why in found.items() if why]
        print(f"| {extra or 'none'} | {' | '.join(cells)} |", flush=True)
    print("\n" + "\n".join(reasons))


if __name__ == "__main__":
    main()
