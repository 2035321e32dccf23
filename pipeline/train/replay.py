"""Replay a step whose loss was not finite, from the folder that the run wrote."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...data.dataset import Batch
from ...errors import BadInput, ComboError
from ..config.tree import parse_config
from ..runs.checkpoints import Checkpoint, read_checkpoint, write_checkpoint
from ..runs.data import RunInfo
from .step import NotFinite, Trainer, make_trainer, train_step


def dump_step(path: Path, trainer: Trainer, batch: Batch, about: dict[str, Any]) -> None:
    """Write everything that a step depends on: its whole batch, and the trainer before the step.

    about: of the run's checkpoints, see `train.describe`.
    """
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    arrays = {name: torch.from_numpy(value) for name, value in values.items() if isinstance(value, np.ndarray)}
    others = {name: value for name, value in values.items() if name not in arrays}
    tensors = {"model": trainer.model.state_dict(), "batch": arrays}
    write_checkpoint(path, Checkpoint(tensors, trainer.state(), {**about, "batch": others}))


def replay(folder: Path, device: str = "auto") -> dict[str, float]:
    """Replay the step of `RUN/broken/step-N`. Returns its losses, learning rates and gradient norm by name.

    On a CPU they equal those of the run bit by bit, if that was one process on a CPU. Nothing is written.
    Raises `BadInput` when the folder is damaged or no such dump, and `ComboError` when the step breaks before there
    is a loss.
    """
    try:
        dumped = read_checkpoint(folder)
    except ValueError as error:
        raise BadInput(f"{folder}: not the dump of a step; name a folder RUN/broken/step-N ({error})") from error
    if "batch" not in dumped.about:
        raise BadInput(f"{folder} is a checkpoint, not the dump of a step; name a folder RUN/broken/step-N")
    config = parse_config(dumped.about["config"])
    # The weights are in the dump; the files they once started from need not be there any more.
    settings = config.train.model_copy(update={"device": device, "start_from": None, "backbone_weights": None})
    classes = RunInfo.of_json(dumped.about["run"]).classes
    trainer = make_trainer(config.model_copy(update={"train": settings}), len(classes), config.model.audio_dim)
    trainer.model.load_state_dict(dumped.tensors["model"])
    trainer.load_state(dumped.state)
    clip_ids, places, lengths = (tuple(dumped.about["batch"][k]) for k in ("clip_ids", "places", "frames_per_clip"))
    arrays = {name: array.numpy() for name, array in dumped.tensors["batch"].items()}
    batch = Batch(clip_ids, places, lengths, **arrays)
    try:
        entry = train_step(trainer, batch, dumped.about["step"])
    except NotFinite as error:
        raise ComboError(f"step {error.step} broke again: {error}") from error
    return {name: float(value) for name, value in entry.items() if name not in ("clips", "seconds")}
