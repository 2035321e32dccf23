"""Semantic inference: per-pixel scores from class and mask logits."""

import math

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


def test_inference_names_what_does_not_fit() -> None:
    logits, masks = predictions(frames=1)
    with pytest.raises(ValueError, match="4 x 3 at stride 4 do not fit frames of 224 x 224"):
        semantic_scores(logits, masks, (224, 224))
    with pytest.raises(ValueError, match="not 3 classes"):
        foreground_score(torch.zeros(1, 3, 4, 4))
