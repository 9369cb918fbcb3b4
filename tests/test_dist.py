"""What is shipped: the wheel has its data, and in a virtual environment of its own, outside of this folder, it works.

make dist
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one that DMPO_WHEEL names, or a new one."""
    if given := os.environ.get("DMPO_WHEEL"):
        return Path(given).resolve()
    pytest.importorskip("build")
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", str(out), str(ROOT)], check=True)
    [found] = out.glob("*.whl")
    return found


def test_the_wheel_has_everything_that_is_tracked(wheel: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "dmpo_deep", "dmpo_theory"], cwd=ROOT, capture_output=True, text=True)
    tracked = set(listed.stdout.split())
    assert {"dmpo_deep/py.typed", "dmpo_theory/py.typed"} <= tracked
    assert tracked <= set(zipfile.ZipFile(wheel).namelist())


def test_the_wheel_works_alone(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    bin = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin")
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([bin / "python", "-m", "pip", "install", "--quiet", f"{wheel}[deep,plot,export]"], check=True)
    shutil.copy(ROOT / "examples" / "reservoirs.py", tmp_path)
    for command in (
        "bounds --out bounds --families path --n 4",
        "train catchup --steps 1200 --out catchup",
        "plot catchup --out figures",
        "check-env reservoirs.py:Reservoirs",
        "train reservoirs:Reservoirs --algo dmpo --steps 1200 --out own",
        "evaluate own",
        "export own --onnx --out policies",
    ):
        done = subprocess.run(
            [bin / "dmpo", *command.split()], cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
    code = "import dmpo_deep; print(dmpo_deep.__file__)"
    where = subprocess.run([bin / "python", "-c", code], cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert Path(where.stdout.strip()).is_relative_to(tmp_path)
