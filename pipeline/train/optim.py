"""Optimiser, parameter groups and learning rate of the published recipe; and the average of the weights."""

from copy import deepcopy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ...model.combo import COMBO
from ..config.train import TrainConfig

# No decay on these: scales and shifts of normalisation, and learned embeddings.
UNDECAYED = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d, nn.Embedding)


def parameter_groups(model: nn.Module, config: TrainConfig) -> list[dict]:
    """Up to four groups: backbone or not (lr x 0.1 or x 1), decayed or not.

    A parameter counts as backbone when its module path says so. Norm layers and embeddings are not decayed;
    biases are, as are plain parameters.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    seen: set[int] = set()
    for path, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            factor = config.backbone_lr_factor if "backbone" in path else 1.0
            decay = 0.0 if isinstance(module, UNDECAYED) else config.weight_decay
            groups.setdefault((factor, decay), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "lr": config.lr * factor, "lr_factor": factor}
        for (factor, decay), parameters in sorted(groups.items())
    ]


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW with betas (0.9, 0.999) and eps 1e-8, fused where there is a device: such a step can be left out on it."""
    fused = next(model.parameters()).device.type in ("cpu", "cuda")
    return torch.optim.AdamW(
        parameter_groups(model, config), lr=config.lr, weight_decay=config.weight_decay, fused=fused
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, config: TrainConfig, step: int) -> float:
    """Poly schedule: lr * (1 - step / steps) ** power. Returns the rate of the groups with factor 1."""
    lr = config.lr * (1 - step / config.steps) ** config.poly_power
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]
    return lr


class WeightAverage:
    """An exponential moving average of the weights, scored and kept instead of the last ones.

    model: a copy of the network in eval mode, which no gradient changes.
    """

    def __init__(self, model: COMBO, decay: float) -> None:
        self.model, self._decay = deepcopy(model).requires_grad_(False).eval(), decay

    @torch.no_grad()
    def update(self, model: COMBO, step: int) -> None:
        """Move the average towards the model after step `step`, counted from 0.

        At first faster than the decay says, by min(decay, (1 + step) / (10 + step)), so that the initial weights are
        soon forgotten.
        """
        move = get_ema_multi_avg_fn(min(self._decay, (1 + step) / (10 + step)))
        move(list(self.model.parameters()), list(model.parameters()), None)
