"""Checkpoints cut short or with bits flipped, and files that would run code if anything unpickled them."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from benchmarks.drills.harness import SMALL, Drill, Finding, dmpo, forked, shown
from dmpo_deep import checkpoint, log
from dmpo_deep.algorithms import ALGORITHMS
from dmpo_deep.config import CONFIG, read_config
from dmpo_deep.envs import make_env

STEPS = 800
TRAIN = ("train", "catchup", "--algo", "dmpo", "--seed", "3", "--eval-every", "400", "--set", *SMALL["dmpo"])
SAMPLE = 20
"""Every so many-th damaged file goes through ``dmpo train --resume`` and ``dmpo evaluate``, too."""


def _run(folder: Path) -> Path:
    done = forked(*TRAIN, "--steps", STEPS, "--out", folder / "run")
    if done.returncode:
        raise RuntimeError(shown(done.stderr))
    return folder / "run"


def _refused(path: Path, data: bytes) -> str:
    """What is wrong with how a damaged checkpoint is met in this process; nothing of it may reach a learner."""
    path.write_bytes(data)
    run = path.parent
    config = read_config(run)
    env = make_env(config.task, config.preset.copies, gamma=config.preset.gamma, **config.preset.environment)
    learner = ALGORITHMS[config.algo](env, config.preset, config.seed)
    before = learner.agents.actor.net.weight[0].detach().clone()  # type: ignore[attr-defined]
    try:
        checkpoint.load(path, config.identity)
    except checkpoint.CheckpointError as error:
        same = bool((before == learner.agents.actor.net.weight[0]).all())  # type: ignore[attr-defined]
        return "" if str(path) in str(error) and same and "\n" not in str(error) else f"unclear: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "accepted"


def _commands_refuse(run: Path) -> str:
    """What is wrong with how commands meet it: status 2, the file's name, and nothing written or trained."""
    before = {p.name: p.read_bytes() for p in run.iterdir()}
    for arguments in ((*TRAIN, "--steps", 1600, "--out", run, "--resume"), ("evaluate", run)):
        done = forked(*arguments)
        if done.returncode != 2 or str(run / log.CHECKPOINT) not in done.stderr or "Traceback" in done.stderr:
            return f"{arguments[0]}: status {done.returncode}, {shown(done.stderr)}"
    return "" if {p.name: p.read_bytes() for p in run.iterdir()} == before else "something was written"


def _each(drill: Drill, name: str, damaged: Iterator[tuple[str, bytes]], run: Path) -> Finding:
    count, commands, wrong, saved = 0, 0, "", (run / log.CHECKPOINT).read_bytes()
    for count, (what, data) in enumerate(damaged, start=1):
        said = _refused(run / log.CHECKPOINT, data)
        if count % SAMPLE == 1:
            said, commands = said or _commands_refuse(run), commands + 2
        wrong = wrong or (f"{what}: {said}" if said else "")
    (run / log.CHECKPOINT).write_bytes(saved)
    done = forked(*TRAIN, "--steps", 1200, "--out", run, "--resume")
    wrong = wrong or (shown(done.stderr) if done.returncode else "")
    return Finding(name, not wrong, {"files": count, "commands": commands}, wrong or f"of {len(saved)} bytes")


