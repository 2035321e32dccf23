"""The Siam-Encoder: twin backbones for frames and Maskiges, whose maps are added with channel weights.

Letters: B frames, C channels, H W height and width.
"""

import torch
from torch import Tensor, nn

from .backbones import BACKBONES, set_drop_path
from .random_numbers import Uniform


class ChannelWeightedBlock(nn.Module):
    """Channel weights of a Maskige map from its mean over pixels (squeeze and excitation).

    The paper's Eq. 3 has one linear layer; the published code has this bottleneck of C // 16 and a sigmoid.
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
    """Four feature maps per frame, fused with those of its Maskige.

    siam "separate": two backbones (published). "shared": one for frames and Maskiges. "none": frames only.
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

        uniform: random numbers for stochastic depth in training, a row per frame; None: torch's own.
        """
        if self.training:
            self._set_drop_path(uniform, len(frames_B3HW))
        if self.gates is None or maskiges_B3HW is None:
            return self.image_backbone(frames_B3HW)
        if self.maskige_backbone is None:
            both = self.image_backbone(torch.cat([frames_B3HW, maskiges_B3HW]))
            image_maps, maskige_maps = zip(*(m.chunk(2) for m in both), strict=True)
        else:
            image_maps = self.image_backbone(frames_B3HW)
            maskige_maps = self.maskige_backbone(maskiges_B3HW)
        joined = zip(self.gates, image_maps, maskige_maps, strict=True)
        return [image + gate(maskige) * maskige for gate, image, maskige in joined]

    def _set_drop_path(self, uniform: Uniform | None, frames: int) -> None:
        if self.maskige_backbone is not None:
            set_drop_path(self.image_backbone, uniform, frames)
            set_drop_path(self.maskige_backbone, uniform, frames)
        elif self.gates is None or uniform is None:
            set_drop_path(self.image_backbone, uniform, frames)
        else:  # one pass over frames and Maskiges, each with its own numbers
            set_drop_path(
                self.image_backbone,
                lambda shape, of=uniform: torch.cat([of((frames, *shape[1:])) for _ in range(2)]),
                2 * frames,
            )
