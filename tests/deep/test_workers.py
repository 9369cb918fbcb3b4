"""Simulations in processes of their own: replaced when they die, hang or fail, and nothing left behind."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import joblib
import numpy as np
import psutil
import pytest

pytest.importorskip("gymnasium")

from dmpo_deep.envs import make_env
from dmpo_deep.envs.sumo import FILES, STALE, Session
from dmpo_deep.envs.workers import Fleet
from tests.deep.simulations import Counter

ROOT = Path(__file__).parents[2]


def played(fleet, steps=6):
    """Frames of an episode of two copies without their process ids, and who was given up when."""
    frames, given_up = [fleet.start(np.array([0.25, 0.5]), np.array([True, True]))[:, :3]], []
    for k in range(steps):
        frame, lost = fleet.step(np.full((2, 3), float(k)))
        frames.append(frame[:, :3])
        given_up.append(lost.tolist())
    return np.array(frames), given_up


@pytest.mark.parametrize(
    ("trouble", "said"), [("dies", "died .exit status -9"), ("hangs", "does not answer"), ("fails", "no valid route")]
)
def test_an_episode_that_breaks_is_played_again_to_where_it_stood(trouble, said, tmp_path):
    whole, _ = played(Fleet(Counter, 2, 4))
    fleet = Fleet(partial(Counter, tmp_path, trouble, at=3), 2, 4, timeout=3.0)
    with pytest.warns(RuntimeWarning) as caught:
        frames, given_up = played(fleet)
    told = rf"copy [01] at step 4 of its episode: .*{said}.*; its episode is played again in a new worker"
    assert len(caught) == 2
    assert all(re.fullmatch(told, str(warning.message)) for warning in caught)
    np.testing.assert_array_equal(frames, whole)
    assert not np.any(given_up)
    fleet.close()


def test_an_episode_that_breaks_every_time_is_given_up_and_the_next_one_runs():
    fleet = Fleet(partial(Counter, trouble="dies", at=3), 2, 4)
    with pytest.warns(RuntimeWarning) as caught:
        frames, given_up = played(fleet, steps=4)
    assert sum("3 times; the episode ends here, as if by the time limit" in str(w.message) for w in caught) == 2
    assert given_up == [[False, False]] * 3 + [[True, True]]
    np.testing.assert_array_equal(frames[4], frames[3])
    again = fleet.start(np.array([0.125]), np.array([False, True]))
    assert again[1, :2].tolist() == [0.125, 0]
    fleet.close()


def test_workers_can_be_had_inside_the_workers_of_a_sweep():
    """Processes of joblib have a way of their own to start others, of which a worker of ours knows nothing."""

    def there(_):
        fleet = Fleet(Counter, 2, 4)
        frames = played(fleet)[0]
        fleet.close()
        return frames

    side_by_side = joblib.Parallel(n_jobs=2, backend="loky")(joblib.delayed(there)(k) for k in range(2))
    np.testing.assert_array_equal(side_by_side, [played(Fleet(Counter, 2, 4))[0]] * 2)


def test_a_mistake_of_the_user_is_told_and_not_repeated():
    for isolated in (True, False):
        fleet = Fleet(partial(Counter, at=1), 1, 4, isolated)
        fleet.start(np.array([0.5]), np.array([True]))
        fleet.step(np.ones((1, 3)))
        with pytest.raises(ValueError, match="a mistake of the user"):
            fleet.step(np.ones((1, 3)))


def test_a_simulator_that_cannot_start_is_no_endless_loop():
    class Broken:
        def __init__(self):
            raise ValueError("no such network")

    with pytest.raises(ValueError, match="no such network"):
        Fleet(Broken, 1, 4, isolated=False).start(np.array([0.5]), np.array([True]))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be given processors here")
def test_workers_share_the_processors_evenly():
    """Whole ones while there are enough, so that workers that wake together run together."""
    fleet = Fleet(Counter, 3, 4)
    workers = fleet.start(np.array([0.1, 0.2, 0.3]), np.ones(3, dtype=bool))[:, 3].astype(int)
    given = [os.sched_getaffinity(worker) for worker in workers]
    available = os.sched_getaffinity(0)
    assert set().union(*given) == available
    shared = [sum(one in some for some in given) for one in available]
    assert max(shared) - min(shared) <= 1
    assert {os.sched_getscheduler(worker) for worker in workers} == {os.SCHED_BATCH}
    fleet.close()


def test_copies_live_in_processes_of_their_own_and_leave_nothing():
    fleet = Fleet(Counter, 3, 4)
    frames = fleet.start(np.array([0.1, 0.2, 0.3]), np.ones(3, dtype=bool))
    processes = set(frames[:, 3].astype(int).tolist())
    assert len(processes | {os.getpid()}) == 4
    fleet.close()
    assert not any(map(psutil.pid_exists, processes))
    fleet.start(np.array([0.1, 0.2, 0.3]), np.ones(3, dtype=bool))
    fleet.close()
    with pytest.warns(RuntimeWarning, match="the simulation was closed"):
        frames = fleet.step(np.ones((3, 1)))[0]
    assert frames[:, 1].tolist() == [1, 1, 1]
    processes = set(frames[:, 3].astype(int).tolist())
    del fleet
    assert not any(map(psutil.pid_exists, processes))


def test_a_state_is_the_way_that_led_to_it():
    one, other = Fleet(Counter, 2, 4), Fleet(Counter, 2, 4)
    one.start(np.array([0.25]), np.array([True, False]))
    one.start(np.array([0.5]), np.array([False, True]))
    for k in range(5):
        one.step(np.full((2, 3), float(k)))
    frames = other.load_state_dict(one.state_dict())
    np.testing.assert_array_equal(frames[:, :3], [[0.25, 5, 30], [0.5, 5, 30]])
    a, b = one.step(np.ones((2, 3)))[0], other.step(np.ones((2, 3)))[0]
    np.testing.assert_array_equal(a[:, :3], b[:, :3])
    one.close(), other.close()


SCRIPT = """
import sys, time
import numpy as np
from dmpo_deep.envs import make_env
if __name__ == "__main__":
    batch = int(sys.argv[1])
    env = make_env("eight", max(batch, 1), right_of_way="inside", isolated=batch > 0)
    rng = np.random.default_rng(0)
    env.reset(rng)
    print("running", flush=True)
    while True:
        if (env.step(np.zeros((env.batch, 14, 1)))[3]).any():
            env.reset(rng)
