"""The pixel decoder: Mask2Former's deformable encoder over strides 32 to 8, and one FPN step to stride 4.

Semantic-SAM has the same one with other options.
Letters: B frames, C channels, H W height and width of the (padded) frame, L tokens of all levels together.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .deformable_attention import DeformableEncoderLayer, Sampler, cell_centres, deformable_sample
from .position_encoding import sine_position_encoding

GROUPS = 32  # of every GroupNorm here
POINTS = 4  # sampled per level and head
# Keys of the released pixel decoders and ours, for `weights.state.rename_keys`.
MASK2FORMER_KEYS = [
    ("transformer.level_embed", "level_embed"),
    ("transformer.encoder.layers.*", "layers.*"),
    ("input_proj.*", "input_proj.*"),
    ("adapter_1.norm.*", "lateral.1.*"),
    ("adapter_1.*", "lateral.0.*"),
    ("layer_1.norm.*", "smooth.1.*"),
    ("layer_1.*", "smooth.0.*"),
    ("mask_features.*", "mask_features.*"),
]


@dataclass(frozen=True)
class EncoderConfig:
    """The deformable encoder.

    width: C. ffn: hidden channels of the feed-forward networks.
    extra_level: one more level, of stride 64, made from the map of stride 32.
    finest_first: order of the levels, and so of the parameters that belong to them; else coarsest first.
    """

    width: int
    heads: int
    layers: int
    ffn: int
    extra_level: bool = False
    finest_first: bool = False
    sampler: Sampler = deformable_sample


class PixelFeatures(NamedTuple):
    """Output of the pixel decoder, float32.

    scales: [B, C, H/32, W/32], [B, C, H/16, W/16], [B, C, H/8, W/8]: keys and values of the transformer
    decoder. With an extra level, [B, C, H/64, W/64], rounded up, comes first.
    mask_features: [B, mask_dim, H/4, W/4].
    """

    scales: list[Tensor]
    mask_features: Tensor


class PixelDecoder(nn.Module):
    """Always computed in float32, also under autocast: sampling locations need the precision."""

    def __init__(self, channels: list[int], encoder: EncoderConfig, mask_dim: int) -> None:
        """channels: of the four input maps, stride 4 first. mask_dim: channels of the mask features."""
        super().__init__()
        c, width = encoder, encoder.width
        self.extra_level, self.finest_first = c.extra_level, c.finest_first
        coarse_to_fine = [nn.Conv2d(n, width, 1) for n in channels[:0:-1]]
        if c.extra_level:
            coarse_to_fine.insert(0, nn.Conv2d(channels[-1], width, 3, stride=2, padding=1))
        levels = self._ordered(coarse_to_fine)
        self.input_proj = nn.ModuleList(nn.Sequential(conv, nn.GroupNorm(GROUPS, width)) for conv in levels)
        self.level_embed = nn.Parameter(torch.randn(len(levels), width))
        self.layers = nn.ModuleList(
            DeformableEncoderLayer(width, c.ffn, len(levels), c.heads, POINTS, c.sampler) for _ in range(c.layers)
        )
        lateral = nn.Conv2d(channels[0], width, 1, bias=False)
        smooth = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.lateral = nn.Sequential(lateral, nn.GroupNorm(GROUPS, width))
        self.smooth = nn.Sequential(smooth, nn.GroupNorm(GROUPS, width), nn.ReLU())
        self.mask_features = nn.Conv2d(width, mask_dim, 1)
        for conv in levels:
            nn.init.xavier_uniform_(conv.weight)
        for conv in (lateral, smooth, self.mask_features):
            nn.init.kaiming_uniform_(conv.weight, a=1)
        for conv in (*levels, self.mask_features):
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)

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
        """Coarsest first to the encoder's order, or back."""
        return levels[::-1] if self.finest_first else levels

    def _encode(self, maps: list[Tensor]) -> list[Tensor]:
        """The deformable encoder; `maps` and result in the order of its levels."""
        maps = [proj(m) for proj, m in zip(self.input_proj, maps, strict=True)]
        shapes = [(m.shape[-2], m.shape[-1]) for m in maps]
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
