"""SAM's mask decoder for many clicks on one image: the published result up to the order of additions, in fewer FLOPs.

The published decoder copies the image features once per click and runs every layer on every copy. Here
- image-independent work (the tokens of a click, their first self-attention) is done once per frame size;
- the first block's projections of the image, still the same for every click, are computed once per image;
- cross-attention between 7 tokens and 4096 pixels projects the tokens only: q.(W x) = (W^T q).x;
- transposed convolutions with stride 2 are matrix products, and only clicks with a promising mask are rendered;
- the image features of each click, its map, are kept in strips, so that they stay in a CPU's cache between steps.

Letters: G clicks, T = 7 tokens of a click (predicted IoU, 4 masks, the point, padding), L pixels of a strip (of 64 x 64
image tokens), C = 256 channels, N = 8 heads, D = 16 channels of a head, P = G * T, S = N * T, E = 32 channels of the
upscaled image, K = 3 masks. Tokens are float32; maps have the type that `prepare_weights` was given.
"""

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock
from torch import Tensor, nn

from .products import linear, linear_gelu, product

GRID = 64  # side of the image features
TOKENS = 7
USED = [0, 2, 3, 4]  # the IoU token and mask tokens 1 to 3; mask 0 is for prompts that are not ambiguous


class CrossAttention(NamedTuple):
    """A cross-attention between tokens and a map, with the map's projection folded into the tokens' one."""

    attention: Attention
    folded_NDC: Tensor  # takes a token's query or key to the map's own channels
    positions: tuple[Tensor, ...]  # [N, D, L] per strip: the projection of the positional encoding, bias included


class Weights(NamedTuple):
    """The decoder's weights, rearranged. Tensors that multiply maps have the maps' type."""

    decoder: MaskDecoder
    blocks: tuple[TwoWayAttentionBlock, TwoWayAttentionBlock]
    pixels_per_strip: int
    positions_LC: Tensor  # float32, of all image tokens
    no_mask_C: Tensor  # float32, added to the image where no mask is given
    reads: tuple[CrossAttention, CrossAttention]  # tokens attend to the map, in block 1 and after it
    writes: CrossAttention  # the map attends to tokens, in block 1
    map_norms: tuple[tuple[Tensor, Tensor], ...]  # after blocks 0 and 1
    final_norm: nn.Module
    upscale1: tuple[tuple[Tensor, Tensor], ...]  # upper and lower: [2 * 64, C] and [2 * 64] for two pixels of a token
    upscale_norm: tuple[Tensor, Tensor]
    upscale_eps: float
    upscale2: tuple[tuple[Tensor, Tensor], ...]  # the same: [2 * E, 64] and [2 * E]


class Prompts(NamedTuple):
    """Encoded clicks: image-independent."""

    tokens_GTC: Tensor
    queries_GTC: Tensor  # after block 0's self-attention


class ImageState(NamedTuple):
    """Per-image state shared by all prompts. The image's tensors have the maps' type."""

    image: tuple[Tensor, ...]  # [L, C] per strip
    image_queries: tuple[Tensor, ...]  # [N, D, L] per strip, in block 0
    queries0_GTC: Tensor  # tokens after block 0
    queries1_GTC: Tensor  # tokens after block 1's self-attention


class Decoded(NamedTuple):
    predicted_iou_GK: Tensor  # float32, K = 3 masks of each click
    hyper_GKE: Tensor  # float32: each mask as weights of the upscaled channels
    strips: list[Tensor]  # of the maps, each [G, L, C]


class Projected(NamedTuple):
    """Projected tokens, to be multiplied with positions head by head, and with a map itself after folding."""

    tokens_NPD: Tensor
    folded_GSC: Tensor


def heads_first(x_GTE: Tensor, heads: int) -> Tensor:
    """[G, T, N * D] as [N, G * T, D]: one matrix per head, for all tokens of all clicks."""
    return x_GTE.unflatten(-1, (heads, -1)).flatten(0, 1).transpose(0, 1)


def heads_last(x_NPD: Tensor, clicks: int) -> Tensor:
    """[N, G * T, D] back as [G, T, N * D]."""
    return x_NPD.transpose(0, 1).flatten(1).unflatten(0, (clicks, -1))


