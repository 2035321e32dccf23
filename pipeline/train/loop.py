"""Stage two: train COMBO on cached tensors. No frozen model runs here, nor is one imported."""

import shutil
import threading
import time
from collections.abc import Collection
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel

from ...data.dataset import Batch, ClipDataset, prefetch, train_batch
from ...errors import BadInput, ComboError, Interrupted
from ...model.weights.network_file import network_metadata
from ..common.distributed import Ranks, joined
from ..common.places import check_no_data
from ..common.progress import stop_request
from ..config.tree import Config, conflicts
from ..evaluate.protocols import PUBLISHED
from ..evaluate.scores import Scores, evaluate_dataset
from ..runs.checkpoints import (
    Checkpoint,
    checkpoint_path,
    checkpoints,
    newest_checkpoint,
    newest_step,
    read_checkpoint,
    read_manifest,
    write_checkpoint,
)
from ..runs.data import DataNames, RunData, RunInfo, check_same_data, open_data
from ..runs.folder import (
    check_free,
    check_run,
    lock_run,
    read_best,
    read_run_log,
    record_run,
    rewrite_metrics,
    write_best,
)
from .monitor import Monitor, validation_picture
from .optim import WeightAverage
from .replay import dump_step
from .step import NotFinite, Trainer, make_trainer, train_step

CHECKPOINTS_KEPT = 2


@dataclass(frozen=True)
class Training:
    """The state of one training in this process."""

    out: Path
    config: Config
    data: RunData
    info: RunInfo
    dataset: ClipDataset
    validation: ClipDataset | None
    ranks: Ranks
    trainer: Trainer
    average: WeightAverage | None
    stop: threading.Event

    def batch(self, step: int, share: slice = slice(None)) -> Batch:
        clips, seed = self.config.train.clips_per_batch, self.config.train.seed
        return train_batch(self.dataset, clips, self.config.augment, seed, step, share=share)

    def to_score(self, done: int) -> bool:
        """Whether the model is scored on val after `done` steps."""
        settings = self.config.train
        return self.validation is not None and (done % settings.evaluate_every == 0 or done == settings.steps)


@dataclass(frozen=True)
class Trained:
    """The outcome of a training. steps: of the run in all. scores: the last ones on val, None if there are none."""

    out: Path
    steps: int
    new_steps: int
    scores: Scores | None

    def __str__(self) -> str:
        if not self.new_steps and self.scores is None:
            return f"already at step {self.steps}: {self.out}"
        scores = f"; val M_J {self.scores.M_J:.2f} %, M_F {self.scores.M_F:.2f} %" if self.scores else ""
        return f"done: {self.out}{scores}"


def train(names: DataNames, config: Config, out: Path, *, resume: bool = False, allow: Collection[str] = ()) -> Trained:
    """Train on clips and caches, into the run folder `out`.

    resume: continue from the newest checkpoint of `out`; if all steps are done, nothing is written. allow: "clips",
    "proposals", "audio" or "left-out" (which clips cannot be used) that may differ from the original run.
    Under torchrun every process makes the same call, and they share each batch.
    Raises `BadInput` before the first step when something does not fit, `Interrupted` after a checkpoint when
    stopped, and `ComboError` when the loss is not finite.
    """
    with joined() as ranks, stop_request() as stop, ExitStack() as stack:
        ranks.first_does(check_no_data, out)
        training = ranks.all_do(prepare, names, config, out, ranks, stop)
        ranks.check_same(replace(training.info, root=""), "data")
        check = partial(check_run, out, config, training.info, resume=resume, allow=allow)
        ranks.first_does(check_free, out)
        ranks.first_does(check)
        if resume and (steps := ranks.first_does(all_done, training, allow)) is not None:
            return Trained(out, steps, 0, None)
        ranks.first_does(stack.enter_context, lock_run(out))
        ranks.first_does(check)  # another process may have come first
        first = 0
        if resume:
            ranks.first_does(rewrite_metrics, out)
            if (newest := ranks.first_does(newest_checkpoint, out)) is not None:
                first = ranks.all_do(load, training, newest, allow)
        ranks.first_does(record_run, out, config, training.info)
        if ranks.count > 1:
            training.trainer.parallel = DistributedDataParallel(training.trainer.model, broadcast_buffers=False)
        monitor = stack.enter_context(Monitor(out, config.train, first, ranks, training.trainer.device))
        try:
            scores = run_steps(training, first, monitor)
        except NotFinite as broken:
            if broken.everywhere:
                raise ranks.once(ranks.first_does(keep_broken, training, broken)) from broken
            raise keep_broken(training, broken) from broken
        return Trained(out, config.train.steps, config.train.steps - first, scores)


