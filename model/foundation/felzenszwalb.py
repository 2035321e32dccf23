"""Proposals without weights: graph-based segments (Felzenszwalb & Huttenlocher, 2004) at several scales."""

from importlib.metadata import version as installed
from typing import NamedTuple

import numpy as np
import torch
from pydantic import Field, PositiveFloat
from scipy import ndimage
from skimage.segmentation import felzenszwalb
from torch import Tensor

from ...base import Section
from .interface import Proposals


class FelzenszwalbConfig(Section):
    """The defaults suit frames of 96 to 224 pixels."""

    scales: tuple[PositiveFloat, ...] = Field(
        default=(200.0, 800.0), min_length=1, description="larger scales make larger segments"
    )
    sigma: float = Field(default=0.8, ge=0, description="of the Gaussian that smooths the frame first, in pixels")
    min_area: float = Field(
        default=0.004, gt=0, le=1, description="smaller segments join a neighbour, as part of the frame's area"
    )
    duplicate_iou: float = Field(
        default=0.9, gt=0, le=1, description="drops segments whose IoU with one of another scale reaches it"
    )
    max_masks: int = Field(default=100, ge=1, description="keeps the largest masks of a frame")


class Segments(NamedTuple):
    """The segments of one scale; ids run from 0 to K - 1."""

    ids: np.ndarray  # int64 [H, W]
    first: np.ndarray  # int64 [K], the first pixel of each in C order
    boxes: np.ndarray  # int32 [K, 4]
    points: np.ndarray  # float32 [K, 2]


def segment(frame: np.ndarray, scale: float, sigma: float, min_size: int) -> Segments:
    """Cut a frame, uint8 [H, W, 3], into segments that touch, do not overlap, and cover all of it."""
    ids: np.ndarray = felzenszwalb(frame, scale=scale, sigma=sigma, min_size=min_size, channel_axis=-1)
    _, first = np.unique(ids, return_index=True)
    boxes = [(x.start, y.start, x.stop - 1, y.stop - 1) for y, x in ndimage.find_objects(ids + 1)]
    # A point well inside: the first of the pixels farthest from other segments and the edge of the frame.
    padded = np.pad(ids, 1, constant_values=-1)
    inside = np.ones(ids.shape, bool)
    for dy, dx in ((0, 1), (2, 1), (1, 0), (1, 2)):
        inside &= padded[dy : dy + ids.shape[0], dx : dx + ids.shape[1]] == ids
    depth = np.asarray(ndimage.distance_transform_edt(np.pad(inside, 1)))[1:-1, 1:-1]
    greatest = np.zeros(len(first))
    np.maximum.at(greatest, ids, depth)
    deepest = np.flatnonzero(depth == greatest[ids])
    _, chosen = np.unique(ids.flat[deepest], return_index=True)
    y, x = np.unravel_index(deepest[chosen], ids.shape)
    points = np.stack([x, y], axis=1).astype(np.float32)
    return Segments(ids, first, np.array(boxes, np.int32), points)


def _overlaps(scales: list[Segments]) -> np.ndarray:
    """int64 [K, K]: pixels that two segments share, over the segments of all scales in a row."""
    starts = np.cumsum([0, *(len(s.first) for s in scales)])
    k = starts[-1]
    shared = np.zeros((k, k), np.int64)
    for a, rows in enumerate(scales):
        for b, columns in enumerate(scales):
            counts = len(rows.first), len(columns.first)
            pair = (rows.ids * counts[1] + columns.ids).reshape(-1)
            pairs = np.bincount(pair, minlength=counts[0] * counts[1])
            shared[starts[a] : starts[a + 1], starts[b] : starts[b + 1]] = pairs.reshape(counts)
    return shared


def _distinct(order: np.ndarray, overlaps: np.ndarray, duplicate_iou: float) -> list[int]:
    """The ids in `order` that agree with no earlier one."""
    areas = overlaps.diagonal()
    iou = overlaps / (areas[:, None] + areas - overlaps)
    kept: list[int] = []
    for candidate in order:
        if not (iou[candidate, kept] >= duplicate_iou).any():
            kept.append(candidate)
    return kept


class Felzenszwalb:
    """`ProposalGenerator`: the segments of all scales, largest first, equal areas by their first pixel.

    Equal frames give equal masks. Across machines, flat regions may be cut differently: scikit-image sorts
    edges of equal contrast in an order that depends on the NumPy build and the processor.
    """

    name = "felzenszwalb"
    weights_sha256 = None

    def __init__(self, config: FelzenszwalbConfig) -> None:
        self.config = config
        self.parameters = config.model_dump(mode="json")
        self.version = f"1, scikit-image {installed('scikit-image')}"

    def __call__(self, frames: Tensor) -> list[Proposals]:
        return [self._propose(frame) for frame in frames.cpu().numpy()]

    def _propose(self, frame: np.ndarray) -> Proposals:
        config = self.config
        min_size = max(1, round(config.min_area * frame.shape[0] * frame.shape[1]))
        scales = [segment(frame, scale, config.sigma, min_size) for scale in config.scales]
        overlaps = _overlaps(scales)
        first = np.concatenate([s.first for s in scales])
        areas = overlaps.diagonal()
        order = np.lexsort((first, -areas))
        kept = _distinct(order, overlaps, config.duplicate_iou)[: config.max_masks]
        masks = np.concatenate([s.ids == np.arange(len(s.first))[:, None, None] for s in scales])[kept]
        return Proposals(
            masks=torch.from_numpy(masks),
            predicted_iou=torch.ones(len(kept)),
            stability=torch.ones(len(kept)),
            boxes=torch.from_numpy(np.concatenate([s.boxes for s in scales])[kept]),
            points=torch.from_numpy(np.concatenate([s.points for s in scales])[kept]),
            areas=torch.from_numpy(areas[kept]),
        )

    def to(self, device: torch.device) -> "Felzenszwalb":
        return self  # it always works on the CPU
