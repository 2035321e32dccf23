"""Semantic-SAM's mask decoder: every click becomes six queries, one per granularity, which attend to the image.

The results are those of the published decoder on a grid of clicks, in fewer FLOPs: heads run for the wanted
granularities after the last layer only, other queries stop before it, and image-independent work is done once
(`MaskDecoder.encode_prompts`).
Letters: B frames, G groups of clicks per frame, P clicks per group, S granularities, Q = P * S queries per group,
click by click, C channels, L positions of all levels together, N heads, D = C / N, H W the stride-4 map.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...decoder import Attention, mlp
from ...deformable_attention import DeformableAttention, Shapes, deformable_gather

TOKENS = 6  # S, the mask tokens
CLICK_SIZE = 0.005  # width and height of the box that a click becomes, as part of the frame
SAMPLED = 4  # points per level and head


class Prompts(NamedTuple):
    """Queries before their first cross-attention: the same for every image of a size."""

    x_GQC: Tensor
    pos_GQC: Tensor
    box_GQ4: Tensor


class Memory(NamedTuple):
    """What the queries attend to: for each layer its `DeformableAttention.values`, float [B, L, N, D]."""

    values: list[Tensor]
    shapes: Shapes


class DecoderLayer(nn.Module):
    """Self-attention, deformable cross-attention, feed-forward; each followed by residual and LayerNorm."""

    def __init__(self, width: int, heads: int, ffn: int, levels: int) -> None:
        super().__init__()
        self.self_attention = Attention(width, heads)
        self.self_norm = nn.LayerNorm(width)
        self.cross_attention = DeformableAttention(width, levels, heads, SAMPLED, deformable_gather)
        self.cross_norm = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, ffn)
        self.linear2 = nn.Linear(ffn, width)
        self.ffn_norm = nn.LayerNorm(width)

    def self_attend(self, x_BQC: Tensor, pos: Tensor, all_x: Tensor, all_pos: Tensor) -> Tensor:
        """The queries `x_BQC` attend to all of their group, other clicks included, as published."""
        seen = self.self_attention(x_BQC + pos, all_x + all_pos, all_x)
        return self.self_norm(x_BQC + seen)

    def cross_attend(self, x_BQC: Tensor, pos: Tensor, box: Tensor, values: Tensor, shapes: Shapes) -> Tensor:
        """[B, Q, C]; the Q here may be those of several groups."""
        seen = self.cross_attention.attend(x_BQC + pos, box[:, :, None], values, shapes)
        x_BQC = self.cross_norm(x_BQC + seen)
        return self.ffn_norm(x_BQC + self.linear2(F.relu(self.linear1(x_BQC))))


class MaskDecoder(nn.Module):
    def __init__(self, width: int, heads: int, layers: int, ffn: int, levels: int) -> None:
        super().__init__()
        self.mask_tokens = nn.Embedding(TOKENS, width)
        self.click_embed = nn.Embedding(2, width)  # row 1 belongs to box prompts
        self.label_embed = nn.Embedding(2, width)  # row 1 belongs to box prompts
        self.layers = nn.ModuleList(DecoderLayer(width, heads, ffn, levels) for _ in range(layers))
        self.position_head = mlp(2 * width, width, width)
        self.box_head = mlp(width, width, width, 4)
        self.norm = nn.LayerNorm(width)
        self.iou_head = mlp(width, width, width, 1)
        self.mask_head = mlp(width, width, width, width)

    def encode_prompts(self, points_GP2: Tensor, padding: tuple[float, float]) -> Prompts:
        """Image-independent work.

        points_GP2: float32, x, y in 0..1 of the frame. padding: width and height of the frame as part of the padded
        one, which is what the network sees.
        """
        (first, *_) = self._layers()
        box_GP4 = torch.cat([points_GP2, torch.full_like(points_GP2, CLICK_SIZE)], dim=-1)
        box_GP4 = box_GP4 * box_GP4.new_tensor([*padding, *padding])
        box_GQ4 = inverse_sigmoid(box_GP4).sigmoid().repeat_interleave(TOKENS, dim=1)
        x_GQC = self.content().repeat(*points_GP2.shape[:2], 1)
        pos_GQC = self.position(box_GQ4)
        return Prompts(first.self_attend(x_GQC, pos_GQC, x_GQC, pos_GQC), pos_GQC, box_GQ4)

    def content(self) -> Tensor:
        """[S, C]: the initial queries of a click, wherever it is."""
        return self.label_embed.weight[0] + self.click_embed.weight[0] + self.mask_tokens.weight

    def position(self, box: Tensor) -> Tensor:
        """[..., C] from boxes [..., 4]."""
        return self.position_head(sine_encoding(box, self.norm.normalized_shape[0] // 2))

    def refine(self, x: Tensor, box: Tensor) -> Tensor:
        """Boxes [..., 4], refined by their queries [..., C]."""
        return (self.box_head(x).float() + inverse_sigmoid(box)).sigmoid()

    def _layers(self) -> list[DecoderLayer]:
        return [layer for layer in self.layers if isinstance(layer, DecoderLayer)]

    def prepare_image(self, scales: list[Tensor]) -> Memory:
        """Per-image state shared by all prompts. scales: float [B, C, h, w], coarsest first, of the pixel decoder."""
        x_BLC = torch.cat([scale.flatten(2).transpose(1, 2) for scale in scales], dim=1)
        values = [layer.cross_attention.values(x_BLC) for layer in self._layers()]
        return Memory(values, [(scale.shape[2], scale.shape[3]) for scale in scales])

    def forward(self, prompts: Prompts, memory: Memory, tokens: list[int]) -> Tensor:
        """float [B, G, P * len(tokens), C]: the queries of the wanted granularities, click by click; ready for heads.

        tokens: indices of mask tokens, in the order wanted.
        """
        b, (g, q, _) = len(memory.values[0]), prompts.x_GQC.shape
        wanted = torch.tensor(tokens, device=prompts.x_GQC.device).repeat(q // TOKENS)
        wanted = wanted + torch.arange(q // TOKENS, device=wanted.device).repeat_interleave(len(tokens)) * TOKENS
        x, pos, box = (part.expand(b, *part.shape) for part in prompts)  # B, G, Q, *
        for i, (layer, values) in enumerate(zip(self._layers(), memory.values, strict=True)):
            if i > 0:
                box = self.refine(x, box)
                pos = self.position(box)
            all_x, all_pos = x, pos
            if i == len(self.layers) - 1:
                x, pos, box = x[:, :, wanted], pos[:, :, wanted], box[:, :, wanted]
            if i > 0:
                x = layer.self_attend(*(part.flatten(0, 1) for part in (x, pos, all_x, all_pos)))
            x = x.reshape(b, -1, x.shape[-1])  # the groups of a frame share its memory
            x = layer.cross_attend(x, pos.flatten(1, 2), box.flatten(1, 2), values, memory.shapes).unflatten(1, (g, -1))
        return self.norm(self.norm(x))  # twice, as published

    def ious(self, h: Tensor) -> Tensor:
        """float32 [...]: predicted IoU of the masks of queries [..., C], about 0..1 but not bounded."""
        return self.iou_head(h)[..., 0].float()

    def logits(self, h_KC: Tensor, mask_features_CHW: Tensor) -> Tensor:
        """float32 [K, H, W]: mask logits of K queries."""
        return (self.mask_head(h_KC) @ mask_features_CHW.flatten(1)).float().unflatten(1, mask_features_CHW.shape[1:])


def sine_encoding(box: Tensor, channels: int) -> Tensor:
    """float32 [..., 4 * channels] of boxes [..., 4] in 0..1: y, x, w, h, each as pairs of sine and cosine."""
    y_x_w_h = box[..., [1, 0, 2, 3], None] * (2 * math.pi)
    pair = torch.arange(channels // 2, dtype=torch.float32, device=box.device)
    angle = y_x_w_h / 10000 ** (2 * pair / channels)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-3)


def inverse_sigmoid(p: Tensor, smallest: float = 1e-5) -> Tensor:
    p = p.clamp(0, 1)
    return torch.log(p.clamp(min=smallest) / (1 - p).clamp(min=smallest))
