"""A training that is killed again and again ends with the same weights and the same log as one that never was."""

import os
import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from processes import start_training

from combo_avs.pipeline.config.tree import Config
from combo_avs.pipeline.runs.checkpoints import checkpoints
from combo_avs.pipeline.runs.data import DataNames
from combo_avs.pipeline.runs.folder import read_best, read_run_log

CACHES = ("felzenszwalb", "logmel")
CLOCKS = ("seconds", "clips_per_second", "data_wait", "memory_gb")


def what_was_learned(run: Path) -> dict[str, Any]:
    """Everything that must not depend on kills: the last checkpoint, bit by bit, the best weights and the log."""
    last = checkpoints(run)[-1]
    log = [{k: v for k, v in entry.items() if k not in CLOCKS} for entry in read_run_log(run)]
    weights = {p.name: p.read_bytes() for p in (*last.glob("*.safetensors"), run / "best" / "model.safetensors")}
    return {"step": last.name, "log": log, "best": read_best(run), **weights}


def progress(run: Path) -> tuple[str, ...]:
    """Changes with every save, also while one is being written."""
    return tuple(sorted(os.listdir(run / "checkpoints"))) if (run / "checkpoints").exists() else ()


@pytest.mark.parametrize("kills", [3, pytest.param(25, marks=pytest.mark.slow)])
def test_kill_at_random_instants(prepared: Path, config: Config, tmp_path: Path, kills: int) -> None:
    settings = {"steps": 3 * kills, "evaluate_every": 4, "checkpoint_every": 1, "ema_decay": 0.9, "device": "cpu"}
    config = config.model_copy(update={"train": config.train.model_copy(update=settings)})
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    rng, in_a_save = random.Random(kills), 0

    def start(out: Path) -> BaseProcess:
        return start_training(DataNames(prepared, *CACHES), config, out, resume=True)

    def await_end(process: BaseProcess) -> None:
        process.join()
        assert process.exitcode == 0

    await_end(start(whole))
    for _ in range(kills):
        before, process = progress(cut), start(cut)
        while progress(cut) == before and process.is_alive():
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.2))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it ended before it could be killed"
        in_a_save += any(name.endswith(".tmp") for name in progress(cut))
    print(f"{kills} kills, {in_a_save} of them inside a save")
    await_end(start(cut))
    assert what_was_learned(cut) == what_was_learned(whole)
    assert not list(cut.rglob("*.tmp"))
