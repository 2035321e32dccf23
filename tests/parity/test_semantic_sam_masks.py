"""Semantic-SAM's frames and masks against arrays that the published code gave for the same weights and frames."""

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from golden import fixtures, load_arrays
from published_semantic_sam import Fixture, cases, image_of, published_network, published_state, unpacked

from combo_avs.model.foundation.everything import point_grid
from combo_avs.model.foundation.mask_candidates import clean_small_regions, mask_boxes, unpack_bits
from combo_avs.model.foundation.semantic_sam import generator as generators
from combo_avs.model.foundation.semantic_sam.decoder import TOKENS
from combo_avs.model.foundation.semantic_sam.frame_size import with_short_edge
from combo_avs.model.foundation.semantic_sam.generator import LEVEL_TOKENS, SemanticSamConfig, SemanticSamGenerator
from combo_avs.model.foundation.semantic_sam.masks import Candidates, confident_masks, distinct_masks, enlarged
from combo_avs.model.foundation.semantic_sam.network import padded_size

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
    assert found.query.tolist() == fixture.array("cand_pass_stab").tolist()
    if len(found.query) == 0:
        assert fixture.array("n") == len(distinct_masks(found, size, SemanticSamConfig())[1]) == 0
        return
    assert found.boxes.tolist() == fixture.array("nms1_boxes_all").tolist()
    raw, _ = distinct_masks(found, size, SemanticSamConfig(min_mask_region_area=0))
    assert raw.query.tolist() == fixture.array("nms1_order").tolist()
    kept, masks = distinct_masks(found, size, SemanticSamConfig())
    assert kept.query.tolist() == fixture.array("nms2_order").tolist()
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
    boxes = torch.cat([start.box_GQ4[:, ::TOKENS].flatten(0, 1) for start in generator._encode_prompts(size, 1)])
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
    generator = generators.build_semantic_sam("semantic-sam-t", SemanticSamConfig(weights=str(tmp_path / "t.pth")))
    assert generator.weights_sha256 == hashlib.sha256((tmp_path / "t.pth").read_bytes()).hexdigest()
    expected = published_network("T").state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in generator.network.state_dict().items())
