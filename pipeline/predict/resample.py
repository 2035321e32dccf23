"""Resample label maps: to times between those the network saw, and to the size of the video.

Shapes: H W pixels of a label map, C classes that occur.
"""

from collections.abc import Callable, Iterable

import numpy as np
from PIL import Image
from scipy.ndimage import distance_transform_edt

from ...resampling import resize_image

LabelsAt = Callable[[float], np.ndarray]  # seconds, never less than in the call before -> uint8 [H, W]


def hold_labels(keys: Iterable[tuple[float, np.ndarray]], lead: float) -> LabelsAt:
    """Show each label map from `lead` seconds before its time until the next one starts; the first from time 0.

    keys: (seconds, uint8 [H, W]), ascending, at least one; read as they are needed.
    """
    upcoming = iter(keys)
    current = next(upcoming)[1]
    following = next(upcoming, None)

    def at(time: float) -> np.ndarray:
        nonlocal current, following
        while following is not None and following[0] - lead <= time:
            current, following = following[1], next(upcoming, None)
        return current

    return at


def interpolate_labels(keys: Iterable[tuple[float, np.ndarray]]) -> LabelsAt:
    """Move outlines linearly from one label map to the next; constant before the first map and after the last.

    For every class the signed distances to its outline are interpolated, and a pixel takes the class that it lies
    deepest in. A class that is in one map only shrinks, and is gone halfway.
    """
    upcoming = iter(keys)
    before = next(upcoming)
    after = next(upcoming, None)
    fields: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def at(time: float) -> np.ndarray:
        nonlocal before, after, fields
        while after is not None and after[0] <= time:
            before, after, fields = after, next(upcoming, None), None
        if after is None or time <= before[0]:
            return before[1]
        fields = fields or _signed_distances(before[1], after[1])
        return _blend(*fields, (time - before[0]) / (after[0] - before[0]))

    return at


def _signed_distances(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classes, uint8 [C], and signed distances to their outlines in both maps, float32 [C, H, W] each."""
    classes = np.union1d(first, second)
    classes = classes[classes > 0].astype(np.uint8)
    fields = np.zeros((2, len(classes), *first.shape), np.float32)
    for c, index in enumerate(classes):
        masks = first == index, second == index
        for k, mask in enumerate(masks):
            if mask.any():
                # Padded with background, so that a mask that fills the picture still has an outline.
                inside = np.asarray(distance_transform_edt(np.pad(mask, 1)))[1:-1, 1:-1]
                fields[k, c] = inside - (0 if mask.all() else np.asarray(distance_transform_edt(~mask)))
        for k, mask in enumerate(masks):
            if not mask.any():
                fields[k, c] = -fields[1 - k, c].max()
    return classes, fields[0], fields[1]


def _blend(classes: np.ndarray, first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """The label map where `share` of the way from the first distances to the second is done."""
    if not len(classes):
        return np.zeros(first.shape[1:], np.uint8)
    depth = (1 - share) * first + share * second
    return np.where(depth.max(axis=0) > 0, classes[depth.argmax(axis=0)], 0).astype(np.uint8)


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a label map, uint8 [h, w], to `size` = (H, W) with smooth outlines; returns uint8 [H, W].

    The mask of each class is resized bilinearly and the highest value wins; of equals, the lower class.
    """
    if labels.shape == size:
        return labels
    classes = np.unique(labels)
    resized = np.full(size, classes[0], np.uint8)
    highest: np.ndarray | None = None
    for index in classes if len(classes) > 1 else ():
        mask = Image.fromarray((labels == index).astype(np.uint8) * 255)
        share = np.asarray(resize_image(mask, size, Image.Resampling.BILINEAR))
        if highest is None:
            highest = share.copy()
            continue
        wins = share > highest
        resized[wins] = index
        np.maximum(highest, share, out=highest)
    return resized
