"""Semantic-SAM's weights and networks against arrays that the published code gave for the same weights and frames."""

import zlib

import numpy as np
import pytest
import torch
from golden import fixtures, load_arrays, load_json
from published_semantic_sam import (
    MODELS,
    Fixture,
    cases,
    image_of,
    images,
    parts,
    published_entries,
    published_network,
    rule_value,
    salt_of,
    unpacked,
)
from torch import Tensor

from combo_avs.errors import BadInput
from combo_avs.model.deformable_attention import DeformableAttention, deformable_gather, deformable_sample
from combo_avs.model.foundation.mask_candidates import stability_scores
from combo_avs.model.foundation.semantic_sam.decoder import TOKENS, inverse_sigmoid, sine_encoding
from combo_avs.model.foundation.semantic_sam.masks import enlarged
from combo_avs.model.foundation.semantic_sam.network import SemanticSam, from_published, normalised, padded_size
from combo_avs.model.position_encoding import sine_position_encoding
from combo_avs.model.weights.state import load_weights

WHOLE = fixtures("semantic_sam", "?_end.npz")  # all parts of a model under prefixes
STATES, BOXES, LOGITS = 5e-5, 2e-5, {"S": 1e-3, "T": 5e-3, "L": 5e-3}


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def models(lists: list[str]) -> list:
    """The models that have a key list, for parametrisation."""
    names = [name.removeprefix("params_") for name in lists]
    return [pytest.param(name, marks=pytest.mark.slow if name == "L" else ()) for name in names]


def clicks(model: str) -> Tensor:
    """float32 [1, P, 2]: one group of points in 0..1."""
    return torch.from_numpy(load_arrays("semantic_sam", "inputs")[f"points_{model}"]).float()[None]


def padded_like(fixture: Fixture, key: str) -> Tensor:
    """The model's frame that a map of stride 4 was made from: uint8 [1, H, W, 3]."""
    size = [4 * side for side in fixture.array(key + ".shape")[-2:]]
    return next(i for i in images(fixture.model) if list(padded_size(*i.shape[:2])) == size)[None]


# --- Weights ---


@pytest.mark.parametrize("model", models(fixtures("semantic_sam", "params_*.json")))
def test_rule(model):
    """The weights of these tests are those that the fixtures were made with."""
    expected = load_json("semantic_sam", "weights_check")[model]["params"]
    shapes = {entry["key"]: tuple(entry["shape"]) for entry in published_entries(model)}
    for key, (crc, *first_ones) in expected.items():
        values = rule_value(key, shapes[key], salt_of(model))
        assert zlib.crc32(values.astype("<f4").tobytes()) == crc, key
        assert values.flat[:2].tolist() == pytest.approx(first_ones, abs=1e-7), key


@pytest.mark.parametrize("model", models(fixtures("semantic_sam", "params_*.json")))
def test_every_published_key_has_its_place(model):
    """With every key, also the tables that follow from the window; what is unused is what was found to be."""
    entries = published_entries(model)
    network = SemanticSam(MODELS[model])
    tables = {k: b for k, b in network.named_buffers() if k.endswith("relative_position_index")}
    state = {e["checkpoint_key"]: torch.zeros(e["shape"]) for e in entries if e["kind"] != "buffer"}
    for entry in entries:
        if entry["kind"] == "buffer":
            state[entry["checkpoint_key"]] = tables[entry["key"]]
            assert list(tables[entry["key"]].shape) == entry["shape"]
    renamed = from_published(state | {"model.criterion.empty_weight": torch.ones(3)}, "semantic-sam-s")
    load_weights(network, renamed, "the key list")
    unique = [e for e in entries if e["kind"] == "parameter" and e["used"]]
    assert len(renamed) == len(unique)
    assert sum(v.numel() for v in renamed.values()) == sum(int(np.prod(e["shape"])) for e in unique)


