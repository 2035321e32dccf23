"""Scores, boxes, suppression and cleaning of masks, against plain loops and the package's own functions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from segment_anything.utils.amg import batched_mask_to_box, calculate_stability_score

from combo_avs.model.foundation.mask_candidates import (
    ThresholdsConfig,
    above,
    clean_and_suppress,
    clean_small_regions,
    mask_boxes,
    non_maximum_suppression,
    pack_bits,
    stability_scores,
    stable_masks,
    unpack_bits,
)


def drawn(*rows: str) -> torch.Tensor:
    """A mask from a picture: # is set."""
    return torch.tensor([[c == "#" for c in row] for row in rows])


def random_masks(k: int, height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((k, height, width)) < 0.05)


def test_stability_as_published():
    logits = torch.from_numpy(np.random.default_rng(0).normal(0, 2, (5, 30, 41)).astype(np.float32))
    for offset, threshold in ((1.0, 0.0), (0.5, 0.25)):
        expected = calculate_stability_score(logits, threshold, offset)
        assert torch.equal(stability_scores(logits, offset, threshold), expected)
    assert stability_scores(torch.full((1, 4, 4), -9.0), 1.0).isnan().all()
    assert stability_scores(torch.zeros(0, 4, 4), 1.0).shape == (0,)


def test_defaults_are_sams():
    quality = {"pred_iou_thresh": 0.88, "stability_score_thresh": 0.95, "stability_score_offset": 1.0}
    others = {"box_nms_thresh": 0.7, "min_mask_region_area": 0, "points_per_side": 32, "precision": "fp32"}
    assert ThresholdsConfig().model_dump() == quality | others


def test_a_predicted_iou_must_exceed_its_threshold():
    ious = torch.tensor([[-1.0, 0.25, 0.5], [0.5, 0.5001, 2.0]])
    assert above(ious, 0.5).tolist() == [[False] * 3, [False, True, True]]
    assert above(ious, 0.0).all()
    assert above(ious, -0.5).all()


def test_a_stability_may_equal_its_threshold():
    """Of four pixels, 2, 1, 3 and none stay when the threshold moves up by one; the last mask is empty."""
    logits = torch.tensor([[2, 2, 0.5, -0.5], [2, 0.5, 0.5, 0.5], [2, 2, 2, -0.5], [-3.0] * 4]).view(4, 2, 2)
    config = ThresholdsConfig(stability_score_thresh=0.5)
    stable, stability, masks = stable_masks(logits, config)
    assert stable.tolist() == [0, 2]
    assert stability.tolist() == [0.5, 0.75]
    assert torch.equal(masks, logits[[0, 2]] > 0)
    assert masks.sum().item() == 6
    everything, stability, masks = stable_masks(logits, config.model_copy(update={"stability_score_thresh": 0}))
    assert everything.tolist() == [0, 1, 2, 3]
    assert stability[:3].tolist() == [0.5, 0.25, 0.75]
    assert stability[3].isnan()
    assert len(masks) == 4


def test_what_a_threshold_of_stability_is_measured_with():
    """Strictly above threshold + offset, divided by strictly above threshold - offset."""
    logits = torch.tensor([[1.0, 1.5, -1.0, -0.5, 3.0, -2.0]]).view(1, 2, 3)
    assert stability_scores(logits, 1.0).item() == 2 / 4
    assert stability_scores(logits, 1.5).item() == pytest.approx(1 / 5)
    assert stability_scores(logits, 1.0, threshold=0.5).item() == pytest.approx(1 / 3)


