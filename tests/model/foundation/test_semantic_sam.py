"""Semantic-SAM as a proposal generator: the contract, the fast route against the slow one, and refusals."""

import functools

import numpy as np
import pytest
import torch
from contracts import ProposalGeneratorContract, assert_equal_proposals, noise, one_colour, scene
from PIL import Image
from semantic_sam_as_published import as_published, published_masks

from combo_avs.errors import BadInput
from combo_avs.model.deformable_attention import deformable_gather, deformable_sample
from combo_avs.model.foundation import generator as named_generator
from combo_avs.model.foundation.semantic_sam.decoder import MaskDecoder
from combo_avs.model.foundation.semantic_sam.frame_size import nearest
from combo_avs.model.foundation.semantic_sam.generator import SemanticSamConfig, SemanticSamGenerator
from combo_avs.model.foundation.semantic_sam.network import SemanticSam, Sizes
from combo_avs.model.weights.frozen import fixed_initialisation

SMALL = Sizes(24, 1, (2, 2, 2, 2), 7, width=64, layers=2, decoder_layers=3, ffn=128)
SETTINGS = {"points_per_side": 5, "group_size": 7, "pred_iou_thresh": 0, "box_nms_thresh": 0.98}


@functools.cache
def network() -> SemanticSam:
    """Small and random, with predictions spread so that thresholds have something to do."""
    with fixed_initialisation():
        small = SemanticSam(SMALL)
        torch.nn.init.normal_(small.decoder.mask_tokens.weight, std=3)
        torch.nn.init.normal_(small.decoder.iou_head[-1].weight, std=1)
        torch.nn.init.ones_(small.decoder.iou_head[-1].bias)
        torch.nn.init.normal_(small.decoder.mask_head[-1].weight, std=8)
    return small


def make(**settings) -> SemanticSamGenerator:
    return SemanticSamGenerator("semantic-sam-t", SemanticSamConfig(**SETTINGS | settings), network(), None)


class TestSemanticSam(ProposalGeneratorContract):
    @pytest.fixture
    def generator(self):
        return make(stability_score_thresh=0.3)

    def test_the_contract_is_not_kept_by_silence(self, generator):
        for height, width in ((48, 64), (37, 53), (40, 48)):
            assert len(generator(scene(height, width)[None])[0].masks) > 1


class TestSemanticSamResized(ProposalGeneratorContract):
    @pytest.fixture
    def generator(self):
        return make(stability_score_thresh=0.3, short_edge=64, levels=(1, 3))


@pytest.mark.parametrize(
    ("size", "settings"),
    [
        ((96, 128), {}),
        ((100, 137), {"levels": (2, 3, 6)}),
        ((64, 64), {"group_size": 25, "min_mask_region_area": 0}),
        ((70, 50), {"group_size": 100, "pred_iou_thresh": 0.2, "box_nms_thresh": 1}),
    ],
)
def test_fast_route_gives_the_masks_of_the_slow_one(size, settings):
    settings = {"stability_score_thresh": 0.3, "levels": (3, 5)} | settings
    fast = make(**settings)
    frame = scene(*size)
    (ours,) = fast(frame[None])
    theirs = published_masks(as_published(network()), frame, fast.config)
    assert len(theirs.masks) > 1
    assert len(ours.masks) == len(theirs.masks)
    assert (ours.masks ^ theirs.masks).sum((1, 2)).max() <= 1  # a logit of 1e-5 may have either sign
    assert (ours.predicted_iou - theirs.predicted_iou).abs().max() <= 2e-5
    assert (ours.stability - theirs.stability).abs().max() <= 2e-3


def test_clicks_of_a_group_see_each_other_and_no_others():
    """The size of groups is part of the result; how many are worked on at once is not."""
    frames = scene(64, 96)[None]
    generator = make(pred_iou_thresh=0, stability_score_thresh=0, box_nms_thresh=1, min_mask_region_area=0)

    def scores() -> torch.Tensor:
        return generator(frames)[0].predicted_iou

    alone = scores()
    assert len(alone) == 25
    generator.most_groups = 3
    assert (scores() - alone).abs().max() <= 1e-5
    other = make(**generator.parameters | {"group_size": 8})(frames)[0].predicted_iou
    assert (other - alone).abs().max() > 1e-3


def test_out_of_memory_means_fewer_groups(monkeypatch):
    frames = scene(48, 64)[None]
    expected = make()(frames)[0]
    decode = MaskDecoder.forward
    fits = 1

    def limited(self, start, *arguments):
        if len(start.x_GQC) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(self, start, *arguments)

    monkeypatch.setattr(MaskDecoder, "forward", limited)
    generator = make()
    generator.most_groups = 1000
    with pytest.warns(UserWarning, match="out of memory; 1 groups of clicks at once"):
        (found,) = generator(frames)
    assert_equal_proposals(found, expected)
    fits = 0
    with pytest.raises(torch.OutOfMemoryError):
        generator(frames)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (33, 2)])
def test_tiny_frames(size):
    (proposals,) = make(stability_score_thresh=0)(one_colour(*size)[None])
    assert proposals.masks.shape[1:] == size
    assert torch.equal(proposals.areas, proposals.masks.sum((1, 2)))


