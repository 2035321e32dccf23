"""COMBO (Yang et al., CVPR 2024): audio-visual segmentation of video frames.

`COMBO.forward` reads as the paper's section 3: Siam-Encoder, pixel decoder, Bilateral-Fusion, and a masked
transformer decoder with audio-conditioned queries. Audio features (VGGish in the paper) are an input, so that they
can be computed once and cached. All frames of all clips form one batch; they are independent of each other, except
under audio_queries="published", where queries hear other frames of the batch.

Letters: B frames of all clips, C channels, H W height and width, D channels of the audio features, K classes.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import BadInput
from .backbones import checkpoint_stages
from .bilateral_fusion import FUSIONS
from .config import ModelConfig
from .decoder import MaskedDecoder, Predictions, maybe_checkpoint, mlp, query_width
from .pixel_decoder import EncoderConfig, PixelDecoder, PixelFeatures
from .random_numbers import Uniform
from .siam_encoder import SiamEncoder

PIXEL_MEAN = (123.675, 116.28, 103.53)  # ImageNet, RGB 0..255
PIXEL_STD = (58.395, 57.12, 57.375)
STRIDE = 32  # of the coarsest map: frames are padded to a multiple of it


class Encoded(NamedTuple):
    """Frames and Maskiges as the network sees them, before any sound. size: of the masks, without padding."""

    features: PixelFeatures
    size: tuple[int, int]


class COMBO(nn.Module):
    """The whole network; `num_classes` K counts background."""

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        """Random weights; nothing is downloaded. Raises `BadInput` naming the settings that do not fit together."""
        super().__init__()
        check_config(config, num_classes)
        c = config
        self.config, self.num_classes = config, num_classes
        self.siam_encoder = SiamEncoder(c.backbone, c.siam)
        encoder = EncoderConfig(c.width, c.heads, c.encoder_layers, c.encoder_ffn)
        self.pixel_decoder = PixelDecoder(self.siam_encoder.channels, encoder, c.mask_channels)
        self.fusion = FUSIONS[c.fusion](c.mask_channels, c.audio_dim, c.heads, c.fusion_residual)
        self.audio_mlp = mlp(c.audio_dim, c.audio_hidden, c.audio_hidden, query_width(c.width, c.queries))
        self.decoder = MaskedDecoder(config, num_classes)
        for name, parameter in self.named_parameters():
            if name.startswith(self.without_effect()):
                parameter.requires_grad_(False)
        self.checkpointing = False
        self.register_buffer("pixel_mean", torch.tensor(PIXEL_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(PIXEL_STD).view(3, 1, 1), persistent=False)

    def forward(
        self,
        frames_B3HW: Tensor,
        maskiges_B3HW: Tensor | None,
        audio_BD: Tensor,
        uniform: Uniform | None = None,
    ) -> Predictions:
        """Segment B frames, each with its Maskige and the audio features of its second.

        frames_B3HW, maskiges_B3HW: uint8 or float [B, 3, H, W], RGB 0..255, any H and W. With siam="none" Maskiges
        are ignored and may be None.
        audio_BD: float [B, D], D = config.audio_dim.
        uniform: random numbers for dropout and stochastic depth in training, a row per frame; None: torch's own.

        Frames are padded with zeros at the right and bottom to multiples of 32, after normalisation; masks are
        cropped to ceil(H/4), ceil(W/4). Raises ValueError for shapes that do not fit.
        """
        self._check_inputs(frames_B3HW, maskiges_B3HW, audio_BD)
        return self.decode(self.encode(frames_B3HW, maskiges_B3HW, uniform), audio_BD, uniform)

    def encode(self, frames_B3HW: Tensor, maskiges_B3HW: Tensor | None, uniform: Uniform | None = None) -> Encoded:
        """The first half of `forward`, without sound; inputs as there."""
        frames = self._normalise(frames_B3HW)
        maskiges = None if self.config.siam == "none" or maskiges_B3HW is None else self._normalise(maskiges_B3HW)
        maps = self.siam_encoder(frames, maskiges, uniform)
        features = maybe_checkpoint(self.pixel_decoder, maps, enable=self.checkpointing)
        height, width = frames_B3HW.shape[-2:]
        return Encoded(features, (-(-height // 4), -(-width // 4)))

    def decode(self, encoded: Encoded, audio_BD: Tensor, uniform: Uniform | None = None) -> Predictions:
        """The second half of `forward`."""
        (scales, mask_features), (height, width) = encoded
        mask_features, audio_BD = self.fusion(mask_features, audio_BD, uniform)
        logits, masks = self.decoder(scales, mask_features, self.audio_mlp(audio_BD))
        return Predictions(logits, masks[..., :height, :width])

    def attention(self, encoded: Encoded, audio_BD: Tensor) -> Tensor | None:
        """Where in each frame its sound attends, float [B, heads, ceil(H/4), ceil(W/4)]; see `NoFusion.attention_map`.

        None: the configured fusion has no attention.
        """
        (_, mask_features), (height, width) = encoded
        found = self.fusion.attention_map(mask_features, audio_BD)
        return None if found is None else found[..., :height, :width]

    def set_checkpointing(self, *, enable: bool) -> None:
        """Activation checkpointing: less memory, more time, same numbers."""
        self.checkpointing = self.decoder.checkpointing = enable
        for backbone in (self.siam_encoder.image_backbone, self.siam_encoder.maskige_backbone):
            if backbone is not None:
                checkpoint_stages(backbone, enable=enable)

    def without_effect(self) -> tuple[str, ...]:
        """Name prefixes of parameters that change no output of the configured network.

        They exist because published checkpoints have them, and are frozen so that optimisers and distributed
        training ignore them.
        """
        queries = self.config.queries
        names = ["fusion." + name for name in self.fusion.without_effect(audio_is_read=queries != "none")]
        names += ["decoder.query_feat."] if queries == "all" else []
        names += ["audio_mlp."] if queries == "none" else []
        return tuple(names)

    def _normalise(self, images_B3HW: Tensor) -> Tensor:
        height, width = images_B3HW.shape[-2:]
        x = (images_B3HW.float() - self.pixel_mean) / self.pixel_std
        return F.pad(x, (0, -width % STRIDE, 0, -height % STRIDE))

    def _check_inputs(self, frames: Tensor, maskiges: Tensor | None, audio: Tensor) -> None:
        if frames.ndim != 4 or frames.shape[1] != 3:
            raise ValueError(f"frames must be [B, 3, H, W], not {list(frames.shape)}")
        if self.config.siam != "none" and (maskiges is None or maskiges.shape != frames.shape):
            got = "missing" if maskiges is None else list(maskiges.shape)
            raise ValueError(f'siam="{self.config.siam}" needs Maskiges like the frames {list(frames.shape)}: {got}')
        if audio.shape != (len(frames), self.config.audio_dim):
            want = [len(frames), self.config.audio_dim]
            raise ValueError(f"audio features must be {want} for these frames, not {list(audio.shape)}")


def check_config(config: ModelConfig, num_classes: int) -> None:
    """Raises `BadInput` listing the settings that do not fit together."""
    problems = []
    if num_classes < 2:
        problems.append(f"{num_classes} classes: background and at least one more are needed")
    if config.width % config.heads:
        problems.append(f"width={config.width} is not divisible by heads={config.heads}")
    elif config.mask_channels % config.heads:
        problems.append(f"mask_dim={config.mask_dim} is not divisible by heads={config.heads}")
    if config.fusion == "audio" and config.queries == "none":
        problems.append('fusion="audio" with queries="none": nothing would use the fused audio')
    if problems:
        raise BadInput.listing("the model config does not fit together:", problems)
