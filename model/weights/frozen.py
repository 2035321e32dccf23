"""Weights of a frozen model: the published file, a file of the user's, or random if explicitly requested."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn

from ...base import Section
from ...errors import BadInput
from .read import read_state_dict
from .registry import find_weights
from .state import State, fitting, load_weights, sha256_of_weights


class WeightsConfig(Section):
    """Where the weights of a frozen model come from."""

    weights: Path | None = Field(default=None, description="weights file; none: the published one, as fetched")
    untrained: bool = Field(default=False, description="random weights, to measure speed; the cache's name says so")

    def name(self, model: str) -> str:
        """What caches are named after, so that an untrained network can never pass for the real one."""
        return f"untrained-{model}" if self.untrained else model


def read_frozen(name: str, config: WeightsConfig) -> tuple[dict[str, Tensor], str, Path] | None:
    """The tensors, the sha256 and the path of the weights file of `name`, an entry of `WEIGHT_FILES`.

    Returns None if the model is to stay untrained. Raises `BadInput` if there is no such file (naming address and
    command), if it is damaged, in the weights folder but not the published one, or named for an untrained model.
    """
    if config.untrained:
        if config.weights is not None:
            raise BadInput(
                f"{name}: untrained and weights={config.weights} contradict each other; leave one of them out"
            )
        return None
    path = find_weights(name, config.weights)
    return read_state_dict(path), sha256_of_weights(name, config.weights, path), path


def load_frozen(
    module: nn.Module, name: str, config: WeightsConfig, convert: Callable[[State], State] | None = None
) -> str | None:
    """Fill `module`, on the CPU, with the weights that `config` asks for. Returns their sha256, None if untrained.

    module: made within `fixed_initialisation()`, for it stays as it is if untrained.
    convert: from the file's keys and tensors to those of `module`; it may raise `BadInput`.
    Raises `BadInput` as `read_frozen`, or listing every key that does not fit; `module` is then untouched.
    """
    read = read_frozen(name, config)
    if read is None:
        return None
    state, sha256, path = read
    load_weights(module, fitting(module.state_dict(), state, path, convert or dict), path)
    return sha256


@contextmanager
def fixed_initialisation() -> Iterator[None]:
    """Modules made inside get the same random weights each time; the random state outside is unchanged."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # the CPU's alone: torch.manual_seed would reseed the GPUs as well
        yield
