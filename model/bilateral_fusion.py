"""The Bilateral-Fusion Module: mask features and audio features of a frame attend to each other (Table 5).

Where paper and published code differ, this follows the code: the softmax runs over pixels in both directions,
residuals are the layer-normalised inputs (residual "raw": the inputs themselves), positions are added to queries and
keys only, and a learned layer scale starts at 1e-4.

A frame has one audio vector, so projections of pixels are folded onto the audio side: same result, fewer FLOPs.

Letters: B frames, C channels of the mask features, H W height and width of the stride-4 map, L = H * W, D channels of
the audio features, N heads, E = C / N.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .position_encoding import sine_position_encoding
from .random_numbers import Uniform

SCORE_LIMIT = 50_000.0  # keeps scores finite in half precision
LAYER_SCALE = 1e-4  # initial gamma
DROPOUT = 0.1  # of attention probabilities, in training


class NoFusion(nn.Module):
    """fusion "none" (MHA-None): no fusion, but mask features still get the learned level embedding.

    The base of all variants: `COMBO` calls `__init__` and `forward` with these arguments, and freezes the parameters
    of `without_effect`. Only attention reads `audio_pos`, but every published checkpoint has it.
    attends: whether `attention_map` returns one.
    """

    attends: ClassVar[bool] = False

    def __init__(self, width: int, audio_dim: int, heads: int, residual: str = "normalised") -> None:
        """width: C. residual: `fusion_residual` of `ModelConfig`; without fusion it means nothing."""
        super().__init__()
        self.heads, self.raw = heads, residual == "raw"
        self.level_embed = nn.Embedding(1, width)
        self.audio_pos = nn.Embedding(1, audio_dim)

    def without_effect(self, *, audio_is_read: bool) -> tuple[str, ...]:
        """Prefixes of parameters that change no output; audio_is_read: whether queries use the audio features."""
        return ("audio_pos.",)

    def embed(self, visual_BCHW: Tensor) -> Tensor:
        return visual_BCHW + self.level_embed.weight[0, :, None, None]

    def forward(self, visual_BCHW: Tensor, audio_BD: Tensor, uniform: Uniform | None = None) -> tuple[Tensor, Tensor]:
        """Mask features [B, C, H, W] and audio features [B, D], both in and out.

        uniform: random numbers for dropout in training, a row per frame; None: torch's own.
        """
        return self.embed(visual_BCHW), audio_BD

    def attention_map(self, visual_BCHW: Tensor, audio_BD: Tensor) -> Tensor | None:
        """The matrix A of Eqs. 4 and 5, [B, N, H, W]: how much each pixel and the sound attend to each other.

        Each head's sums to 1 over the pixels of a frame. Inputs as of `forward`. None: there is no such matrix.
        """
        return None


class VisualFusion(NoFusion):
    """fusion "visual" (MHA-S): the audio vector is added to the mask features, as published.

    With one audio vector per frame the softmax over keys is 1: every pixel gets the same vector, and `query_proj` and
    `key_proj` have no effect. They exist because published checkpoints have them.
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

    def without_effect(self, *, audio_is_read: bool) -> tuple[str, ...]:
        return ("audio_pos.", "query_proj.", "key_proj.", *(["query_norm."] if self.raw else []))

    def forward(self, visual_BCHW: Tensor, audio_BD: Tensor, uniform: Uniform | None = None) -> tuple[Tensor, Tensor]:
        pixels_BLC = _tokens(self.embed(visual_BCHW))
        sound_BC = self.out_proj(self.value_proj(self.key_norm(audio_BD)))
        kept_BLC = pixels_BLC if self.raw else self.query_norm(pixels_BLC)
        return _image(kept_BLC + self.gamma * sound_BC[:, None], visual_BCHW), audio_BD


