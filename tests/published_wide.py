"""A published network as one with twice the mask channels that computes the same, for `model.mask_dim`.

No published network has other mask channels than queries. But one of C mask channels fits into one of 2 C without any
rounding that was not there before, so that its outputs stay the reference:

- Each channel of the mask features stands twice. A layer norm over all of them has the mean and variance as before.
- The position encoding of 2 C channels holds that of C: every other frequency. The first copy of a channel lies where
  its position is, at `place`; what reads pixels has zeros for the second copies.
- The heads of the fusion become twice as wide, the second half zero. Keys grow by the square root of 2, since scores
  are divided by the root of the width of a head.
- The mask embeddings are zero in the second copies.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

ROWS_AND_COLUMNS = {  # of matrices: what their rows and columns stand for
    "fusion.v_proj": ("head", "pixel"),
    "fusion.a_proj": ("head", None),
    "fusion.values_v_proj": ("head", "pixel"),
    "fusion.values_a_proj": ("head", None),
    "fusion.out_v_proj": ("channel", "head"),
    "fusion.out_a_proj": (None, "head"),
    "fusion.query_proj": ("head", "pixel"),
    "fusion.key_proj": ("head", None),
    "fusion.value_proj": ("head", None),
    "fusion.out_proj": ("channel", "head"),
    "fusion.norm_v": ("channel",),
    "fusion.query_norm": ("channel",),
    "fusion.gamma_v": ("channel",),
    "fusion.gamma": ("channel",),
    "fusion.level_embed": (None, "channel"),
    "pixel_decoder.mask_features": ("channel", None),
    "decoder.mask_embed.4": ("pixel", None),
}
# "channel": both copies. "pixel": the first copy, and zeros. "head": the first half of each head, and zeros.


def place(channels: int) -> Tensor:
    """int64 [C]: where the first copy of each channel lies among 2 C."""
    per_axis = channels // 2
    within = torch.arange(per_axis)
    of_axis = within // 2 * 4 + within % 2  # sine and cosine of every other frequency
    return torch.cat([of_axis, 2 * per_axis + of_axis])


def widened(state: Mapping[str, Tensor], channels: int, heads: int) -> dict[str, Tensor]:
    """The parameters of the wide network, as a differentiable function of those of the narrow one, C = `channels`."""
    first = place(channels)
    second = torch.tensor(sorted(set(range(2 * channels)) - set(first.tolist())))
    source = torch.empty(2 * channels, dtype=torch.int64)
    source[first] = source[second] = torch.arange(channels)
    identity = torch.eye(channels)
    halves = torch.zeros(2 * channels, channels)
    halves.view(heads, 2, channels // heads, channels)[:, 0] = identity.view(heads, channels // heads, channels)
    placed = torch.zeros(2 * channels, channels)
    placed[first] = identity
    maps = {"channel": identity[source], "pixel": placed, "head": halves}
    wide = {}
    for name, tensor in state.items():
        kinds = ROWS_AND_COLUMNS.get(name.removesuffix(".weight").removesuffix(".bias"), ())
        for axis, kind in enumerate(kinds[: tensor.ndim]):
            if kind is not None:
                tensor = torch.tensordot(maps[kind], tensor, ([1], [axis])).movedim(0, axis)
        wide[name] = tensor * 2**0.5 if name.startswith("fusion.a_proj.") else tensor
    return wide


def both_copies(features_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """The first and the second copies of the channels of wide mask features."""
    channels = features_BCHW.shape[1] // 2
    first = place(channels)
    second = sorted(set(range(2 * channels)) - set(first.tolist()))
    return features_BCHW[:, first], features_BCHW[:, second]
