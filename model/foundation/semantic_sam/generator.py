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

from ....base import Section
from ...weights.registry import find_weights
from ..everything import point_grid
from ..interface import Proposals
from ..mask_candidates import mask_boxes
from ..precision import TYPES, Precision, matrix_products
from ..weight_source import fixed_initialisation, generator_name, load_foundation
from .decoder import MaskDecoder, Start
from .frame_size import nearest, with_short_edge
from .masks import Candidates, confident_masks, distinct_masks
from .network import SIZES, Picture, SemanticSam, from_published, padded_size

LEVEL_TOKENS = {1: 3, 2: 2, 3: 0, 4: 4, 5: 1, 6: 5}  # published granularity -> mask token
UNLIMITED = 1 << 30
FRAME_SIZES = 16  # so many sizes' clicks are kept ready, about 14 MB each


class SemanticSamConfig(Section):
    """Names and defaults of the published generator, where it has them."""

    weights: str | None = None  # a file; None: the official one in the weights folder
    untrained: bool = False
    levels: tuple[Annotated[int, Field(ge=1, le=6)], ...] = Field(
        (3,), min_length=1
    )  # as published: 3 things, 4 to 6 parts
    points_per_side: int = Field(32, ge=1)
    group_size: int = Field(200, ge=1)  # points_per_batch; clicks of a group see each other, so it changes the masks
    pred_iou_thresh: float = 0.88  # masks whose predicted IoU is above it are kept; 0 or less: all
    stability_score_thresh: float = 0.92  # masks at least so stable are kept; 0 or less: all
    stability_score_offset: float = Field(1.0, ge=0)  # in logits, see `stability_scores`
    box_nms_thresh: float = Field(0.7, ge=0, le=1)  # boxes that overlap a better one by more are dropped
    min_mask_region_area: int = Field(10, ge=0)  # pixels, of holes and islands; 0: no clean-up
    short_edge: int | None = Field(None, ge=1)  # pixels; None: frames as they are; 640: as the package loads images
    precision: Precision = "fp32"


class SemanticSamGenerator:
    """`ProposalGenerator` that gives the masks of the published automatic generator.

    Best predicted IoU first; masks that the clean-up changed stand behind all others. Predicted IoUs are raw and may
    exceed 1. `points` are the clicks in pixels. With `short_edge`, masks are found at that size and brought back to
    the frame's by its nearest pixels; small ones may then be empty.
    On a CPU every frame is worked on alone, so that its masks do not depend on the batch to the last bit. On a GPU that
    runs out of memory, fewer groups of clicks are worked on at once from then on; that is warned about.
    """

    version = "1"

    def __init__(self, name: str, config: SemanticSamConfig, network: SemanticSam, weights_sha256: str | None) -> None:
        self.name = generator_name(name, config.untrained)
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
        self._starts = functools.lru_cache(FRAME_SIZES)(self._begin)
        return self

    def __call__(self, frames: Tensor) -> list[Proposals]:
        """Raises torch.OutOfMemoryError if one group of clicks on each frame is too much for the device."""
        frames = frames.to(self.device)
        size, config = tuple(frames.shape[1:3]), self.config
        if config.short_edge is not None:
            frames = with_short_edge(frames, config.short_edge)
        number = TYPES[config.precision]
        half = torch.autocast(self.device.type, dtype=number, enabled=number != torch.float32)
        with torch.inference_mode(), matrix_products(config.precision), half:
            return [p for part in frames.split(self.most_frames) for p in self._propose(part, size)]

    def _propose(self, frames_BHW3: Tensor, size: tuple[int, int]) -> Iterator[Proposals]:
        """size: height and width of the proposals."""
        decoder, config = self.network.decoder, self.config
        seen = tuple(frames_BHW3.shape[1:3])
        picture = self.network.look(frames_BHW3)
        h_BKC = self._ask(picture, seen)
        for h_KC, ious_K, features in zip(h_BKC, decoder.ious(h_BKC), picture.mask_features, strict=True):
            found = confident_masks(ious_K, partial(drawn, decoder, h_KC, features), seen, config)
            kept, masks = distinct_masks(found, seen, config)
            if config.short_edge is not None:
                masks = nearest(masks, size)
            yield self._record(kept, masks)

    def _ask(self, picture: Picture, seen: tuple[int, int]) -> Tensor:
        """[B, K, C]: every click's queries, ready for heads; in fewer groups at once if memory asks for it."""
        tokens = [LEVEL_TOKENS[level] for level in self.config.levels]
        while True:
            try:
                starts = self._starts(seen, self.most_groups)
                return torch.cat([self.network.decoder(s, picture.memory, tokens).flatten(1, 2) for s in starts], dim=1)
            except torch.OutOfMemoryError:
                groups = min(self.most_groups, self.config.points_per_side**2 // self.config.group_size)
                if groups <= 1:
                    raise
                self.most_groups = groups // 2
                warnings.warn(f"{self.name}: out of memory; {self.most_groups} groups of clicks at once", stacklevel=1)

    def _begin(self, seen: tuple[int, int], most_groups: int) -> list[Start]:
        """The clicks, ready to look at any frame of this height and width."""
        width, height = (side / whole for side, whole in zip(seen[::-1], padded_size(*seen)[::-1], strict=True))
        points = torch.from_numpy(point_grid(self.config.points_per_side)).float().to(self.device)
        groups = grouped(points, self.config.group_size, most_groups)
        return [self.network.decoder.begin(group, (width, height)) for group in groups]

    def _record(self, kept: Candidates, masks_KHW: Tensor) -> Proposals:
        width_height = torch.tensor(masks_KHW.shape[:0:-1], device=masks_KHW.device)
        grid = torch.from_numpy(point_grid(self.config.points_per_side)).to(masks_KHW.device)
        points = grid[kept.index // len(self.config.levels)] * width_height
        return Proposals(
            masks=masks_KHW,
            predicted_iou=kept.ious,
            stability=kept.stability.nan_to_num(0.0),  # of empty masks
            boxes=mask_boxes(masks_KHW).int(),
            points=torch.minimum(points, width_height - 1).float(),
            areas=masks_KHW.sum((1, 2)),
        )


def drawn(decoder: MaskDecoder, h_KC: Tensor, features_CHW: Tensor, index: Tensor) -> Tensor:
    """float32 [*, h, w]: the mask logits of the candidates at `index`."""
    return decoder.logits(h_KC[index], features_CHW)


def grouped(points_K2: Tensor, size: int, most: int) -> list[Tensor]:
    """Groups of `size` points in their order, at most `most` groups in one tensor [G, P, 2]; a rest is the last."""
    whole = len(points_K2) // size * size
    tensors = list(points_K2[:whole].view(-1, size, 2).split(most)) if whole else []
    return [*tensors, points_K2[None, whole:]] if whole < len(points_K2) else tensors


def build(name: str, config: SemanticSamConfig) -> SemanticSamGenerator:
    """The generator called `name` in `SIZES`, on the CPU. Raises BadInput as `load_foundation` does."""
    if not config.untrained:
        find_weights(name, config.weights)  # or refuse, before seconds go into making the network
    with fixed_initialisation():
        network = SemanticSam(SIZES[name])
    convert = partial(from_published, name=name)
    sha256 = load_foundation(network, name, config.weights, config.untrained, convert)
    return SemanticSamGenerator(name, config, network, sha256)
