"""The pixel decoder: Mask2Former's deformable encoder over strides 32 to 8, and one FPN step to stride 4.

COMBO's; Semantic-SAM's differs in what the arguments say.
Letters: B frames, C channels, H W height and width of the (padded) frame, L tokens of all levels together.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .deformable_attention import DeformableEncoderLayer, Sampler, cell_centres, deformable_sample
from .position_encoding import sine_position_encoding

GROUPS = 32  # of every GroupNorm here
POINTS = 4  # sampled per level and head


class PixelFeatures(NamedTuple):
    """What the pixel decoder gives: float32, C channels each.

    scales: [B, C, H/32, W/32], [B, C, H/16, W/16], [B, C, H/8, W/8]: keys and values of the transformer
    decoder. With an extra level, [B, C, H/64, W/64], rounded up, stands before them.
    mask_features: [B, C, H/4, W/4].
    """

    scales: list[Tensor]
    mask_features: Tensor


class PixelDecoder(nn.Module):
    """Always computed in float32, also under autocast: sampling places lose too much in half precision."""

    def __init__(
        self,
        channels: list[int],
        width: int,
        heads: int,
        layers: int,
        ffn: int,
        extra_level: bool = False,
        finest_first: bool = False,
        sampler: Sampler = deformable_sample,
    ) -> None:
        """`channels` are those of the four incoming maps, stride 4 first.

        extra_level: the encoder also gets a level of stride 64, made from the map of stride 32.
        finest_first: the order of the encoder's levels, and so of its parameters; else coarsest first.
        """
        super().__init__()
        self.extra_level, self.finest_first = extra_level, finest_first
        coarse_to_fine = [nn.Conv2d(c, width, 1) for c in channels[:0:-1]]
        if extra_level:
            coarse_to_fine.insert(0, nn.Conv2d(channels[-1], width, 3, stride=2, padding=1))
        levels = len(coarse_to_fine)
        self.input_proj = nn.ModuleList(
            nn.Sequential(conv, nn.GroupNorm(GROUPS, width)) for conv in self._ordered(coarse_to_fine)
        )
        self.level_embed = nn.Parameter(torch.randn(levels, width))
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(width, ffn, levels, heads, POINTS, sampler) for _ in range(layers)
        )
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
            coarse_to_fine = [deeper[-1]] * self.extra_level + deeper[::-1]
            scales = self._ordered(self._encode(self._ordered(coarse_to_fine)))
            lateral = self.lateral(finest)
            upsampled = F.interpolate(scales[-1], size=lateral.shape[-2:], mode="bilinear", align_corners=False)
            return PixelFeatures(scales, self.mask_features(self.smooth(lateral + upsampled)))

    def _ordered(self, levels: list) -> list:
        """From coarsest first to the order of the encoder's levels, or back."""
        return levels[::-1] if self.finest_first else levels

    def _encode(self, maps: list[Tensor]) -> list[Tensor]:
        """Deformable encoder over `maps`, in the order of its levels; gives maps of the projections' sizes."""
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
