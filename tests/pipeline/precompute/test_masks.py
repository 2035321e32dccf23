"""From masks to Maskiges, frame by frame and object by object; and how well two settings agree."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from combo_avs.data.masks import colour_index, fold_masks, unpack_masks, unpack_stats
from combo_avs.data.palette import PALETTE
from combo_avs.model.foundation.interface import Proposals
from combo_avs.pipeline.precompute.exactness import agreement, mean_agreement
from combo_avs.pipeline.precompute.masks import (
    fold_on_device,
    limit_masks,
    mask_iou,
    maskiges,
    proposal_rows,
    track_objects,
)

stacks = hnp.arrays(np.bool_, st.tuples(st.integers(0, 12), st.integers(1, 9), st.integers(1, 11)))


def proposals(masks: torch.Tensor, predicted_iou: list[float] | None = None) -> Proposals:
    k = len(masks)
    return Proposals(
        masks=masks,
        predicted_iou=torch.ones(k) if predicted_iou is None else torch.tensor(predicted_iou),
        stability=torch.linspace(0, 1, k),
        boxes=torch.arange(4 * k, dtype=torch.int32).reshape(k, 4),
        points=torch.arange(2 * k).reshape(k, 2).float(),
        areas=masks.sum((1, 2)),
    )


def rectangle(y: int, x: int, height: int, width: int, frame: tuple[int, int] = (24, 48)) -> torch.Tensor:
    mask = torch.zeros(frame, dtype=torch.bool)
    mask[y : y + height, x : x + width] = True
    return mask


class TestFold:
    @given(stacks)
    def test_equals_the_array_form(self, masks):
        tensor = torch.from_numpy(masks)
        assert np.array_equal(maskiges([tensor])[0], colour_index(fold_masks(masks)))
        index = fold_on_device(tensor)
        assert index.dtype == torch.uint8
        assert np.array_equal(index, fold_masks(masks))

    @pytest.mark.parametrize("k", [0, 1, 149, 150, 151, 255, 256, 300])
    def test_any_number_of_masks(self, k):
        masks = np.arange(320)[None, None] <= np.arange(k)[:, None, None]  # number k covers the first k + 1 pixels
        masks = np.random.default_rng(0).permutation(masks)
        assert np.array_equal(fold_on_device(torch.from_numpy(masks)), fold_masks(masks))
        assert np.array_equal(maskiges([torch.from_numpy(masks)])[0], colour_index(fold_masks(masks)))

    def test_equal_areas_keep_their_order(self):
        masks = torch.zeros((3, 1, 4), dtype=torch.bool)
        masks[0, 0, 1:3] = masks[1, 0, 2:4] = masks[2, 0, 0:2] = True
        assert fold_on_device(masks).tolist() == [[3, 1, 1, 2]]

    def test_frames_larger_than_one_step(self, monkeypatch):
        monkeypatch.setattr("combo_avs.pipeline.precompute.masks._BYTES", 100)
        masks = np.random.default_rng(1).random((6, 13, 7)) < 0.3
        assert np.array_equal(fold_on_device(torch.from_numpy(masks)), fold_masks(masks))

    @given(st.lists(st.integers(0, 5), min_size=1, max_size=4))
    def test_several_frames(self, counts):
        rng = np.random.default_rng(len(counts))
        frames = [torch.from_numpy(rng.random((k, 6, 7)) < 0.4) for k in counts]
        together = maskiges(frames)
        assert together.dtype == np.uint8
        assert np.array_equal(together, np.stack([colour_index(fold_masks(masks.numpy())) for masks in frames]))

    @pytest.mark.gpu
    def test_on_a_gpu(self):
        frames = [torch.from_numpy(np.random.default_rng(k).random((k, 90, 70)) < 0.2) for k in (0, 1, 40, 300)]
        on_gpu = maskiges([masks.cuda() for masks in frames])
        assert np.array_equal(on_gpu, maskiges(frames))


def test_the_rows_of_a_cache_by_value():
    found = [proposals(torch.stack([rectangle(0, 0, 2, 3), rectangle(1, 1, 1, 1)]), [0.5, 0.75])]
    rows = proposal_rows([*found, proposals(torch.zeros((0, 24, 48), dtype=torch.bool))])
    stats = unpack_stats(rows["mask_stats"][0])
    assert {name: stats[name].tolist() for name in stats.dtype.names} == {
        "area": [6, 1],
        "box": [[0, 1, 2, 3], [4, 5, 6, 7]],
        "predicted_iou": [0.5, 0.75],
        "stability": [0, 1],
        "point": [[0, 1], [2, 3]],
    }
    assert rows["mask_count"].tolist() == [2, 0]
    assert np.array_equal(unpack_masks(rows["masks"][0], 24, 48), found[0].masks)
    assert (rows["masks"][1], rows["mask_stats"][1]) == (b"", b"")
    assert rows["maskige"][0, :2, :3].tolist() == PALETTE[[[2, 2, 2], [2, 1, 2]]].tolist()
    assert (rows["maskige"][1] == PALETTE[0]).all()


class TestLimit:
    def test_few_enough(self):
        found = proposals(torch.ones((3, 2, 2), dtype=torch.bool))
        assert limit_masks(found, 3) == (found, 0)

    def test_the_best_stay_in_their_order(self):
        found = proposals(torch.rand(5, 4, 4) > 0.5, [0.9, 0.95, 0.5, 0.99, 0.9])
        kept, dropped = limit_masks(found, 3)
        assert dropped == 2
        for name in ("masks", "predicted_iou", "stability", "boxes", "points", "areas"):
            assert torch.equal(getattr(kept, name), getattr(found, name)[[0, 1, 3]])

    def test_of_equal_ones_the_first_stay(self):
        kept, dropped = limit_masks(proposals(torch.rand(1000, 2, 2) > 0.5), 700)
        assert dropped == 300
        assert torch.equal(kept.points[:, 0], torch.arange(0, 1400, 2).float())


class TestOverlap:
    @given(stacks, st.integers(0, 4))
    def test_iou(self, masks, others):
        b = np.random.default_rng(others).random((others, *masks.shape[1:])) < 0.5
        iou = mask_iou(torch.from_numpy(masks), torch.from_numpy(b))
        assert iou.shape == (len(masks), others)
        for i, j in np.ndindex(*iou.shape):
            either = (masks[i] | b[j]).sum()
            assert iou[i, j] == pytest.approx((masks[i] & b[j]).sum() / either if either else 0, abs=1e-12)

    def test_many_pixels(self):
        a = torch.zeros((1, 600, 300), dtype=torch.bool)
        a[:, 200:] = True
        assert mask_iou(a, torch.ones_like(a)).item() == pytest.approx(2 / 3, abs=1e-12)


class TestTemporal:
    @pytest.fixture
    def clip(self) -> list[torch.Tensor]:
        """A square moves to the right and a bar grows past its area; a dot is there once; orders differ."""
        square = [rectangle(2, 2 * t, 8, 8) for t in range(4)]
        bar = [rectangle(14, 10, 4, 8 + 4 * t) for t in range(4)]
        return [
            torch.stack([square[0], bar[0]]),
            torch.stack([bar[1], square[1]]),
            torch.stack([rectangle(22, 40, 1, 2), square[2], bar[2]]),
            torch.stack([bar[3], square[3]]),
        ]

    def test_objects_are_followed(self, clip):
        assert [objects.tolist() for objects in track_objects(clip)] == [[0, 1], [1, 0], [2, 0, 1], [1, 0]]

    def test_an_object_keeps_its_colour(self, clip):
        pictures = maskiges(clip, temporal=True)
        assert (pictures.shape, pictures.dtype) == ((4, 24, 48, 3), np.uint8)
        for picture, masks, square in zip(pictures, clip, (0, 1, 1, 1), strict=True):
            assert (picture[masks[square]] == PALETTE[2]).all()
            assert (picture[masks[1 - square if len(masks) == 2 else 2]] == PALETTE[1]).all()
            assert (picture[~masks.any(0)] == PALETTE[0]).all()
        assert (pictures[2][clip[2][0]] == PALETTE[3]).all()  # there once, so the last to get a colour

    def test_as_published_it_does_not(self, clip):
        pictures = maskiges(clip)
        assert (pictures[0][clip[0][1]] == PALETTE[1]).all()  # the bar is smaller at first
        assert (pictures[3][clip[3][0]] == PALETTE[2]).all()

    def test_it_is_known_again_after_a_frame_without_it(self, clip):
        assert [objects.tolist() for objects in track_objects([clip[0], clip[0][:0], clip[1]])] == [[0, 1], [], [1, 0]]

    def test_nested_masks_are_not_mixed_up(self):
        whole, part = rectangle(4, 4, 12, 12), rectangle(4, 4, 12, 8)
        frames = [torch.stack([whole, part]), torch.stack([part, whole])]
        assert [objects.tolist() for objects in track_objects(frames)] == [[0, 1], [1, 0]]

    def test_half_in_common_is_the_same_object_and_less_is_not(self):
        half, less = rectangle(0, 0, 2, 10), rectangle(0, 0, 2, 9)
        whole = rectangle(0, 0, 4, 10)
        assert track_objects([whole[None], half[None]])[1].tolist() == [0]
        assert track_objects([whole[None], less[None]])[1].tolist() == [1]

    def test_a_jump_makes_a_new_object(self):
        frames = [rectangle(2, 2, 4, 4)[None], rectangle(2, 20, 4, 4)[None]]
        assert [objects.tolist() for objects in track_objects(frames)] == [[0], [1]]

    @given(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.integers(0, 100))
    def test_every_frame_shows_the_same_regions_as_published(self, counts, seed):
        """Only colours differ: what lies on top, and where nothing is, does not."""
        rng = np.random.default_rng(seed)
        clip = [torch.from_numpy(rng.random((k, 5, 6)) < 0.4) for k in counts]
        for ours, published in zip(maskiges(clip, temporal=True), maskiges(clip), strict=True):
            pairs = np.unique(np.concatenate([ours, published], -1).reshape(-1, 6), axis=0)
            assert len(pairs) == len(np.unique(pairs[:, :3], axis=0)) == len(np.unique(pairs[:, 3:], axis=0))

    def test_a_still_clip_has_still_pictures(self):
        masks = torch.stack([rectangle(2, 2, 4, 4), rectangle(1, 1, 9, 9), rectangle(0, 30, 2, 9)])
        assert np.array_equal(maskiges([masks] * 3, temporal=True), maskiges([masks] * 3))

    def test_more_objects_than_colours(self):
        clip = [torch.eye(300, dtype=torch.bool)[:, None]] * 2
        assert np.array_equal(maskiges(clip, temporal=True), maskiges(clip))

    def test_no_masks(self):
        assert (maskiges([torch.zeros((0, 4, 5), dtype=torch.bool)] * 2, temporal=True) == PALETTE[0]).all()


class TestAgreement:
    def test_with_itself_in_another_order(self):
        masks = torch.stack([rectangle(2, 2, 4, 4), rectangle(1, 1, 9, 9), rectangle(0, 30, 2, 9)])
        expected = {"masks": 3, "other_masks": 3, "best_iou": 1, "found": 1, "real": 1, "maskige_pixels": 1}
        assert agreement(proposals(masks), proposals(masks[[2, 0, 1]])) == expected

    def test_a_lost_a_changed_and_a_made_up_mask(self):
        exact = torch.stack([rectangle(0, 0, 10, 10), rectangle(0, 20, 10, 20), rectangle(20, 0, 2, 2)])
        other = torch.stack([rectangle(0, 0, 10, 10), rectangle(0, 20, 10, 10)])
        found = agreement(proposals(exact), proposals(other))
        assert (found["masks"], found["other_masks"]) == (3, 2)
        assert found["best_iou"] == pytest.approx((1 + 0.5 + 0) / 3)
        assert found["found"] == pytest.approx(1 / 3)
        assert found["real"] == pytest.approx(1 / 2)
        # the small mask is gone, so all others are one colour further down: only the ground agrees
        assert found["maskige_pixels"] == pytest.approx(1 - exact.any(0).float().mean().item(), abs=1e-6)

    def test_nothing_on_either_side(self):
        none, some = (torch.zeros((k, 3, 4), dtype=torch.bool) for k in (0, 2))
        some[:, 0] = True
        assert agreement(proposals(none), proposals(none))["best_iou"] == 1
        assert agreement(proposals(none), proposals(some))["real"] == 0
        assert agreement(proposals(some), proposals(none))["found"] == 0

    def test_mean_over_frames(self):
        a = agreement(proposals(rectangle(0, 0, 4, 4)[None]), proposals(rectangle(0, 0, 4, 2)[None]))
        b = agreement(proposals(rectangle(0, 0, 4, 4)[None]), proposals(rectangle(0, 0, 4, 4)[None]))
        mean = mean_agreement([a, b])
        assert mean["frames"] == 2
        assert mean["best_iou"] == pytest.approx(0.75)
        assert mean["found"] == pytest.approx(0.5)
        assert mean["worst_best_iou"] == pytest.approx(0.5)
