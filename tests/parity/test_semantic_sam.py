"""Semantic-SAM against arrays that the published code gave for the same weights and frames."""

import hashlib
import zlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from golden import fixtures, load_arrays, load_json
from published_semantic_sam import (
    MODELS,
    Fixture,
    image_of,
    images,
    parts,
    published_entries,
    published_network,
    published_state,
    rule_value,
    salt_of,
    unpacked,
)
from torch import Tensor

from combo_avs.errors import BadInput
from combo_avs.model.deformable_attention import DeformableAttention, deformable_gather, deformable_sample
from combo_avs.model.foundation.everything import point_grid
from combo_avs.model.foundation.mask_candidates import clean_small_regions, mask_boxes, stability_scores, unpack_bits
from combo_avs.model.foundation.semantic_sam import generator as generators
from combo_avs.model.foundation.semantic_sam.decoder import TOKENS, inverse_sigmoid, sine_encoding
from combo_avs.model.foundation.semantic_sam.frame_size import with_short_edge
from combo_avs.model.foundation.semantic_sam.generator import LEVEL_TOKENS, SemanticSamConfig, SemanticSamGenerator
from combo_avs.model.foundation.semantic_sam.masks import Candidates, confident_masks, distinct_masks, enlarged
from combo_avs.model.foundation.semantic_sam.network import SemanticSam, from_published, normalised, padded_size
from combo_avs.model.position_encoding import sine_position_encoding
from combo_avs.model.weights import load_weights

WHOLE = fixtures("semantic_sam", "?_end.npz")  # all parts of a model under prefixes
STATES, BOXES, LOGITS = 5e-5, 2e-5, {"S": 1e-3, "T": 5e-3, "L": 5e-3}
EVERYTHING = SimpleNamespace(pred_iou_thresh=0, stability_score_thresh=0, stability_score_offset=1.0)
SETTINGS = {
    "default224.": {},
    "batch64.": {"group_size": 64},
    "pad.": {},
    "relaxed.": {
        "levels": (1, 2, 3, 4, 5, 6),
        "points_per_side": 8,
        "pred_iou_thresh": 0.8,
        "stability_score_thresh": 0.8,
        "box_nms_thresh": 0.9,
    },
}
QUICK = {"Tdefault224.", "Trelaxed."}


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def cases(found: list[Fixture], quick: set[str] = frozenset({"S", "T"})) -> list:
    """For parametrisation; those of a model, or of model and prefix, that is not quick are slow."""
    marks = [() if {f.model, f.model + f.prefix} & quick else pytest.mark.slow for f in found]
    return [
        pytest.param(f, marks=mark, id=f"{f.name} {f.prefix}".strip()) for f, mark in zip(found, marks, strict=True)
    ]


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
    shapes = network.decoder.remember(scales).shapes
    assert [list(shape) for shape in shapes] == fixture.array("decoder_spatial_shapes").tolist()
    position = torch.from_numpy(fixture.array("pos_8x10"))
    channels, height, width = position.shape[1:]
    assert (sine_position_encoding(height, width, channels) - position[0]).abs().max() <= STATES
    assert fixture.keys() == {*seen, "decoder_spatial_shapes", "pos_8x10"}


@pytest.mark.parametrize("fixture", cases(parts(fixtures("semantic_sam", "?_decoder.npz"), WHOLE, "dec.")))
def test_decoder(fixture):
    network = published_network(fixture.model)
    decoder = network.decoder
    picture = network.look(padded_like(fixture, "pred_masks"))
    points = clicks(fixture.model)
    states: list[Tensor] = []
    hooks = [layer.ffn_norm.register_forward_hook(lambda m, i, out: states.append(out)) for layer in decoder.layers]

    start = decoder.begin(points, (1.0, 1.0))
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
    start = decoder.begin(points[:, :1], (1.0, 1.0))
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
    picture = network.look(frame)
    height, width = padded_size(*size)
    start = network.decoder.begin(clicks(model), (size[1] / width, size[0] / height))
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


