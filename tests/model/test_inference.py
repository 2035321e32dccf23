"""Semantic inference: per-pixel scores from class and mask logits."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from combo_avs.model.inference import foreground_score, label_map, semantic_scores


def predictions(frames: int) -> tuple[Tensor, Tensor]:
    """Logits of 3 classes and "no object", and masks for frames of 13..16 x 9..12 pixels; 4 queries."""
    rng = torch.Generator().manual_seed(0)
    return torch.randn(frames, 4, 4, generator=rng), 3 * torch.randn(frames, 4, 4, 3, generator=rng)


def test_scores_of_many_frames_are_those_of_each() -> None:
    logits, masks = predictions(frames=20)
    scores = semantic_scores(logits, masks, (15, 12))
    assert scores.shape == (20, 3, 15, 12)
    assert 0 <= scores.min() <= scores.max() <= 4
    one_by_one = [semantic_scores(logits[b : b + 1], masks[b : b + 1], (15, 12)) for b in range(20)]
    torch.testing.assert_close(scores, torch.cat(one_by_one))
    assert torch.equal(label_map(scores), scores.argmax(1).byte())


def test_no_object_takes_its_share_and_gives_nothing() -> None:
    logits = torch.tensor([[[0.0, 0.0, 50.0], [0.0, 0.0, math.log(2)]]])
    masks = torch.full((1, 2, 1, 1), 50.0)
    scores = semantic_scores(logits, masks, (4, 4))
    torch.testing.assert_close(scores, torch.full((1, 2, 4, 4), 0.25))  # 1 of 1 + 1 + 2, from the second query
    assert not foreground_score(scores).any()


def enlarged(mask: np.ndarray, y: int, x: int) -> float:
    """Pixel (y, x) of a mask enlarged four times bilinearly: pixel centres at half cells, edges repeated."""
    value = 0.0
    row, column = (y + 0.5) / 4 - 0.5, (x + 0.5) / 4 - 0.5
    for r in (math.floor(row), math.floor(row) + 1):
        for c in (math.floor(column), math.floor(column) + 1):
            inside = mask[min(max(r, 0), mask.shape[0] - 1), min(max(c, 0), mask.shape[1] - 1)]
            value += (1 - abs(row - r)) * (1 - abs(column - c)) * inside
    return value


@pytest.mark.parametrize("size", [(16, 12), (13, 9), (15, 10)])
def test_scores_are_a_sum_over_queries_at_every_pixel(size: tuple[int, int]) -> None:
    """Also of frames whose size is no multiple of 4: their masks are enlarged by four and cut off."""
    logits, masks = (x.numpy().astype(float) for x in predictions(frames=1))
    share = np.exp(logits[0]) / np.exp(logits[0]).sum(-1, keepdims=True)
    scores = semantic_scores(*predictions(frames=1), size)[0]
    labels = label_map(scores[None])[0]
    assert (scores.shape, labels.shape, labels.dtype) == ((3, *size), size, torch.uint8)
    for y in range(size[0]):
        for x in range(size[1]):
            inside = [1 / (1 + math.exp(-enlarged(mask, y, x))) for mask in masks[0]]
            expected = [sum(share[q, k] * inside[q] for q in range(4)) for k in range(3)]
            assert scores[:, y, x].tolist() == pytest.approx(expected, rel=1e-5)
            assert labels[y, x] == np.argmax(expected)


def test_half_precision_is_left_before_anything_is_computed() -> None:
    logits, masks = (x.half() for x in predictions(frames=2))
    scores = semantic_scores(logits, masks, (16, 12))
    assert scores.dtype == torch.float32
    assert torch.equal(scores, semantic_scores(logits.float(), masks.float(), (16, 12)))


def test_of_equal_scores_the_lower_class_is_the_label() -> None:
    scores = torch.tensor([0.2, 0.7, 0.1, 0.7]).view(1, 4, 1, 1)
    assert label_map(scores).item() == 1


def test_foreground_score_is_the_difference_whose_sigmoid_is_the_softmax() -> None:
    scores = torch.tensor([[0.3, 1.5], [2.25, 2.25], [0.0, 0.5], [1.25, 0.0]]).T.reshape(1, 2, 2, 2)
    found = foreground_score(scores)
    torch.testing.assert_close(found, torch.tensor([[[1.2, 0.0], [0.5, -1.25]]]))
    torch.testing.assert_close(found.sigmoid(), scores.softmax(1)[:, 1])


def test_inference_names_what_does_not_fit() -> None:
    logits, masks = predictions(frames=1)
    with pytest.raises(ValueError, match="4 x 3 at stride 4 do not fit frames of 224 x 224"):
        semantic_scores(logits, masks, (224, 224))
    with pytest.raises(ValueError, match="not 3 classes"):
        foreground_score(torch.zeros(1, 3, 4, 4))
