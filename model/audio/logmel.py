"""An audio encoder without weights: which mel bands sound, and how much they vary within the second.

It stands in for VGGish where its weights are not at hand. 128 numbers, as many as VGGish gives.
"""

import math

import torch
from torch import Tensor

from ...base import Section

_SILENCE = math.log(0.01)  # the log-mel of zeros
# Natural-log units per unit of feature. Loud bands lie 4 to 8 above silence, so means run to about 2; the
# level of a band varies by 0.5 (steady noise) to 2 (beats, speech) within a second.
_MEAN_SCALE = 4.0
_DEVIATION_SCALE = 1.0


class LogMelConfig(Section):
    """Nothing to set."""


class LogMelEncoder:
    """`AudioEncoder`: the mean of each of 64 bands over its 96 steps, then the standard deviation of each.

    Means are above silence and in units of 4 nepers, deviations in nepers: both about 0..2. Silence gives
    zeros. The mean is of logarithms, hence a mixture looks like the louder source in each band: the timbre of
    both shows.
    """

    name = "logmel"
    version = "1"
    dim = 128
    weights_sha256 = None

    def __init__(self) -> None:
        self.parameters: dict = {}

    def __call__(self, log_mel: Tensor, waveform: Tensor) -> Tensor:
        level = log_mel.float() - _SILENCE  # subtracted first: silence gives zeros, not rounding errors
        mean = level.mean(dim=1, keepdim=True)
        deviation = (level - mean).square().mean(dim=1).sqrt()
        return torch.cat([mean.squeeze(1) / _MEAN_SCALE, deviation / _DEVIATION_SCALE], dim=1)

    def to(self, device: torch.device) -> "LogMelEncoder":
        return self  # nothing to move: it works on its inputs' device


def build(config: LogMelConfig) -> LogMelEncoder:
    return LogMelEncoder()
