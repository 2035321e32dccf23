"""A job that is killed at any instant leaves nothing half-done, and the finished store is as if it never was."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from combo_avs.cli import app
from combo_avs.console import run

ARGUMENTS = {
    "import": ["synthetic", "ROOT", "--flavour", "ms3", "--clips", "80", "--size", "64", "--shard-frames", "10"],
    "precompute": ["ROOT", "--proposals", "felzenszwalb", "--audio", "logmel", "--workers", "2"],
}


def contents(root: Path) -> dict[str, bytes]:
    """All files that equal work must make equal; times and locks aside."""
    kept = (p for p in sorted(root.rglob("*")) if p.is_file() and p.name != "_lock" and p.parent.name != "_log")
    return {str(p.relative_to(root)): p.read_bytes() for p in kept}


def command(job: str, root: Path) -> list[str]:
    return [job, *(str(root) if a == "ROOT" else a for a in ARGUMENTS[job])]


def kill_after(job: str, root: Path, seconds: float) -> int | None:
    """Start a job in a process group of its own and SIGKILL all of it; gives its exit code if it was faster."""
    process = subprocess.Popen(
        [sys.executable, "-m", "combo_avs", *command(job, root)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return None


@pytest.mark.parametrize("kills", [3, pytest.param(25, marks=pytest.mark.slow)])
def test_kill_at_random_instants(tmp_path: Path, kills: int) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for job in ARGUMENTS:
        started = time.monotonic()
        subprocess.run([sys.executable, "-m", "combo_avs", *command(job, whole)], check=True, capture_output=True)
        full = time.monotonic() - started
        rng = random.Random(kills)
        for _ in range(kills):
            kill_after(job, cut, rng.uniform(0.3, 0.9) * full)
        assert run(app, command(job, cut)) == 0
    assert contents(cut) == contents(whole)
    assert run(app, ["cache", "verify", str(cut)]) == 0
