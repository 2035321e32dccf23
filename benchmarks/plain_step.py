"""The published training step as plainly as it can be written, to measure ours against, and to test it against.

It computes the same numbers from the same weights, the way the published code does: VGGish in the loop, attention and
fusion spelled out, masks resized query by query, matching frame by frame with a copy to the host each time, losses
prediction by prediction, one parameter group per tensor. Each part can be put into our network alone, which shows
what that part gives.

B frames, Q queries, C channels, L tokens, N heads, E = C / N, D audio features, R points.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from combo_avs.model.bilateral_fusion import DROPOUT, BilateralFusion
from combo_avs.model.combo import COMBO
from combo_avs.model.criterion import CriterionConfig
from combo_avs.model.decoder import SCALES, Attention, DecoderLayer, MaskedDecoder, Predictions
from combo_avs.model.position_encoding import sine_position_encoding

Uniform = Callable[[tuple[int, ...]], Tensor]


@contextmanager
def plain_parts(model: COMBO, parts: set[str]) -> Iterator[None]:
    """A network some parts of which ("norms", "fusion", "decoder") are plain inside the block."""
    replaced: list[tuple[nn.Module, Callable[..., Any]]] = []
    if "norms" in parts:
        norms = [m for m in model.modules() if isinstance(m, FrozenBatchNorm2d)]
        replaced += [(norm, partial(FrozenBatchNorm2d.forward, norm)) for norm in norms]
    if "fusion" in parts:
        assert isinstance(model.fusion, BilateralFusion)
        replaced.append((model.fusion, partial(fuse, model.fusion)))
    if "decoder" in parts:
        replaced.append((model.decoder, partial(decode, model.decoder)))
    for module, forward in replaced:
        module.forward = forward
    try:
        yield
    finally:
        for module, _ in replaced:
            del module.forward


def fuse(
    fusion: BilateralFusion, visual_BCHW: Tensor, audio_BD: Tensor, uniform: object = None
) -> tuple[Tensor, Tensor]:
    """Bilateral fusion with its linear maps over all pixels."""
    x_BLC = fusion.norm_v(fusion.embed(visual_BCHW).flatten(2).transpose(1, 2))
    a_BD = fusion.norm_a(audio_BD)
    height, width = visual_BCHW.shape[-2:]
    position_LC = sine_position_encoding(height, width, x_BLC.shape[-1], x_BLC.device).flatten(1).T
    q_BNLE = heads(fusion.v_proj(x_BLC + position_LC), fusion.heads)
    k_BN1E = heads(fusion.a_proj(a_BD + fusion.audio_pos.weight)[:, None], fusion.heads)
    scores_BNL1 = q_BNLE * q_BNLE.shape[-1] ** -0.5 @ k_BN1E.mT
    attention_BNL1 = scores_BNL1.clamp(-50000, 50000).softmax(dim=2)
    for_picture, for_sound = (F.dropout(attention_BNL1, DROPOUT, fusion.training) for _ in range(2))
    heard_BNLE = for_picture @ heads(fusion.values_a_proj(a_BD)[:, None], fusion.heads)
    seen_BN1E = for_sound.mT @ heads(fusion.values_v_proj(x_BLC), fusion.heads)
    picture_BLC = x_BLC + fusion.gamma_v * fusion.out_v_proj(heard_BNLE.transpose(1, 2).flatten(2))
    sound_BD = a_BD + fusion.gamma_a * fusion.out_a_proj(seen_BN1E.transpose(1, 2).flatten(1))
    return picture_BLC.transpose(1, 2).unflatten(2, (height, width)), sound_BD


def heads(x_BLC: Tensor, n: int) -> Tensor:
    return x_BLC.unflatten(-1, (n, -1)).transpose(1, 2)


def attend(attention: Attention, query: Tensor, key: Tensor, value: Tensor, blocked: Tensor | None = None) -> Tensor:
    """Multi-head attention with all its scores in memory. blocked: bool [B, 1, Q, L]."""
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    q, k, v = (
        heads(F.linear(x, w, b), attention.heads) for x, w, b in zip((query, key, value), weights, biases, strict=True)
    )
    scores = q * q.shape[-1] ** -0.5 @ k.mT
    if blocked is not None:
        scores = scores.masked_fill(blocked, -torch.inf)
    return attention.out_proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))


def decode(decoder: MaskedDecoder, scales: list[Tensor], features_BCHW: Tensor, audio_BC: Tensor) -> Predictions:
    """The masked decoder: after every layer whole masks, which are then resized query by query."""
    memories = [m.flatten(2).transpose(1, 2) + e for m, e in zip(scales, decoder.level_embed.weight, strict=True)]
    positions = [sine_position_encoding(m.shape[2], m.shape[3], m.shape[1], m.device).flatten(1).T for m in scales]
    position = decoder.query_embed.weight

    def predict(x_BQC: Tensor) -> tuple[Tensor, Tensor]:
        y_BQC = decoder.decoder_norm(x_BQC)
        masks = torch.einsum("bqc,bchw->bqhw", decoder.mask_embed(y_BQC), features_BCHW)
        return decoder.class_embed(y_BQC), masks

    x_BQC = decoder._queries(audio_BC)
    steps = [predict(x_BQC)]
    for i, layer in enumerate(decoder.layers):
        assert isinstance(layer, DecoderLayer)
        memory, memory_position = memories[i % SCALES], positions[i % SCALES]
        resized = F.interpolate(steps[-1][1], scales[i % SCALES].shape[-2:], mode="bilinear", align_corners=False)
        blocked = resized.sigmoid().flatten(2).detach() < 0.5
        blocked[blocked.sum(-1) == blocked.shape[-1]] = False
        seen = attend(layer.cross_attention, x_BQC + position, memory + memory_position, memory, blocked[:, None])
        x_BQC = layer.cross_norm(x_BQC + seen)
        q = x_BQC + position
        x_BQC = layer.self_norm(x_BQC + attend(layer.self_attention, q, q, x_BQC))
        x_BQC = layer.ffn_norm(x_BQC + layer.linear2(F.relu(layer.linear1(x_BQC))))
        steps.append(predict(x_BQC))
    logits, masks = zip(*steps, strict=True)
    return Predictions(torch.stack(logits), torch.stack(masks))


def plain_criterion(
    predictions: Predictions, labels_BHW: Tensor, supervised_B: Tensor, config: CriterionConfig, uniform: Uniform
) -> dict[str, Tensor]:
    """All losses, one prediction after the other, as `model.criterion` names them; clips of five frames."""
    logits, masks = predictions
    frames = supervised_B.nonzero()[:, 0].tolist()
    targets = [frame_targets(labels_BHW[b]) for b in frames]
    count = max(sum(len(classes) for classes, _ in targets), 1)
    last, losses = len(logits) - 1, {}
    for p in (last, *range(last)):
        name = "" if p == last else f"_{p}"
        pairs = [
            match_frame(logits[p, b], masks[p, b], *target, config, uniform)
            for b, target in zip(frames, targets, strict=True)
        ]
        losses["loss_ce" + name] = config.class_weight * classes_loss(logits[p, frames], targets, pairs, config)
        bce, dice = masks_loss(masks[p], frames, targets, pairs, config, uniform)
        losses["loss_mask" + name] = config.mask_weight * bce / count
        losses["loss_dice" + name] = config.dice_weight * dice / count
    for p in range(last):
        losses[f"loss_cosine_{p}"] = config.consistency_weight * neighbours_loss(masks[p])
    losses["total"] = sum(losses.values())
    return losses


def frame_targets(labels_HW: Tensor) -> tuple[Tensor, Tensor]:
    """Classes [N] of a frame and their masks [N, H, W]."""
    classes = labels_HW.unique()
    classes = classes[classes != 255]
    return classes.long(), (labels_HW == classes[:, None, None]).float()


def sample(masks_NHW: Tensor, points_NR2: Tensor) -> Tensor:
    """[N, R]"""
    grid = 2 * points_NR2[:, :, None] - 1
    return F.grid_sample(masks_NHW[:, None], grid, align_corners=False)[:, 0, :, 0]


@torch.no_grad()
def match_frame(
    logits_QK: Tensor,
    masks_Qhw: Tensor,
    classes_N: Tensor,
    shown_NHW: Tensor,
    config: CriterionConfig,
    uniform: Uniform,
) -> tuple[list[int], list[int]]:
    """Queries and targets of one frame; its costs go to the host."""
    points_1R2 = uniform((1, config.num_points, 2))
    x_QR = sample(masks_Qhw, points_1R2.expand(len(masks_Qhw), -1, -1))
    t_NR = sample(shown_NHW, points_1R2.expand(len(shown_NHW), -1, -1))
    positive_QR = F.binary_cross_entropy_with_logits(x_QR, torch.ones_like(x_QR), reduction="none")
    negative_QR = F.binary_cross_entropy_with_logits(x_QR, torch.zeros_like(x_QR), reduction="none")
    bce_QN = (positive_QR @ t_NR.T + negative_QR @ (1 - t_NR).T) / config.num_points
    p_QR = x_QR.sigmoid()
    dice_QN = 1 - (2 * p_QR @ t_NR.T + 1) / (p_QR.sum(-1)[:, None] + t_NR.sum(-1) + 1)
    class_QN = -logits_QK.softmax(-1)[:, classes_N]
    cost_QN = config.class_weight * class_QN + config.mask_weight * bce_QN + config.dice_weight * dice_QN
    query, target = linear_sum_assignment(cost_QN.cpu())
    return query.tolist(), target.tolist()


def classes_loss(
    logits_SQK: Tensor,
    targets: list[tuple[Tensor, Tensor]],
    pairs: list[tuple[list[int], list[int]]],
    config: CriterionConfig,
) -> Tensor:
    none = logits_SQK.shape[-1] - 1
    wanted_SQ = torch.full(logits_SQK.shape[:2], none, device=logits_SQK.device)
    for s, ((classes, _), (query, target)) in enumerate(zip(targets, pairs, strict=True)):
        wanted_SQ[s, query] = classes[target]
    weight_K = torch.ones(none + 1, device=logits_SQK.device)
    weight_K[-1] = config.no_object
    return F.cross_entropy(logits_SQK.transpose(1, 2), wanted_SQ, weight_K)


def masks_loss(
    masks_BQhw: Tensor,
    frames: list[int],
    targets: list[tuple[Tensor, Tensor]],
    pairs: list[tuple[list[int], list[int]]],
    config: CriterionConfig,
    uniform: Uniform,
) -> tuple[Tensor, Tensor]:
    """Sums over matched pairs of cross-entropy and of dice."""
    matched_Mhw = torch.cat([masks_BQhw[b, query] for b, (query, _) in zip(frames, pairs, strict=True)])
    shown_MHW = torch.cat([shown[target] for (_, shown), (_, target) in zip(targets, pairs, strict=True)])
    with torch.no_grad():
        unsure = int(config.importance * config.num_points)
        candidates = uniform((len(matched_Mhw), int(config.oversample * config.num_points), 2))
        nearest = (-sample(matched_Mhw, candidates).abs()).topk(unsure, dim=1).indices
        chosen = candidates[torch.arange(len(nearest), device=nearest.device)[:, None], nearest]
        points = torch.cat([chosen, uniform((len(matched_Mhw), config.num_points - unsure, 2))], dim=1)
        t_MR = sample(shown_MHW, points)
    x_MR = sample(matched_Mhw, points)
    bce = F.binary_cross_entropy_with_logits(x_MR, t_MR, reduction="none").mean(1).sum()
    p_MR = x_MR.sigmoid()
    dice = (1 - (2 * (p_MR * t_MR).sum(-1) + 1) / (p_MR.sum(-1) + t_MR.sum(-1) + 1)).sum()
    return bce, dice


def neighbours_loss(masks_BQhw: Tensor) -> Tensor:
    clips = masks_BQhw.flatten(1).unflatten(0, (-1, 5))
    one, two = clips[:, :-1], clips[:, 1:]
    norms = ((one.square().sum(-1) + 1e-12) * (two.square().sum(-1) + 1e-12)).sqrt()
    cosine = (one * two).sum(-1) / norms
    return ((1 - cosine) * (cosine - 1).exp()).mean()


def plain_optimizer(groups: list[dict]) -> torch.optim.AdamW:
    """One group per tensor, updated one after the other."""
    single = [{**group, "params": [parameter]} for group in groups for parameter in group["params"]]
    return torch.optim.AdamW(single, foreach=False)


def vggish_features(vggish: nn.Module, log_mel: Tensor) -> Tensor:
    """float32 [B, 128]: the frozen encoder in the training loop."""
    with torch.no_grad():
        return vggish(log_mel)
