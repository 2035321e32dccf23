"""Losses of parts of a batch: whose random numbers they draw, what they are divided by, which frames they compare."""

from collections.abc import Sequence

import pytest
import torch
from plain_losses import CLASSES, CONFIG, UNEVEN, Recorder, make_batch
from published_draws import by_clip
from torch import Tensor

from combo_avs.model.criterion import Supervision, Totals, consistency_loss, criterion, successive
from combo_avs.model.matcher import frame_targets
from combo_avs.model.random_numbers import rand_by_clip


def test_draws_are_asked_for_by_clip_and_truncated_in_number() -> None:
    """Per prediction, the last one first: matching points of supervised frames; then candidates and plain points."""
    logits, masks, labels = make_batch(15, predictions=2, queries=2)
    supervised = torch.tensor([True, False, False, False, False] + [True, True] * 5)
    asked = []

    def uniform(rows: Sequence[int], shape: tuple[int, ...]) -> Tensor:
        asked.append((list(rows), shape))
        return torch.rand((sum(rows), *shape))

    criterion(logits, masks, Supervision(labels, supervised, [5, 10]), UNEVEN, uniform)
    counts = [min(2, len(frame.unique())) for frame in labels]
    pairs = [counts[0], sum(counts[5:])]
    assert asked == [([1, 10], (13, 2))] * 2 + [(pairs, (33, 2)), (pairs, (4, 2))] * 2


def test_losses_of_parts_add_up_to_those_of_the_whole() -> None:
    """With totals of the whole, and random numbers that belong to clips."""
    logits, masks, labels = make_batch(15)
    supervised, config = torch.arange(15) % 2 == 0, CONFIG.model_copy(update={"consistency_clip": "whole"})
    whole = criterion(
        logits, masks, Supervision(labels, supervised, [5, 10]), config, rand_by_clip([1, 2], torch.device("cpu"))
    )
    totals = Totals.of(frame_targets(labels, supervised, CLASSES), 4, [5, 10], config)
    parts = [
        criterion(
            logits[:, of],
            masks[:, of],
            Supervision(labels[of], supervised[of], [of.stop - of.start]),
            config,
            rand_by_clip([seed], torch.device("cpu")),
            totals,
        )
        for seed, of in ((1, slice(0, 5)), (2, slice(5, 15)))
    ]
    for name, value in whole.items():
        assert (parts[0][name] + parts[1][name]).item() == pytest.approx(value.item(), rel=1e-5), name


def test_which_frames_are_compared() -> None:
    assert successive([5, 10], "five") == [5, 5, 5]
    assert successive([5, 10], "whole") == [5, 10]
    assert successive([10], "whole") == [10]


@pytest.mark.parametrize("detach", [False, True])
def test_the_setting_detaches_the_factor(detach: bool) -> None:
    logits, masks, labels = make_batch()
    gradients = []
    for weight in (0.0, 10.0):
        config = CONFIG.model_copy(update={"consistency_detach": detach, "consistency_weight": weight})
        x = masks.clone().requires_grad_()
        supervision = Supervision(labels, torch.ones(5, dtype=torch.bool), [5])
        criterion(logits, x, supervision, config, by_clip(Recorder()))["total"].backward()
        gradients.append(x.grad)
    x = masks[0].clone().requires_grad_()
    (10 * consistency_loss(x.flatten(1), detach=detach)).backward()
    torch.testing.assert_close(gradients[1][0] - gradients[0][0], x.grad, rtol=1e-3, atol=1e-5)
