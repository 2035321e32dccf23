"""The networks against arrays that the published modules gave for the same weights and inputs."""

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
    within_rounding,
)

from combo_avs.model import backbones
from combo_avs.model.bilateral_fusion import FUSIONS
from combo_avs.model.combo import COMBO
from combo_avs.model.config import ModelConfig
from combo_avs.model.decoder import MaskedDecoder, mlp
from combo_avs.model.deformable_attention import DeformableAttention, deformable_sample
from combo_avs.model.pixel_decoder import EncoderConfig, PixelDecoder
from combo_avs.model.position_encoding import sine_position_encoding
from combo_avs.model.siam_encoder import ChannelWeightedBlock

HEAD = "sem_seg_head."


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def published_keys(config: str) -> dict[str, list[int]]:
    """Shape of every tensor in a checkpoint of the published network under the named configuration."""
    lists = [load_json("combo", name) for name in fixtures("combo", "state_dict_*.json")]
    return next(spec["keys"] for spec in lists if spec["config"] == config)


@pytest.mark.parametrize("name", fixtures("combo", "channel_weighted_block*.json"))
def test_channel_weighted_block(name):
    block = ChannelWeightedBlock(load_json("combo", name)["dim"])
    fill(block, name, "scale_factor_module.0.", "siam_encoder.gates.0.")
    image, maskige = given(name, "image"), given(name, "maskige")
    check(name, "weight", block(maskige), 1e-5)
    check(name, "fused", image + block(maskige) * maskige, 1e-5)


@pytest.mark.parametrize("name", fixtures("combo", "bfm_*.json"))
def test_fusion(name):
    spec, arrays = load_json("combo", name), load_arrays("combo", name)
    kind = FUSION_NAMES[spec["fused_type"]]
    fusion = FUSIONS[kind](spec["fused_backbone_dim"][0], spec["audio_dim"], spec["num_heads"], "normalised")
    fill(fusion, name, HEAD + "fusion_module.", "fusion.")
    projected = {}
    for leaf in ("out_a_proj", "out_proj"):
        if hasattr(fusion, leaf):
            getattr(fusion, leaf).register_forward_hook(lambda m, i, out, leaf=leaf: projected.update({leaf: out}))
    if kind == "bilateral":
        add = fusion.sound_into_picture
        fusion.sound_into_picture = lambda *inputs: projected.setdefault("added", add(*inputs))

    visual, audio = fusion(given(name, "visual", 2, 0.2), given(name, "audio", 1.5, 0.4)[:, 0])

    check(name, "visual", visual, 1e-5)
    check(name, "audio", audio[:, None], 1e-5)
    if "out.delta_v" in arrays:
        pixels = visual.shape[2] * visual.shape[3]
        constant = kind == "visual"
        delta = projected["out_proj"][:, None].expand(-1, pixels, -1) if constant else projected["added"]
        check(name, "delta_v", delta, 1e-5)
    if "out.delta_a" in arrays:
        check(name, "delta_a", projected["out_a_proj"][:, None], 1e-5)


@pytest.mark.parametrize("name", fixtures("combo", "audio_mlp_*.json"))
def test_audio_mlp(name):
    spec = load_json("combo", name)
    network = mlp(spec["in_dim"], spec["middle_dim"], spec["middle_dim"], spec["out_dim"])
    fill(network, name, HEAD + "audio_transformation.", "audio_mlp.")
    check(name, "y", network(given(name, "x")), 1e-5)


@pytest.mark.parametrize("name", fixtures("combo", "position_encoding*.json"))
def test_position_encoding(name):
    for i, case in enumerate(load_json("combo", name)["cases"]):
        encoding = sine_position_encoding(case["H"], case["W"], 2 * case["num_pos_feats"])
        check(name, f"case{i}", encoding, 2e-6)


@pytest.mark.parametrize("name", fixtures("combo", "msda_core*.json"))
def test_deformable_sample(name):
    shapes = load_json("combo", name)["spatial_shapes_HW"]
    inputs = [given(name, key) for key in ("value", "sampling_locations", "attention_weights")]
    check(name, "y", deformable_sample(inputs[0], shapes, *inputs[1:]), 1e-5)


@pytest.mark.parametrize("name", fixtures("combo", "msda_module*.json"))
def test_deformable_attention(name):
    spec = load_json("combo", name)
    attention = DeformableAttention(spec["d_model"], spec["n_levels"], spec["n_heads"], spec["n_points"])
    inside = "layers.0.self_attn."
    fill(attention, name, HEAD + "pixel_decoder.transformer.encoder." + inside, "pixel_decoder." + inside)
    query, reference, value = (given(name, k) for k in ("query", "reference_points", "input_flatten"))
    check(name, "y", attention(query, reference, value, spec["spatial_shapes_HW"]), 1e-5)


