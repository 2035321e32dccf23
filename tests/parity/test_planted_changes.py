"""Mistakes of one per cent are noticed, also by fixtures that hold samples of an array instead of all of it."""

import copy

import pytest
import torch
from golden import fixtures, load_arrays, load_json
from published_head import given, head_network
from published_semantic_sam import Fixture, images, published_network
from torch import nn

from combo_avs.model.foundation.semantic_sam.network import normalised


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def changed(network: nn.Module, parameter: str) -> nn.Module:
    """A copy in which one parameter is one per cent larger."""
    network = copy.deepcopy(network)
    dict(network.named_parameters())[parameter].mul_(1.01)
    return network


HEAD = ["siam_encoder.gates.0.fc1.weight", "pixel_decoder.layers.0.linear2.weight", "fusion.v_proj.weight"]
HEAD += ["audio_mlp.0.weight", "decoder.layers.1.linear1.weight", "decoder.mask_embed.0.weight"]


@pytest.mark.parametrize("parameter", HEAD)
@pytest.mark.parametrize("name", fixtures("combo", "full_head_s4_b2.json"))
def test_whole_head(name: str, parameter: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, arrays = load_json("combo", name), load_arrays("combo", name)
    network = head_network(name, monkeypatch, fusion="bilateral", queries=spec["queries_fuse_type"])
    frames, audio = torch.zeros(sum(spec["videos_frames"]), 3, *spec["image_hw"]), given(name, "audio", 1.5, 0.5)

    def difference(network: nn.Module) -> float:
        masks = network(frames, frames, audio).masks[-1].flatten()[torch.from_numpy(arrays["pos.pred_masks"]).long()]
        return (masks - torch.from_numpy(arrays["out.pred_masks"])).abs().max().item()

    assert difference(network) <= 1e-3 < difference(changed(network, parameter))


PIXEL_DECODER = ["lateral.1.weight", "layers.0.linear1.weight", "mask_features.weight"]


@pytest.mark.parametrize("parameter", PIXEL_DECODER)
@pytest.mark.parametrize("name", fixtures("semantic_sam", "s_pixel_decoder.npz"))
def test_pixel_decoder_of_semantic_sam(name: str, parameter: str) -> None:
    fixture, network = Fixture("S", name), published_network("S")
    (frame,) = images("S")
    maps = network.backbone(normalised(frame[None]))
    fixture.check("mask_features", network.pixel_decoder(maps)[1], 5e-5)
    with pytest.raises(AssertionError, match="mask_features"):
        fixture.check("mask_features", changed(network.pixel_decoder, parameter)(maps)[1], 5e-5)


@pytest.mark.parametrize("parameter", ["patch_embed.proj.weight", "layers.0.blocks.1.mlp.fc1.weight"])
@pytest.mark.parametrize("name", fixtures("semantic_sam", "s_backbone.npz"))
def test_backbone_of_semantic_sam(name: str, parameter: str) -> None:
    fixture, backbone = Fixture("S", name), published_network("S").backbone
    (frame,) = images("S")
    x = normalised(frame[None])
    fixture.check("res2", backbone(x)[0], 5e-5)
    with pytest.raises(AssertionError, match="res2"):
        fixture.check("res2", changed(backbone, parameter)(x)[0], 5e-5)
