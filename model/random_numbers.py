"""Random numbers that belong to clips: a clip gets the same ones whatever clips, or processes, stand beside it."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Uniform = Callable[[tuple[int, ...]], Tensor]  # shape -> numbers in [0, 1) on the right device
# (how many rows each clip of the batch gets, shape of one row) -> the same, [sum of rows, *shape]
ClipUniform = Callable[[Sequence[int], tuple[int, ...]], Tensor]


def rand_on(device: torch.device) -> ClipUniform:
    """Numbers of torch's own generator, which asks for no clip."""
    return lambda rows, shape: torch.rand((sum(rows), *shape), device=device)


def rand_by_clip(seeds: Sequence[int], device: torch.device) -> ClipUniform:
    """Every clip has a generator of its own, begun with its seed (0 .. 2**64 - 1)."""
    generators = [torch.Generator(device).manual_seed(seed) for seed in seeds]

    def uniform(rows: Sequence[int], shape: tuple[int, ...]) -> Tensor:
        drawn = zip(rows, generators, strict=True)
        return torch.cat([torch.rand((n, *shape), generator=g, device=device) for n, g in drawn])

    return uniform


def rows_of(uniform: ClipUniform, rows: Sequence[int]) -> Uniform:
    """`uniform` for so many rows of each clip; the first number of a shape is their sum."""
    return lambda shape: uniform(rows, shape[1:])
