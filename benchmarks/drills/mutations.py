"""Instance files that are wrong, or nearly so: mutations of bytes, of tokens and of the JSON tree, by seed."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Mutation = Callable[[str, np.random.Generator], bytes]

NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
TOKEN = re.compile(r'"[^"]*"|-?\d[\d.eE+-]*|[\[\]{},:]')
LITERALS = (
    *("NaN", "Infinity", "-Infinity", "1e999", "-1e308", "1e308", "1e-320", "5e-324", "-0.0", "-1", "2", "0", "0.5"),
    *(
        "1" + "0" * 400,
        "1" + "0" * 6000,
        "null",
        "true",
        "[]",
        "{}",
        '""',
        '"1/0"',
        '"0/0"',
        '"1/3"',
        '"-1/2"',
        '" 1 "',
    ),
    *('"1e400/1"', '"1e9999999"', '"nan"', '"inf"', '"0x10"', '"1_0"', '"\\u0661/\\u0662"', '"1/2/3"', '"1/"'),
    *("0.1e", "01", ".5", "+1", "1e", "--1", "0.30000000000000004", "1000000000", "4294967296", "9223372036854775808"),
    *('"1/' + "9" * 500 + '"', '"' + "9" * 9000 + '/7"', '"\\ud800"'),
)
GAMMAS = (1, -1, 1.5, "1/1", "9/9", "-1/2", "10/9", 0, -0.0, 1 - 2**-53, 0.999999999, 1e-300, 5e-324, None, [], "0.9")
VALUES: tuple[Any, ...] = (
    *(None, True, "x", "", [], {}, [[]], -1, 0, 2, 1e308, -1e308, 1e-310, 10**30, -(10**30), 10**9, 0.1, "1/3"),
    *({"a": 1}, [None], ["1/2", "1/2"], [0.5, 0.5], [1.5, -0.5], [1, 0], [1], [[1, 0], [0, 1]], "\n", "é" * 300),
)


def mutated(source: str, seed: int) -> tuple[str, bytes]:
    """Which mutation ``seed`` stands for, and what it makes of the text of an instance file."""
    rng = np.random.default_rng([seed, 10_000])
    name = str(rng.choice(sorted(MUTATIONS)))
    data = MUTATIONS[name](source, rng)
    if rng.random() < 0.2:  # now and then on top of each other
        second = str(rng.choice(sorted(MUTATIONS)))
        name, data = f"{name}, {second}", MUTATIONS[second](data.decode(errors="replace"), rng)
    return name, data


def _flip(text: str, rng: np.random.Generator) -> bytes:
    data = bytearray(text.encode())
    for _ in range(int(rng.integers(1, 4))):
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    return bytes(data)


def _truncate(text: str, rng: np.random.Generator) -> bytes:
    return text.encode()[: int(rng.integers(len(text)))]


def _garble(text: str, rng: np.random.Generator) -> bytes:
    """A stretch goes, comes twice, or becomes noise."""
    data = text.encode()
    start = int(rng.integers(len(data)))
    end = min(len(data), start + int(rng.integers(1, 30)))
    part = (b"", data[start:end] * 2, rng.bytes(end - start))[rng.integers(3)]
    return data[:start] + part + data[end:]


def _literal(text: str, rng: np.random.Generator) -> bytes:
    """Something odd in the place of a number."""
    places = list(NUMBER.finditer(text))
    if not places:
        return _flip(text, rng)
    place = places[rng.integers(len(places))]
    return (text[: place.start()] + str(rng.choice(LITERALS)) + text[place.end() :]).encode(errors="surrogatepass")


def _tokens(text: str, rng: np.random.Generator) -> bytes:
    """A token goes, comes twice, or changes places with another."""
    tokens = TOKEN.findall(text)
    if len(tokens) < 2:
        return _flip(text, rng)
    a, b = (int(k) for k in rng.integers(len(tokens), size=2))
    match int(rng.integers(3)):
        case 0:
            del tokens[a]
        case 1:
            tokens.insert(a, tokens[b])
        case _:
            tokens[a], tokens[b] = tokens[b], tokens[a]
    return " ".join(tokens).encode()


def _places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything in a JSON tree."""
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path, *(place for key, child in children for place in _places(child, (*path, key)))]


