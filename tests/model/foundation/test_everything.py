"""Crops, grids and edges of segmenting everything against the package's own functions, and all published defaults."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from segment_anything.utils.amg import build_point_grid, generate_crop_boxes, is_box_near_crop_edge
from segment_anything.utils.transforms import ResizeLongestSide

from combo_avs.model.foundation.everything import (
    Crop,
    CropMasks,
    Everything,
    EverythingConfig,
    crop_grid,
    cut_off,
    point_grid,
)
from combo_avs.model.foundation.felzenszwalb import FelzenszwalbConfig, _distinct
from combo_avs.model.foundation.mask_candidates import mask_boxes, pack_bits
from combo_avs.model.foundation.resize_maps import encoder_size
from combo_avs.model.foundation.sam2 import Sam2Config
from combo_avs.model.foundation.semantic_sam.generator import LEVEL_TOKENS, SemanticSamConfig, grouped


@pytest.mark.parametrize(("height", "width"), [(100, 160), (224, 224), (375, 281), (97, 301)])
@pytest.mark.parametrize("ratio", [512 / 1500, 0.2])
def test_crops_are_those_of_the_package(height: int, width: int, ratio: float) -> None:
    boxes, layers = generate_crop_boxes((height, width), 2, ratio)
    crops = crop_grid(height, width, 2, ratio)
    assert [list(crop[:4]) for crop in crops] == boxes
    assert [crop.layer for crop in crops] == layers
    assert {crop[5:] for crop in crops} == {(height, width)}


@pytest.mark.parametrize("per_side", [1, 3, 32])
def test_points_are_those_of_the_package(per_side: int) -> None:
    np.testing.assert_allclose(point_grid(per_side), build_point_grid(per_side), rtol=0, atol=1e-15)


def test_masks_are_cut_off_as_in_the_package() -> None:
    """Also just 20 pixels from an edge, and 21."""
    rng = np.random.default_rng(0)
    for crop in crop_grid(200, 300, 1, 0.3)[1:]:
        near = rng.integers(18, 24, (500, 4)) * [1, 1, -1, -1]
        far = rng.integers(0, 60, (500, 4)) * [1, 1, -1, -1]
        edges = np.where(rng.random((500, 4)) < 0.5, [crop.x0, crop.y0, crop.x1, crop.y1], [0, 0, 300, 200])
        for offsets in (near, far, -near):
            boxes = torch.from_numpy(edges + offsets)
            local = boxes - torch.tensor([crop.x0, crop.y0] * 2)
            expected = is_box_near_crop_edge(local, list(crop[:4]), [0, 0, 300, 200])
            assert 0 < expected.sum() < 500
            assert torch.equal(cut_off(boxes, crop), expected)


def test_a_box_20_pixels_from_an_edge_is_near() -> None:
    crop = Crop(100, 0, 200, 150, 1, 150, 400)
    boxes = torch.tensor([[120, 50, 160, 100], [121, 50, 160, 100], [130, 50, 180, 100], [130, 20, 150, 130]])
    assert cut_off(boxes, crop).tolist() == [True, False, True, False]  # above and below are the frame's own edges


@pytest.mark.parametrize(("threshold", "kept"), [(0.7, [1]), (0.85, [1, 0])])
def test_masks_of_smaller_crops_win_by_the_crops_own_threshold(threshold: float, kept: list[int]) -> None:
    """Boxes of 10 x 9 and 8 x 9, whose IoU is 0.8. A stability that is no number counts as 0."""
    masks = torch.zeros(2, 12, 12, dtype=torch.bool)
    masks[0, :10, :11], masks[1, :10, :9] = True, True
    config = EverythingConfig(crop_n_layers=1, crop_nms_thresh=threshold, box_nms_thresh=0.99)
    network: Any = SimpleNamespace(device=torch.device("cpu"))
    found = CropMasks(
        pack_bits(masks),
        torch.tensor([0.9, 0.8]),
        torch.tensor([0.95, torch.nan]),
        mask_boxes(masks),
        torch.zeros(2, 2),
        torch.tensor([144, 36]),
    )
    proposals = Everything("made", network, config, None)._distinct(found, 12, 12)
    assert torch.equal(proposals.masks, masks[kept])
    assert proposals.stability.tolist() == [pytest.approx([0.95, 0.0][i]) for i in kept]
    assert proposals.areas.tolist() == [[110, 90][i] for i in kept]


@pytest.mark.parametrize("long", [5, 223, 224, 481, 1024, 1500])
def test_sizes_in_the_encoder_are_those_of_the_package(long: int) -> None:
    for short in range(1, long, max(1, long // 40)):
        for size in ((short, long), (long, short)):
            height, width = ResizeLongestSide.get_preprocess_shape(*size, 1024)
            assert encoder_size(*size) == (max(1, height), max(1, width))


def test_defaults_are_those_of_the_releases() -> None:
    quality = {"pred_iou_thresh": 0.88, "stability_score_thresh": 0.95, "stability_score_offset": 1.0}
    grid = {"box_nms_thresh": 0.7, "min_mask_region_area": 0, "points_per_side": 32, "precision": "fp32"}
    crops = {"crop_n_layers": 0, "crop_nms_thresh": 0.7, "crop_overlap_ratio": 512 / 1500}
    crops |= {"crop_n_points_downscale_factor": 1, "clicks_per_batch": None}
    weights = {"weights": None, "untrained": False}
    assert EverythingConfig().model_dump() == quality | grid | crops
    assert Sam2Config().model_dump() == quality | grid | crops | weights | {"pred_iou_thresh": 0.8}
    ours = {"levels": (3,), "group_size": 200, "short_edge": None}
    cleaning = {"stability_score_thresh": 0.92, "min_mask_region_area": 10}
    assert SemanticSamConfig().model_dump() == quality | grid | weights | ours | cleaning
    segments = {"scales": (200.0, 800.0), "sigma": 0.8, "min_area": 0.004, "duplicate_iou": 0.9, "max_masks": 100}
    assert FelzenszwalbConfig().model_dump() == segments
    assert LEVEL_TOKENS == {1: 3, 2: 2, 3: 0, 4: 4, 5: 1, 6: 5}


def test_clicks_are_grouped_in_their_order() -> None:
    points = torch.arange(22.0).view(11, 2)
    groups = grouped(points, 3, 2)
    assert [g.shape for g in groups] == [(2, 3, 2), (1, 3, 2), (1, 2, 2)]
    assert torch.equal(torch.cat([g.flatten(0, 1) for g in groups]), points)
    assert [g.shape for g in grouped(points[:6], 3, 9)] == [(2, 3, 2)]
    assert [g.shape for g in grouped(points, 200, 9)] == [(1, 11, 2)]


def test_segments_that_reach_the_iou_of_duplicates_are_dropped() -> None:
    """Areas 10, 9 and 8; the second shares all of its 9 pixels with the first: 0.9."""
    overlaps = np.array([[10, 9, 8], [9, 9, 0], [8, 0, 8]])
    order = np.array([0, 1, 2])
    assert _distinct(order, overlaps, 0.9) == [0, 2]
    assert _distinct(order, overlaps, 0.901) == [0, 1, 2]
    assert _distinct(order, overlaps, 0.8) == [0]
    assert _distinct(order[::-1], overlaps, 0.9) == [2, 1]  # of equal ones the earlier in the order stays