@given(st.integers(1, 9), st.integers(1, 20), st.integers(1, 20), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_boxes_and_bits(k, height, width, seed):
    masks = random_masks(k, height, width, seed)
    assert torch.equal(mask_boxes(masks), batched_mask_to_box(masks))
    packed = pack_bits(masks)
    assert packed.shape == (k, -(-height * width // 8))
    assert torch.equal(unpack_bits(packed, height, width), masks)


def test_nothing_has_no_boxes_and_bits():
    nothing = torch.zeros(0, 5, 7, dtype=torch.bool)
    assert mask_boxes(nothing).shape == (0, 4)
    assert unpack_bits(pack_bits(nothing), 5, 7).shape == (0, 5, 7)
    assert clean_and_suppress(nothing, 10, 0.7).masks.shape == (0, 5, 7)


def suppressed_slowly(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    kept: list[int] = []
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    for i in np.argsort(-scores, kind="stable"):
        for j in kept:
            w = min(boxes[i, 2], boxes[j, 2]) - max(boxes[i, 0], boxes[j, 0])
            h = min(boxes[i, 3], boxes[j, 3]) - max(boxes[i, 1], boxes[j, 1])
            shared = max(w, 0) * max(h, 0)
            if shared > threshold * (areas[i] + areas[j] - shared):
                break
        else:
            kept.append(int(i))
    return kept


@pytest.mark.parametrize("k", [0, 1, 50, 1500])
def test_suppression_is_greedy_and_stable(k):
    rng = np.random.default_rng(k)
    corners = rng.integers(0, 60, (k, 2))
    boxes = np.concatenate([corners, corners + rng.integers(0, 40, (k, 2))], axis=1)
    scores = rng.integers(0, 8, k).astype(np.float32)  # many are equal
    kept = non_maximum_suppression(torch.from_numpy(boxes), torch.from_numpy(scores), 0.5)
    assert kept.tolist() == suppressed_slowly(boxes, scores, 0.5)


def test_boxes_without_area_suppress_nothing():
    boxes = torch.tensor([[3, 0, 3, 9], [3, 0, 3, 9], [0, 0, 9, 9]])
    assert non_maximum_suppression(boxes, torch.tensor([0.9, 0.9, 0.5]), 0.1).tolist() == [0, 1, 2]


def test_small_holes_are_filled_and_small_islands_dropped():
    mask = drawn("#####..", "#.###..", "#####..", "......#", ".....##")
    (cleaned,), changed = clean_small_regions(mask[None], 4)
    assert torch.equal(cleaned, drawn("#####..", "#####..", "#####..", ".......", "......."))
    assert changed.tolist() == [True]
    (filled,), _ = clean_small_regions(mask[None], 3)
    assert torch.equal(filled, drawn("#####..", "#####..", "#####..", "......#", ".....##"))


def test_holes_and_islands_of_just_the_least_area_stay():
    mask = drawn("######", "#..###", "######", "......", "##....")
    (same,), changed = clean_small_regions(mask[None], 2)
    assert torch.equal(same, mask)
    assert changed.tolist() == [False]
    (cleaned,), changed = clean_small_regions(mask[None], 3)
    assert torch.equal(cleaned, drawn("######", "######", "######", "......", "......"))
    assert changed.tolist() == [True]


def test_corners_connect_and_the_edge_is_no_wall():
    diagonal = drawn("#..", ".#.", "..#")
    (cleaned,), changed = clean_small_regions(diagonal[None], 3)
    assert cleaned.tolist() == diagonal.tolist()
    assert not changed
    corner = drawn(".##", "###", "###")
    assert clean_small_regions(corner[None], 2)[0].all()


def test_the_largest_island_stays_when_all_are_small():
    (cleaned,), changed = clean_small_regions(drawn("#..##", "#..##", ".....", ".....")[None], 7)
    assert torch.equal(cleaned, drawn("...##", "...##", ".....", "....."))
    assert changed


def test_unchanged_masks_come_first_and_win():
    whole = drawn("####.", "####.", "####.", ".....")
    holed = whole.clone()
    holed[1, 1] = False
    apart = drawn(".....", ".....", "....#", "...##")
    kept, masks, boxes = clean_and_suppress(torch.stack([holed, apart, whole]), 2, 0.7)
    assert kept.tolist() == [1, 2]
    assert torch.equal(masks, torch.stack([apart, whole]))
    assert boxes.tolist() == [[3, 2, 4, 3], [0, 0, 3, 2]]
    kept, masks, _ = clean_and_suppress(torch.stack([holed, apart]), 2, 0.7)
    assert kept.tolist() == [1, 0]
    assert torch.equal(masks[1], whole)
