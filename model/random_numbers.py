"""Per-clip random numbers, independent of batch and rank: dropout, stochastic depth and the points of the losses."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# Takes a shape and returns float32 of it, uniform in [0, 1), on the device of the network. The first dimension is rows
# that belong to clips, such as frames.
Uniform = Callable[[tuple[int, ...]], Tensor]
# Takes the number of rows of each clip of the batch and the shape of one row; returns [sum of rows, *shape].
ClipUniform = Callable[[Sequence[int], tuple[int, ...]], Tensor]


def rand_on(device: torch.device) -> ClipUniform:
    """Random numbers of torch's global generator, which are not per-clip."""
    return lambda rows, shape: torch.rand((sum(rows), *shape), device=device)


def rand_by_clip(seeds: Sequence[int], device: torch.device) -> ClipUniform:
    """Random numbers of one generator per clip. seeds: 0 .. 2**64 - 1, one per clip."""
    generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def uniform(rows: Sequence[int], shape: tuple[int, ...]) -> Tensor:
        drawn = zip(rows, generators, strict=True)
        return torch.cat([torch.rand((n, *shape), generator=g, device=device) for n, g in drawn])

    return uniform


def rows_of(uniform: ClipUniform, rows: Sequence[int]) -> Uniform:
    """`uniform` with a fixed number of rows per clip; the first dimension of a shape is their sum."""
    return lambda shape: uniform(rows, shape[1:])
