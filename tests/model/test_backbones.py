"""Backbones: strides, norms and stochastic depth."""

import pytest
import torch
from timm.layers.drop import DropPath
from timm.layers.norm import GroupNorm
from torchvision.ops import FrozenBatchNorm2d

from combo_avs.model.backbones import BACKBONES, FrozenNorm, PerClipDropPath


@pytest.mark.parametrize("name", BACKBONES)
def test_maps_have_strides_4_to_32(name: str) -> None:
    with torch.device("meta"):
        network, channels = BACKBONES[name]()
        maps = network(torch.empty(1, 3, 64, 96))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (c, 64 // s, 96 // s) for c, s in zip(channels, (4, 8, 16, 32), strict=True)
    ]


def test_resnet_starts_with_norms_that_change_nothing() -> None:
    """They are frozen: timm starts the last norm of a block with weights of zero, which would never change."""
    norms = [m for m in BACKBONES["r50"]()[0].modules() if isinstance(m, FrozenBatchNorm2d)]
    assert len(norms) == 53
    assert all((norm.weight == 1).all() and (norm.running_var == 1).all() for norm in norms)
    assert not any(norm.bias.any() or norm.running_mean.any() for norm in norms)


def test_frozen_norms_are_those_of_their_statistics() -> None:
    norm, x = FrozenNorm(3), torch.randn(2, 3, 4, 5)
    for buffer in norm.buffers():
        buffer.uniform_(0.5, 2)
    norm.running_var[0] = 1e-5  # as large as epsilon
    mean, var, weight, bias = (b[:, None, None] for b in (norm.running_mean, norm.running_var, norm.weight, norm.bias))
    torch.testing.assert_close(norm(x), (x - mean) / (var + 1e-5).sqrt() * weight + bias, rtol=1e-4, atol=1e-4)


def test_the_tiny_backbone_normalises_in_eight_groups() -> None:
    norms = [m for m in BACKBONES["tiny"]()[0].modules() if isinstance(m, GroupNorm)]
    assert norms
    assert {norm.num_groups for norm in norms} == {8}


def test_all_stochastic_depth_of_pvt_is_by_clip() -> None:
    with torch.device("meta"):
        paths = [m for m in BACKBONES["pvt-v2-b5"]()[0].modules() if isinstance(m, DropPath)]
    assert len(paths) == 2 * 51
    assert all(isinstance(path, PerClipDropPath) for path in paths)
