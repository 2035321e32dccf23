"""Score a run, and keep the result with it."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from ..common.choices import Sound
from ..common.devices import pick_device
from ..common.distributed import joined
from ..runs.data import came_and_went, changed_clips
from ..runs.folder import read_run
from ..runs.open import AS_LEFT, Choice, open_run
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
        for change in changed_clips(*came_and_went(opened.info, opened.data)) if ranks.first else ():
            warnings.warn(f"{run}, in training: {change}", stacklevel=2)
        dataset = ranks.all_do(opened.data.dataset, split)
        scores = evaluate_dataset(opened.network, dataset, protocols, sound, ranks)
        about = ranks.all_do(describe, opened.weights, opened.info, dataset, sound)
        results = {name: Result.of(found, about) for name, found in scores.items()}
        if ranks.first:
            keep(run, results)
        return results


def keep(run: Path, results: dict[str, Result]) -> None:
    """Write results by the name of their protocol; a warning where that fails."""
    try:
        for name, result in results.items():
            write_result(run, result, name)
    except OSError as error:
        warnings.warn(f"{run / 'results'}: the result could not be kept ({error.strerror or error})", stacklevel=2)
