"""Section VI-A: the algorithms, by name."""

from __future__ import annotations

from collections.abc import Mapping

from dmpo_deep.cppo import CPPO
from dmpo_deep.dmpo import DMPO
from dmpo_deep.ia2c import IA2C
from dmpo_deep.ic3net import IC3Net
from dmpo_deep.learner import Algorithm
from dmpo_deep.ppo import DPPO
from dmpo_deep.true_model import TrueModelDMPO

ALGORITHMS: Mapping[str, Algorithm] = {
    "dmpo": DMPO,
    "dmpo-true-model": TrueModelDMPO,
    "dppo": DPPO,
    "cppo": CPPO,
    "ic3net": IC3Net,
    "ia2c": IA2C,
}
"""Algorithm -> class, called with environment, preset and seed."""

TITLES: Mapping[str, str] = {
    "dmpo": "DMPO",
    "dmpo-true-model": "DMPO, true model",
    "dppo": "DPPO",
    "cppo": "CPPO",
    "ic3net": "IC3Net",
    "ia2c": "IA2C",
}
"""Algorithm -> what figures and tables call it."""
