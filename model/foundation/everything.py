"""Segment everything: prompt a network with a grid of points, and keep the good, stable and distinct masks.

The masks and their order are those of the published generator, in fewer FLOPs and less memory: masks below the
predicted-IoU threshold are never rendered, the others are resized to the frame in one step and kept as packed bits.
Letters: B frames, G clicks, K masks, H W pixels of the frame, R S rows and columns of low-resolution logits.
"""

import functools
import math
import warnings
from itertools import product
from typing import Any, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from .interface import ClickNetwork, Proposals
from .mask_candidates import (
    ThresholdsConfig,
    above,
    clean_and_suppress,
    mask_boxes,
    non_maximum_suppression,
    pack_bits,
    stable_masks,
    unpack_bits,
)
from .products import matrix_products
from .resize_maps import encoder_size, logit_maps, resize_logits

EDGE = 20  # pixels: a mask nearer to the edge of a crop, and not of the frame, was probably cut off
FRAME_SIZES = 16  # sizes whose encoded prompts and resize maps are cached, about 15 MB each


class EverythingConfig(ThresholdsConfig):
    """The published parameters, whose defaults were chosen for SAM ViT-H, and how exactly and in what steps to compute.

    precision, of the encoder and of the decoder's maps (the 7 tokens of a click and the masks' last step stay float32):
    fp32 computes the published masks; tf32 lets an NVIDIA GPU round the factors of matrix products to 10 bits; bf16 and
    fp16 compute in 16 bits. What these change must be measured with trained weights.
    """

    crop_n_layers: int = Field(
        default=0,
        ge=0,
        le=4,
        description="layers of overlapping crops besides the whole frame, 4 ** i in layer i",
    )
    crop_nms_thresh: float = Field(
        default=0.7, ge=0, le=1, description="as box_nms_thresh, between crops, where masks of smaller crops win"
    )
    crop_overlap_ratio: float = Field(
        default=512 / 1500, ge=0, lt=1, description="overlap of crops in layer 1, as part of the frame's short side"
    )
    crop_n_points_downscale_factor: int = Field(
        default=1, ge=1, description="divides points_per_side from layer to layer"
    )
    clicks_per_batch: int | None = Field(
        default=None, ge=1, description="none: what suits the device; changes speed and memory only"
    )

    @model_validator(mode="after")
    def _every_layer_has_points(self) -> Self:
        if self.points_per_side < self.crop_n_points_downscale_factor**self.crop_n_layers:
            raise ValueError("crop_n_points_downscale_factor leaves no points in the last of crop_n_layers layers")
        return self


class Crop(NamedTuple):
    """A part of a frame. Its right and lower edges are not in it."""

    x0: int
    y0: int
    x1: int
    y1: int
    layer: int
    frame_height: int
    frame_width: int


class GridPrompts(NamedTuple):
    """Image-independent: the same for all frames or crops of a size."""

    prompts: Any  # see `ClickNetwork.encode_prompts`
    points: Tensor  # float64 [G, 2], x and y in pixels of the crop
    rows: Tensor  # the two maps of `logit_maps`
    columns: Tensor


class CropMasks(NamedTuple):
    """K masks of one or more crops, point by point."""

    bits: Tensor  # uint8 [K, ...] of the whole frame, see `pack_bits`
    predicted_iou: Tensor  # float32 [K]
    stability: Tensor  # float32 [K]
    boxes: Tensor  # int64 [K, 4], in the frame
    points: Tensor  # float64 [K, 2], in the frame
    crop_areas: Tensor  # int64 [K], of the crop that the mask was found in

    def at(self, indices: Tensor) -> "CropMasks":
        return CropMasks(*(column[indices] for column in self))


