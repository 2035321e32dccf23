"""A run folder: what was trained on what, its log, and its checkpoints.

RUN/config.yaml                    the whole config
RUN/run.json                       data set, classes, caches and their fingerprints, package versions
RUN/log.jsonl                      one line per step, one per evaluation
RUN/checkpoints/step-00001000/     model.safetensors, state.pt; the two newest
RUN/best/                          model.safetensors and metrics.json of the best evaluation
"""

import json
import os
import re
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from ..data.receipts import sync, write_atomic
from ..data.store import Cache, ClipStore
from ..errors import BadInput
from .config import Config, parse_config

KEEP = 2
MAY_CHANGE = ("train.steps", "train.evaluate_every", "train.checkpoint_every", "train.device")  # when resuming


@dataclass(frozen=True)
class RunInfo:
    """What a run was trained on. Caches are named in full; makers are theirs, see `Cache.maker`."""

    root: str
    dataset: str
    classes: tuple[str, ...]
    size: tuple[int, int]  # (H, W) of the frames
    clips_fingerprint: str
    proposals: str
    proposals_maker: dict[str, Any]
    audio: str
    audio_maker: dict[str, Any]
    converted_from: str | None = None  # sha256 of a published checkpoint, if the weights were not trained here

    @classmethod
    def of(cls, root: Path, clips: ClipStore, proposals: Cache, audio: Cache) -> "RunInfo":
        return cls(
            str(root.absolute()),
            clips.attributes["dataset"],
            clips.classes,
            clips.size,
            clips.fingerprint(),
            proposals.name,
            proposals.maker,
            audio.name,
            audio.maker,
        )


def create_run(folder: Path, config: Config, info: RunInfo, resume: bool) -> None:
    """Write config and info of a new run, or check that they are those of the run to resume.

    Raises `BadInput` when the folder holds a run and `resume` is off, or another run than this one.
    """
    if (folder / "run.json").exists():
        if not resume:
            raise BadInput(f"{folder} already holds a run; continue it with --resume auto, or name another folder")
        old_config, old_info = read_run(folder)
        old, new = asdict(old_info), asdict(info)
        differing = [k for k in new if new[k] != old[k] and k != "root"]
        old_tree, new_tree = old_config.model_dump(), config.model_dump()
        differing += [f"{s}.{k}" for s in new_tree for k in new_tree[s] if new_tree[s][k] != old_tree[s][k]]
        differing = [k for k in differing if k not in MAY_CHANGE]
        if differing:
            raise BadInput(f"{folder} cannot be resumed with other settings; different: {', '.join(differing)}")
    write_atomic(folder / "config.yaml", yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    write_atomic(folder / "run.json", json.dumps(asdict(info), indent=1) + "\n")


def create_converted_run(folder: Path, config: Config, info: RunInfo, weights: Mapping[str, Tensor]) -> None:
    """A run whose best weights come from elsewhere, so that it can be evaluated and predicted with, not resumed.

    weights: as in `COMBO.state_dict()`. What is there already of the same run stays.
    """
    create_run(folder, config, info, resume=True)
    best = folder / "best"
    if not (best / "metrics.json").exists():
        best.mkdir(exist_ok=True)
        _write_weights(best / "model.safetensors", weights)
        write_atomic(best / "metrics.json", json.dumps({"step": 0}) + "\n")


def read_run(folder: Path) -> tuple[Config, RunInfo]:
    """Raises `BadInput` when the folder holds no run."""
    try:
        config = yaml.safe_load((folder / "config.yaml").read_text())
        info = json.loads((folder / "run.json").read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise BadInput(f"{folder}: not a run folder ({error}); 'combo train ... --out {folder}' makes one") from error
    return parse_config(config), RunInfo(**{**info, "classes": tuple(info["classes"]), "size": tuple(info["size"])})


def append_log(folder: Path, lines: list[dict[str, Any]]) -> None:
    with (folder / "log.jsonl").open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """All whole lines of the log; steps that were done again after a kill appear once, as last done."""
    if not (folder / "log.jsonl").exists():
        return []
    last: dict[tuple[str, int], dict[str, Any]] = {}
    for line in (folder / "log.jsonl").read_text().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue  # a kill can cut the last line
        last[("metrics" if "M_J" in entry else "loss", entry["step"])] = entry
    return sorted(last.values(), key=lambda e: e["step"])


def save_checkpoint(folder: Path, step: int, model: nn.Module, state: dict[str, Any]) -> None:
    """Write the checkpoint of a step under a temporary name, sync, rename; then drop all but the newest two."""
    final = folder / "checkpoints" / f"step-{step:08d}"
    temporary = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_weights(temporary / "model.safetensors", model)
    torch.save({"step": step, **state}, temporary / "state.pt")
    for path in (*temporary.iterdir(), temporary):
        sync(path)
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    for old in checkpoints(folder)[:-KEEP]:
        shutil.rmtree(old)


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders, oldest first."""
    return sorted(p for p in (folder / "checkpoints").glob("step-*") if re.fullmatch(r"step-\d{8}", p.name))


def load_checkpoint(folder: Path, model: nn.Module) -> dict[str, Any] | None:
    """Load the newest checkpoint that can be read into `model`, and give its state; None when there is none.

    A damaged checkpoint is passed over with a warning.
    """
    for path in reversed(checkpoints(folder)):
        try:
            state = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
            weights = load_file(path / "model.safetensors")
        except (OSError, RuntimeError, EOFError, SafetensorError, ValueError) as error:
            warnings.warn(f"{path}: damaged, passed over ({error})", stacklevel=2)
            continue
        model.load_state_dict(weights)
        return state
    return None


def save_weights(path: Path, model: nn.Module) -> None:
    """Weights of a model as safetensors, replaced as a whole; a tensor with two names is stored under both."""
    _write_weights(path, model.state_dict())


def _write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    write_atomic(path, save({k: v.detach().cpu().clone().contiguous() for k, v in weights.items()}))


def load_run_weights(folder: Path, model: nn.Module) -> str:
    """The best weights of a run, else those of its newest checkpoint; gives a name for them.

    Raises `BadInput` when the run has no weights yet.
    """
    best = folder / "best" / "model.safetensors"
    if best.exists():
        model.load_state_dict(load_file(best))
        return f"best of {folder}, step {json.loads((folder / 'best' / 'metrics.json').read_text())['step']}"
    state = load_checkpoint(folder, model)
    if state is None:
        raise BadInput(f"{folder}: no checkpoint yet; train it first")
    return f"{folder} at step {state['step']}"
