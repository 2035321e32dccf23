"""Weights of a frozen model: the published file, a named one, or none at all on express wish."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from ...errors import BadInput
from ..weights.registry import find_weights
from ..weights.state import State, load_weights, read_state_dict, sha256_of_weights


def load_foundation(
    module: nn.Module,
    name: str,
    weights: str | Path | None,
    untrained: bool,
    convert: Callable[[State], State] | None = None,
) -> str | None:
    """Fill `module`, on the CPU, with published weights; gives the file's sha256, 64 hex digits.

    name: an entry of `WEIGHT_FILES`, such as sam-vit-b.
    weights: a file; None: the published one in the weights folder.
    untrained: leave `module` as it was made, which is to be within `fixed_initialisation()`; gives None.
    convert: from the file's keys and tensors to those of `module`; it may raise `BadInput`.
    Raises `BadInput`, and leaves `module` untouched, if there is no such file (naming address and command), if it is
    damaged, in the weights folder but not the published one, or of another model (with every key that does not fit),
    or if `weights` and `untrained` come together.
    """
    if untrained:
        if weights is not None:
            raise BadInput(f"{name}: untrained and weights={weights} contradict each other; leave one of them out")
        return None
    path = find_weights(name, weights)
    state, sha256 = read_state_dict(path), sha256_of_weights(name, weights, path)
    load_weights(module, state if convert is None else convert(state), path)
    return sha256


@contextmanager
def fixed_initialisation() -> Iterator[None]:
    """Modules made inside start from the same numbers each time; the random state outside stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # the CPU's alone: torch.manual_seed would reseed the GPUs as well
        yield


def generator_name(name: str, untrained: bool) -> str:
    """What a cache is named after, so that masks of an untrained network can never pass for real ones."""
    return f"untrained-{name}" if untrained else name
