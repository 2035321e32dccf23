"""The transformer decoder: audio-conditioned queries with masked cross-attention.

Mask2Former's decoder, post-norm and without dropout; how audio enters the queries is COMBO's.
Letters: B frames, Q queries, C channels, K classes, H W height and width of the stride-4 map, L tokens of
one map, P predictions.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .across_ranks import rows_of_all_ranks
from .config import ModelConfig
from .position_encoding import sine_position_encoding

SCALES = 3  # feature maps that the layers take in turn: strides 32, 16, 8


class Predictions(NamedTuple):
    """Predictions of every frame, one from the raw queries and one after each layer: P = decoder layers + 1.

    The last one is the result; the others serve deep supervision and the consistency loss. Dtype: float32, or the
    autocast dtype.

    logits: float [P, B, Q, K + 1]: class scores before softmax; K counts background, the last is "no object".
    masks: float [P, B, Q, ceil(H/4), ceil(W/4)]: mask logits, H and W those of the frame.
    """

    logits: Tensor
    masks: Tensor


class Attention(nn.Module):
    """Multi-head attention with the parameters, names and initial values of `nn.MultiheadAttention`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.xavier_uniform_(self.out_proj.weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, query_BQC: Tensor, key_BLC: Tensor, value_BLC: Tensor, allowed: Tensor | None = None) -> Tensor:
        """[B, Q, C]. allowed: bool, broadcastable to [B, heads, Q, L]; True where a query may look."""
        inputs = (query_BQC, key_BLC, value_BLC)
        weights, biases = self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3)
        q, k, v = (
            F.linear(x, w, b).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x, w, b in zip(inputs, weights, biases, strict=True)
        )
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        return self.out_proj(seen.transpose(1, 2).flatten(2))


class DecoderLayer(nn.Module):
    """Masked cross-attention, self-attention, feed-forward; each followed by residual and LayerNorm."""

    def __init__(self, width: int, heads: int, ffn: int) -> None:
        super().__init__()
        self.cross_attention = Attention(width, heads)
        self.cross_norm = nn.LayerNorm(width)
        self.self_attention = Attention(width, heads)
        self.self_norm = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, ffn)
        self.linear2 = nn.Linear(ffn, width)
        self.ffn_norm = nn.LayerNorm(width)
        nn.init.xavier_uniform_(self.linear1.weight)
        nn.init.xavier_uniform_(self.linear2.weight)

    def forward(
        self, x_BQC: Tensor, query_pos: Tensor, memory_BLC: Tensor, memory_pos: Tensor, allowed: Tensor
    ) -> Tensor:
        seen = self.cross_attention(x_BQC + query_pos, memory_BLC + memory_pos, memory_BLC, allowed)
        x_BQC = self.cross_norm(x_BQC + seen)
        q = x_BQC + query_pos
        x_BQC = self.self_norm(x_BQC + self.self_attention(q, q, x_BQC))
        return self.ffn_norm(x_BQC + self.linear2(F.relu(self.linear1(x_BQC))))


