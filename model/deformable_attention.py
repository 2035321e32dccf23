"""Multi-scale deformable attention (Deformable DETR) in plain PyTorch, for every device.

Knows nothing of COMBO, so that other networks with the same operator share it. Reading the levels has two forms with
one contract: `deformable_sample`, and `deformable_gather` for inference, which is several times faster.
Letters: B frames, Q queries, C channels, L tokens of all levels together, N heads, V levels, P points per
level and head, D = C / N channels of one head. "shapes" lists (H, W) of the levels, in token order.
"""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shapes = Sequence[tuple[int, int]]
Sampler = Callable[[Tensor, Shapes, Tensor, Tensor], Tensor]  # as `deformable_sample`


def deformable_sample(value_BLND: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """Read every level at free places and add up what was read.

    value_BLND: float [B, L, N, D], the levels one behind the other, each row by row.
    locations: float [B, Q, N, V, P, 2]: x, y; 0..1 spans a level from edge to edge, outside of it lies zero.
    weights: float [B, Q, N, V, P].
    Returns [B, Q, N * D]. Sampling is bilinear, pixel centres at half cells (align_corners=False).
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


def deformable_gather(value_BLND: Tensor, shapes: Shapes, locations: Tensor, weights: Tensor) -> Tensor:
    """As `deformable_sample`, equal but for rounding, for inference: its gradient is not what it is fast at.

    Grid sampling reads every channel of a place from elsewhere in memory. Here a place is four rows of one table, and
    an embedding bag gathers, weighs and adds up all rows of a query at once. On a CPU that takes a fifth of the time.
    """
    b, _, n, _ = value_BLND.shape
    levels = value_BLND.split([h * w for h, w in shapes], dim=1)
    # Zeros around each level, two wide at the far ends, so that no corner of a clamped place lies outside.
    padded = [
        F.pad(x.unflatten(1, hw), (0, 0, 0, 0, 1, 2, 1, 2)).flatten(1, 2) for x, hw in zip(levels, shapes, strict=True)
    ]
    table_BLND = torch.cat(padded, dim=1)
    starts = list(accumulate((x.shape[1] for x in padded), initial=0))
    device = value_BLND.device
    height, width, start = torch.tensor(
        [(h, w, first) for (h, w), first in zip(shapes, starts[:-1], strict=True)], dtype=torch.int32, device=device
    ).T[..., None]  # each V, 1
    frame = torch.arange(b, dtype=torch.int32, device=device).view(b, 1, 1, 1, 1) * table_BLND.shape[1]
    head = torch.arange(n, dtype=torch.int32, device=device).view(n, 1, 1)

    x, y = locations.unbind(-1)  # B, Q, N, V, P
    zero = locations.new_zeros(())  # `fmax` takes it for NaN as well: an index must be one, whatever the network says
    x = torch.fmin(torch.fmax(x * width + 0.5, zero), width + 1.0)
    y = torch.fmin(torch.fmax(y * height + 0.5, zero), height + 1.0)
    left, top = x.int(), y.int()
    x, y = x - left, y - top
    corner = (top * (width + 3) + left + (frame + start)) * n + head
    below = (width + 3) * n
    lower = weights * y
    upper = weights - lower
    lower_right, upper_right = lower * x, upper * x
    rows = (corner, corner + n, corner + below, corner + below + n)
    row_weights = (upper - upper_right, upper_right, lower - lower_right, lower_right)
    indices, row_weights = (
        torch.cat([c.flatten(3) for c in four], dim=3).flatten(0, 2) for four in (rows, row_weights)
    )
    table = table_BLND.flatten(0, 2)
    read = F.embedding_bag(indices, table, per_sample_weights=row_weights.to(table.dtype), mode="sum")
    return read.view(*locations.shape[:2], -1)


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

    def __init__(
        self, width: int, n_levels: int, n_heads: int, n_points: int, sampler: Sampler = deformable_sample
    ) -> None:
        super().__init__()
        if width % n_heads:
            raise ValueError(f"width {width} is not divisible by {n_heads} heads")
        self.n_levels, self.n_heads, self.n_points = n_levels, n_heads, n_points
        self.sampler = sampler
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
        return self.attend(query_BQC, reference, self.values(value_BLC), shapes)

    def values(self, value_BLC: Tensor) -> Tensor:
        """[B, L, N, D]: what `attend` reads. No query enters, so several calls of `attend` can share it."""
        return self.value_proj(value_BLC).unflatten(-1, (self.n_heads, -1))

    def attend(self, query_BQC: Tensor, reference: Tensor, value_BLND: Tensor, shapes: Shapes) -> Tensor:
        """As `forward`, from the `values` of the memory."""
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
        return self.output_proj(self.sampler(value_BLND, shapes, locations, weights))


class DeformableEncoderLayer(nn.Module):
    """Deformable self-attention, then a feed-forward network; each followed by residual and LayerNorm."""

    def __init__(
        self,
        width: int,
        ffn: int,
        n_levels: int,
        n_heads: int,
        n_points: int,
        sampler: Sampler = deformable_sample,
    ) -> None:
        super().__init__()
        self.self_attn = DeformableAttention(width, n_levels, n_heads, n_points, sampler)
        self.norm1 = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, ffn)
        self.linear2 = nn.Linear(ffn, width)
        self.norm2 = nn.LayerNorm(width)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(self, x_BLC: Tensor, position: Tensor, reference: Tensor, shapes: Shapes) -> Tensor:
        x_BLC = self.norm1(x_BLC + self.self_attn(x_BLC + position, reference, x_BLC, shapes))
        return self.norm2(x_BLC + self.linear2(F.relu(self.linear1(x_BLC))))
