"""The generator that proposes nothing: the baseline of COMBO without a foundation model's masks."""

from typing import Any

import torch
from torch import Tensor

from .interface import Proposals


class NoProposals:
    """`ProposalGenerator` with K = 0 for every frame."""

    name = "none"
    version = "1"
    weights_sha256 = None

    def __init__(self) -> None:
        self.parameters: dict[str, Any] = {}

    def __call__(self, frames: Tensor) -> list[Proposals]:
        batch, height, width, _ = frames.shape
        empty = Proposals(
            masks=torch.zeros((0, height, width), dtype=torch.bool),
            predicted_iou=torch.zeros(0),
            stability=torch.zeros(0),
            boxes=torch.zeros((0, 4), dtype=torch.int32),
            points=torch.zeros((0, 2)),
            areas=torch.zeros(0, dtype=torch.int64),
        )
        return [empty] * batch

    def to(self, device: torch.device) -> "NoProposals":
        return self
