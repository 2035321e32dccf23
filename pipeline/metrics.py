"""Segmentation metrics as the field publishes them, accumulated call by call.

Every number comes from whole-number pixel counts, gathered in one pass on the device of the predictions;
what is kept does not grow with the data set. The tiny constants that published code adds to denominators are
left out: they change no result by more than 1e-7.

T frames of one call, K classes, H W pixels, E edges between bins of scores.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..data.clip import IGNORE_LABEL

BETA2 = 0.3  # the beta squared of F: precision weighs more than recall

# The published thresholds; in float32 the 128th is exactly 0.5 and the last exactly 1.
THRESHOLDS = torch.linspace(0, 1 - 1e-10, 255)
# Above one half means at least the next float32. As one more threshold it lets the same counts give J.
_ABOVE_HALF = 128
_EDGES = torch.cat([THRESHOLDS[:128], torch.nextafter(THRESHOLDS[127:128], torch.ones(1)), THRESHOLDS[128:]])


@dataclass(frozen=True)
class BinaryResult:
    """Scores of 0..1 and the counts that belong beside them."""

    M_J: float  # published: mean over clips
    M_F: float  # published: mean over clips of the best F over 255 thresholds
    M_F_dataset: float  # the best threshold chosen once for all frames: independent of how frames are grouped
    M_J_strict: float  # M_J with frames of empty truth scored 1 if nothing is predicted there, else 0
    clips: int
    frames: int
    empty_frames: int  # frames without any object pixel in the ground truth


class BinaryMetrics:
    """M_J and M_F of S4 and MS3, in the protocol of AVSBench and COMBO.

    J of a frame is intersection over union of score > 0 and truth; a frame with empty truth scores the share
    of its pixels that are predicted background. F leaves such frames out, averages the 255-point curve over
    the other frames of the call, then takes its maximum; a call with nothing but empty truth counts as 0.

    Since the maximum is taken per call, M_F depends on what a call holds. COMBO scores one clip per call.
    Passing the frames of several clips together gives what AVSBench prints at that batch size.
    """

    def __init__(self) -> None:
        self._clips = self._frames = self._empty_frames = 0
        self._j = self._j_strict = self._f = 0.0
        self._curve = np.zeros(len(THRESHOLDS))

    def update(self, scores_THW: Tensor, truth_THW: Tensor) -> tuple[float, float]:
        """Add one clip and give its J and F.

        scores_THW: [T, H, W] logits of "object"; from scores of two classes, object - background.
        truth_THW: [T, H, W], 0 or 1 (or bool), annotated frames only.
        Raises ValueError for other values, shapes that differ, and scores that are not a number.
        """
        counts_T2E = _counts_above_edges(scores_THW, truth_THW)
        pixels = scores_THW[0].numel()
        objects_T = counts_T2E[:, 1, 0]  # every score reaches the first edge, 0
        hits_TE, predicted_TE = counts_T2E[:, 1], counts_T2E.sum(axis=1)
        empty_T = objects_T == 0

        hits_T, predicted_T = hits_TE[:, _ABOVE_HALF], predicted_TE[:, _ABOVE_HALF]
        j_T = hits_T / np.maximum(predicted_T + objects_T - hits_T, 1)
        j = np.where(empty_T, 1 - predicted_T / pixels, j_T).mean()
        j_strict = np.where(empty_T, predicted_T == 0, j_T).mean()

        curves_TE = _f_measure(hits_TE, predicted_TE, objects_T[:, None])[~empty_T]
        curve = np.delete(curves_TE, _ABOVE_HALF, axis=1).sum(axis=0)
        f = curve.max() / max(len(curves_TE), 1)

        self._clips += 1
        self._frames += len(empty_T)
        self._empty_frames += int(empty_T.sum())
        self._j, self._j_strict, self._f = self._j + j, self._j_strict + j_strict, self._f + f
        self._curve += curve
        return float(j), float(f)

    def result(self) -> BinaryResult:
        """The scores so far. Raises ValueError if nothing was scored."""
        if not self._clips:
            raise ValueError("no clip was scored")
        return BinaryResult(
            M_J=float(self._j / self._clips),
            M_F=float(self._f / self._clips),
            M_F_dataset=float(self._curve.max() / max(self._frames - self._empty_frames, 1)),
            M_J_strict=float(self._j_strict / self._clips),
            clips=self._clips,
            frames=self._frames,
            empty_frames=self._empty_frames,
        )


@dataclass(frozen=True)
class ClassScore:
    """One class of an AVSS table: means over the frames in which it is present or predicted."""

    J: float
    F: float
    frames: int


@dataclass(frozen=True)
class SemanticResult:
    """Scores of 0..1 and the counts that belong beside them."""

    M_J: float  # published: mean over all K classes, background included, absent ones as 0
    M_F: float
    M_J_foreground: float  # the same without class 0
    M_F_foreground: float
    M_J_dataset: float  # from the pixels of all frames together; absent classes are left out
    M_F_dataset: float
    classes: tuple[ClassScore, ...]  # by label value
    absent: tuple[int, ...]  # classes that are neither present nor predicted in any frame
    frames: int


class SemanticMetrics:
    """M_J and M_F of AVSS, in the protocol that AVSBench and COMBO share.

    Each class is scored frame by frame, in the frames where it is present or predicted, and averaged over
    those; then the mean over all classes. Pixels labelled 255 belong to no class of the truth but, as
    published, still count as predicted. Black frames that fill a clip up are not to be passed.
    """

    def __init__(self, num_classes: int) -> None:
        """num_classes: K, background included, 2..255."""
        if not 2 <= num_classes <= IGNORE_LABEL:
            raise ValueError(f"{num_classes} classes; there must be 2 to {IGNORE_LABEL}, background included")
        self._num_classes = num_classes
        self._frames = 0
        self._frames_K = np.zeros(num_classes, np.int64)
        self._j_K, self._f_K = np.zeros(num_classes), np.zeros(num_classes)
        self._areas_3K = np.zeros((3, num_classes), np.int64)

    def update(self, labels_THW: Tensor, truth_THW: Tensor) -> None:
        """Add one clip, annotated frames only; how frames are grouped into calls makes no difference.

        labels_THW: integers [T, H, W], the predicted class, 0..K-1. truth_THW: the same, or 255.
        Raises ValueError for other values and for shapes that differ.
        """
        areas_3TK = _areas(labels_THW, truth_THW, self._num_classes)
        hits_TK, predicted_TK, truth_TK = areas_3TK
        union_TK = predicted_TK + truth_TK - hits_TK
        self._frames += len(union_TK)
        self._frames_K += (union_TK > 0).sum(axis=0)
        self._j_K += (hits_TK / np.maximum(union_TK, 1)).sum(axis=0)
        self._f_K += _f_measure(hits_TK, predicted_TK, truth_TK).sum(axis=0)
        self._areas_3K += areas_3TK.sum(axis=1)

    def result(self) -> SemanticResult:
        """The scores so far. Raises ValueError if nothing was scored."""
        if not self._frames:
            raise ValueError("no frame was scored")
        j_K, f_K = (total_K / np.maximum(self._frames_K, 1) for total_K in (self._j_K, self._f_K))
        hits_K, predicted_K, truth_K = self._areas_3K
        seen_K = self._frames_K > 0
        return SemanticResult(
            M_J=float(j_K.mean()),
            M_F=float(f_K.mean()),
            M_J_foreground=float(j_K[1:].mean()),
            M_F_foreground=float(f_K[1:].mean()),
            M_J_dataset=float((hits_K / np.maximum(predicted_K + truth_K - hits_K, 1))[seen_K].mean()),
            M_F_dataset=float(_f_measure(hits_K, predicted_K, truth_K)[seen_K].mean()),
            classes=tuple(
                ClassScore(float(j), float(f), int(n)) for j, f, n in zip(j_K, f_K, self._frames_K, strict=True)
            ),
            absent=tuple(int(k) for k in np.flatnonzero(~seen_K)),
            frames=self._frames,
        )


def _f_measure(hits: np.ndarray, predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """(1 + beta^2) P R / (beta^2 P + R) of pixel counts, with P and R written out; 0 where nothing is hit."""
    return (1 + BETA2) * hits / np.maximum(BETA2 * truth + predicted, BETA2)


def _counts_above_edges(scores_THW: Tensor, truth_THW: Tensor) -> np.ndarray:
    """int64 [T, 2, E]: pixels of background and of object in the truth whose probability reaches each edge.

    A histogram over the intervals between the E edges, summed from above: the same counts as E passes.
    """
    _check_shapes(scores_THW, truth_THW)
    if torch.isnan(scores_THW).any():
        raise ValueError("the scores hold values that are not a number")
    wrong = truth_THW[(truth_THW != 0) & (truth_THW != 1)]
    if len(wrong):
        raise ValueError(f"binary truth holds the value {wrong[0].item()}; only 0 and 1 are allowed")
    num_frames, num_bins = len(scores_THW), len(_EDGES) + 1
    device = scores_THW.device
    bin_THW = torch.searchsorted(_EDGES.to(device), scores_THW.float().sigmoid().contiguous(), right=True)
    group_THW = 2 * torch.arange(num_frames, device=device)[:, None, None] + truth_THW.to(device).long()
    histogram = torch.bincount((group_THW * num_bins + bin_THW).flatten(), minlength=num_frames * 2 * num_bins)
    histogram_T2B = histogram.view(num_frames, 2, num_bins)
    return histogram_T2B.flip(-1).cumsum(-1).flip(-1)[..., 1:].cpu().numpy()


def _areas(labels_THW: Tensor, truth_THW: Tensor, num_classes: int) -> np.ndarray:
    """int64 [3, T, K]: pixels of each class that are hit, predicted, and true, per frame."""
    _check_shapes(labels_THW, truth_THW)
    labels_THW, truth_THW = labels_THW.long(), truth_THW.to(labels_THW.device).long()
    for name, values in (("predicted", labels_THW), ("true", truth_THW[truth_THW != IGNORE_LABEL])):
        wrong = values[(values < 0) | (values >= num_classes)]
        if len(wrong):
            raise ValueError(f"a {name} label is {int(wrong[0])}, but there are {num_classes} classes")
    num_frames, nowhere = len(labels_THW), num_classes  # one more bin takes the pixels that do not count
    hits_THW = torch.where(labels_THW == truth_THW, labels_THW, nowhere)
    maps_3THW = torch.stack([hits_THW, labels_THW, truth_THW.clamp(max=nowhere)])
    rows_3T = torch.arange(3 * num_frames, device=labels_THW.device).view(3, num_frames, 1, 1)
    bins = (rows_3T * (num_classes + 1) + maps_3THW).flatten()
    counts = torch.bincount(bins, minlength=3 * num_frames * (num_classes + 1))
    return counts.view(3, num_frames, num_classes + 1)[..., :num_classes].cpu().numpy()


def _check_shapes(predicted_THW: Tensor, truth_THW: Tensor) -> None:
    if predicted_THW.ndim != 3 or predicted_THW.shape != truth_THW.shape or not predicted_THW.numel():
        raise ValueError(
            f"predictions {list(predicted_THW.shape)} and truth {list(truth_THW.shape)} "
            "must be the same, not empty [T, H, W]"
        )