@pytest.mark.parametrize("name", fixtures("semantic_sam", "*_generate.npz"))
def test_demo_of_a_padded_frame(name):
    fixture = Fixture(name[0].upper(), name, "pad_demo.")
    if not fixture.keys():
        pytest.skip("this file has no padded frame")
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


# --- Frames and masks ---


@pytest.mark.parametrize("name", fixtures("semantic_sam", "prepare_image*.npz"))
def test_short_edge(name):
    arrays = load_arrays("semantic_sam", name)
    for case in {key.split(".")[0] for key in arrays}:
        frame = torch.from_numpy(arrays[f"{case}.in"])
        shape = arrays[f"{case}.out_shape_chw"].tolist()
        (resized,) = with_short_edge(frame[None], min(shape[1:])).permute(0, 3, 1, 2)
        assert list(resized.shape) == shape
        assert hashlib.sha256(resized.contiguous().numpy().tobytes()).hexdigest() == str(arrays[f"{case}.sha256"])


@pytest.mark.parametrize("name", fixtures("semantic_sam", "post_regions*.npz"))
def test_regions(name):
    arrays = load_arrays("semantic_sam", name)
    size = tuple(arrays["size"])
    masks, changed = clean_small_regions(unpacked(arrays["masks"], size), int(arrays["min_area"]))
    assert torch.equal(masks, unpacked(arrays["after_islands"], size))
    assert changed.tolist() == (arrays["holes_changed"] | arrays["islands_changed"]).tolist()
    assert mask_boxes(masks).tolist() == arrays["boxes_xyxy"].tolist()
    assert np.array_equal(point_grid(32), arrays["grid32"])


def check_candidates(fixture: Fixture, every: Candidates, tolerances: tuple[float, float, int]) -> None:
    """What the published code found for every candidate, before any test."""
    iou, stability, area = tolerances
    size = tuple(fixture.array("size"))
    assert (every.ious - torch.from_numpy(fixture.array("cand_iou"))).abs().max() <= iou
    expected = torch.from_numpy(fixture.array("cand_stability"))
    torch.testing.assert_close(every.stability, expected, rtol=0, atol=stability, equal_nan=True)
    areas = unpack_bits(every.bits, *size).sum((1, 2))
    assert (areas - torch.from_numpy(fixture.array("cand_area"))).abs().max() <= area


def posts() -> list[Fixture]:
    names = fixtures("semantic_sam", "post_*.npz")
    return [Fixture("", name, "out.") for name in names if "regions" not in name]


@pytest.mark.parametrize("fixture", cases(posts(), {""}))
def test_masks_of_given_logits(fixture):
    """Exact, to the last bit: order, boxes, areas, pixels and scores."""
    arrays = load_arrays("semantic_sam", fixture.name)
    tokens = [LEVEL_TOKENS[level] for level in arrays["level"].tolist()]
    logits = torch.from_numpy(arrays["logits_q"]).float()[:, tokens].flatten(0, 1) * float(arrays["logits_scale"])
    ious = torch.from_numpy(arrays["pred_ious"])[:, tokens].flatten()
    size = tuple(arrays["image_size"].tolist())
    if "fullres_masks.shape" in arrays:
        Fixture("", fixture.name).check("fullres_masks", enlarged(logits, size), 1e-4)

    every = confident_masks(ious, lambda index: logits[index], size, EVERYTHING)
    check_candidates(fixture, every, (0, 0, 0))
    passed = (ious > SemanticSamConfig().pred_iou_thresh).nonzero()[:, 0]
    assert passed.tolist() == fixture.array("cand_pass_iou").tolist()
    found = confident_masks(ious, lambda index: logits[index], size, SemanticSamConfig())
    assert found.index.tolist() == fixture.array("cand_pass_stab").tolist()
    if len(found.index) == 0:
        assert fixture.array("n") == len(distinct_masks(found, size, SemanticSamConfig())[1]) == 0
        return
    assert found.boxes.tolist() == fixture.array("nms1_boxes_all").tolist()
    raw, _ = distinct_masks(found, size, SemanticSamConfig(min_mask_region_area=0))
    assert raw.index.tolist() == fixture.array("nms1_order").tolist()
    kept, masks = distinct_masks(found, size, SemanticSamConfig())
    assert kept.index.tolist() == fixture.array("nms2_order").tolist()
    unchanged = [torch.equal(a, b) for a, b in zip(masks, unpack_bits(kept.bits, *size), strict=True)]
    assert unchanged == fixture.array("nms2_unchanged").astype(bool).tolist()
    assert torch.equal(masks, unpacked(fixture.array("seg_packed"), size))
    assert masks.sum((1, 2)).tolist() == fixture.array("area").tolist()
    assert kept.ious.tolist() == fixture.array("predicted_iou").tolist()
    assert kept.stability.tolist() == fixture.array("stability_score").tolist()
    corners = mask_boxes(masks)
    sides = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], dim=1)
    assert sides.tolist() == fixture.array("bbox").tolist()


