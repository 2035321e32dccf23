"""Weight files of any make, read without running anything in them.

What a file is stands in its first bytes, whatever it is called: people rename files, and downloads are not always what
was asked for.
"""

import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from ...errors import BadInput
from ...safe_pickle import ARRAY_NAMES, array_of, is_harmless, read_array_pickle
from .registry import split_entry

# Entries under which training programs keep a network, and the moving average of one.
NETWORKS = ("model", "state_dict", "model_state_dict", "model_state", "net", "network", "module", "weights", "params")
AVERAGES = ("ema", "model_ema", "ema_model", "state_dict_ema", "ema_state_dict", "params_ema", "model_ema_state_dict")
KNOWN = {*NETWORKS, *AVERAGES}
MAX_DEPTH = 3  # entries within entries that are looked through
MAX_NAMES = 64  # foreign names beside the weights: each costs another look at the file

_LEGACY_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the number that torch.save began files with before zip
_OTHERS = {  # first bytes of what is no weight file
    b"version https://git-lfs": "a git-lfs pointer, which stands for the real file: run 'git lfs pull', or download it",
    b"\x1f\x8b": "a gzip archive; unpack it first",
    b"BZh": "a bzip2 archive; unpack it first",
    b"\xfd7zXZ": "an xz archive; unpack it first",
    b"7z\xbc\xaf": "a 7z archive; unpack it first",
    b"\x28\xb5\x2f\xfd": "a zstd archive; unpack it first",
    b"Rar!": "a RAR archive; unpack it first",
    b"\x89HDF": "an HDF5 file, as Keras writes them; weights of this format are not read",
    b"\x93NUMPY": "a single NumPy array, not weights by name",
    b"GGUF": "a GGUF file of quantised weights, which are not read",
    b"%PDF": "a PDF document",
    b"\x89PNG": "a picture",
    b"\xff\xd8\xff": "a picture",
}


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Tensors by name from a file of torch, safetensors or NumPy (.npz, or a pickle such as detectron2's), on the CPU.

    What the file is follows from its first bytes. Nothing in it is run. The weights may lie in an entry such as "model"
    or "state_dict"; FILE#ENTRY names the entry where several could be meant. NumPy arrays are read as tensors.
    Raises `BadInput` if the file is missing, damaged, or something else, which the message names.
    """
    return read_state_dict_and_rest(path)[0]


def read_state_dict_and_rest(path: Path) -> tuple[dict[str, Tensor], list[str]]:
    """As `read_state_dict`, and the names of entries beside the weights that were left out, such as "trainer"."""
    file, entry = split_entry(path)
    try:
        content = _read(file)
    except OSError as error:
        raise BadInput(f"cannot read the weights {file}: {error.strerror or error}") from error
    where, state = _pick(content, entry, file)
    if not any(map(_is_tensor, state.values())):
        raise BadInput(f"{path} holds no tensors by name; of a whole pickled network, save its state_dict()")
    tensors = {key: _tensor(value) for key, value in state.items()}
    if others := [f"{key}: {_kind(state[key])}" for key, tensor in tensors.items() if tensor is None]:
        raise BadInput.listing(f"{path} holds entries that are not tensors:", others)
    beside = [str(key) for key in content if key != where.partition(".")[0]] if where else []
    return {key: tensor for key, tensor in tensors.items() if tensor is not None}, beside


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as safetensors do; it may still be cut short. Raises OSError when it cannot be read."""
    with path.open("rb") as file:
        head = file.read(9)
    return len(head) == 9 and head[8:] == b"{" and int.from_bytes(head[:8], "little") < 100_000_000


def _read(path: Path) -> Mapping[Any, Any]:
    """The contents by name. Raises OSError, or `BadInput` that says what the file is."""
    with path.open("rb") as file:
        head = file.read(1024)
    try:
        if is_safetensors(path):
            content: Any = load_file(path)
        elif head.startswith(b"PK"):
            content = _read_zip(path)
        elif head.startswith(_LEGACY_TORCH):
            content = _load(path)
        elif head.startswith(b"\x80") or path.suffix == ".pkl":
            return read_array_pickle(path)
        else:
            raise BadInput(f"{path} is no weight file: it is {_other(path, head)}")
    except BadInput:
        raise
    except Exception as error:  # a damaged or hostile file can fail in any way
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise BadInput(f"{path} cannot be read as weights: {_reason(error, path)}") from error
    if not isinstance(content, Mapping):
        raise BadInput(f"{path} holds {_kind(content)}, not tensors by name")
    return content


def _read_zip(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        size = path.stat().st_size
        raise BadInput(f"{path} is the beginning of a torch file, {size:,} bytes of it: download it again") from None
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner and "data.pkl" in inner:
        raise BadInput(f"{path} is a TorchScript program, not weights; save the state_dict of its module")
    if "data.pkl" in inner:
        return _load(path)
    if names and all(name.endswith(".npy") for name in names):
        with np.load(path, allow_pickle=False) as arrays:
            return dict(arrays)
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    raise BadInput(f"{path} is a zip archive ({shown}), not a weight file: unpack it, and name the weights in it")


def _load(path: Path) -> Any:
    """torch.load, with a stand-in for every name that the file asks for and that may be passed over.

    A stand-in keeps its place and does nothing, so a Namespace of options or a config beside the weights costs nothing.
    Names of the standard library that are not known to be harmless are refused: no weights need them.
    """
    passed: list[Any] = list(ARRAY_NAMES)
    for _ in range(MAX_NAMES):
        with torch.serialization.safe_globals(passed):
            try:
                return torch.load(path, map_location="cpu", weights_only=True)
            except Exception as error:
                name = _foreign_name(error)
                if name is None or not is_harmless(name):
                    raise
                passed.append((_PassedList if name == "collections.deque" else _PassedOver, name))
    raise ValueError(f"it asks for more than {MAX_NAMES} names that are not torch's")


class _PassedOver:
    """Stands for a class of another package: whatever is made of it becomes an empty dict that can be filled."""

    def __new__(cls, *_: Any) -> Any:
        return OrderedDict()


class _PassedList:
    """The same for what is filled like a list."""

    def __new__(cls, *_: Any) -> Any:
        return []


def _foreign_name(error: Exception) -> str | None:
    """The name that torch refused, in full: it leaves "builtins." out."""
    found = re.search(r"GLOBAL (\S+)", str(error))
    return None if found is None else found[1] if "." in found[1] else f"builtins.{found[1]}"


def _pick(content: Mapping[Any, Any], entry: str | None, path: Path) -> tuple[str, Mapping[str, Any]]:
    """The entry that holds the weights, "" for the file itself, and what it holds."""
    if content and entry is None and all(_is_tensor(value) for value in content.values()):
        return "", content
    found = _state_dicts(content)
    if entry is not None:
        if entry not in found:
            raise BadInput(f"{path} has no weights called {entry!r}; it has {', '.join(found) or 'none'}")
        return entry, found[entry]
    known = [name for name in found if not KNOWN.isdisjoint(name.split("."))] or list(found)
    if len(known) == 1:
        return known[0], found[known[0]]
    if known:
        counts = [f"{path}#{name} ({len(found[name])} tensors)" for name in known]
        raise BadInput.listing(f"{path} holds several networks; name the one that is meant:", counts)
    wrapper = next((name for name in NETWORKS if isinstance(content.get(name), Mapping)), None)
    return (wrapper, content[wrapper]) if wrapper is not None else ("", content)


def _state_dicts(content: Mapping[Any, Any], prefix: str = "", depth: int = 1) -> dict[str, Mapping[str, Any]]:
    """All entries, by their names joined with dots, that hold tensors by name."""
    found: dict[str, Mapping[str, Any]] = {}
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Mapping):
            continue
        if value and all(isinstance(name, str) for name in value) and any(map(_is_tensor, value.values())):
            found[prefix + key] = value
        elif depth < MAX_DEPTH:
            found |= _state_dicts(value, f"{prefix}{key}.", depth + 1)
    return found


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor) or _array(value) is not None


