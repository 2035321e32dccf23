"""The random numbers that the loss fixtures were made with, in the order that `criterion` asks for."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from golden import uniform


class PublishedDraws:
    """A `uniform` for `match`, and by `by_clip` one for `criterion`.

    Call i of the published code got the rule's array `rand:i`. Its calls, for one prediction after the other:
    one per supervised frame for the matcher, then candidates and plain points for the losses. Ours: the
    matcher's calls first, one for all frames of a prediction.
    """

    def __init__(self, salt: str, supervised_frames: int, num_points: int) -> None:
        self.salt, self.frames, self.num_points = salt, supervised_frames, num_points
        self.matched = self.sampled = 0

    def __call__(self, shape: tuple[int, ...]) -> torch.Tensor:
        if shape[1] == self.num_points:  # candidates are more, plain points fewer
            first = self.matched * (self.frames + 2)
            self.matched += 1
            return torch.cat([self._call(first + s, (1, *shape[1:])) for s in range(self.frames)])
        prediction, step = divmod(self.sampled, 2)
        self.sampled += 1
        return self._call(prediction * (self.frames + 2) + self.frames + step, shape)

    def _call(self, number: int, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.from_numpy(((uniform(f"rand:{number}", shape, self.salt) + 1) / 2).astype(np.float32))


def by_clip(
    uniform: Callable[[tuple[int, ...]], torch.Tensor],
) -> Callable[[Sequence[int], tuple[int, ...]], torch.Tensor]:
    """A `uniform` for `criterion` from one that does not ask which clip a row belongs to."""
    return lambda rows, shape: uniform((sum(rows), *shape))