def _parsed(text: str) -> Any:
    """The tree, or a sound one where an earlier mutation has left none that can be walked."""
    try:
        tree = json.loads(text)
        _places(tree)
        return tree
    except (ValueError, RecursionError):
        return json.loads(BASES["path"])


def _at(tree: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _change(text: str, rng: np.random.Generator, change: Callable[[Any, Any], None]) -> bytes:
    """``change(parent, key)`` of something in the tree; shallow things are as likely as deep ones."""
    tree = _parsed(text)
    places = [place for place in _places(tree) if place]
    if not places:
        return _flip(text, rng)
    depth = rng.choice(sorted({len(place) for place in places}))
    among = [place for place in places if len(place) == depth]
    path = among[rng.integers(len(among))]
    change(_at(tree, path[:-1]), path[-1])
    return json.dumps(tree).encode(errors="surrogatepass")


def _value(text: str, rng: np.random.Generator) -> bytes:
    def change(parent: Any, key: Any) -> None:
        parent[key] = copy.deepcopy(VALUES[rng.integers(len(VALUES))])

    return _change(text, rng, change)


def _drop(text: str, rng: np.random.Generator) -> bytes:
    def change(parent: Any, key: Any) -> None:
        del parent[key]

    return _change(text, rng, change)


def _double(text: str, rng: np.random.Generator) -> bytes:
    def change(parent: Any, key: Any) -> None:
        if isinstance(parent, list):
            parent.insert(key, copy.deepcopy(parent[key]))
        else:
            parent[f"{key}{rng.integers(9)}"] = parent[key]

    return _change(text, rng, change)


def _swap(text: str, rng: np.random.Generator) -> bytes:
    """Two neighbours in a list, such as two agents' tables, or two keys' values."""

    def change(parent: Any, key: Any) -> None:
        keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
        other = keys[rng.integers(len(keys))]
        parent[key], parent[other] = parent[other], parent[key]

    return _change(text, rng, change)


def _deepen(text: str, rng: np.random.Generator) -> bytes:
    """Something within very many brackets."""
    places = list(NUMBER.finditer(text))
    if not places:
        return _flip(text, rng)
    place, depth = places[rng.integers(len(places))], int(rng.choice([1, 2, 10, 40, 70, 300, 900, 990, 3000, 100_000]))
    return (text[: place.start()] + "[" * depth + place[0] + "]" * depth + text[place.end() :]).encode()


def _repeat(text: str, rng: np.random.Generator) -> bytes:
    """A key twice, perhaps with another value."""
    tree = _parsed(text)
    if not isinstance(tree, dict) or not tree:
        return _flip(text, rng)
    key = str(rng.choice(sorted(tree)))
    value = (rng.choice([0, 1]) and tree[key]) or copy.deepcopy(VALUES[rng.integers(len(VALUES))])
    return (json.dumps(tree)[:-1] + f", {json.dumps(key)}: {json.dumps(value)}}}").encode(errors="surrogatepass")


def _gamma(text: str, rng: np.random.Generator) -> bytes:
    tree = _parsed(text)
    if not isinstance(tree, dict):
        return _flip(text, rng)
    tree["gamma"] = GAMMAS[rng.integers(len(GAMMAS))]
    return json.dumps(tree).encode(errors="surrogatepass")


def _row(text: str, rng: np.random.Generator) -> bytes:
    """A distribution that is none, or just about one."""
    tree = _parsed(text)
    tables = [key for key in ("transition", "policy") if isinstance(tree, dict) and isinstance(tree.get(key), list)]
    rows = [
        row
        for key in tables
        for row in (_at(tree[key], path) for path in _places(tree[key]))
        if isinstance(row, list) and len(row) > 1 and all(isinstance(p, int | float) for p in row)
    ]
    if not rows:
        return _flip(text, rng)
    row = rows[rng.integers(len(rows))]
    a, b = rng.permutation(len(row))[:2]
    slip = float(rng.choice([1e-17, 1e-15, 3e-13, 2e-12, 1e-9, 1e-3, 1.0, -1e-16, -1e-3, -2.0, 1e-310]))
    if rng.random() < 0.5:  # the sum stays what it was
        row[b] -= slip
    row[a] += slip
    return json.dumps(tree).encode()


def _scale(text: str, rng: np.random.Generator) -> bytes:
    """Rewards of another size."""
    tree = _parsed(text)
    rewards = tree.get("reward") if isinstance(tree, dict) else None
    if not isinstance(rewards, list):
        return _flip(text, rng)
    factor = float(rng.choice([1e-320, 1e-300, 1e-160, 1e-12, 0.0, 1e6, 1e16, 1e150, 1e300, 1e308]))
    for path in _places(rewards):
        if isinstance(number := _at(rewards, path), int | float) and path:
            _at(rewards, path[:-1])[path[-1]] = number * factor
    return json.dumps(tree).encode()


def _grow(text: str, rng: np.random.Generator) -> bytes:
    """Many agents, or agents of many states: sound, and perhaps far too large to solve."""
    n, size = int(rng.choice([1, 2, 6, 9, 40, 70, 400])), int(rng.choice([1, 2, 3]))
    alone = rng.random() < 0.5
    edges = [] if alone else [[i, i + 1] for i in range(n - 1)]
    heard = [1 if alone else 1 + (i > 0) + (i < n - 1) for i in range(n)]
    row = [1.0] + [0.0] * (size - 1)
    tree = {
        **{"format": "networked-mdp/1", "gamma": 0.9, "edges": edges, "n_states": [size] * n, "n_actions": [1] * n},
        "transition": [_full((size,) * k + (1,), row) for k in heard],
        "policy": [_full((size,) * k, [1.0]) for k in heard],
        "reward": [_full((size,), [0.5])] * n,
    }
    if rng.random() < 0.3:  # promises of sizes that nothing else keeps
        tree["n_states"] = [int(rng.choice([10**6, 10**12, 2**63, 10**40]))] * n
    return json.dumps(tree).encode()


def _full(shape: tuple[int, ...], row: list[float]) -> Any:
    return row if not shape else [_full(shape[1:], row) for _ in range(shape[0])]


MUTATIONS: Mapping[str, Mutation] = {
    **{"bits flipped": _flip, "truncated": _truncate, "stretch garbled": _garble},
    **{"odd literal": _literal, "tokens moved": _tokens, "very deep": _deepen, "key twice": _repeat},
    **{"another value": _value, "something dropped": _drop, "something doubled": _double, "two swapped": _swap},
    **{"another gamma": _gamma, "row off": _row, "rewards scaled": _scale, "other sizes": _grow},
}
"""By name."""

_LOCAL = [[[[0.25, 0.75], [0.5, 0.5]], [[1, 0], ["1/3", "2/3"]]], [[[0.1, 0.9], [0.6, 0.4]], [[0, 1], [0.7, 0.3]]]]
_CHOICE = [[[0.5, 0.5], [0.25, 0.75]], [[1, 0], [0, 1]]]
_PATH = {
    **{"format": "networked-mdp/1", "name": "two", "gamma": "9/10", "edges": [[0, 1]], "n_states": [2, 2]},
    **{"n_actions": [2, 2], "transition": [_LOCAL, _LOCAL], "policy": [_CHOICE, _CHOICE]},
    **{"reward": [[[1, 0], [0.5, "-1/3"]], [[0, -2], [3, 0.25]]]},
    **{"transition_parents": [[0, 1], [0, 1]], "policy_parents": [[0, 1], [0, 1]]},
}
_ALONE = {
    **{"format": "networked-mdp/1", "gamma": 0.5, "edges": [], "n_states": [3], "n_actions": [1]},
    **{
        "transition": [[[[0, 1, 0]], [[0, 0, 1]], [[0.5, 0.25, 0.25]]]],
        "policy": [[[1]] * 3],
        "reward": [[[1], [2], [-3]]],
    },
}
BASES: Mapping[str, str] = {"path": json.dumps(_PATH), "alone": json.dumps(_ALONE)}
"""Small sound instance files; the examples are others."""
