"""M_J and M_F in any protocol, accumulated clip by clip.

Every protocol works on the same pixel counts (`clip.Counts`). Scores of frames are added up as whole multiples of
2^-40: such sums do not depend on the order of the clips.

The tiny constants that published code adds to denominators are left out: they change no result by more than 1e-7.

T frames of one clip, K classes, E thresholds.
"""

from dataclasses import dataclass

import numpy as np

from ...base import IGNORE_LABEL
from .clip import ABOVE_HALF, Counts
from .protocols import BinaryProtocol, Classes, MetricProtocol, SemanticProtocol

BETA2 = 0.3  # the beta squared of F: precision weighs more than recall

_ONE = 1 << 40  # 1.0 in sums; int64 then holds the scores of 8 million frames


@dataclass(frozen=True)
class ClipScore:
    """One clip as if it were a call of its own, in shares of 1.

    J is the mean of J_T, which are those of its annotated frames. F: None for sets with classes. area_T: the share of
    the pixels that is predicted as some object, in frames of empty truth: all of it is wrong. None in other frames.
    """

    J: float | None
    F: float | None
    J_T: tuple[float | None, ...]
    area_T: tuple[float | None, ...]


@dataclass(frozen=True)
class BinaryResult:
    """Scores of 0..1 and the counts that belong beside them."""

    M_J: float
    M_F: float
    clips: int
    frames: int
    empty_frames: int  # without any object in the truth


class BinaryMetrics:
    """M_J and M_F of S4 and MS3.

    J of a frame is intersection over union of p > 1/2 and truth, with a rule of the protocol's for empty truth.
    F leaves such frames out, averages the curve over thresholds of the other frames of a call, and takes its maximum;
    a call with nothing but empty truth counts as 0.
    """

    def __init__(self, protocol: BinaryProtocol) -> None:
        self._protocol = protocol
        self._clips: list[np.ndarray] = []  # int64: frames, frames with an object, sum of J, sums of F by threshold

    def update(self, counts: Counts, clip_frames: int) -> ClipScore:
        """Add one clip and return its own scores. clip_frames makes no difference."""
        assert counts.curves_2TE is not None, "counts of a set with classes"
        hits_TE, predicted_TE = counts.curves_2TE
        hits_T, predicted_T, true_T = counts.areas_3TK[..., 1]
        empty_T = true_T == 0
        j_T = hits_T / np.maximum(predicted_T + true_T - hits_T, 1)
        pixels_T = counts.areas_3TK[2].sum(axis=-1)
        strict = self._protocol.empty == "strict"
        j_T = np.where(empty_T, predicted_T == 0 if strict else 1 - predicted_T / pixels_T, j_T)

        f_TE = _f_measure(hits_TE, predicted_TE, true_T[:, None])[~empty_T]
        if self._protocol.threshold == "best":
            f_TE = np.delete(f_TE, ABOVE_HALF, axis=1)
        else:
            f_TE = f_TE[:, ABOVE_HALF : ABOVE_HALF + 1]
        self._clips.append(np.array([len(j_T), len(f_TE), _fixed(j_T).sum(), *_fixed(f_TE).sum(axis=0)]))
        f = float(f_TE.mean(axis=0).max()) if len(f_TE) else 0.0
        return ClipScore(float(j_T.mean()), f, tuple(j_T.tolist()), _where(empty_T, predicted_T / pixels_T))

    def result(self) -> BinaryResult:
        """The scores so far. Raises ValueError if nothing was scored."""
        if not (clips := len(self._clips)):
            raise ValueError("no clip was scored")
        calls = np.add.reduceat(self._clips, range(0, clips, self._protocol.clips_per_call or clips))
        frames, objects, j = calls[:, :3].T
        M_J = _mean_over_calls(j, frames)
        M_F = _mean_over_calls(calls[:, 3:].max(axis=1), np.maximum(objects, 1))
        return BinaryResult(M_J, M_F, clips, int(frames.sum()), int((frames - objects).sum()))


@dataclass(frozen=True)
class ClassScore:
    """One class of an AVSS table."""

    J: float
    F: float
    frames: int  # in which it is present or predicted; padded ones included


@dataclass(frozen=True)
class SemanticResult:
    """Scores of 0..1 and the counts that belong beside them."""

    M_J: float
    M_F: float
    clips: int
    frames: int
    padded_frames: int  # scored besides these
    classes: tuple[ClassScore, ...]  # by label value
    absent: tuple[int, ...]  # classes that are neither present nor predicted in any frame


