"""How close an approximate setting of a generator comes to the exact one: numbers to store with its cache."""

from collections.abc import Sequence

import torch

from ...model.foundation.interface import Proposals
from .maskige import fold_and_colour_frames
from .overlap import mask_iou

CLOSE = 0.9  # IoU from which on two masks count as the same


def agreement(exact: Proposals, other: Proposals) -> dict[str, float]:
    """Compare the proposals of one frame, made by the exact setting and by another one, in whatever order they are.

    masks, other_masks: how many there are.
    best_iou: mean over the exact masks of the IoU with the closest other mask, 0..1.
    found: share of exact masks that another mask meets with an IoU of at least `CLOSE`.
    real: share of other masks that an exact mask meets so; together with `found` it tells lost masks from made-up ones.
    maskige_pixels: share of pixels with the same colour in both Maskiges. One lost mask recolours all larger ones.
    Where one side has no mask at all, its means are 1 if the other has none either, and 0 else.
    """
    iou = mask_iou(exact.masks, other.masks.to(exact.masks.device))
    ours, theirs = fold_and_colour_frames([exact.masks.cpu(), other.masks.cpu()])
    best_of_exact, best_of_other = _best(iou), _best(iou.T)
    return {
        "masks": len(exact.masks),
        "other_masks": len(other.masks),
        "best_iou": float(best_of_exact.mean()),
        "found": float((best_of_exact >= CLOSE).double().mean()),
        "real": float((best_of_other >= CLOSE).double().mean()),
        "maskige_pixels": float((ours == theirs).all(-1).mean()),
    }


def _best(iou: torch.Tensor) -> torch.Tensor:
    """The greatest IoU of each row, float64 [K]; one number instead where there is nothing to compare."""
    if 0 in iou.shape:
        return torch.ones(1).double() if iou.shape == (0, 0) else torch.zeros(1).double()
    return iou.amax(1)


def mean_agreement(frames: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of `agreement` over F >= 1 frames, each counting the same, with "frames" and the worst "best_iou"."""
    means = {key: sum(frame[key] for frame in frames) / len(frames) for key in frames[0]}
    return {"frames": len(frames), **means, "worst_best_iou": min(frame["best_iou"] for frame in frames)}
