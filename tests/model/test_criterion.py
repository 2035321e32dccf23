"""Losses and matching against slow, direct versions, and what they promise beyond the published fixtures."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_losses import CLASSES, CONFIG, UNEVEN, Recorder, make_batch, slow_criterion
from published_draws import by_clip

from combo_avs.model.criterion import CriterionConfig, Supervision, consistency_loss, criterion
from combo_avs.model.matcher import frame_targets, match


@pytest.mark.parametrize(
    ("frames", "queries", "size", "every", "config"),
    [
        pytest.param(5, 4, (16, 12), 1, CONFIG, id="one clip"),
        pytest.param(15, 4, (16, 12), 5, CONFIG, id="first frames only"),
        pytest.param(5, 4, (14, 11), 2, CONFIG, id="size no multiple of 4"),
        pytest.param(5, 2, (16, 12), 1, CONFIG, id="more targets than queries"),
        pytest.param(5, 1, (13, 12), 1, CONFIG, id="one query"),
        pytest.param(5, 4, (16, 12), 1, UNEVEN, id="all weights differ"),
    ],
)
def test_equals_the_direct_version(
    frames: int, queries: int, size: tuple[int, int], every: int, config: CriterionConfig
) -> None:
    logits, masks, labels = make_batch(frames, 3, queries, size)
    labels[0, :3] = 255
    supervised = torch.arange(frames) % every == 0
    uniform = Recorder()
    losses = criterion(logits, masks, Supervision(labels, supervised, [frames]), config, by_clip(uniform))
    draws = [g.double().numpy() for g in uniform.given]
    logits, masks, labels = (a.numpy().astype(float) for a in (logits, masks, labels))
    expected = slow_criterion((logits, masks), labels, supervised.numpy(), draws, config)
    assert set(losses) == set(expected)
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=2e-5), name


def test_names_of_the_published_ten_predictions() -> None:
    logits, masks, labels = make_batch(predictions=10)
    losses = criterion(logits, masks, Supervision(labels, torch.ones(5, dtype=torch.bool), [5]), CONFIG)
    kinds = ("loss_ce", "loss_mask", "loss_dice")
    aux = [f"{kind}_{i}" for kind in (*kinds, "loss_cosine") for i in range(9)]
    assert set(losses) == {*kinds, *aux, "total"}
    everywhere = CONFIG.model_copy(update={"consistency_on": "all"})
    more = criterion(logits, masks, Supervision(labels, torch.ones(5, dtype=torch.bool), [5]), everywhere)
    assert set(more) - set(losses) == {"loss_cosine"}


def test_unsupervised_frames_enter_the_consistency_loss_alone() -> None:
    logits, masks, labels = make_batch()
    logits.requires_grad_()
    masks.requires_grad_()
    supervised = torch.tensor([True, False, False, True, False])
    losses = criterion(logits, masks, Supervision(labels, supervised, [5]), CONFIG, by_clip(Recorder()))
    losses["total"].backward()
    assert not logits.grad[:, ~supervised].any()
    assert not masks.grad[-1, ~supervised].any()
    assert masks.grad[0].flatten(1).any(1).all()
    labels[~supervised] = 77  # not even read
    again = criterion(logits, masks, Supervision(labels, supervised, [5]), CONFIG, by_clip(Recorder()))
    assert again == losses


@pytest.mark.parametrize("why", ["nothing supervised", "nothing but ignored pixels"])
def test_batch_without_targets_keeps_the_graph(why: str) -> None:
    logits, masks, labels = make_batch()
    logits.requires_grad_()
    masks.requires_grad_()
    supervised = torch.full((5,), why != "nothing supervised")
    losses = criterion(logits, masks, Supervision(torch.full_like(labels, 255), supervised, [5]), CONFIG)
    losses["total"].backward()
    assert logits.grad.isfinite().all()
    assert masks.grad.isfinite().all()
    assert losses["loss_mask"] == losses["loss_dice"] == 0
    assert (losses["loss_ce"] > 0) == (why != "nothing supervised")  # queries should say "no object"


def test_consistency_gradient_passes_the_exponential_and_survives_empty_frames() -> None:
    masks = torch.randn(5, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    masks[3] = 0
    masks.requires_grad_()
    consistency_loss(masks.flatten(1)).backward()
    assert masks.grad.isfinite().all()
    one, two = (torch.tensor([[math.cos(a), math.sin(a)]], requires_grad=True) for a in (0.0, 1.0))
    consistency_loss(torch.cat([one, one, one, one, two])).backward()
    c = math.cos(1.0)  # of the only pair of four that differs; the derivative by c is -c exp(c - 1)
    expected = -c * math.exp(c - 1) / 4 * -math.sin(1.0)  # along the circle, where c falls by sin 1
    along = two.grad @ torch.tensor([-math.sin(1.0), math.cos(1.0)])
    assert along.item() == pytest.approx(expected, rel=1e-4)


def test_every_target_has_its_own_query_and_surplus_targets_none() -> None:
    logits, masks, labels = make_batch(queries=2)
    targets = frame_targets(labels, torch.ones(5, dtype=torch.bool), CLASSES)
    assert max(targets.counts) > 2
    for pairs in match(logits, masks, targets, (2, 5, 5), 12, Recorder()):
        rows = pairs[0].tolist()
        assert [rows.count(s) for s in range(5)] == [min(2, n) for n in targets.counts]
        assert len(set(zip(rows, pairs[1].tolist(), strict=True))) == len(rows)


def test_autocast_around_it_changes_nothing() -> None:
    logits, masks, labels = make_batch()
    supervised = torch.ones(5, dtype=torch.bool)
    expected = criterion(logits, masks, Supervision(labels, supervised, [5]), CONFIG, by_clip(Recorder()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert criterion(logits, masks, Supervision(labels, supervised, [5]), CONFIG, by_clip(Recorder())) == expected


@settings(deadline=None, max_examples=20)
@given(order=st.permutations(range(4)), seed=st.integers(0, 99))
def test_order_of_queries_does_not_matter(order: list[int], seed: int) -> None:
    logits, masks, labels = make_batch(seed=seed)
    supervised = torch.ones(5, dtype=torch.bool)
    one = criterion(logits, masks, Supervision(labels, supervised, [5]), CONFIG, by_clip(Recorder()))
    two = criterion(
        logits[:, :, order], masks[:, :, order], Supervision(labels, supervised, [5]), CONFIG, by_clip(Recorder())
    )
    for name in ("loss_ce", "loss_ce_0", "loss_cosine_0"):  # points of masks go by the order of pairs
        assert one[name].item() == pytest.approx(two[name].item(), rel=1e-5)


def test_wrong_input_is_named() -> None:
    logits, masks, labels = make_batch()
    supervised = torch.ones(5, dtype=torch.bool)
    wrong = labels.clone()
    wrong[2, 0, 0] = 9
    with pytest.raises(ValueError, match=r"frame 2 .* label 9, but there are 3 classes"):
        criterion(logits, masks, Supervision(wrong, supervised, [5]), CONFIG)
    with pytest.raises(ValueError, match="uint8"):
        criterion(logits, masks, Supervision(labels.long(), supervised, [5]), CONFIG)
    with pytest.raises(ValueError, match="stride 4"):
        criterion(logits, masks, Supervision(labels[:, :8], supervised, [5]), CONFIG)
    with pytest.raises(ValueError, match="multiple of 5"):
        criterion(logits, masks, Supervision(labels, supervised, [2, 3]), CONFIG)
    with pytest.raises(ValueError, match="flags"):
        criterion(logits, masks, Supervision(labels, supervised[:4], [5]), CONFIG)
    with pytest.raises(ValueError, match="differ in P, B or Q"):
        criterion(logits[:, :, :3], masks, Supervision(labels, supervised, [5]), CONFIG)


def test_diverged_predictions_are_named() -> None:
    logits, masks, labels = make_batch(predictions=3)
    supervised = torch.tensor([False, True, True, True, True])
    broken_logits, broken_masks = logits.clone(), masks.clone()
    broken_logits[2, 3, 0, 0], broken_masks[1, 1] = math.nan, math.inf
    with pytest.raises(FloatingPointError, match=r"frame 3 .*final prediction: class logits hold"):
        criterion(broken_logits, masks, Supervision(labels, supervised, [5]), CONFIG)
    with pytest.raises(FloatingPointError, match=r"frame 1 .*prediction 1 .*: mask logits hold"):
        criterion(logits, broken_masks, Supervision(labels, supervised, [5]), CONFIG)


RANK = """
import sys, torch, torch.distributed as dist
sys.path[:0] = sys.argv[3:]
from plain_losses import CONFIG, Recorder, make_batch
from published_draws import by_clip
from combo_avs.model.criterion import Supervision, criterion
rank = int(sys.argv[1])
store = dist.FileStore(sys.argv[2], 2)
dist.init_process_group("gloo", rank=rank, world_size=2, store=store)
logits, masks, labels = make_batch(seed=rank)
supervised = torch.arange(5) < (1, 5)[rank]
print(criterion(logits, masks, Supervision(labels, supervised, [5]), CONFIG, by_clip(Recorder()))["loss_mask"].item())
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_ranks_share_the_mean_number_of_targets(tmp_path: Path) -> None:
    here = Path(__file__).parent.parent
    command = [sys.executable, "-c", RANK]
    ranks = [
        subprocess.Popen([*command, str(r), str(tmp_path / "store"), str(here)], stdout=subprocess.PIPE, text=True)
        for r in range(2)
    ]
    shared = [float(r.communicate()[0]) for r in ranks]
    alone, counts = [], []
    for rank, supervised in enumerate((torch.arange(5) < 1, torch.arange(5) < 5)):
        logits, masks, labels = make_batch(seed=rank)
        losses = criterion(logits, masks, Supervision(labels, supervised, [5]), CONFIG, by_clip(Recorder()))
        alone.append(losses["loss_mask"].item())
        counts.append(sum(frame_targets(labels, supervised, CLASSES).counts))
    assert counts[0] != counts[1]
    expected = [a * n / np.mean(counts) for a, n in zip(alone, counts, strict=True)]
    assert shared == pytest.approx(expected, rel=1e-5)
