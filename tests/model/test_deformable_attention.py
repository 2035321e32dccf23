"""Deformable attention against a pixel-by-pixel reading, and its two kinds of reference."""

import math

import pytest
import torch

from combo_avs.model.deformable_attention import (
    DeformableAttention,
    Sampler,
    cell_centres,
    deformable_gather,
    deformable_sample,
)

SHAPES = [(3, 4), (2, 2)]


def read_by_hand(image, x: float, y: float):
    """Bilinear, zero outside. image: [H, W, D]; x, y in 0..1."""
    height, width, _ = image.shape
    column, row = x * width - 0.5, y * height - 0.5
    total = torch.zeros(image.shape[-1])
    for i in (math.floor(row), math.floor(row) + 1):
        for j in (math.floor(column), math.floor(column) + 1):
            if 0 <= i < height and 0 <= j < width:
                total += (1 - abs(row - i)) * (1 - abs(column - j)) * image[i, j]
    return total


@pytest.mark.parametrize("sampler", [deformable_sample, deformable_gather])
def test_sampling_reads_every_place_bilinearly(sampler: Sampler):
    torch.manual_seed(0)
    b, q, n, d, points = 2, 3, 2, 5, 2
    value = torch.randn(b, sum(h * w for h, w in SHAPES), n, d)
    locations = torch.rand(b, q, n, len(SHAPES), points, 2) * 1.6 - 0.3  # some outside
    weights = torch.randn(b, q, n, len(SHAPES), points)
    expected = torch.zeros(b, q, n, d)
    for index in torch.cartesian_prod(*(torch.arange(s) for s in weights.shape)).tolist():
        frame, query, head, level, _ = index
        start = sum(h * w for h, w in SHAPES[:level])
        h, w = SHAPES[level]
        image = value[frame, start : start + h * w, head].view(h, w, d)
        x, y = locations[tuple(index)].tolist()
        expected[frame, query, head] += weights[tuple(index)] * read_by_hand(image, x, y)
    found = sampler(value, SHAPES, locations, weights)
    torch.testing.assert_close(found, expected.flatten(2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("place", [math.nan, math.inf, -math.inf, 1e30, -5.0, 1.5])
@pytest.mark.parametrize("axis", [0, 1])
def test_gathering_reads_zero_far_outside_and_where_a_place_is_no_number(place: float, axis: int):
    """One bad place of several leaves the others as they are, and never reads memory that is not the table's."""
    torch.manual_seed(0)
    value = torch.randn(2, sum(h * w for h, w in SHAPES), 2, 5)
    locations, weights = torch.rand(2, 3, 2, len(SHAPES), 2, 2), torch.rand(2, 3, 2, len(SHAPES), 2)
    locations[0, 1, 1, 0, 1, axis] = place
    without = weights.clone()
    without[0, 1, 1, 0, 1] = 0
    expected = deformable_sample(value, SHAPES, locations.nan_to_num(0.5, 9, -9), without)
    torch.testing.assert_close(deformable_gather(value, SHAPES, locations, weights), expected)


def test_cell_centres_follow_the_order_of_tokens():
    expected = [(x, y) for h, w in SHAPES for y in _centres(h) for x in _centres(w)]
    torch.testing.assert_close(cell_centres(SHAPES), torch.tensor(expected))


def _centres(cells: int) -> list[float]:
    return [(i + 0.5) / cells for i in range(cells)]


def test_a_box_scales_offsets_as_its_point_scales_cells():
    """Offsets count cells around a point, half boxes / P around a box: equal for a box of 2 * P cells."""
    torch.manual_seed(0)
    points, square = 4, [(5, 5)]
    attention = DeformableAttention(16, n_levels=1, n_heads=2, n_points=points)
    torch.nn.init.normal_(attention.sampling_offsets.weight)
    query, value = torch.randn(1, 3, 16), torch.randn(1, 25, 16)
    point = torch.rand(1, 3, 1, 2)
    box = torch.cat([point, torch.full_like(point, 2 * points / 5)], dim=-1)
    torch.testing.assert_close(
        attention(query, point, value, square), attention(query, box, value, square), rtol=1e-4, atol=1e-5
    )
