"""Numbers that are none, from an environment or a network: the run stops there, names them, and can be resumed."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.drills.harness import DMPO, SMALL, Drill, Finding, difference, forked, shown
from dmpo_deep import checkpoint, log
from dmpo_deep.algorithms import ALGORITHMS

POISON = """
import sys
from dmpo_deep import nets
from dmpo_deep.envs import cacc

what, bad, count = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
del sys.argv[1:4]
calls = []
if what in ("observation", "reward", "observation in an evaluation"):
    original = cacc.Platoon.step

    def step(self, action):
        obs, reward, *rest = original(self, action)
        evaluates = self.batch > 16
        calls.append(evaluates == (what == "observation in an evaluation"))
        if calls[-1] and sum(calls) == count:
            array = reward if what == "reward" else obs
            array = array.copy()
            array[(0, 3, 1) if array.ndim == 3 else (0, 3)] = bad
            obs, reward = (obs, array) if what == "reward" else (array, reward)
        return obs, reward, *rest

    cacc.Platoon.step = step
elif what == "loss":
    original = nets.descend

    def descend(kind, optimizer, losses, going=None):
        calls.append(1)
        if len(calls) == count:
            losses = [loss * bad for loss in losses]
        return original(kind, optimizer, losses, going)

    from dmpo_deep import ia2c, ic3net, local_model, ppo
    for module in (nets, ia2c, ic3net, local_model, ppo):
        module.descend = descend
"""
"""A run whose environment or networks go wrong at the ``count``-th call."""

CASES = {
    "observation": ("nan", 170, "as observation of agent 3 in copy 0, feature 1, at step"),
    "reward": ("inf", 170, "as reward of agent 3 in copy 0, at step"),
    "observation in an evaluation": ("nan", 1300, "as observation of agent 3 in copy 0, feature 1, at step"),
    "loss": ("nan", 30, "the loss of the "),
}
STEPS = 1600


def stops_the_run(drill: Drill) -> Iterator[Finding]:
    """NaN or inf in an observation, a reward, an evaluation or a loss, for every algorithm."""
    for algo in ALGORITHMS:
        whole = drill.folder / "work" / f"whole-{algo}"
        train = ("train", "catchup", "--algo", algo, "--seed", "3", "--eval-every", "400", "--set", *SMALL[algo])
        for case in drill.missing([f"{algo}, {what}" for what in CASES]):
            if not (whole / log.CHECKPOINT).exists():
                forked(*train, "--steps", STEPS, "--out", whole)
            what = case.split(", ")[1]
            value, count, said = CASES[what]
            run = drill.room(case) / "run"
            poisoned = (what, value, count, *train, "--steps", STEPS, "--out", run)
            done = forked(*poisoned, code=POISON + DMPO)
            lines = [line for line in done.stderr.splitlines() if "dmpo: error: " in line]
            wrong = "" if done.returncode == 2 and lines and said in lines[0] else f"not told: {shown(done.stderr)}"
            begun = (run / log.CHECKPOINT).exists()
            stood = checkpoint.load(run / log.CHECKPOINT)["learner"]["collector"]["env_steps"] if begun else 0
            named = f"keeps its checkpoint at {stood} steps" if begun else "has no checkpoint yet"
            wrong = wrong or ("" if named in lines[0] else f"{named}: {lines[0]}")
            if begun:
                forked(*train, "--steps", STEPS, "--out", run, "--resume")
                wrong = wrong or difference(whole, run)
            note = lines[0].split(": ", 2)[-1].replace(str(run), "RUN") if lines else ""
            yield Finding(case, not wrong, {"runs": 1, "resumed": int(begun)}, wrong or note)
