"""Open a run with its data and its network: what evaluation, prediction and reports begin with."""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

from ...errors import BadInput
from ...model.combo import COMBO
from ..config.tree import Config
from .checkpoints import newest_checkpoint, read_checkpoint
from .data import RunData, RunInfo, open_data
from .folder import read_best, read_run


@dataclass(frozen=True)
class OpenRun:
    """A trained run. network: on the device asked for, in eval mode. weights: which they are, for people."""

    config: Config
    info: RunInfo
    data: RunData
    network: COMBO
    weights: str


def open_run(run: Path, device: torch.device) -> OpenRun:
    """A run with the clips and caches that it was trained on, and its best weights.

    Raises `BadInput` when any of these is gone, damaged or has changed since.
    """
    config, info = read_run(run)
    data = open_data(info)
    network, weights = load_network(run, config, len(info.classes), device)
    return OpenRun(config, info, data, network, weights)


def load_network(run: Path, config: Config, num_classes: int, device: torch.device) -> tuple[COMBO, str]:
    """The network of a run in eval mode, and a name for its weights.

    They are the best ones, else those of the newest checkpoint (their average, if it has one).
    Raises `BadInput` when the run has no weights yet, or damaged ones.
    """
    network = COMBO(config.model, num_classes)
    if (best := read_best(run)) is not None:
        network.load_state_dict(load_file(run / "best" / "model.safetensors"))
        weights = f"best of {run}, step {best['step']}"
    else:
        path = newest_checkpoint(run)
        if path is None:
            raise BadInput(f"{run}: no checkpoint yet; train it first")
        checkpoint = read_checkpoint(path)
        network.load_state_dict(checkpoint.tensors.get("ema", checkpoint.tensors["model"]))
        weights = f"{run} at step {checkpoint.about['step']}"
    return network.to(device).eval(), weights
