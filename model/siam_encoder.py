"""The Siam-Encoder: frames and Maskiges go through twin backbones and are joined channel by channel.

Letters: B frames, C channels, H W height and width.
"""

import torch
from torch import Tensor, nn

from .backbones import BACKBONES, draw_paths
from .random_numbers import Uniform


class ChannelWeightedBlock(nn.Module):
    """How much each channel of a Maskige map counts, judged from that map's mean (squeeze and excitation).

    The paper's Eq. 3 has one linear map; the published code has this bottleneck of C // 16 and a sigmoid.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, channels // 16)
        self.fc2 = nn.Linear(channels // 16, channels)

    def forward(self, maskige_BCHW: Tensor) -> Tensor:
        """float [B, C, 1, 1] in 0..1."""
        mean_BC = maskige_BCHW.mean(dim=(2, 3))
        return self.fc2(self.fc1(mean_BC).relu()).sigmoid()[:, :, None, None]


class SiamEncoder(nn.Module):
    """Four maps of each frame, enriched by the same maps of its Maskige.

    siam "separate": two backbones (published). "shared": one backbone sees frames and Maskiges, each
    normalised as an image. "none": frames alone.
    """

    def __init__(self, backbone: str, siam: str) -> None:
        super().__init__()
        build = BACKBONES[backbone]
        self.image_backbone, self.channels = build()
        self.maskige_backbone = build()[0] if siam == "separate" else None
        self.gates = None if siam == "none" else nn.ModuleList(ChannelWeightedBlock(c) for c in self.channels)

    def forward(
        self, frames_B3HW: Tensor, maskiges_B3HW: Tensor | None, uniform: Uniform | None = None
    ) -> list[Tensor]:
        """Maps at strides 4, 8, 16, 32 with `self.channels`; inputs normalised, H and W multiples of 32.

        uniform: draws for stochastic depth in training, a row for each frame; None: torch's own.
        """
        if self.training:
            self._draw(uniform, len(frames_B3HW))
        if self.gates is None:
            return self.image_backbone(frames_B3HW)
        if self.maskige_backbone is None:
            both = self.image_backbone(torch.cat([frames_B3HW, maskiges_B3HW]))
            image_maps, maskige_maps = zip(*(m.chunk(2) for m in both), strict=True)
        else:
            image_maps = self.image_backbone(frames_B3HW)
            maskige_maps = self.maskige_backbone(maskiges_B3HW)
        joined = zip(self.gates, image_maps, maskige_maps, strict=True)
        return [image + gate(maskige) * maskige for gate, image, maskige in joined]

    def _draw(self, uniform: Uniform | None, frames: int) -> None:
        if self.gates is not None and self.maskige_backbone is None and uniform is not None:
            draw_paths(
                self.image_backbone,
                lambda shape: torch.cat([uniform((frames, *shape[1:])) for _ in range(2)]),
                2 * frames,
            )
            return
        draw_paths(self.image_backbone, uniform, frames)
        if self.maskige_backbone is not None:
            draw_paths(self.maskige_backbone, uniform, frames)
