"""Visual backbones: plain timm networks that give maps at strides 4, 8, 16 and 32.

Nothing is ever downloaded: ImageNet weights come in through `checkpoint.load_backbone`. A builder returns the
network and the channels of its four maps.
"""

from collections.abc import Callable
from functools import partial

import timm
import torch
from timm.layers import GroupNorm
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

Built = tuple[nn.Module, list[int]]


def _r50() -> Built:
    """ResNet-50 whose batch norms are frozen buffers while all convolutions train, as published."""
    return _features("resnet50", out_indices=(1, 2, 3, 4), norm_layer=_frozen_batch_norm, zero_init_last=False)


def _pvt_v2_b5() -> Built:
    """PVT-v2-B5 with stochastic depth rising linearly to 0.1 over its 52 blocks, as published."""
    return _features("pvt_v2_b5", drop_path_rate=0.1)


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


def _features(name: str, **options: object) -> Built:
    network = timm.create_model(name, pretrained=False, features_only=True, **options)
    return network, network.feature_info.channels()


def _frozen_batch_norm(
    channels: int, device: torch.device | None = None, dtype: torch.dtype | None = None
) -> nn.Module:
    """Newer timm hands `device` and `dtype` to every norm; torchvision's frozen norm takes neither."""
    return FrozenBatchNorm2d(channels).to(device=device, dtype=dtype)
