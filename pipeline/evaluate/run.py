"""Score a run, and keep the result with it."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from ..common.choices import Sound
from ..common.devices import pick_device
from ..common.distributed import joined
from ..runs.data import SHOWN_CLIPS, came_and_went
from ..runs.folder import read_run
from ..runs.open import AS_LEFT, Choice, OpenRun, open_run
from .protocols import PUBLISHED, find_protocol
from .results import Result, describe, write_result
from .scores import evaluate_dataset


def evaluate_run(
    run: Path,
    split: str = "test",
    sound: Sound = "right",
    device: str = "auto",
    protocols: Sequence[str] = (PUBLISHED,),
    choice: Choice = AS_LEFT,
) -> dict[str, Result]:
    """Score weights of a run on the clips and caches it was trained with, as `evaluate_dataset` does.

    Every protocol's result is kept in RUN/results, and returned by its name. A run that cannot be written is scored all
    the same, with a warning. Under torchrun the processes share the clips, and all get the results.
    Raises `BadInput` when clips, caches or weights are gone or have changed since, and as `evaluate_dataset`.
    """
    with joined() as ranks:
        _, info = ranks.all_do(read_run, run)
        for name in protocols:  # before the work of loading
            ranks.all_do(find_protocol, name, len(info.classes))
        opened = ranks.all_do(open_run, run, ranks.all_do(pick_device, device), choice)
        if ranks.first:
            warn_of_other_clips(opened)
        dataset = ranks.all_do(opened.data.dataset, split)
        scores = evaluate_dataset(opened.network, dataset, protocols, sound, ranks)
        about = ranks.all_do(describe, opened.weights, opened.info, dataset, sound)
        results = {name: Result.of(found, about) for name, found in scores.items()}
        if ranks.first:
            keep(run, results)
        return results


def warn_of_other_clips(opened: OpenRun) -> None:
    """Say which clips of train and val the run used and the caches now leave out, or the reverse."""
    came, went = came_and_went(opened.info, opened.data)
    for ids, what in ((went, "used clips that are left out now"), (came, "left out clips that can be used now")):
        if ids:
            shown = ", ".join(ids[:SHOWN_CLIPS]) + (", ..." if len(ids) > SHOWN_CLIPS else "")
            warnings.warn(f"{opened.weights.run} {what}: {shown}", stacklevel=2)


def keep(run: Path, results: dict[str, Result]) -> None:
    try:
        for name, result in results.items():
            write_result(run, result, name)
    except OSError as error:
        warnings.warn(f"{run / 'results'}: the result could not be kept ({error.strerror or error})", stacklevel=2)
