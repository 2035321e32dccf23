"""M_J and M_F in any protocol, accumulated clip by clip.

Pixels are counted once, on the device of the predictions (`binary_counts`, `class_areas`); every protocol asked for
then works on the same few counts. What is kept does not grow with the data set.

Scores of frames are added up as whole multiples of 2^-40. Such sums do not depend on the order or grouping of their
terms, so accumulators that shared the clips between them merge to exactly what one alone would have given.

The tiny constants that published code adds to denominators are left out: they change no result by more than 1e-7.

T frames of one clip, K classes, H W pixels, E thresholds, one half twice: "at least" for F, "above" for J.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...base import IGNORE_LABEL
from .protocols import BinaryProtocol, Classes, MetricProtocol, SemanticProtocol

State = dict[str, np.ndarray]  # int64 sums: adding those of several accumulators is merging

BETA2 = 0.3  # the beta squared of F: precision weighs more than recall

# The published thresholds; in float32 the 128th is exactly 0.5 and the last exactly 1.
THRESHOLDS = torch.linspace(0, 1 - 1e-10, 255)
_ABOVE_HALF = 128  # where "above one half" stands between the thresholds of at least 1/2 and at least 128/254

_ONE = 1 << 40  # 1.0 in sums; int64 then holds the scores of 8 million frames


@dataclass(frozen=True)
class BinaryCounts:
    """Pixel counts of one clip at every threshold: int64 [T, E] hits and predicted, [T] objects in the truth."""

    hits_TE: np.ndarray
    predicted_TE: np.ndarray
    objects_T: np.ndarray
    pixels: int  # of one frame


def binary_counts(scores_THW: Tensor, truth_THW: Tensor) -> BinaryCounts:
    """Count the pixels of one clip, in one pass.

    scores_THW: [T, H, W] logits of "object"; from scores of two classes, object - background; for a hard mask,
    infinity inside and -infinity outside. truth_THW: [T, H, W], 0 or 1 (or bool), annotated frames only.
    Raises ValueError for other values, shapes that differ, and scores that are not a number.
    """
    _check_shapes(scores_THW, truth_THW)
    p_THW = scores_THW.float().sigmoid()
    if torch.isnan(p_THW.sum()):  # they are bounded, so only one that is not a number makes the sum so
        raise ValueError("the scores hold values that are not a number")
    wrong_THW = (truth_THW != 0) & (truth_THW != 1)
    if wrong_THW.any():
        raise ValueError(f"binary truth holds the value {truth_THW[wrong_THW][0].item()}; only 0 and 1 are allowed")
    num_frames, num_bins = len(p_THW), len(THRESHOLDS) + 1
    reached_THW = _last_threshold(p_THW) + (p_THW > 0.5).int()
    row_THW = 2 * _frame_numbers(p_THW) + truth_THW.to(p_THW.device).int()
    bins = (num_bins * row_THW + reached_THW).flatten()
    histogram_T2E = torch.bincount(bins, minlength=2 * num_frames * num_bins).view(num_frames, 2, num_bins)
    counts_T2E = histogram_T2E.flip(-1).cumsum(-1).flip(-1).cpu().numpy()
    hits_TE = counts_T2E[:, 1]
    return BinaryCounts(hits_TE, counts_T2E.sum(axis=1), hits_TE[:, 0], p_THW[0].numel())


def class_areas(labels_THW: Tensor, truth_THW: Tensor, num_classes: int) -> np.ndarray:
    """int64 [3, T, K]: pixels of each class that are hit, predicted, and true, per frame of one clip.

    labels_THW: integers [T, H, W], the predicted class, 0..K-1. truth_THW: the same, or 255, annotated frames only;
    pixels labelled 255 belong to no class of the truth but, as published, still count as predicted.
    Raises ValueError for other values and for shapes that differ.
    """
    _check_shapes(labels_THW, truth_THW)
    truth_THW = truth_THW.to(labels_THW.device)
    for name, values, also in (("predicted", labels_THW, 0), ("true", truth_THW, IGNORE_LABEL)):
        wrong = ((values < 0) | (values >= num_classes)) & (values != also)
        if wrong.any():
            raise ValueError(f"a {name} label is {int(values[wrong][0])}, but there are {num_classes} classes")
    num_frames, columns = len(labels_THW), num_classes + 1  # one more column for 255
    row_THW = num_classes * _frame_numbers(labels_THW) + labels_THW.int()
    bins = columns * row_THW + truth_THW.int().clamp(max=num_classes)
    counts = torch.bincount(bins.flatten(), minlength=num_frames * num_classes * columns)
    confusion_TKC = counts.view(num_frames, num_classes, columns)
    hits_TK = confusion_TKC.diagonal(dim1=1, dim2=2)
    return torch.stack([hits_TK, confusion_TKC.sum(2), confusion_TKC.sum(1)[:, :-1]]).cpu().numpy()


@dataclass(frozen=True)
class BinaryResult:
    """Scores of 0..1 and the counts that belong beside them."""

    M_J: float
    M_F: float
    clips: int
    frames: int
    empty_frames: int  # frames without any object pixel in the ground truth


class BinaryMetrics:
    """M_J and M_F of S4 and MS3.

    J of a frame is intersection over union of p > 1/2 and truth, with a rule of the protocol's for empty truth.
    F leaves such frames out, averages the curve over thresholds of the other frames of a call, and takes its maximum;
    a call with nothing but empty truth counts as 0.
    """

    def __init__(self, protocol: BinaryProtocol) -> None:
        self._protocol = protocol
        width = len(THRESHOLDS) if protocol.threshold == "best" else 1
        names = ("clips", "frames", "empty_frames", "calls", "J", "F")
        open_call = ("call_clips", "call_frames", "call_objects", "call_J")
        self._sums: State = {name: np.zeros((), np.int64) for name in names + open_call}
        self._sums["call_curve"] = np.zeros(width, np.int64)

    def update(self, counts: BinaryCounts) -> tuple[float, float]:
        """Add one clip and give its J and F, as if it were a call of its own."""
        hits_T, predicted_T = counts.hits_TE[:, _ABOVE_HALF], counts.predicted_TE[:, _ABOVE_HALF]
        empty_T = counts.objects_T == 0
        j_T = hits_T / np.maximum(predicted_T + counts.objects_T - hits_T, 1)
        strict = self._protocol.empty == "strict"
        j_T = np.where(empty_T, predicted_T == 0 if strict else 1 - predicted_T / counts.pixels, j_T)

        f_TE = _f_measure(counts.hits_TE, counts.predicted_TE, counts.objects_T[:, None])[~empty_T]
        if self._protocol.threshold == "best":
            f_TE = np.delete(f_TE, _ABOVE_HALF, axis=1)
        else:
            f_TE = f_TE[:, _ABOVE_HALF : _ABOVE_HALF + 1]

        _add(self._sums, clips=1, frames=len(j_T), empty_frames=empty_T.sum())
        _add(self._sums, call_clips=1, call_frames=len(j_T), call_objects=len(f_TE))
        _add(self._sums, call_J=_fixed(j_T).sum(), call_curve=_fixed(f_TE).sum(axis=0))
        if self._sums["call_clips"] == self._protocol.clips_per_call:
            self._sums = _close_call(self._sums)
        return float(j_T.mean()), float(f_TE.mean(axis=0).max()) if len(f_TE) else 0.0

    def state(self) -> State:
        """The sums so far. Where a call has a number of clips, what is left open counts as a call of its own.

        So clips that are shared between accumulators must be shared by whole calls.
        """
        sums = self._sums if self._protocol.clips_per_call is None else _close_call(self._sums)
        return {name: array.copy() for name, array in sums.items()}

    def merge(self, state: State) -> None:
        """Add the sums of another accumulator of the same protocol."""
        _add(self._sums, **state)

    def result(self) -> BinaryResult:
        """The scores so far. Raises ValueError if nothing was scored."""
        if not self._sums["clips"]:
            raise ValueError("no clip was scored")
        sums = {k: int(v) for k, v in _close_call(self._sums).items() if not k.startswith("call_")}
        j, f = (sums[name] / sums["calls"] / _ONE for name in ("J", "F"))
        return BinaryResult(j, f, sums["clips"], sums["frames"], sums["empty_frames"])


def _close_call(sums: State) -> State:
    """The sums with the open call, if there is one, scored and added to the closed ones."""
    if not sums["call_clips"]:
        return dict(sums)
    closed = {k: np.zeros_like(v) if k.startswith("call_") else v for k, v in sums.items()}
    j = np.rint(sums["call_J"] / sums["call_frames"])
    f = np.rint(sums["call_curve"].max() / max(sums["call_objects"], 1))
    _add(closed, calls=1, J=j, F=f)
    return closed


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
        self._sums: State = {name: np.zeros((), np.int64) for name in ("clips", "frames", "padded_frames")}
        self._sums |= {name: np.zeros(num_classes, np.int64) for name in ("frames_K", "J_K", "F_K")}
        self._sums["areas_3K"] = np.zeros((3, num_classes), np.int64)

    def update(self, areas_3TK: np.ndarray, clip_frames: int) -> None:
        """Add one clip: the `class_areas` of its annotated frames, and how many frames it has in all."""
        hits_TK, predicted_TK, truth_TK = areas_3TK
        union_TK = predicted_TK + truth_TK - hits_TK
        _add(self._sums, clips=1, frames=len(union_TK), areas_3K=areas_3TK.sum(axis=1))
        _add(
            self._sums,
            frames_K=(union_TK > 0).sum(axis=0),
            J_K=_fixed(hits_TK / np.maximum(union_TK, 1)).sum(axis=0),
            F_K=_fixed(_f_measure(hits_TK, predicted_TK, truth_TK)).sum(axis=0),
        )
        padding = max(self._protocol.pad_to - clip_frames, 0)
        background_K = np.eye(1, areas_3TK.shape[2], dtype=np.int64)[0] * padding
        _add(self._sums, padded_frames=padding, frames_K=background_K, J_K=background_K * _ONE, F_K=background_K * _ONE)

    def state(self) -> State:
        """The sums so far."""
        return {name: array.copy() for name, array in self._sums.items()}

    def merge(self, state: State) -> None:
        """Add the sums of another accumulator of the same protocol and number of classes."""
        _add(self._sums, **state)

    def result(self) -> SemanticResult:
        """The scores so far. Raises ValueError if nothing was scored."""
        if not self._sums["frames"]:
            raise ValueError("no frame was scored")
        frames_K = self._sums["frames_K"]
        if self._protocol.pixels == "frame":
            j_K, f_K = (self._sums[name] / np.maximum(frames_K, 1) / _ONE for name in ("J_K", "F_K"))
        else:
            hits_K, predicted_K, truth_K = self._sums["areas_3K"]
            j_K = hits_K / np.maximum(predicted_K + truth_K - hits_K, 1)
            f_K = _f_measure(hits_K, predicted_K, truth_K)
        seen_K = frames_K > 0
        return SemanticResult(
            M_J=float(j_K[_counted(self._protocol.J_over, seen_K)].mean()),
            M_F=float(f_K[_counted(self._protocol.F_over, seen_K)].mean()),
            clips=int(self._sums["clips"]),
            frames=int(self._sums["frames"]),
            padded_frames=int(self._sums["padded_frames"]),
            classes=tuple(ClassScore(float(j), float(f), int(n)) for j, f, n in zip(j_K, f_K, frames_K, strict=True)),
            absent=tuple(int(k) for k in np.flatnonzero(~seen_K)),
        )


def make_metrics(protocol: MetricProtocol, num_classes: int) -> BinaryMetrics | SemanticMetrics:
    """An empty accumulator for a protocol; num_classes with background."""
    if isinstance(protocol, BinaryProtocol):
        return BinaryMetrics(protocol)
    return SemanticMetrics(protocol, num_classes)


def _counted(over: Classes, seen_K: np.ndarray) -> np.ndarray | slice:
    """Which classes a mean is taken over."""
    by_name = {"all": slice(None), "present": seen_K, "no-background": slice(1, None), "no-last-class": slice(-1)}
    return by_name[over]


def _add(sums: State, **terms: Any) -> None:
    """Add to the sums of these names; the arrays themselves are replaced, never written to."""
    for name, term in terms.items():
        sums[name] = np.asarray(sums[name] + np.asarray(term, np.int64))


def _fixed(values: np.ndarray) -> np.ndarray:
    """Scores of 0..1 as whole multiples of 1 / _ONE."""
    return np.rint(values * _ONE).astype(np.int64)


def _f_measure(hits: np.ndarray, predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(1 + beta^2) P R / (beta^2 P + R) of pixel counts, with P and R written out; 0 where nothing is hit."""
    return (1 + BETA2) * hits / np.maximum(BETA2 * truth + predicted, BETA2)


def _last_threshold(p: Tensor) -> Tensor:
    """int32: index of the highest threshold that each probability reaches; the thresholds themselves decide.

    The k-th threshold is k / 254 but for rounding. So 254 p + 3/4, cut to a whole number, is the index looked for or
    the next one, and one comparison settles it: ten times as fast as a binary search.
    """
    candidate = (p * (len(THRESHOLDS) - 1) + 0.75).int()
    return candidate - (p < THRESHOLDS.to(p.device)[candidate]).int()


def _frame_numbers(frames_THW: Tensor) -> Tensor:
    """int32 [T, 1, 1]: 0, 1, 2, ... on the same device."""
    return torch.arange(len(frames_THW), dtype=torch.int32, device=frames_THW.device)[:, None, None]


def _check_shapes(predicted_THW: Tensor, truth_THW: Tensor) -> None:
    if predicted_THW.ndim != 3 or predicted_THW.shape != truth_THW.shape or not predicted_THW.numel():
        raise ValueError(
            f"predictions {list(predicted_THW.shape)} and truth {list(truth_THW.shape)} "
            "must be the same, not empty [T, H, W]"
        )