def run_steps(training: Training, first: int, monitor: Monitor) -> Scores | None:
    """The loop: from step `first` to the last. Returns the last scores."""
    settings, ranks, trainer = training.config.train, training.ranks, training.trainer
    steps = range(first, settings.steps)
    scores = None
    if first and training.to_score(first) and not ranks.first_does(is_scored, training.out, first):
        scores = score(training, first, monitor)
    make = partial(training.batch, share=ranks.share(settings.clips_per_batch))
    with closing(prefetch(make, steps, threads=settings.loader_threads)) as batches:
        for step in steps:
            started = time.perf_counter()
            batch = next(batches)
            waited = time.perf_counter() - started
            entry = train_step(trainer, batch, step)
            if training.average is not None:
                training.average.update(trainer.model, step)
            monitor.step(entry, waited)

            done = step + 1
            stopping, scoring = ranks.any_set(training.stop), training.to_score(done)
            saving = stopping or scoring or done % settings.checkpoint_every == 0 or done == settings.steps
            if saving:
                monitor.look()  # before the save: nothing that is not finite is ever kept
                ranks.first_does(save, training, done)
            if stopping and (scoring or done < settings.steps):
                raise ranks.once(stopped(done))
            if scoring:
                scores = score(training, done, monitor)
            if saving:
                monitor.restart_clock()
    return scores


def prepare(names: DataNames, config: Config, out: Path, ranks: Ranks, stop: threading.Event) -> Training:
    """Open the data and build the model. Raises `BadInput` when something does not fit. Nothing is written."""
    data = open_data(names)
    dataset = data.dataset("train")
    validation = data.dataset("val") if "val" in data.clips.table.splits() else None
    info = replace(data.info(), left_out=data.left_out())
    check_fits(config, info, dataset, ranks)
    trainer = make_trainer(config, len(data.clips.classes), data.audio.dim)
    decay = config.train.ema_decay
    average = None if decay is None else WeightAverage(trainer.model, decay)
    return Training(out, config, data, info, dataset, validation, ranks, trainer, average, stop)


def check_fits(config: Config, info: RunInfo, dataset: ClipDataset, ranks: Ranks) -> None:
    """Raise `BadInput` listing the settings that do not fit the clips or the processes."""
    subset, size, problems = config.train.subset, config.train.clips_per_batch, list(conflicts(config))
    if subset is not None and info.dataset.rsplit("-", 1)[-1] != subset:
        wrong = f"train.subset = {subset}, but {info.root} holds {info.dataset} with {len(info.classes)} classes"
        advice = "take the preset of that subset, or train.subset=null to train on it all the same"
        problems.append(f"{wrong}; {advice}")
    batch = f"train.clips_per_batch = {size}"
    if size > len(dataset):
        problems.append(f"{batch}, but split 'train' has {len(dataset)} usable clips; at most that many")
    if rest := size % ranks.count:
        allowed = ", ".join(str(n) for n in (size - rest, size + ranks.count - rest) if n)
        problems.append(f"{batch} is shared by {ranks.count} processes; a multiple of that: {allowed}")
    if problems:
        raise BadInput.listing("the config does not fit:", problems)


