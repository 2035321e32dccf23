"""Stage two: train COMBO on cached tensors. No frozen model runs here, nor is one imported."""

import math
import time
import warnings
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.cache_root import open_cache
from ..data.dataset import Batch, ClipDataset, prefetch, train_batch
from ..data.store import ClipStore
from ..errors import BadInput, ComboError, Interrupted
from ..model.checkpoint import load_backbone
from ..model.combo import COMBO
from ..model.criterion import CriterionConfig, criterion
from ..model.weights import load_weights, read_state_dict
from .config import Config
from .devices import pick_device
from .evaluate import Scores, evaluate_dataset, save_best
from .optim import make_optimizer, set_learning_rate
from .progress import bar, stop_request
from .run_folder import RunInfo, append_log, create_run, load_checkpoint, save_checkpoint
from .tensors import image_tensor

LOG_EVERY = 10  # steps between looks at the loss: each one waits for the device


@dataclass
class Trainer:
    """What one training step works on."""

    model: COMBO
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    device: torch.device
    config: Config

    def state(self) -> dict[str, Any]:
        """All that resuming needs beside the weights. Data, drop-path and points follow from seed and step."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])


def train(root: Path, config: Config, proposals: str, audio: str, out: Path, resume: bool = False) -> Scores | None:
    """Train on the store and caches of `root`, into the run folder `out`. Gives the last scores on val, if any.

    proposals, audio: names of caches of `root`. resume: go on from the newest checkpoint of `out`.
    Raises `BadInput` before the first step when something does not fit, `Interrupted` after a checkpoint when
    stopped, and `ComboError` when the loss is not finite.
    """
    clips = ClipStore(root)
    caches = open_cache(clips, "proposals", proposals), open_cache(clips, "audio", audio)
    dataset = ClipDataset(clips, *caches, "train")
    validation = ClipDataset(clips, *caches, "val") if "val" in clips.table.splits() else None
    trainer = make_trainer(config, len(clips.classes), caches[1].attributes["dim"])
    create_run(out, config, RunInfo.of(root, clips, *caches), resume)

    first = 0
    if resume and (state := load_checkpoint(out, trainer.model)) is not None:
        trainer.load_state(state)
        first = state["step"]
    settings = config.train
    make = partial(train_batch, dataset, settings.clips_per_batch, config.augment, settings.seed)
    steps = range(first, settings.steps)
    scores = None
    pending: list[dict[str, Any]] = []
    with stop_request() as stop, bar(settings.steps, "train", "steps", done=first) as progress:
        batches = prefetch(make, steps)
        for step, batch in zip(steps, batches, strict=True):
            pending.append(train_step(trainer, batch, step))
            done = step + 1
            last = done == settings.steps or stop.is_set()
            save = done % settings.checkpoint_every == 0 or last
            progress.update()
            if done % LOG_EVERY == 0 or save:
                progress.set_postfix(loss=f"{flush_log(out, pending):.3f}", refresh=False)
            if save:
                save_checkpoint(out, done, trainer.model, trainer.state())
            if stop.is_set() and done < settings.steps:
                batches.close()
                raise Interrupted(f"stopped after step {done}; go on with --resume auto")
            if validation and (done % settings.evaluate_every == 0 or done == settings.steps):
                scores = evaluate_dataset(trainer.model, validation, trainer.device)
                append_log(out, [{"step": done, **scores.summary()}])
                save_best(out, done, trainer.model, scores)
    return scores


def make_trainer(config: Config, num_classes: int, audio_dim: int) -> Trainer:
    """A freshly initialised model with its optimiser. Raises `BadInput` when the audio features do not fit it."""
    if config.model.audio_dim != audio_dim:
        raise BadInput(
            f"the audio cache has {audio_dim} features, the model takes {config.model.audio_dim}: "
            f"--set model.audio_dim={audio_dim}"
        )
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
        warnings.warn(
            f"{config.model.backbone} starts from random weights; the published recipe starts from ImageNet's: "
            "--set train.backbone_weights=FILE",
            stacklevel=2,
        )
    model = model.to(device).train()
    scaler = torch.amp.GradScaler(device.type, enabled=config.train.precision == "fp16")
    return Trainer(model, make_optimizer(model, config.train), scaler, device, config)


def train_step(trainer: Trainer, batch: Batch, step: int) -> dict[str, Any]:
    """One step: forward, losses, backward, clip, update. Gives the step's log entry, losses still on the device."""
    settings = trainer.config.train
    started = time.perf_counter()
    torch.manual_seed((settings.seed << 32) + step)
    lr = set_learning_rate(trainer.optimizer, settings, step)
    try:
        losses = batch_losses(trainer.model, batch, trainer.config.loss, trainer.device, settings.precision)
    except FloatingPointError as error:
        raise _diverged(step, batch.clip_ids, str(error)) from error
    trainer.optimizer.zero_grad(set_to_none=True)
    trainer.scaler.scale(losses["total"]).backward()
    trainer.scaler.unscale_(trainer.optimizer)
    norm = torch.nn.utils.clip_grad_norm_(trainer.model.parameters(), settings.clip_norm)
    trainer.scaler.step(trainer.optimizer)
    trainer.scaler.update()
    tensors = {name: value.detach() for name, value in losses.items()}
    seconds = time.perf_counter() - started
    return {"step": step, "lr": lr, "seconds": seconds, "clips": batch.clip_ids, "grad_norm": norm, **tensors}


def batch_losses(
    model: COMBO, batch: Batch, config: CriterionConfig, device: torch.device, precision: str
) -> dict[str, Tensor]:
    """The weighted losses of a batch and their sum, "total"."""
    amp = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": None}[precision]
    with torch.autocast(device.type, dtype=amp, enabled=amp is not None):
        predictions = model(
            image_tensor(batch.frames, device),
            image_tensor(batch.maskiges, device),
            torch.from_numpy(batch.features).to(device),
        )
    return criterion(
        predictions.logits,
        predictions.masks,
        torch.from_numpy(batch.labels).to(device),
        torch.from_numpy(batch.supervised).to(device),
        batch.frames_per_clip,
        config,
    )


def flush_log(out: Path, pending: list[dict[str, Any]]) -> float:
    """Write the pending entries and give the last total loss. Raises `ComboError` when a loss is not finite."""
    entries = []
    for entry in pending:
        values = {k: v.item() if isinstance(v, Tensor) else v for k, v in entry.items() if k != "clips"}
        entries.append(values)
        if not math.isfinite(values["total"]):
            terms = [k for k, v in values.items() if isinstance(v, float) and not math.isfinite(v)]
            append_log(out, entries)
            raise _diverged(entry["step"], entry["clips"], f"not finite: {', '.join(terms)}")
    append_log(out, entries)
    pending.clear()
    return entries[-1]["total"]


def _diverged(step: int, clips: tuple[str, ...], what: str) -> ComboError:
    return ComboError(
        f"training broke at step {step} ({what}); clips of the batch: {', '.join(clips)}. "
        "Lower train.lr or use train.precision=fp32, and go on with --resume auto"
    )
