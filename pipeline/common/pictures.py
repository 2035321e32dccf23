"""Draw masks, label maps and probabilities over frames, as uint8 arrays."""

import numpy as np

from ...data.palette import PALETTE

GREEN = (60, 220, 90)
ALPHA = 0.55  # opacity of a mask over its frame


def overlay_labels(frame: np.ndarray, labels: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Paint a label map over a frame; label 0 stays transparent.

    frame: uint8 [H, W, 3]. labels: uint8 [H, W]. colours: uint8 [K, 3], by label. Returns uint8 [H, W, 3].
    """
    shown = labels > 0
    tint = colours[np.minimum(labels, len(colours) - 1)]
    out = frame.astype(np.float32)
    out[shown] = (1 - ALPHA) * out[shown] + ALPHA * tint[shown]
    edge = outline(labels)
    out[edge] = tint[edge]
    return out.astype(np.uint8)


def outline(labels: np.ndarray) -> np.ndarray:
    """bool [H, W]: labelled pixels with another label among their four neighbours."""
    padded = np.pad(labels, 1, mode="edge")
    middle = padded[1:-1, 1:-1]
    around = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    return (middle > 0) & np.any([n != middle for n in around], axis=0)


def label_colours(num_classes: int) -> np.ndarray:
    """uint8 [K, 3], background black: green for a single foreground class, ADE20K's colours for several."""
    if num_classes == 2:
        return np.array([(0, 0, 0), GREEN], np.uint8)
    return np.concatenate([np.zeros((1, 3), np.uint8), PALETTE[1:num_classes]])


def outlined(frame: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Fade a frame and outline each mask in its own colour, the first mask on top.

    frame: uint8 [H, W, 3]. masks: bool [K, H, W]. Returns uint8 [H, W, 3].
    """
    out = frame // 2 + 64
    if len(masks):
        inner = masks.copy()  # pixels whose four neighbours also belong to the mask
        inner[:, 1:] &= masks[:, :-1]
        inner[:, :-1] &= masks[:, 1:]
        inner[:, :, 1:] &= masks[:, :, :-1]
        inner[:, :, :-1] &= masks[:, :, 1:]
        edges = masks & ~inner
        drawn = edges.any(axis=0)
        out[drawn] = PALETTE[1 + edges.argmax(axis=0)[drawn] % 149]
    return out


def heat(frame: np.ndarray, probability: np.ndarray) -> np.ndarray:
    """Paint a probability map over a grey frame, from blue (0) through green (1/2) to red (1).

    frame: uint8 [H, W, 3]. probability: float32 [H, W], 0..1. Returns uint8 [H, W, 3].
    """
    grey = frame.mean(axis=2, keepdims=True)
    distance = np.abs(probability[..., None] - np.array([1, 0.5, 0], np.float32))
    tint = 255 * np.clip(1.5 - 2.5 * distance, 0, 1)
    return (0.35 * grey + 0.65 * tint).astype(np.uint8)