def all_done(training: Training, allow: Collection[str]) -> int | None:
    """The step that a run stands at if there is nothing left to train or score, else None. Nothing is written."""
    last = training.config.train.steps
    if newest_step(training.out) < last or (path := newest_checkpoint(training.out)) is None:
        return None
    manifest = read_manifest(path)
    if (step := manifest["step"]) < last:
        return None
    check_same_data(path, RunInfo.of_json(manifest["run"]), training.info, allow)
    unscored = step == last and training.to_score(step) and not is_scored(training.out, step)
    return None if unscored else step


def load(training: Training, path: Path, allow: Collection[str]) -> int:
    """Load a checkpoint and return its step. Raises `ComboError` when this process cannot read it."""
    try:
        checkpoint = read_checkpoint(path)
    except ValueError as error:
        advice = "a run of several machines needs a folder that all of them share"
        raise ComboError(f"{path}: {error}; {advice}") from error
    check_same_data(path, RunInfo.of_json(checkpoint.about["run"]), training.info, allow)
    training.trainer.model.load_state_dict(checkpoint.tensors["model"])
    if training.average is not None:
        training.average.model.load_state_dict(checkpoint.tensors["ema"])
    training.trainer.load_state(checkpoint.state)
    torch.set_rng_state(checkpoint.state["rng"])
    return checkpoint.about["step"]


def save(training: Training, done: int) -> None:
    """Write the checkpoint after `done` steps, and remove old ones."""
    model = training.trainer.model
    tensors = {"model": model.state_dict()}
    if training.average is not None:
        tensors["ema"] = training.average.model.state_dict()
    state = {**training.trainer.state(), "rng": torch.get_rng_state()}
    metadata = network_metadata(model.config, model.num_classes)
    checkpoint = Checkpoint(tensors, state, describe(training, done), metadata)
    write_checkpoint(checkpoint_path(training.out, done), checkpoint)
    for old in checkpoints(training.out)[:-CHECKPOINTS_KEPT]:
        shutil.rmtree(old)


def describe(training: Training, step: int) -> dict[str, Any]:
    """The part of a checkpoint's manifest that says what it is: JSON."""
    return {
        "step": step,
        "version": version("combo-avs"),
        "config": training.config.model_dump(mode="json"),
        "run": training.info.to_json(),
    }


def score(training: Training, done: int, monitor: Monitor) -> Scores:
    """Score the model (its average, if there is one) on val after `done` steps, log the scores, and keep the best."""
    model = training.trainer.model if training.average is None else training.average.model
    ranks, validation = training.ranks, training.validation
    assert validation is not None

    def stop_if_asked() -> None:
        if ranks.any_set(training.stop):
            raise ranks.once(stopped(done))

    scores = evaluate_dataset(model, validation, ranks=ranks, between_clips=stop_if_asked)[PUBLISHED]
    if ranks.first:
        best = read_best(training.out)
        if best is None or best["M_J"] < scores.M_J:
            metrics = {"step": done, **scores.summary()}
            write_best(training.out, model.state_dict(), network_metadata(model.config, model.num_classes, metrics))
        monitor.scored(done, scores, validation_picture(model, validation))
    return scores


def is_scored(run: Path, done: int) -> bool:
    """Whether the log has scores after `done` steps: a kill can come between the checkpoint and the scores."""
    return any("M_J" in entry and entry["step"] == done for entry in read_run_log(run))


def stopped(done: int) -> Interrupted:
    return Interrupted(f"stopped after step {done}; resume with --resume auto")


def keep_broken(training: Training, broken: NotFinite) -> ComboError:
    """Save everything that the broken step depends on, and return an error that says what broke."""
    step, batch = broken.step, training.batch(broken.step)
    whose = "" if training.ranks.first else f"-rank-{training.ranks.rank}"
    path = training.out / "broken" / f"step-{step:08d}{whose}"
    dump_step(path, training.trainer, batch, describe(training, step))
    return ComboError(
        f"training broke at step {step} ({broken}); clips of the batch: {', '.join(batch.clip_ids)}. 'combo replay "
        f"{path}' does the step again. Start a new run with a lower train.lr or train.precision=fp32; --resume auto "
        "comes to the same step again"
    )