"""


@pytest.mark.parametrize(
    ("number", "isolated"),
    [(signal.SIGINT, 2), (signal.SIGTERM, 2), (signal.SIGKILL, 2), (signal.SIGTERM, 0), (signal.SIGKILL, 0)],
)
def test_nothing_is_left_of_a_script_that_is_stopped(number, isolated, tmp_path):
    pytest.importorskip("libsumo")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    variables = {key: value for key, value in os.environ.items() if key != "SUMO_HOME"}
    variables |= {"TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, str(script), str(isolated)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=variables,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which shells ignore in the background
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"running\n"
        workers = psutil.Process(run.pid).children(recursive=True)
        try:
            assert len(workers) >= isolated
            if number == signal.SIGINT:
                os.killpg(run.pid, number)  # as a terminal does it, to the workers, too
            else:
                run.send_signal(number)
            run.wait(20)
        finally:
            run.kill()
        _, alive = psutil.wait_procs(workers, timeout=20)
        assert not alive
        assert run.stderr is not None
        assert b"FileNotFoundError" not in run.stderr.read()
    assert list(tmp_path.iterdir()) == [script], "files left"


def test_input_exists_while_sumo_reads_it_and_stale_input_is_removed(tmp_path, monkeypatch):
    pytest.importorskip("libsumo")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    stale, fresh = tmp_path / f"{FILES}a", tmp_path / f"{FILES}b"
    for folder in (stale, fresh):
        folder.mkdir()
        (folder / "net-file.xml").touch()
    os.utime(stale, (time.time() - STALE - 1,) * 2)
    session, seen = Session(), []
    assert list(tmp_path.iterdir()) == [fresh]
    monkeypatch.setattr(session, "_load", lambda flags: seen.extend((flags, sorted(tmp_path.rglob("*.xml")))))
    session.api = SimpleNamespace(simulation=SimpleNamespace(getTime=float))
    session.load({"net-file": "given.xml", "seed": 3, "flag": True}, {"net-file": "<net/>", "route-files": "<routes/>"})
    flags, files = seen
    routes, net = [path for path in map(Path, files) if path.parent != fresh][::-1]
    assert flags[:5] == ["--net-file", f"given.xml,{net}", "--seed", "3", "--flag"]
    assert flags[5:7] == ["--route-files", str(routes)]
    assert list(tmp_path.iterdir()) == [fresh]


def test_kill_9_of_a_worker_in_mid_episode_changes_nothing():
    pytest.importorskip("libsumo")
    seen = []
    for kills in (False, True):
        env, rng = make_env("eight", 2), np.random.default_rng(3)
        env.reset(rng)
        rows = []
        for k in range(60):
            if kills and k in (10, 40):
                worker = psutil.Process(env.fleet.workers[k == 40])
                worker.kill()
                worker.wait(10)
                with pytest.warns(RuntimeWarning, match="died|is gone"):
                    rows.append(env.step(np.full((2, 14, 1), 0.05 * np.sin(k)))[0])
                continue
            rows.append(env.step(np.full((2, 14, 1), 0.05 * np.sin(k)))[0])
        seen.append(np.array(rows))
        env.close()
    np.testing.assert_array_equal(seen[0], seen[1])


def test_a_worker_that_hangs_is_replaced():
    pytest.importorskip("libsumo")
    env = make_env("eight", 1)
    env.reset(np.random.default_rng(0))
    env.fleet.timeout = 2.0
    os.kill(env.fleet.workers[0], signal.SIGSTOP)
    start = time.monotonic()
    with pytest.warns(RuntimeWarning, match="does not answer"):
        obs = env.step(np.full((1, 14, 1), 0.5))[0]
    assert time.monotonic() - start < 20
    assert (obs[..., 0] > 0).all()
    env.close()


def test_one_simulation_in_a_process():
    pytest.importorskip("libsumo")
    first, second = (make_env("eight", 1, isolated=False) for _ in range(2))
    first.reset(np.random.default_rng(0))
    with pytest.raises(RuntimeError, match="another simulation runs in this process, and SUMO has room"):
        second.reset(np.random.default_rng(0))
    first.step(np.zeros((1, 14, 1)))
    isolated = make_env("eight", 1)
    isolated.reset(np.random.default_rng(0))
    isolated.close()
    first.close()
    second.reset(np.random.default_rng(0))
    second.close()
    with pytest.raises(
        ValueError, match=r"batch = 2 with isolated = False; SUMO has room for one simulation in a proc"
    ):
        make_env("eight", 2, isolated=False)


def test_a_simulation_that_somebody_else_runs_is_not_replaced(tmp_path):
    pytest.importorskip("libsumo")
    code = (
        "import libsumo, numpy as np\n"
        "from dmpo_deep.envs import make_env\n"
        "from dmpo_deep.envs.atsc import GRID_NETWORK\n"
        "libsumo.start(['sumo', '-n', str(GRID_NETWORK), '--no-step-log', '--no-warnings'])\n"
        "make_env('eight', 1, isolated=False).reset(np.random.default_rng(0))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1
    assert "RuntimeError: another simulation runs in this process" in done.stderr


def test_without_libsumo_the_error_says_what_to_install():
    code = (
        "import sys; sys.modules['libsumo'] = None\n"
        "import numpy as np\n"
        "from dmpo_deep.envs import make_env\n"
        "env = make_env('eight', 1, isolated=False)\n"
        "env.reset(np.random.default_rng(0))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1
    assert "ImportError: libsumo is not installed; pip install 'dmpo[sumo]'" in done.stderr


def test_what_sumo_refuses_is_told_in_its_words(tmp_path):
    pytest.importorskip("libsumo")
    (tmp_path / "net.xml").write_text('<net version="1.20"><edge></net>')
    code = f"from dmpo_deep.envs.sumo import Session\nSession().load({{'net-file': {str(tmp_path / 'net.xml')!r}}})\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1
    assert "Attribute 'id' is missing" in done.stderr
    assert "SimulationError: SUMO refuses to start" in done.stderr
    with pytest.raises(ValueError, match="backend = 'gui'; give one of 'libsumo', 'traci', 'sumo-gui'"):
        Session("gui")


def test_traci_gives_the_same_trajectories():
    pytest.importorskip("libsumo")
    try:
        from dmpo_deep.envs.sumo import require_sumo

        require_sumo("traci")
    except ImportError as error:
        pytest.skip(str(error))
    seen = []
    for backend in ("libsumo", "traci"):
        env = make_env("eight", 1, backend=backend, isolated=False, right_of_way="inside")
        env.reset(np.random.default_rng(1))
        seen.append([env.step(np.full((1, 14, 1), np.cos(k / 9)))[0] for k in range(150)])
        env.close()
    np.testing.assert_array_equal(*seen)
