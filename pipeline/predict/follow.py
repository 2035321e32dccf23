"""Label maps between the times at which the network was asked, and at the size of the video.

H W pixels of a label map, C classes that occur.
"""

from collections.abc import Callable, Iterable

import numpy as np
from PIL import Image
from scipy.ndimage import distance_transform_edt

At = Callable[[float], np.ndarray]  # seconds, never less than the time before -> uint8 [H, W]


def held(keys: Iterable[tuple[float, np.ndarray]], lead: float) -> At:
    """Each label map from `lead` seconds before its time until the next one's turn; the first from the beginning.

    keys: (seconds, uint8 [H, W]), ascending, at least one; read as they are needed.
    """
    following = iter(keys)
    shown = next(following)[1]
    coming = next(following, None)

    def at(time: float) -> np.ndarray:
        nonlocal shown, coming
        while coming is not None and coming[0] - lead <= time:
            shown, coming = coming[1], next(following, None)
        return shown

    return at


def interpolated(keys: Iterable[tuple[float, np.ndarray]]) -> At:
    """Outlines that move from one label map to the next; before the first and behind the last, these stay.

    For every class the signed distances to its outline are interpolated linearly, and a pixel takes the class that it
    lies deepest in. A class that is in one map alone shrinks from there, and is gone halfway.
    """
    following = iter(keys)
    before = next(following)
    after = next(following, None)
    fields: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None

    def at(time: float) -> np.ndarray:
        nonlocal before, after, fields
        while after is not None and after[0] <= time:
            before, after, fields = after, next(following, None), None
        if after is None or time <= before[0]:
            return before[1]
        fields = fields or _distance_fields(before[1], after[1])
        return _between(fields, (time - before[0]) / (after[0] - before[0]))

    return at


def _distance_fields(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Classes, uint8 [C], and the signed distances to their outlines in both maps, float32 [C, H, W] each."""
    classes = np.union1d(first, second)
    classes = classes[classes > 0].astype(np.uint8)
    fields = np.zeros((2, len(classes), *first.shape), np.float32)
    for c, index in enumerate(classes):
        masks = first == index, second == index
        for k, mask in enumerate(masks):
            if mask.any():
                # A border of background: a mask that fills the picture still has an outline.
                inside = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
                fields[k, c] = inside - (0 if mask.all() else distance_transform_edt(~mask))
        for k, mask in enumerate(masks):
            if not mask.any():
                fields[k, c] = -fields[1 - k, c].max()
    return classes, fields[0], fields[1]


def _between(fields: tuple[np.ndarray, np.ndarray, np.ndarray], share: float) -> np.ndarray:
    classes, first, second = fields
    if not len(classes):
        return np.zeros(first.shape[1:], np.uint8)
    depth = (1 - share) * first + share * second
    return np.where(depth.max(axis=0) > 0, classes[depth.argmax(axis=0)], 0).astype(np.uint8)


def enlarge(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A label map at another size (H, W), with smooth outlines: uint8 [h, w] to uint8 [H, W].

    The maps of all classes that occur are resized bilinearly; the highest wins, of equals the lower class.
    """
    if labels.shape == size:
        return labels
    classes = np.unique(labels)
    enlarged = np.full(size, classes[0], np.uint8)
    highest: np.ndarray | None = None
    for index in classes if len(classes) > 1 else ():
        mask = Image.fromarray((labels == index).astype(np.uint8) * 255)
        share = np.asarray(mask.resize(size[::-1], Image.Resampling.BILINEAR))
        if highest is None:
            highest = share.copy()
            continue
        wins = share > highest
        enlarged[wins] = index
        np.maximum(highest, share, out=highest)
    return enlarged