def test_nothing_found_is_a_result():
    (proposals,) = make(pred_iou_thresh=1e6)(noise(40, 50)[None])
    assert proposals.masks.shape == (0, 40, 50)
    assert proposals.points.shape == (0, 2)


def test_points_are_the_clicks_in_pixels():
    generator = make(stability_score_thresh=0, pred_iou_thresh=0, box_nms_thresh=1, min_mask_region_area=0)
    (proposals,) = generator(scene(50, 100)[None])
    grid = {(x, y) for x in (10, 30, 50, 70, 90) for y in (5, 15, 25, 35, 45)}
    assert {(round(x, 3), round(y, 3)) for x, y in proposals.points.tolist()} == grid


@pytest.mark.parametrize(("size", "short_edge"), [((40, 56), 96), ((120, 100), 64)])
def test_short_edge_finds_the_masks_of_a_resized_frame(size, short_edge):
    frame = scene(*size)
    height, width = size
    long_edge = int(short_edge * max(size) / min(size))
    wide = (long_edge, short_edge) if width > height else (short_edge, long_edge)
    resized = torch.from_numpy(np.array(Image.fromarray(frame.numpy()).resize(wide, Image.Resampling.BICUBIC)))
    expected = make(stability_score_thresh=0.3, box_nms_thresh=1)(resized[None])[0].masks
    (found,) = make(stability_score_thresh=0.3, box_nms_thresh=1, short_edge=short_edge)(frame[None])
    assert len(found.masks) > 1
    for mask, larger in zip(found.masks, expected, strict=True):
        back = Image.fromarray(larger.numpy()).resize((width, height), Image.Resampling.NEAREST)
        assert torch.equal(mask, torch.from_numpy(np.array(back)))


def test_nearest_of_the_same_size_changes_nothing():
    masks = torch.rand(3, 17, 23) > 0.5
    assert torch.equal(nearest(masks, (17, 23)), masks)


def test_gathering_equals_grid_sampling():
    """Also beyond the edges, where zeros lie, far out, and for more than one frame."""
    draw = torch.Generator().manual_seed(0)
    shapes = [(1, 1), (3, 2), (5, 9)]
    values = torch.randn(2, 1 + 6 + 45, 4, 8, generator=draw)
    near = torch.rand(2, 200, 4, 3, 5, 2, generator=draw) * 1.6 - 0.3
    far = torch.randn(2, 200, 4, 3, 5, 2, generator=draw) * 100
    weights = torch.rand(2, 200, 4, 3, 5, generator=draw)
    for places in (near, far, near.round()):
        read = deformable_gather(values, shapes, places, weights)
        assert (read - deformable_sample(values, shapes, places, weights)).abs().max() <= 1e-5


def test_gathering_survives_places_that_are_no_numbers():
    """A network that overflows must not read outside of the table: on a GPU that ends the process."""
    places = torch.full((1, 3, 2, 1, 4, 2), torch.nan)
    places[:, 1], places[:, 2] = torch.inf, -torch.inf
    read = deformable_gather(torch.ones(1, 6, 2, 8), [(2, 3)], places, torch.ones(1, 3, 2, 1, 4))
    assert read.shape == (1, 3, 16)


def test_half_precision_is_close_and_named():
    frames = scene(64, 64)[None]
    settings = {"pred_iou_thresh": 0, "stability_score_thresh": 0, "box_nms_thresh": 1, "min_mask_region_area": 0}
    exact = make(**settings)(frames)[0].predicted_iou
    half = make(**settings, precision="bf16")
    assert half.parameters["precision"] == "bf16"
    rough = half(frames)[0].predicted_iou
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().max() < 0.2 * exact.abs().max()


def test_parameters_name_what_shapes_the_masks():
    parameters = make(levels=("3", 4)).parameters
    assert parameters["levels"] == [3, 4]
    assert not {"weights", "untrained"} & parameters.keys()
    assert SemanticSamConfig(**parameters).levels == (3, 4)


def test_refusals():
    for wrong, message in (
        ({"levels": [7]}, r"levels\.0: .*less than or equal to 6"),
        ({"levels": []}, r"levels: .*at least 1"),
        ({"group_size": 0}, r"group_size: "),
        ({"points_per_batch": 64}, r"points_per_batch: no such parameter.*\n.*group_size"),
    ):
        with pytest.raises(BadInput, match=message):
            named_generator("semantic-sam-t", wrong)


def test_no_weights_no_masks(monkeypatch, tmp_path):
    monkeypatch.setenv("COMBO_WEIGHTS", str(tmp_path))
    for name in ("semantic-sam-t", "semantic-sam-l"):
        with pytest.raises(BadInput, match=r"https://"):
            named_generator(name, {})


def test_untrained_is_said_in_the_name():
    generator = named_generator("semantic-sam-t", {"untrained": True, "points_per_side": 2})
    assert generator.name == "untrained-semantic-sam-t"
    assert generator.weights_sha256 is None
    assert sum(p.numel() for p in generator.network.parameters()) > 50_000_000