def test_checkpoints_that_do_not_fit():
    state = {e["checkpoint_key"]: torch.zeros(e["shape"]) for e in published_entries("T") if e["kind"] != "buffer"}
    with pytest.raises(BadInput, match=r"of semantic-sam-t, not of semantic-sam-l"):
        from_published(state, "semantic-sam-l")
    flat = {key.removeprefix("model."): tensor for key, tensor in state.items()}
    assert from_published(flat, "semantic-sam-t").keys() == from_published(state, "semantic-sam-t").keys()
    one_of_nineteen = "model.sem_seg_head.predictor.bbox_embed.4.layers.1.bias"
    with pytest.raises(BadInput, match=r"damaged: .*bbox_embed.*differ"):
        from_published(state | {one_of_nineteen: torch.ones(256)}, "semantic-sam-t")
    with torch.device("meta"):
        network = SemanticSam(MODELS["T"])
    del state["model.sem_seg_head.predictor.mask_tokens.weight"]
    renamed = from_published(state | {"teacher.weight": torch.ones(1)}, "semantic-sam-t")
    with pytest.raises(BadInput, match=r"missing: decoder\.mask_tokens\.weight\n.*unexpected: teacher\.weight"):
        load_weights(network, renamed, "x.pth")


# --- Networks ---


@pytest.mark.parametrize("fixture", cases(parts(fixtures("semantic_sam", "?_backbone.npz"), WHOLE, "bb.")))
def test_backbone(fixture):
    backbone = published_network(fixture.model).backbone
    seen = {}
    for i, block in enumerate(backbone.layers[0].blocks):
        block.register_forward_hook(lambda m, inputs, out, i=i: seen.update({f"block0_{i}": out.flatten(1, 2)}))
    backbone.patch_embed.register_forward_hook(lambda m, i, out: seen.update(patch_embed=out.permute(0, 3, 1, 2)))
    maps = backbone(normalised(padded_like(fixture, "res2")))
    seen |= {f"res{i + 2}": m for i, m in enumerate(maps)}
    assert seen.keys() == fixture.keys()
    for key, found in seen.items():
        fixture.check(key, found, STATES)


@pytest.mark.parametrize("fixture", cases(parts(fixtures("semantic_sam", "?_pixel_decoder.npz"), WHOLE, "pd.")))
def test_pixel_decoder(fixture):
    network = published_network(fixture.model)
    decoder = network.pixel_decoder
    seen = {}

    def note(name: str, module: torch.nn.Module) -> None:
        module.register_forward_hook(lambda m, i, out: seen.update({name: out}))

    for i, projection in enumerate(decoder.input_proj):
        note(f"input_proj{i}", projection)
    note("enc_layer0", decoder.layers[0])
    note("enc_last", decoder.layers[-1])
    note("fpn_lateral", decoder.lateral)
    note("fpn_out", decoder.smooth)
    scales, seen["mask_features"] = decoder(network.backbone(normalised(padded_like(fixture, "mask_features"))))
    seen |= {f"ms{i}": scale for i, scale in enumerate(scales[::-1])}
    for key, found in seen.items():
        fixture.check(key, found, STATES)
    shapes = network.decoder.prepare_image(scales).shapes
    assert [list(shape) for shape in shapes] == fixture.array("decoder_spatial_shapes").tolist()
    position = torch.from_numpy(fixture.array("pos_8x10"))
    channels, height, width = position.shape[1:]
    assert (sine_position_encoding(height, width, channels) - position[0]).abs().max() <= STATES
    assert fixture.keys() == {*seen, "decoder_spatial_shapes", "pos_8x10"}


