"""COMBO's networks at tiny sizes: what goes in, what comes out, and what must not matter."""

import itertools

import pytest
import torch
from torch import nn

from combo_avs.errors import BadInput
from combo_avs.model.combo import COMBO, PIXEL_MEAN
from combo_avs.model.config import ModelConfig
from combo_avs.model.decoder import Attention, allowed_tokens, audio_per_query
from combo_avs.model.siam_encoder import SiamEncoder

TINY = {
    "backbone": "tiny",
    "num_queries": 6,
    "width": 32,
    "audio_dim": 12,
    "audio_hidden": 16,
    "encoder_layers": 1,
    "encoder_ffn": 16,
    "decoder_layers": 3,
    "decoder_ffn": 16,
}
CLASSES = 4
FUSIONS = ("none", "visual", "audio", "bilateral")
QUERIES = ("add", "all", "dim", "none")
SWITCHES = [
    (siam, fusion, queries)
    for siam, fusion, queries in itertools.product(("none", "shared", "separate"), FUSIONS, QUERIES)
    if (fusion, queries) != ("audio", "none")
]


def tiny(seed: int = 0, **changes) -> COMBO:
    torch.manual_seed(seed)
    return COMBO(ModelConfig(**TINY | changes), CLASSES)


def inputs(frames: int = 2, height: int = 64, width: int = 64, seed: int = 1):
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randint(0, 256, (2, frames, 3, height, width), generator=generator, dtype=torch.uint8)
    return pictures[0], pictures[1], torch.randn(frames, TINY["audio_dim"], generator=generator)


@torch.no_grad()
def run(model: COMBO, *arguments):
    return model.eval()(*arguments)


