"""Stage two: train COMBO on cached tensors. No frozen model runs here, nor is one imported."""

import threading
import time
from collections.abc import Collection
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from ...data.dataset import Batch, ClipDataset, prefetch, train_batch
from ...errors import BadInput, ComboError, Interrupted
from ...model.combo import COMBO
from ..common.distributed import Ranks, joined
from ..common.progress import stop_request
from ..config.tree import Config
from ..evaluate.evaluate import Scores, evaluate_dataset, keep_best
from ..runs.checkpoints import (
    Checkpoint,
    checkpoint_path,
    drop_old,
    newest_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from ..runs.data import RunInfo, check_same_data, open_data
from ..runs.folder import claimed, create_run, mend_best, read_log
from .ema import make_ema, update_ema
from .monitor import Monitor, validation_picture
from .replay import dump_step
from .step import NotFinite, Trainer, make_trainer, train_step


@dataclass(frozen=True)
class Job:
    """What one training works with, in this process."""

    out: Path
    config: Config
    info: RunInfo
    dataset: ClipDataset
    validation: ClipDataset | None
    ranks: Ranks
    trainer: Trainer
    model: COMBO  # `trainer.model` holds it, or is it
    ema: COMBO | None
    stop: threading.Event

    def batch(self, step: int, share: slice = slice(None)) -> Batch:
        settings = self.config.train
        return train_batch(
            self.dataset, settings.clips_per_batch, self.config.augment, settings.seed, step, share=share
        )

    def to_score(self, done: int) -> bool:
        """Whether the model is scored on val after so many steps."""
        settings = self.config.train
        return self.validation is not None and (done % settings.evaluate_every == 0 or done == settings.steps)


def train(
    root: Path,
    config: Config,
    proposals: str,
    audio: str,
    out: Path,
    resume: bool = False,
    allow: Collection[str] = (),
) -> Scores | None:
    """Train on the store and caches of `root`, into the run folder `out`. Gives the last scores on val, if any.

    proposals, audio: names of caches of `root`. resume: go on from the newest checkpoint of `out`; allow: "clips",
    "proposals" or "audio" that may be others than those it was trained on.
    Under torchrun every process calls this alike, and they share each batch.
    Raises `BadInput` before the first step when something does not fit, `Interrupted` after a checkpoint when
    stopped, and `ComboError` when the loss is not finite.
    """
    with joined() as ranks, stop_request() as stop, ExitStack() as stack:
        job = ranks.all_do(prepare, root, config, proposals, audio, out, ranks, stop)
        ranks.first_does(stack.enter_context, claimed(out))
        ranks.first_does(create_run, out, config, job.info, resume, allow)
        first = go_on(job, allow) if resume else 0
        if ranks.count > 1:
            job.trainer.model = DistributedDataParallel(job.model, broadcast_buffers=False)
        monitor = stack.enter_context(Monitor(out, config.train, first, ranks, job.trainer.device))
        try:
            return run_steps(job, first, monitor)
        except NotFinite as broken:
            if broken.everywhere:
                return ranks.first_does(give_up, job, broken)
            return give_up(job, broken)


def run_steps(job: Job, first: int, monitor: Monitor) -> Scores | None:
    """The loop: from step `first` to the last. Gives the last scores."""
    settings, ranks, trainer = job.config.train, job.ranks, job.trainer
    steps = range(first, settings.steps)
    scores = None
    if first and job.to_score(first) and not ranks.first_does(is_scored, job.out, first):
        scores = score(job, first, monitor)
    make = partial(job.batch, share=ranks.share(settings.clips_per_batch))
    with closing(prefetch(make, steps, threads=settings.loader_threads)) as batches:
        for step in steps:
            started = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - started
            entry = train_step(trainer, batch, step)
            if job.ema is not None:
                update_ema(job.ema, job.model, settings.ema_decay, step)
            monitor.step(entry, waited)

            done = step + 1
            stopping, scoring = ranks.any(job.stop.is_set()), job.to_score(done)
            saving = stopping or scoring or done % settings.checkpoint_every == 0 or done == settings.steps
            if saving:
                monitor.look()  # before the save: nothing that is not finite is ever kept
                ranks.first_does(save, job, done)
            if stopping and (scoring or done < settings.steps):
                raise ranks.once(stopped(done))
            if scoring:
                scores = score(job, done, monitor)
            if saving:
                monitor.restart_clock()
    return scores


def prepare(
    root: Path, config: Config, proposals: str, audio: str, out: Path, ranks: Ranks, stop: threading.Event
) -> Job:
    """Open everything and build the model. Raises `BadInput` when something does not fit."""
    data = open_data(root, proposals, audio)
    dataset = data.dataset("train")
    validation = data.dataset("val") if "val" in data.clips.table.splits() else None
    info = data.info()
    check_fits(config, info, dataset, ranks)
    trainer = make_trainer(config, len(info.classes), data.audio.dim)
    ema = None if config.train.ema_decay is None else make_ema(trainer.model)
    return Job(out, config, info, dataset, validation, ranks, trainer, trainer.model, ema, stop)


def check_fits(config: Config, info: RunInfo, dataset: ClipDataset, ranks: Ranks) -> None:
    """Raise `BadInput` listing the settings that do not fit the clips or the processes."""
    settings = config.train
    size, problems = settings.clips_per_batch, []
    if settings.subset is not None and info.dataset.rsplit("-", 1)[-1] != settings.subset:
        problems.append(
            f"train.subset = {settings.subset}, but {info.root} holds {info.dataset} with {len(info.classes)} classes; "
            "take the preset of that subset, or train.subset=null to train on it all the same"
        )
    if size > len(dataset):
        problems.append(
            f"train.clips_per_batch = {size}, but split 'train' has {len(dataset)} usable clips; at most that many"
        )
    if size % ranks.count:
        allowed = ", ".join(str(n) for n in (size - size % ranks.count, size + ranks.count - size % ranks.count) if n)
        problems.append(
            f"train.clips_per_batch = {size} is shared by {ranks.count} processes; a multiple of that: {allowed}"
        )
    if problems:
        raise BadInput.listing("the config does not fit:", problems)


def go_on(job: Job, allow: Collection[str]) -> int:
    """Load the newest whole checkpoint of the run; gives the step to do next, 0 when there is none."""
    job.ranks.first_does(mend_best, job.out)
    path = job.ranks.first_does(newest_checkpoint, job.out)
    return 0 if path is None else job.ranks.all_do(load, job, path, allow)


def load(job: Job, path: Path, allow: Collection[str]) -> int:
    """Load a checkpoint; gives the step that it stands at. Raises `ComboError` when this process cannot read it."""
    try:
        checkpoint = read_checkpoint(path)
    except ValueError as error:
        advice = "a run of several machines needs a folder that all of them share"
        raise ComboError(f"{path}: {error}; {advice}") from error
    check_same_data(path, RunInfo.of_json(checkpoint.about["run"]), job.info, allow)
    job.model.load_state_dict(checkpoint.tensors["model"])
    if job.ema is not None:
        job.ema.load_state_dict(checkpoint.tensors["ema"])
    job.trainer.load_state(checkpoint.state)
    torch.set_rng_state(checkpoint.state["rng"])
    return checkpoint.about["step"]


def save(job: Job, done: int) -> None:
    """Write the checkpoint after so many steps, and drop old ones."""
    tensors = {"model": job.model.state_dict(), **({"ema": job.ema.state_dict()} if job.ema is not None else {})}
    state = {**job.trainer.state(), "rng": torch.get_rng_state()}
    write_checkpoint(checkpoint_path(job.out, done), Checkpoint(tensors, state, describe(job, done)))
    drop_old(job.out)


def describe(job: Job, step: int) -> dict[str, Any]:
    """What a checkpoint says of itself: JSON."""
    return {
        "step": step,
        "version": version("combo-avs"),
        "config": job.config.model_dump(mode="json"),
        "run": job.info.to_json(),
    }


def score(job: Job, done: int, monitor: Monitor) -> Scores:
    """Score the model (its average, if it has one) on val after so many steps, log it, and keep the best."""
    model, device = job.ema or job.model, job.trainer.device

    def stop_if_asked() -> None:
        if job.ranks.any(job.stop.is_set()):
            raise job.ranks.once(stopped(done))

    scores = evaluate_dataset(model, job.validation, device, ranks=job.ranks, between_clips=stop_if_asked)
    if job.ranks.first:
        keep_best(job.out, done, model, scores)
        monitor.scored(done, scores, validation_picture(model, job.validation, device))
    return scores


def is_scored(run: Path, done: int) -> bool:
    """Whether the log has scores after so many steps: a kill can come between the checkpoint and the scores."""
    return any("M_J" in entry and entry["step"] == done for entry in read_log(run))


def stopped(done: int) -> Interrupted:
    return Interrupted(f"stopped after step {done}; go on with --resume auto")


def give_up(job: Job, broken: NotFinite) -> None:
    """Keep all that the broken step depends on, and raise `ComboError` that says what broke."""
    step, batch = broken.step, job.batch(broken.step)
    whose = "" if job.ranks.first else f"-rank-{job.ranks.rank}"
    path = job.out / "broken" / f"step-{step:08d}{whose}"
    dump_step(path, job.model, job.trainer, batch, describe(job, step))
    raise ComboError(
        f"training broke at step {step} ({broken}); clips of the batch: {', '.join(batch.clip_ids)}. 'combo replay "
        f"{path}' does the step again. Start a new run with a lower train.lr or train.precision=fp32; --resume auto "
        "comes to the same step again"
    )
