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
KILLS = 100  # of the long form, of either job
LATEST = {"begin": 0.05, "write": 1.0}  # seconds after that


def command(job: str, root: Path, workers: int) -> list[str]:
    arguments = [str(root) if a == "ROOT" else a for a in ARGUMENTS[job]]
    return [job, *arguments, *([str(workers)] if job == "precompute" else [])]


def kill(job: str, root: Path, after: str, delay: float) -> bool:
    """SIGKILL a job with all of its workers, `delay` seconds after it takes hold of its root or writes its first shard.

    False when it was faster.
    """
    look = {"begin": metadata, "write": data}[after]
    before = look(root)
    process = subprocess.Popen(
        [sys.executable, "-m", "combo_avs", *command(job, root, workers=2)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while process.poll() is None and look(root) == before:
        time.sleep(0.002)
    try:
        assert process.wait(delay) == 0
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


def metadata(root: Path) -> list[str]:
    return sorted(map(str, [*root.glob("*/*"), *root.glob("*/*.zarr/*")]))


def data(root: Path) -> list[str]:
    """Files of shards, temporary ones of their writers, and receipts."""
    names = (str(p.relative_to(root)) for p in root.rglob("*") if p.is_file())
    return sorted(name for name in names if "/c/" in name or "/_done/" in name)


def half_done(root: Path) -> bool:
    """Whether there are files of a shard without its receipt."""
    receipts = {(str(p.parents[1].relative_to(root)), int(p.stem)) for p in root.rglob("_done/*.json")}
    written = [name.split("/c/") for name in data(root) if "/c/" in name and not name.endswith(".tmp")]
    return any((array.rsplit("/", 1)[0], int(key.split("/")[0])) not in receipts for array, key in written)


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


@pytest.mark.parametrize("kills", [2, pytest.param(KILLS, marks=pytest.mark.slow)])
@pytest.mark.parametrize("job", ARGUMENTS)
def test_kill_at_random_instants(tmp_path: Path, whole: Path, job: str, kills: int) -> None:
    rng = random.Random(kills)
    rounds, found = 0, {"begin": 0, "write": 0, "half done": 0}
    while found["begin"] + found["write"] < kills:
        rounds += 1
        root = tmp_path / str(rounds)
        if job == "precompute":
            shutil.copytree(whole / "clips.zarr", root / "clips.zarr")
        while found["begin"] + found["write"] < kills:
            after = "begin" if found["begin"] < found["write"] else "write"
            if not kill(job, root, after, rng.uniform(0, LATEST[after])):
                break
            found[after] += 1
            found["half done"] += half_done(root)
        finish(job, root, whole)
    print(f"{job}: kills {found}, {rounds} finished stores, all equal")
    assert run(app, ["cache", "verify", str(root)]) == 0