def clicks_first(x_NPX: Tensor, clicks: int) -> Tensor:
    """[N, G * T, X] as [G, N * T, X]: one matrix per click, for all tokens of all heads."""
    return x_NPX.unflatten(1, (clicks, -1)).transpose(0, 1).flatten(1, 2)


def in_strips(x: Tensor, axis: int, pixels: int) -> tuple[Tensor, ...]:
    return tuple(strip.contiguous() for strip in x.split(pixels, dim=axis))


def prepare_weights(prompts: PromptEncoder, decoder: MaskDecoder, map_type: torch.dtype, strip_rows: int) -> Weights:
    """Rearrange the weights of a decoder.

    map_type: float32 for the published result, else bfloat16 or float16. strip_rows: of the 64 rows of image tokens.
    """
    positions_LC = prompts.get_dense_pe()[0].flatten(1).T.contiguous()
    pixels = strip_rows * GRID

    def cross_attention(attention: Attention, projection: nn.Linear) -> CrossAttention:
        positions = heads_first(projection(positions_LC)[None], attention.num_heads).transpose(1, 2)
        folded = projection.weight.unflatten(0, (attention.num_heads, -1))
        return CrossAttention(attention, folded, in_strips(positions.to(map_type), 2, pixels))

    def norm(module: nn.LayerNorm | LayerNorm2d) -> tuple[Tensor, Tensor]:
        return module.weight.to(map_type), module.bias.to(map_type)

    def two_rows(transposed: nn.Module) -> tuple[tuple[Tensor, Tensor], ...]:
        assert isinstance(transposed, nn.ConvTranspose2d)
        assert transposed.bias is not None
        weights_YXOI, bias = transposed.weight.permute(2, 3, 1, 0).to(map_type), transposed.bias.repeat(2).to(map_type)
        return tuple((row.flatten(0, 1).contiguous(), bias) for row in weights_YXOI)

    transformer, up_norm = decoder.transformer, decoder.output_upscaling[1]
    assert isinstance(transformer, TwoWayTransformer)
    assert isinstance(up_norm, LayerNorm2d)
    block0, block1 = (block for block in transformer.layers if isinstance(block, TwoWayAttentionBlock))
    read, final = block1.cross_attn_token_to_image, transformer.final_attn_token_to_image
    write = block1.cross_attn_image_to_token
    return Weights(
        decoder=decoder,
        blocks=(block0, block1),
        pixels_per_strip=pixels,
        positions_LC=positions_LC,
        no_mask_C=prompts.no_mask_embed.weight[0],
        reads=(cross_attention(read, read.k_proj), cross_attention(final, final.k_proj)),
        writes=cross_attention(write, write.q_proj),
        map_norms=(norm(block0.norm4), norm(block1.norm4)),
        final_norm=transformer.norm_final_attn,
        upscale1=two_rows(decoder.output_upscaling[0]),
        upscale_norm=norm(up_norm),
        upscale_eps=up_norm.eps,
        upscale2=two_rows(decoder.output_upscaling[3]),
    )


def encode_prompts(weights: Weights, prompts: PromptEncoder, points: Tensor) -> Prompts:
    """points: float64 [G, 2], x and y in the encoder's input of 1024 x 1024 pixels: one positive click each."""
    decoder, block = weights.decoder, weights.blocks[0]
    labels = torch.ones(len(points), 1, dtype=torch.int, device=points.device)
    clicked_G2C, _ = prompts(points=(points[:, None], labels), boxes=None, masks=None)
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    tokens = torch.cat([own.expand(len(points), -1, -1), clicked_G2C], dim=1)
    return Prompts(tokens, block.norm1(block.self_attn(tokens, tokens, tokens)))