class SemanticMetrics:
    """M_J and M_F of AVSS. How clips are grouped makes no difference."""

    def __init__(self, protocol: SemanticProtocol, num_classes: int) -> None:
        """num_classes: K, background included, 2..255."""
        if not 2 <= num_classes <= IGNORE_LABEL:
            raise ValueError(f"{num_classes} classes; there must be 2 to {IGNORE_LABEL}, background included")
        self._protocol = protocol
        self._clips = self._frames = self._padded_frames = 0
        self._frames_K, self._J_K, self._F_K = np.zeros((3, num_classes), np.int64)
        self._areas_3K = np.zeros((3, num_classes), np.int64)

    def update(self, counts: Counts, clip_frames: int) -> ClipScore:
        """Add one clip and return its own J. clip_frames: how many frames it has, annotated or not.

        J of a frame is the mean over the protocol's classes that are present or predicted in it, None without any.
        """
        hits_TK, predicted_TK, truth_TK = counts.areas_3TK
        union_TK = predicted_TK + truth_TK - hits_TK
        self._clips += 1
        self._frames += len(union_TK)
        self._areas_3K += counts.areas_3TK.sum(axis=1)
        self._frames_K += (union_TK > 0).sum(axis=0)
        self._J_K += _fixed(hits_TK / np.maximum(union_TK, 1)).sum(axis=0)
        self._F_K += _fixed(_f_measure(hits_TK, predicted_TK, truth_TK)).sum(axis=0)
        padding = max(self._protocol.pad_to - clip_frames, 0)
        self._padded_frames += padding
        self._frames_K[0] += padding
        self._J_K[0] += padding * _ONE
        self._F_K[0] += padding * _ONE
        j_TK = np.where(union_TK > 0, hits_TK / np.maximum(union_TK, 1), np.nan)
        rows = [row[~np.isnan(row)] for row in j_TK[:, _counted(self._protocol.J_over, np.full(j_TK.shape[1], True))]]
        j_T = tuple(float(row.mean()) if len(row) else None for row in rows)
        seen = [j for j in j_T if j is not None]
        wrong_T = predicted_TK[:, 1:].sum(axis=1) / predicted_TK.sum(axis=1)
        area_T = _where(truth_TK[:, 1:].sum(axis=1) == 0, wrong_T)
        return ClipScore(sum(seen) / len(seen) if seen else None, None, j_T, area_T)

    def result(self) -> SemanticResult:
        """The scores so far. Raises ValueError if nothing was scored."""
        if not self._frames:
            raise ValueError("no frame was scored")
        if self._protocol.pixels == "frame":
            j_K, f_K = (sums_K / np.maximum(self._frames_K, 1) / _ONE for sums_K in (self._J_K, self._F_K))
        else:
            hits_K, predicted_K, truth_K = self._areas_3K
            j_K = hits_K / np.maximum(predicted_K + truth_K - hits_K, 1)
            f_K = _f_measure(hits_K, predicted_K, truth_K)
        seen_K = self._frames_K > 0
        classes = zip(j_K.tolist(), f_K.tolist(), self._frames_K.tolist(), strict=True)
        return SemanticResult(
            M_J=float(j_K[_counted(self._protocol.J_over, seen_K)].mean()),
            M_F=float(f_K[_counted(self._protocol.F_over, seen_K)].mean()),
            clips=self._clips,
            frames=self._frames,
            padded_frames=self._padded_frames,
            classes=tuple(ClassScore(*row) for row in classes),
            absent=tuple(np.flatnonzero(~seen_K).tolist()),
        )


def make_metrics(protocol: MetricProtocol, num_classes: int) -> BinaryMetrics | SemanticMetrics:
    """An empty accumulator for a protocol; num_classes with background."""
    if isinstance(protocol, BinaryProtocol):
        return BinaryMetrics(protocol)
    return SemanticMetrics(protocol, num_classes)


def _where(chosen_T: np.ndarray, values_T: np.ndarray) -> tuple[float | None, ...]:
    """The values of the chosen frames, None for the others."""
    return tuple(float(value) if chosen else None for chosen, value in zip(chosen_T, values_T, strict=True))


def _mean_over_calls(sums: np.ndarray, frames: np.ndarray) -> float:
    """The mean over calls of each call's sum by its frames; sums in multiples of 1 / _ONE."""
    return int(np.rint(sums / frames).astype(np.int64).sum()) / len(sums) / _ONE


def _counted(over: Classes, seen_K: np.ndarray) -> np.ndarray | slice:
    """Which classes a mean is taken over."""
    by_name = {"all": slice(None), "present": seen_K, "no-background": slice(1, None), "no-last-class": slice(-1)}
    return by_name[over]


def _fixed(values: np.ndarray) -> np.ndarray:
    """Scores of 0..1 as whole multiples of 1 / _ONE."""
    return np.rint(values * _ONE).astype(np.int64)


def _f_measure(hits: np.ndarray, predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(1 + beta^2) P R / (beta^2 P + R) of pixel counts, with P and R written out; 0 where nothing is hit."""
    return (1 + BETA2) * hits / np.maximum(BETA2 * truth + predicted, BETA2)
