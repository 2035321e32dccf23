"""The border that every proposal generator implements. Swapping foundation models swaps nothing else."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Proposals:
    """Class-agnostic masks of one frame, K of them (K may be 0).

    Best first, unless the generator says otherwise.

    masks: bool [K, H, W].
    predicted_iou: float32 [K]: the generator's own estimate of mask quality; 1 where it has none.
    stability: float32 [K], 0..1: how little the mask changes with its threshold; 1 where it has none.
    boxes: int32 [K, 4]: x0, y0, x1, y1 of first and last pixel of the mask (both in it); zeros if empty.
    points: float32 [K, 2]: x, y in pixels of the prompt that gave the mask, or a point inside it.
    areas: int64 [K]: pixels of the mask.
    """

    masks: Tensor
    predicted_iou: Tensor
    stability: Tensor
    boxes: Tensor
    points: Tensor
    areas: Tensor

    def __post_init__(self) -> None:
        k = len(self.masks)
        if self.masks.dtype != torch.bool or self.masks.ndim != 3:
            raise ValueError(f"masks must be bool [K, H, W], not {self.masks.dtype} {tuple(self.masks.shape)}")
        for name in ("predicted_iou", "stability", "boxes", "points", "areas"):
            if len(getattr(self, name)) != k:
                raise ValueError(f"{name} has {len(getattr(self, name))} rows for {k} masks")


class ProposalGenerator(Protocol):
    """Frozen, deterministic, and without state between calls.

    The fingerprint of a cache is made from `name`, `version`, `parameters` and `weights_sha256`; whatever
    changes the output must change one of them.
    """

    name: str
    version: str
    parameters: dict  # JSON values
    weights_sha256: str | None  # None: the generator has no weights

    def __call__(self, frames: Tensor) -> list[Proposals]:
        """frames: uint8 [B, H, W, 3], RGB, on the generator's device. Gives B `Proposals` on the CPU."""
        ...

    def to(self, device: torch.device) -> "ProposalGenerator":
        """The same generator with its weights on `device`."""
        ...
