"""The interfaces of proposal generators, and of the promptable networks that some of them ask."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor

from ..builders import FrozenModel


@dataclass(frozen=True)
class Proposals:
    """Class-agnostic masks of one frame, K of them (K may be 0).

    Best first, unless the generator says otherwise. All on one device: a generator leaves them where it made them, so
    that whoever reads them moves no more than needed.

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

    def to(self, device: torch.device | str) -> "Proposals":
        """The same proposals on `device`."""
        return Proposals(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    def pick(self, rows: Tensor) -> "Proposals":
        """The masks of some rows, int64 [R] or bool [K], with all that is known of them."""
        return Proposals(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


class ProposalGenerator(FrozenModel, Protocol):
    """A frozen model without state between calls."""

    def __call__(self, frames: Tensor, /) -> list[Proposals]:
        """frames: uint8 [B, H, W, 3], RGB, on the generator's device. Returns B `Proposals`, there or on the CPU."""
        ...

    def to(self, device: torch.device, /) -> "ProposalGenerator":
        """The same generator with its weights on `device`."""
        ...


class Predicted(Protocol):
    @property
    def predicted_iou_GK(self) -> Tensor: ...  # float32 [G, K], on the network's device


class ClickNetwork(Protocol):
    """A promptable network with K masks per click. All tensors are on `device`."""

    @property
    def device(self) -> torch.device: ...

    def encode(self, frames_BHWC: Tensor, /) -> Iterator[Any]:
        """uint8 [B, H, W, 3] to the features of each frame."""
        ...

    def encode_prompts(self, points: Tensor, /) -> Any:
        """Image-independent work. points: float64 [G, 2], x and y in the encoder's input."""
        ...

    def prepare_image(self, prompts: Any, features: Any, /) -> Any:
        """Per-image state shared by all prompts."""
        ...

    def decode(self, prompts: Any, image: Any, chunk: slice, /) -> Predicted:
        """Predict the IoUs of some of the clicks' masks, without rendering them."""
        ...

    def render(self, decoded: Any, which: Tensor, rows: int, columns: int, /) -> Tensor:
        """Low-resolution logits of decoded clicks, int64 [G'] of the chunk: float [G', K, rows, columns]."""
        ...

    def to(self, device: torch.device, /) -> "ClickNetwork": ...
