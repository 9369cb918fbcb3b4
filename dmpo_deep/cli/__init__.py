"""The command line, ``dmpo``: thin wrappers that parse, call one library function, and say where its results lie."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro
from tyro.conf import FlagCreatePairsOff

from dmpo_deep.cli.check import check, gap
from dmpo_deep.cli.common import Unexpected
from dmpo_deep.cli.learner import collect, envs, evaluate, plot, search, train
from dmpo_deep.cli.own import check_env, export
from dmpo_deep.cli.sweep import reproduce, sweep
from dmpo_deep.cli.theory import audit, bounds, kappa, solve

DESCRIPTION = """Networked multi-agent control: check the theory exactly, train DMPO and its baselines.

The exact half:
  dmpo audit --out runs/audit             every claim of the paper: verdict and witness
  dmpo solve FILE --out answers.json      values, gradients and spans of one MDP
  dmpo bounds --out runs/bounds           Theorem 1, Remark 1, Theorem 2: verdicts and a figure
  dmpo kappa FILE --tolerance 0.1         smallest kappa certified for an error, from local bounds

The tasks and their reference controllers:
  dmpo envs                               what there is
  dmpo evaluate ring --controller pi --set humans=21 start=bunched warmup=750
  dmpo search slowdown --controller linear --out weights.json

A task of your own, MODULE:FACTORY or FILE.py:FACTORY wherever a task is asked for:
  dmpo check-env FILE.py:FACTORY          what is wrong with it, check by check

The learner:
  dmpo train catchup --algo dmpo --seed 0 --out runs/dmpo-s0
  dmpo evaluate runs/dmpo-s0
  dmpo plot runs/dmpo-s0 runs/dppo-s0 --out runs/figures
  dmpo export runs/dmpo-s0 --onnx --out policies
  dmpo sweep --tasks catchup ring --algos dmpo dppo --seeds 0 1 2 --out runs/compare
  dmpo collect runs/compare/* --into results
  dmpo reproduce fig4                     a figure of the paper, from results and what is still to train

The learner against exact truth:
  dmpo check FILE --out runs/check        models, critics, gradients and model rollouts of one MDP
  dmpo check --bug own-reward             a deliberate mistake, and which check finds it
  dmpo gap --out runs/gap                 learning curves against the optimum, without noise of evaluation

`dmpo COMMAND --help` explains each."""

COMMANDS: dict[str, Callable[..., Any]] = {
    "audit": audit,
    "bounds": bounds,
    "solve": solve,
    "kappa": kappa,
    "envs": envs,
    "search": search,
    "check-env": check_env,
    "train": train,
    "evaluate": evaluate,
    "plot": plot,
    "export": export,
    "sweep": sweep,
    "collect": collect,
    "reproduce": reproduce,
    "check": check,
    "gap": gap,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the script ``dmpo``: 0 on success, 1 if an audit surprises, 2 on a mistake, 130 after Ctrl-C."""
    try:
        tyro.extras.subcommand_cli_from_dict(
            COMMANDS, prog="dmpo", description=DESCRIPTION, args=arguments, config=(FlagCreatePairsOff,)
        )
    except (ValueError, OSError, MemoryError, ArithmeticError, ImportError, RuntimeError) as error:
        from dmpo_theory.files import explained

        print(f"dmpo: error: {explained(error) if isinstance(error, OSError) else error}", file=sys.stderr)
        return 2
    except Unexpected as surprise:
        print(f"dmpo: {surprise}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as stop:
        print(f"dmpo: stopped. {stop}", file=sys.stderr)
        return 130
    return 0
