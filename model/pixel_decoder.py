"""The pixel decoder: Mask2Former's deformable encoder over strides 32 to 8, and one FPN step to stride 4.

Letters: B frames, C channels, H W height and width of the (padded) frame, L tokens of all levels together.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .deformable_attention import DeformableEncoderLayer, cell_centres
from .position_encoding import sine_position_encoding

GROUPS = 32  # of every GroupNorm here
POINTS = 4  # sampled per level and head


class PixelFeatures(NamedTuple):
    """What the pixel decoder gives: float32, C channels each.

    scales: [B, C, H/32, W/32], [B, C, H/16, W/16], [B, C, H/8, W/8]: keys and values of the transformer
    decoder.
    mask_features: [B, C, H/4, W/4].
    """

    scales: list[Tensor]
    mask_features: Tensor


class PixelDecoder(nn.Module):
    """Always computed in float32, also under autocast: sampling places lose too much in half precision."""

    def __init__(self, channels: list[int], width: int, heads: int, layers: int, ffn: int) -> None:
        """`channels` are those of the four incoming maps, stride 4 first."""
        super().__init__()
        coarse_to_fine = channels[:0:-1]
        levels = len(coarse_to_fine)
        self.input_proj = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, width, 1), nn.GroupNorm(GROUPS, width)) for c in coarse_to_fine
        )
        self.level_embed = nn.Parameter(torch.randn(levels, width))
        self.layers = nn.ModuleList(DeformableEncoderLayer(width, ffn, levels, heads, POINTS) for _ in range(layers))
        self.lateral = nn.Sequential(nn.Conv2d(channels[0], width, 1, bias=False), nn.GroupNorm(GROUPS, width))
        self.smooth = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False), nn.GroupNorm(GROUPS, width), nn.ReLU()
        )
        self.mask_features = nn.Conv2d(width, width, 1)
        for projection, _ in self.input_proj:
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)
        for conv in (self.lateral[0], self.smooth[0], self.mask_features):
            nn.init.kaiming_uniform_(conv.weight, a=1)
        nn.init.zeros_(self.mask_features.bias)

    def forward(self, maps: list[Tensor]) -> PixelFeatures:
        """`maps`: float [B, *, H/s, W/s] for strides s = 4, 8, 16, 32, in this order."""
        with torch.autocast(maps[0].device.type, enabled=False):
            finest, *deeper = [m.float() for m in maps]
            scales = self._encode(deeper[::-1])
            lateral = self.lateral(finest)
            upsampled = F.interpolate(scales[-1], size=lateral.shape[-2:], mode="bilinear", align_corners=False)
            return PixelFeatures(scales, self.mask_features(self.smooth(lateral + upsampled)))

    def _encode(self, maps: list[Tensor]) -> list[Tensor]:
        """Deformable encoder over `maps`, coarsest first; gives maps of the same sizes with C channels."""
        maps = [proj(m) for proj, m in zip(self.input_proj, maps, strict=True)]
        shapes = [tuple(m.shape[-2:]) for m in maps]
        x_BLC = torch.cat([m.flatten(2).transpose(1, 2) for m in maps], dim=1)
        position_LC = torch.cat(
            [
                sine_position_encoding(h, w, x_BLC.shape[-1], x_BLC.device).flatten(1).T + embed
                for (h, w), embed in zip(shapes, self.level_embed, strict=True)
            ]
        )
        reference = cell_centres(shapes, x_BLC.device)[None, :, None]
        for layer in self.layers:
            x_BLC = layer(x_BLC, position_LC, reference, shapes)
        parts = x_BLC.transpose(1, 2).split([h * w for h, w in shapes], dim=2)
        return [part.unflatten(2, shape) for part, shape in zip(parts, shapes, strict=True)]