def _array(value: Any) -> np.ndarray | None:
    return value if isinstance(value, np.ndarray) else array_of(value)


def _tensor(value: Any) -> Tensor | None:
    if isinstance(value, Tensor):
        return value.detach()
    array = _array(value)
    return None if array is None else torch.from_numpy(array)


def _kind(value: Any) -> str:
    """What a value is, for people."""
    kinds = {str: "a text", bool: "a truth value", int: "a number", float: "a number", list: "a list", tuple: "a list"}
    return kinds.get(type(value)) or ("one tensor" if _is_tensor(value) else "no tensor")


def _other(path: Path, head: bytes) -> str:
    """What a file is whose first bytes are `head`, if it holds no weights."""
    if not path.stat().st_size:
        return "empty"
    if not any(head):
        return "nothing but zeros at its beginning, as a download that broke off leaves them: download it again"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a web page: what was saved is a page about the file, or one that asks to log in or to confirm"
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it, and name the weights in it"
    found = next((what for start, what in _OTHERS.items() if head.startswith(start)), None)
    if found is None and _is_text(text):
        first = text.decode("utf-8", "replace").splitlines()[0][:60]
        return f"a text that begins with {first!r}"
    return found or "neither a torch file nor safetensors, or the beginning of it is damaged"


def _is_text(head: bytes) -> bool:
    return not any(byte < 9 or 13 < byte < 32 for byte in head)


def _reason(error: Exception, path: Path) -> str:
    """One line. What torch says of a pickle ends in advice to run the file anyway, which nobody should follow."""
    if name := _foreign_name(error):
        return f"it asks for {name}, which no tensor needs; nothing in it was run"
    if "Unsupported operand" in str(error):
        return "its pickle protocol is not read without running it; save it again with torch.save and its defaults"
    first = (str(error).splitlines() or [""])[0].removeprefix(f"{path} ")
    if not first or "weights_only" in first or isinstance(error, (EOFError, KeyError, IndexError)):
        return "it is damaged, or cut short: download it again"
    return first
