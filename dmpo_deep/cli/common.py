"""What commands share: tables, checks of options, and what to install for what is missing."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

EXTRAS = {
    **dict.fromkeys(("torch", "safetensors", "tensorboard", "gymnasium"), "deep"),
    "matplotlib": "plot",
}
"""Module -> the extra that brings it."""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns under a header."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def at_least(option: str, number: int, least: int) -> None:
    """Refuse an option below its least value."""
    if number < least:
        raise ValueError(f"{option} {number} is too small; it must be at least {least}")


def missing(module: str) -> str:
    """What to install for ``module``."""
    extra = EXTRAS[module]
    return f"{module} is not installed; pip install 'dmpo[{extra}]' (in a clone: pip install -e '.[{extra}]')"


def require(*modules: str) -> None:
    """``ImportError`` naming the extra of the first of ``modules`` that is not installed."""
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise ImportError(missing(module))


class Unexpected(Exception):
    """Everything ran, and the outcome is not the expected one."""
