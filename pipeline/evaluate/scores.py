"""Score a run, or a model on a split: M_J and M_F in any protocol, with the right sound or with a wrong one."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...data.dataset import ClipDataset
from ...errors import BadInput
from ...model.combo import COMBO
from ..common.choices import Sound
from ..common.devices import pick_device
from ..common.distributed import Ranks, joined
from ..common.progress import bar
from ..runs.folder import read_run
from ..runs.open import open_run
from .clip import Counts, count_clip, segment
from .metrics import SemanticMetrics, make_metrics
from .protocols import PUBLISHED, MetricProtocol, find_protocol, full_name
from .sounds import sound_source

ALONE = Ranks()


@dataclass(frozen=True)
class Scores:
    """M_J and M_F of one evaluation, what they mean, and the clips behind them."""

    M_J: float
    M_F: float
    protocol: str  # its name, and what it means
    details: dict[str, Any]  # counts of clips, empty frames, absent classes; values by class
    per_clip: dict[str, tuple[float, float]]  # clip id -> J, F; empty for semantic sets

    def summary(self) -> dict[str, Any]:
        return {"M_J": self.M_J, "M_F": self.M_F, "protocol": self.protocol, **self.details}


def evaluate_run(
    run: Path,
    split: str = "test",
    sound: Sound = "right",
    device: str = "auto",
    protocols: Sequence[str] = (PUBLISHED,),
) -> dict[str, Scores]:
    """Score the best weights of a run on the clips and caches it was trained with, as `evaluate_dataset` does.

    Under torchrun the processes share the clips, and all get the scores.
    Raises `BadInput` when clips, caches or weights are gone or have changed since, and as `evaluate_dataset`.
    """
    with joined() as ranks:
        _, info = ranks.all_do(read_run, run)
        for name in protocols:  # before the work of loading
            ranks.all_do(find_protocol, name, len(info.classes))
        opened = ranks.all_do(open_run, run, ranks.all_do(pick_device, device))
        dataset = ranks.all_do(opened.data.dataset, split)
        return evaluate_dataset(opened.network, dataset, protocols, sound, ranks)


def evaluate_dataset(
    model: COMBO,
    dataset: ClipDataset,
    protocols: Sequence[str] = (PUBLISHED,),
    sound: Sound = "right",
    ranks: Ranks = ALONE,
    between_clips: Callable[[], None] = lambda: None,
) -> dict[str, Scores]:
    """Score a model on a split, one clip per forward pass as published. Leaves the model's mode as it was.

    protocols: names of `protocols.PROTOCOLS`, or avsbench-bsN. All are computed by one pass over the clips.
    ranks: processes that share the clips; all get the scores that one alone would get, to the last bit.
    between_clips: called by all ranks equally often; what it raises ends the evaluation.
    Returns the scores by the name of their protocol, in that order.
    Raises `BadInput` when no frame of the split has ground truth, or when a protocol does not fit the set.
    """
    chosen = {name: find_protocol(name, len(dataset.clips.classes)) for name in protocols}
    counted = count_clips(model, dataset, sound, ranks, between_clips)
    return {name: _score(name, protocol, dataset, counted) for name, protocol in chosen.items()}


def count_clips(
    model: COMBO, dataset: ClipDataset, sound: Sound, ranks: Ranks, between_clips: Callable[[], None]
) -> dict[int, Counts]:
    """The pixel counts of all annotated clips, by index, with the clips shared by all ranks."""
    check_annotated(dataset)
    features_of = sound_source(dataset, sound)
    was_training = model.training
    model.eval()
    counted: dict[int, Counts] = {}
    with bar(len(dataset), f"evaluate {dataset.split}, {sound} sound", "clips", shown=ranks.first) as progress:
        for start in range(0, len(dataset), ranks.count):
            between_clips()
            if (index := start + ranks.rank) < len(dataset):
                sample = dataset[index]
                if sample.supervised.any():
                    counted[index] = count_clip(segment(model, sample, features_of(index, sample)), sample)
            progress.update(min(ranks.count, len(dataset) - start))
    model.train(was_training)
    return {index: counts for share in ranks.gather(counted) for index, counts in share.items()}


def check_annotated(dataset: ClipDataset) -> None:
    """Raise `BadInput` when no frame of a split has ground truth."""
    if not any(any(dataset.clip(i).frame_annotated) for i in range(len(dataset))):
        raise BadInput(f"split {dataset.split!r} has no annotated frame to score")


def _score(name: str, protocol: MetricProtocol, dataset: ClipDataset, counted: dict[int, Counts]) -> Scores:
    """The scores of a split in one protocol, by the counts of its clips."""
    classes, per_clip = dataset.clips.classes, {}
    metrics = make_metrics(protocol, len(classes))
    for index, counts in sorted(counted.items()):
        clip = dataset.clip(index)
        if (scored := metrics.update(counts, clip.num_frames)) is not None:
            per_clip[clip.id] = scored
    values = asdict(metrics.result())
    j, f = values.pop("M_J"), values.pop("M_F")
    if isinstance(metrics, SemanticMetrics):
        values["classes"] = {name: row for name, row in zip(classes, values["classes"], strict=True) if row["frames"]}
        values["absent"] = [classes[k] for k in values["absent"]]
    return Scores(j, f, full_name(name, protocol), values, per_clip)
