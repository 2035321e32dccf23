"""Networks with the weights and inputs of a golden fixture."""

from collections.abc import Callable, Iterator
from itertools import chain

import numpy as np
import pytest
import torch
from golden import load_arrays, load_json, rule_parameter, uniform
from published_draws import PublishedDraws, by_clip
from torch import Tensor, nn

from combo_avs.model import backbones
from combo_avs.model.combo import COMBO
from combo_avs.model.config import ModelConfig
from combo_avs.model.criterion import CriterionConfig, Supervision, criterion
from combo_avs.model.decoder import MaskedDecoder, Predictions
from combo_avs.model.weights.published_keys import from_published
from combo_avs.model.weights.state import load_weights

FUSION_NAMES = {
    "MHA-B": "bilateral",
    "MHA-S-Audio": "bilateral",  # the published code returns the fused picture under this name too
    "MHA-S": "visual",
    "MHA-None": "none",
}


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


def difference(name: str, key: str, actual: Tensor) -> float:
    """Largest absolute difference from an output of a fixture, at the places that it ships."""
    arrays = load_arrays("combo", name)
    shape = load_json("combo", name).get("outputs", {}).get(key, {}).get("shape", list(actual.shape))
    assert list(actual.shape) == shape, key
    if "pos." + key in arrays:
        actual = actual.flatten()[torch.from_numpy(arrays["pos." + key]).long()]
    expected = torch.from_numpy(arrays["out." + key])
    return (actual - expected).abs().max().item()


def check(name: str, key: str, actual: Tensor, tolerance: float) -> None:
    assert difference(name, key, actual) <= tolerance, key


def prediction_difference(name: str, predictions: Predictions) -> float:
    """Largest difference of the last step, and of those before it where the fixture has them."""
    ours = {
        "pred_logits": predictions.logits[-1],
        "pred_masks": predictions.masks[-1],
        "aux_logits": predictions.logits[:-1],
        "aux_masks": predictions.masks[:-1],
        "aux_logits_first": predictions.logits[0],
    }
    shipped = load_arrays("combo", name)
    return max(difference(name, key, found) for key, found in ours.items() if "out." + key in shipped)


def frames_with_sound(spec: dict, audio: Tensor) -> Tensor:
    """The audio slots that belong to a frame; AVSS has ten slots per clip, of which five may be empty."""
    flags = spec["vid_temporal_mask_flag"]
    return audio if flags is None else audio[torch.tensor(flags).flatten().bool()]


def training_losses(name: str, network: Callable[[Tensor, Tensor, Tensor], Predictions]) -> dict[str, Tensor]:
    """The losses of a fixture's step, by its draws. network: takes frames, Maskiges and sound."""
    spec, arrays = load_json("combo", name), load_arrays("combo", name)
    lengths, maps = spec["videos_frames"], arrays["in.target_label_maps"]
    # Without flags, the first frame of each clip is supervised. AVSS has ten slots of sound for every clip.
    flags = spec["gt_flags"] or [[1] + [0] * (n - 1) for n in lengths]
    supervised = np.array(list(chain(*flags)), bool)
    audio = given(name, "audio", 1.5, 0.5)
    if spec["gt_flags"]:
        audio = torch.cat([slots[:n] for slots, n in zip(audio.split(10), lengths, strict=True)])
    labels = np.full((sum(lengths), *maps.shape[1:]), 255, np.uint8)
    labels[supervised] = maps
    frames = torch.zeros(sum(lengths), 3, *spec["image_hw"])
    logits, masks = network(frames, frames, audio)
    return criterion(
        logits,
        masks,
        Supervision(torch.from_numpy(labels), torch.from_numpy(supervised), lengths),
        CriterionConfig(num_points=spec["num_points"], no_object=spec["eos_coef"]),
        by_clip(PublishedDraws(spec["salt"], int(supervised.sum()), spec["num_points"])),
    )


def within_rounding(
    decoder: MaskedDecoder, scales: list[Tensor], features: Tensor, audio: Tensor, first: Predictions
) -> Iterator[Predictions]:
    """`first`, then what the decoder gives for inputs disturbed by 1e-6, the size of rounding errors.

    Attention masks are thresholded. In a few fixtures one or two bits lie within 1e-6 of the threshold, and
    another number of threads flips them, in the published network as in ours; so the published result must
    be among those that rounding can give.
    """
    yield first
    for seed in range(32):
        noise = torch.Generator().manual_seed(seed)
        inputs = [x * (1 + 1e-6 * torch.randn(x.shape, generator=noise)) for x in (*scales, features, audio)]
        yield decoder(inputs[:3], *inputs[3:])