@pytest.mark.parametrize("name", [f.name for f in posts()])
def test_clicks_reach_the_decoder_as_published(name):
    """The points of the padded frame, and the size of the box that each becomes."""
    arrays = load_arrays("semantic_sam", name)
    config = SemanticSamConfig(
        points_per_side=int(arrays["points_per_side"]), group_size=int(arrays["points_per_batch"])
    )
    generator = SemanticSamGenerator("semantic-sam-t", config, published_network("S"), None)
    size = tuple(arrays["image_size"].tolist())
    assert list(padded_size(*size)) == arrays["padded_size"].tolist()
    boxes = torch.cat([start.box_GQ4[:, ::TOKENS].flatten(0, 1) for start in generator._begin(size, 1)])
    assert (boxes - torch.from_numpy(arrays["decoder_points"])).abs().max() <= 1e-6


# --- Whole frames ---


def generated() -> list[Fixture]:
    found = []
    for name in fixtures("semantic_sam", "*_generate.npz"):
        prefixes = {key.removesuffix("n") for key in load_arrays("semantic_sam", name) if key.endswith(".n")}
        found += [Fixture(name[0].upper(), name, prefix) for prefix in sorted(prefixes)]
    return found


@pytest.mark.parametrize("fixture", cases(generated(), QUICK))
def test_generated_masks(fixture, monkeypatch):
    config = SemanticSamConfig(**SETTINGS[fixture.prefix])
    generator = SemanticSamGenerator("semantic-sam-t", config, published_network(fixture.model), None)
    size = tuple(fixture.array("size").tolist())
    seen = []

    def spy(*arguments):
        seen.append(confident_masks(*arguments[:-1], EVERYTHING))
        return confident_masks(*arguments)

    monkeypatch.setattr(generators, "confident_masks", spy)
    (proposals,) = generator(image_of(fixture.model, size)[None])

    check_candidates(fixture, seen[0], (2e-5, 2e-3, 8))
    expected = unpacked(fixture.array("seg_packed"), size)
    assert len(proposals.masks) == len(expected) == fixture.array("n")
    points = torch.from_numpy(fixture.array("point_coords"))[:, :2] * torch.tensor(size[::-1])
    assert (proposals.points - points).abs().max() <= 1e-4
    shared = (proposals.masks & expected).sum((1, 2))
    assert (shared / (proposals.masks | expected).sum((1, 2))).min() >= 0.995
    sides = torch.cat([proposals.boxes[:, :2], proposals.boxes[:, 2:] - proposals.boxes[:, :2]], dim=1)
    assert (sides - torch.from_numpy(fixture.array("bbox"))).abs().max() <= 1
    assert (proposals.predicted_iou - torch.from_numpy(fixture.array("predicted_iou"))).abs().max() <= 2e-5
    assert (proposals.stability - torch.from_numpy(fixture.array("stability_score"))).abs().max() <= 2e-3


def test_a_published_checkpoint_gives_a_generator(tmp_path):
    """From a file as released, through the registry."""
    torch.save({"model": published_state("T"), "trainer": {"iteration": 7}}, tmp_path / "t.pth")
    generator = generators.build("semantic-sam-t", SemanticSamConfig(weights=str(tmp_path / "t.pth")))
    assert generator.weights_sha256 == hashlib.sha256((tmp_path / "t.pth").read_bytes()).hexdigest()
    expected = published_network("T").state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in generator.network.state_dict().items())
