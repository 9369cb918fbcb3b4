"""The instance file, ``networked-mdp/1``: one JSON object with an MDP and a policy.

``format``, ``gamma``, ``edges``, ``n_states``, ``n_actions``, ``transition``, ``policy`` and ``reward`` are required;
``name``, ``transition_parents`` and ``policy_parents`` are optional. Numbers may be rational strings such as "9/10".
Index order is that of :mod:`dmpo_theory.mdp`.
"""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

from dmpo_theory.errors import MOST_AXES, shown, unknown_name
from dmpo_theory.files import write_text
from dmpo_theory.graph import AgentGraph
from dmpo_theory.mdp import LocalPolicy, NetworkedMDP

FORMAT = "networked-mdp/1"
REQUIRED = ("format", "gamma", "edges", "n_states", "n_actions", "transition", "policy", "reward")
OPTIONAL = ("name", "transition_parents", "policy_parents")


class Instance(NamedTuple):
    """What an instance file holds."""

    name: str
    mdp: NetworkedMDP
    policy: LocalPolicy


def load_instance(path: str | Path) -> Instance:
    """Read and validate an instance file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: naming the file, the key, agent and index at fault, and the remedy.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such instance file") from None
    except (UnicodeDecodeError, IsADirectoryError):
        raise ValueError(f"{path} is not a text file; an instance file is JSON in UTF-8") from None
    try:
        content = json.loads(text, object_pairs_hook=_without_repeats)
    except json.JSONDecodeError as error:
        cut = "; it ends too early, write it again" if error.pos >= len(text.rstrip()) - 1 else ""
        raise ValueError(f"{path} is not JSON: line {error.lineno}, column {error.colno}: {error.msg}{cut}") from None
    except RecursionError:
        raise ValueError(f"{path} has lists too deep within lists; a table has as many as axes") from None
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as JSON: {error}") from None
    try:
        return _parse(content, default_name=path.stem)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def save_instance(path: str | Path, mdp: NetworkedMDP, policy: LocalPolicy, name: str = "") -> None:
    """Write an instance file; floats are written in full, so that reading it back gives the same arrays."""
    content = {
        "format": FORMAT,
        "name": name or Path(path).stem,
        "gamma": mdp.gamma,
        "edges": mdp.graph.edges,
        "n_states": mdp.n_states,
        "n_actions": mdp.n_actions,
        "transition": [table.tolist() for table in mdp.transition],
        "policy": [table.tolist() for table in policy.table],
        "reward": [table.tolist() for table in mdp.reward],
        "transition_parents": mdp.transition_parents,
        "policy_parents": policy.parents,
    }
    write_text(Path(path), json.dumps(content))


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {shown(twice)} stands there twice; keep the one that is meant")
    return content


def _parse(content: Any, default_name: str) -> Instance:
    if not isinstance(content, dict):
        raise ValueError(f"expected a JSON object with the keys {', '.join(REQUIRED)}")
    for key in content:
        if key not in REQUIRED + OPTIONAL:
            raise unknown_name("key", key, REQUIRED + OPTIONAL)
    missing = [key for key in REQUIRED if key not in content]
    if missing:
        raise ValueError(f"the key {missing[0]!r} is missing")
    if content["format"] != FORMAT:
        raise ValueError(f"format {shown(content['format'])} is not known; this version reads {FORMAT!r}")
    n_states, n_actions = _sizes("n_states", content), _sizes("n_actions", content)
    if len(n_states) != len(n_actions):
        raise ValueError(
            f"n_states has {len(n_states)} entries and n_actions {len(n_actions)}; give one per agent each"
        )
    if not isinstance(content["edges"], list) or not all(isinstance(edge, list) for edge in content["edges"]):
        raise ValueError("edges must be a list of pairs such as [[0, 1], [1, 2]]")
    graph = AgentGraph.from_edges(len(n_states), content["edges"])
    transition, policy, reward = (_tables(key, content, graph.n) for key in ("transition", "policy", "reward"))
    for i, table in enumerate(reward):
        shape = (len(table), len(table[0])) if isinstance(table, list) and table and isinstance(table[0], list) else ()
        if shape != (n_states[i], n_actions[i]):
            raise ValueError(f"reward[{i}] has shape {shape}, expected {(n_states[i], n_actions[i])} = [S_{i}, A_{i}]")
    gamma = content["gamma"]
    if isinstance(gamma, list):
        raise ValueError(f'gamma = {shown(gamma)} is not a number; write 0.9 or "9/10"')
    mdp = NetworkedMDP(graph, _numbers(gamma, "gamma"), transition, reward, _parents("transition_parents", content))
    local = LocalPolicy(mdp, policy, _parents("policy_parents", content))
    name = content.get("name", default_name)
    if not isinstance(name, str) or not name.isprintable():
        raise ValueError(f"name = {shown(name)} is not a text of one line; letters, digits and signs make one")
    return Instance(name, mdp, local)


def _sizes(key: str, content: dict[str, Any]) -> list[int]:
    sizes = content[key]
    if not isinstance(sizes, list) or not sizes or not all(type(size) is int and size >= 1 for size in sizes):
        raise ValueError(f"{key} = {shown(sizes)} must be a list of whole numbers >= 1, one per agent")
    return sizes


def _tables(key: str, content: dict[str, Any], n: int) -> tuple[Any, ...]:
    tables = content[key]
    if not isinstance(tables, list) or len(tables) != n:
        raise ValueError(f"{key} must be a list with one table for each of the {n} agents")
    return tuple(_numbers(tables, key))


def _parents(key: str, content: dict[str, Any]) -> tuple[tuple[int, ...], ...]:
    parents = content.get(key, [])
    whole = isinstance(parents, list) and all(
        isinstance(members, list) and all(type(j) is int for j in members) for members in parents
    )
    if not whole:
        raise ValueError(f"{key} must be a list of lists of agents, such as [[0, 1], [0, 1, 2]]")
    return tuple(map(tuple, parents))


def _numbers(value: Any, place: str) -> Any:
    """The same nested lists with rational strings turned into floats."""
    if isinstance(value, list):
        if place.count("[") > MOST_AXES:
            raise ValueError(f"{place.split('[')[0]} has lists too deep within lists; a table has as many as axes")
        return [_numbers(item, f"{place}[{k}]") for k, item in enumerate(value)]
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f'{place} = {shown(value)} is not a number; write 0.9 or "9/10"')
    try:
        # Fraction would spell out an exponent: "1e99999999" is left to float
        return float(Fraction(value)) if isinstance(value, str) and "/" in value else float(value)
    except (ValueError, ZeroDivisionError, OverflowError):
        raise ValueError(f'{place} = {shown(value)} is not a number; write 0.9 or "9/10"') from None
