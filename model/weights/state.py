"""Weight files: read without running their code, rename keys, compare with the network, hash."""

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ...errors import BadInput
from ...files import file_sha256
from ...safe_pickle import read_array_pickle
from .registry import WEIGHT_FILES

State = Mapping[str, Tensor]
Rule = tuple[str, str]  # key in one state dict, key in another: # stands for a number, * for any rest
WRAPPERS = ("model", "state_dict")  # entries of a torch file that may hold the weights


def sha256_of_weights(name: str, weights: str | Path | None, path: Path) -> str:
    """The sha256 of `path`, which `find_weights(name, weights)` returned; 64 hex digits.

    Raises `BadInput` if it lies in the weights folder and is not the published file: a changed bit would go unseen.
    """
    sha256, published = file_sha256(path), WEIGHT_FILES[name].sha256
    if weights is None and published is not None and not sha256.startswith(published):
        raise BadInput(
            f"{path} is not the published file: its sha256 is {sha256}, not {published}. Remove it and run 'combo "
            f"weights fetch {name}', or name it with the parameter weights=FILE if it is meant"
        )
    return sha256


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors by name from a .safetensors file, a torch file or a detectron2 .pkl, on the CPU. No code in it is run.

    A torch file may wrap the weights in a "model" or "state_dict" entry, a .pkl in "model". Raises `BadInput` if the
    file is missing, damaged, or holds something other than tensors.
    """
    return read_state_dict_and_rest(path)[0]


def read_state_dict_and_rest(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """As `read_state_dict`, and the names of entries beside the weights that were left out, such as "trainer"."""
    if path.suffix == ".pkl":
        try:
            return {key: torch.from_numpy(array) for key, array in read_array_pickle(path).items()}, []
        except ValueError as error:
            raise BadInput(str(error)) from error
    try:
        if path.suffix == ".safetensors":
            return load_file(path), []
        with torch.serialization.safe_globals(_UNREAD):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise BadInput(f"cannot read the weights {path}: {error.strerror or error}") from error
    except Exception as error:  # a damaged or hostile file can fail in any way
        raise BadInput(f"{path} is not a file of plain tensors, or is damaged: {_reason(error)}") from error
    wrapper = next((w for w in WRAPPERS if isinstance(content, Mapping) and isinstance(content.get(w), Mapping)), None)
    beside = [] if wrapper is None else [str(key) for key in content if key != wrapper]
    state = content if wrapper is None else content[wrapper]
    if not isinstance(state, Mapping):
        raise BadInput(f"{path} holds a {type(state).__name__}, not tensors by name")
    others = [f"{k}: {type(v).__name__}" for k, v in state.items() if not isinstance(v, Tensor)]
    if others:
        raise BadInput.listing(f"{path} holds entries that are not tensors:", others)
    return dict(state), beside


def _reason(error: Exception) -> str:
    """One line. What torch says of a pickle ends in advice to run the file anyway, which nobody should follow."""
    if name := re.search(r"GLOBAL (\S+)", str(error)):
        return f"it asks for {name[1]}, which no tensor needs; nothing in it was run"
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return "it is neither a torch file nor safetensors" if "weights_only" in first else first


class _Unread:
    """Stands for NumPy numbers in a torch file: the training state beside the weights may hold some, such as scores."""

    def __init__(self, *_: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


_UNREAD: list[Any] = [
    (_Unread, name)
    for name in (
        "numpy.dtype",
        "numpy.ndarray",
        *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    )
]


def under(theirs: str, ours: str, rules: list[Rule]) -> list[Rule]:
    """`rules` of a part whose keys begin with `theirs` and `ours`."""
    return [(theirs + a, ours + b) for a, b in rules]


def rename_keys(state: State, rules: list[Rule]) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors whose keys have a rule, under their new names, and the keys that have none. The first rule counts.

    Raises `BadInput` if keys that get one name hold different tensors.
    """
    renamed: dict[str, Tensor] = {}
    sources: dict[str, str] = {}
    unknown = []
    for key, tensor in state.items():
        name = _rename(key, rules)
        if name is None:
            unknown.append(key)
        elif name in renamed and not torch.equal(renamed[name], tensor):
            raise BadInput(f"the checkpoint is damaged: {sources[name]} and {key} are one tensor, but differ in it")
        else:
            renamed.setdefault(name, tensor)
            sources.setdefault(name, key)
    return renamed, unknown


def _rename(key: str, rules: list[Rule]) -> str | None:
    for pattern, template in rules:
        if match := _regex(pattern).fullmatch(key):
            signs = re.findall("[#*]", pattern)
            found = {sign: iter([g for s, g in zip(signs, match.groups(), strict=True) if s == sign]) for sign in "#*"}
            return re.sub("[#*]", lambda sign, found=found: next(found[sign[0]]), template)
    return None


@functools.cache
def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile(re.escape(pattern).replace(r"\#", r"(\d+)").replace(r"\*", "(.*)"))


def differences(wanted: State, state: State) -> list[str]:
    """What keeps `state` from being loaded where `wanted` is: missing and unexpected keys, other shapes, NaN or Inf."""
    problems = [f"missing: {key}" for key in wanted if key not in state]
    problems += [f"unexpected: {key}" for key in state if key not in wanted]
    for key in wanted.keys() & state.keys():
        if state[key].shape != wanted[key].shape:
            problems.append(f"{key} has shape {list(state[key].shape)}, the network needs {list(wanted[key].shape)}")
        elif not state[key].is_meta and not state[key].isfinite().all():
            problems.append(f"{key} has values that are not finite")
    return sorted(problems)


def load_weights(module: nn.Module, state: State, source: str | Path) -> None:
    """Copy `state` into `module`; every key must be there, no other, all in the right shape, all values finite.

    Otherwise raises `BadInput` that names `source` and lists every difference; the module is then untouched.
    """
    if problems := differences(module.state_dict(), state):
        advice = "Is it of another model, backbone or config?"
        raise BadInput.listing(f"{source} does not fit {type(module).__name__}:", problems, advice)
    module.load_state_dict(state)
