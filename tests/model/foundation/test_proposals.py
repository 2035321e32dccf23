"""Proposal generators: the contract for each, and what each does beyond it."""

import pytest
import torch
from contracts import ProposalGeneratorContract, noise, one_colour, scene

from combo_avs.errors import BadInput
from combo_avs.model.foundation import generator


class TestNone(ProposalGeneratorContract):
    @pytest.fixture
    def generator(self):
        return generator("none", {})

    def test_proposes_nothing(self, generator):
        (proposals,) = generator(scene(48, 64)[None])
        assert proposals.masks.shape == (0, 48, 64)


class TestFelzenszwalb(ProposalGeneratorContract):
    @pytest.fixture
    def generator(self):
        return generator("felzenszwalb", {})

    @pytest.mark.parametrize("frame", [scene, noise, one_colour])
    def test_points_lie_inside(self, generator, frame):
        (proposals,) = generator(frame(37, 53)[None])
        x, y = proposals.points.long().unbind(1)
        assert torch.equal(proposals.points, proposals.points.round())
        assert proposals.masks[torch.arange(len(x)), y, x].all()

    def test_points_keep_away_from_the_edge(self):
        frame = torch.full((64, 64, 3), 40, dtype=torch.uint8)
        frame[16:49, 8:41] = torch.tensor([230, 30, 30], dtype=torch.uint8)
        (proposals,) = generator("felzenszwalb", {"sigma": 0})(frame[None])  # unsmoothed: the square is one segment
        assert proposals.boxes.tolist() == [[0, 0, 63, 63], [8, 16, 40, 48]]
        assert proposals.points[1].tolist() == [24.0, 32.0]

    def test_one_colour_is_one_segment(self, generator):
        (proposals,) = generator(one_colour(37, 53)[None])
        assert proposals.masks.shape == (1, 37, 53)
        assert proposals.masks.all()
        assert proposals.points.tolist() == [[18.0, 18.0]]

    def test_largest_first_and_equal_ones_by_their_first_pixel(self):
        """Four unsmoothed stripes, two of them as large as each other, at most three kept."""
        frame = torch.zeros(60, 40, 3, dtype=torch.uint8)
        for rows, colour in ((slice(0, 12), 0), (slice(12, 32), 250), (slice(32, 52), 60), (slice(52, 60), 180)):
            frame[rows] = colour
        settings = {"sigma": 0, "scales": (200.0,), "min_area": 0.01}
        (proposals,) = generator("felzenszwalb", settings)(frame[None])
        assert proposals.boxes[:, 1].tolist() == [12, 32, 0, 52]
        assert proposals.boxes[:, 3].tolist() == [31, 51, 11, 59]
        assert proposals.areas.tolist() == [800, 800, 480, 320]
        (fewer,) = generator("felzenszwalb", settings | {"max_masks": 3})(frame[None])
        assert torch.equal(fewer.masks, proposals.masks[:3])
        (merged,) = generator("felzenszwalb", settings | {"min_area": 0.15})(frame[None])  # 320 of 2400 are less
        assert len(merged.masks) == 3
        (none_merged,) = generator("felzenszwalb", settings | {"min_area": 0.13})(frame[None])
        assert len(none_merged.masks) == 4

    @pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 2)])
    def test_tiny_frames(self, generator, size):
        (proposals,) = generator(one_colour(*size)[None])
        assert proposals.masks.all()
        assert proposals.areas.tolist() == [size[0] * size[1]]

    def test_finds_what_stands_out(self, generator):
        """Objects of a plain scene come back nearly whole; smoothing costs them their rims."""
        y, x = torch.meshgrid(torch.arange(96), torch.arange(96), indexing="ij")
        disc = (y - 30) ** 2 + (x - 30) ** 2 < 15**2
        box = (abs(y - 70) < 12) & (abs(x - 60) < 20)
        frame = torch.full((96, 96, 3), 100)
        frame[disc], frame[box] = torch.tensor([220, 60, 60]), torch.tensor([40, 60, 200])
        frame += torch.randint(-8, 9, frame.shape, generator=torch.Generator().manual_seed(0))
        (proposals,) = generator(frame.to(torch.uint8)[None])
        for thing in (disc, box):
            both = (proposals.masks & thing).sum((1, 2))
            either = (proposals.masks | thing).sum((1, 2))
            assert (both / either).max() > 0.8

    def test_largest_first(self, generator):
        (proposals,) = generator(scene(96, 96)[None])
        firsts = proposals.masks.flatten(1).int().argmax(1)
        keys = [(-area, first) for area, first in zip(proposals.areas.tolist(), firsts.tolist(), strict=True)]
        assert len(keys) > 3
        assert keys == sorted(keys)

    def test_no_duplicates(self):
        (proposals,) = generator("felzenszwalb", {"scales": (100, 200, 400), "duplicate_iou": 0.8})(scene(96, 96)[None])
        masks = proposals.masks.flatten(1).double()
        shared = masks @ masks.T
        iou = shared / (proposals.areas[:, None] + proposals.areas - shared)
        assert len(masks) > 3
        assert iou.fill_diagonal_(0).max() < 0.8

    def test_more_scales_give_more_masks(self):
        one = generator("felzenszwalb", {"scales": [100]})(noise(64, 64)[None])[0]
        two = generator("felzenszwalb", {"scales": [100, 1000]})(noise(64, 64)[None])[0]
        assert {m.numpy().tobytes() for m in one.masks} < {m.numpy().tobytes() for m in two.masks}

    def test_limits(self):
        parameters = {"max_masks": 5, "min_area": 0.01}
        full = generator("felzenszwalb", parameters | {"max_masks": 1000})(noise(64, 64)[None])[0]
        (proposals,) = generator("felzenszwalb", parameters)(noise(64, 64)[None])
        assert full.areas.min() >= 41  # 1 % of 64 x 64
        assert torch.equal(proposals.masks, full.masks[:5])

    def test_parameters_are_all_that_shape_the_output(self):
        parameters = generator("felzenszwalb", {"sigma": 0.5}).parameters
        assert parameters["sigma"] == 0.5
        assert set(parameters) == {"scales", "sigma", "min_area", "duplicate_iou", "max_masks"}
        again = generator("felzenszwalb", parameters)
        assert again.parameters == parameters


def test_unknown_names_and_parameters():
    with pytest.raises(BadInput, match=r"called 'slic'; known: .*felzenszwalb.*none"):
        generator("slic", {})
    with pytest.raises(BadInput, match="sigma: "):
        generator("felzenszwalb", {"sigma": -1})
    with pytest.raises(BadInput, match=r"scales\.1: "):
        generator("felzenszwalb", {"scales": [100, -3]})
    with pytest.raises(BadInput, match="depth: no such parameter"):
        generator("none", {"depth": 3})
