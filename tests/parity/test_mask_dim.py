"""`model.mask_dim` other than the width, against the published arrays: every comparison that its channels take part in.

Twice the width: the published network, embedded without loss (`published_wide`). Less than the width: the mask features
have fewer channels than the queries in no published network, so that is compared with the plain step of benchmarks/, in
tests/pipeline/train/test_step_speed_paths.py.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from golden import fixtures, load_arrays, load_json, rule_image
from published_head import (
    FUSION_NAMES,
    check,
    fill,
    frames_with_sound,
    given,
    head_network,
    prediction_difference,
    training_losses,
    within_rounding,
)
from published_wide import both_copies, place, widened
from torch import Tensor, nn
from torch.func import functional_call

from combo_avs.model import backbones
from combo_avs.model.bilateral_fusion import FUSIONS, NoFusion
from combo_avs.model.combo import COMBO
from combo_avs.model.config import ModelConfig
from combo_avs.model.decoder import MaskedDecoder, Predictions
from combo_avs.model.pixel_decoder import EncoderConfig, PixelDecoder
from combo_avs.model.position_encoding import sine_position_encoding
from combo_avs.model.weights.published_keys import to_published


@pytest.fixture
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def wide_part(part: nn.Module, wide: nn.Module, prefix: str, channels: int, heads: int = 8) -> nn.Module:
    """`wide` with the parameters of `part`, which `prefix` is the place of in the network."""
    state = {prefix + key: tensor for key, tensor in part.state_dict().items()}
    wide.load_state_dict({k.removeprefix(prefix): t for k, t in widened(state, channels, heads).items()})
    return wide.eval()


def wide_network(narrow: COMBO, monkeypatch: pytest.MonkeyPatch) -> COMBO:
    """A network with twice as many mask channels as queries have, behind the same backbones; its weights are random."""
    built = iter([narrow.siam_encoder.image_backbone, narrow.siam_encoder.maskige_backbone])
    channels = narrow.siam_encoder.channels
    monkeypatch.setitem(backbones.BACKBONES, narrow.config.backbone, lambda: (next(built), channels))
    config = narrow.config.model_copy(update={"mask_dim": 2 * narrow.config.width})
    wide = COMBO(config, narrow.num_classes).eval()
    assert wide.pixel_decoder.mask_features.weight.shape[0] == 2 * wide.decoder.query_embed.weight.shape[1]
    return wide


def call(wide: COMBO, narrow: Mapping[str, Tensor], *inputs: Tensor) -> Predictions:
    """The wide network with the parameters of the narrow one."""
    parameters = widened(narrow, wide.config.width, wide.config.heads)
    return functional_call(wide, parameters, inputs)


def test_positions_of_the_first_copies_are_those_of_the_narrow_network() -> None:
    for channels in (32, 256):
        wide = sine_position_encoding(7, 5, 2 * channels)
        torch.testing.assert_close(wide[place(channels)], sine_position_encoding(7, 5, channels), rtol=1e-5, atol=2e-6)


@pytest.mark.usefixtures("_no_gradients")
@pytest.mark.parametrize("name", fixtures("combo", "bfm_*.json"))
def test_fusion(name: str) -> None:
    spec = load_json("combo", name)
    build, channels = FUSIONS[FUSION_NAMES[spec["fused_type"]]], spec["fused_backbone_dim"][0]
    narrow, wide = (build(c, spec["audio_dim"], spec["num_heads"], "normalised") for c in (channels, 2 * channels))
    fill(narrow, name, "sem_seg_head.fusion_module.", "fusion.")
    fusion: Any = wide_part(narrow, wide, "fusion.", channels, spec["num_heads"])
    assert isinstance(fusion, NoFusion)
    visual = given(name, "visual", 2, 0.2)
    doubled = visual.new_empty(len(visual), 2 * channels, *visual.shape[2:])
    first = place(channels)
    doubled[:, first] = visual
    doubled[:, sorted(set(range(2 * channels)) - set(first.tolist()))] = visual
    fused, audio = fusion(doubled, given(name, "audio", 1.5, 0.4)[:, 0])
    for copy in both_copies(fused):
        check(name, "visual", copy, 1e-5)
    check(name, "audio", audio[:, None], 1e-5)


@pytest.mark.usefixtures("_no_gradients")
@pytest.mark.parametrize("name", fixtures("combo", "pixel_decoder*.json"))
def test_pixel_decoder(name: str) -> None:
    spec = load_json("combo", name)
    width, channels = spec["conv_dim"], list(spec["in_channels"].values())
    encoder = EncoderConfig(width, spec["nheads"], spec["enc_layers"], spec["dim_feedforward"])
    narrow, wide = (PixelDecoder(channels, encoder, mask_dim) for mask_dim in (width, 2 * width))
    fill(narrow, name, "sem_seg_head.pixel_decoder.", "pixel_decoder.")
    decoder = wide_part(narrow, wide, "pixel_decoder.", width)
    scales, mask_features = decoder([given(name, key) for key in spec["in_channels"]])
    for copy in both_copies(mask_features):
        check(name, "mask_features", copy, 1e-4)
    for i, scale in enumerate(scales):
        check(name, f"ms{i}", scale, 1e-4)


@pytest.mark.usefixtures("_no_gradients")
@pytest.mark.parametrize("name", fixtures("combo", "transformer_decoder_*.json"))
def test_transformer_decoder(name: str) -> None:
    spec = load_json("combo", name)
    width, mode = spec["hidden_dim"], spec["queries_fuse_type"]
    config = ModelConfig(
        width=width,
        heads=spec["nheads"],
        decoder_layers=spec["dec_layers_built"],
        decoder_ffn=spec["dim_feedforward"],
        num_queries=spec["num_queries"],
        queries="none" if mode == "cat" else mode,
        audio_queries="published",
    )
    narrow, wide = (
        MaskedDecoder(config.model_copy(update={"mask_dim": c}), spec["num_classes"]) for c in (width, 2 * width)
    )
    fill(narrow, name, "sem_seg_head.predictor.", "decoder.")
    decoder = wide_part(narrow, wide, "decoder.", width)
    features = given(name, "mask_features", 2)
    padded = 7 * torch.randn(len(features), 2 * width, *features.shape[2:])  # what the zeros of the embeddings meet
    padded[:, place(width)] = features
    scales = [given(name, f"ms{i}", 1.5) for i in range(3)]
    assert prediction_difference(name, decoder(scales, padded, given(name, "audio", 2)[:, 0])) <= 1e-3


@pytest.mark.usefixtures("_no_gradients")
@pytest.mark.parametrize("name", fixtures("combo", "full_head_*.json"))
def test_everything_behind_the_backbones(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = load_json("combo", name)
    named = {"fusion": FUSION_NAMES[spec["fused_type"]], "queries": spec["queries_fuse_type"]}
    narrow = head_network(name, monkeypatch, **named)
    wide = wide_network(narrow, monkeypatch)
    frames = torch.zeros(sum(spec["videos_frames"]), 3, *spec["image_hw"])
    audio = frames_with_sound(spec, given(name, "audio", 1.5, 0.5))
    assert prediction_difference(name, call(wide, narrow.state_dict(), frames, frames, audio)) <= 1e-3


@pytest.mark.parametrize("name", fixtures("combo", "train_step_*.json"))
def test_train_step(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses, and the gradients of the published parameters through the wide ones."""
    spec, arrays = load_json("combo", name), load_arrays("combo", name)
    narrow = head_network(name, monkeypatch)
    wide, parameters = wide_network(narrow, monkeypatch), dict(narrow.named_parameters())
    losses = training_losses(name, lambda *inputs: call(wide, parameters, *inputs))
    losses["total"].backward()
    actual = [losses[key].item() for key in spec["loss_names_sorted"]]
    np.testing.assert_allclose(actual, arrays["out.losses"], rtol=0, atol=1e-4)
    gradients = to_published({key: p.grad for key, p in parameters.items() if p.grad is not None})
    norms = [gradients[key].norm() if key in gradients else -1.0 for key in spec["param_names"]]
    np.testing.assert_allclose(norms, arrays["out.grad_norms"], rtol=1e-2, atol=1e-6)


