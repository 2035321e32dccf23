"""State dicts: rename their keys, compare them with a network, load them."""

import functools
import hashlib
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from ...errors import BadInput
from ...files import file_sha256
from .registry import WEIGHT_FILES, split_entry

State = Mapping[str, Tensor]
Rule = tuple[str, str]  # key in one state dict, key in another: # stands for a number, * for any rest
# What wrappers of networks put before every key: DataParallel and its kin, Lightning; torch.compile also within keys.
PREFIXES = ("module.", "model.")
COMPILED = "_orig_mod."

Fitting = TypeVar("Fitting")


def sha256_of_weights(name: str, weights: str | Path | None, path: Path) -> str:
    """The sha256 of `path`, which `find_weights(name, weights)` returned; 64 hex digits.

    Raises `BadInput` if it lies in the weights folder and is not the published file: a changed bit would go unseen.
    """
    sha256, published = weights_sha256(path), WEIGHT_FILES[name].sha256
    if weights is None and published is not None and not sha256.startswith(published):
        raise BadInput(
            f"{path} is not the published file: its sha256 is {sha256}, not {published}. Remove it and run 'combo "
            f"weights fetch {name}', or name it with the parameter weights=FILE if it is meant"
        )
    return sha256


def weights_sha256(path: Path) -> str:
    """The sha256 of a weight file; for FILE#ENTRY that of the file's and the entry's name: it is other weights."""
    file, entry = split_entry(path)
    sha256 = file_sha256(file)
    return sha256 if entry is None else hashlib.sha256(f"{sha256}#{entry}".encode()).hexdigest()


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


def first_that_fits(state: State, source: str | Path, attempt: Callable[[State], Fitting | None]) -> Fitting | None:
    """What `attempt` returns for the state, or for it without what wrappers of networks put before all of its keys.

    attempt: returns None for keys that do not fit. Prefixes are taken off one after the other, until they do; a warning
    that names `source` says which. Returns None if none do.
    """
    if (found := attempt(state)) is not None:
        return found
    for taken, shorter in _unwrapped(state):
        if (found := attempt(shorter)) is not None:
            warnings.warn(f"{source}: its keys fit without {taken!r}, which was left out", stacklevel=3)
            return found
    return None


def _unwrapped(state: State) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """What was taken off, and the state without it."""
    taken, rest = "", dict(state)
    if any(COMPILED in key for key in rest):
        taken, rest = COMPILED, {key.replace(COMPILED, ""): tensor for key, tensor in rest.items()}
        yield taken, rest
    while rest and (prefix := next((p for p in PREFIXES if all(key.startswith(p) for key in rest)), None)):
        taken, rest = taken + prefix, {key.removeprefix(prefix): tensor for key, tensor in rest.items()}
        yield taken, rest


def fitting(
    wanted: State, state: State, source: str | Path, convert: Callable[[State], Mapping[str, Tensor]] = dict
) -> Mapping[str, Tensor]:
    """`convert(state)`, or that of the state without prefixes where only then its keys are those of `wanted`.

    Raises what `convert` raises for the state as it is.
    """

    def attempt(keys: State) -> Mapping[str, Tensor] | None:
        try:
            found = convert(keys)
        except BadInput:
            return None
        return found if found.keys() == wanted.keys() else None

    found = first_that_fits(state, source, attempt)
    return convert(state) if found is None else found


def load_weights(module: nn.Module, state: State, source: str | Path) -> None:
    """Copy `state` into `module`; every key must be there, no other, all in the right shape, all values finite.

    Keys may have the prefixes that `fitting` takes off.

    Otherwise raises `BadInput` that names `source` and lists every difference; the module is then untouched.
    """
    wanted = module.state_dict()
    state = fitting(wanted, state, source)
    if problems := differences(wanted, state):
        advice = "Is it of another model, backbone or config?"
        raise BadInput.listing(f"{source} does not fit {type(module).__name__}:", problems, advice)
    module.load_state_dict(state)
