"""The network and the demand of the 5x5 grid of signals: makes what lies in dmpo_deep/envs/data.

python benchmarks/grid.py --write

needs netconvert on the PATH or from the wheel eclipse-sumo (`pip install eclipse-sumo`). Without --write it says
whether the files that lie there are the ones it would make.

Signals ``n1 .. n25`` are numbered from the south-west, row by row, 200 m apart; terminals ``t1 .. t20``
counter-clockwise from the south-west, 75 m outside: south (eastwards), east (northwards), north (westwards), west
(southwards). Streets run east-west, with two lanes of which the left one is for left turns, at 20 m/s; avenues run
north-south, with one lane, at 11 m/s. Each road is named FROM_TO.
"""

from __future__ import annotations

import argparse
import itertools
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import sumolib

DATA = Path(__file__).parents[1] / "dmpo_deep" / "envs" / "data"
SIDE, SPACING, STUB = 5, 200, 75
PHASES = ("GGgrrrGGgrrr", "rrrGrGrrrGrG", "rrrGGrrrrGGr", "rrrGGGrrrrrr", "rrrrrrrrrGGG")
"""Green states of the five actions over the twelve links: right, straight, left from north, east, south, west. North
and south; left and right turns from east and west; straight and right from east and west; all from east; all from
west."""
GREEN, YELLOW = 20, 2
"""Seconds of phases in the program that lies in the network; nothing here runs it."""
WINDOW = 300
"""Seconds for which rates are constant."""
FIRST, SECOND = 1100, 925
"""Peak rates of one road in vehicles per hour, of the flows that start at once and of those that start later."""
RISE = {0: (0.4, 0.7, 0.9, 1.0, 0.75, 0.5, 0.25), 900: (0.3, 0.8, 0.9, 1.0, 0.8, 0.6, 0.2)}
"""Start in s -> shares of the peak rate, one for each window."""
AVENUE = 0.6
"""Peak rate of an avenue as a share of that of a street."""
CAR = 'length="5" accel="5" decel="10"'
NORTH, EAST, SOUTH, WEST = (0, 1), (1, 0), (0, -1), (-1, 0)


def neighbours(column: int, row: int) -> dict[tuple[int, int], str]:
    """Direction -> the signal or terminal that lies there."""
    found = {}
    for dx, dy in (NORTH, EAST, SOUTH, WEST):
        x, y = column + dx, row + dy
        if 0 <= x < SIDE and 0 <= y < SIDE:
            found[dx, dy] = f"n{SIDE * y + x + 1}"
        else:
            number = {SOUTH: x, EAST: SIDE + y, NORTH: 3 * SIDE - 1 - x, WEST: 4 * SIDE - 1 - y}[dx, dy]
            found[dx, dy] = f"t{number + 1}"
    return found


def nodes_and_roads() -> tuple[str, str, str]:
    """Nodes, edges and connections in netconvert's plain format."""
    nodes, edges, links = [], set(), []
    for row, column in itertools.product(range(SIDE), range(SIDE)):
        here, around = f"n{SIDE * row + column + 1}", neighbours(column, row)
        nodes.append(f'<node id="{here}" x="{SPACING * column}" y="{SPACING * row}" type="traffic_light"/>')
        for (dx, dy), there in around.items():
            lanes, speed, priority = (2, 20, 2) if dx else (1, 11, 1)
            if there.startswith("t"):
                x, y = SPACING * column + STUB * dx, SPACING * row + STUB * dy
                nodes.append(f'<node id="{there}" x="{x}" y="{y}" type="priority"/>')
            for a, b in ((here, there), (there, here)):
                edges.add(
                    f'<edge id="{a}_{b}" from="{a}" to="{b}" numLanes="{lanes}" speed="{speed}" priority="{priority}"/>'
                )
            # who comes from (dx, dy) drives (-dx, -dy), has its right at (-dy, dx) and its left at (dy, -dx)
            street = bool(dx)
            for target, lane, into in (
                ((-dy, dx), 0, 0),
                ((-dx, -dy), 0, 0),
                ((dy, -dx), 1 if street else 0, 0 if street else 1),
            ):
                ends = f'from="{there}_{here}" to="{here}_{around[target]}"'
                links.append(f'<connection {ends} fromLane="{lane}" toLane="{into}"/>')
    return tuple("\n".join(("<plain>", *parts, "</plain>")) for parts in (nodes, sorted(edges), links))


