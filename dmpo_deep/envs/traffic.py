"""What the vehicle tasks share: the physical state of their cars, for reference controllers and pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DT = 0.1
"""Seconds in a step."""
EVALUATION_DRAWS = tuple(float(np.random.RandomState(1001 + k).rand()) for k in range(20))
"""The published initial draws on which every level is measured; nothing may be tuned on them."""


@dataclass(frozen=True, eq=False)
class Traffic:
    """All cars of ``B`` copies, learning or not, in SI units; car ``i`` of a row follows ``leader_speed[i]``."""

    position: np.ndarray
    """``[B, cars]`` of the front bumper: along the ring, or behind the lead car of a platoon (negative)."""
    speed: np.ndarray
    """``[B, cars]``."""
    headway: np.ndarray
    """``[B, cars]``, gap to the car ahead."""
    leader_speed: np.ndarray
    """``[B, cars]``, speed of the car ahead."""


@dataclass(frozen=True, eq=False)
class Road:
    """A loop in the plane, as a polyline."""

    along: np.ndarray
    """``[P]``, metres driven at its points; 0 at the first, a whole lap at the last."""
    points: np.ndarray
    """``[P, 2]`` in m."""

    @property
    def lap(self) -> float:
        """Its length in m."""
        return float(self.along[-1])

    def at(self, position: np.ndarray) -> np.ndarray:
        """Where positions ``[...]`` along it lie, ``[..., 2]``."""
        return np.stack([np.interp(position % self.lap, self.along, xy) for xy in self.points.T], axis=-1)