@pytest.mark.slow
@pytest.mark.usefixtures("_no_gradients")
@pytest.mark.parametrize("name", fixtures("combo", "full_real_r50_*.json"))
def test_whole_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, arrays = load_json("combo", name), load_arrays("combo", name)
    lists = [load_json("combo", listed) for listed in fixtures("combo", "state_dict_*.json")]
    keys = next(one["keys"] for one in lists if one["config"] == spec["official_config"])
    keys = {k: s for k, s in keys.items() if not k.startswith(("audio_backbone.", "criterion."))}
    fusion, queries = FUSION_NAMES[spec["fuse_type"]], spec["num_queries"]
    config = ModelConfig(fusion=fusion, num_queries=queries, audio_queries="published")
    narrow = fill(COMBO(config, spec["num_classes"]), name, "", "", keys)
    assert isinstance(narrow, COMBO)
    wide = wide_network(narrow, monkeypatch)
    shape = (spec["frames"], 3, *spec["image_hw"])
    images = (torch.from_numpy(rule_image("input:" + key, shape, spec["salt"])) for key in ("images", "pre_masks"))
    wide.load_state_dict(widened(narrow.state_dict(), config.width, config.heads))
    seen: dict[str, Any] = {}
    for part in ("pixel_decoder", "fusion", "audio_mlp"):
        getattr(wide, part).register_forward_hook(lambda m, i, out, part=part: seen.update({part: out}))
    predictions = wide(*images, frames_with_sound(spec, torch.from_numpy(arrays["out.vggish"])))
    for copy in both_copies(seen["fusion"][0]):
        check(name, "fused_mask_features", copy, 1e-4)
    check(name, "fused_audio", seen["fusion"][1][:, None], 1e-4)
    inputs = (seen["pixel_decoder"][0], seen["fusion"][0], seen["audio_mlp"])
    reached = (prediction_difference(name, p) for p in within_rounding(wide.decoder, *inputs, predictions))
    assert any(found <= 1e-3 for found in reached)