def programs() -> str:
    """For each signal, every phase for 20 s and 2 s of yellow."""
    phases = []
    for now, following in zip(PHASES, PHASES[1:] + PHASES[:1], strict=True):
        pairs = zip(now, following, strict=True)
        yellow = "".join("y" if a in "Gg" and b == "r" else a if b in "Gg" else "r" for a, b in pairs)
        phases += [f'<phase duration="{GREEN}" state="{now}"/>', f'<phase duration="{YELLOW}" state="{yellow}"/>']
    return "\n".join(
        (
            "<tlLogics>",
            *(
                f'<tlLogic id="n{k}" type="static" programID="0" offset="0">{"".join(phases)}</tlLogic>'
                for k in range(1, SIDE * SIDE + 1)
            ),
            "</tlLogics>",
        )
    )


def network() -> str:
    """The network as netconvert makes it, without its header of dates and paths."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {"node": "nodes", "edge": "roads", "connection": "links", "tllogic": "programs"}
        for kind, text in zip(files.values(), (*nodes_and_roads(), programs()), strict=True):
            (folder / kind).write_text(text)
        flags = itertools.chain.from_iterable((f"--{kind}-files", str(folder / file)) for kind, file in files.items())
        made = folder / "grid.net.xml"
        command = [sumolib.checkBinary("netconvert"), *flags, "--output-file", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"netconvert failed: {done.stderr}")
        sys.stderr.write(done.stderr)
        return re.sub(r"<!--.*?-->\n*", "", made.read_text(), flags=re.DOTALL)


def demand() -> str:
    """Twelve flows between terminals; SUMO chooses each car's route at its departure."""
    pairs = {
        (0, AVENUE * FIRST): ((12, 2), (13, 3), (14, 4)),
        (0, FIRST): ((16, 6), (18, 8), (20, 10)),
        (900, AVENUE * SECOND): ((2, 14), (3, 13), (4, 12)),
        (900, SECOND): ((6, 20), (8, 18), (10, 16)),
    }
    flows = []
    for (start, peak), ends in pairs.items():
        for window, share in enumerate(RISE[start]):
            begin = start + WINDOW * window
            for a, b in ends:
                road = (f"t{a}_{signal_at(a)}", f"{signal_at(b)}_t{b}")
                flows.append(
                    (
                        begin,
                        f'<flow id="t{a}-t{b}-{begin}" type="car" from="{road[0]}" to="{road[1]}" begin="{begin}" '
                        f'end="{begin + WINDOW}" vehsPerHour="{int(peak * share)}" departPos="random_free" '
                        'departSpeed="0" departLane="first"/>',
                    )
                )
    lines = [text for _, text in sorted(flows, key=lambda flow: flow[0])]
    return "\n".join(("<routes>", f'<vType id="car" {CAR}/>', *lines, "</routes>")) + "\n"


def signal_at(terminal: int) -> str:
    """The signal next to a terminal."""
    for row, column in itertools.product(range(SIDE), range(SIDE)):
        if f"t{terminal}" in neighbours(column, row).values():
            return f"n{SIDE * row + column + 1}"
    raise ValueError(f"no terminal t{terminal}")


def main() -> None:
    """Compare or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="renew the files")
    write = parser.parse_args().write
    for name, text in (("grid5x5.net.xml", network()), ("grid5x5.rou.xml", demand())):
        file = DATA / name
        if write:
            file.write_text(text)
        same = file.is_file() and file.read_text() == text
        sys.stdout.write(f"{file}: {'as made here' if same else 'differs; renew it with --write'}\n")


if __name__ == "__main__":
    main()
