"""Open a run with its data and its network: what evaluation, prediction and reports begin with."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch

from ...data.store.location import Location
from ...errors import BadInput
from ...model.combo import COMBO
from ...model.weights.network_file import read_header
from ...model.weights.read import is_safetensors, read_state_dict
from ...model.weights.registry import split_entry
from ...model.weights.state import load_weights, weights_sha256
from ..config.tree import Config
from .checkpoints import newest_checkpoint, newest_step, read_manifest
from .data import RunData, RunInfo, open_data
from .folder import read_best, read_run

BEST, LAST = "best", "last"


@dataclass(frozen=True)
class Choice:
    """Which weights of a run, as `choose_weights` takes them, and where its clips and caches are now.

    root: None: where run.json says.
    """

    weights: str = BEST
    root: str | Location | None = None


AS_LEFT = Choice()


@dataclass(frozen=True)
class Weights:
    """Which weights of a run.

    which: "best" or "last" of the run, or the path of another file. path: of the file that holds them. step: of the
    run, after which they were kept; None for another file. steps: of the run in all. finished: it has made them.
    """

    run: Path
    which: str
    path: Path
    step: int | None
    steps: int
    finished: bool

    @property
    def sha256(self) -> str:
        """Of the file, read once as long as it is the same."""
        file = split_entry(self.path)[0].stat()
        return _sha256(self.path, file.st_ino, file.st_mtime_ns, file.st_size)

    def __str__(self) -> str:
        if self.step is None:
            return f"{self.which}, with the config of {self.run}"
        return f"best of {self.run}, step {self.step}" if self.which == BEST else f"{self.run} at step {self.step}"


@lru_cache(maxsize=1024)
def _sha256(path: Path, *_state: int) -> str:
    return weights_sha256(path)


@dataclass(frozen=True)
class OpenRun:
    """A trained run. network: on the device asked for, in eval mode."""

    config: Config
    info: RunInfo
    data: RunData
    network: COMBO
    weights: Weights


def open_run(run: Path, device: torch.device, choice: Choice = AS_LEFT) -> OpenRun:
    """A run with the clips and caches that it was trained on, and its weights.

    Raises `BadInput` when any of these is gone, damaged or has changed since.
    """
    config, info = read_run(run, choice.root)
    data = open_data(info)
    found = choose_weights(run, config, choice.weights)
    return OpenRun(config, info, data, load_network(found, config, len(info.classes), device), found)


def choose_weights(run: Path, config: Config, which: str = BEST) -> Weights:
    """Find weights of a run without loading them.

    which: "best", those with the highest M_J on val, or "last" where val was never scored; "last", those of the newest
    checkpoint (their average, if it has one); or a file of a whole network of the same config.
    Raises `BadInput` when the run has no weights yet, or damaged ones.
    """
    steps, last = config.train.steps, newest_step(run)
    if which not in (BEST, LAST):
        return Weights(run, which, Path(which), None, steps, last >= steps)
    if which == BEST and (best := read_best(run)) is not None:
        finished = last >= steps or (last == 0 and best["step"] == 0)  # converted weights have no steps
        return Weights(run, BEST, run / "best" / "model.safetensors", best["step"], steps, finished)
    path = newest_checkpoint(run)
    if path is None:
        raise BadInput(f"{run}: no checkpoint yet; train it first")
    about = read_manifest(path)
    stem = "ema" if "ema.safetensors" in about["files"] else "model"
    return Weights(run, LAST, path / f"{stem}.safetensors", about["step"], steps, about["step"] >= steps)


def load_network(weights: Weights, config: Config, num_classes: int, device: torch.device) -> COMBO:
    """The network of a run in eval mode. Raises `BadInput` for a file that is damaged, or of another network.

    What the file says of its network is held against the config where it is not a file of the run.
    """
    network, path = COMBO(config.model, num_classes), weights.path
    state = read_state_dict(path)
    header = read_header(path) if weights.step is None and is_safetensors(path) else None
    if header is not None:
        theirs, ours = header["config"].model_dump(), network.config.model_dump()
        differing = [f"model.{key} is {theirs[key]!r}, not {ours[key]!r}" for key in ours if theirs[key] != ours[key]]
        if differing:
            raise BadInput.listing(f"{path} is of another network than the run:", differing, "name one of its own")
    load_weights(network, state, path)
    return network.to(device).eval()
