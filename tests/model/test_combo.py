"""COMBO as the sum of its parts: what each gets, and with which numbers."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from combo_avs.model.combo import COMBO
from combo_avs.model.config import ModelConfig
from combo_avs.model.criterion import CriterionConfig
from combo_avs.model.decoder import allowed_tokens
from combo_avs.model.pixel_decoder import PixelDecoder

SMALL = {"backbone": "tiny", "num_queries": 3, "width": 32, "audio_dim": 6, "audio_hidden": 8, "heads": 4}
SHALLOW = {"encoder_layers": 1, "encoder_ffn": 8, "decoder_layers": 2, "decoder_ffn": 8}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's red, green and blue, in 0..1


def network(**changes: object) -> COMBO:
    """All random, so that every part has an effect that can be seen."""
    torch.manual_seed(0)
    model = COMBO(ModelConfig.model_validate(SMALL | SHALLOW | changes), 3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def inputs(height: int = 64, width: int = 64) -> tuple[Tensor, Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    pictures = torch.randint(0, 256, (2, 2, 3, height, width), generator=rng, dtype=torch.uint8)
    return pictures[0], pictures[1], torch.randn(2, 6, generator=rng)


def normalised(pictures: Tensor) -> Tensor:
    """As torchvision does it, then zeros at the right and below up to multiples of 32."""
    x = pictures.double() / 255
    x = (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    height, width = x.shape[-2:]
    padded = torch.zeros(*x.shape[:2], -(-height // 32) * 32, -(-width // 32) * 32)
    padded[..., :height, :width] = x
    return padded


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 64), (70, 33)])
@pytest.mark.parametrize("siam", ["none", "shared", "separate"])
def test_the_parts_in_their_order(siam: str, size: tuple[int, int]) -> None:
    model, (frames, maskiges, audio) = network(siam=siam).eval(), inputs(*size)
    seen: list[tuple] = []
    model.siam_encoder.register_forward_pre_hook(lambda _, given: seen.append(given))
    found = model(frames, maskiges, audio)
    torch.testing.assert_close(seen[0][0], normalised(frames), rtol=1e-5, atol=1e-5)
    if siam == "none":
        assert seen[0][1] is None
    else:
        torch.testing.assert_close(seen[0][1], normalised(maskiges), rtol=1e-5, atol=1e-5)
    maps = model.siam_encoder(*seen[0])
    scales, mask_features = model.pixel_decoder(maps)
    mask_features, audio = model.fusion(mask_features, audio)
    logits, masks = model.decoder(scales, mask_features, model.audio_mlp(audio))
    assert torch.equal(found.logits, logits)
    assert torch.equal(found.masks, masks[..., : -(-size[0] // 4), : -(-size[1] // 4)])


def test_settings_reach_the_parts_they_are_named_after() -> None:
    model = network(
        encoder_layers=3, encoder_ffn=24, decoder_layers=4, decoder_ffn=40, mask_dim=16, fusion_residual="raw"
    )
    assert [layer.linear1.out_features for layer in model.pixel_decoder.layers] == [24] * 3
    assert [layer.linear1.out_features for layer in model.decoder.layers] == [40] * 4
    assert [layer.self_attn.n_heads for layer in model.pixel_decoder.layers] == [4] * 3
    assert [(layer.cross_attention.heads, layer.self_attention.heads) for layer in model.decoder.layers] == [(4, 4)] * 4
    assert (model.fusion.heads, model.fusion.raw) == (4, True)
    assert (model.pixel_decoder.mask_features.out_channels, model.decoder.mask_embed[-1].out_features) == (16, 16)
    assert model.decoder.class_embed.out_features == 4


def test_buffers_are_no_weights() -> None:
    """Published checkpoints, and weight files of runs, do not hold them."""
    assert not {"pixel_mean", "pixel_std"} & network().state_dict().keys()


@pytest.mark.parametrize("siam", ["shared", "separate"])
def test_checkpointing_changes_no_number(siam: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every layer of the decoder, the pixel decoder and the backbones are computed again in the backward pass."""
    runs = {"pixel decoder": 0, "decoder": 0, "backbone": 0}

    def count(part: str) -> None:
        runs[part] += 1

    def gradients(*, enable: bool) -> tuple[Tensor, dict[str, Tensor], dict[str, int]]:
        runs.update(dict.fromkeys(runs, 0))
        model = network(siam=siam, fusion="none").train()
        model.set_checkpointing(enable=enable)
        model.pixel_decoder.register_forward_pre_hook(lambda *_: count("pixel decoder"))
        model.decoder.layers[1].register_forward_pre_hook(lambda *_: count("decoder"))
        model.siam_encoder.image_backbone.layer3.register_forward_pre_hook(lambda *_: count("backbone"))
        logits, masks = model(*inputs())
        loss = logits.square().mean() + masks.square().mean()
        loss.backward()
        return loss.detach(), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, dict(runs)

    plain, plain_gradients, once = gradients(enable=False)
    loss, found, twice = gradients(enable=True)
    assert set(once.values()) == {1}
    assert {part: n > 1 for part, n in twice.items()} == dict.fromkeys(runs, True)
    assert loss == plain
    assert found.keys() == plain_gradients.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, plain_gradients[name], rtol=1e-5, atol=1e-6)


def test_defaults_are_the_published_network_and_losses() -> None:
    switches = {"backbone": "r50", "siam": "separate", "fusion": "bilateral", "fusion_residual": "normalised"}
    sound = {"queries": "add", "audio_queries": "per_frame", "audio_dim": 128, "audio_hidden": 4096}
    sizes = {"num_queries": 100, "width": 256, "mask_dim": None, "heads": 8}
    depths = {"encoder_layers": 6, "encoder_ffn": 1024, "decoder_layers": 9, "decoder_ffn": 2048}
    assert ModelConfig().model_dump() == switches | sound | sizes | depths
    weights = {"class_weight": 2.0, "mask_weight": 5.0, "dice_weight": 5.0, "consistency_weight": 10.0}
    consistency = {"consistency_on": "aux", "consistency_clip": "five", "consistency_detach": False}
    points = {"no_object": 0.1, "num_points": 12544, "oversample": 3.0, "importance": 0.75}
    assert CriterionConfig().model_dump() == weights | consistency | points


def test_a_query_may_look_where_its_mask_is_one_half() -> None:
    features = torch.tensor([[0.0, 0.0, -1.0, -1.0], [1.0, 0.0, -1.0, 0.5]])[None, :, :, None]
    allowed = allowed_tokens(torch.eye(2)[None], features)
    assert allowed[0, 0].tolist() == [[True, True, False, False], [True, True, False, True]]


@torch.no_grad()
def test_the_pixel_decoder_adds_the_finest_level_to_the_enlarged_next_one() -> None:
    decoder: PixelDecoder = network().pixel_decoder
    maps = [torch.randn(2, c, 64 // s, 96 // s) for c, s in zip((32, 64, 128, 256), (4, 8, 16, 32), strict=True)]
    scales, mask_features = decoder(maps)
    assert [tuple(s.shape) for s in scales] == [(2, 32, 2, 3), (2, 32, 4, 6), (2, 32, 8, 12)]
    enlarged = F.interpolate(scales[2], scale_factor=2, mode="bilinear")
    expected = decoder.mask_features(decoder.smooth(decoder.lateral(maps[0]) + enlarged))
    torch.testing.assert_close(mask_features, expected)