def prepare_image(weights: Weights, prompts: Prompts, features_CHW: Tensor) -> ImageState:
    """What all prompts share on one image. features_CHW: [C, 64, 64]."""
    block, block1 = weights.blocks
    tokens = prompts.tokens_GTC
    image_LC = features_CHW.flatten(1).T.float() + weights.no_mask_C
    placed_LC = image_LC + weights.positions_LC

    read = block.cross_attn_token_to_image
    asks = heads_first(read.q_proj(prompts.queries_GTC + tokens), read.num_heads)
    keys, values = (heads_first(x[None], read.num_heads) for x in (read.k_proj(placed_LC), read.v_proj(image_LC)))
    # Written out as published: a fused kernel's rounding moves the logits further from the published ones.
    shares = ((part @ keys.transpose(1, 2) * scale(read)).softmax(2) for part in asks.split(TOKENS * 32, dim=1))
    found = torch.cat([share @ values for share in shares], dim=1)
    queries = block.norm2(prompts.queries_GTC + read.out_proj(heads_last(found, len(tokens))))
    queries0 = block.norm3(queries + block.mlp(queries))

    write = block.cross_attn_image_to_token
    image_queries = heads_first(write.q_proj(placed_LC)[None], write.num_heads).transpose(1, 2)
    placed = queries0 + tokens
    queries1 = block1.norm1(queries0 + block1.self_attn(placed, placed, queries0))
    map_type = weights.upscale_norm[0].dtype
    return ImageState(
        in_strips(image_LC.to(map_type), 0, weights.pixels_per_strip),
        in_strips(image_queries.to(map_type), 2, weights.pixels_per_strip),
        queries0,
        queries1,
    )


def decode(weights: Weights, prompts: Prompts, image: ImageState, chunk: slice) -> Decoded:
    """Blocks 0 and 1, the final attention and the heads, for some of the clicks. Nothing here waits for the device."""
    decoder, (block, block1) = weights.decoder, weights.blocks
    tokens, queries, queries1 = (x[chunk] for x in (prompts.tokens_GTC, image.queries0_GTC, image.queries1_GTC))

    write = block.cross_attn_image_to_token
    keys_NPD = heads_first(write.k_proj(queries + tokens) * scale(write), write.num_heads)
    keys_NPD = keys_NPD.to(image.image_queries[0].dtype)
    values_GSC = folded_values(write, queries, image.image[0].dtype)
    strips = []
    for image_LC, queries_NDL in zip(image.image, image.image_queries, strict=True):
        scores_GSL = clicks_first(torch.bmm(keys_NPD, queries_NDL), len(tokens))
        written_GLC = write_strip(image_LC, scores_GSL, values_GSC)
        strips.append(F.layer_norm(written_GLC, written_GLC.shape[-1:], *weights.map_norms[0], block.norm4.eps))

    read1, read_final = weights.reads
    queries = block1.norm2(queries1 + read_map(read1, queries1 + tokens, strips))
    queries = block1.norm3(queries + block1.mlp(queries))
    write = weights.writes.attention
    keys = project(weights.writes, write.k_proj(queries + tokens), image.image[0].dtype)
    values_GSC = folded_values(write, queries, image.image[0].dtype)
    for i, positions_NDL in enumerate(weights.writes.positions):
        written_GLC = write_strip(strips[i], scores(keys, strips[i], positions_NDL), values_GSC)
        strips[i] = F.layer_norm(written_GLC, written_GLC.shape[-1:], *weights.map_norms[1], block1.norm4.eps)

    used = queries[:, USED]
    used = weights.final_norm(used + read_map(read_final, (queries + tokens)[:, USED], strips))
    hyper = [mlp(used[:, k]) for k, mlp in enumerate(decoder.output_hypernetworks_mlps[1:], start=1)]
    return Decoded(decoder.iou_prediction_head(used[:, 0])[:, 1:], torch.stack(hyper, dim=1), strips)