def concatenate(parts: list[CropMasks]) -> CropMasks:
    return CropMasks(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def crop_grid(height: int, width: int, layers: int, overlap_ratio: float) -> list[Crop]:
    """The whole frame, then for each layer 4 ** layer overlapping crops, column by column, clipped to the frame."""
    crops = [Crop(0, 0, width, height, 0, height, width)]
    for layer in range(1, layers + 1):
        n = 2**layer
        overlap = int(overlap_ratio * min(height, width) * (2 / n))
        w, h = (math.ceil((overlap * (n - 1) + side) / n) for side in (width, height))
        for i, j in product(range(n), range(n)):
            x, y = (w - overlap) * i, (h - overlap) * j
            if x < width and y < height:  # a frame of a few pixels has fewer crops
                crops.append(Crop(x, y, min(x + w, width), min(y + h, height), layer, height, width))
    return crops


def point_grid(per_side: int) -> np.ndarray:
    """Centres of per_side x per_side cells, row by row: float64 [per_side ** 2, 2], x and y in 0..1."""
    half = 1 / (2 * per_side)
    one_side = np.linspace(half, 1 - half, per_side)
    return np.stack([np.tile(one_side, per_side), np.repeat(one_side, per_side)], axis=1)


def cut_off(boxes: Tensor, crop: Crop) -> Tensor:
    """bool [K]: boxes, in the frame, with an edge near one of the crop's that is not near one of the frame's."""
    crop_edges, frame_edges = boxes.new_tensor([crop[:4], [0, 0, crop.frame_width, crop.frame_height]])
    near_crop, near_frame = (boxes - crop_edges).abs() <= EDGE, (boxes - frame_edges).abs() <= EDGE
    return (near_crop & ~near_frame).any(1)


class Everything:
    """`ProposalGenerator`: segment everything with a network that answers clicks. Best predicted IoU first.

    Two exceptions, both as published: with `min_mask_region_area`, masks that needed no cleaning come first; with
    crops, masks of smaller crops. Among equals the earlier point comes first. `points` are the clicks, `stability` is
    0 for an empty mask (which only thresholds of 0 let through). On a GPU that runs out of memory, fewer clicks go
    into a batch from then on; that is warned about once.
    """

    version = "1"

    def __init__(self, name: str, network: ClickNetwork, config: EverythingConfig, sha256: str | None) -> None:
        self.name, self.network, self.config, self.weights_sha256 = name, network, config, sha256
        self.parameters = config.model_dump(mode="json", exclude={"weights", "untrained", "clicks_per_batch"})
        self._prepare_device()

    def to(self, device: torch.device) -> "Everything":
        self.network = self.network.to(device)
        self._prepare_device()
        return self

    def _prepare_device(self) -> None:
        on_cpu = self.network.device.type == "cpu"
        # What fits into a CPU's cache is faster there; a GPU wants large batches.
        self.clicks_per_batch = self.config.clicks_per_batch or (2 if on_cpu else 128)
        self.pixels_per_step = 2**20 if on_cpu else 2**27
        self._cached_prompts = functools.lru_cache(FRAME_SIZES)(self._encode_prompts)

    @torch.no_grad()
    def __call__(self, frames: Tensor) -> list[Proposals]:
        """frames: uint8 [B, H, W, 3], RGB. Raises ValueError for anything else."""
        if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape[1:]:
            raise ValueError(f"frames must be uint8 [B, H, W, 3], not {frames.dtype} {list(frames.shape)}")
        if len(frames) == 0:
            return []
        frames = frames.to(self.network.device)
        _, height, width, _ = frames.shape
        crops = crop_grid(height, width, self.config.crop_n_layers, self.config.crop_overlap_ratio)
        found: list[list[CropMasks]] = [[] for _ in frames]
        with matrix_products(self.config.precision):
            for crop in crops:
                parts = frames[:, crop.y0 : crop.y1, crop.x0 : crop.x1]
                for of_frame, features in zip(found, self.network.encode(parts), strict=True):
                    of_frame.append(self._search(features, crop))
        return [self._distinct(concatenate(of_frame), height, width) for of_frame in found]

    def _encode_prompts(self, height: int, width: int, per_side: int) -> GridPrompts:
        inner_height, inner_width = encoder_size(height, width)
        points = point_grid(per_side) * [width, height]
        inner = torch.from_numpy(points * [inner_width / width, inner_height / height])
        device = self.network.device
        rows, columns = (axis.to(device) for axis in logit_maps(height, width))
        prompts = self.network.encode_prompts(inner.to(device))
        return GridPrompts(prompts, torch.from_numpy(points).to(device), rows, columns)

    def _search(self, features: Any, crop: Crop) -> CropMasks:
        """The distinct masks of one crop."""
        per_side = int(self.config.points_per_side / self.config.crop_n_points_downscale_factor**crop.layer)
        grid = self._cached_prompts(crop.y1 - crop.y0, crop.x1 - crop.x0, per_side)
        image = self.network.prepare_image(grid.prompts, features)
        parts: list[CropMasks] = []
        done = 0
        while done < len(grid.points):
            chunk = slice(done, min(done + self.clicks_per_batch, len(grid.points)))
            try:
                parts += self._decode(grid, image, chunk, crop)
                done = chunk.stop
            except torch.OutOfMemoryError:
                if self.clicks_per_batch == 1:
                    raise
                self.clicks_per_batch //= 2
                warnings.warn(f"{self.name}: out of memory; {self.clicks_per_batch} clicks per batch", stacklevel=1)
        found = concatenate(parts)
        return found.at(non_maximum_suppression(found.boxes, found.predicted_iou, self.config.box_nms_thresh))

    def _decode(self, grid: GridPrompts, image: Any, chunk: slice, crop: Crop) -> list[CropMasks]:
        """The masks of some clicks that pass the thresholds of predicted IoU and stability, and are not cut off."""
        decoded = self.network.decode(grid.prompts, image, chunk)
        iou_GK, rows, columns = decoded.predicted_iou_GK, grid.rows, grid.columns
        good_GK = above(iou_GK, self.config.pred_iou_thresh)
        which = good_GK.any(1).nonzero()[:, 0]
        logits_KRS = self.network.render(decoded, which, rows.shape[1], columns.shape[1])[good_GK[which]]
        iou, points = iou_GK[good_GK], grid.points[chunk][good_GK.nonzero()[:, 0]]
        step = max(1, self.pixels_per_step // (len(rows) * len(columns)))
        steps = zip(logits_KRS.split(step), iou.split(step), points.split(step), strict=True)
        return [self._measure(resize_logits(low, rows, columns), iou, points, crop) for low, iou, points in steps]

    def _measure(self, logits_KHW: Tensor, iou: Tensor, points: Tensor, crop: Crop) -> CropMasks:
        config = self.config
        stable, stability, masks = stable_masks(logits_KHW, config)
        origin = torch.tensor([crop.x0, crop.y0], device=masks.device)
        boxes = mask_boxes(masks) + origin.repeat(2)
        masks = F.pad(masks, (crop.x0, crop.frame_width - crop.x1, crop.y0, crop.frame_height - crop.y1))
        areas = torch.full_like(boxes[:, 0], (crop.x1 - crop.x0) * (crop.y1 - crop.y0))
        found = CropMasks(pack_bits(masks), iou[stable], stability, boxes, points[stable] + origin, areas)
        return found if crop.layer == 0 else found.at(~cut_off(boxes, crop))

    def _distinct(self, found: CropMasks, height: int, width: int) -> Proposals:
        """Suppress duplicates of other crops, and clean the masks if asked to."""
        config = self.config
        if config.crop_n_layers > 0:
            found = found.at(non_maximum_suppression(found.boxes, 1 / found.crop_areas, config.crop_nms_thresh))
        masks, boxes = unpack_bits(found.bits, height, width), found.boxes
        if config.min_mask_region_area > 0:
            threshold = max(config.box_nms_thresh, config.crop_nms_thresh)
            kept, masks, boxes = clean_and_suppress(masks, config.min_mask_region_area, threshold)
            found = found.at(kept)
        return Proposals(
            masks=masks,
            predicted_iou=found.predicted_iou,
            stability=found.stability.nan_to_num(0.0),
            boxes=boxes.int(),
            points=found.points.float(),
            areas=masks.sum((1, 2)),
        )