class AudioFusion(NoFusion):
    """fusion "audio": audio features attend to the mask features, which stay as under "none".

    The published MHA-S-Audio also returns the fused mask features and so equals "bilateral"; load its checkpoints
    as that.
    """

    attends = True

    def __init__(self, width: int, audio_dim: int, heads: int, residual: str = "normalised") -> None:
        super().__init__(width, audio_dim, heads, residual)
        self.norm_v = nn.LayerNorm(width)
        self.norm_a = nn.LayerNorm(audio_dim)
        self.v_proj = _projection(width, width)
        self.a_proj = _projection(audio_dim, width)
        self.values_v_proj = _projection(width, width)
        self.out_a_proj = _projection(width, audio_dim)
        self.gamma_a = nn.Parameter(torch.full((audio_dim,), LAYER_SCALE))

    def without_effect(self, *, audio_is_read: bool) -> tuple[str, ...]:
        return () if audio_is_read else ("gamma_a", "values_v_proj.", "out_a_proj.")

    def attention(self, x_BLC: Tensor, a_BD: Tensor, size: Sequence[int]) -> Tensor:
        """[B, L, N]: attention of each head over the pixels, sums to 1 over L. size: H, W. Inputs normalised."""
        height, width = size
        position_LC = sine_position_encoding(height, width, x_BLC.shape[-1], x_BLC.device).flatten(1).T
        k_BNE = self._heads(self.a_proj(a_BD + self.audio_pos.weight))
        k_BNE = k_BNE * k_BNE.shape[-1] ** -0.5
        # Query times key, (W x + b) k, is x (W' k) + b k.
        asked_BNC = torch.einsum("bne,nec->bnc", k_BNE, self._heads(self.v_proj.weight, 0))
        offset_BN = torch.einsum("bne,ne->bn", k_BNE, self._heads(self.v_proj.bias))
        scores_BLN = (x_BLC + position_LC) @ asked_BNC.mT + offset_BN[:, None]
        return scores_BLN.clamp(-SCORE_LIMIT, SCORE_LIMIT).softmax(dim=1)

    def attention_map(self, visual_BCHW: Tensor, audio_BD: Tensor) -> Tensor:
        x_BLC, a_BD = self.norm_v(_tokens(self.embed(visual_BCHW))), self.norm_a(audio_BD)
        size = visual_BCHW.shape[-2:]
        return self.attention(x_BLC, a_BD, size).mT.unflatten(2, size)

    def _heads(self, x: Tensor, dim: int = -1) -> Tensor:
        """Dimension `dim` as N x E."""
        return x.unflatten(dim, (self.heads, -1))

    def dropout(self, attention_BLN: Tensor, uniform: Uniform | None) -> Tensor:
        """Dropout of attention probabilities, in training."""
        if uniform is None or not self.training:
            return F.dropout(attention_BLN, DROPOUT, self.training)
        return attention_BLN * (uniform(attention_BLN.shape) >= DROPOUT) / (1 - DROPOUT)

    def picture_into_sound(self, kept_BD: Tensor, x_BLC: Tensor, attention_BLN: Tensor) -> Tensor:
        """Fused audio features [B, D]: the residual `kept_BD` plus the attended pixels of all heads."""
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
    """fusion "bilateral" (MHA-B): both directions, with the same attention probabilities."""

    def __init__(self, width: int, audio_dim: int, heads: int, residual: str = "normalised") -> None:
        super().__init__(width, audio_dim, heads, residual)
        self.values_a_proj = _projection(audio_dim, width)
        self.out_v_proj = _projection(width, width)
        self.gamma_v = nn.Parameter(torch.full((width,), LAYER_SCALE))

    def sound_into_picture(self, a_BD: Tensor, attention_BLN: Tensor) -> Tensor:
        """What fusion adds to the pixels before the layer scale, [B, L, C]: each head's audio values, by attention."""
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


# The values of `model.fusion`. A new entry is all that another fusion needs to train, evaluate and be saved.
FUSIONS: dict[str, Callable[[int, int, int, str], NoFusion]] = {
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
