"""One whole training step, network and losses, against what the published code gave: losses and gradients."""

from itertools import chain

import numpy as np
import pytest
import torch
from golden import fixtures, load_arrays, load_json, rule_parameter, uniform
from published_draws import PublishedDraws
from torch import Tensor, nn

from combo_avs.model import backbones
from combo_avs.model.checkpoint import from_published, to_published
from combo_avs.model.combo import COMBO
from combo_avs.model.config import ModelConfig
from combo_avs.model.criterion import CriterionConfig, criterion
from combo_avs.model.weights import load_weights


class GivenMaps(nn.Module):
    """Stands in for a backbone and gives the fixture's maps, whatever the image."""

    def __init__(self, maps: list[Tensor]) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, images: Tensor) -> list[Tensor]:
        return self.maps


def made_by_rule(spec: dict, key: str, scale: float, offset: float = 0.0) -> Tensor:
    array = uniform("input:" + key, tuple(spec["input_shapes"][key]), spec["salt"]) * scale + offset
    return torch.from_numpy(array.astype(np.float32))


def network(name: str, monkeypatch: pytest.MonkeyPatch) -> COMBO:
    """The small network of the fixture, behind given backbone maps; eval mode: the fixture has no dropout."""
    spec = load_json("combo", name)
    levels = [key.removeprefix("image_") for key in spec["input_shapes"] if key.startswith("image_")]
    image_maps = [made_by_rule(spec, "image_" + level, 1.5) for level in levels]
    maskige_maps = [made_by_rule(spec, "maskige_" + level, 1.5, 0.2) for level in levels]
    built = iter([GivenMaps(image_maps), GivenMaps(maskige_maps)])
    monkeypatch.setitem(backbones.BACKBONES, "tiny", lambda: (next(built), spec["in_channels"]))
    config = ModelConfig(
        backbone="tiny",
        audio_queries="published",
        num_queries=spec["num_queries"],
        width=spec["hidden_dim"],
        audio_dim=spec["audio_dim"],
        audio_hidden=spec["audio_mlp"][1],
        heads=spec["nheads"],
        encoder_layers=spec["enc_layers"],
        encoder_ffn=spec["pixel_decoder_ffn"],
        decoder_layers=spec["dec_layers_built"],
        decoder_ffn=spec["decoder_ffn"],
    )
    model = COMBO(config, spec["num_classes"])
    shapes = spec["state_dict_shapes"].items()
    state = {k: rule_parameter(spec["rule_prefix"] + k, tuple(shape), spec["salt"]) for k, shape in shapes}
    load_weights(model, from_published({k: torch.from_numpy(v) for k, v in state.items()}).network, name)
    return model.eval()


@pytest.mark.parametrize("name", fixtures("combo", "train_step_*.json"))
def test_train_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, arrays = load_json("combo", name), load_arrays("combo", name)
    lengths, maps = spec["videos_frames"], arrays["in.target_label_maps"]
    # Without flags, the first frame of each clip is supervised. AVSS has ten slots of sound for every clip.
    flags = spec["gt_flags"] or [[1] + [0] * (n - 1) for n in lengths]
    supervised = np.array(list(chain(*flags)), bool)
    audio = made_by_rule(spec, "audio", 1.5, 0.5)
    if spec["gt_flags"]:
        audio = torch.cat([slots[:n] for slots, n in zip(audio.split(10), lengths, strict=True)])
    labels = np.full((sum(lengths), *maps.shape[1:]), 255, np.uint8)
    labels[supervised] = maps

    model = network(name, monkeypatch)
    frames = torch.zeros(sum(lengths), 3, *spec["image_hw"])
    logits, masks = model(frames, frames, audio)
    losses = criterion(
        logits,
        masks,
        torch.from_numpy(labels),
        torch.from_numpy(supervised),
        lengths,
        CriterionConfig(num_points=spec["num_points"], no_object=spec["eos_coef"]),
        PublishedDraws(spec["salt"], int(supervised.sum()), spec["num_points"]),
    )
    losses["total"].backward()

    actual = [losses[key].item() for key in spec["loss_names_sorted"]]
    np.testing.assert_allclose(actual, arrays["out.losses"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(losses["total"].item(), arrays["out.total"][0], rtol=1e-5)
    gradients = to_published({key: p.grad for key, p in model.named_parameters() if p.grad is not None})
    norms = [gradients[key].norm() if key in gradients else -1.0 for key in spec["param_names"]]
    np.testing.assert_allclose(norms, arrays["out.grad_norms"], rtol=1e-2, atol=1e-6)
