"""The transformer decoder: queries that carry the sound look into the picture where their last mask lies.

Mask2Former's masked attention, post-norm and without dropout; what is COMBO's own is how sound enters the
queries.
Letters: B frames, Q queries, C channels, K classes, H W height and width of the stride-4 map, L tokens of
one map, P predictions.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .position_encoding import sine_position_encoding

SCALES = 3  # feature maps that the layers take in turn: strides 32, 16, 8


class Predictions(NamedTuple):
    """What the network says of every frame, after each of P = decoder layers + 1 steps.

    Step 0 is the raw queries' guess, the last step the result; those before the last serve deep supervision
    and the consistency loss. Dtype is that of the computation: float32, or the autocast dtype.

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
    """Queries in, classes and masks out."""

    def __init__(
        self,
        width: int,
        heads: int,
        layers: int,
        ffn: int,
        num_queries: int,
        num_classes: int,
        queries: str,
        audio_queries: str,
    ) -> None:
        """`queries` and `audio_queries` as in `ModelConfig`."""
        super().__init__()
        self.mode, self.layout, self.checkpointing = queries, audio_queries, False
        self.query_feat = nn.Embedding(num_queries, query_width(width, queries))
        self.query_embed = nn.Embedding(num_queries, width)
        self.level_embed = nn.Embedding(SCALES, width)
        self.layers = nn.ModuleList(DecoderLayer(width, heads, ffn) for _ in range(layers))
        self.decoder_norm = nn.LayerNorm(width)
        self.class_embed = nn.Linear(width, num_classes + 1)
        self.mask_embed = mlp(width, width, width, width)

    def forward(self, scales: list[Tensor], mask_features_BCHW: Tensor, audio: Tensor) -> Predictions:
        """Classes and masks after every step.

        scales: [B, C, h, w] at strides 32, 16 and 8. audio: [B, `query_width`], one vector per frame.
        """
        memories = [m.flatten(2).transpose(1, 2) + e for m, e in zip(scales, self.level_embed.weight, strict=True)]
        positions = [sine_position_encoding(*m.shape[-2:], m.shape[1], m.device).flatten(1).T for m in scales]
        looked_at = [F.interpolate(mask_features_BCHW.detach(), m.shape[-2:], mode="bilinear") for m in scales]
        x_BQC = self._queries(audio)
        steps = [self.decoder_norm(x_BQC)]
        for i, layer in enumerate(self.layers):
            scale = i % SCALES
            with torch.no_grad():
                allowed = allowed_tokens(self.mask_embed(steps[-1]), looked_at[scale])
            inputs = x_BQC, self.query_embed.weight, memories[scale], positions[scale], allowed
            x_BQC = maybe_checkpoint(self.checkpointing, layer, *inputs)
            steps.append(self.decoder_norm(x_BQC))
        return self._predict(torch.stack(steps, dim=1), mask_features_BCHW)

    def _queries(self, audio_BC: Tensor) -> Tensor:
        """[B, Q, C]: how sound enters the queries (Table 6)."""
        learned = self.query_feat.weight.expand(len(audio_BC), -1, -1)
        heard = audio_per_query(audio_BC, self.query_feat.num_embeddings, self.layout)
        match self.mode:
            case "add":
                return learned + heard
            case "all":
                return heard
            case "dim":
                return torch.cat([learned, heard], dim=-1)
            case _:
                return learned

    def _predict(self, y_BPQC: Tensor, mask_features_BCHW: Tensor) -> Predictions:
        """Classes and masks of all steps at once, from the normalised queries; the same heads serve all steps."""
        embedded_BLC = self.mask_embed(y_BPQC).flatten(1, 2)
        masks = (embedded_BLC @ mask_features_BCHW.flatten(2)).unflatten(2, mask_features_BCHW.shape[-2:])
        logits = self.class_embed(y_BPQC)
        return Predictions(logits.transpose(0, 1), masks.unflatten(1, y_BPQC.shape[1:3]).transpose(0, 1))


def audio_per_query(audio_BC: Tensor, num_queries: int, layout: str) -> Tensor:
    """[B, Q, C]: the audio vector that each query of each frame hears.

    "per_frame": its own frame's. "published": the released code expands the vectors to [B, Q, C] and then
    reads that memory as [Q, B, C], so that query q of frame b hears frame (q * B + b) // Q, also of another
    clip. Published weights were trained so; to repeat published numbers, give the network one clip a time.
    """
    heard = audio_BC[:, None].expand(-1, num_queries, -1)
    if layout == "per_frame":
        return heard
    return heard.reshape(num_queries, len(audio_BC), -1).transpose(0, 1)


def allowed_tokens(embedded_BQC: Tensor, features_BChw: Tensor) -> Tensor:
    """bool [B, 1, Q, L]: the tokens of a map where the query's mask, resized to that map, is at least 0.5.

    features_BChw: the mask features, resized. A mask is their product with the query's mask embedding, so that
    resizing them once does for all queries and layers.
    A query whose mask is empty there may look everywhere. No gradient passes.
    """
    inside = embedded_BQC @ features_BChw.flatten(2) >= 0
    return (inside | ~inside.any(-1, keepdim=True))[:, None]


def query_width(width: int, queries: str) -> int:
    """Channels of learned and of heard queries: under "dim" each fills one half."""
    return width // 2 if queries == "dim" else width


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers from width to width with ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def maybe_checkpoint(enable: bool, module: nn.Module, *inputs: Any) -> Any:
    """`module(*inputs)`; in training and if enabled, backward computes its activations again."""
    if enable and module.training:
        return checkpoint(module, *inputs, use_reentrant=False)
    return module(*inputs)