def scale(attention: Attention) -> float:
    return (attention.internal_dim // attention.num_heads) ** -0.5


def project(crossing: CrossAttention, projected_GTE: Tensor, map_type: torch.dtype) -> Projected:
    """Prepare projected tokens, queries or keys, for the scores with a map.

    Where the softmax runs over pixels, the part of a score that comes from the projection's bias is the same for all
    and changes nothing; where it runs over tokens it counts. It is in `CrossAttention.positions`.
    """
    tokens_NPD = heads_first(projected_GTE * scale(crossing.attention), crossing.attention.num_heads)
    folded_GSC = clicks_first(torch.bmm(tokens_NPD, crossing.folded_NDC), len(projected_GTE))
    return Projected(tokens_NPD.to(map_type), folded_GSC.to(map_type))


def scores(projected: Projected, strip_GLC: Tensor, positions_NDL: Tensor) -> Tensor:
    """Attention scores of tokens and a strip, before the softmax: [G, S, L]."""
    with_positions_GSL = clicks_first(torch.bmm(projected.tokens_NPD, positions_NDL), len(strip_GLC))
    return product(projected.folded_GSC, strip_GLC).add_(with_positions_GSL)


def read_map(crossing: CrossAttention, placed_GTC: Tensor, strips: list[Tensor]) -> Tensor:
    """Tokens attend to all pixels of their map: float32 [G, T, C]."""
    attention, pixels = crossing.attention, strips[0].shape[1]
    queries = project(crossing, attention.q_proj(placed_GTC), strips[0].dtype)
    by_strip = [scores(queries, *pair) for pair in zip(strips, crossing.positions, strict=True)]
    shares = torch.cat(by_strip, dim=2).softmax(2).split(pixels, dim=2)
    by_strip = [product(a, strip.transpose(1, 2)) for a, strip in zip(shares, strips, strict=True)]
    found_GSC = functools.reduce(torch.add, by_strip).float()
    found_NPC = found_GSC.unflatten(1, (attention.num_heads, -1)).transpose(0, 1).flatten(1, 2)
    by_head_NCD = attention.v_proj.weight.unflatten(0, (attention.num_heads, -1)).transpose(1, 2)
    values = heads_last(torch.bmm(found_NPC, by_head_NCD), len(placed_GTC)) + attention.v_proj.bias
    return attention.out_proj(values)


def folded_values(attention: Attention, queries_GTC: Tensor, map_type: torch.dtype) -> Tensor:
    """The tokens' values, with the output projection folded in, for pixels that attend to them: [G, S, C]."""
    values_NPD = heads_first(attention.v_proj(queries_GTC), attention.num_heads)
    outward_NDC = attention.out_proj.weight.T.unflatten(0, (attention.num_heads, -1))
    # A pixel's attention weights add up to 1 in each head, so every head can carry its part of the output bias.
    values_NPC = torch.bmm(values_NPD, outward_NDC) + attention.out_proj.bias / attention.num_heads
    return clicks_first(values_NPC, len(queries_GTC)).to(map_type)


def write_strip(strip: Tensor, scores_GSL: Tensor, values_GSC: Tensor) -> Tensor:
    """A strip, [G, L, C] or one [L, C] for all clicks, plus what its pixels attend to: [G, L, C]."""
    # The softmax runs over a strided axis: over a last axis of length 7 it is 24 times slower on a CPU.
    shares_GSL = scores_GSL.unflatten(1, (-1, TOKENS)).softmax(2).flatten(1, 2)
    return product(shares_GSL.transpose(1, 2), values_GSC.transpose(1, 2)).add_(strip)


def render_masks(weights: Weights, strips: list[Tensor], hyper_GKE: Tensor, rows: int, columns: int) -> Tensor:
    """Low-resolution logits of the first `rows` x `columns` (multiples of 4, at most 256): [G, K, rows, columns]."""
    hyper_GKE = hyper_GKE.to(strips[0].dtype)
    rendered, missing = [], rows // 4
    for strip in strips:
        if missing > 0:
            tokens_GHWC = strip.unflatten(1, (-1, GRID))[:, :missing, : columns // 4]
            rendered.append(_render_strip(weights, tokens_GHWC, hyper_GKE))
            missing -= tokens_GHWC.shape[1]
    return torch.cat(rendered, dim=2)


def _render_strip(weights: Weights, tokens_GHWC: Tensor, hyper_GKE: Tensor) -> Tensor:
    """Upper and lower pixels are computed apart, twice, so that rows of logits come out whole and need no sorting."""
    g, h, w, _ = tokens_GHWC.shape
    quarters = []
    for weight, bias in weights.upscale1:
        pixels = linear(tokens_GHWC, weight, bias).unflatten(-1, (2, -1))  # left and right
        pixels = F.gelu(F.layer_norm(pixels, pixels.shape[-1:], *weights.upscale_norm, weights.upscale_eps))
        for weight2, bias2 in weights.upscale2:
            channels = linear_gelu(pixels, weight2, bias2).reshape(g, h * w * 4, hyper_GKE.shape[2])
            quarters.append(product(hyper_GKE, channels).unflatten(2, (h, w * 4)))
    return torch.stack(quarters, dim=3).flatten(2, 3)
