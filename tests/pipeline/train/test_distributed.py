"""Several processes train as one: the same loss, exactly the same scores, one voice, and a common end."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Event

import pytest
import torch
from processes import exit_codes, gather_rows, start_ranks
from safetensors.torch import load_file

from combo_avs.errors import BadInput, ComboError
from combo_avs.pipeline.common.distributed import Ranks
from combo_avs.pipeline.config.tree import Config
from combo_avs.pipeline.evaluate.run import evaluate_run
from combo_avs.pipeline.runs.checkpoints import checkpoints
from combo_avs.pipeline.runs.data import DataNames
from combo_avs.pipeline.runs.folder import read_run_log
from combo_avs.pipeline.train.loop import train

CACHES = ("felzenszwalb", "logmel")


def with_settings(config: Config, **train_settings) -> Config:
    return config.model_copy(update={"train": config.train.model_copy(update=train_settings)})


def losses(run: Path) -> list[dict[str, float]]:
    steps = [entry for entry in read_run_log(run) if "total" in entry]
    return [{k: v for k, v in entry.items() if k.startswith("loss") or k == "total"} for entry in steps]


def await_checkpoint(run: Path) -> None:
    while not checkpoints(run):
        time.sleep(0.05)


@pytest.mark.parametrize("layout", ["per_frame", "published"])
def test_two_processes_train_as_one(prepared: Path, config: Config, tmp_path: Path, layout: str) -> None:
    config = config.model_copy(update={"model": config.model.model_copy(update={"audio_queries": layout})})
    config = with_settings(config, steps=4, evaluate_every=2, checkpoint_every=2, ema_decay=0.5, device="cpu")
    one, two = tmp_path / "one", tmp_path / "two"
    train(DataNames(prepared, *CACHES), config, one)
    assert exit_codes(start_ranks(2, DataNames(prepared, *CACHES), config, two)) == [0, 0]

    for alone, shared in zip(losses(one), losses(two), strict=True):
        assert shared == pytest.approx(alone, rel=1e-4)
    assert [e["grad_norm"] for e in read_run_log(two) if "total" in e] == pytest.approx(
        [e["grad_norm"] for e in read_run_log(one) if "total" in e], rel=1e-3
    )
    a, b = (load_file(checkpoints(run)[-1] / "model.safetensors") for run in (one, two))
    assert a.keys() == b.keys()
    # Of a bias before a norm over its channels the gradient is rounding, which AdamW makes into whole steps.
    compared = [k for k in a if not k.startswith("pixel_decoder.input_proj.")]
    assert all(torch.allclose(a[k], b[k], atol=1e-3) for k in compared)

    logged = [e for e in read_run_log(two) if "M_J" in e]
    best = max(logged, key=lambda e: e["M_J"])  # the first of equals
    again = evaluate_run(two, "val", device="cpu")["published"]
    assert {k: best[k] for k in ("M_J", "M_F")} == {"M_J": again.M_J, "M_F": again.M_F}


def test_rows_of_all_processes_in_the_order_of_ranks() -> None:
    """Clips have five or ten frames, so processes have different numbers of them."""
    found = gather_rows([2, 1, 3])
    rows = [[1.0, 1.0]] * 2 + [[2.0, 2.0]] + [[3.0, 3.0]] * 3
    assert [whole for whole, _, _ in found] == [rows] * 3
    assert [first for _, first, _ in found] == [0, 2, 3]
    gradients = [[6.0 * place] * 2 for place in range(6)]  # (1 + 2 + 3) times the number of the row
    assert [gradient for _, _, gradient in found] == [gradients[:2], gradients[2:3], gradients[3:]]


def test_a_run_goes_on_with_another_number_of_processes(prepared: Path, config: Config, tmp_path: Path) -> None:
    # With power 0 the learning rate does not depend on the number of steps.
    steady = {"poly_power": 0, "evaluate_every": 9, "checkpoint_every": 9, "device": "cpu"}
    whole, run = tmp_path / "whole", tmp_path / "run"
    names = DataNames(prepared, *CACHES)
    train(names, with_settings(config, steps=4, **steady), whole)
    assert exit_codes(start_ranks(2, names, with_settings(config, steps=2, **steady), run)) == [0, 0]
    train(names, with_settings(config, steps=3, **steady), run, resume=True)
    again = start_ranks(2, names, with_settings(config, steps=4, **steady), run, resume=True)
    assert exit_codes(again) == [0, 0]
    assert losses(run) == [pytest.approx(loss, rel=1e-4) for loss in losses(whole)]


def test_a_signal_to_one_process_stops_all_at_the_same_step(prepared: Path, config: Config, tmp_path: Path) -> None:
    config = with_settings(config, steps=10_000, evaluate_every=10_000, device="cpu")
    processes = start_ranks(2, DataNames(prepared, *CACHES), config, tmp_path / "run")
    await_checkpoint(tmp_path / "run")
    os.kill(processes[1].pid, signal.SIGTERM)
    assert exit_codes(processes) == [4, 4]
    assert checkpoints(tmp_path / "run")[-1].name == f"step-{len(losses(tmp_path / 'run')):08d}"


def test_bad_input_is_said_by_all_exit_codes(prepared: Path, config: Config, tmp_path: Path) -> None:
    odd = with_settings(config, clips_per_batch=3, device="cpu")
    assert exit_codes(start_ranks(2, DataNames(prepared, *CACHES), odd, tmp_path / "run")) == [1, 1]
    assert not (tmp_path / "run").exists()


def test_when_one_process_dies_the_others_end(prepared: Path, config: Config, tmp_path: Path) -> None:
    config = with_settings(config, steps=10_000, evaluate_every=10_000, device="cpu")
    processes = start_ranks(2, DataNames(prepared, *CACHES), config, tmp_path / "run")
    await_checkpoint(tmp_path / "run")
    processes[1].kill()
    assert exit_codes(processes) == [5, -signal.SIGKILL]


def test_shares_are_the_whole() -> None:
    for total in (1, 7, 8):
        parts = [list(range(total))[Ranks(rank, 3).share(total)] for rank in range(3)]
        assert [i for part in parts for i in part] == list(range(total))


def test_alone_nothing_is_exchanged() -> None:
    ranks = Ranks()
    assert ranks.first
    event = Event()
    assert not ranks.any_set(event)
    event.set()
    assert ranks.any_set(event)
    assert ranks.gather("x") == ["x"]
    assert ranks.first_does(lambda: 7) == ranks.all_do(lambda: 7) == 7

    def fails() -> None:
        raise BadInput("no")

    for does in (ranks.first_does, ranks.all_do):
        with pytest.raises(BadInput, match="no"):
            does(fails)


def test_others_leave_with_the_same_code_in_silence() -> None:
    error = ComboError("broke")
    assert Ranks(0, 2).once(error) is error
    others = Ranks(1, 2).once(error)
    assert isinstance(others, SystemExit)
    assert others.code == 5


@pytest.mark.slow
def test_torchrun(prepared: Path, config: Config, tmp_path: Path) -> None:
    """As users start it; SIGTERM to torchrun stops with a checkpoint."""
    tree = config.model_dump(mode="json")
    tiny = [f"{s}.{k}={json.dumps(v)}" for s in ("model", "loss") for k, v in tree[s].items()]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command += ["combo_avs", "train", str(prepared), "--preset", "tiny", "--out", str(tmp_path / "run")]
    command += ["--proposals", CACHES[0], "--audio", CACHES[1], "--resume", "auto"]
    often = ["train.clips_per_batch=2", "train.checkpoint_every=1", "train.evaluate_every=3", "train.device=cpu"]
    command += [word for setting in (*tiny, *often) for word in ("--set", setting)]
    process = subprocess.Popen([*command, "--steps", "100000"], stderr=subprocess.PIPE, text=True)
    await_checkpoint(tmp_path / "run")
    process.send_signal(signal.SIGTERM)
    error = process.communicate()[1]
    assert error.count("resume with --resume auto") == 1, error
    done = len(losses(tmp_path / "run"))
    assert checkpoints(tmp_path / "run")[-1].name == f"step-{done:08d}"
    steps = str(done + 2)
    finished = subprocess.run([*command, "--steps", steps], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert len(losses(tmp_path / "run")) == done + 2
