"""An exponential moving average of the weights, evaluated and kept instead of the last ones."""

from copy import deepcopy

import torch

from ...model.combo import COMBO


def make_ema(model: COMBO) -> COMBO:
    """A copy of the model that no gradient changes, in eval mode."""
    return deepcopy(model).requires_grad_(False).eval()


@torch.no_grad()
def update_ema(ema: COMBO, model: COMBO, decay: float, step: int) -> None:
    """Move the average towards the model after step `step`, counted from 0.

    At first faster than `decay` says, by min(decay, (1 + step) / (10 + step)), so that the initial weights are soon
    forgotten.
    """
    weight = 1 - min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(ema.parameters()), list(model.parameters()), weight)
