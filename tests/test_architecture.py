"""Dependency direction: the exact half never needs torch, and light imports stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED = {"dmpo_theory.graph", "dmpo_theory.mdp", "dmpo_theory.errors", "dmpo_theory.files"}
INSTANCES = {"dmpo_theory.instance_file", "dmpo_theory.instances"}
"""What makes networked MDPs, for the tabular environment."""


def imports(file: Path) -> set[str]:
    """Every module that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} if node.module != "dmpo_theory" else {f"dmpo_theory.{a.name}" for a in node.names}
    return found


def test_theory_knows_nothing_of_the_deep_half() -> None:
    for file in (ROOT / "dmpo_theory").rglob("*.py"):
        for module in imports(file):
            assert module.split(".")[0] not in ("torch", "dmpo_deep", "tensorboard", "safetensors"), (file, module)


def test_deep_half_takes_only_what_is_shared() -> None:
    for file in (ROOT / "dmpo_deep").rglob("*.py"):
        if file.parent.name in ("cli", "check"):
            continue
        shared = SHARED | INSTANCES if file.name == "tabular.py" else SHARED
        theory = {module for module in imports(file) if module.split(".")[0] == "dmpo_theory"}
        assert theory <= shared, (file, theory - shared)


@pytest.mark.parametrize("module", ["dmpo_theory", "dmpo_theory.sweep", "dmpo_theory.plots", "dmpo_deep.cli"])
def test_light_imports(module: str) -> None:
    """Neither torch nor matplotlib is loaded; the command line's help does not even load numpy's heavy users."""
    heavy = ["torch", "matplotlib"] + (["scipy", "networkx"] if module == "dmpo_deep.cli" else [])
    code = f"import sys, {module}; sys.exit(' '.join(m for m in {heavy} if m in sys.modules) or None)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
