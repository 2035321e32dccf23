"""Multi-scale deformable attention (Deformable DETR) in plain PyTorch: one implementation for every device.

Knows nothing of COMBO, so that other networks with the same operator share it.
Letters: B frames, Q queries, C channels, L tokens of all levels together, N heads, V levels, P points per
level and head, D = C / N channels of one head. "shapes" lists (H, W) of the levels, in token order.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shapes = Sequence[tuple[int, int]]


def deformable_sample(value_BLND: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Read every level at free places and add up what was read.

    value_BLND: float [B, L, N, D], the levels one behind the other, each row by row.
    locations: float [B, Q, N, V, P, 2]: x, y; 0..1 spans a level from edge to edge, outside of it lies zero.
    weights: float [B, Q, N, V, P].
    Gives [B, Q, N * D]. Sampling is bilinear, pixel centres at half cells (align_corners=False).
    """
    b, _, n, d = value_BLND.shape
    q = locations.shape[1]
    grids = (2 * locations - 1).permute(3, 0, 2, 1, 4, 5).flatten(1, 2)  # V, B * N, Q, P, 2
    weights = weights.permute(3, 0, 2, 1, 4).flatten(1, 2).unsqueeze(2)  # V, B * N, 1, Q, P
    levels = value_BLND.split([h * w for h, w in shapes], dim=1)
    reads = []
    for level, grid, weight, (h, w) in zip(levels, grids, weights, shapes, strict=True):
        image = level.permute(0, 2, 3, 1).reshape(b * n, d, h, w)
        read = F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        reads.append((read * weight).sum(-1))  # B * N, D, Q
    return torch.stack(reads).sum(0).view(b, n * d, q).transpose(1, 2)


def cell_centres(shapes: Shapes, device: torch.device | str | None = None) -> Tensor:
    """float32 [L, 2]: x, y of each token's cell centre, 0..1 over its own level."""
    centres = []
    for h, w in shapes:
        y = (torch.arange(h, dtype=torch.float32, device=device) + 0.5) / h
        x = (torch.arange(w, dtype=torch.float32, device=device) + 0.5) / w
        centres.append(torch.stack([x.repeat(h), y.repeat_interleave(w)], dim=-1))
    return torch.cat(centres)


class DeformableAttention(nn.Module):
    """Each query predicts where to look, near its reference, and how much each place counts."""

    def __init__(self, width: int, n_levels: int, n_heads: int, n_points: int) -> None:
        super().__init__()
        if width % n_heads:
            raise ValueError(f"width {width} is not divisible by {n_heads} heads")
        self.n_levels, self.n_heads, self.n_points = n_levels, n_heads, n_points
        self.sampling_offsets = nn.Linear(width, n_heads * n_levels * n_points * 2)
        self.attention_weights = nn.Linear(width, n_heads * n_levels * n_points)
        self.value_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """At first each head looks along its own compass direction, 1..P cells far, weighted evenly."""
        angles = torch.arange(self.n_heads, dtype=torch.float32) * (2 * math.pi / self.n_heads)
        directions = torch.stack([angles.cos(), angles.sin()], dim=-1)
        directions = directions / directions.abs().amax(-1, keepdim=True)
        distances = torch.arange(1, self.n_points + 1, dtype=torch.float32)
        offsets = directions[:, None, None, :] * distances[:, None]
        offsets = offsets.expand(-1, self.n_levels, -1, -1)
        with torch.no_grad():
            self.sampling_offsets.weight.zero_()
            self.sampling_offsets.bias.copy_(offsets.flatten())
            self.attention_weights.weight.zero_()
            self.attention_weights.bias.zero_()
        for projection in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)

    def forward(self, query_BQC: Tensor, reference: Tensor, value_BLC: Tensor, shapes: Shapes) -> Tensor:
        """[B, Q, C].

        reference: float [B or 1, Q, V or 1, 2 or 4]. Two numbers are a point x, y in 0..1, and offsets
        count cells of the level that is read. Four are a box, centre x, y, width, height in 0..1, and P
        offsets span half the box.
        """
        b, q, _ = query_BQC.shape
        grid = (b, q, self.n_heads, self.n_levels, self.n_points)
        offsets = self.sampling_offsets(query_BQC).view(*grid, 2)
        weights = self.attention_weights(query_BQC).view(*grid[:3], -1).softmax(-1).view(grid)
        if reference.shape[-1] == 2:
            # Filled on the device: a tensor made from a list would be copied there and stall it.
            cells = [offsets.new_full((1,), 1 / cells) for h, w in shapes for cells in (w, h)]
            step = torch.cat(cells).view(self.n_levels, 1, 2)
        else:
            step = reference[:, :, None, :, None, 2:] * (0.5 / self.n_points)
        locations = reference[:, :, None, :, None, :2] + offsets * step
        value_BLND = self.value_proj(value_BLC).unflatten(-1, (self.n_heads, -1))
        return self.output_proj(deformable_sample(value_BLND, shapes, locations, weights))


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention, then a feed-forward network; each followed by residual and LayerNorm."""

    def __init__(self, width: int, ffn: int, n_levels: int, n_heads: int, n_points: int) -> None:
        super().__init__()
        self.self_attn = DeformableAttention(width, n_levels, n_heads, n_points)
        self.norm1 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, ffn)
        self.linear2 = nn.Linear(ffn, width)
        self.norm2 = nn.LayerNorm(width)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(self, x_BLC: Tensor, position: Tensor, reference: Tensor, shapes: Shapes) -> Tensor:
        x_BLC = self.norm1(x_BLC + self.self_attn(x_BLC + position, reference, x_BLC, shapes))
        return self.norm2(x_BLC + self.linear2(F.relu(self.linear1(x_BLC))))
