"""Everything mode as the released Semantic-SAM does it: the slow route that the fast one must agree with.

Built from our modules, so weights and single layers are the same. Group after group: value projections, all tokens
through all layers, attention with its weights written out, grid sampling, heads on every layer; then every candidate
is drawn at full size before any is tested, a resize that changes nothing, and run-length coding there and back.
Letters: B one frame, P clicks of a group, Q = 6 P queries, C channels, K candidates or masks, H W the frame.
"""

import copy
from typing import NamedTuple

import torch
import torch.nn.functional as F
from segment_anything.utils import amg
from torch import Tensor
from torchvision.ops import nms

from combo_avs.model.decoder import Attention
from combo_avs.model.deformable_attention import DeformableAttention, deformable_sample
from combo_avs.model.foundation.everything import point_grid
from combo_avs.model.foundation.mask_candidates import clean_and_suppress
from combo_avs.model.foundation.semantic_sam.decoder import TOKENS, MaskDecoder, inverse_sigmoid
from combo_avs.model.foundation.semantic_sam.generator import LEVEL_TOKENS, SemanticSamConfig
from combo_avs.model.foundation.semantic_sam.network import SemanticSam, normalised


class Kept(NamedTuple):
    masks: Tensor  # bool [K, H, W]
    predicted_iou: Tensor  # float32 [K]
    stability: Tensor  # float32 [K]


def as_published(network: SemanticSam) -> SemanticSam:
    """A copy that reads its levels by grid sampling."""
    network = copy.deepcopy(network)
    for module in network.modules():
        if isinstance(module, DeformableAttention):
            module.sampler = deformable_sample
    return network


@torch.no_grad()
def published_masks(network: SemanticSam, frame: Tensor, config: SemanticSamConfig) -> Kept:
    """The masks of one frame, uint8 [H, W, 3], by the slow route. network: from `as_published`."""
    height, width = frame.shape[:2]
    points = torch.from_numpy(point_grid(config.points_per_side)).float().to(frame.device)
    tokens = [LEVEL_TOKENS[level] for level in config.levels]
    picture = None
    found: list[dict] = []
    for group in points.split(config.group_size):
        image = normalised(frame[None])  # again for every group
        if picture is None:
            picture = network.pixel_decoder(network.backbone(image))
        padding = (width / image.shape[3], height / image.shape[2])
        logits, ious = decode(network.decoder, *picture, group, padding)
        logits = logits.unflatten(1, (-1, TOKENS))[:, :, tokens].flatten(1, 2)
        logits = F.interpolate(logits, size=image.shape[2:], mode="bilinear", align_corners=False)
        logits = logits[:, :, :height, :width]
        logits = F.interpolate(logits, size=(height, width), mode="bicubic", align_corners=False, antialias=True)
        found.append(tested(logits[0], ious.view(-1, TOKENS)[:, tokens].flatten(), config))
    records = {key: torch.cat([part[key] for part in found]) for key in ("iou", "stability", "boxes")}
    coded = [code for part in found for code in part["coded"]]
    kept = nms(records["boxes"].float(), records["iou"], config.box_nms_thresh)
    masks = torch.zeros(len(kept), height, width, dtype=torch.bool)
    for mask, i in zip(masks, kept.tolist(), strict=True):
        mask.copy_(torch.from_numpy(amg.rle_to_mask(coded[i])))
    if config.min_mask_region_area > 0:
        cleaned = clean_and_suppress(masks, config.min_mask_region_area, config.box_nms_thresh)
        kept, masks = kept[cleaned.kept], cleaned.masks
    return Kept(masks, records["iou"][kept], records["stability"][kept])


def tested(logits_KHW: Tensor, iou_K: Tensor, config: SemanticSamConfig) -> dict:
    confident = (iou_K > config.pred_iou_thresh) | (config.pred_iou_thresh <= 0)
    logits_KHW, iou_K = logits_KHW[confident], iou_K[confident]
    stability = amg.calculate_stability_score(logits_KHW, 0.0, config.stability_score_offset)
    stable = stability >= config.stability_score_thresh
    masks, iou_K, stability = logits_KHW[stable] > 0, iou_K[stable], stability[stable]
    boxes = amg.batched_mask_to_box(masks)
    return {"iou": iou_K, "stability": stability, "boxes": boxes, "coded": amg.mask_to_rle_pytorch(masks)}


def decode(
    decoder: MaskDecoder, scales: list[Tensor], features: Tensor, points_P2: Tensor, padding: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Mask logits [1, Q, h, w] and predicted IoUs [1, Q] of one group; other layers' are made, and dropped."""
    start = decoder.encode_prompts(points_P2[None], padding)
    x, box = decoder.content().repeat(len(points_P2), 1)[None], start.box_GQ4
    memory = torch.cat([scale.flatten(2).transpose(1, 2) for scale in scales], dim=1)
    shapes = [tuple(scale.shape[-2:]) for scale in scales]
    states, boxes = [], [box]
    for layer in decoder.layers:
        pos = decoder.position(box)
        q = x + pos
        x = layer.self_norm(x + attention(layer.self_attention, q, q, x))
        x = layer.cross_attend(x, pos, box, layer.cross_attention.values(memory), shapes)
        box = decoder.refine(x, box)
        states.append(decoder.norm(x))
        boxes.append(box)
    outputs = []
    for state, before in zip(states, boxes, strict=False):
        h = decoder.norm(state)
        logits = torch.einsum("bqc,bchw->bqhw", decoder.mask_head(h), features)
        refined = (decoder.box_head(h) + inverse_sigmoid(before)).sigmoid()
        outputs.append((logits, decoder.iou_head(h)[..., 0], refined))
    return outputs[-1][:2]


def attention(module: Attention, q_BQC: Tensor, k_BQC: Tensor, v_BQC: Tensor) -> Tensor:
    """`nn.MultiheadAttention` with its weights written out."""
    projected = []
    for x, w, b in zip(
        (q_BQC, k_BQC, v_BQC), module.in_proj_weight.chunk(3), module.in_proj_bias.chunk(3), strict=True
    ):
        projected.append(F.linear(x, w, b).unflatten(-1, (module.heads, -1)).transpose(1, 2))
    q, k, v = projected
    weights = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(-1)
    return module.out_proj((weights @ v).transpose(1, 2).flatten(2))
