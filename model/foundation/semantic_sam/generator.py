"""Semantic-SAM on a grid of clicks: the published masks of a frame, in the published order.

Letters: B frames, G groups of clicks, P clicks per group, S granularities per click, C channels, K = all clicks * S
candidates, H W height and width of a frame.
"""

import functools
import warnings
from collections.abc import Iterator
from functools import partial
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from ...weights.frozen import WeightsConfig, fixed_initialisation, load_frozen
from ...weights.registry import find_weights
from ..everything import point_grid
from ..interface import Proposals
from ..mask_candidates import ThresholdsConfig, mask_boxes
from ..products import autocast, matrix_products
from .decoder import Prompts
from .frame_size import nearest, with_short_edge
from .masks import Candidates, confident_masks, distinct_masks
from .network import SIZES, ImageState, SemanticSam, from_published, padded_size

LEVEL_TOKENS = {1: 3, 2: 2, 3: 0, 4: 4, 5: 1, 6: 5}  # published granularity -> mask token
UNLIMITED = 1 << 30
FRAME_SIZES = 16  # sizes whose encoded prompts are cached, about 14 MB each


class SemanticSamConfig(ThresholdsConfig, WeightsConfig):
    """Names and defaults of the published generator, where it has them."""

    levels: tuple[Annotated[int, Field(ge=1, le=6)], ...] = Field(
        default=(3,), min_length=1, description="granularities of masks, 1 to 6; as published 3 is things, 4 to 6 parts"
    )
    group_size: int = Field(
        default=200, ge=1, description="points per batch, which attend to each other: it changes the masks"
    )
    stability_score_thresh: float = Field(
        default=0.92, description="keeps masks with at least this stability; 0 or less: all"
    )
    min_mask_region_area: int = Field(
        default=10, ge=0, description="fills smaller holes and drops smaller islands, in pixels; 0: off"
    )
    short_edge: int | None = Field(
        default=None, ge=1, description="resizes frames to it, in pixels; 640 as the released loader; none: no resizing"
    )


class SemanticSamGenerator:
    """`ProposalGenerator` of the published automatic generator's masks.

    Best predicted IoU first; masks that the clean-up changed come after all others. Predicted IoUs are raw and may
    exceed 1. `points` are the clicks in pixels. With `short_edge`, masks are found at that size and resized to the
    frame's by its nearest pixels; small ones may then be empty.
    On a CPU every frame is processed alone, so that its masks do not depend on the batch to the last bit. A GPU that
    runs out of memory processes fewer groups of clicks at once from then on, with a warning.
    """

    version = "1"

    def __init__(self, name: str, config: SemanticSamConfig, network: SemanticSam, weights_sha256: str | None) -> None:
        self.name = config.name(name)
        self.parameters = config.model_dump(mode="json", exclude={"weights", "untrained"})
        self.weights_sha256 = weights_sha256
        self.config = config
        self.network = network.eval().requires_grad_(False)
        self.to(torch.device("cpu"))

    def to(self, device: torch.device) -> "SemanticSamGenerator":
        self.network.to(device)
        self.device = device
        # At once: what fits into a CPU's cache, or as much as a GPU can hold.
        self.most_frames = self.most_groups = 1 if device.type == "cpu" else UNLIMITED
        self._cached_prompts = functools.lru_cache(FRAME_SIZES)(self._encode_prompts)
        return self

    def __call__(self, frames: Tensor) -> list[Proposals]:
        """Raises torch.OutOfMemoryError if one group of clicks on each frame is too much for the device."""
        frames = frames.to(self.device)
        size, config = (frames.shape[1], frames.shape[2]), self.config
        if config.short_edge is not None:
            frames = with_short_edge(frames, config.short_edge)
        half = autocast(self.device, config.precision)
        with torch.inference_mode(), matrix_products(config.precision), half:
            return [p for part in frames.split(self.most_frames) for p in self._propose(part, size)]

    def _propose(self, frames_BHW3: Tensor, size: tuple[int, int]) -> Iterator[Proposals]:
        """size: height and width of the proposals."""
        decoder, config = self.network.decoder, self.config
        seen = frames_BHW3.shape[1], frames_BHW3.shape[2]
        image = self.network.encode(frames_BHW3)
        h_BKC = self._decode(image, seen)
        for h_KC, ious_K, features in zip(h_BKC, decoder.ious(h_BKC), image.mask_features, strict=True):
            found = confident_masks(ious_K, lambda q, h=h_KC, f=features: decoder.logits(h[q], f), seen, config)
            kept, masks = distinct_masks(found, seen, config)
            if config.short_edge is not None:
                masks = nearest(masks, size)
            yield self._record(kept, masks)

    def _decode(self, image: ImageState, seen: tuple[int, int]) -> Tensor:
        """[B, K, C]: every click's queries, ready for heads; in fewer groups at once if memory runs out."""
        tokens = [LEVEL_TOKENS[level] for level in self.config.levels]
        while True:
            try:
                prompts = self._cached_prompts(seen, self.most_groups)
                return torch.cat([self.network.decoder(p, image.memory, tokens).flatten(1, 2) for p in prompts], dim=1)
            except torch.OutOfMemoryError:
                groups = min(self.most_groups, self.config.points_per_side**2 // self.config.group_size)
                if groups <= 1:
                    raise
                self.most_groups = groups // 2
                warnings.warn(f"{self.name}: out of memory; {self.most_groups} groups of clicks at once", stacklevel=1)

    def _encode_prompts(self, seen: tuple[int, int], most_groups: int) -> list[Prompts]:
        """The encoded clicks, for any frame of this height and width."""
        width, height = (side / whole for side, whole in zip(seen[::-1], padded_size(*seen)[::-1], strict=True))
        points = torch.from_numpy(point_grid(self.config.points_per_side)).float().to(self.device)
        groups = grouped(points, self.config.group_size, most_groups)
        return [self.network.decoder.encode_prompts(group, (width, height)) for group in groups]

    def _record(self, kept: Candidates, masks_KHW: Tensor) -> Proposals:
        width_height = torch.tensor(masks_KHW.shape[:0:-1], device=masks_KHW.device)
        grid = torch.from_numpy(point_grid(self.config.points_per_side)).to(masks_KHW.device)
        points = grid[kept.query // len(self.config.levels)] * width_height
        return Proposals(
            masks=masks_KHW,
            predicted_iou=kept.ious,
            stability=kept.stability.nan_to_num(0.0),  # of empty masks
            boxes=mask_boxes(masks_KHW).int(),
            points=torch.minimum(points, width_height - 1).float(),
            areas=masks_KHW.sum((1, 2)),
        )


def grouped(points_K2: Tensor, size: int, most: int) -> list[Tensor]:
    """Groups of `size` points in their order, at most `most` groups in one tensor [G, P, 2]; a rest is the last."""
    whole = len(points_K2) // size * size
    tensors = list(points_K2[:whole].view(-1, size, 2).split(most)) if whole else []
    return [*tensors, points_K2[None, whole:]] if whole < len(points_K2) else tensors


def build_semantic_sam(name: str, config: SemanticSamConfig) -> SemanticSamGenerator:
    """The generator called `name` in `SIZES`, on the CPU. Raises BadInput as `load_frozen`."""
    if not config.untrained:
        find_weights(name, config.weights)  # or refuse, before making the network, which takes seconds
    with fixed_initialisation():
        network = SemanticSam(SIZES[name])
    sha256 = load_frozen(network, name, config, partial(from_published, name=name))
    return SemanticSamGenerator(name, config, network, sha256)
