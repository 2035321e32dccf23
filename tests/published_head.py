"""Networks with the weights and inputs of a golden fixture."""

import numpy as np
import pytest
import torch
from golden import load_arrays, load_json, rule_parameter, uniform
from torch import Tensor, nn

from combo_avs.model import backbones
from combo_avs.model.combo import COMBO
from combo_avs.model.config import ModelConfig
from combo_avs.model.weights.published_keys import from_published
from combo_avs.model.weights.state import load_weights


def fill(module: nn.Module, name: str, published: str, ours: str, shapes: dict | None = None) -> nn.Module:
    """Load a fixture's weights; the prefixes are the module's place in the published and in our network."""
    spec, arrays = load_json("combo", name), load_arrays("combo", name)
    state = {}
    for key, shape in (shapes or spec["state_dict_shapes"]).items():
        if spec.get("weights_shipped"):
            array = arrays["w." + key]
        else:
            array = rule_parameter(spec["rule_prefix"] + key, tuple(shape), spec["salt"])
        state[published + key] = torch.from_numpy(array)
    network = from_published(state).network
    load_weights(module, {key.removeprefix(ours): value for key, value in network.items()}, name)
    return module.eval()


def given(name: str, key: str, scale: float = 1.0, offset: float = 0.0) -> Tensor:
    """An input of a fixture: the array that it ships, else made by rule."""
    spec, arrays = load_json("combo", name), load_arrays("combo", name)
    if "in." + key in arrays:
        return torch.from_numpy(arrays["in." + key])
    array = uniform("input:" + key, tuple(spec["input_shapes"][key]), spec["salt"]) * scale + offset
    return torch.from_numpy(array.astype(np.float32))


class GivenMaps(nn.Module):
    """Stands in for a backbone and gives the fixture's maps, whatever the image."""

    def __init__(self, maps: list[Tensor]) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.maps


def head_network(name: str, monkeypatch: pytest.MonkeyPatch, **named: str) -> COMBO:
    """The small network of a fixture, behind given backbone maps; eval mode: no fixture has dropout.

    named: settings that the fixture gives under names of its own.
    """
    spec = load_json("combo", name)
    levels = [key.removeprefix("image_") for key in spec["input_shapes"] if key.startswith("image_")]
    image_maps = [given(name, "image_" + level, 1.5) for level in levels]
    maskige_maps = [given(name, "maskige_" + level, 1.5, 0.2) for level in levels]
    built = iter([GivenMaps(image_maps), GivenMaps(maskige_maps)])
    monkeypatch.setitem(backbones.BACKBONES, "tiny", lambda: (next(built), spec["in_channels"]))
    config = ModelConfig(
        backbone="tiny",
        audio_queries="published",
        num_queries=spec["num_queries"],
        width=spec["hidden_dim"],
        mask_dim=spec["mask_dim"],
        audio_dim=spec["audio_dim"],
        audio_hidden=spec["audio_mlp"][1],
        heads=spec["nheads"],
        encoder_layers=spec["enc_layers"],
        encoder_ffn=spec["pixel_decoder_ffn"],
        decoder_layers=spec["dec_layers_built"],
        decoder_ffn=spec["decoder_ffn"],
        **named,
    )
    return fill(COMBO(config, spec["num_classes"]), name, "", "")
