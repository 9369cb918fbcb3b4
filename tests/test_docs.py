"""Every block of the docs: Python runs, commands parse, and outputs are what is shown.

The word behind three backticks says what happens to a block: ``python`` runs (with ``>>>`` as a doctest, by pytest
itself), ``sh`` is parsed command by command and everything checked that can be before work starts, ``sh run`` is run
as well, ``sh slow`` by ``pytest -m slow``, ``sh slow fails`` with exit status 1; every line of a ``text`` behind a
block that ran is in its output. Commands in running text are parsed like ``sh``.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from functools import cache, wraps
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from markdown_it import MarkdownIt

from dmpo_deep import cli

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {
    str(path.relative_to(ROOT)): path
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md")))
    if "_build" not in path.parts
}
NOTEBOOKS = [name for name in PAGES if name.startswith("docs/notebooks/")]
LANGUAGES = {"sh", "python", "text", "toml", "json", "latex", "css"}
DIRECTIVES = {"{code-cell}", "{eval-rst}", "{toctree}", "{results}", "{minutes}"}
PLACEHOLDERS = {
    **{"FILE": "examples/01_path3.instance.json", "DIR": "runs/x", "OUT": "runs/x", "RUN": "runs/x", "S": "0"},
    **{"TASK": "catchup", "ALGO": "dmpo", "NAME": "always", "ID": "A1", "KEY=VALUE": "gamma=0.9", "X": "fig4"},
}
"""What stands for something in commands of running text."""


class Block(NamedTuple):
    """A fenced block."""

    language: str
    mode: str
    """What follows the language: ``run``, ``slow`` or nothing."""
    status: int
    """With which its commands end."""
    text: str
    line: int


@cache
def parsed(page: str) -> tuple[list[Block], list[str]]:
    """The blocks of a page, and the code in its running text."""
    blocks, inline = [], []
    for token in MarkdownIt("commonmark").enable("table").parse(PAGES[page].read_text()):
        if token.type == "fence":
            language, mode, status, *_ = *token.info.split(), "", "", ""
            assert token.map is not None
            blocks.append(Block(language, mode, int(status == "fails"), token.content, token.map[0] + 1))
        inline += [child.content for child in token.children or () if child.type == "code_inline"]
    return blocks, inline


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command, comments and settings of variables left out."""
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while "&&" in words:
            yield words[: words.index("&&")]
            words = words[words.index("&&") + 1 :]
        while words and re.fullmatch(r"\w+=.*", words[0]):
            del words[0]
        if words:
            yield words


class Parsed(Exception):
    """A command line that would have run."""

    def __init__(self, name: str, arguments: dict[str, Any]) -> None:
        super().__init__(name)
        self.name, self.arguments = name, arguments