@pytest.mark.parametrize("name", fixtures("combo", "pixel_decoder*.json"))
def test_pixel_decoder(name):
    spec = load_json("combo", name)
    encoder = EncoderConfig(spec["conv_dim"], spec["nheads"], spec["enc_layers"], spec["dim_feedforward"])
    decoder = PixelDecoder(list(spec["in_channels"].values()), encoder, spec["mask_dim"])
    fill(decoder, name, HEAD + "pixel_decoder.", "pixel_decoder.")
    scales, mask_features = decoder([given(name, key) for key in spec["in_channels"]])
    check(name, "mask_features", mask_features, 1e-4)
    for i, scale in enumerate(scales):
        check(name, f"ms{i}", scale, 1e-4)


@pytest.mark.parametrize("name", fixtures("combo", "transformer_decoder_*.json"))
def test_transformer_decoder(name):
    spec = load_json("combo", name)
    mode = spec["queries_fuse_type"]
    config = ModelConfig(
        width=spec["hidden_dim"],
        mask_dim=spec["mask_dim"],
        heads=spec["nheads"],
        decoder_layers=spec["dec_layers_built"],
        decoder_ffn=spec["dim_feedforward"],
        num_queries=spec["num_queries"],
        queries="none" if mode == "cat" else mode,  # "cat" is not in the published code: it acts as "none"
        audio_queries="published",
    )
    decoder = MaskedDecoder(config, spec["num_classes"])
    fill(decoder, name, HEAD + "predictor.", "decoder.")
    scales = [given(name, f"ms{i}", 1.5) for i in range(3)]
    predictions = decoder(scales, given(name, "mask_features", 2), given(name, "audio", 2)[:, 0])
    assert prediction_difference(name, predictions) <= 1e-3


@pytest.mark.parametrize("name", fixtures("combo", "full_head_*.json"))
def test_everything_behind_the_backbones(name, monkeypatch):
    spec = load_json("combo", name)
    named = {"fusion": FUSION_NAMES[spec["fused_type"]], "queries": spec["queries_fuse_type"]}
    model = head_network(name, monkeypatch, **named)
    frames = torch.zeros(sum(spec["videos_frames"]), 3, *spec["image_hw"])
    audio = frames_with_sound(spec, given(name, "audio", 1.5, 0.5))
    assert prediction_difference(name, model(frames, frames, audio)) <= 1e-3


@pytest.mark.parametrize("name", fixtures("combo", "backbone_*.json"))
def test_backbone(name):
    spec = load_json("combo", name)
    is_r50 = spec["cls"] == "ResNet"
    shapes = spec["state_dict_shapes"]
    if not isinstance(shapes, dict):  # left to the list of the whole network's keys
        keys = published_keys(spec["config"])
        shapes = {k.removeprefix("backbone."): s for k, s in keys.items() if k.startswith("backbone.")}
    network, channels = backbones.BACKBONES["r50" if is_r50 else "pvt-v2-b5"]()
    fill(network, name, "backbone.", "siam_encoder.image_backbone.", shapes)
    maps = network(given(name, "x", 2))
    for (level, (width, _)), found, feature_map in zip(spec["output_shape"].items(), channels, maps, strict=True):
        assert found == width
        check(name, level, feature_map, 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", fixtures("combo", "full_real_*.json"))
def test_whole_network(name):
    spec, arrays = load_json("combo", name), load_arrays("combo", name)
    keys = published_keys(spec["official_config"])
    keys = {k: s for k, s in keys.items() if not k.startswith(("audio_backbone.", "criterion."))}
    config = ModelConfig(
        backbone="pvt-v2-b5" if "PVTV2B5" in spec["official_config"] else "r50",
        fusion=FUSION_NAMES[spec["fuse_type"]],
        num_queries=spec["num_queries"],
        audio_queries="published",
    )
    model = fill(COMBO(config, spec["num_classes"]), name, "", "", keys)
    seen = {}
    for part in ("siam_encoder", "pixel_decoder", "fusion", "audio_mlp"):
        getattr(model, part).register_forward_hook(lambda m, i, out, part=part: seen.update({part: out}))

    shape = (spec["frames"], 3, *spec["image_hw"])
    frames, maskiges = (
        torch.from_numpy(rule_image("input:" + key, shape, spec["salt"])) for key in ("images", "pre_masks")
    )
    predictions = model(frames, maskiges, frames_with_sound(spec, torch.from_numpy(arrays["out.vggish"])))

    for i, fused in enumerate(seen["siam_encoder"]):
        check(name, f"sem_res{i + 2}", fused, 1e-4)
    scales, mask_features = seen["pixel_decoder"]
    for i, scale in enumerate(scales):
        check(name, f"ms{i}", scale, 1e-4)
    check(name, "mask_features", mask_features, 1e-4)
    check(name, "fused_mask_features", seen["fusion"][0], 1e-4)
    check(name, "fused_audio", seen["fusion"][1][:, None], 1e-4)
    check(name, "audio_query", seen["audio_mlp"][:, None], 1e-4)
    inputs = (scales, seen["fusion"][0], seen["audio_mlp"])
    reached = (prediction_difference(name, p) for p in within_rounding(model.decoder, *inputs, predictions))
    assert any(found <= 1e-3 for found in reached)
