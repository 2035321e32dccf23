"""The image encoder of SAM ViT-B, L and H over segment-anything's modules: the published result, up to rounding.

Attention is fused, matrix products are those of `products`, and the padding of windowed blocks, whose projection is the
bias, is not projected.
Letters: B frames, H W the 64 x 64 tokens, C channels, V windows of all frames, P tokens of one, N heads, D = C / N.
"""

import torch
import torch.nn.functional as F
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import Attention, Block, get_rel_pos, window_partition, window_unpartition
from torch import Tensor

from .products import linear, linear_gelu


def encode(encoder: ImageEncoderViT, images: Tensor) -> Tensor:
    """images: float [B, 3, 1024, 1024], normalised and padded. Returns [B, 256, 64, 64]."""
    tokens_BHWC = encoder.patch_embed(images)
    if encoder.pos_embed is not None:
        tokens_BHWC = tokens_BHWC + encoder.pos_embed
    for block in encoder.blocks:
        assert isinstance(block, Block)
        tokens_BHWC = _block(block, tokens_BHWC)
    return encoder.neck(tokens_BHWC.permute(0, 3, 1, 2))


def _block(block: Block, tokens_BHWC: Tensor) -> Tensor:
    attention, size = block.attn, (tokens_BHWC.shape[1], tokens_BHWC.shape[2])
    qkv = linear(block.norm1(tokens_BHWC), attention.qkv.weight, attention.qkv.bias)
    if block.window_size == 0:
        # One frame at a time: the bias of all pairs of its tokens takes up to 1 GB.
        seen = torch.cat([_attend(attention, frame) for frame in qkv.split(1)])
    else:
        windows, padded = window_partition(_padded(qkv, attention.qkv.bias, block.window_size), block.window_size)
        seen = window_unpartition(_attend(attention, windows), block.window_size, padded, size)
    tokens_BHWC = tokens_BHWC + linear(seen, attention.proj.weight, attention.proj.bias)
    mlp = block.mlp
    hidden = linear_gelu(block.norm2(tokens_BHWC), mlp.lin1.weight, mlp.lin1.bias)
    return tokens_BHWC + linear(hidden, mlp.lin2.weight, mlp.lin2.bias)


def _padded(qkv_BHWC: Tensor, bias: Tensor, window: int) -> Tensor:
    """Padded to whole windows. The published code pads with zeros before the projection, hence the bias here."""
    _, height, width, _ = qkv_BHWC.shape
    below, right = -height % window, -width % window
    padded = F.pad(qkv_BHWC, (0, 0, 0, right, 0, below))
    padded[:, height:] = padded[:, :, width:] = bias.to(padded.dtype)
    return padded


def _attend(attention: Attention, qkv_VHWC: Tensor) -> Tensor:
    """Attention within each window, or within whole frames: [V, H, W, 3 * C] to [V, H, W, C]."""
    v, h, w, _ = qkv_VHWC.shape
    heads = qkv_VHWC.view(v, h * w, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)  # 3, V, N, P, D
    queries, keys, values = heads.unbind(0)
    bias = _relative_bias(attention, queries, h, w) if attention.use_rel_pos else None
    seen_VNPD = F.scaled_dot_product_attention(queries, keys, values, attn_mask=bias)
    return seen_VNPD.transpose(1, 2).reshape(v, h, w, -1)


def _relative_bias(attention: Attention, queries_VNPD: Tensor, h: int, w: int) -> Tensor:
    """The relative position bias that is added to attention scores: [V, N, P, P]."""
    queries = queries_VNPD.unflatten(2, (h, w))
    down = torch.einsum("vnyxd,yjd->vnyxj", queries, get_rel_pos(h, h, attention.rel_pos_h).to(queries.dtype))
    across = torch.einsum("vnyxd,xjd->vnyxj", queries, get_rel_pos(w, w, attention.rel_pos_w).to(queries.dtype))
    # Without `contiguous` their sum takes over the strides of einsum, and flattening it copies up to 1 GB.
    return (down.contiguous()[..., :, None] + across.contiguous()[..., None, :]).flatten(4, 5).flatten(2, 3)
