"""Episodes recorded, drawn and filmed: what is shown is what was played."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from PIL import Image

from dmpo_deep import animation, cli
from dmpo_deep.controllers import CONTROLLERS
from dmpo_deep.drawing import COLORS, NothingToDraw
from dmpo_deep.envs import make_env
from dmpo_deep.envs.atsc import GRID_NETWORK
from dmpo_deep.envs.atsc_traffic import SYSTEM
from dmpo_deep.envs.eight_road import centers, lap_length, road
from dmpo_deep.envs.signals import read_network
from dmpo_deep.envs.traffic import Road, Traffic
from dmpo_deep.evaluate import evaluate_controller
from dmpo_deep.pictures import profile, unbroken
from dmpo_deep.recording import Drive, Junctions, record


@pytest.mark.parametrize(("task", "name"), [("catchup", "always"), ("catchup", "random"), ("ring", "idm")])
def test_what_is_recorded_is_the_first_evaluation_episode(task: str, name: str) -> None:
    drive = record(task, CONTROLLERS[task][name].make, {})
    assert isinstance(drive, Drive)
    episodes = evaluate_controller(task, CONTROLLERS[task][name])
    for measure in ("speed", "headway"):
        steps = getattr(drive.cars, measure)[1:].mean(axis=1)
        assert steps.mean() == pytest.approx(episodes.measures[measure][0])
    frames = round(drive.seconds[-1] / 0.1) + 1
    assert frames == len(drive.cars.speed)
    assert episodes.collided[0] == (frames < make_env(task, 1).horizon + 1)


def test_the_road_of_the_figure_eight_is_as_long_as_its_lap_and_crosses_itself() -> None:
    lane = road(30.0)
    assert lane.lap == pytest.approx(lap_length(30.0))
    pieces = np.linalg.norm(np.diff(lane.points, axis=0), axis=1)
    assert (pieces < 31).all(), "no jump"
    np.testing.assert_allclose(lane.points[0], lane.points[-1], atol=0.2)
    north, west = lane.at(np.array(centers(30.0)))
    np.testing.assert_allclose([north, west], np.zeros((2, 2)), atol=0.01)
    curve = lane.at(np.linspace(60 + 9.4 + 1, 60 + 9.4 + 140, 50)) - [30, 30]
    np.testing.assert_allclose(np.hypot(*curve.T), 30, rtol=0.01)


def test_the_road_of_the_ring_is_a_circle() -> None:
    env: Any = make_env("ring", 1, length=230.0)
    env.reset(np.random.default_rng(0))
    places = env.road().at(env.traffic().position[0])
    assert 2 * math.pi * np.hypot(*places.T).mean() == pytest.approx(env.road().lap, rel=1e-4)
    gaps = np.linalg.norm(places - np.roll(places, -1, axis=0), axis=1)
    assert gaps.max() == pytest.approx(gaps.min(), rel=1e-3), "22 cars, evenly spaced"


def test_lines_break_where_a_lap_ends() -> None:
    place = np.array([[1.0], [98.0], [99.0], [1.0], [3.0]])
    loop = Road(np.array([0.0, 100.0]), np.zeros((2, 2)))
    assert np.isnan(unbroken(place, loop)[:, 0]).tolist() == [False, True, False, True, False]
    assert not np.isnan(unbroken(place, None)).any()


def some_drive(frames: int, loop: Road | None) -> Drive:
    rng = np.random.default_rng(0)
    speed = np.linspace(0, 20, frames)[:, None] * np.linspace(0.5, 1, 8)
    headway = rng.uniform(5, 30, (frames, 8))
    position = -np.cumsum(headway, axis=1) if loop is None else np.cumsum(speed, axis=0) % loop.lap
    return Drive("some", Traffic(position, speed, headway, speed), loop)


def some_junctions(frames: int) -> Junctions:
    network = read_network(GRID_NETWORK)
    rng, n, lanes = np.random.default_rng(0), len(network.signals), len(network.incoming)
    halting = rng.integers(0, 20, (frames, lanes))
    backlog = np.linspace(0, 60, frames)[:, None] * (np.arange(n) == 7)
    waiting = backlog + 1
    phase = rng.integers(0, 2, (frames, n))
    system = {name: np.arange(frames) for name in SYSTEM}
    return Junctions("some", network, 5.0 * np.arange(frames), halting, backlog, waiting, phase, system)


def test_a_platoon_is_drawn_with_the_gaps_that_it_has() -> None:
    drive = some_drive(3, None)
    bodies = animation._bodies(drive)
    front, tail = bodies[..., 0, 0], bodies[..., -1, 0]
    np.testing.assert_allclose(tail[:, :-1] - front[:, 1:], drive.cars.headway[:, 1:])
    np.testing.assert_allclose(-front[:, 0], drive.cars.headway[:, 0])
    np.testing.assert_allclose(front - tail, 5.0)


def test_queues_end_at_the_stop_line_and_are_as_long_as_said() -> None:
    lane = np.array([[0.0, 0.0], [100.0, 0.0], [100.0, 50.0]])
    for metres in (0.0, 10.0, 50.0, 70.0, 150.0, 1e9):
        queue = animation._last(lane, metres)
        np.testing.assert_array_equal(queue[-1], lane[-1])
        assert np.linalg.norm(np.diff(queue, axis=0), axis=1).sum() == pytest.approx(min(metres, 150.0))


def test_lanes_have_green_as_sumo_says() -> None:
    junctions = some_junctions(4)
    at = 0
    for i, signal in enumerate(junctions.network.signals):
        for lane in signal.incoming:
            for frame in range(4):
                state = signal.phases[junctions.phase[frame, i]]
                letters = {state[link.index] for link in signal.links if link.source == lane}
                assert junctions.green[frame, at] == bool(letters & {"G", "g"})
            at += 1


@pytest.mark.parametrize("kind", ["platoon", "loop", "signals"])
def test_films_have_their_frames_and_their_colours(kind: str, tmp_path: Path) -> None:
    recording = some_junctions(40) if kind == "signals" else some_drive(40, road(30.0) if kind == "loop" else None)
    film, told = tmp_path / "a.gif", []
    animation.animate(recording, film, 10, 1, lambda frames: (told.append(frame) or frame for frame in frames))
    assert (told[0], told[-1], len(told)) == (0, 39, 10)
    with Image.open(film) as frames:
        assert frames.n_frames == 10
        assert frames.info["duration"] == 100
        frames.seek(9)
        colors = np.asarray(frames.convert("RGB")).reshape(-1, 3).astype(int)
    wanted = [COLORS[0], COLORS[1], COLORS[2]] if kind == "signals" else ["#fde725"]
    for color in wanted:  # the colour of the fastest car; of queues, green lights and who waits outside
        rgb = [int(color[k : k + 2], 16) for k in (1, 3, 5)]
        assert np.abs(colors - rgb).sum(axis=1).min() < 60, color
    assert film.stat().st_size < 120_000
    assert len(profile(recording).rows) > 0


def test_mp4_is_written_where_there_is_ffmpeg(tmp_path: Path) -> None:
    try:
        animation.check_film(tmp_path / "a.mp4", 10, 1)
    except ImportError:
        pytest.skip("no ffmpeg")
    animation.animate(some_drive(40, None), tmp_path / "a.mp4", 10, 1)
    assert (tmp_path / "a.mp4").read_bytes()[4:8] == b"ftyp"


def test_what_cannot_be_filmed_is_refused_before_anything_is_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "imageio_ffmpeg" else name)
    monkeypatch.setattr("dmpo_deep.evaluate.evaluate", lambda *args: pytest.fail("played"))
    ring, folder = ["evaluate", "ring", "--controller", "pi"], str(tmp_path)
    for command, message in (
        (
            [*ring, "--animate", f"{folder}/a.mp4"],
            "MP4 needs ffmpeg, which is not on the path; pip install 'dmpo[video]'",
        ),
        ([*ring, "--animate", f"{folder}/a.avi"], "a.avi is no .gif or .mp4"),
        ([*ring, "--animate", f"{folder}/a.gif", "--fps", "60"], "fps = 60, seconds = 12; give 1 to 30 and 1 to 60"),
        ([*ring, "--animate", f"{folder}/b/a.gif"], "is no folder to write a.gif in"),
        (["evaluate", "ring", "--animate", f"{folder}/a.gif"], "choose it with --controller"),
        (
            ["evaluate", "tabular:star", "--controller", "random", "--animate", f"{folder}/a.gif"],
            "there is no picture of tabular: it has neither cars nor signals",
        ),
    ):
        assert cli.main(command) == 2
        assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_nothing_is_recorded_of_a_task_without_cars_and_signals() -> None:
    with pytest.raises(NothingToDraw, match="there is no picture of tabular"):
        record("tabular", CONTROLLERS["tabular"]["random"].make, {})


def test_a_film_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a.gif"
    command = ["evaluate", "catchup", "--controller", "always", "--animate", str(out), "--seconds", "1", "--fps", "5"]
    assert cli.main(command) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"Results: {out}"
    with Image.open(out) as film:
        assert film.n_frames == 5
