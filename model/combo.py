"""COMBO (Yang et al., CVPR 2024): audio-visual segmentation of video frames.

A forward pass reads as the paper's section 3: Siam-Encoder, pixel decoder, Bilateral-Fusion, and a
transformer decoder whose queries carry the sound. Audio features come from outside (VGGish in the paper),
so that they can be computed once and kept. Frames of all clips form one batch; no step mixes them, except
under audio_queries="published".

Letters: B frames of all clips, C channels, H W height and width, D width of the audio features, K classes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import BadInput
from .backbones import checkpoint_stages
from .bilateral_fusion import FUSIONS
from .config import ModelConfig
from .decoder import MaskedDecoder, Predictions, maybe_checkpoint, mlp, query_width
from .pixel_decoder import PixelDecoder
from .random_numbers import Uniform
from .siam_encoder import SiamEncoder

PIXEL_MEAN = (123.675, 116.28, 103.53)  # ImageNet, RGB 0..255
PIXEL_STD = (58.395, 57.12, 57.375)
STRIDE = 32  # of the coarsest map: frames are padded to a multiple of it


class COMBO(nn.Module):
    """The whole network; `num_classes` K counts background."""

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        """Random weights, nothing is downloaded. Raises `BadInput` that names settings which do not fit."""
        super().__init__()
        check_config(config, num_classes)
        c = config
        self.config, self.num_classes = config, num_classes
        self.siam_encoder = SiamEncoder(c.backbone, c.siam)
        self.pixel_decoder = PixelDecoder(self.siam_encoder.channels, c.width, c.heads, c.encoder_layers, c.encoder_ffn)
        self.fusion = FUSIONS[c.fusion](c.width, c.audio_dim, c.heads, c.fusion_residual)
        self.audio_mlp = mlp(c.audio_dim, c.audio_hidden, c.audio_hidden, query_width(c.width, c.queries))
        self.decoder = MaskedDecoder(
            c.width,
            c.heads,
            c.decoder_layers,
            c.decoder_ffn,
            c.num_queries,
            num_classes,
            c.queries,
            c.audio_queries,
        )
        for name, parameter in self.named_parameters():
            if name.startswith(without_effect(config)):
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

        frames_B3HW, maskiges_B3HW: uint8 or float [B, 3, H, W], RGB 0..255, any H and W. With siam="none"
        Maskiges are not looked at and may be None.
        audio_BD: float [B, D], D = config.audio_dim.
        uniform: in training, random numbers for dropout and stochastic depth, a row for each frame; None: torch's own.

        Sizes that are no multiple of 32 are padded with zeros at the right and bottom after normalisation,
        and masks are cut back to ceil(H/4), ceil(W/4). Raises ValueError where shapes do not fit.
        """
        self._check_inputs(frames_B3HW, maskiges_B3HW, audio_BD)
        frames = self._normalise(frames_B3HW)
        maskiges = None if self.config.siam == "none" else self._normalise(maskiges_B3HW)

        maps = self.siam_encoder(frames, maskiges, uniform)
        scales, mask_features = maybe_checkpoint(self.checkpointing, self.pixel_decoder, maps)
        mask_features, audio_BD = self.fusion(mask_features, audio_BD, uniform)
        logits, masks = self.decoder(scales, mask_features, self.audio_mlp(audio_BD))

        height, width = frames_B3HW.shape[-2:]
        return Predictions(logits, masks[..., : -(-height // 4), : -(-width // 4)])

    def set_checkpointing(self, enable: bool) -> None:
        """Whether backward computes activations again instead of keeping them: less memory, more time, same numbers."""
        self.checkpointing = self.decoder.checkpointing = enable
        for backbone in (self.siam_encoder.image_backbone, self.siam_encoder.maskige_backbone):
            if backbone is not None:
                checkpoint_stages(backbone, enable)

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


def without_effect(config: ModelConfig) -> tuple[str, ...]:
    """Name prefixes of parameters that the configured network holds but whose values change no output.

    They stay so that published checkpoints fit, and are frozen so that an optimizer and distributed
    training see only what learns.
    """
    names = []
    if config.fusion in ("none", "visual"):
        names += ["fusion.audio_pos."]
    if config.fusion == "visual":
        names += ["fusion.query_proj.", "fusion.key_proj."]
        names += ["fusion.query_norm."] if config.fusion_residual == "raw" else []
    if config.queries == "all":
        names += ["decoder.query_feat."]
    if config.queries == "none":
        names += ["audio_mlp.", "fusion.gamma_a", "fusion.values_v_proj.", "fusion.out_a_proj."]
    return tuple(names)


def check_config(config: ModelConfig, num_classes: int) -> None:
    """Raise `BadInput` listing the settings that do not go together."""
    problems = []
    if num_classes < 2:
        problems.append(f"{num_classes} classes: background and at least one more are needed")
    if config.width % config.heads:
        problems.append(f"width={config.width} is not divisible by heads={config.heads}")
    if config.fusion == "audio" and config.queries == "none":
        problems.append('fusion="audio" with queries="none": nothing would read the fused sound')
    if problems:
        raise BadInput.listing("the model config does not fit together:", problems)
