"""One training step: forward, losses, backward, update. No frozen model runs here, nor is one imported."""

import time
import warnings
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel

from ...data.dataset import Batch
from ...errors import BadInput
from ...model.combo import COMBO
from ...model.criterion import Supervision, Totals, criterion
from ...model.decoder import Predictions
from ...model.matcher import frame_targets
from ...model.random_numbers import ClipUniform, rand_by_clip, rows_of
from ...model.weights.published_keys import load_backbone
from ...model.weights.read import read_state_dict
from ...model.weights.state import load_weights
from ..common.devices import image_tensor, pick_device, tensor_on
from ..config.tree import Config
from .optim import make_optimizer, set_learning_rate


class NotFinite(Exception):
    """Losses or predictions that are NaN or infinite, at a step."""

    def __init__(self, step: int, what: str, *, everywhere: bool = False) -> None:
        """everywhere: all ranks found it; otherwise perhaps only this one."""
        super().__init__(what)
        self.step, self.everywhere = step, everywhere


@dataclass
class Trainer:
    """Model, optimiser and their state. parallel: wraps the model when several processes train."""

    model: COMBO
    optimizer: torch.optim.Optimizer
    scaler: GradScaler
    device: torch.device
    config: Config
    health: Tensor  # float32 scalar on the device: 1, or NaN once a loss was not finite; it scales every loss
    parallel: DistributedDataParallel | None = None

    def state(self) -> dict[str, Any]:
        """What resuming needs besides the weights. Data, drop-path and points follow from seed and step."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])


def make_trainer(config: Config, num_classes: int, audio_dim: int) -> Trainer:
    """A freshly initialised model with its optimiser. Raises `BadInput` when the audio features do not fit it."""
    if config.model.audio_dim != audio_dim:
        wrong = f"the audio cache has {audio_dim} features, the model takes {config.model.audio_dim}"
        raise BadInput(f"{wrong}: --set model.audio_dim={audio_dim}")
    device = pick_device(config.train.device)
    torch.manual_seed(config.train.seed)
    model = COMBO(config.model, num_classes)
    if config.train.start_from is not None:
        path = Path(config.train.start_from)
        load_weights(model, read_state_dict(path), path)
    elif config.train.backbone_weights is not None:
        path = Path(config.train.backbone_weights)
        load_backbone(model, read_state_dict(path), str(path))
    elif config.model.backbone != "tiny":
        advice = "the published recipe starts from ImageNet's: --set train.backbone_weights=FILE"
        warnings.warn(f"{config.model.backbone} starts from random weights; {advice}", stacklevel=2)
    model = model.to(device).train()
    model.set_checkpointing(enable=config.train.checkpointing)
    scaler = GradScaler(device.type, enabled=config.train.precision == "fp16")
    return Trainer(model, make_optimizer(model, config.train), scaler, device, config, torch.ones((), device=device))


def train_step(trainer: Trainer, batch: Batch, step: int) -> dict[str, Any]:
    """One step: forward, losses, backward, clip, update. Returns its log entry, with the losses still on the device.

    From a loss or gradient that is not finite on, model and optimiser stay as they were before that step. Raises
    `NotFinite` when the predictions cannot be matched.
    """
    settings = trainer.config.train
    started = time.perf_counter()
    torch.manual_seed((settings.seed << 32) + step)
    lr = set_learning_rate(trainer.optimizer, settings, step)
    trainer.optimizer.zero_grad(set_to_none=True)
    try:
        losses = backward(trainer, batch, step)
    except FloatingPointError as error:
        raise NotFinite(step, str(error)) from error
    trainer.scaler.unscale_(trainer.optimizer)
    norm = torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), settings.clip_norm)
    update(trainer, losses["total"], norm)
    rates = {"lr": lr, "lr_backbone": lr * settings.backbone_lr_factor}
    seconds = time.perf_counter() - started
    return {"step": step, **rates, "seconds": seconds, "clips": batch.clip_ids, "grad_norm": norm, **losses}


def update(trainer: Trainer, total: Tensor, norm: Tensor) -> None:
    """The optimiser's step, skipped from the first loss on that is not finite; decided on the device, without a sync.

    Under fp16 gradients may overflow: the scaler skips that step and lowers its scale.
    """
    fp16 = trainer.scaler.is_enabled()
    healthy = total.isfinite() & (norm.isfinite() | fp16)
    trainer.health = torch.where(healthy, trainer.health, torch.nan)
    if not fp16:  # else the scaler sees that the gradients are not finite
        setattr(trainer.optimizer, "found_inf", trainer.health.isnan().float())  # noqa: B010  read by fused AdamW
    trainer.scaler.step(trainer.optimizer)
    trainer.scaler.update()


def backward(trainer: Trainer, batch: Batch, step: int) -> dict[str, Tensor]:
    """Accumulate the gradients of a batch, in micro-batches if so configured. Returns its losses, detached."""
    settings, parallel = trainer.config.train, trainer.parallel
    parts = batch.parts(settings.micro_batch_clips or len(batch.clip_ids))
    totals = None
    if len(parts) > 1:  # the denominators of the losses are those of the whole batch
        labels, supervised = torch.from_numpy(batch.labels), torch.from_numpy(batch.supervised)
        targets = frame_targets(labels, supervised, trainer.model.num_classes)
        totals = Totals.of(targets, trainer.config.model.num_queries, batch.frames_per_clip, trainer.config.loss)
    sums: dict[str, Tensor] = {}
    for part in parts:
        with parallel.no_sync() if parallel and part is not parts[-1] else nullcontext():  # one all-reduce per step
            uniform = rand_by_clip(clip_seeds(part, settings.seed, step), trainer.device)
            losses = batch_losses(trainer, part, uniform, totals)
            trainer.scaler.scale(losses["total"] * trainer.health).backward()
        sums = {name: sums.get(name, 0) + value.detach() for name, value in losses.items()}
    return sums


def clip_seeds(batch: Batch, seed: int, step: int) -> list[int]:
    """A seed for each clip of a batch, by the run's seed, the step, and the clip's place."""
    return [int(np.random.SeedSequence([seed, step, p]).generate_state(1, np.uint64)[0]) for p in batch.places]


def batch_losses(trainer: Trainer, batch: Batch, uniform: ClipUniform, totals: Totals | None) -> dict[str, Tensor]:
    """The weighted losses of a batch and their sum, "total"; `uniform` and `totals` as for `criterion`."""
    device, config = trainer.device, trainer.config
    amp = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": None}[config.train.precision]
    with torch.autocast(device.type, dtype=amp, enabled=amp is not None):
        images = image_tensor(batch.frames, device), image_tensor(batch.maskiges, device)
        audio, frame_uniform = tensor_on(batch.features, device), rows_of(uniform, batch.frames_per_clip)
        predictions: Predictions = (trainer.parallel or trainer.model)(*images, audio, frame_uniform)
    labels, supervised = torch.from_numpy(batch.labels), torch.from_numpy(batch.supervised)
    supervision = Supervision(labels, supervised, batch.frames_per_clip)
    return criterion(*predictions, supervision, config.loss, uniform, totals)
