"""The border that every audio encoder implements."""

from typing import Protocol

import torch
from torch import Tensor


class AudioEncoder(Protocol):
    """Frozen, deterministic: one feature vector per second of sound.

    The fingerprint of a cache is made from `name`, `version`, `parameters` and `weights_sha256`; whatever
    changes the output must change one of them.
    """

    name: str
    version: str
    parameters: dict  # JSON values
    weights_sha256: str | None  # None: the encoder has no weights
    dim: int  # D

    def __call__(self, log_mel: Tensor, waveform: Tensor) -> Tensor:
        """Encode L seconds; an encoder may use either input.

        log_mel: float32 [L, 96, 64], natural log of VGGish mel magnitudes (silence is log 0.01 = -4.605).
        waveform: float32 [L, 16000], mono 16 kHz in -1..1.
        Gives float32 [L, D] on the inputs' device.
        """
        ...

    def to(self, device: torch.device) -> "AudioEncoder":
        """The same encoder with its weights on `device`."""
        ...
