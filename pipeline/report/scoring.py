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
from ..evaluate.clip import count_clip, segment
from ..evaluate.metrics import make_metrics
from ..evaluate.protocols import find_protocol
from ..runs.open import open_run
from .targets import Run


@dataclass(frozen=True)
class Segmented:
    """What a run says to one clip. labels: uint8 [T, H, W]. object: float32 [T, H, W], 0..1, of any object.

    J, F: of the clip by the protocol; with classes, J is the mean of J_T and there is no F. None without ground truth.
    J_T: by frame, mean over the classes of its objects, present or predicted; None without truth or without any.
    """

    sample: Sample
    labels: np.ndarray
    object: np.ndarray
    J: float | None
    F: float | None
    J_T: list[float | None]


class Scorer:
    """A run with its data. Raises `BadInput` when weights, clips or caches are gone or are others."""

    def __init__(self, run: Run, split: str, protocol: str, device: torch.device) -> None:
        opened = open_run(run.folder, device)
        self.dataset = opened.data.dataset(split)
        self.model, self.weights = opened.network, opened.weights
        self.run = run
        num_classes = len(opened.info.classes)
        self.metrics = make_metrics(find_protocol(protocol, num_classes), num_classes)

    def clips(self) -> Iterator[Segmented]:
        """All clips in order; `result` then gives the scores of all of them."""
        with bar(len(self.dataset), f"segment with {self.run.variant}, seed {self.run.seed}", "clips") as progress:
            for index in range(len(self.dataset)):
                yield self._clip(self.dataset[index])
                progress.update()

    def result(self) -> dict[str, Any] | None:
        """M_J, M_F and what stands behind them; None when no clip has ground truth."""
        try:
            return asdict(self.metrics.result())
        except ValueError:
            return None

    def _clip(self, sample: Sample) -> Segmented:
        scores_TKHW = segment(self.model, sample, sample.features)
        labels_THW = label_map(scores_TKHW)
        object_THW = (scores_TKHW[:, 1:].amax(dim=1) - scores_TKHW[:, 0]).sigmoid()
        j, f, j_T = self._score(sample, scores_TKHW)
        return Segmented(sample, labels_THW.cpu().numpy(), object_THW.cpu().numpy(), j, f, j_T)

    def _score(self, sample: Sample, scores_TKHW: Tensor) -> tuple[float | None, float | None, list[float | None]]:
        """The clip's J and F, and J by frame."""
        if not sample.supervised.any():
            return None, None, [None] * len(scores_TKHW)
        counts = count_clip(scores_TKHW, sample)
        j_of_supervised = iter(_object_j(counts.areas_3TK))
        j_T = [next(j_of_supervised) if there else None for there in sample.supervised]
        if (scored := self.metrics.update(counts, sample.clip.num_frames)) is not None:
            return *scored, j_T
        seen = [j for j in j_T if j is not None]
        return (statistics.mean(seen) if seen else None), None, j_T


def _object_j(areas_3TK: np.ndarray) -> list[float | None]:
    """J of each frame: mean over its objects' classes, present or predicted; None without any."""
    hits_TK, predicted_TK, truth_TK = areas_3TK[..., 1:]
    union_TK = predicted_TK + truth_TK - hits_TK
    seen_TK = union_TK > 0
    return [
        float((h[s] / u[s]).mean()) if s.any() else None for h, u, s in zip(hits_TK, union_TK, seen_TK, strict=True)
    ]
