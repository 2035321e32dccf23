"""Losses, matching and inference against what the published code gave."""

import numpy as np
import pytest
import torch
from golden import fixtures, load_arrays, load_json
from published_draws import PublishedDraws, by_clip

from combo_avs.model.criterion import CriterionConfig, Supervision, consistency_loss, criterion
from combo_avs.model.inference import label_map, semantic_scores
from combo_avs.model.matcher import frame_targets, match, matching_costs


def batch(name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, masks, labels and supervision flags of a fixture, with the final prediction last."""
    arrays, spec = load_arrays("combo", name), load_json("combo", name)
    names = [*sorted({key[3:].split("_")[0] for key in arrays if key.startswith("in.aux")}), "pred"]
    logits = torch.stack([torch.from_numpy(arrays[f"in.{n}_logits"]) for n in names])
    masks = torch.stack([torch.from_numpy(arrays[f"in.{n}_masks"]) for n in names])
    maps, lengths = arrays["in.target_label_maps"], spec["videos_frames"]
    if spec["gt_flags"]:
        supervised = np.concatenate(spec["gt_flags"]).astype(bool)
    elif len(maps) == sum(lengths):
        supervised = np.ones(sum(lengths), bool)
    else:
        supervised = np.concatenate([np.arange(n) == 0 for n in lengths])
    labels = np.full((sum(lengths), *maps.shape[1:]), 255, np.uint8)
    labels[supervised] = maps
    return logits, masks, torch.from_numpy(labels), torch.from_numpy(supervised)


def config(name: str) -> CriterionConfig:
    spec = load_json("combo", name)
    return CriterionConfig(
        class_weight=spec["weight_dict"]["loss_ce"],
        mask_weight=spec["weight_dict"]["loss_mask"],
        dice_weight=spec["weight_dict"]["loss_dice"],
        consistency_weight=spec["weight_dict"]["loss_cosine"],
        no_object=spec["eos_coef"],
        num_points=spec["num_points"],
        oversample=spec["oversample_ratio"],
        importance=spec["importance_sample_ratio"],
    )


@pytest.mark.parametrize("name", fixtures("combo", "criterion_*.npz"))
def test_losses(name: str) -> None:
    arrays, spec = load_arrays("combo", name), load_json("combo", name)
    logits, masks, labels, supervised = batch(name)
    draws = PublishedDraws(spec["salt"], int(supervised.sum()), spec["num_points"])
    losses = criterion(
        logits, masks, Supervision(labels, supervised, spec["videos_frames"]), config(name), by_clip(draws)
    )
    assert set(losses) == {*spec["loss_names"], "total"}
    for key in spec["loss_names"]:
        actual = losses[key].item() / spec["weight_dict"][key]
        assert actual == pytest.approx(arrays["out.loss." + key][0], abs=1e-5), key
    assert losses["total"].item() == pytest.approx(arrays["out.total_weighted"][0], rel=1e-6)


@pytest.mark.parametrize("name", fixtures("combo", "criterion_*.npz"))
def test_assignment(name: str) -> None:
    arrays, spec = load_arrays("combo", name), load_json("combo", name)
    logits, masks, labels, supervised = batch(name)
    weights = (spec["cost_class"], spec["cost_mask"], spec["cost_dice"])
    draws = PublishedDraws(spec["salt"], int(supervised.sum()), spec["num_points"])
    targets = frame_targets(labels, supervised, spec["num_classes"])
    pairs = match(logits, masks, targets, weights, spec["num_points"], draws).numpy()
    for published, ours in enumerate([pairs[-1], *pairs[:-1]]):  # the fixture names the final prediction 0
        frame, query, target = (arrays[f"out.match_{k}.{published}"] for k in ("frame", "query", "target"))
        expected = {(s, q, targets.classes_SN[s, t].item()) for s, q, t in zip(frame, query, target, strict=True)}
        assert set(map(tuple, ours.T.tolist())) == expected


@pytest.mark.parametrize("name", fixtures("combo", "matcher.npz"))
def test_matching_costs(name: str) -> None:
    arrays, spec = load_arrays("combo", name), load_json("combo", name)
    logits, masks, labels, points = (
        torch.from_numpy(arrays["in." + k]) for k in ("pred_logits", "pred_masks", "target_label_maps", "point_coords")
    )
    targets = frame_targets(labels, torch.ones(len(labels), dtype=torch.bool), spec["num_classes"])
    costs = matching_costs(logits, masks, targets.labels_SHW, targets.classes_SN, points)
    for s, count in enumerate(targets.counts):
        for kind, cost in zip(("class", "mask", "dice"), costs, strict=True):
            expected = arrays[f"out.cost_{kind}.{s}"]
            np.testing.assert_allclose(cost[s, :, :count].numpy(), expected, rtol=0, atol=1e-5)
    weights = (spec["cost_class"], spec["cost_mask"], spec["cost_dice"])
    pairs = match(logits[None], masks[None], targets, weights, spec["num_points"], lambda shape: points)[0]
    for s in range(len(labels)):
        of_frame = pairs[1:, pairs[0] == s].numpy()
        classes = targets.classes_SN[s].numpy()[arrays[f"out.target.{s}"]]
        np.testing.assert_array_equal(of_frame, [arrays[f"out.query.{s}"], classes])


@pytest.mark.parametrize("name", fixtures("combo", "cosine_loss.npz"))
def test_consistency_loss_and_gradient(name: str) -> None:
    arrays = load_arrays("combo", name)
    masks = torch.from_numpy(arrays["in.masks"]).requires_grad_()
    loss = consistency_loss(masks.flatten(1))
    loss.backward()
    assert loss.item() == pytest.approx(arrays["out.loss"][0], abs=1e-6)
    np.testing.assert_allclose(masks.grad.numpy(), arrays["out.grad"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", fixtures("combo", "semantic_inference.npz"))
def test_semantic_inference(name: str) -> None:
    arrays = load_arrays("combo", name)
    logits, masks = (torch.from_numpy(arrays[f"in.pred_{k}"])[None] for k in ("logits", "masks"))
    scores = semantic_scores(logits, masks, arrays["out.sem_seg"].shape[1:])
    np.testing.assert_allclose(scores[0].numpy(), arrays["out.sem_seg"], rtol=0, atol=1e-4)
    np.testing.assert_array_equal(label_map(scores)[0].numpy(), arrays["out.labels"])
