"""Score a model on a split: M_J and M_F in any protocol, with the right sound or with a wrong one."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ...data.dataset import ClipDataset
from ...errors import BadInput
from ...model.combo import COMBO
from ..common.choices import Sound
from ..common.distributed import Ranks
from ..common.percent import PERCENT, percent
from ..common.progress import bar
from .clip import Counts, count_clip, segment
from .metrics import ClipScore, SemanticMetrics, make_metrics
from .protocols import PUBLISHED, find_protocol, full_name
from .sounds import sound_source

ALONE = Ranks()


@dataclass(frozen=True)
class ScoredClip:
    """The numbers of one clip: J and F in percent. J_T and area_T have T values, None for frames without truth.

    area_T: the share of a frame's pixels, 0..1, that is predicted as an object although the truth has none.
    """

    J: float | None
    F: float | None
    J_T: tuple[float | None, ...]
    area_T: tuple[float | None, ...]

    @classmethod
    def of(cls, score: ClipScore, annotated: Sequence[bool]) -> "ScoredClip":
        """annotated: which of the T frames were scored."""
        j, area = iter(score.J_T), iter(score.area_T)
        pairs = [(percent(next(j)), next(area)) if there else (None, None) for there in annotated]
        return cls(percent(score.J), percent(score.F), tuple(j for j, _ in pairs), tuple(area for _, area in pairs))


@dataclass(frozen=True)
class Scores:
    """M_J and M_F of one evaluation in percent, what they mean, and the clips behind them."""

    M_J: float
    M_F: float
    protocol: str  # its name, and what it means
    details: dict[str, Any]  # counts of clips, empty frames, absent classes; values by class, J and F in percent
    per_clip: dict[str, ScoredClip]  # by id

    def summary(self) -> dict[str, Any]:
        """As JSON, without the clips."""
        return {"M_J": self.M_J, "M_F": self.M_F, "unit": PERCENT, "protocol": self.protocol, **self.details}


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
    for name in protocols:
        find_protocol(name, len(dataset.clips.classes))
    counted = count_clips(model, dataset, sound, ranks, between_clips)
    return {name: score_counts(name, dataset, counted) for name in protocols}


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


def score_counts(name: str, dataset: ClipDataset, counted: dict[int, Counts]) -> Scores:
    """The scores of a split in the protocol of that name, by the counts of its annotated clips, at least one."""
    classes, clips = dataset.clips.classes, {}
    protocol = find_protocol(name, len(classes))
    metrics = make_metrics(protocol, len(classes))
    for index, counts in sorted(counted.items()):
        clip = dataset.clip(index)
        clips[clip.id] = ScoredClip.of(metrics.update(counts, clip.num_frames), clip.frame_annotated)
    values = asdict(metrics.result())
    j, f = 100 * values.pop("M_J"), 100 * values.pop("M_F")
    if isinstance(metrics, SemanticMetrics):
        rows = [{**row, "J": percent(row["J"]), "F": percent(row["F"])} for row in values["classes"]]
        values["classes"] = {name: row for name, row in zip(classes, rows, strict=True) if row["frames"]}
        values["absent"] = [classes[k] for k in values["absent"]]
    return Scores(j, f, full_name(name, protocol), values, clips)
