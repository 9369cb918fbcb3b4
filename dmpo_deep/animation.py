"""Section VI's episodes, moving: cars on their road, or the lanes of a network with their queues, as GIF or MP4."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dmpo_deep.drawing import COLORS, LABEL, LEGEND, TICK, name_axes
from dmpo_deep.envs.ring import CAR_LENGTH
from dmpo_deep.pictures import draw_cars
from dmpo_deep.recording import Drive, Junctions, Recording
from dmpo_theory.files import beside

if TYPE_CHECKING:
    from matplotlib.animation import AbstractMovieWriter
    from matplotlib.figure import Figure

MOST_FPS, MOST_SECONDS = 30, 60
DPI = 100
JAM = 7.5
"""Metres of lane that a halting vehicle takes: its length and SUMO's least gap."""

Update = Callable[[int], None]
"""Shows a frame of a recording."""


def animate(
    recording: Recording,
    path: Path,
    fps: int = 10,
    seconds: int = 12,
    progress: Callable[[Sequence[int]], Iterable[int]] = iter,
) -> None:
    """Write a recording as a film of at most ``fps * seconds`` frames, spread evenly over the episode.

    Args:
        recording: of an episode.
        path: file to write, ``.gif`` or ``.mp4``.
        fps: frames a second.
        seconds: of the whole film; episodes of fewer steps make a shorter one.
        progress: goes through the frames, and tells somebody.

    Raises:
        ValueError, ImportError: as :func:`check_film`.
    """
    check_film(path, fps, seconds)
    frames = np.unique(np.linspace(0, len(recording.seconds) - 1, fps * seconds).round().astype(int)).tolist()
    times = recording.seconds[-1] / (len(frames) / fps)
    figure, update = _cars(recording) if isinstance(recording, Drive) else _signals(recording)
    title = figure.suptitle(recording.task, fontsize=LABEL + 1)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # nothing moves from frame to frame, and finding places takes longest
    writer = _WRITERS[path.suffix](fps)
    with beside(path) as part, writer.saving(figure, str(part), DPI):
        for frame in progress(frames):
            update(frame)
            title.set_text(f"{recording.task}, {_clock(recording.seconds[frame])}, {times:.3g} times as fast")
            writer.grab_frame()


def check_film(path: Path, fps: int, seconds: int) -> None:
    """Refuse what cannot be written, before anything is played.

    Raises:
        ValueError: a suffix that is no film's, or a rate or a length out of range.
        ImportError: MP4 without ffmpeg.
    """
    if path.suffix not in _WRITERS:
        raise ValueError(f"{path} is no {' or '.join(_WRITERS)}; give a file with one of these suffixes")
    if not (1 <= fps <= MOST_FPS and 1 <= seconds <= MOST_SECONDS):
        raise ValueError(f"fps = {fps}, seconds = {seconds}; give 1 to {MOST_FPS} and 1 to {MOST_SECONDS}")
    if path.suffix == ".mp4":
        _ffmpeg()


def _gif(fps: int) -> AbstractMovieWriter:
    """Frames of one palette, so that what stands still is stored once: a third of the size of matplotlib's own."""
    from matplotlib.animation import AbstractMovieWriter
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    palette = Image.new("P", (1, 1))
    palette.putpalette((255 * _palette()).round().astype(int).ravel().tolist())

    class Gif(AbstractMovieWriter):
        def setup(self, fig: Figure, outfile: Any, dpi: float | None = None) -> None:
            super().setup(fig, outfile, dpi)
            self.canvas: Any = FigureCanvasAgg(fig)
            self.frames: list[Image.Image] = []

        def grab_frame(self, **savefig_kwargs: Any) -> None:
            self.canvas.draw()
            frame = Image.fromarray(np.asarray(self.canvas.buffer_rgba())[..., :3])
            self.frames.append(frame.quantize(palette=palette, dither=Image.Dither.NONE))

        def finish(self) -> None:
            first, *others = self.frames
            first.save(self.outfile, "GIF", save_all=True, append_images=others, duration=1000 / self.fps, loop=0)

    return Gif(fps)


def _palette() -> np.ndarray:
    """The colours ``[K, 3]`` that films are drawn in, and their blends with the white behind them."""
    from matplotlib import colormaps
    from matplotlib.colors import to_rgb

    lines = np.array([to_rgb(color) for color in COLORS])
    pale = [1 - share * (1 - lines) for share in np.linspace(0.2, 1, 5)]
    greys = np.linspace(0, 1, 17)[:, None].repeat(3, axis=1)
    return np.concatenate([colormaps["viridis"](np.linspace(0, 1, 96))[:, :3], *pale, greys])


def _mp4(fps: int) -> AbstractMovieWriter:
    import matplotlib
    from matplotlib.animation import FFMpegWriter

    matplotlib.rcParams["animation.ffmpeg_path"] = _ffmpeg()
    size = ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2"]  # h264 takes even ones only
    return FFMpegWriter(fps, codec="h264", extra_args=["-pix_fmt", "yuv420p", *size, "-f", "mp4"])


def _ffmpeg() -> str:
    """The program: the one on the path, or that of imageio-ffmpeg."""
    if (found := shutil.which("ffmpeg")) is not None:
        return found
    if importlib.util.find_spec("imageio_ffmpeg") is None:
        raise ImportError(
            "MP4 needs ffmpeg, which is not on the path; pip install 'dmpo[video]' (in a clone: pip install -e "
            "'.[video]'), or give a .gif instead"
        )
    from imageio_ffmpeg import get_ffmpeg_exe

    return str(get_ffmpeg_exe())


