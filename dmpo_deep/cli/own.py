"""``dmpo check-env`` and ``export``: environments that users bring, and policies that they take away."""

from __future__ import annotations

from pathlib import Path

from tyro.conf import Positional

from dmpo_deep.cli.common import Unexpected, require, table
from dmpo_deep.cli.learner import Settings


def check_env(
    task: Positional[str],
    set: Settings = (),
    copies: int = 4,
    steps: int = 1000,
    seed: int = 0,
) -> None:
    """Say what is wrong with an environment: a line for each check, with index, value and remedy.

    Checked are members, spaces and graph, shapes, types and numbers, ends and time limits, that one seed makes one
    trajectory and nothing global is touched, that copies do not feel each other, resets of single copies, that arrays
    are not shared with the caller, saved states, termination(), and whom an action reaches in one step. A line `note`
    is worth knowing and no failure; of an environment with an attribute `reach` it is one that actions reach further.

    Args:
        task: a task of your own, MODULE:FACTORY or FILE.py:FACTORY, or any that `dmpo envs` lists.
        set: options of the task, each KEY=VALUE.
        copies: to check it with.
        steps: of each copy in the longest rollout, to see time limits; small for slow simulators.
        seed: of the environment's randomness and of the uniform actions.
    """
    require("gymnasium")
    from tqdm import tqdm

    from dmpo_deep.conformance import examine
    from dmpo_deep.conformance.findings import CHECKS, FAILED
    from dmpo_deep.envs import make_env, named_task
    from dmpo_deep.presets import task_options

    name, source = named_task(task)
    options = source | task_options([pair for given in set for pair in given])
    findings = []
    with tqdm(total=len(CHECKS), desc="check-env", unit="check", leave=False) as bar:
        for finding in examine(lambda batch: make_env(name, batch, **options), copies=copies, steps=steps, seed=seed):
            findings.append(finding)
            bar.update()
    print(table(("check", "", "what was found"), [(f.check, f.verdict, f.said) for f in findings]))
    failed = [finding.check for finding in findings if finding.verdict == FAILED]
    if failed:
        raise Unexpected(f"{len(failed)} of {len(findings)} checks of {task} failed: {', '.join(failed)}")
    print(f"Results: above; {task} keeps the contract (next: dmpo train {task})")


def export(run: Positional[Path], out: Path, onnx: bool = False) -> None:
    """Take trained policies away: the weights of every agent in safetensors, and a card that says how to use them.

    Args:
        run: run directory.
        out: folder, new or empty, for policies.safetensors and README.md, the card.
        onnx: also write policies.onnx: all observations [B, n, d] to the parameters of all agents' distributions. It is
            held against the policies on random observations first; nothing is written if they disagree.
    """
    require("torch", "safetensors", "gymnasium")
    from dmpo_deep.export import export

    files, deviation = export(run, out, onnx)
    if deviation is not None:
        print(f"Largest deviation of the ONNX model's outputs from the policies': {deviation:.1e}")
    print(f"Results: {out} ({', '.join(file.name for file in files)})")
