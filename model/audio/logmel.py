"""An audio encoder without weights: mean and standard deviation of each mel band within the second.

It stands in for VGGish where its weights are not at hand, with as many features, 128.
"""

import math
from typing import Any

import torch
from torch import Tensor

_SILENCE = math.log(0.01)  # the log-mel of zeros
# Nepers per unit of feature. Loud bands are 4 to 8 above silence, so means reach about 2; the level of a band varies by
# 0.5 (steady noise) to 2 (beats, speech) within a second.
_MEAN_SCALE = 4.0
_DEVIATION_SCALE = 1.0


class LogMelEncoder:
    """`AudioEncoder`: the mean of each of 64 bands over its 96 steps, then the standard deviation of each.

    Means are above silence and in units of 4 nepers, deviations in nepers: both about 0..2. Silence encodes to
    zeros. The mean is of logarithms, hence a mixture looks like the louder source in each band: the timbre of
    both shows.
    """

    name = "logmel"
    version = "1"
    dim = 128
    weights_sha256 = None

    def __init__(self) -> None:
        self.parameters: dict[str, Any] = {}

    def __call__(self, log_mel: Tensor, waveform: Tensor) -> Tensor:
        level = log_mel.float() - _SILENCE  # subtracted first: silence gives zeros, not rounding errors
        mean = level.mean(dim=1, keepdim=True)
        deviation = (level - mean).square().mean(dim=1).sqrt()
        return torch.cat([mean.squeeze(1) / _MEAN_SCALE, deviation / _DEVIATION_SCALE], dim=1)

    def to(self, device: torch.device) -> "LogMelEncoder":
        return self  # nothing to move: it works on its inputs' device