def parse(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> Parsed:
    """What ``dmpo`` makes of its arguments; ``AssertionError`` if it refuses them."""

    def recorded(name: str, command: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(command)
        def record(**arguments: Any) -> None:
            raise Parsed(name, arguments)

        return record

    with monkeypatch.context() as patch:
        patch.setattr(cli, "COMMANDS", {name: recorded(name, command) for name, command in cli.COMMANDS.items()})
        try:
            cli.main(list(words))
        except Parsed as found:
            return found
        except SystemExit as refused:
            if refused.code == 0:
                return Parsed("help", {})
    raise AssertionError(f"dmpo {shlex.join(words)} is refused")


def check_dmpo(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A ``dmpo`` command parses, and what it names exists."""
    found = parse(words, monkeypatch)
    arguments = found.arguments
    for name in ("file", "instance"):
        given = arguments.get(name, ())
        for path in given if isinstance(given, tuple) else (given,):
            assert (ROOT / path).is_file(), path
    if found.name in SETTINGS:
        pytest.importorskip("torch")
        SETTINGS[found.name](**arguments)


def _train(task: str, algo: str, seed: int, steps: int, preset: str, set: Any, eval_every: int, **_: Any) -> None:
    from dmpo_deep.train import configured

    configured(task, algo, seed, steps, preset, [pair for given in set for pair in given], eval_every)


def _sweep(out: Path, plan: Path | None, **options: Any) -> None:
    from dmpo_deep.sweep import check

    module = importlib.import_module("dmpo_deep.cli.sweep")  # the package's attribute of that name is the command
    if plan is None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "run_jobs", lambda jobs, *_: check(jobs))
            module.sweep(out, plan, **options)


def _evaluate(target: str, controller: str | None, set: Any, **_: Any) -> None:
    from dmpo_deep.envs import make_env, named_task
    from dmpo_deep.evaluate import chosen_controllers
    from dmpo_deep.presets import task_options

    if not target.startswith("runs/"):
        task, source = named_task(target)
        if controller is None or not controller.endswith(".json"):
            chosen_controllers(task, controller)
        make_env(task, 1, **source, **task_options([pair for given in set for pair in given]))


def _audit(claim: Sequence[str], instance: Sequence[Path], graphs: str, n: int, gamma: str, **_: Any) -> None:
    from dmpo_deep.cli.theory import audit_settings

    audit_settings(claim, (), graphs, n, gamma)


def _reproduce(figure: str, **_: Any) -> None:
    from dmpo_deep.figures import FIGURES

    assert figure in FIGURES, figure


def _check(algo: str, bug: str | None, **_: Any) -> None:
    from dmpo_deep.algorithms import ALGORITHMS
    from dmpo_deep.check.bugs import BUGS

    assert algo in ALGORITHMS, algo
    assert bug in {None, "list", *BUGS}, bug


SETTINGS: dict[str, Callable[..., None]] = {
    **{"train": _train, "sweep": _sweep, "evaluate": _evaluate, "audit": _audit},
    **{"reproduce": _reproduce, "check": _check},
}
"""Command -> what checks its settings without starting any work."""


def check_python(words: Sequence[str]) -> None:
    """The module or script exists and has the options."""
    if words[:1] == ["-m"]:
        if words[1] in ("venv", "pip"):
            return
        found = importlib.util.find_spec(words[1])
        if found is not None and found.origin is None:
            found = importlib.util.find_spec(f"{words[1]}.__main__")
        assert found is not None, words[1]
        assert found.origin is not None, words[1]
        source, rest = Path(found.origin), words[2:]
    else:
        source, rest = ROOT / words[0], words[1:]
        assert source.is_file(), words[0]
    for word in rest:
        if word.startswith("--"):
            assert f'"{word}"' in source.read_text(), f"{source.name} has no option {word}"


def check_pytest(words: Sequence[str]) -> None:
    """Files exist, and the words after ``-k`` select tests in them."""
    pattern = words[words.index("-k") + 1] if "-k" in words else ""
    valued = {words.index(flag) + 1 for flag in ("-k", "-m", "-n", "--hypothesis-seed") if flag in words}
    files = [word for k, word in enumerate(words) if k not in valued and not word.startswith("-")]
    sources = []
    for file in files:
        path = ROOT / file.partition("::")[0]
        assert path.exists(), file
        sources += [path] if path.is_file() else sorted(path.rglob("test_*.py"))
    text = "\n".join(path.read_text() for path in sources)
    for name in pattern.split(" or ") if pattern else ():
        assert re.search(rf"def \w*{name}", text), f"-k {name} selects nothing in {files}"


def check_pip(words: Sequence[str]) -> None:
    """Extras exist."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for named in re.findall(r"\[([^\]]+)\]", " ".join(words)):
        assert set(named.split(",")) <= set(extras), named


def check_make(words: Sequence[str]) -> None:
    """Targets exist."""
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M)
    assert {word for word in words if "=" not in word} <= set(targets), words


PROGRAMS: dict[str, Callable[[Sequence[str]], None]] = {
    **{"python": check_python, "python3": check_python, "pytest": check_pytest, "pip": check_pip, "make": check_make},
    **dict.fromkeys(("cd", "git", "tensorboard", "pre-commit"), lambda words: None),
}
"""What commands may start, beside ``dmpo``."""


def check_command(words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Any command of the docs."""
    program = words[0].removeprefix(".venv/bin/")
    if program == "dmpo":
        check_dmpo(words[1:], monkeypatch)
    else:
        assert program in PROGRAMS, f"{words[0]!r} is no program that the docs use; is it an output? Then say text"
        PROGRAMS[program](words[1:])


def is_command(text: str) -> bool:
    """Whether it starts with a program's name; of running text, and of blocks outside docs/ that say nothing."""
    first = text.split(maxsplit=1)[:1]
    return bool(first) and first[0].removeprefix(".venv/bin/") in {"dmpo", *PROGRAMS}


@pytest.mark.parametrize("page", PAGES)
def test_every_block_says_what_it_is(page: str) -> None:
    for block in parsed(page)[0]:
        where = f"{page}, line {block.line}"
        if page.startswith("docs/"):
            assert block.language in LANGUAGES | DIRECTIVES, f"{where}: {block.language!r} is no language of the docs"
        if block.language == "sh":
            assert block.mode in ("", "run", "slow"), f"{where}: {block.mode!r}; say run, slow or nothing"
        if block.language == "toml":
            tomllib.loads(block.text)


@pytest.mark.parametrize("page", PAGES)
def test_every_command_would_start(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    blocks, inline = parsed(page)
    for block in blocks:
        if block.language == "sh" or (not block.language and is_command(block.text)):
            for words in commands(block.text):
                check_command([filled(word) for word in words], monkeypatch)
    for text in inline:
        # Names of commands alone, and patterns such as `dmpo plot RUN...`, are no commands.
        if is_command(text) and len(text.split()) > 1 and "..." not in text:
            [words] = commands(text.replace("\n", " "))
            words = [filled(word) for word in words]
            if words[0] == "dmpo" and len(words) == 2 and words[1] in cli.COMMANDS:
                continue
            check_command(words, monkeypatch)


def filled(word: str) -> str:
    """With examples in the place of words like FILE."""
    return re.sub(r"\b[A-Z]+(?:=[A-Z]+)?\b", lambda found: PLACEHOLDERS.get(found[0], found[0]), word)


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder like the repository's, without the runs in it."""
    for name in ("examples", "results", "benchmarks", "tests", "docs", "dmpo_deep", "dmpo_theory"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_page(page: str, mode: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Run the blocks of a mode in their order, and hold shown outputs against what they print."""
    printed = ""
    for block in parsed(page)[0]:
        if block.language == "sh" and block.mode == mode:
            capfd.readouterr()
            for words in commands(block.text):
                if words[0] == "dmpo":
                    assert cli.main(words[1:]) == block.status, (page, words, capfd.readouterr().err)
                else:
                    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
                    subprocess.run([sys.executable, *words[1:]], check=True, env=environment)
            shown = capfd.readouterr()
            printed = shown.out + shown.err
        elif block.language == "text" and printed:
            there = {tuple(line.split()) for line in printed.splitlines()}
            missing = [line for line in block.text.splitlines() if line != "..." and tuple(line.split()) not in there]
            assert not missing, f"{page}, line {block.line}: not printed: {missing}\nbut\n{printed}"
            printed = ""
        else:
            printed = ""


def with_mode(mode: str) -> list[str]:
    """Pages with blocks of a mode."""
    return [page for page in PAGES if any(b.language == "sh" and b.mode == mode for b in parsed(page)[0])]


@pytest.mark.parametrize("page", with_mode("run"))
def test_short_commands_run(page: str, clone: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    run_page(page, "run", capfd)


@pytest.mark.slow
@pytest.mark.parametrize("page", with_mode("slow"))
def test_long_commands_run(page: str, clone: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    run_page(page, "slow", capfd)


def scripts(page: str) -> str:
    """The Python of a page that is no doctest, in one piece."""
    languages = ("python", "{code-cell}")
    found = [b for b in parsed(page)[0] if b.language in languages and ">>>" not in b.text]
    return "\n".join(re.sub(r"\A(:.*\n)+", "", block.text) for block in found)


@pytest.mark.parametrize("page", [page for page in PAGES if page not in NOTEBOOKS and scripts(page)])
def test_scripts_run(page: str, clone: Path) -> None:
    pytest.importorskip("torch")
    exec(compile(scripts(page), page, "exec", dont_inherit=True), {"__name__": "page"})


@pytest.mark.slow
@pytest.mark.parametrize("page", NOTEBOOKS)
def test_notebooks_run(page: str, clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    monkeypatch.setenv("MPLBACKEND", "agg")
    assert scripts(page)
    exec(compile(scripts(page), page, "exec", dont_inherit=True), {"__name__": "page"})


def test_mistakes_in_the_docs_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch")
    for line in (
        "dmpo train catchup --allgo dmpo",
        "dmpo train catchup --algo dmop",
        "dmpo train catchup --set kapa=1",
        "dmpo evaluate ring --controller pid",
        "dmpo kappa examples/missing.json --tolerance 1",
        "dmpo sweep --tasks catchup --vary lr 1 2 --out runs/x",
        "dmpo audit --claim A11",
        "dpmo train catchup",
        "python benchmarks/kapa.py",
        "python benchmarks/kappa.py --nn 3",
        "pytest verification -k nothing_like_this",
        "pip install -e '.[depe]'",
        "make everything",
    ):
        [words] = commands(line)
        with pytest.raises((AssertionError, ValueError)):
            check_command(words, monkeypatch)


def test_tables_of_results_are_those_of_the_committed_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """``python docs/_ext/written.py`` has been run since ``results/`` changed; a changed number is noticed."""
    monkeypatch.syspath_prepend(DOCS / "_ext")
    from written import PLACE, filled

    for page, path in PAGES.items():
        text = path.read_text()
        assert filled(text) == text, f"{page} is older than results/; run python docs/_ext/written.py"
    text = PAGES["docs/results.md"].read_text()
    assert PLACE.search(text)
    changed = text.replace("| DMPO | 5 |", "| DMPO | 6 |")
    assert changed != text
    assert filled(changed) == text
