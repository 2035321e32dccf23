"""The interface of every audio encoder."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor


class AudioEncoder(Protocol):
    """Frozen, deterministic: one feature vector per second of sound.

    The fingerprint of a cache is made from `name`, `version`, `parameters` and `weights_sha256`; whatever
    changes the output must change one of them.
    """

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> str: ...

    @property
    def parameters(self) -> Mapping[str, Any]:
        """JSON values."""
        ...

    @property
    def weights_sha256(self) -> str | None:
        """None if there are no weights."""
        ...

    @property
    def dim(self) -> int:
        """Features per second, D."""
        ...

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
