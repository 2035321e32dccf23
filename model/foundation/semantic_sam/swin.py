"""The Swin Transformer (Liu et al., ICCV 2021) as a backbone for dense prediction: maps at strides 4, 8, 16 and 32.

Written out here because timm's rolls the map before it pads it, so its windows differ wherever a side is not a multiple
of the window. Parameter names are those of the authors' release. Inference only: there is no drop path.
Letters: B frames, C channels, H W height and width of a map, N heads, L tokens of one window, M windows of one map.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRIDE = 4  # of the patch embedding
OTHER_REGION = -100.0  # added to attention between pixels that only the cyclic shift made neighbours


class PatchEmbedding(nn.Module):
    """Patches of 4 x 4 pixels as tokens."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, STRIDE, stride=STRIDE)
        self.norm = nn.LayerNorm(width)

    def forward(self, frames_B3HW: Tensor) -> Tensor:
        """[B, H/4, W/4, C]."""
        return self.norm(self.proj(frames_B3HW).permute(0, 2, 3, 1))


class WindowAttention(nn.Module):
    """Attention within windows, with a learned bias for each relative position of two tokens."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, self.heads))
        self.relative_position_index: Tensor
        self.register_buffer("relative_position_index", relative_positions(window), persistent=False)

    def forward(self, windows: Tensor, mask_MLL: Tensor | None) -> Tensor:
        """[B, M, L, C] to [B, M, L, C]; `mask_MLL` is added to the attention scores of all heads."""
        b, m, tokens, _ = windows.shape
        q, k, v = self.qkv(windows).view(b * m, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        bias_NLL = self.relative_position_bias_table[self.relative_position_index].permute(2, 0, 1)
        if mask_MLL is not None:
            bias = (bias_NLL + mask_MLL[:, None]).expand(b, -1, -1, -1, -1).flatten(0, 1)
        else:
            bias = bias_NLL[None]
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
        return self.proj(seen.transpose(1, 2).reshape(windows.shape))


class Block(nn.Module):
    """Window attention and a feed-forward network, each after a LayerNorm and with a residual."""

    def __init__(self, width: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads, window)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width), "fc2": nn.Linear(4 * width, width)})

    def forward(self, x_BHWC: Tensor, mask_MLL: Tensor) -> Tensor:
        """[B, H, W, C]. mask_MLL: `shift_mask` of this size; it is used if the block shifts."""
        x_BHWC = x_BHWC + self._attend(self.norm1(x_BHWC), mask_MLL if self.shift else None)
        hidden = F.gelu(self.mlp["fc1"](self.norm2(x_BHWC)))
        return x_BHWC + self.mlp["fc2"](hidden)

    def _attend(self, x_BHWC: Tensor, mask_MLL: Tensor | None) -> Tensor:
        """Zeros that pad windows take part as keys, as in training."""
        _, height, width, _ = x_BHWC.shape
        x_BHWC = F.pad(x_BHWC, (0, 0, 0, -width % self.window, 0, -height % self.window))
        padded = x_BHWC.shape[1], x_BHWC.shape[2]
        if self.shift:
            x_BHWC = x_BHWC.roll((-self.shift, -self.shift), (1, 2))
        x_BHWC = from_windows(self.attn(to_windows(x_BHWC, self.window), mask_MLL), padded, self.window)
        if self.shift:
            x_BHWC = x_BHWC.roll((self.shift, self.shift), (1, 2))
        return x_BHWC[:, :height, :width]


class PatchMerging(nn.Module):
    """Four neighbours become one token of twice the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """[B, H/2, W/2, 2C], sizes rounded up."""
        _, height, width, _ = x_BHWC.shape
        x_BHWC = F.pad(x_BHWC, (0, 0, 0, width % 2, 0, height % 2))
        corners = [x_BHWC[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(corners, dim=-1)))


class Stage(nn.Module):
    """Blocks of one width; every second one shifts its windows by half."""

    def __init__(self, width: int, heads: int, depth: int, window: int, *, merges: bool) -> None:
        super().__init__()
        self.window = window
        self.blocks = nn.ModuleList(Block(width, heads, window, window // 2 * (i % 2)) for i in range(depth))
        self.downsample = PatchMerging(width) if merges else None

    def forward(self, x_BHWC: Tensor) -> Tensor:
        """The output of the blocks, before merging."""
        _, height, width, _ = x_BHWC.shape
        mask_MLL = shift_mask(height, width, self.window, x_BHWC.device)
        for block in self.blocks:
            x_BHWC = block(x_BHWC, mask_MLL)
        return x_BHWC


class Swin(nn.Module):
    def __init__(self, width: int, heads: int, depths: tuple[int, ...], window: int) -> None:
        """width, heads: those of the first stage; each next one has twice as many. depths: blocks of the stages."""
        super().__init__()
        self.channels = [width << stage for stage in range(len(depths))]
        self.patch_embed = PatchEmbedding(width)
        self.layers = nn.ModuleList(
            Stage(width << i, heads << i, depth, window, merges=i < len(depths) - 1) for i, depth in enumerate(depths)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in self.channels)

    def forward(self, frames_B3HW: Tensor) -> list[Tensor]:
        """float [B, C, H/s, W/s] for strides s = 4, 8, 16, 32; frames normalised, H and W multiples of 32."""
        x_BHWC = self.patch_embed(frames_B3HW)
        maps = []
        for stage, norm in zip(self.layers, self.norms, strict=True):
            assert isinstance(stage, Stage)
            x_BHWC = stage(x_BHWC)
            maps.append(norm(x_BHWC).permute(0, 3, 1, 2))
            if stage.downsample is not None:
                x_BHWC = stage.downsample(x_BHWC)
        return maps


def to_windows(x_BHWC: Tensor, window: int) -> Tensor:
    """[B, M, L, C], windows and their pixels row by row; sides are multiples of `window`."""
    windows = x_BHWC.unflatten(1, (-1, window)).unflatten(3, (-1, window)).transpose(2, 3)
    return windows.flatten(3, 4).flatten(1, 2)


def from_windows(windows: Tensor, size: tuple[int, int], window: int) -> Tensor:
    """The inverse of `to_windows`: [B, H, W, C] of `size`."""
    rows = windows.unflatten(2, (window, window)).unflatten(1, (size[0] // window, size[1] // window))
    return rows.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def relative_positions(window: int) -> Tensor:
    """int64 [L, L]: for each query and key of a window the row of the bias table, which lists (dy, dx) row by row."""
    y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    positions = torch.stack([y, x], dim=-1).flatten(0, 1)
    dy, dx = (positions[:, None] - positions[None] + window - 1).unbind(-1)
    return dy * (2 * window - 1) + dx


def shift_mask(height: int, width: int, window: int, device: torch.device) -> Tensor:
    """float32 [M, L, L]: `OTHER_REGION` between tokens that are not neighbours in the unshifted map, else 0."""
    strips = []
    for side in (height, width):
        at = torch.arange(side + -side % window, device=device)
        strips.append((at >= len(at) - window).int() + (at >= len(at) - window // 2).int())
    region_HW = strips[0][:, None] * 3 + strips[1]
    region_ML = to_windows(region_HW[None, :, :, None], window)[0, :, :, 0]
    other = region_ML[:, :, None] != region_ML[:, None]
    return torch.where(other, OTHER_REGION, 0.0)
