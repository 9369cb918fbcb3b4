"""What a run says when it goes wrong without failing: policies below random play, models whose error explodes."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping

from dmpo_deep.envs import NetworkedEnv
from dmpo_deep.hyperparameters import RADII, OnPolicy

EVALUATIONS = 10
"""In a row below random play, and a policy has not just had a bad day."""
MEMORY, FACTOR, USELESS = 10, 10.0, 1.0
"""A model's error explodes beyond so many times the median of so many epochs before, if it is above that of no model.

Errors are in units of what predicting no more than the mean change would make; for models of finitely many states, in
nats.
"""


class Watch:
    """Follows the rows of ``progress.csv`` in their order.

    Args:
        random_level: the metric of random play, asked for once it matters; None if the task has none.
        rows: earlier rows, of which nothing is said any more.
    """

    def __init__(self, random_level: Callable[[], float | None], rows: Iterable[Mapping[str, str]] = ()) -> None:
        self._random_level = random_level
        self._level: float | None = None
        self._scores: list[float] = []
        self._errors: list[float] = []
        for row in rows:
            for name, seen in (("eval_sampled", self._scores), ("model_error", self._errors)):
                if row.get(name):
                    seen.append(float(row[name]))

    def look(self, row: Mapping[str, float | None]) -> list[str]:
        """What there is to say of one more row."""
        said = []
        if (score := row.get("eval_sampled")) is not None:
            self._scores.append(score)
            recent = self._scores[-EVALUATIONS:]
            level = self._random() if len(self._scores) % EVALUATIONS == 0 else None
            if level is not None and max(recent) < level:
                said.append(
                    f"the last {EVALUATIONS} evaluations of the sampled policy were below random play ({level:.4g}), "
                    f"this one at {score:.4g}; smaller step sizes, another reward_scale or a larger entropy may help"
                )
        if (error := row.get("model_error")) is not None:
            before = self._errors[-MEMORY:]
            self._errors.append(error)
            if before and error > USELESS and error > FACTOR * statistics.median(before):
                said.append(
                    f"the model's error on new data is {error:.3g}, and its median over the {len(before)} epochs "
                    f"before was {statistics.median(before):.3g}; a smaller lr_model or more model_steps may help"
                )
        return said

    def _random(self) -> float | None:
        if self._level is None:
            self._level = self._random_level()
        return self._level


def radii_beyond(env: NetworkedEnv, preset: OnPolicy) -> list[str]:
    """A note for every radius that reaches beyond the graph."""
    diameter = env.graph.diameter
    found = ((name, getattr(preset, name, 0)) for name in RADII)
    return [
        f"{name} = {kappa:g} is beyond the graph's diameter of {diameter}; {diameter} hears the same"
        for name, kappa in found
        if diameter < kappa < float("inf")
    ]
