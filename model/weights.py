"""Weight files: read without running their code, compare with the network, hash."""

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import BadInput

State = Mapping[str, Tensor]


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, read piece by piece; 64 hex digits. Raises BadInput if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"cannot read the weights {path}: {error.strerror}") from error


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors by name from a .safetensors file or a torch file, on the CPU. No code in the file is run.

    A torch file may wrap the weights in a "model" or "state_dict" entry. Raises `BadInput` if the file is missing,
    damaged, or holds something other than tensors.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise BadInput(f"cannot read the weights {path}: {error.strerror or error}") from error
    except (RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError, SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(f"{path} is not a file of plain tensors, or is damaged: {reason}") from error
    for wrapper in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping):
        raise BadInput(f"{path} holds a {type(content).__name__}, not tensors by name")
    others = [f"{k}: {type(v).__name__}" for k, v in content.items() if not isinstance(v, Tensor)]
    if others:
        raise BadInput.listing(f"{path} holds entries that are not tensors:", others)
    return dict(content)


def load_weights(module: nn.Module, state: State, source: str | Path) -> None:
    """Copy `state` into `module`; every key must be there, no other, all in the right shape, all values finite.

    Otherwise raises `BadInput` that names `source` and lists every difference; the module is then untouched.
    """
    wanted = module.state_dict()
    problems = [f"missing: {key}" for key in wanted if key not in state]
    problems += [f"unexpected: {key}" for key in state if key not in wanted]
    for key in wanted.keys() & state.keys():
        if state[key].shape != wanted[key].shape:
            problems.append(f"{key} has shape {list(state[key].shape)}, the network needs {list(wanted[key].shape)}")
        elif not state[key].is_meta and not state[key].isfinite().all():
            problems.append(f"{key} has values that are not finite")
    if problems:
        advice = "Is it of another model, backbone or config?"
        raise BadInput.listing(f"{source} does not fit {type(module).__name__}:", sorted(problems), advice)
    module.load_state_dict(state)
