"""A job that is killed at any instant leaves nothing half-done, and the finished store is as if it never was."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from store_locations import contents

from combo_avs.cli import app
from combo_avs.console import run

ARGUMENTS = {
    "import": ["synthetic", "ROOT", "--flavour", "ms3", "--clips", "24", "--size", "64", "--shard-frames", "10"],
    "precompute": ["ROOT", "--proposals", "felzenszwalb", "--audio", "logmel", "--workers"],
}
MOMENTS = (0.05, 3, 0.05, 1)  # seconds: half of the kills hit while metadata are written and stores are taken hold of


def command(job: str, root: Path, workers: int) -> list[str]:
    arguments = [str(root) if a == "ROOT" else a for a in ARGUMENTS[job]]
    return [job, *arguments, *([str(workers)] if job == "precompute" else [])]


def kill_when_writing(job: str, root: Path, delay: float) -> bool:
    """SIGKILL a job with all of its workers, `delay` seconds after it first changes its root.

    False when it was faster.
    """
    before = files_of(root)
    process = subprocess.Popen(
        [sys.executable, "-m", "combo_avs", *command(job, root, workers=2)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None and files_of(root) == before:
        time.sleep(0.002)
    try:
        assert process.wait(delay) == 0
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


def files_of(root: Path) -> list[str]:
    return sorted(map(str, [*root.glob("*/*"), *root.glob("*/*.zarr/*")]))


def finish(job: str, root: Path, whole: Path) -> None:
    """Without further kills the job ends, and what it made is what an uninterrupted one made."""
    assert run(app, command(job, root, workers=0)) == 0
    wanted = {n: c for n, c in contents(whole).items() if job == "precompute" or n.startswith("clips.zarr/")}
    assert contents(root) == wanted
    assert not [p for p in root.rglob("*") if p.name.endswith(".tmp") or p.name.startswith("_lock.")]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What both jobs make when nobody kills them."""
    root = tmp_path_factory.mktemp("whole")
    for job in ARGUMENTS:
        assert run(app, command(job, root, workers=0)) == 0
    return root


@pytest.mark.parametrize("kills", [2, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.parametrize("job", ARGUMENTS)
def test_kill_at_random_instants(tmp_path: Path, whole: Path, job: str, kills: int) -> None:
    rng = random.Random(kills)
    killed = rounds = 0
    while killed < kills:
        rounds += 1
        root = tmp_path / str(rounds)
        if job == "precompute":
            shutil.copytree(whole / "clips.zarr", root / "clips.zarr")
        while killed < kills and kill_when_writing(job, root, rng.uniform(0, MOMENTS[killed % len(MOMENTS)])):
            killed += 1
        finish(job, root, whole)
    print(f"{job}: {killed} kills, {rounds} finished stores, all equal")
    assert run(app, ["cache", "verify", str(root)]) == 0