class MaskedDecoder(nn.Module):
    """Class and mask logits of the queries, after every layer."""

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        c, width = config, config.width
        self.mode, self.layout, self.checkpointing = c.queries, c.audio_queries, False
        self.query_feat = nn.Embedding(c.num_queries, query_width(width, c.queries))
        self.query_embed = nn.Embedding(c.num_queries, width)
        self.level_embed = nn.Embedding(SCALES, width)
        self.layers = nn.ModuleList(DecoderLayer(width, c.heads, c.decoder_ffn) for _ in range(c.decoder_layers))
        self.decoder_norm = nn.LayerNorm(width)
        self.class_embed = nn.Linear(width, num_classes + 1)
        self.mask_embed = mlp(width, width, width, c.mask_channels)

    def forward(self, scales: list[Tensor], mask_features_BCHW: Tensor, audio: Tensor) -> Predictions:
        """scales: [B, C, h, w] at strides 32, 16 and 8. audio: [B, `query_width`], one vector per frame."""
        memories = [m.flatten(2).transpose(1, 2) + e for m, e in zip(scales, self.level_embed.weight, strict=True)]
        positions = []
        for m in scales:
            _, channels, h, w = m.shape
            positions.append(sine_position_encoding(h, w, channels, m.device).flatten(1).T)
        looked_at = [F.interpolate(mask_features_BCHW.detach(), m.shape[-2:], mode="bilinear") for m in scales]
        x_BQC = self._queries(audio)
        steps = [self.decoder_norm(x_BQC)]
        for i, layer in enumerate(self.layers):
            scale = i % SCALES
            with torch.no_grad():
                allowed = allowed_tokens(self.mask_embed(steps[-1]), looked_at[scale])
            inputs = x_BQC, self.query_embed.weight, memories[scale], positions[scale], allowed
            x_BQC = maybe_checkpoint(layer, *inputs, enable=self.checkpointing)
            steps.append(self.decoder_norm(x_BQC))
        return self._predict(torch.stack(steps, dim=1), mask_features_BCHW)

    def _queries(self, audio_BC: Tensor) -> Tensor:
        """[B, Q, C]: audio-conditioned queries (Table 6)."""
        frames = len(audio_BC)
        learned = self.query_feat.weight.expand(frames, -1, -1)
        if self.mode == "none":
            return learned
        first = 0
        if self.layout == "published" and self.training:  # it mixes the whole batch, whichever process holds a frame
            audio_BC, first = rows_of_all_ranks(audio_BC)
        heard = audio_per_query(audio_BC, self.query_feat.num_embeddings, self.layout)[first : first + frames]
        match self.mode:
            case "add":
                return learned + heard
            case "all":
                return heard
            case _:
                return torch.cat([learned, heard], dim=-1)

    def _predict(self, y_BPQC: Tensor, mask_features_BCHW: Tensor) -> Predictions:
        """Predictions from the normalised queries of all steps, which share their heads."""
        embedded_BLC = self.mask_embed(y_BPQC).flatten(1, 2)
        masks = (embedded_BLC @ mask_features_BCHW.flatten(2)).unflatten(2, mask_features_BCHW.shape[-2:])
        logits = self.class_embed(y_BPQC)
        return Predictions(logits.transpose(0, 1), masks.unflatten(1, y_BPQC.shape[1:3]).transpose(0, 1))


def audio_per_query(audio_BC: Tensor, num_queries: int, layout: str) -> Tensor:
    """[B, Q, C]: the audio vector for each query of each frame.

    "per_frame": that of the frame. "published": the released code expands the vectors to [B, Q, C] and then
    views that memory as [Q, B, C], so that query q of frame b gets the vector of frame (q * B + b) // Q, which may be
    of another clip. Published weights were trained this way; evaluate them with one clip per batch.
    """
    heard = audio_BC[:, None].expand(-1, num_queries, -1)
    if layout == "per_frame":
        return heard
    return heard.reshape(num_queries, len(audio_BC), -1).transpose(0, 1)


def allowed_tokens(embedded_BQC: Tensor, features_BChw: Tensor) -> Tensor:
    """bool [B, 1, Q, L]: attention mask; True where the query's mask, resized to that map, is at least 0.5.

    features_BChw: the resized mask features. Masks are linear in them, so resizing the features once replaces
    resizing the masks of every layer. A query whose mask is empty may attend everywhere.
    """
    inside = embedded_BQC @ features_BChw.flatten(2) >= 0
    return (inside | ~inside.any(-1, keepdim=True))[:, None]


def query_width(width: int, queries: str) -> int:
    """Channels of the learned queries and of the audio queries: half each under "dim"."""
    return width // 2 if queries == "dim" else width


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def maybe_checkpoint(module: nn.Module, *inputs: Any, enable: bool) -> Any:
    """`module(*inputs)`, with activation checkpointing if enabled and in training."""
    if enable and module.training:
        return checkpoint(module, *inputs, use_reentrant=False)
    return module(*inputs)
