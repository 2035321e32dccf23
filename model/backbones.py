"""Visual backbones: timm networks with feature maps at strides 4, 8, 16 and 32.

Nothing is downloaded: ImageNet weights are loaded by `published_keys.load_backbone`. A builder returns the network
and the channels of its four maps.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
from timm.layers.drop import DropPath
from timm.layers.norm import GroupNorm
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from .random_numbers import Uniform

Built = tuple[nn.Module, list[int]]


def _r50() -> Built:
    """ResNet-50 whose batch norms are frozen buffers while all convolutions train, as published."""
    return _features("resnet50", out_indices=(1, 2, 3, 4), norm_layer=_frozen_batch_norm, zero_init_last=False)


def _pvt_v2_b5() -> Built:
    """PVT-v2-B5 with stochastic depth rising linearly to 0.1 over its 52 blocks, as published."""
    network, channels = _features("pvt_v2_b5", drop_path_rate=0.1)
    for block in list(network.modules()):
        for name, child in block.named_children():
            if isinstance(child, DropPath):
                setattr(block, name, PerClipDropPath(child.drop_prob))
    return network, channels


def _tiny() -> Built:
    """Four residual blocks, 1.2 M parameters: small enough to train from scratch on a CPU."""
    return _features(
        "resnet18",
        out_indices=(1, 2, 3, 4),
        layers=(1, 1, 1, 1),
        channels=(32, 64, 128, 256),
        stem_type="deep",
        stem_width=16,
        norm_layer=partial(GroupNorm, num_groups=8),  # no batch statistics: clips do not see their batch-mates
    )


BACKBONES: dict[str, Callable[[], Built]] = {"r50": _r50, "pvt-v2-b5": _pvt_v2_b5, "tiny": _tiny}


def _features(name: str, **options: Any) -> Built:
    network: Any = timm.create_model(name, pretrained=False, features_only=True, **options)
    return network, network.feature_info.channels()


class PerClipDropPath(DropPath):
    """Stochastic depth by given random numbers in [0, 1), so that they can be per-clip; without them by torch's."""

    drawn_B: Tensor | None = None
    drop_prob: float

    def forward(self, x: Tensor) -> Tensor:
        if self.drawn_B is None or not self.training:
            return super().forward(x)
        keep_B = (self.drawn_B >= self.drop_prob) / (1 - self.drop_prob)
        return x * keep_B.to(x.dtype).view(-1, *[1] * (x.ndim - 1))


def set_drop_path(backbone: nn.Module, uniform: Uniform | None, frames: int) -> None:
    """Set the random numbers of the next forward pass in training, a row per frame; None: torch's own."""
    paths = [module for module in backbone.modules() if isinstance(module, PerClipDropPath)]
    if paths:
        drawn = [None] * len(paths) if uniform is None else uniform((frames, len(paths))).unbind(1)
        for path, drawn_B in zip(paths, drawn, strict=True):
            path.drawn_B = drawn_B


def checkpoint_stages(backbone: nn.Module, *, enable: bool) -> None:
    """Activation checkpointing: per block where timm can, else per stage."""
    inner: list[Any] = [m for m in backbone.modules() if m is not backbone and hasattr(m, "grad_checkpointing")]
    for module in inner or [backbone]:
        module.grad_checkpointing = enable


class FrozenNorm(FrozenBatchNorm2d):
    """Torchvision's frozen norm in one pass over the map, and in the map's dtype under autocast."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def forward(self, x: Tensor) -> Tensor:
        scale_C = self.weight * (self.running_var + self.eps).rsqrt()
        shift_C = self.bias - self.running_mean * scale_C
        scale, shift = (v.to(x.dtype)[:, None, None] for v in (scale_C, shift_C))
        return torch.addcmul(shift, x, scale)


def _frozen_batch_norm(
    channels: int, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> nn.Module:
    """timm passes `device` and `dtype`, which torchvision's frozen norm does not take."""
    return FrozenNorm(channels).to(device=device, dtype=dtype)
