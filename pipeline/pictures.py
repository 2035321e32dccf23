"""Pictures of masks: overlays, outlines and heat, as uint8 arrays."""

import numpy as np

from ..data.palette import PALETTE

GREEN = (60, 220, 90)


def overlay(
    frame: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int] = GREEN, alpha: float = 0.55
) -> np.ndarray:
    """A frame with one mask painted over it and outlined.

    frame: uint8 [H, W, 3]. mask: bool [H, W]. Gives uint8 [H, W, 3].
    """
    return overlay_labels(frame, mask.astype(np.uint8), np.array([(0, 0, 0), colour], np.uint8), alpha)


def overlay_labels(frame: np.ndarray, labels: np.ndarray, colours: np.ndarray, alpha: float = 0.55) -> np.ndarray:
    """A frame with a label map painted over it; label 0 stays clear.

    frame: uint8 [H, W, 3]. labels: uint8 [H, W]. colours: uint8 [K, 3], by label. Gives uint8 [H, W, 3].
    """
    shown = labels > 0
    tint = colours[np.minimum(labels, len(colours) - 1)]
    out = frame.astype(np.float32)
    out[shown] = (1 - alpha) * out[shown] + alpha * tint[shown]
    edge = outline(labels)
    out[edge] = tint[edge]
    return out.astype(np.uint8)


def outline(labels: np.ndarray) -> np.ndarray:
    """bool [H, W]: labelled pixels with another label above, below or beside them."""
    padded = np.pad(labels, 1, mode="edge")
    middle = padded[1:-1, 1:-1]
    around = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    return (middle > 0) & np.any([n != middle for n in around], axis=0)


def label_colours(num_classes: int) -> np.ndarray:
    """uint8 [K, 3]: one colour for one foreground class, ADE20K's for more."""
    if num_classes == 2:
        return np.array([(0, 0, 0), GREEN], np.uint8)
    return np.concatenate([np.zeros((1, 3), np.uint8), PALETTE[1:num_classes]])