def same(a, b) -> bool:
    return all(torch.allclose(x, y, rtol=1e-4, atol=1e-4) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(("siam", "fusion", "queries"), SWITCHES)
def test_every_switch_trains_all_that_is_trainable(siam, fusion, queries):
    model = tiny(siam=siam, fusion=fusion, queries=queries)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter += 0.02 * torch.randn_like(parameter)  # residual branches start from zero
            if name.endswith("fc1.bias"):
                parameter += 1  # the narrowest gates have two units, and both may start dead

    logits, masks = model(*inputs())

    assert logits.shape == (4, 2, 6, CLASSES + 1)
    assert masks.shape == (4, 2, 6, 16, 16)
    assert logits.isfinite().all()
    assert masks.isfinite().all()
    (logits.square().mean() + masks.square().mean()).backward()
    trainable = {n: p for n, p in model.named_parameters() if p.requires_grad}
    assert [name for name, p in trainable.items() if p.grad is None] == []
    # A constant added to every pixel's query leaves the softmax over pixels as it is.
    still = [name for name, p in trainable.items() if not p.grad.any() and name != "fusion.v_proj.bias"]
    assert still == []


@pytest.mark.parametrize("fusion", FUSIONS)
def test_mask_features_may_have_other_channels_than_queries(fusion):
    model = tiny(fusion=fusion, mask_dim=48)
    assert model.pixel_decoder.mask_features.weight.shape == (48, 32, 1, 1)
    assert model.decoder.mask_embed[4].weight.shape == (48, 32)
    assert model.fusion.level_embed.weight.shape == (1, 48)
    logits, masks = model(*inputs())
    assert masks.shape == (4, 2, 6, 16, 16)
    (logits.square().mean() + masks.square().mean()).backward()
    assert [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_mask_channels_that_hold_zeros_change_nothing():
    """A network of 48 mask channels, of which 16 are zero in features and embeddings, against one of 32."""
    narrow, wide = tiny(fusion="none"), tiny(fusion="none", mask_dim=48)
    state = narrow.state_dict()
    for name, tensor in wide.state_dict().items():
        if tensor.shape != state[name].shape:
            filled = torch.zeros(tensor.shape)
            filled[tuple(map(slice, state[name].shape))] = state[name]
            state[name] = filled
    wide.load_state_dict(state)
    torch.testing.assert_close(run(wide, *inputs()), run(narrow, *inputs()), rtol=1e-5, atol=1e-6)


def test_mask_dim_of_the_width_is_the_default():
    torch.testing.assert_close(run(tiny(mask_dim=32), *inputs()), run(tiny(), *inputs()), rtol=0, atol=0)


@pytest.mark.parametrize(("mask_dim", "word"), [(36, "mask_dim=36 is not divisible by heads=8"), (33, "multiple of 2")])
def test_mask_dims_that_do_not_fit(mask_dim, word):
    with pytest.raises((BadInput, ValueError), match=word):
        tiny(mask_dim=mask_dim, heads=8)


@pytest.mark.parametrize(("fusion", "queries"), [("none", "all"), ("visual", "add"), ("bilateral", "none")])
def test_parameters_without_effect_have_none(fusion, queries):
    model = tiny(fusion=fusion, queries=queries)
    before = run(model, *inputs())
    prefixes = model.without_effect()
    changed = [p for name, p in model.named_parameters() if name.startswith(prefixes)]
    assert changed
    for parameter in changed:
        nn.init.normal_(parameter)
    after = run(model, *inputs())
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("backbone", ["r50", "pvt-v2-b5"])
def test_large_backbones_fit_behind_the_same_interface(backbone):
    with torch.device("meta"):
        encoder = SiamEncoder(backbone, "shared")
        maps = encoder(torch.empty(1, 3, 64, 96), torch.empty(1, 3, 64, 96))
    assert [tuple(m.shape) for m in maps] == [
        (1, channels, 64 // stride, 96 // stride)
        for channels, stride in zip(encoder.channels, (4, 8, 16, 32), strict=True)
    ]


@pytest.mark.parametrize(("height", "width"), [(96, 96), (112, 64), (100, 70)])
def test_any_size_is_padded_with_zeros_after_normalisation(height, width):
    model = tiny()
    frames, maskiges, audio = inputs(height=height, width=width)
    logits, masks = run(model, frames, maskiges, audio)
    assert masks.shape[-2:] == (-(-height // 4), -(-width // 4))

    def on_mean_colour(images):
        canvas = torch.tensor(PIXEL_MEAN).view(1, 3, 1, 1).repeat(len(images), 1, 128, 128)
        canvas = canvas[..., : -(-height // 32) * 32, : -(-width // 32) * 32].clone()
        canvas[..., :height, :width] = images
        return canvas

    by_hand = run(model, on_mean_colour(frames), on_mean_colour(maskiges), audio)
    assert same((logits, masks), (by_hand.logits, by_hand.masks[..., : masks.shape[-2], : masks.shape[-1]]))


def test_uint8_and_float_frames_are_the_same():
    frames, maskiges, audio = inputs()
    model = tiny()
    assert same(run(model, frames, maskiges, audio), run(model, frames.float(), maskiges.float(), audio))


@pytest.mark.parametrize("siam", ["none", "shared", "separate"])
def test_maskiges_count_unless_switched_off(siam):
    model = tiny(siam=siam)
    frames, maskiges, audio = inputs()
    unlike = same(run(model, frames, maskiges, audio), run(model, frames, 255 - maskiges, audio))
    assert unlike == (siam == "none")
    if siam == "none":
        run(model, frames, None, audio)


def test_sharing_the_encoder_halves_it():
    def backbone_size(siam):
        names = tiny(siam=siam).named_parameters()
        return sum(p.numel() for n, p in names if "backbone" in n)

    assert backbone_size("separate") == 2 * backbone_size("shared") == 2 * backbone_size("none")


@pytest.mark.parametrize(("fusion", "queries"), [(f, q) for s, f, q in SWITCHES if s == "none"])
def test_sound_counts_unless_switched_off(fusion, queries):
    model = tiny(fusion=fusion, queries=queries, siam="none")
    for name, parameter in model.named_parameters():
        if "gamma" in name:
            nn.init.ones_(parameter)  # starts at 1e-4, too small to see
    frames, _, audio = inputs()
    deaf = same(run(model, frames, None, audio), run(model, frames, None, -audio))
    assert deaf == (fusion == "none" and queries == "none")


def test_audio_fusion_hears_as_bilateral_and_sees_as_none():
    fusions = {name: tiny(fusion=name).fusion.eval() for name in ("none", "audio", "bilateral")}
    nn.init.ones_(fusions["bilateral"].gamma_a)
    for name in ("none", "audio"):
        fusions[name].load_state_dict(
            {key: fusions["bilateral"].state_dict()[key] for key in fusions[name].state_dict()}
        )
    visual, audio = torch.randn(2, 32, 6, 5), torch.randn(2, TINY["audio_dim"])
    results = {name: fusion(visual, audio) for name, fusion in fusions.items()}
    assert torch.equal(results["audio"][0], results["none"][0])
    assert torch.equal(results["audio"][1], results["bilateral"][1])
    assert not torch.allclose(results["audio"][1], audio)


@pytest.mark.parametrize("layout", ["per_frame", "published"])
def test_a_clip_does_not_see_its_batch_mates(layout):
    model = tiny(audio_queries=layout)
    five, ten = inputs(5, seed=2), inputs(10, seed=3)
    together = run(model, *(torch.cat(pair) for pair in zip(five, ten, strict=True)))
    alone = [run(model, *clip) for clip in (five, ten)]
    joined = [torch.cat(pair, dim=1) for pair in zip(*alone, strict=True)]
    assert same(together, joined) == (layout == "per_frame")


def test_published_layout_rereads_the_expanded_audio():
    frames, queries = 7, 10
    rows = torch.arange(frames, dtype=torch.float32)[:, None]
    heard = audio_per_query(rows, queries, "published")[..., 0]
    for b, q in itertools.product(range(frames), range(queries)):
        assert heard[b, q] == (q * frames + b) // queries


def test_queries_look_where_their_mask_is():
    masks = torch.full((1, 3, 8, 8), -1.0)
    masks[0, 0, :, :4] = 1  # left half
    masks[0, 1, 0, 0] = 0.5  # too little to survive the resize
    masks[0, 2] = 0  # sigmoid is exactly one half
    features = nn.functional.interpolate(masks, (4, 4), mode="bilinear")
    allowed = allowed_tokens(torch.eye(3)[None], features)  # query q's mask is channel q
    assert allowed.shape == (1, 1, 3, 16)
    assert allowed[0, 0, 0].view(4, 4).tolist() == [[True, True, False, False]] * 4
    assert allowed[0, 0, 1].all()
    assert allowed[0, 0, 2].all()


@torch.no_grad()
def test_resizing_features_once_is_resizing_every_mask():
    torch.manual_seed(0)
    embedded, features = torch.randn(2, 7, 16), torch.randn(2, 16, 8, 12)
    masks = (embedded @ features.flatten(2)).unflatten(2, (8, 12))
    expected = nn.functional.interpolate(masks, (4, 6), mode="bilinear").flatten(2) >= 0
    allowed = allowed_tokens(embedded, nn.functional.interpolate(features, (4, 6), mode="bilinear"))
    assert torch.equal(allowed[:, 0], expected | ~expected.any(-1, keepdim=True))


def test_attention_is_torch_multihead_attention():
    torch.manual_seed(0)
    ours, theirs = Attention(16, 4), nn.MultiheadAttention(16, 4, batch_first=True)
    theirs.load_state_dict(ours.state_dict())
    q, k, v = torch.randn(2, 5, 16), torch.randn(2, 7, 16), torch.randn(2, 7, 16)
    allowed = torch.rand(2, 1, 5, 7) > 0.5
    allowed[..., 0] = True
    blocked = ~allowed.expand(-1, 4, -1, -1).flatten(0, 1)
    expected, _ = theirs(q, k, v, attn_mask=blocked)
    torch.testing.assert_close(ours(q, k, v, allowed), expected)
    torch.testing.assert_close(ours(q, k, v), theirs(q, k, v)[0])


def test_bf16_autocast_keeps_the_pixel_decoder_in_float32():
    model = tiny().eval()
    dtypes = []
    model.pixel_decoder.layers[0].register_forward_hook(lambda m, i, output: dtypes.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        predictions = run(model, *inputs())
    assert dtypes == [torch.float32]
    assert predictions.logits.dtype == torch.bfloat16
    assert all(p.isfinite().all() for p in predictions)


def test_initial_values():
    model = tiny()
    fusion, layer = model.fusion, model.pixel_decoder.layers[0].self_attn
    assert (fusion.gamma_v == 1e-4).all()
    assert (fusion.gamma_a == 1e-4).all()
    assert not fusion.v_proj.bias.any()
    assert not layer.sampling_offsets.weight.any()
    assert not layer.attention_weights.weight.any()
    offsets = layer.sampling_offsets.bias.view(8, 3, 4, 2)
    assert torch.equal(offsets[0], torch.tensor([[i, 0.0] for i in (1, 2, 3, 4)]).expand(3, -1, -1))
    torch.testing.assert_close(offsets[3, 0, 1], torch.tensor([-2.0, 2.0]))
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == []


@pytest.mark.parametrize(
    ("changes", "classes", "words"),
    [
        ({"heads": 5}, 2, "width=32 is not divisible by heads=5"),
        ({"fusion": "audio", "queries": "none"}, 2, "fusion"),
        ({}, 1, "1 classes"),
    ],
)
def test_configs_that_do_not_fit_are_refused(changes, classes, words):
    with pytest.raises(BadInput, match=words):
        COMBO(ModelConfig(**TINY | changes), classes)


def test_inputs_that_do_not_fit_are_refused():
    model = tiny()
    frames, maskiges, audio = inputs()
    with pytest.raises(ValueError, match=r"frames must be \[B, 3, H, W\]"):
        model(frames[0], maskiges, audio)
    with pytest.raises(ValueError, match="missing"):
        model(frames, None, audio)
    with pytest.raises(ValueError, match="needs Maskiges like the frames"):
        model(frames, maskiges[:1], audio)
    with pytest.raises(ValueError, match=r"audio features must be \[2, 12\]"):
        model(frames, maskiges, audio[:, :5])