_WRITERS: Mapping[str, Callable[[int], AbstractMovieWriter]] = {".gif": _gif, ".mp4": _mp4}
"""Suffix -> what writes such a film."""


def _clock(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def _cars(drive: Drive) -> tuple[Figure, Update]:
    """The road from above, a line a car, coloured by speed; the speeds of some below, with a line at the time."""
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    loop = drive.road is not None
    figure = Figure(figsize=(4.0, 4.8 if loop else 3.0), dpi=DPI, layout="constrained")
    road, speeds = figure.subplots(2, height_ratios=(3, 1) if loop else (1, 1.6))
    place = _bodies(drive)
    cars = LineCollection([], cmap="viridis", linewidths=5, capstyle="butt")
    cars.set_clim(0, max(float(drive.cars.speed.max()), 1e-3))
    road.add_collection(cars)
    if drive.road is not None:
        road.plot(*drive.road.points.T, color="0.85", linewidth=7, zorder=0)
        road.set_aspect("equal")
        road.set_axis_off()
    else:
        road.set_xlim(float(place[..., 0].min()) - 5, 5)
        road.axhline(0, color="0.85", linewidth=10, zorder=0)
        road.set_ylim(-1, 1)
        road.set_yticks([])
        name_axes(road, "behind the lead car (m)", "")
    figure.colorbar(cars, ax=road, pad=0.02).set_label("speed (m/s)", fontsize=LABEL)
    figure.axes[-1].tick_params(labelsize=TICK)
    draw_cars(speeds, drive, drive.cars.speed, "speed (m/s)")
    speeds.legend(fontsize=LEGEND, frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 0.97))
    now = speeds.axvline(0, color="black", linewidth=0.8)

    def update(frame: int) -> None:
        cars.set_segments(place[frame])
        cars.set_array(drive.cars.speed[frame])
        now.set_xdata([drive.seconds[frame]] * 2)

    return figure, update


def _bodies(drive: Drive) -> np.ndarray:
    """Three points of every car, front to tail, ``[frames, cars, 3, 2]`` in m."""
    tail = CAR_LENGTH * np.linspace(0, 1, 3)
    if drive.road is not None:
        return drive.road.at(drive.cars.position[..., None] - tail)
    # Headways are gaps, so that the cars ahead take their own lengths beside them.
    front = drive.cars.position - CAR_LENGTH * np.arange(drive.cars.position.shape[1])
    x = front[..., None] - tail
    return np.stack([x, np.zeros_like(x)], axis=-1)


def _signals(junctions: Junctions) -> tuple[Figure, Update]:
    """All lanes; queues as long as they are; who has green; and rings for vehicles that wait to depart."""
    from matplotlib.collections import LineCollection
    from matplotlib.figure import Figure

    network = junctions.network
    figure = Figure(figsize=(4.2, 4.6), dpi=DPI, layout="constrained")
    plan = figure.subplots()
    roads = [np.array(shape) for shape in network.shapes.values() if shape]
    plan.add_collection(LineCollection(roads, colors="0.85", linewidths=1))
    plan.autoscale()
    plan.margins(0.01)
    plan.set_aspect("equal")
    plan.set_axis_off()
    lanes = [np.array(network.shapes[lane]) for lane in network.incoming]
    ends = np.array([lane[-1] for lane in lanes])
    queues = LineCollection([], colors=COLORS[1], linewidths=2.5, label="queue")
    plan.add_collection(queues)
    shown: dict[str, Any] = {"linewidths": 0, "zorder": 3}
    for color, name in ((COLORS[2], "may go"), ("black", "may not")):
        plan.scatter([], [], s=12, color=color, label=name, **shown)
    stops = plan.scatter(ends[:, 0], ends[:, 1], s=7, **shown)
    places = dict(zip(network.incoming, ends, strict=True))
    middles = np.array([np.mean([places[lane] for lane in s.incoming], axis=0) for s in network.signals])
    ring: dict[str, Any] = {"facecolors": "none", "edgecolors": COLORS[0], "linewidths": 1}
    outside = plan.scatter(middles[:, 0], middles[:, 1], s=0, **ring)
    plan.scatter([], [], s=30, label="waiting to depart", **ring)
    figure.legend(fontsize=LEGEND, frameon=False, ncols=4, loc="outside lower center")
    green = junctions.green

    def update(frame: int) -> None:
        queues.set_segments([_last(lane, JAM * k) for lane, k in zip(lanes, junctions.halting[frame], strict=True)])
        stops.set_color([COLORS[2] if go else "black" for go in green[frame]])
        outside.set_sizes(4 * junctions.backlog[frame])

    return figure, update


def _last(lane: np.ndarray, metres: float) -> np.ndarray:
    """The end of a polyline ``[P, 2]``."""
    left = np.concatenate([np.linalg.norm(np.diff(lane, axis=0), axis=1)[::-1].cumsum()[::-1], [0.0]])
    metres = min(metres, float(left[0]))
    begin = [np.interp(metres, left[::-1], xy[::-1]) for xy in lane.T]
    return np.concatenate([[begin], lane[left < metres], lane[-1:]])