def truncated(drill: Drill) -> Iterator[Finding]:
    """A checkpoint cut at every 1 % of its length, and within its first and last 16 bytes."""
    for case in drill.missing(["truncated"]):
        run = _run(drill.room(case))
        data = (run / log.CHECKPOINT).read_bytes()
        lengths = sorted(
            {len(data) * percent // 100 for percent in range(100)} | {*range(16), len(data) - 1, len(data) - 16}
        )
        yield _each(drill, case, ((f"{length} bytes", data[:length]) for length in lengths), run)


def flipped(drill: Drill, count: int = 1000) -> Iterator[Finding]:
    """A checkpoint with one bit flipped, or with 1 to 64 bytes replaced, at seeded places and in all of its header."""
    for case in drill.missing(["bits", "bytes"]):
        run = _run(drill.room(case))
        data, rng = (run / log.CHECKPOINT).read_bytes(), np.random.default_rng(5)
        header = 8 + int.from_bytes(data[:8], "little")

        def damaged(
            case: str = case, data: bytes = data, rng: np.random.Generator = rng, end: int = header
        ) -> Iterator[tuple[str, bytes]]:
            for k in range(count):
                copy = bytearray(data)
                place = int(rng.integers(end if k % 2 else len(data)))
                if case == "bits":
                    copy[place] ^= 1 << int(rng.integers(8))
                else:
                    for at in range(place, min(len(data), place + int(rng.integers(1, 65)))):
                        copy[at] = (copy[at] + int(rng.integers(1, 256))) % 256
                yield f"at {place}", bytes(copy)

        yield _each(drill, case, damaged(), run)


class Bomb:
    """Runs code when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, (f"open({str(self.mark)!r}, 'w').close()",)


def payloads(mark: Path, folder: Path) -> Mapping[str, bytes]:
    """The same bomb in every format that somebody may try."""
    import torch

    bomb = Bomb(mark)
    torch.save(bomb, folder / "zip")
    torch.save(bomb, folder / "old", _use_new_zipfile_serialization=False)
    array = np.array([bomb], dtype=object)
    np.save(folder / "array.npy", array, allow_pickle=True)
    np.savez(folder / "arrays.npz", a=array)
    names = {"torch": "zip", "torch, old": "old", "npy": "array.npy", "npz": "arrays.npz"}
    return {"pickle": pickle.dumps(bomb), "pickle, text": pickle.dumps(bomb, 0)} | {
        kind: (folder / name).read_bytes() for kind, name in names.items()
    }


def hostile(drill: Drill) -> Iterator[Finding]:
    """A pickle that runs code, in six formats, in the place of every file that a command reads."""
    folder = None
    for kind in drill.missing(["pickle", "pickle, text", "torch", "torch, old", "npy", "npz"]):
        folder = drill.room(kind)
        mark = folder / "exploded"
        data = payloads(mark, folder)[kind]
        loader = "import pickle, sys; pickle.load(open(sys.argv[1], 'rb'))"
        if kind.startswith("torch"):
            loader = "import torch, sys; torch.load(sys.argv[1], weights_only=False)"
        if kind.startswith("np"):
            loader = (
                "import numpy, sys; x = numpy.load(sys.argv[1], allow_pickle=True); getattr(x, 'files', 0) and x['a']"
            )
        bomb = folder / "bomb"
        bomb.write_bytes(data)
        dmpo(bomb, code=loader)
        armed = mark.exists()
        mark.unlink(missing_ok=True)
        wrong, count = "" if armed else "the bomb does not go off when it is loaded", 0
        for arguments in _readers(folder, data):
            done = forked(*arguments)
            count += 1
            if mark.exists():
                wrong = wrong or f"{arguments} ran it"
            if done.returncode != 2 or "Traceback" in done.stderr:
                wrong = wrong or f"{arguments[0]}: status {done.returncode}, {shown(done.stderr)}"
        yield Finding(kind, not wrong, {"files read": count}, wrong)


def _readers(folder: Path, data: bytes) -> Iterator[tuple[object, ...]]:
    """Commands, each with the bomb in the place of one file that it reads."""
    run = _run(folder)
    clean = shutil.copytree(run, folder / "clean")
    for name in (log.CHECKPOINT, CONFIG, log.PROGRESS):
        (run / name).write_bytes(data)
        yield (*TRAIN, "--steps", 1600, "--out", run, "--resume")
        if name != log.PROGRESS:
            yield "evaluate", run
        if name != log.CHECKPOINT:
            yield "plot", run, "--out", folder / "plot"
            yield "collect", run, "--into", folder / "results"
        shutil.copy(clean / name, run / name)
    results = folder / "kept"
    for name in ("runs.csv", "catchup.csv"):
        forked("collect", clean, "--into", results)
        (results / name).write_bytes(data)
        yield "collect", clean, "--into", results
        yield "plot", results, "--out", folder / "plot"
        shutil.rmtree(results)
    file = folder / "file"
    file.write_bytes(data)
    yield "solve", file, "--out", folder / "out.json"
    yield "kappa", file, "--tolerance", 1
    yield "audit", "--instance", file, "--out", folder / "audit"
    yield "train", f"tabular:{file}", "--algo", "dppo", "--out", folder / "tabular"
    yield "sweep", file, "--out", folder / "sweep"
    yield "evaluate", "catchup", "--controller", file
    yield "evaluate", "atsc", "--controller", "greedy-lanes-15", "--set", f"net_file={file}"
    (folder / "begun").mkdir()
    (folder / "begun" / "progress.jsonl").write_bytes(data)
    yield "audit", "--resume", "--out", folder / "begun"
