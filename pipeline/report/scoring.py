"""Segment all clips of a split with one run, and score them as `combo evaluate` does."""

import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data.dataset import Sample
from ...model.inference import label_map
from ..common.progress import bar
from ..compare import comparable
from ..evaluate.clip import count_clip, segment_and_attend
from ..evaluate.metrics import make_metrics
from ..evaluate.protocols import find_protocol
from ..runs.open import open_run
from .targets import Run


@dataclass(frozen=True)
class Scoring:
    """What runs are scored on, and how; see `find_protocol`."""

    split: str
    protocol: str


@dataclass(frozen=True)
class ClipScore:
    """J and F of a clip by the protocol, and J by frame.

    With several classes, J_T is the mean over the classes present or predicted, J the mean of J_T, and there is no F.
    None without ground truth, and in frames without any object.
    """

    J: float | None
    F: float | None
    J_T: list[float | None]


@dataclass(frozen=True)
class Segmented:
    """What a run predicts for one clip.

    labels: uint8 [T, H, W]. object: float32 [T, H, W], 0..1, the probability of any object. attention: the same, where
    the sound attends, the highest of each frame being 1; None for fusions without attention.
    """

    sample: Sample
    labels: np.ndarray
    object: np.ndarray
    attention: np.ndarray | None
    score: ClipScore


class Scorer:
    """A run with its data. Raises `BadInput` when weights, clips or caches are gone or have changed."""

    def __init__(self, run: Run, scoring: Scoring, device: torch.device) -> None:
        trained = open_run(run.folder, device)
        self.dataset = trained.data.dataset(scoring.split)
        how = comparable.Scoring(scoring.split, "right", scoring.protocol)
        facts = comparable.data_facts(trained.data, scoring.split)
        self.subject = comparable.describe(run.variant, run.folder, run.config, how, facts)
        self.model, self.weights = trained.network, trained.weights
        self.run = run
        num_classes = len(trained.info.classes)
        self.metrics = make_metrics(find_protocol(scoring.protocol, num_classes), num_classes)

    def clips(self) -> Iterator[Segmented]:
        """All clips in order; afterwards `result` returns the scores over all of them."""
        with bar(len(self.dataset), f"segment with {self.run.variant}, seed {self.run.seed}", "clips") as progress:
            for index in range(len(self.dataset)):
                yield self._clip(self.dataset[index])
                progress.update()

    def result(self) -> dict[str, Any] | None:
        """M_J, M_F and their details; None when no clip has ground truth."""
        try:
            return asdict(self.metrics.result())
        except ValueError:
            return None

    def _clip(self, sample: Sample) -> Segmented:
        scores_TKHW, attention_THW = segment_and_attend(self.model, sample)
        labels_THW = label_map(scores_TKHW).cpu().numpy()
        object_THW = (scores_TKHW[:, 1:].amax(dim=1) - scores_TKHW[:, 0]).sigmoid().cpu().numpy()
        attention = None if attention_THW is None else attention_THW.cpu().numpy()
        return Segmented(sample, labels_THW, object_THW, attention, self._score(sample, scores_TKHW))

    def _score(self, sample: Sample, scores_TKHW: Tensor) -> ClipScore:
        if not sample.supervised.any():
            return ClipScore(None, None, [None] * len(scores_TKHW))
        counts = count_clip(scores_TKHW, sample)
        j_of_supervised = iter(_object_j(counts.areas_3TK))
        j_T = [next(j_of_supervised) if there else None for there in sample.supervised]
        if (scored := self.metrics.update(counts, sample.clip.num_frames)) is not None:
            return ClipScore(*scored, j_T)
        seen = [j for j in j_T if j is not None]
        return ClipScore(statistics.mean(seen) if seen else None, None, j_T)


def _object_j(areas_3TK: np.ndarray) -> list[float | None]:
    """J of each frame: mean over the classes of objects present or predicted; None without any."""
    hits_TK, predicted_TK, truth_TK = areas_3TK[..., 1:]
    union_TK = predicted_TK + truth_TK - hits_TK
    pairs = zip(hits_TK, union_TK, strict=True)
    return [float((hits[union > 0] / union[union > 0]).mean()) if union.any() else None for hits, union in pairs]