@pytest.mark.parametrize("fixture", cases(parts(fixtures("semantic_sam", "?_decoder.npz"), WHOLE, "dec.")))
def test_decoder(fixture):
    network = published_network(fixture.model)
    decoder = network.decoder
    picture = network.encode(padded_like(fixture, "pred_masks"))
    points = clicks(fixture.model)
    states: list[Tensor] = []
    hooks = [layer.ffn_norm.register_forward_hook(lambda m, i, out: states.append(out)) for layer in decoder.layers]

    start = decoder.encode_prompts(points, (1.0, 1.0))
    h = decoder(start, picture.memory, list(range(TOKENS)))[0]

    content = decoder.content().repeat(points.shape[1], 1)[None]
    fixture.check("tgt", content, STATES)
    fixture.check("ref_unsig", inverse_sigmoid(start.box_GQ4), STATES)
    width = content.shape[-1]
    fixture.check("q_sine0", sine_encoding(start.box_GQ4, width // 2).transpose(0, 1), STATES)
    fixture.check("q_pos0", start.pos_GQC.transpose(0, 1), STATES)
    fixture.check("dec_layer0", states[0].transpose(0, 1), STATES)
    fixture.check("hs", decoder.norm(torch.cat(states)), STATES)
    boxes = [start.box_GQ4]
    for x in states:
        boxes.append(decoder.refine(x, boxes[-1]))
    fixture.check("refs", torch.cat(boxes), BOXES)
    fixture.check("pred_boxes", decoder.refine(h, boxes[-2]), BOXES)
    fixture.check("pred_ious", decoder.ious(h).view(1, -1, TOKENS), BOXES)
    fixture.check("pred_masks", decoder.logits(h[0], picture.mask_features[0])[None], LOGITS[fixture.model])

    states.clear()
    start = decoder.encode_prompts(points[:, :1], (1.0, 1.0))
    h = decoder(start, picture.memory, list(range(TOKENS)))[0]
    fixture.check("alone_pred_ious", decoder.ious(h)[None], BOXES)
    fixture.check("alone_pred_masks", decoder.logits(h[0], picture.mask_features[0])[None], LOGITS[fixture.model])
    before_last = boxes[0][:, :TOKENS]
    for x in states[:-1]:
        before_last = decoder.refine(x, before_last)
    fixture.check("alone_pred_boxes", decoder.refine(h, before_last), BOXES)
    for hook in hooks:
        hook.remove()


def demo(model: str, frame: Tensor, tokens: list[int]) -> tuple[Tensor, Tensor]:
    """Logits of the frame [clicks * tokens, H, W] and IoUs [1, clicks, tokens] of the model's clicks in one group."""
    network, size = published_network(model), frame.shape[1:3]
    picture = network.encode(frame)
    height, width = padded_size(*size)
    start = network.decoder.encode_prompts(clicks(model), (size[1] / width, size[0] / height))
    h = network.decoder(start, picture.memory, tokens)[0]
    logits = enlarged(network.decoder.logits(h[0], picture.mask_features[0]), tuple(size))
    return logits, network.decoder.ious(h).view(1, -1, len(tokens))


@pytest.mark.parametrize("fixture", cases(parts(fixtures("semantic_sam", "?_demo.npz"), WHOLE, "demo.")))
@pytest.mark.parametrize(("key", "tokens"), [("level0", [0]), ("all", list(range(TOKENS)))])
def test_demo(fixture, key, tokens):
    size = tuple(fixture.array(f"{key}.masks.shape")[1:])
    logits, ious = demo(fixture.model, image_of(fixture.model, size)[None], tokens)
    fixture.check(f"{key}.masks", logits, LOGITS[fixture.model])
    fixture.check(f"{key}.ious", ious, BOXES)
    flipped = (logits > 0) ^ unpacked(fixture.array(f"{key}.positive_packed"), size)
    assert flipped.sum((1, 2)).max() <= 8
    stability = torch.from_numpy(fixture.array(f"{key}.stability"))
    assert (stability_scores(logits, 1.0) - stability).abs().max() <= 2e-3


def padded_demos() -> list[Fixture]:
    found = [Fixture(name[0].upper(), name, "pad_demo.") for name in fixtures("semantic_sam", "*_generate.npz")]
    return [fixture for fixture in found if fixture.keys()]


@pytest.mark.parametrize("fixture", cases(padded_demos()))
def test_demo_of_a_padded_frame(fixture):
    size = tuple(fixture.array("masks.shape")[1:])
    logits, ious = demo(fixture.model, image_of(fixture.model, size)[None], [0])
    fixture.check("masks", logits, LOGITS[fixture.model])
    fixture.check("ious", ious, BOXES)


@pytest.mark.parametrize("sampler", [deformable_sample, deformable_gather])
@pytest.mark.parametrize("name", fixtures("semantic_sam", "msda_unit*.npz"))
def test_deformable_attention(name, sampler):
    arrays = {k: torch.from_numpy(a) for k, a in load_arrays("semantic_sam", name).items()}
    attention = DeformableAttention(arrays["query"].shape[-1], len(arrays["shapes"]), 8, 4, sampler)
    salt = salt_of("T")
    state = {
        k: torch.from_numpy(rule_value("unit." + k, tuple(v.shape), salt)) for k, v in attention.state_dict().items()
    }
    load_weights(attention, state, name)
    shapes = [tuple(shape) for shape in arrays["shapes"].tolist()]
    values = attention.values(arrays["memory"])
    without_padding = values.masked_fill(arrays["padding_mask"][:, :, None, None], 0)
    for reference, memory, expected in (
        ("ref2", values, "out_ref2"),
        ("ref4", values, "out_ref4"),
        ("ref2", without_padding, "out_ref2_padded"),
    ):
        found = attention.attend(arrays["query"], arrays[reference], memory, shapes)
        assert (found - arrays[expected]).abs().max() <= 1e-5
