"""Dask's own files go when the run does, or with the next run if it was killed."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from combo_avs.pipeline.precompute.cluster import SCRATCH, scratch_folder

HOLD = """
from combo_avs.pipeline.precompute.cluster import scratch_folder
with scratch_folder() as folder:
    print(folder, flush=True)
    input()
"""


@pytest.fixture(autouse=True)
def _temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


def holder() -> tuple[subprocess.Popen, Path]:
    """Another run, and its folder, which is an hour old."""
    process = subprocess.Popen([sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    (folder / "spilled").write_text("x")
    age(folder)
    return process, folder


def age(folder: Path) -> None:
    os.utime(folder, (time.time() - 3600,) * 2)


def test_it_goes_at_the_end() -> None:
    with scratch_folder() as folder:
        (Path(folder) / "spilled").write_text("x")
    assert not Path(folder).exists()


def test_what_a_killed_run_left_goes_with_the_next_run() -> None:
    process, folder = holder()
    process.kill()
    process.wait()
    assert folder.exists()
    with scratch_folder():
        assert not folder.exists()


def test_that_of_a_run_at_work_stays() -> None:
    process, folder = holder()
    with scratch_folder() as own:
        assert (folder / "spilled").exists()
        assert own != str(folder)
    process.communicate("\n")
    assert not folder.exists()


def test_a_young_folder_and_what_is_not_ours_stay(tmp_path: Path) -> None:
    (tmp_path / f"{SCRATCH}young").mkdir()
    (tmp_path / f"{SCRATCH}link").symlink_to(tmp_path / "mine")
    (tmp_path / "mine").mkdir()
    age(tmp_path / "mine")
    os.utime(tmp_path / f"{SCRATCH}link", (0, 0), follow_symlinks=False)
    with scratch_folder():
        assert {p.name for p in tmp_path.iterdir()} >= {f"{SCRATCH}young", f"{SCRATCH}link", "mine"}
