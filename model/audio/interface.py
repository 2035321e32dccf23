"""The interface of every audio encoder."""

from typing import Protocol

import torch
from torch import Tensor

from ..builders import FrozenModel


class AudioEncoder(FrozenModel, Protocol):
    """A frozen model that computes one feature vector per second of sound."""

    @property
    def dim(self) -> int: ...  # Features per second, D

    def __call__(self, log_mel: Tensor, waveform: Tensor, /) -> Tensor:
        """Encode L seconds; an encoder may use either input.

        log_mel: float32 [L, 96, 64], natural log of VGGish mel magnitudes (silence is log 0.01 = -4.605).
        waveform: float32 [L, 16000], mono 16 kHz in -1..1.
        Returns float32 [L, D] on the inputs' device.
        """
        ...

    def to(self, device: torch.device, /) -> "AudioEncoder":
        """The same encoder with its weights on `device`."""
        ...
