"""The Bilateral-Fusion Module: sound and picture of a frame attend to each other (variants: Table 5).

Where paper and published code differ, this is the code: the softmax runs over pixels in both directions,
residuals are the layer-normalised inputs (residual "raw": the inputs themselves), positions reach queries and
keys only, and a learned layer scale starts at 1e-4.

With one audio vector per frame, no linear map has to run over pixels: it runs over what a head asks of them, or takes
from them, instead. Heads hold few vectors and a frame thousands of pixels; the numbers are the same.

Letters: B frames, C channels, H W height and width of the stride-4 map, L = H * W, D width of the audio
features, N heads, E = C / N.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .position_encoding import sine_position_encoding
from .random_numbers import Uniform

SCORE_LIMIT = 50_000.0  # keeps scores finite in half precision
LAYER_SCALE = 1e-4  # initial gamma
DROPOUT = 0.1  # of attention probabilities, in training


class NoFusion(nn.Module):
    """fusion "none" (MHA-None): picture and sound pass by each other; the picture still gets its embedding.

    `audio_pos` is read by the attending variants only, but every published checkpoint holds it.
    """

    def __init__(self, width: int, audio_dim: int, heads: int, residual: str = "normalised") -> None:
        """`residual` as `fusion_residual` in `ModelConfig`; here nothing is added, so it has no meaning."""
        super().__init__()
        self.heads, self.raw = heads, residual == "raw"
        self.level_embed = nn.Embedding(1, width)
        self.audio_pos = nn.Embedding(1, audio_dim)

    def embed(self, visual_BCHW: Tensor) -> Tensor:
        return visual_BCHW + self.level_embed.weight[0, :, None, None]

    def forward(self, visual_BCHW: Tensor, audio_BD: Tensor, uniform: Uniform | None = None) -> tuple[Tensor, Tensor]:
        """Mask features [B, C, H, W] and audio features [B, D], both in and out.

        uniform: draws for dropout in training, a row for each frame; None: torch's own.
        """
        return self.embed(visual_BCHW), audio_BD


class VisualFusion(NoFusion):
    """fusion "visual" (MHA-S): sound enters the picture, as published.

    With one audio vector per frame its softmax over keys is 1, so every pixel gets the same vector and
    `query_proj` and `key_proj` have no effect; they stay because published checkpoints hold them.
    """

    def __init__(self, width: int, audio_dim: int, heads: int, residual: str = "normalised") -> None:
        super().__init__(width, audio_dim, heads, residual)
        self.query_norm = nn.LayerNorm(width)
        self.key_norm = nn.LayerNorm(audio_dim)
        self.query_proj = _projection(width, width)
        self.key_proj = _projection(audio_dim, width)
        self.value_proj = _projection(audio_dim, width)
        self.out_proj = _projection(width, width)
        self.gamma = nn.Parameter(torch.full((width,), LAYER_SCALE))

    def forward(self, visual_BCHW: Tensor, audio_BD: Tensor, uniform: Uniform | None = None) -> tuple[Tensor, Tensor]:
        pixels_BLC = _tokens(self.embed(visual_BCHW))
        sound_BC = self.out_proj(self.value_proj(self.key_norm(audio_BD)))
        kept_BLC = pixels_BLC if self.raw else self.query_norm(pixels_BLC)
        return _image(kept_BLC + self.gamma * sound_BC[:, None], visual_BCHW), audio_BD


class AudioFusion(NoFusion):
    """fusion "audio": the picture enters the sound, and the picture stays as under "none".

    The published variant of that purpose, MHA-S-Audio, hands on the fused picture too and so equals
    "bilateral"; its checkpoints load there.
    """

    def __init__(self, width: int, audio_dim: int, heads: int, residual: str = "normalised") -> None:
        super().__init__(width, audio_dim, heads, residual)
        self.norm_v = nn.LayerNorm(width)
        self.norm_a = nn.LayerNorm(audio_dim)
        self.v_proj = _projection(width, width)
        self.a_proj = _projection(audio_dim, width)
        self.values_v_proj = _projection(width, width)
        self.out_a_proj = _projection(width, audio_dim)
        self.gamma_a = nn.Parameter(torch.full((audio_dim,), LAYER_SCALE))

    def attention(self, x_BLC: Tensor, a_BD: Tensor, size: tuple[int, int]) -> Tensor:
        """[B, L, N]: per head, how the sound spreads over the pixels; sums to 1 over L. Inputs normalised."""
        position_LC = sine_position_encoding(*size, x_BLC.shape[-1], x_BLC.device).flatten(1).T
        k_BNE = self._heads(self.a_proj(a_BD + self.audio_pos.weight))
        k_BNE = k_BNE * k_BNE.shape[-1] ** -0.5
        # Query times key, (W x + b) k, is x (W' k) + b k.
        asked_BNC = torch.einsum("bne,nec->bnc", k_BNE, self._heads(self.v_proj.weight, 0))
        offset_BN = torch.einsum("bne,ne->bn", k_BNE, self._heads(self.v_proj.bias))
        scores_BLN = (x_BLC + position_LC) @ asked_BNC.mT + offset_BN[:, None]
        return scores_BLN.clamp(-SCORE_LIMIT, SCORE_LIMIT).softmax(dim=1)

    def _heads(self, x: Tensor, dim: int = -1) -> Tensor:
        """Dimension `dim` as N x E."""
        return x.unflatten(dim, (self.heads, -1))

    def dropout(self, attention_BLN: Tensor, uniform: Uniform | None) -> Tensor:
        """In training, a tenth of the attention is dropped and the rest enlarged in turn."""
        if uniform is None or not self.training:
            return F.dropout(attention_BLN, DROPOUT, self.training)
        return attention_BLN * (uniform(attention_BLN.shape) >= DROPOUT) / (1 - DROPOUT)

    def picture_into_sound(self, kept_BD: Tensor, x_BLC: Tensor, attention_BLN: Tensor) -> Tensor:
        """The audio features [B, D] after fusion: `kept_BD` and what each head sees where it attends."""
        seen_BNC = attention_BLN.mT @ x_BLC
        heard_BNE = torch.einsum("bnc,nec->bne", seen_BNC, self._heads(self.values_v_proj.weight, 0))
        heard_BNE = heard_BNE + attention_BLN.sum(1)[..., None] * self._heads(self.values_v_proj.bias)
        return kept_BD + self.gamma_a * self.out_a_proj(heard_BNE.flatten(1))

    def forward(self, visual_BCHW: Tensor, audio_BD: Tensor, uniform: Uniform | None = None) -> tuple[Tensor, Tensor]:
        visual_BCHW = self.embed(visual_BCHW)
        x_BLC, a_BD = self.norm_v(_tokens(visual_BCHW)), self.norm_a(audio_BD)
        attention_BLN = self.attention(x_BLC, a_BD, visual_BCHW.shape[-2:])
        kept_BD = audio_BD if self.raw else a_BD
        return visual_BCHW, self.picture_into_sound(kept_BD, x_BLC, self.dropout(attention_BLN, uniform))


class BilateralFusion(AudioFusion):
    """fusion "bilateral" (MHA-B): both directions, with one and the same attention."""

    def __init__(self, width: int, audio_dim: int, heads: int, residual: str = "normalised") -> None:
        super().__init__(width, audio_dim, heads, residual)
        self.values_a_proj = _projection(audio_dim, width)
        self.out_v_proj = _projection(width, width)
        self.gamma_v = nn.Parameter(torch.full((width,), LAYER_SCALE))

    def sound_into_picture(self, a_BD: Tensor, attention_BLN: Tensor) -> Tensor:
        """What fusion adds to the pixels, unscaled, [B, L, C]: each head's part of the sound where it attends."""
        values_BNE = self._heads(self.values_a_proj(a_BD))
        given_BNC = torch.einsum("bne,cne->bnc", values_BNE, self._heads(self.out_v_proj.weight, 1))
        return attention_BLN @ given_BNC + self.out_v_proj.bias

    def forward(self, visual_BCHW: Tensor, audio_BD: Tensor, uniform: Uniform | None = None) -> tuple[Tensor, Tensor]:
        pixels_BLC = _tokens(self.embed(visual_BCHW))
        x_BLC, a_BD = self.norm_v(pixels_BLC), self.norm_a(audio_BD)
        attention_BLN = self.attention(x_BLC, a_BD, visual_BCHW.shape[-2:])
        kept_BLC, kept_BD = (pixels_BLC, audio_BD) if self.raw else (x_BLC, a_BD)
        added_BLC = self.sound_into_picture(a_BD, self.dropout(attention_BLN, uniform))
        fused_BD = self.picture_into_sound(kept_BD, x_BLC, self.dropout(attention_BLN, uniform))
        return _image(kept_BLC + self.gamma_v * added_BLC, visual_BCHW), fused_BD


FUSIONS: dict[str, type[NoFusion]] = {
    "none": NoFusion,
    "visual": VisualFusion,
    "audio": AudioFusion,
    "bilateral": BilateralFusion,
}


def _projection(inputs: int, outputs: int) -> nn.Linear:
    linear = nn.Linear(inputs, outputs)
    nn.init.xavier_uniform_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear


def _tokens(x_BCHW: Tensor) -> Tensor:
    return x_BCHW.flatten(2).transpose(1, 2)


def _image(x_BLC: Tensor, like_BCHW: Tensor) -> Tensor:
    return x_BLC.transpose(1, 2).unflatten(2, like_BCHW.shape[-2:])
