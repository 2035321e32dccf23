"""Segment all clips of a split with one run, and score them as `combo evaluate` does, unless it was done before."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from ...data.dataset import Sample
from ...model.combo import COMBO
from ...model.inference import label_map
from ..common.progress import bar
from ..compare.comparable import Scoring, data_facts, describe
from ..evaluate.clip import Counts, count_clip, segment_and_attend
from ..evaluate.results import Result, find_result
from ..evaluate.scores import Scores, score_counts
from ..evaluate.show import show_weights
from ..runs.data import open_data
from ..runs.open import choose_weights, load_network
from .targets import Run


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


class Scorer:
    """A run with its data. Raises `BadInput` when weights, clips or caches are gone or have changed.

    kept: the result that `combo evaluate` left; None when there is none of these weights and clips.
    """

    def __init__(self, run: Run, scoring: Scoring, device: torch.device) -> None:
        self.run, self._device, self._protocol = run, device, scoring.protocol
        data = open_data(run.info)
        self.dataset = data.dataset(scoring.split)
        self._weights = choose_weights(run.folder, run.config)
        self.kept: Result | None = find_result(self._weights, self.dataset, scoring.sound, scoring.protocol)
        self.subject = describe(run.variant, run.folder, run.config, scoring, data_facts(data, scoring.split))
        self._counted: dict[int, Counts] | None = None

    @property
    def weights(self) -> str:
        """Which were scored, in words."""
        return f"{self.run.folder}: {show_weights(self._weights, self.run.info.converted_from)}"

    @property
    def attends(self) -> bool:
        """Whether its clips come with attention."""
        return self._network.fusion.attends

    def clips(self) -> Iterator[Segmented]:
        """All clips in order."""
        counted: dict[int, Counts] = {}
        with bar(len(self.dataset), f"segment with {self.run.variant}, seed {self.run.seed}", "clips") as progress:
            for index in range(len(self.dataset)):
                yield self._clip(index, counted)
                progress.update()
        self._counted = counted

    def scores(self) -> Scores | Result | None:
        """M_J, M_F and the numbers of the clips: those kept, else new ones; None without truth."""
        if self.kept is not None:
            return self.kept
        if self._counted is None:
            for _ in self.clips():
                pass
        return score_counts(self._protocol, self.dataset, self._counted) if self._counted else None

    @cached_property
    def _network(self) -> COMBO:
        return load_network(self._weights, self.run.config, len(self.run.info.classes), self._device)

    def _clip(self, index: int, counted: dict[int, Counts]) -> Segmented:
        sample = self.dataset[index]
        scores_TKHW, attention_THW = segment_and_attend(self._network, sample)
        if self.kept is None and sample.supervised.any():
            counted[index] = count_clip(scores_TKHW, sample)
        labels_THW = label_map(scores_TKHW).cpu().numpy()
        object_THW = (scores_TKHW[:, 1:].amax(dim=1) - scores_TKHW[:, 0]).sigmoid().cpu().numpy()
        attention = None if attention_THW is None else attention_THW.cpu().numpy()
        return Segmented(sample, labels_THW, object_THW, attention)
