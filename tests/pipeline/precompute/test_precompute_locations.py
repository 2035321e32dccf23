"""The whole route in memory and on an S3 server, by the commands: import, precompute, kill, resume, verify, train."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from store_locations import contents, killed_at, open_place

from combo_avs.cli import app
from combo_avs.console import run
from combo_avs.data.store.root import list_caches
from combo_avs.data.store.store import ClipStore
from combo_avs.errors import BAD_INPUT, FAILED

CACHES = ["--proposals", "felzenszwalb", "--audio", "logmel"]
SMALL = ["model.width=32", "model.heads=2", "model.num_queries=4", "loss.num_points=64", "train.clips_per_batch=2"]
STEPS = ["train.steps=2", "train.evaluate_every=2", "train.checkpoint_every=1", "train.device=cpu"]


def import_into(root: str) -> None:
    arguments = ["--flavour", "ms3", "--clips", "12", "--size", "64", "--shard-frames", "20"]
    assert run(app, ["import", "synthetic", root, *arguments]) == 0


def shards_done(root: str) -> int:
    return sum(len(cache.done_shards()) for cache in list_caches(root))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What an uninterrupted run makes in a folder."""
    root = str(tmp_path_factory.mktemp("whole"))
    import_into(root)
    assert run(app, ["precompute", root, *CACHES, "--workers", "0"]) == 0
    return root


@pytest.mark.parametrize("kind", ["memory", pytest.param("s3", marks=pytest.mark.slow)])
def test_the_route_behind_a_url(kind: str, tmp_path: Path, folder: str, capsys: pytest.CaptureFixture) -> None:
    root = open_place(kind, tmp_path)
    precompute = ["precompute", root, *CACHES, "--workers", "0"]
    assert run(app, precompute) == BAD_INPUT
    assert "no clips.zarr here" in capsys.readouterr().err
    import_into(root)
    with killed_at(25):
        run(app, precompute)
    assert 0 < shards_done(root) < 2 * ClipStore(root).num_shards
    assert run(app, ["cache", "verify", root]) == FAILED
    assert run(app, precompute) == 0
    assert run(app, ["cache", "verify", root]) == 0
    assert contents(root) == contents(folder)

    scores = []
    for where, out in ((root, tmp_path / "there"), (folder, tmp_path / "here")):
        settings = [f"--set={s}" for s in (*SMALL, *STEPS)]
        assert run(app, ["train", where, "--preset", "tiny", *CACHES, "--out", str(out), *settings]) == 0
        capsys.readouterr()
        assert run(app, ["evaluate", str(out), "--json"]) == 0
        scores.append(json.loads(capsys.readouterr().out) | {"run": None})
    assert scores[0] == scores[1]


@pytest.mark.slow
def test_sigkill_of_two_workers_that_write_to_s3(tmp_path: Path, folder: str) -> None:
    root = open_place("s3", tmp_path)
    import_into(root)
    command = ["precompute", root, *CACHES, "--workers", "2"]
    for killed_after in (1, 3, 5):
        process = subprocess.Popen(
            [sys.executable, "-m", "combo_avs", *command], stderr=subprocess.DEVNULL, start_new_session=True
        )
        while process.poll() is None and shards_done(root) < killed_after:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert shards_done(root) < 2 * ClipStore(root).num_shards
    assert run(app, command) == 0
    assert contents(root) == contents(folder)
    assert run(app, ["cache", "verify", root]) == 0
