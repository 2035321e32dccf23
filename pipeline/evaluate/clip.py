"""Segment one clip and count its pixels, on the device of the predictions. Every metric follows from the counts.

T frames of one clip, K classes, N heads, D audio features, H W pixels, h w those at stride 4, E thresholds, one half
twice: "at least" for F, "above" for J.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...base import IGNORE_LABEL
from ...data.dataset import Sample
from ...model.combo import COMBO
from ...model.inference import foreground_score, label_map, semantic_scores
from ..common.devices import image_tensor, tensor_on

# The published thresholds; in float32 the 128th is exactly 0.5 and the last exactly 1.
THRESHOLDS = torch.linspace(0, 1 - 1e-10, 255)
ABOVE_HALF = 128  # where "above one half" stands between the thresholds of at least 1/2 and at least 128/254


@dataclass(frozen=True)
class Counts:
    """Pixel counts of the annotated frames of one clip, int64.

    areas_3TK: pixels of each class that are hit, predicted, and true. curves_2TE: pixels of "object" that are hit and
    predicted at every threshold; None for sets with more classes.
    """

    areas_3TK: np.ndarray
    curves_2TE: np.ndarray | None = None


@torch.inference_mode()
def segment(model: COMBO, sample: Sample, features_TD: np.ndarray) -> Tensor:
    """Class scores of one clip, float32 [T, K, H, W] on the device of the model, which is in eval mode.

    features_TD: float32, those of the clip or of another one.
    """
    device = next(model.parameters()).device
    frames, maskiges = image_tensor(sample.frames, device), image_tensor(sample.maskiges, device)
    predictions = model(frames, maskiges, tensor_on(features_TD, device))
    return semantic_scores(predictions.logits[-1], predictions.masks[-1], sample.frames.shape[1:3])


@torch.inference_mode()
def segment_and_attend(model: COMBO, sample: Sample) -> tuple[Tensor, Tensor | None]:
    """What `segment` returns, with the clip's own sound, and where the sound attends, by one pass of the network.

    The second is float32 [T, H, W]: the mean over heads, as a share of its highest value in the frame. None: the fusion
    has no attention.
    """
    device, (height, width) = next(model.parameters()).device, sample.frames.shape[1:3]
    features_TD = tensor_on(sample.features, device)
    encoded = model.encode(image_tensor(sample.frames, device), image_tensor(sample.maskiges, device))
    predictions = model.decode(encoded, features_TD)
    scores_TKHW = semantic_scores(predictions.logits[-1], predictions.masks[-1], (height, width))
    if (attention_TNhw := model.attention(encoded, features_TD)) is None:
        return scores_TKHW, None
    share_Thw = attention_TNhw.float().mean(dim=1)
    share_Thw = share_Thw / share_Thw.amax(dim=(1, 2), keepdim=True)
    enlarged_THW = F.interpolate(share_Thw[:, None], scale_factor=4, mode="bilinear", align_corners=False)[:, 0]
    return scores_TKHW, enlarged_THW[:, :height, :width]


def count_clip(scores_TKHW: Tensor, sample: Sample) -> Counts:
    """The pixel counts of the annotated frames of one clip, by its scores as `segment` returns them."""
    scores_TKHW, truth_THW = scores_TKHW[sample.supervised], torch.from_numpy(sample.labels[sample.supervised])
    num_classes = scores_TKHW.shape[1]
    if num_classes == 2:
        return binary_counts(foreground_score(scores_TKHW), truth_THW)
    return class_counts(label_map(scores_TKHW), truth_THW, num_classes)


def binary_counts(scores_THW: Tensor, truth_THW: Tensor) -> Counts:
    """Count the pixels of background and object, in one pass.

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
    reaching_T2E = histogram_T2E.flip(-1).cumsum(-1).flip(-1).cpu().numpy()
    hits_TE, predicted_TE = reaching_T2E[:, 1], reaching_T2E.sum(axis=1)
    object_3T = np.stack([hits_TE[:, ABOVE_HALF], predicted_TE[:, ABOVE_HALF], hits_TE[:, 0]])
    hits_T, predicted_T, true_T = object_3T
    pixels = p_THW[0].numel()
    background_3T = np.stack([pixels - predicted_T - true_T + hits_T, pixels - predicted_T, pixels - true_T])
    return Counts(np.stack([background_3T, object_3T], axis=-1), np.stack([hits_TE, predicted_TE]))


def class_counts(labels_THW: Tensor, truth_THW: Tensor, num_classes: int) -> Counts:
    """Count the pixels of every class.

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
    areas_3TK = torch.stack([hits_TK, confusion_TKC.sum(2), confusion_TKC.sum(1)[:, :-1]])
    return Counts(areas_3TK.cpu().numpy())


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
        shapes = f"predictions {list(predicted_THW.shape)} and truth {list(truth_THW.shape)}"
        raise ValueError(f"{shapes} must be the same, not empty [T, H, W]")
